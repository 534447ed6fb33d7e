//! Finds the one kind of value that MessagePack would change without a word: a `Some` whose content is written as nil,
//! as in `Some(None)`, comes back as `None`.

use std::fmt::Display;

use serde::ser::{self, Serialize, Serializer};

use crate::SectionProblem;

/// Refuses a value with a `Some(None)`, `Some(())` or the like in it.
pub(crate) fn check(value: &impl Serialize) -> Result<(), SectionProblem> {
    match value.serialize(Check) {
        Ok(_) => Ok(()),
        Err(Stop(error)) => Err(error),
    }
}

/// A serialiser that writes nothing. What it returns is whether the value is nil in MessagePack.
#[derive(Clone, Copy)]
struct Check;

const NIL: Result<bool, Stop> = Ok(true);
const SOMETHING: Result<bool, Stop> = Ok(false);

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Stop(SectionProblem);

impl Stop {
    fn within(self, name: &str) -> Self {
        Self(match self.0 {
            SectionProblem::NestedOption { field } if field.is_empty() => {
                SectionProblem::NestedOption { field: name.to_string() }
            }
            SectionProblem::NestedOption { field } => {
                SectionProblem::NestedOption { field: format!("{name}.{field}") }
            }
            other => other,
        })
    }
}

impl ser::Error for Stop {
    fn custom<T: Display>(message: T) -> Self {
        Self(SectionProblem::Serialize(message.to_string()))
    }
}

macro_rules! plain {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method(self, _: $type) -> Result<bool, Stop> {
            SOMETHING
        })*
    };
}

macro_rules! compound {
    ($($method:ident($($argument:ty),*) -> $name:ident),* $(,)?) => {
        $(fn $method(self $(, _: $argument)*) -> Result<Self::$name, Stop> {
            Ok(self)
        })*
    };
}

type Name = &'static str;

impl Serializer for Check {
    type Ok = bool;
    type Error = Stop;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    plain! {
        serialize_bool: bool, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_f32: f32, serialize_f64: f64, serialize_unit_struct: Name,
    }

    compound! {
        serialize_seq(Option<usize>) -> SerializeSeq,
        serialize_tuple(usize) -> SerializeTuple,
        serialize_tuple_struct(Name, usize) -> SerializeTupleStruct,
        serialize_tuple_variant(Name, u32, Name, usize) -> SerializeTupleVariant,
        serialize_map(Option<usize>) -> SerializeMap,
        serialize_struct(Name, usize) -> SerializeStruct,
        serialize_struct_variant(Name, u32, Name, usize) -> SerializeStructVariant,
    }

    fn serialize_none(self) -> Result<bool, Stop> {
        NIL
    }

    fn serialize_unit(self) -> Result<bool, Stop> {
        NIL
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, Stop> {
        if value.serialize(self)? {
            let field = String::new();
            return Err(Stop(SectionProblem::NestedOption { field }));
        }
        SOMETHING
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: Name, value: &T) -> Result<bool, Stop> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: Name,
        _: u32,
        variant: Name,
        value: &T,
    ) -> Result<bool, Stop> {
        value.serialize(self).map_err(|stop| stop.within(variant))?;
        SOMETHING
    }

    fn serialize_unit_variant(self, _: Name, _: u32, _: Name) -> Result<bool, Stop> {
        SOMETHING
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Result<bool, Stop> {
        SOMETHING
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

macro_rules! elements {
    ($($trait:ident: $($method:ident),+;)*) => {
        $(impl ser::$trait for Check {
            type Ok = bool;
            type Error = Stop;
            $(fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stop> {
                value.serialize(*self).map(drop)
            })+
            fn end(self) -> Result<bool, Stop> {
                SOMETHING
            }
        })*
    };
}

elements! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeMap: serialize_key, serialize_value;
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl ser::$trait for Check {
            type Ok = bool;
            type Error = Stop;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: Name,
                value: &T,
            ) -> Result<(), Stop> {
                value.serialize(*self).map(drop).map_err(|stop| stop.within(name))
            }
            fn end(self) -> Result<bool, Stop> {
                SOMETHING
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }
