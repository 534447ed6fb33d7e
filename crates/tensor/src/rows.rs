//! Row-wise operations: a row is one sample.

use std::ops::Range;

use crate::kernels::row::{self, CHUNK};
use crate::kernels::softmax::{self, Rule};
use crate::kernels::sum::{RUN, Sum, sum_of_column};
use crate::linalg::{MatMut, MatRef};
use crate::memory::with_room;
use crate::simd::{self, Kernel, Simd};
use crate::{Scalar, Shape, ShapeError, Tensor, TensorError};

impl<T: Scalar> Tensor<T> {
    /// Row `i` of the matrix that this tensor is when all axes but the last are read as one.
    pub fn row(&self, i: usize) -> Option<&[T]> {
        self.as_slice().get(self.row_range(i)?)
    }

    /// Row `i`, to be changed.
    pub fn row_mut(&mut self, i: usize) -> Option<&mut [T]> {
        let range = self.row_range(i)?;
        self.as_mut_slice().get_mut(range)
    }

    fn row_range(&self, i: usize) -> Option<Range<usize>> {
        let columns = self.shape().columns();
        (i < self.shape().rows()).then(|| i * columns..(i + 1) * columns)
    }

    /// All rows in order.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from([[1.0, 2.0], [3.0, 4.0]]);
    /// let sums: Vec<f32> = x.rows().map(|row| row.iter().sum()).collect();
    /// assert_eq!(sums, [3.0, 7.0]);
    /// ```
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> {
        let columns = self.shape().columns();
        (0..self.shape().rows()).map(move |i| &self.as_slice()[i * columns..(i + 1) * columns])
    }

    /// All rows in order, to be changed.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        // There are no rows to be had of rows without elements: chunks of 1 over nothing are none.
        let columns = self.shape().columns().max(1);
        self.as_mut_slice().chunks_exact_mut(columns)
    }

    /// A copy of the samples in `range` of the first axis.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    /// assert_eq!(x.slice(1..3)?, Tensor::from([[3.0, 4.0], [5.0, 6.0]]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When the range doesn't lie within the first axis, there is no axis, or no memory for the copy.
    pub fn slice(&self, range: Range<usize>) -> Result<Self, TensorError> {
        let (samples, size) = self.samples("slice")?;
        if range.start > range.end || range.end > samples {
            let expected = format_args!("a range within 0..{samples}");
            return Err(ShapeError::new("slice", expected, format_args!("{range:?}")).into());
        }
        let shape = self.with_samples(range.len())?;
        let mut values = with_room("slice", shape.elements())?;
        values.extend_from_slice(&self.as_slice()[range.start * size..range.end * size]);
        Ok(Self::from_parts(shape, values))
    }

    /// Becomes the samples of `source` at `indices`, in that order: a shuffled mini-batch, without allocation once
    /// there was a batch of this size.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let data: Tensor = Tensor::from([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    /// let mut batch = Tensor::default();
    /// batch.gather(&data, &[2, 0])?;
    /// assert_eq!(batch, Tensor::from([[5.0, 6.0], [1.0, 2.0]]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When an index is not on the first axis of `source`, or there is no memory; this tensor is unchanged then.
    pub fn gather(&mut self, source: &Self, indices: &[usize]) -> Result<(), TensorError> {
        let (samples, size) = source.samples("gather")?;
        if let Some((position, &index)) = (indices.iter().enumerate()).find(|&(_, &index)| index >= samples) {
            let expected = format_args!("indices below {samples}");
            let got = format_args!("{index} at position {position}");
            return Err(ShapeError::new("gather", expected, got).into());
        }
        self.resize_for("gather", source.with_samples(indices.len())?)?;
        if size > 0 {
            let rows = self.as_mut_slice().chunks_exact_mut(size);
            for (row, &index) in rows.zip(indices) {
                row.copy_from_slice(&source.as_slice()[index * size..(index + 1) * size]);
            }
        }
        Ok(())
    }

    /// The size of the first axis, and the number of elements of each of its entries.
    fn samples(&self, operation: &'static str) -> Result<(usize, usize), ShapeError> {
        match self.shape().split_first() {
            Some((&samples, rest)) => Ok((samples, rest.iter().product())),
            None => Err(ShapeError::new(operation, "at least one axis", self.shape())),
        }
    }

    fn with_samples(&self, samples: usize) -> Result<Shape, ShapeError> {
        let mut sizes = [0; crate::MAX_RANK];
        let sizes = &mut sizes[..self.shape().rank()];
        sizes.copy_from_slice(&self.shape());
        if let Some(first) = sizes.first_mut() {
            *first = samples;
        }
        Shape::new(sizes)
    }

    /// Adds `row` to every row: yᵢ ← yᵢ + b, the bias of a dense layer.
    ///
    /// # Errors
    /// When `row` isn't as long as a row of this tensor, which is unchanged then.
    pub fn add_to_rows(&mut self, row: &Self) -> Result<(), ShapeError> {
        let columns = self.shape().columns();
        if row.shape() != [columns] {
            let expected = format_args!("[{columns}]");
            return Err(ShapeError::new("addition to rows", expected, row.shape()));
        }
        simd::run(AddToRows(row.as_slice(), self.as_mut_slice()));
        Ok(())
    }

    /// Adds the sum of the rows of `x` to this row: db ← db + Σᵢ dyᵢ, the gradient of a bias. In f32 the error doesn't
    /// grow with the number of rows: from 33 on it is at most 4 ε Σ|x| of each column.
    ///
    /// # Errors
    /// When this tensor isn't as long as a row of `x`; it is unchanged then.
    pub fn add_sum_of_rows(&mut self, x: &Self) -> Result<(), ShapeError> {
        let columns = x.shape().columns();
        if self.shape() != [columns] {
            let expected = format_args!("[{columns}]");
            return Err(ShapeError::new("sum of rows", expected, self.shape()));
        }
        simd::run(AddSumOfRows { x: x.as_slice(), stride: columns, db: self.as_mut_slice() });
        Ok(())
    }

    /// The position of the largest element of each row: the predicted classes. Of equal ones the first counts; NaN
    /// counts as largest, as in NumPy and PyTorch, so that it shows.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let logits: Tensor = Tensor::from([[0.1, 2.0, -1.0], [3.0, 3.0, 0.0]]);
    /// assert_eq!(logits.argmax_rows().collect::<Vec<_>>(), [1, 0]);
    /// ```
    pub fn argmax_rows(&self) -> impl ExactSizeIterator<Item = usize> {
        self.rows().map(|row| {
            let mut best = 0;
            for (i, &x) in row.iter().enumerate() {
                if x > row[best] || (x.is_nan() && !row[best].is_nan()) {
                    best = i;
                }
            }
            best
        })
    }
}

