//! `cargo bench --bench loss`: value and gradient. Throughput counts elements of the prediction.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use backrule_loss::{CrossEntropy, Mse};
use backrule_tensor::Tensor;
use common::{bench, labels, normal};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn cross_entropy(c: &mut Criterion) {
    // `cross_entropy/*`: cross-entropy on logits, value and gradient; batch × classes
    // `cross_entropy/value/*`: the value alone
    // `cross_entropy/smoothed/*`: value and gradient with smoothed labels
    let mut group = c.benchmark_group("cross_entropy");
    for [batch, classes] in [[1, 10], [32, 10], [1024, 10], [32, 1000], [256, 1000], [64, 50257]] {
        group.throughput(Throughput::Elements((batch * classes) as u64));
        let size = format!("{batch}x{classes}");
        let data = || (normal([batch, classes], 1), labels(batch, classes), Tensor::default());
        bench(&mut group, &size, || {
            let (z, labels, mut dz) = data();
            move || CrossEntropy::new().value_and_grad(&z, &labels, &mut dz).unwrap()
        });
        bench(&mut group, format!("value/{size}"), || {
            let (z, labels, _) = data();
            move || CrossEntropy::new().value(&z, &labels).unwrap()
        });
        // Options that need other sums.
        if [32, 10] == [batch, classes] || [256, 1000] == [batch, classes] {
            bench(&mut group, format!("smoothed/{size}"), || {
                let ((z, labels, mut dz), loss) = (data(), CrossEntropy::new().label_smoothing(0.1).unwrap());
                move || loss.value_and_grad(&z, &labels, &mut dz).unwrap()
            });
        }
    }
    group.finish();
}

fn mse(c: &mut Criterion) {
    // `mse/*`: mean squared error, value and gradient; batch × outputs
    let mut group = c.benchmark_group("mse");
    for [batch, outputs] in [[1, 1], [32, 1], [1024, 10], [1024, 1000]] {
        group.throughput(Throughput::Elements((batch * outputs) as u64));
        bench(&mut group, format!("value_and_grad/{batch}x{outputs}"), || {
            let (y, t, mut dy) =
                (normal([batch, outputs], 1), normal([batch, outputs], 2), Tensor::default());
            move || Mse::new().value_and_grad(&y, &t, &mut dy).unwrap()
        });
    }
    group.finish();
}

criterion_group!(benches, cross_entropy, mse);
criterion_main!(benches);
