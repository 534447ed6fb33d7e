//! `cargo bench --bench loss`: value and gradient. Throughput counts elements of the prediction.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use backrule_loss::{CrossEntropy, Mse};
use backrule_tensor::Tensor;
use common::{labels, normal};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn cross_entropy(c: &mut Criterion) {
    let mut group = c.benchmark_group("cross_entropy");
    for [batch, classes] in [[1, 10], [32, 10], [1024, 10], [256, 1000], [64, 50257]] {
        let (z, labels, mut dz) = (normal([batch, classes], 1), labels(batch, classes), Tensor::default());
        group.throughput(Throughput::Elements(z.len() as u64));
        let size = format!("{batch}x{classes}");
        group.bench_function(&size, |b| {
            b.iter(|| CrossEntropy::new().value_and_grad(&z, &labels, &mut dz).unwrap())
        });
        group.bench_function(BenchmarkId::new("value", &size), |b| {
            b.iter(|| CrossEntropy::new().value(&z, &labels).unwrap())
        });
    }
    group.finish();
}

fn mse(c: &mut Criterion) {
    let mut group = c.benchmark_group("mse");
    for [batch, outputs] in [[32, 1], [1024, 10], [1024, 1000]] {
        let (y, t, mut dy) = (normal([batch, outputs], 1), normal([batch, outputs], 2), Tensor::default());
        group.throughput(Throughput::Elements(y.len() as u64));
        group.bench_function(BenchmarkId::new("value_and_grad", format!("{batch}x{outputs}")), |b| {
            b.iter(|| Mse::new().value_and_grad(&y, &t, &mut dy).unwrap())
        });
    }
    group.finish();
}

criterion_group!(benches, cross_entropy, mse);
criterion_main!(benches);
