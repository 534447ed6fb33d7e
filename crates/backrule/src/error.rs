//! One error for programs that use several of the crates.

use std::path::PathBuf;

use backrule_io::{ElementType, LoadError, RestoreError, RotationError, SaveError, SectionError};
use backrule_loss::LossError;
use backrule_nn::{ArchitectureError, GradcheckError, LayerError};
use backrule_optim::StepError;
use backrule_tensor::{
    ClipError, ConfigError, DType, GradsError, IncompleteError, MemoryError, ShapeError, TensorError,
    readable,
};

/// Any error of the Backrule crates, for a `main` or a function that uses several of them. `?` makes one of
/// each.
///
/// `{:?}`, the output of a failed `main`, is the message with its causes; `{:#?}` shows the fields.
///
/// ```
/// use backrule::prelude::*;
///
/// fn train() -> Result<(), Error> {
///     let mut rng = random::rng(1);
///     let fc = Linear::new(3, 2, &mut rng)?;
///     let net: Sequential = Sequential::builder().layer("fc", fc).build()?;
///     predict(&net, &Tensor::zeros([1, 4])?)?;
///     Ok(())
/// }
///
/// let error = train().unwrap_err();
/// assert_eq!(format!("{error:?}"), "fc: linear forward: expected [.., 3], got [1, 4]");
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A setting, such as a negative rate.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Of a layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Of a network's structure.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// Of a derivative check.
    #[error(transparent)]
    Gradcheck(#[from] GradcheckError),
    /// Of a loss.
    #[error(transparent)]
    Loss(#[from] LossError),
    /// Of an optimizer's step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Of gradient clipping.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// Of gradients that don't belong together, or are incomplete.
    #[error(transparent)]
    Grads(#[from] GradsError),
    /// A file can't be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A part of a checkpoint can't be read or written.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// A checkpoint doesn't fit.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A network's values are in the other precision: see [`load`](crate::load()).
    #[error(
        "{}: its values are {stored}, and {asked} was asked for: take `load::<{stored}>`, or convert them, as the \
         documentation of `load` shows", file.to_string_lossy().escape_debug()
    )]
    Precision {
        /// The file.
        file: PathBuf,
        /// The element type of its values.
        stored: ElementType,
        /// That of the network.
        asked: DType,
    },
    /// The contents of a file make no network.
    #[error("{}: {error}", file.to_string_lossy().escape_debug())]
    InFile {
        /// The file.
        file: PathBuf,
        /// The reason.
        error: Box<Error>,
    },
    /// A file can't be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Of a rotation of checkpoints.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Of the operating system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<ShapeError> for Error {
    fn from(error: ShapeError) -> Self {
        Self::Tensor(error.into())
    }
}

impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Self {
        Self::Tensor(error.into())
    }
}

impl From<IncompleteError> for Error {
    fn from(error: IncompleteError) -> Self {
        Self::Grads(error.into())
    }
}

readable! {
    enum Error {
        Tensor(error), Config(error), Layer(error), Architecture(error), Gradcheck(error), Loss(error), Step(error),
        Clip(error), Grads(error), Load(error), Section(error), Restore(error), Precision { file, stored, asked },
        InFile { file, error }, Save(error), Rotation(error), Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_the_message_and_alternate_debug_shows_the_fields() {
        let error = Error::from(ShapeError::new("matmul A·B", "[_, 2]", "[1, 3]"));
        assert_eq!(format!("{error:?}"), "matmul A·B: expected [_, 2], got [1, 3]");
        assert!(format!("{error:#?}").contains("operation: \"matmul A·B\""), "{error:#?}");
    }
}
