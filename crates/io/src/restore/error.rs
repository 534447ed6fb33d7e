use backrule_tensor::{ConfigError, DType, MemoryError};

use crate::element::ElementType;
use crate::format::entry::{Group, Name};
use crate::quoted::Quoted;
use crate::report::{MAKE_OPTIMIZER, Mismatch, RESTORE_ALONE};

/// Why a checkpoint was not restored. Nothing has been changed, except by [`Interrupted`](Self::Interrupted).
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The tensors are not those that were saved: all that don't fit are listed.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// An optimizer was to be restored, and none was saved.
    #[error(
        "nothing restored: the checkpoint has no optimizer (use `restore` for the network alone, and save with \
         `.optimizer(..)`)"
    )]
    NoOptimizer,
    /// The optimizer can't have the options that were saved.
    #[error("nothing restored, because the optimizer doesn't fit: {0}; {MAKE_OPTIMIZER}, {RESTORE_ALONE}")]
    Options(ConfigError),
    /// Two tensors of the checkpoint would go to one place.
    #[error(
        "nothing restored: {} and `{}` of the checkpoint would both be called `{}`: rename one of them otherwise",
        Name(*group, first), second.escape_debug(), path.escape_debug()
    )]
    Collision {
        /// Whose tensors they are.
        group: Group,
        /// Where both would go.
        path: String,
        /// One of them, as the checkpoint calls it.
        first: String,
        /// The other.
        second: String,
    },
    /// Something was to be renamed that the checkpoint doesn't have.
    #[error(
        "nothing restored: the checkpoint has nothing at or below `{}`, which was to be renamed: see \
         `Checkpoint::tensors` for what there is", from.escape_debug()
    )]
    UnknownRename {
        /// The first argument of [`rename`](crate::Restoring::rename).
        from: String,
    },
    /// Something was to be renamed to a path that the network doesn't have.
    #[error(
        "nothing restored: the network has nothing at or below `{}`, which `{}` of the checkpoint was to be renamed to",
        to.escape_debug(), from.escape_debug()
    )]
    UnknownTarget {
        /// The first argument of [`rename`](crate::Restoring::rename).
        from: String,
        /// The second one.
        to: String,
    },
    /// Something was to be restored alone that the network doesn't have.
    #[error(
        "nothing restored: the network has nothing at or below `{}`, which alone was to be restored",
        prefix.escape_debug()
    )]
    UnknownOnly {
        /// The argument of [`only`](crate::Restoring::only).
        prefix: String,
    },
    /// There is no memory for comparing, or for the report.
    #[error("nothing restored: {0}")]
    Memory(MemoryError),
    /// A number of the checkpoint is none of the network's element type: a whole number that would be
    /// rounded, or a finite one that would become infinite.
    #[error(
        "nothing restored: {} has {value} ({dtype}) at element {at}, which {target} can't hold", Name(*group, path)
    )]
    NotHeld {
        /// Whose tensor it is.
        group: Group,
        /// Its path in the checkpoint.
        path: String,
        /// Its element type.
        dtype: ElementType,
        /// The first such element, in row-major order.
        at: usize,
        /// Its value.
        value: String,
        /// The element type of the network.
        target: DType,
    },
    /// The elements had stayed in the file, and it is not as it was when
    /// [`Checkpoint::open`](crate::Checkpoint::open) verified it.
    #[error(
        "nothing restored, because the file has changed since it was opened ({}): open it again",
        Quoted(reason)
    )]
    Changed {
        /// The change of the file.
        reason: String,
    },
    /// The one exception to all or nothing: the file of a checkpoint that was
    /// [opened](crate::Checkpoint::open) was written to or became unreadable **while** it was restored.
    /// Network and optimizer now hold old and new values: restore all of them from another file. A checkpoint
    /// that was [loaded](crate::Checkpoint::load) gives this error only if a function that renames has
    /// changed its answers.
    #[error(
        "restored in part only: reading {} again failed: {}; restore all from another file",
        Name(*group, path), Quoted(reason)
    )]
    Interrupted {
        /// Whose tensor could not be read.
        group: Group,
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
}

impl From<MemoryError> for RestoreError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<ConfigError> for RestoreError {
    fn from(error: ConfigError) -> Self {
        Self::Options(error)
    }
}

backrule_tensor::readable! {
    enum RestoreError {
        Mismatch(list),
        NoOptimizer,
        Options(error),
        Collision { group, path, first, second },
        UnknownRename { from },
        UnknownTarget { from, to },
        UnknownOnly { prefix },
        Memory(error),
        NotHeld { group, path, dtype, at, value, target },
        Changed { reason },
        Interrupted { group, path, reason },
    }
}
