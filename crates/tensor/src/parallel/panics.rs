use std::sync::{Mutex, MutexGuard, PoisonError};

/// The panic of the first task that panicked.
pub(super) struct Panics(pub(super) Option<(usize, Box<dyn std::any::Any + Send>)>);

impl Panics {
    pub(super) const NONE: Self = Self(None);

    /// Runs a task, and keeps its panic if it is the first by number.
    pub(super) fn catch(&mut self, task: usize, f: &dyn Fn(usize)) {
        // The caller sees half-done work only after the panic has gone on.
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(task))) {
            self.keep(task, panic);
        }
    }

    pub(super) fn keep(&mut self, task: usize, panic: Box<dyn std::any::Any + Send>) {
        if self.0.as_ref().is_none_or(|(first, _)| task < *first) {
            self.0 = Some((task, panic));
        }
    }

    pub(super) fn resume(self) {
        if let Some((_, panic)) = self.0 {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The guarded values are consistent wherever a panic is possible.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
