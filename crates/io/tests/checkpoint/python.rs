//! docs/checkpoint-format.md is enough to read a checkpoint: docs/read_checkpoint.py was made from it.

use std::path::Path;
use std::process::Command;

use crate::common::{Momentum, bits, network, optimizer};
use backrule_io::tensor::{OptionValue, Options, Scalar};
use backrule_io::{Checkpoint, Run};
use backrule_testkit::Scratch;
use serde::{Deserialize, Serialize};

/// The interpreter: a Python 3 with NumPy.
const PYTHON: &str = "BACKRULE_PYTHON";

/// A Python with the packages, or a message that there is none.
pub(crate) fn with(packages: &str) -> Option<String> {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".to_string());
    let works = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    if works.is_ok_and(|out| out.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: {python} can't import {packages} (set {PYTHON} to one that can)");
    None
}

/// Prints all that was read, with the bits of elements.
const SCRIPT: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
from read_checkpoint import read
state = read(sys.argv[2])
for group in "network", "optimizer":
    for path, x in state.pop(group).items():
        print(group, path, x.dtype, list(x.shape), x.tobytes().hex())
for key, value in state.items():
    print(key, repr(value))
"#;

#[derive(Serialize, Deserialize)]
struct Metadata {
    text: String,
    long: String,
    whole: Vec<i64>,
    real: (f64, f32, f64),
    nothing: Option<u8>,
    yes: bool,
    nested: std::collections::BTreeMap<u8, Vec<()>>,
}

fn printed<T: Scalar>(python: &str, docs: &Path) -> (String, String) {
    let options = Options::new().with("rate", 0.1 + 0.2).with("nesterov", true).with("size", u64::MAX);
    let list = vec![OptionValue::from("x"), OptionValue::from(vec![1_u64, 2])];
    let options = options.with("mode", "größer").with("list", list);
    let (net, optim) = (network::<T>(), Momentum { options, ..optimizer() });
    let metadata = Metadata {
        text: "größe".to_string(),
        long: "x".repeat(70_000),
        whole: [0, 127, 128, 256, 65_536, 1 << 32, -1, -32, -33, -129, -32_769, i64::MIN].into(),
        real: (0.1 + 0.2, 0.5, f64::NEG_INFINITY),
        nothing: None,
        yes: true,
        nested: [(7, vec![(); 17])].into(),
    };
    let scratch = Scratch::new(&format!("python-{}", T::DTYPE));
    let file = scratch.0.join("model.brk");
    let run = Run { epoch: 1, step: 2, position: 3, seed: Some(u64::MAX), program: Some("v1".to_string()) };
    let snapshot = Checkpoint::of(&net).optimizer(&optim).run(&run);
    let snapshot = snapshot.metrics(&[1.5, -0.0]).unwrap().metadata(&metadata).unwrap();
    snapshot.save(&file).unwrap();
    let out = Command::new(python).args(["-c", SCRIPT]).arg(docs).arg(&file).env("PYTHONUTF8", "1").output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let mut expected = String::new();
    for (group, tensors) in [("network", bits(&net)), ("optimizer", bits(&optim))] {
        for (path, shape, bytes) in tensors {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let dtype = format!("float{}", 8 * T::DTYPE.size());
            expected += &format!("{group} {path} {dtype} {shape:?} {hex}\n");
        }
    }
    let whole = format!("{:?}", metadata.whole);
    expected += &format!(
        "epoch 1\nstep 2\nposition 3\nseed 18446744073709551615\nprogram 'v1'\nmetadata {{'text': 'größe', \
         'long': '{}', 'whole': {whole}, 'real': [0.30000000000000004, 0.5, -inf], 'nothing': None, 'yes': True, \
         'nested': {{7: [{}None]}}}}\nmetrics [1.5, -0.0]\nsteps 450\n\
         options {{'rate': 0.30000000000000004, 'nesterov': True, 'size': 18446744073709551615, \
         'mode': 'größer', 'list': ['x', [1, 2]]}}\n",
        metadata.long,
        "None, ".repeat(16)
    );
    (String::from_utf8(out.stdout).unwrap().replace("\r\n", "\n"), expected)
}

#[test]
fn a_reader_in_python_needs_only_the_specification() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    // A published crate has no docs beside it.
    if !docs.join("read_checkpoint.py").exists() {
        eprintln!("skipped: docs/read_checkpoint.py is not here");
        return;
    }
    let asked = std::env::var(PYTHON);
    let python = asked.as_deref().unwrap_or("python3");
    let works = Command::new(python).args(["-c", "import numpy"]).output();
    if !works.is_ok_and(|out| out.status.success()) {
        assert!(asked.is_err(), "{PYTHON} is {python}, which can't import numpy");
        eprintln!("skipped: {python} can't import numpy (set {PYTHON} to one that can)");
        return;
    }
    for (printed, expected) in [printed::<f32>(python, &docs), printed::<f64>(python, &docs)] {
        assert_eq!(printed, expected);
    }
}
