//! `cargo bench --bench io`: checkpoints of a 784-128-64-10 network with its optimiser (0.9 MB), and of a tiny one.
//! Throughput counts bytes of the file. `save` includes syncing the disk; `bytes` and `verify` are what the format itself costs.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use backrule_io::Checkpoint;
use backrule_optim::{Optimizer, Sgd};
use common::mlp;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn checkpoint(c: &mut Criterion) {
    for (name, sizes) in [("checkpoint", &[784, 128, 64, 10][..]), ("checkpoint_tiny", &[3, 4, 2])] {
        checkpoint_of(c, name, sizes);
    }
}

fn checkpoint_of(c: &mut Criterion, name: &str, sizes: &[usize]) {
    let mut net = mlp(sizes);
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net);
    let bytes = Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap();
    let folder = std::env::temp_dir().join(format!("backrule-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("model.brk");

    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("bytes", |b| {
        b.iter(|| Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap())
    });
    group.bench_function("save", |b| {
        b.iter(|| Checkpoint::of(&net).optimizer(&optimizer).save(&file).unwrap())
    });
    group.bench_function("verify", |b| b.iter(|| Checkpoint::from_bytes(&bytes).unwrap()));
    group.bench_function("load", |b| b.iter(|| Checkpoint::load(&file).unwrap()));
    let loaded = Checkpoint::from_bytes(&bytes).unwrap();
    group.bench_function("restore", |b| {
        b.iter(|| loaded.restore_with_optimizer(&mut net, &mut optimizer).unwrap())
    });
    group.finish();
    std::fs::remove_dir_all(&folder).unwrap();
}

criterion_group!(benches, checkpoint);
criterion_main!(benches);
