//! The contents of a file can be listed, whatever they are, and a damaged file can't.

use std::collections::BTreeMap;
use std::fs;

use crate::common::{Momentum, network, optimizer};
use backrule_io::tensor::Options;
use backrule_io::{Checkpoint, LoadProblem, Part, Run, Section};
use backrule_testkit::Scratch;

#[test]
fn everything_is_listed() {
    let options = Options::new().with("rate", 0.1).with("nesterov", true);
    let (net, optim) = (network::<f32>(), Momentum { options, ..optimizer() });
    let scratch = Scratch::new("inspect");
    let file = scratch.0.join("model.brk");
    let metadata = BTreeMap::from([(-1, (Some("\x1b[2J\"é"), None::<u8>)), (2, (None, Some(1)))]);
    let metadata: BTreeMap<i32, (Option<String>, Option<u8>)> =
        metadata.into_iter().map(|(key, (text, number))| (key, (text.map(str::to_string), number))).collect();
    let metrics = (vec![0.5, f64::NAN, f64::NEG_INFINITY], 0.1_f32, u64::MAX, true, u128::MAX);
    let run = Run { epoch: 1, step: 2, position: 3, seed: None, program: Some("a\nb".to_string()) };
    let snapshot = Checkpoint::of(&net).optimizer(&optim).run(&run);
    let snapshot = snapshot.metadata(&metadata).unwrap().metrics(&metrics).unwrap();
    let snapshot = snapshot.schedule(&(Vec::<u8>::new(), BTreeMap::<u8, u8>::new())).unwrap();
    snapshot.save(&file).unwrap();

    let contents = Checkpoint::open(&file).unwrap();
    let length = fs::metadata(&file).unwrap().len();
    let crcs: Vec<_> = contents.tensors().map(|tensor| tensor.crc.unwrap()).collect();
    let expected = format!(
        r#"format 1, {length} bytes, intact
epoch 1, step 2, position 3
program: a\nb
metadata: {{-1: ["\u{{1b}}[2J\"é", null], 2: [null, 1]}}
metrics: [[0.5, NaN, -inf], 0.1, 18446744073709551615, true, 16 bytes]
schedule: [[], {{}}]
optimizer: 450 steps, rate 0.1, nesterov true
5 tensors, 60 bytes
  network `fc1.weight` f32 [2, 3], 24 bytes, crc {:08x}
  network `temperature` f32 [], 4 bytes, crc {:08x}
  network `nothing` f32 [0, 3], 0 bytes, crc 00000000
  network `größe` f32 [1, 1, 2, 1, 1, 1], 8 bytes, crc {:08x}
  optimizer `fc1.weight` f32 [2, 3], 24 bytes, crc {:08x}"#,
        crcs[0], crcs[1], crcs[3], crcs[4]
    );
    assert_eq!(contents.to_string(), expected);
    assert_eq!(crcs[1], crc32fast::hash(&0.5_f32.to_le_bytes()));

    let sections: Vec<_> = contents.sections().collect();
    assert_eq!(sections, [Section::Metadata, Section::Metrics, Section::Schedule]);
    assert_eq!(
        contents.section::<BTreeMap<i32, (Option<String>, Option<u8>)>>(sections[0]).unwrap(),
        metadata
    );
    assert!(contents.section::<u8>(Section::Architecture).is_err());
    let loaded = Checkpoint::load(&file).unwrap();
    assert_eq!(loaded.to_string(), expected);
    assert!(contents.tensors().eq(loaded.tensors()));
}

#[test]
fn a_damaged_file_is_not_listed() {
    let scratch = Scratch::new("inspect-damaged");
    let file = scratch.0.join("model.brk");
    Checkpoint::of(&network::<f64>()).save(&file).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = Checkpoint::open(&file).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::Checksum(Part::Tensor { .. })), "{error}");
    assert_eq!(error.file.unwrap(), file);
    assert!(matches!(Checkpoint::open(&scratch.0).unwrap_err().problem, LoadProblem::Special(_)));
}

#[test]
fn inspecting_keeps_no_elements() {
    let net = vec![("a", backrule_io::tensor::Tensor::<f32>::zeros([1 << 21]).unwrap())];
    let scratch = Scratch::new("inspect-memory");
    let file = scratch.0.join("model.brk");
    Checkpoint::of(&net).save(&file).unwrap();
    let measured = allocation_counter::measure(|| drop(Checkpoint::open(&file).unwrap()));
    assert!(measured.bytes_max < 1 << 19, "{} bytes", measured.bytes_max);
}
