//! NumPy's format: to the byte, and as NumPy reads and would write it.

use std::fs;
use std::process::Command;

use crate::common::{bits, network};
use backrule_io::npy::{self, Problem, from_bytes, load, save, to_bytes};
use backrule_io::tensor::{Scalar, Tensor};
use backrule_io::{FileError, LoadProblem, SaveError, TargetProblem};
use backrule_testkit::Scratch;

#[test]
fn the_file_to_the_byte() {
    let scratch = Scratch::new("npy");
    let path = scratch.0.join("x.npy");
    save(&path, &Tensor::from([1.0_f32, -2.0])).unwrap();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    let header = [header, &" ".repeat(118 - header.len() - 1), "\n"].concat();
    let begin = [0x93, b'N', b'U', b'M', b'P', b'Y', 1, 0, 118, 0];
    let elements = [0, 0, 128, 63, 0, 0, 0, 192];
    assert_eq!(fs::read(&path).unwrap(), [&begin[..], header.as_bytes(), &elements].concat());
    assert_eq!(scratch.names(), ["x.npy"]);
    assert_eq!(to_bytes(&Tensor::from([1.0_f32, -2.0])).unwrap(), fs::read(&path).unwrap());
}

#[test]
fn a_place_where_nothing_can_be_saved_is_told() {
    let scratch = Scratch::new("npy-nowhere");
    let error = save(scratch.0.join("no/x.npy"), &Tensor::from([1.0_f32])).unwrap_err();
    assert!(
        matches!(error, SaveError::File(FileError::Target { problem: TargetProblem::NoFolder, .. })),
        "{error}"
    );
}

/// Prints the file's contents, and whether NumPy would write the same bytes.
const SCRIPT: &str = r"
import io, sys
import numpy
x = numpy.load(sys.argv[1])
print(x.dtype.str, list(x.shape), x.tobytes().hex())
out = io.BytesIO()
numpy.save(out, x)
assert out.getvalue() == open(sys.argv[1], 'rb').read()
";

fn read_by<T: Scalar>(python: &str) {
    let scratch = Scratch::new(&format!("npy-{}", T::DTYPE));
    let net = network::<T>();
    for ((_, tensor), (name, shape, bytes)) in net.iter().zip(bits(&net)) {
        let path = scratch.0.join("x.npy");
        save(&path, tensor).unwrap();
        let out = Command::new(python).args(["-c", SCRIPT]).arg(&path).output().unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = format!("<f{} {shape:?} {hex}", T::DTYPE.size());
        assert_eq!(String::from_utf8(out.stdout).unwrap().trim_end(), expected.trim_end(), "{name}");
    }
}

#[test]
fn python_reads_it_and_would_write_the_same() {
    let Some(python) = crate::python::with("numpy") else { return };
    read_by::<f32>(&python);
    read_by::<f64>(&python);
}

/// A file that NumPy has written: see `golden/others.py`.
fn numpy(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/golden/others/{name}.npy", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn problem<T: Scalar>(bytes: &[u8]) -> LoadProblem {
    from_bytes::<T>(bytes).unwrap_err().problem
}

fn every_kind<T: Scalar>() {
    let w = Tensor::from_fn([2, 3], |at| T::from_f64((3 * at[0] + at[1]) as f64)).unwrap();
    let types = "little_f2 big_f2 little_f4 big_f4 little_f8 big_f8 i1 little_i2 big_i2 little_i4 big_i4 \
        little_i8 big_i8 u1 little_u2 big_u2 little_u4 big_u4 little_u8 big_u8";
    for name in types.split_whitespace() {
        for order in ["", "_fortran"] {
            assert_eq!(from_bytes::<T>(&numpy(&format!("{name}{order}"))).unwrap(), w, "{name}{order}");
        }
    }
    for name in ["version_1", "version_2", "version_3"] {
        assert_eq!(from_bytes::<T>(&numpy(name)).unwrap(), w, "{name}");
    }
    let bools = Tensor::from_fn([2, 3], |at| T::from_f64((at[0] > 0) as u8 as f64)).unwrap();
    assert_eq!(from_bytes::<T>(&numpy("bool")).unwrap(), bools);
    assert_eq!(from_bytes::<T>(&numpy("scalar")).unwrap(), Tensor::scalar(T::from_f64(3.0)));
    assert_eq!(from_bytes::<T>(&numpy("one")).unwrap(), w.clone().reshape([6]).unwrap());
    assert_eq!(from_bytes::<T>(&numpy("empty")).unwrap(), Tensor::zeros([0, 3]).unwrap());
    let cube = Tensor::from_fn([2, 3, 4], |at| T::from_f64((12 * at[0] + 4 * at[1] + at[2]) as f64)).unwrap();
    assert_eq!(from_bytes::<T>(&numpy("cube_fortran")).unwrap(), cube);
}

