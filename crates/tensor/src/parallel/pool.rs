//! A pool of threads that works on the tasks of one job at a time.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::parallel::panics::{Panics, discard};
use crate::parallel::sync::{
    AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, constant, is_within_task, set_default_float_mode,
    set_within_task, spawn, spin_until,
};

/// One job at a time, for all threads that share it.
pub(super) struct Pool {
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
    /// The job that workers may join now.
    job: Option<Job>,
    /// How many more may.
    seats: usize,
    started: usize,
    asleep: usize,
    caller_asleep: bool,
    /// The system had no thread to give; it isn't asked again.
    refused: bool,
    /// Workers end.
    ended: bool,
}

#[derive(Clone, Copy)]
struct Job {
    /// Not really static: see [`Pool::run`].
    f: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
}

impl Pool {
    constant! {
        /// A pool without threads yet.
        pub(super) fn new() -> Self {
            let (job, seats, started, asleep) = (None, 0, 0, 0);
            let (caller_asleep, refused, ended) = (false, false, false);
            let state = State { job, seats, started, asleep, caller_asleep, refused, ended };
            Self {
                taken: AtomicBool::new(false),
                state: Mutex::new(state),
                jobs: AtomicUsize::new(0),
                begun: AtomicUsize::new(0),
                by_workers: AtomicUsize::new(0),
                working: AtomicUsize::new(0),
                panics: Mutex::new(Panics::NONE),
                wake: Condvar::new(),
                done: Condvar::new(),
            }
        }
    }

    /// Runs all tasks on no more than so many threads, or says that the caller has to do it alone.
    pub(super) fn run(&'static self, threads: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) -> bool {
        let threads = threads.min(tasks);
        if threads < 2 || is_within_task() || self.taken.swap(true, Acquire) {
            return false;
        }
        let taken = Taken(self);
        self.start(threads - 1);
        // SAFETY: `f` is called after this function has returned by nobody. A worker calls it only between
        // joining the job and leaving it (`join`, `Seat`). It can join only while `state.job` is set, and
        // it is counted in `working` under the lock that it took the job under. `Open` sets `state.job` to
        // None under the same lock and then waits until `working` is 0, and it does so when it is dropped:
        // also when this function unwinds. `f` is `Sync`, so that all may call it at once. Its gain:
        // threads that last. Scoped threads would need no lifetime to be erased, but starting one for each
        // call takes ten times as long as handing a task to a worker: `cargo bench --bench tensor --
        // parallel`.
        #[expect(unsafe_code, reason = "the compiler can't know that no worker keeps the reference")]
        let f = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        {
            let job = Job { f, tasks };
            let _open = self.open(job, threads - 1);
            let _within = Within::enter();
            self.work_from_the_first(job);
        }
        let panics = std::mem::replace(&mut *lock(&self.panics), Panics::NONE);
        drop(taken);
        panics.resume();
        true
    }

    /// Starts workers until there are as many as wanted.
    fn start(&'static self, workers: usize) {
        let mut state = lock(&self.state);
        while state.started < workers && !state.refused {
            let name = format!("backrule-{}", state.started + 1);
            match spawn(name, || self.work()) {
                true => state.started += 1,
                false => state.refused = true,
            }
        }
    }

    fn open(&'static self, job: Job, seats: usize) -> Open {
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
        Open(self)
    }

    /// A worker's life.
    fn work(&'static self) {
        set_within_task(true);
        let mut seen = 0;
        while let Some((job, _seat)) = self.join(&mut seen) {
            // A thread starts in the mode of the one that starts it, and a task may leave another behind.
            set_default_float_mode();
            self.work_from_the_last(job);
        }
    }

    /// Waits for a job that this worker hasn't seen, and joins it. A job without a seat left is passed by.
    /// None when the pool has ended.
    fn join(&'static self, seen: &mut usize) -> Option<(Job, Seat)> {
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
                return Some((job, Seat(self)));
            }
            if state.ended {
                return None;
            }
        }
    }

    /// The caller's part, whose first task counts as begun already.
    fn work_from_the_first(&self, job: Job) {
        for task in 0.. {
            self.task(job, task);
            if self.begun.fetch_add(1, Relaxed) >= job.tasks {
                break;
            }
        }
    }

    /// A worker's part.
    fn work_from_the_last(&self, job: Job) {
        while self.begun.fetch_add(1, Relaxed) < job.tasks {
            self.task(job, job.tasks - 1 - self.by_workers.fetch_add(1, Relaxed));
        }
    }

    fn task(&self, job: Job, task: usize) {
        let mut panics = Panics::NONE;
        panics.catch(task, job.f);
        if let Some((task, payload)) = panics.0 {
            let later = lock(&self.panics).keep(task, payload);
            discard(later);
        }
    }

    /// Has all workers end, those asleep included. The process's own pool lasts as long as the process.
    #[cfg(test)]
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        self.jobs.fetch_add(1, Release);
        drop(state);
        self.wake.notify_all();
    }
}

/// A caller's right to the pool.
struct Taken(&'static Pool);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.store(false, Release);
    }
}

/// A job that workers may join.
struct Open(&'static Pool);

impl Drop for Open {
    fn drop(&mut self) {
        let pool = self.0;
        lock(&pool.state).job = None;
        let left = || pool.working.load(Acquire) == 0;
        if spin_until(left) {
            return;
        }
        let mut state = lock(&pool.state);
        while !left() {
            state.caller_asleep = true;
            state = wait(&pool.done, state);
        }
        state.caller_asleep = false;
    }
}

/// A worker's place in a job.
struct Seat(&'static Pool);

impl Drop for Seat {
    fn drop(&mut self) {
        let pool = self.0;
        let state = lock(&pool.state);
        // Release: a thread that sees this worker leave also sees its tasks' writes.
        let last = pool.working.fetch_sub(1, Release) == 1;
        let asleep = state.caller_asleep;
        drop(state);
        if last && asleep {
            pool.done.notify_one();
        }
    }
}

/// The caller's time within tasks.
struct Within;

impl Within {
    fn enter() -> Self {
        set_within_task(true);
        Self
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        set_within_task(false);
    }
}

/// The guarded values are consistent wherever a panic is possible.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(signal: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    signal.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
