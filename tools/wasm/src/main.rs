//! XOR, trained, saved into memory, restored into another network, and predicted:
//!
//! ```console
//! $ cargo build --release -p backrule-wasm --target wasm32-unknown-unknown
//! $ node .ci/wasm.mjs target/wasm32-unknown-unknown/release/backrule-wasm.wasm
//! ```
//!
//! It prints nothing, because there is nothing to print on: a panic, which Node sees as a trap, is a failure.
//! The module imports nothing.
#![allow(clippy::unwrap_used, reason = "a panic is what tells that it failed")]

use backrule_io::Checkpoint;
use backrule_loss::CrossEntropy;
use backrule_nn::{Grads, Key, Linear, Mode, Sequential, Tanh, Tape, predict};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Tensor, random};

fn network(seed: u64) -> Sequential {
    let mut rng = random::rng(seed);
    let hidden = Linear::new(2, 8, &mut rng).unwrap();
    let output = Linear::new(8, 2, &mut rng).unwrap();
    Sequential::builder().layer("hidden", hidden).layer("tanh", Tanh).layer("output", output).build().unwrap()
}

fn main() {
    let x = Tensor::from_vec([4, 2], vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]).unwrap();
    let labels = [0, 1, 1, 0];
    let mut net = network(1);
    let mut optimizer = Optimizer::new(Sgd::new(0.5).unwrap().momentum(0.9).unwrap(), &net).unwrap();
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&net).unwrap(), Tensor::default());
    let mut loss = f32::INFINITY;
    for step in 0..200 {
        let pass = tape.forward(&net, &x, Mode::train_with(Key::new(step))).unwrap();
        loss = CrossEntropy::new().value_and_grad(pass.output(), &labels, &mut dy).unwrap();
        pass.backward(&dy, &mut grads).unwrap();
        optimizer.step(&mut net, &mut grads).unwrap();
    }
    assert!(loss < 0.01, "{loss}");

    let bytes = Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap();
    let mut other = network(2);
    let rule = Sgd::new(0.5).unwrap().momentum(0.9).unwrap();
    let mut resumed = Optimizer::new(rule, &other).unwrap();
    Checkpoint::from_bytes(&bytes).unwrap().restore_with_optimizer(&mut other, &mut resumed).unwrap();
    let y = predict(&other, &x).unwrap();
    assert_eq!(y, predict(&net, &x).unwrap());
    assert!(y.argmax_rows().eq(labels));
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs_here_too() {
        super::main();
    }
}
