//! What goes where, decided before anything is written.

use std::borrow::Cow;

use backrule_tensor::{MemoryError, NamedTensors, Path, Scalar, Tensor};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::payload::{Elements, Lost};
use crate::checkpoint::stored::Stored;
use crate::element::{self, NotHeld};
use crate::format::entry::{Group, TensorInfo};
use crate::report::{Pair, Report};
use crate::restore::error::RestoreError;
use crate::restore::index::{Index, State};

/// What is asked for.
pub(super) struct Request<'c> {
    pub(super) checkpoint: &'c Checkpoint,
    pub(super) renames: Vec<Rename<'c>>,
    pub(super) only: Vec<String>,
    pub(super) fit: Fit,
    pub(super) convert: bool,
}

type Rename<'c> = Box<dyn Fn(&str) -> Option<String> + 'c>;

/// How much has to fit.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum Fit {
    /// Everything.
    Strict,
    /// What is on both sides.
    Partial,
    /// Nothing in particular.
    SkipMisshapen,
}

impl<'c> Request<'c> {
    /// Everything, as it is.
    pub(super) fn new(checkpoint: &'c Checkpoint) -> Self {
        Self { checkpoint, renames: Vec::new(), only: Vec::new(), fit: Fit::Strict, convert: false }
    }

    fn includes(&self, path: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|prefix| below(path, prefix).is_some())
    }

    fn renamed(&self, path: &str) -> String {
        self.renames.iter().find_map(|rename| rename(path)).unwrap_or_else(|| path.to_string())
    }
}

/// What is left of `path` when it is at or below `prefix`, without the dot between them.
pub(super) fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    if prefix.is_empty() || rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

pub(super) fn join(path: &str, rest: &str) -> String {
    let dot = if path.is_empty() || rest.is_empty() { "" } else { "." };
    format!("{path}{dot}{rest}")
}

/// The longest path above or at `slot` that is a parameter's: of `fc1.weight.velocity`, `fc1.weight`.
pub(super) fn owner(slot: &str, is_parameter: impl Fn(&str) -> bool) -> Option<&str> {
    let above = slot.rmatch_indices('.').filter_map(|(dot, _)| slot.get(..dot));
    std::iter::once(slot).chain(above).chain([""]).find(|path| is_parameter(path))
}

/// Makes room for a list of so many.
pub(super) fn reserve<I>(list: &mut Vec<I>, count: usize) -> Result<(), MemoryError> {
    let reserved = list.try_reserve_exact(count);
    reserved.map_err(|_| MemoryError::new("restore", count.saturating_mul(size_of::<I>())))
}

/// Adds to a list, as far as there is room.
fn note<I>(list: &mut Vec<I>, item: impl FnOnce() -> I) {
    if list.len() < list.capacity() {
        list.push(item());
    }
}

/// Where the tensors of a group go.
struct Names<'r> {
    request: &'r Request<'r>,
    group: Group,
    /// The network's tensors by their paths in the file: an optimizer's state is renamed with its parameter.
    parameters: Option<Index>,
}

impl<'r> Names<'r> {
    fn new(request: &'r Request<'r>, group: Group) -> Result<Self, MemoryError> {
        let mut parameters = None;
        if group == Group::Optimizer && !request.renames.is_empty() {
            let stored = || request.checkpoint.from_place(Group::Network, 0);
            let index = parameters.insert(Index::with_room(stored().count())?);
            for (place, stored) in stored() {
                // No path stands twice in a group.
                index.insert(stored.path, place, |_| false);
            }
        }
        Ok(Self { request, group, parameters })
    }

    /// Where the tensor goes that is called `path` in the file.
    fn of<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if self.request.renames.is_empty() {
            return path.into();
        }
        let parameter = self.parameters.as_ref().and_then(|parameters| {
            let is = |name: &str, place| self.stored(Group::Network, place).is_some_and(|it| it.path == name);
            owner(path, |name| parameters.find(name, |place| is(name, place)).is_some())
        });
        let parameter = parameter.unwrap_or(path);
        join(&self.request.renamed(parameter), below(path, parameter).unwrap_or_default()).into()
    }

    /// Whether the tensor at `place` goes to `path`.
    fn leads(&self, place: u32, path: &str) -> bool {
        self.stored(self.group, place).is_some_and(|stored| self.of(stored.path) == path)
    }

    fn stored(&self, group: Group, place: u32) -> Option<Stored<'r>> {
        self.request.checkpoint.at(group, place)
    }
}

