//! The header: an object in JSON. Its visitors know the fields and the depth of this format, so `serde_json`
//! builds no tree, and nothing that a file claims becomes an allocation.

use std::borrow::Cow;
use std::fmt::{self, Write};

use backrule_tensor::{MAX_RANK, Shape, memory};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::element::ElementType;
use crate::exchange::safetensors::problem::Problem;
use crate::format::bytes::Bytes;
use crate::format::entry::Entry;
use crate::format::limits::{self, MAX_HEADER, MAX_PATH, MAX_TENSORS};
use crate::format::problem::LoadProblem;
use crate::snapshot::SaveError;

/// Before the header, its length.
pub(super) const LENGTH: u64 = 8;

const METADATA: &str = "__metadata__";

/// A tensor of the header. Its place is counted from the end of the header.
pub(super) struct Stored<'j> {
    pub(super) name: Cow<'j, str>,
    pub(super) dtype: ElementType,
    pub(super) shape: Shape,
    begin: u64,
    end: u64,
}

impl Stored<'_> {
    /// Bytes of all elements. The file has them, so a larger number than fits is never read.
    pub(super) fn size(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.begin)).unwrap_or(usize::MAX)
    }
}

/// The file up to its elements. They begin at a multiple of eight, because readers map files into memory.
pub(super) fn encode(entries: &[Entry<'_>]) -> Result<Vec<u8>, SaveError> {
    let mut json = Bytes::new(Vec::new());
    // In front, the length of all that follows.
    json.put(&[0; LENGTH as usize]);
    // Writing to it can't fail: it tells at the end.
    let _ = json.write_str(r#"{"__metadata__":{"format":"pt"}"#);
    let mut begin = 0_usize;
    for entry in entries {
        if entry.path == METADATA {
            return Err(SaveError::Reserved { path: entry.path.to_string() });
        }
        let _ = json.write_str(",\"");
        for char in entry.path.chars() {
            let _ = match char {
                '"' | '\\' => write!(json, "\\{char}"),
                '\0'..' ' => write!(json, "\\u{:04x}", u32::from(char)),
                _ => json.write_char(char),
            };
        }
        let dtype = entry.dtype.to_string().to_uppercase();
        let sizes: Vec<_> = entry.shape.iter().map(usize::to_string).collect();
        let end = begin.saturating_add(entry.size());
        let _ = write!(
            json,
            r#"":{{"dtype":"{dtype}","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
            sizes.join(",")
        );
        begin = end;
    }
    let _ = json.write_char('}');
    for _ in json.len()..json.len().next_multiple_of(8) {
        let _ = json.write_char(' ');
    }
    let mut head = json.finish()?;
    if let Some((length, json)) = head.split_first_chunk_mut() {
        limits::check("bytes of the header", json.len(), MAX_HEADER)?;
        *length = (json.len() as u64).to_le_bytes();
    }
    Ok(head)
}

/// All tensors in the order of their elements, which fill `size` bytes without gap or overlap.
pub(super) fn decode(json: &str, size: u64) -> Result<Vec<Stored<'_>>, LoadProblem> {
    // The format demands that the first byte is this one.
    if !json.starts_with('{') {
        return Err(Problem::Json { line: 1, column: 0, reason: "expected `{`".to_string() }.into());
    }
    let mut refused = None;
    let mut input = serde_json::Deserializer::from_str(json);
    let read = Tensors(&mut refused).deserialize(&mut input).and_then(|all| input.end().map(|()| all));
    let mut tensors = match (refused, read) {
        (Some(problem), _) => return Err(problem),
        (None, Err(error)) => return Err(Problem::json(&error).into()),
        (None, Ok(tensors)) => tensors,
    };

    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for (a, b) in tensors.iter().zip(tensors.iter().skip(1)) {
        if a.name == b.name {
            return Err(Problem::Duplicate { name: a.name.to_string() }.into());
        }
    }
    tensors.sort_unstable_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    let mut expected = 0;
    for Stored { name, begin, end, .. } in &tensors {
        if *begin != expected {
            return Err(Problem::Order { name: name.to_string(), begin: *begin, expected }.into());
        }
        expected = *end;
    }
    if expected == size { Ok(tensors) } else { Err(Problem::Length { needed: expected, found: size }.into()) }
}

/// A visitor's refusal for a reason of its own: an error of `serde_json` can't carry it.
type Refused<'r> = &'r mut Option<LoadProblem>;

/// Notes the problem, and ends the reading.
fn refuse<T, E: Error>(refused: Refused<'_>, problem: impl Into<LoadProblem>) -> Result<T, E> {
    *refused = Some(problem.into());
    Err(E::custom("refused"))
}

/// The whole object.
struct Tensors<'r>(Refused<'r>);

