//! The header: everything but the elements. This is the only place that knows bincode.
//!
//! It is a sequence of bincode values with integers of fixed width in little-endian order; docs/checkpoint-format.md lists
//! them. bincode itself is finished and no longer maintained, which is why it gets no further than this file: the layout
//! is specified without reference to it, `tests/checkpoint/layout.rs` writes the same bytes by hand, and `wincode` has the
//! same layout.
//!
//! What was read stays as it is in the file, and is decoded again when it is asked for: a list of tensors would take many
//! times the memory of their entries.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;

use backrule_tensor::{ConfigError, DType, MAX_RANK, OptionValue, Options, Shape};
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Encode};
use serde::de::DeserializeOwned;

use crate::limits::{
    self, MAX_HEADER, MAX_OPTION_NAME, MAX_OPTIONS, MAX_PATH, MAX_PROGRAM, MAX_SECTION, MAX_TENSORS,
};
use crate::{
    Group, LimitError, LoadProblem, Malformed, SaveError, Section, SectionError, SectionProblem, TensorInfo,
    section,
};

/// The limit bounds what one value may claim; everything decoded here is borrowed or a number, so that a claim never
/// becomes an allocation.
const CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_HEADER>> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_HEADER>();

/// Where the run is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) position: u64,
    pub(crate) seed: Option<u64>,
    pub(crate) program: Option<String>,
    /// `None` when no optimiser was saved.
    pub(crate) optimizer: Option<OptimizerState>,
}

/// What there is of an optimiser beside its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OptimizerState {
    pub(crate) steps: u64,
    pub(crate) options: Options,
}

/// One tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    pub(crate) group: Group,
    pub(crate) path: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    /// Of its elements' bytes.
    pub(crate) crc: u32,
}

impl Entry<'_> {
    /// Bytes of all elements. A [`Shape`] is proof that eight bytes per element fit the address space.
    pub(crate) fn size(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }

    pub(crate) fn info(&self) -> TensorInfo {
        TensorInfo { group: self.group, path: self.path.to_string(), dtype: self.dtype, shape: self.shape }
    }
}

/// A header that was read and found right.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) run: Run,
    bytes: Vec<u8>,
    /// Where in `bytes` the contents are.
    sections: Vec<(Section, Range<usize>)>,
    network: (u32, Range<usize>),
    optimizer: (u32, Range<usize>),
}

/// All else follows from the bytes; and unlike options, of which one may be NaN, they equal themselves.
impl PartialEq for Header {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Header {
    /// Reads what [`encode`] writes and nothing else: another spelling of the same values is refused.
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
        limits::check("bytes of the program's version", program.map_or(0, str::len), MAX_PROGRAM)?;
        run.program = program.map(str::to_string);
        let sections = decode_sections(&bytes, &mut input)?;
        run.optimizer = decode_optimizer(&mut input)?;
        let network = decode_group(Group::Network, &bytes, &mut input)?;
        let optimizer = match run.optimizer {
            Some(_) => decode_group(Group::Optimizer, &bytes, &mut input)?,
            None => (0, 0..0),
        };
        if !input.is_empty() {
            return Err(Malformed::SpareBytes { count: input.len() }.into());
        }
        let header = Self { run, bytes, sections, network, optimizer };
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

    /// Every tensor, in the order of their elements in the payload: first the network's, then the optimiser's.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.group(Group::Network).chain(self.group(Group::Optimizer))
    }

    pub(crate) fn group(&self, group: Group) -> Entries<'_> {
        let (left, at) = match group {
            Group::Network => &self.network,
            Group::Optimizer => &self.optimizer,
        };
        Entries { group, left: *left, input: self.bytes.get(at.clone()).unwrap_or_default() }
    }

    /// Whether writing these values gives these bytes.
    fn is_canonical(&self) -> Result<bool, LimitError> {
        let mut same = Same { expected: &self.bytes, so_far: true };
        write(&mut same, &self.run, self.sections(), |group| self.group(group))?;
        Ok(same.so_far && same.expected.is_empty())
    }
}

