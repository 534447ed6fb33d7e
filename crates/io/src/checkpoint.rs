use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::envelope::Envelope;
use crate::header::{Entry, Header, OptimizerState};
use crate::payload::{self, Elements, Lost, Payload, Stamp};
use crate::reader::{self, Checksums};
use crate::{Group, LoadError, LoadProblem, Part, Section, SectionError, TensorInfo, file};

/// A loaded checkpoint: verified from the first byte to the last.
///
/// [`Checkpoint::of`] begins a new one; [`restore`](Self::restore) and
/// [`restore_with_optimizer`](Self::restore_with_optimizer) put the values back.
///
/// ```
/// use backrule_io::Checkpoint;
/// use backrule_io::tensor::Tensor;
///
/// let mut net = vec![("weight", Tensor::from([1.0_f32, 2.0]))];
/// let bytes = Checkpoint::of(&net).epoch(3).seed(42).metadata(&"first try".to_string())?.to_bytes()?;
///
/// let checkpoint = Checkpoint::from_bytes(&bytes)?;
/// assert_eq!((checkpoint.epoch(), checkpoint.step(), checkpoint.seed()), (3, 0, Some(42)));
/// assert_eq!(checkpoint.metadata::<String>()?, "first try");
///
/// net[0].1.fill(0.0);
/// checkpoint.restore(&mut net)?;
/// assert_eq!(net[0].1.as_slice(), [1.0, 2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Checkpoint {
    header: Header,
    /// All tensors' elements, in the order of the header's entries.
    payload: Payload,
}

