//! Rows in chunks of sixteen elements: what row-wise [kernels](crate::simd::Kernel) are made of.
//!
//! An array of sixteen is one AVX-512 register, or a few smaller ones. A loop over such arrays becomes vector instructions
//! for rows of any length, because the last chunk of a row is as long as the others: what lies past the end of the row is
//! replaced when it is read. So each sum has one order, whatever surrounds the row.
//!
//! Rows lie one after the other, and so the functions here take what is left of the data from some element on, and how
//! much of that belongs to the row.
//!
//! ```
//! use backrule_tensor::lanes::{self, LANES};
//!
//! let rows: Vec<f32> = (0..40).map(|i| i as f32).collect();
//! let mut sums = [0.0; LANES];
//! for (at, left) in lanes::chunks(20) {
//!     let x = lanes::load(&rows[20 + at..], left, 0.0);
//!     for (sum, x) in sums.iter_mut().zip(x) {
//!         *sum += x;
//!     }
//! }
//! assert_eq!(lanes::sum(sums), (20..40).sum::<i32>() as f32);
//! ```

use crate::Scalar;

/// How many elements a chunk has.
pub const LANES: usize = 16;

/// The positions at which the chunks of a row of `n` elements begin, each with how many elements are left from there.
#[inline(always)]
pub fn chunks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n.div_ceil(LANES)).map(move |i| (i * LANES, n - i * LANES))
}

/// The first sixteen elements of `x`, whatever row they belong to; `pad` past the end of `x`.
#[inline(always)]
pub fn read<T: Scalar>(x: &[T], pad: T) -> [T; LANES] {
    let mut end = [pad; LANES];
    *match x.first_chunk() {
        Some(x) => x,
        None => {
            copy(x, &mut end);
            &end
        }
    }
}

/// As many ones as lanes, and as many zeros.
static KEEP: [u32; 2 * LANES] = {
    let mut keep = [1; 2 * LANES];
    let mut j = LANES;
    while j < 2 * LANES {
        keep[j] = 0;
        j += 1;
    }
    keep
};

/// The first sixteen elements of `x`; `pad` from position `left` or the end of `x` on.
#[inline(always)]
pub fn load<T: Scalar>(x: &[T], left: usize, pad: T) -> [T; LANES] {
    let mut lanes = read(x, pad);
    // Selected by numbers in memory, for comparing `left` with each j becomes sixteen branches, and the loops that follow
    // are slower.
    if let Some(keep) = (LANES.checked_sub(left)).and_then(|cut| KEEP[cut..].first_chunk::<LANES>()) {
        for (lane, keep) in lanes.iter_mut().zip(keep) {
            *lane = if *keep == 1 { *lane } else { pad };
        }
    }
    lanes
}

/// Writes to the first sixteen elements of `y`, or to all that there are. So it may write past the end of the row, for
/// which rows must be computed in order, each after what the one before it has spilled.
#[inline(always)]
pub fn store<T: Scalar>(lanes: [T; LANES], y: &mut [T]) {
    match y.first_chunk_mut() {
        Some(y) => *y = lanes,
        None => {
            // A copy, so that the lanes themselves needn't have an address.
            let end = lanes;
            copy(&end, y);
        }
    }
}

/// Once in a batch: the end of its last row.
#[cold]
#[inline(never)]
fn copy<T: Scalar>(from: &[T], to: &mut [T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from;
    }
}

/// The sum of the lanes, in a fixed order: the second half is added to the first, until one is left.
// Not inlined: the compiler would choose the vectors of the loop that adds the lanes up by what is convenient here, and
// that is two lanes each. A cross-entropy of 1000 classes takes 1.6 times as long then.
#[inline(never)]
pub fn sum<T: Scalar>(mut lanes: [T; LANES]) -> T {
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            let b = lanes[j + half];
            lanes[j] += b;
        }
    }
    lanes[0]
}

/// exp(x − max) for the first sixteen elements of `x`; 0 from position `left` on.
#[inline(always)]
pub fn exp<T: Scalar>(x: &[T], left: usize, max: T) -> [T; LANES] {
    let mut e = read(x, max);
    let left = left.min(LANES) as u32;
    for (j, e) in (0..).zip(&mut e) {
        let exp = (*e - max).exp();
        *e = if j < left { exp } else { T::ZERO };
    }
    e
}

