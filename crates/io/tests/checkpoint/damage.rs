//! Files that are damaged, and files that lie.

use crate::common::Momentum;
use backrule_io::tensor::{Options, Tensor};
use backrule_io::{Checkpoint, Group, LoadProblem, Part};

/// A small checkpoint with everything in it.
fn sample() -> Vec<u8> {
    let net = vec![("w", Tensor::from([1.0_f32, -2.0])), ("s", Tensor::scalar(0.5))];
    let optim = Momentum {
        velocities: vec![("w", Tensor::from([0.25_f32, 0.0]))],
        steps: 5,
        options: Options::new().with("r", 0.1).with("n", true),
    };
    let snapshot = Checkpoint::of(&net).optimizer(&optim).epoch(1).position(7).seed(2).program("p");
    let snapshot = snapshot.metadata(&("x".to_string(), 0.5)).unwrap();
    snapshot.to_bytes().unwrap()
}

fn problem(bytes: &[u8]) -> LoadProblem {
    Checkpoint::from_bytes(bytes).unwrap_err().problem
}

/// Where the header ends.
fn header_end(bytes: &[u8]) -> usize {
    40 + u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize
}

/// The parts put together again with checksums that match: what a forger can do.
fn forged(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = sample()[..16].to_vec();
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(crc32fast::hash(header).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(header);
    bytes.extend(payload);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The sample's header and payload.
fn parts() -> (Vec<u8>, Vec<u8>) {
    let bytes = sample();
    let end = header_end(&bytes);
    (bytes[40..end].to_vec(), bytes[end..bytes.len() - 4].to_vec())
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = sample();
    assert!(Checkpoint::from_bytes(&bytes).is_ok());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Checkpoint::from_bytes(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn every_cut_and_every_addition_is_noticed() {
    let bytes = sample();
    for cut in 0..bytes.len() {
        let problem = problem(&bytes[..cut]);
        let LoadProblem::Truncated { expected, found } = problem else {
            panic!("{cut}: {problem}");
        };
        assert_eq!(found, cut as u64);
        assert_eq!(expected, if cut < 40 { 44 } else { bytes.len() as u64 });
    }
    for byte in [0, 0xff] {
        let longer = [&bytes[..], &[byte]].concat();
        assert!(matches!(problem(&longer), LoadProblem::Malformed(_)));
    }
}

#[test]
fn the_damaged_part_is_named() {
    let bytes = sample();
    let end = header_end(&bytes);
    let part = |at: usize| {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        match problem(&damaged) {
            LoadProblem::Checksum(part) => part,
            other => panic!("{other}"),
        }
    };
    let tensor = |group, path: &str| Part::Tensor { group, path: path.to_string() };
    assert_eq!(part(9), Part::Envelope);
    assert_eq!(part(20), Part::Envelope);
    assert_eq!(part(40), Part::Header);
    assert_eq!(part(end - 1), Part::Header);
    assert_eq!(part(end + 4), tensor(Group::Network, "w"));
    assert_eq!(part(end + 8), tensor(Group::Network, "s"));
    assert_eq!(part(end + 12), tensor(Group::Optimizer, "w"));
    assert_eq!(part(bytes.len() - 1), Part::Whole);
}

#[test]
fn a_line_end_that_was_converted_is_noticed() {
    let unix = sample();
    let dos = [&unix[..4], b"\r\r\n\x1a\r\n", &unix[8..]].concat();
    assert!(matches!(problem(&dos), LoadProblem::NotACheckpoint));
    let stripped = [&unix[..4], b"\n\x1a\n", &unix[8..]].concat();
    assert!(matches!(problem(&stripped), LoadProblem::NotACheckpoint));
}

/// Every header with one byte changed, and with bytes taken out or put in, and checksums that match. Some of them are
/// good: another epoch, another name. None may panic, and what is accepted must restore or say why not.
#[test]
fn forged_headers_are_errors_or_good() {
    let (header, payload) = parts();
    let mut accepted = 0;
    let mut load = |header: &[u8]| {
        if let Ok(checkpoint) = Checkpoint::from_bytes(&forged(header, &payload)) {
            accepted += 1;
            let mut net = vec![("w", Tensor::from([0.0_f32, 0.0])), ("s", Tensor::scalar(0.0))];
            let _ = checkpoint.restore(&mut net);
            let _ = checkpoint.metadata::<(String, f64)>();
            let _ = checkpoint.metadata::<serde_json::Value>();
        }
    };
    for at in 0..header.len() {
        for byte in 0..=255 {
            let mut changed = header.clone();
            changed[at] = byte;
            load(&changed);
        }
        let shorter = [&header[..at], &header[at + 1..]].concat();
        load(&shorter);
        for byte in [0, 1, 0x7f, 0xff] {
            load(&[&header[..at], &[byte], &header[at..]].concat());
        }
        let mut huge = header.clone();
        let end = huge.len().min(at + 8);
        huge[at..end].fill(0xff);
        load(&huge);
    }
    assert!(accepted > header.len(), "{accepted}");
}

/// A header without anything, up to the network's tensors: position and options, sections, an optimiser are not there.
fn bare() -> Vec<u8> {
    vec![0; 24 + 1 + 1 + 4 + 1]
}

/// Sizes whose product overflows, and a size of 0 beside them that would hide it.
#[test]
fn impossible_shapes_are_refused() {
    let file = |sizes: &[u64]| {
        let mut header = bare();
        header.extend(1_u32.to_le_bytes());
        header.extend(1_u64.to_le_bytes());
        header.extend([b'a', 1, sizes.len() as u8]);
        header.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
        header.extend([0; 4]);
        forged(&header, &[])
    };
    assert!(Checkpoint::from_bytes(&file(&[5, 0])).is_ok());
    for sizes in [&[1 << 32, 1 << 32][..], &[u64::MAX, 0], &[1 << 40, 0, 1 << 40]] {
        let problem = problem(&file(sizes));
        assert!(matches!(problem, LoadProblem::Malformed(_)), "{sizes:?}: {problem}");
    }
}

#[test]
fn claims_take_no_memory() {
    let claim = |header: &[u8]| {
        let bytes = forged(header, &[]);
        let measured = allocation_counter::measure(|| drop(Checkpoint::from_bytes(&bytes)));
        assert!(measured.bytes_max < 4096, "{} bytes", measured.bytes_max);
    };
    // 65,536 tensors; a path of 16 MiB; four billion sections; one of 16 MiB; a program's name of 16 MiB.
    let huge = (16_u64 << 20).to_le_bytes();
    claim(&[&bare()[..], &65_536_u32.to_le_bytes()].concat());
    claim(&[&bare()[..], &1_u32.to_le_bytes(), &huge].concat());
    claim(&[&[0; 26][..], &[255; 4]].concat());
    claim(&[&[0; 26][..], &1_u32.to_le_bytes(), &[1], &huge].concat());
    claim(&[&[0; 25][..], &[1], &huge].concat());

    // The envelope claims a payload of 4 GiB.
    let mut bytes = sample();
    bytes[28] = 1;
    let crc = crc32fast::hash(&bytes[..36]).to_le_bytes();
    bytes[36..40].copy_from_slice(&crc);
    let measured = allocation_counter::measure(|| {
        assert!(matches!(problem(&bytes), LoadProblem::Truncated { .. }));
    });
    assert!(measured.bytes_max < 4096, "{} bytes", measured.bytes_max);
}

/// Metadata that are nested a million times: neither loading nor reading may overflow the stack.
#[test]
fn deep_metadata_are_refused() {
    let file = |metadata: &[u8]| {
        let mut header = vec![0; 26];
        header.extend(1_u32.to_le_bytes());
        header.push(1);
        header.extend((metadata.len() as u64).to_le_bytes());
        header.extend(metadata);
        header.extend([0; 5]);
        forged(&header, &[])
    };
    assert!(Checkpoint::from_bytes(&file(&[0xc0])).is_ok());
    // [[[…nil…]]], and {"C": {"C": …nil…}}, a list as a recursive enum.
    for level in [&b"\x91"[..], b"\x81\xa1C"] {
        let deep = [&level.repeat(1_000_000)[..], &[0xc0]].concat();
        let problem = problem(&file(&deep));
        assert!(matches!(problem, LoadProblem::Malformed(_)), "{problem}");
    }
    for wrong in [&[][..], &[0xc0, 0xc0], &[0x91], &[0xc1]] {
        let problem = problem(&file(wrong));
        assert!(matches!(problem, LoadProblem::Malformed(_)), "{problem}");
    }
}
