//! The memory that products pack their operands into.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::thread::LocalKey;

use crate::error::MemoryError;
use crate::linalg::gemm::Tiled;
use crate::memory::reserve;
use crate::scalar::Scalar;
use crate::scalar::sealed::Work;

/// Memory for the products of a task, in place of the thread's own. Which thread runs a task is chance, and
/// so would be when a thread has met the largest product: a task that brings its own has met it after its
/// first run, wherever that was.
pub struct Workspace<T: Scalar>(Vec<T>);

impl<T: Scalar> Workspace<T> {
    /// Calls `f`, whose products on this thread use this memory.
    pub fn lend<R>(&mut self, f: impl FnOnce() -> R) -> R {
        /// Exchanges it again, also when `f` panics.
        struct Lent<'a, T: Scalar>(&'a mut Vec<T>);
        impl<T: Scalar> Drop for Lent<'_, T> {
            fn drop(&mut self) {
                T::work::<Swap<'_>>(self.0);
            }
        }
        T::work::<Swap<'_>>(&mut self.0);
        let _lent = Lent(&mut self.0);
        f()
    }
}

impl<T: Scalar> Default for Workspace<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Its contents mean nothing to anybody else.
impl<T: Scalar> Clone for Workspace<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T: Scalar> fmt::Debug for Workspace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workspace({} elements)", self.0.len())
    }
}

/// An element type with a buffer for each thread.
pub(super) trait Buffered: Tiled {
    /// This thread's buffer for packed operands, kept from product to product.
    fn buffer() -> &'static LocalKey<Cell<Vec<Self>>>;
}

macro_rules! buffered {
    ($type:ident) => {
        impl Buffered for $type {
            fn buffer() -> &'static LocalKey<Cell<Vec<Self>>> {
                thread_local!(static BUFFER: Cell<Vec<$type>> = const { Cell::new(Vec::new()) });
                &BUFFER
            }
        }
    };
}

buffered!(f32);
buffered!(f64);

/// Exchanges the thread's buffer for another one.
struct Swap<'a>(PhantomData<&'a mut ()>);

impl<'a> Work for Swap<'a> {
    type On<T: 'static> = &'a mut Vec<T>;
    type Output = ();
    fn f32(buffer: &'a mut Vec<f32>) {
        swap(buffer);
    }
    fn f64(buffer: &'a mut Vec<f64>) {
        swap(buffer);
    }
}

/// In the destructor of another thread-local the thread's buffer may be gone: then each product has one of
/// its own.
fn swap<T: Buffered>(buffer: &mut Vec<T>) {
    let _ = T::buffer().try_with(|kept| {
        let own = kept.take();
        kept.set(mem::replace(buffer, own));
    });
}

/// Calls `f` with this thread's buffer, of at least `len` elements. If there is no memory for them, `f` isn't
/// called.
pub(super) fn with_buffer<T: Buffered>(
    operation: &'static str,
    len: usize,
    f: impl FnOnce(&mut [T]),
) -> Result<(), MemoryError> {
    // Taken out while it is in use, so no borrow can be outstanding. In the destructor of another
    // thread-local it may be gone: each product there has a buffer of its own.
    let mut buffer = T::buffer().try_with(Cell::take).unwrap_or_default();
    let reserved = if buffer.len() < len { grow(operation, &mut buffer, len) } else { Ok(()) };
    if reserved.is_ok() {
        f(&mut buffer);
    }
    // If it is gone, dropped with the closure.
    let _ = T::buffer().try_with(|kept| kept.set(buffer));
    reserved
}

#[cold]
fn grow<T: Scalar>(operation: &'static str, buffer: &mut Vec<T>, len: usize) -> Result<(), MemoryError> {
    reserve(operation, buffer, len)?;
    buffer.resize(len, T::ZERO);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    /// The elements of this thread's buffer.
    fn own() -> usize {
        let buffer = f32::buffer().take();
        let len = buffer.len();
        f32::buffer().set(buffer);
        len
    }

    #[test]
    fn a_task_grows_its_own_memory_and_leaves_the_threads_alone() {
        with_buffer("test", 10, |_: &mut [f32]| ()).unwrap();
        let mut workspace = Workspace::<f32>::default();
        workspace.lend(|| with_buffer("test", 100, |buffer: &mut [f32]| buffer.fill(1.0)).unwrap());
        assert_eq!((own(), workspace.0.len()), (10, 100));
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| workspace.lend(|| panic!("in a task"))));
        assert!(result.is_err());
        assert_eq!((own(), workspace.0.len()), (10, 100));
        assert_eq!(
            format!("{workspace:?} {:?}", workspace.clone()),
            "Workspace(100 elements) Workspace(0 elements)"
        );
    }
}
