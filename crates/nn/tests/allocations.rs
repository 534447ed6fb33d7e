//! A warm step allocates nothing, on whatever thread its parts run. A program without a harness, whose own
//! thread may allocate at any time: it counts for the whole process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::{Arc, Barrier};

use backrule_nn::testing::{Sample, table};
use backrule_nn::{At, Cache, Grads, Key, Layer, LayerError, Linear, Mode, Tape, predict_many};
use backrule_tensor::{Grad, NamedTensors, Path, Role, Shape, Tensor, parallel, random};
use backrule_testkit::{Failing, with_threads};

#[global_allocator]
static MEMORY: Failing = Failing;

const STEPS: usize = 8;

/// A dense layer that computes when as many parts are there as the barrier waits for, if there is one.
#[derive(Clone)]
struct Meeting {
    layer: Linear,
    parts: Option<Arc<Barrier>>,
}

impl NamedTensors<f32> for Meeting {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor)) {
        self.layer.visit(path, visitor);
    }

    fn visit_mut<'s>(&'s mut self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor)) {
        self.layer.visit_mut(path, visitor);
    }
}

impl Layer<f32> for Meeting {
    fn forward(&self, x: &Tensor, y: &mut Tensor, cache: &mut Cache, mode: Mode) -> Result<(), LayerError> {
        if let Some(parts) = &self.parts {
            parts.wait();
        }
        self.layer.forward(x, y, cache, mode)
    }

    fn backward(
        &self,
        at: At<'_, f32>,
        dy: &Tensor,
        dx: Option<&mut Tensor>,
        grads: &mut [Grad],
    ) -> Result<(), LayerError> {
        self.layer.backward(at, dy, dx, grads)
    }

    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        Layer::<f32>::output_shape(&self.layer, x)
    }
}

/// The worker meets its part for the first time when that is warm: one thread has run both parts before.
fn a_worker_finds_the_memory_of_its_part() {
    let rng = &mut random::rng(1);
    let mut net = Meeting { layer: Linear::new(70, 60, rng).unwrap(), parts: None };
    let x = Tensor::normal([64, 70], 0.0, 1.0, rng).unwrap();
    let dy = Tensor::full([64, 60], 1.0).unwrap();
    let (mut tape, mut grads) = (Tape::new().parts(2).unwrap(), Grads::new(&net).unwrap());
    let mut step = |net: &Meeting| {
        tape.forward(net, &x, Mode::train()).unwrap().backward(&dy, &mut grads).unwrap();
    };
    parallel::set_threads(NonZeroUsize::MIN);
    step(&net);
    parallel::set_threads(NonZeroUsize::new(2).unwrap());
    net.parts = Some(Arc::new(Barrier::new(2)));
    assert_eq!(Failing::count(|| step(&net)), 0, "a part that a thread meets for the first time");
}

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
    let mut step = |mode, grads: &mut Grads| {
        let pass = tape.forward_many(&*sample.layer, &x, mode).unwrap();
        pass.backward_many_to_inputs(&dy, grads, &mut wanted).unwrap();
    };
    let modes = [Mode::train_with(Key::new(1)), Mode::Eval];
    // A sum of more than eight passes has memory of its own: it is warm with the first such sum.
    for passes in [1, STEPS] {
        let mut steps = || {
            grads.clear();
            for _ in 0..passes {
                modes.into_iter().for_each(|mode| step(mode, &mut grads));
            }
        };
        steps();
        let allocations = Failing::count(|| (0..STEPS / passes).for_each(|_| steps()));
        assert_eq!(allocations, 0, "{kind} `{}`, {parts} parts", sample.name);
    }
}

fn main() {
    let _one = with_threads(2);
    // Each thread waits for the other: the worker has started.
    let both = Barrier::new(2);
    parallel::run(2, |_| _ = both.wait());
    a_worker_finds_the_memory_of_its_part();
    assert!(Failing::count(|| drop(black_box(vec![0_u8; 9]))) > 0, "it counts");
    for entry in table::<f32>() {
        for sample in (entry.samples)().iter().filter(|sample| !sample.bench) {
            for parts in [1, 2, 3] {
                check(entry.kind, sample, parts);
            }
        }
    }
    println!("test a_warm_step_allocates_on_no_thread ... ok");
}
