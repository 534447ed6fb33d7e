//! The header: everything but the elements. docs/checkpoint-format.md lists its values.
//!
//! The bytes read stay as they are in the file, and are decoded again when they are asked for: a list of
//! tensors would take many times the memory of their entries.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use backrule_tensor::{DType, MAX_RANK, MemoryError, Shape, memory};
use serde::de::DeserializeOwned;

use crate::format::bytes::Bytes;
use crate::format::codec::{Same, get, put};
use crate::format::entry::{Entry, Group};
use crate::format::limits::{
    self, LimitError, MAX_HEADER, MAX_PATH, MAX_PROGRAM, MAX_SECTION, MAX_TENSORS, PROGRAM,
};
use crate::format::options;
use crate::format::problem::{LoadProblem, Malformed};
use crate::format::section::{self, Section, SectionError, SectionProblem};
use crate::run::{OptimizerState, Run};

/// A header that was read and found right; by default one of nothing.
#[derive(Clone, Default)]
pub(crate) struct Header {
    pub(crate) run: Run,
    /// `None` when no optimizer was saved.
    pub(crate) optimizer_state: Option<OptimizerState>,
    bytes: Vec<u8>,
    /// Where in `bytes` the contents are.
    sections: Vec<(Section, Range<usize>)>,
    network: Range<usize>,
    optimizer: Range<usize>,
}

/// The bytes decide everything, and they equal themselves even where an option is NaN.
impl PartialEq for Header {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Header {
    /// Reads the output of [`encode`] and nothing else: another spelling of the same values is refused.
    pub(crate) fn decode(bytes: Vec<u8>) -> Result<Self, LoadProblem> {
        let mut input = bytes.as_slice();
        let mut run = Run {
            epoch: get(&mut input, "the epoch")?,
            step: get(&mut input, "the step")?,
            position: get(&mut input, "the position")?,
            seed: get(&mut input, "the seed")?,
            ..Run::default()
        };
        let program: Option<&str> = get(&mut input, "the program")?;
        limits::check(PROGRAM, program.map_or(0, str::len), MAX_PROGRAM)?;
        run.program = program.map(str::to_string);
        let sections = decode_sections(&bytes, &mut input)?;
        let optimizer_state = match get(&mut input, "the optimizer's steps")? {
            Some(steps) => Some(OptimizerState { steps, options: options::decode(&mut input)? }),
            None => None,
        };
        let network = decode_group(Group::Network, &bytes, &mut input)?;
        let optimizer = match optimizer_state {
            Some(_) => decode_group(Group::Optimizer, &bytes, &mut input)?,
            None => 0..0,
        };
        if !input.is_empty() {
            return Err(Malformed::SpareBytes { count: input.len() }.into());
        }
        let header = Self { run, optimizer_state, bytes, sections, network, optimizer };
        for (section, content) in header.sections() {
            limits::check(&format!("bytes of {section}"), content.len(), MAX_SECTION)?;
        }
        if header.is_canonical()? { Ok(header) } else { Err(Malformed::NotCanonical.into()) }
    }

    pub(crate) fn sections(&self) -> impl ExactSizeIterator<Item = (Section, &[u8])> {
        self.sections.iter().map(|(section, at)| (*section, self.bytes.get(at.clone()).unwrap_or_default()))
    }

    /// The value of a section.
    pub(crate) fn value<M: DeserializeOwned>(&self, section: Section) -> Result<M, SectionError> {
        let content = self.sections().find(|(other, _)| *other == section);
        let read = content.ok_or(SectionProblem::Missing).and_then(|(_, bytes)| {
            let expected = std::any::type_name::<M>();
            section::decode(bytes).map_err(|reason| SectionProblem::Deserialize { expected, reason })
        });
        read.map_err(|problem| SectionError { section, problem })
    }

    /// Every tensor, in the order of their elements in the payload: first the network's, then the
    /// optimizer's.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.group(Group::Network).chain(self.group(Group::Optimizer))
    }

    fn group(&self, group: Group) -> impl Iterator<Item = Entry<'_>> {
        let mut input = self.bytes_of(group);
        std::iter::from_fn(move || decode_entry(group, &mut input).ok())
    }

    /// The entry at a place, counted in bytes from the group's first one, and the place of the next one.
    pub(crate) fn entry(&self, group: Group, place: u32) -> Option<(Entry<'_>, u32)> {
        let all = self.bytes_of(group);
        let mut input = all.get(place as usize..)?;
        let entry = decode_entry(group, &mut input).ok()?;
        Some((entry, place_of(all, input)))
    }

    fn bytes_of(&self, group: Group) -> &[u8] {
        let at = match group {
            Group::Network => &self.network,
            Group::Optimizer => &self.optimizer,
        };
        self.bytes.get(at.clone()).unwrap_or_default()
    }

    /// Whether writing these values gives these bytes.
    fn is_canonical(&self) -> Result<bool, LimitError> {
        let mut same = Same::new(&self.bytes);
        let optimizer = self.optimizer_state.as_ref();
        write(&mut same, &self.run, optimizer, self.sections(), |group| self.group(group))?;
        Ok(same.all())
    }
}

