//! A dense layer's bias and its gradient: a row that is added to all rows, and the sum of all rows.

use crate::kernels::row::{self, CHUNK};
use crate::kernels::sum::{RUN, Sum, sum_of_column};
use crate::scalar::Scalar;
use crate::simd::{self, Kernel, Simd, kernel};

/// db ← db + Σᵢ xᵢ over all rows xᵢ as long as db, each of which begins `stride` elements after the one
/// before it. The last one may end where its columns do.
#[inline]
pub fn add_sum_of_rows<T: Scalar>(x: &[T], stride: usize, db: &mut [T]) {
    simd::run(AddSumOfRows { x, stride, db });
}

kernel!(
    /// yᵢ ← yᵢ + b for all rows yᵢ as long as b, one after the other.
    pub fn add_to_rows<T: Scalar>(b: &[T], y: &mut [T]) {
        for y in y.chunks_exact_mut(b.len().max(1)) {
            for (y, &b) in y.iter_mut().zip(b) {
                *y += b;
            }
        }
    }
);

/// db ← db + Σᵢ xᵢ over all rows xᵢ as long as db. A few rows are added in their order, many in runs whose
/// sums are added in f64.
struct AddSumOfRows<'a, T> {
    x: &'a [T],
    /// From the start of one row to the start of the next. The last row may end where its columns do.
    stride: usize,
    db: &'a mut [T],
}

/// Up to so many rows are few: each addition is off by ε/2, and a sum may be off by 4 ε.
const FEW: usize = RUN;

impl<T: Scalar> AddSumOfRows<'_, T> {
    /// As many whole blocks of N columns as there are from column `at` on, for a few rows. Returns the column
    /// after them.
    #[inline(always)]
    fn blocks_of_few<const N: usize>(&mut self, at: usize) -> usize {
        let Self { x, stride, db } = self;
        // With gaps between rows, there is none behind the last.
        let gaps = *stride > db.len() && !x.is_empty();
        let (x, last) = x.split_at(x.len() - if gaps { db.len() } else { 0 });
        let (blocks, _) = db[at..].as_chunks_mut::<N>();
        for (i, db) in blocks.iter_mut().enumerate() {
            let mut sums = *db;
            for x in x.chunks_exact(*stride) {
                add_block(x, at, i, &mut sums);
            }
            if gaps {
                add_block(last, at, i, &mut sums);
            }
            *db = sums;
        }
        at + N * blocks.len()
    }

    /// The same for many rows.
    #[inline(always)]
    fn blocks_of_many<const N: usize>(&mut self, at: usize) -> usize {
        let Self { x, stride, db } = self;
        let (blocks, _) = db[at..].as_chunks_mut::<N>();
        for (i, db) in blocks.iter_mut().enumerate() {
            let mut totals = row::to_f64(*db);
            for run in x.chunks(RUN * *stride) {
                let mut sums = [T::ZERO; N];
                let rows = run.chunks_exact(*stride);
                let last = rows.remainder();
                for x in rows {
                    add_block(x, at, i, &mut sums);
                }
                // With gaps between rows, there is none behind the last.
                if !last.is_empty() {
                    add_block(last, at, i, &mut sums);
                }
                totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.to_f64());
            }
            *db = row::from_f64(totals);
        }
        at + N * blocks.len()
    }
}

/// Adds block `i` of a row's columns from `at` on.
#[inline(always)]
fn add_block<T: Scalar, const N: usize>(row: &[T], at: usize, i: usize, sums: &mut [T; N]) {
    let (blocks, _) = row[at..].as_chunks::<N>();
    for (sum, &x) in sums.iter_mut().zip(&blocks[i]) {
        *sum += x;
    }
}

