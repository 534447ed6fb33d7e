//! A checkpoint that was read and verified.

pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod open;
pub(crate) mod payload;
pub(crate) mod stored;

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::checkpoint::payload::Payload;
use crate::checkpoint::stored::{Foreign, Stored};
use crate::element::ElementType;
use crate::format::entry::{Group, TensorInfo};
use crate::format::header::Header;
use crate::format::section::{Section, SectionError};
use crate::run::{OptimizerState, Run};

/// A checkpoint: verified from the first byte to the last.
///
/// [`Checkpoint::of`] begins a new one. [`load`](Self::load) reads one into memory, [`open`](Self::open)
/// leaves the elements in the file. [`restore`](Self::restore) and
/// [`restore_with_optimizer`](Self::restore_with_optimizer) put the values back. As text it is a list of
/// everything in it, but the elements: see [`open`](Self::open).
///
/// ```
/// use backrule_io::tensor::Tensor;
/// use backrule_io::{Checkpoint, Run};
///
/// let mut net = vec![("weight", Tensor::from([1.0_f32, 2.0]))];
/// let run = Run { epoch: 3, seed: Some(42), ..Run::default() };
/// let metadata = "first try".to_string();
/// let bytes = Checkpoint::of(&net).run(&run).metadata(&metadata)?.to_bytes()?;
///
/// let checkpoint = Checkpoint::from_bytes(&bytes)?;
/// assert_eq!(*checkpoint.run(), run);
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
    /// The tensors of a file of somebody else's, in place of the header's entries.
    foreign: Arc<Vec<Foreign>>,
    /// All tensors' elements, in their order.
    payload: Payload,
    source: Source,
}

/// The source it was read from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// A checkpoint of so many bytes.
    Checkpoint { length: u64 },
    /// A file without checksums.
    #[cfg(feature = "safetensors")]
    Safetensors { length: u64 },
}

impl Checkpoint {
    pub(crate) fn new(header: Header, payload: Payload, source: Source) -> Self {
        Self { header, foreign: Arc::default(), payload, source }
    }

    /// A file of somebody else's: nothing but tensors.
    #[cfg(feature = "safetensors")]
    pub(crate) fn foreign(foreign: Vec<Foreign>, payload: Payload, source: Source) -> Self {
        Self { header: Header::default(), foreign: Arc::new(foreign), payload, source }
    }

    /// Where the run was: epoch, step, position in the data, seed, version of the program. All of a default
    /// one where nothing was given to [`Snapshot::run`](crate::Snapshot::run).
    pub fn run(&self) -> &Run {
        &self.header.run
    }

    /// The optimizer's steps and options; `None` when no optimizer was saved.
    pub fn optimizer(&self) -> Option<&OptimizerState> {
        self.header.optimizer_state.as_ref()
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
    /// [`element_count`](Self::element_count) before memory is taken for them; `Architecture::build` of
    /// backrule-nn asks for that number.
    ///
    /// # Errors
    /// Those of [`section`](Self::section).
    pub fn architecture<M: DeserializeOwned>(&self) -> Result<M, SectionError> {
        self.section(Section::Architecture)
    }

    /// The number of elements of all the network's tensors. The file holds as many: that was checked. Those
    /// of an [`Other`](ElementType::Other) type are left out.
    pub fn element_count(&self) -> usize {
        let counted =
            |it: &Stored<'_>| it.group == Group::Network && !matches!(it.dtype, ElementType::Other(_));
        self.stored().filter(counted).fold(0, |sum, it| sum.saturating_add(it.shape.elements()))
    }

    /// The value of a section. Fields that its type has gained since it was saved need `#[serde(default)]`;
    /// any self-describing type, such as `serde_json::Value`, shows all its fields.
    ///
    /// The memory for the value is taken by its type's `Deserialize`. Where there is none, serde's vectors
    /// and texts end the process.
    ///
    /// # Errors
    /// When it was not saved, or is not an `M`.
    pub fn section<M: DeserializeOwned>(&self, section: Section) -> Result<M, SectionError> {
        self.header.value(section)
    }

    /// The sections that were saved.
    pub fn sections(&self) -> impl Iterator<Item = Section> {
        self.header.sections().map(|(section, _)| section)
    }

    /// All tensors in the order in which they were visited: first the network's, then the optimizer's.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo> {
        self.stored().map(|it| it.info())
    }

    /// The same without their paths as texts of their own.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        self.header.entries().map(Stored::from).chain(self.foreign.iter().map(Stored::from))
    }

    /// The tensors of a group from the one at `place` on, with their places.
    pub(crate) fn stored_from(
        &self,
        group: Group,
        mut place: u32,
    ) -> impl Iterator<Item = (u32, Stored<'_>)> {
        std::iter::from_fn(move || {
            let (stored, next) = match self.header.entry(group, place) {
                Some((entry, next)) => (entry.into(), next),
                None if group == Group::Network => {
                    (self.foreign.get(place as usize)?.into(), place.saturating_add(1))
                }
                None => return None,
            };
            Some((std::mem::replace(&mut place, next), stored))
        })
    }

    /// The tensor at a place.
    pub(crate) fn at(&self, group: Group, place: u32) -> Option<Stored<'_>> {
        self.stored_from(group, place).next().map(|(_, stored)| stored)
    }

    pub(crate) fn payload(&self) -> &Payload {
        &self.payload
    }
}

/// Of elements that stay in a file the checksums are compared.
impl PartialEq for Checkpoint {
    fn eq(&self, other: &Self) -> bool {
        let elements = match (&self.payload, &other.payload) {
            (Payload::Memory(a), Payload::Memory(b)) => a == b,
            _ => true,
        };
        elements && self.header == other.header && self.foreign == other.foreign
    }
}

/// A summary: the elements would be too many.
impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("run", &self.header.run)
            .field("tensors", &self.stored().count())
            .finish_non_exhaustive()
    }
}
