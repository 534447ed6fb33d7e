//! formula: y = x where x > 0, else s x
//! rule: dx = dy where x > 0, else s dy
//! tape: y

use backrule_tensor::{ConfigError, NamedTensors, Options, Scalar};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Oracle, Sample};
use crate::layers::pointwise::{Of, Pointwise};

/// A rectifier that leaks: y = x for x > 0, and s x else, with a slope s ≥ 0 (A. Maas et al., 2013).
///
/// Its rule: ∂l/∂x = ∂l/∂y where x > 0, and s ∂l/∂y elsewhere. At the kink x = 0 the derivative is s, as in
/// PyTorch. y has x's sign, so the rule needs y alone. A slope of 0 is a [`Relu`](crate::Relu).
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, LeakyRelu, Mode, Tape};
///
/// let (layer, x) = (LeakyRelu::new(0.25)?, Tensor::from([[-2.0_f32, 0.0, 3.0]]));
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&layer, &x, Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[-0.5, 0.0, 3.0]]));
/// let dy = Tensor::from([[10.0, 20.0, 30.0]]);
/// pass.backward_to_input(&dy, &mut Grads::new(&layer)?, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[2.5, 5.0, 30.0]])); // ¼ · 10, ¼ · 20, 30
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyRelu {
    slope: f64,
}

impl LeakyRelu {
    /// With this slope below 0. PyTorch's default is 0.01.
    ///
    /// # Errors
    /// When `slope` isn't a finite number of at least 0, in single precision too: with a negative one y
    /// wouldn't tell the sign of x.
    pub fn new(slope: f64) -> Result<Self, ConfigError> {
        match (0.0..=f64::from(f32::MAX)).contains(&slope) {
            true => Ok(Self { slope }),
            false => Err(ConfigError::new("LeakyRelu", "slope", "a finite number of at least 0", slope)),
        }
    }

    /// The slope below 0.
    pub fn slope(&self) -> f64 {
        self.slope
    }

    #[inline(always)]
    fn scaled<T: Scalar>(&self, x: T) -> T {
        // Selected for a slope of 0, and for one that is 0 in this type: −∞ · 0 is NaN.
        let slope = T::from_f64(self.slope);
        if slope == T::ZERO { T::ZERO } else { slope * x }
    }
}

impl<T: Scalar> NamedTensors<T> for LeakyRelu {}

impl Pointwise for LeakyRelu {
    const DF_OF: Of = Of::Y;

    #[inline(always)]
    fn f<T: Scalar>(&self, x: T) -> T {
        // Not x > 0 ? x : s x, which would scale NaN and so lose its bits.
        if x <= T::ZERO { self.scaled(x) } else { x }
    }

    #[inline(always)]
    fn df<T: Scalar>(&self, y: T) -> T {
        self.back(y, T::ONE)
    }

    #[inline(always)]
    fn back<T: Scalar>(&self, y: T, dy: T) -> T {
        if y <= T::ZERO { self.scaled(dy) } else { dy }
    }

    fn options(&self) -> Options {
        Options::new().with("slope", self.slope)
    }
}

impl<T: Scalar> Builtin<T> for LeakyRelu {
    const KIND: &'static str = "LeakyRelu";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self::new(from.number("slope")?)?)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        let of = |slope| Self::new(slope).map(Sample::of_any_shape).into_iter().flatten();
        let as_relu = of(0.0).skip(2).take(1).map(|sample| Sample { name: "slope 0", ..sample });
        of(0.2).chain(as_relu).map(Sample::kinks).collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "leaky_relu").then_some(())?;
        Self::new(case.number("negative_slope", 0.01)).ok().map(Oracle::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_that_cannot_be_are_refused() {
        for slope in [-0.1, f64::NAN, f64::INFINITY, 1e39] {
            let error = LeakyRelu::new(slope).unwrap_err().to_string();
            assert!(error.starts_with("LeakyRelu: slope: expected a finite number of at least 0"), "{error}");
        }
    }

    #[test]
    fn a_slope_of_0_keeps_infinity_out() {
        // The second one is 0 in single precision.
        for slope in [0.0, 1e-50] {
            let layer = LeakyRelu::new(slope).unwrap();
            assert_eq!(layer.f(f32::NEG_INFINITY), 0.0);
            assert_eq!(layer.back(0.0_f32, f32::INFINITY), 0.0);
            assert!(layer.f(f32::NAN).is_nan());
        }
    }
}
