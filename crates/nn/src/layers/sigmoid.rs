use backrule_tensor::{Grad, NamedTensors, Scalar, Tensor, apply};

use crate::{Architecture, ArchitectureError, At, Cache, Layer, LayerError, LayerKind, Mode};

/// The logistic function: y = 1 / (1 + e⁻ˣ), element by element, from 0 to 1.
///
/// Its rule needs y alone: ∂l/∂x = ∂l/∂y · y (1 − y).
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Mode, Sigmoid, Tape};
///
/// let x = Tensor::from([[0.0_f64, 1e4, -1e4]]);
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&Sigmoid, &x, Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[0.5, 1.0, 0.0]]));
/// pass.backward_to_input(&Tensor::from([[8.0, 8.0, 8.0]]), &mut Grads::new(&Sigmoid)?, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[2.0, 0.0, 0.0]])); // 8 · ½ · ½
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Sigmoid;

impl<T: Scalar> NamedTensors<T> for Sigmoid {}

impl<T: Scalar> Layer<T> for Sigmoid {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        y.map_from(x, T::sigmoid)?;
        Ok(())
    }

    fn activation(&self) -> Option<fn(&mut [T])> {
        Some(|y| apply(y, T::sigmoid))
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        if let Some(dx) = dx {
            dx.zip_from(at.y, dy, |y, dy| dy * (y * (T::ONE - y)))?;
        }
        Ok(())
    }

    fn architecture(&self) -> Result<Architecture, ArchitectureError> {
        Architecture::leaf(LayerKind::Sigmoid)
    }
}
