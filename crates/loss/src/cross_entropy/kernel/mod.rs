//! Rows of logits z: their losses and gradients.
//!
//! Every target comes down to l = −Σ_c a_c ln p_c with p = softmax(z), which is l = Σ_c a_c (ln Σ_k exp(z_k)
//! − z_c). The derivative of ln Σ_k exp(z_k) by z_j is p_j, hence ∂l/∂z_j = p_j Σ_c a_c − a_j.
//!
//! Both are computed from the differences d = z − max z: ln p_c = d_c − ln Σ_k exp(d_k). Logits of 10⁴ in
//! single precision have no digits left for small differences, so ln Σ exp(z) is never one number.

mod row;
mod short;

use backrule_tensor::Scalar;
use backrule_tensor::kernels::softmax::{self, ShortRows, SumExp};
use backrule_tensor::simd::{Kernel, Simd};

use self::row::Row;
use super::settings::CrossEntropy;
use crate::target::Target;

/// Computes Σ l over the rows of a part of the batch, and ∂l/∂z times `scale`. Everything must have been
/// checked.
pub(super) struct Losses<'a, T: Scalar> {
    pub(super) loss: &'a CrossEntropy,
    /// The rows of the batch before this part.
    pub(super) first: usize,
    pub(super) z: &'a [T],
    pub(super) classes: usize,
    pub(super) target: Target<'a, T>,
    pub(super) dz: Option<&'a mut [T]>,
    /// 1 / the divisor of the sum over the batch.
    pub(super) scale: f64,
}

impl<T: Scalar> Kernel for Losses<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        let (z, classes) = (self.z, self.classes);
        let mut sum = Sum { of: self, l: 0.0 };
        softmax::sum_exp::<T, S, _>(z, classes, &mut sum);
        sum.l
    }
}

/// Σ l of the rows that were there already.
struct Sum<'a, T: Scalar> {
    of: Losses<'a, T>,
    l: f64,
}

impl<T: Scalar> SumExp<T> for Sum<'_, T> {
    #[inline(always)]
    fn exponentials(&mut self, row: usize) -> Option<&mut [T]> {
        let start = row * self.of.classes;
        self.of.dz.as_deref_mut().map(|dz| &mut dz[start..])
    }

    #[inline(always)]
    fn long_row(&mut self, row: usize, max: T, sum: f64) {
        let Losses { loss, first, z, classes: n, target, ref mut dz, scale } = self.of;
        let start = row * n;
        let (z, dz) = (&z[start..], dz.as_deref_mut().map(|dz| &mut dz[start..]));
        let ln_sum = softmax::ln(sum);
        self.l += Row { loss, z, dz, n, max, sum, ln_sum, scale }.loss_to(target, first + row);
    }

    #[inline(always)]
    fn short_rows<S: Simd>(&mut self, group: ShortRows<'_, T>) {
        let Losses { loss, first, z, classes: n, target, ref mut dz, scale } = self.of;
        let (start, first) = (group.first * n, first + group.first);
        let (z, dz) = (&z[start..], dz.as_deref_mut().map(|dz| &mut dz[start..]));
        // Not `map`: of an array this long, it is a call of a function for the oldest processor.
        let mut ln_sum = *group.sum;
        ln_sum.iter_mut().for_each(|sum| *sum = softmax::ln(*sum));
        let rows = short::Group { loss, z, dz, n, group, ln_sum, scale };
        self.l += match target {
            Target::Classes(labels) if loss.label_smoothing == 0.0 => {
                rows.loss_to_labels::<S>(&labels[first..][..group.rows])
            }
            _ => rows.loss_row_by_row::<S>(target, first),
        };
    }
}
