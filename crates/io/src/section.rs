//! What the program says of itself, as MessagePack: structs are maps with the fields' names, enum variants go by name, and types
//! with a form for humans (an IP address, a UUID) use it.
//!
//! Why MessagePack. Such values outlive the program that wrote them (fields are added, removed, defaulted), so the format
//! has to describe itself; and what was put in must come out. Compared on the values of `tests/checkpoint/metadata.rs`:
//!
//! * `serde_json` writes NaN and infinities as null: `Some(NaN)` comes back as `None`, and `NaN` not at all, which would
//!   be found out after the run that diverged. A map's keys must be strings, numbers or booleans.
//! * `cbor4ii` writes `()` as an empty array, so that the null in a `serde_json::Value` comes back as `[]`; neither it
//!   nor `ciborium` reads a map with integer keys, or an IP address, below `flatten`.
//! * `ciborium` brings seven crates, among them a proc-macro and a second version of syn; `minicbor-serde` has a licence
//!   (Blue Oak) that nothing else here has.
//! * `rmp-serde` brings itself and `rmp`, forbids unsafe code, and changes only `Some(None)` (as all of them do) and
//!   `Some(())`: `nested` refuses these. Its maintainer keeps it alive but would like a successor
//!   (3Hren/msgpack-rust#255): hence one private file, and a format for which there are many readers.

use std::fmt;

use rmp_serde::decode::Error;
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::limits::{self, MAX_SECTION, MAX_SECTION_DEPTH};
use crate::show::Show;
use crate::{Section, SectionError, SectionProblem, nested};

/// Serialises `value`, and makes sure now, while it can still be helped, that it can be read back.
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
    nested::check(value)?;
    let mut bytes = Vec::new();
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
    (value.serialize(&mut serializer)).map_err(|e| SectionProblem::Serialize(e.to_string()))?;
    limits::check(&format!("bytes of {section}"), bytes.len(), MAX_SECTION)?;
    verify(&bytes).and_then(|()| decode::<M>(&bytes)).map_err(SectionProblem::OneWay)?;
    Ok(bytes)
}

/// Whether the bytes are one value of MessagePack that isn't nested too deeply.
///
/// [`decode`] doesn't need to ask for the depth then, and could not: the deserialiser counts arrays and maps but not
/// enums, so that a deeply nested value of a recursive enum would overflow the stack.
pub(crate) fn verify(bytes: &[u8]) -> Result<(), String> {
    decode::<IgnoredAny>(bytes).map(drop)
}

pub(crate) fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, String> {
    // Reads texts where they are: a reader of a stream copies each one first, and needs its memory once more.
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
    deserializer.set_max_depth(MAX_SECTION_DEPTH);
    let value = M::deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    // It doesn't tell how far it is, but it tells when there is nothing any more.
    match <()>::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err("bytes are left over".to_string()),
    }
}

/// Writes a value for people. What was verified can be shown, short of numbers of MessagePack's extensions.
pub(crate) fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
    deserializer.set_max_depth(MAX_SECTION_DEPTH);
    match Show(&mut *f).deserialize(&mut deserializer) {
        Ok(()) => Ok(()),
        Err(error) => write!(f, " (can't be shown: {})", error.to_string().escape_debug()),
    }
}
