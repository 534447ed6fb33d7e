//! formula: y = x in another shape
//! rule: dx = dy in x's shape
//! tape: y

use backrule_tensor::{
    ConfigError, Grad, MAX_RANK, NamedTensors, Options, Scalar, Shape, ShapeError, Tensor,
};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Input, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::{At, Layer};
use crate::mode::Mode;

/// The axes from a first one on become one: `[batch, channels, height, width]` is `[batch, channels · height
/// · width]` behind it. `Flatten::default()` begins at axis 1: it stands between a convolution and a dense
/// layer.
///
/// Elements stay in their order. Its rule: ∂l/∂x is ∂l/∂y in x's shape.
///
/// In PyTorch the first axis may be the batch, and a last axis can be named. Here samples stay apart, and the
/// last axis of x is the last one that is joined.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Flatten, Grads, Mode, Tape};
///
/// let x: Tensor = Tensor::from([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]);
/// let (layer, mut tape, mut dx) = (Flatten::default(), Tape::new(), Tensor::default());
/// let pass = tape.forward(&layer, &x, Mode::Eval)?;
/// let y = Tensor::from([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]);
/// assert_eq!(pass.output(), &y);
/// pass.backward_to_input(&y, &mut Grads::new(&layer)?, &mut dx)?;
/// assert_eq!(dx, x);
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flatten {
    start_axis: usize,
}

/// From axis 1 on, the one behind the batch.
impl Default for Flatten {
    fn default() -> Self {
        Self { start_axis: 1 }
    }
}

impl Flatten {
    /// From this axis on.
    ///
    /// # Errors
    /// When the axis is 0, which is the batch, or there can be no such axis.
    pub fn new(start_axis: usize) -> Result<Self, ConfigError> {
        match start_axis {
            1..MAX_RANK => Ok(Self { start_axis }),
            _ => Err(ConfigError::new("Flatten", "start_axis", "an axis from 1 to 5", start_axis)),
        }
    }

    /// The first of the axes that become one.
    pub fn start_axis(&self) -> usize {
        self.start_axis
    }
}

impl<T: Scalar> NamedTensors<T> for Flatten {}

impl<T: Scalar> Layer<T> for Flatten {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        if x.rank() <= self.start_axis {
            let expected = format_args!("at least {} axes", self.start_axis + 1);
            return Err(ShapeError::new("flatten forward", expected, x).into());
        }
        let mut sizes = [0; MAX_RANK];
        let sizes = &mut sizes[..=self.start_axis];
        sizes.copy_from_slice(&x[..=self.start_axis]);
        sizes[self.start_axis] = x[self.start_axis..].iter().product();
        Ok(Shape::new(sizes)?)
    }

    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        reshaped(x, Layer::<T>::output_shape(self, x.shape())?, y)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let y = Layer::<T>::output_shape(self, at.x.shape())?;
        if dy.shape() != y {
            return Err(ShapeError::new("flatten backward", y, dy.shape()).into());
        }
        dx.map_or(Ok(()), |dx| reshaped(dy, at.x.shape(), dx))
    }

    fn options(&self) -> Options {
        Options::new().with("start_axis", self.start_axis)
    }
}

/// to ← from, in another shape of as many elements.
fn reshaped<T: Scalar>(from: &Tensor<T>, shape: Shape, to: &mut Tensor<T>) -> Result<(), LayerError> {
    to.resize(shape)?;
    to.as_mut_slice().copy_from_slice(from.as_slice());
    Ok(())
}

impl<T: Scalar> Builtin<T> for Flatten {
    const KIND: &'static str = "Flatten";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self::new(from.whole("start_axis")?)?)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        let of = |name, start_axis, shape: &[usize]| {
            Self::new(start_axis).ok().map(|layer| Sample::new(name, layer, [Input::normal(shape)]))
        };
        let samples = [
            of("one", 1, &[1, 1]),
            of("row", 1, &[3, 4]),
            of("images", 1, &[2, 3, 5, 7]),
            of("last axis", 2, &[2, 3, 17]),
            of("planes", 2, &[3, 2, 4, 5]),
            of("64x16x16x16", 1, &[64, 16, 16, 16]).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "flatten").then_some(())?;
        Self::new(case.whole("start_axis", 1)).ok().map(Oracle::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::predict;

    #[test]
    fn axes_that_cannot_be_are_refused() {
        let refused = |axis| Flatten::new(axis).unwrap_err().to_string();
        assert_eq!(refused(0), "Flatten: start_axis: expected an axis from 1 to 5, got 0");
        assert_eq!(refused(6), "Flatten: start_axis: expected an axis from 1 to 5, got 6");
        let x = Tensor::<f32>::zeros([2, 3]).unwrap();
        let error = predict(&Flatten::new(2).unwrap(), &x).unwrap_err();
        assert_eq!(error.to_string(), "flatten forward: expected at least 3 axes, got [2, 3]");
        let mut dx = Tensor::default();
        let at = At { x: &x, y: &x, cache: &mut Cache::default(), mode: Mode::Eval };
        let dy = Tensor::zeros([3, 2]).unwrap();
        let error = Flatten::default().backward(at, &dy, Some(&mut dx), &mut []).unwrap_err();
        assert_eq!(error.to_string(), "flatten backward: expected [2, 3], got [3, 2]");
    }

    #[test]
    fn empty_axes_stay_empty() {
        for (x, y) in [([0, 3, 2], [0, 6]), ([2, 0, 3], [2, 0])] {
            let x = Tensor::<f32>::zeros(x).unwrap();
            assert_eq!(predict(&Flatten::default(), &x).unwrap().shape(), y);
        }
    }
}
