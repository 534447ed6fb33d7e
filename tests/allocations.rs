//! A warm training step, from the mini-batch to the update, allocates nothing: every part of it together.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_loss::CrossEntropy;
use backrule_nn::{Dropout, Key, Linear, Mode, Relu, Sequential, Tape};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Tensor, random};
use backrule_testkit::{Trainer, with_threads};

fn allocations_of_a_warm_epoch(sizes: [usize; 3], batch: usize, parts: usize) -> u64 {
    let mut rng = random::rng(1);
    let mut net = Sequential::builder()
        .layer("fc1", Linear::new(sizes[0], sizes[1], &mut rng).unwrap())
        .layer("relu", Relu)
        .layer("drop", Dropout::new(0.2).unwrap())
        .layer("fc2", Linear::new(sizes[1], sizes[2], &mut rng).unwrap())
        .build()
        .unwrap();
    let data: Tensor = Tensor::normal([3 * batch + 1, sizes[0]], 0.0, 1.0, &mut rng).unwrap();
    let loss = CrossEntropy::new().label_smoothing(0.1).unwrap();
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
    let mut trainer = Trainer::with(Tape::new().parts(parts).unwrap(), &net);
    let (mut x, mut labels) = (Tensor::default(), Vec::new());
    let mut order: Vec<usize> = (0..data.shape()[0]).collect();
    let mut epoch = |key: Key| {
        random::shuffle(&mut order, &mut key.rng());
        // The last batch is smaller: another shape, and still no allocation.
        for indices in order.chunks(batch) {
            x.gather(&data, indices).unwrap();
            labels.clear();
            labels.extend(indices.iter().map(|i| i % sizes[2]));
            trainer.step(&mut net, &mut optimizer, &x, Mode::train_with(key), |y, dy| {
                loss.value_and_grad(y, &labels, dy)
            });
        }
    };
    // Alone, this thread meets every size; with two, it starts the worker.
    for threads in [1, 2] {
        let _one = with_threads(threads);
        epoch(Key::new(0));
    }
    let _one = with_threads(2);
    allocation_counter::measure(|| epoch(Key::new(1))).count_total
}

#[test]
fn a_warm_epoch_allocates_nothing() {
    for (sizes, batch) in [([3, 4, 2], 5), ([64, 32, 10], 32), ([33, 40, 7], 7), ([300, 130, 70], 100)] {
        for parts in [1, 2, 3] {
            let allocations = allocations_of_a_warm_epoch(sizes, batch, parts);
            assert_eq!(allocations, 0, "{sizes:?}, batch {batch}, {parts} parts");
        }
    }
}

#[test]
fn the_second_prediction_allocates_nothing() {
    let mut rng = random::rng(1);
    let net = Sequential::builder()
        .layer("fc1", Linear::new(300, 130, &mut rng).unwrap())
        .layer("relu", Relu)
        .layer("drop", Dropout::new(0.2).unwrap())
        .layer("fc2", Linear::new(130, 70, &mut rng).unwrap())
        .build()
        .unwrap();
    let batch = |rows| Tensor::<f32>::normal([rows, 300], 0.0, 1.0, &mut random::rng(2)).unwrap();
    let (large, small, one) = (batch(100), batch(33), batch(1));
    for parts in [1, 2] {
        let mut tape = Tape::new().parts(parts).unwrap();
        let mut predict = |x| tape.forward(&net, x, Mode::Eval).unwrap().into_output().as_slice()[0];
        // A single sample isn't split, and has memory of its own.
        for threads in [1, 2] {
            let _one = with_threads(threads);
            predict(&large);
            predict(&one);
        }
        let _one = with_threads(2);
        let allocations = allocation_counter::measure(|| {
            for x in [&large, &small, &one, &large] {
                predict(x);
            }
        });
        assert_eq!(allocations.count_total, 0, "{parts} parts");
    }
}
