//! The first 40 bytes: magic number, version, lengths, checksums. docs/checkpoint-format.md has the table of
//! offsets.

use crate::format::checksum::Checksums;
use crate::format::limits::{self, MAX_HEADER};
use crate::format::problem::{LoadProblem, Malformed, Part};

/// Not ASCII, then the name, then the bytes that a transfer in text mode changes: CR LF, the end-of-file
/// mark of DOS, LF.
pub(crate) const MAGIC: [u8; 8] = *b"\x8bBRK\r\n\x1a\n";
/// The version that is written. All up to this one are read.
pub(crate) const VERSION: u32 = 1;
const FLAGS: u32 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    pub(crate) header: u64,
    pub(crate) payload: u64,
    pub(crate) header_crc: u32,
}

impl Envelope {
    /// Bytes of the fixed part.
    pub(crate) const SIZE: u64 = 40;
    /// Bytes of the checksum at the end of the file.
    pub(crate) const END: u64 = 4;

    pub(crate) fn encode(self) -> [u8; Self::SIZE as usize] {
        let mut bytes = [0; Self::SIZE as usize];
        let mut rest = &mut bytes[..];
        let mut put = |field: &[u8]| {
            if let Some(place) = rest.split_off_mut(..field.len()) {
                place.copy_from_slice(field);
            }
        };
        put(&MAGIC);
        put(&self.version.to_le_bytes());
        put(&FLAGS.to_le_bytes());
        put(&self.header.to_le_bytes());
        put(&self.payload.to_le_bytes());
        put(&self.header_crc.to_le_bytes());
        if let Some((fields, crc)) = bytes.split_last_chunk_mut() {
            *crc = crc32fast::hash(fields).to_le_bytes();
        }
        bytes
    }

    /// Reads the first bytes of a file of `length` bytes, and checks that its parts add up to that.
    pub(crate) fn decode(bytes: &[u8], length: u64, checksums: Checksums) -> Result<Self, LoadProblem> {
        let shortest = Self::SIZE.saturating_add(Self::END);
        let truncated = |expected| LoadProblem::Truncated { expected, found: length };
        // A file that ends within the magic number is cut short, not foreign.
        if !bytes.iter().zip(&MAGIC).all(|(a, b)| a == b) {
            return Err(LoadProblem::NotACheckpoint);
        }
        let mut fields = bytes;
        let (Some(_magic), Some(version), Some(flags)) = (
            take::<8>(&mut fields),
            take(&mut fields).map(u32::from_le_bytes),
            take(&mut fields).map(u32::from_le_bytes),
        ) else {
            return Err(truncated(shortest));
        };
        let (Some(header), Some(payload), Some(header_crc), Some(crc)) = (
            take(&mut fields).map(u64::from_le_bytes),
            take(&mut fields).map(u64::from_le_bytes),
            take(&mut fields).map(u32::from_le_bytes),
            take(&mut fields).map(u32::from_le_bytes),
        ) else {
            return Err(truncated(shortest));
        };
        // The checksum comes before the version: the fixed part is the same in every version to come, so a
        // damaged version number is not taken for a new one.
        let covered = bytes.get(..36).unwrap_or_default();
        checksums.check(crc32fast::hash(covered), crc, || Part::Envelope)?;
        if version == 0 {
            return Err(Malformed::Version.into());
        }
        if version > VERSION || flags != FLAGS {
            return Err(LoadProblem::Newer { version, flags, latest: VERSION });
        }
        limits::check("bytes of the header", usize::try_from(header).unwrap_or(usize::MAX), MAX_HEADER)?;
        let expected = (shortest.checked_add(header))
            .and_then(|sum| sum.checked_add(payload))
            .ok_or(Malformed::LengthsOverflow)?;
        if length < expected {
            return Err(truncated(expected));
        }
        if length > expected {
            return Err(Malformed::TrailingBytes { expected, found: length }.into());
        }
        Ok(Self { version, header, payload, header_crc })
    }
}

/// Splits the first `N` bytes off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let envelope = Envelope { version: VERSION, header: 5, payload: 7, header_crc: 9 };
        envelope.encode().to_vec()
    }

    /// `sample()` with other bytes at `at`, and the checksum to go with it.
    fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut fixed = sample();
        fixed[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32fast::hash(&fixed[..36]);
        fixed[36..].copy_from_slice(&crc.to_le_bytes());
        fixed
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(sample().len() as u64, Envelope::SIZE);
        let envelope = Envelope::decode(&sample(), 40 + 5 + 7 + 4, Checksums::Compare).unwrap();
        assert_eq!((envelope.version, envelope.header), (VERSION, 5));
        assert_eq!((envelope.payload, envelope.header_crc), (7, 9));
    }

    #[test]
    fn tells_what_is_wrong() {
        use LoadProblem as P;
        use Malformed as M;
        let found = |bytes: &[u8], length| Envelope::decode(bytes, length, Checksums::Compare).unwrap_err();
        assert!(matches!(found(b"PK\x03\x04", 4), P::NotACheckpoint));
        for cut in [0, 4, 8, 12, 39] {
            let problem = found(&sample()[..cut], cut as u64);
            assert!(matches!(problem, P::Truncated { expected: 44, .. }), "{problem:?}");
        }
        let mangled = [&sample()[..4], b"\n", &sample()[6..]].concat();
        assert!(matches!(found(&mangled, 55), P::NotACheckpoint));
        assert!(matches!(found(&sample(), 55), P::Truncated { expected: 56, found: 55 }));
        assert!(matches!(found(&sample(), 57), P::Malformed(M::TrailingBytes { expected: 56, found: 57 })));
        let mut flipped = sample();
        flipped[8] ^= 1 << 1;
        assert!(matches!(found(&flipped, 56), P::Checksum(Part::Envelope)));
        assert!(matches!(found(&patched(8, &[2]), 56), P::Newer { version: 2, flags: 0, latest: 1 }));
        assert!(matches!(found(&patched(12, &[4]), 56), P::Newer { version: 1, flags: 4, .. }));
        assert!(matches!(found(&patched(8, &[0]), 56), P::Malformed(M::Version)));
        assert!(matches!(found(&patched(19, &[1]), 56), P::Limit(_)));
        // A sum that wraps around to just this length.
        assert!(matches!(found(&patched(24, &[255; 8]), 48), P::Malformed(M::LengthsOverflow)));
    }
}
