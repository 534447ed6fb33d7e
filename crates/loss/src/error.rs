//! Why a loss was refused.

use backrule_tensor::{MemoryError, Shape, ShapeError, TensorError, readable};

/// Why a loss could not be computed. The gradient's tensor is unchanged then.
///
/// ```
/// use backrule_loss::tensor::Tensor;
/// use backrule_loss::{CrossEntropy, LossError};
///
/// let logits: Tensor = Tensor::zeros([2, 3])?;
/// let error = CrossEntropy::new().value(&logits, &[0, 3]).unwrap_err();
/// assert_eq!(error, LossError::Label { row: 1, label: 3, classes: 3 });
/// assert_eq!(
///     error.to_string(),
///     "cross-entropy: row 1 has the label 3, but there are 3 classes, counted from 0"
/// );
/// # Ok::<(), backrule_loss::tensor::TensorError>(())
/// ```
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// Prediction and target don't fit together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for the gradient.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The batch has no elements.
    #[error("{operation}: the batch is empty: {shape}")]
    Empty {
        /// The loss that refused.
        operation: &'static str,
        /// The prediction's shape.
        shape: Shape,
    },
    /// The rows of the prediction have no elements, so no class could be right.
    #[error("cross-entropy: there are no classes: {shape}")]
    NoClasses {
        /// The prediction's shape.
        shape: Shape,
    },
    /// A label is not one of the classes, nor the ignored index.
    #[error(
        "cross-entropy: row {row} has the label {label}, but there are {classes} classes, counted from 0"
    )]
    Label {
        /// The row.
        row: usize,
        /// Its label.
        label: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A target probability is negative or NaN.
    #[error("cross-entropy: row {row} gives class {class} the probability {probability}")]
    Probability {
        /// The row.
        row: usize,
        /// The class.
        class: usize,
        /// Its probability.
        probability: f64,
    },
    /// The target probabilities of a row don't sum to 1 within 10⁻⁴.
    #[error("cross-entropy: the probabilities of row {row} sum to {sum}, not to 1")]
    ProbabilitySum {
        /// The row.
        row: usize,
        /// Their sum.
        sum: f64,
    },
    /// Every row of the batch has the ignored index as its label: there is no mean of no rows.
    #[error("cross-entropy: all {rows} rows are ignored")]
    AllIgnored {
        /// The number of rows.
        rows: usize,
    },
    /// The mean divides by the total weight of the labels, and nothing can be divided by this one.
    #[error("cross-entropy: the labels of the batch weigh {total} in all: a mean can't divide by it")]
    TotalWeight {
        /// The total weight: 0, or too small or too large to be divided by.
        total: f64,
    },
    /// [`Reduction::Over`](crate::Reduction::Over) has a number by which nothing can be divided.
    #[error(
        "{operation}: a sum can't be divided by {divisor:e}: the divisor and its reciprocal must be positive and \
         finite in the tensor's precision"
    )]
    Divisor {
        /// The loss that refused.
        operation: &'static str,
        /// The number.
        divisor: f64,
    },
    /// There must be one weight per class.
    #[error("cross-entropy: {weights} class weights for {classes} classes")]
    WeightCount {
        /// The number of weights.
        weights: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A row of probabilities has no label that could be the ignored one.
    #[error("cross-entropy: an ignored index ({index}) has no meaning for probability targets")]
    IgnoredIndex {
        /// The ignored index.
        index: usize,
    },
}

readable! { enum LossError {
    Shape(error),
    Memory(error),
    Empty { operation, shape },
    NoClasses { shape },
    Label { row, label, classes },
    Probability { row, class, probability },
    ProbabilitySum { row, sum },
    AllIgnored { rows },
    TotalWeight { total },
    Divisor { operation, divisor },
    WeightCount { weights, classes },
    IgnoredIndex { index },
} }

impl From<TensorError> for LossError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Memory(error) => Self::Memory(error),
            TensorError::Shape(error) => Self::Shape(error),
            other => Self::Shape(ShapeError::new("tensor", "an operation that succeeds", other)),
        }
    }
}
