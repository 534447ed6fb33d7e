//! The place of each tensor, decided before anything is written.

use std::borrow::Cow;

use backrule_tensor::{MemoryError, NamedTensors, Path, Scalar, Tensor, memory};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::payload::{Elements, Lost};
use crate::checkpoint::stored::Stored;
use crate::element::{self, NotHeld};
use crate::format::entry::{Group, TensorInfo};
use crate::report::{Pair, Report};
use crate::restore::error::RestoreError;
use crate::restore::index::{Index, State};

/// The settings of a restore.
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
    /// The tensors on both sides.
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

/// The rest of `path` when it is at or below `prefix`, without the dot between them.
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

fn add_one(count: &mut usize) {
    *count = count.saturating_add(1);
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
            let stored = || request.checkpoint.stored_from(Group::Network, 0);
            let index = parameters.insert(Index::new(stored().count())?);
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
            let stored = |place| self.request.checkpoint.at(Group::Network, place);
            let is = |name: &str, place| stored(place).is_some_and(|it| it.path == name);
            owner(path, |name| parameters.find(name, |place| is(name, place)).is_some())
        });
        let parameter = parameter.unwrap_or(path);
        join(&self.request.renamed(parameter), below(path, parameter).unwrap_or_default()).into()
    }

    /// Whether the tensor at `place` goes to `path`.
    fn leads(&self, place: u32, path: &str) -> bool {
        self.stored(place).is_some_and(|stored| self.of(stored.path) == path)
    }

    fn stored(&self, place: u32) -> Option<Stored<'r>> {
        self.request.checkpoint.at(self.group, place)
    }
}

/// The result of comparing: how many tensors each list of a report would have.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) restored: usize,
    pub(super) missing: usize,
    pub(super) unexpected: usize,
    pub(super) skipped: usize,
    /// Why nothing can be written, although names, shapes and types fit: the first reason.
    pub(super) refused: Option<RestoreError>,
}

/// The plan of writing to the network or the optimizer. Together with the index of parameters, two of them
/// take less than 1 MiB whatever the file has.
pub(super) struct Plan<'r> {
    names: Names<'r>,
    /// The file's tensors by where they go.
    index: Index,
    /// The place of every 64th tensor, and where its elements begin.
    marks: Vec<(u32, usize)>,
    /// How many tensors fit.
    fitting: usize,
}

/// Tensors from one mark to the next.
const MARK: usize = 64;

impl<'r> Plan<'r> {
    /// Finds where everything goes. Until somebody asks for it, it is unexpected.
    pub(super) fn new(
        request: &'r Request<'r>,
        group: Group,
        findings: &mut Findings,
    ) -> Result<Self, RestoreError> {
        let names = Names::new(request, group)?;
        let stored = |group| request.checkpoint.stored_from(group, 0);
        let count = stored(group).count();
        let mut index = Index::new(count)?;
        let mut marks = memory::room("restore", count.div_ceil(MARK))?;
        let mut offset = match group {
            Group::Network => 0,
            // Its elements follow the network's.
            Group::Optimizer => {
                stored(Group::Network).fold(0_usize, |sum, (_, it)| sum.saturating_add(it.size))
            }
        };
        for (i, (place, stored)) in stored(group).enumerate() {
            if i.is_multiple_of(MARK) {
                marks.push((place, offset));
            }
            offset = offset.saturating_add(stored.size);
            let path = names.of(stored.path);
            if let Some(first) = index.insert(&path, place, |other| names.leads(other, &path)) {
                let first = names.stored(first).map(|it| it.path.to_string()).unwrap_or_default();
                let (path, second) = (path.into_owned(), stored.path.to_string());
                return Err(RestoreError::Collision { group, path, first, second });
            }
            if request.includes(&path) {
                add_one(&mut findings.unexpected);
            }
        }
        Ok(Self { names, index, marks, fitting: 0 })
    }

