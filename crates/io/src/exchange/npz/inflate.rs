//! Decompression of `deflate`, byte by byte.

use std::io::{self, Read};
use std::ops::Range;

use backrule_tensor::{MemoryError, memory};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, TINFL_LZ_DICT_SIZE, decompress};

/// Bytes that are read at a time.
const PIECE: usize = 16 << 10;

/// Inflates its input. The readers of `flate2` would do, but for one thing: where there is no memory for
/// their buffers, they end the process.
pub(super) struct Inflate<R> {
    compressed: R,
    /// The bytes read, and the part of them that is still to be inflated.
    input: Vec<u8>,
    left: Range<usize>,
    /// The last bytes inflated, as a ring, and the part of them that is still to be given.
    window: Vec<u8>,
    ready: Range<usize>,
    /// One, in a vector: memory for it can be refused.
    state: Vec<DecompressorOxide>,
    done: bool,
}

impl<R: Read> Inflate<R> {
    pub(super) fn new(compressed: R) -> Result<Self, MemoryError> {
        let (mut input, mut window) = (Vec::new(), Vec::new());
        memory::grow("load", &mut input, PIECE)?;
        memory::grow("load", &mut window, TINFL_LZ_DICT_SIZE)?;
        let mut state = Vec::new();
        memory::grow("load", &mut state, 1)?;
        Ok(Self { compressed, input, left: 0..0, window, ready: 0..0, state, done: false })
    }

    /// Inflates until something is ready, or all is done.
    fn next(&mut self) -> io::Result<()> {
        let Some(state) = self.state.first_mut() else { return Ok(()) };
        while self.ready.is_empty() && !self.done {
            if self.left.is_empty() {
                self.left = 0..self.compressed.read(&mut self.input)?;
            }
            // Nothing was left: that was all.
            let flags = if self.left.is_empty() { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
            let input = self.input.get(self.left.clone()).unwrap_or_default();
            let start = self.ready.end % TINFL_LZ_DICT_SIZE;
            let (status, used, written) = decompress(state, input, &mut self.window, start, flags);
            self.left.start = self.left.start.saturating_add(used);
            self.ready = start..start.saturating_add(written);
            match status {
                TINFLStatus::Done => {
                    self.done = true;
                    // No checksum covers unread bytes.
                    if !self.left.is_empty() || self.compressed.read(&mut self.input)? > 0 {
                        let reason = "there are bytes behind the end of what is compressed";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                    }
                }
                TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {}
                TINFLStatus::FailedCannotMakeProgress => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "it can't be inflated")),
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.next()?;
        let count = self.window.get(self.ready.clone()).unwrap_or_default().read(bytes)?;
        self.ready.start = self.ready.start.saturating_add(count);
        Ok(count)
    }
}
