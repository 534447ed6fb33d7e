//! The fuzz targets that read files of others and architectures, over seeds that are changed at random:
//! the tests where there is no fuzzer. `BACKRULE_FUZZ_RUNS` sets another number of runs of each.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use backrule_nn::{
    Add, Architecture, BatchNorm, Concat, Conv2dConfig, Embedding, Flatten, Graph, Layer, LayerNorm, Linear,
    Lstm, Mul, MultiHeadAttentionConfig, Residual, Sequential, Tanh,
};
use backrule_tensor::random;

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a library for the fuzzer")]
mod targets;

const RUNS: u64 = 4_000;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(name: &str, extension: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| extension.is_empty() || path.extension().is_some_and(|it| it == extension));
    paths.sort();
    assert!(!paths.is_empty(), "{name}");
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A step of xorshift.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 8) as usize
}

/// One to four changes, as fuzzers make them.
fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]], state: &mut u64) {
    for _ in 0..1 + next(state) % 4 {
        let at = next(state) % (bytes.len() + 1);
        let end = bytes.len().min(at + next(state) % 16);
        match next(state) % 8 {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..end, words[next(state) % words.len()].iter().copied())),
            3 => drop(bytes.splice(at..at, words[next(state) % words.len()].iter().copied())),
            4 => {
                let from = next(state) % (other.len() + 1);
                let piece = &other[from..other.len().min(from + next(state) % 64)];
                drop(bytes.splice(at..end, piece.iter().copied()));
            }
            5 => {
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            6 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9'][next(state) % 7],
            _ if at < bytes.len() => bytes[at] ^= 1 << (next(state) % 8),
            _ => {}
        }
    }
}

fn run(seeds: &[Vec<u8>], words: &[&[u8]], target: fn(&[u8])) {
    seeds.iter().for_each(|seed| target(seed));
    let runs = std::env::var("BACKRULE_FUZZ_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..runs {
        let mut bytes = seeds[next(&mut state) % seeds.len()].clone();
        let other = &seeds[next(&mut state) % seeds.len()];
        change(&mut bytes, other, words, &mut state);
        target(&bytes);
    }
}

#[test]
fn safetensors_of_odd_types() {
    let seeds =
        [files("fuzz/seeds/safetensors", ""), files("crates/io/tests/golden/others", "safetensors")].concat();
    let words: [&[u8]; 12] = [
        b"\"BF16\"",
        b"\"F8_E8M0\"",
        b"\"I64\"",
        b"\"BOOL\"",
        b"\"F4\"",
        b"\"XX\"",
        b"[0,0]",
        b"18446744073709551615",
        b"4294967296",
        b"\\u001b",
        b",",
        b"{}",
    ];
    run(&seeds, &words, targets::safetensors);
}

#[test]
fn npy() {
    let words: [&[u8]; 11] = [
        b"'>f2'",
        b"'|b1'",
        b"'<i8'",
        b"True",
        b"False",
        b"()",
        b"(0,)",
        b"1152921504606846975",
        b"(4294967296,",
        b",",
        b"\\",
    ];
    run(&files("crates/io/tests/golden/others", "npy"), &words, targets::npy);
}

#[test]
fn npz() {
    let words: [&[u8]; 5] = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"\xff\xff\xff\xff", b"\x08\0"];
    run(&files("crates/io/tests/golden/others", "npz"), &words, targets::npz);
}

#[test]
fn architectures_with_graphs() {
    let words: [&[u8]; 10] = [
        b"\xa5Graph",
        b"\xa6Linear",
        b"\xaaSequential",
        b"\xa8children",
        b"\xa6inputs",
        b"\xa5nodes",
        b"\xce\xff\xff\xff\xff",
        b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff",
        b"\x00",
    ];
    run(&files("fuzz/seeds/architecture", ""), &words, targets::architecture);
}

