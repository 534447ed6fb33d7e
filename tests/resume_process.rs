//! 2N steps are N steps, a checkpoint, and N more in a new process with another number of threads: bit for
//! bit, with everything on that has a state.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use backrule_io::{self as io, Checkpoint, Snapshot};
use backrule_loss::CrossEntropy;
use backrule_nn::{Dropout, Key, Linear, Mode, Relu, Sequential, Tape};
use backrule_optim::{Momentum, Optimizer, Sgd};
use backrule_tensor::{Tensor, TrainingState, parallel, random};
use backrule_testkit::{Scratch, Trainer};

const SEEDS: u64 = 20;
/// Half of a run ends in the middle of its second epoch.
const STEPS: u64 = 10;
const SAMPLES: usize = 60;
const BATCH: usize = 9;
/// Enough for threads to share the products of a batch that isn't split, and the update.
const WIDTH: usize = 500;
const CHILD: &str = "BACKRULE_TEST_RESUME";

/// The learning rate falls from `base` to nothing.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Schedule {
    base: f64,
    steps: u64,
}

struct Run {
    net: Sequential,
    optimizer: Optimizer<Sgd>,
    schedule: Schedule,
    /// The loss of every step, as bits.
    metrics: Vec<u64>,
    epoch: u64,
    /// Samples of this epoch that were seen.
    position: usize,
    seed: u64,
}

impl Run {
    /// `weights` is the seed of the values that a resumed run must not keep.
    fn new(seed: u64, weights: u64, schedule: Schedule) -> Self {
        let mut rng = random::rng(weights);
        let net = Sequential::builder()
            .layer("fc1", Linear::new(8, WIDTH, &mut rng).unwrap())
            .layer("relu", Relu)
            .layer("drop", Dropout::new(0.4).unwrap())
            .layer("fc2", Linear::new(WIDTH, WIDTH, &mut rng).unwrap())
            .layer("fc3", Linear::new(WIDTH, 3, &mut rng).unwrap())
            .build()
            .unwrap();
        let sgd = Sgd::new(schedule.base).unwrap();
        let sgd = sgd.momentum(Momentum::Nesterov { factor: 0.9 }).unwrap().weight_decay(0.01).unwrap();
        let optimizer = Optimizer::new(sgd, &net).unwrap();
        Self { net, optimizer, schedule, metrics: Vec::new(), epoch: 0, position: 0, seed }
    }

    fn train(&mut self, until: u64) {
        // Threads share the batch, or else its products.
        let tape = Tape::new().parts(1 + self.seed as usize % 2).unwrap();
        let mut trainer = Trainer::with(tape, &self.net);
        while self.optimizer.step_count() < until {
            let step = self.optimizer.step_count();
            let left = 1.0 - step as f64 / self.schedule.steps as f64;
            self.optimizer.set_learning_rate(self.schedule.base * left).unwrap();
            let samples = self.batch();
            let x: Vec<f32> = samples.iter().flat_map(|&i| (0..8).map(move |j| value(i, j))).collect();
            let x = Tensor::from_vec([samples.len(), 8], x).unwrap();
            let labels: Vec<usize> = samples.iter().map(|i| i % 3).collect();
            let mode = Mode::train_with(Key::new(self.seed).child(step));
            let loss = trainer.step(&mut self.net, &mut self.optimizer, &x, mode, |y, dy| {
                CrossEntropy::new().value_and_grad(y, &labels, dy)
            });
            self.metrics.push(f64::from(loss).to_bits());
        }
    }

    /// The next samples, in an order that is another one in each epoch.
    fn batch(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..SAMPLES).collect();
        let key = Key::new(self.seed).child(1_000_000 + self.epoch);
        let draws = Tensor::<f32>::normal([SAMPLES], 0.0, 1.0, &mut key.rng()).unwrap();
        order.sort_by(|&a, &b| draws.as_slice()[a].total_cmp(&draws.as_slice()[b]));
        let end = (self.position + BATCH).min(SAMPLES);
        let batch = order[self.position..end].to_vec();
        (self.epoch, self.position) = if end == SAMPLES { (self.epoch + 1, 0) } else { (self.epoch, end) };
        batch
    }

    fn snapshot(&self) -> Snapshot<'_, f32> {
        let (step, position, seed) = (self.optimizer.step_count(), self.position as u64, Some(self.seed));
        Checkpoint::of(&self.net)
            .optimizer(&self.optimizer)
            .run(&io::Run { epoch: self.epoch, step, position, seed, ..io::Run::default() })
            .metrics(&self.metrics)
            .unwrap()
            .schedule(&self.schedule)
            .unwrap()
    }

    fn resume(path: &Path) -> Self {
        let checkpoint = Checkpoint::load(path).unwrap();
        let mut run = Self::new(checkpoint.run().seed.unwrap(), 4711, checkpoint.schedule().unwrap());
        checkpoint.restore_with_optimizer(&mut run.net, &mut run.optimizer).unwrap();
        run.metrics = checkpoint.metrics().unwrap();
        (run.epoch, run.position) = (checkpoint.run().epoch, checkpoint.run().position as usize);
        run
    }
}

fn value(sample: usize, feature: usize) -> f32 {
    ((sample * 31 + feature * 17) % 23) as f32 / 11.0 - 1.0
}

fn use_threads(threads: u64) {
    parallel::set_threads(usize::try_from(threads).unwrap().try_into().unwrap());
}

/// The only test of this program: the number of threads belongs to the process.
#[test]
fn a_run_resumed_in_a_new_process_is_the_same_run() {
    if let Ok(threads) = std::env::var(CHILD) {
        use_threads(threads.parse().unwrap());
        let mut run = Run::resume(Path::new("half.brk"));
        run.train(2 * STEPS);
        run.snapshot().save("resumed.brk").unwrap();
        return;
    }
    let folder = Scratch::new("resume-process");
    for seed in 0..SEEDS {
        let new = || Run::new(seed, seed, Schedule { base: 0.05, steps: 2 * STEPS });
        use_threads(1 + seed % 3);
        let mut half = new();
        half.train(STEPS);
        half.snapshot().save(folder.0.join("half.brk")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_run_resumed_in_a_new_process_is_the_same_run"])
            .env(CHILD, (1 + (seed + 1) % 3).to_string())
            .current_dir(&folder.0)
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        use_threads(1 + (seed + 2) % 3);
        let mut whole = new();
        whole.train(2 * STEPS);
        let resumed = std::fs::read(folder.0.join("resumed.brk")).unwrap();
        assert!(
            resumed == whole.snapshot().to_bytes().unwrap(),
            "seed {seed}: the resumed run is another one"
        );
    }
}
