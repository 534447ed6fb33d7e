//! The pool's types from the system. A model of the pool has another file in this one's place, with types
//! that try out the orders of threads.

use std::cell::Cell;
use std::time::{Duration, Instant};

pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize};
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

pub(super) use crate::float_mode::set_default as set_default_float_mode;

/// A constant function. In a model it isn't constant.
macro_rules! constant {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)+) => {
        $(#[$attribute])* $visibility const fn $($rest)+
    };
}
pub(super) use constant;

/// How long a worker spins for another job, and a caller for the end of the last task, before they sleep:
/// longer than the pauses within a small training step.
const SPIN: Duration = Duration::from_micros(100);

thread_local! {
    /// Whether this thread is working on a task: a nested job runs on the task's own thread. It has no
    /// destructor, so it is there in those of other thread-locals.
    static WITHIN_TASK: Cell<bool> = const { Cell::new(false) };
}

#[inline]
pub(super) fn is_within_task() -> bool {
    WITHIN_TASK.get()
}

#[inline]
pub(super) fn set_within_task(within: bool) {
    WITHIN_TASK.set(within);
}

/// Starts a thread that never ends, if the system has one to give.
pub(super) fn spawn(name: String, f: impl FnOnce() + Send + 'static) -> bool {
    std::thread::Builder::new().name(name).spawn(f).is_ok()
}

/// Whether `condition` came true within [`SPIN`].
pub(super) fn spin_until(condition: impl Fn() -> bool) -> bool {
    // Some microseconds without a call of the system.
    const LOOKS: usize = 64;
    for _ in 0..LOOKS {
        if condition() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while start.elapsed() < SPIN {
        // On a busy machine the other thread may need this core.
        std::thread::yield_now();
        if condition() {
            return true;
        }
    }
    false
}
