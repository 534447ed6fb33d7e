//! formula: y = 1 / (1 + e⁻ˣ)
//! rule: dx = dy y (1 − y)
//! tape: y

use backrule_tensor::{NamedTensors, Scalar};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Oracle, Sample};
use crate::layers::pointwise::{Of, Pointwise};

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
/// let dy = Tensor::from([[8.0, 8.0, 8.0]]);
/// pass.backward_to_input(&dy, &mut Grads::new(&Sigmoid)?, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[2.0, 0.0, 0.0]])); // 8 · ½ · ½
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sigmoid;

impl<T: Scalar> NamedTensors<T> for Sigmoid {}

impl Pointwise for Sigmoid {
    const DF_OF: Of = Of::Y;

    #[inline(always)]
    fn f<T: Scalar>(&self, x: T) -> T {
        x.sigmoid()
    }

    #[inline(always)]
    fn df<T: Scalar>(&self, y: T) -> T {
        y * (T::ONE - y)
    }
}

impl<T: Scalar> Builtin<T> for Sigmoid {
    const KIND: &'static str = "Sigmoid";

    fn build(_: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        Sample::of_any_shape(Sigmoid).into()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "sigmoid").then(|| Oracle::new(Sigmoid))
    }
}
