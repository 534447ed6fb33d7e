//! Every loss against values and gradients that PyTorch computed.
#![allow(clippy::unwrap_used, clippy::panic)]

use backrule_loss::tensor::{Scalar, Tensor};
use backrule_loss::{CrossEntropy, LossError, Mse, Reduction};
use backrule_testkit::oracle::{self, Case};
use backrule_testkit::{assert_close, assert_near, number, numbers};

/// Relative to 1 + |expected|, for values and gradients.
struct Tolerance {
    value: f64,
    gradient: f64,
}

const F64: Tolerance = Tolerance { value: 1e-12, gradient: 1e-10 };

/// Logits of up to 100 are rounded by 2⁻²⁴ of themselves, 6e-6 at most. The slopes of a row's loss sum to at most 2, which
/// makes 1.2e-5 of that; a probability changes by at most a quarter of it. What follows is computed in double precision.
/// A squared error is smaller in all of this.
const F32: Tolerance = Tolerance { value: 1.3e-5, gradient: 4e-6 };

fn reduction(case: &Case) -> Reduction {
    match case.word("reduction") {
        Some("mean") => Reduction::Mean,
        Some("sum") => Reduction::Sum,
        other => panic!("reduction {other:?}"),
    }
}

fn compare<T: Scalar>(
    case: &Case,
    tolerance: &Tolerance,
    run: impl Fn(&Tensor<T>, &mut Tensor<T>) -> Result<T, LossError>,
) {
    let (prediction, mut dy) = (case.tensor("prediction").unwrap(), Tensor::default());
    let value = run(&prediction, &mut dy).unwrap();
    assert_near(&format!("{case}: value"), value.to_f64(), number(&case["value"]), tolerance.value);
    let expected = case.tensor("grad_prediction").unwrap();
    assert_close(&format!("{case}: gradient"), &dy, &expected, tolerance.gradient);
}

/// Whether the case is of a loss that is here.
fn check<T: Scalar>(case: &Case, tolerance: &Tolerance) -> bool {
    match case.op() {
        "mse" => {
            let (loss, target) = (Mse::new().reduction(reduction(case)), case.tensor("target").unwrap());
            compare(case, tolerance, |y: &Tensor<T>, dy| loss.value_and_grad(y, &target, dy));
        }
        "cross_entropy" => {
            let loss = cross_entropy(case);
            if case["target_kind"] == "classes" {
                let labels = labels(case);
                compare(case, tolerance, |y: &Tensor<T>, dy| loss.value_and_grad(y, &labels, dy));
            } else {
                let target = case.tensor("target").unwrap();
                compare(case, tolerance, |y: &Tensor<T>, dy| loss.value_and_grad(y, &target, dy));
            }
        }
        _ => return false,
    }
    true
}

fn cross_entropy(case: &Case) -> CrossEntropy {
    let mut loss = CrossEntropy::new().reduction(reduction(case));
    for (option, value) in case["options"].as_object().unwrap() {
        loss = match option.as_str() {
            "reduction" | "extreme" => loss,
            "class_weights" => loss.class_weights(numbers(value)).unwrap(),
            "label_smoothing" => loss.label_smoothing(number(value)).unwrap(),
            "ignore_index" => loss.ignore_index(label(number(value))),
            other => panic!("unknown option {other}"),
        };
    }
    loss
}

/// PyTorch's −100 is no usize, and a saturating cast would make it the class 0.
fn label(x: f64) -> usize {
    if x < 0.0 { usize::MAX } else { x as usize }
}

fn labels(case: &Case) -> Vec<usize> {
    numbers(&case["target"]["data"]).into_iter().map(label).collect()
}

#[test]
fn losses_are_pytorch_s() {
    oracle::every("loss", |case| check::<f64>(case, &F64) && check::<f32>(case, &F32));
}
