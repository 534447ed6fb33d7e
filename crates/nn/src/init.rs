//! How parameters start.

use backrule_tensor::rand::Rng;
use backrule_tensor::{IntoShape, Scalar, Tensor, TensorError, in_default_mode};

/// How a parameter starts, given the number of inputs and outputs of each unit (fan-in and fan-out).
///
/// | initializer | distribution | for |
/// |---|---|---|
/// | `FanIn` | uniform ±1/√in | the default of [`Linear`](crate::Linear), as in PyTorch |
/// | `GlorotUniform` | uniform ±√(6/(in+out)) | tanh, sigmoid, softmax (X. Glorot, Y. Bengio, 2010) |
/// | `GlorotNormal` | normal, σ = √(2/(in+out)) | the same |
/// | `HeUniform` | uniform ±√(6/in) | ReLU (K. He et al., 2015) |
/// | `HeNormal` | normal, σ = √(2/in) | the same |
///
/// A fan of 0 gives zeros.
///
/// ```
/// use backrule_nn::Init;
/// use backrule_nn::tensor::{Tensor, random};
///
/// let w: Tensor = Init::FanIn.tensor([10, 64], 64, 10, &mut random::rng(1))?;
/// assert!(w.as_slice().iter().all(|w| w.abs() <= 0.125)); // 1/√64
/// # Ok::<(), backrule_nn::tensor::TensorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All this value.
    Constant(f64),
    /// Uniform from the first to the second value.
    Uniform(f64, f64),
    /// Normal with this mean and standard deviation.
    Normal(f64, f64),
    /// Uniform from −1/√in to 1/√in.
    FanIn,
    /// Uniform from −√(6/(in+out)) to √(6/(in+out)).
    GlorotUniform,
    /// Normal with mean 0 and variance 2/(in+out).
    GlorotNormal,
    /// Uniform from −√(6/in) to √(6/in).
    HeUniform,
    /// Normal with mean 0 and variance 2/in.
    HeNormal,
}

impl Init {
    /// A tensor that starts like this.
    ///
    /// # Errors
    /// When there can be no tensor of this shape, or no memory for it.
    pub fn tensor<T: Scalar>(
        self,
        shape: impl IntoShape,
        fan_in: usize,
        fan_out: usize,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Tensor<T>, TensorError> {
        in_default_mode!(self.tensor(shape, fan_in, fan_out, rng));
        // Of one type from here on, so all shapes share the code below.
        let shape = shape.into_shape()?;
        // √(numerator / fan)
        let root = |numerator: f64, fan: usize| match fan {
            0 => 0.0,
            fan => (numerator / fan as f64).sqrt(),
        };
        let both = fan_in.saturating_add(fan_out);
        let (uniform, deviation) = match self {
            Self::Zeros => return Tensor::zeros(shape),
            Self::Constant(value) => return Tensor::full(shape, T::from_f64(value)),
            Self::Uniform(low, high) => return Tensor::uniform(shape, low, high, rng),
            Self::Normal(mean, deviation) => return Tensor::normal(shape, mean, deviation, rng),
            Self::FanIn => (true, root(1.0, fan_in)),
            Self::GlorotUniform => (true, root(6.0, both)),
            Self::GlorotNormal => (false, root(2.0, both)),
            Self::HeUniform => (true, root(6.0, fan_in)),
            Self::HeNormal => (false, root(2.0, fan_in)),
        };
        if uniform {
            Tensor::uniform(shape, -deviation, deviation, rng)
        } else {
            Tensor::normal(shape, 0.0, deviation, rng)
        }
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;

    /// Mean, standard deviation and largest absolute value of 120,000 weights of a layer with 300 inputs and
    /// 400 outputs.
    fn statistics(init: Init) -> [f64; 3] {
        let w: Tensor<f64> = init.tensor([400, 300], 300, 400, &mut random::rng(1)).unwrap();
        let n = w.len() as f64;
        let mean = w.sum() / n;
        let variance = w.as_slice().iter().map(|w| (w - mean) * (w - mean)).sum::<f64>() / n;
        let largest = w.as_slice().iter().fold(0.0, |largest: f64, w| largest.max(w.abs()));
        [mean, variance.sqrt(), largest]
    }

    #[test]
    fn each_has_its_spread() {
        // A uniform distribution ±a has the deviation a/√3.
        for (init, deviation, bound) in [
            (Init::FanIn, 1.0 / 900_f64.sqrt(), 1.0 / 300_f64.sqrt()),
            (Init::GlorotUniform, (2.0 / 700_f64).sqrt(), (6.0 / 700_f64).sqrt()),
            (Init::GlorotNormal, (2.0 / 700_f64).sqrt(), f64::INFINITY),
            (Init::HeUniform, (2.0 / 300_f64).sqrt(), (6.0 / 300_f64).sqrt()),
            (Init::HeNormal, (2.0 / 300_f64).sqrt(), f64::INFINITY),
            (Init::Uniform(-3.0, 3.0), 3_f64.sqrt(), 3.0),
            (Init::Normal(0.0, 2.0), 2.0, f64::INFINITY),
        ] {
            let [mean, spread, largest] = statistics(init);
            assert!(mean.abs() < 0.02 * deviation, "{init:?}: mean {mean}");
            assert!((spread / deviation - 1.0).abs() < 0.01, "{init:?}: deviation {spread}");
            assert!(largest <= bound, "{init:?}: {largest}");
            // A normal distribution goes beyond any uniform one of the same deviation.
            assert_eq!(largest > 2.0 * deviation, bound.is_infinite(), "{init:?}: {largest}");
        }
        assert_eq!(statistics(Init::Zeros), [0.0, 0.0, 0.0]);
        assert_eq!(statistics(Init::Constant(2.0)), [2.0, 0.0, 2.0]);
        assert!((statistics(Init::Uniform(1.0, 2.0))[0] - 1.5).abs() < 0.01);
        assert!((statistics(Init::Normal(5.0, 0.1))[0] - 5.0).abs() < 0.01);
    }

    #[test]
    fn a_layer_without_inputs_starts_at_zero() {
        let b: Tensor<f32> = Init::FanIn.tensor([3], 0, 3, &mut random::rng(1)).unwrap();
        assert_eq!(b, Tensor::from([0.0; 3]));
    }
}