impl Checkpoint {
    /// Reads and verifies a file. Nothing in it can make this panic, or take more memory than the file is long and 1 MiB.
    ///
    /// More than 32 MiB of elements are not kept in memory, but in the file, which stays open: restoring reads them once
    /// more, straight into the tensors. Saving to the same path in the meantime does no harm, since it puts another file
    /// in its place; one that is written to, or can't be read any more, is an error of `restore`. Where not even that may
    /// happen, [`into_memory`](Self::into_memory) follows.
    ///
    /// # Errors
    /// When the file can't be read, is no checkpoint, was written by a later version, or is damaged in any way. The
    /// message names the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::load_keeping(path.as_ref(), payload::KEPT)
    }

    /// A payload larger than `most` stays in the file.
    pub(crate) fn load_keeping(path: &Path, most: u64) -> Result<Self, LoadError> {
        load_with(path, most, Envelope::END, |input, length, begin| {
            Self::read(input, length, Checksums::Compare, begin)
        })
    }

    /// Takes elements that stayed in the file into memory, verified once more. Nothing that happens to the file can then
    /// make restoring fail: that is all or nothing for a file of any size, at the price of its size in memory.
    ///
    /// Without it, a payload of more than 32 MiB that is written to, or that the disk no longer gives, **while** it is
    /// restored leaves a network of old and new values, and the error
    /// [`RestoreError::Interrupted`](crate::RestoreError::Interrupted). The old values and the new ones have to be
    /// somewhere until the last one has been read, so that no restore can do without this memory and be all or nothing.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// # let folder = std::env::temp_dir().join(format!("backrule-into-memory-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("model.brk");
    /// # let mut net = vec![("weight", Tensor::from([1.0_f32, 2.0]))];
    /// # Checkpoint::of(&net).save(&path)?;
    /// let checkpoint = Checkpoint::load(&path)?.into_memory()?;
    /// std::fs::remove_file(&path)?;
    /// checkpoint.restore(&mut net)?;
    /// assert_eq!(net[0].1.as_slice(), [1.0, 2.0]);
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When there is not so much memory, or the file has changed or can't be read any more.
    pub fn into_memory(mut self) -> Result<Self, LoadError> {
        if let Payload::Stored { path, .. } = &self.payload {
            let bytes = self.read_again();
            let failed = |problem| LoadError { file: Some(path.clone()), problem };
            self.payload = Payload::Memory(bytes.map_err(failed)?);
        }
        Ok(self)
    }

    fn read_again(&self) -> Result<Vec<u8>, LoadProblem> {
        let size = self.header.entries().fold(0_usize, |sum, entry| sum.saturating_add(entry.size()));
        let mut bytes = Vec::new();
        reader::reserve(&mut bytes, size as u64)?;
        for (Entry { group, path, .. }, elements) in self.elements() {
            elements.pieces(|piece| bytes.extend_from_slice(piece)).map_err(|lost| match lost {
                Lost::Changed => LoadProblem::Checksum(Part::Tensor { group, path: path.to_string() }),
                Lost::Io(error) => LoadProblem::Io(error),
            })?;
        }
        Ok(bytes)
    }

    #[cfg(feature = "safetensors")]
    pub(crate) fn new(header: Header, payload: Payload) -> Self {
        Self { header, payload }
    }

    /// The same for a file's bytes in memory. The elements are copied.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        Self::read(&mut &bytes[..], bytes.len() as u64, Checksums::Compare, in_memory)
            .map_err(|problem| LoadError { file: None, problem })
    }

    /// The same without comparing checksums, so that a fuzzer gets past them. Never for files that matter.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    #[cfg(feature = "fuzzing")]
    #[doc(hidden)]
    pub fn from_bytes_ignoring_checksums(bytes: &[u8]) -> Result<Self, LoadError> {
        Self::read(&mut &bytes[..], bytes.len() as u64, Checksums::Ignore, in_memory)
            .map_err(|problem| LoadError { file: None, problem })
    }

    fn read(
        input: &mut impl BufRead,
        length: u64,
        checksums: Checksums,
        begin: impl FnOnce(u64) -> Result<Payload, LoadProblem>,
    ) -> Result<Self, LoadProblem> {
        let (header, payload) = reader::read(input, length, checksums, begin, Payload::keep)?;
        Ok(Self { header, payload })
    }

    /// The number of epochs that was saved, 0 if none was given.
    pub fn epoch(&self) -> u64 {
        self.header.run.epoch
    }

    /// The number of steps that was saved, 0 if none was given.
    pub fn step(&self) -> u64 {
        self.header.run.step
    }

    /// The position in the data that was saved, 0 if none was given.
    pub fn position(&self) -> u64 {
        self.header.run.position
    }

    /// The seed, if one was saved.
    pub fn seed(&self) -> Option<u64> {
        self.header.run.seed
    }

    /// The version of the program that saved it, if it was given.
    pub fn program(&self) -> Option<&str> {
        self.header.run.program.as_deref()
    }

    /// The number of steps that the optimiser had made, if it was saved.
    pub fn optimizer_steps(&self) -> Option<u64> {
        self.optimizer_state().map(|optimizer| optimizer.steps)
    }

    pub(crate) fn optimizer_state(&self) -> Option<&OptimizerState> {
        self.header.run.optimizer.as_ref()
    }

    /// The value that was given to [`Snapshot::metadata`](crate::Snapshot::metadata).
    ///
    /// # Errors
    /// Those of [`section`](Self::section).
    pub fn metadata<M: DeserializeOwned>(&self) -> Result<M, SectionError> {
        self.section(Section::Metadata)
    }

    /// The value that was given to [`Snapshot::metrics`](crate::Snapshot::metrics).
    ///
    /// # Errors
    /// Those of [`section`](Self::section).
    pub fn metrics<M: DeserializeOwned>(&self) -> Result<M, SectionError> {
        self.section(Section::Metrics)
    }

    /// The value that was given to [`Snapshot::schedule`](crate::Snapshot::schedule).
    ///
    /// # Errors
    /// Those of [`section`](Self::section).
    pub fn schedule<M: DeserializeOwned>(&self) -> Result<M, SectionError> {
        self.section(Section::Schedule)
    }

    /// The value that was given to [`Snapshot::architecture`](crate::Snapshot::architecture).
    ///
    /// It is data and may be anybody's. Where it claims sizes, compare them with
    /// [`element_count`](Self::element_count) before memory is taken for them; `Architecture::build` of backrule-nn
    /// asks for that number.
    ///
    /// # Errors
    /// Those of [`section`](Self::section).
    pub fn architecture<M: DeserializeOwned>(&self) -> Result<M, SectionError> {
        self.section(Section::Architecture)
    }

    /// How many numbers all of the network's tensors hold together. The file holds as many: that was checked.
    pub fn element_count(&self) -> usize {
        let network = self.tensors().filter(|info| info.group == Group::Network);
        network.fold(0, |sum, info| sum.saturating_add(info.shape.elements()))
    }

    /// The value of a section. Fields that its type has gained since it was saved need `#[serde(default)]`; any
    /// self-describing type, such as `serde_json::Value`, shows what there is.
    ///
    /// # Errors
    /// When it was not saved, or is not an `M`.
    pub fn section<M: DeserializeOwned>(&self, section: Section) -> Result<M, SectionError> {
        self.header.value(section)
    }

    /// The sections that there are.
    pub fn sections(&self) -> impl Iterator<Item = Section> {
        self.header.sections().map(|(section, _)| section)
    }

    /// What tensors there are, in the order in which they were visited: first the network's, then the optimiser's.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo> {
        self.header.entries().map(|entry| entry.info())
    }

    /// Every tensor of a group with its elements.
    pub(crate) fn group(&self, group: Group) -> impl Iterator<Item = (TensorInfo, Elements<'_>)> {
        (self.elements())
            .filter(move |(entry, _)| entry.group == group)
            .map(|(entry, elements)| (entry.info(), elements))
    }

    /// Every tensor with its elements. The sizes add up: that was checked when they were read.
    fn elements(&self) -> impl Iterator<Item = (Entry<'_>, Elements<'_>)> {
        let mut end = 0_usize;
        self.header.entries().map(move |entry| {
            let (offset, size, crc) = (end, entry.size(), entry.crc);
            end = end.saturating_add(size);
            (entry, Elements { payload: &self.payload, offset, size, crc })
        })
    }

    pub(crate) fn payload(&self) -> &Payload {
        &self.payload
    }
}