/// The largest of a row's `n` elements, NaN aside: NaN spreads through the sums that follow. −∞ if there are none.
#[inline(always)]
pub fn max<T: Scalar>(x: &[T], n: usize) -> T {
    let x = &x[..n.min(x.len())];
    // What is read twice changes nothing: the last chunk may overlap the one before it.
    match x.len() {
        0 => T::NEG_INFINITY,
        1 => fold_max(ends::<T, 1>(x)),
        2..4 => fold_max(ends::<T, 2>(x)),
        4..8 => fold_max(ends::<T, 4>(x)),
        8..LANES => fold_max(ends::<T, 8>(x)),
        _ => {
            // One chain of comparisons would take longer than the elements take to arrive from memory.
            let mut wide =
                [ends(x), [T::NEG_INFINITY; LANES], [T::NEG_INFINITY; LANES], [T::NEG_INFINITY; LANES]];
            let (chunks, _) = x.as_chunks::<LANES>();
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
fn fold_max<T: Scalar, const N: usize>(lanes: [T; N]) -> T {
    let mut max = lanes;
    let mut half = N / 2;
    while half > 0 {
        for j in 0..half {
            max[j] = if max[j + half] > max[j] { max[j + half] } else { max[j] };
        }
        half /= 2;
    }
    max[0]
}

/// How many rows [`narrow`] takes at once.
pub const ROWS: usize = 32;

/// For rows of `n` ≤ [`LANES`] elements, as many as there are in `x` but at most [`ROWS`]: the largest element of each,
/// as by [`max`], and exp(xⱼ − max) of all, 0 past the end of the row. Gives the number of rows.
///
/// An exponential is a chain of two dozen operations, and a processor works on many such chains at once if nothing else
/// stands between them. With short rows something would.
#[inline(always)]
pub fn narrow<T: Scalar>(x: &[T], n: usize, max: &mut [T; ROWS], e: &mut [[T; LANES]; ROWS]) -> usize {
    let rows = (x.len() / n.max(1)).min(ROWS);
    for (i, max) in max[..rows].iter_mut().enumerate() {
        *max = self::max(&x[i * n..], n);
    }
    for (i, (e, &max)) in e[..rows].iter_mut().zip(max.iter()).enumerate() {
        *e = exp(&x[i * n..], n, max);
    }
    rows
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

    #[test]
    fn every_element_of_a_row_counts_once_and_nothing_around_it() {
        let x: Vec<f64> = (0..400).map(f64::from).collect();
        for n in [0, 1, 10, 15, 16, 17, 63, 64, 65, 100, 130] {
            // In the middle of the data, and at its end, where whole chunks can't be read.
            for x in [&x[100..], &x[400 - n..]] {
                let (mut sums, mut y) = ([0.0; LANES], vec![-1.0; x.len()]);
                for (at, left) in chunks(n) {
                    let chunk = load(&x[at..], left, 0.0);
                    (0..LANES).for_each(|j| sums[j] += chunk[j]);
                    store(chunk, &mut y[at..]);
                }
                assert_eq!(sum(sums), x[..n].iter().sum(), "{n}");
                assert_eq!(y[..n], x[..n], "{n}");
                // What is spilled stays within the chunk.
                assert!(y.iter().skip(n.next_multiple_of(LANES)).all(|&y| y == -1.0), "{n}");
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

    #[test]
    fn exponentials_end_with_their_row() {
        // What follows the row would be NaN or infinite.
        for (n, after) in [(3, f32::NAN), (10, f32::INFINITY), (15, 1e4)] {
            let mut x = [after; LANES];
            x[..n].fill(1.0);
            for x in [&x[..], &x[..n]] {
                let e = exp(x, n, 2.0);
                assert_eq!(e[..n], [(-1.0_f32).exp(); LANES][..n]);
                assert_eq!(e[n..], [0.0; LANES][n..]);
            }
        }
    }

    #[test]
    fn narrow_rows_are_what_they_are_alone() {
        let x: Vec<f32> = (0..70 * 16).map(|i| (i * 7919 % 1000) as f32 * 0.01).collect();
        for n in 1..=LANES {
            let (mut maxima, mut e) = ([0.0; ROWS], [[0.0; LANES]; ROWS]);
            for rows in [1, 31, 32, 33] {
                assert_eq!(narrow(&x[..rows * n], n, &mut maxima, &mut e), rows.min(ROWS));
                for (i, row) in x.chunks_exact(n).take(rows.min(ROWS)).enumerate() {
                    assert_eq!(maxima[i], max(row, n));
                    assert_eq!(e[i], exp(row, n, maxima[i]));
                }
            }
        }
        assert_eq!(narrow::<f32>(&[], 0, &mut [0.0; ROWS], &mut [[0.0; LANES]; ROWS]), 0);
    }
}