#[test]
fn what_numpy_writes_is_read() {
    every_kind::<f32>();
    every_kind::<f64>();
}

/// Labels, as NumPy has them.
#[test]
fn labels_of_numpy_become_indices() {
    for name in ["little_i8", "big_u2", "i1", "little_f4"] {
        assert_eq!(
            from_bytes::<f32>(&numpy(name)).unwrap().to_indices().unwrap(),
            [0, 1, 2, 3, 4, 5],
            "{name}"
        );
    }
}

/// A newcomer takes the one for the other.
#[test]
fn several_arrays_are_told_from_one() {
    let folder = format!("{}/tests/golden/others", env!("CARGO_MANIFEST_DIR"));
    for name in ["stored", "deflated"] {
        let path = format!("{folder}/{name}.npz");
        let error = load::<f32>(&path).unwrap_err();
        assert!(matches!(error.problem, LoadProblem::Npy(Problem::Archive)), "{error}");
        let hint = "`npz::open` reads them, with the feature `npz` of backrule-io";
        assert!(error.to_string().starts_with(&path) && error.to_string().ends_with(hint), "{error}");
    }
    // One without files, and one that only begins like an archive.
    let empty = [b"PK\x05\x06", &[0; 18][..]].concat();
    assert!(matches!(problem::<f32>(&empty), LoadProblem::Npy(Problem::Archive)));
    for bytes in [&b"PK\x03"[..], b"PK\x03\x03..", b"\x93NUMPX\x01\x00"] {
        assert!(matches!(problem::<f32>(bytes), LoadProblem::Npy(Problem::NotNpy)), "{bytes:?}");
    }
}

/// Of many elements, so they come in several pieces.
#[test]
fn every_bit_comes_back() {
    fn round_trip<T: Scalar>() {
        let scratch = Scratch::new(&format!("npy-back-{}", T::DTYPE));
        let mut net = network::<T>();
        net.push((
            "many",
            Tensor::from_fn([7, 1001], |at| T::from_f64((at[0] * 5000 + at[1]) as f64)).unwrap(),
        ));
        for (name, tensor) in &net {
            let path = scratch.0.join("x.npy");
            save(&path, tensor).unwrap();
            let back = vec![(*name, load::<T>(&path).unwrap())];
            assert_eq!(bits(&back), bits(&vec![(*name, tensor.clone())]));
        }
    }
    round_trip::<f32>();
    round_trip::<f64>();
}

/// A file with this header, of version 1.
fn file(header: &str, elements: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [&b"\x93NUMPY\x01\0"[..], &length, header.as_bytes(), elements].concat()
}

fn of(descr: &str, order: &str, sizes: &str, elements: &[u8]) -> Vec<u8> {
    file(&format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {sizes}, }}\n"), elements)
}