/// Opens a file for `read`, and gives it what begins a payload of a size: one that is larger than `most` stays in the file,
/// `tail` bytes before its end.
pub(crate) fn load_with(
    path: &Path,
    most: u64,
    tail: u64,
    read: impl FnOnce(
        &mut BufReader<&File>,
        u64,
        &dyn Fn(u64) -> Result<Payload, LoadProblem>,
    ) -> Result<Checkpoint, LoadProblem>,
) -> Result<Checkpoint, LoadError> {
    let load = || {
        let (file, length) = file::open(path)?;
        let verified = Stamp::of(&file.metadata()?);
        let file = Arc::new(file);
        let begin = |size: u64| {
            if size <= most || !payload::CAN_STAY {
                return in_memory(size);
            }
            // The lengths add up: that was checked.
            let start = length.saturating_sub(size).saturating_sub(tail);
            let (file, path, verified) = (Arc::clone(&file), path.to_path_buf(), verified.clone());
            Ok(Payload::Stored { file, path, start, verified })
        };
        read(&mut BufReader::with_capacity(reader::BUFFER, &*file), length, &begin)
    };
    load().map_err(|problem| LoadError { file: Some(path.to_path_buf()), problem })
}

pub(crate) fn in_memory(size: u64) -> Result<Payload, LoadProblem> {
    let mut bytes = Vec::new();
    reader::reserve(&mut bytes, size)?;
    Ok(Payload::Memory(bytes))
}

/// Of elements that stay in a file the checksums are compared.
impl PartialEq for Checkpoint {
    fn eq(&self, other: &Self) -> bool {
        let elements = match (&self.payload, &other.payload) {
            (Payload::Memory(a), Payload::Memory(b)) => a == b,
            _ => true,
        };
        elements && self.header == other.header
    }
}

/// A summary: the elements would be too many.
impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("run", &self.header.run)
            .field("tensors", &self.header.entries().count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::Tensor;

    use super::*;
    use crate::Malformed;

    #[test]
    fn a_file_that_changes_its_length_is_refused() {
        let net = vec![("a", Tensor::from([1.0_f32, 2.0]))];
        let bytes = Checkpoint::of(&net).to_bytes().unwrap();
        let read = |bytes: &[u8], length: usize| {
            Checkpoint::read(&mut &bytes[..], length as u64, Checksums::Compare, in_memory)
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
