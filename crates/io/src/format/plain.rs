//! Any value of MessagePack but those of extension types, which would need a meaning that no file gives them.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value that was read and thrown away. No text in it has more than `TEXT` bytes.
pub(crate) struct Plain<const TEXT: usize>;

impl<'de, const TEXT: usize> Deserialize<'de> for Plain<TEXT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any::<TEXT>)
    }
}

struct Any<const TEXT: usize>;

macro_rules! plain {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method<E: de::Error>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Plain)
        })*
    };
}

impl<'de, const TEXT: usize> Visitor<'de> for Any<TEXT> {
    type Value = Plain<TEXT>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without extension types")
    }

    plain! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64 }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_bytes<E: de::Error>(self, text: &[u8]) -> Result<Self::Value, E> {
        match text.len() {
            len if len <= TEXT => Ok(Plain),
            len => Err(E::custom(format_args!("a text of {len} bytes, and the limit is {TEXT}"))),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        while values.next_element::<Self::Value>()?.is_some() {}
        Ok(Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<Self::Value, Self::Value>()?.is_some() {}
        Ok(Plain)
    }

    /// How `rmp-serde` gives a value of an extension type.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<Self::Value, D::Error> {
        Err(de::Error::custom("a value of an extension type"))
    }
}
