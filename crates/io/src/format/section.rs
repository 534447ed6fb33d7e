//! Sections: values that only the saving program understands, as MessagePack. Structs are maps with the names
//! of their fields, variants of enums go by their names, and types with a form for humans (an IP address, a
//! UUID) use it.
//!
//! docs/decisions/0036-metadata-is-messagepack.md compares it with other formats. Only this file knows
//! `rmp-serde`.

use std::fmt;

use backrule_tensor::MemoryError;
use rmp_serde::decode::Error;
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde::{Deserialize, Serialize};

use crate::format::bytes::Bytes;
use crate::format::limits::{self, LimitError, MAX_ARCHITECTURE_TEXT, MAX_SECTION, MAX_SECTION_DEPTH};
use crate::format::plain::Plain;
use crate::format::show::Show;
use crate::quoted::Quoted;

/// A part of a checkpoint that serde writes and reads: a value that only the saving program understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Section {
    /// The user's own: [`Snapshot::metadata`](crate::Snapshot::metadata).
    Metadata,
    /// Losses, accuracies and the like up to now: [`Snapshot::metrics`](crate::Snapshot::metrics).
    Metrics,
    /// The schedule of the learning rate: [`Snapshot::schedule`](crate::Snapshot::schedule).
    Schedule,
    /// The layers that the network is made of: [`Snapshot::architecture`](crate::Snapshot::architecture).
    Architecture,
}

impl Section {
    /// In the order of their codes.
    const ALL: [Self; 4] = [Self::Metadata, Self::Metrics, Self::Schedule, Self::Architecture];

    /// How it is called in files.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Metadata => 1,
            Self::Metrics => 2,
            Self::Schedule => 3,
            Self::Architecture => 4,
        }
    }

    pub(crate) fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.code() == code)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "metadata",
            Self::Metrics => "metrics",
            Self::Schedule => "schedule",
            Self::Architecture => "architecture",
        })
    }
}

/// Why a [`Section`] could not be saved or read.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{section}: {problem}")]
#[non_exhaustive]
pub struct SectionError {
    /// Which one.
    pub section: Section,
    /// The reason.
    pub problem: SectionProblem,
}

/// The fault of a value that should be saved in a section, or read from it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SectionProblem {
    /// It was not saved.
    #[error("the checkpoint has none: call the method of this name on `Checkpoint::of(&net)` before `save`")]
    Missing,
    /// The value refuses to be serialized.
    #[error("can't be serialized: {}", Quoted(.0))]
    Serialize(String),
    /// The value can be written but would not be accepted by the same type: its `Serialize` and `Deserialize`
    /// differ, or serde can't do it (a map with keys other than strings below `flatten`, for instance).
    #[error("would be written but could not be read back: {}", Quoted(.0))]
    OneWay(String),
    /// There is too much of it.
    #[error("{0}")]
    Limit(LimitError),
    /// There is no memory for its bytes.
    #[error("{0}")]
    Memory(MemoryError),
    /// The value saved is not of the type asked for.
    #[error("not a `{expected}`: {}", Quoted(reason))]
    Deserialize {
        /// The type asked for.
        expected: &'static str,
        /// The reason. It may quote the file, but no more than 200 characters.
        reason: String,
    },
}

backrule_tensor::readable! { struct SectionError { section, problem } }
backrule_tensor::readable! {
    enum SectionProblem { Missing, Serialize(reason), OneWay(reason), Limit(error), Memory(error), Deserialize { expected, reason } }
}

/// Serializes `value`, and reads it back: an error now can still be helped.
pub(crate) fn encode<M: Serialize + DeserializeOwned>(
    section: Section,
    value: &M,
) -> Result<Vec<u8>, SectionError> {
    try_encode(section, value).map_err(|problem| SectionError { section, problem })
}

fn try_encode<M: Serialize + DeserializeOwned>(
    section: Section,
    value: &M,
) -> Result<Vec<u8>, SectionProblem> {
    let mut bytes = Bytes::new(Vec::new());
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
    (value.serialize(&mut serializer)).map_err(|e| SectionProblem::Serialize(e.to_string()))?;
    let bytes = bytes.finish().map_err(SectionProblem::Memory)?;
    limits::check(&format!("bytes of {section}"), bytes.len(), MAX_SECTION).map_err(SectionProblem::Limit)?;
    verify(section, &bytes).and_then(|()| decode::<M>(&bytes)).map_err(SectionProblem::OneWay)?;
    Ok(bytes)
}

/// Whether the bytes are one value of MessagePack, without extension types and not nested too deeply. In an
/// architecture no text is long: an error that quotes one would take as much memory.
///
/// [`decode`] could not ask for the depth: the deserializer counts arrays and maps but not enums, so a deeply
/// nested value of a recursive enum would overflow the stack.
pub(crate) fn verify(section: Section, bytes: &[u8]) -> Result<(), String> {
    match section {
        Section::Architecture => decode::<Plain<MAX_ARCHITECTURE_TEXT>>(bytes).map(drop),
        _ => decode::<Plain<MAX_SECTION>>(bytes).map(drop),
    }
}

pub(crate) fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, String> {
    // Borrows texts from the slice: a reader of a stream would copy each one.
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
    deserializer.set_max_depth(MAX_SECTION_DEPTH);
    let value = M::deserialize(&mut deserializer).map_err(|error| beginning(error.to_string()))?;
    // The deserializer doesn't tell its position, but it tells when no byte is left.
    match <()>::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err("bytes are left over".to_string()),
    }
}

/// A reason without its part that is too long to read: it may quote all of a section.
fn beginning(reason: String) -> String {
    match reason.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", reason.get(..end).unwrap_or_default()),
        None => reason,
    }
}

/// Writes a value for people. A verified value can be shown.
pub(crate) fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
    deserializer.set_max_depth(MAX_SECTION_DEPTH);
    match Show(&mut *f).deserialize(&mut deserializer) {
        Ok(()) => Ok(()),
        Err(error) => write!(f, " (can't be shown: {})", Quoted(&error.to_string())),
    }
}
