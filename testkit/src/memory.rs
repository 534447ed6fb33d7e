use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Allocations of fewer bytes always succeed: code that can't return an error makes them.
const LARGE: usize = 4 << 10;

/// Large allocations until one fails; 0: none fails.
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// Allocations of the process so far.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The system's memory, but for one large allocation of the process, on whatever thread: it fails, when
/// [`without`](Self::without) says so. For `#[global_allocator]`.
pub struct Failing;

impl Failing {
    /// Calls `f` while the `n`-th large allocation from now on fails, once. Also says whether there were so
    /// many.
    pub fn without<R>(n: usize, f: impl FnOnce() -> R) -> (R, bool) {
        struct Disarmed;
        impl Drop for Disarmed {
            fn drop(&mut self) {
                LEFT.store(0, Relaxed);
            }
        }
        LEFT.store(n, Relaxed);
        let _disarmed = Disarmed;
        let result = f();
        (result, LEFT.load(Relaxed) == 0)
    }

    /// How many allocations there are on all threads of the process while `f` runs.
    pub fn count(f: impl FnOnce()) -> usize {
        let before = COUNT.load(Relaxed);
        f();
        COUNT.load(Relaxed) - before
    }

    fn refuses(size: usize) -> bool {
        COUNT.fetch_add(1, Relaxed);
        size >= LARGE
            && LEFT.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok_and(|left| left == 1)
    }
}

// SAFETY: every call goes on to the system's allocator with the arguments that it came with, or gives null:
// that is how an allocator says that there is no memory. After a null from `realloc` the old block is as it
// was, because nobody was asked to change it.
#[expect(unsafe_code, reason = "an allocator can't be written without")]
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if Self::refuses(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; every block comes from the system.
        unsafe { System.dealloc(block, layout) }
    }
}
