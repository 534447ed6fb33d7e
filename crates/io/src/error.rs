use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::info::Name;
use crate::{FileKind, Group, Pair, SaveStep, TargetProblem, TensorInfo};

/// More of something than a checkpoint can hold: see [`limits`](crate::limits).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} {what}, and the limit is {limit}")]
pub struct LimitError {
    /// What there is too much of, such as `bytes of metadata`.
    pub what: String,
    /// How much there is.
    pub found: usize,
    /// How much there may be.
    pub limit: usize,
}

/// Why a checkpoint was not saved, or not surely.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// There is too much of something. Nothing was written.
    #[error("not saved: {0}")]
    Limit(#[from] LimitError),
    /// Two tensors have the same path, so that they couldn't be told apart. Nothing was written.
    #[error("not saved: two tensors are called {}: give them different names", Name(*group, path))]
    Duplicate {
        /// Whose tensors they are.
        group: Group,
        /// The path they share.
        path: String,
    },
    /// Nothing can be saved at this path. Nothing was written.
    #[error("{}: not saved: {problem}", file.display())]
    Target {
        /// Where it was to be saved.
        file: PathBuf,
        /// What is wrong with that place.
        problem: TargetProblem,
    },
    /// The system refused: a file that was there before is unchanged, and the unfinished one was removed.
    #[error("{}: not saved, an older file is unchanged: {step} failed: {source}", file.display())]
    NotCommitted {
        /// Where it was to be saved.
        file: PathBuf,
        /// What was being done.
        step: SaveStep,
        /// Why it failed.
        source: io::Error,
    },
    /// The new file is in its place and complete, but the directory could not be synced: after a power cut now, the old
    /// one may be back. Save again to be sure.
    #[error(
        "{}: saved, but a power cut could still undo it, because its directory can't be synced: {source}; save again",
        file.display()
    )]
    DurabilityUncertain {
        /// Where it was saved.
        file: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// Why a checkpoint could not be loaded: which file, and what is wrong with it.
#[derive(Debug)]
pub struct LoadError {
    /// The file; `None` for bytes in memory.
    pub file: Option<PathBuf>,
    /// What is wrong with it.
    pub problem: LoadProblem,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        self.problem.fmt(f)
    }
}

/// The message includes the problem's, so that the cause is what lies behind the problem.
impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadProblem {
    /// Something else.
    #[error(
        "not a checkpoint: it doesn't begin like one (if it was one, a transfer in text mode may have changed it: copy \
         it again as binary)"
    )]
    NotACheckpoint,
    /// Written by a later version of this crate.
    #[error(
        "written by a later version (format {version}, flags {flags:#x}; this one reads format 1): update backrule-io"
    )]
    Newer {
        /// Its format version.
        version: u32,
        /// Its flags.
        flags: u32,
    },
    /// Bytes are missing at the end.
    #[error("cut short: {found} bytes of at least {expected}; copy it again or take an older checkpoint")]
    Truncated {
        /// How long it should be at least.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// A checksum doesn't match.
    #[error("damaged: the checksum of {0} doesn't match; copy it again or take an older checkpoint")]
    Checksum(Part),
    /// There is more of something than this crate would write.
    #[error("malformed: {0}")]
    Limit(#[from] LimitError),
    /// The checksums match, but what they cover makes no sense: not written by this crate.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Not a file: it was not read.
    #[error("there is {0}, not a file")]
    Special(FileKind),
    /// Reading failed.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
}

/// The part of a checkpoint that a checksum covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first 40 bytes.
    Envelope,
    /// Everything that is said about the tensors, and the metadata.
    Header,
    /// One tensor's elements.
    Tensor {
        /// Whose tensor it is.
        group: Group,
        /// Its path.
        path: String,
    },
    /// Everything. When all other checksums match, this one itself is damaged.
    Whole,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Envelope => f.write_str("its first bytes"),
            Self::Header => f.write_str("its header"),
            Self::Tensor { group, path } => Name(*group, path).fmt(f),
            Self::Whole => f.write_str("the whole"),
        }
    }
}

