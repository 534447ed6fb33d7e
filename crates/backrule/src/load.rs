//! A network from a file alone.

use std::fmt;
use std::path::Path;

use backrule_io::{Checkpoint, ElementType, Mismatch, RestoreError, Run};
use backrule_nn::{Architecture, Layer, Registry};
use backrule_tensor::{Options, Scalar};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// The result of [`load`]: the network, and all else that the file holds.
pub struct Loaded<T: Scalar = f32> {
    /// The network with its values.
    pub network: Box<dyn Layer<T>>,
    /// The file, from which more can be restored: an optimizer's state, say.
    pub checkpoint: Checkpoint,
}

impl<T: Scalar> Loaded<T> {
    /// The metadata that the program which saved the file wrote.
    ///
    /// # Errors
    /// When there are none, or they are of another type.
    pub fn metadata<M: DeserializeOwned>(&self) -> Result<M, Error> {
        Ok(self.checkpoint.metadata()?)
    }

    /// The optimizer's options, such as its learning rate, if the file has an optimizer.
    pub fn options(&self) -> Option<&Options> {
        self.checkpoint.optimizer().map(|optimizer| &optimizer.options)
    }

    /// Where the run was.
    pub fn run(&self) -> &Run {
        self.checkpoint.run()
    }
}

impl<T: Scalar> fmt::Debug for Loaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("checkpoint", &self.checkpoint).finish_non_exhaustive()
    }
}

/// The network of a checkpoint that was saved with its architecture: built, and with its values. The program
/// knows nothing of it.
///
/// ```
/// use backrule::prelude::*;
///
/// # let folder = std::env::temp_dir().join(format!("backrule-load-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let file = folder.join("net.brk");
/// let net: Sequential =
///     Sequential::builder().layer("fc", Linear::new(2, 3, &mut random::rng(1))?).build()?;
/// let (architecture, metadata) = (Architecture::of(&net)?, "iris".to_string());
/// Checkpoint::of(&net).architecture(&architecture)?.metadata(&metadata)?.save(&file)?;
///
/// // In another program:
/// let loaded = backrule::load::<f32>(&file)?;
/// let x = Tensor::from([[1.0, -2.0]]);
/// assert_eq!(predict(&loaded.network, &x)?, predict(&net, &x)?);
/// assert_eq!(loaded.metadata::<String>()?, "iris");
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Error>(())
/// ```
///
/// A file can't claim more memory than its values take, and it chooses among the built-in layers alone. For
/// layers of your own there is [`load_with`].
///
/// # The other precision
/// A network that was saved in f32 is loaded in f32, and one in f64 in f64; anything else is
/// [`Error::Precision`]. To convert the values, build the network and restore them with
/// [`convert`](backrule_io::Restoring::convert):
///
/// ```
/// use backrule::prelude::*;
///
/// # let folder = std::env::temp_dir().join(format!("backrule-precision-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let file = folder.join("net.brk");
/// let net: Sequential =
///     Sequential::builder().layer("fc", Linear::new(2, 3, &mut random::rng(1))?).build()?;
/// Checkpoint::of(&net).architecture(&Architecture::of(&net)?)?.save(&file)?;
///
/// let error = backrule::load::<f64>(&file).unwrap_err();
/// assert!(error.to_string().contains("its values are f32, and f64 was asked for"));
///
/// let checkpoint = Checkpoint::load(&file)?;
/// let architecture: Architecture = checkpoint.architecture()?;
/// let mut wide = architecture.build::<f64>(checkpoint.element_count())?;
/// let report = checkpoint.restoring().convert().restore_into(&mut wide)?;
/// assert_eq!(report.restored.len(), 2);
/// assert_eq!(wide.tensors()[0].1.cast::<f32>()?, *net.tensors()[0].1);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// When the file can't be read, holds no architecture, or one that doesn't fit its values;
/// [`Error::Precision`] when these are of the other precision.
pub fn load<T: Scalar>(path: impl AsRef<Path>) -> Result<Loaded<T>, Error> {
    load_with(path, &Registry::new())
}