impl<'j> DeserializeSeed<'j> for Tensors<'_> {
    type Value = Vec<Stored<'j>>;

    fn deserialize<D: Deserializer<'j>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'j> Visitor<'j> for Tensors<'_> {
    type Value = Vec<Stored<'j>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'j>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let Self(refused) = self;
        let mut tensors = Vec::new();
        let mut metadata = false;
        while let Some(name) = entries.next_key_seed(Text)? {
            if name == METADATA {
                if std::mem::replace(&mut metadata, true) {
                    return refuse(refused, Problem::Duplicate { name: name.into_owned() });
                }
                entries.next_value_seed(Metadata)?;
                continue;
            }
            let limits = limits::check("bytes of a tensor's name", name.len(), MAX_PATH)
                .and_then(|()| limits::check("tensors", tensors.len().saturating_add(1), MAX_TENSORS));
            if let Err(error) = limits {
                return refuse(refused, error);
            }
            let tensor = entries.next_value_seed(Fields { name, refused })?;
            if let Err(error) = memory::push("load", &mut tensors, tensor) {
                return refuse(refused, error);
            }
        }
        Ok(tensors)
    }
}

/// A text, borrowed if nothing in it is escaped.
struct Text;

impl<'j> DeserializeSeed<'j> for Text {
    type Value = Cow<'j, str>;

    fn deserialize<D: Deserializer<'j>>(self, input: D) -> Result<Cow<'j, str>, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'j> Visitor<'j> for Text {
    type Value = Cow<'j, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'j str) -> Result<Cow<'j, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Cow<'j, str>, E> {
        let mut owned = String::new();
        owned.try_reserve_exact(text.len()).map_err(E::custom)?;
        owned.push_str(text);
        Ok(Cow::Owned(owned))
    }
}

/// Texts by their names, which are passed over.
struct Metadata;

impl<'j> DeserializeSeed<'j> for Metadata {
    type Value = ();

    fn deserialize<D: Deserializer<'j>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'j> Visitor<'j> for Metadata {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'j>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_key_seed(Text)?.is_some() {
            entries.next_value_seed(Text)?;
        }
        Ok(())
    }
}

/// The description of one tensor.
struct Fields<'j, 'r> {
    name: Cow<'j, str>,
    refused: Refused<'r>,
}

impl<'j> DeserializeSeed<'j> for Fields<'j, '_> {
    type Value = Stored<'j>;

    fn deserialize<D: Deserializer<'j>>(self, input: D) -> Result<Stored<'j>, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'j> Visitor<'j> for Fields<'j, '_> {
    type Value = Stored<'j>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'j>>(self, mut fields: A) -> Result<Stored<'j>, A::Error> {
        let Self { name, refused } = self;
        let (mut dtype, mut shape, mut place) = (None, None, None);
        while let Some(field) = fields.next_key_seed(Text)? {
            let known = match &*field {
                "dtype" => {
                    let found = ElementType::named(&fields.next_value_seed(Text)?);
                    dtype.replace(found).is_none()
                }
                "shape" => {
                    let sizes = fields.next_value_seed(Sizes { name: &name, refused })?;
                    shape.replace(sizes).is_none()
                }
                "data_offsets" => place.replace(fields.next_value::<(u64, u64)>()?).is_none(),
                _ => false,
            };
            if !known {
                return refuse(refused, Problem::Fields { name: name.into_owned() });
            }
        }
        let (Some(dtype), Some(shape), Some((begin, end))) = (dtype, shape, place) else {
            return refuse(refused, Problem::Fields { name: name.into_owned() });
        };
        // A shape is proof that eight bytes per element fit the address space.
        let bits = Shape::elements(&shape) as u128;
        let bits = bits.saturating_mul(ElementType::bits(dtype).unwrap_or(1) as u128);
        let (needed, found) = (bits.div_ceil(8) as u64, end.checked_sub(begin));
        let fits = match ElementType::bits(dtype) {
            Some(_) => bits.is_multiple_of(8) && found == Some(needed),
            // Of an unknown type there is at least a bit for each element.
            None => found.is_some_and(|found| found >= needed),
        };
        if !fits {
            return refuse(refused, Problem::Size { name: name.into_owned(), begin, end, needed });
        }
        Ok(Stored { name, dtype, shape, begin, end })
    }
}

/// The sizes of a tensor's axes.
struct Sizes<'n, 'r> {
    name: &'n str,
    refused: Refused<'r>,
}

impl<'j> DeserializeSeed<'j> for Sizes<'_, '_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'j>>(self, input: D) -> Result<Shape, D::Error> {
        input.deserialize_seq(self)
    }
}

impl<'j> Visitor<'j> for Sizes<'_, '_> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'j>>(self, mut values: A) -> Result<Shape, A::Error> {
        let Self { name, refused } = self;
        let wrong = |reason| Problem::Shape { name: name.to_string(), reason };
        let mut sizes = Vec::new();
        while let Some(size) = values.next_element::<u64>()? {
            if sizes.len() == MAX_RANK {
                return refuse(refused, wrong(format!("more than {MAX_RANK} axes")));
            }
            match usize::try_from(size) {
                Ok(size) => sizes.push(size),
                Err(error) => return refuse(refused, wrong(format!("an axis of {size}: {error}"))),
            }
        }
        match Shape::new(&sizes) {
            Ok(shape) => Ok(shape),
            Err(error) => refuse(refused, wrong(error.to_string())),
        }
    }
}
