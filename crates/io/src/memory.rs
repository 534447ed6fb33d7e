//! Memory that the system may refuse: an error instead of an abort.

use backrule_tensor::MemoryError;

/// An empty list with room for `count` elements and no more.
pub(crate) fn with_room<I>(operation: &'static str, count: usize) -> Result<Vec<I>, MemoryError> {
    let mut list = Vec::new();
    let reserved = list.try_reserve_exact(count);
    reserved.map_err(|_| MemoryError::new(operation, count.saturating_mul(size_of::<I>())))?;
    Ok(list)
}

/// Adds an element to a list whose length nobody knows beforehand.
pub(crate) fn push<I>(operation: &'static str, list: &mut Vec<I>, element: I) -> Result<(), MemoryError> {
    let reserved = list.try_reserve(1);
    reserved.map_err(|_| MemoryError::new(operation, size_of_val(list.as_slice()).saturating_mul(2)))?;
    list.push(element);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        for (count, bytes) in [(usize::MAX, usize::MAX), (usize::MAX / 4, usize::MAX - 3)] {
            let error = with_room::<u32>("save", count).unwrap_err();
            assert_eq!((error.operation, error.bytes), ("save", bytes));
        }
    }
}
