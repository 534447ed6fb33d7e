//! Rows in chunks of sixteen elements: the parts of row-wise [kernels](crate::simd::Kernel).
//!
//! Sixteen f32 are one AVX-512 register, or a few smaller ones. A loop over arrays of sixteen becomes vector
//! instructions for rows of any length, because the last chunk is as long as the others: padding replaces
//! the elements past the row's end. So each sum has one order, whatever surrounds the row.
//!
//! A function here takes the rest of the buffer and the row's remaining length, because it may read past the
//! row's end.
//!
//! ```
//! use backrule_tensor::kernels::row::{self, CHUNK};
//!
//! let rows: Vec<f32> = (0..40).map(|i| i as f32).collect();
//! let mut sums = [0.0; CHUNK];
//! for (at, left) in row::chunks(20) {
//!     let x = row::load(&rows[20 + at..], left, 0.0);
//!     for (sum, x) in sums.iter_mut().zip(x) {
//!         *sum += x;
//!     }
//! }
//! assert_eq!(row::sum(sums), (20..40).sum::<i32>() as f32);
//! ```

use crate::scalar::Scalar;
use crate::simd::Simd;
use crate::simd::vector::{Quad, Register, Vector};

/// How many elements a chunk has.
pub const CHUNK: usize = 16;

/// The positions at which the chunks of a row of `n` elements begin, each with how many elements are left
/// from there.
#[inline(always)]
pub fn chunks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n.div_ceil(CHUNK)).map(move |i| (i * CHUNK, n - i * CHUNK))
}

/// How many whole rows of `columns` elements a buffer of `len` elements has, where one begins `stride`
/// elements after the one before it. None if they would overlap or have no elements.
#[inline(always)]
pub fn count(len: usize, columns: usize, stride: usize) -> usize {
    match len.checked_sub(columns) {
        Some(rest) if 0 < columns && columns <= stride => rest / stride + 1,
        _ => 0,
    }
}

/// The first sixteen elements of `x`, whatever row they belong to; `pad` past the end of `x`.
#[inline(always)]
pub fn read<T: Scalar>(x: &[T], pad: T) -> [T; CHUNK] {
    let mut end = [pad; CHUNK];
    *match x.first_chunk() {
        Some(x) => x,
        None => {
            copy(x, &mut end);
            &end
        }
    }
}

/// A chunk of ones, then a chunk of zeros.
static KEEP: [u32; 2 * CHUNK] = {
    let mut keep = [1; 2 * CHUNK];
    let mut j = CHUNK;
    while j < 2 * CHUNK {
        keep[j] = 0;
        j += 1;
    }
    keep
};

/// The first sixteen elements of `x`; `pad` from position `left` or the end of `x` on.
#[inline(always)]
pub fn load<T: Scalar>(x: &[T], left: usize, pad: T) -> [T; CHUNK] {
    let mut chunk = read(x, pad);
    // Selected by numbers in memory: comparing `left` with each j becomes sixteen branches.
    if let Some(keep) = (CHUNK.checked_sub(left)).and_then(|cut| KEEP[cut..].first_chunk::<CHUNK>()) {
        for (x, keep) in chunk.iter_mut().zip(keep) {
            *x = if *keep == 1 { *x } else { pad };
        }
    }
    chunk
}

/// Writes the first sixteen elements of `y`, or all of them if there are fewer. The end of the chunk may
/// spill past the row's end, so rows are computed in order: each overwrites the spill of the one before.
#[inline(always)]
pub fn store<T: Scalar>(chunk: [T; CHUNK], y: &mut [T]) {
    match y.first_chunk_mut() {
        Some(y) => *y = chunk,
        None => {
            // A copy, so the chunk itself needs no address.
            let end = chunk;
            copy(&end, y);
        }
    }
}

/// Once in a buffer: the end of its last row.
#[cold]
#[inline(never)]
fn copy<T: Scalar>(from: &[T], to: &mut [T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from;
    }
}

/// Each element in f64. Not `map`, here and wherever an array is long: of more than eight elements the
/// compiler leaves that as a call, of a function for the oldest processor.
#[inline(always)]
pub fn to_f64<T: Scalar, const N: usize>(x: [T; N]) -> [f64; N] {
    let mut y = [0.0; N];
    y.iter_mut().zip(x).for_each(|(y, x)| *y = x.to_f64());
    y
}

/// Each element as the nearest one of its type.
#[inline(always)]
pub fn from_f64<T: Scalar, const N: usize>(x: [f64; N]) -> [T; N] {
    let mut y = [T::ZERO; N];
    y.iter_mut().zip(x).for_each(|(y, x)| *y = T::from_f64(x));
    y
}

