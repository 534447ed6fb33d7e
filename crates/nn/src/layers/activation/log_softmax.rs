//! formula: yⱼ = xⱼ − ln Σₖ e^xₖ
//! rule: dxⱼ = dyⱼ − e^yⱼ Σₖ dyₖ
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

/// Logarithms of probabilities from logits, row by row: yⱼ = xⱼ − ln Σₖ e^xₖ along the last axis.
///
/// More accurate than the logarithm of a [`Softmax`](crate::Softmax), and finite where that is −∞.
///
/// ∂yⱼ/∂xₖ = [j = k] − e^yₖ, so the rule is ∂l/∂xⱼ = ∂l/∂yⱼ − e^yⱼ Σₖ ∂l/∂yₖ. It is right with any loss.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, LogSoftmax, Mode, Tape};
///
/// let x = Tensor::from([[1e4_f64, 1e4]]);
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&LogSoftmax, &x, Mode::Eval)?;
/// let y = pass.output().as_slice()[0];
/// assert!((y + 2_f64.ln()).abs() < 1e-12); // ln ½
/// let dy = Tensor::from([[1.0, 0.0]]);
/// pass.backward_to_input(&dy, &mut Grads::new(&LogSoftmax)?, &mut dx)?;
/// assert!((dx.as_slice()[0] - 0.5).abs() < 1e-12); // 1 − ½
/// assert!((dx.as_slice()[1] + 0.5).abs() < 1e-12); // 0 − ½
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSoftmax;

impl<T: Scalar> NamedTensors<T> for LogSoftmax {}

impl<T: Scalar> Layer<T> for LogSoftmax {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        Ok(y.log_softmax_from(x)?)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        if dy.shape() != at.y.shape() {
            return Err(ShapeError::new("log-softmax backward", at.y.shape(), dy.shape()).into());
        }
        if let Some(dx) = dx {
            dx.resize(at.x.shape())?;
            let columns = at.y.shape().columns();
            softmax::backward(at.y.as_slice(), dy.as_slice(), dx.as_mut_slice(), columns, Rule::LogSoftmax);
        }
        Ok(())
    }
}

impl<T: Scalar> Builtin<T> for LogSoftmax {
    const KIND: &'static str = "LogSoftmax";

    fn build(_: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        Sample::of_any_shape(LogSoftmax).into()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "log_softmax" && case.number("axis", -1.0) == -1.0).then(|| Oracle::new(LogSoftmax))
    }
}
