//! formula: yⱼ = e^xⱼ / Σₖ e^xₖ
//! rule: dxⱼ = yⱼ (dyⱼ − Σₖ dyₖ yₖ)
//! tape: y

use backrule_tensor::kernels::softmax::{self, Rule};
use backrule_tensor::{Grad, NamedTensors, Scalar, ShapeError, Tensor};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::{At, Layer};
use crate::mode::Mode;

/// Probabilities from logits, row by row: yⱼ = e^xⱼ / Σₖ e^xₖ along the last axis.
///
/// Its Jacobian is yⱼ (1 − yⱼ) on the diagonal and −yⱼ yₖ off it. Multiplied by ∂l/∂y, row by row:
/// ∂l/∂xⱼ = yⱼ (∂l/∂yⱼ − Σₖ ∂l/∂yₖ yₖ). It is right with any loss.
///
/// To train a classifier, end the network with logits and use the cross-entropy on logits, which has this
/// rule folded in; use a softmax where probabilities themselves are wanted.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Mode, Softmax, Tape};
///
/// let x = Tensor::from([[5.0_f64, 5.0]]); // y = [½, ½]
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&Softmax, &x, Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[0.5, 0.5]]));
/// pass.backward_to_input(&Tensor::from([[1.0, 0.0]]), &mut Grads::new(&Softmax)?, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[0.25, -0.25]])); // ½ (1 − ½), −½ · ½
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Softmax;

impl<T: Scalar> NamedTensors<T> for Softmax {}

impl<T: Scalar> Layer<T> for Softmax {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        Ok(y.softmax_from(x)?)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        if dy.shape() != at.y.shape() {
            return Err(ShapeError::new("softmax backward", at.y.shape(), dy.shape()).into());
        }
        if let Some(dx) = dx {
            dx.resize(at.x.shape())?;
            let columns = at.y.shape().columns();
            softmax::backward(at.y.as_slice(), dy.as_slice(), dx.as_mut_slice(), columns, Rule::Softmax);
        }
        Ok(())
    }
}

impl<T: Scalar> Builtin<T> for Softmax {
    const KIND: &'static str = "Softmax";

    fn build(_: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        Sample::of_any_shape(Softmax).into()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "softmax" && case.number("axis", -1.0) == -1.0).then(|| Oracle::new(Softmax))
    }
}
