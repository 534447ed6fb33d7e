//! In the place of the tensor crate's `parallel/sync.rs`.

use std::cell::Cell;

#[cfg(feature = "loom")]
use loom as model;
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
use shuttle as model;

pub(super) use model::sync::atomic::{AtomicBool, AtomicUsize};
pub(super) use model::sync::{Condvar, Mutex, MutexGuard};
pub(super) use model::thread;

macro_rules! constant {
    ($($function:tt)+) => {
        $($function)+
    };
}
pub(super) use constant;

model::thread_local! {
    static WITHIN_TASK: Cell<bool> = Cell::new(false);
}

pub(super) fn is_within_task() -> bool {
    WITHIN_TASK.with(Cell::get)
}

pub(super) fn set_within_task(within: bool) {
    WITHIN_TASK.with(|cell| cell.set(within));
}

pub(super) fn spawn(_: String, f: impl FnOnce() + Send + 'static) -> bool {
    thread::spawn(f);
    true
}

/// One look: that it succeeds and that it fails are all that can come of many.
pub(super) fn spin_until(condition: impl Fn() -> bool) -> bool {
    condition()
}

pub(super) fn set_default_float_mode() {}
