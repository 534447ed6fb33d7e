//! Tensors from nested array literals: their sizes are known at compile time, so nothing can fail.

use crate::{Scalar, Shape, Tensor};

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
