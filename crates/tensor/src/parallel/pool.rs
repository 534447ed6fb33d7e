//! The threads that [`run`](super::run) hands tasks to.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::parallel::panics::{Panics, lock};

/// How long a worker spins for another job, and a caller for the end of the last task, before they sleep:
/// longer than the pauses within a small training step.
const SPIN: Duration = Duration::from_micros(100);

/// 0: not determined yet.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread is working on a task: a nested job runs on the task's own thread.
    static WITHIN_TASK: Cell<bool> = const { Cell::new(false) };
}

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

/// One job at a time, for all threads of the process.
struct Pool {
    /// A thread is using the pool.
    taken: AtomicBool,
    state: Mutex<State>,
    /// Counts jobs: a worker sees a new one without the lock.
    jobs: AtomicUsize,
    /// The job's tasks that have begun, and those of them that workers have begun.
    begun: AtomicUsize,
    by_workers: AtomicUsize,
    /// Workers in the job: written under the lock, read without it.
    working: AtomicUsize,
    panics: Mutex<Panics>,
    /// Wakes workers.
    wake: Condvar,
    /// Wakes the caller.
    done: Condvar,
}

struct State {
    /// What workers may join now.
    job: Option<Job>,
    /// How many more may.
    seats: usize,
    started: usize,
    asleep: usize,
    caller_asleep: bool,
    /// The system had no thread to give; it isn't asked again.
    refused: bool,
}

#[derive(Clone, Copy)]
struct Job {
    /// Not really static: see [`run`].
    f: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
}

static POOL: Pool = Pool {
    taken: AtomicBool::new(false),
    state: Mutex::new(State {
        job: None,
        seats: 0,
        started: 0,
        asleep: 0,
        caller_asleep: false,
        refused: false,
    }),
    jobs: AtomicUsize::new(0),
    begun: AtomicUsize::new(0),
    by_workers: AtomicUsize::new(0),
    working: AtomicUsize::new(0),
    panics: Mutex::new(Panics::NONE),
    wake: Condvar::new(),
    done: Condvar::new(),
};

/// Runs all tasks, or says that the caller has to do it alone.
pub(super) fn run(tasks: usize, f: &(dyn Fn(usize) + Sync)) -> bool {
    let threads = threads().get().min(tasks);
    if threads < 2 || WITHIN_TASK.get() || POOL.taken.swap(true, Acquire) {
        return false;
    }
    let taken = Taken;
    POOL.start(threads - 1);
    // SAFETY: `f` is called after this function has returned by nobody. A worker calls it only between
    // joining the job and leaving it (`Pool::join`, `Seat`). It can join only while `state.job` is set, and
    // it is counted in `working` under the lock that it took the job under. `Open` sets `state.job` to None
    // under the same lock and then waits until `working` is 0, and it does so when it is dropped: also when
    // this function unwinds. `f` is `Sync`, so that all may call it at once. What it pays: threads that last.
    // Scoped threads would need no lifetime to be erased, but starting one for each call takes ten times as
    // long as handing a task to a worker: `cargo bench --bench tensor -- parallel`.
    #[expect(unsafe_code, reason = "the compiler can't know that no worker keeps the reference")]
    let f = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
    let job = Job { f, tasks };
    {
        let _open = POOL.open(job, threads - 1);
        let _within = Within::enter();
        job.work_from_the_first();
    }
    let panics = std::mem::replace(&mut *lock(&POOL.panics), Panics::NONE);
    drop(taken);
    panics.resume();
    true
}

impl Pool {
    /// Starts workers until there are as many as wanted.
    fn start(&self, workers: usize) {
        let mut state = lock(&self.state);
        while state.started < workers && !state.refused {
            let name = format!("backrule-{}", state.started + 1);
            match std::thread::Builder::new().name(name).spawn(worker) {
                Ok(_) => state.started += 1,
                Err(_) => state.refused = true,
            }
        }
    }

    fn open(&self, job: Job, seats: usize) -> Open {
        let mut state = lock(&self.state);
        // The first task is the caller's, so the caller has its thread's buffers after the first job.
        self.begun.store(1, Relaxed);
        self.by_workers.store(0, Relaxed);
        self.jobs.store(self.jobs.load(Relaxed).wrapping_add(1), Release);
        (state.job, state.seats) = (Some(job), seats);
        let awake = state.started - state.asleep;
        let wanted = seats.saturating_sub(awake).min(state.asleep);
        drop(state);
        for _ in 0..wanted {
            self.wake.notify_one();
        }
        Open
    }

    /// Waits for a job that this worker hasn't seen, and joins it. A job without a seat left is passed by.
    fn join(&self, seen: &mut usize) -> (Job, Seat) {
        loop {
            spin_until(|| self.jobs.load(Acquire) != *seen);
            let mut state = lock(&self.state);
            while self.jobs.load(Relaxed) == *seen {
                state.asleep += 1;
                state = wait(&self.wake, state);
                state.asleep -= 1;
            }
            *seen = self.jobs.load(Relaxed);
            if let Some(job) = state.job
                && state.seats > 0
            {
                state.seats -= 1;
                self.working.fetch_add(1, Relaxed);
                return (job, Seat);
            }
        }
    }
}

fn worker() {
    WITHIN_TASK.set(true);
    let mut seen = 0;
    loop {
        let (job, _seat) = POOL.join(&mut seen);
        job.work_from_the_last();
    }
}

impl Job {
    /// The caller's part, whose first task counts as begun already.
    fn work_from_the_first(&self) {
        for task in 0.. {
            self.task(task);
            if POOL.begun.fetch_add(1, Relaxed) >= self.tasks {
                break;
            }
        }
    }

    /// A worker's part.
    fn work_from_the_last(&self) {
        while POOL.begun.fetch_add(1, Relaxed) < self.tasks {
            self.task(self.tasks - 1 - POOL.by_workers.fetch_add(1, Relaxed));
        }
    }

    fn task(&self, task: usize) {
        let mut panics = Panics::NONE;
        panics.catch(task, self.f);
        if let Some((task, panic)) = panics.0 {
            lock(&POOL.panics).keep(task, panic);
        }
    }
}

/// A caller's right to the pool.
struct Taken;

impl Drop for Taken {
    fn drop(&mut self) {
        POOL.taken.store(false, Release);
    }
}

/// A job that workers may join.
struct Open;

impl Drop for Open {
    fn drop(&mut self) {
        lock(&POOL.state).job = None;
        let left = || POOL.working.load(Acquire) == 0;
        if spin_until(left) {
            return;
        }
        let mut state = lock(&POOL.state);
        while !left() {
            state.caller_asleep = true;
            state = wait(&POOL.done, state);
        }
        state.caller_asleep = false;
    }
}

/// A worker's place in a job.
struct Seat;

impl Drop for Seat {
    fn drop(&mut self) {
        let state = lock(&POOL.state);
        // Release: a thread that sees this worker leave also sees its tasks' writes.
        let last = POOL.working.fetch_sub(1, Release) == 1;
        let asleep = state.caller_asleep;
        drop(state);
        if last && asleep {
            POOL.done.notify_one();
        }
    }
}

/// The caller's time within tasks.
struct Within;

impl Within {
    fn enter() -> Self {
        WITHIN_TASK.set(true);
        Self
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN_TASK.set(false);
    }
}

fn wait<'a, T>(signal: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    signal.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Whether `condition` came true within [`SPIN`].
fn spin_until(condition: impl Fn() -> bool) -> bool {
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
