use std::fmt::Display;

/// Shapes that don't fit together: which operation, at which place, what it expected and what it got.
///
/// ```
/// use backrule_tensor::Tensor;
///
/// let x: Tensor = Tensor::zeros([32, 100])?;
/// let w = Tensor::zeros([10, 784])?;
/// let error = x.matmul_nt(&w).unwrap_err().within("fc2").within("encoder");
/// assert_eq!(error.to_string(), "encoder.fc2: matmul A·Bᵀ: expected [_, 784], got [32, 100]");
/// # Ok::<(), backrule_tensor::ShapeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{operation}: expected {expected}, got {got}", prefix(place))]
pub struct ShapeError {
    /// The operation that refused, such as `linear forward`.
    pub operation: &'static str,
    /// Path of the layer or tensor, outermost name first, such as `encoder.fc2`; empty outside a container.
    pub place: String,
    /// What would have fitted, such as `[_, 784]`, where `_` stands for any size.
    pub expected: String,
    /// What was given, such as `[32, 100]`.
    pub got: String,
}

impl ShapeError {
    /// An error of `operation` that has no place yet: containers add it on the way out with [`within`](Self::within).
    pub fn new(operation: &'static str, expected: impl Display, got: impl Display) -> Self {
        Self { operation, place: String::new(), expected: expected.to_string(), got: got.to_string() }
    }

    /// The same error, seen from outside the child `name`: `fc2` within `encoder` is `encoder.fc2`.
    #[must_use]
    pub fn within(mut self, name: &str) -> Self {
        if !name.is_empty() {
            let dot = if self.place.is_empty() { "" } else { "." };
            self.place = format!("{name}{dot}{}", self.place);
        }
        self
    }
}

fn prefix(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("{place}: ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operation_place_and_both_shapes() {
        let error = ShapeError::new("linear forward", "[_, 784]", "[32, 100]");
        assert_eq!(error.to_string(), "linear forward: expected [_, 784], got [32, 100]");
        let error = error.within("fc2").within("").within("encoder");
        assert_eq!(error.place, "encoder.fc2");
        assert_eq!(error.to_string(), "encoder.fc2: linear forward: expected [_, 784], got [32, 100]");
    }
}
