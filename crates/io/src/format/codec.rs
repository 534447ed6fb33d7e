//! Single values of the header. This is the only module that knows bincode.
//!
//! Integers have a fixed width and are little-endian. bincode is finished and no longer maintained, so it
//! gets no further than this file: the layout is specified without it, `tests/checkpoint/layout.rs` writes
//! the same bytes by hand, and `wincode` has the same layout.

use std::io::{self, Write};

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Encode};

use crate::format::limits::{LimitError, MAX_HEADER};
use crate::format::problem::Malformed;

/// The limit bounds the claim of one value. Everything decoded here is borrowed or a number, so a claim
/// never becomes an allocation.
const CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_HEADER>> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_HEADER>();

/// Appends one value. Writing numbers and bytes to memory can't fail; should bincode refuse all the same,
/// nothing is saved.
pub(crate) fn put(out: &mut impl Write, value: impl Encode) -> Result<(), LimitError> {
    match bincode::encode_into_std_write(value, out, CONFIG) {
        Ok(_) => Ok(()),
        Err(error) => Err(LimitError::new(format!("values that bincode can't write ({error})"), 1, 0)),
    }
}

/// Splits one value off the input.
pub(crate) fn get<'a, D: BorrowDecode<'a, ()>>(
    input: &mut &'a [u8],
    field: &'static str,
) -> Result<D, Malformed> {
    let (value, used) = bincode::borrow_decode_from_slice(input, CONFIG).map_err(|error| match error {
        DecodeError::Utf8 { .. } => Malformed::Utf8 { field },
        DecodeError::UnexpectedVariant { .. } | DecodeError::InvalidBooleanValue(_) => {
            Malformed::Tag { field }
        }
        // A length beyond the rest of the bytes, or beyond bincode's limit for one read.
        _ => Malformed::HeaderEnds { field },
    })?;
    *input = input.get(used..).unwrap_or_default();
    Ok(value)
}

/// Compares the written bytes with the expected ones, without keeping them.
pub(crate) struct Same<'a> {
    expected: &'a [u8],
    so_far: bool,
}

impl<'a> Same<'a> {
    pub(crate) fn new(expected: &'a [u8]) -> Self {
        Self { expected, so_far: true }
    }

    /// Whether exactly the expected bytes were written.
    pub(crate) fn all(&self) -> bool {
        self.so_far && self.expected.is_empty()
    }
}

impl Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.expected.strip_prefix(bytes) {
            Some(rest) => self.expected = rest,
            None => self.so_far = false,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
