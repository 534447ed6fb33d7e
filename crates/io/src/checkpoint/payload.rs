//! The elements of a checkpoint: in memory, or in the file that was verified.

use std::fs::{File, Metadata};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use backrule_tensor::{MemoryError, Scalar, memory};
use crc32fast::Hasher;

use crate::element::{ElementType, NotHeld};

/// Bytes of a file that are read and converted at a time.
const PIECE: usize = 64 << 10;

#[derive(Clone)]
pub(crate) enum Payload {
    Memory(Arc<Vec<u8>>),
    /// The file stays open: once another one is put into its place, this is still the one that was verified.
    Stored {
        file: Arc<File>,
        /// Where in the file the payload begins.
        start: u64,
        verified: Stamp,
    },
}

/// The properties of a file that change when it is written to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { length: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Payload {
    /// Where a payload of `size` bytes begins, `tail` bytes before the end of a file of `length`. They add
    /// up: that was checked.
    pub(crate) fn start_of(length: u64, size: u64, tail: u64) -> u64 {
        length.saturating_sub(size).saturating_sub(tail)
    }

    /// Whether the file is as it was when it was verified.
    pub(crate) fn unchanged(&self) -> io::Result<bool> {
        match self {
            Self::Memory(_) => Ok(true),
            Self::Stored { file, verified, .. } => Ok(Stamp::of(&file.metadata()?) == *verified),
        }
    }

    /// Room for one read from the file.
    pub(crate) fn buffer(&self) -> Result<Vec<u8>, MemoryError> {
        let size = match self {
            Self::Memory(_) => 0,
            Self::Stored { .. } => PIECE,
        };
        memory::room("restore", size)
    }
}

/// One tensor's elements.
#[derive(Clone, Copy)]
pub(crate) struct Elements<'c> {
    pub(crate) payload: &'c Payload,
    pub(crate) dtype: ElementType,
    /// From the beginning of the payload.
    pub(crate) offset: usize,
    pub(crate) size: usize,
    pub(crate) crc: u32,
    /// Whether elements of double precision may be rounded.
    pub(crate) rounded: bool,
}

/// The elements in the file are no longer those that were verified, or can't be read any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("it was written to")]
    Changed,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Elements<'_> {
    /// Bit for bit, or each value as it is in the other type. Values that it doesn't hold were refused
    /// before.
    pub(crate) fn copy_to<T: Scalar>(&self, mut values: &mut [T], buffer: &mut Vec<u8>) -> Result<(), Lost> {
        let mut outcome = Ok(());
        self.pieces(buffer, |bytes| {
            let count = bytes.len().checked_div(self.dtype.size().unwrap_or(1)).unwrap_or(0);
            if let Some(part) = values.split_off_mut(..count)
                && self.dtype.read(bytes, part, self.rounded).is_err()
            {
                outcome = Err(Lost::Changed);
            }
        })?;
        outcome
    }

    /// The first element that a tensor of `T` doesn't have.
    pub(crate) fn not_held<T: Scalar>(&self, buffer: &mut Vec<u8>) -> Result<Option<NotHeld>, Lost> {
        let (mut first, mut before) = (None, 0_usize);
        self.pieces(buffer, |bytes| {
            if let (None, Err(NotHeld { at, value })) = (&first, self.dtype.check::<T>(bytes, self.rounded)) {
                first = Some(NotHeld { at: at.saturating_add(before), value });
            }
            before =
                before.saturating_add(bytes.len().checked_div(self.dtype.size().unwrap_or(1)).unwrap_or(0));
        })?;
        Ok(first)
    }

    /// All bytes, as whole elements. Bytes read from a file are verified a second time, on their way through
    /// `buffer`, which is one of [`Payload::buffer`]: it never grows.
    fn pieces(&self, buffer: &mut Vec<u8>, mut take: impl FnMut(&[u8])) -> Result<(), Lost> {
        let (file, start) = match self.payload {
            Payload::Memory(bytes) => {
                let end = self.offset.saturating_add(self.size);
                take(bytes.get(self.offset..end).unwrap_or_default());
                return Ok(());
            }
            Payload::Stored { file, start, .. } => (file, start),
        };
        let mut at = start.saturating_add(self.offset as u64);
        let mut left = self.size;
        let mut crc = Hasher::new();
        while left > 0 {
            buffer.resize(left.min(PIECE), 0);
            read_exact_at(file, buffer, at)?;
            crc.update(buffer);
            take(buffer);
            at = at.saturating_add(buffer.len() as u64);
            left = left.saturating_sub(buffer.len());
        }
        if crc.finalize() == self.crc { Ok(()) } else { Err(Lost::Changed) }
    }
}

