//! The bytes of version 1, written by hand from docs/checkpoint-format.md, without bincode and without this
//! crate's writer; and a file of every version, written once, that must be readable for ever.

use crate::common::{Momentum, Named, bits};
use backrule_io::tensor::{OptionValue, Options, Tensor};
use backrule_io::{Checkpoint, Group, Run, Section};

/// CRC-32 bit by bit, as the polynomial says.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !(bytes.iter()).fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

fn entry(path: &str, dtype: u8, sizes: &[u64], elements: &[u8]) -> Vec<u8> {
    let mut entry = (path.len() as u64).to_le_bytes().to_vec();
    entry.extend(path.as_bytes());
    entry.extend([dtype, sizes.len() as u8]);
    entry.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
    entry.extend(crc32(elements).to_le_bytes());
    entry
}

fn file(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0x8b, 0x42, 0x52, 0x4b, 0x0d, 0x0a, 0x1a, 0x0a];
    file.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend((payload.len() as u64).to_le_bytes());
    file.extend(crc32(header).to_le_bytes());
    file.extend(crc32(&file).to_le_bytes());
    file.extend(header);
    file.extend(payload);
    file.extend(crc32(&file).to_le_bytes());
    file
}

#[test]
fn a_file_without_anything_optional() {
    let net = vec![("w", Tensor::from([[1.0_f64, -2.0]])), ("s", Tensor::scalar(0.5))];
    let w = [1.0_f64.to_le_bytes(), (-2.0_f64).to_le_bytes()].concat();
    let s = 0.5_f64.to_le_bytes();
    let header = [
        &7_u64.to_le_bytes()[..],
        &9_u64.to_le_bytes(),
        &0_u64.to_le_bytes(), // position
        &[0],                 // seed
        &[0],                 // program
        &0_u32.to_le_bytes(), // sections
        &[0],                 // optimizer
        &2_u32.to_le_bytes(),
        &entry("w", 2, &[1, 2], &w),
        &entry("s", 2, &[], &s),
    ]
    .concat();
    let by_hand = file(&header, &[&w[..], &s].concat());
    let run = Run { epoch: 7, step: 9, ..Run::default() };
    let snapshot = Checkpoint::of(&net).run(&run);
    assert_eq!(snapshot.to_bytes().unwrap(), by_hand);
    let checkpoint = Checkpoint::from_bytes(&by_hand).unwrap();
    assert_eq!(*checkpoint.run(), run);
}

/// A text, or bytes, with their length.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

#[test]
fn a_file_with_everything() {
    let net = vec![("w", Tensor::from([1.5_f32]))];
    let velocities = vec![("w", Tensor::from([0.25_f32])), ("", Tensor::zeros([1, 0]).unwrap())];
    let options = Options::new().with("rate", 0.1).with("size", 3_u64).with("nesterov", true);
    let list = vec![OptionValue::from(1_u64), OptionValue::from(vec![OptionValue::from(false)])];
    let options = options.with("mode", "sum").with("axes", list);
    let optim = Momentum { velocities, steps: 5, options };
    let (w, v) = (1.5_f32.to_le_bytes(), 0.25_f32.to_le_bytes());
    // {"loss": 0.5} in MessagePack.
    let metadata = [&b"\x81\xa4loss\xcb"[..], &0.5_f64.to_be_bytes()].concat();
    let header = [
        &1_u64.to_le_bytes()[..], // epoch
        &2_u64.to_le_bytes(),     // step
        &3_u64.to_le_bytes(),     // position
        &[1],
        &42_u64.to_le_bytes(), // seed
        &[1],
        &sized(b"digits 1.2"), // program
        &4_u32.to_le_bytes(),  // sections
        &[1],
        &sized(&metadata),
        &[2],
        &sized(b"\x93\x03\x02\x01"), // [3, 2, 1]
        &[3],
        &sized(b"\xa6cosine"),
        &[4],
        &sized(b"\xc3"), // true
        &[1],
        &5_u64.to_le_bytes(), // the optimizer's steps
        &5_u32.to_le_bytes(), // options
        &sized(b"rate"),
        &[1],
        &0.1_f64.to_le_bytes(),
        &sized(b"size"),
        &[2],
        &3_u64.to_le_bytes(),
        &sized(b"nesterov"),
        &[3, 1],
        &sized(b"mode"),
        &[4],
        &sized(b"sum"),
        &sized(b"axes"),
        &[5],
        &2_u32.to_le_bytes(),
        &[2],
        &1_u64.to_le_bytes(),
        &[5],
        &1_u32.to_le_bytes(),
        &[3, 0],
        &1_u32.to_le_bytes(), // tensors of the network
        &entry("w", 1, &[1], &w),
        &2_u32.to_le_bytes(), // and of the optimizer
        &entry("w", 1, &[1], &v),
        &entry("", 1, &[1, 0], &[]),
    ]
    .concat();
    let by_hand = file(&header, &[w, v].concat());
    let program = Some("digits 1.2".to_string());
    let run = Run { epoch: 1, step: 2, position: 3, seed: Some(42), program };
    let snapshot = Checkpoint::of(&net).optimizer(&optim).run(&run);
    // In any order.
    let snapshot = snapshot.section(Section::Architecture, &true).unwrap();
    let snapshot = snapshot.schedule(&"cosine".to_string()).unwrap().metrics(&[3, 2, 1]).unwrap();
    let snapshot = snapshot.metadata(&serde_json::json!({"loss": 0.5})).unwrap();
    assert_eq!(snapshot.to_bytes().unwrap(), by_hand);
}

