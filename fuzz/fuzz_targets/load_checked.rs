//! Any bytes, as a user loads them. A checkpoint that is accepted is accepted without checksums, too, and is
//! the same.
#![no_main]

use backrule_io::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::from_bytes(bytes) {
        assert!(Checkpoint::from_bytes_ignoring_checksums(bytes).is_ok_and(|other| other == checkpoint));
    }
});
