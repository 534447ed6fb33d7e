//! The faults that reading a checkpoint can find.

use std::fmt;
use std::io;

use backrule_tensor::MemoryError;

use crate::exchange::npy::problem::Problem as NpyProblem;
#[cfg(feature = "npz")]
use crate::exchange::npz::problem::Problem as NpzProblem;
#[cfg(feature = "safetensors")]
use crate::exchange::safetensors::problem::Problem;
use crate::file::kind::FileKind;
use crate::file::open::NotOpened;
use crate::format::entry::{Group, Name};
use crate::format::limits::LimitError;
use crate::format::section::Section;
use crate::quoted::{Message, Quoted};

/// The reason why a checkpoint can't be read.
#[derive(thiserror::Error)]
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
        "written by a later version (format {version}, flags {flags:#x}; this one reads formats up to {latest}): update backrule-io"
    )]
    Newer {
        /// Its format version.
        version: u32,
        /// Its flags.
        flags: u32,
        /// The latest version that can be read.
        latest: u32,
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
    Limit(LimitError),
    /// The checksums match, but the covered bytes make no sense: not written by this crate.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// Not a safetensors file, or one that can't be read.
    #[cfg(feature = "safetensors")]
    #[error("safetensors: {0}")]
    Safetensors(Problem),
    /// Not a file of NumPy's, or one that can't be read.
    #[error("npy: {0}")]
    Npy(NpyProblem),
    /// Not a file of several arrays of NumPy's, or one that can't be read.
    #[cfg(feature = "npz")]
    #[error("npz: {0}")]
    Npz(NpzProblem),
    /// Not a file: it was not read.
    #[error("there is {0}, not a file")]
    Special(FileKind),
    /// More than 64 GiB long, and not a thousandth of that is on the disk: the rest are holes, and it was not
    /// read.
    #[error("it takes {stored} bytes of the disk and claims to have {length}: a file of holes is no network")]
    Holes {
        /// How long it is.
        length: u64,
        /// The bytes on the disk.
        stored: u64,
    },
    /// There is not enough memory for it.
    #[error("{0}")]
    Memory(MemoryError),
    /// Reading failed.
    #[error("can't be read: {}", Message(.0))]
    Io(io::Error),
}

// A message holds that of its cause, so no cause is named as a source: a print of the chain says
// nothing twice.
impl From<LimitError> for LoadProblem {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

impl From<Malformed> for LoadProblem {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<MemoryError> for LoadProblem {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<io::Error> for LoadProblem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<NotOpened> for LoadProblem {
    fn from(error: NotOpened) -> Self {
        match error {
            NotOpened::Special(kind) => Self::Special(kind),
            NotOpened::Holes { length, stored } => Self::Holes { length, stored },
            NotOpened::Io(error) => Self::Io(error),
        }
    }
}

#[cfg(feature = "npz")]
impl From<NpzProblem> for LoadProblem {
    fn from(problem: NpzProblem) -> Self {
        Self::Npz(problem)
    }
}

impl From<NpyProblem> for LoadProblem {
    fn from(problem: NpyProblem) -> Self {
        Self::Npy(problem)
    }
}

#[cfg(feature = "safetensors")]
impl From<Problem> for LoadProblem {
    fn from(problem: Problem) -> Self {
        Self::Safetensors(problem)
    }
}

/// A fault of a checkpoint whose checksums match: this crate did not write it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The format's version is 0.
    #[error("there is no version 0")]
    Version,
    /// The lengths in its first bytes don't fit a 64-bit number together.
    #[error("the lengths in its first bytes overflow")]
    LengthsOverflow,
    /// There are bytes after its end.
    #[error(
        "it should end after {expected} bytes, but has {found}: copy it again or take an older checkpoint"
    )]
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
    /// A section stands twice, or after one that it should precede.
    #[error("the {section} are out of order")]
    SectionOrder {
        /// The section that stands at the wrong place.
        section: Section,
    },
    /// A section is not one value of MessagePack, or one that is nested too deeply.
    #[error("the {section} can't be decoded: {}", Quoted(reason))]
    SectionContent {
        /// The section.
        section: Section,
        /// The decoder's message.
        reason: String,
    },
    /// An option is of a kind that doesn't exist.
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
    #[error("{}: {}", Name(*group, path), Quoted(reason))]
    Shape {
        /// Whose tensor it is.
        group: Group,
        /// Its path.
        path: String,
        /// The reason.
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
    /// The header goes on after its last field.
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
#[non_exhaustive]
pub enum Part {
    /// The first 40 bytes.
    Envelope,
    /// Everything but the elements.
    Header,
    /// One tensor's elements.
    Tensor {
        /// Whose tensor it is.
        group: Group,
        /// Its path.
        path: String,
    },
    /// The whole file. When all other checksums match, this one itself is damaged.
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

impl fmt::Debug for LoadProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return backrule_tensor::write_with_causes(self, f);
        }
        match self {
            Self::NotACheckpoint => f.write_str("NotACheckpoint"),
            Self::Newer { version, flags, latest } => (f.debug_struct("Newer"))
                .field("version", version)
                .field("flags", flags)
                .field("latest", latest)
                .finish(),
            Self::Truncated { expected, found } => {
                f.debug_struct("Truncated").field("expected", expected).field("found", found).finish()
            }
            Self::Checksum(part) => f.debug_tuple("Checksum").field(part).finish(),
            Self::Limit(error) => f.debug_tuple("Limit").field(error).finish(),
            Self::Malformed(error) => f.debug_tuple("Malformed").field(error).finish(),
            #[cfg(feature = "safetensors")]
            Self::Safetensors(problem) => f.debug_tuple("Safetensors").field(problem).finish(),
            Self::Npy(problem) => f.debug_tuple("Npy").field(problem).finish(),
            #[cfg(feature = "npz")]
            Self::Npz(problem) => f.debug_tuple("Npz").field(problem).finish(),
            Self::Special(kind) => f.debug_tuple("Special").field(kind).finish(),
            Self::Holes { length, stored } => {
                f.debug_struct("Holes").field("length", length).field("stored", stored).finish()
            }
            Self::Memory(error) => f.debug_tuple("Memory").field(error).finish(),
            Self::Io(error) => f.debug_tuple("Io").field(error).finish(),
        }
    }
}

backrule_tensor::readable! {
    enum Malformed {
        Version,
        LengthsOverflow,
        TrailingBytes { expected, found },
        Shrank,
        Grew,
        HeaderEnds { field },
        Tag { field },
        Utf8 { field },
        UnknownSection { code },
        SectionOrder { section },
        SectionContent { section, reason },
        OptionKind { name, code },
        DuplicateOption { name },
        ElementType { group, path, code },
        Shape { group, path, reason },
        DuplicatePath { group, path },
        SpareBytes { count },
        NotCanonical,
        PayloadSize { claimed, tensors },
    }
}
