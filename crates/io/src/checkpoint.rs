use std::fmt;
use std::io::Read;
use std::path::Path;

use crc32fast::Hasher;
use serde::de::DeserializeOwned;

use crate::envelope::Envelope;
use crate::header::{Entry, Header};
use crate::{Group, LoadError, LoadProblem, MetadataError, Part, TensorInfo, file, metadata};

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
#[derive(Clone, PartialEq)]
pub struct Checkpoint {
    header: Header,
    /// All tensors' elements, without gaps, in the order of the header's entries.
    payload: Vec<u8>,
}

impl Checkpoint {
    /// Reads and verifies a file. Nothing in it can make this panic, or allocate more than a small multiple of the
    /// file's length.
    ///
    /// # Errors
    /// When the file can't be read, is no checkpoint, was written by a later version, or is damaged in any way. The
    /// message names the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        file::open(path)
            .and_then(|(mut file, length)| Self::read(&mut file, length))
            .map_err(|problem| LoadError { file: Some(path.to_path_buf()), problem })
    }

    /// The same for a file's bytes in memory. The elements are copied.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        Self::read(&mut &bytes[..], bytes.len() as u64).map_err(|problem| LoadError { file: None, problem })
    }

    /// Reads `length` bytes, which must be all. Every length is compared with that before memory is taken for it.
    fn read(input: &mut impl Read, length: u64) -> Result<Self, LoadProblem> {
        let mut fixed = Vec::new();
        input.by_ref().take(Envelope::SIZE).read_to_end(&mut fixed)?;
        let envelope = Envelope::decode(&fixed, length)?;

        let header = read_exactly(input, envelope.header)?;
        if crc32fast::hash(&header) != envelope.header_crc {
            return Err(LoadProblem::Checksum(Part::Header));
        }
        let mut whole = Hasher::new();
        whole.update(&fixed);
        whole.update(&header);
        let header = Header::decode(&header)?;
        if let Some(bytes) = &header.metadata {
            metadata::verify(bytes)
                .map_err(|reason| LoadProblem::Malformed(format!("its metadata: {reason}")))?;
        }
        let size = header
            .tensors
            .iter()
            .try_fold(0_u64, |sum, entry| sum.checked_add(u64::try_from(entry.info.size()).ok()?));
        if size != Some(envelope.payload) {
            let reason = format!("its tensors don't add up to the {} bytes of its payload", envelope.payload);
            return Err(LoadProblem::Malformed(reason));
        }

        let payload = read_exactly(input, envelope.payload)?;
        let checkpoint = Self { header, payload };
        for (Entry { info, crc }, bytes) in checkpoint.entries() {
            let mut hasher = Hasher::new();
            hasher.update(bytes);
            // The checksum of the whole follows from those of the parts: the elements are read once.
            whole.combine(&hasher);
            if hasher.finalize() != *crc {
                return Err(LoadProblem::Checksum(Part::Tensor {
                    group: info.group,
                    path: info.path.clone(),
                }));
            }
        }
        if read_exactly(input, Envelope::END)? != whole.finalize().to_le_bytes() {
            return Err(LoadProblem::Checksum(Part::Whole));
        }
        if input.read(&mut [0])? > 0 {
            return Err(LoadProblem::Malformed("it grew while it was read".to_string()));
        }
        Ok(checkpoint)
    }

    /// The number of epochs that was saved, 0 if none was given.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// The number of steps that was saved, 0 if none was given.
    pub fn step(&self) -> u64 {
        self.header.step
    }

    /// The seed, if one was saved.
    pub fn seed(&self) -> Option<u64> {
        self.header.seed
    }

    /// The number of steps that the optimiser had made, if it was saved.
    pub fn optimizer_steps(&self) -> Option<u64> {
        self.header.optimizer_steps
    }

    /// The value that was given to [`Snapshot::metadata`](crate::Snapshot::metadata). Fields that the type has gained
    /// since then need `#[serde(default)]`; any self-describing type, such as `serde_json::Value`, shows what there is.
    ///
    /// # Errors
    /// When none was saved, or it is not an `M`.
    pub fn metadata<M: DeserializeOwned>(&self) -> Result<M, MetadataError> {
        let bytes = (self.header.metadata.as_deref()).ok_or(MetadataError::Missing)?;
        metadata::decode(bytes)
            .map_err(|reason| MetadataError::Deserialize { expected: std::any::type_name::<M>(), reason })
    }

    /// What tensors there are, in the order in which they were visited: first the network's, then the optimiser's.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.header.tensors.iter().map(|entry| &entry.info)
    }

    /// Every entry with its elements' bytes. `read` has checked that the sizes add up.
    fn entries(&self) -> impl Iterator<Item = (&Entry, &[u8])> {
        let mut payload = self.payload.as_slice();
        (self.header.tensors.iter()).map(move |entry| {
            let bytes = payload.split_off(..entry.info.size()).unwrap_or_default();
            (entry, bytes)
        })
    }

    /// Every tensor of a group with its elements' bytes.
    pub(crate) fn group(&self, group: Group) -> impl Iterator<Item = (&TensorInfo, &[u8])> {
        (self.entries().map(|(entry, bytes)| (&entry.info, bytes)))
            .filter(move |(info, _)| info.group == group)
    }
}

/// A summary: the elements would be too many.
impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("epoch", &self.epoch())
            .field("step", &self.step())
            .field("seed", &self.seed())
            .field("optimizer_steps", &self.optimizer_steps())
            .field("tensors", &self.header.tensors.len())
            .finish_non_exhaustive()
    }
}

/// The next `size` bytes. The caller has compared `size` with the length of what is there.
fn read_exactly(input: &mut impl Read, size: u64) -> Result<Vec<u8>, LoadProblem> {
    let mut bytes = Vec::new();
    let capacity = usize::try_from(size).unwrap_or(usize::MAX);
    (bytes.try_reserve_exact(capacity)).map_err(|error| LoadProblem::Io(error.into()))?;
    input.by_ref().take(size).read_to_end(&mut bytes)?;
    if bytes.len() < capacity {
        return Err(LoadProblem::Malformed("it shrank while it was read".to_string()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use backrule_tensor::Tensor;

    use super::*;

    #[test]
    fn a_file_that_changes_its_length_is_refused() {
        let net = vec![("a", Tensor::from([1.0_f32, 2.0]))];
        let bytes = Checkpoint::of(&net).to_bytes().unwrap();
        let read = |bytes: &[u8], length: usize| Checkpoint::read(&mut &bytes[..], length as u64);
        assert!(read(&bytes, bytes.len()).is_ok());
        for cut in 40..bytes.len() {
            let problem = read(&bytes[..cut], bytes.len()).unwrap_err();
            assert!(problem.to_string().contains("shrank"), "{cut}: {problem}");
        }
        let grown = [&bytes[..], &[0]].concat();
        let problem = read(&grown, bytes.len()).unwrap_err();
        assert!(problem.to_string().contains("grew"), "{problem}");
    }
}
