//! Bytes that are written to memory, which may be refused.

use std::{fmt, io};

use backrule_tensor::{MemoryError, memory};

/// Appends to `bytes` as long as there is memory. Then all else is passed over, and
/// [`finish`](Self::finish) tells: neither serializers nor formatters can hand on such an error.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    refused: Option<MemoryError>,
}

impl Bytes {
    /// Goes on behind the contents of `bytes`.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, refused: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if self.refused.is_none() {
            match memory::make_room("save", &mut self.bytes, bytes.len()) {
                Ok(()) => self.bytes.extend_from_slice(bytes),
                Err(error) => self.refused = Some(error),
            }
        }
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, MemoryError> {
        self.refused.map_or(Ok(self.bytes), Err)
    }
}

impl io::Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for Bytes {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}
