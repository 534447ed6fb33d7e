//! Training takes little more memory than what it computes with: parameters, gradients, velocities, outputs, data.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use backrule_loss::CrossEntropy;
use backrule_nn::{Grads, Key, Linear, Mode, Relu, Sequential, Tape};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{NamedTensors, Tensor, random};

/// The most memory that this process has had so far, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
}

#[test]
fn training_stays_within_20_megabytes_of_what_it_computes_with() {
    let (sizes, batch) = ([784, 128, 64, 10], 1024);
    let mut rng = random::rng(1);
    let mut net = Sequential::builder()
        .layer("fc1", Linear::new(sizes[0], sizes[1], &mut rng).unwrap())
        .layer("relu1", Relu)
        .layer("fc2", Linear::new(sizes[1], sizes[2], &mut rng).unwrap())
        .layer("relu2", Relu)
        .layer("fc3", Linear::new(sizes[2], sizes[3], &mut rng).unwrap())
        .build()
        .unwrap();
    let x: Tensor = Tensor::normal([batch, sizes[0]], 0.0, 1.0, &mut rng).unwrap();
    let labels: Vec<usize> = (0..batch).map(|i| i % sizes[3]).collect();
    let mut optimizer = Optimizer::new(Sgd::new(0.01).unwrap().momentum(0.9).unwrap(), &net).unwrap();
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&net).unwrap(), Tensor::default());
    for step in 0..3 {
        let pass = tape.forward(&net, &x, Mode::train_with(Key::new(step))).unwrap();
        CrossEntropy::new().value_and_grad(pass.output(), &labels, &mut dy).unwrap();
        pass.backward(&dy, &mut grads).unwrap();
        optimizer.step(&mut net, &mut grads).unwrap();
    }
    let parameters: usize = net.tensors().iter().map(|(_, tensor)| tensor.len()).sum();
    // Outputs of the two ReLUs and of fc3, and the gradients between layers: two buffers, each as wide as fc1's output.
    let activations = batch * (sizes[1] + sizes[2] + sizes[3] + 2 * sizes[1] + sizes[3]);
    let needed = 4 * (3 * parameters + activations + x.len());
    let peak = peak();
    println!("needed {needed} bytes, peak {peak} bytes");
    assert!(peak <= needed + 20_000_000, "{peak} bytes, of which {needed} are needed");
}
