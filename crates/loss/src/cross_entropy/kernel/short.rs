//! Rows of at most sixteen logits, up to 32 at once.

use backrule_tensor::Scalar;
use backrule_tensor::kernels::row::{self, CHUNK, GROUP};
use backrule_tensor::kernels::softmax::ShortRows;
use backrule_tensor::simd::Simd;

use super::row::Row;
use crate::cross_entropy::settings::CrossEntropy;
use crate::target::Target;

/// Rows of `n` logits. `z` and `dz` begin with them.
pub(super) struct Group<'a, T> {
    pub(super) loss: &'a CrossEntropy,
    pub(super) z: &'a [T],
    pub(super) dz: Option<&'a mut [T]>,
    pub(super) n: usize,
    pub(super) group: ShortRows<'a, T>,
    pub(super) ln_sum: [f64; GROUP],
    pub(super) scale: f64,
}

impl<T: Scalar> Group<'_, T> {
    /// Σ l of all rows, without label smoothing: l = −w_y ln p_y.
    #[inline(always)]
    pub(super) fn loss_to_labels<S: Simd>(self, labels: &[usize]) -> f64 {
        let Self { loss, z, dz, n, group, ln_sum, scale } = self;
        let (mut l, mut weights, mut factor) = (0.0, [0.0; GROUP], [T::ONE; GROUP]);
        for (i, &y) in labels.iter().enumerate() {
            if loss.ignore_index != Some(y) {
                weights[i] = loss.weight(y);
                l += weights[i] * (ln_sum[i] - (z[i * n + y] - group.max[i]).to_f64());
            }
        }
        let Some(dz) = dz else { return l };
        for i in 0..GROUP {
            factor[i] = T::from_f64(scale * weights[i] / group.sum[i]);
        }
        row::transpose_back::<T, S>(group.e, &factor, n, group.rows, dz);
        for ((dz, &y), weight) in dz.chunks_exact_mut(n).zip(labels).zip(weights) {
            if loss.ignore_index == Some(y) {
                dz.fill(T::ZERO);
            } else {
                dz[y] -= T::from_f64(scale * weight);
            }
        }
        l
    }

    /// Σ l of all rows, of which the first is row `first` of the batch.
    #[inline(always)]
    pub(super) fn loss_row_by_row<S: Simd>(mut self, target: Target<'_, T>, first: usize) -> f64 {
        let Self { loss, z, n, group, ln_sum, scale, .. } = self;
        let mut e = [T::ZERO; GROUP * CHUNK];
        if self.dz.is_some() {
            row::transpose_back::<T, S>(group.e, &[T::ONE; GROUP], n, group.rows, &mut e);
        }
        let mut l = 0.0;
        for i in 0..group.rows {
            let (start, max, sum, ln_sum) = (i * n, group.max[i], group.sum[i], ln_sum[i]);
            let (z, mut dz) = (&z[start..], self.dz.as_deref_mut().map(|dz| &mut dz[start..]));
            if let Some(dz) = &mut dz {
                // The row before this one has spilled into it.
                row::store(row::read(&e[start..], T::ZERO), dz);
            }
            l += Row { loss, z, dz, n, max, sum, ln_sum, scale }.loss_to(target, first + i);
        }
        l
    }
}