#[test]
fn a_number_that_would_be_rounded_is_an_error() {
    let not_held = |bytes: &[u8]| match problem::<f32>(bytes) {
        LoadProblem::Npy(Problem::NotHeld { at, value, .. }) => (at, value),
        other => panic!("{other}"),
    };
    let thirds = to_bytes(&Tensor::from([[1.0, 2.0], [1.0 / 3.0, f64::NAN]])).unwrap();
    assert_eq!(not_held(&thirds), (2, "0.3333333333333333".to_string()));
    assert!(from_bytes::<f64>(&thirds).is_ok());
    // The place is that in the tensor, whatever the file's order: here the second of the file.
    let elements: Vec<u8> = [1_i64, i64::MAX, 3, 4, 5, 6].into_iter().flat_map(i64::to_be_bytes).collect();
    assert_eq!(not_held(&of(">i8", "True", "(2, 3)", &elements)), (3, i64::MAX.to_string()));
    assert_eq!(not_held(&of(">i8", "False", "(2, 3)", &elements)), (1, i64::MAX.to_string()));
    assert_eq!(not_held(&of("|b1", "False", "(2,)", &[1, 2])), (1, "the byte 2".to_string()));
    let error = from_bytes::<f32>(&thirds).unwrap_err().to_string();
    assert_eq!(
        error,
        "npy: it has 0.3333333333333333 at element 2, which f32 can't hold; `f64` holds more, and a tensor of it can be `cast`"
    );
}

#[test]
fn other_elements_are_refused() {
    for (name, kind) in
        [("complex", "of type `<c8`"), ("text", "of type `<U1`"), ("fields", "records of several fields")]
    {
        let expected = format!("npy: its elements are {kind}, and only numbers and bools can be read");
        assert_eq!(problem::<f32>(&numpy(name)).to_string(), expected);
    }
}

/// No length is believed, and nothing takes more than the tensor.
#[test]
fn a_header_that_lies_is_an_error() {
    let small = |bytes: &[u8]| {
        let mut found = None;
        let measured = allocation_counter::measure(|| found = Some(problem::<f64>(bytes)));
        assert!(measured.bytes_max < 1 << 17, "{} bytes", measured.bytes_max);
        found.unwrap().to_string()
    };
    let length = |needed: u64, found: u64| {
        format!("npy: its header and its elements need {needed} bytes, but it has {found}; copy it again")
    };
    assert_eq!(small(b""), "npy: it doesn't begin like a file of NumPy's");
    assert_eq!(small(b"\x93NUMPZ\x01\0\0\0"), "npy: it doesn't begin like a file of NumPy's");
    assert_eq!(small(b"\x93NUMPY\x01"), length(8, 7));
    assert_eq!(
        small(b"\x93NUMPY\x04\0\0\0"),
        "npy: its format is version 4.0, and 1.0, 2.0 and 3.0 can be read"
    );
    assert_eq!(
        small(b"\x93NUMPY\x01\x01\0\0"),
        "npy: its format is version 1.1, and 1.0, 2.0 and 3.0 can be read"
    );
    assert_eq!(small(b"\x93NUMPY\x01\0\xff\xff{}"), length(65_545, 12));
    assert_eq!(
        small(b"\x93NUMPY\x02\0\xff\xff\xff\xff{}"),
        "malformed: 4294967295 bytes of the header, and the limit is 65536"
    );
    let one = of("<f8", "False", "(1,)", &[0; 8]);
    let long = one.len() as u64;
    assert!(from_bytes::<f64>(&one).is_ok());
    assert_eq!(small(&one[..one.len() - 1]), length(long, long - 1));
    assert_eq!(small(&[&one[..], &[0]].concat()), length(long, long + 1));
    let huge = of("<f8", "False", "(1152921504606846975,)", &[0; 8]);
    let needed = huge.len() as u64 - 8 + 8 * 1_152_921_504_606_846_975;
    assert_eq!(small(&huge), length(needed, huge.len() as u64));
    assert!(small(&of("<f8", "False", "(4294967296, 4294967296)", &[])).starts_with("npy: "));
    // Every cut is noticed, and no changed bit of the header panics.
    let whole = numpy("cube_fortran");
    for cut in 0..whole.len() {
        small(&whole[..cut]);
    }
    let mut changed = whole.clone();
    for bit in 0..8 * 128 {
        changed[bit / 8] ^= 1 << (bit % 8);
        let _ = from_bytes::<f64>(&changed);
        changed[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn an_error_names_the_file() {
    let scratch = Scratch::new("npy-error");
    let path = scratch.0.join("x.npy");
    fs::write(&path, b"no").unwrap();
    let error = npy::load::<f32>(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}: npy: it doesn't begin like a file of NumPy's", path.display())
    );
    assert!(matches!(npy::load::<f32>(&scratch.0).unwrap_err().problem, LoadProblem::Special(_)));
}
