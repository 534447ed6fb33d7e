//! N steps, a checkpoint, and N steps more in fresh objects: bit for bit the run of 2N steps, momentum and
//! dropout on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_io::{self as io, Checkpoint, Snapshot};
use backrule_loss::CrossEntropy;
use backrule_nn::{Dropout, Key, Linear, Mode, Relu, Residual, Sequential, Tanh};
use backrule_optim::{Momentum, Optimizer, Sgd};
use backrule_tensor::{Scalar, Tensor, TrainingState, random};
use backrule_testkit::{Scratch, Trainer};

const STEPS: u64 = 15;

struct Run<T: Scalar> {
    net: Sequential<T>,
    optimizer: Optimizer<Sgd, T>,
    seed: u64,
}

impl<T: Scalar> Run<T> {
    fn new(seed: u64, sgd: Sgd) -> Self {
        let mut rng = random::rng(seed);
        let block = Sequential::builder()
            .layer("fc", Linear::new(8, 8, &mut rng).unwrap())
            .layer("tanh", Tanh)
            .layer("drop", Dropout::new(0.3).unwrap())
            .build()
            .unwrap();
        let net = Sequential::builder()
            .layer("fc1", Linear::new(5, 8, &mut rng).unwrap())
            .layer("relu", Relu)
            .layer("drop", Dropout::new(0.5).unwrap())
            .layer("block", Residual::new(block))
            .layer("fc2", Linear::new(8, 3, &mut rng).unwrap())
            .build()
            .unwrap();
        let optimizer = Optimizer::new(sgd, &net).unwrap();
        Self { net, optimizer, seed }
    }

    fn train(&mut self, steps: std::ops::Range<u64>) {
        let mut trainer = Trainer::new(&self.net);
        for step in steps {
            let key = Key::new(self.seed).child(step);
            let x = Tensor::normal([7, 5], 0.0, 1.0, &mut key.child(9).rng()).unwrap();
            let labels: Vec<usize> = (0..7).map(|i| (i + step as usize) % 3).collect();
            trainer.step(&mut self.net, &mut self.optimizer, &x, Mode::train_with(key), |y, dy| {
                CrossEntropy::new().value_and_grad(y, &labels, dy)
            });
        }
    }

    fn snapshot(&self) -> Snapshot<'_, T> {
        let (step, seed) = (self.optimizer.step_count(), Some(self.seed));
        let snapshot = Checkpoint::of(&self.net).optimizer(&self.optimizer);
        let snapshot = snapshot.run(&io::Run { step, seed, ..io::Run::default() });
        snapshot.metadata(&("run".to_string(), 0.5)).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        self.snapshot().to_bytes().unwrap()
    }
}

/// `name` keeps the files of tests apart that run at the same time.
fn resumed_equals_whole<T: Scalar>(name: &str, sgd: Sgd) {
    for seed in 0..3 {
        let mut whole = Run::<T>::new(seed, sgd);
        whole.train(0..2 * STEPS);

        let mut first = Run::<T>::new(seed, sgd);
        first.train(0..STEPS);
        let scratch = Scratch::new(&format!("resume-{name}"));
        let file = scratch.0.join("half.brk");
        first.snapshot().save(&file).unwrap();
        let checkpoint = Checkpoint::load(&file).unwrap();

        // Another seed: nothing of the fresh network may remain.
        let mut second = Run::<T>::new(seed + 1000, sgd);
        second.seed = checkpoint.run().seed.unwrap();
        checkpoint.restore_with_optimizer(&mut second.net, &mut second.optimizer).unwrap();
        assert_eq!(second.bytes(), first.bytes());
        second.train(checkpoint.run().step..2 * STEPS);
        assert_eq!(second.bytes(), whole.bytes(), "seed {seed}");
        assert_ne!(second.bytes(), first.bytes());
    }
}

#[test]
fn with_momentum() {
    let sgd = Sgd::new(0.1).unwrap().momentum(0.9).unwrap();
    resumed_equals_whole::<f32>("single", sgd);
    resumed_equals_whole::<f64>("double", sgd);
}

/// Dampening makes the first step special: without the step count this would be another run.
#[test]
fn with_dampening_and_decay() {
    let sgd = Sgd::new(0.1)
        .unwrap()
        .momentum(Momentum::Classic { factor: 0.9, dampening: 0.5 })
        .unwrap()
        .weight_decay(0.01)
        .unwrap();
    resumed_equals_whole::<f32>("dampened", sgd);
}
