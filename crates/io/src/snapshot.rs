use std::collections::BTreeMap;
use std::io::{self, BufWriter, Cursor, Seek, Write};
use std::path::{Path, PathBuf};

use backrule_tensor::{NamedTensors, Scalar, Tensor, TrainingState};
use crc32fast::Hasher;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::{Envelope, VERSION};
use crate::header::{self, Entry, OptimizerState, Run};
use crate::{Checkpoint, Group, SaveError, SaveStep, Section, SectionError, file, section};

/// So many elements are converted and written at a time: 64 or 128 KiB, which stay in the cache.
const CHUNK: usize = 16_384;

/// What is going to be saved: made by [`Checkpoint::of`], completed, and then [saved](Self::save).
///
/// It borrows the tensors and copies none of them.
///
/// ```no_run
/// # use backrule_io::Checkpoint;
/// # use backrule_io::tensor::Tensor;
/// # let net = vec![("weight", Tensor::from([1.0_f32]))];
/// Checkpoint::of(&net).epoch(3).step(450).seed(42).metadata(&0.97)?.save("model.brk")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is saved before `save`"]
pub struct Snapshot<'a, T: Scalar> {
    /// Paths as text: the header will need them.
    network: Named<'a, T>,
    /// Empty without an optimiser.
    optimizer: Named<'a, T>,
    run: Run,
    sections: BTreeMap<Section, Vec<u8>>,
}

type Named<'a, T> = Vec<(String, &'a Tensor<T>)>;

impl Checkpoint {
    /// Begins a checkpoint of a network.
    pub fn of<'a, T: Scalar>(network: &'a (impl NamedTensors<T> + ?Sized)) -> Snapshot<'a, T> {
        Snapshot {
            network: network.tensors(),
            optimizer: Vec::new(),
            run: Run::default(),
            sections: BTreeMap::new(),
        }
    }
}

impl<'a, T: Scalar> Snapshot<'a, T> {
    /// Includes the optimiser's state: its tensors, how many steps it has made, and its options.
    pub fn optimizer(mut self, optimizer: &'a (impl TrainingState<T> + ?Sized)) -> Self {
        let (steps, options) = (optimizer.step_count(), optimizer.options());
        self.run.optimizer = Some(OptimizerState { steps, options });
        self.optimizer = optimizer.tensors();
        self
    }