/// db ← β db + Σᵢ xᵢ over the rows xᵢ of a matrix in a slice, as [`Tensor::add_sum_of_rows`]. With β = 0, db is only written.
///
/// ```
/// use backrule_tensor::linalg::{MatRef, sum_of_rows};
///
/// let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let mut db = [f32::NAN; 2];
/// sum_of_rows(MatRef::new(&x, [2, 2])?.with_row_stride(3)?, 0.0, &mut db)?;
/// assert_eq!(db, [5.0, 7.0]); // 1 + 4, 2 + 5
/// # Ok::<(), backrule_tensor::ShapeError>(())
/// ```
///
/// # Errors
/// When db isn't as long as a row, or x is transposed; db is unchanged then.
pub fn sum_of_rows<T: Scalar>(x: MatRef<'_, T>, beta: T, db: &mut [T]) -> Result<(), ShapeError> {
    let x = rows_of("sum of rows", x)?;
    let [_, columns] = x.shape();
    if db.len() != columns {
        return Err(ShapeError::new(
            "sum of rows",
            format_args!("[{columns}]"),
            format_args!("[{}]", db.len()),
        ));
    }
    if beta == T::ZERO {
        db.fill(T::ZERO);
    } else if beta != T::ONE {
        db.iter_mut().for_each(|db| *db *= beta);
    }
    simd::run(AddSumOfRows { x: x.elements(), stride: x.row_stride(), db });
    Ok(())
}

/// Adds b to every row of a matrix in a slice, as [`Tensor::add_to_rows`].
///
/// # Errors
/// When b isn't as long as a row; y is unchanged then.
pub fn add_to_rows<T: Scalar>(b: &[T], mut y: MatMut<'_, T>) -> Result<(), ShapeError> {
    let [rows, columns] = y.shape();
    if b.len() != columns {
        return Err(ShapeError::new(
            "addition to rows",
            format_args!("[{columns}]"),
            format_args!("[{}]", b.len()),
        ));
    }
    if y.is_contiguous() {
        simd::run(AddToRows(b, y.into_elements()));
    } else {
        (0..rows).for_each(|i| simd::run(AddToRows(b, y.row_mut(i))));
    }
    Ok(())
}

