//! Every layer against PyTorch's values: 1e-12 forward and 1e-10 backward in f64.
//!
//! In f32 a value of size 1 carries a rounding error of 6e-8; the longest sum here has 33 terms, and the fixtures
//! themselves are rounded on the way in, which makes 33 · 6e-8 = 2e-6 the honest bound of both directions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::{Grads, Layer, Linear, LogSoftmax, Mode, Relu, Sigmoid, Softmax, Tanh, Tape};
use backrule_tensor::{Scalar, Tensor};
use backrule_testkit::assert_close;
use backrule_testkit::oracle::{self, Case};

struct Bounds {
    forward: f64,
    backward: f64,
}

const F64: Bounds = Bounds { forward: 1e-12, backward: 1e-10 };
const F32: Bounds = Bounds { forward: 2e-6, backward: 2e-6 };

/// The layer that a case is an example of.
fn layer<T: Scalar>(case: &Case) -> Option<Box<dyn Layer<T>>> {
    let last_axis = || case.number("axis").is_none_or(|axis| axis == -1.0);
    Some(match case.op() {
        "linear" => Box::new(Linear::from_tensors(case.tensor("weight")?, case.tensor("bias")).unwrap()),
        "relu" => Box::new(Relu),
        "sigmoid" => Box::new(Sigmoid),
        "tanh" => Box::new(Tanh),
        "softmax" if last_axis() => Box::new(Softmax),
        "log_softmax" if last_axis() => Box::new(LogSoftmax),
        _ => return None,
    })
}

fn check<T: Scalar>(case: &Case, layer: &dyn Layer<T>, bounds: &Bounds) {
    let what = |name: &str| format!("{case} in {}, {name}", T::DTYPE);
    let expected = |name: &str| case.tensor::<T>(name).unwrap_or_else(|| panic!("no {name} in {case}"));
    let (mut tape, mut dx) = (Tape::new(), Tensor::default());
    let mut grads = Grads::new(layer).unwrap();
    let x = expected("input");
    let pass = tape.forward(layer, &x, Mode::Eval).unwrap();
    assert_close(&what("output"), pass.output(), &expected("output"), bounds.forward);
    pass.backward_to_input(&expected("grad_output"), &mut grads, &mut dx).unwrap();
    assert_close(&what("grad_input"), &dx, &expected("grad_input"), bounds.backward);
    for (grad, (name, _)) in grads.iter().zip(layer.tensors()) {
        let name = format!("grad_{name}");
        assert_close(&what(&name), grad, &expected(&name), bounds.backward);
    }
}

#[test]
fn layers_agree() {
    oracle::every("layer", |case| {
        let (Some(single), Some(double)) = (layer(case), layer(case)) else { return false };
        check::<f32>(case, &*single, &F32);
        check::<f64>(case, &*double, &F64);
        true
    });
}

#[test]
fn what_pytorch_refuses_is_refused() {
    oracle::every("error", |_| false);
}