    /// The number of epochs completed; 0 unless given.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.run.epoch = epoch;
        self
    }

    /// The number of steps, of the run or of the current epoch. 0 unless given; the optimiser's own count is saved with
    /// it.
    pub fn step(mut self, step: u64) -> Self {
        self.run.step = step;
        self
    }

    /// Where to go on in the data, in samples, batches or bytes as you like. 0 unless given.
    pub fn position(mut self, position: u64) -> Self {
        self.run.position = position;
        self
    }

    /// The seed of the run, from which random numbers go on.
    pub fn seed(mut self, seed: u64) -> Self {
        self.run.seed = Some(seed);
        self
    }

    /// The version of your program, such as `env!("CARGO_PKG_VERSION")` or a commit.
    pub fn program(mut self, version: impl Into<String>) -> Self {
        self.run.program = Some(version.into());
        self
    }

    /// Adds a value of your own: anything that serde can write and read back. [`Checkpoint::metadata`] reads it.
    ///
    /// The bytes of a `HashMap` change from run to run: with a `BTreeMap`, equal checkpoints are equal files.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// # let net = vec![("weight", Tensor::from([1.0_f32]))];
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Run {
    ///     name: String,
    ///     best_loss: f64,
    /// }
    ///
    /// let run = Run { name: "first try".to_string(), best_loss: f64::INFINITY };
    /// let bytes = Checkpoint::of(&net).metadata(&run)?.to_bytes()?;
    /// let run: Run = Checkpoint::from_bytes(&bytes)?.metadata()?;
    /// assert_eq!((run.name.as_str(), run.best_loss), ("first try", f64::INFINITY));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the value can't be written, or would not come back: both are tried here. Not noticed is what a type does
    /// to itself, such as an untagged enum whose first variant accepts the values of its second.
    pub fn metadata<M: Serialize + DeserializeOwned>(self, metadata: &M) -> Result<Self, SectionError> {
        self.section(Section::Metadata, metadata)
    }

    /// The metrics up to now, of a type of your own as for [`metadata`](Self::metadata). [`Checkpoint::metrics`] reads
    /// them.
    ///
    /// # Errors
    /// Those of [`metadata`](Self::metadata).
    pub fn metrics<M: Serialize + DeserializeOwned>(self, metrics: &M) -> Result<Self, SectionError> {
        self.section(Section::Metrics, metrics)
    }

    /// The learning rate's schedule, of a type of your own as for [`metadata`](Self::metadata).
    /// [`Checkpoint::schedule`] reads it.
    ///
    /// # Errors
    /// Those of [`metadata`](Self::metadata).
    pub fn schedule<M: Serialize + DeserializeOwned>(self, schedule: &M) -> Result<Self, SectionError> {
        self.section(Section::Schedule, schedule)
    }

    /// What layers the network is made of, from which it can be built again: the `Architecture` of backrule-nn, or a
    /// type of your own as for [`metadata`](Self::metadata). [`Checkpoint::architecture`] reads it.
    ///
    /// # Errors
    /// Those of [`metadata`](Self::metadata).
    pub fn architecture<M: Serialize + DeserializeOwned>(
        self,
        architecture: &M,
    ) -> Result<Self, SectionError> {
        self.section(Section::Architecture, architecture)
    }

    /// The value of a section; one that was given before is replaced. [`Checkpoint::section`] reads it.
    ///
    /// # Errors
    /// Those of [`metadata`](Self::metadata).
    pub fn section<M: Serialize + DeserializeOwned>(
        mut self,
        section: Section,
        value: &M,
    ) -> Result<Self, SectionError> {
        self.sections.insert(section, section::encode(section, value)?);
        Ok(self)
    }

    /// Writes the file, so that at any time, even if the power fails, the old file or the new one is there, whole.
    ///
    /// The bytes go to a file beside it (`.NAME.PID.TIME.tmp`), which is synced and renamed; then the directory is
    /// synced, except on systems where that can't be done (those that are not Unix). What a killed process has left
    /// beside it is removed by the next save. Several processes may save to one path: the last one to finish wins.
    ///
    /// A symbolic link is followed: the file that it leads to is replaced, or created. A file that is replaced hands on
    /// its mode and, where the system allows it, its owner and group; not its access control lists, and hard links to it
    /// keep the old contents. A read-only file is not replaced.
    ///
    /// # Errors
    /// [`SaveError::DurabilityUncertain`] when the new file is in place but the directory could not be synced; with any
    /// other, a file that was there is unchanged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SaveError> {
        let (entries, head) = self.plan()?;
        file::replace(path.as_ref(), |out| {
            // Gathers small tensors; what is larger than its buffer passes by.
            let mut out = BufWriter::new(out);
            self.write(entries, &head, &mut out)?;
            out.flush()
        })
    }

    /// The bytes of the file that [`save`](Self::save) would write.
    ///
    /// # Errors
    /// When there is more of something than a checkpoint can hold, or two tensors have the same path.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SaveError> {
        let (entries, head) = self.plan()?;
        let mut out = Cursor::new(Vec::new());
        // Writing to memory can't fail.
        self.write(entries, &head, &mut out).map_err(|source| SaveError::NotCommitted {
            file: PathBuf::new(),
            step: SaveStep::Write,
            source,
        })?;
        Ok(out.into_inner())
    }

    /// What there is to save, and how the file will begin, without the checksums: those are computed while the tensors
    /// are written, so that they are read once.
    fn plan(&self) -> Result<(Vec<Entry<'_>>, Vec<u8>), SaveError> {
        let entry = |(group, path, tensor): (_, _, &Tensor<T>)| {
            let (dtype, shape) = (T::DTYPE, tensor.shape());
            Entry { group, path, dtype, shape, crc: 0 }
        };
        let entries: Vec<_> = self.tensors().map(entry).collect();
        let head = self.head(&entries)?;
        Ok((entries, head))
    }

    /// The envelope's fixed part and the header: as long with any checksums.
    fn head(&self, entries: &[Entry<'_>]) -> Result<Vec<u8>, SaveError> {
        let payload = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.size() as u64));
        let header = header::encode(&self.run, &self.sections, entries)?;
        let header_crc = crc32fast::hash(&header);
        let envelope = Envelope { version: VERSION, header: header.len() as u64, payload, header_crc };
        let mut head = envelope.encode();
        head.extend(header);
        Ok(head)
    }

    /// Writes the whole file: the beginning first as it is planned, and in the end as it is.
    fn write(
        &self,
        mut entries: Vec<Entry<'_>>,
        planned: &[u8],
        out: &mut (impl Write + Seek),
    ) -> io::Result<()> {
        out.write_all(planned)?;
        let mut payload = Hasher::new();
        for (entry, (_, _, tensor)) in entries.iter_mut().zip(self.tensors()) {
            let mut crc = Hasher::new();
            chunks(tensor, |bytes| {
                crc.update(bytes);
                out.write_all(bytes)
            })?;
            payload.combine(&crc);
            entry.crc = crc.finalize();
        }
        // It was accepted without the checksums.
        let head = self.head(&entries).map_err(io::Error::other)?;
        let mut whole = Hasher::new();
        whole.update(&head);
        whole.combine(&payload);
        out.write_all(&whole.finalize().to_le_bytes())?;
        out.rewind()?;
        out.write_all(&head)
    }

    /// All tensors in the order of the file.
    fn tensors(&self) -> impl Iterator<Item = (Group, &str, &'a Tensor<T>)> {
        let network = self.network.iter().map(|tensor| (Group::Network, tensor));
        network
            .chain(self.optimizer.iter().map(|tensor| (Group::Optimizer, tensor)))
            .map(|(group, (path, tensor))| (group, path.as_str(), *tensor))
    }
}

/// Gives `take` a tensor's elements as little-endian bytes, piece by piece.
pub(crate) fn chunks<T: Scalar>(
    tensor: &Tensor<T>,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let size = |elements: usize| elements.saturating_mul(T::DTYPE.size());
    let mut bytes = vec![0; size(tensor.len().min(CHUNK))];
    for values in tensor.as_slice().chunks(CHUNK) {
        bytes.truncate(size(values.len()));
        T::write_le(values, &mut bytes);
        take(&bytes)?;
    }
    Ok(())
}
