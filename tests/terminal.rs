//! A file's bytes may be commands for the terminal: no error and no value that is made of them writes one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::fs;
use std::io;
use std::path::PathBuf;

use backrule_io::tensor::{
    ConfigError, MemoryError, NamedTensors, Options, Role, ShapeError, Tensor, TrainingState,
};
use backrule_io::{
    Best, Checkpoint, FileError, Group, LoadProblem, Malformed, Mismatch, Part, RestoreError, Rotation,
    RotationError, Run, SaveError, SaveStep, Section, SectionProblem, npy, safetensors,
};
use backrule_nn::{Architecture, ArchitectureError};
use backrule_testkit::Scratch;
use serde_json::json;

/// Clears the screen, sets the title, goes back, turns the direction of writing, and begins a line of its
/// own.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\r\u{8}\u{9b}31m\u{202e}\u{200b}\nFAKE";

#[track_caller]
fn harmless(text: &str) {
    let hostile =
        |char: char| char.is_control() && char != '\n' || HOSTILE.contains(char) && !char.is_ascii();
    assert!(!text.chars().any(hostile) && !text.contains("\nFAKE"), "{}", text.escape_debug());
}

#[track_caller]
fn debugged(value: &impl Debug) {
    harmless(&format!("{value:?}"));
    harmless(&format!("{value:#?}"));
}

#[track_caller]
fn shown(value: &(impl Debug + Display)) {
    harmless(&value.to_string());
    debugged(value);
}

fn hostile() -> String {
    HOSTILE.to_string()
}

fn path() -> PathBuf {
    PathBuf::from(HOSTILE)
}

#[test]
fn a_hostile_text_would_be_found() {
    for text in ["\u{1b}[2J", "\r", "\u{7}", "\u{9b}", "\u{202e}", "a\nFAKE"] {
        assert!(std::panic::catch_unwind(|| harmless(text)).is_err(), "{text:?}");
    }
    harmless("größe\n  → 5");
}

/// Each with such a text wherever it has one.
#[test]
fn errors_of_io() {
    let group = Group::Network;
    let limit = || {
        let net = vec![("a".repeat(513), Tensor::from([1.0_f32]))];
        let Err(SaveError::Limit(mut limit)) = Checkpoint::of(&net).to_bytes() else { panic!("512 bytes") };
        limit.what = hostile();
        limit
    };
    let load = |problem| {
        let mut error = Checkpoint::from_bytes(&[]).unwrap_err();
        (error.file, error.problem) = (Some(path()), problem);
        error
    };
    let config = || ConfigError::new(HOSTILE, HOSTILE, HOSTILE, HOSTILE);
    let malformed = [
        Malformed::SectionContent { section: Section::Metadata, reason: hostile() },
        Malformed::OptionKind { name: hostile(), code: 9 },
        Malformed::DuplicateOption { name: hostile() },
        Malformed::ElementType { group, path: hostile(), code: 9 },
        Malformed::Shape { group, path: hostile(), reason: hostile() },
        Malformed::DuplicatePath { group, path: hostile() },
    ];
    for malformed in malformed {
        shown(&malformed);
        shown(&LoadProblem::Malformed(malformed));
    }
    let part = Part::Tensor { group, path: hostile() };
    shown(&part);
    shown(&load(LoadProblem::Checksum(part)));
    shown(&load(LoadProblem::Limit(limit())));
    shown(&load(LoadProblem::Io(io::Error::other(HOSTILE))));
    for problem in [
        SectionProblem::Serialize(hostile()),
        SectionProblem::OneWay(hostile()),
        SectionProblem::Limit(limit()),
        SectionProblem::Deserialize { expected: "T", reason: hostile() },
    ] {
        shown(&problem);
        let bytes = Checkpoint::of(&Tensor::from([1.0_f32])).to_bytes().unwrap();
        let mut error = Checkpoint::from_bytes(&bytes).unwrap().metadata::<u8>().unwrap_err();
        error.problem = problem;
        shown(&error);
    }
    let file =
        || FileError::NotCommitted { file: path(), step: SaveStep::Write, error: io::Error::other(HOSTILE) };
    shown(&FileError::Target { file: path(), problem: backrule_io::TargetProblem::NoName });
    shown(&FileError::DurabilityUncertain { file: path(), error: io::Error::other(HOSTILE) });
    for error in [
        SaveError::Limit(limit()),
        SaveError::Duplicate { group, path: hostile() },
        SaveError::Option(config()),
        SaveError::Reserved { path: hostile() },
        SaveError::NotFinite { group, path: hostile(), at: 0, value: f64::NAN },
        SaveError::Memory(MemoryError::new("save", 1)),
        SaveError::File(file()),
    ] {
        shown(&error);
        shown(&RotationError::Save(error));
    }
    shown(&RotationError::Name { name: hostile() });
    shown(&RotationError::Folder { folder: path(), error: io::Error::other(HOSTILE) });
    shown(&RotationError::Full { folder: path() });
    shown(&RotationError::NoneLoads { folder: path(), problems: vec![load(LoadProblem::NotACheckpoint)] });
    for error in [
        RestoreError::Mismatch(Mismatch::default()),
        RestoreError::Options(config()),
        RestoreError::Collision { group, path: hostile(), first: hostile(), second: hostile() },
        RestoreError::UnknownRename { from: hostile() },
        RestoreError::UnknownTarget { from: hostile(), to: hostile() },
        RestoreError::UnknownOnly { prefix: hostile() },
        RestoreError::Changed { reason: hostile() },
        RestoreError::Interrupted { group, path: hostile(), reason: hostile() },
    ] {
        shown(&error);
    }
}

