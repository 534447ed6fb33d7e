//! Sums whose error doesn't grow with the number of terms.
//!
//! A sum that runs in f32 stops growing: 2²⁴ + 1 is 2²⁴. Here runs of eight terms are added in the element's
//! type, and the runs in f64. For up to 10⁹ terms in f32, |error| ≤ 4 ε Σ|x| with ε = 2⁻²³, whatever they are
//! and whatever their order: the seven additions of a run and the last rounding are off by ε/2 each.
//!
//! The order is fixed. It depends on the number of terms alone, so the bits are the same on any processor.

use crate::kernels::row::{self, CHUNK};
use crate::scalar::Scalar;
use crate::simd::{self, Kernel, Simd, kernel};

/// Terms that are added in the element's type.
pub const RUN: usize = 8;
/// Terms of a block: its lanes are added in f64, and the blocks in pairs.
const BLOCK: usize = 4096;

/// Σ xᵢ
///
/// ```
/// use backrule_tensor::kernels::sum::sum;
///
/// assert_eq!(sum(&[1.0_f32, 2.0, 3.0]), 6.0);
/// // Where one running sum ends at 16,777,216.
/// assert_eq!(sum(&vec![1.0_f32; 20_000_000]), 2e7);
/// ```
pub fn sum<T: Scalar>(x: &[T]) -> T {
    T::from_f64(simd::run(Sum(x)))
}

/// Sums of parts, which are added as a balanced tree: ((a + b) + (c + d)) + e.
///
/// ```
/// use backrule_tensor::kernels::sum::Pairwise;
///
/// let mut total = Pairwise::default();
/// [1e16, 1.0, 1.0, 1.0].into_iter().for_each(|part| total.add(part));
/// assert_eq!(total.total(), 1e16 + 2.0); // (10¹⁶ + 1) + (1 + 1), where 10¹⁶ + 1 is 10¹⁶
/// ```
#[derive(Clone, Debug)]
pub struct Pairwise {
    /// The sum of 2ⁱ parts at place i, if bit i of `count` is set.
    trees: [f64; 48],
    count: u64,
}

impl Default for Pairwise {
    fn default() -> Self {
        Self { trees: [0.0; 48], count: 0 }
    }
}

impl Pairwise {
    /// Adds the next part.
    #[inline]
    pub fn add(&mut self, part: f64) {
        let mut sum = part;
        let full = self.count.trailing_ones() as usize;
        for tree in &self.trees[..full] {
            sum += tree;
        }
        self.trees[full] = sum;
        self.count += 1;
    }

    /// The sum of all parts: 0 if there are none.
    pub fn total(&self) -> f64 {
        let of_tree = |i: usize| (self.count >> i & 1 == 1).then(|| self.trees[i]);
        (0..self.trees.len()).filter_map(of_tree).reduce(|small, large| large + small).unwrap_or(0.0)
    }
}

/// Σ xᵢ in f64.
pub(crate) struct Sum<'a, T>(pub(crate) &'a [T]);

impl<T: Scalar> Kernel for Sum<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        in_blocks(self.0, |x| {
            let mut totals = [0.0; CHUNK];
            let (rows, rest) = x.as_chunks::<CHUNK>();
            let (runs, rows) = rows.as_chunks::<RUN>();
            for run in runs {
                add_run(run, &mut totals);
            }
            add_run(rows, &mut totals);
            totals.iter_mut().zip(rest).for_each(|(total, x)| *total += x.to_f64());
            totals
        })
    }
}

/// The same for every `stride`th element: the column of a matrix, in blocks that are copied.
pub(crate) fn sum_of_column<T: Scalar>(x: &[T], stride: usize) -> f64 {
    let (mut buffer, mut total) = ([T::ZERO; BLOCK], Pairwise::default());
    for block in x.chunks(BLOCK.saturating_mul(stride)) {
        let column = block.iter().step_by(stride);
        let len = column.len();
        buffer.iter_mut().zip(column).for_each(|(to, &x)| *to = x);
        total.add(simd::run(Sum(&buffer[..len])));
    }
    total.total()
}

/// Adds the sum of at most [`RUN`] rows.
#[inline(always)]
fn add_run<T: Scalar>(rows: &[[T; CHUNK]], totals: &mut [f64; CHUNK]) {
    let mut sums = [T::ZERO; CHUNK];
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
    }
    totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.to_f64());
}

kernel!(
    /// Σ xᵢ², in f64: the square of a norm.
    ///
    /// ```
    /// use backrule_tensor::kernels::sum::sum_of_squares;
    ///
    /// assert_eq!(sum_of_squares(&[3.0_f32, 4.0]), 25.0);
    /// ```
    pub fn sum_of_squares<T: Scalar>(x: &[T]) -> f64 {
        in_blocks(x, |x| {
            let mut totals = [0.0; CHUNK];
            let (rows, rest) = x.as_chunks::<CHUNK>();
            for row in rows {
                totals.iter_mut().zip(row).for_each(|(total, x)| *total += x.to_f64() * x.to_f64());
            }
            totals.iter_mut().zip(rest).for_each(|(total, x)| *total += x.to_f64() * x.to_f64());
            totals
        })
    }
);

