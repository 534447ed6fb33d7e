//! Files put together by hand, with checksums that match, as by a forger.

use backrule_io::tensor::{Options, Tensor};
use backrule_io::{Checkpoint, LoadError};

use crate::common::Momentum;

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

pub(crate) fn entry(path: &[u8], dtype: u8, sizes: &[u64], elements: &[u8]) -> Vec<u8> {
    let mut entry = [&sized(path)[..], &[dtype, sizes.len() as u8]].concat();
    entry.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
    entry.extend(crc32fast::hash(elements).to_le_bytes());
    entry
}

/// The first 40 bytes.
pub(crate) fn fixed(version: u32, flags: u32, header: u64, payload: u64, header_crc: u32) -> Vec<u8> {
    let mut bytes = b"\x8bBRK\r\n\x1a\n".to_vec();
    bytes.extend([version.to_le_bytes(), flags.to_le_bytes()].concat());
    bytes.extend([header.to_le_bytes(), payload.to_le_bytes()].concat());
    bytes.extend(header_crc.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

pub(crate) fn file(version: u32, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(header);
    let mut bytes = fixed(version, 0, header.len() as u64, payload.len() as u64, crc);
    bytes.extend([header, payload].concat());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// A header in pieces with names, any of which can be replaced, and the payload.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) pieces: Vec<(&'static str, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
}

impl Forged {
    /// Everything is there, and right.
    pub(crate) fn new() -> Self {
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let (w, s, v) = (floats(&[1.0, -2.0]), floats(&[0.5]), floats(&[0.25, 0.0]));
        let number = |value: u64| value.to_le_bytes().to_vec();
        let count = |value: u32| value.to_le_bytes().to_vec();
        let list = |values: u32| [vec![5], count(values)].concat();
        let pieces = vec![
            ("epoch", number(1)),
            ("step", number(0)),
            ("position", number(7)),
            ("seed", [vec![1], number(2)].concat()),
            ("program", [vec![1], sized(b"p")].concat()),
            ("sections", count(2)),
            ("metadata", [vec![1], sized(b"\xa1x")].concat()),
            ("metrics", [vec![2], sized(b"\x92\x01\xc0")].concat()),
            ("optimizer", [vec![1], number(5)].concat()),
            ("options", count(5)),
            ("rate", [sized(b"rate"), vec![1], 0.1_f64.to_le_bytes().to_vec()].concat()),
            ("flag", [sized(b"flag"), vec![3, 1]].concat()),
            ("whole", [sized(b"whole"), vec![2], number(9)].concat()),
            ("word", [sized(b"word"), vec![4], sized(b"sum")].concat()),
            ("list", [sized(b"list"), list(2), vec![3, 0], list(1), vec![3, 1]].concat()),
            ("network", count(2)),
            ("w", entry(b"w", 1, &[2], &w)),
            ("s", entry(b"s", 1, &[], &s)),
            ("state", count(1)),
            ("v", entry(b"w", 1, &[2], &v)),
        ];
        Self { pieces, payload: [w, s, v].concat() }
    }

    pub(crate) fn with(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let mut pieces = self.pieces.iter_mut();
        pieces.find(|(other, _)| *other == name).unwrap().1 = bytes.as_ref().to_vec();
        self
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        file(1, &self.header(), &self.payload)
    }
}

/// With checksums compared, and, if that is compiled in, without.
pub(crate) fn load(bytes: &[u8], checksums: bool) -> Result<Checkpoint, LoadError> {
    #[cfg(feature = "fuzzing")]
    if !checksums {
        return Checkpoint::from_bytes_ignoring_checksums(bytes);
    }
    assert!(checksums);
    Checkpoint::from_bytes(bytes)
}

/// Whether checksums are compared: both, if both can be had.
pub(crate) const GATES: &[bool] = if cfg!(feature = "fuzzing") { &[true, false] } else { &[true] };

/// Loads, uses an accepted file, and makes sure that it took no more than the file's length and 1 MiB.
#[track_caller]
pub(crate) fn load_within_limits(bytes: &[u8], checksums: bool) -> bool {
    let mut accepted = None;
    let measured = allocation_counter::measure(|| accepted = load(bytes, checksums).ok());
    let limit = bytes.len() as u64 + (1 << 20);
    assert!(measured.bytes_max <= limit, "{} bytes for a file of {}", measured.bytes_max, bytes.len());
    let Some(checkpoint) = accepted else { return false };
    // Values of sections are the user's, but no claim in them may become memory.
    let measured = allocation_counter::measure(|| {
        for section in checkpoint.sections() {
            let _ = checkpoint.section::<(String, f64)>(section);
            let _ = checkpoint.section::<serde_json::Value>(section);
            let _ = checkpoint.section::<Vec<u64>>(section);
        }
    });
    assert!(measured.bytes_max <= limit, "{} bytes for sections", measured.bytes_max);
    let mut net = vec![("w", Tensor::from([0.0_f32, 0.0])), ("s", Tensor::scalar(0.0))];
    let velocities = vec![("w", Tensor::from([0.0_f32, 0.0]))];
    let mut optim = Momentum { velocities, steps: 0, options: Options::new() };
    let _ = checkpoint.restore_with_optimizer(&mut net, &mut optim);
    true
}
