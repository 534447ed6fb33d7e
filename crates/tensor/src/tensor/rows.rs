//! Row-wise operations: a row is one sample.

use std::ops::Range;

use crate::error::{ShapeError, TensorError};
use crate::in_default_mode;
use crate::kernels::bias;
use crate::kernels::softmax::{self, Rule};
use crate::linalg::mat::{MatMut, MatRef};
use crate::scalar::Scalar;
use crate::tensor::Tensor;

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
        // With zero columns there are no elements, so chunks of 1 yield nothing.
        let columns = self.shape().columns().max(1);
        self.as_mut_slice().chunks_exact_mut(columns)
    }

    /// The [`softmax`](crate::softmax) of each row of x, where this tensor takes x's shape.
    ///
    /// # Errors
    /// When there is no memory for it; this tensor is unchanged then.
    pub fn softmax_from(&mut self, x: &Self) -> Result<(), TensorError> {
        in_default_mode!(self.softmax_from(x));
        self.resize_for("softmax", x.shape())?;
        softmax::forward(x.as_slice(), self.as_mut_slice(), x.shape().columns(), Rule::Softmax);
        Ok(())
    }

    /// The [`log_softmax`](crate::log_softmax) of each row of x, where this tensor takes x's shape.
    ///
    /// # Errors
    /// When there is no memory for it; this tensor is unchanged then.
    pub fn log_softmax_from(&mut self, x: &Self) -> Result<(), TensorError> {
        in_default_mode!(self.log_softmax_from(x));
        self.resize_for("log-softmax", x.shape())?;
        softmax::forward(x.as_slice(), self.as_mut_slice(), x.shape().columns(), Rule::LogSoftmax);
        Ok(())
    }

    /// Adds `row` to every row: yᵢ ← yᵢ + b, the bias of a dense layer.
    ///
    /// # Errors
    /// When `row` isn't as long as a row of this tensor, which is unchanged then.
    pub fn add_to_rows(&mut self, row: &Self) -> Result<(), ShapeError> {
        in_default_mode!(self.add_to_rows(row));
        let columns = self.shape().columns();
        if row.shape() != [columns] {
            let expected = format_args!("[{columns}]");
            return Err(ShapeError::new("addition to rows", expected, row.shape()));
        }
        bias::add_to_rows(row.as_slice(), self.as_mut_slice());
        Ok(())
    }

    /// This tensor as a matrix: all axes but the last are rows.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::zeros([2, 3, 4])?;
    /// assert_eq!((x.mat().shape(), x.mat().t().shape()), ([6, 4], [4, 6]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    pub fn mat(&self) -> MatRef<'_, T> {
        MatRef::whole(self.as_slice(), [self.shape().rows(), self.shape().columns()])
    }

    /// This tensor as a matrix to be written: all axes but the last are rows.
    pub fn mat_mut(&mut self) -> MatMut<'_, T> {
        let shape = [self.shape().rows(), self.shape().columns()];
        MatMut::whole(self.as_mut_slice(), shape)
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
}
