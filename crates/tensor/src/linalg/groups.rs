//! Sums of so many terms that a running sum would lose them: the terms of a long product, and of many
//! products.
//!
//! A sum is made of **groups** of at most eight blocks ([`GROUP`](crate::linalg::product::GROUP)). Within a
//! group, blocks are added in the element's type. Groups are added in twice its precision: C has the sum, and
//! a second matrix the rest of it. So a product of f32 is off by at most (terms of a block / 2 + 4) ε
//! Σ|a b| with ε = 2⁻²³, however many terms it has: ε/2 for each term of a block, for each further block of a
//! group, and for the last rounding.

use crate::kernels::twofold;
use crate::linalg::product::rows_mut;
use crate::scalar::Scalar;
use crate::simd::kernel;

kernel!(
    /// (c, low) ← (c, low) + part, where c + low is a sum in twice the precision. The rows of c begin
    /// `stride` elements apart, and the others have no gaps.
    pub(super) fn add_group<T: Scalar>(
        c: &mut [T],
        stride: usize,
        low: &mut [T],
        part: &[T],
        columns: usize,
    ) {
        let rows = low.chunks_exact_mut(columns).zip(part.chunks_exact(columns));
        for (c, (low, part)) in rows_mut(c, columns, stride).zip(rows) {
            for ((c, low), &part) in c.iter_mut().zip(low).zip(part) {
                twofold::add(c, low, part);
            }
        }
    }
);
