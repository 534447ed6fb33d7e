//! New tensors: filled, from values, and from nested array literals.

use crate::error::{ShapeError, TensorError};
use crate::memory::with_room;
use crate::scalar::Scalar;
use crate::shape::{IntoShape, MAX_RANK, Shape};
use crate::tensor::Tensor;

impl<T: Scalar> Tensor<T> {
    /// All zeros.
    ///
    /// # Errors
    /// Those of [`Shape::new`], as for every function here that takes a shape; and when there is no memory
    /// for the elements, as for every function that makes or enlarges a tensor.
    pub fn zeros(shape: impl IntoShape) -> Result<Self, TensorError> {
        Self::full(shape, T::ZERO)
    }

    /// Every element `value`.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn full(shape: impl IntoShape, value: T) -> Result<Self, TensorError> {
        let shape = shape.into_shape()?;
        let mut values = with_room("new tensor", shape.elements())?;
        values.resize(shape.elements(), value);
        Ok(Self::from_parts(shape, values))
    }

    /// Zeros of the shape of `other`.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn zeros_like(other: &Self) -> Result<Self, TensorError> {
        Self::zeros(other.shape)
    }

    /// A single number: a tensor without axes.
    pub fn scalar(value: T) -> Self {
        Self::from_parts(Shape::SCALAR, vec![value])
    }

    /// Takes over `values`, which are in row-major order. Nothing is copied.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from_vec([2, 2], vec![1.0, 2.0, 3.0, 4.0])?;
    /// assert_eq!(x, Tensor::from([[1.0, 2.0], [3.0, 4.0]]));
    /// assert!(Tensor::from_vec([2, 2], vec![1.0_f32]).is_err());
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When the number of values is not the shape's, and those of [`Shape::new`].
    pub fn from_vec(shape: impl IntoShape, values: Vec<T>) -> Result<Self, ShapeError> {
        let shape = shape.into_shape()?;
        if values.len() != shape.elements() {
            let expected = format_args!("{} values for {shape}", shape.elements());
            return Err(ShapeError::new("tensor from values", expected, values.len()));
        }
        Ok(Self::from_parts(shape, values))
    }

    /// Each element from its index: `f(&[i, j])` for a matrix.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let one = |at: &[usize]| if at[0] == at[1] { 1.0 } else { 0.0 };
    /// let identity: Tensor = Tensor::from_fn([2, 2], one)?;
    /// assert_eq!(identity, Tensor::from([[1.0, 0.0], [0.0, 1.0]]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros). `f` has not been called then.
    pub fn from_fn(shape: impl IntoShape, mut f: impl FnMut(&[usize]) -> T) -> Result<Self, TensorError> {
        let shape = shape.into_shape()?;
        let mut values = with_room("new tensor", shape.elements())?;
        let mut index = [0; MAX_RANK];
        let index = &mut index[..shape.rank()];
        for _ in 0..shape.elements() {
            values.push(f(index));
            // The next index, as on a mileage counter: the last axis turns fastest.
            for (position, &size) in index.iter_mut().zip(shape.iter()).rev() {
                *position += 1;
                if *position < size {
                    break;
                }
                *position = 0;
            }
        }
        Ok(Self::from_parts(shape, values))
    }
}

// The sizes of literals are known at compile time, so nothing can fail.

/// `Tensor::from([1.0, 2.0])` has the shape `[2]`.
impl<T: Scalar, const A: usize> From<[T; A]> for Tensor<T> {
    fn from(values: [T; A]) -> Self {
        Self::from_parts(Shape::of_existing(&[A]), values.to_vec())
    }
}

/// `Tensor::from([[1.0, 2.0]])` has the shape `[1, 2]`.
impl<T: Scalar, const A: usize, const B: usize> From<[[T; B]; A]> for Tensor<T> {
    fn from(values: [[T; B]; A]) -> Self {
        Self::from_parts(Shape::of_existing(&[A, B]), values.as_flattened().to_vec())
    }
}

/// `Tensor::from([[[1.0, 2.0]]])` has the shape `[1, 1, 2]`.
impl<T: Scalar, const A: usize, const B: usize, const C: usize> From<[[[T; C]; B]; A]> for Tensor<T> {
    fn from(values: [[[T; C]; B]; A]) -> Self {
        let flat = values.as_flattened().as_flattened().to_vec();
        Self::from_parts(Shape::of_existing(&[A, B, C]), flat)
    }
}

/// `Tensor::from([[[[1.0, 2.0]]]])` has the shape `[1, 1, 1, 2]`.
impl<T: Scalar, const A: usize, const B: usize, const C: usize, const D: usize> From<[[[[T; D]; C]; B]; A]>
    for Tensor<T>
{
    fn from(values: [[[[T; D]; C]; B]; A]) -> Self {
        let flat = values.as_flattened().as_flattened().as_flattened().to_vec();
        Self::from_parts(Shape::of_existing(&[A, B, C, D]), flat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_fn_walks_the_last_axis_fastest() {
        let x = Tensor::<f32>::from_fn([2, 3, 2], |at| (at[0] * 100 + at[1] * 10 + at[2]) as f32).unwrap();
        assert_eq!(x.as_slice()[..4], [0.0, 1.0, 10.0, 11.0]);
        assert_eq!(x.get(&[1, 2, 1]), Some(121.0));
        assert_eq!(x.get(&[1, 3, 0]), None);
        assert_eq!(x.get(&[1, 2]), None);
        assert_eq!(x.as_slice().last(), Some(&121.0));
    }

    #[test]
    fn nesting_gives_the_axes() {
        let x = Tensor::from([1.0_f32, 2.0]);
        assert_eq!((x.shape()[..].to_vec(), x.as_slice()), (vec![2], &[1.0, 2.0][..]));
        let x = Tensor::from([[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]]);
        assert_eq!(x.shape(), [1, 3, 2]);
        assert_eq!(x.get(&[0, 2, 1]), Some(6.0));
        let x = Tensor::from([[[[1.0_f32]], [[2.0]]]]);
        assert_eq!(x.shape(), [1, 2, 1, 1]);
        assert_eq!(x.get(&[0, 1, 0, 0]), Some(2.0));
        let none: [[f32; 3]; 0] = [];
        assert_eq!(Tensor::from(none).shape(), [0, 3]);
    }
}
