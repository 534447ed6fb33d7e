//! The target of a classifier.

use backrule_tensor::{Scalar, Tensor};

/// The right answer of a classifier: a class per row, or a probability per class and row.
///
/// Functions take it as `impl Into<Target>`, so a list of classes or a tensor can be passed as it is.
///
/// ```
/// use backrule_loss::Target;
/// use backrule_loss::tensor::Tensor;
///
/// let classes: Target<'_, f32> = (&[2, 0]).into();
/// assert_eq!(classes, Target::Classes(&[2, 0]));
/// let soft: Tensor = Tensor::from([[0.25, 0.75]]);
/// assert_eq!(Target::from(&soft), Target::Probabilities(&soft));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target<'a, T: Scalar> {
    /// The class of each row, counted from 0.
    Classes(&'a [usize]),
    /// The probability of each class in each row, in the shape of the prediction.
    Probabilities(&'a Tensor<T>),
}

impl<'a, T: Scalar> From<&'a [usize]> for Target<'a, T> {
    fn from(classes: &'a [usize]) -> Self {
        Self::Classes(classes)
    }
}

impl<'a, T: Scalar> From<&'a Vec<usize>> for Target<'a, T> {
    fn from(classes: &'a Vec<usize>) -> Self {
        Self::Classes(classes)
    }
}

impl<'a, T: Scalar, const N: usize> From<&'a [usize; N]> for Target<'a, T> {
    fn from(classes: &'a [usize; N]) -> Self {
        Self::Classes(classes)
    }
}

impl<'a, T: Scalar> From<&'a Tensor<T>> for Target<'a, T> {
    fn from(probabilities: &'a Tensor<T>) -> Self {
        Self::Probabilities(probabilities)
    }
}