#[inline(always)]
fn in_blocks<T: Scalar>(x: &[T], totals: impl Fn(&[T]) -> [f64; CHUNK]) -> f64 {
    if x.len() <= BLOCK {
        return row::sum(totals(x));
    }
    let mut total = Pairwise::default();
    for block in x.chunks(BLOCK) {
        total.add(row::sum(totals(block)));
    }
    total.total()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::simd::at_level;

    const TERMS: usize = 20_000_000;

    /// The error in units of the promised bound: 1 is reached in no case.
    fn error(got: f32, exact: f64, absolute: f64) -> f64 {
        (f64::from(got) - exact).abs() / (4.0 * f64::from(f32::EPSILON) * absolute)
    }

    /// The first term is 1, and the rest are a little more than half an ε: a running sum rounds each up.
    #[test]
    fn a_few_rows_are_within_4_epsilon_too() {
        for rows in 1..=70 {
            for columns in [1, 3, 16, 70] {
                let term = |at: &[usize]| if at[0] == 0 { 1.0 } else { 0.500_001 * f32::EPSILON };
                let x = Tensor::from_fn([rows, columns], term).unwrap();
                let mut db = Tensor::zeros([columns]).unwrap();
                db.add_sum_of_rows(&x).unwrap();
                let exact: f64 = x.rows().map(|row| f64::from(row[0])).sum();
                for &db in db.as_slice() {
                    let error = error(db, exact, exact);
                    assert!(error <= 1.0, "{rows} rows of {columns}: {error}");
                }
            }
        }
    }

    #[test]
    fn twenty_million_terms_of_any_kind_are_within_4_epsilon() {
        let random = |i: usize| {
            let mixed = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed >> 40) as f32 / 16_777_216.0
        };
        let kinds: [(&str, &dyn Fn(usize) -> f32); 6] = [
            ("equal", &|_| 0.1),
            ("random", &random),
            ("rising", &|i| i as f32),
            ("falling", &|i| (TERMS - i) as f32),
            ("alternating", &|i| if i % 2 == 0 { 0.7 } else { -0.1 }),
            ("one large among small", &|i| if i == 12_345_678 { 1e7 } else { 0.3 }),
        ];
        let mut x = Tensor::zeros([TERMS]).unwrap();
        for (kind, f) in kinds {
            x.as_mut_slice().iter_mut().enumerate().for_each(|(i, x)| *x = f(i));
            // Of numbers of 24 bits, f64 adds 2²⁹ without an error that matters here.
            let (mut exact, mut absolute) = ([0.0; 5], [0.0; 5]);
            for row in x.as_slice().as_chunks::<5>().0 {
                for (j, &x) in row.iter().enumerate() {
                    exact[j] += f64::from(x);
                    absolute[j] += f64::from(x.abs());
                }
            }
            let whole = |sums: &[f64]| sums.iter().sum::<f64>();
            let of_sum = error(x.sum(), whole(&exact), whole(&absolute));
            assert!(of_sum < 1.0, "{kind}: sum {of_sum}");
            for columns in [1, 5] {
                x.set_shape([TERMS / columns, columns]).unwrap();
                let mut db = Tensor::zeros([columns]).unwrap();
                db.add_sum_of_rows(&x).unwrap();
                for (j, &db) in db.as_slice().iter().enumerate() {
                    let of_column = match columns {
                        1 => error(db, whole(&exact), whole(&absolute)),
                        _ => error(db, exact[j], absolute[j]),
                    };
                    assert!(of_column < 1.0, "{kind}: column {j} of {columns} {of_column}");
                }
            }
            x.set_shape([TERMS]).unwrap();
        }
    }

    #[test]
    fn every_term_counts_once() {
        for n in [0, 1, 7, 8, 15, 16, 17, 127, 128, 129, 300, 4095, 4096, 4097, 20_000] {
            let x: Vec<f64> = (1..=n).map(f64::from).collect();
            let n = f64::from(n);
            assert_eq!(sum(&x), n * (n + 1.0) / 2.0);
            assert_eq!(sum_of_squares(&x), n * (n + 1.0) * (2.0 * n + 1.0) / 6.0);
        }
    }

    #[test]
    fn instruction_sets_agree() {
        let x: Vec<f32> = (0..10_007).map(|i| ((i * 7919) % 997) as f32 * 0.02 - 7.0).collect();
        let sums = || (simd::run(Sum(&x)), sum_of_squares(&x));
        let expected = at_level("baseline", sums);
        for level in ["avx2", "avx512"] {
            let got = at_level(level, sums);
            assert!(got.is_none() || got == expected, "{level}");
        }
    }

    #[test]
    fn parts_are_added_as_a_tree() {
        // Each part is a power of two, so the sum shows which parts are there.
        let mut total = Pairwise::default();
        assert_eq!(total.total(), 0.0);
        for i in 0..50 {
            total.add(f64::from(i).exp2());
            assert_eq!(total.total(), f64::from(i + 1).exp2() - 1.0);
        }
        let mut total = Pairwise::default();
        [1.0, 1e16, -1e16, 1.0].into_iter().for_each(|part| total.add(part));
        assert_eq!(total.total(), (1.0 + 1e16) + (-1e16 + 1.0));
    }
}
