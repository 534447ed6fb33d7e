use std::fmt;
use std::io;
use std::path::PathBuf;

use backrule_tensor::ConfigError;

use crate::envelope::VERSION;
use crate::info::Name;
use crate::{FileKind, Group, Pair, SaveStep, Section, TargetProblem, TensorInfo};

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
    /// An option of the optimiser can't be written down. Nothing was written.
    #[error("not saved: {0}")]
    Option(#[from] ConfigError),
    /// Two options of the optimiser have the same name. Nothing was written.
    #[error("not saved: two options are called `{}`: give them different names", name.escape_debug())]
    DuplicateOption {
        /// The name they share.
        name: String,
    },
    /// A safetensors file keeps this name for itself. Nothing was written.
    #[cfg(feature = "safetensors")]
    #[error("not saved: a safetensors file can't have a tensor called `{path}`: give it another name")]
    Reserved {
        /// The name.
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
        "written by a later version (format {version}, flags {flags:#x}; this one reads formats up to {VERSION}): update backrule-io"
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
    Malformed(#[from] Malformed),
    /// Not a safetensors file, or one that can't be read.
    #[cfg(feature = "safetensors")]
    #[error("safetensors: {0}")]
    Safetensors(#[from] crate::safetensors::Problem),
    /// Not a file: it was not read.
    #[error("there is {0}, not a file")]
    Special(FileKind),
    /// Reading failed.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
}

/// What makes no sense in a checkpoint whose checksums match, so that it wasn't written by this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The format's version is 0.
    #[error("there is no version 0")]
    Version,
    /// The lengths in its first bytes don't fit a 64-bit number together.
    #[error("the lengths in its first bytes overflow")]
    LengthsOverflow,
    /// There are bytes behind its end.
    #[error("it should end after {expected} bytes, but has {found}")]
    TrailingBytes {
        /// How long it should be.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// The file became shorter while it was read.
    #[error("it shrank while it was read: is somebody writing to it?")]
    Shrank,
    /// The file became longer while it was read.
    #[error("it grew while it was read: is somebody writing to it?")]
    Grew,
    /// The header ends where this field should be, or within it.
    #[error("its header has no room for {field}")]
    HeaderEnds {
        /// The field.
        field: &'static str,
    },
    /// A byte that says whether something is there, or true, is neither 0 nor 1.
    #[error("{field} has a mark that is neither 0 nor 1")]
    Tag {
        /// The field.
        field: &'static str,
    },
    /// A text is not UTF-8.
    #[error("{field} is not UTF-8")]
    Utf8 {
        /// The field.
        field: &'static str,
    },
    /// A section that this version doesn't have.
    #[error("there is no section {code}")]
    UnknownSection {
        /// Its code.
        code: u8,
    },
    /// A section stands twice, or behind one that it should stand before.
    #[error("the {section} are out of order")]
    SectionOrder {
        /// The section that stands at the wrong place.
        section: Section,
    },
    /// A section is not one value of MessagePack, or one that is nested too deeply.
    #[error("the {section} can't be decoded: {reason}")]
    SectionContent {
        /// The section.
        section: Section,
        /// What the decoder says.
        reason: String,
    },
    /// An option is neither a number nor a flag.
    #[error("option `{}` is of kind {code}, which doesn't exist", name.escape_debug())]
    OptionKind {
        /// Its name.
        name: String,
        /// Its kind.
        code: u8,
    },
    /// Two options have the same name.
    #[error("it has the option `{}` twice", name.escape_debug())]
    DuplicateOption {
        /// The name.
        name: String,
    },
    /// A tensor has elements of a type that doesn't exist.
    #[error("{} has elements of type {code}, which doesn't exist", Name(*group, path))]
    ElementType {
        /// Whose tensor it is.
        group: Group,
        /// Its path.
        path: String,
        /// The type's code.
        code: u8,
    },
    /// There can be no tensor of this shape.
    #[error("{}: {reason}", Name(*group, path))]
    Shape {
        /// Whose tensor it is.
        group: Group,
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two tensors have the same path.
    #[error("it has {} twice", Name(*group, path))]
    DuplicatePath {
        /// Whose tensors they are.
        group: Group,
        /// Their path.
        path: String,
    },
    /// The header goes on behind its last field.
    #[error("its header has {count} spare bytes")]
    SpareBytes {
        /// How many.
        count: usize,
    },
    /// The header would be written with other bytes.
    #[error("its header is not in canonical form")]
    NotCanonical,
    /// The sizes of the tensors don't add up to that of the payload.
    #[error("its payload has {claimed} bytes, but its tensors don't add up to that{}", tensors_need(tensors))]
    PayloadSize {
        /// Bytes of the payload.
        claimed: u64,
        /// Bytes that the tensors need; `None` when that is more than a 64-bit number.
        tensors: Option<u64>,
    },
}

fn tensors_need(tensors: &Option<u64>) -> String {
    tensors.map_or(String::new(), |bytes| format!(": they need {bytes}"))
}

/// The part of a checkpoint that a checksum covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first 40 bytes.
    Envelope,
    /// Everything that is said about the run and the tensors.
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

/// Why a checkpoint was not restored. Nothing has been changed, except by [`Interrupted`](Self::Interrupted).
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
    /// The optimiser can't have the options that were saved.
    #[error("nothing restored, because the optimizer doesn't fit: {0}")]
    Options(#[from] ConfigError),
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
    /// The elements had stayed in the file, as they do when there are many, and it is not as it was when it was loaded.
    #[error("nothing restored, because the file has changed since it was loaded ({reason}): load it again")]
    Changed {
        /// What has become of it.
        reason: String,
    },
    /// The one exception to all or nothing: the file, in which many elements stay, was written to or became unreadable
    /// **while** they were restored. Network and optimiser now hold values of both: restore them from another file. Where
    /// that must not happen, call [`Checkpoint::into_memory`](crate::Checkpoint::into_memory) first.
    #[error(
        "restored in part only: reading {} again failed: {reason}; restore all from another file",
        Name(*group, path)
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

/// Why a [`Section`] could not be saved or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{section}: {problem}")]
pub struct SectionError {
    /// Which one.
    pub section: Section,
    /// What is wrong with it.
    pub problem: SectionProblem,
}

/// What is wrong with a value that should be saved in a section, or read from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SectionProblem {
    /// It was not saved.
    #[error("the checkpoint has none: save them with the method of this name")]
    Missing,
    /// The value refuses to be serialised.
    #[error("can't be serialized: {0}")]
    Serialize(String),
    /// `Some(None)`, `Some(())` or the like, which would come back as `None`.
    #[error(
        "would come back changed: {}a `Some` that holds `None` or `()`; use an enum that says what it means",
        at(field)
    )]
    NestedOption {
        /// Names of the fields that lead there, such as `schedule.warmup`; empty outside a struct.
        field: String,
    },
    /// The value can be written but would not be accepted by the same type: its `Serialize` and `Deserialize` differ, or
    /// serde can't do it (a map with keys other than strings below `flatten`, for instance).
    #[error("would be written but could not be read back: {0}")]
    OneWay(String),
    /// There is too much of it.
    #[error("{0}")]
    Limit(#[from] LimitError),
    /// What was saved is not of the type asked for.
    #[error("not a `{expected}`: {reason}")]
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
