//! formula: y = tanh x
//! rule: dx = dy (1 − y²)
//! tape: y

use backrule_tensor::{NamedTensors, Scalar};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Oracle, Sample};
use crate::layers::pointwise::{Of, Pointwise};

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
pub struct Tanh;

impl<T: Scalar> NamedTensors<T> for Tanh {}

impl Pointwise for Tanh {
    const DF_OF: Of = Of::Y;

    #[inline(always)]
    fn f<T: Scalar>(&self, x: T) -> T {
        x.tanh()
    }

    #[inline(always)]
    fn df<T: Scalar>(&self, y: T) -> T {
        T::ONE - y * y
    }
}

impl<T: Scalar> Builtin<T> for Tanh {
    const KIND: &'static str = "Tanh";

    fn build(_: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        Sample::of_any_shape(Tanh).into()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "tanh").then(|| Oracle::new(Tanh))
    }
}
