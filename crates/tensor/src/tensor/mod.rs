//! A tensor: its storage and its shape. Its operations are in the modules below.

mod batch;
mod create;
mod display;
mod indices;
mod nalgebra;
pub(crate) mod pointwise;
mod reduce;
mod rows;

use ::nalgebra::{DVector, Dyn, U1, VecStorage};

use crate::error::{MemoryError, ShapeError, TensorError};
use crate::in_default_mode;
use crate::memory::{reserve, with_room};
use crate::scalar::Scalar;
use crate::shape::{IntoShape, Shape};

/// A dense array of numbers: any number of axes up to [`MAX_RANK`](crate::MAX_RANK), row-major, contiguous.
///
/// The storage is one nalgebra vector. By convention the first axis counts samples and the last one features:
/// each row is one sample. The bytes equal those of a NumPy array in C order.
///
/// Most functions read a tensor as a matrix whose rows are all axes but the last: `[batch, time, features]`
/// has `batch × time` rows.
///
/// The type parameter defaults to `f32` where a type is written (`let x: Tensor = …`); where nothing says
/// otherwise, Rust reads plain literals as `f64`.
///
/// ```
/// use backrule_tensor::Tensor;
///
/// let x: Tensor = Tensor::from([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
/// assert_eq!(x.shape(), [2, 3]);
/// assert_eq!(x.row(1), Some(&[4.0, 5.0, 6.0][..]));
/// assert_eq!(x.get(&[1, 2]), Some(6.0));
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// # Memory
/// Where there is none, functions that need it return an error. `clone` has no error, and ends the process:
/// [`copy_from`](Self::copy_from) is a copy that can fail, and for whole networks
/// [`copy_tensors_from`](crate::NamedTensors::copy_tensors_from).
#[derive(Clone)]
pub struct Tensor<T = f32> {
    storage: DVector<T>,
    shape: Shape,
}

/// Of shapes and values: NaN differs from itself, and −0 doesn't differ from 0.
impl<T: PartialEq> PartialEq for Tensor<T> {
    fn eq(&self, other: &Self) -> bool {
        in_default_mode!(self.eq(other));
        self.shape == other.shape && self.storage.as_slice() == other.storage.as_slice()
    }
}

impl<T: Scalar> Tensor<T> {
    /// The caller has checked that the number of values is the shape's.
    pub(crate) fn from_parts(shape: Shape, values: Vec<T>) -> Self {
        let storage = VecStorage::new(Dyn(values.len()), U1, values);
        Self { storage: DVector::from_data(storage), shape }
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The shape by reference: comparing it needs no copy.
    #[inline]
    pub(crate) fn axes(&self) -> &Shape {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.storage.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.storage.is_empty()
    }

    /// All elements in row-major order.
    pub fn as_slice(&self) -> &[T] {
        self.storage.as_slice()
    }

    /// All elements in row-major order, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.storage.as_mut_slice()
    }

    /// The elements as a plain vector, in row-major order. Nothing is copied.
    pub fn into_vec(self) -> Vec<T> {
        self.storage.data.into()
    }

    /// The element at `index`, or `None` if that is outside or has another number of axes.
    pub fn get(&self, index: &[usize]) -> Option<T> {
        self.offset(index).map(|offset| self.storage[offset])
    }

    /// The element at `index`, to be changed.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let mut x: Tensor = Tensor::zeros([2, 2])?;
    /// if let Some(element) = x.get_mut(&[0, 1]) {
    ///     *element = 5.0;
    /// }
    /// assert_eq!(x, Tensor::from([[0.0, 5.0], [0.0, 0.0]]));
    /// assert_eq!(x.get_mut(&[2, 0]), None);
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    pub fn get_mut(&mut self, index: &[usize]) -> Option<&mut T> {
        (self.offset(index)).map(|offset| &mut self.storage[offset])
    }

    fn offset(&self, index: &[usize]) -> Option<usize> {
        if index.len() != self.shape.rank() {
            return None;
        }
        let mut offset = 0;
        for (&position, &size) in index.iter().zip(self.shape.iter()) {
            if position >= size {
                return None;
            }
            offset = offset * size + position;
        }
        Some(offset)
    }

    /// The same elements in another shape. Nothing is copied.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from([[1.0, 2.0, 3.0, 4.0]]).reshape([2, 2])?;
    /// assert_eq!(x, Tensor::from([[1.0, 2.0], [3.0, 4.0]]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When the number of elements would change. [`set_shape`](Self::set_shape) keeps the tensor in that
    /// case.
    pub fn reshape(mut self, shape: impl IntoShape) -> Result<Self, ShapeError> {
        self.set_shape(shape)?;
        Ok(self)
    }

