//! Damage of every kind: each flipped bit, each other byte, each cut, spliced files. None is accepted.

use std::thread;

use crate::forge::Forged;
use backrule_io::tensor::{Options, Tensor, random};
use backrule_io::{Checkpoint, Group, LoadProblem, Malformed, Part, Run};

use crate::common::Momentum;

fn problem(bytes: &[u8]) -> LoadProblem {
    Checkpoint::from_bytes(bytes).unwrap_err().problem
}

/// Where the header ends.
fn header_end(bytes: &[u8]) -> usize {
    40 + u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize
}

/// A real checkpoint with `units` units per layer: some tensors of several sizes, an optimizer, sections.
fn real(units: usize, seed: u64) -> Vec<u8> {
    let mut rng = random::rng(seed);
    let mut tensor = |shape: &[usize]| Tensor::<f32>::normal(shape, 0.0, 1.0, &mut rng).unwrap();
    let mut layers = |count: usize| {
        let shapes = (0..count).flat_map(|_| [vec![units, units], vec![units]]);
        let names = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"];
        names.into_iter().zip(shapes.map(|shape| tensor(&shape)).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let (net, velocities) = (layers(3), layers(3));
    let options = Options::new().with("learning_rate", 0.1).with("nesterov", true);
    let optim = Momentum { velocities, steps: 450, options };
    let program = Some("1.2.3".to_string());
    let run = Run { epoch: 3, position: 7, seed: Some(seed), program, ..Run::default() };
    let snapshot = Checkpoint::of(&net).optimizer(&optim).run(&run);
    snapshot.metadata(&("a run".to_string(), 0.5)).unwrap().to_bytes().unwrap()
}

/// The parts of a file with their ends. A flip has to be noticed by the checksum that covers it.
fn parts(bytes: &[u8]) -> Vec<(usize, Part)> {
    let mut end = header_end(bytes);
    let mut parts = vec![(40, Part::Envelope), (end, Part::Header)];
    for info in Checkpoint::from_bytes(bytes).unwrap().tensors() {
        end += info.bytes();
        parts.push((end, Part::Tensor { group: info.group, path: info.path }));
    }
    parts.push((bytes.len(), Part::Whole));
    parts
}

/// Changes every byte of `bytes` in all the given ways; each must be noticed by the right checksum. Returns
/// how many.
fn sweep(bytes: &[u8], masks: &[u8]) -> usize {
    let (parts, threads) = (parts(bytes), thread::available_parallelism().map_or(1, |n| n.get()));
    thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads)
            .map(|thread| {
                let parts = &parts;
                scope.spawn(move || {
                    let mut changed = bytes.to_vec();
                    let mut noticed = 0;
                    for at in (thread..bytes.len()).step_by(threads) {
                        let part = &parts.iter().find(|(end, _)| at < *end).unwrap().1;
                        for mask in masks {
                            changed[at] ^= mask;
                            match problem(&changed) {
                                LoadProblem::NotACheckpoint if at < 8 => {}
                                LoadProblem::Checksum(found) if at >= 8 && found == *part => {}
                                other => panic!("byte {at}, mask {mask:#x}: {other}"),
                            }
                            changed[at] ^= mask;
                            noticed += 1;
                        }
                    }
                    noticed
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).sum()
    })
}

const BITS: [u8; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

#[test]
fn every_flipped_bit_of_64_kib_is_noticed() {
    let bytes = real(51, 1);
    assert!((62 << 10..66 << 10).contains(&bytes.len()), "{}", bytes.len());
    let noticed = sweep(&bytes, &BITS);
    println!("{} bytes: {noticed} flips, all noticed", bytes.len());
    assert_eq!(noticed, 8 * bytes.len());
}

/// Minutes: `cargo test --release -p backrule-io --test checkpoint 800_kb -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes; docs/reliability.md has the figure"]
fn every_flipped_bit_of_800_kb_is_noticed() {
    let bytes = real(182, 1);
    assert!((790_000..810_000).contains(&bytes.len()), "{}", bytes.len());
    let began = std::time::Instant::now();
    let noticed = sweep(&bytes, &BITS);
    println!("{} bytes: {noticed} flips, all noticed, in {:?}", bytes.len(), began.elapsed());
    assert_eq!(noticed, 8 * bytes.len());
}

#[test]
fn every_other_value_of_every_byte_is_noticed() {
    let masks: Vec<u8> = (1..=255).collect();
    let bytes = Forged::new().file();
    let noticed = sweep(&bytes, &masks);
    println!("{} bytes: {noticed} other values, all noticed", bytes.len());
    assert_eq!(noticed, 255 * bytes.len());
}

#[test]
fn every_cut_is_noticed() {
    let bytes = real(51, 1);
    for cut in 0..bytes.len() {
        let problem = problem(&bytes[..cut]);
        let LoadProblem::Truncated { expected, found } = problem else {
            panic!("{cut}: {problem}");
        };
        assert_eq!(found, cut as u64);
        assert_eq!(expected, if cut < 40 { 44 } else { bytes.len() as u64 });
    }
    println!("{} bytes: as many cuts, all noticed", bytes.len());
}

#[test]
fn every_addition_is_noticed() {
    let bytes = real(51, 1);
    let expected = bytes.len() as u64;
    for garbage in [&[0][..], &[255], &[0; 4096], &bytes[..40], &bytes[bytes.len() - 4..], &bytes] {
        let problem = problem(&[&bytes, garbage].concat());
        let found = expected + garbage.len() as u64;
        let LoadProblem::Malformed(Malformed::TrailingBytes { expected: a, found: b }) = problem else {
            panic!("{problem}");
        };
        assert_eq!((a, b), (expected, found));
    }
}

/// Two files of one shape, of other values, put together at every place, and with sectors of one in the
/// other.
#[test]
fn spliced_files_are_noticed() {
    let (a, b) = (real(20, 1), real(20, 2));
    assert_eq!(a.len(), b.len());
    let mut tried = 0;
    let mut refused = |bytes: &[u8]| {
        if bytes != a && bytes != b {
            assert!(Checkpoint::from_bytes(bytes).is_err());
            tried += 1;
        }
    };
    for at in 0..a.len() {
        refused(&[&a[..at], &b[at..]].concat());
    }
    for size in [64, 512, 4096] {
        for start in (0..a.len()).step_by(size) {
            let end = a.len().min(start + size);
            refused(&[&a[..start], &b[start..end], &a[end..]].concat());
            refused(&[&a[..start], &vec![0; end - start], &a[end..]].concat());
            refused(&[&a[..start], &a[end..]].concat());
            refused(&[&a[..end], &a[start..]].concat());
            // Swapped with the next one.
            let next = a.len().min(end + size);
            refused(&[&a[..start], &a[end..next], &a[start..end], &a[next..]].concat());
        }
    }
    println!("{} bytes: {tried} spliced files, all noticed", a.len());
    assert!(tried > a.len() / 2);
}

#[test]
fn the_damaged_part_is_named() {
    let bytes = Forged::new().file();
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