/// How many tensors each list of a report has.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) restored: usize,
    pub(super) missing: usize,
    pub(super) unexpected: usize,
    pub(super) skipped: usize,
}

impl Counts {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            restored: self.restored.saturating_add(other.restored),
            missing: self.missing.saturating_add(other.missing),
            unexpected: self.unexpected.saturating_add(other.unexpected),
            skipped: self.skipped.saturating_add(other.skipped),
        }
    }
}

/// What is going to be written to the network or the optimizer. Together with the index of parameters, two of
/// them take less than 1 MiB whatever the file has.
pub(super) struct Plan<'r> {
    names: Names<'r>,
    /// The file's tensors by where they go.
    index: Index,
    /// The place of every 64th tensor, and where its elements begin.
    marks: Vec<(u32, usize)>,
    pub(super) counts: Counts,
    /// Why nothing can be written, although names, shapes and types fit: the first reason.
    pub(super) refused: Option<RestoreError>,
}

/// Tensors from one mark to the next.
const MARK: usize = 64;

impl<'r> Plan<'r> {
    pub(super) fn new(request: &'r Request<'r>, group: Group) -> Result<Self, RestoreError> {
        let names = Names::new(request, group)?;
        let stored = |group| request.checkpoint.from_place(group, 0);
        let count = stored(group).count();
        let (mut index, mut marks) = (Index::with_room(count)?, Vec::new());
        reserve(&mut marks, count.div_ceil(MARK))?;
        let mut offset = match group {
            Group::Network => 0,
            // Its elements follow the network's.
            Group::Optimizer => {
                stored(Group::Network).fold(0_usize, |sum, (_, it)| sum.saturating_add(it.size))
            }
        };
        let mut counts = Counts::default();
        for (i, (place, stored)) in stored(group).enumerate() {
            if i.is_multiple_of(MARK) {
                marks.push((place, offset));
            }
            offset = offset.saturating_add(stored.size);
            let path = names.of(stored.path);
            if let Some(first) = index.insert(&path, place, |other| names.leads(other, &path)) {
                let first = names.stored(group, first).map(|it| it.path.to_string()).unwrap_or_default();
                let (path, second) = (path.into_owned(), stored.path.to_string());
                return Err(RestoreError::Collision { group, path, first, second });
            }
            if request.includes(&path) {
                counts.unexpected = counts.unexpected.saturating_add(1);
            }
        }
        Ok(Self { names, index, marks, counts, refused: None })
    }

