//! An optimizer for each sample of the rules, and a network for them.

use backrule_optim::tensor::{Grad, Grads, NamedTensors, Path, Role, Scalar, Tensor, random};
use backrule_optim::{Optimizer, Rule, samples};

pub(crate) type AnyRule<T> = Box<dyn Rule<T>>;
pub(crate) type AnyOptimizer<T> = Optimizer<AnyRule<T>, T>;

/// The same rule again, for a second optimizer.
pub(crate) fn optimizer<T: Scalar>(rule: usize, net: &Net<T>) -> AnyOptimizer<T> {
    Optimizer::new(samples().swap_remove(rule), net).unwrap()
}

/// Two layers and a buffer between them.
#[derive(Clone)]
pub(crate) struct Net<T>(pub(crate) Vec<(&'static str, &'static str, Role, Tensor<T>)>);

impl<T: Scalar> Net<T> {
    pub(crate) fn new() -> Self {
        let mut rng = random::rng(1);
        let mut tensor = |shape: &[usize]| Tensor::uniform(shape, -1.0, 1.0, &mut rng).unwrap();
        Self(vec![
            ("fc1", "weight", Role::Parameter, tensor(&[5, 3])),
            ("fc1", "bias", Role::Parameter, tensor(&[5])),
            ("norm", "mean", Role::Buffer, tensor(&[5])),
            ("fc2", "weight", Role::Parameter, tensor(&[2, 5])),
            ("fc2", "bias", Role::Parameter, tensor(&[2])),
        ])
    }

    /// Random ones, with a single increment for the buffer.
    pub(crate) fn grads(&self, seed: u64) -> Grads<T> {
        let mut rng = random::rng(seed);
        let values = self.0.iter().map(|(.., x)| Tensor::uniform(x.shape(), -1.0, 1.0, &mut rng).unwrap());
        grads(self, values)
    }
}

impl<T: Scalar> NamedTensors<T> for Net<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        for (layer, name, role, x) in &self.0 {
            visitor(path.join(layer).join(name), *role, x);
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        for (layer, name, role, x) in &mut self.0 {
            visitor(path.join(layer).join(name), *role, x);
        }
    }
}

/// Gradients for `net` with these values.
pub(crate) fn grads<T: Scalar>(
    net: &impl NamedTensors<T>,
    values: impl IntoIterator<Item = Tensor<T>>,
) -> Grads<T> {
    let mut grads = Grads::new(net).unwrap();
    grads.iter_mut().zip(values).for_each(|(grad, values)| *grad = values.into());
    grads
}

/// A step with the random gradients of this seed.
pub(crate) fn step<T: Scalar>(optimizer: &mut AnyOptimizer<T>, net: &mut Net<T>, seed: u64) {
    let mut grads = net.grads(seed);
    optimizer.step(net, &mut grads).unwrap();
}

pub(crate) use backrule_testkit::{Bits, bits};

pub(crate) fn bits_of_grads<T: Scalar>(grads: &[Grad<T>]) -> Vec<(bool, Option<Bits>)> {
    grads.iter().map(|grad| (grad.is_zero(), grad.get().map(bits))).collect()
}

pub(crate) fn each_rule(contract32: fn(usize), contract64: fn(usize)) {
    (0..samples::<f32>().len()).for_each(contract32);
    (0..samples::<f64>().len()).for_each(contract64);
}
