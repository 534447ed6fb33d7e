use backrule_tensor::{Scalar, Tensor};

/// Panics unless the shapes are equal and all elements are near, as [`assert_near`] has it.
#[track_caller]
pub fn assert_close<T: Scalar>(what: &str, got: &Tensor<T>, expected: &Tensor<T>, tolerance: f64) {
    assert_eq!(got.shape(), expected.shape(), "{what}: shape");
    for (i, (got, expected)) in got.as_slice().iter().zip(expected.as_slice()).enumerate() {
        assert_near(&format!("{what}, element {i}"), got.to_f64(), expected.to_f64(), tolerance);
    }
}

/// Panics unless |got − expected| ≤ tolerance · (1 + |expected|).
///
/// An infinity is near itself only, NaN near NaN only.
#[track_caller]
pub fn assert_near(what: &str, got: f64, expected: f64, tolerance: f64) {
    let near = if expected.is_finite() {
        (got - expected).abs() <= tolerance * (1.0 + expected.abs())
    } else {
        got == expected || (got.is_nan() && expected.is_nan())
    };
    assert!(near, "{what}: got {got:e}, expected {expected:e}, tolerance {tolerance:e}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_near_itself_only() {
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_near("x", x, x, 0.0);
            for other in [1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                if x.to_bits() != other.to_bits() {
                    assert!(std::panic::catch_unwind(|| assert_near("x", x, other, 1e9)).is_err());
                    assert!(std::panic::catch_unwind(|| assert_near("x", other, x, 1e9)).is_err());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "y, element 1: got 2e0, expected 3e0, tolerance 1e-1")]
    fn the_element_that_differs_is_named() {
        assert_close("y", &Tensor::from([1.0, 2.0]), &Tensor::from([1.0, 3.0]), 0.1);
    }
}
