//! `cargo bench --bench tensor`: matrix products in the three forms of a dense layer. Throughput counts floating-point
//! operations, 2 m n k each.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use backrule_tensor::{Tensor, matmul_into, matmul_nt_into, matmul_tn_into};
use common::normal;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Batch, inputs and outputs of dense layers: one sample, tiny, cache-sized, large.
const LAYERS: [[usize; 3]; 7] = [
    [1, 784, 128],
    [32, 64, 32],
    [32, 32, 10],
    [7, 33, 33],
    [64, 784, 128],
    [1024, 784, 128],
    [256, 1024, 4096],
];

fn matmul(c: &mut Criterion) {
    type Product = fn(&Tensor, &Tensor, f32, &mut Tensor) -> Result<(), backrule_tensor::ShapeError>;
    let mut group = c.benchmark_group("matmul");
    for [batch, inputs, outputs] in LAYERS {
        let (x, w, dy) =
            (normal([batch, inputs], 1), normal([outputs, inputs], 2), normal([batch, outputs], 3));
        group.throughput(Throughput::Elements(2 * (batch * inputs * outputs) as u64));
        let products: [(&str, &Tensor, &Tensor, Product); 3] = [
            ("forward_nt", &x, &w, matmul_nt_into),
            ("dx_nn", &dy, &w, matmul_into),
            ("dw_tn", &dy, &x, matmul_tn_into),
        ];
        for ((name, a, b, product), shape) in
            products.into_iter().zip([[batch, outputs], [batch, inputs], [outputs, inputs]])
        {
            let mut result = Tensor::zeros(shape).unwrap();
            let id = BenchmarkId::new(name, format!("{batch}x{inputs}x{outputs}"));
            group.bench_function(id, |b_| b_.iter(|| product(a, b, 0.0, &mut result)));
        }
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let data = normal([1437, 64], 1);
    let indices: Vec<usize> = (0..32).map(|i| i * 37 % 1437).collect();
    let mut batch = Tensor::default();
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Bytes(2 * 32 * 64 * 4));
    group.bench_function("gather/32x64", |b| b.iter(|| batch.gather(&data, &indices)));
    group.finish();
}

criterion_group!(benches, matmul, rows);
criterion_main!(benches);