impl<T: Scalar> Kernel for AddSumOfRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let columns = self.db.len();
        if let [db] = &mut *self.db {
            let sum = match self.stride {
                1 => Sum(self.x).run::<S>(),
                stride => sum_of_column(self.x, stride),
            };
            *db = T::from_f64(db.to_f64() + sum);
        } else if self.x.len() <= FEW * self.stride {
            // The sums of a block stay in registers while all rows pass.
            let mut at = self.blocks_of_few::<{ 4 * CHUNK }>(0);
            if at == columns {
                return;
            }
            at = self.blocks_of_few::<CHUNK>(at);
            let Self { x, stride, db } = self;
            let left = columns - at;
            if left > 0 {
                let mut sums = row::load(&db[at..], left, T::ZERO);
                for i in 0..x.len().div_ceil(stride) {
                    // Past the row's end there is something to be added too, but nobody reads that sum.
                    let x = row::read(&x[i * stride + at..], T::ZERO);
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum += x;
                    }
                }
                row::store(sums, &mut db[at..]);
            }
        } else {
            let at = self.blocks_of_many::<{ 4 * CHUNK }>(0);
            let at = self.blocks_of_many::<CHUNK>(at);
            let Self { x, stride, db } = self;
            let left = columns - at;
            if left > 0 {
                let mut totals = row::to_f64(row::load(&db[at..], left, T::ZERO));
                let rows = x.len().div_ceil(stride);
                for run in (0..rows).step_by(RUN) {
                    let mut sums = [T::ZERO; CHUNK];
                    for i in run..rows.min(run + RUN) {
                        let x = row::read(&x[i * stride + at..], T::ZERO);
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum += x;
                        }
                    }
                    totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.to_f64());
                }
                row::store(row::from_f64(totals), &mut db[at..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    /// Widths on both sides of every limit, in a batch that is as long as two blocks of narrow rows and a
    /// bit.
    fn batches() -> impl Iterator<Item = Tensor<f32>> {
        let value = |at: &[usize]| ((at[0] * 31 + at[1] * 7919) % 997) as f32 * 0.02 - 10.0;
        [1, 2, 7, 10, 15, 16, 17, 33, 64, 100].map(|n| Tensor::from_fn([70, n], value).unwrap()).into_iter()
    }

    #[test]
    fn sums_of_rows_of_any_width() {
        // Whole numbers: exact in any order.
        for x in batches() {
            let (rows, columns) = (x.shape().rows(), x.shape().columns());
            let x = Tensor::from_vec(x.shape(), x.as_slice().iter().map(|x| x.round()).collect()).unwrap();
            for rows in [0, 1, 7, 31, 32, 33, 40, 41, rows] {
                let x = x.slice(0..rows).unwrap();
                let mut db = Tensor::from_fn([columns], |at| at[0] as f32).unwrap();
                let mut expected = db.clone();
                for row in x.rows() {
                    expected.as_mut_slice().iter_mut().zip(row).for_each(|(db, x)| *db += x);
                }
                db.add_sum_of_rows(&x).unwrap();
                assert_eq!(db, expected, "{rows} rows of {columns}");
            }
        }
    }

    /// A bias's gradient has no other sample's NaN, and NaN of its own column only.
    #[test]
    fn nan_stays_in_its_column() {
        for rows in [3, 70] {
            for columns in [2, 16, 17, 64] {
                let mut x = Tensor::full([rows, columns], 1.0_f32).unwrap();
                x.row_mut(1).unwrap()[1] = f32::NAN;
                let mut db = Tensor::zeros([columns]).unwrap();
                db.add_sum_of_rows(&x).unwrap();
                let nan = db.as_slice().iter().map(|db| db.is_nan());
                assert!(nan.eq((0..columns).map(|j| j == 1)), "{rows} x {columns}");
            }
        }
    }

    #[test]
    fn instruction_sets_agree_on_sums_of_rows() {
        for x in batches() {
            let columns = x.shape().columns();
            let at = |level| {
                let mut db = vec![0.5; columns];
                let (x, stride) = (x.as_slice(), columns);
                simd::run_at(level, AddSumOfRows { x, stride, db: &mut db }).map(|()| db)
            };
            let expected = at("baseline").unwrap();
            for level in ["avx2", "avx512"] {
                assert!(at(level).is_none_or(|db| db == expected), "{level}, {columns}");
            }
        }
    }
}
