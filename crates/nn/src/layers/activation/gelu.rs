//! formula: y = x Φ(x)
//! rule: dx = dy (Φ(x) + x φ(x))
//! tape: y

use backrule_tensor::kernels::gelu::{gelu, slope};
use backrule_tensor::{ConfigError, NamedTensors, Options, Scalar};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Oracle, Sample};
use crate::layers::pointwise::{Of, Pointwise};

/// The Gaussian error linear unit: y = x Φ(x), where Φ is the distribution function of the normal
/// distribution (D. Hendrycks, K. Gimpel, 2016).
///
/// Its rule: dy/dx = Φ(x) + x φ(x), with the density φ(x) = exp(−x²/2)/√(2π).
///
/// [`tanh`](Self::tanh) is the approximation y = ½ x (1 + t), t = tanh u, u = √(2/π) (x + 0.044715 x³). Its
/// rule is that of this formula: dy/dx = ½ (1 + t) + ½ x (1 − t²) du/dx.
///
/// At ±∞ both have their limits: y = −0 and dy/dx = 0, y = ∞ and dy/dx = 1. PyTorch's are NaN there.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Gelu, Grads, Mode, Tape};
///
/// let gelu = Gelu::new();
/// let x = Tensor::from([[0.0_f64, 1.0, -1.0]]); // Φ(1) = 0.841345, φ(1) = 0.241971
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&gelu, &x, Mode::Eval)?;
/// assert_eq!(format!("{:.6}", pass.output()), "[[ 0.000000,  0.841345, -0.158655]]");
/// pass.backward_to_input(&Tensor::from([[1.0; 3]]), &mut Grads::new(&gelu)?, &mut dx)?;
/// // Φ(1) + φ(1), Φ(−1) − φ(1)
/// assert_eq!(format!("{dx:.6}"), "[[ 0.500000,  1.083315, -0.083315]]");
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gelu {
    tanh: bool,
}

/// √(2/π) and the coefficient of x³.
const SLOPE: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

impl Gelu {
    /// The exact one.
    pub const fn new() -> Self {
        Self { tanh: false }
    }

    /// The approximation by a hyperbolic tangent, which differs by up to 5·10⁻⁴.
    pub const fn tanh() -> Self {
        Self { tanh: true }
    }
}

/// t = tanh u
#[inline(always)]
fn tanh_of<T: Scalar>(x: T) -> T {
    (T::from_f64(SLOPE) * (x + T::from_f64(CUBIC) * x * x * x)).tanh()
}

impl<T: Scalar> NamedTensors<T> for Gelu {}

impl Pointwise for Gelu {
    const DF_OF: Of = Of::X;

    #[inline(always)]
    fn f<T: Scalar>(&self, x: T) -> T {
        if self.tanh {
            let upper = T::ONE + tanh_of(x);
            // −∞ · 0 would be NaN.
            return if upper == T::ZERO { -T::ZERO } else { T::from_f64(0.5) * x * upper };
        }
        gelu(x)
    }

    #[inline(always)]
    fn df<T: Scalar>(&self, x: T) -> T {
        if self.tanh {
            let (half, t) = (T::from_f64(0.5), tanh_of(x));
            let flat = T::ONE - t * t;
            let du = T::from_f64(SLOPE) * (T::ONE + T::from_f64(3.0 * CUBIC) * x * x);
            // Where t is ±1 to the last bit, x³ may be infinite, and 0 · ∞ is NaN.
            let bend = if flat == T::ZERO { T::ZERO } else { half * x * flat * du };
            return half * (T::ONE + t) + bend;
        }
        slope(x)
    }

    fn options(&self) -> Options {
        Options::new().with("approximate", if self.tanh { "tanh" } else { "none" })
    }
}

impl Gelu {
    fn of_word(word: &str) -> Result<Self, ConfigError> {
        match word {
            "none" => Ok(Self::new()),
            "tanh" => Ok(Self::tanh()),
            other => Err(ConfigError::new("Gelu", "approximate", "none or tanh", other)),
        }
    }
}

impl<T: Scalar> Builtin<T> for Gelu {
    const KIND: &'static str = "Gelu";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self::of_word(&from.word("approximate")?)?)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        let tanh = Sample::of_any_shape(Self::tanh()).into_iter().skip(2).take(1);
        let tanh = tanh.map(|sample| Sample { name: "tanh", ..sample });
        Sample::of_any_shape(Self::new()).into_iter().chain(tanh).collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "gelu").then_some(())?;
        Self::of_word(&case.word("approximate", "none")).ok().map(Oracle::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_from_0_it_is_the_identity_or_0() {
        for gelu in [Gelu::new(), Gelu::tanh()] {
            for x in [1e4_f32, 1e20, f32::MAX, f32::INFINITY] {
                assert_eq!((gelu.f(x), gelu.df(x)), (x, 1.0));
                assert_eq!((gelu.f(-x), gelu.df(-x)), (0.0, 0.0));
                let x = f64::from(x);
                assert_eq!((gelu.f(x), gelu.df(x)), (x, 1.0));
                assert_eq!((gelu.f(-x), gelu.df(-x)), (0.0, 0.0));
            }
            assert!(gelu.f(f32::NAN).is_nan() && gelu.df(f64::NAN).is_nan());
        }
        // Small results keep their digits: Φ(−6.5) = 4.016e-11.
        assert!((Gelu::new().f(-6.5_f64) / -2.610_400_379e-10 - 1.0).abs() < 1e-9);
    }
}
