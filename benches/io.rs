//! `cargo bench --bench io`: checkpoints with an optimizer: `checkpoint` of 784-128-64-10 (0.9 MB),
//! `checkpoint_tiny` of 3-4-2. Throughput counts bytes of the file. `bytes` and `verify` are the cost of the
//! format itself.
//!
//! `large` is a checkpoint of 64 MiB, beside a raw write with fsync and a raw read of as many bytes. Another
//! size: `BACKRULE_LARGE_MIB=1024 cargo bench --bench io -- large`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod common;

use std::fs::{self, File};
use std::io::Write;

use backrule_io::Checkpoint;
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::Tensor;
use common::{Folder, bench, io_kernels, mlp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn checkpoint(c: &mut Criterion) {
    // `checkpoint*/bytes`: written into memory
    // `checkpoint*/save`: written to a file, the disk synced, the file replaced
    // `checkpoint*/verify`: read from memory, every byte verified
    // `checkpoint*/load`: read from a file, every byte verified
    // `checkpoint*/restore`: put back into network and optimizer
    for (name, sizes) in [("checkpoint", &[784, 128, 64, 10][..]), ("checkpoint_tiny", &[3, 4, 2])] {
        checkpoint_of(c, name, sizes);
    }
}

fn checkpoint_of(c: &mut Criterion, name: &str, sizes: &[usize]) {
    let net = || {
        let net = mlp(sizes);
        let optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
        (net, optimizer)
    };
    let bytes = || {
        let (net, optimizer) = net();
        Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap()
    };
    let folder = Folder::new(name);
    let file = folder.file("model.brk");

    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes().len() as u64));
    bench(&mut group, "bytes", || {
        let (net, optimizer) = net();
        move || Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap()
    });
    bench(&mut group, "save", || {
        let ((net, optimizer), file) = (net(), &file);
        move || Checkpoint::of(&net).optimizer(&optimizer).save(file).unwrap()
    });
    bench(&mut group, "verify", || {
        let bytes = bytes();
        move || Checkpoint::from_bytes(&bytes).unwrap()
    });
    bench(&mut group, "load", || {
        // A filter may have left `save` out.
        fs::write(&file, bytes()).unwrap();
        || Checkpoint::load(&file).unwrap()
    });
    bench(&mut group, "restore", || {
        let ((mut net, mut optimizer), loaded) = (net(), Checkpoint::from_bytes(&bytes()).unwrap());
        move || loaded.restore_with_optimizer(&mut net, &mut optimizer).unwrap()
    });
    group.finish();
}

/// The parts of saving and loading a checkpoint.
fn kernels(c: &mut Criterion) {
    // `checksum/*`: a file of one tensor, every byte verified, nothing kept
    // `header/encode/*`: a checkpoint of so many tensors of one element, written into memory
    // `header/decode/*`: the same from a file, every byte verified, nothing kept
    // `elements/*`: a tensor's elements copied from a checkpoint in memory
    let folder = Folder::new("io-kernels");
    for (name, bytes, make) in io_kernels() {
        let (group, id) = name.split_once('/').unwrap();
        let mut group = c.benchmark_group(group);
        group.throughput(Throughput::Bytes(bytes));
        bench(&mut group, id, || make(&folder));
        group.finish();
    }
}

/// Large enough that the disk takes most of the time.
fn large(c: &mut Criterion) {
    // `large/save/*`: a checkpoint written to a file, the disk synced, the file replaced
    // `large/raw_write/*`: as many bytes written to a file, the disk synced
    // `large/restore/*`: a checkpoint read from the system's cache, verified, restored
    // `large/raw_read/*`: as many bytes read from the system's cache into new memory
    let mib: usize = std::env::var("BACKRULE_LARGE_MIB").map_or(64, |mib| mib.parse().unwrap());
    let folder = Folder::new("large");
    let (file, raw) = (&folder.file("model.brk"), &folder.file("raw"));
    // A row of 1 MiB for each.
    let state = || vec![("weight", Tensor::<f32>::full([mib, 1 << 18], 0.5).unwrap())];
    let size = (mib << 20) as u64;

    let mut group = c.benchmark_group("large");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(size));
    bench(&mut group, format!("save/{mib}mib"), || {
        let state = state();
        move || Checkpoint::of(&state).save(file).unwrap()
    });
    bench(&mut group, format!("raw_write/{mib}mib"), || {
        let bytes = vec![1; mib << 20];
        move || {
            let mut out = File::create(raw).unwrap();
            out.write_all(&bytes).unwrap();
            out.sync_all().unwrap();
        }
    });
    bench(&mut group, format!("restore/{mib}mib"), || {
        let mut state = state();
        Checkpoint::of(&state).save(file).unwrap();
        move || Checkpoint::open(file).unwrap().restore(&mut state).unwrap()
    });
    bench(&mut group, format!("raw_read/{mib}mib"), || {
        fs::write(raw, vec![1; mib << 20]).unwrap();
        move || fs::read(raw).unwrap()
    });
    group.finish();
}

criterion_group!(benches, checkpoint, kernels, large);
criterion_main!(benches);