/// Whether a file can be read at an offset, without a position that its users share.
pub(crate) const CAN_STAY: bool = cfg!(any(unix, windows));

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, buffer, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(count..).unwrap_or_default();
        offset = offset.saturating_add(count as u64);
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn read_exact_at(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};
    use std::path::Path;

    use backrule_tensor::Tensor;

    use crate::checkpoint::Checkpoint;
    use crate::restore::RestoreError;
    use crate::scratch::Scratch;

    type Net = Vec<(&'static str, Tensor)>;

    /// The second takes several pieces, with a shorter one at the end.
    fn net(first: f32) -> Net {
        let values = (0..100_001).map(|i| first + i as f32).collect();
        vec![
            ("0", Tensor::from([first])),
            ("a", Tensor::from_vec([100_001], values).unwrap()),
            ("b", Tensor::from([first, -first])),
        ]
    }

    /// Writes into the last element, which is one of `b`.
    fn write_into(path: &Path) -> fs::File {
        let mut file = fs::File::options().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        file.seek(SeekFrom::Start(length - 5)).unwrap();
        file.write_all(b"x").unwrap();
        file
    }

    #[test]
    fn what_stays_in_the_file_is_restored_from_there() {
        let scratch = Scratch::new("kept");
        let path = scratch.0.join("model.brk");
        Checkpoint::of(&net(1.0)).save(&path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        // Another file in its place: the one that was verified is still open.
        Checkpoint::of(&net(5.0)).save(&path).unwrap();
        for checkpoint in [checkpoint.clone(), checkpoint] {
            let mut restored = net(9.0);
            checkpoint.restore(&mut restored).unwrap();
            assert_eq!(restored, net(1.0));
        }
    }

    #[test]
    fn a_file_that_was_written_to_changes_nothing() {
        let scratch = Scratch::new("written-to");
        let path = scratch.0.join("model.brk");
        Checkpoint::of(&net(1.0)).save(&path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let mut other = net(9.0);
        let error = checkpoint.restore(&mut other).unwrap_err();
        assert!(matches!(error, RestoreError::Changed { .. }), "{error}");
        assert_eq!(other, net(9.0));
    }

    /// The one exception to all or nothing: it is told, and the tensor is named.
    #[test]
    fn a_file_that_is_written_to_meanwhile_is_noticed() {
        let scratch = Scratch::new("meanwhile");
        let path = scratch.0.join("model.brk");
        Checkpoint::of(&net(1.0)).save(&path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut file = write_into(&path);
        file.seek(SeekFrom::End(-13)).unwrap();
        file.write_all(b"x").unwrap();
        // No trace of it in the times.
        file.set_modified(modified).unwrap();
        let mut restored = net(9.0);
        match checkpoint.restore(&mut restored) {
            Err(RestoreError::Interrupted { path, .. }) => assert_eq!(path, "a"),
            other => panic!("{other:?}"),
        }
        // It ends there.
        assert_eq!((&restored[0], &restored[2]), (&net(1.0)[0], &net(9.0)[2]));
    }

    #[test]
    fn what_was_loaded_no_longer_needs_its_file() {
        let scratch = Scratch::new("loaded");
        let path = scratch.0.join("model.brk");
        Checkpoint::of(&net(1.0)).save(&path).unwrap();
        let checkpoint = Checkpoint::load(&path).unwrap();
        // Written over, and cut.
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all(&[0; 1000]).unwrap();
        file.set_len(1000).unwrap();
        for checkpoint in [checkpoint.clone(), checkpoint] {
            let mut restored = net(9.0);
            checkpoint.restore(&mut restored).unwrap();
            assert_eq!(restored, net(1.0));
        }
    }
}
