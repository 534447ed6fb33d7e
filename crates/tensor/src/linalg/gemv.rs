//! Products with few rows: nothing is packed, and B is read in place.

use std::ops::Range;

use crate::linalg::microkernel::{write, write_elements};
use crate::linalg::product::{Initial, Product, first_of, range_by, unrolled};
use crate::scalar::Scalar;
use crate::simd::vector::{Halves, Oct, Quad, Quads, Register, Vector};
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
        // Of several blocks, eight rows of B are finished before the next eight: B comes row after row.
        let at_once = if k <= kc { n } else { 8 };
        for j in range_by(0, n, at_once) {
            for p in range_by(0, k, kc) {
                let (a, b, terms) = (&a[p..], &b[j * ldb + p..], kc.min(k - p));
                let initial = if p == 0 { initial } else { Initial::Beta(T::ONE) };
                let columns = j..n.min(j + at_once);
                match form.accumulators(terms) {
                    1 => {
                        for (i, c) in c.chunks_mut(ldc).enumerate() {
                            let (a, c) = (&a[i * lda..][..terms], &mut c[columns.clone()]);
                            short_row::<T, S>(a, b, ldb, initial, c);
                        }
                    }
                    4 => long_rows::<T, S, T::Quad<S>, 4>(a, b, strides, terms, initial, c, columns),
                    _ => long_rows::<T, S, T::Oct<S>, 8>(a, b, strides, terms, initial, c, columns),
                }
            }
        }
        if let Some(epilogue) = epilogue {
            epilogue.apply_to_rows(c, n, ldc);
        }
    }
}

/// Columns of C = A·Bᵀ with L accumulators for each element. Eight rows of B stay in the first-level cache
/// for all rows of A, then the next eight.
#[inline(always)]
fn long_rows<T: Scalar, S: Simd, G: Quads<T, T::Quad<S>>, const L: usize>(
    a: &[T],
    b: &[T],
    [lda, ldb, ldc]: [usize; 3],
    terms: usize,
    initial: Initial<'_, T>,
    c: &mut [T],
    columns: Range<usize>,
) {
    let (n, count) = (columns.end, c.len().div_ceil(ldc));
    let row_of_a = |i: usize| &a[i * lda..][..terms];
    for j in range_by(columns.start, n, 8) {
        // With fewer than eight rows left, the last one is computed again, and dropped.
        let (mut next, mut row) = (b[(j - columns.start) * ldb..].chunks(ldb), &b[..0]);
        let mut rows = [row; 8];
        for place in &mut rows {
            row = next.next().unwrap_or(row);
            *place = &row[..terms];
        }
        if count == 1 {
            let (c, [first, last]) = (&mut c[j..n.min(j + 8)], dots::<T, S, G, L>(row_of_a(0), rows));
            if let Some((c, after)) = c.split_at_mut_checked(4) {
                write(first, initial, c, j);
                write(last, initial, after, j + 4);
            } else {
                write(first, initial, c, j);
            }
            continue;
        }
        if L == 8 && 16 * size_of::<T>() <= S::BYTES {
            let (columns, mut i) = (j..n.min(j + 8), 0);
            while i < count {
                let c = c[i * ldc..].chunks_mut(ldc).map(|c| &mut c[columns.clone()]);
                let a: [&[T]; 4] = std::array::from_fn(|next| row_of_a((i + next).min(count - 1)));
                i += match count - i {
                    1 => write_pairs(wide::<T, S, 1>(a, rows), initial, c, j),
                    2 => write_pairs(wide::<T, S, 2>(a, rows), initial, c, j),
                    3 | 5 | 6 => write_pairs(wide::<T, S, 3>(a, rows), initial, c, j),
                    _ => write_pairs(wide::<T, S, 4>(a, rows), initial, c, j),
                };
            }
            continue;
        }
        for (j, rows) in range_by(j, n, 4).zip(rows.as_chunks::<4>().0) {
            let (columns, mut i) = (j..n.min(j + 4), 0);
            while i < count {
                let c = c[i * ldc..].chunks_mut(ldc).map(|c| &mut c[columns.clone()]);
                // With fewer than four rows left, the last one again: it is never read.
                let a: [&[T]; 4] = std::array::from_fn(|next| row_of_a((i + next).min(count - 1)));
                // Registers of 16 bytes are too few for more rows, and the program is smaller without them.
                i += if S::BYTES < 32 {
                    write_rows(block::<T, S, G, L, 1>(first_of(a), *rows), initial, c, j)
                } else if L == 4 && 8 * size_of::<T>() <= S::BYTES {
                    match count - i {
                        1 => write_rows(twins::<T, S, 1>(a, *rows), initial, c, j),
                        2 => write_rows(twins::<T, S, 2>(a, *rows), initial, c, j),
                        3 | 5 | 6 => write_rows(twins::<T, S, 3>(a, *rows), initial, c, j),
                        _ => write_rows(twins::<T, S, 4>(a, *rows), initial, c, j),
                    }
                } else {
                    let a = first_of(a);
                    match count - i {
                        1 => write_rows(block::<T, S, G, L, 1>(a, *rows), initial, c, j),
                        2 | 4 => write_rows(block::<T, S, G, L, 2>(a, *rows), initial, c, j),
                        _ => write_rows(block::<T, S, G, L, 3>(a, *rows), initial, c, j),
                    }
                };
            }
        }
    }
}

