use backrule_tensor::{Grad, NamedTensors, Scalar, Tensor, apply};

use crate::{Architecture, ArchitectureError, At, Cache, Layer, LayerError, LayerKind, Mode};

/// The hyperbolic tangent: y = tanh x, element by element, from −1 to 1.
///
/// Its rule needs y alone: ∂l/∂x = ∂l/∂y · (1 − y²).
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Mode, Tanh, Tape};
///
/// let x = Tensor::from([[0.0_f64, 0.5_f64.ln()]]); // tanh ln ½ = −3/5
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&Tanh, &x, Mode::Eval)?;
/// assert!((pass.output().as_slice()[1] + 0.6).abs() < 1e-15);
/// pass.backward_to_input(&Tensor::from([[1.0, 1.0]]), &mut Grads::new(&Tanh)?, &mut dx)?;
/// assert_eq!(dx.as_slice()[0], 1.0);
/// assert!((dx.as_slice()[1] - 0.64).abs() < 1e-15); // 1 − 9/25
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tanh;

impl<T: Scalar> NamedTensors<T> for Tanh {}

impl<T: Scalar> Layer<T> for Tanh {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        y.map_from(x, T::tanh)?;
        Ok(())
    }

    fn activation(&self) -> Option<fn(&mut [T])> {
        Some(|y| apply(y, T::tanh))
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        if let Some(dx) = dx {
            dx.zip_from(at.y, dy, |y, dy| dy * (T::ONE - y * y))?;
        }
        Ok(())
    }

    fn architecture(&self) -> Result<Architecture, ArchitectureError> {
        Architecture::leaf(LayerKind::Tanh)
    }
}
