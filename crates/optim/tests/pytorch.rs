//! Every optimiser against parameters that PyTorch computed.
#![allow(clippy::unwrap_used)]

use backrule_optim::tensor::{Scalar, Tensor};
use backrule_optim::{Momentum, Optimizer, Sgd};
use backrule_testkit::{Value, assert_close, assert_near, number, numbers, oracle, tensor};

/// Parameters of size 1 are rounded by 2⁻²⁴ of themselves in each of 12 steps, and so are gradients and velocities; an
/// error in a velocity of size 10 counts 1 / (1 − 0.9) times and is scaled by the learning rate, 0.1: about 3 roundings
/// a step, 12 · 3 · 2⁻²⁴ = 2e-6.
const F32: f64 = 2e-6;
const F64: f64 = 1e-10;

fn sgd(learning_rate: f64, options: &Value) -> Sgd {
    let option = |name| options.get(name).map_or(0.0, number);
    let (factor, dampening) = (option("momentum"), option("dampening"));
    let momentum = if options.get("nesterov") == Some(&Value::Bool(true)) {
        Momentum::Nesterov { factor }
    } else {
        Momentum::Classic { factor, dampening }
    };
    let known = ["lr", "momentum", "dampening", "nesterov", "weight_decay"];
    assert!(options.as_object().unwrap().keys().all(|key| known.contains(&&key[..])));
    let sgd = Sgd::new(learning_rate).unwrap().momentum(momentum).unwrap();
    sgd.weight_decay(option("weight_decay")).unwrap()
}

fn shared_sgd<T: Scalar>(tolerance: f64) {
    for case in oracle::optimizers("sgd") {
        let options = &case["options"];
        let mut x: Tensor<T> = tensor(&case["start"]);
        let mut optimizer = Optimizer::new(sgd(number(&options["lr"]), options), &x).unwrap();
        let steps = case["grads"].as_array().unwrap().iter().zip(case["after"].as_array().unwrap());
        assert_eq!(steps.len(), 12);
        for (step, (grad, after)) in steps.enumerate() {
            optimizer.step(&mut x, &mut [tensor(grad).into()]).unwrap();
            assert_close(&format!("{options}, step {step}"), &x, &tensor(after), tolerance);
        }
    }
}

#[test]
fn sgd_is_pytorch_s() {
    shared_sgd::<f64>(F64);
    shared_sgd::<f32>(F32);
}

/// `sgd.py` made these: all options together, and a learning rate that changes.
fn all_combinations<T: Scalar>(tolerance: f64) {
    let file: Value = serde_json::from_str(include_str!("sgd.json")).unwrap();
    let list = |value: &Value| -> Vec<T> { numbers(value).into_iter().map(T::from_f64).collect() };
    let (rates, grads) = (numbers(&file["learning_rates"]), file["grads"].as_array().unwrap());
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 38);
    for case in cases {
        let mut x = Tensor::from_vec([3], list(&file["start"])).unwrap();
        let mut optimizer = Optimizer::new(sgd(rates[0], &case["options"]), &x).unwrap();
        for (step, (grad, &rate)) in grads.iter().zip(&rates).enumerate() {
            optimizer.set_learning_rate(rate).unwrap();
            let dx = Tensor::from_vec([3], list(grad)).unwrap();
            optimizer.step(&mut x, &mut [dx.into()]).unwrap();
            for (x, expected) in x.as_slice().iter().zip(numbers(&case["after"][step])) {
                let name = format!("{}, step {step}", case["options"]);
                assert_near(&name, x.to_f64(), expected, tolerance);
            }
        }
    }
}

#[test]
fn all_options_together_are_pytorch_s() {
    all_combinations::<f64>(F64);
    all_combinations::<f32>(F32);
}
