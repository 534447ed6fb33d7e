//! All losses as data, for contracts, benchmarks and comparisons with other programs.

use std::fmt::Debug;

use backrule_tensor::{ConfigError, Options, Scalar, ShapeError, Tensor, random};

use crate::error::LossError;
use crate::reduction::Reduction;
use crate::target::Target;

/// A prediction and its target.
#[derive(Clone, Debug)]
pub struct Sample<T: Scalar> {
    /// The prediction.
    pub prediction: Tensor<T>,
    /// Its target.
    pub target: Wanted<T>,
    /// The divisor of the mean.
    pub divisor: f64,
}

/// The target of a sample.
#[derive(Clone, Debug)]
pub enum Wanted<T: Scalar> {
    /// A number or a probability for each element.
    Values(Tensor<T>),
    /// A class for each row.
    Classes(Vec<usize>),
}

impl<T: Scalar> Sample<T> {
    /// Numbers from −2 to 2.
    ///
    /// # Panics
    /// When there is no such shape.
    #[expect(clippy::expect_used, reason = "only tests have samples")]
    pub fn uniform(shape: &[usize], seed: u64) -> Tensor<T> {
        Tensor::uniform(shape, -2.0, 2.0, &mut random::rng(seed)).expect("a shape")
    }

    /// A target that the loss doesn't take.
    pub(crate) fn refusal(&self) -> LossError {
        ShapeError::new("sample", "another kind of target", format_args!("{:?}", self.target)).into()
    }
}

impl<'a, T: Scalar> From<&'a Wanted<T>> for Target<'a, T> {
    fn from(wanted: &'a Wanted<T>) -> Self {
        match wanted {
            Wanted::Values(values) => Target::Probabilities(values),
            Wanted::Classes(classes) => Target::Classes(classes),
        }
    }
}

/// A loss of the list, by its type.
pub trait Listed<T: Scalar>: Sized {
    /// Its name in the reference values.
    const OP: &'static str;

    /// L, and its gradient where that is wanted. The sample's divisor is not looked at.
    ///
    /// # Errors
    /// Those of the loss.
    fn evaluate(&self, sample: &Sample<T>, dy: Option<&mut Tensor<T>>) -> Result<T, LossError>;

    /// Samples of the loss with the mean as reduction and with every combination of its other settings.
    fn samples() -> Vec<(Self, Sample<T>)>;
}

/// A loss of the list, whichever.
pub trait AnyLoss<T: Scalar>: Debug + Send + Sync {
    /// The name of its type.
    fn kind(&self) -> &'static str;

    /// Its settings.
    fn options(&self) -> Options;

    /// The loss with another reduction.
    fn with(&self, reduction: Reduction) -> Box<dyn AnyLoss<T>>;

    /// L, and its gradient where that is wanted.
    ///
    /// # Errors
    /// Those of the loss.
    fn evaluate(&self, sample: &Sample<T>, dy: Option<&mut Tensor<T>>) -> Result<T, LossError>;
}

/// From settings to a loss.
pub type Build<T> = fn(Options) -> Result<Box<dyn AnyLoss<T>>, ConfigError>;

/// A loss with a sample of its inputs.
pub type Example<T> = (Box<dyn AnyLoss<T>>, Sample<T>);

/// An entry of the list.
pub struct Kind<T: Scalar> {
    /// The name of its type.
    pub name: &'static str,
    /// Its name in the reference values.
    pub op: &'static str,
    /// The loss with its default settings.
    pub new: fn() -> Box<dyn AnyLoss<T>>,
    /// The loss that has these settings.
    pub build: Build<T>,
    /// Samples of it.
    pub samples: fn() -> Vec<Example<T>>,
}
