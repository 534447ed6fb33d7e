//! Every loss against values and gradients that PyTorch computed.
#![allow(clippy::unwrap_used, clippy::panic)]

use backrule_loss::listed::{Sample, Wanted};
use backrule_loss::tensor::{OptionValue, Options, Scalar, Tensor};
use backrule_loss::{CrossEntropy, LossError, losses};
use backrule_testkit::oracle::{self, Case};
use backrule_testkit::{assert_close, assert_near, number, numbers};

/// Relative to 1 + |expected|, for values and gradients.
struct Tolerance {
    value: f64,
    gradient: f64,
}

const F64: Tolerance = Tolerance { value: 1e-12, gradient: 1e-10 };

/// Logits of up to 100 are rounded by 2⁻²⁴ of themselves, 6e-6 at most. The slopes of a row's loss sum to at
/// most 2, which makes 1.2e-5 of that; a probability changes by at most a quarter of it. The rest is computed
/// in double precision. A squared error is smaller in all of this.
const F32: Tolerance = Tolerance { value: 1.3e-5, gradient: 4e-6 };

/// The case as a sample.
fn sample<T: Scalar>(case: &Case) -> Sample<T> {
    let target = match case["target_kind"] == "classes" {
        true => Wanted::Classes(numbers(&case["target"]["data"]).into_iter().map(label).collect()),
        false => Wanted::Values(case.tensor("target").unwrap()),
    };
    Sample { prediction: case.tensor("prediction").unwrap(), target, divisor: f64::NAN }
}

/// PyTorch's −100 is no usize, and a saturating cast would make it the class 0.
fn label(x: f64) -> usize {
    if x < 0.0 { usize::MAX } else { x as usize }
}

/// The settings of the case, by PyTorch's names, and `defaults` for the others.
fn options(case: &Case, defaults: &Options) -> Options {
    for (name, _) in case["options"].as_object().unwrap() {
        // The kind of the numbers is no setting.
        assert!(name == "extreme" || defaults.iter().any(|(known, _)| known == name), "{case}: {name}");
    }
    defaults.iter().fold(Options::new(), |options, (name, default)| {
        let Some(value) = case.option(name) else { return options.with(name, default.clone()) };
        match default {
            OptionValue::Word(_) => options.with(name, value.as_str().unwrap()),
            OptionValue::Flag(_) => options.with(name, value.as_bool().unwrap()),
            OptionValue::List(_) if name == "ignore_index" => options.with(name, [label(number(value))]),
            OptionValue::List(_) => options.with(name, numbers(value)),
            _ => options.with(name, number(value)),
        }
    })
}

/// Whether the case is of a loss that is here.
fn check<T: Scalar>(case: &Case, tolerance: &Tolerance) -> bool {
    if case.op() == "cross_entropy_all_ignored" {
        // PyTorch's mean of no rows is NaN. Here there is none.
        let labels: Vec<_> = numbers(&case["target"]["data"]).into_iter().map(label).collect();
        let loss = CrossEntropy::new().ignore_index(label(case.number("ignore_index").unwrap()));
        let prediction: Tensor<T> = case.tensor("prediction").unwrap();
        let refusal = loss.value_and_grad(&prediction, &labels, &mut Tensor::default());
        assert!(matches!(refusal, Err(LossError::AllIgnored { rows: 2 })), "{refusal:?}");
        return true;
    }
    let Some(kind) = losses::<T>().into_iter().find(|kind| kind.op == case.op()) else { return false };
    let loss = (kind.build)(options(case, &(kind.new)().options())).unwrap();
    let mut dy = Tensor::default();
    let value = loss.evaluate(&sample(case), Some(&mut dy)).unwrap();
    assert_near(&format!("{case}: value"), value.to_f64(), number(&case["value"]), tolerance.value);
    let expected = case.tensor("grad_prediction").unwrap();
    assert_close(&format!("{case}: gradient"), &dy, &expected, tolerance.gradient);
    true
}

#[test]
fn losses_are_pytorch_s() {
    oracle::every("loss", |case| check::<f64>(case, &F64) && check::<f32>(case, &F32));
}
