//! formula: y = m x
//! rule: dx = m dy
//! tape: y, and while training m

use backrule_tensor::kernels::mask;
use backrule_tensor::{ConfigError, Grad, NamedTensors, Options, Scalar, Tensor};

use crate::architecture::ArchitectureError;
#[cfg(feature = "testing")]
use crate::builtin::Sample;
use crate::builtin::{Build, Builtin};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::{At, Layer};
use crate::mode::Mode;

/// Sets a random part of its inputs to 0 while training, and scales the others up so their expectation
/// stays: y = m x, where m is 0 with probability `rate` and 1/(1 − rate) otherwise (N. Srivastava et al.,
/// 2014, inverted).
///
/// Its rule: ∂l/∂x = m ∂l/∂y, with the same m. In [`Mode::Eval`] it passes everything through.
///
/// The mask follows from the pass's [`Key`](crate::Key): element i of it depends on the key and on i, and on
/// nothing that was drawn before. `rate` counts in steps of 2⁻³².
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Dropout, Grads, Key, Mode, Tape, predict};
///
/// let layer = Dropout::new(0.5)?;
/// let x: Tensor = Tensor::full([1, 8], 3.0)?;
/// assert_eq!(predict(&layer, &x)?, x);
///
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&layer, &x, Mode::train_with(Key::new(1)))?;
/// let y = pass.output().clone();
/// assert!(y.as_slice().iter().all(|&y| y == 0.0 || y == 6.0)); // 3 / (1 − ½)
/// pass.backward_to_input(&x, &mut Grads::new(&layer)?, &mut dx)?;
/// assert_eq!(dx, y); // m ∂l/∂y = m x = y here
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    rate: f64,
}

impl Dropout {
    /// Drops each input with the probability `rate`, from 0 (nothing) to 1 (everything).
    ///
    /// # Errors
    /// When `rate` isn't a number from 0 to 1.
    pub fn new(rate: f64) -> Result<Self, ConfigError> {
        if (0.0..=1.0).contains(&rate) {
            Ok(Self { rate })
        } else {
            Err(ConfigError::new("Dropout", "rate", "a number from 0 to 1", rate))
        }
    }

    /// The probability that an input is dropped.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Whether anything is dropped: with a rate of 0 no numbers are drawn, so nobody needs a key.
    fn drops(&self, mode: Mode) -> bool {
        mode != Mode::Eval && self.rate > 0.0
    }
}

impl<T: Scalar> NamedTensors<T> for Dropout {}

impl<T: Scalar> Layer<T> for Dropout {
    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        if !self.drops(mode) {
            return Ok(y.copy_from(x)?);
        }
        let key = mode.key().ok_or_else(|| LayerError::key("dropout forward"))?;
        let [mask] = cache.tensors();
        mask.resize(x.shape())?;
        y.resize(x.shape())?;
        // With a rate of 1 nothing is kept, and 1/(1 − 1) is never used.
        let kept = T::from_f64(1.0 / (1.0 - self.rate));
        let (mask, y) = (mask.as_mut_slice(), y.as_mut_slice());
        mask::apply(key.bits(), 0, self.rate, kept, x.as_slice(), mask, y);
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        if let Some(dx) = dx {
            match self.drops(at.mode) {
                true => {
                    let [mask] = at.cache.tensors();
                    dx.zip_from(mask, dy, |m, dy| m * dy)?;
                }
                false => dx.copy_from(dy)?,
            }
        }
        Ok(())
    }

    fn options(&self) -> Options {
        Options::new().with("rate", self.rate)
    }
}

impl<T: Scalar> Builtin<T> for Dropout {
    const KIND: &'static str = "Dropout";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self::new(from.number("rate")?)?)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        let of = |rate| Self::new(rate).map(Sample::of_any_shape).into_iter().flatten();
        let off = of(0.0).skip(2).take(1).map(|sample| Sample { name: "off", ..sample });
        let most = of(0.75).skip(2).take(1).map(|sample| Sample { name: "most", ..sample });
        of(0.4).chain(most).map(Sample::random).chain(off).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Tape};

    fn mean(rate: f64, key: Key) -> f64 {
        let layer = Dropout::new(rate).unwrap();
        let x = Tensor::<f64>::full([100, 100], 1.0).unwrap();
        let mut tape = Tape::new();
        let y = tape.forward(&layer, &x, Mode::train_with(key)).unwrap().into_output();
        y.sum() / y.len() as f64
    }

    #[test]
    fn the_expectation_stays() {
        for rate in [0.0, 0.1, 0.5, 0.9] {
            // Of 10,000 values the mean's standard error is √(rate / (1 − rate)) / 100.
            let bound = 4.0 * (rate / (1.0 - rate)).sqrt() / 100.0;
            let mean = mean(rate, Key::new(3));
            assert!((mean - 1.0).abs() <= bound, "rate {rate}: mean {mean}");
        }
        assert_eq!(mean(1.0, Key::new(3)), 0.0);
    }

    #[test]
    fn the_key_decides() {
        assert_eq!(mean(0.5, Key::new(1)), mean(0.5, Key::new(1)));
        assert_ne!(mean(0.5, Key::new(1)), mean(0.5, Key::new(2)));
    }

    #[test]
    fn rates_that_are_no_probabilities_are_refused() {
        for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Dropout::new(rate).is_err(), "{rate}");
        }
        let error = Dropout::new(1.5).unwrap_err().to_string();
        assert_eq!(error, "Dropout: rate: expected a number from 0 to 1, got 1.5");
    }
}
