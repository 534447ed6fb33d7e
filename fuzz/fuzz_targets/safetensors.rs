//! Any bytes as a safetensors file. What is accepted is restored and saved again, and is the same then.
#![no_main]

use backrule_io::Checkpoint;
use backrule_io::safetensors::{from_bytes, to_bytes};
use backrule_io::tensor::{DType, Scalar, Tensor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = from_bytes(bytes) else { return };
    let sizes: usize = file.tensors().map(|info| info.shape.elements() * info.dtype.size()).sum();
    assert!(sizes < bytes.len());
    if file.tensors().all(|info| info.dtype == DType::F32) {
        again::<f32>(&file);
    } else if file.tensors().all(|info| info.dtype == DType::F64) {
        again::<f64>(&file);
    }
});

fn again<T: Scalar>(file: &Checkpoint) {
    let mut own: Vec<(String, Tensor<T>)> = Vec::new();
    for info in file.tensors() {
        own.push((info.path, Tensor::zeros(info.shape).unwrap()));
    }
    file.restore(&mut own).unwrap();
    assert!(from_bytes(&to_bytes(&own).unwrap()).unwrap() == *file);
}