/// Why there is no header.
#[derive(Clone, Debug)]
pub(crate) enum NotEncoded {
    Limit(LimitError),
    Memory(MemoryError),
}

impl From<LimitError> for NotEncoded {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

impl From<MemoryError> for NotEncoded {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// The bytes of a header, behind those of `before`. That no path stands twice is the caller's to check:
/// see [`duplicate`].
pub(crate) fn encode(
    before: Vec<u8>,
    run: &Run,
    optimizer: Option<&OptimizerState>,
    sections: &BTreeMap<Section, Vec<u8>>,
    entries: &[Entry<'_>],
) -> Result<Vec<u8>, NotEncoded> {
    let program = run.program.as_ref().map_or(0, String::len);
    limits::check(PROGRAM, program, MAX_PROGRAM)?;
    let group = |group| entries.iter().copied().filter(move |entry| entry.group == group);
    for of in [Group::Network, Group::Optimizer] {
        check_count(of, group(of).count())?;
    }
    entries.iter().try_for_each(check_path)?;
    let start = before.len();
    let mut out = Bytes::new(before);
    let sections = sections.iter().map(|(section, content)| (*section, content.as_slice()));
    write(&mut out, run, optimizer, sections, group)?;
    limits::check("bytes of the header", out.len().saturating_sub(start), MAX_HEADER)?;
    Ok(out.finish()?)
}

/// A path that stands twice in one group.
pub(crate) fn duplicate<'a>(entries: &[Entry<'a>]) -> Result<Option<(Group, &'a str)>, MemoryError> {
    for group in [Group::Network, Group::Optimizer] {
        let of_group = |place: &u32| entries.get(*place as usize).is_some_and(|it| it.group == group);
        let places = memory::collect("save", (0_u32..).take(entries.len()).filter(of_group))?;
        let path = |place| entries.get(place as usize).map(|it| it.path).unwrap_or_default();
        if let Some(path) = twice(places, path) {
            return Ok(Some((group, path)));
        }
    }
    Ok(None)
}

/// The fields one after the other. The counts are within their limits.
fn write<'a, E: Iterator<Item = Entry<'a>>>(
    out: &mut impl Write,
    run: &Run,
    optimizer: Option<&OptimizerState>,
    sections: impl ExactSizeIterator<Item = (Section, &'a [u8])>,
    group: impl Fn(Group) -> E,
) -> Result<(), LimitError> {
    put(out, (run.epoch, run.step, run.position))?;
    put(out, (run.seed, run.program.as_deref()))?;
    put(out, sections.len() as u32)?;
    for (section, content) in sections {
        put(out, (section.code(), content))?;
    }
    put(out, optimizer.map(|optimizer| optimizer.steps))?;
    if let Some(optimizer) = optimizer {
        options::encode(out, &optimizer.options)?;
    }
    write_group(out, || group(Group::Network))?;
    if optimizer.is_some() {
        write_group(out, || group(Group::Optimizer))?;
    }
    Ok(())
}

fn write_group<'a, E: Iterator<Item = Entry<'a>>>(
    out: &mut impl Write,
    entries: impl Fn() -> E,
) -> Result<(), LimitError> {
    put(out, entries().count() as u32)?;
    for Entry { path, dtype, shape, crc, .. } in entries() {
        put(out, (path, dtype_code(dtype), shape.rank() as u8))?;
        for &size in shape.iter() {
            put(out, size as u64)?;
        }
        put(out, crc)?;
    }
    Ok(())
}

fn decode_sections(bytes: &[u8], input: &mut &[u8]) -> Result<Vec<(Section, Range<usize>)>, LoadProblem> {
    let count: u32 = get(input, "the number of sections")?;
    let mut sections = Vec::new();
    // Their order is strict, so there can't be many.
    for _ in 0..count {
        let code = get(input, "a section's code")?;
        let section = Section::of(code).ok_or(Malformed::UnknownSection { code })?;
        if sections.last().is_some_and(|(before, _)| *before >= section) {
            return Err(Malformed::SectionOrder { section }.into());
        }
        let content: &[u8] = get(input, "a section")?;
        sections.push((section, range(bytes.len().saturating_sub(input.len()), content.len())));
    }
    Ok(sections)
}

/// Checks the entries of a group, and gives their place.
fn decode_group(group: Group, bytes: &[u8], input: &mut &[u8]) -> Result<Range<usize>, LoadProblem> {
    let count: u32 = get(input, "a number of tensors")?;
    check_count(group, usize::try_from(count).unwrap_or(usize::MAX))?;
    let (all, mut places) = (*input, Vec::new());
    // The vector grows with the entries that are there, not with the count that is claimed.
    for _ in 0..count {
        let place = place_of(all, input);
        check_path(&decode_entry(group, input)?)?;
        memory::push("load", &mut places, place)?;
    }
    let path = |place| {
        let mut entry = all.get(place as usize..).unwrap_or_default();
        get(&mut entry, "").unwrap_or_default()
    };
    if let Some(path) = twice(places, path) {
        return Err(Malformed::DuplicatePath { group, path: path.to_string() }.into());
    }
    let length = all.len().saturating_sub(input.len());
    Ok(range(bytes.len().saturating_sub(input.len()), length))
}

fn decode_entry<'a>(group: Group, input: &mut &'a [u8]) -> Result<Entry<'a>, LoadProblem> {
    let path: &str = get(input, "a tensor's path")?;
    let owner = || (group, path.to_string());
    let code = get(input, "a tensor's element type")?;
    let dtype = dtype_of(code).ok_or_else(|| {
        let (group, path) = owner();
        Malformed::ElementType { group, path, code }
    })?;
    let rank: u8 = get(input, "a tensor's number of axes")?;
    limits::check("axes of a tensor", rank.into(), MAX_RANK)?;
    let mut sizes = [0; MAX_RANK];
    let sizes = sizes.get_mut(..rank.into()).unwrap_or_default();
    for size in sizes.iter_mut() {
        // A number that does not fit an address can't be a size either.
        *size = usize::try_from(get::<u64>(input, "a tensor's size")?).unwrap_or(usize::MAX);
    }
    let shape = Shape::new(sizes).map_err(|error| {
        let (group, path) = owner();
        Malformed::Shape { group, path, reason: error.to_string() }
    })?;
    let crc = get(input, "a tensor's checksum")?;
    Ok(Entry { group, path, dtype, shape, crc })
}

