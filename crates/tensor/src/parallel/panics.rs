use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The payload of a task's panic.
pub(super) type Payload = Box<dyn Any + Send>;

/// The panic of the first task that panicked.
pub(super) struct Panics(pub(super) Option<(usize, Payload)>);

impl Panics {
    pub(super) const NONE: Self = Self(None);

    /// Runs a task, and keeps its panic if it is the first by number.
    pub(super) fn catch(&mut self, task: usize, f: &dyn Fn(usize)) {
        // The caller sees half-done work only after the panic has gone on.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| f(task))) {
            discard(self.keep(task, payload));
        }
    }

    /// The panic of the later task, for [`discard`].
    #[must_use]
    pub(super) fn keep(&mut self, task: usize, payload: Payload) -> Option<Payload> {
        match &mut self.0 {
            Some((first, _)) if *first < task => Some(payload),
            kept => kept.replace((task, payload)).map(|(_, later)| later),
        }
    }

    pub(super) fn resume(self) {
        if let Some((_, payload)) = self.0 {
            resume_unwind(payload);
        }
    }
}

/// Drops a payload, whose destructor may panic, too: that panic ends here. A caller that holds a lock would
/// hold it during somebody else's code.
pub(super) fn discard(payload: Option<Payload>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Dropping it might panic again, without an end.
        std::mem::forget(another);
    }
}
