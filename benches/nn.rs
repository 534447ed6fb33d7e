//! `cargo bench --bench nn`: whole training steps, predictions, and single layers. An id names the network
//! and the batch. Throughput counts the products' floating-point operations for networks and dense layers,
//! elements for activations, and samples for `digits`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use backrule_examples::digits::{Digits, PIXELS};
use backrule_loss::CrossEntropy;
use backrule_nn::{Grads, Key, Layer, Linear, Mode, Prepared, Tape};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Tensor, parallel, random};
use common::{bench, mlp, name, normal, prediction_flop, training, training_flop};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Networks and batches of the tables in docs/performance.md: those that others are compared on, then odd
/// ones.
const STEPS: [(&[usize], usize); 11] = [
    (&[64, 32, 10], 1),
    (&[64, 32, 10], 32),
    (&[784, 128, 64, 10], 1),
    (&[784, 128, 64, 10], 64),
    (&[784, 128, 64, 10], 1024),
    (&[33, 33, 7], 7),
    (&[100, 50, 3], 1),
    (&[200, 300, 17], 50),
    (&[512, 1024, 1024, 512], 4),
    (&[512, 1024, 1024, 512], 64),
    // The last one, because it changes the number of samples.
    (&[1024, 4096, 4096, 1000], 256),
];

/// Forward, loss, backward and update, as in a training loop: on one thread; on two, each product split; on
/// two with a tape of two parts.
fn train_step(c: &mut Criterion) {
    // `train_step/*`: forward, loss, backward and update; one thread
    // `train_step_2_threads/*`: the same on two threads, each product split
    // `train_step_2_parts/*`: the same on two threads, the batch in two parts
    for (group, threads, parts) in
        [("train_step", 1, 1), ("train_step_2_threads", 2, 1), ("train_step_2_parts", 2, 2)]
    {
        set_threads(threads);
        let mut group = c.benchmark_group(group);
        for (sizes, batch) in STEPS {
            // A step of a third of a second.
            if sizes[0] > 1000 {
                group.sample_size(10);
            }
            group.throughput(Throughput::Elements(training_flop(sizes, batch)));
            bench(&mut group, format!("{}/{batch}", name(sizes)), || {
                training(sizes, batch, Tape::new().parts(parts).unwrap())
            });
        }
        group.finish();
    }
    set_threads(1);
}

fn set_threads(threads: usize) {
    parallel::set_threads(threads.try_into().unwrap());
}

/// Fifty epochs of the handwritten digits from a new network, with the settings of the example, the data in
/// memory.
fn digits(c: &mut Criterion) {
    // `digits/50-epochs`: a new 64-32-10 network, trained for 50 epochs on 1,437 digits
    let (train, _) = Digits::load().unwrap();
    let images = Tensor::from_vec([train.rows(), PIXELS], train.pixels.clone()).unwrap();
    let mut group = c.benchmark_group("digits");
    group.sample_size(10);
    group.throughput(Throughput::Elements(50 * train.rows() as u64));
    group.bench_function("50-epochs", |b| {
        b.iter(|| {
            let mut net = mlp(&[PIXELS, 32, 10]);
            let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
            let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&net).unwrap(), Tensor::default());
            let (mut x, mut labels) = (Tensor::default(), Vec::new());
            let mut order: Vec<usize> = (0..train.rows()).collect();
            for epoch in 0..50 {
                random::shuffle(&mut order, &mut random::rng(epoch));
                for rows in order.chunks(32) {
                    x.gather(&images, rows).unwrap();
                    labels.clear();
                    labels.extend(rows.iter().map(|&row| train.labels[row]));
                    let pass = tape.forward(&net, &x, Mode::train_with(Key::new(epoch))).unwrap();
                    CrossEntropy::new().value_and_grad(pass.output(), &labels, &mut dy).unwrap();
                    pass.backward(&dy, &mut grads).unwrap();
                    optimizer.step(&mut net, &mut grads).unwrap();
                }
            }
            net
        })
    });
    group.finish();
}