    /// Decides for every tensor of `target`, and changes nothing.
    ///
    /// It visits as `carry_out` will, for writing: the tensors compared here are exactly those to be
    /// written.
    pub(super) fn decide<T: Scalar>(
        &mut self,
        target: &mut (impl NamedTensors<T> + ?Sized),
        buffer: &mut Vec<u8>,
        findings: &mut Findings,
        wanted: impl Fn(&str) -> bool,
    ) {
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let Some(path) = self.included(path) else { return };
            // The second of two tensors with one name finds that the first one has asked, and is missing.
            let found = self.find(&path).filter(|(_, _, state)| *state == State::Waiting);
            let Some((at, place, _)) = found else {
                return add_one(&mut findings.missing);
            };
            let shape = self.names.stored(place).map(|it| it.shape);
            let fits = shape == Some(tensor.shape())
                && wanted(&path)
                && self.holds::<T>(place, buffer).unwrap_or_else(|reason| {
                    findings.refused.get_or_insert(reason);
                    true
                });
            self.index.set(at, if fits { State::Fits } else { State::Kept });
            add_one(if fits { &mut findings.restored } else { &mut findings.skipped });
            self.fitting = self.fitting.saturating_add(usize::from(fits));
            findings.unexpected = findings.unexpected.saturating_sub(1);
        });
    }

    /// The path of a tensor that is to be restored.
    fn included(&self, path: Path<'_>) -> Option<String> {
        Some(path.to_string()).filter(|path| self.names.request.includes(path))
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
    fn elements(&self, place: u32) -> Result<Elements<'r>, Lost> {
        let Request { checkpoint, convert: rounded, .. } = *self.names.request;
        let after = self.marks.partition_point(|(mark, _)| *mark <= place);
        let (mark, mut offset) =
            after.checked_sub(1).and_then(|i| self.marks.get(i)).copied().unwrap_or_default();
        for (at, Stored { dtype, size, crc, .. }) in checkpoint.stored_from(self.names.group, mark) {
            if at == place {
                return Ok(Elements { payload: checkpoint.payload(), dtype, offset, size, crc, rounded });
            }
            offset = offset.saturating_add(size);
        }
        Err(Lost::Changed)
    }

    /// Whether a tensor of `T` has these values, or a reason that isn't a matter of types.
    fn holds<T: Scalar>(&self, place: u32, buffer: &mut Vec<u8>) -> Result<bool, RestoreError> {
        let Request { convert, fit, .. } = *self.names.request;
        let Some(Stored { group, path, dtype, .. }) = self.names.stored(place) else { return Ok(false) };
        match dtype.fit(T::DTYPE, convert) {
            element::Fit::Always => return Ok(true),
            element::Fit::Never => return Ok(false),
            element::Fit::IfHeld => {}
        }
        match self.elements(place).and_then(|elements| elements.not_held::<T>(buffer)) {
            Ok(None) => Ok(true),
            Ok(Some(_)) if fit == Fit::SkipMisshapen => Ok(false),
            Ok(Some(NotHeld { at, value })) => {
                let path = path.to_string();
                Err(RestoreError::NotHeld { group, path, dtype, at, value, target: T::DTYPE })
            }
            Err(lost) => Err(RestoreError::Changed { reason: lost.to_string() }),
        }
    }

    /// Reports the decision about every tensor, and copies the values if it may `write`. After `decide` and
    /// `source` it can only fail while a file is being read.
    pub(super) fn carry_out<T: Scalar>(
        &mut self,
        target: &mut (impl NamedTensors<T> + ?Sized),
        buffer: &mut Vec<u8>,
        write: bool,
        report: &mut Report,
    ) -> Result<(), RestoreError> {
        let group = self.names.group;
        let (mut outcome, mut left, mut lost) = (Ok(()), self.fitting, None);
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let Some(path) = self.included(path).filter(|_| outcome.is_ok()) else { return };
            let found = self.find(&path).filter(|(_, _, state)| *state != State::Done);
            let Some((at, place, state)) = found else {
                lost.get_or_insert_with(|| path.clone());
                return note(&mut report.missing, || info(group, path, tensor));
            };
            self.index.set(at, State::Done);
            left = left.saturating_sub(usize::from(state == State::Fits));
            if state == State::Fits && write {
                let elements = self.elements(place);
                if let Err(lost) = elements.and_then(|it| it.copy_to(tensor.as_mut_slice(), buffer)) {
                    outcome = Err(RestoreError::Interrupted { group, path, reason: lost.to_string() });
                    return;
                }
            }
            if let Some(stored) = self.names.stored(place) {
                let list = if state == State::Fits { &mut report.restored } else { &mut report.skipped };
                note(list, || Pair { stored: stored.info(), target: info(group, path, tensor) });
            }
        });
        for (_, stored) in self.names.request.checkpoint.stored_from(group, 0) {
            if report.unexpected.len() == report.unexpected.capacity() {
                break;
            }
            let path = self.names.of(stored.path);
            let waiting = self.find(&path).is_some_and(|(_, _, state)| state == State::Waiting);
            if waiting && self.names.request.includes(&path) {
                note(&mut report.unexpected, || stored.info());
            }
        }
        // A rename that isn't a function, for one.
        if let (Ok(()), true, Some(path)) = (&outcome, write && left > 0, lost) {
            let reason = "its name in the checkpoint has changed meanwhile".to_string();
            return Err(RestoreError::Interrupted { group, path, reason });
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
