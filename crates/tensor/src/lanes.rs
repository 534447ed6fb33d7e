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

use crate::simd::{Lanes, Quad, Register, Simd};
use crate::{Scalar, math};

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

/// ln x of a sum of exponentials: a positive normal number, or NaN.
///
/// The same bits on every machine, and within one unit in the last place of the exact result.
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    math::ln(x)
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

/// Σ exp(x − max) over the `n` elements of a row, of numbers that `to` has converted: the exponentials themselves, or, where
/// there are many, the sums of four. They are written to `e` if there is one, and as by [`store`].
#[inline(always)]
pub fn exp_sum<T: Scalar, U: Scalar>(
    x: &[T],
    n: usize,
    max: T,
    mut e: Option<&mut [T]>,
    to: impl Fn(T) -> U,
) -> U {
    const FOUR: usize = 4 * LANES;
    let mut sums = [U::ZERO; LANES];
    let (blocks, _) = x[..n].as_chunks::<FOUR>();
    for (i, x) in blocks.iter().enumerate() {
        let mut block = *x;
        for x in &mut block {
            *x = (*x - max).exp_of_negative();
        }
        for (j, sum) in sums.iter_mut().enumerate() {
            let four = (block[j] + block[j + LANES]) + (block[j + 2 * LANES] + block[j + 3 * LANES]);
            *sum += to(four);
        }
        if let Some(e) = &mut e {
            e[i * FOUR..][..FOUR].copy_from_slice(&block);
        }
    }
    let done = blocks.len() * FOUR;
    for (at, left) in chunks(n - done) {
        let chunk = exp(&x[done + at..], left, max);
        for (sum, &e) in sums.iter_mut().zip(&chunk) {
            *sum += to(e);
        }
        if let Some(e) = &mut e {
            store(chunk, &mut e[done + at..]);
        }
    }
    sum(sums)
}

/// exp(x − max) for the first sixteen elements of `x`; 0 from position `left` on.
#[inline(always)]
fn exp<T: Scalar>(x: &[T], left: usize, max: T) -> [T; LANES] {
    let mut e = read(x, max);
    let left = left.min(LANES) as u32;
    for (j, e) in (0..).zip(&mut e) {
        let exp = (*e - max).exp_of_negative();
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

/// How many rows [`turn`] takes at once.
pub const ROWS: usize = 32;

/// Short rows, turned: `turned[j][i]` is element j of row i. So an operation on all elements j is one on whole registers,
/// and none of it is spent on what lies past the end of a row.
pub type Turned<T> = [[T; ROWS]; LANES];

/// Turns the first rows of `n` ≤ [`LANES`] elements of `x`, at most [`ROWS`] of them, and gives their number. In the
/// lanes that are left there may be anything.
#[inline(always)]
pub fn turn<T: Scalar, S: Simd>(x: &[T], n: usize, turned: &mut Turned<T>) -> usize {
    let rows = (x.len() / n.max(1)).min(ROWS);
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
            a.store(&mut turned[j][i..]);
            b.store(&mut turned[j + 1][i..]);
            c.store(&mut turned[j + 2][i..]);
            d.store(&mut turned[j + 3][i..]);
        }
    }
    rows
}

