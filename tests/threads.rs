//! The number of threads changes no bit: whole training runs, compared by the bytes of their checkpoints.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_io::Checkpoint;
use backrule_loss::CrossEntropy;
use backrule_nn::{Dropout, Key, Linear, Mode, Relu, Residual, Sequential, Tanh, Tape};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Scalar, Tensor, parallel, random};
use backrule_testkit::Trainer;

const INPUTS: usize = 24;
const UNITS: usize = 200;
const CLASSES: usize = 7;
const STEPS: usize = 6;

/// `fc` has 40,000 weights: several chunks for whatever splits them.
fn network<T: Scalar>(seed: u64) -> Sequential<T> {
    let mut rng = random::rng(seed);
    let block = Sequential::builder()
        .layer("fc", Linear::new(UNITS, UNITS, &mut rng).unwrap())
        .layer("tanh", Tanh)
        .layer("drop", Dropout::new(0.3).unwrap())
        .build()
        .unwrap();
    Sequential::builder()
        .layer("fc1", Linear::new(INPUTS, UNITS, &mut rng).unwrap())
        .layer("relu", Relu)
        .layer("drop", Dropout::new(0.5).unwrap())
        .layer("block", Residual::new(block))
        .layer("fc2", Linear::new(UNITS, CLASSES, &mut rng).unwrap())
        .build()
        .unwrap()
}

/// The checkpoint of a run, the losses on the way in it.
fn train<T: Scalar>(seed: u64, parts: usize, threads: usize) -> Vec<u8> {
    parallel::set_threads(threads.try_into().unwrap());
    let mut net = network::<T>(seed);
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
    let mut trainer = Trainer::with(Tape::new().parts(parts).unwrap(), &net);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let key = Key::new(seed).child(step as u64);
        // Sizes that don't come out even, the last one smaller than the number of parts.
        let batch = [130, 64, 31, 1, 77, 2][step];
        let x = Tensor::normal([batch, INPUTS], 0.0, 1.0, &mut key.child(9).rng()).unwrap();
        let labels: Vec<usize> = (0..batch).map(|i| (i + step) % CLASSES).collect();
        let loss = trainer.step(&mut net, &mut optimizer, &x, Mode::train_with(key), |y, dy| {
            CrossEntropy::new().value_and_grad(y, &labels, dy)
        });
        losses.push(loss.to_f64().to_bits());
    }
    Checkpoint::of(&net).optimizer(&optimizer).metadata(&losses).unwrap().to_bytes().unwrap()
}

/// One test, because the number of threads belongs to the process.
#[test]
fn any_number_of_threads_trains_the_same_network() {
    fn compare<T: Scalar>() {
        for seed in 0..2 {
            let mut different = Vec::new();
            for parts in [1, 2, 5] {
                let alone = train::<T>(seed, parts, 1);
                for threads in [2, 3, 7, 1] {
                    let same = train::<T>(seed, parts, threads) == alone;
                    assert!(same, "{}, seed {seed}, {parts} parts, {threads} threads", T::DTYPE);
                }
                assert!(!different.contains(&alone), "parts have their own dropout masks");
                different.push(alone);
            }
        }
    }
    compare::<f32>();
    compare::<f64>();
}
