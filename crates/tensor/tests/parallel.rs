//! The pool of threads: every task once, whatever else happens.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backrule_tensor::parallel::{for_each, run, set_threads, threads};
use backrule_tensor::{NamedTensors, Tensor, matmul_into, matmul_nt_into, matmul_tn_into};

/// The pool and the number of threads belong to the process: one test at a time.
fn with_threads(count: usize) -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(NonZeroUsize::new(count).unwrap());
    guard
}

fn counters(n: usize) -> Vec<AtomicUsize> {
    (0..n).map(|_| AtomicUsize::new(0)).collect()
}

/// Whether `condition` comes true before a generous time is over.
fn soon(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn every_task_runs_once_on_any_number_of_threads() {
    for count in [1, 2, 7, 3, 1, 2] {
        let _one = with_threads(count);
        assert_eq!(threads().get(), if cfg!(feature = "threads") { count } else { 1 });
        for tasks in [0, 1, 2, 3, 100, 1000] {
            for _ in 0..20 {
                let ran = counters(tasks);
                run(tasks, |i| {
                    ran[i].fetch_add(1, SeqCst);
                });
                assert!(ran.iter().all(|n| n.load(SeqCst) == 1), "{count} threads, {tasks} tasks");
            }
        }
    }
}

#[test]
fn items_are_split_as_the_iterator_says() {
    for count in [1, 2, 3] {
        let _one = with_threads(count);
        for n in [0, 1, 10, 1000] {
            let (mut y, x) = (vec![1.0; n], (0..n).map(|i| i as f64).collect::<Vec<_>>());
            for_each(y.chunks_mut(7).zip(x.chunks(7)).enumerate(), |(chunk, (y, x))| {
                for (y, x) in y.iter_mut().zip(x) {
                    *y += x + 1000.0 * chunk as f64;
                }
            });
            let expected = |i: usize| 1.0 + i as f64 + 1000.0 * (i / 7) as f64;
            assert!(y.iter().enumerate().all(|(i, &y)| y == expected(i)));
        }
    }
}

/// Two tasks that wait for each other end only if two threads work on them.
#[test]
#[cfg(feature = "threads")]
fn two_threads_work_at_once() {
    let _one = with_threads(2);
    for _ in 0..10 {
        let arrived = AtomicUsize::new(0);
        run(2, |_| {
            arrived.fetch_add(1, SeqCst);
            assert!(soon(|| arrived.load(SeqCst) == 2), "nobody else came");
        });
    }
}

/// So that a thread's memory is there after its first job.
#[test]
fn the_first_task_is_the_callers() {
    let _one = with_threads(3);
    let caller = std::thread::current().id();
    for round in 0..3000 {
        let first = AtomicBool::new(false);
        run(3, |i| {
            if i == 0 {
                first.store(std::thread::current().id() == caller, SeqCst);
            }
        });
        assert!(first.load(SeqCst), "round {round}");
    }
}

/// So that a thread finds the same part of the same work in its cache.
#[test]
#[cfg(feature = "threads")]
fn the_caller_begins_with_the_first_and_workers_with_the_last() {
    let _one = with_threads(2);
    let caller = std::thread::current().id();
    for round in 0..20 {
        let arrived = AtomicUsize::new(0);
        // The first task of each of two threads waits for that of the other one.
        let meet = |by_caller: &mut Option<bool>| {
            arrived.fetch_add(1, SeqCst);
            assert!(soon(|| arrived.load(SeqCst) >= 2), "nobody else came");
            *by_caller = Some(std::thread::current().id() == caller);
        };
        let mut by_caller = [None; 30];
        if round % 2 == 0 {
            let by_caller = by_caller.each_mut().map(Mutex::new);
            run(by_caller.len(), |i| meet(&mut by_caller[i].lock().unwrap()));
        } else {
            for_each(&mut by_caller, meet);
        }
        let first = by_caller.iter().take_while(|by_caller| **by_caller == Some(true)).count();
        assert!((1..30).contains(&first), "{first}");
        assert!(by_caller[first..].iter().all(|by_caller| *by_caller == Some(false)), "{by_caller:?}");
    }
}

/// Workers that an earlier number of threads has started stay out.
#[test]
fn no_more_threads_than_wanted() {
    for count in [4, 2] {
        let _one = with_threads(count);
        for _ in 0..50 {
            let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            run(16, |_| {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::sleep(Duration::from_micros(50));
                now.fetch_sub(1, SeqCst);
            });
            assert!(most.load(SeqCst) <= count);
        }
    }
}

#[test]
fn within_a_task_everything_runs_on_its_thread() {
    let _one = with_threads(3);
    let ran = counters(12);
    run(3, |i| {
        let outer = std::thread::current().id();
        run(4, |j| {
            assert_eq!(std::thread::current().id(), outer);
            ran[4 * i + j].fetch_add(1, SeqCst);
        });
    });
    assert!(ran.iter().all(|n| n.load(SeqCst) == 1));
}

/// The first caller's task ends only after the second caller is done.
#[test]
fn while_the_pool_is_in_use_others_work_alone() {
    let _one = with_threads(2);
    let (began, second_done) = (Barrier::new(2), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            run(2, |i| {
                if i == 0 {
                    began.wait();
                    assert!(soon(|| second_done.load(SeqCst)), "the second caller is stuck");
                }
            });
        });
        began.wait();
        let ran = counters(5);
        run(5, |i| {
            ran[i].fetch_add(1, SeqCst);
        });
        assert!(ran.iter().all(|n| n.load(SeqCst) == 1));
        second_done.store(true, SeqCst);
    });
}

