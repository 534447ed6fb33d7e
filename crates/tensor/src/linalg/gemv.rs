//! Products with few rows: nothing is packed, and B is read in place.

use crate::linalg::microkernel::{write, write_elements};
use crate::linalg::product::{Initial, Product, range_by, unrolled};
use crate::scalar::Scalar;
use crate::simd::vector::{Quad, Quads, Register, Vector};
use crate::simd::{Kernel, Simd};

/// C = A·Bᵀ with few rows.
pub(super) struct Gemv<'a, 'b, T>(pub(super) &'a mut Product<'b, T>);

impl<T: Scalar> Kernel for Gemv<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let &mut Product { form, sizes, strides, first, a, b, initial, epilogue, ref mut c, .. } = self.0;
        let [_, n, k] = sizes;
        let [lda, ldb, ldc] = strides;
        let (a, kc) = (&a[first * lda..], form.block());
        for p in range_by(0, k, kc) {
            let (a, b, terms) = (&a[p..], &b[p..], kc.min(k - p));
            let initial = if p == 0 { initial } else { Initial::Beta(T::ONE) };
            match form.accumulators(terms) {
                1 => {
                    for (i, c) in c.chunks_mut(ldc).enumerate() {
                        short_row::<T, S>(&a[i * lda..][..terms], b, ldb, initial, &mut c[..n]);
                    }
                }
                4 => long_rows::<T, S, T::Quad<S>, 4>(a, b, strides, terms, initial, c, n),
                _ => long_rows::<T, S, T::Oct<S>, 8>(a, b, strides, terms, initial, c, n),
            }
        }
        if let Some(epilogue) = epilogue {
            epilogue.apply_to_rows(c, n, ldc);
        }
    }
}

/// Rows of C = A·Bᵀ with L accumulators for each element. Eight rows of B stay in the first-level cache for
/// all rows of A, then the next eight.
#[inline(always)]
fn long_rows<T: Scalar, S: Simd, G: Quads<T, T::Quad<S>>, const L: usize>(
    a: &[T],
    b: &[T],
    [lda, ldb, ldc]: [usize; 3],
    terms: usize,
    initial: Initial<'_, T>,
    c: &mut [T],
    n: usize,
) {
    for j in range_by(0, n, 8) {
        // With fewer than eight rows left, the last one is computed again, and dropped.
        let (mut next, mut row) = (b[j * ldb..].chunks(ldb), &b[..0]);
        let mut rows = [row; 8];
        for place in &mut rows {
            row = next.next().unwrap_or(row);
            *place = &row[..terms];
        }
        for (i, c) in c.chunks_mut(ldc).enumerate() {
            let c = &mut c[j..n.min(j + 8)];
            let [first, last] = dots::<T, S, G, L>(&a[i * lda..][..terms], rows);
            if let Some((c, after)) = c.split_at_mut_checked(4) {
                write(first, initial, c, j);
                write(last, initial, after, j + 4);
            } else {
                write(first, initial, c, j);
            }
        }
    }
}