    /// Decides for every tensor of `target`, and changes nothing.
    ///
    /// It visits as `carry_out` will, for writing: what has been compared here is exactly what is going to be
    /// written.
    pub(super) fn decide<T: Scalar>(
        &mut self,
        target: &mut (impl NamedTensors<T> + ?Sized),
        buffer: &mut Vec<u8>,
        wanted: impl Fn(&str) -> bool,
    ) {
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let path = path.to_string();
            if !self.names.request.includes(&path) {
                return;
            }
            // The second of two tensors with one name finds that the first one has asked, and is missing.
            let found = self.find(&path).filter(|(_, _, state)| *state == State::Waiting);
            let Some((at, place, _)) = found else {
                self.counts.missing = self.counts.missing.saturating_add(1);
                return;
            };
            let shape = self.names.stored(self.names.group, place).map(|it| it.shape);
            let fits = shape == Some(tensor.shape()) && wanted(&path) && self.holds::<T>(place, buffer);
            self.index.set(at, if fits { State::Fits } else { State::Kept });
            let Counts { restored, skipped, unexpected, .. } = &mut self.counts;
            let count = if fits { restored } else { skipped };
            *count = count.saturating_add(1);
            *unexpected = unexpected.saturating_sub(1);
        });
    }

    /// Where in the index the tensor that goes to `path` is, its place in the file, and its state.
    fn find(&self, path: &str) -> Option<(usize, u32, State)> {
        self.index.find(path, |place| self.names.leads(place, path))
    }

    /// Whether the tensor at `path` keeps its values, although the file has some.
    pub(super) fn keeps(&self, path: &str) -> bool {
        self.find(path).is_some_and(|(_, _, state)| state == State::Kept)
    }

    /// The elements of the tensor at a place. Their sizes add up: that was checked when they were read.
    fn elements(&self, place: u32) -> Option<Elements<'r>> {
        let Request { checkpoint, convert: rounded, .. } = *self.names.request;
        let after = self.marks.partition_point(|(mark, _)| *mark <= place);
        let (mark, mut offset) = *self.marks.get(after.checked_sub(1)?)?;
        for (at, Stored { dtype, size, crc, .. }) in checkpoint.from_place(self.names.group, mark) {
            if at == place {
                return Some(Elements { payload: checkpoint.payload(), dtype, offset, size, crc, rounded });
            }
            offset = offset.saturating_add(size);
        }
        None
    }

    /// Whether a tensor of `T` has these values. A reason that isn't a matter of types is noted.
    fn holds<T: Scalar>(&mut self, place: u32, buffer: &mut Vec<u8>) -> bool {
        let Request { convert, fit, .. } = *self.names.request;
        let Some(Stored { group, path, dtype, .. }) = self.names.stored(self.names.group, place) else {
            return false;
        };
        match dtype.fit(T::DTYPE, convert) {
            element::Fit::Always => return true,
            element::Fit::Never => return false,
            element::Fit::IfHeld => {}
        }
        let not_held = self.elements(place).ok_or(Lost::Changed).and_then(|it| it.not_held::<T>(buffer));
        let reason = match not_held {
            Ok(None) => return true,
            Ok(Some(_)) if fit == Fit::SkipMisshapen => return false,
            Ok(Some(NotHeld { at, value })) => {
                RestoreError::NotHeld { group, path: path.to_string(), dtype, at, value, target: T::DTYPE }
            }
            Err(lost) => RestoreError::Changed { reason: lost.to_string() },
        };
        self.refused.get_or_insert(reason);
        true
    }

    /// Tells of every tensor what was decided, and copies the values if it may `write`. After `decide` and
    /// `source` it can only fail while a file is being read.
    pub(super) fn carry_out<T: Scalar>(
        &mut self,
        target: &mut (impl NamedTensors<T> + ?Sized),
        buffer: &mut Vec<u8>,
        write: bool,
        report: &mut Report,
    ) -> Result<(), RestoreError> {
        let group = self.names.group;
        let mut outcome = Ok(());
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let path = path.to_string();
            if outcome.is_err() || !self.names.request.includes(&path) {
                return;
            }
            let found = self.find(&path).filter(|(_, _, state)| *state != State::Done);
            let Some((at, place, state)) = found else {
                return note(&mut report.missing, || info(group, path, tensor));
            };
            self.index.set(at, State::Done);
            if state == State::Fits && write {
                let elements = self.elements(place).ok_or(Lost::Changed);
                let copied = elements.and_then(|it| it.copy_to(tensor.as_mut_slice(), buffer));
                if let Err(lost) = copied {
                    outcome = Err(RestoreError::Interrupted { group, path, reason: lost.to_string() });
                    return;
                }
            }
            if let Some(stored) = self.names.stored(group, place) {
                let list = if state == State::Fits { &mut report.restored } else { &mut report.skipped };
                note(list, || Pair { stored: stored.info(), target: info(group, path, tensor) });
            }
        });
        for (_, stored) in self.names.request.checkpoint.from_place(group, 0) {
            if report.unexpected.len() == report.unexpected.capacity() {
                break;
            }
            let path = self.names.of(stored.path);
            let waiting = self.find(&path).is_some_and(|(_, _, state)| state == State::Waiting);
            if waiting && self.names.request.includes(&path) {
                note(&mut report.unexpected, || stored.info());
            }
        }
        outcome
    }
}

/// A tensor that should be restored.
fn info<T: Scalar>(group: Group, path: String, tensor: &Tensor<T>) -> TensorInfo {
    let size = tensor.len().saturating_mul(T::DTYPE.size());
    TensorInfo { group, path, dtype: T::DTYPE.into(), shape: tensor.shape(), crc: None, size }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn below_goes_by_whole_names() {
        assert_eq!(below("fc1.weight", "fc1"), Some("weight"));
        assert_eq!(below("fc1.weight", "fc1.weight"), Some(""));
        assert_eq!(below("fc1.weight", ""), Some("fc1.weight"));
        assert_eq!(below("fc10.weight", "fc1"), None);
        assert_eq!(below("fc1", "fc1.weight"), None);
    }

    #[test]
    fn the_owner_is_the_nearest_parameter() {
        let parameters = BTreeSet::from(["a", "a.b", "c"]);
        let owner = |slot| owner(slot, |path| parameters.contains(path));
        assert_eq!(owner("a.b.velocity"), Some("a.b"));
        assert_eq!(owner("a.velocity"), Some("a"));
        assert_eq!(owner("a"), Some("a"));
        assert_eq!(owner("ab.velocity"), None);
        assert_eq!(super::owner("velocity", str::is_empty), Some(""));
    }
}
