//! Every loss against values and gradients that PyTorch computed.
#![allow(clippy::unwrap_used, clippy::panic)]

use backrule_loss::tensor::{Scalar, Tensor};
use backrule_loss::{CrossEntropy, LossError, Mse, Reduction, Target};
use backrule_testkit::{Value, assert_close, assert_near, number, numbers, oracle, tensor};

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

fn reduction(case: &Value) -> Reduction {
    match case["reduction"].as_str() {
        Some("mean") => Reduction::Mean,
        Some("sum") => Reduction::Sum,
        other => panic!("reduction {other:?}"),
    }
}

fn compare<T: Scalar>(
    case: &Value,
    tolerance: &Tolerance,
    run: impl Fn(&mut Tensor<T>) -> Result<T, LossError>,
) {
    let name = case["name"].as_str().unwrap_or("case").to_string();
    let mut dy = Tensor::default();
    let value = run(&mut dy).unwrap();
    let expected = number(&case["value"]);
    assert_near(&name, value.to_f64(), expected, tolerance.value);
    let expected = tensor(&case["grad_prediction"]);
    assert_close(&name, &dy, &expected, tolerance.gradient);
}

fn mean_squared_error<T: Scalar>(tolerance: Tolerance) {
    for case in oracle::losses("mse") {
        let loss = Mse::new().reduction(reduction(&case["options"]));
        let prediction: Tensor<T> = tensor(&case["prediction"]);
        let target = tensor(&case["target"]);
        compare(&case, &tolerance, |dy| loss.value_and_grad(&prediction, &target, dy));
    }
}

#[test]
fn mean_squared_error_is_pytorch_s() {
    mean_squared_error::<f64>(F64);
    mean_squared_error::<f32>(F32);
}

fn shared_cross_entropy<T: Scalar>(tolerance: Tolerance) {
    for case in oracle::losses("cross_entropy") {
        let options = &case["options"];
        let mut loss = CrossEntropy::new().reduction(reduction(options));
        for (option, value) in options.as_object().unwrap() {
            loss = match option.as_str() {
                "reduction" => loss,
                "class_weights" => loss.class_weights(numbers(value)).unwrap(),
                "label_smoothing" => loss.label_smoothing(number(value)).unwrap(),
                // PyTorch's −100 is no usize.
                "ignore_index" if number(value) == -100.0 => loss.ignore_index(usize::MAX),
                other => panic!("unknown option {other}"),
            };
        }
        let prediction: Tensor<T> = tensor(&case["prediction"]);
        if case["target_kind"] == "classes" {
            // A saturating cast would make −100 the class 0.
            let label = |x: f64| if x < 0.0 { usize::MAX } else { x as usize };
            let target = &case["target"];
            let target = target.get("data").unwrap_or(target);
            let labels: Vec<_> = numbers(target).into_iter().map(label).collect();
            compare(&case, &tolerance, |dy| loss.value_and_grad(&prediction, &labels, dy));
        } else {
            let target = tensor(&case["target"]);
            compare(&case, &tolerance, |dy| loss.value_and_grad(&prediction, &target, dy));
        }
    }
}

#[test]
fn cross_entropy_is_pytorch_s() {
    shared_cross_entropy::<f64>(F64);
    shared_cross_entropy::<f32>(F32);
}

/// `combinations.py` made these.
fn combinations() -> Value {
    serde_json::from_str(include_str!("combinations.json")).unwrap()
}

fn labels(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|x| x as usize).collect()
}

fn loss_of(case: &Value, file: &Value) -> CrossEntropy {
    let mut loss = CrossEntropy::new()
        .reduction(reduction(case))
        .label_smoothing(number(&case["label_smoothing"]))
        .unwrap();
    if case["weighted"] == true {
        let weights = numbers(&file["class_weights"]);
        loss = loss.class_weights(weights).unwrap();
    }
    if case["ignored"] == true {
        loss = loss.ignore_index(number(&file["ignore_index"]) as usize);
    }
    loss
}

fn all_combinations<T: Scalar>(tolerance: Tolerance) {
    let file = combinations();
    let prediction: Tensor<T> = tensor(&file["prediction"]);
    let (labels, soft) = (labels(&file["labels"]), tensor(&file["probabilities"]));
    for (cases, target, count) in
        [("of_labels", Target::Classes(&labels), 24), ("of_probabilities", Target::Probabilities(&soft), 12)]
    {
        let cases = file[cases].as_array().unwrap();
        assert_eq!(cases.len(), count);
        for case in cases {
            let loss = loss_of(case, &file);
            compare(case, &tolerance, |dy| loss.value_and_grad(&prediction, target, dy));
        }
    }
}

#[test]
fn all_options_together_are_pytorch_s() {
    all_combinations::<f64>(F64);
    all_combinations::<f32>(F32);
}

/// JSON has no infinities and no NaN: the file has them as text.
fn any_number(value: &Value) -> f64 {
    match value.as_str() {
        Some(text) => text.parse().unwrap(),
        None => number(value),
    }
}

fn same(got: f64, expected: f64) -> bool {
    got == expected || (got - expected).abs() < 1e-6 || (got.is_nan() && expected.is_nan())
}

fn infinite_logits<T: Scalar>() {
    let file = combinations();
    let logits = file["edges"]["data"].as_array().unwrap();
    let rows: Vec<_> = logits.chunks(3).collect();
    let labels = labels(&file["edge_labels"]);
    let soft: Tensor<T> = tensor(&file["edge_probabilities"]);
    for (cases, of_labels) in [("edges_of_labels", true), ("edges_of_probabilities", false)] {
        let cases = file[cases].as_array().unwrap();
        assert_eq!(cases.len(), 2 * rows.len());
        for (i, case) in cases.iter().enumerate() {
            let row = i / 2;
            let z = rows[row].iter().map(|z| T::from_f64(any_number(z)));
            let z = Tensor::from_vec([1, 3], z.collect()).unwrap();
            let soft = soft.slice(row..row + 1).unwrap();
            let target =
                if of_labels { Target::Classes(&labels[row..row + 1]) } else { Target::Probabilities(&soft) };
            let mut dz = Tensor::default();
            let loss = loss_of(case, &file);
            let value = loss.value_and_grad(&z, target, &mut dz).unwrap().to_f64();
            let expected = any_number(&case["value"]);
            assert!(same(value, expected), "{case}: {value}");
            let expected = case["grad_prediction"]["data"].as_array().unwrap();
            for (dz, expected) in dz.as_slice().iter().zip(expected) {
                assert!(same(dz.to_f64(), any_number(expected)), "{case}: {dz}");
            }
        }
    }
}

#[test]
fn infinite_logits_do_as_in_pytorch() {
    infinite_logits::<f64>();
    infinite_logits::<f32>();
}
