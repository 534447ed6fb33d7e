//! The increments that a rule gives the buffers of a layer.

use backrule_tensor::{Grads, Path, Role, Scalar, Tensor};

use crate::gradcheck::probe::expect_finite;
use crate::gradcheck::report::{GradcheckError, index_of};
use crate::layer::Layer;
use crate::mode::Mode;

/// The buffers of a layer, and their values after the first of two passes.
pub(super) struct Buffers<T: Scalar> {
    /// Each with its place in visit order and its path.
    places: Vec<(usize, String)>,
    train: bool,
    /// Whether no other layer is within: then there is one increment a pass. A graph may run a layer twice.
    alone: bool,
    once: Vec<(u64, Tensor<T>)>,
}

impl<T: Scalar> Buffers<T> {
    pub(super) fn of(layer: &dyn Layer<T>, mode: Mode) -> Self {
        let (mut places, mut k, mut alone) = (Vec::new(), 0, true);
        layer.visit(Path::ROOT, &mut |path, role, _| {
            if role == Role::Buffer {
                places.push((k, path.to_string()));
            }
            k += 1;
        });
        layer.children(&mut |_, _| alone = false);
        Self { places, train: mode.is_train(), alone, once: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether the increments are right after so many passes with the same input, of two.
    pub(super) fn expect(&mut self, grads: &Grads<T>, passes: u64) -> Result<(), GradcheckError> {
        for (i, (k, path)) in self.places.iter().enumerate() {
            let Some(grad) = grads.get(*k) else { continue };
            let wrong = |expected: &str, got: String| {
                let (path, expected) = (path.clone(), expected.to_string());
                Err(GradcheckError::Buffer { path, expected, got })
            };
            let count = grad.count();
            if !self.train {
                let got = if count > 0 { count.to_string() } else { "one that is not counted".to_string() };
                if count > 0 || !grad.is_zero() {
                    return wrong("no increment in `Mode::Eval`", got);
                }
                continue;
            }
            let Some(sum) = grad.get().filter(|_| count > 0) else {
                let got = if grad.is_zero() { "none" } else { "values that `Grad::increment` has not added" };
                return wrong("an increment in each backward pass of training", got.to_string());
            };
            if self.alone && count != passes {
                return wrong("one increment in each backward pass", format!("{count} in {passes}"));
            }
            expect_finite(path, sum)?;
            let Some((count_once, once)) = self.once.get(i) else {
                self.once.push((count, sum.clone()));
                continue;
            };
            if count != 2 * count_once {
                let got = format!("{count_once} in the first and {count} after the second");
                return wrong("as many increments in each backward pass", got);
            }
            let size = once.as_slice().iter().fold(0.0, |size, x| f64::max(size, x.to_f64().abs()));
            // The same numbers are added once more; where there are several, in another order.
            let bound = 64.0 * T::EPSILON.to_f64() * size;
            let pairs = once.as_slice().iter().zip(sum.as_slice());
            let far = |(once, sum): (&T, &T)| (2.0 * once.to_f64() - sum.to_f64()).abs() > bound;
            if let Some(at) = pairs.clone().position(far) {
                let (index, once, sum) = (index_of(at, sum.shape()), once.as_slice()[at], sum.as_slice()[at]);
                let got = format!("{once} and then {sum} at {index:?}");
                return wrong("twice the increment after two passes: it must add", got);
            }
        }
        Ok(())
    }
}