/// How far `rest` is into `all`. A header is shorter than 4 GiB.
fn place_of(all: &[u8], rest: &[u8]) -> u32 {
    all.len().saturating_sub(rest.len()) as u32
}

fn check_count(group: Group, count: usize) -> Result<(), LimitError> {
    let what = match group {
        Group::Network => "tensors of the network",
        Group::Optimizer => "tensors of the optimizer",
    };
    limits::check(what, count, MAX_TENSORS)
}

fn check_path(entry: &Entry<'_>) -> Result<(), LimitError> {
    limits::check("bytes of a tensor's path", entry.path.len(), MAX_PATH)
}

/// A path that stands at two of the places. Sorting places instead of paths takes a quarter of the memory.
fn twice<'a>(mut places: Vec<u32>, path: impl Fn(u32) -> &'a str) -> Option<&'a str> {
    places.sort_unstable_by_key(|place| path(*place));
    let mut pairs = places.iter().zip(places.iter().skip(1));
    pairs.find(|(a, b)| path(**a) == path(**b)).map(|(a, _)| path(*a))
}

/// The `length` bytes that end at `end`.
fn range(end: usize, length: usize) -> Range<usize> {
    end.saturating_sub(length)..end
}

/// The element types of this format, with their codes.
const DTYPES: [(u8, DType); 2] = [(1, DType::F32), (2, DType::F64)];

/// 0, which no reader takes, for a type without a code.
fn dtype_code(dtype: DType) -> u8 {
    DTYPES.iter().find(|(_, known)| *known == dtype).map_or(0, |(code, _)| *code)
}

fn dtype_of(code: u8) -> Option<DType> {
    DTYPES.iter().find(|(known, _)| *known == code).map(|(_, dtype)| *dtype)
}

#[cfg(test)]
mod tests {
    use backrule_tensor::Options;

    use super::*;

    fn sample() -> Header {
        let program = Some("1.2".to_string());
        let run = Run { epoch: 1, step: 2, position: 3, seed: Some(4), program };
        let optimizer = OptimizerState { steps: 5, options: Options::new().with("a", 0.5) };
        let sections = BTreeMap::from([(Section::Metadata, vec![0xc0])]);
        let shape = Shape::new(&[2, 3]).unwrap();
        let entry = |group, path| Entry { group, path, dtype: DType::F32, shape, crc: 6 };
        let entries = [entry(Group::Network, "w"), entry(Group::Optimizer, "w")];
        Header::decode(encode(Vec::new(), &run, Some(&optimizer), &sections, &entries).unwrap()).unwrap()
    }

    #[test]
    fn what_is_decoded_must_be_written_with_the_same_bytes() {
        let header = sample();
        assert!(header.is_canonical().unwrap());
        let changed = |change: &dyn Fn(&mut Header)| {
            let mut header = header.clone();
            change(&mut header);
            header.is_canonical().unwrap()
        };
        assert!(!changed(&|header| header.run.position = 0));
        assert!(!changed(&|header| header.optimizer_state = None));
        assert!(!changed(&|header| header.bytes.push(0)));
        assert!(!changed(&|header| header.sections.clear()));
    }
}