/// Writes `rows` rows of what [`turn`] has turned, each times its `factor`. As [`store`], it may write past the end of
/// the last of them.
#[inline(always)]
pub fn turn_back<T: Scalar, S: Simd>(
    turned: &Turned<T>,
    factor: &[T; ROWS],
    n: usize,
    rows: usize,
    y: &mut [T],
) {
    for i in (0..rows).step_by(4) {
        let factor = T::Quad::<S>::load(&factor[i..]);
        let mut quads = [[factor; 4]; LANES / 4];
        for (quads, j) in quads.iter_mut().zip((0..n).step_by(4)) {
            *quads = T::Quad::<S>::transpose([
                T::Quad::<S>::load(&turned[j][i..]).times(factor),
                T::Quad::<S>::load(&turned[j + 1][i..]).times(factor),
                T::Quad::<S>::load(&turned[j + 2][i..]).times(factor),
                T::Quad::<S>::load(&turned[j + 3][i..]).times(factor),
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
pub fn max_each<T: Scalar>(x: &[[T; ROWS]]) -> [T; ROWS] {
    let mut max = [T::NEG_INFINITY; ROWS];
    for x in x {
        for i in 0..ROWS {
            max[i] = if x[i] > max[i] { x[i] } else { max[i] };
        }
    }
    max
}

/// exp(x − max) of all elements, and their sum for each row, of numbers that `to` has converted.
#[inline(always)]
pub fn exp_each<T: Scalar, U: Scalar>(
    x: &[[T; ROWS]],
    max: &[T; ROWS],
    e: &mut Turned<T>,
    to: impl Fn(T) -> U,
) -> [U; ROWS] {
    let mut sum = [U::ZERO; ROWS];
    for (x, e) in x.iter().zip(e) {
        for i in 0..ROWS {
            e[i] = (x[i] - max[i]).exp_of_negative();
            sum[i] += to(e[i]);
        }
    }
    sum
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
                assert_eq!(e[..n], [math::exp_of_negative(-1.0); LANES][..n]);
                assert_eq!(e[n..], [0.0; LANES][n..]);
            }
        }
    }

    /// On every instruction set: turning is made of registers.
    #[test]
    fn short_rows_are_turned_and_turned_back() {
        struct Round<'a>(&'a [f32], usize, &'a mut [f32], &'a mut Turned<f32>);
        impl Kernel for Round<'_> {
            type Output = usize;
            #[inline(always)]
            fn run<S: Simd>(self) -> usize {
                let Self(x, n, y, turned) = self;
                let rows = turn::<f32, S>(x, n, turned);
                let factor = std::array::from_fn(|i| 1.0 + i as f32);
                turn_back::<f32, S>(turned, &factor, n, rows, y);
                rows
            }
        }

        let x: Vec<f32> = (1..=40 * 16).map(|i| i as f32).collect();
        for level in ["baseline", "avx2", "avx512"] {
            for n in 1..=LANES {
                for rows in [0, 1, 3, 4, 31, 32, 33] {
                    let (mut y, mut turned) = (vec![-1.0; rows * n], [[0.0; ROWS]; LANES]);
                    let x = &x[..rows * n];
                    let Some(taken) = run_at(level, Round(x, n, &mut y, &mut turned)) else { continue };
                    assert_eq!(taken, rows.min(ROWS));
                    for (i, row) in x.chunks_exact(n).take(taken).enumerate() {
                        assert!(row.iter().zip(&turned).all(|(x, column)| column[i] == *x));
                        let times = row.iter().map(|x| (1.0 + i as f32) * x);
                        assert!(y[i * n..][..n].iter().copied().eq(times), "{level}, {i} of {rows}, {n}");
                    }
                    assert!(y[taken * n..].iter().skip(3).all(|&y| y == -1.0));
                }
            }
        }
    }

    #[test]
    fn exponentials_of_turned_rows_and_their_sums() {
        let x: [[f64; ROWS]; 3] = std::array::from_fn(|j| std::array::from_fn(|i| (i * (j + 2) % 7) as f64));
        let (max, mut e) = (max_each(&x), [[0.0; ROWS]; LANES]);
        let sum = exp_each(&x, &max, &mut e, |e| e);
        for i in 0..ROWS {
            let row = x.map(|column| column[i]);
            assert_eq!(max[i], row.into_iter().fold(f64::NEG_INFINITY, f64::max));
            let exp = row.map(|x| (x - max[i]).exp());
            assert_eq!([e[0][i], e[1][i], e[2][i]], exp);
            assert_eq!(sum[i], exp[0] + exp[1] + exp[2]);
        }
    }

    #[test]
    fn the_sum_of_exponentials_counts_each_element_once() {
        for n in [1, 15, 16, 17, 63, 64, 65, 128, 130, 200] {
            // What follows the row would make the sum infinite.
            let x: Vec<f64> = (0..n + 20).map(|j| if j < n { -((j % 5) as f64) } else { 1e4 }).collect();
            let mut e = vec![-1.0; n + 20];
            let sum = exp_sum(&x, n, 0.0, Some(&mut e), |e| e);
            let expected: f64 = x[..n].iter().map(|x| x.exp()).sum();
            assert!((sum - expected).abs() < 1e-13 * expected, "{n}: {sum}, {expected}");
            assert!(e[..n].iter().zip(&x).all(|(e, x)| *e == x.exp()), "{n}");
            assert!(e[n.next_multiple_of(LANES)..].iter().all(|&e| e == -1.0), "{n}");
            assert_eq!(exp_sum(&x, n, 0.0, None, |e| e), sum);
        }
    }
}