/// The dot products of the first R rows of `a` with four rows.
#[inline(always)]
fn block<T: Scalar, S: Simd, G: Quads<T, T::Quad<S>>, const L: usize, const R: usize>(
    a: [&[T]; 3],
    b @ [b0, b1, b2, b3]: [&[T]; 4],
) -> [T::Quad<S>; R] {
    let acc: [[G; 4]; R] = if G::REGISTERS == 1 {
        accumulate::<T, G, L, R, 4>(a, b)
    } else {
        let first = accumulate::<T, G, L, R, 2>(a, [b0, b1, b1, b1]);
        let last = accumulate::<T, G, L, R, 2>(a, [b2, b3, b3, b3]);
        let mut acc = [[G::splat(T::ZERO); 4]; R];
        for (acc, (first, last)) in acc.iter_mut().zip(first.iter().zip(&last)) {
            *acc = [first[0], first[1], last[0], last[1]];
        }
        acc
    };
    let mut sums = [T::Quad::<S>::splat(T::ZERO); R];
    unrolled!(r < R => {
        for q in 0..L / 4 {
            let acc = [acc[r][0].quad(q), acc[r][1].quad(q), acc[r][2].quad(q), acc[r][3].quad(q)];
            let [l0, l1, l2, l3] = T::Quad::<S>::transpose(acc);
            sums[r] = sums[r].plus(l0).plus(l1).plus(l2).plus(l3);
        }
    });
    sums
}

/// The first `count` groups of L elements of each row: of one length, so a loop over them checks no index.
#[inline(always)]
fn groups<T: Scalar, const L: usize, const N: usize>(rows: [&[T]; N], count: usize) -> [&[[T; L]]; N] {
    let mut groups: [&[[T; L]]; N] = [&[]; N];
    unrolled!(i < N => { groups[i] = &rows[i].as_chunks().0[..count]; });
    groups
}

/// The accumulators of the first R rows of `a` times the first C rows of `b`: up to twelve registers, for
/// seven loads or less.
#[inline(always)]
fn accumulate<T: Scalar, G: Vector<T>, const L: usize, const R: usize, const C: usize>(
    a: [&[T]; 3],
    b: [&[T]; 4],
) -> [[G; C]; R] {
    let (count, full) = (a[0].len() / L, a[0].len() / L * L);
    let (a, b): ([_; R], [_; C]) = (first_of(a), first_of(b));
    let (groups_of_a, groups_of_b) = (groups::<T, L, R>(a, count), groups::<T, L, C>(b, count));
    let mut acc = [[G::splat(T::ZERO); C]; R];
    for p in 0..count {
        let mut rows = [G::splat(T::ZERO); R];
        unrolled!(r < R => { rows[r] = G::load(&groups_of_a[r][p]); });
        // In this order three rows, twelve sums and a row of B fill the sixteen registers of AVX2.
        unrolled!(i < C => {
            let b = G::load(&groups_of_b[i][p]);
            unrolled!(r < R => { acc[r][i] = rows[r].mul_add(b, acc[r][i]); });
        });
    }
    if full < a[0].len() {
        // The accumulators without a term add zeros.
        let mut rows = [G::splat(T::ZERO); R];
        unrolled!(r < R => { rows[r] = G::load_part(&a[r][full..]); });
        unrolled!(i < C => {
            let b = G::load_part(&b[i][full..]);
            unrolled!(r < R => { acc[r][i] = rows[r].mul_add(b, acc[r][i]); });
        });
    }
    acc
}