/// Made by `golden/v1.py` from the specification. Once it is published it is never made again: when a test
/// below fails, the format has changed, and files that people have can't be read.
const GOLDEN: &[u8] = include_bytes!("../golden/v1.brk");

fn golden_network() -> Named<f32> {
    vec![
        ("encoder.fc1.weight", Tensor::from([[0.1, -0.2, 0.3], [1e-45, f32::MAX, -0.0]])),
        ("encoder.fc1.bias", Tensor::from([f32::from_bits(0x7fc0_1234), f32::INFINITY])),
        ("scale", Tensor::scalar(0.125)),
        ("none", Tensor::zeros([2, 0]).unwrap()),
    ]
}

fn golden_run() -> Run {
    let program = Some("ziffern 0.3".to_string());
    Run { epoch: 3, step: 5625, position: 40_000, seed: Some(0x5eed), program }
}

fn golden_optimizer() -> Momentum<f32> {
    let velocities = vec![
        ("encoder.fc1.weight.velocity", Tensor::from([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])),
        ("encoder.fc1.bias.velocity", Tensor::from([-1.0, -2.0])),
    ];
    let options = Options::new().with("learning_rate", 0.1).with("momentum", 0.9).with("nesterov", false);
    let list = vec![OptionValue::Whole(30), OptionValue::List(vec![OptionValue::Number(-0.5)])];
    let options = options.with("warmup", u64::MAX).with("mode", "größer").with("milestones", list);
    Momentum { velocities, steps: 1875, options }
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct GoldenMetadata {
    name: String,
    accuracy: f64,
    learning_rates: Vec<f32>,
    best: Option<u32>,
}

fn golden_metadata() -> GoldenMetadata {
    GoldenMetadata {
        name: "Ziffern".to_string(),
        accuracy: 0.1 + 0.2,
        learning_rates: vec![0.1, 0.01],
        best: None,
    }
}

#[test]
fn the_file_of_version_1_is_read() {
    let checkpoint = Checkpoint::from_bytes(GOLDEN).unwrap();
    let (mut net, mut optim) = (golden_network(), golden_optimizer());
    let expected = (bits(&net), bits(&optim));
    crate::common::spoil(&mut net);
    crate::common::spoil(&mut optim);
    optim.steps = 0;
    optim.options = Options::new().with("learning_rate", 0.5);
    checkpoint.restore_with_optimizer(&mut net, &mut optim).unwrap();
    assert_eq!((bits(&net), bits(&optim)), expected);
    assert_eq!((optim.steps, checkpoint.optimizer().unwrap().steps), (1875, 1875));
    assert_eq!(checkpoint.optimizer().unwrap().options, golden_optimizer().options);
    assert_eq!(optim.options, golden_optimizer().options);
    assert_eq!(*checkpoint.run(), golden_run());
    assert_eq!(checkpoint.metadata::<GoldenMetadata>().unwrap(), golden_metadata());
    let groups: Vec<_> = checkpoint.tensors().map(|info| info.group).collect();
    assert_eq!(groups[3..5], [Group::Network, Group::Optimizer]);
    let sections: Vec<_> = checkpoint.sections().collect();
    assert_eq!(sections, [Section::Metadata, Section::Metrics, Section::Schedule]);
    assert_eq!(checkpoint.metrics::<Vec<f64>>().unwrap(), [2.25, 0.75]);
    assert_eq!(checkpoint.schedule::<String>().unwrap(), "cosine");
}

#[test]
fn the_latest_version_is_what_we_write() {
    let (net, optim) = (golden_network(), golden_optimizer());
    let snapshot = Checkpoint::of(&net).optimizer(&optim).run(&golden_run());
    let snapshot = snapshot.metadata(&golden_metadata()).unwrap();
    let snapshot = snapshot.metrics(&[2.25, 0.75]).unwrap().schedule(&"cosine".to_string()).unwrap();
    assert!(snapshot.to_bytes().unwrap() == GOLDEN);
}
