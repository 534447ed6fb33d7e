//! Whole numbers as elements.

use crate::error::{ShapeError, TensorError};
use crate::scalar::Scalar;
use crate::shape::{IntoShape, Shape};
use crate::tensor::Tensor;
use crate::{in_default_mode, memory};

impl<T: Scalar> Tensor<T> {
    /// Whole numbers in row-major order: indices, labels, lengths. f32 has all of them up to 2²⁴ =
    /// 16,777,216, and f64 all that there are.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from_indices([2, 2], &[3, 0, 1, 2])?;
    /// assert_eq!(x, Tensor::from([[3.0, 0.0], [1.0, 2.0]]));
    ///
    /// let error = Tensor::<f32>::from_indices([2], &[0, 16_777_217]).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "tensor from indices: expected numbers up to 16777216, got 16777217 at position 1"
    /// );
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When there aren't as many numbers as the shape has elements, a number is too large, or there is no
    /// memory.
    pub fn from_indices(shape: impl IntoShape, indices: &[u32]) -> Result<Self, TensorError> {
        let mut tensor = Self::default();
        tensor.set_indices(shape, indices)?;
        Ok(tensor)
    }

    /// Becomes these whole numbers, as by [`from_indices`](Self::from_indices), within the memory it has if
    /// that suffices: the next batch of a loop.
    ///
    /// # Errors
    /// As [`from_indices`](Self::from_indices); this tensor is unchanged then.
    pub fn set_indices(&mut self, shape: impl IntoShape, indices: &[u32]) -> Result<(), TensorError> {
        const OPERATION: &str = "tensor from indices";
        let shape: Shape = shape.into_shape()?;
        if shape.elements() != indices.len() {
            let expected = format_args!("{} numbers for {shape}", shape.elements());
            return Err(ShapeError::new(OPERATION, expected, indices.len()).into());
        }
        let most = most::<T>();
        if let Some((at, index)) = indices.iter().enumerate().find(|&(_, &index)| f64::from(index) > most) {
            let expected = format_args!("numbers up to {most}");
            return Err(ShapeError::new(OPERATION, expected, format_args!("{index} at position {at}")).into());
        }
        self.resize_for(OPERATION, shape)?;
        for (x, &index) in self.as_mut_slice().iter_mut().zip(indices) {
            *x = T::from_f64(f64::from(index));
        }
        Ok(())
    }

    /// The elements as whole numbers, in row-major order: classes from a file for a loss, or rows to
    /// [`gather`](Self::gather). The numbers given to [`from_indices`](Self::from_indices) come back.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let labels: Tensor = Tensor::from([3.0, 0.0, 1.0]);
    /// assert_eq!(labels.to_indices()?, [3, 0, 1]);
    ///
    /// let error = Tensor::from([1.0_f32, 0.5]).to_indices().unwrap_err().to_string();
    /// let expected = "expected whole numbers from 0 to 16777216, got 0.5 at element 1";
    /// assert_eq!(error, format!("indices from a tensor: {expected}"));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When an element is negative, no whole number, or above 2²⁴ in f32 and 2⁵³ in f64: beyond, one index
    /// isn't told from the next. And when there is no memory.
    pub fn to_indices(&self) -> Result<Vec<usize>, TensorError> {
        in_default_mode!(self.to_indices());
        const OPERATION: &str = "indices from a tensor";
        let most = most::<T>().min(usize::MAX as f64);
        let mut indices = memory::room(OPERATION, self.len())?;
        for (at, x) in self.as_slice().iter().enumerate() {
            let value = x.to_f64();
            // NaN is in no range.
            if !(0.0..=most).contains(&value) || value.fract() != 0.0 {
                let expected = format_args!("whole numbers from 0 to {most}");
                return Err(ShapeError::new(OPERATION, expected, format_args!("{x} at element {at}")).into());
            }
            indices.push(value as usize);
        }
        Ok(indices)
    }
}

/// The largest whole number of `T` that isn't also the nearest to another one. One more digit than ε has
/// places.
fn most<T: Scalar>() -> f64 {
    2.0 / T::EPSILON.to_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_exact_or_refused() {
        let largest = [16_777_216, 16_777_215, 0];
        let x = Tensor::<f32>::from_indices([3], &largest).unwrap();
        assert!(x.as_slice().iter().zip(largest).all(|(x, index)| f64::from(*x) == f64::from(index)));
        let x = Tensor::<f64>::from_indices([1], &[u32::MAX]).unwrap();
        assert_eq!(x.as_slice(), [4_294_967_295.0]);
        assert_eq!(Tensor::<f32>::from_indices([0, 2], &[]).unwrap().shape(), [0, 2]);
        assert!(Tensor::<f32>::from_indices([1], &[u32::MAX]).is_err());
    }

    #[test]
    fn whole_numbers_come_back_and_others_are_refused() {
        for indices in [&[][..], &[0], &[16_777_216, 16_777_215, 0, 7]] {
            let x = Tensor::<f32>::from_indices([indices.len()], indices).unwrap();
            let back = x.to_indices().unwrap();
            assert!(back.into_iter().eq(indices.iter().map(|&index| index as usize)));
        }
        let x = Tensor::<f64>::from_indices([2, 1], &[u32::MAX, 16_777_217]).unwrap();
        assert_eq!(x.to_indices().unwrap(), [u32::MAX as usize, 16_777_217]);
        assert_eq!(Tensor::from([-0.0_f32]).to_indices().unwrap(), [0]);
        for wrong in [-1.0, 0.5, 16_777_218.0, f32::NAN, f32::INFINITY, -1e-30, f32::NEG_INFINITY] {
            let error = Tensor::from([2.0, wrong]).to_indices().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got {wrong} at element 1")), "{error}");
        }
        for wrong in [9_007_199_254_740_994.0, 1e300, -1.0, 2.000_000_1] {
            let error = Tensor::from([wrong]).to_indices().unwrap_err().to_string();
            assert!(error.starts_with("indices from a tensor: expected whole numbers from 0 to "), "{error}");
        }
        #[cfg(target_pointer_width = "64")]
        assert_eq!(Tensor::from([9_007_199_254_740_992.0]).to_indices().unwrap(), [1 << 53]);
    }

    #[test]
    fn an_error_changes_nothing_and_a_warm_buffer_allocates_nothing() {
        let mut x: Tensor = Tensor::from([1.0, 2.0, 3.0]);
        let error = x.set_indices([2, 2], &[1, 2, 3]).unwrap_err().to_string();
        assert_eq!(error, "tensor from indices: expected 4 numbers for [2, 2], got 3");
        assert!(x.set_indices([2], &[1, u32::MAX]).is_err());
        assert_eq!(x, Tensor::from([1.0, 2.0, 3.0]));
        let allocations = allocation_counter::measure(|| {
            x.set_indices([1, 2], &[7, 8]).unwrap();
            x.set_indices([3], &[4, 5, 6]).unwrap();
        });
        assert_eq!(allocations.count_total, 0);
        assert_eq!(x, Tensor::from([4.0, 5.0, 6.0]));
    }
}
