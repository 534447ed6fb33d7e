//! The driver for losses that add up an l(p, t) of each element.

use backrule_tensor::kernels::row::{self, CHUNK};
use backrule_tensor::simd::{self, Kernel, Simd};
use backrule_tensor::{Scalar, ShapeError, Tensor, in_default_mode};

use crate::error::LossError;
use crate::reduction::Reduction;

/// A loss that compares each element p of a prediction with one element t of a target of the same shape.
///
/// | reduction | L | ∂L/∂pᵢ |
/// |---|---|---|
/// | mean over N elements | Σ l(pᵢ, tᵢ) / N | l′(pᵢ, tᵢ) / N |
/// | sum | Σ l(pᵢ, tᵢ) | l′(pᵢ, tᵢ) |
/// | over n | Σ l(pᵢ, tᵢ) / n | l′(pᵢ, tᵢ) / n |
///
/// One writes l and its derivative by p. Huber's loss, ½ d² for |d| ≤ 1 and |d| − ½ outside:
///
/// ```
/// use backrule_loss::tensor::{Scalar, Tensor};
/// use backrule_loss::{PointwiseLoss, Reduction};
///
/// struct Huber;
///
/// impl PointwiseLoss for Huber {
///     const NAME: &'static str = "Huber";
///
///     fn reduction(&self) -> Reduction {
///         Reduction::Sum
///     }
///
///     #[inline(always)]
///     fn l<T: Scalar>(&self, p: T, t: T) -> f64 {
///         let d = (p - t).to_f64().abs();
///         if d <= 1.0 { 0.5 * d * d } else { d - 0.5 }
///     }
///
///     #[inline(always)]
///     fn dl<T: Scalar>(&self, p: T, t: T) -> T {
///         let d = p - t;
///         if d > T::ONE { T::ONE } else if d < -T::ONE { -T::ONE } else { d }
///     }
/// }
///
/// let (p, t): (Tensor, _) = (Tensor::from([0.5, 3.0]), Tensor::zeros([2])?);
/// let mut dy = Tensor::default();
/// assert_eq!(Huber.value_and_grad(&p, &t, &mut dy)?, 0.125 + 2.5);
/// assert_eq!(dy, Tensor::from([0.5, 1.0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Both functions should be `#[inline(always)]`: the loop over them is compiled for several instruction sets.
/// They see all numbers, NaN and ∞ included, and should pass NaN on. The terms are added in double precision
/// and in a fixed order, so the bits are the same always.
pub trait PointwiseLoss {
    /// The loss's name in errors, such as `mean squared error`.
    const NAME: &'static str;

    /// The divisor of the sum.
    fn reduction(&self) -> Reduction;

    /// l(p, t)
    fn l<T: Scalar>(&self, p: T, t: T) -> f64;

    /// ∂l/∂p
    fn dl<T: Scalar>(&self, p: T, t: T) -> T;

    /// L, when its gradient isn't wanted: for validation data.
    ///
    /// # Errors
    /// As [`value_and_grad`](Self::value_and_grad).
    fn value<T: Scalar>(&self, prediction: &Tensor<T>, target: &Tensor<T>) -> Result<T, LossError> {
        in_default_mode!(PointwiseLoss::value(self, prediction, target));
        let divisor = divisor(self, prediction, target)?;
        let (p, t) = (prediction.as_slice(), target.as_slice());
        Ok(T::from_f64(simd::run(Terms { loss: self, p, t, dy: None }) / divisor))
    }

    /// L, and ∂L/∂prediction in `dy`, which takes the prediction's shape and is overwritten.
    ///
    /// # Errors
    /// When the shapes differ or are empty, the [reduction](Reduction::Over) has an impossible divisor, or
    /// there is no memory for `dy`, which is unchanged then.
    fn value_and_grad<T: Scalar>(
        &self,
        prediction: &Tensor<T>,
        target: &Tensor<T>,
        dy: &mut Tensor<T>,
    ) -> Result<T, LossError> {
        in_default_mode!(PointwiseLoss::value_and_grad(self, prediction, target, dy));
        let divisor = divisor(self, prediction, target)?;
        dy.resize(prediction.shape())?;
        let (p, t) = (prediction.as_slice(), target.as_slice());
        let dy = Some((dy.as_mut_slice(), T::from_f64(1.0 / divisor)));
        Ok(T::from_f64(simd::run(Terms { loss: self, p, t, dy }) / divisor))
    }
}