/// The sum of a chunk, in a fixed order: the second half is added to the first, until one element is left.
// Not inlined: this tree would make the compiler add up the chunks before it in vectors of two elements. A
// cross-entropy of 1000 classes takes 1.6 times as long then.
#[inline(never)]
pub fn sum<T: Scalar>(mut chunk: [T; CHUNK]) -> T {
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            let b = chunk[j + half];
            chunk[j] += b;
        }
    }
    chunk[0]
}

/// The largest of a row's `n` elements, NaN aside: NaN spreads through the sums that follow. −∞ if there are
/// none.
#[inline(always)]
pub fn max<T: Scalar>(x: &[T], n: usize) -> T {
    let x = &x[..n.min(x.len())];
    // The last chunk may overlap the one before it: an element that counts twice changes no maximum.
    match x.len() {
        0 => T::NEG_INFINITY,
        1 => fold_max(ends::<T, 1>(x)),
        2..4 => fold_max(ends::<T, 2>(x)),
        4..8 => fold_max(ends::<T, 4>(x)),
        8..CHUNK => fold_max(ends::<T, 8>(x)),
        _ => {
            // Four accumulators: one chain of comparisons would take longer than the loads.
            let mut wide =
                [ends(x), [T::NEG_INFINITY; CHUNK], [T::NEG_INFINITY; CHUNK], [T::NEG_INFINITY; CHUNK]];
            let (chunks, _) = x.as_chunks::<CHUNK>();
            let (blocks, chunks) = chunks.as_chunks::<4>();
            for block in blocks {
                for (max, chunk) in wide.iter_mut().zip(block) {
                    *max = larger(*max, *chunk);
                }
            }
            for (max, chunk) in wide.iter_mut().zip(chunks) {
                *max = larger(*max, *chunk);
            }
            fold_max(larger(larger(wide[0], wide[1]), larger(wide[2], wide[3])))
        }
    }
}

/// The larger ones of the first and the last N elements.
#[inline(always)]
fn ends<T: Scalar, const N: usize>(x: &[T]) -> [T; N] {
    let none = [T::NEG_INFINITY; N];
    let first = larger(none, x.first_chunk().copied().unwrap_or(none));
    larger(first, x.last_chunk().copied().unwrap_or(none))
}

#[inline(always)]
fn fold_max<T: Scalar, const N: usize>(chunk: [T; N]) -> T {
    let mut max = chunk;
    let mut half = N / 2;
    while half > 0 {
        for j in 0..half {
            max[j] = if max[j + half] > max[j] { max[j + half] } else { max[j] };
        }
        half /= 2;
    }
    max[0]
}

/// How many short rows [`transpose`] takes at once.
pub const GROUP: usize = 32;

/// Short rows, transposed: `transposed[j][i]` is element j of row i. An operation on element j of all rows
/// fills whole registers then, and none of it is spent past a row's end.
pub type Transposed<T> = [[T; GROUP]; CHUNK];

/// Transposes the first `rows` ≤ [`GROUP`] rows of `n` ≤ [`CHUNK`] elements of `x`. Columns i ≥ `rows` get
/// any numbers.
#[inline(always)]
pub fn transpose<T: Scalar, S: Simd>(x: &[T], n: usize, rows: usize, transposed: &mut Transposed<T>) {
    for i in (0..rows).step_by(4) {
        // Where fewer than four are left, the last one is read again.
        let last = rows - 1;
        let (a, b) = (&x[i * n..], &x[(i + 1).min(last) * n..]);
        let (c, d) = (&x[(i + 2).min(last) * n..], &x[(i + 3).min(last) * n..]);
        for j in (0..n).step_by(4) {
            let [a, b, c, d] = T::Quad::<S>::transpose([
                T::Quad::<S>::load_at_most(&a[j..]),
                T::Quad::<S>::load_at_most(&b[j..]),
                T::Quad::<S>::load_at_most(&c[j..]),
                T::Quad::<S>::load_at_most(&d[j..]),
            ]);
            a.store(&mut transposed[j][i..]);
            b.store(&mut transposed[j + 1][i..]);
            c.store(&mut transposed[j + 2][i..]);
            d.store(&mut transposed[j + 3][i..]);
        }
    }
}

/// Writes `rows` rows of `n` elements one after the other into `y`, each times its `factor`. As [`store`], it
/// may spill past the end of the last one.
#[inline(always)]
pub fn transpose_back<T: Scalar, S: Simd>(
    transposed: &Transposed<T>,
    factor: &[T; GROUP],
    n: usize,
    rows: usize,
    y: &mut [T],
) {
    for i in (0..rows).step_by(4) {
        let factor = T::Quad::<S>::load(&factor[i..]);
        let mut quads = [[factor; 4]; CHUNK / 4];
        for (quads, j) in quads.iter_mut().zip((0..n).step_by(4)) {
            *quads = T::Quad::<S>::transpose([
                T::Quad::<S>::load(&transposed[j][i..]).times(factor),
                T::Quad::<S>::load(&transposed[j + 1][i..]).times(factor),
                T::Quad::<S>::load(&transposed[j + 2][i..]).times(factor),
                T::Quad::<S>::load(&transposed[j + 3][i..]).times(factor),
            ]);
        }
        for k in 0..4.min(rows - i) {
            let y = &mut y[(i + k) * n..];
            for (quads, j) in quads.iter().zip((0..n).step_by(4)) {
                let y = &mut y[j..];
                if y.len() >= 4 { quads[k].store(y) } else { quads[k].store_part(y) }
            }
        }
    }
}

