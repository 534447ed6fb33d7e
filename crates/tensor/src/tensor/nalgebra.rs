//! To and from nalgebra. nalgebra is column-major, a tensor row-major: the same bytes are read with the axes
//! swapped.

use ::nalgebra::{DMatrix, DMatrixView, DVector};

use crate::scalar::Scalar;
use crate::shape::Shape;
use crate::tensor::Tensor;

impl<T: Scalar + ::nalgebra::Scalar> Tensor<T> {
    /// The very same bytes as nalgebra's matrix of features × samples: column j is row j of this tensor, and
    /// `m[(i, j)]` is the tensor's element `[j, i]`. On this view a dense layer is literally Y = W X + b.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    /// let m = x.as_matrix();
    /// assert_eq!(m.shape(), (3, 2));
    /// assert_eq!(m.column(1).as_slice(), [4.0, 5.0, 6.0]);
    /// ```
    pub fn as_matrix(&self) -> DMatrixView<'_, T> {
        let (rows, columns) = (self.shape().columns(), self.shape().rows());
        DMatrixView::from_slice(self.storage().as_slice(), rows, columns)
    }
}

/// The inverse of [`Tensor::as_matrix`]: each column of `matrix` becomes a row of the tensor, and no byte
/// moves.
///
/// To keep rows as rows instead, convert `matrix.transpose()`.
///
/// ```
/// use backrule_tensor::Tensor;
/// use backrule_tensor::nalgebra::DMatrix;
///
/// let x: Tensor = DMatrix::from_row_slice(3, 2, &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]).into();
/// assert_eq!(x, Tensor::from([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]));
/// ```
impl<T: Scalar> From<DMatrix<T>> for Tensor<T> {
    fn from(matrix: DMatrix<T>) -> Self {
        let shape = Shape::of_existing(&[matrix.ncols(), matrix.nrows()]);
        Self::from_parts(shape, matrix.data.into())
    }
}

/// A vector of n numbers becomes a tensor of shape `[n]`. Nothing is copied.
impl<T: Scalar> From<DVector<T>> for Tensor<T> {
    fn from(vector: DVector<T>) -> Self {
        let shape = Shape::of_existing(&[vector.nrows()]);
        Self::from_parts(shape, vector.data.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_swap_the_axes_and_keep_the_bytes() {
        let x = Tensor::from([[1.0_f64, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let m = x.as_matrix();
        for i in 0..3 {
            for j in 0..2 {
                assert_eq!(Some(m[(i, j)]), x.get(&[j, i]));
            }
        }
        assert_eq!(Tensor::from(m.into_owned()), x);
        let v = Tensor::from(DVector::from_vec(vec![1.0_f32, 2.0]));
        assert_eq!(v, Tensor::from([1.0, 2.0]));
        let none = Tensor::from(DMatrix::<f32>::zeros(0, 3));
        assert_eq!(none.shape(), [3, 0]);
        assert_eq!(none.as_matrix().shape(), (0, 3));
        assert_eq!(Tensor::scalar(1.0_f32).as_matrix().shape(), (1, 1));
    }
}
