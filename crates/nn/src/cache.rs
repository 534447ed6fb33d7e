//! A layer's notes between forward and backward.

use backrule_tensor::{MemoryError, Scalar, Tensor, memory};

/// A layer's notes between forward and backward: operands of its rule besides x and y.
///
/// It belongs to the caller's [`Tape`](crate::Tape), not to the layer, and keeps its memory from step to
/// step. `forward` must set whatever `backward` reads: after another forward pass the old contents are still
/// there.
#[derive(Clone, Debug)]
pub struct Cache<T: Scalar = f32> {
    tensors: Vec<Tensor<T>>,
    indices: Vec<u32>,
    children: Vec<Cache<T>>,
}

impl<T: Scalar> Cache<T> {
    /// This layer's `N` tensors, such as a dropout mask. They are empty at first.
    ///
    /// ```
    /// use backrule_nn::Cache;
    /// use backrule_nn::tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from([[1.0, 2.0]]);
    /// let mut cache = Cache::default();
    /// let [mask, scale] = cache.tensors();
    /// mask.resize(x.shape())?;
    /// scale.copy_from(&x)?;
    /// assert_eq!(cache.tensors::<2>()[1], x);
    /// # Ok::<(), backrule_nn::tensor::TensorError>(())
    /// ```
    pub fn tensors<const N: usize>(&mut self) -> &mut [Tensor<T>; N] {
        let (tensors, []) = self.arrays();
        tensors
    }

    /// A container's `N` tensors, and the caches of its `M` children.
    pub fn arrays<const N: usize, const M: usize>(&mut self) -> (&mut [Tensor<T>; N], &mut [Self; M]) {
        grow(&mut self.tensors, N);
        grow(&mut self.children, M);
        match (self.tensors.first_chunk_mut(), self.children.first_chunk_mut()) {
            (Some(tensors), Some(children)) => (tensors, children),
            _ => unreachable!("both have grown"),
        }
    }

    /// Whole numbers, such as the place of each maximum: empty at first, and kept like the tensors.
    pub fn indices(&mut self) -> &mut Vec<u32> {
        &mut self.indices
    }

    /// This layer's `N` tensors, and its whole numbers.
    pub fn tensors_and_indices<const N: usize>(&mut self) -> (&mut [Tensor<T>; N], &mut Vec<u32>) {
        grow(&mut self.tensors, N);
        match self.tensors.first_chunk_mut() {
            Some(tensors) => (tensors, &mut self.indices),
            None => unreachable!("it has grown"),
        }
    }

    /// A container's own `tensors` and the caches of its `children`, where their numbers are known at run
    /// time only.
    ///
    /// # Errors
    /// When there is no memory for so many.
    pub fn split(
        &mut self,
        tensors: usize,
        children: usize,
    ) -> Result<(&mut [Tensor<T>], &mut [Self]), MemoryError> {
        memory::grow(OPERATION, &mut self.tensors, tensors)?;
        memory::grow(OPERATION, &mut self.children, children)?;
        Ok((&mut self.tensors[..tensors], &mut self.children[..children]))
    }
}

/// Names the operation in errors.
const OPERATION: &str = "notes of a pass";

/// For a few items, whose number the program says.
fn grow<I: Default>(items: &mut Vec<I>, len: usize) {
    if items.len() < len {
        items.resize_with(len, I::default);
    }
}

impl<T: Scalar> Default for Cache<T> {
    fn default() -> Self {
        Self { tensors: Vec::new(), indices: Vec::new(), children: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_stay_when_it_grows_or_is_read_in_part() {
        let mut cache = Cache::<f32>::default();
        let (tensors, children) = cache.split(1, 2).unwrap();
        tensors[0] = Tensor::from([1.0]);
        children[1].tensors::<1>()[0] = Tensor::from([2.0]);
        assert_eq!(cache.tensors::<3>()[0], Tensor::from([1.0]));
        let (tensors, children) = cache.split(0, 2).unwrap();
        assert_eq!(tensors.len(), 0);
        assert_eq!(children[1].tensors::<1>()[0], Tensor::from([2.0]));
    }
}
