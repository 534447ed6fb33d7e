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

/// Nothing panics and nothing takes much. An array that is accepted is right, or its header is another one.
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

/// A list that claims more than its bytes can become is refused before memory is taken.
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

/// A zip archive of stored files, each with its name and flags. The same bytes for all.
fn zip(files: &[(&str, u16)], content: &[u8]) -> Vec<u8> {
    zip_of(files, 0, content, content)
}

/// The same with `bytes` that become the content by another method.
fn zip_of(files: &[(&str, u16)], method: u8, content: &[u8], bytes: &[u8]) -> Vec<u8> {
    let (mut archive, mut list) = (Vec::new(), Vec::new());
    let [size, packed] = [content.len(), bytes.len()].map(|n| (n as u32).to_le_bytes());
    for (name, flags) in files {
        let offset = (archive.len() as u32).to_le_bytes();
        let len = (name.len() as u16).to_le_bytes();
        let crc = crc32fast::hash(content).to_le_bytes();
        // Version, flags, method, time and date, checksum, sizes, and the lengths of name and extra field.
        let method = [method, 0, 0, 0, 0, 0];
        let common =
            [&[20, 0][..], &flags.to_le_bytes(), &method, &crc, &packed, &size, &len, &[0; 2]].concat();
        archive.extend([b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat());
        list.extend([b"PK\x01\x02\x14\0", &common[..], &[0; 10], &offset, name.as_bytes()].concat());
    }
    let count = (files.len() as u16).to_le_bytes();
    let [length, start] = [list.len(), archive.len()].map(|n| (n as u32).to_le_bytes());
    let end = [b"PK\x05\x06", &[0; 4][..], &count, &count, &length, &start, &[0; 2]].concat();
    [archive, list, end].concat()
}

/// The output of `deflate` for bytes that it can't compress: blocks of up to `most` of them as they are.
fn blocks(content: &[u8], most: usize) -> Vec<u8> {
    let count = content.len().div_ceil(most);
    let block = |(i, bytes): (usize, &[u8])| {
        let length = bytes.len() as u16;
        let last = u8::from(i + 1 == count);
        [&[last][..], &length.to_le_bytes(), &(!length).to_le_bytes(), bytes].concat()
    };
    content.chunks(most).enumerate().flat_map(block).collect()
}

/// Pieces of the input end within blocks, and blocks within the window: a step's rest of the input is
/// read by the next.
#[test]
fn large_arrays_are_inflated_piece_by_piece() {
    let x = Tensor::<f32>::from_fn([50_000], |at| (at[0] * 7_919 % 100_003) as f32).unwrap();
    let array = backrule_io::npy::to_bytes(&x).unwrap();
    for most in [1_000, 16_384, 32_768, 65_535] {
        let npz = from_bytes(&zip_of(&[("x.npy", 0)], 8, &array, &blocks(&array, most))).unwrap();
        assert!(npz.load::<f32>("x").unwrap() == x, "blocks of {most}");
    }
}

/// Bytes that belong to the array by the list, and to nothing by `deflate`: no checksum covers them.
#[test]
fn compressed_bytes_that_nobody_reads_are_refused() {
    const PIECE: usize = 16 << 10;
    // One that ends within the first piece that is read, and one that ends with it.
    for (elements, block) in [(2, 65_535), (4_059, 4_091)] {
        let x = Tensor::<f32>::full([elements], 1.0).unwrap();
        let array = backrule_io::npy::to_bytes(&x).unwrap();
        let packed = blocks(&array, block);
        assert!(elements == 2 || packed.len() == PIECE);
        let load = |behind: usize| {
            let bytes = [&packed[..], &vec![0; behind]].concat();
            from_bytes(&zip_of(&[("x.npy", 0)], 8, &array, &bytes)).unwrap().load::<f32>("x")
        };
        assert_eq!(load(0).unwrap(), x);
        for behind in [1, 3, PIECE - packed.len() + 1] {
            let error = load(behind).unwrap_err();
            assert!(matches!(&error.problem, LoadProblem::Npz(Problem::Damaged { .. })), "{error}");
            let expected = "there are bytes behind the end of what is compressed";
            assert!(error.to_string().ends_with(expected), "{error}");
        }
    }
}

/// Bytes that the disk refuses to give are no damage of the file: they may come back.
#[cfg(unix)]
#[test]
fn a_file_that_can_not_be_read_is_not_damaged() {
    let scratch = Scratch::new("npz-unread");
    let circle = scratch.0.join("circle.npz");
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    for path in [&circle, &scratch.0.join("missing.npz")] {
        let error = open(path).unwrap_err();
        assert!(matches!(&error.problem, LoadProblem::Io(_)), "{error}");
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    }
}

#[test]
fn names_that_stand_twice_and_long_ones_are_refused_and_what_is_encrypted_is_not_read() {
    let array = backrule_io::npy::to_bytes(&Tensor::from([1.0_f32, 2.0])).unwrap();
    let npz = from_bytes(&zip(&[("a.npy", 0), ("b.npy", 1)], &array)).unwrap();
    assert_eq!(npz.load::<f32>("a").unwrap(), Tensor::from([1.0, 2.0]));
    let error = npz.load::<f32>("b").unwrap_err();
    assert!(matches!(&error.problem, LoadProblem::Npz(Problem::Method)), "{error}");
    // With the suffix or without, it is one name.
    for second in ["a.npy", "a"] {
        let error = from_bytes(&zip(&[("a.npy", 0), (second, 0)], &array)).err().unwrap();
        assert!(matches!(&error.problem, LoadProblem::Npz(Problem::Duplicate { .. })), "{error}");
    }
    for (length, is_fine) in [(512, true), (513, false)] {
        let opened = from_bytes(&zip(&[(&"x".repeat(length), 0)], &array));
        assert_eq!(opened.is_ok(), is_fine, "{length}");
        assert!(opened.err().is_none_or(|error| matches!(error.problem, LoadProblem::Limit(_))));
    }
    // An absolute name doesn't name another file.
    let scratch = Scratch::new("npz-absolute");
    let path = scratch.0.join("a.npz");
    fs::write(&path, zip(&[("/etc/other.npy", 1)], &array)).unwrap();
    let error = open(&path).unwrap().load::<f32>("/etc/other").unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}/etc/other.npy: ", path.display())), "{error}");
}
