//! formula: y = x₀ + x₁ + …
//! rule: dxᵢ = dy
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

/// y = x₀ + x₁ + …, element by element, of 1 to 16 inputs of one shape.
///
/// Its rule: ∂l/∂xᵢ = ∂l/∂y for every i.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Add, Mode, Tape};
///
/// let (a, b): (Tensor, Tensor) = (Tensor::from([[1.0, 2.0]]), Tensor::from([[10.0, 20.0]]));
/// let mut tape = Tape::new();
/// let pass = tape.forward_many(&Add, &[&a, &b], Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[11.0, 22.0]]));
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Add;

impl Join for Add {
    const OPERATIONS: [&'static str; 2] = ["add forward", "add backward"];

    fn joined(self, operation: &'static str, x: &[Shape]) -> Result<Shape, LayerError> {
        same(operation, x)
    }

    fn join<T: Scalar>(self, x: &[&Tensor<T>], y: &mut Tensor<T>) -> Result<(), LayerError> {
        // Eight in order, and the sum of the others: no term passes more than eight additions.
        let (few, others) = x.split_at(x.len().min(8));
        let [first, few @ ..] = few else { return Ok(()) };
        y.copy_from(first)?;
        few.iter().try_for_each(|x| y.add(x))?;
        if let [first, others @ ..] = others {
            const BLOCK: usize = 256;
            for (i, y) in y.as_mut_slice().chunks_mut(BLOCK).enumerate() {
                let block = i * BLOCK..i * BLOCK + y.len();
                let mut sums = [T::ZERO; BLOCK];
                sums[..y.len()].copy_from_slice(&first.as_slice()[block.clone()]);
                for x in others {
                    let x = &x.as_slice()[block.clone()];
                    sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
                }
                y.iter_mut().zip(&sums).for_each(|(y, &sum)| *y += sum);
            }
        }
        Ok(())
    }

    fn part<T: Scalar>(
        self,
        _: usize,
        _: &[&Tensor<T>],
        dy: &Tensor<T>,
        dx: &mut Tensor<T>,
    ) -> Result<(), LayerError> {
        Ok(dx.copy_from(dy)?)
    }
}

join!(Add);

impl<T: Scalar> Builtin<T> for Add {
    const KIND: &'static str = "Add";

    fn build(_: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        samples_of_one_shape(Self)
    }
}
