//! Samples: entries of the first axis.

use std::ops::Range;

use crate::error::{ShapeError, TensorError};
use crate::memory::with_room;
use crate::scalar::Scalar;
use crate::shape::{MAX_RANK, Shape};
use crate::tensor::Tensor;

impl<T: Scalar> Tensor<T> {
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

    /// Becomes the samples of `source` at `indices`, in that order: a shuffled mini-batch, without allocation
    /// once there was a batch of this size.
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
    /// When an index is not on the first axis of `source`, or there is no memory; this tensor is unchanged
    /// then.
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
        let mut sizes = [0; MAX_RANK];
        let sizes = &mut sizes[..self.shape().rank()];
        sizes.copy_from_slice(&self.shape());
        if let Some(first) = sizes.first_mut() {
            *first = samples;
        }
        Shape::new(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Tensor<f32> {
        Tensor::from_fn([4, 2, 3], |at| (at[0] * 100 + at[1] * 10 + at[2]) as f32).unwrap()
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
}
