//! Any bytes as the metadata of a file that is right in everything else.
#![no_main]

use std::collections::BTreeMap;

use backrule_io::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    // Envelope, then a header: epoch, step, position, no seed, no program, one section, no optimizer, no
    // tensors.
    let header =
        [&[0; 26][..], &[1, 0, 0, 0, 1], &(content.len() as u64).to_le_bytes(), content, &[0; 5]].concat();
    let mut file = b"\x8bBRK\r\n\x1a\n\x01\0\0\0\0\0\0\0".to_vec();
    file.extend((header.len() as u64).to_le_bytes());
    file.extend([0; 16]);
    file.extend(header);
    file.extend([0; 4]);
    let Ok(checkpoint) = Checkpoint::from_bytes_ignoring_checksums(&file) else { return };
    if let Ok(value) = checkpoint.metadata::<serde_json::Value>() {
        drop(value);
    }
    let _ = checkpoint.metadata::<(u8, String, Option<f32>)>();
    let _ = checkpoint.metadata::<BTreeMap<i64, Vec<Vec<bool>>>>();
    let _ = checkpoint.metadata::<u128>();
});
