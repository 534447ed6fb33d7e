//! NumPy's format: to the byte, and as NumPy reads and would write it.

use std::fs;
use std::process::Command;

use crate::common::{bits, network};
use backrule_io::npy::save;
use backrule_io::tensor::{Scalar, Tensor};
use backrule_io::{FileError, SaveError, TargetProblem};
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

/// Prints what is in the file, and whether NumPy would write the same bytes.
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
