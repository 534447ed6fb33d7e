//! The product of a column and a row.

use crate::linalg::product::Initial;
use crate::scalar::Scalar;
use crate::simd::Simd;

/// Sums of one term: a row of C = a bᵀ + initial.
#[inline(always)]
pub(super) fn ger<T: Scalar, S: Simd>(a: T, b: &[T], initial: Initial<'_, T>, c: &mut [T]) {
    // All kernels begin their sums at 0, so −0 becomes 0.
    match initial {
        Initial::Zero => {
            for (c, &b) in c.iter_mut().zip(b) {
                *c = T::ZERO + S::mul_add(a, b, T::ZERO);
            }
        }
        Initial::Bias(row) => {
            for ((c, &b), &initial) in c.iter_mut().zip(b).zip(row) {
                *c = T::ZERO + S::mul_add(a, b, T::ZERO) + initial;
            }
        }
        Initial::Beta(beta) => {
            for (c, &b) in c.iter_mut().zip(b) {
                *c = S::mul_add(beta, *c, T::ZERO + S::mul_add(a, b, T::ZERO));
            }
        }
    }
}
