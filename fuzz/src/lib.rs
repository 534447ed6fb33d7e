//! The work of the targets on any bytes. `tests/fuzz_targets.rs` of the repository runs the same over changed
//! seeds, where there is no fuzzer.

use backrule_io::tensor::{DType, Scalar, Shape, Tensor};
use backrule_io::{Checkpoint, ElementType, npy, npz};
use backrule_nn::{Architecture, summary_many};

/// Any bytes as a safetensors file. An accepted file is listed, and restored as far as it can be; where all
/// of it is of one float type, it is saved again, and is the same then.
pub fn safetensors(bytes: &[u8]) {
    let Ok(file) = backrule_io::safetensors::from_bytes(bytes) else { return };
    let sizes: usize = file.tensors().map(|info| info.bytes()).sum();
    assert!(sizes < bytes.len());
    assert!(file.element_count() < bytes.len());
    assert!(!file.to_string().contains('\u{1b}'));
    for info in file.tensors() {
        assert!(info.shape.elements() <= 8 * info.bytes());
        one::<f32>(&file, &info.path, info.shape, info.dtype);
        one::<f64>(&file, &info.path, info.shape, info.dtype);
    }
    if file.tensors().all(|info| info.dtype == DType::F32) {
        again::<f32>(&file);
    } else if file.tensors().all(|info| info.dtype == DType::F64) {
        again::<f64>(&file);
    }
}

/// One tensor alone, in a type that may not be its own. Either it has all values, or none was changed.
fn one<T: Scalar>(file: &Checkpoint, path: &str, shape: Shape, dtype: ElementType) {
    let before = vec![(path, Tensor::full(shape, T::from_f64(0.1)).unwrap())];
    let mut own = before.clone();
    let report = file.restoring().convert().partial().restore_into(&mut own);
    match report {
        Ok(report) => assert_eq!(report.restored.len(), 1),
        Err(_) => assert!(own == before && dtype != T::DTYPE),
    }
}

fn again<T: Scalar>(file: &Checkpoint) {
    let mut own: Vec<(String, Tensor<T>)> = Vec::new();
    for info in file.tensors() {
        own.push((info.path, Tensor::zeros(info.shape).unwrap()));
    }
    file.restore(&mut own).unwrap();
    let saved = backrule_io::safetensors::to_bytes(&own).unwrap();
    assert!(backrule_io::safetensors::from_bytes(&saved).unwrap() == *file);
}

/// Any bytes as a `.npy` file. A tensor accepted in single precision is the same in double precision, and
/// when it was saved.
pub fn npy(bytes: &[u8]) {
    let wide = npy::from_bytes::<f64>(bytes);
    let Ok(tensor) = npy::from_bytes::<f32>(bytes) else { return };
    assert!(tensor.len() <= bytes.len());
    assert!(same(&tensor.cast::<f64>().unwrap(), &wide.unwrap()));
    assert!(same(&npy::from_bytes::<f32>(&npy::to_bytes(&tensor).unwrap()).unwrap(), &tensor));
}

fn same<T: Scalar>(a: &Tensor<T>, b: &Tensor<T>) -> bool {
    let mut pairs = a.as_slice().iter().zip(b.as_slice());
    a.shape() == b.shape() && pairs.all(|(a, b)| a == b || a.is_nan() && b.is_nan())
}

/// Any bytes as a `.npz` file.
pub fn npz(bytes: &[u8]) {
    let Ok(file) = npz::from_bytes(bytes) else { return };
    for name in file.names() {
        if let Ok(tensor) = file.load::<f64>(name) {
            // Of the smallest elements, each inflated from a thousandth of a byte.
            assert!(tensor.len() <= 1032 * bytes.len());
        }
    }
}

/// Any bytes as the architecture of a file that is right in everything else. A network that is built is
/// described as it was, and gives shapes or errors for inputs of several kinds.
pub fn architecture(content: &[u8]) {
    const MOST: usize = 2_000;
    let checkpoint = Checkpoint::from_bytes_ignoring_checksums(&with_section(4, content));
    let Ok(checkpoint) = checkpoint else { return };
    let Ok(architecture) = checkpoint.architecture::<Architecture>() else { return };
    assert!(!architecture.to_string().contains('\u{1b}'));
    let net = match architecture.build::<f32>(MOST) {
        Ok(net) => net,
        Err(error) => return assert!(!error.to_string().contains('\u{1b}')),
    };
    let elements: usize =
        backrule_io::tensor::NamedTensors::tensors(&net).iter().map(|(_, it)| it.len()).sum();
    assert!(elements <= MOST, "{elements}");
    // Settings that were left out are in it.
    let described = Architecture::of(&*net).unwrap();
    let again = described.build::<f32>(MOST).unwrap();
    assert!(Architecture::of(&*again).unwrap() == described);
    for shape in [&[6, 4][..], &[6, 2, 4, 5], &[6, 3, 3]] {
        let shape = Shape::new(shape).unwrap();
        for inputs in 1..4 {
            let _ = summary_many(&net, vec![shape; inputs]).map(|summary| summary.to_string());
        }
    }
}

/// A file without checksums and with nothing but a section.
pub fn with_section(code: u8, content: &[u8]) -> Vec<u8> {
    // Epoch, step, position, no seed, no program, one section, no optimizer, no tensors.
    let length = (content.len() as u64).to_le_bytes();
    let header = [&[0; 26][..], &[1, 0, 0, 0, code], &length, content, &[0; 5]].concat();
    let mut file = b"\x8bBRK\r\n\x1a\n\x01\0\0\0\0\0\0\0".to_vec();
    file.extend((header.len() as u64).to_le_bytes());
    file.extend([0; 16]);
    file.extend(header);
    file.extend([0; 4]);
    file
}