/// Networks that have one of every container, and layers of every kind of option.
fn networks() -> Vec<(&'static str, Box<dyn Layer<f32>>)> {
    let rng = &mut random::rng(1);
    let mut g = Graph::builder();
    let [source, lengths, target] = g.inputs(["source", "lengths", "target"]);
    let words = g.layer("words", Embedding::new(9, 4, rng).unwrap(), [source]);
    let encoder = g.layer("encoder", Lstm::new(4, 5, rng).unwrap(), [words, lengths]);
    let decoder =
        g.layer("decoder", Lstm::new(3, 5, rng).unwrap(), [target, encoder.output(1), encoder.output(2)]);
    let attention = MultiHeadAttentionConfig::new(5, 1).cross(true).lengths(true).build(rng).unwrap();
    let seen = g.layer("attention", attention, [decoder, encoder, lengths]);
    let both = g.layer("both", Add, [decoder, seen]);
    let norm = g.layer("norm", LayerNorm::new([5]).unwrap(), [both]);
    let y = g.layer("logits", Linear::new(5, 2, rng).unwrap(), [norm]);
    let translator = g.build([y]).unwrap();

    let mut g = Graph::builder();
    let [image, scalars] = g.inputs(["image", "scalars"]);
    let conv = Conv2dConfig::new(2, 3, [3, 3]).padding([1, 1]).build(rng).unwrap();
    let features = g.layer("conv", conv, [image]);
    let flat = g.layer("flat", Flatten::new(1).unwrap(), [features]);
    let both = g.layer("both", Concat::new(1).unwrap(), [flat, scalars]);
    let y = g.layer("fc", Linear::new(3 * 4 * 5 + 3, 2, rng).unwrap(), [both]);
    let image = g.build([y]).unwrap();

    let mut g = Graph::builder();
    let [a, b] = g.inputs(["a", "b"]);
    let tower = g.layer("tower", Linear::new(4, 3, rng).unwrap(), [a]);
    let other = g.again(tower, [b]);
    let product = g.layer("product", Mul, [tower, other]);
    let norm = g.layer("norm", BatchNorm::new(3).unwrap(), [product]);
    let towers = g.build([norm, other]).unwrap();

    let block = Residual::new(Linear::new(4, 4, rng).unwrap());
    let plain = Sequential::builder().layer("block", block).layer("tanh", Tanh).build().unwrap();
    vec![
        ("translator", Box::new(translator)),
        ("image", Box::new(image)),
        ("towers", Box::new(towers)),
        ("plain", Box::new(plain)),
    ]
}

/// The section of a network's architecture in a file.
fn section(net: &dyn Layer<f32>) -> Vec<u8> {
    let nothing: Vec<(&str, backrule_tensor::Tensor)> = Vec::new();
    let snapshot =
        backrule_io::Checkpoint::of(&nothing).architecture(&Architecture::of(net).unwrap()).unwrap();
    let bytes = snapshot.to_bytes().unwrap();
    // Before it 40 bytes of the envelope and 39 of the header; behind it 5 of the header and a checksum.
    bytes[79..bytes.len() - 9].to_vec()
}

/// The seeds in the folder are those of these networks, and each is built. `BACKRULE_WRITE_SEEDS` writes
/// them.
#[test]
fn the_seeds_are_networks() {
    for (name, net) in networks() {
        let path = folder("fuzz/seeds/architecture").join(name);
        let seed = section(&*net);
        if std::env::var_os("BACKRULE_WRITE_SEEDS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &seed).unwrap();
        }
        assert!(fs::read(&path).unwrap() == seed, "{name}: set BACKRULE_WRITE_SEEDS");
        let file = targets::with_section(4, &seed);
        let checkpoint = backrule_io::Checkpoint::from_bytes_ignoring_checksums(&file).unwrap();
        let architecture: Architecture = checkpoint.architecture().unwrap();
        assert_eq!(Architecture::of(&*architecture.build::<f32>(2_000).unwrap()).unwrap(), architecture);
    }
}