/// The largest element of each row, as by [`max`], from all its elements: `x[j][i]` is element j of row i.
#[inline(always)]
pub fn max_each<T: Scalar>(x: &[[T; GROUP]]) -> [T; GROUP] {
    let mut max = [T::NEG_INFINITY; GROUP];
    for x in x {
        for i in 0..GROUP {
            max[i] = if x[i] > max[i] { x[i] } else { max[i] };
        }
    }
    max
}

#[inline(always)]
fn larger<T: Scalar, const N: usize>(mut a: [T; N], b: [T; N]) -> [T; N] {
    for (a, b) in a.iter_mut().zip(b) {
        *a = if b > *a { b } else { *a };
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, run_at};

    #[test]
    fn every_element_of_a_row_counts_once_and_nothing_around_it() {
        let x: Vec<f64> = (0..400).map(f64::from).collect();
        for n in [0, 1, 10, 15, 16, 17, 63, 64, 65, 100, 130] {
            // In the middle of the data, and at its end, where whole chunks can't be read.
            for x in [&x[100..], &x[400 - n..]] {
                let (mut sums, mut y) = ([0.0; CHUNK], vec![-1.0; x.len()]);
                for (at, left) in chunks(n) {
                    let chunk = load(&x[at..], left, 0.0);
                    (0..CHUNK).for_each(|j| sums[j] += chunk[j]);
                    store(chunk, &mut y[at..]);
                }
                assert_eq!(sum(sums), x[..n].iter().sum(), "{n}");
                assert_eq!(y[..n], x[..n], "{n}");
                // Elements stored behind the row stay within its chunk.
                assert!(y.iter().skip(n.next_multiple_of(CHUNK)).all(|&y| y == -1.0), "{n}");
                let expected = if n == 0 { f64::NEG_INFINITY } else { x[n - 1] };
                assert_eq!(max(x, n), expected, "{n}");
            }
        }
    }

    #[test]
    fn the_largest_may_be_anywhere_and_is_never_nan() {
        for n in [1, 2, 3, 5, 7, 8, 11, 16, 31, 64, 100] {
            for at in 0..n {
                let mut x = [9.0_f32; 101];
                x[..n].fill(-1.0);
                x[(at + 1) % n] = f32::NAN;
                x[at] = 2.0;
                assert_eq!(max(&x, n), 2.0, "{at} of {n}");
            }
        }
        assert_eq!(max(&[f32::NAN; 3], 3), f32::NEG_INFINITY);
    }

    /// On every instruction set: the transposition is written in registers.
    #[test]
    fn short_rows_are_transposed_and_transposed_back() {
        struct Round<'a>(&'a [f32], usize, &'a mut [f32], &'a mut Transposed<f32>);
        impl Kernel for Round<'_> {
            type Output = usize;
            #[inline(always)]
            fn run<S: Simd>(self) -> usize {
                let Self(x, n, y, transposed) = self;
                let rows = count(x.len(), n, n).min(GROUP);
                transpose::<f32, S>(x, n, rows, transposed);
                let factor = std::array::from_fn(|i| 1.0 + i as f32);
                transpose_back::<f32, S>(transposed, &factor, n, rows, y);
                rows
            }
        }

        let x: Vec<f32> = (1..=40 * 16).map(|i| i as f32).collect();
        for level in ["baseline", "avx2", "avx512"] {
            for n in 1..=CHUNK {
                for rows in [0, 1, 3, 4, 31, 32, 33] {
                    let (mut y, mut transposed) = (vec![-1.0; rows * n], [[0.0; GROUP]; CHUNK]);
                    let x = &x[..rows * n];
                    let Some(taken) = run_at(level, Round(x, n, &mut y, &mut transposed)) else { continue };
                    assert_eq!(taken, rows.min(GROUP));
                    for (i, row) in x.chunks_exact(n).take(taken).enumerate() {
                        assert!(row.iter().zip(&transposed).all(|(x, column)| column[i] == *x));
                        let times = row.iter().map(|x| (1.0 + i as f32) * x);
                        assert!(y[i * n..][..n].iter().copied().eq(times), "{level}, {i} of {rows}, {n}");
                    }
                    assert!(y[taken * n..].iter().skip(3).all(|&y| y == -1.0));
                }
            }
        }
    }
}