#[test]
fn errors_of_architectures() {
    let place = || backrule_io::tensor::Place::default().within(HOSTILE);
    let config = ConfigError::new(HOSTILE, HOSTILE, HOSTILE, HOSTILE);
    for error in [
        ArchitectureError::Custom { place: place(), layer: hostile() },
        ArchitectureError::Unknown { place: place(), kind: hostile(), registry: vec![] },
        ArchitectureError::Malformed(hostile()),
        ArchitectureError::Config { place: place(), error: config },
        ArchitectureError::Shape(ShapeError::new("forward", HOSTILE, HOSTILE).within(HOSTILE)),
        ArchitectureError::Memory(MemoryError::new("build", 8).within(HOSTILE)),
    ] {
        shown(&error);
    }
}

/// The state of an optimizer, with such options.
struct State(Vec<(&'static str, Tensor)>, Options);

impl NamedTensors<f32> for State {
    fn visit<'s>(
        &'s self,
        path: backrule_io::tensor::Path<'_>,
        visitor: &mut dyn FnMut(backrule_io::tensor::Path<'_>, Role, &'s Tensor),
    ) {
        self.0.visit(path, visitor);
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: backrule_io::tensor::Path<'_>,
        visitor: &mut dyn FnMut(backrule_io::tensor::Path<'_>, Role, &'s mut Tensor),
    ) {
        self.0.visit_mut(path, visitor);
    }
}

impl TrainingState<f32> for State {
    fn step_count(&self) -> u64 {
        0
    }

    fn set_step_count(&mut self, _: u64) {}

    fn options(&self) -> Options {
        self.1.clone()
    }

    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        Err(ConfigError::new("state", "options", options.to_string(), HOSTILE))
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    known: u8,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Variant {
    Known,
}

/// Everything in it that can be a text is one of these.
fn hostile_file() -> Checkpoint {
    let net = vec![(HOSTILE, Tensor::from([1.0_f32]))];
    let options = Options::new().with(HOSTILE, HOSTILE).with("a", 1.0);
    let state = State(net.clone(), options);
    let map = BTreeMap::from([(HOSTILE, HOSTILE)]);
    let map: BTreeMap<String, String> =
        map.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let run = Run { program: Some(hostile()), ..Run::default() };
    let snapshot = Checkpoint::of(&net).optimizer(&state).run(&run);
    let snapshot = snapshot.metadata(&map).unwrap().metrics(&hostile()).unwrap();
    let bytes = snapshot.schedule(&vec![json!(HOSTILE)]).unwrap().to_bytes().unwrap();
    Checkpoint::from_bytes(&bytes).unwrap()
}

#[test]
fn what_is_in_a_file() {
    let checkpoint = hostile_file();
    shown(&checkpoint);
    checkpoint.tensors().for_each(|info| shown(&info));
    debugged(checkpoint.run());
    debugged(&checkpoint.optimizer());
    shown(&checkpoint.optimizer().unwrap().options);
    shown(&checkpoint.metadata::<Known>().unwrap_err());
    shown(&checkpoint.metadata::<u64>().unwrap_err());
    shown(&checkpoint.metrics::<Variant>().unwrap_err());
    shown(&checkpoint.metrics::<u64>().unwrap_err());
    shown(&checkpoint.schedule::<Vec<Variant>>().unwrap_err());
    shown(&checkpoint.architecture::<Architecture>().unwrap_err());
    let _ = (Known { known: 0 }.known, Variant::Known);

    let mut net = vec![(HOSTILE, Tensor::from([[1.0_f32]])), ("other", Tensor::from([1.0]))];
    shown(&checkpoint.restore(&mut net).unwrap_err());
    let restoring = || checkpoint.restoring().skip_misshapen();
    shown(&restoring().restore_into(&mut net).unwrap_err());
    let mut net = vec![(HOSTILE, Tensor::from([1.0_f32])), ("other", Tensor::from([1.0]))];
    let report = restoring().restore_into(&mut net).unwrap();
    shown(&report);
    report.restored.iter().for_each(shown);
    let mut net = vec![(HOSTILE, Tensor::from([1.0_f32]))];
    let mut state = State(net.clone(), Options::new());
    shown(&checkpoint.restore_with_optimizer(&mut net, &mut state).unwrap_err());
}

#[test]
fn what_is_in_a_folder() {
    let scratch = Scratch::new("terminal");
    let rotation = Rotation::new(&scratch.0, "run\u{1b}[2J").unwrap().keep_last(1).keep_best(Best::Min);
    let net = vec![(HOSTILE, Tensor::from([1.0_f32]))];
    debugged(&rotation.save(&Checkpoint::of(&net), 1.0).unwrap());
    debugged(&rotation.save(&Checkpoint::of(&net), 2.0).unwrap());
    debugged(&rotation);
    fs::write(&rotation.files().unwrap()[0].path, "no checkpoint").unwrap();
    debugged(&rotation.latest().unwrap());
    fs::write(&rotation.files().unwrap()[1].path, "no checkpoint").unwrap();
    shown(&rotation.latest().unwrap_err());
}

/// The type and the keys of NumPy's headers.
#[test]
fn headers_of_numpy() {
    for header in [
        format!("{{'descr': '{HOSTILE}', 'fortran_order': False, 'shape': (1,), }}"),
        format!("{{'{HOSTILE}': '<f4', 'fortran_order': False, 'shape': (1,), }}"),
        format!("{{'descr': '<f4', 'fortran_order': {HOSTILE}, 'shape': (1,), }}"),
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({HOSTILE},), }}"),
        HOSTILE.to_string(),
    ] {
        for version in 1..=3_u8 {
            let mut bytes = b"\x93NUMPY".to_vec();
            bytes.extend([version, 0]);
            match u16::try_from(header.len()).unwrap() {
                len if version == 1 => bytes.extend(len.to_le_bytes()),
                len => bytes.extend(u32::from(len).to_le_bytes()),
            }
            bytes.extend(header.as_bytes());
            bytes.extend([0; 4]);
            shown(&npy::from_bytes::<f32>(&bytes).unwrap_err());
        }
    }
}