/// The [`softmax`](crate::softmax) of each row of x.
///
/// # Errors
/// When the shapes differ, or x is transposed; p is unchanged then.
pub fn softmax_of_rows<T: Scalar>(x: MatRef<'_, T>, p: MatMut<'_, T>) -> Result<(), ShapeError> {
    rule_of_rows("softmax", x, p, Rule::Softmax)
}

/// The [`log_softmax`](crate::log_softmax) of each row of x.
///
/// # Errors
/// When the shapes differ, or x is transposed; y is unchanged then.
pub fn log_softmax_of_rows<T: Scalar>(x: MatRef<'_, T>, y: MatMut<'_, T>) -> Result<(), ShapeError> {
    rule_of_rows("log-softmax", x, y, Rule::LogSoftmax)
}

fn rule_of_rows<T: Scalar>(
    operation: &'static str,
    x: MatRef<'_, T>,
    y: MatMut<'_, T>,
    rule: Rule,
) -> Result<(), ShapeError> {
    let x = rows_of(operation, x)?;
    let ([_, columns], strides) = (x.shape(), [x.row_stride(), y.row_stride()]);
    if x.shape() != y.shape() {
        return Err(ShapeError::new(
            operation,
            format_args!("{:?}", x.shape()),
            format_args!("{:?}", y.shape()),
        ));
    }
    softmax::forward_strided(x.elements(), y.into_elements(), columns, strides, rule);
    Ok(())
}

/// x, if its rows lie contiguous.
fn rows_of<'a, T: Scalar>(operation: &'static str, x: MatRef<'a, T>) -> Result<MatRef<'a, T>, ShapeError> {
    if x.is_transposed() { Err(ShapeError::new(operation, "rows", "a transposed matrix")) } else { Ok(x) }
}

/// yᵢ ← yᵢ + b for all rows yᵢ as long as b.
struct AddToRows<'a, T>(&'a [T], &'a mut [T]);

impl<T: Scalar> Kernel for AddToRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self(b, y) = self;
        for y in y.chunks_exact_mut(b.len().max(1)) {
            for (y, &b) in y.iter_mut().zip(b) {
                *y += b;
            }
        }
    }
}

/// db ← db + Σᵢ xᵢ over all rows xᵢ as long as db. A few rows are added in their order, many in runs whose sums are added
/// in f64.
struct AddSumOfRows<'a, T> {
    x: &'a [T],
    /// From the start of one row to the start of the next. The last row ends where its columns do.
    stride: usize,
    db: &'a mut [T],
}

/// Up to so many rows are few.
const FEW: usize = 32;

impl<T: Scalar> AddSumOfRows<'_, T> {
    /// As many whole blocks of N columns as there are from column `at` on, for a few rows. Returns the column after them.
    #[inline(always)]
    fn blocks_of_few<const N: usize>(&mut self, at: usize) -> usize {
        let Self { x, stride, db } = self;
        let (blocks, _) = db[at..].as_chunks_mut::<N>();
        for (i, db) in blocks.iter_mut().enumerate() {
            let mut sums = *db;
            add_rows(x, *stride, at, i, &mut sums);
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
            let mut totals = db.map(T::to_f64);
            for run in x.chunks(RUN * *stride) {
                let mut sums = [T::ZERO; N];
                add_rows(run, *stride, at, i, &mut sums);
                totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum.to_f64());
            }
            *db = totals.map(T::from_f64);
        }
        at + N * blocks.len()
    }
}

/// Adds block `i` of the columns from `at` on, of all rows.
#[inline(always)]
fn add_rows<T: Scalar, const N: usize>(x: &[T], stride: usize, at: usize, i: usize, sums: &mut [T; N]) {
    let rows = x.chunks_exact(stride);
    let last = rows.remainder();
    for x in rows {
        let (x, _) = x[at..].as_chunks::<N>();
        for (sum, &x) in sums.iter_mut().zip(&x[i]) {
            *sum += x;
        }
    }
    // With gaps between rows, there is none behind the last.
    if !last.is_empty() {
        let (x, _) = last[at..].as_chunks::<N>();
        for (sum, &x) in sums.iter_mut().zip(&x[i]) {
            *sum += x;
        }
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
            let at = self.blocks_of_few::<{ 4 * CHUNK }>(0);
            let at = self.blocks_of_few::<CHUNK>(at);
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
                let mut totals = row::load(&db[at..], left, T::ZERO).map(T::to_f64);
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
                row::store(totals.map(T::from_f64), &mut db[at..]);
            }
        }
    }
}