/// The methods of a pointwise loss with a field `reduction`, so callers needn't import the trait.
macro_rules! pointwise {
    ($loss:ident) => {
        impl $loss {
            /// The mean over all elements, and the defaults of all other settings.
            pub fn new() -> Self {
                Self::default()
            }

            /// The divisor of the sum over all elements.
            #[must_use]
            pub fn reduction(mut self, reduction: $crate::reduction::Reduction) -> Self {
                self.reduction = reduction;
                self
            }

            /// L, when its gradient isn't wanted: for validation data.
            ///
            /// # Errors
            /// As [`value_and_grad`](Self::value_and_grad).
            pub fn value<T: ::backrule_tensor::Scalar>(
                &self,
                prediction: &::backrule_tensor::Tensor<T>,
                target: &::backrule_tensor::Tensor<T>,
            ) -> Result<T, $crate::error::LossError> {
                $crate::pointwise::PointwiseLoss::value(self, prediction, target)
            }

            /// L, and ∂L/∂prediction in `dy`, which takes the prediction's shape and is overwritten.
            ///
            /// # Errors
            /// When the shapes differ or are empty, the [reduction](crate::Reduction::Over) has an impossible
            /// divisor, or there is no memory for `dy`, which is unchanged then.
            pub fn value_and_grad<T: ::backrule_tensor::Scalar>(
                &self,
                prediction: &::backrule_tensor::Tensor<T>,
                target: &::backrule_tensor::Tensor<T>,
                dy: &mut ::backrule_tensor::Tensor<T>,
            ) -> Result<T, $crate::error::LossError> {
                $crate::pointwise::PointwiseLoss::value_and_grad(self, prediction, target, dy)
            }
        }
    };
}
pub(crate) use pointwise;

/// The divisor of the sum, once prediction and target are found to fit together.
fn divisor<L: PointwiseLoss + ?Sized, T: Scalar>(
    loss: &L,
    prediction: &Tensor<T>,
    target: &Tensor<T>,
) -> Result<f64, LossError> {
    let (operation, shape) = (L::NAME, prediction.shape());
    if target.shape() != shape {
        return Err(ShapeError::new(operation, shape, target.shape()).into());
    }
    // Without elements there is no mean. The other two add up over parts of a batch, one of which may have
    // none.
    if shape.elements() == 0 && loss.reduction() == Reduction::Mean {
        return Err(LossError::Empty { operation, shape });
    }
    loss.reduction().divisor::<T>(operation, shape.elements() as f64)
}

/// Σ l(p, t), and dy = l′(p, t) · scale where that is wanted.
struct Terms<'a, L: ?Sized, T> {
    loss: &'a L,
    p: &'a [T],
    t: &'a [T],
    dy: Option<(&'a mut [T], T)>,
}

impl<L: PointwiseLoss + ?Sized, T: Scalar> Kernel for Terms<'_, L, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        let Self { loss, p, t, mut dy } = self;
        // Sixteen accumulators: an element's position alone says which one it is added to.
        let mut sums = [0.0; CHUNK];
        let (p, p_end) = p.as_chunks::<CHUNK>();
        let (t, t_end) = t.as_chunks::<CHUNK>();
        for (i, (p, t)) in p.iter().zip(t).enumerate() {
            for j in 0..CHUNK {
                sums[j] += loss.l(p[j], t[j]);
            }
            if let Some((dy, scale)) = &mut dy {
                let mut d = [T::ZERO; CHUNK];
                for j in 0..CHUNK {
                    d[j] = loss.dl(p[j], t[j]) * *scale;
                }
                row::store(d, &mut dy[i * CHUNK..]);
            }
        }
        for (sum, (&p, &t)) in sums.iter_mut().zip(p_end.iter().zip(t_end)) {
            *sum += loss.l(p, t);
        }
        if let Some((dy, scale)) = dy {
            let end = dy.len() - p_end.len();
            for (dy, (&p, &t)) in dy[end..].iter_mut().zip(p_end.iter().zip(t_end)) {
                *dy = loss.dl(p, t) * scale;
            }
        }
        row::sum(sums)
    }
}