#[test]
fn headers_of_safetensors() {
    let name = json!(HOSTILE).to_string();
    for header in [
        format!("{{{name}:{{}}}}"),
        format!("{{{name}:{name}}}"),
        format!(r#"{{{name}:{{"dtype":{name},"shape":[1],"data_offsets":[0,4]}}}}"#),
        format!(r#"{{{name}:{{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}}}"#),
        format!(r#"{{{name}:{{"dtype":"F32","shape":[1],"data_offsets":[9,4]}}}}"#),
        format!(r#"{{{name}:{{"dtype":"F32","shape":[1],"data_offsets":[0,4],{name}:1}}}}"#),
        format!(r#"{{"__metadata__":{{{name}:{name},{name}:1}}}}"#),
        format!("{{{name}:{{}},{name}:{{}}}}"),
        format!("{{\"{HOSTILE}\":1}}"),
        hostile(),
    ] {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
        match safetensors::from_bytes(&bytes) {
            Ok(checkpoint) => shown(&checkpoint),
            Err(error) => shown(&error),
        }
    }
}

/// As data in a file, which becomes a network or an error.
#[test]
fn architectures() {
    let layer = |name: &str, kind: &str, options: serde_json::Value, children: usize| json!({ "name": name, "kind": kind, "options": options, "children": children });
    let sizes = json!({ "in_features": 2, "out_features": 2, "bias": true });
    let container = layer("", "Sequential", json!({}), 1);
    for layers in [
        json!([layer("", HOSTILE, json!({}), 0)]),
        json!([layer("", HOSTILE, json!({ HOSTILE: HOSTILE }), 0)]),
        json!([container, layer(HOSTILE, HOSTILE, json!({}), 0)]),
        json!([container, layer(HOSTILE, "Relu", json!({ HOSTILE: 1.0 }), 0)]),
        json!([container, layer(HOSTILE, "Linear", json!({ "in_features": HOSTILE }), 0)]),
        json!([container, layer(HOSTILE, "Linear", sizes, 0)]),
        json!([
            container,
            layer(HOSTILE, "Linear", json!({ "in_features": 99999, "out_features": 99999 }), 0)
        ]),
        json!([container, layer(HOSTILE, "Relu", json!({}), 0)]),
        json!([
            layer("", "Sequential", json!({}), 2),
            layer(HOSTILE, "Relu", json!({}), 0),
            layer(HOSTILE, "Relu", json!({}), 0)
        ]),
        json!([layer(HOSTILE, "Relu", json!({}), 5)]),
        json!([layer(&format!("{HOSTILE}.a"), "Relu", json!({}), 0)]),
        json!([{ HOSTILE: 1 }]),
        json!([{ "kind": 1, "name": HOSTILE }]),
        json!(HOSTILE),
    ] {
        let net = vec![("a", Tensor::from([1.0_f32]))];
        let bytes = Checkpoint::of(&net).architecture(&layers).unwrap().to_bytes().unwrap();
        let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
        shown(&checkpoint);
        let architecture = match checkpoint.architecture::<Architecture>() {
            Err(error) => {
                shown(&error);
                continue;
            }
            Ok(architecture) => architecture,
        };
        shown(&architecture);
        match architecture.build::<f32>(1000) {
            Err(error) => shown(&error),
            Ok(mut net) => {
                shown(&checkpoint.restore(&mut *net).unwrap_err());
                match backrule_nn::summary(&*net, [1, 2]) {
                    Err(error) => shown(&error),
                    Ok(summary) => shown(&summary),
                }
            }
        }
    }
}
