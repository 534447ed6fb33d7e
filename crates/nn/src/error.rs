//! Why a layer refused.

use std::fmt::Display;
use std::ops::RangeInclusive;

use backrule_tensor::{MemoryError, Place, ShapeError, TensorError, readable};

/// Why a layer refused: it names the operation, the layer's place in the network, what it expected and what
/// it got.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A tensor has the wrong shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for the layer's results.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A tensor has the right shape, but a value that the layer can't take: an embedding's index out of
    /// range, say.
    #[error("{}{operation}: expected {expected}, got {got}", place.prefix())]
    Value {
        /// The operation that refused, such as `embedding forward`.
        operation: &'static str,
        /// Where.
        place: Place,
        /// The values that are taken.
        expected: String,
        /// The value that was given, and where.
        got: String,
    },
    /// The layer draws random numbers, and the pass has no key to draw them from.
    #[error("{}{operation}: it draws random numbers: train with `Mode::train_with(key)`", place.prefix())]
    Key {
        /// The operation that refused, such as `dropout forward`.
        operation: &'static str,
        /// Where.
        place: Place,
    },
}

impl LayerError {
    /// An error of `operation` about a value.
    pub fn value(operation: &'static str, expected: impl Display, got: impl Display) -> Self {
        let (expected, got) = (expected.to_string(), got.to_string());
        Self::Value { operation, place: Place::default(), expected, got }
    }

    /// `operation` needs a key, and there is none.
    pub fn key(operation: &'static str) -> Self {
        Self::Key { operation, place: Place::default() }
    }

    /// `operation` has the wrong number of something: `inputs`, `outputs`, `gradients`.
    pub fn count(operation: &'static str, expected: impl Display, got: usize) -> Self {
        ShapeError::new(operation, expected, got).into()
    }

    /// A layer of several inputs or outputs runs in its form of one.
    #[doc(hidden)]
    #[cold]
    pub fn several(inputs: RangeInclusive<usize>, outputs: usize) -> Self {
        let inputs = match (inputs.start(), inputs.end()) {
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let expected = format!("inputs: {inputs}, outputs: {outputs}, by `forward_many` or `predict_many`");
        ShapeError::new("forward", expected, "one of each").into()
    }

    /// The same error, seen from outside the child `name`. Every container calls this on its way out.
    #[must_use]
    pub fn within(self, name: &str) -> Self {
        match self {
            Self::Shape(error) => Self::Shape(error.within(name)),
            Self::Memory(error) => Self::Memory(error.within(name)),
            Self::Value { operation, place, expected, got } => {
                Self::Value { operation, place: place.within(name), expected, got }
            }
            Self::Key { operation, place } => Self::Key { operation, place: place.within(name) },
        }
    }
}

impl From<TensorError> for LayerError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Shape(error) => error.into(),
            TensorError::Memory(error) => error.into(),
            // The enum may grow; a new kind is still an error of this operation.
            other => Self::value("tensor", "an operation that succeeds", other),
        }
    }
}

readable! {
    enum LayerError {
        Shape(error), Memory(error), Value { operation, place, expected, got }, Key { operation, place },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_placed_by_the_same_rule() {
        let shape = LayerError::from(ShapeError::new("linear forward", "[.., 2]", "[1, 3]"));
        let value = LayerError::value("embedding forward", "an index below 5", "7 in row 2");
        assert_eq!(
            shape.within("fc").within("net").to_string(),
            "net.fc: linear forward: expected [.., 2], got [1, 3]"
        );
        assert_eq!(value.clone().to_string(), "embedding forward: expected an index below 5, got 7 in row 2");
        assert_eq!(
            value.within("words").within("").within("net").to_string(),
            "net.words: embedding forward: expected an index below 5, got 7 in row 2"
        );
        let memory = TensorError::from(MemoryError::new("resize", 8));
        assert_eq!(LayerError::from(memory).within("fc").to_string(), "fc: resize: no memory for 8 bytes");
        assert_eq!(
            LayerError::key("dropout forward").within("drop").to_string(),
            "drop: dropout forward: it draws random numbers: train with `Mode::train_with(key)`"
        );
    }
}
