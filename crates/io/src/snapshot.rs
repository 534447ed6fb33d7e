use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufWriter, Cursor, Seek, Write};
use std::path::{Path, PathBuf};

use backrule_tensor::{
    ConfigError, MemoryError, NamedTensors, Path as Place, Scalar, Tensor, TrainingState, memory,
};
use crc32fast::Hasher;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::Checkpoint;
use crate::file::durability::Durability;
use crate::file::error::{FileError, SaveStep};
use crate::file::replace::replace;
use crate::format::entry::{Entry, Group, Name};
use crate::format::envelope::{Envelope, VERSION};
use crate::format::header::{self, NotEncoded};
use crate::format::limits::{self, LimitError, MAX_PROGRAM, PROGRAM};
use crate::format::section::{self, Section, SectionError};
use crate::run::{OptimizerState, Run};

/// Elements that are converted and written at a time: 64 or 128 KiB, which stay in the cache.
const CHUNK: usize = 16_384;

/// A checkpoint that is going to be saved: made by [`Checkpoint::of`], completed, and then
/// [saved](Self::save).
///
/// It borrows the tensors and copies none of them.
///
/// ```no_run
/// # use backrule_io::tensor::Tensor;
/// # use backrule_io::{Checkpoint, Run};
/// # let net = vec![("weight", Tensor::from([1.0_f32]))];
/// let run = Run { epoch: 3, step: 450, seed: Some(42), ..Run::default() };
/// Checkpoint::of(&net).run(&run).metadata(&0.97)?.save("model.brk")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is saved before `save`"]
pub struct Snapshot<'a, T: Scalar> {
    /// Paths as text: the header will need them.
    network: Named<'a, T>,
    /// Empty without an optimizer.
    optimizer: Named<'a, T>,
    optimizer_state: Option<OptimizerState>,
    run: Run,
    sections: BTreeMap<Section, Vec<u8>>,
    finite_only: bool,
    /// Why it can't be saved: the first reason.
    refused: Option<NotEncoded>,
}

pub(crate) type Named<'a, T> = Vec<(String, &'a Tensor<T>)>;

/// All tensors with their paths.
pub(crate) fn named<'a, T: Scalar>(
    tensors: &'a (impl NamedTensors<T> + ?Sized),
) -> Result<Named<'a, T>, MemoryError> {
    let (mut named, mut refused) = (memory::room("save", tensors.tensor_count())?, None);
    tensors.visit(Place::ROOT, &mut |path, _, tensor| {
        if refused.is_none() {
            refused = memory::push("save", &mut named, (path.to_string(), tensor)).err();
        }
    });
    refused.map_or(Ok(named), Err)
}

impl Checkpoint {
    /// Begins a checkpoint of a network.
    pub fn of<'a, T: Scalar>(network: &'a (impl NamedTensors<T> + ?Sized)) -> Snapshot<'a, T> {
        let (network, refused) = match named(network) {
            Ok(network) => (network, None),
            Err(error) => (Vec::new(), Some(error.into())),
        };
        Snapshot {
            network,
            optimizer: Vec::new(),
            optimizer_state: None,
            run: Run::default(),
            sections: BTreeMap::new(),
            finite_only: false,
            refused,
        }
    }
}