/// The dot products of `a` with eight rows at once, which hides the latency of the additions.
#[inline(always)]
fn dots<'x, T: Scalar, S: Simd, G: Quads<T, T::Quad<S>>, const L: usize>(
    a: &'x [T],
    b: [&'x [T]; 8],
) -> [T::Quad<S>; 2] {
    const EIGHT: usize = 8;
    let full = a.len() / L * L;
    let groups = |x: &'x [T]| x.as_chunks::<L>().0.iter();
    let [b0, b1, b2, b3, b4, b5, b6, b7] = b.map(groups);
    let pairs = b0.zip(b1).zip(b2.zip(b3)).zip(b4.zip(b5).zip(b6.zip(b7)));
    let mut acc = [G::splat(T::ZERO); 8];
    for (a, (((b0, b1), (b2, b3)), ((b4, b5), (b6, b7)))) in groups(a).zip(pairs) {
        let (a, b) = (G::load(a), [b0, b1, b2, b3, b4, b5, b6, b7]);
        unrolled!(i < EIGHT => { acc[i] = a.mul_add(G::load(b[i]), acc[i]); });
    }
    if full < a.len() {
        // The accumulators without a term add zeros.
        let a = G::load_part(&a[full..]);
        unrolled!(i < EIGHT => { acc[i] = a.mul_add(G::load_part(&b[i][full..]), acc[i]); });
    }
    let zero = T::Quad::<S>::splat(T::ZERO);
    let (mut first, mut last) = (zero, zero);
    for q in 0..L / 4 {
        let [l0, l1, l2, l3] =
            T::Quad::<S>::transpose([acc[0].quad(q), acc[1].quad(q), acc[2].quad(q), acc[3].quad(q)]);
        first = first.plus(l0).plus(l1).plus(l2).plus(l3);
        let [l0, l1, l2, l3] =
            T::Quad::<S>::transpose([acc[4].quad(q), acc[5].quad(q), acc[6].quad(q), acc[7].quad(q)]);
        last = last.plus(l0).plus(l1).plus(l2).plus(l3);
    }
    [first, last]
}

/// One row of C = A·Bᵀ with one accumulator for each element. The rows of B are `k` elements apart.
#[inline(always)]
fn short_row<T: Scalar, S: Simd>(a: &[T], b: &[T], k: usize, initial: Initial<'_, T>, c: &mut [T]) {
    let (mut j, n) = (0, c.len());
    while j < n {
        let left = n - j;
        // With fewer rows left than a group has, some before them are computed again, and dropped.
        let again = |rows: usize| rows.saturating_sub(left);
        let from = |rows: usize| &b[(j - again(rows)) * k..];
        let (sums, rows) = if n >= 16 && left > 8 {
            (short_dots::<T, S, 4>(a, from(16), k), 16)
        } else if n >= 8 && left > 4 {
            (short_dots::<T, S, 2>(a, from(8), k), 8)
        } else if n >= 4 {
            (short_dots::<T, S, 1>(a, from(4), k), 4)
        } else {
            (dot::<T, S>(a, from(1)), 1)
        };
        let count = rows - again(rows);
        write_elements::<T, S>(&sums[again(rows)..], initial, &mut c[j..][..count], j);
        j += count;
    }
}

/// The dot products of `a` with 4 G ≤ 16 rows of length `k`, in one sum each: the terms of four rows become
/// one register each.
#[inline(always)]
fn short_dots<T: Scalar, S: Simd, const G: usize>(a: &[T], b: &[T], k: usize) -> [T; 16] {
    let (quads, rest) = a.as_chunks::<4>();
    // The last element that is read below: with this check all reads are within bounds.
    let _ = b[(4 * G - 1) * k + a.len() - 1];
    let mut acc = [T::Quad::<S>::splat(T::ZERO); G];
    for (p, a) in quads.iter().enumerate() {
        let (a0, a1) = (T::Quad::<S>::splat(a[0]), T::Quad::<S>::splat(a[1]));
        let (a2, a3) = (T::Quad::<S>::splat(a[2]), T::Quad::<S>::splat(a[3]));
        unrolled!(g < G => {
            let at = 4 * g * k + 4 * p;
            // SAFETY: 4 g + 3 is at most 4 G − 1, and 4 p + 4 at most `a.len()`, so no slice ends behind the
            // element that the check above has read. Price of slices with checks: there are too few registers
            // for their bounds, and `cargo bench --bench tensor -- matmul/forward_nt/1x64x32` takes 1.3 times
            // as long.
            #[expect(unsafe_code, reason = "the compiler doesn't see what the check above says")]
            let [b0, b1, b2, b3] = unsafe {
                [
                    b.get_unchecked(at..at + 4),
                    b.get_unchecked(at + k..at + k + 4),
                    b.get_unchecked(at + 2 * k..at + 2 * k + 4),
                    b.get_unchecked(at + 3 * k..at + 3 * k + 4),
                ]
            };
            let columns = T::Quad::<S>::transpose([
                T::Quad::<S>::load(b0),
                T::Quad::<S>::load(b1),
                T::Quad::<S>::load(b2),
                T::Quad::<S>::load(b3),
            ]);
            acc[g] = a0.mul_add(columns[0], acc[g]);
            acc[g] = a1.mul_add(columns[1], acc[g]);
            acc[g] = a2.mul_add(columns[2], acc[g]);
            acc[g] = a3.mul_add(columns[3], acc[g]);
        });
    }
    let mut sums = [T::ZERO; 16];
    unrolled!(g < G => { acc[g].store(&mut sums[4 * g..]); });
    let first = a.len() - rest.len();
    for (p, &a) in rest.iter().enumerate() {
        for (row, sum) in sums[..4 * G].iter_mut().enumerate() {
            *sum = S::mul_add(a, b[row * k + first + p], *sum);
        }
    }
    for sum in &mut sums[..4 * G] {
        // All kernels begin their sums at 0, so −0 becomes 0.
        *sum = T::ZERO + *sum;
    }
    sums
}

