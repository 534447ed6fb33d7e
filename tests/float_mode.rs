//! The floating-point modes of the caller and of the workers change no bit: training, predictions and
//! products, some of whose numbers are too small for normal ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use backrule_loss::{CrossEntropy, Mse};
use backrule_nn::{
    At, Cache, Dropout, Grads, Init, Key, Layer, LayerError, LayerNorm, Linear, Mode, Relu, Sequential, Tanh,
    Tape, predict, predict_many,
};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::float_mode::testing::{self, current, within};
use backrule_tensor::{Grad, NamedTensors, Role, Tensor, parallel, random};

const CHILD: &str = "BACKRULE_TEST_FLOAT_MODE";
const BATCH: usize = 128;
const INPUTS: usize = 70;
const UNITS: usize = 240;
const CLASSES: usize = 10;

/// All bits of the results, as one number.
struct Digest(u64);

impl Digest {
    fn add(&mut self, bits: u64) {
        self.0 = (self.0 ^ bits).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    fn tensor(&mut self, x: &Tensor) {
        x.as_slice().iter().for_each(|x| self.add(u64::from(x.to_bits())));
    }
}

/// y = x / 3. Nothing of it is Backrule's: only tape and `predict` can see to the mode.
#[derive(Clone)]
struct Third;

impl NamedTensors<f32> for Third {}

impl Third {
    fn of(x: &Tensor, y: &mut Tensor) -> Result<(), LayerError> {
        y.copy_from(x)?;
        y.as_mut_slice().iter_mut().for_each(|y| *y /= 3.0);
        Ok(())
    }
}

impl Layer<f32> for Third {
    fn forward(&self, x: &Tensor, y: &mut Tensor, _: &mut Cache<f32>, _: Mode) -> Result<(), LayerError> {
        Self::of(x, y)
    }

    fn backward(
        &self,
        _: At<'_, f32>,
        dy: &Tensor,
        dx: Option<&mut Tensor>,
        _: &mut [Grad],
    ) -> Result<(), LayerError> {
        dx.map_or(Ok(()), |dx| Self::of(dy, dx))
    }
}

/// Weights and inputs are multiplied by `scale`.
fn network(scale: f32) -> (Sequential, Tensor) {
    let mut rng = random::rng(1);
    let mut net = Sequential::builder()
        .layer("third", Third)
        .layer("fc1", Linear::new(INPUTS, UNITS, &mut rng).unwrap())
        .layer("norm", LayerNorm::new([UNITS]).unwrap())
        .layer("tanh", Tanh)
        .layer("drop", Dropout::new(0.2).unwrap())
        .layer("fc2", Linear::new(UNITS, CLASSES, &mut rng).unwrap())
        .layer("relu", Relu)
        .build()
        .unwrap();
    net.visit_mut(backrule_tensor::Path::ROOT, &mut |_, role, x| {
        if role == Role::Parameter {
            x.scale(scale);
        }
    });
    let mut x = Tensor::normal([BATCH, INPUTS], 0.0, 1.0, &mut rng).unwrap();
    x.scale(scale);
    (net, x)
}

fn train(scale: f32, parts: usize, digest: &mut Digest) {
    let (mut net, x) = network(scale);
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
    let (mut tape, mut grads) = (Tape::new().parts(parts).unwrap(), Grads::new(&net).unwrap());
    let (mut dy, mut dx) = (Tensor::default(), Tensor::default());
    let labels: Vec<usize> = (0..BATCH).map(|i| i % CLASSES).collect();
    for step in 0..2 {
        let pass = tape.forward(&net, &x, Mode::train_with(Key::new(step))).unwrap();
        let cross_entropy = CrossEntropy::new().value_and_grad(pass.output(), &labels, &mut dy).unwrap();
        let (p, t) = (pass.output(), Tensor::full([BATCH, CLASSES], 0.3).unwrap());
        let (mse, mut dp) = (Mse::new().value(p, &t).unwrap(), Tensor::default());
        digest.add(u64::from(Mse::new().value_and_grad(p, &t, &mut dp).unwrap().to_bits()));
        dy.add(&dp).unwrap();
        dy.scale(scale);
        pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
        digest.tensor(&dx);
        digest.add(grads.norm().to_bits());
        let norm = grads.clip_norm(0.01).unwrap();
        grads.clip_value(0.0001).unwrap();
        grads.iter().filter_map(|grad| grad.get()).for_each(|grad| digest.tensor(grad));
        optimizer.step(&mut net, &mut grads).unwrap();
        [cross_entropy.to_bits(), mse.to_bits()].into_iter().for_each(|bits| digest.add(u64::from(bits)));
        digest.add(norm.to_bits());
    }
    net.visit(backrule_tensor::Path::ROOT, &mut |_, _, x| digest.tensor(x));
    digest.tensor(&predict(&net, &x).unwrap());
    predict_many(&net, &[&x]).unwrap().iter().for_each(|y| digest.tensor(y));
}

/// Failing calls give the mode back, too.
fn fail() {
    let (mut net, x) = network(1.0);
    let (narrow, mut dy) = (Tensor::zeros([BATCH, 3]).unwrap(), Tensor::default());
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&net).unwrap());
    assert!(predict(&net, &narrow).is_err() && tape.forward(&net, &narrow, Mode::Eval).is_err());
    assert!(tape.forward(&net, &x, Mode::Eval).unwrap().backward(&narrow, &mut grads).is_err());
    assert!(CrossEntropy::new().value_and_grad(&narrow, &[0, 1], &mut dy).is_err());
    assert!(Mse::new().value_and_grad(&narrow, &x, &mut dy).is_err());
    assert!(grads.clip_norm(f64::NAN).is_err());
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap(), &net).unwrap();
    let mut others = Grads::new(&Linear::<f32>::new(2, 1, &mut random::rng(1)).unwrap()).unwrap();
    assert!(optimizer.step(&mut net, &mut others).is_err());
    let panics = || parallel::run(3, |_| std::panic::resume_unwind(Box::new(())));
    assert!(std::panic::catch_unwind(panics).is_err());
}

