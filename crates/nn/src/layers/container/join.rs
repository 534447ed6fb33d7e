//! The common part of layers that make one tensor of several.

use backrule_tensor::{Options, Scalar, Shape, ShapeError, Tensor};

#[cfg(feature = "testing")]
use crate::builtin::{Input, Sample};
use crate::error::LayerError;
#[cfg(feature = "testing")]
use crate::layer::Layer;
use crate::layer::MAX_INPUTS;

/// The shape that all inputs have.
pub(super) fn same(operation: &'static str, x: &[Shape]) -> Result<Shape, LayerError> {
    let (&first, others) = x.split_first().ok_or_else(|| LayerError::count(operation, "an input", 0))?;
    match others.iter().find(|&&shape| shape != first) {
        Some(shape) => Err(ShapeError::new(operation, first, shape).into()),
        None => Ok(first),
    }
}

/// The shapes of all inputs.
pub(super) fn shapes<'s, T: Scalar>(x: &[&Tensor<T>], buffer: &'s mut [Shape; MAX_INPUTS]) -> &'s [Shape] {
    for (shape, x) in buffer.iter_mut().zip(x) {
        *shape = x.shape();
    }
    &buffer[..x.len().min(MAX_INPUTS)]
}

/// The only output.
///
/// # Errors
/// When there are others.
pub(super) fn only<'y, T>(operation: &'static str, y: &'y mut [T]) -> Result<&'y mut T, LayerError> {
    let count = y.len();
    match y {
        [y] => Ok(y),
        _ => Err(LayerError::count(operation, "one output", count)),
    }
}

/// The functions that differ between these layers: the joined shape, y from all x, and ∂l/∂xᵢ.
pub(super) trait Join: Copy {
    /// The operations, as errors name them.
    const OPERATIONS: [&'static str; 2];

    fn joined(self, operation: &'static str, x: &[Shape]) -> Result<Shape, LayerError>;
    fn settings(self) -> Options {
        Options::new()
    }
    fn join<T: Scalar>(self, x: &[&Tensor<T>], y: &mut Tensor<T>) -> Result<(), LayerError>;
    fn part<T: Scalar>(
        self,
        i: usize,
        x: &[&Tensor<T>],
        dy: &Tensor<T>,
        dx: &mut Tensor<T>,
    ) -> Result<(), LayerError>;
}

/// Writes a layer of one output from its [`Join`].
macro_rules! join {
    ($layer:ty) => {
        const FORWARD: &str = <$layer as Join>::OPERATIONS[0];
        const BACKWARD: &str = <$layer as Join>::OPERATIONS[1];

        impl<T: Scalar> NamedTensors<T> for $layer {}

        impl<T: Scalar> Layer<T> for $layer {
            crate::through_many!(T);

            fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
                self.joined(FORWARD, &[x])
            }

            fn options(&self) -> Options {
                self.settings()
            }

            fn inputs(&self) -> RangeInclusive<usize> {
                1..=MAX_INPUTS
            }

            fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
                *only(FORWARD, y)? = self.joined(FORWARD, x)?;
                Ok(())
            }

            fn forward_many(
                &self,
                x: &[&Tensor<T>],
                y: &mut [Tensor<T>],
                _: &mut Cache<T>,
                _: Mode,
            ) -> Result<(), LayerError> {
                let y = only(FORWARD, y)?;
                let shape = self.joined(FORWARD, shapes(x, &mut [Shape::EMPTY; MAX_INPUTS]))?;
                y.resize(shape)?;
                self.join(x, y)
            }

            fn backward_many(
                &self,
                at: AtMany<'_, T>,
                dy: &[Option<&Tensor<T>>],
                dx: &mut [Option<&mut Tensor<T>>],
                _: &mut [Grad<T>],
            ) -> Result<(), LayerError> {
                let dy = dy.first().copied().flatten();
                if let Some(dy) = dy {
                    let expected = self.joined(BACKWARD, shapes(at.x, &mut [Shape::EMPTY; MAX_INPUTS]))?;
                    if dy.shape() != expected {
                        return Err(ShapeError::new(BACKWARD, expected, dy.shape()).into());
                    }
                }
                for (i, (dx, x)) in dx.iter_mut().zip(at.x).enumerate() {
                    match (dx, dy) {
                        (Some(dx), Some(dy)) => {
                            dx.resize(x.shape())?;
                            self.part(i, at.x, dy, dx)?;
                        }
                        (Some(dx), None) => zeros_like(dx, x)?,
                        (None, _) => {}
                    }
                }
                Ok(())
            }
        }
    };
}
pub(super) use join;

#[cfg(feature = "testing")]
pub(super) fn samples_of_one_shape<T: Scalar>(layer: impl Layer<T> + Clone) -> Vec<Sample<T>> {
    let of = |name, inputs: usize, shape: &[usize]| {
        Sample::new(name, layer.clone(), vec![Input::normal(shape); inputs])
    };
    vec![
        of("one", 1, &[1, 1]),
        of("two", 2, &[3, 4]),
        of("five", 5, &[2, 3, 5]),
        of("64x256", 3, &[64, 256]).bench(),
    ]
}
