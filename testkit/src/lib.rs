//! What the tests of several crates share: PyTorch's reference values, and comparisons that say what differs.
//!
//! Test code: everything here panics with a message instead of returning errors.
#![allow(clippy::panic, clippy::expect_used)]

use backrule_tensor::{Scalar, Tensor};
pub use serde_json::Value;

/// The reference values of `testkit/oracle`.
pub mod oracle {
    use super::Value;

    /// Layers: forward and backward.
    pub fn layers(op: &str) -> Vec<Value> {
        cases(include_str!("../oracle/layers.json"), op)
    }

    /// Losses: value and gradient.
    pub fn losses(op: &str) -> Vec<Value> {
        cases(include_str!("../oracle/losses.json"), op)
    }

    /// Optimisers: a parameter after each of several steps.
    pub fn optimizers(op: &str) -> Vec<Value> {
        cases(include_str!("../oracle/optimizers.json"), op)
    }

    /// Whole training runs.
    pub fn trajectories(op: &str) -> Vec<Value> {
        cases(include_str!("../oracle/trajectories.json"), op)
    }

    /// All cases of `op`: at least one, so that a misspelt name can't pass for a test.
    fn cases(json: &str, op: &str) -> Vec<Value> {
        let file: Value = serde_json::from_str(json).expect("the fixture is JSON");
        let all = file["cases"].as_array().expect("a list of cases");
        let cases: Vec<_> = all.iter().filter(|case| case["op"] == op).cloned().collect();
        assert!(!cases.is_empty(), "no reference values for {op}");
        cases
    }
}

/// A tensor of the fixtures, rounded to `T`.
pub fn tensor<T: Scalar>(value: &Value) -> Tensor<T> {
    let sizes: Vec<usize> = (numbers(&value["shape"]).iter().map(|&size| size as usize)).collect();
    let data = numbers(&value["data"]).into_iter().map(T::from_f64).collect();
    Tensor::from_vec(&sizes[..], data).expect("the fixture's shape fits its data")
}

/// A list of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("not a list: {value}"));
    list.iter().map(number).collect()
}

/// A number.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Panics unless the shapes are equal and all elements satisfy |got − expected| ≤ tolerance · (1 + |expected|).
///
/// NaN is never close to anything.
#[track_caller]
pub fn assert_close<T: Scalar>(what: &str, got: &Tensor<T>, expected: &Tensor<T>, tolerance: f64) {
    assert_eq!(got.shape(), expected.shape(), "{what}: shape");
    for (i, (got, expected)) in got.as_slice().iter().zip(expected.as_slice()).enumerate() {
        assert_near(&format!("{what}, element {i}"), got.to_f64(), expected.to_f64(), tolerance);
    }
}

/// Panics unless |got − expected| ≤ tolerance · (1 + |expected|).
#[track_caller]
pub fn assert_near(what: &str, got: f64, expected: f64, tolerance: f64) {
    let within = (got - expected).abs() <= tolerance * (1.0 + expected.abs());
    assert!(within, "{what}: got {got:e}, expected {expected:e}, tolerance {tolerance:e}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fixture_reads() {
        let case = &oracle::layers("linear")[1];
        assert_eq!(tensor::<f64>(&case["weight"]).shape(), [3, 5]);
        assert_eq!(oracle::losses("mse").len(), 8);
        assert_eq!(oracle::losses("cross_entropy").len(), 25);
        assert_eq!(oracle::optimizers("sgd").len(), 6);
        assert_eq!(oracle::trajectories("mlp_mse").len(), 1);
    }

    #[test]
    #[should_panic(expected = "no reference values for lineal")]
    fn a_misspelt_operation_is_no_test() {
        oracle::layers("lineal");
    }

    #[test]
    #[should_panic(expected = "tolerance")]
    fn nan_is_not_close() {
        assert_near("x", f64::NAN, 1.0, 1e9);
    }
}
