//! Reading a file from the first byte to the last, and verifying all of it.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::ops::Range;

use backrule_tensor::memory::room;
use crc32fast::Hasher;

use crate::format::checksum::Checksums;
use crate::format::entry::Entry;
use crate::format::envelope::Envelope;
use crate::format::header::Header;
use crate::format::problem::{LoadProblem, Malformed, Part};
use crate::format::section;

/// Bytes that are read from a file at a time.
const BUFFER: usize = 256 << 10;
/// Bytes that are hashed and copied at a time: they are still in the cache for the second.
const PIECE: usize = 64 << 10;

/// Reads all of the `length` bytes, and gives the elements to `keep`, piece by piece. Every length is
/// compared with the bytes that are there before memory is taken for it. `begin` gets the length of the
/// payload, once it is known to be right.
pub(crate) fn read<K>(
    input: &mut impl BufRead,
    length: u64,
    checksums: Checksums,
    begin: impl FnOnce(u64) -> Result<K, LoadProblem>,
    keep: impl FnMut(&mut K, &[u8]),
) -> Result<(Header, K), LoadProblem> {
    let mut fixed = Vec::new();
    input.by_ref().take(Envelope::SIZE).read_to_end(&mut fixed)?;
    let envelope = Envelope::decode(&fixed, length, checksums)?;

    let header = read_exactly(input, envelope.header)?;
    checksums.check(crc32fast::hash(&header), envelope.header_crc, || Part::Header)?;
    let mut whole = Hasher::new();
    whole.update(&fixed);
    whole.update(&header);
    let header = Header::decode(header)?;
    for (section, content) in header.sections() {
        section::verify(section, content).map_err(|reason| Malformed::SectionContent { section, reason })?;
    }
    let size =
        (header.entries()).try_fold(0_u64, |sum, entry| sum.checked_add(u64::try_from(entry.size()).ok()?));
    if size != Some(envelope.payload) {
        return Err(Malformed::PayloadSize { claimed: envelope.payload, tensors: size }.into());
    }

    let mut kept = begin(envelope.payload)?;
    elements(input, &header, checksums, &mut whole, &mut kept, keep)?;
    let end = read_exactly(input, Envelope::END)?;
    let stored = end.first_chunk().map_or(0, |end| u32::from_le_bytes(*end));
    checksums.check(whole.finalize(), stored, || Part::Whole)?;
    if !input.fill_buf()?.is_empty() {
        return Err(Malformed::Grew.into());
    }
    Ok((header, kept))
}

/// Every tensor's elements are read, hashed, and handed on.
fn elements<K>(
    input: &mut impl BufRead,
    header: &Header,
    checksums: Checksums,
    whole: &mut Hasher,
    kept: &mut K,
    mut keep: impl FnMut(&mut K, &[u8]),
) -> Result<(), LoadProblem> {
    for entry in header.entries() {
        let hasher = pieces(input, entry.size(), |piece| keep(kept, piece))?;
        // The checksum of the whole follows from those of the parts: the elements are hashed once.
        whole.combine(&hasher);
        let Entry { group, path, crc, .. } = entry;
        checksums.check(hasher.finalize(), crc, || Part::Tensor { group, path: path.to_string() })?;
    }
    Ok(())
}

/// The only loop over elements: `size` bytes are hashed and handed on while they are in the cache.
pub(crate) fn pieces(
    input: &mut impl BufRead,
    size: usize,
    mut keep: impl FnMut(&[u8]),
) -> Result<Hasher, LoadProblem> {
    let mut hasher = Hasher::new();
    let mut left = size;
    while left > 0 {
        let there = input.fill_buf()?;
        let piece = there.get(..left.min(PIECE)).unwrap_or(there);
        if piece.is_empty() {
            return Err(Malformed::Shrank.into());
        }
        hasher.update(piece);
        keep(piece);
        let used = piece.len();
        input.consume(used);
        left = left.saturating_sub(used);
    }
    Ok(hasher)
}

/// The next `size` bytes. The caller has compared `size` with the length of the rest.
pub(crate) fn read_exactly(input: &mut impl Read, size: u64) -> Result<Vec<u8>, LoadProblem> {
    let mut bytes = memory(size)?;
    input.by_ref().take(size).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < size {
        return Err(Malformed::Shrank.into());
    }
    Ok(bytes)
}

/// Memory for `size` bytes and no more.
pub(crate) fn memory(size: u64) -> Result<Vec<u8>, LoadProblem> {
    Ok(room("load", usize::try_from(size).unwrap_or(usize::MAX))?)
}

/// A file that is read by way of a buffer. `BufReader` would end the process where there is no memory for it.
pub(crate) struct Buffered {
    file: File,
    buffer: Vec<u8>,
    /// The part of the buffer that was filled and wasn't consumed.
    there: Range<usize>,
}

impl Buffered {
    pub(crate) fn new(file: File) -> Result<Self, LoadProblem> {
        let mut buffer = memory(BUFFER as u64)?;
        buffer.resize(BUFFER, 0);
        Ok(Self { file, buffer, there: 0..0 })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

impl Read for Buffered {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.there.is_empty() && bytes.len() >= self.buffer.len() {
            return self.file.read(bytes);
        }
        let count = self.fill_buf()?.read(bytes)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Buffered {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.there.is_empty() {
            self.there = 0..self.file.read(&mut self.buffer)?;
        }
        Ok(self.buffer.get(self.there.clone()).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.there.start = self.there.start.saturating_add(count).min(self.there.end);
    }
}

/// Appends a piece to memory that is there already.
pub(crate) fn keep(bytes: &mut Vec<u8>, piece: &[u8]) {
    bytes.extend_from_slice(piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        for size in [usize::MAX, usize::MAX / 4] {
            let problem = read_exactly(&mut &b""[..], size as u64).unwrap_err();
            let LoadProblem::Memory(error) = &problem else { panic!("{problem}") };
            assert_eq!((error.operation, error.bytes), ("load", size));
        }
    }
}
