//! The header: everything but the elements. This is the only place that knows bincode.
//!
//! It is a sequence of bincode values with integers of fixed width in little-endian order; README.md lists them. bincode
//! itself is finished and no longer maintained, which is why it gets no further than this file: the layout is specified
//! without reference to it, `tests/checkpoint/layout.rs` writes the same bytes by hand, and `wincode` has the same layout.

use std::collections::BTreeSet;

use backrule_tensor::{DType, MAX_RANK, Shape};
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{BorrowDecode, Encode};

use crate::info::Name;
use crate::limits::{self, MAX_HEADER, MAX_METADATA, MAX_PATH, MAX_TENSORS};
use crate::{Group, LimitError, LoadProblem, SaveError, TensorInfo};

/// The limit bounds what one value may claim; everything decoded here is borrowed or a number, so that a claim never
/// becomes an allocation.
const CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_HEADER>> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_HEADER>();

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) seed: Option<u64>,
    pub(crate) metadata: Option<Vec<u8>>,
    /// The number of steps that the optimiser has made; `None` when no optimiser was saved.
    pub(crate) optimizer_steps: Option<u64>,
    /// In the order of their elements in the payload: first the network's, then the optimiser's.
    pub(crate) tensors: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) info: TensorInfo,
    /// Of its elements' bytes.
    pub(crate) crc: u32,
}

/// What keeps a header from being written, and one that was read from being accepted.
pub(crate) enum Refusal {
    Limit(LimitError),
    Duplicate(Group, String),
}

impl Header {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Refusal> {
        self.check()?;
        let mut out = Vec::new();
        put(&mut out, (self.epoch, self.step, self.seed))?;
        put(&mut out, self.metadata.as_deref())?;
        self.encode_group(Group::Network, &mut out)?;
        put(&mut out, self.optimizer_steps)?;
        if self.optimizer_steps.is_some() {
            self.encode_group(Group::Optimizer, &mut out)?;
        }
        limits::check("bytes of the header", out.len(), MAX_HEADER)?;
        Ok(out)
    }

    fn encode_group(&self, group: Group, out: &mut Vec<u8>) -> Result<(), LimitError> {
        // `check` has made sure that the count fits.
        put(out, self.group(group).count() as u32)?;
        for Entry { info, crc } in self.group(group) {
            put(out, (info.path.as_str(), dtype_code(info.dtype)))?;
            put(out, info.shape.rank() as u8)?;
            for &size in info.shape.iter() {
                put(out, size as u64)?;
            }
            put(out, crc)?;
        }
        Ok(())
    }

    /// Reads what [`encode`](Self::encode) writes, and nothing else: another spelling of the same values is refused.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LoadProblem> {
        let mut input = bytes;
        let (epoch, step, seed) = get(&mut input)?;
        let metadata: Option<&[u8]> = get(&mut input)?;
        let mut tensors = Vec::new();
        decode_group(Group::Network, &mut input, &mut tensors)?;
        let optimizer_steps: Option<u64> = get(&mut input)?;
        if optimizer_steps.is_some() {
            decode_group(Group::Optimizer, &mut input, &mut tensors)?;
        }
        let header =
            Self { epoch, step, seed, metadata: metadata.map(<[u8]>::to_vec), optimizer_steps, tensors };
        if !input.is_empty() {
            return Err(malformed(format!("{} spare bytes in its header", input.len())));
        }
        if header.encode()? != bytes {
            return Err(malformed("its header is not in canonical form"));
        }
        Ok(header)
    }

    pub(crate) fn group(&self, group: Group) -> impl Iterator<Item = &Entry> {
        (self.tensors.iter()).filter(move |entry| entry.info.group == group)
    }

    /// The limits, for writing and reading alike.
    fn check(&self) -> Result<(), Refusal> {
        let metadata = self.metadata.as_ref().map_or(0, Vec::len);
        limits::check("bytes of metadata", metadata, MAX_METADATA)?;
        for group in [Group::Network, Group::Optimizer] {
            check_count(group, self.group(group).count())?;
        }
        let mut paths = BTreeSet::new();
        for Entry { info, .. } in &self.tensors {
            let what = || {
                let start: String = info.path.chars().take(40).collect();
                format!("bytes of the path of {}…", Name(info.group, &start))
            };
            if info.path.len() > MAX_PATH {
                limits::check(&what(), info.path.len(), MAX_PATH)?;
            }
            if !paths.insert((info.group, info.path.as_str())) {
                return Err(Refusal::Duplicate(info.group, info.path.clone()));
            }
        }
        Ok(())
    }
}

