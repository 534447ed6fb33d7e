//! A value of MessagePack as text for people, whatever it is: much like JSON, but with NaN, and with any
//! keys.

use std::fmt::{self, Display};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Writes its input.
pub(crate) struct Show<'a, 'f>(pub(crate) &'a mut fmt::Formatter<'f>);

impl Show<'_, '_> {
    fn put<E: de::Error>(self, text: impl Display) -> Result<(), E> {
        write!(self.0, "{text}").map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Show<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! plain {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method<E: de::Error>(self, value: $type) -> Result<(), E> {
            self.put(value)
        })*
    };
}

impl<'de> Visitor<'de> for Show<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    plain! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_f32: f32 }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.put("null")
    }

    /// Escaped: a text may hold commands for the terminal.
    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.put(format_args!("\"{}\"", value.escape_debug()))
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<(), E> {
        self.put(format_args!("{} bytes", value.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let mut separator = "[";
        loop {
            let mut element = Element(self.0, separator);
            if values.next_element_seed(&mut element)?.is_none() {
                break;
            }
            separator = ", ";
        }
        self.put(if separator == "[" { "[]" } else { "]" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut separator = "{";
        loop {
            let mut key = Element(self.0, separator);
            if entries.next_key_seed(&mut key)?.is_none() {
                break;
            }
            entries.next_value_seed(&mut Element(self.0, ": "))?;
            separator = ", ";
        }
        self.put(if separator == "{" { "{}" } else { "}" })
    }
}

/// Something with a separator before it.
struct Element<'a, 'f>(&'a mut fmt::Formatter<'f>, &'static str);

impl<'de> DeserializeSeed<'de> for &mut Element<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.write_str(self.1).map_err(de::Error::custom)?;
        deserializer.deserialize_any(Show(self.0))
    }
}
