//! `cargo bench --bench optim`: one update of all parameters. Throughput counts bytes: a parameter, its gradient and its
//! velocity are read, and a parameter and a velocity written. `sgd` is on one thread, `sgd_momentum` on all.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::num::NonZeroUsize;

use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Tensor, parallel, random};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Before [`sgd`], which sets the number of threads.
fn sgd_momentum(c: &mut Criterion) {
    let mut group = c.benchmark_group("sgd_momentum");
    for parameters in [100_000_usize, 10_000_000] {
        let normal = |seed| Tensor::<f32>::normal([parameters], 0.0, 1.0, &mut random::rng(seed)).unwrap();
        let (mut net, mut grads) = (normal(1), [normal(2)]);
        let mut optimizer = Optimizer::new(Sgd::new(1e-6).unwrap().momentum(0.9).unwrap(), &net);
        group.throughput(Throughput::Bytes(20 * parameters as u64));
        group.bench_function(BenchmarkId::from_parameter(parameters), |b| {
            b.iter(|| optimizer.step(&mut net, &mut grads).unwrap())
        });
    }
    group.finish();
}

fn sgd(c: &mut Criterion) {
    parallel::set_threads(NonZeroUsize::MIN);
    let mut group = c.benchmark_group("sgd");
    for parameters in [2_410_usize, 100_000, 10_000_000] {
        let normal = |seed| Tensor::normal([parameters], 0.0, 1.0, &mut random::rng(seed)).unwrap();
        let (mut net, mut grads): (Vec<(&str, Tensor)>, Vec<Tensor>) =
            (vec![("w", normal(1))], vec![normal(2)]);
        let plain = Sgd::new(1e-6).unwrap();
        for (name, rule, bytes) in [("plain", plain, 12), ("momentum", plain.momentum(0.9).unwrap(), 20)] {
            let mut optimizer = Optimizer::new(rule, &net);
            group.throughput(Throughput::Bytes(bytes * parameters as u64));
            group.bench_function(BenchmarkId::new(name, parameters), |b| {
                b.iter(|| optimizer.step(&mut net, &mut grads).unwrap())
            });
        }
    }
    group.finish();
}

criterion_group!(benches, sgd_momentum, sgd);
criterion_main!(benches);
