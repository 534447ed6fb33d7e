//! A network that PyTorch has saved computes the same here: names, layouts and bytes of weights carry over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use backrule_io::safetensors;
use backrule_nn::{Linear, Sequential, Tanh, predict};
use backrule_tensor::{Tensor, random};

/// Written by crates/io/tests/golden/from_torch.py.
const FILE: &[u8] = include_bytes!("../crates/io/tests/golden/from_torch.safetensors");

#[test]
fn a_network_of_pytorch_computes_the_same() {
    let mut rng = random::rng(1);
    let mut net: Sequential = Sequential::builder()
        .layer("0", Linear::new(3, 4, &mut rng).unwrap())
        .layer("1", Tanh)
        .layer("2", Linear::new(4, 2, &mut rng).unwrap())
        .build()
        .unwrap();
    let file = safetensors::from_bytes(FILE).unwrap();
    let report = file.restoring().partial().restore_into(&mut net).unwrap();
    assert_eq!((report.restored.len(), report.missing.len(), report.skipped.len()), (4, 0, 0), "{report}");

    let mut batch = vec![("x", Tensor::zeros([5, 3]).unwrap()), ("y", Tensor::zeros([5, 2]).unwrap())];
    file.restoring().only("x").only("y").partial().restore_into(&mut batch).unwrap();
    let y = predict(&net, &batch[0].1).unwrap();
    for (ours, theirs) in y.as_slice().iter().zip(batch[1].1.as_slice()) {
        // Sums of four products below 1, in another order.
        assert!((ours - theirs).abs() < 4.0 * f32::EPSILON, "{y}\n{}", batch[1].1);
    }
    assert_ne!(batch[1].1.as_slice(), [0.0; 10]);
}