/// The same with four accumulators, which are half a register: each has those of two rows of B.
#[inline(always)]
fn twins<T: Scalar, S: Simd, const R: usize>(a: [&[T]; 4], b: [&[T]; 4]) -> [T::Quad<S>; R] {
    let full = a[0].len() / 4 * 4;
    let a: [_; R] = first_of(a);
    let (quads_of_a, quads_of_b) = (groups::<T, 4, R>(a, full / 4), groups::<T, 4, 4>(b, full / 4));
    let mut acc = [[T::Oct::<S>::splat(T::ZERO); 2]; R];
    for p in 0..full / 4 {
        let [b0, b1, b2, b3] = quads_of_b.map(|quads| &quads[p]);
        let first = T::Oct::<S>::join(T::Quad::<S>::load(b0), T::Quad::<S>::load(b2));
        let last = T::Oct::<S>::join(T::Quad::<S>::load(b1), T::Quad::<S>::load(b3));
        unrolled!(r < R => {
            let a = T::Quad::<S>::load(&quads_of_a[r][p]);
            let a = T::Oct::<S>::join(a, a);
            acc[r] = [a.mul_add(first, acc[r][0]), a.mul_add(last, acc[r][1])];
        });
    }
    if full < a[0].len() {
        // The accumulators without a term add zeros.
        let b = b.map(|b| &b[full..]);
        let first = T::Oct::<S>::join(T::Quad::<S>::load_part(b[0]), T::Quad::<S>::load_part(b[2]));
        let last = T::Oct::<S>::join(T::Quad::<S>::load_part(b[1]), T::Quad::<S>::load_part(b[3]));
        unrolled!(r < R => {
            let a = T::Quad::<S>::load_part(&a[r][full..]);
            let a = T::Oct::<S>::join(a, a);
            acc[r] = [a.mul_add(first, acc[r][0]), a.mul_add(last, acc[r][1])];
        });
    }
    let mut sums = [T::Quad::<S>::splat(T::ZERO); R];
    unrolled!(r < R => {
        let [first, last] = acc[r];
        let [l0, l1, l2, l3] =
            T::Quad::<S>::transpose([first.quad(0), last.quad(0), first.quad(1), last.quad(1)]);
        sums[r] = sums[r].plus(l0).plus(l1).plus(l2).plus(l3);
    });
    sums
}

