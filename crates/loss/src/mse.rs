//! value: mean squared error
//! prediction: any shape
//! target: the same shape

#[cfg(feature = "testing")]
use backrule_tensor::Tensor;
use backrule_tensor::{ConfigError, Options, Scalar};

#[cfg(feature = "testing")]
use crate::error::LossError;

#[cfg(feature = "testing")]
use crate::listed::{Listed, Sample, Wanted};
use crate::pointwise::{PointwiseLoss, pointwise};
use crate::reduction::Reduction;

/// Mean squared error: L = Σᵢ (pᵢ − tᵢ)² / N over all N elements of a prediction p and a target t of the same
/// shape.
///
/// | reduction | L | ∂L/∂pᵢ |
/// |---|---|---|
/// | mean | Σ (p − t)² / N | 2 (pᵢ − tᵢ) / N |
/// | sum | Σ (p − t)² | 2 (pᵢ − tᵢ) |
/// | over n | Σ (p − t)² / n | 2 (pᵢ − tᵢ) / n |
///
/// The textbooks' ½ Σ (p − t)² is half of the sum, and so is its gradient:
///
/// ```
/// use backrule_loss::tensor::Tensor;
/// use backrule_loss::{Mse, Reduction};
///
/// let y: Tensor<f64> = Tensor::from([[0.49, 0.62]]);
/// let target = Tensor::from([[0.01, 0.99]]);
/// let mut dy = Tensor::default();
/// let l = Mse::new().reduction(Reduction::Sum).value_and_grad(&y, &target, &mut dy)? / 2.0;
/// dy.scale(0.5);
/// assert!((l - 0.18365).abs() < 1e-15);
/// assert_eq!(dy, Tensor::from([[0.48, -0.37]]));
/// # Ok::<(), backrule_loss::LossError>(())
/// ```
///
/// The squares are added in double precision and in a fixed order: the same bits always.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mse {
    reduction: Reduction,
}

pointwise! { Mse }

impl Mse {
    /// Its settings: `reduction "mean"`, `"sum"`, or `"over"` with a `divisor`.
    pub fn options(&self) -> Options {
        self.reduction.write(Options::new())
    }

    /// The loss that has these settings.
    ///
    /// # Errors
    /// When one is missing, unknown or impossible.
    pub fn build(mut options: Options) -> Result<Self, ConfigError> {
        let reduction = Reduction::read(&mut options);
        let loss = reduction.and_then(|reduction| options.finish().map(|()| Self { reduction }));
        loss.map_err(|error| error.of("Mse"))
    }
}

impl PointwiseLoss for Mse {
    const NAME: &'static str = "mean squared error";

    fn reduction(&self) -> Reduction {
        self.reduction
    }

    #[inline(always)]
    fn l<T: Scalar>(&self, p: T, t: T) -> f64 {
        let d = (p - t).to_f64();
        d * d
    }

    #[inline(always)]
    fn dl<T: Scalar>(&self, p: T, t: T) -> T {
        let d = p - t;
        d + d
    }
}

#[cfg(feature = "testing")]
impl<T: Scalar> Listed<T> for Mse {
    const OP: &'static str = "mse";

    fn evaluate(&self, sample: &Sample<T>, dy: Option<&mut Tensor<T>>) -> Result<T, LossError> {
        let (p, Wanted::Values(t)) = (&sample.prediction, &sample.target) else {
            return Err(sample.refusal());
        };
        dy.map_or_else(|| self.value(p, t), |dy| self.value_and_grad(p, t, dy))
    }

