//! formula: y = [x₀ x₁ …] along an axis
//! rule: dxᵢ is its part of dy
//! tape: y

use std::ops::RangeInclusive;

use backrule_tensor::{ConfigError, Grad, NamedTensors, Options, Scalar, Shape, ShapeError, Tensor};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Input, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::{AtMany, Layer, MAX_INPUTS, zeros_like};
use crate::layers::container::join::{Join, join, only, shapes};
use crate::mode::Mode;

/// 1 to 16 inputs, one behind the other along an axis: y = [x₀ x₁ …]. All other axes agree.
///
/// Its rule: ∂l/∂xᵢ is the part of ∂l/∂y where xᵢ stands.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Concat, Mode, Tape};
///
/// let a: Tensor = Tensor::from([[1.0], [2.0]]);
/// let b = Tensor::from([[3.0, 4.0], [5.0, 6.0]]);
/// let (mut tape, concat) = (Tape::new(), Concat::new(1)?);
/// let pass = tape.forward_many(&concat, &[&a, &b], Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[1.0, 3.0, 4.0], [2.0, 5.0, 6.0]]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    axis: usize,
}

impl Concat {
    /// Along this axis: 1 for the features of `[batch, features]` and the channels of images. Axis 0, the
    /// batch, is none: a sample's y depends on no other sample.
    ///
    /// # Errors
    /// When the axis is 0, or there can be no such axis.
    pub fn new(axis: usize) -> Result<Self, ConfigError> {
        match axis {
            1..backrule_tensor::MAX_RANK => Ok(Self { axis }),
            _ => Err(ConfigError::new("Concat", "axis", "an axis from 1 to 5", axis)),
        }
    }

    /// The axis.
    pub fn axis(&self) -> usize {
        self.axis
    }

    /// Elements of an input that stand together in y: all from the axis on.
    fn run(&self, x: Shape) -> usize {
        x.get(self.axis..).map_or(0, |sizes| sizes.iter().product())
    }
}

impl Join for Concat {
    const OPERATIONS: [&'static str; 2] = ["concat forward", "concat backward"];

    fn joined(self, operation: &'static str, x: &[Shape]) -> Result<Shape, LayerError> {
        let &first = x.first().ok_or_else(|| LayerError::count(operation, "an input", 0))?;
        let mut sizes = [0; backrule_tensor::MAX_RANK];
        let sizes = &mut sizes[..first.rank()];
        sizes.copy_from_slice(&first);
        let refuse = |got| {
            let expected = format_args!("{first} but for axis {}", self.axis);
            Err(ShapeError::new(operation, expected, got).into())
        };
        if self.axis >= first.rank() {
            return refuse(first);
        }
        sizes[self.axis] = 0;
        for &x in x {
            let agree = x.rank() == first.rank()
                && (0..x.rank()).all(|axis| axis == self.axis || x[axis] == first[axis]);
            if !agree {
                return refuse(x);
            }
            sizes[self.axis] = sizes[self.axis].saturating_add(x[self.axis]);
        }
        Ok(Shape::new(sizes)?)
    }

    fn settings(self) -> Options {
        Options::new().with("axis", self.axis)
    }

    fn join<T: Scalar>(self, x: &[&Tensor<T>], y: &mut Tensor<T>) -> Result<(), LayerError> {
        let stride = self.run(y.shape());
        let mut start = 0;
        for x in x {
            let run = self.run(x.shape());
            for (y, x) in
                y.as_mut_slice().chunks_exact_mut(stride.max(1)).zip(x.as_slice().chunks_exact(run.max(1)))
            {
                y[start..start + run].copy_from_slice(x);
            }
            start += run;
        }
        Ok(())
    }

    fn part<T: Scalar>(
        self,
        i: usize,
        x: &[&Tensor<T>],
        dy: &Tensor<T>,
        dx: &mut Tensor<T>,
    ) -> Result<(), LayerError> {
        let (stride, run) = (self.run(dy.shape()), self.run(dx.shape()));
        let start: usize = x.iter().take(i).map(|x| self.run(x.shape())).sum();
        for (dy, dx) in
            dy.as_slice().chunks_exact(stride.max(1)).zip(dx.as_mut_slice().chunks_exact_mut(run.max(1)))
        {
            dx.copy_from_slice(&dy[start..start + run]);
        }
        Ok(())
    }
}

join!(Concat);

impl<T: Scalar> Builtin<T> for Concat {
    const KIND: &'static str = "Concat";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self::new(from.whole("axis")?)?)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        let of = |name, axis, shapes: &[&[usize]]| {
            let inputs = shapes.iter().map(|shape| Input::normal(shape));
            Self::new(axis).ok().map(|layer| Sample::new(name, layer, inputs))
        };
        let samples = [
            of("one", 1, &[&[1, 1]]),
            of("features", 1, &[&[3, 2], &[3, 5], &[3, 1]]),
            of("four", 1, &[&[2, 1], &[2, 3], &[2, 2], &[2, 5]]),
            of("time", 1, &[&[2, 3, 5], &[2, 1, 5]]),
            of("last", 2, &[&[2, 3, 5], &[2, 3, 7]]),
            of("64x256", 1, &[&[64, 128], &[64, 128]]).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }
}
