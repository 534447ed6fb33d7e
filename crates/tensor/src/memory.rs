//! Memory that is asked for, and may be refused: an error instead of an abort.

use crate::error::MemoryError;
use crate::scalar::Scalar;

/// An empty vector with room for `len` items and no more, of any type.
///
/// # Errors
/// When there is no memory for them.
pub fn room<I>(operation: &'static str, len: usize) -> Result<Vec<I>, MemoryError> {
    let mut items = Vec::new();
    items.try_reserve_exact(len).map_err(|_| refused::<I>(operation, len))?;
    Ok(items)
}

/// Makes room for `more` items behind those that are there, and for as many again when it must grow.
///
/// # Errors
/// When there is no memory for them. The items stay.
pub fn make_room<I>(operation: &'static str, items: &mut Vec<I>, more: usize) -> Result<(), MemoryError> {
    items.try_reserve(more).map_err(|_| refused::<I>(operation, items.len().saturating_add(more)))
}

/// Appends an item.
///
/// # Errors
/// When there is no memory for it. The others stay.
pub fn push<I>(operation: &'static str, items: &mut Vec<I>, item: I) -> Result<(), MemoryError> {
    make_room(operation, items, 1)?;
    items.push(item);
    Ok(())
}

/// All items of an iterator.
///
/// # Errors
/// When there is no memory for them.
pub fn collect<I>(operation: &'static str, items: impl Iterator<Item = I>) -> Result<Vec<I>, MemoryError> {
    let mut all = room(operation, items.size_hint().0)?;
    for item in items {
        push(operation, &mut all, item)?;
    }
    Ok(all)
}

/// Makes `items` at least `len` long, by default ones. It never becomes shorter.
///
/// # Errors
/// When there is no memory for them. The items stay.
pub fn grow<I: Default>(operation: &'static str, items: &mut Vec<I>, len: usize) -> Result<(), MemoryError> {
    if items.len() < len {
        make_room(operation, items, len.saturating_sub(items.len()))?;
        items.resize_with(len, I::default);
    }
    Ok(())
}

/// An empty vector with room for `len` elements.
pub(crate) fn with_room<T: Scalar>(operation: &'static str, len: usize) -> Result<Vec<T>, MemoryError> {
    let mut values = Vec::new();
    reserve(operation, &mut values, len)?;
    Ok(values)
}

/// Makes room for `len` elements in all. The elements of `values` stay, also on error.
pub(crate) fn reserve<T: Scalar>(
    operation: &'static str,
    values: &mut Vec<T>,
    len: usize,
) -> Result<(), MemoryError> {
    #[cfg(test)]
    if len > 0 && tests::REFUSED.get().is_some_and(|each| len.is_multiple_of(each)) {
        return Err(refused::<T>(operation, len));
    }
    let reserved = values.try_reserve_exact(len.saturating_sub(values.len()));
    reserved.map_err(|_| refused::<T>(operation, len))
}

#[cold]
fn refused<T>(operation: &'static str, len: usize) -> MemoryError {
    MemoryError::new(operation, len.saturating_mul(size_of::<T>()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use crate::{Tensor, matmul_nt_into, parallel};

    thread_local! {
        /// On this thread there is no memory for a multiple of so many elements.
        pub(crate) static REFUSED: Cell<Option<usize>> = const { Cell::new(None) };
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        for (count, bytes) in [(usize::MAX, usize::MAX), (usize::MAX / 4, usize::MAX - 3)] {
            let error = super::room::<u32>("save", count).unwrap_err();
            assert_eq!((error.operation, error.bytes), ("save", bytes));
        }
        let mut list = vec![1_u32];
        assert!(super::make_room("save", &mut list, usize::MAX / 2).is_err());
        assert!(super::grow("save", &mut list, usize::MAX / 2).is_err());
        super::push("save", &mut list, 2).unwrap();
        assert_eq!(list, [1, 2]);
    }

    /// Alone and shared between threads, into a result that is there and one that must grow.
    #[test]
    fn a_product_without_memory_for_packed_operands_changes_nothing() {
        for threads in [1, 2] {
            parallel::set_threads(threads.try_into().unwrap());
            // On a thread that has no buffer yet.
            std::thread::scope(|scope| scope.spawn(refuse).join().unwrap());
        }
    }

    fn refuse() {
        let (x, w) = (Tensor::full([400, 100], 1.0_f32).unwrap(), Tensor::full([60, 100], 1.0).unwrap());
        let before = Tensor::full([400, 60], 2.0_f32).unwrap();
        // 64 columns and the rows of a tile, 100 terms each, and a cache line, for each of the threads.
        REFUSED.set(Some((64 + 8) * 100 + 32));
        let mut y = before.clone();
        let error = matmul_nt_into(&x, &w, 1.0, &mut y).unwrap_err();
        assert!(error.to_string().starts_with("matmul A·Bᵀ: no memory for "), "{error}");
        assert_eq!(y, before);
        let mut none = Tensor::from([7.0_f32]);
        assert!(matmul_nt_into(&x, &w, 0.0, &mut none).is_err());
        assert_eq!(none, Tensor::from([7.0]));
        REFUSED.set(None);
        matmul_nt_into(&x, &w, 1.0, &mut y).unwrap();
        assert_eq!(y, Tensor::full([400, 60], 102.0).unwrap());
    }
}
