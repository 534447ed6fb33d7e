//! A warm step allocates nothing, on whatever thread its parts run. The only test of this program: it counts
//! for the whole process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::sync::Barrier;

use backrule_nn::testing::{Sample, table};
use backrule_nn::{Grads, Key, Mode, Tape, predict_many};
use backrule_tensor::{Tensor, parallel, random};
use backrule_testkit::{Failing, with_threads};

#[global_allocator]
static MEMORY: Failing = Failing;

/// Which thread runs a part is chance: in so many steps each has met every part, or never will.
const STEPS: usize = 8;

fn check(kind: &str, sample: &Sample<f32>, parts: usize) {
    let x = sample.tensors(8).unwrap();
    let x: Vec<_> = x.iter().collect();
    let y = predict_many(&*sample.layer, &x).unwrap();
    let dy: Vec<Tensor> =
        y.iter().map(|y| Tensor::normal(y.shape(), 0.0, 1.0, &mut random::rng(5)).unwrap()).collect();
    let dy: Vec<_> = dy.iter().map(Some).collect();
    let (mut tape, mut grads) = (Tape::new().parts(parts).unwrap(), Grads::new(&*sample.layer).unwrap());
    let mut dx = vec![Tensor::default(); x.len()];
    let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
    let mut step = |mode| {
        let pass = tape.forward_many(&*sample.layer, &x, mode).unwrap();
        pass.backward_many_to_inputs(&dy, &mut grads, &mut wanted).unwrap();
    };
    let modes = [Mode::train_with(Key::new(1)), Mode::Eval];
    modes.into_iter().for_each(&mut step);
    let allocations = Failing::count(|| {
        for _ in 0..STEPS {
            modes.into_iter().for_each(&mut step);
        }
    });
    assert_eq!(allocations, 0, "{kind} `{}`, {parts} parts", sample.name);
}

#[test]
fn a_warm_step_allocates_on_no_thread() {
    let _one = with_threads(2);
    // Each thread waits for the other: the worker has started.
    let both = Barrier::new(2);
    parallel::run(2, |_| _ = both.wait());
    assert!(Failing::count(|| drop(black_box(vec![0_u8; 9]))) > 0, "it counts");
    for entry in table::<f32>() {
        for sample in (entry.samples)().iter().filter(|sample| !sample.bench) {
            for parts in [1, 2, 3] {
                check(entry.kind, sample, parts);
            }
        }
    }
}
