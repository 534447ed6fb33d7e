//! How many threads there should be.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// 0: not determined yet.
static THREADS: AtomicUsize = AtomicUsize::new(0);

pub(super) fn threads() -> NonZeroUsize {
    let known = |threads| NonZeroUsize::new(threads);
    known(THREADS.load(Relaxed)).unwrap_or_else(|| {
        let wanted = std::env::var("BACKRULE_THREADS").ok().and_then(|text| text.trim().parse().ok());
        let default =
            wanted.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        // Another thread may have set it in between.
        match THREADS.compare_exchange(0, default.get(), Relaxed, Relaxed) {
            Ok(_) => default,
            Err(set) => known(set).unwrap_or(default),
        }
    })
}

pub(super) fn set_threads(threads: NonZeroUsize) {
    THREADS.store(threads.get(), Relaxed);
}
