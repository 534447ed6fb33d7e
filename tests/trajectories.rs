//! Whole training runs against PyTorch: 20 steps of a 6-5-4-3 network, every loss and the final parameters.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_loss::{CrossEntropy, LossError, Mse};
use backrule_nn::{Key, Linear, Mode, Relu, Sequential};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{NamedTensors, Scalar, Tensor};
use backrule_testkit::oracle::{self, Case};
use backrule_testkit::{Trainer, Value, assert_close, assert_near, numbers, tensor};

/// In f64 the bound is 1e-10. In f32 each of 20 steps rounds some 50 operations deep, at 6e-8 each, and
/// momentum 0.9 adds up the errors of about 10 steps: 50 · 10 · 6e-8 = 3e-5.
fn bound<T: Scalar>() -> f64 {
    if T::EPSILON.to_f64() < 1e-10 { 1e-10 } else { 3e-5 }
}

fn network<T: Scalar>(start: &[Value]) -> Sequential<T> {
    let mut builder = Sequential::builder();
    for (i, layer) in start.iter().enumerate() {
        if i > 0 {
            builder = builder.layer(format!("relu{i}"), Relu);
        }
        let [weight, bias] = [tensor(&layer[0]), tensor(&layer[1])];
        builder = builder.layer(format!("fc{i}"), Linear::from_tensors(weight, Some(bias)).unwrap());
    }
    builder.build().unwrap()
}

/// Trains on a case's batches; `loss` gives value and gradient for an output and the batch's target.
fn run<T: Scalar>(case: &Case, loss: impl Fn(&Tensor<T>, &Value, &mut Tensor<T>) -> Result<T, LossError>) {
    let list = |name: &str| case[name].as_array().unwrap();
    let mut net = network::<T>(list("start"));
    let rate = case.number("lr").unwrap();
    let rule = Sgd::new(rate).unwrap().momentum(case.number("momentum").unwrap()).unwrap();
    let mut optimizer = Optimizer::new(rule, &net).unwrap();
    let mut trainer = Trainer::new(&net);

    let (batches, losses) = (list("batches"), numbers(&case["losses"]));
    assert_eq!((batches.len(), losses.len()), (20, 20));
    for (step, (batch, expected)) in batches.iter().zip(losses).enumerate() {
        let x = tensor(&batch["input"]);
        let mode = Mode::train_with(Key::new(step as u64));
        let loss = |y: &Tensor<T>, dy: &mut Tensor<T>| loss(y, &batch["target"], dy);
        let l = trainer.step(&mut net, &mut optimizer, &x, mode, loss);
        assert_near(&format!("{case}: loss of step {step}"), l.to_f64(), expected, bound::<T>());
    }
    let expected = list("final").iter().flat_map(|layer| [&layer[0], &layer[1]]);
    for ((path, parameter), expected) in net.tensors().into_iter().zip(expected) {
        assert_close(&format!("{case}: {path}"), parameter, &tensor(expected), bound::<T>());
    }
}

/// Whether the case is a run of which all parts are here.
fn check<T: Scalar>(case: &Case) -> bool {
    match case.op() {
        "mlp_cross_entropy" => run::<T>(case, |y, target, dy| {
            let labels: Vec<_> = numbers(&target["data"]).into_iter().map(|label| label as usize).collect();
            CrossEntropy::new().value_and_grad(y, &labels, dy)
        }),
        "mlp_mse" => run::<T>(case, |y, target, dy| Mse::new().value_and_grad(y, &tensor(target), dy)),
        _ => return false,
    }
    true
}

#[test]
fn runs_agree() {
    oracle::every("trajectory", |case| check::<f64>(case) && check::<f32>(case));
}
