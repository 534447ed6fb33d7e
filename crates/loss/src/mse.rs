use backrule_tensor::kernels::row::{self, CHUNK};
use backrule_tensor::simd::{self, Kernel, Simd};
use backrule_tensor::{Scalar, ShapeError, Tensor};

use crate::error::LossError;
use crate::reduction::Reduction;

/// Mean squared error: l = Σᵢ (pᵢ − tᵢ)² / N over all N elements of a prediction p and a target t of the same shape.
///
/// | reduction | l | ∂l/∂pᵢ |
/// |---|---|---|
/// | mean | Σ (p − t)² / N | 2 (pᵢ − tᵢ) / N |
/// | sum | Σ (p − t)² | 2 (pᵢ − tᵢ) |
///
/// The textbooks' l = ½ Σ (p − t)² is half of the sum, and so is its gradient:
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Mse {
    reduction: Reduction,
}

impl Mse {
    /// The mean over all elements.
    pub fn new() -> Self {
        Self::default()
    }

    /// The mean or the sum.
    #[must_use]
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// l, when its gradient isn't wanted: for validation data.
    ///
    /// # Errors
    /// As [`value_and_grad`](Self::value_and_grad).
    pub fn value<T: Scalar>(&self, prediction: &Tensor<T>, target: &Tensor<T>) -> Result<T, LossError> {
        let n = self.divisor(prediction, target)?;
        let sum = simd::run(Squares { p: prediction.as_slice(), t: target.as_slice(), dy: None });
        Ok(T::from_f64(sum / n))
    }

    /// l, and ∂l/∂prediction in `dy`, which takes the prediction's shape and is overwritten.
    ///
    /// # Errors
    /// When the shapes differ or are empty; `dy` is unchanged then.
    pub fn value_and_grad<T: Scalar>(
        &self,
        prediction: &Tensor<T>,
        target: &Tensor<T>,
        dy: &mut Tensor<T>,
    ) -> Result<T, LossError> {
        let n = self.divisor(prediction, target)?;
        dy.resize(prediction.shape())?;
        let dy = Some((dy.as_mut_slice(), T::from_f64(2.0 / n)));
        let sum = simd::run(Squares { p: prediction.as_slice(), t: target.as_slice(), dy });
        Ok(T::from_f64(sum / n))
    }

    /// What the sum of squares is divided by, if there is such a sum.
    fn divisor<T: Scalar>(&self, prediction: &Tensor<T>, target: &Tensor<T>) -> Result<f64, LossError> {
        let (operation, shape) = ("mean squared error", prediction.shape());
        if target.shape() != shape {
            return Err(ShapeError::new(operation, shape, target.shape()).into());
        }
        if shape.elements() == 0 {
            return Err(LossError::Empty { operation, shape });
        }
        Ok(match self.reduction {
            Reduction::Mean => shape.elements() as f64,
            Reduction::Sum => 1.0,
        })
    }
}

/// Σ (p − t)², and dy = scale (p − t) where that is wanted.
struct Squares<'a, T> {
    p: &'a [T],
    t: &'a [T],
    dy: Option<(&'a mut [T], T)>,
}

impl<T: Scalar> Kernel for Squares<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        let Self { p, t, mut dy } = self;
        // Sixteen running sums: in which of them an element lands depends on its position alone.
        let mut sums = [0.0; CHUNK];
        for (at, left) in row::chunks(p.len()) {
            let (mut d, t) = (row::load(&p[at..], left, T::ZERO), row::load(&t[at..], left, T::ZERO));
            d.iter_mut().zip(t).for_each(|(d, t)| *d -= t);
            sums.iter_mut().zip(d).for_each(|(sum, d)| *sum += d.to_f64() * d.to_f64());
            if let Some((dy, scale)) = &mut dy {
                d.iter_mut().for_each(|d| *d *= *scale);
                row::store(d, &mut dy[at..]);
            }
        }
        row::sum(sums)
    }
}

#[cfg(test)]
mod tests {
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
}
