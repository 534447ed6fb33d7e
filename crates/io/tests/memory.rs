//! The most memory that saving, opening and restoring take: less than the state and 64 MiB. Alone in its
//! process, because the system counts by process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use backrule_io::Checkpoint;
use backrule_io::tensor::Tensor;
use backrule_testkit::{Scratch, peak};

const MIB: usize = 1 << 20;

fn saves_and_loads(mebibytes: usize) {
    let scratch = Scratch::new("memory");
    let path = scratch.0.join("model.brk");
    let size = mebibytes / 4 * MIB / 4;
    let tensor = |name, value| (name, Tensor::<f32>::full([size], value).unwrap());
    let mut net = vec![tensor("a", 1.0), tensor("b", 2.0), tensor("c", 3.0), tensor("d", 4.0)];
    let began = Instant::now();
    Checkpoint::of(&net).save(&path).unwrap();
    let saved = began.elapsed();
    net.iter_mut().for_each(|(_, tensor)| tensor.fill(0.0));
    let began = Instant::now();
    Checkpoint::open(&path).unwrap().restore(&mut net).unwrap();
    let loaded = began.elapsed();
    for ((_, tensor), i) in net.iter().zip(1..) {
        assert!(tensor.as_slice().iter().all(|&value| value == i as f32));
    }
    drop(scratch);
    let peak = peak() / MIB;
    println!("{mebibytes} MiB: saved in {saved:.2?}, opened and restored in {loaded:.2?}, peak {peak} MiB");
    assert!(peak < mebibytes + 64, "{peak} MiB for a state of {mebibytes}");
}

#[test]
fn a_large_checkpoint_takes_no_second_copy() {
    saves_and_loads(96);
}

/// `cargo test --release -p backrule-io --test memory -- --ignored --nocapture`
#[test]
#[ignore = "takes 1 GiB of memory and of the disk"]
fn a_gibibyte_takes_no_second_copy() {
    saves_and_loads(1024);
}
