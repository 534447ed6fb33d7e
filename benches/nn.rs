//! `cargo bench --bench nn`: whole training steps and predictions, and single layers. Throughput counts floating-point
//! operations of the products for networks, and elements for activations.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use backrule_loss::CrossEntropy;
use backrule_nn::{Dropout, Grads, Key, Layer, LogSoftmax, Mode, Relu, Sigmoid, Softmax, Tanh, Tape};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::Tensor;
use common::{labels, mlp, name, normal, prediction_flop, training_flop};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Forward, loss, backward and update, as a training loop has them.
fn train_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("train_step");
    let cases: [(&[usize], usize); 4] =
        [(&[64, 32, 10], 32), (&[33, 33, 7], 7), (&[784, 128, 64, 10], 64), (&[784, 128, 64, 10], 1024)];
    // In two parts where it may pay.
    let split = cases[2..].iter().map(|&(sizes, batch)| (sizes, batch, 2));
    for (sizes, batch, parts) in cases.map(|(sizes, batch)| (sizes, batch, 1)).into_iter().chain(split) {
        let mut net = mlp(sizes);
        let x = normal([batch, sizes[0]], 2);
        let labels = labels(batch, sizes[sizes.len() - 1]);
        let loss = CrossEntropy::new();
        // A small rate: the same batch again and again must not diverge.
        let mut optimizer = Optimizer::new(Sgd::new(0.001).unwrap().momentum(0.9).unwrap(), &net);
        let mut tape = Tape::new().parts(parts).unwrap();
        let (mut grads, mut dy) = (Grads::new(&net), Tensor::default());
        let mut step = 0;
        group.throughput(Throughput::Elements(training_flop(sizes, batch)));
        let id = if parts == 1 { name(sizes) } else { format!("{}_in_{parts}_parts", name(sizes)) };
        group.bench_function(BenchmarkId::new(id, batch), |b| {
            b.iter(|| {
                step += 1;
                let pass = tape.forward(&net, &x, Mode::Train(Key::new(step))).unwrap();
                let l = loss.value_and_grad(pass.output(), &labels, &mut dy).unwrap();
                pass.backward(&dy, &mut grads).unwrap();
                optimizer.step(&mut net, &mut grads).unwrap();
                l
            })
        });
    }
    group.finish();
}

fn predict(c: &mut Criterion) {
    let mut group = c.benchmark_group("predict");
    let sizes = &[784, 128, 64, 10];
    let net = mlp(sizes);
    for batch in [1, 32, 1024] {
        let x = normal([batch, sizes[0]], 2);
        let mut tape = Tape::new();
        group.throughput(Throughput::Elements(prediction_flop(sizes, batch)));
        group.bench_function(BenchmarkId::new(name(sizes), batch), |b| {
            b.iter(|| tape.forward(&net, &x, Mode::Eval).unwrap().into_output().as_slice()[0])
        });
    }
    group.finish();
}

/// Activations, forward and backward to the input.
fn activations(c: &mut Criterion) {
    let mut group = c.benchmark_group("activation");
    let dropout = Dropout::new(0.5).unwrap();
    let layers: [&dyn Layer<f32>; 6] = [&Relu, &Sigmoid, &Tanh, &Softmax, &LogSoftmax, &dropout];
    let (x, dy) = (normal([256, 128], 1), normal([256, 128], 2));
    group.throughput(Throughput::Elements(x.len() as u64));
    for layer in layers {
        let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(layer), Tensor::default());
        group.bench_function(BenchmarkId::new(layer.describe(), "256x128"), |b| {
            b.iter(|| {
                let pass = tape.forward(layer, &x, Mode::Train(Key::new(1))).unwrap();
                pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
            })
        });
    }
    group.finish();
}

criterion_group!(benches, train_step, predict, activations);
criterion_main!(benches);
