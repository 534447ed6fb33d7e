use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::Relaxed;

use crate::parallel::pool::Pool;
use crate::parallel::sync::{AtomicUsize, thread};

/// Runs `f` once for each schedule: a thread that never ends, or waits for ever, is an error as well.
fn check(f: impl Fn() + Send + Sync + 'static) {
    #[cfg(feature = "loom")]
    {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = model.preemption_bound.or(Some(3));
        model.max_branches = 100_000;
        model.check(f);
    }
    #[cfg(all(feature = "shuttle", not(feature = "loom")))]
    {
        let schedules = std::env::var("SCHEDULES").ok().and_then(|text| text.parse().ok());
        shuttle::check_random(f, schedules.unwrap_or(20_000));
    }
}

/// It lasts for ever: so do the references of its workers.
fn pool() -> &'static Pool {
    Box::leak(Box::new(Pool::new()))
}

/// Runs `tasks` tasks. A result is written without any order of its own: the caller sees all of them only if
/// the pool orders the end of each task before that of `run`.
fn job(pool: &'static Pool, threads: usize, tasks: usize) -> bool {
    let results: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    let ran = pool.run(threads, tasks, &|task| {
        let before = results[task].load(Relaxed);
        results[task].store(before + task + 1, Relaxed);
    });
    for (task, result) in results.iter().enumerate() {
        assert_eq!(result.load(Relaxed), if ran { task + 1 } else { 0 }, "task {task}");
    }
    ran
}

/// Open, run, and the end of the workers, wherever they are.
#[test]
fn two_workers_and_three_tasks() {
    check(|| {
        let pool = pool();
        assert!(job(pool, 3, 3));
        pool.end();
    });
}

/// The second job finds the worker within the first one, spinning, or asleep.
#[test]
fn one_worker_and_two_jobs() {
    check(|| {
        let pool = pool();
        assert!(job(pool, 2, 2));
        assert!(job(pool, 2, 3));
        pool.end();
    });
}

/// The second job has a seat less than there are workers.
#[test]
fn two_workers_and_a_seat_for_one() {
    check(|| {
        let pool = pool();
        assert!(job(pool, 3, 3));
        assert!(job(pool, 2, 2));
        pool.end();
    });
}

#[test]
fn a_worker_more_for_the_second_job() {
    check(|| {
        let pool = pool();
        assert!(job(pool, 2, 2));
        assert!(job(pool, 3, 3));
        pool.end();
    });
}

/// The first task's panic arrives after all tasks have run, and the next job has none.
#[test]
fn tasks_that_panic() {
    check(|| {
        let pool = pool();
        let ran = AtomicUsize::new(0);
        let panics = || {
            pool.run(3, 3, &|task| {
                ran.fetch_add(1, Relaxed);
                if task > 0 {
                    resume_unwind(Box::new(task));
                }
            })
        };
        let payload = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!((payload.downcast_ref(), ran.load(Relaxed)), (Some(&1_usize), 3));
        assert!(job(pool, 2, 2));
        pool.end();
    });
}

#[test]
fn a_task_runs_its_own_tasks_alone() {
    check(|| {
        let pool = pool();
        let ran = AtomicUsize::new(0);
        let outer = pool.run(3, 3, &|_| {
            if !pool.run(3, 3, &|_| panic!("a nested job in the pool")) {
                ran.fetch_add(1, Relaxed);
            }
        });
        assert!(outer && ran.load(Relaxed) == 3);
        pool.end();
    });
}

/// The second caller is sent away. At least one of them is the first.
#[test]
fn two_callers() {
    check(|| {
        let pool = pool();
        let other = thread::spawn(move || job(pool, 2, 2));
        let here = job(pool, 2, 2);
        let there = other.join().unwrap();
        assert!(here || there);
        pool.end();
    });
}

/// Nobody has to call anything before the end.
#[test]
fn a_pool_that_ends_unused() {
    check(|| pool().end());
}