/// The dot products of the first R rows of `a` with eight rows. Each register has the eight accumulators of
/// two rows of B: sixteen registers of sums for twelve loads.
#[inline(always)]
fn wide<T: Scalar, S: Simd, const R: usize>(a: [&[T]; 4], b: [&[T]; 8]) -> [[T::Quad<S>; 2]; R] {
    let full = a[0].len() / 8 * 8;
    let a: [_; R] = first_of(a);
    let (octs_of_a, octs_of_b) = (groups::<T, 8, R>(a, full / 8), groups::<T, 8, 8>(b, full / 8));
    let mut acc = [[T::Hex::<S>::splat(T::ZERO); 4]; R];
    for p in 0..full / 8 {
        let mut pairs = [T::Hex::<S>::splat(T::ZERO); 4];
        unrolled!(i < 4 => {
            let (first, last) = (T::Oct::<S>::load(&octs_of_b[i][p]), T::Oct::<S>::load(&octs_of_b[i + 4][p]));
            pairs[i] = T::Hex::<S>::join(first, last);
        });
        unrolled!(r < R => {
            let a = T::Oct::<S>::load(&octs_of_a[r][p]);
            let a = T::Hex::<S>::join(a, a);
            unrolled!(i < 4 => { acc[r][i] = a.mul_add(pairs[i], acc[r][i]); });
        });
    }
    if full < a[0].len() {
        // The accumulators without a term add zeros.
        unrolled!(i < 4 => {
            let (first, last) = (T::Oct::<S>::load_part(&b[i][full..]), T::Oct::<S>::load_part(&b[i + 4][full..]));
            let pair = T::Hex::<S>::join(first, last);
            unrolled!(r < R => {
                let a = T::Oct::<S>::load_part(&a[r][full..]);
                acc[r][i] = T::Hex::<S>::join(a, a).mul_add(pair, acc[r][i]);
            });
        });
    }
    let mut sums = [[T::Quad::<S>::splat(T::ZERO); 2]; R];
    unrolled!(r < R => {
        let [p0, p1, p2, p3] = acc[r];
        let ([b0, b4], [b1, b5], [b2, b6], [b3, b7]) = (p0.halves(), p1.halves(), p2.halves(), p3.halves());
        for q in 0..2 {
            let [l0, l1, l2, l3] = T::Quad::<S>::transpose([b0.quad(q), b1.quad(q), b2.quad(q), b3.quad(q)]);
            sums[r][0] = sums[r][0].plus(l0).plus(l1).plus(l2).plus(l3);
            let [l0, l1, l2, l3] = T::Quad::<S>::transpose([b4.quad(q), b5.quad(q), b6.quad(q), b7.quad(q)]);
            sums[r][1] = sums[r][1].plus(l0).plus(l1).plus(l2).plus(l3);
        }
    });
    sums
}

/// c = sum + initial for up to eight columns of the first R rows of C, from column j on. Returns R.
#[inline(always)]
fn write_pairs<'c, T: Scalar, Q: Register<T>, const R: usize>(
    sums: [[Q; 2]; R],
    initial: Initial<'_, T>,
    rows: impl Iterator<Item = &'c mut [T]>,
    j: usize,
) -> usize {
    for ([first, last], c) in sums.into_iter().zip(rows) {
        let (c, after) = c.split_at_mut(c.len().min(4));
        write(first, initial, c, j);
        if !after.is_empty() {
            write(last, initial, after, j + 4);
        }
    }
    R
}

/// c = sum + initial for the first R rows of C, from column j on. Returns R.
#[inline(always)]
fn write_rows<'c, T: Scalar, Q: Register<T>, const R: usize>(
    sums: [Q; R],
    initial: Initial<'_, T>,
    rows: impl Iterator<Item = &'c mut [T]>,
    j: usize,
) -> usize {
    for (sum, c) in sums.into_iter().zip(rows) {
        write(sum, initial, c, j);
    }
    R
}

/// The dot products of `a` with eight rows at once, which hides the latency of the additions.
#[inline(always)]
fn dots<T: Scalar, S: Simd, G: Quads<T, T::Quad<S>>, const L: usize>(
    a: &[T],
    b: [&[T]; 8],
) -> [T::Quad<S>; 2] {
    let (count, full) = (a.len() / L, a.len() / L * L);
    let ([groups_of_a], groups_of_b) = (groups::<T, L, 1>([a], count), groups::<T, L, 8>(b, count));
    let mut acc = [G::splat(T::ZERO); 8];
    for p in 0..count {
        let a = G::load(&groups_of_a[p]);
        unrolled!(i < 8 => { acc[i] = a.mul_add(G::load(&groups_of_b[i][p]), acc[i]); });
    }
    if full < a.len() {
        // The accumulators without a term add zeros.
        let a = G::load_part(&a[full..]);
        unrolled!(i < 8 => { acc[i] = a.mul_add(G::load_part(&b[i][full..]), acc[i]); });
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