/// Why a [`Rotation`](crate::Rotation) has not saved or found a checkpoint. Nothing has been removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// A run's name has to be the beginning of the name of a file.
    #[error("no name for a run: {name:?}; it can't be empty, begin with a dot, or have one of / \\ : in it")]
    Name {
        /// The name.
        name: String,
    },
    /// The folder can't be read.
    #[error("{}: can't be read: {source}; create the folder first", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Saving failed.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The largest number is taken.
    #[error("{}: not saved: the numbers of its checkpoints are used up; choose another name", folder.display())]
    Full {
        /// The folder.
        folder: PathBuf,
    },
    /// There are checkpoints, and all of them are damaged or can't be read.
    #[error(
        "{}: none of its {} checkpoints can be loaded; the first one: {}",
        folder.display(), problems.len(), problems.first().map_or(String::new(), LoadError::to_string)
    )]
    NoneLoads {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with each of them.
        problems: Vec<LoadError>,
    },
}

/// Why a checkpoint was not restored. Nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The tensors are not those that were saved: all that don't fit are listed.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// An optimiser was to be restored, and none was saved.
    #[error(
        "nothing restored: the checkpoint has no optimizer (use `restore` for the network alone, and save with \
         `.optimizer(..)`)"
    )]
    NoOptimizer,
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
        "nothing restored: the checkpoint has nothing at or below `{from}`, which was to be renamed: see \
         `Checkpoint::tensors` for what there is"
    )]
    UnknownRename {
        /// What was given to [`rename`](crate::Restoring::rename).
        from: String,
    },
    /// Something was to be restored alone that the network doesn't have.
    #[error(
        "nothing restored: the network has nothing at or below `{prefix}`, which alone was to be restored"
    )]
    UnknownOnly {
        /// What was given to [`only`](crate::Restoring::only).
        prefix: String,
    },
}

/// All tensors that don't fit, one per line in the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Mismatch {
    /// What should be restored and is not in the checkpoint.
    pub missing: Vec<TensorInfo>,
    /// What is in the checkpoint and has no place to go.
    pub unexpected: Vec<TensorInfo>,
    /// What is in both, with another shape or element type.
    pub misshapen: Vec<Pair>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing restored, because the checkpoint doesn't fit:")?;
        for info in &self.missing {
            write!(f, "\n  missing in the checkpoint: {info}")?;
        }
        for info in &self.unexpected {
            write!(f, "\n  only in the checkpoint: {info}")?;
        }
        for misshapen in &self.misshapen {
            write!(f, "\n  {misshapen}")?;
        }
        Ok(())
    }
}

/// Why metadata could not be saved or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// None were saved.
    #[error("the checkpoint has no metadata: save some with `.metadata(..)`")]
    Missing,
    /// The value refuses to be serialised.
    #[error("metadata can't be serialized: {0}")]
    Serialize(String),
    /// `Some(None)`, `Some(())` or the like, which would come back as `None`.
    #[error(
        "metadata would come back changed: {}a `Some` that holds `None` or `()`; use an enum that says what it means",
        at(field)
    )]
    NestedOption {
        /// Names of the fields that lead there, such as `schedule.warmup`; empty outside a struct.
        field: String,
    },
    /// The value can be written but would not be accepted by the same type: its `Serialize` and `Deserialize` differ, or
    /// serde can't do it (a map with keys other than strings below `flatten`, for instance).
    #[error("metadata would be written but could not be read back: {0}")]
    OneWay(String),
    /// There is too much of it.
    #[error("{0}")]
    Limit(#[from] LimitError),
    /// What was saved is not of the type asked for.
    #[error("metadata is not a `{expected}`: {reason}")]
    Deserialize {
        /// The type asked for.
        expected: &'static str,
        /// What doesn't fit.
        reason: String,
    },
}

fn at(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("`{field}` is ") }
}
