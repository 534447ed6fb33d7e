//! Every rule against parameters that PyTorch computed.
#![allow(clippy::unwrap_used)]

use backrule_optim::tensor::{Grads, Scalar, Tensor};
use backrule_optim::{Momentum, Optimizer, Sgd};
use backrule_testkit::oracle::{self, Case};
use backrule_testkit::{assert_close, numbers, tensor};

/// Parameters of size 1 are rounded by 2⁻²⁴ of themselves in each of 12 steps, and so are gradients and velocities; an
/// error in a velocity of size 10 counts 1 / (1 − 0.9) times and is scaled by the learning rate, 0.1: about 3 roundings
/// a step, 12 · 3 · 2⁻²⁴ = 2e-6.
const F32: f64 = 2e-6;
const F64: f64 = 1e-10;

/// The options are read, each of them.
fn sgd_of(case: &Case) -> Sgd {
    let known = ["lr", "momentum", "dampening", "nesterov", "weight_decay"];
    assert!(case["options"].as_object().unwrap().keys().all(|key| known.contains(&&key[..])), "{case}");
    let option = |name| case.number(name).unwrap_or(0.0);
    let (factor, dampening) = (option("momentum"), option("dampening"));
    let momentum = if case.flag("nesterov") == Some(true) {
        Momentum::Nesterov { factor }
    } else {
        Momentum::Classic { factor, dampening }
    };
    let sgd = Sgd::new(option("lr")).unwrap().momentum(momentum).unwrap();
    sgd.weight_decay(option("weight_decay")).unwrap()
}

fn check<T: Scalar>(case: &Case, rule: Sgd, tolerance: f64) {
    let mut x: Tensor<T> = case.tensor("start").unwrap();
    let mut optimizer = Optimizer::new(rule, &x).unwrap();
    let mut grads = Grads::new(&x).unwrap();
    let [dx, after] = ["grads", "after"].map(|list| case[list].as_array().unwrap());
    assert!(dx.len() >= 6 && dx.len() == after.len());
    let rates = case.field("rates").map(numbers);
    for (step, (grad, after)) in dx.iter().zip(after).enumerate() {
        if let Some(rates) = &rates {
            optimizer.set_learning_rate(rates[step]).unwrap();
        }
        grads[0] = tensor(grad).into();
        optimizer.step(&mut x, &mut grads).unwrap();
        assert_close(&format!("{case}, step {step}"), &x, &tensor(after), tolerance);
    }
}

#[test]
fn rules_are_pytorch_s() {
    oracle::every("optimizer", |case| {
        if case.op() != "sgd" {
            return false;
        }
        check::<f64>(case, sgd_of(case), F64);
        check::<f32>(case, sgd_of(case), F32);
        true
    });
}
