//! Training takes little more memory than its data: parameters, gradients, velocities, outputs,
//! data.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use backrule_loss::CrossEntropy;
use backrule_nn::{Key, Linear, Mode, Relu, Sequential};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{NamedTensors, Tensor, random};
use backrule_testkit::{Trainer, peak};

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
    let mut trainer = Trainer::new(&net);
    for step in 0..3 {
        trainer.step(&mut net, &mut optimizer, &x, Mode::train_with(Key::new(step)), |y, dy| {
            CrossEntropy::new().value_and_grad(y, &labels, dy)
        });
    }
    let parameters: usize = net.tensors().iter().map(|(_, tensor)| tensor.len()).sum();
    // Outputs of the two ReLUs and of fc3, and the gradients between layers: two buffers, each as wide as
    // fc1's output.
    let activations = batch * (sizes[1] + sizes[2] + sizes[3] + 2 * sizes[1] + sizes[3]);
    let needed = 4 * (3 * parameters + activations + x.len());
    let peak = peak();
    println!("needed {needed} bytes, peak {peak} bytes");
    assert!(peak <= needed + 20_000_000, "{peak} bytes, of which {needed} are needed");
}
