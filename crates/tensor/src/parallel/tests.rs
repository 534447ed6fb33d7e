use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::parallel::pool::Pool;

/// A pool of this test's own, whose workers end with it.
struct Own(&'static Pool);

impl Own {
    fn new() -> Self {
        Self(Box::leak(Box::new(Pool::new())))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The worker's task takes fifty times as long as the caller spins: the caller must sleep until it is done.
#[test]
fn a_caller_waits_for_a_worker_for_as_long_as_it_takes() {
    let pool = Own::new();
    for round in 0..20 {
        let (caller, begun, done) =
            (std::thread::current().id(), AtomicBool::new(false), AtomicUsize::new(0));
        let by_worker = AtomicUsize::new(0);
        let ran = pool.0.run(2, 2, &|_| {
            if std::thread::current().id() == caller {
                // The worker has begun, or the caller would do its task, too.
                let start = Instant::now();
                while !begun.load(SeqCst) && start.elapsed() < Duration::from_secs(20) {
                    std::thread::yield_now();
                }
            } else {
                begun.store(true, SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                by_worker.fetch_add(1, SeqCst);
            }
            done.fetch_add(1, SeqCst);
        });
        assert_eq!((ran, done.load(SeqCst), by_worker.load(SeqCst)), (true, 2, 1), "round {round}");
    }
}

#[test]
fn a_nested_job_and_one_of_another_thread_are_not_the_pools() {
    let pool = Own::new();
    let refused = AtomicUsize::new(0);
    assert!(pool.0.run(2, 4, &|_| {
        let by_another = std::thread::scope(|scope| scope.spawn(|| pool.0.run(2, 2, &|_| {})).join());
        let within = pool.0.run(2, 2, &|_| {});
        refused.fetch_add(usize::from(!within && by_another.is_ok_and(|ran| !ran)), SeqCst);
    }));
    assert_eq!(refused.load(SeqCst), 4);
    assert!(pool.0.run(2, 2, &|_| {}));
    assert!(!pool.0.run(1, 2, &|_| {}) && !pool.0.run(2, 1, &|_| {}));
}