    fn samples() -> Vec<(Self, Sample<T>)> {
        let shapes = [&[1, 1][..], &[3], &[5, 3], &[2, 3, 4], &[7, 17], &[1024, 10]];
        let sample = |shape: &&[usize]| {
            let (prediction, target) = (Sample::uniform(shape, 1), Wanted::Values(Sample::uniform(shape, 2)));
            let divisor = prediction.len() as f64;
            (Self::new(), Sample { prediction, target, divisor })
        };
        shapes.iter().map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::Tensor;

    use super::*;

    #[test]
    fn every_element_counts_once_whatever_the_length() {
        for n in [1, 7, 8, 9, 16, 100] {
            let p = Tensor::<f64>::from_fn([n], |at| at[0] as f64 + 1.0).unwrap();
            let t = Tensor::full([n], 1.0).unwrap();
            let mut dy = Tensor::default();
            let sum = Mse::new().reduction(Reduction::Sum);
            let value = sum.value_and_grad(&p, &t, &mut dy).unwrap();
            assert_eq!(value, (0..n).map(|i| (i * i) as f64).sum::<f64>());
            assert_eq!(dy, Tensor::from_fn([n], |at| 2.0 * at[0] as f64).unwrap());
        }
    }

    #[test]
    fn sums_in_double_precision() {
        // In single precision, 2²⁴ + 1 would lose the 1 each time.
        let mut p = Tensor::<f32>::full([1000], 1.0).unwrap();
        p.as_mut_slice()[0] = 4096.0;
        let t = Tensor::zeros([1000]).unwrap();
        let value = Mse::new().reduction(Reduction::Sum).value(&p, &t).unwrap();
        assert_eq!(value, (16_777_216.0_f64 + 999.0) as f32);
        // And so would 4097² = 2²⁴ + 2¹³ + 1, before anything is added.
        let p = Tensor::<f32>::full([3], 4097.0).unwrap();
        let t = Tensor::zeros([3]).unwrap();
        let value = Mse::new().reduction(Reduction::Sum).value(&p, &t).unwrap();
        assert_eq!(value, (3.0 * 4097.0 * 4097.0_f64) as f32);
    }

    #[test]
    fn refuses_different_and_empty_shapes() {
        let (p, t) = (Tensor::from([[1.0_f32, 2.0]]), Tensor::from([1.0_f32, 2.0]));
        let error = Mse::new().value(&p, &t).unwrap_err();
        let text = "mean squared error: expected [1, 2], got [2]";
        assert_eq!(error.to_string(), text);
        let empty = Tensor::<f32>::zeros([0, 3]).unwrap();
        let error = Mse::new().value(&empty, &empty).unwrap_err();
        let text = "mean squared error: the batch is empty: [0, 3]";
        assert_eq!(error.to_string(), text);
        let number = Tensor::scalar(3.0_f32);
        assert_eq!(Mse::new().value(&number, &Tensor::scalar(1.0)), Ok(4.0));
    }

    #[test]
    fn nan_and_infinity_reach_value_and_gradient() {
        let p = Tensor::from([f32::NAN, 1.0, f32::INFINITY]);
        let t = Tensor::from([0.0, 0.0, 0.0]);
        let mut dy = Tensor::default();
        let value = Mse::new().value_and_grad(&p, &t, &mut dy).unwrap();
        assert!(value.is_nan() && dy.as_slice()[0].is_nan());
        assert_eq!(dy.as_slice()[1..], [2.0 / 3.0, f32::INFINITY]);
    }

    /// In one f32 they would stop at 2²⁴ times the first.
    #[test]
    fn totals_do_not_stop_growing() {
        let n = 17_000_000;
        let (p, t) = (Tensor::full([n], 0.3_f32).unwrap(), Tensor::zeros([n]).unwrap());
        let mut dy = Tensor::default();
        let value = Mse::new().value_and_grad(&p, &t, &mut dy).unwrap();
        assert!((value - 0.09).abs() <= 4.0 * f32::EPSILON * 0.09, "{value}");
        let total: f64 = dy.as_slice().iter().map(|&dy| f64::from(dy)).sum();
        assert!((total - 0.6).abs() <= 4.0 * f64::from(f32::EPSILON) * 0.6, "{total}");
    }
}
