//! formula: y = max(0, x)
//! rule: dx = dy where x > 0, else 0
//! tape: y

use backrule_tensor::{NamedTensors, Scalar};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Oracle, Sample};
use crate::layers::pointwise::{Of, Pointwise};

/// The rectifier: y = max(0, x), element by element.
///
/// Its rule: ∂l/∂x = ∂l/∂y where x > 0, and 0 where x ≤ 0. At the kink x = 0 the derivative is taken to be 0,
/// as in PyTorch. NaN is passed on, in both directions.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Mode, Relu, Tape};
///
/// let x: Tensor = Tensor::from([[-2.0, 0.0, 3.0]]);
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&Relu, &x, Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[0.0, 0.0, 3.0]]));
/// let dy = Tensor::from([[10.0, 20.0, 30.0]]);
/// pass.backward_to_input(&dy, &mut Grads::new(&Relu)?, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[0.0, 0.0, 30.0]]));
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relu;

impl<T: Scalar> NamedTensors<T> for Relu {}

impl Pointwise for Relu {
    const DF_OF: Of = Of::Y;

    #[inline(always)]
    fn f<T: Scalar>(&self, x: T) -> T {
        // Not max(x, 0): that would turn NaN into 0.
        if x <= T::ZERO { T::ZERO } else { x }
    }

    #[inline(always)]
    fn df<T: Scalar>(&self, y: T) -> T {
        self.back(y, T::ONE)
    }

    // Selected, not multiplied: ∞ · 0 is NaN.
    #[inline(always)]
    fn back<T: Scalar>(&self, y: T, dy: T) -> T {
        if y <= T::ZERO { T::ZERO } else { dy }
    }
}

impl<T: Scalar> Builtin<T> for Relu {
    const KIND: &'static str = "Relu";

    fn build(_: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        Sample::of_any_shape(Relu).map(Sample::kinks).into()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "relu").then(|| Oracle::new(Relu))
    }
}
