//! formula: y = x₀ x₁ …
//! rule: dxᵢ = dy times the other inputs
//! tape: y

use std::ops::RangeInclusive;

use backrule_tensor::{Grad, NamedTensors, Options, Scalar, Shape, ShapeError, Tensor};

use crate::architecture::ArchitectureError;
#[cfg(feature = "testing")]
use crate::builtin::Sample;
use crate::builtin::{Build, Builtin};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::{AtMany, Layer, MAX_INPUTS, zeros_like};
#[cfg(feature = "testing")]
use crate::layers::container::join::samples_of_one_shape;
use crate::layers::container::join::{Join, join, only, same, shapes};
use crate::mode::Mode;

/// y = x₀ x₁ …, element by element, of 1 to 16 inputs of one shape.
///
/// Its rule: ∂l/∂xᵢ is ∂l/∂y times all the other inputs.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Mode, Mul, Tape};
///
/// let (a, b): (Tensor, Tensor) = (Tensor::from([[2.0, 3.0]]), Tensor::from([[10.0, 20.0]]));
/// let (mut tape, mut da) = (Tape::new(), Tensor::default());
/// let pass = tape.forward_many(&Mul, &[&a, &b], Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[20.0, 60.0]]));
/// let dy = Tensor::from([[1.0, 0.5]]);
/// let mut grads = Grads::new(&Mul)?;
/// pass.backward_many_to_inputs(&[Some(&dy)], &mut grads, &mut [Some(&mut da), None])?;
/// assert_eq!(da, Tensor::from([[10.0, 10.0]])); // 1 · 10, 0.5 · 20
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mul;

impl Join for Mul {
    const OPERATIONS: [&'static str; 2] = ["mul forward", "mul backward"];

    fn joined(self, operation: &'static str, x: &[Shape]) -> Result<Shape, LayerError> {
        same(operation, x)
    }

    fn join<T: Scalar>(self, x: &[&Tensor<T>], y: &mut Tensor<T>) -> Result<(), LayerError> {
        let [first, others @ ..] = x else { return Ok(()) };
        y.copy_from(first)?;
        others.iter().for_each(|x| multiply(y, x));
        Ok(())
    }

    fn part<T: Scalar>(
        self,
        i: usize,
        x: &[&Tensor<T>],
        dy: &Tensor<T>,
        dx: &mut Tensor<T>,
    ) -> Result<(), LayerError> {
        dx.copy_from(dy)?;
        let others = x.iter().enumerate().filter(|&(other, _)| other != i);
        others.for_each(|(_, x)| multiply(dx, x));
        Ok(())
    }
}

/// y ← y x
fn multiply<T: Scalar>(y: &mut Tensor<T>, x: &Tensor<T>) {
    y.as_mut_slice().iter_mut().zip(x.as_slice()).for_each(|(y, &x)| *y *= x);
}

join!(Mul);

impl<T: Scalar> Builtin<T> for Mul {
    const KIND: &'static str = "Mul";

    fn build(_: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        samples_of_one_shape(Self)
    }
}
