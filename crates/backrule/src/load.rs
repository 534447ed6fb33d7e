//! A network from a file alone.

use std::fmt;
use std::path::Path;

use backrule_io::{Checkpoint, Run};
use backrule_nn::{Architecture, Layer, Registry};
use backrule_tensor::{Options, Scalar};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// What [`load`] gives: the network, and all else that the file holds.
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
/// # Errors
/// When the file can't be read, holds no architecture, or one that doesn't fit its values or another
/// precision's.
pub fn load<T: Scalar>(path: impl AsRef<Path>) -> Result<Loaded<T>, Error> {
    load_with(path, &Registry::new())
}

/// As [`load`], with layers of your own. A file chooses only among what you have put into the registry.
///
/// # Errors
/// As [`load`], and where the file names a layer that is in no catalogue.
pub fn load_with<T: Scalar>(path: impl AsRef<Path>, registry: &Registry<T>) -> Result<Loaded<T>, Error> {
    let checkpoint = Checkpoint::load(path)?;
    let architecture: Architecture = checkpoint.architecture()?;
    let mut network = architecture.build_with(checkpoint.element_count(), registry)?;
    checkpoint.restore(&mut network)?;
    Ok(Loaded { network, checkpoint })
}
