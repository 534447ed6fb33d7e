//! Several arrays of NumPy's in one file.

use std::fs;
use std::path::PathBuf;

use backrule_io::LoadProblem;
use backrule_io::npz::{Problem, from_bytes, open};
use backrule_io::tensor::Tensor;
use backrule_testkit::Scratch;

/// A file that NumPy has written: see `golden/others.py`.
fn numpy(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/tests/golden/others/{name}.npz", env!("CARGO_MANIFEST_DIR")))
}

#[test]
fn what_numpy_writes_is_read() {
    let b = Tensor::from([0.0_f32, 1.0, 2.0]);
    let w = |at: &[usize]| (at[0] * 3 + at[1] % 3) as f32;
    for (name, columns) in [("stored", 3), ("deflated", 150)] {
        let bytes = fs::read(numpy(name)).unwrap();
        for npz in [open(numpy(name)).unwrap(), from_bytes(&bytes).unwrap()] {
            assert_eq!(npz.names().collect::<Vec<_>>(), ["w", "b"]);
            assert_eq!(npz.load::<f32>("b").unwrap(), b, "{name}");
            assert_eq!(npz.load::<f32>("w").unwrap(), Tensor::from_fn([2, columns], w).unwrap(), "{name}");
            assert_eq!(npz.load::<f64>("b").unwrap(), b.cast().unwrap());
        }
    }
}

#[test]
fn an_error_names_file_and_array() {
    let npz = open(numpy("stored")).unwrap();
    let file = numpy("stored");
    assert_eq!(
        npz.load::<f32>("x\u{1b}").unwrap_err().to_string(),
        format!("{}: npz: it has no `x\\u{{1b}}`: see `Npz::names` for what there is", file.display())
    );
    let bytes = fs::read(&file).unwrap();
    let elements = bytes.windows(4).rposition(|bytes| bytes == 2.0_f32.to_le_bytes()).unwrap();
    let mut damaged = bytes.clone();
    damaged[elements] ^= 1;
    let error = from_bytes(&damaged).unwrap().load::<f32>("b").unwrap_err();
    assert!(matches!(&error.problem, LoadProblem::Npz(Problem::Damaged { .. })), "{error}");
    assert!(error.to_string().starts_with("b.npy: npz: it is damaged: "), "{error}");
    let error = from_bytes(b"PK").unwrap_err();
    assert!(matches!(&error.problem, LoadProblem::Npz(Problem::Archive { .. })), "{error}");
    let scratch = Scratch::new("npz");
    assert!(matches!(open(&scratch.0).unwrap_err().problem, LoadProblem::Special(_)));
}

/// Nothing panics and nothing takes much. What is accepted is right, or its header is another one.
#[test]
fn every_cut_and_every_bit() {
    for name in ["stored", "deflated"] {
        let bytes = fs::read(numpy(name)).unwrap();
        let w = from_bytes(&bytes).unwrap().load::<f32>("w").unwrap();
        let accepted = |bytes: &[u8]| {
            let mut found = None;
            let measured = allocation_counter::measure(|| {
                found = from_bytes(bytes).and_then(|npz| npz.load::<f32>("w")).ok();
            });
            assert!(measured.bytes_max < 1 << 20, "{} bytes", measured.bytes_max);
            assert!(found.as_ref().is_none_or(|found| *found == w));
            found.is_some()
        };
        for length in 0..bytes.len() {
            assert!(!accepted(&bytes[..length]), "{name} cut to {length} bytes");
        }
        let mut changed = bytes.clone();
        let mut unnoticed = 0;
        for bit in 0..8 * bytes.len() {
            changed[bit / 8] ^= 1 << (bit % 8);
            unnoticed += usize::from(accepted(&changed));
            changed[bit / 8] ^= 1 << (bit % 8);
        }
        println!("{name}: {unnoticed} of {} bits", 8 * bytes.len());
    }
}

/// A list that claims what its bytes can't become is refused before memory is taken.
#[test]
fn a_claim_that_is_too_large_is_refused() {
    let mut bytes = fs::read(numpy("deflated")).unwrap();
    let list = bytes.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    bytes[list + 24..list + 28].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let npz = from_bytes(&bytes).unwrap();
    let measured = allocation_counter::measure(|| {
        let error = npz.load::<f32>("w").unwrap_err();
        assert!(matches!(&error.problem, LoadProblem::Npz(Problem::Size { .. })), "{error}");
    });
    assert!(measured.bytes_max < 10_000, "{} bytes", measured.bytes_max);
}