    /// Reads the same elements in another shape from now on.
    ///
    /// # Errors
    /// When the number of elements would change; the tensor is unchanged then.
    pub fn set_shape(&mut self, shape: impl IntoShape) -> Result<(), ShapeError> {
        let shape = shape.into_shape()?;
        if shape.elements() != self.len() {
            let expected = format_args!("{} elements", self.len());
            return Err(ShapeError::new("reshape", expected, shape));
        }
        self.shape = shape;
        Ok(())
    }

    /// Gives this tensor another shape, for a result that is about to be written. Its elements are
    /// unspecified then (old ones and zeros).
    ///
    /// Memory is kept: a buffer that was once large enough never allocates again.
    ///
    /// # Errors
    /// When there is no such shape, or the tensor must grow and there is no memory; it is unchanged then.
    pub fn resize(&mut self, shape: impl IntoShape) -> Result<(), TensorError> {
        Ok(self.resize_for("resize", shape.into_shape()?)?)
    }

    /// [`resize`](Self::resize) on behalf of `operation`, which the error names.
    pub(crate) fn resize_for(&mut self, operation: &'static str, shape: Shape) -> Result<(), MemoryError> {
        let len = shape.elements();
        if len != self.len() {
            // nalgebra's own resize gives memory back when it shrinks; a vector doesn't.
            let storage = std::mem::replace(&mut self.storage, DVector::from_data(no_storage()));
            let mut values: Vec<T> = storage.data.into();
            let reserved = reserve(operation, &mut values, len);
            if reserved.is_ok() {
                values.resize(len, T::ZERO);
            }
            self.storage = DVector::from_data(VecStorage::new(Dyn(values.len()), U1, values));
            reserved?;
        }
        self.shape = shape;
        Ok(())
    }

    /// Becomes a copy of `other`, within the memory it has if that suffices.
    ///
    /// # Errors
    /// When there is no memory for the copy; this tensor is unchanged then.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), TensorError> {
        self.resize_for("copy", other.shape)?;
        self.as_mut_slice().copy_from_slice(other.as_slice());
        Ok(())
    }

    /// The same numbers in another precision: `x.cast::<f64>()?`.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn cast<U: Scalar>(&self) -> Result<Tensor<U>, TensorError> {
        in_default_mode!(self.cast());
        let mut values = with_room("cast", self.len())?;
        values.extend(self.as_slice().iter().map(|x| U::from_f64(x.to_f64())));
        Ok(Tensor::from_parts(self.shape, values))
    }

    /// The elements as nalgebra's storage.
    pub(crate) fn storage(&self) -> &DVector<T> {
        &self.storage
    }
}

fn no_storage<T>() -> VecStorage<T, Dyn, U1> {
    VecStorage::new(Dyn(0), U1, Vec::new())
}

/// No elements: the start of a buffer that [`Tensor::resize`] will grow.
impl<T: Scalar> Default for Tensor<T> {
    fn default() -> Self {
        Self::from_parts(Shape::EMPTY, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_rank_0_behave() {
        let empty = Tensor::<f32>::zeros([0, 3]).unwrap();
        assert!(empty.is_empty());
        assert_eq!(empty.get(&[0, 0]), None);
        assert_eq!(empty.into_vec(), []);
        let number = Tensor::scalar(2.5_f64);
        assert_eq!((number.get(&[]), number.len()), (Some(2.5), 1));
        assert_eq!(number.get(&[0]), None);
        assert_eq!(number.reshape([1, 1]).unwrap().shape(), [1, 1]);
        assert_eq!(Tensor::<f32>::from_fn([2, 0], |_| unreachable!()).unwrap().len(), 0);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(Tensor::<f32>::from_vec([2, 3], vec![0.0; 5]).is_err());
        assert!(Tensor::<f32>::zeros([usize::MAX, 3]).is_err());
        let mut x = Tensor::<f32>::zeros([2, 3]).unwrap();
        let error = x.set_shape([7]).unwrap_err();
        assert_eq!(error.to_string(), "reshape: expected 6 elements, got [7]");
        assert_eq!(x.shape(), [2, 3]);
    }

    #[test]
    fn resize_keeps_its_memory() {
        let mut x = Tensor::<f32>::zeros([4, 8]).unwrap();
        let small = [3, 2];
        let large = x.shape();
        let allocations = allocation_counter::measure(|| {
            for _ in 0..10 {
                x.resize(small).unwrap();
                x.resize(large).unwrap();
            }
        });
        assert_eq!(allocations.count_total, 0);
        assert_eq!((x.shape(), x.len()), (large, 32));
    }
}
