use backrule_tensor::{Grad, NamedTensors, Scalar, Tensor, apply};

use crate::{Architecture, ArchitectureError, At, Cache, Layer, LayerError, LayerKind, Mode};

/// The rectifier: y = max(0, x), element by element.
///
/// Its rule: ∂l/∂x = ∂l/∂y where x > 0, and 0 where x ≤ 0. At the kink x = 0 the derivative is taken to be 0, as in
/// PyTorch. NaN is passed on, in both directions.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Mode, Relu, Tape};
///
/// let x: Tensor = Tensor::from([[-2.0, 0.0, 3.0]]);
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&Relu, &x, Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[0.0, 0.0, 3.0]]));
/// pass.backward_to_input(&Tensor::from([[10.0, 20.0, 30.0]]), &mut Grads::new(&Relu)?, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[0.0, 0.0, 30.0]]));
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Relu;

/// Not max(x, 0): that would turn NaN into 0.
#[inline(always)] // into loops that are compiled for the processor's instructions
fn relu<T: Scalar>(x: T) -> T {
    if x <= T::ZERO { T::ZERO } else { x }
}

impl<T: Scalar> NamedTensors<T> for Relu {}

impl<T: Scalar> Layer<T> for Relu {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        y.map_from(x, relu)?;
        Ok(())
    }

    fn activation(&self) -> Option<fn(&mut [T])> {
        Some(|y| apply(y, relu))
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        if let Some(dx) = dx {
            dx.zip_from(at.y, dy, |y, dy| if y <= T::ZERO { T::ZERO } else { dy })?;
        }
        Ok(())
    }

    fn architecture(&self) -> Result<Architecture, ArchitectureError> {
        Architecture::leaf(LayerKind::Relu)
    }
}