/// The header of a new file.
pub(crate) fn encode(
    run: &Run,
    sections: &BTreeMap<Section, Vec<u8>>,
    entries: &[Entry<'_>],
) -> Result<Vec<u8>, SaveError> {
    let program = run.program.as_ref().map_or(0, String::len);
    limits::check("bytes of the program's version", program, MAX_PROGRAM)?;
    if let Some(OptimizerState { options, .. }) = &run.optimizer {
        check_options(options)?;
    }
    let group = |group| entries.iter().copied().filter(move |entry| entry.group == group);
    for of in [Group::Network, Group::Optimizer] {
        let tensors: Vec<_> = group(of).collect();
        check_count(of, tensors.len())?;
        for entry in &tensors {
            check_path(entry)?;
        }
        let places = (0_u32..).take(tensors.len()).collect();
        let path = |place| tensors.get(place as usize).map_or("", |entry| entry.path);
        if let Some(path) = twice(places, path) {
            return Err(SaveError::Duplicate { group: of, path: path.to_string() });
        }
    }
    let mut out = Vec::new();
    let sections = sections.iter().map(|(section, content)| (*section, content.as_slice()));
    write(&mut out, run, sections, group)?;
    limits::check("bytes of the header", out.len(), MAX_HEADER)?;
    Ok(out)
}

/// The fields one after the other. The counts are within their limits.
fn write<'a, E: Iterator<Item = Entry<'a>>>(
    out: &mut impl Write,
    run: &Run,
    sections: impl ExactSizeIterator<Item = (Section, &'a [u8])>,
    group: impl Fn(Group) -> E,
) -> Result<(), LimitError> {
    put(out, (run.epoch, run.step, run.position))?;
    put(out, (run.seed, run.program.as_deref()))?;
    put(out, sections.len() as u32)?;
    for (section, content) in sections {
        put(out, (section.code(), content))?;
    }
    write_optimizer(out, run)?;
    write_group(out, || group(Group::Network))?;
    if run.optimizer.is_some() {
        write_group(out, || group(Group::Optimizer))?;
    }
    Ok(())
}

fn write_optimizer(out: &mut impl Write, run: &Run) -> Result<(), LimitError> {
    put(out, run.optimizer.as_ref().map(|optimizer| optimizer.steps))?;
    if let Some(OptimizerState { options, .. }) = &run.optimizer {
        put(out, options.iter().len() as u32)?;
        for (name, value) in options.iter() {
            match value {
                OptionValue::Number(value) => put(out, (name, NUMBER, *value))?,
                OptionValue::Flag(value) => put(out, (name, FLAG, *value))?,
                // `check_options` has refused it.
                _ => {}
            }
        }
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
    // Their order is strict, so that there can't be many.
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

fn decode_optimizer(input: &mut &[u8]) -> Result<Option<OptimizerState>, LoadProblem> {
    let Some(steps) = get(input, "the optimizer's steps")? else { return Ok(None) };
    let mut options = Options::new();
    let count: u32 = get(input, "the number of options")?;
    limits::check("options", usize::try_from(count).unwrap_or(usize::MAX), MAX_OPTIONS)?;
    for _ in 0..count {
        let name: &str = get(input, "an option's name")?;
        limits::check("bytes of an option's name", name.len(), MAX_OPTION_NAME)?;
        let value = match get(input, "an option's kind")? {
            NUMBER => OptionValue::Number(get(input, "an option")?),
            FLAG => OptionValue::Flag(get(input, "an option")?),
            code => return Err(Malformed::OptionKind { name: name.to_string(), code }.into()),
        };
        options = options.with(name, value);
    }
    if let Some(name) = option_twice(&options) {
        return Err(Malformed::DuplicateOption { name: name.to_string() }.into());
    }
    Ok(Some(OptimizerState { steps, options }))
}

/// Checks the entries of a group and tells where they are.
fn decode_group(group: Group, bytes: &[u8], input: &mut &[u8]) -> Result<(u32, Range<usize>), LoadProblem> {
    let count: u32 = get(input, "a number of tensors")?;
    check_count(group, usize::try_from(count).unwrap_or(usize::MAX))?;
    let (all, mut places) = (*input, Vec::new());
    // The vector grows with the entries that are there, not with the count that is claimed.
    for _ in 0..count {
        // A header is shorter than 4 GiB.
        places.push(all.len().saturating_sub(input.len()) as u32);
        check_path(&decode_entry(group, input)?)?;
    }
    let path = |place| {
        let mut entry = all.get(place as usize..).unwrap_or_default();
        get(&mut entry, "").unwrap_or_default()
    };
    if let Some(path) = twice(places, path) {
        return Err(Malformed::DuplicatePath { group, path: path.to_string() }.into());
    }
    let length = all.len().saturating_sub(input.len());
    Ok((count, range(bytes.len().saturating_sub(input.len()), length)))
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
        // What does not fit an address can't be a size either.
        *size = usize::try_from(get::<u64>(input, "a tensor's size")?).unwrap_or(usize::MAX);
    }
    let shape = Shape::new(sizes).map_err(|error| {
        let (group, path) = owner();
        Malformed::Shape { group, path, reason: error.to_string() }
    })?;
    let crc = get(input, "a tensor's checksum")?;
    Ok(Entry { group, path, dtype, shape, crc })
}

/// The entries of a group, decoded one by one.
#[derive(Clone)]
pub(crate) struct Entries<'a> {
    group: Group,
    left: u32,
    input: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        self.left = self.left.checked_sub(1)?;
        decode_entry(self.group, &mut self.input).ok()
    }
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

fn check_options(options: &Options) -> Result<(), SaveError> {
    limits::check("options", options.iter().len(), MAX_OPTIONS)?;
    for (name, value) in options.iter() {
        limits::check("bytes of an option's name", name.len(), MAX_OPTION_NAME)?;
        if !matches!(value, OptionValue::Number(_) | OptionValue::Flag(_)) {
            return Err(ConfigError::new("Checkpoint", name.to_string(), "a number or a flag", value).into());
        }
    }
    match option_twice(options) {
        None => Ok(()),
        Some(name) => Err(SaveError::DuplicateOption { name: name.to_string() }),
    }
}

/// There are few, so that each can be compared with all.
fn option_twice(options: &Options) -> Option<&str> {
    let names = || options.iter().map(|(name, _)| name);
    names().find(|name| names().filter(|other| other == name).count() > 1)
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

/// What follows an option's name.
const NUMBER: u8 = 1;
const FLAG: u8 = 2;

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

/// Appends one bincode value. Writing numbers and bytes to memory can't fail; should bincode refuse all the same, nothing
/// is saved.
fn put(out: &mut impl Write, value: impl Encode) -> Result<(), LimitError> {
    match bincode::encode_into_std_write(value, out, CONFIG) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(LimitError { what: format!("values that bincode can't write ({error})"), found: 1, limit: 0 })
        }
    }
}

/// Splits one bincode value off the input.
fn get<'a, D: BorrowDecode<'a, ()>>(input: &mut &'a [u8], field: &'static str) -> Result<D, Malformed> {
    let (value, used) = bincode::borrow_decode_from_slice(input, CONFIG).map_err(|error| match error {
        DecodeError::Utf8 { .. } => Malformed::Utf8 { field },
        DecodeError::UnexpectedVariant { .. } | DecodeError::InvalidBooleanValue(_) => {
            Malformed::Tag { field }
        }
        // A length beyond what is there, or beyond what bincode may read at a time.
        _ => Malformed::HeaderEnds { field },
    })?;
    *input = input.get(used..).unwrap_or_default();
    Ok(value)
}

/// Compares what is written with what should be, without keeping it.
struct Same<'a> {
    expected: &'a [u8],
    so_far: bool,
}

impl Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.expected.strip_prefix(bytes) {
            Some(rest) => self.expected = rest,
            None => self.so_far = false,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        let run = Run {
            epoch: 1,
            step: 2,
            position: 3,
            seed: Some(4),
            program: Some("1.2".to_string()),
            optimizer: Some(OptimizerState { steps: 5, options: Options::new().with("a", 0.5) }),
        };
        let sections = BTreeMap::from([(Section::Metadata, vec![0xc0])]);
        let shape = Shape::new(&[2, 3]).unwrap();
        let entry = |group, path| Entry { group, path, dtype: DType::F32, shape, crc: 6 };
        let entries = [entry(Group::Network, "w"), entry(Group::Optimizer, "w")];
        Header::decode(encode(&run, &sections, &entries).unwrap()).unwrap()
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
        assert!(!changed(&|header| header.bytes.push(0)));
        assert!(!changed(&|header| header.sections.clear()));
    }
}
