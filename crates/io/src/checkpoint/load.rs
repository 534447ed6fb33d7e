//! Reading a checkpoint into memory.

use std::fmt;
use std::io::{BufRead, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::payload::Payload;
use crate::checkpoint::{Checkpoint, Source};
use crate::file::open::open;
use crate::format::checksum::Checksums;
use crate::format::problem::LoadProblem;
use crate::format::reader::{self, Buffered};
use crate::quoted::{At, Beginning};

impl Checkpoint {
    /// Reads and verifies a file, and keeps all of it in memory. Nothing that happens to the file afterwards
    /// makes restoring fail, so restoring is all or nothing.
    ///
    /// Nothing in the file makes this panic or take more memory than the length of the file and 1 MiB. Where
    /// the network and its checkpoint don't fit into memory side by side, [`open`](Self::open) leaves the
    /// elements in the file.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// # let folder = std::env::temp_dir().join(format!("backrule-load-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("model.brk");
    /// # let mut net = vec![("weight", Tensor::from([1.0_f32, 2.0]))];
    /// # Checkpoint::of(&net).save(&path)?;
    /// let checkpoint = Checkpoint::load(&path)?;
    /// std::fs::remove_file(&path)?;
    /// checkpoint.restore(&mut net)?;
    /// assert_eq!(net[0].1.as_slice(), [1.0, 2.0]);
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the file can't be read, is no checkpoint, was written by a later version, is damaged in any way,
    /// or doesn't fit into memory. The message names the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        read_file(path.as_ref(), |mut input, length| Self::read(&mut input, length, Checksums::Compare))
    }

    /// The same for a file's bytes in memory. The elements are copied.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        read_bytes(bytes, |input, length| Self::read(input, length, Checksums::Compare))
    }

    /// The same without comparing checksums, so a fuzzer gets past them. Never for files that matter.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    #[cfg(feature = "fuzzing")]
    #[doc(hidden)]
    pub fn from_bytes_ignoring_checksums(bytes: &[u8]) -> Result<Self, LoadError> {
        read_bytes(bytes, |input, length| Self::read(input, length, Checksums::Ignore))
    }

    fn read(input: &mut impl BufRead, length: u64, checksums: Checksums) -> Result<Self, LoadProblem> {
        let (header, bytes) = reader::read(input, length, checksums, reader::memory, reader::keep)?;
        Ok(Self::new(header, Payload::Memory(Arc::new(bytes)), Source::Checkpoint { length }))
    }
}

/// Opens a file for `read`, which is told its length.
pub(crate) fn read_file<R>(
    path: &Path,
    read: impl FnOnce(Buffered, u64) -> Result<R, LoadProblem>,
) -> Result<R, LoadError> {
    let load = || {
        let (file, length) = open(path)?;
        read(Buffered::new(file)?, length)
    };
    load().map_err(|problem| LoadError { file: Some(path.to_path_buf()), problem })
}

/// Hands bytes to `read`, which is told their number.
pub(crate) fn read_bytes<R>(
    mut bytes: &[u8],
    read: impl FnOnce(&mut &[u8], u64) -> Result<R, LoadProblem>,
) -> Result<R, LoadError> {
    let length = bytes.len() as u64;
    read(&mut bytes, length).map_err(|problem| LoadError { file: None, problem })
}

/// Why a checkpoint could not be loaded: which file, and what is wrong with it.
#[non_exhaustive]
pub struct LoadError {
    /// The file; `None` for bytes in memory.
    pub file: Option<PathBuf>,
    /// The reason why it can't be loaded.
    pub problem: LoadProblem,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", At(file))?;
        }
        self.problem.fmt(f)?;
        match &self.file {
            Some(path) => {
                let is_missing =
                    matches!(&self.problem, LoadProblem::Io(error) if error.kind() == ErrorKind::NotFound);
                Beginning { path, is_missing }.fmt(f)
            }
            None => Ok(()),
        }
    }
}

/// The message includes the problem's, so the problem is not the source.
impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

backrule_tensor::readable! { struct LoadError { file, problem } }

#[cfg(test)]
mod tests {
    use backrule_tensor::Tensor;

    use super::*;
    use crate::format::problem::Malformed;

    #[test]
    fn a_file_that_changes_its_length_is_refused() {
        let net = vec![("a", Tensor::from([1.0_f32, 2.0]))];
        let bytes = Checkpoint::of(&net).to_bytes().unwrap();
        let read = |bytes: &[u8], length: usize| {
            Checkpoint::read(&mut &bytes[..], length as u64, Checksums::Compare)
        };
        assert!(read(&bytes, bytes.len()).is_ok());
        for cut in 40..bytes.len() {
            let problem = read(&bytes[..cut], bytes.len()).unwrap_err();
            assert!(matches!(problem, LoadProblem::Malformed(Malformed::Shrank)), "{cut}: {problem}");
        }
        let grown = [&bytes[..], &[0]].concat();
        let problem = read(&grown, bytes.len()).unwrap_err();
        assert!(matches!(problem, LoadProblem::Malformed(Malformed::Grew)), "{problem}");
    }
}
