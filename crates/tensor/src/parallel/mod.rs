//! Independent tasks on several threads, for work that is split in a fixed way.
//!
//! **The same bits on any number of threads** are the caller's part of the contract. Split the work by its
//! size, never by [`threads`], and let no task add to another one's result.
//!
//! ```
//! use backrule_tensor::parallel;
//!
//! // yᵢ ← yᵢ + xᵢ, in chunks of three.
//! let (mut y, x) = (vec![1.0_f32; 8], vec![2.0; 8]);
//! parallel::for_each(y.chunks_mut(3).zip(x.chunks(3)), |(y, x)| {
//!     for (y, &x) in y.iter_mut().zip(x) {
//!         *y += x;
//!     }
//! });
//! assert_eq!(y, [3.0; 8]);
//! ```
//!
//! The caller works on the first task and goes on from there; workers begin with the last. The caller waits
//! only for tasks that a worker has begun. Once the workers have started, nothing is allocated. Without the
//! feature `threads` all tasks run on the caller's thread.
//!
//! Handing out two tasks costs about a microsecond while a worker spins, and some ten when it must be woken
//! (`cargo bench --bench tensor -- parallel`). A task should take longer than that.

mod panics;
#[cfg(feature = "threads")]
mod pool;
#[cfg(feature = "threads")]
mod sync;
#[cfg(all(test, feature = "threads"))]
mod tests;
#[cfg(feature = "threads")]
mod threads;

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use crate::in_default_mode;
use crate::parallel::panics::Panics;

/// The process's pool.
#[cfg(feature = "threads")]
static POOL: pool::Pool = pool::Pool::new();

/// Calls f(0), …, f(tasks − 1), each once, on this thread and the pool's workers, and returns when all are
/// done. f(0) is called on this thread, which goes on from there, while workers begin with the last: when the
/// same work is handed out again, each thread's share is still in its cache.
///
/// They run on this thread only if [`threads`] is 1, if this is called from within a task, or while another
/// thread is using the pool.
///
/// # Panics
/// When a task does, with the panic of the first such task, after all others have run.
pub fn run(tasks: usize, f: impl Fn(usize) + Sync) {
    in_default_mode!(run(tasks, f));
    if tasks == 1 {
        return f(0);
    }
    #[cfg(feature = "threads")]
    if POOL.run(threads().get(), tasks, &f) {
        return;
    }
    let mut panics = Panics::NONE;
    for task in 0..tasks {
        panics.catch(task, &f);
    }
    panics.resume();
}

/// Calls `f` for every item, as [`run`] does for every number. The iterator splits the data: chunks of a
/// slice, several slices zipped, parts of a structure. Workers take items from its end.
///
/// # Panics
/// As [`run`].
pub fn for_each<I>(items: I, f: impl Fn(I::Item) + Sync)
where
    I: IntoIterator<IntoIter: ExactSizeIterator + DoubleEndedIterator + Send>,
{
    in_default_mode!(for_each(items, f));
    let mut items = items.into_iter();
    let tasks = items.len();
    if tasks == 1 {
        return items.next().into_iter().for_each(f);
    }
    // One lock per item instead of `unsafe`: it is held for the iterator's next(), some ten nanoseconds.
    let items = Mutex::new((0, items));
    run(tasks, |task| {
        let item = {
            let (first, items) = &mut *items.lock().unwrap_or_else(PoisonError::into_inner);
            if task == *first {
                *first += 1;
                items.next()
            } else {
                items.next_back()
            }
        };
        if let Some(item) = item {
            f(item);
        }
    });
}

/// How many threads [`run`] uses at most, the caller's included: the last number of [`set_threads`], else the
/// environment variable `BACKRULE_THREADS` if it is a number above 0, else as many as the system says are
/// available. 1 without the feature `threads`.
pub fn threads() -> NonZeroUsize {
    #[cfg(feature = "threads")]
    return threads::threads();
    #[cfg(not(feature = "threads"))]
    NonZeroUsize::MIN
}

/// The threads that [`run`] would use at most if it were called here: within a task, this one.
pub(crate) fn threads_here() -> usize {
    #[cfg(feature = "threads")]
    if sync::is_within_task() {
        return 1;
    }
    threads().get()
}

/// Changes the number of threads, for the whole process, from the next call of [`run`] on. Workers start when
/// they are first needed, and never end; those too many sleep. Without the feature `threads` this does
/// nothing.
pub fn set_threads(threads: NonZeroUsize) {
    #[cfg(feature = "threads")]
    threads::set_threads(threads);
    #[cfg(not(feature = "threads"))]
    let _ = threads;
}