impl<T: Scalar> Tensor<T> {
    /// The [`softmax`](crate::softmax) of each row of x, where this tensor takes x's shape.
    ///
    /// # Errors
    /// When there is no memory for it; this tensor is unchanged then.
    pub fn softmax_from(&mut self, x: &Self) -> Result<(), TensorError> {
        self.resize_for("softmax", x.shape())?;
        softmax::forward(x.as_slice(), self.as_mut_slice(), x.shape().columns(), Rule::Softmax);
        Ok(())
    }

    /// The [`log_softmax`](crate::log_softmax) of each row of x, where this tensor takes x's shape.
    ///
    /// # Errors
    /// When there is no memory for it; this tensor is unchanged then.
    pub fn log_softmax_from(&mut self, x: &Self) -> Result<(), TensorError> {
        self.resize_for("log-softmax", x.shape())?;
        softmax::forward(x.as_slice(), self.as_mut_slice(), x.shape().columns(), Rule::LogSoftmax);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Tensor<f32> {
        Tensor::from_fn([4, 2, 3], |at| (at[0] * 100 + at[1] * 10 + at[2]) as f32).unwrap()
    }

    #[test]
    fn rows_are_all_axes_but_the_last() {
        let mut x = data();
        assert_eq!(x.rows().len(), 8);
        assert_eq!(x.row(3), Some(&[110.0, 111.0, 112.0][..]));
        assert_eq!(x.row(8), None);
        x.row_mut(7).unwrap().fill(1.0);
        assert_eq!(x.rows().last(), Some(&[1.0, 1.0, 1.0][..]));
        assert_eq!(Tensor::<f32>::zeros([3, 0]).unwrap().rows().len(), 3);
        assert_eq!(Tensor::scalar(2.0_f32).row(0), Some(&[2.0][..]));
    }

    #[test]
    fn samples_are_the_first_axis() {
        let x = data();
        assert_eq!(x.slice(1..2).unwrap().shape(), [1, 2, 3]);
        assert_eq!(x.slice(2..2).unwrap().shape(), [0, 2, 3]);
        assert!(x.slice(1..5).is_err());
        #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
        let reversed = 2..1;
        assert!(x.slice(reversed).is_err());
        assert!(Tensor::scalar(1.0_f32).slice(0..0).is_err());

        let mut batch = Tensor::default();
        batch.gather(&x, &[3, 3, 0]).unwrap();
        assert_eq!(batch.shape(), [3, 2, 3]);
        assert_eq!(batch.row(0), x.row(6));
        assert_eq!(batch.row(5), x.row(1));
        let before = batch.clone();
        let error = batch.gather(&x, &[1, 4]).unwrap_err();
        assert_eq!(error.to_string(), "gather: expected indices below 4, got 4 at position 1");
        assert_eq!(batch, before);
    }

    #[test]
    fn a_warm_gather_allocates_nothing() {
        let x = data();
        let mut batch = Tensor::default();
        batch.gather(&x, &[0, 1, 2]).unwrap();
        let allocations = allocation_counter::measure(|| {
            batch.gather(&x, &[3]).unwrap();
            batch.gather(&x, &[2, 1, 0]).unwrap();
        });
        assert_eq!(allocations.count_total, 0);
    }

    #[test]
    fn bias_and_its_gradient() {
        let mut y = Tensor::from([[1.0_f32, 2.0], [3.0, 4.0]]);
        y.add_to_rows(&Tensor::from([10.0, 20.0])).unwrap();
        assert_eq!(y, Tensor::from([[11.0, 22.0], [13.0, 24.0]]));
        let mut db = Tensor::from([1.0_f32, 1.0]);
        db.add_sum_of_rows(&y).unwrap();
        assert_eq!(db, Tensor::from([25.0, 47.0]));

        assert!(y.add_to_rows(&Tensor::from([1.0])).is_err());
        assert!(db.add_sum_of_rows(&Tensor::from([[1.0]])).is_err());
        let mut empty = Tensor::<f32>::zeros([2, 0]).unwrap();
        assert_eq!(empty.rows_mut().count(), 0);
        empty.add_to_rows(&Tensor::zeros([0]).unwrap()).unwrap();
    }

    #[test]
    fn argmax_shows_nan_and_takes_the_first_of_equals() {
        let nan = f32::NAN;
        let x = Tensor::from([[1.0, 1.0, 0.0], [0.0, nan, 9.0], [nan, nan, 1.0], [f32::NEG_INFINITY; 3]]);
        assert_eq!(x.argmax_rows().collect::<Vec<_>>(), [0, 1, 0, 0]);
    }

    /// Widths on both sides of every limit, in a batch that is as long as two blocks of narrow rows and a bit.
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