fn decode_group(group: Group, input: &mut &[u8], tensors: &mut Vec<Entry>) -> Result<(), LoadProblem> {
    let count: u32 = get(input)?;
    check_count(group, usize::try_from(count).unwrap_or(usize::MAX))?;
    // The vector grows with the entries that are there, not with the count that is claimed.
    for _ in 0..count {
        let (path, dtype, rank): (&str, u8, u8) = get(input)?;
        limits::check("axes of a tensor", rank.into(), MAX_RANK)?;
        let mut sizes = [0; MAX_RANK];
        let sizes = sizes.get_mut(..rank.into()).unwrap_or_default();
        for size in sizes.iter_mut() {
            let stored: u64 = get(input)?;
            *size = usize::try_from(stored)
                .map_err(|_| malformed(format!("a size of {stored} in {}", Name(group, path))))?;
        }
        let shape =
            Shape::new(sizes).map_err(|error| malformed(format!("{}: {error}", Name(group, path))))?;
        let dtype = dtype_of(dtype)
            .ok_or_else(|| malformed(format!("element type {dtype} of {}", Name(group, path))))?;
        let info = TensorInfo { group, path: path.to_string(), dtype, shape };
        let crc = get(input)?;
        tensors.push(Entry { info, crc });
    }
    Ok(())
}

fn check_count(group: Group, count: usize) -> Result<(), LimitError> {
    limits::check(&format!("tensors of the {group}"), count, MAX_TENSORS)
}

fn dtype_code(dtype: DType) -> u8 {
    match dtype {
        DType::F32 => 1,
        DType::F64 => 2,
    }
}

fn dtype_of(code: u8) -> Option<DType> {
    match code {
        1 => Some(DType::F32),
        2 => Some(DType::F64),
        _ => None,
    }
}

/// Appends one bincode value. Writing numbers and bytes to a vector can't fail; should bincode refuse all the same,
/// nothing is saved.
fn put(out: &mut Vec<u8>, value: impl Encode) -> Result<(), LimitError> {
    match bincode::encode_into_std_write(value, out, CONFIG) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(LimitError { what: format!("values that bincode can't write ({error})"), found: 1, limit: 0 })
        }
    }
}

/// Splits one bincode value off the input.
fn get<'a, D: BorrowDecode<'a, ()>>(input: &mut &'a [u8]) -> Result<D, LoadProblem> {
    let (value, used) = bincode::borrow_decode_from_slice(input, CONFIG)
        .map_err(|error| malformed(format!("its header can't be decoded: {error}")))?;
    *input = input.get(used..).unwrap_or_default();
    Ok(value)
}

fn malformed(reason: impl Into<String>) -> LoadProblem {
    LoadProblem::Malformed(reason.into())
}

impl From<LimitError> for Refusal {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

impl From<Refusal> for SaveError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Limit(error) => Self::Limit(error),
            Refusal::Duplicate(group, path) => Self::Duplicate { group, path },
        }
    }
}

impl From<Refusal> for LoadProblem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Limit(error) => Self::Limit(error),
            Refusal::Duplicate(group, path) => malformed(format!("it has {} twice", Name(group, &path))),
        }
    }
}
