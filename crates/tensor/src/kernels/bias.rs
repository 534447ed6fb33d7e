//! A dense layer's bias and its gradient: a row that is added to all rows, and the sum of all rows.

use crate::kernels::row::{self, CHUNK};
use crate::kernels::sum::{Sum, sum_of_column};
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

/// db ← db + Σᵢ xᵢ over all rows xᵢ as long as db.
///
/// Up to eight rows are added one after the other: each addition is off by ε/2, and the sum by 4 ε. Of more,
/// a group of eight rows is the sum of two runs of four, and up to four groups are added one after the other:
/// a term passes three additions in its run, one in its group and four behind it. Each four groups are added
/// in f64.
struct AddSumOfRows<'a, T> {
    x: &'a [T],
    /// From the start of one row to the start of the next. The last row may end where its columns do.
    stride: usize,
    db: &'a mut [T],
}

/// Rows that are added one after the other.
const RUN: usize = 4;
const GROUP: usize = 2 * RUN;
/// Up to so many rows are added in the element's type.
const FEW: usize = 4 * GROUP;

impl<T: Scalar> Kernel for AddSumOfRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, stride, db } = self;
        if let [db] = db {
            let sum = match stride {
                1 => Sum(x).run::<S>(),
                stride => sum_of_column(x, stride),
            };
            *db = T::from_f64(db.to_f64() + sum);
            return;
        }
        // The sums of a block of columns stay in registers while rows pass.
        let mut at = 0;
        let (blocks, rest) = db.as_chunks_mut::<{ 4 * CHUNK }>();
        for db in blocks {
            add_rows::<T, { 4 * CHUNK }, false>(db, x, stride, |row| columns(row, at));
            at += 4 * CHUNK;
        }
        let (blocks, rest) = rest.as_chunks_mut::<CHUNK>();
        for db in blocks {
            add_rows::<T, CHUNK, false>(db, x, stride, |row| columns(row, at));
            at += CHUNK;
        }
        if !rest.is_empty() {
            // Past the row's end there is something to be added too, but nobody reads that sum.
            let mut sums = row::load(rest, rest.len(), T::ZERO);
            add_rows::<T, CHUNK, true>(&mut sums, x, stride, |row| row::read(&row[at..], T::ZERO));
            row::store(sums, rest);
        }
    }
}

/// N columns of a row from column `at` on.
#[inline(always)]
pub(super) fn columns<T: Scalar, const N: usize>(row: &[T], at: usize) -> [T; N] {
    *row[at..at + N].first_chunk().unwrap_or(&[T::ZERO; N])
}

/// Adds the columns that `read` takes from each row. If `PAST`, it may read past the row's end.
#[inline(always)]
fn add_rows<T: Scalar, const N: usize, const PAST: bool>(
    db: &mut [T; N],
    x: &[T],
    stride: usize,
    read: impl Fn(&[T]) -> [T; N] + Copy,
) {
    if x.len() <= FEW * stride {
        return add_few::<T, N, PAST>(db, x, stride, read);
    }
    let mut totals = row::to_f64(*db);
    for x in x.chunks(FEW * stride) {
        let mut sums = [T::ZERO; N];
        add_few::<T, N, PAST>(&mut sums, x, stride, read);
        totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.to_f64());
    }
    *db = row::from_f64(totals);
}

/// The same for at most [`FEW`] rows.
#[inline(always)]
fn add_few<T: Scalar, const N: usize, const PAST: bool>(
    db: &mut [T; N],
    x: &[T],
    stride: usize,
    read: impl Fn(&[T]) -> [T; N] + Copy,
) {
    if x.len() <= GROUP * stride {
        return add_run::<T, N, PAST>(db, x, stride, read);
    }
    // Not `chunks_exact`: it begins with a division.
    let (mut sums, mut rest) = (*db, x);
    while let Some((group, after)) = rest.split_at_checked(GROUP * stride) {
        let x = if PAST { rest } else { group };
        rest = after;
        // A row that ends where the next begins has its length checked once for all rows.
        let row = |i| read(if PAST { &x[i * stride..] } else { &x[i * stride..(i + 1) * stride] });
        let first = sum(sum(sum(row(0), row(1)), row(2)), row(3));
        let second = sum(sum(sum(row(4), row(5)), row(6)), row(7));
        sums = sum(sums, sum(first, second));
    }
    *db = sums;
    if rest.is_empty() {
        return;
    }
    let mut group = [T::ZERO; N];
    for x in rest.chunks(RUN * stride) {
        let mut run = [T::ZERO; N];
        add_run::<T, N, PAST>(&mut run, x, stride, read);
        group = sum(group, run);
    }
    *db = sum(*db, group);
}

/// The same, one row after the other.
#[inline(always)]
fn add_run<T: Scalar, const N: usize, const PAST: bool>(
    db: &mut [T; N],
    x: &[T],
    stride: usize,
    read: impl Fn(&[T]) -> [T; N],
) {
    let mut sums = *db;
    if PAST {
        for i in 0..x.len().div_ceil(stride) {
            sums = sum(sums, read(&x[i * stride..]));
        }
    } else {
        let mut last = x;
        while let Some((row, after)) = last.split_at_checked(stride) {
            last = after;
            sums = sum(sums, read(row));
        }
        // With gaps between rows, there is none behind the last.
        if !last.is_empty() {
            sums = sum(sums, read(last));
        }
    }
    *db = sums;
}

/// a + b, element by element.
#[inline(always)]
pub(super) fn sum<T: Scalar, const N: usize>(mut a: [T; N], b: [T; N]) -> [T; N] {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
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