/// As [`load`], with layers of your own. A file chooses only among the registry's layers.
///
/// # Errors
/// As [`load`], and where the file names a layer that is in no catalogue.
pub fn load_with<T: Scalar>(path: impl AsRef<Path>, registry: &Registry<T>) -> Result<Loaded<T>, Error> {
    let path = path.as_ref();
    let checkpoint = Checkpoint::load(path)?;
    let of_file = |error: Error| Error::InFile { file: path.to_path_buf(), error: Box::new(error) };
    let architecture: Architecture = checkpoint.architecture().map_err(|error| of_file(error.into()))?;
    let built = architecture.build_with(checkpoint.element_count(), registry);
    let mut network = built.map_err(|error| of_file(error.into()))?;
    checkpoint.restore(&mut network).map_err(|error| match other_precision::<T>(&error) {
        Some(stored) => Error::Precision { file: path.to_path_buf(), stored, asked: T::DTYPE },
        None => error.into(),
    })?;
    Ok(Loaded { network, checkpoint })
}

/// The element type of the file, if nothing else is wrong.
fn other_precision<T: Scalar>(error: &RestoreError) -> Option<ElementType> {
    let RestoreError::Mismatch(Mismatch { missing, unexpected, misshapen, .. }) = error else { return None };
    let first = misshapen.first()?.stored.dtype;
    let floats = [ElementType::F32, ElementType::F64].contains(&first) && first != T::DTYPE;
    let alike = misshapen.iter().all(|it| it.stored.dtype == first && it.stored.shape == it.target.shape);
    (floats && alike && missing.is_empty() && unexpected.is_empty()).then_some(first)
}

#[cfg(test)]
mod tests {
    use backrule_tensor::DType;

    use super::*;
    use crate::prelude::*;

    /// Of a file whose values are all of the other precision, and of one where more is wrong.
    #[test]
    fn the_other_precision_is_told_and_nothing_else_is() {
        let folder = std::env::temp_dir().join(format!("backrule-other-precision-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("net.brk");
        fn net<T: Scalar>(outputs: usize) -> Sequential<T> {
            let fc = Linear::new(2, outputs, &mut random::rng(1)).unwrap();
            Sequential::builder().layer("fc", fc).build().unwrap()
        }
        fn saved<T: Scalar>(net: &Sequential<T>, architecture: &Architecture, file: &Path) {
            Checkpoint::of(net).architecture(architecture).unwrap().save(file).unwrap();
        }
        saved(&net::<f32>(3), &Architecture::of(&net::<f32>(3)).unwrap(), &file);
        let error = load::<f64>(&file).unwrap_err();
        let Error::Precision { stored: ElementType::F32, asked: DType::F64, .. } = &error else {
            panic!("{error}")
        };
        let expected = "its values are f32, and f64 was asked for: take `load::<f32>`, or convert them, as the \
            documentation of `load` shows";
        assert_eq!(error.to_string(), format!("{}: {expected}", file.display()));
        saved(&net::<f64>(3), &Architecture::of(&net::<f64>(3)).unwrap(), &file);
        let error = load::<f32>(&file).unwrap_err().to_string();
        assert!(error.contains("its values are f64, and f32 was asked for: take `load::<f64>`"), "{error}");
        load::<f64>(&file).unwrap();
        // Another shape, too.
        saved(&net::<f64>(3), &Architecture::of(&net::<f64>(2)).unwrap(), &file);
        assert!(matches!(load::<f32>(&file), Err(Error::Restore(_))));
        assert!(matches!(load::<f64>(&file), Err(Error::Restore(_))));
        Checkpoint::of(&net::<f32>(3)).save(&file).unwrap();
        let error = load::<f32>(&file).unwrap_err().to_string();
        let start = format!("{}: architecture: the checkpoint has none", file.display());
        assert!(error.starts_with(&start), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