/// The dot product with one row, in the first element.
#[inline(always)]
fn dot<T: Scalar, S: Simd>(a: &[T], b: &[T]) -> [T; 16] {
    let mut sums = [T::ZERO; 16];
    for (&a, &b) in a.iter().zip(b) {
        sums[0] = S::mul_add(a, b, sums[0]);
    }
    sums[0] = T::ZERO + sums[0];
    sums
}

/// One row of C = A·B: the rows of B, each times an element of A. Many columns at once hide the latency of
/// the additions.
#[inline(always)]
pub(super) fn gevm<T: Scalar, S: Simd>(a: &[T], b: &[T], ldb: usize, initial: Initial<'_, T>, c: &mut [T]) {
    let (n, len, mut j) = (c.len(), T::Register::<S>::LEN, 0);
    while j < n {
        let left = n - j;
        let registers = if left >= 8 * len {
            gevm_columns::<T, S, 8>(a, b, ldb, initial, c, j);
            8
        } else if left > len {
            gevm_columns::<T, S, 2>(a, b, ldb, initial, c, j);
            2
        } else {
            gevm_columns::<T, S, 1>(a, b, ldb, initial, c, j);
            1
        };
        j += registers * len;
    }
}

/// The V registers of columns from j on.
#[inline(always)]
fn gevm_columns<T: Scalar, S: Simd, const V: usize>(
    a: &[T],
    b: &[T],
    ldb: usize,
    initial: Initial<'_, T>,
    c: &mut [T],
    j: usize,
) {
    let (n, len) = (c.len(), T::Register::<S>::LEN);
    let zero = T::Register::<S>::splat(T::ZERO);
    let mut acc = [zero; V];
    for (p, &a) in a.iter().enumerate() {
        acc = add_row::<T, S, V>(a, &b[p * ldb + j..], n - j, acc);
    }
    // All kernels begin their sums at 0, so −0 becomes 0.
    unrolled!(v < V => { acc[v] = zero.plus(acc[v]); });
    let mut places = c[j..].chunks_mut(len);
    unrolled!(v < V => {
        if let Some(c) = places.next() { write(acc[v], initial, c, j + v * len); }
    });
}

/// acc + a b for the first V registers of b, of which only `width` elements matter.
#[inline(always)]
fn add_row<T: Scalar, S: Simd, const V: usize>(
    a: T,
    b: &[T],
    width: usize,
    mut acc: [T::Register<S>; V],
) -> [T::Register<S>; V] {
    let (len, a) = (T::Register::<S>::LEN, T::Register::<S>::splat(a));
    // Elements behind the row are read as well, and never stored.
    let b = if b.len() < V * len { &b[..width.min(V * len)] } else { b };
    unrolled!(v < V => { acc[v] = a.mul_add(T::Register::<S>::load_at_most(&b[(v * len).min(b.len())..]), acc[v]); });
    acc
}
