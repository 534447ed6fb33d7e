use std::fmt::Display;

use backrule_tensor::{MemoryError, Place, ShapeError, TensorError};

/// Why a layer refused: it names the operation, the layer's place in the network, what it expected and what it got.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A tensor has the wrong shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for a result.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A tensor has the right shape, but a value that the layer can't take: an embedding's index out of range, say.
    #[error("{}{operation}: expected {expected}, got {got}", place.prefix())]
    Value {
        /// The operation that refused, such as `embedding forward`.
        operation: &'static str,
        /// Where.
        place: Place,
        /// What values are taken.
        expected: String,
        /// The value that was given, and where.
        got: String,
    },
}

impl LayerError {
    /// An error of `operation` about a value.
    pub fn value(operation: &'static str, expected: impl Display, got: impl Display) -> Self {
        Self::Value {
            operation,
            place: Place::default(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    /// The same error, seen from outside the child `name`. Every container calls this on its way out.
    #[must_use]
    pub fn within(self, name: &str) -> Self {
        match self {
            Self::Shape(error) => Self::Shape(error.within(name)),
            Self::Memory(error) => Self::Memory(error.within(name)),
            Self::Value { operation, place, expected, got } => {
                let place = place.within(name);
                Self::Value { operation, place, expected, got }
            }
        }
    }
}

impl From<TensorError> for LayerError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Memory(error) => Self::Memory(error),
            TensorError::Shape(error) => Self::Shape(error),
            other => Self::value("tensor", "an operation that succeeds", other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_placed_by_the_same_rule() {
        let shape = LayerError::from(ShapeError::new("linear forward", "[_, 2]", "[1, 3]"));
        let value = LayerError::value("embedding forward", "an index below 5", "7 in row 2");
        assert_eq!(
            shape.within("fc").within("net").to_string(),
            "net.fc: linear forward: expected [_, 2], got [1, 3]"
        );
        assert_eq!(value.clone().to_string(), "embedding forward: expected an index below 5, got 7 in row 2");
        assert_eq!(
            value.within("words").within("").within("net").to_string(),
            "net.words: embedding forward: expected an index below 5, got 7 in row 2"
        );
    }
}
