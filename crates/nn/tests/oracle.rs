//! Every layer against PyTorch's values: 1e-12 forward and 1e-10 backward in f64.
//!
//! In f32 a value of size 1 carries a rounding error of 6e-8; the longest sum here has 33 terms, and the fixtures
//! themselves are rounded on the way in, which makes 33 · 6e-8 = 2e-6 the honest bound of both directions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::{Grads, Layer, Linear, LogSoftmax, Mode, Relu, Sigmoid, Softmax, Tanh, Tape};
use backrule_tensor::{Scalar, Tensor};
use backrule_testkit::{Value, assert_close, oracle, tensor};

struct Bounds {
    forward: f64,
    backward: f64,
}

const F64: Bounds = Bounds { forward: 1e-12, backward: 1e-10 };
const F32: Bounds = Bounds { forward: 2e-6, backward: 2e-6 };

fn check<T: Scalar>(layer: &dyn Layer<T>, case: &Value, parameters: &[&str], bounds: &Bounds) {
    let op = format!("{} in {} {}", case["op"], T::DTYPE, case["input"]["shape"]);
    let (x, dy) = (tensor(&case["input"]), tensor(&case["grad_output"]));
    let (mut tape, mut dx) = (Tape::new(), Tensor::default());
    let mut grads = Grads::new(layer);
    let pass = tape.forward(layer, &x, Mode::Eval).unwrap();
    assert_close(&op, pass.output(), &tensor(&case["output"]), bounds.forward);
    pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
    assert_close(&op, &dx, &tensor(&case["grad_input"]), bounds.backward);
    for (grad, parameter) in grads.iter().zip(parameters) {
        let expected = tensor(&case[format!("grad_{parameter}").as_str()]);
        assert_close(&format!("{op} {parameter}"), grad.get().unwrap(), &expected, bounds.backward);
    }
}

fn linear<T: Scalar>(bounds: &Bounds) {
    for case in oracle::layers("linear") {
        let bias = case.get("bias").map(tensor);
        let layer = Linear::<T>::from_tensors(tensor(&case["weight"]), bias).unwrap();
        check(&layer, &case, &["weight", "bias"], bounds);
    }
}

#[test]
fn linear_agrees() {
    linear::<f64>(&F64);
    linear::<f32>(&F32);
}

#[test]
fn activations_agree() {
    fn every_case(op: &str, single: &dyn Layer<f32>, double: &dyn Layer<f64>) {
        for case in oracle::layers(op) {
            check(double, &case, &[], &F64);
            check(single, &case, &[], &F32);
        }
    }
    every_case("relu", &Relu, &Relu);
    every_case("sigmoid", &Sigmoid, &Sigmoid);
    every_case("tanh", &Tanh, &Tanh);
    every_case("softmax", &Softmax, &Softmax);
    every_case("log_softmax", &LogSoftmax, &LogSoftmax);
}