fn digest(threads: usize) -> u64 {
    parallel::set_threads(threads.try_into().unwrap());
    let mut digest = Digest(1);
    for (scale, parts) in [(1.0, 1), (1e-20, 1), (1e-20, 3)] {
        train(scale, parts, &mut digest);
    }
    // Products that are too small for normal numbers.
    let (a, b): (Tensor, Tensor) =
        (Tensor::full([512, 64], 1e-20).unwrap(), Tensor::full([64, 128], 1e-21).unwrap());
    let c = a.matmul(&b).unwrap();
    assert!(c.as_slice().iter().all(|c| c.to_bits() != 0 && c.to_bits() < f32::MIN_POSITIVE.to_bits()));
    digest.tensor(&c);
    let mut rng = random::rng(2);
    for init in [Init::FanIn, Init::GlorotUniform, Init::GlorotNormal, Init::HeNormal] {
        let w: Tensor<f64> = init.tensor([7, 5], 5, 7, &mut rng).unwrap();
        w.as_slice().iter().for_each(|w| digest.add(w.to_bits()));
    }
    digest.0
}

/// Computes on three threads, two and one, with a host's thread in this mode.
fn in_mode(mode: testing::Mode, expected: u64) {
    for threads in [3, 2, 1] {
        within(mode, || {
            let before = current();
            assert_eq!(digest(threads), expected, "{mode:?}, {threads} threads");
            fail();
            assert_eq!(current(), before, "{mode:?} afterwards");
        });
    }
}

/// One process for each mode that the workers may start in.
#[test]
fn no_mode_of_a_host_changes_a_bit() {
    let number = |text: &str| text.parse::<u64>().unwrap();
    if let Ok(child) = std::env::var(CHILD) {
        let (first, expected) = child.split_once(' ').unwrap();
        let (first, expected) = (testing::Mode::ALL[number(first) as usize], number(expected));
        // The workers start here.
        in_mode(first, expected);
        testing::Mode::ALL.into_iter().for_each(|mode| in_mode(mode, expected));
        return;
    }
    let expected = digest(1);
    for first in 0..testing::Mode::ALL.len() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "no_mode_of_a_host_changes_a_bit", "--nocapture"]);
        let output = child.env(CHILD, format!("{first} {expected}")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "workers that start in {:?}: {text}", testing::Mode::ALL[first]);
    }
}

/// In the destructor of a thread-local the crates' own thread-locals may be gone.
#[test]
fn a_prediction_in_the_destructor_of_a_thread_local() {
    struct Late(std::cell::RefCell<Option<std::sync::mpsc::Sender<Tensor>>>);

    impl Drop for Late {
        fn drop(&mut self) {
            let (net, x) = network(1.0);
            if let Some(sender) = self.0.take() {
                sender.send(predict(&net, &x).unwrap()).unwrap();
            }
        }
    }

    thread_local! {
        static LATE: Late = const { Late(std::cell::RefCell::new(None)) };
    }

    let (net, x) = network(1.0);
    let expected = predict(&net, &x).unwrap();
    for late_first in [true, false] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (net, x) = (net.clone(), x.clone());
        let thread = std::thread::spawn(move || {
            if late_first {
                LATE.with(|late| *late.0.borrow_mut() = Some(sender));
                predict(&net, &x).unwrap();
            } else {
                predict(&net, &x).unwrap();
                LATE.with(|late| *late.0.borrow_mut() = Some(sender));
            }
        });
        thread.join().unwrap();
        assert!(receiver.recv().unwrap() == expected);
    }
}
