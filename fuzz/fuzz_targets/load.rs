//! Any bytes, without comparing checksums, so every check behind them is reached.
#![no_main]

use backrule_io::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes_ignoring_checksums(bytes) else { return };
    // A checkpoint that was accepted has to be good for everything that can be asked of it.
    let described: usize = checkpoint.tensors().map(|info| info.to_string().len()).sum();
    let size = |dtype: backrule_io::ElementType| dtype.size().unwrap();
    let sizes: usize = checkpoint.tensors().map(|info| info.shape.elements() * size(info.dtype)).sum();
    assert!(sizes < bytes.len() && described < 16 * bytes.len());
    for section in checkpoint.sections() {
        let _ = checkpoint.section::<serde_json::Value>(section);
    }
    let mut own: Vec<(String, backrule_io::tensor::Tensor)> = Vec::new();
    for info in checkpoint.tensors() {
        if let Ok(tensor) = backrule_io::tensor::Tensor::zeros(info.shape) {
            own.push((info.path, tensor));
        }
    }
    let _ = checkpoint.restore(&mut own);
    assert!(checkpoint == checkpoint.clone());
});
