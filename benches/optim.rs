//! `cargo bench --bench optim`: one update of all parameters. Throughput counts bytes: parameter, gradient
//! and velocity are read, parameter and velocity are written.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use std::num::NonZeroUsize;

use backrule_nn::Grads;
use backrule_optim::{Momentum, Optimizer, Sgd};
use backrule_tensor::parallel;
use common::{bench, mlp, name, normal, renew};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// An update of one tensor.
fn update(rule: Sgd, parameters: usize) -> impl FnMut() {
    let mut net = normal([1, parameters], 1);
    let mut grads = Grads::new(&net).unwrap();
    grads[0] = normal([1, parameters], 2).into();
    let mut optimizer = Optimizer::new(rule, &net).unwrap();
    move || {
        renew(&mut grads);
        optimizer.step(&mut net, &mut grads).unwrap();
    }
}

/// A small rate: parameters must not diverge.
fn plain() -> Sgd {
    Sgd::new(1e-6).unwrap()
}

/// Before [`sgd`], which sets the number of threads.
fn sgd_momentum(c: &mut Criterion) {
    // `sgd_momentum/*`: SGD with momentum, one tensor of so many parameters; all threads
    let mut group = c.benchmark_group("sgd_momentum");
    for parameters in [100_000_usize, 10_000_000] {
        group.throughput(Throughput::Bytes(20 * parameters as u64));
        bench(&mut group, parameters.to_string(), || update(plain().momentum(0.9).unwrap(), parameters));
    }
    group.finish();
}

fn sgd(c: &mut Criterion) {
    // `sgd/plain/*`: SGD, one tensor of so many parameters; one thread
    // `sgd/momentum/*`: SGD with momentum
    // `sgd/nesterov/*`: SGD with Nesterov momentum
    // `sgd/decay/*`: SGD with weight decay
    parallel::set_threads(NonZeroUsize::MIN);
    let mut group = c.benchmark_group("sgd");
    let rules = [
        ("plain", plain(), 12),
        ("momentum", plain().momentum(0.9).unwrap(), 20),
        ("nesterov", plain().momentum(Momentum::Nesterov { factor: 0.9 }).unwrap(), 20),
        ("decay", plain().weight_decay(0.01).unwrap(), 12),
    ];
    for parameters in [10_usize, 2_410, 100_000, 10_000_000] {
        for (name, rule, bytes) in rules {
            group.throughput(Throughput::Bytes(bytes * parameters as u64));
            bench(&mut group, format!("{name}/{parameters}"), || update(rule, parameters));
        }
    }
    group.finish();
}

/// As many tensors as a network has: what walking over names costs.
fn network(c: &mut Criterion) {
    // `network/*`: SGD with momentum, a network's tensors one by one; one thread
    let mut group = c.benchmark_group("network");
    for sizes in [&[3, 4, 2][..], &[64, 32, 10], &[784, 128, 64, 10]] {
        let parameters: usize = sizes.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum();
        group.throughput(Throughput::Bytes(20 * parameters as u64));
        bench(&mut group, name(sizes), || {
            let mut net = mlp(sizes);
            let mut grads = Grads::new(&net).unwrap();
            let mut optimizer = Optimizer::new(plain().momentum(0.9).unwrap(), &net).unwrap();
            move || {
                renew(&mut grads);
                optimizer.step(&mut net, &mut grads).unwrap();
            }
        });
    }
    group.finish();
}

criterion_group!(benches, sgd_momentum, sgd, network);
criterion_main!(benches);
