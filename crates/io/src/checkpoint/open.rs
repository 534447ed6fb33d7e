//! Verifying a checkpoint whose elements stay in the file.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::load::{LoadError, read_file};
use crate::checkpoint::payload::{CAN_STAY, Payload, Stamp};
use crate::checkpoint::{Checkpoint, Source};
use crate::format::checksum::Checksums;
use crate::format::envelope::Envelope;
use crate::format::reader;

impl Checkpoint {
    /// Reads and verifies a file, and leaves the elements in it. The file stays open, and restoring reads it
    /// once more, straight into the tensors: a network of any size is restored with little more memory than
    /// its own.
    ///
    /// [`Snapshot::save`](crate::Snapshot::save) to the same path does no harm meanwhile, since it puts
    /// another file in its place. A file that was written to before restoring is the error
    /// [`Changed`](crate::RestoreError::Changed), and nothing changes. A file that is written to, or that the
    /// disk no longer gives, **while** it is restored is the error
    /// [`Interrupted`](crate::RestoreError::Interrupted), and network and optimizer hold old and new values.
    /// Nothing can have both: all or nothing needs memory for the old values or the new ones, and
    /// [`load`](Self::load) takes it.
    ///
    /// Nothing in the file makes this panic or take more memory than its header and 1 MiB. On systems other
    /// than Unix and Windows it is [`load`](Self::load).
    ///
    /// No network is needed to see a file's contents, so this is also the way to inspect one:
    ///
    /// ```
    /// # use backrule_io::tensor::Tensor;
    /// # use backrule_io::{Checkpoint, Run};
    /// # let folder = std::env::temp_dir().join(format!("backrule-open-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("model.brk");
    /// let net = vec![
    ///     ("fc.weight", Tensor::from([[1.0_f32, 2.0]])),
    ///     ("fc.bias", Tensor::from([0.5])),
    /// ];
    /// let run = Run { epoch: 3, seed: Some(42), ..Run::default() };
    /// let metadata = ("first try".to_string(), f64::NAN);
    /// Checkpoint::of(&net).run(&run).metadata(&metadata)?.save(&path)?;
    /// assert_eq!(
    ///     Checkpoint::open(&path)?.to_string(),
    ///     r#"format 1, 196 bytes, intact
    /// epoch 3, step 0, position 0, seed 42
    /// metadata: ["first try", NaN]
    /// 2 tensors, 12 bytes
    ///   network `fc.weight` f32 [1, 2], 8 bytes, crc 2e3fa576
    ///   network `fc.bias` f32 [1], 4 bytes, crc 9722f221"#
    /// );
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        if !CAN_STAY {
            return Self::load(path);
        }
        read_file(path.as_ref(), |mut input, length| {
            let verified = Stamp::of(&input.file().metadata()?);
            let begin = |size| Ok(Payload::start_of(length, size, Envelope::END));
            let (header, start) = reader::read(&mut input, length, Checksums::Compare, begin, |_, _| {})?;
            let payload = Payload::Stored { file: Arc::new(input.into_file()), start, verified };
            Ok(Self::new(header, payload, Source::Checkpoint { length }))
        })
    }
}