#[test]
fn a_panic_arrives_after_all_others_have_run_and_the_pool_lives_on() {
    for count in [1, 2, 3] {
        let _one = with_threads(count);
        for round in 0..20 {
            let ran = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                run(10, |i| {
                    ran.fetch_add(1, SeqCst);
                    if i % 4 == 2 {
                        resume_unwind(Box::new(i)); // without a message on the terminal
                    }
                });
            }));
            assert_eq!(result.unwrap_err().downcast_ref::<usize>(), Some(&2), "round {round}");
            assert_eq!(ran.load(SeqCst), 10);
            assert!(catch_unwind(|| run(1, |_| resume_unwind(Box::new(())))).is_err());
        }
    }
}

/// Many short jobs in a row, with pauses now and then that let the workers fall asleep.
#[test]
fn results_of_workers_are_seen_by_the_caller() {
    let _one = with_threads(3);
    let mut sums = [0_u64; 9];
    for round in 1..=3000_u64 {
        for_each(sums.iter_mut(), |sum| *sum += round);
        assert!(sums.iter().all(|&sum| sum == round * (round + 1) / 2), "round {round}");
        if round % 500 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn nothing_is_allocated_once_the_workers_run() {
    let _one = with_threads(3);
    let mut y = vec![0.0_f32; 1000];
    let mut step = || for_each(y.chunks_mut(10), |y| y.iter_mut().for_each(|y| *y += 1.0));
    step();
    let allocations = allocation_counter::measure(|| {
        for round in 0..100 {
            step();
            if round % 30 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn the_second_product_allocates_nothing() {
    for [m, n, k] in [[1, 10, 64], [4, 9, 8], [32, 32, 64], [300, 100, 257], [7, 600, 300], [20, 10, 700]] {
        let full = |rows, columns| Tensor::<f32>::full([rows, columns], 1.0).unwrap();
        let (mut c, operands) = (full(m, n), [full(m, k), full(k, n), full(k, m), full(n, k)]);
        let [a, b, at, bt] = &operands;
        let mut products = || {
            matmul_into(a, b, 1.0, &mut c).unwrap();
            matmul_nt_into(a, bt, 1.0, &mut c).unwrap();
            matmul_tn_into(at, b, 1.0, &mut c).unwrap();
        };
        // Alone, this thread packs every operand; with two, it starts the worker.
        for count in [1, 2] {
            let _one = with_threads(count);
            products();
            let allocations = allocation_counter::measure(&mut products);
            assert_eq!(allocations.count_total, 0, "{m} {n} {k}, {count} threads");
        }
    }
}

/// The payload of a task's panic. Its destructor panics, too.
struct Bomb(usize);

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new(Fragment));
    }
}

struct Fragment;

impl Drop for Fragment {
    fn drop(&mut self) {
        resume_unwind(Box::new(()));
    }
}

#[test]
fn a_payload_whose_destructor_panics_changes_neither_this_job_nor_the_next() {
    for count in [1, 2, 3] {
        let _one = with_threads(count);
        for round in 0..100 {
            let ran = AtomicUsize::new(0);
            let job = || {
                run(8, |i| {
                    ran.fetch_add(1, SeqCst);
                    resume_unwind(Box::new(Bomb(i)));
                });
            };
            let payload = catch_unwind(AssertUnwindSafe(job)).unwrap_err();
            assert_eq!(payload.downcast_ref::<Bomb>().unwrap().0, 0, "round {round}");
            std::mem::forget(payload);
            assert_eq!(ran.load(SeqCst), 8);
            for _ in 0..3 {
                let clean = AtomicUsize::new(0);
                run(4, |_| {
                    clean.fetch_add(1, SeqCst);
                });
                assert_eq!(clean.load(SeqCst), 4);
            }
        }
    }
}

/// In the destructor of a thread-local the crate's own thread-locals may be gone.
#[test]
fn products_and_tasks_in_the_destructor_of_a_thread_local() {
    struct Late(Mutex<Option<std::sync::mpsc::Sender<[f32; 2]>>>);

    impl Drop for Late {
        fn drop(&mut self) {
            let product = |size| {
                let (a, b) = (Tensor::<f32>::full([size, 200], 1.0), Tensor::full([200, 110], 2.0));
                a.unwrap().matmul(&b.unwrap()).unwrap().sum() / (size * 110) as f32
            };
            // On one thread, and shared.
            let results = [product(20), product(300)];
            let names = (0..100).map(|i| (i.to_string(), Tensor::<f32>::full([1], 1.0).unwrap()));
            let (source, mut target) = (names.clone().collect::<Vec<_>>(), names.collect::<Vec<_>>());
            target.iter_mut().for_each(|(_, x)| x.fill(0.0));
            NamedTensors::copy_tensors_from(&mut target, &source).unwrap();
            assert_eq!(target, source);
            if let Some(sender) = self.0.lock().unwrap().take() {
                sender.send(results).unwrap();
            }
        }
    }

    thread_local! {
        static LATE: Late = const { Late(Mutex::new(None)) };
    }

    for count in [1, 2, 3] {
        let _one = with_threads(count);
        // Destructors run in the order of the thread-locals' first use, or in the opposite one.
        for late_first in [true, false] {
            let (sender, receiver) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let late = || LATE.with(|late| *late.0.lock().unwrap() = Some(sender));
                let product = || {
                    Tensor::<f32>::full([20, 200], 1.0)
                        .unwrap()
                        .matmul(&Tensor::full([200, 110], 2.0).unwrap())
                };
                if late_first {
                    late();
                    product().unwrap();
                } else {
                    product().unwrap();
                    late();
                }
            });
            thread.join().unwrap();
            assert_eq!(receiver.recv(), Ok([400.0; 2]), "{count} threads, {late_first}");
        }
    }
}
