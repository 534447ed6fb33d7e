//! Common parts of several tests: an optimizer, a small run.

use backrule_io::Run;
use backrule_io::tensor::{ConfigError, NamedTensors, Options, Path, Role, Scalar, Tensor, TrainingState};

pub(crate) type Named<T> = Vec<(&'static str, Tensor<T>)>;

/// The state of an optimizer, without its rule.
#[derive(Clone)]
pub(crate) struct Momentum<T> {
    pub(crate) velocities: Named<T>,
    pub(crate) steps: u64,
    pub(crate) options: Options,
}

impl<T: Scalar> NamedTensors<T> for Momentum<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        self.velocities.visit(path, visitor);
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        self.velocities.visit_mut(path, visitor);
    }
}

impl<T: Scalar> TrainingState<T> for Momentum<T> {
    fn step_count(&self) -> u64 {
        self.steps
    }

    fn set_step_count(&mut self, steps: u64) {
        self.steps = steps;
    }

    fn options(&self) -> Options {
        self.options.clone()
    }

    /// Any: a test that wants them checked has a state of its own.
    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        self.options = options;
        Ok(())
    }
}

/// A run that has only come to this epoch.
pub(crate) fn epoch(epoch: u64) -> Run {
    Run { epoch, ..Run::default() }
}

/// A network with a tensor of every kind: a matrix, a number without axes, an empty one, six axes; with all
/// odd values.
pub(crate) fn network<T: Scalar>() -> Named<T> {
    let odd = [-0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 0.1].map(T::from_f64);
    vec![
        ("fc1.weight", Tensor::from_vec([2, 3], odd.to_vec()).unwrap()),
        ("temperature", Tensor::scalar(T::from_f64(0.5))),
        ("nothing", Tensor::zeros([0, 3]).unwrap()),
        ("größe", Tensor::full([1, 1, 2, 1, 1, 1], T::from_f64(-7.25)).unwrap()),
    ]
}

pub(crate) fn optimizer<T: Scalar>() -> Momentum<T> {
    Momentum {
        velocities: vec![("fc1.weight", Tensor::full([2, 3], T::from_f64(0.75)).unwrap())],
        steps: 450,
        options: Options::new(),
    }
}

/// Everything of `tensors` as bits, for comparisons that NaN doesn't escape.
pub(crate) fn bits<T: Scalar>(tensors: &impl NamedTensors<T>) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bits = |(path, tensor): (String, &Tensor<T>)| {
        let mut bytes = vec![0; tensor.len() * T::DTYPE.size()];
        T::write_le(tensor.as_slice(), &mut bytes);
        (path, tensor.shape().to_vec(), bytes)
    };
    tensors.tensors().into_iter().map(bits).collect()
}

/// Overwrites every element.
pub(crate) fn spoil<T: Scalar>(tensors: &mut impl NamedTensors<T>) {
    tensors.visit_mut(Path::ROOT, &mut |_, _, tensor| {
        tensor.as_mut_slice().fill(T::from_f64(99.0));
    });
}