impl<'a, T: Scalar> Snapshot<'a, T> {
    /// Includes the optimizer's state: its tensors, the number of steps that it has made, and its options.
    pub fn optimizer(mut self, optimizer: &'a (impl TrainingState<T> + ?Sized)) -> Self {
        let (steps, options) = (optimizer.step_count(), optimizer.options());
        self.optimizer_state = Some(OptimizerState { steps, options });
        match named(optimizer) {
            Ok(optimizer) => self.optimizer = optimizer,
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Where the run is; [`Run::default`] unless given. [`Checkpoint::run`] gives it back.
    pub fn run(mut self, run: &Run) -> Self {
        match limits::check(PROGRAM, run.program.as_ref().map_or(0, String::len), MAX_PROGRAM) {
            Ok(()) => self.run = run.clone(),
            // It isn't copied: it may be of any length.
            Err(error) => self.refuse(error),
        }
        self
    }

    fn refuse(&mut self, reason: impl Into<NotEncoded>) {
        self.refused.get_or_insert(reason.into());
    }

    /// Refuses to save a tensor with NaN or an infinity in it, of the network or of the optimizer: a run that
    /// diverged then doesn't replace the last good checkpoint.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// let net = vec![("fc.bias", Tensor::from([0.5_f32, f32::NAN]))];
    /// assert!(Checkpoint::of(&net).to_bytes().is_ok());
    /// let error = Checkpoint::of(&net).finite_only().to_bytes().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "not saved: network `fc.bias` has NaN at element 1: did the run diverge?"
    /// );
    /// ```
    pub fn finite_only(mut self) -> Self {
        self.finite_only = true;
        self
    }

    /// Adds a value of your own: anything that serde can write and read back. [`Checkpoint::metadata`] reads
    /// it.
    ///
    /// The bytes of a `HashMap` change from run to run: with a `BTreeMap`, equal checkpoints are equal files.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// # let net = vec![("weight", Tensor::from([1.0_f32]))];
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Notes {
    ///     name: String,
    ///     best_loss: f64,
    /// }
    ///
    /// let notes = Notes { name: "first try".to_string(), best_loss: f64::INFINITY };
    /// let bytes = Checkpoint::of(&net).metadata(&notes)?.to_bytes()?;
    /// let notes: Notes = Checkpoint::from_bytes(&bytes)?.metadata()?;
    /// assert_eq!((notes.name.as_str(), notes.best_loss), ("first try", f64::INFINITY));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the value can't be written, or would not come back: both are tried here. Two changes are not
    /// noticed. As in every format of serde, `Some(None)` and `Some(())` come back as `None`; and an untagged
    /// enum whose first variant accepts the values of its second comes back as the first.
    ///
    /// Memory for the bytes that isn't there is an error. For the type's own memory when it is read, its
    /// `Deserialize` answers: serde's vectors and texts end the process.
    pub fn metadata<M: Serialize + DeserializeOwned>(self, metadata: &M) -> Result<Self, SectionError> {
        self.section(Section::Metadata, metadata)
    }

    /// The metrics up to now, of a type of your own as for [`metadata`](Self::metadata).
    /// [`Checkpoint::metrics`] reads them.
    ///
    /// # Errors
    /// Those of [`metadata`](Self::metadata).
    pub fn metrics<M: Serialize + DeserializeOwned>(self, metrics: &M) -> Result<Self, SectionError> {
        self.section(Section::Metrics, metrics)
    }

    /// The schedule of the learning rate, of a type of your own as for [`metadata`](Self::metadata).
    /// [`Checkpoint::schedule`] reads it.
    ///
    /// # Errors
    /// Those of [`metadata`](Self::metadata).
    pub fn schedule<M: Serialize + DeserializeOwned>(self, schedule: &M) -> Result<Self, SectionError> {
        self.section(Section::Schedule, schedule)
    }

    /// The layers that the network is made of, from which it can be built again: the `Architecture` of
    /// backrule-nn, or a type of your own as for [`metadata`](Self::metadata). [`Checkpoint::architecture`]
    /// reads it.
    ///
    /// # Errors
    /// Those of [`metadata`](Self::metadata), and when a text in it is longer than
    /// [`MAX_ARCHITECTURE_TEXT`](crate::limits::MAX_ARCHITECTURE_TEXT) bytes.
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

    /// Writes the file. At any time, even if the power fails, the old file or the new one is there, whole.
    ///
    /// The bytes go to a file beside it (`.NAME.PID.TIME.KERNEL.tmp`), which is synced and renamed. Then the
    /// folder is synced; where folders can't be, the save succeeds without, and returns
    /// [`Durability::FileOnly`]. [`Durability::in_folder`] tells beforehand. A file that a killed process has
    /// left beside it is removed by the next save. Several processes may save to one path: the last one to
    /// finish wins.
    ///
    /// A symbolic link is followed: the file that it leads to is replaced, or created. In a folder that
    /// everybody can write to, a link of another user is an error. A file that is replaced hands on its mode,
    /// its extended attributes and, where the system allows it, its owner, group and access control list.
    /// Hard links to it keep the old contents. A read-only file is not replaced, and neither is one of
    /// another user in a sticky folder of everybody.
    ///
    /// # Errors
    /// [`FileError::DurabilityUncertain`] when the new file is in place but syncing its folder failed. With
    /// any other error, a file that was there is unchanged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Durability, SaveError> {
        let (entries, head) = self.plan()?;
        let buffer = self.buffer()?;
        let durability = replace(path.as_ref(), |out| {
            let mut out = gathered(out);
            self.write(entries, head, buffer, &mut out)?;
            out.flush()
        })?;
        Ok(durability)
    }

    /// The bytes of the file that [`save`](Self::save) would write.
    ///
    /// # Errors
    /// When there is more of something than a checkpoint can hold, two tensors have the same path, or there
    /// is not enough memory.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SaveError> {
        let (entries, head) = self.plan()?;
        let payload = entries.iter().fold(0_usize, |sum, entry| sum.saturating_add(entry.size()));
        let size = head.len().saturating_add(payload).saturating_add(Envelope::END as usize);
        let mut out = Cursor::new(memory::room("save", size)?);
        written(self.write(entries, head, self.buffer()?, &mut out))?;
        Ok(out.into_inner())
    }

    /// The entries to be saved, and the beginning of the file without the checksums: those are computed while
    /// the tensors are written, so each tensor is read once.
    fn plan(&self) -> Result<(Vec<Entry<'_>>, Vec<u8>), SaveError> {
        if let Some(reason) = &self.refused {
            return Err(reason.clone().into());
        }
        let entry = |(group, path, tensor): (_, _, &Tensor<T>)| {
            let (dtype, shape) = (T::DTYPE, tensor.shape());
            Entry { group, path, dtype, shape, crc: 0 }
        };
        let entries = memory::collect("save", self.tensors().map(entry))?;
        check_paths(&entries)?;
        if let Some(state) = &self.optimizer_state {
            state.options.check().map_err(|error| SaveError::Option(error.of("optimizer")))?;
        }
        if self.finite_only {
            self.tensors().try_for_each(|(group, path, tensor)| check_finite(group, path, tensor))?;
        }
        let head = self.head(Vec::new(), &entries)?;
        Ok((entries, head))
    }

    /// The first 40 bytes and the header, in the place of `head`'s contents. Their length doesn't depend on
    /// the checksums.
    fn head(&self, mut head: Vec<u8>, entries: &[Entry<'_>]) -> Result<Vec<u8>, NotEncoded> {
        let payload = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.size() as u64));
        head.clear();
        // Written over below.
        head.extend([0; Envelope::SIZE as usize]);
        let mut head =
            header::encode(head, &self.run, self.optimizer_state.as_ref(), &self.sections, entries)?;
        if let Some((first, header)) = head.split_first_chunk_mut() {
            let header_crc = crc32fast::hash(header);
            let envelope = Envelope { version: VERSION, header: header.len() as u64, payload, header_crc };
            *first = envelope.encode();
        }
        Ok(head)
    }