fn predict(c: &mut Criterion) {
    // `predict/*`: the forward pass; one thread
    // `predict_2_threads/*`: the same on two threads, each product split
    // `predict_2_parts/*`: the same on two threads, the batch in two parts
    for (group, threads, parts) in [("predict", 1, 1), ("predict_2_threads", 2, 1), ("predict_2_parts", 2, 2)]
    {
        set_threads(threads);
        let mut group = c.benchmark_group(group);
        for (sizes, batch) in [
            (&[784, 128, 64, 10][..], 1),
            (&[784, 128, 64, 10], 8),
            (&[784, 128, 64, 10], 32),
            (&[784, 128, 64, 10], 1024),
            (&[33, 33, 7], 5),
        ] {
            group.throughput(Throughput::Elements(prediction_flop(sizes, batch)));
            bench(&mut group, format!("{}/{batch}", name(sizes)), || {
                let (net, x) = (mlp(sizes), normal([batch, sizes[0]], 2));
                let mut tape = Tape::new().parts(parts).unwrap();
                move || tape.forward(&net, &x, Mode::Eval).unwrap().into_output().as_slice()[0]
            });
        }
        group.finish();
    }
    set_threads(1);
    // `predict_prepared/*`: the forward pass with weights that were packed before; one thread
    let mut group = c.benchmark_group("predict_prepared");
    for batch in [1, 8, 32, 1024] {
        let sizes = &[784, 128, 64, 10];
        group.throughput(Throughput::Elements(prediction_flop(sizes, batch)));
        bench(&mut group, format!("{}/{batch}", name(sizes)), || {
            let (net, x) = (Prepared::of(&mlp(sizes)).unwrap(), normal([batch, sizes[0]], 2));
            let mut tape = Tape::new();
            move || net.forward(&mut tape, &x).unwrap().as_slice()[0]
        });
    }
    group.finish();
}

/// Loss and gradients, without an update, as SimpleChains.jl measures itself.
fn gradients(c: &mut Criterion) {
    // `gradients/*`: forward, loss and backward in f64, with tanh and dropout; one thread
    let mut group = c.benchmark_group("gradients");
    group.throughput(Throughput::Elements(training_flop(&[24, 8, 2], 200)));
    bench(&mut group, "24-8-2-tanh-dropout-f64/200", common::gradients_in_double);
    group.finish();
}

/// Forward and backward to the input of a layer alone.
fn pass_of(layer: Box<dyn Layer<f32>>, shape: [usize; 2], outputs: usize) -> impl FnMut() {
    let (x, dy) = (normal(shape, 1), normal([shape[0], outputs], 2));
    let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&*layer).unwrap(), Tensor::default());
    move || {
        let pass = tape.forward(&*layer, &x, Mode::train_with(Key::new(1))).unwrap();
        pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
    }
}

fn layers(c: &mut Criterion) {
    // `layer/*`: a layer of the catalogue alone, forward and backward with all gradients; its kind and sample
    let mut group = c.benchmark_group("layer");
    for (name, sample) in common::of_catalogue() {
        bench(&mut group, name, || common::pass_of_sample(&sample));
    }
    group.finish();
}

fn activations(c: &mut Criterion) {
    // `activation/*`: a layer without parameters alone, forward and backward; rows × columns
    let mut group = c.benchmark_group("activation");
    for (i, (name, _)) in common::activations().iter().enumerate() {
        for rows in [1, 32, 256] {
            group.throughput(Throughput::Elements(rows as u64 * 128));
            bench(&mut group, format!("{name}/{rows}x128"), || {
                pass_of(common::activations().into_iter().nth(i).unwrap().1, [rows, 128], 128)
            });
        }
    }
    group.finish();
}

/// Dense layers alone, with both gradients.
fn dense(c: &mut Criterion) {
    // `linear/*`: a dense layer alone, forward and backward with all gradients; inputs-outputs/batch
    let mut group = c.benchmark_group("linear");
    for [inputs, outputs] in [[64, 32], [784, 128]] {
        for batch in [1, 32, 1024] {
            group.throughput(Throughput::Elements(6 * (batch * inputs * outputs) as u64));
            bench(&mut group, format!("{inputs}-{outputs}/{batch}"), || {
                let layer = Linear::new(inputs, outputs, &mut random::rng(1)).unwrap();
                pass_of(Box::new(layer), [batch, inputs], outputs)
            });
        }
    }
    group.finish();
}

criterion_group!(benches, train_step, gradients, digits, predict, layers, activations, dense);
criterion_main!(benches);
