//! The largest network that a file may hold: what it takes beside its own size.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_io::Checkpoint;
use backrule_nn::{Architecture, Dropout, Linear, Sequential};
use backrule_tensor::{NamedTensors, Path, random};

/// What a stage may take beside what it returns.
const BESIDE: u64 = 1 << 20;
/// Bytes of a layer beside its values.
const OF_LAYER: u64 = 512;

/// As deep and with as many layers and as long paths as there may be.
fn largest() -> Sequential {
    let rng = &mut random::rng(1);
    let leaves = Architecture::MAX_LAYERS - Architecture::MAX_DEPTH;
    let mut inner = Sequential::builder();
    for i in 0..leaves {
        let name = format!("leaf{i:08}");
        inner = match i % 2 {
            0 => inner.layer(name, Linear::new(1, 1, rng).unwrap()),
            _ => inner.layer(name, Dropout::new(0.5).unwrap()),
        };
    }
    let mut net = inner.build().unwrap();
    for _ in 1..Architecture::MAX_DEPTH {
        net = Sequential::builder().layer("n".repeat(14), net).build().unwrap();
    }
    net
}

/// What `stage` returns, the bytes of it that stay, and the bytes that it takes beside them.
fn measured<R>(stage: impl FnOnce() -> R) -> (R, u64, u64) {
    let mut result = None;
    let measured = allocation_counter::measure(|| result = Some(stage()));
    let stays = u64::try_from(measured.bytes_current).unwrap();
    (result.unwrap(), stays, measured.bytes_max - stays)
}

#[test]
fn every_stage_of_loading_the_largest_network_takes_little() {
    let net = largest();
    let mut longest = 0;
    net.visit(Path::ROOT, &mut |path, _, _| longest = longest.max(path.bytes()));
    assert!((480..=512).contains(&longest), "{longest}");
    let architecture = Architecture::of(&net).unwrap();
    assert_eq!(architecture.layers().len(), Architecture::MAX_LAYERS);
    let bytes = Checkpoint::of(&net).architecture(&architecture).unwrap().to_bytes().unwrap();

    let (checkpoint, stays, beside) = measured(|| Checkpoint::from_bytes(&bytes).unwrap());
    println!("load: {stays} bytes for a file of {}, {beside} beside", bytes.len());
    assert!(stays <= bytes.len() as u64 + BESIDE && beside <= BESIDE);

    let (read, stays, beside) = measured(|| checkpoint.architecture::<Architecture>().unwrap());
    println!("architecture: {stays} bytes, {beside} beside");
    assert!(beside <= BESIDE);

    let values = 2 * architecture.layers().iter().filter(|layer| layer.kind == "Linear").count();
    let (mut built, stays, beside) = measured(|| read.build::<f32>(values).unwrap());
    println!("build: {stays} bytes for {values} values, {beside} beside");
    assert!(stays <= 4 * values as u64 + OF_LAYER * architecture.layers().len() as u64);
    assert!(beside <= BESIDE);

    let ((), _, beside) = measured(|| checkpoint.restore(&mut built).unwrap());
    println!("restore: {beside} beside");
}