    /// For the bytes of one piece of a tensor.
    fn buffer(&self) -> Result<Vec<u8>, SaveError> {
        chunk_buffer(self.tensors().map(|(_, _, tensor)| tensor))
    }

    /// Writes the whole file: the beginning first as planned, and in the end with the checksums.
    fn write(
        &self,
        mut entries: Vec<Entry<'_>>,
        planned: Vec<u8>,
        mut buffer: Vec<u8>,
        out: &mut (impl Write + Seek),
    ) -> io::Result<()> {
        out.write_all(&planned)?;
        let mut payload = Hasher::new();
        for (entry, (_, _, tensor)) in entries.iter_mut().zip(self.tensors()) {
            let mut crc = Hasher::new();
            chunks(tensor, &mut buffer, |bytes| {
                crc.update(bytes);
                out.write_all(bytes)
            })?;
            payload.combine(&crc);
            entry.crc = crc.finalize();
        }
        // It was accepted without the checksums, and is no longer with them.
        let head = self.head(planned, &entries).map_err(|error| io::Error::other(SaveError::from(error)))?;
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

/// Gathers small tensors for `out`; one larger than its buffer passes by. The buffer is small, too: one
/// that the system has no memory for would end the process.
pub(crate) fn gathered<W: Write>(out: W) -> BufWriter<W> {
    BufWriter::with_capacity(2 << 10, out)
}

/// A buffer for [`chunks`] of any of these tensors.
pub(crate) fn chunk_buffer<'a, T: Scalar>(
    tensors: impl Iterator<Item = &'a Tensor<T>>,
) -> Result<Vec<u8>, SaveError> {
    let most = tensors.map(Tensor::len).max().unwrap_or(0).min(CHUNK).saturating_mul(T::DTYPE.size());
    let mut buffer = memory::room("save", most)?;
    buffer.resize(most, 0);
    Ok(buffer)
}

/// Gives `take` a tensor's elements as little-endian bytes, piece by piece, by way of `buffer`.
pub(crate) fn chunks<T: Scalar>(
    tensor: &Tensor<T>,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    for values in tensor.as_slice().chunks(CHUNK) {
        let size = values.len().saturating_mul(T::DTYPE.size());
        let bytes = buffer.get_mut(..size).unwrap_or_default();
        T::write_le(values, bytes);
        take(bytes)?;
    }
    Ok(())
}

/// Refuses two tensors of one path.
pub(crate) fn check_paths(entries: &[Entry<'_>]) -> Result<(), SaveError> {
    match header::duplicate(entries)? {
        None => Ok(()),
        Some((group, path)) => Err(SaveError::Duplicate { group, path: path.to_string() }),
    }
}

fn check_finite<T: Scalar>(group: Group, path: &str, tensor: &Tensor<T>) -> Result<(), SaveError> {
    let mut values = tensor.as_slice().iter().enumerate();
    match values.find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((at, value)) => {
            Err(SaveError::NotFinite { group, path: path.to_string(), at, value: value.to_f64() })
        }
    }
}

/// The outcome of writing to memory that was there already, which can't fail.
pub(crate) fn written(outcome: io::Result<()>) -> Result<(), SaveError> {
    let failed = |error| FileError::NotCommitted { file: PathBuf::new(), step: SaveStep::Write, error };
    outcome.map_err(|error| failed(error).into())
}

/// Why a checkpoint was not saved, or not surely.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// There is too much of something. Nothing was written.
    #[error("not saved: {0}")]
    Limit(LimitError),
    /// Two tensors have the same path, so they couldn't be told apart. Nothing was written.
    #[error("not saved: two tensors are called {}: give them different names", Name(*group, path))]
    Duplicate {
        /// Whose tensors they are.
        group: Group,
        /// The path they share.
        path: String,
    },
    /// An option of the optimizer can't be written: two have one name, or there is too much of something.
    /// Nothing was written.
    #[error("not saved: {0}")]
    Option(ConfigError),
    /// A name that a safetensors file keeps for itself. Nothing was written.
    #[cfg(feature = "safetensors")]
    #[error("not saved: a safetensors file can't have a tensor called `{}`: give it another name", path.escape_debug())]
    Reserved {
        /// The name.
        path: String,
    },
    /// A tensor has NaN or an infinity, and [`Snapshot::finite_only`] was asked for. Nothing was written.
    #[error("not saved: {} has {value} at element {at}: did the run diverge?", Name(*group, path))]
    NotFinite {
        /// Whose tensor it is.
        group: Group,
        /// Its path.
        path: String,
        /// The first such element, in row-major order.
        at: usize,
        /// Its value.
        value: f64,
    },
    /// There is not enough memory for the bytes.
    #[error("not saved: {0}")]
    Memory(MemoryError),
    /// The file was not put in place, or not surely.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<MemoryError> for SaveError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<LimitError> for SaveError {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

impl From<NotEncoded> for SaveError {
    fn from(reason: NotEncoded) -> Self {
        match reason {
            NotEncoded::Limit(error) => error.into(),
            NotEncoded::Memory(error) => error.into(),
        }
    }
}

impl fmt::Debug for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return backrule_tensor::write_with_causes(self, f);
        }
        match self {
            Self::Limit(error) => f.debug_tuple("Limit").field(error).finish(),
            Self::Duplicate { group, path } => {
                f.debug_struct("Duplicate").field("group", group).field("path", path).finish()
            }
            Self::Option(error) => f.debug_tuple("Option").field(error).finish(),
            #[cfg(feature = "safetensors")]
            Self::Reserved { path } => f.debug_struct("Reserved").field("path", path).finish(),
            Self::NotFinite { group, path, at, value } => (f.debug_struct("NotFinite"))
                .field("group", group)
                .field("path", path)
                .field("at", at)
                .field("value", value)
                .finish(),
            Self::Memory(error) => f.debug_tuple("Memory").field(error).finish(),
            Self::File(error) => f.debug_tuple("File").field(error).finish(),
        }
    }
}
