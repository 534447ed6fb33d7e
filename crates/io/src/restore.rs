use std::borrow::Cow;
use std::collections::BTreeSet;

use backrule_tensor::{ConfigError, DType, MemoryError, NamedTensors, Path, Scalar, Tensor, TrainingState};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::payload::{Elements, Lost};
use crate::checkpoint::stored::Stored;
use crate::element::{self, ElementType, NotHeld};
use crate::format::entry::{Group, Name, TensorInfo};
use crate::index::{Index, State};
use crate::quoted::Quoted;
use crate::report::{Mismatch, Pair, Report};

impl Checkpoint {
    /// Puts the network's values back, bit for bit. An optimizer that was saved too is left alone.
    ///
    /// Each tensor is found by its path, wherever it stands. Either all of them are restored or none: the
    /// same paths, shapes and element types have to be on both sides. [`restoring`](Self::restoring) asks for
    /// less.
    ///
    /// Files of others have more element types than tensors have. A shorter float becomes the same number,
    /// and so does a whole number; one that the network's type doesn't have is an error.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// let net = vec![("weight", Tensor::from([[1.0_f32, 2.0]])), ("bias", Tensor::from([3.0]))];
    /// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes()?)?;
    ///
    /// let mut other = vec![("weight", Tensor::from([[0.0_f32], [0.0]])), ("scale", Tensor::from([0.0]))];
    /// assert_eq!(
    ///     checkpoint.restore(&mut other).unwrap_err().to_string(),
    ///     "nothing restored, because the checkpoint doesn't fit:
    ///   missing in the checkpoint: network `scale` f32 [1]
    ///   only in the checkpoint: network `bias` f32 [1]
    ///   network `weight` f32 [1, 2] in the checkpoint, expected f32 [2, 1]"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RestoreError::Mismatch`] with every tensor that doesn't fit; nothing has been changed then.
    pub fn restore<T: Scalar>(
        &self,
        network: &mut (impl NamedTensors<T> + ?Sized),
    ) -> Result<(), RestoreError> {
        self.restoring().run(network, None::<&mut dyn TrainingState<T>>, false).map(drop)
    }

    /// Puts the network's and the optimizer's values back, bit for bit, and the optimizer's step count and
    /// options: all or nothing. A learning rate that should be another one from now on is set afterwards.
    /// Where no options were saved, they stay as they are.
    ///
    /// # Errors
    /// [`RestoreError::NoOptimizer`] when none was saved, [`RestoreError::Mismatch`] with every tensor of
    /// both that doesn't fit, or [`RestoreError::Options`] when the optimizer can't have those that were
    /// saved; nothing has been changed then.
    pub fn restore_with_optimizer<T: Scalar>(
        &self,
        network: &mut (impl NamedTensors<T> + ?Sized),
        optimizer: &mut (impl TrainingState<T> + ?Sized),
    ) -> Result<(), RestoreError> {
        self.restoring().run(network, Some(optimizer), false).map(drop)
    }

    /// Begins to restore into something that differs from what was saved: see [`Restoring`].
    pub fn restoring(&self) -> Restoring<'_> {
        Restoring {
            checkpoint: self,
            renames: Vec::new(),
            froms: Vec::new(),
            only: Vec::new(),
            fit: Fit::Strict,
            convert: false,
        }
    }
}

/// A restore into something that differs from what was saved: made by [`Checkpoint::restoring`].
///
/// By default everything has to fit, as with [`Checkpoint::restore`]. Everything is compared before anything
/// is written, and on an error network and optimizer are as they were.
///
/// Fine-tuning takes the old body and a new head:
///
/// ```
/// # use backrule_io::Checkpoint;
/// # use backrule_io::tensor::Tensor;
/// // What was trained: a body with an output for two classes.
/// let old = vec![
///     ("fc1.weight", Tensor::from([[1.0_f32, 2.0], [3.0, 4.0]])),
///     ("fc1.bias", Tensor::from([5.0, 6.0])),
///     ("fc2.weight", Tensor::from([[7.0, 8.0], [9.0, 10.0]])),
/// ];
/// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&old).to_bytes()?)?;
///
/// // What is to be trained: the same body under another name, and three classes.
/// let mut net = vec![
///     ("body.fc1.weight", Tensor::from([[0.0_f32, 0.0], [0.0, 0.0]])),
///     ("body.fc1.bias", Tensor::from([0.0, 0.0])),
///     ("head.weight", Tensor::from([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])),
/// ];
/// let report = checkpoint.restoring().rename("fc1", "body.fc1").partial().restore_into(&mut net)?;
/// assert_eq!(
///     report.to_string(),
///     "\
/// 2 restored, 1 missing, 1 unexpected, 0 skipped
/// restored    network `body.fc1.weight` f32 [2, 2]  network `fc1.weight` f32 [2, 2]
/// restored    network `body.fc1.bias` f32 [2]       network `fc1.bias` f32 [2]
/// missing     network `head.weight` f32 [3, 2]
/// unexpected                                        network `fc2.weight` f32 [2, 2]"
/// );
/// assert_eq!(net[1].1.as_slice(), [5.0, 6.0]);
/// assert_eq!(net[2].1.as_slice(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
///
/// // Stricter: every tensor of the body has to be there, and no other one is touched.
/// checkpoint.restoring().rename("fc1", "body.fc1").only("body").restore_into(&mut net)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is restored before `restore_into`"]
pub struct Restoring<'c> {
    checkpoint: &'c Checkpoint,
    renames: Vec<Rename<'c>>,
    /// What was given to `rename`.
    froms: Vec<String>,
    only: Vec<String>,
    fit: Fit,
    convert: bool,
}

type Rename<'c> = Box<dyn Fn(&str) -> Option<String> + 'c>;

/// How much has to fit.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Fit {
    /// Everything.
    Strict,
    /// What is on both sides.
    Partial,
    /// Nothing in particular.
    SkipMisshapen,
}

impl<'c> Restoring<'c> {
    /// What is at or below `from` in the checkpoint goes to the same place at or below `to`.
    ///
    /// Paths are compared by whole names: `fc1` is not the beginning of `fc10.weight`. An empty `from` moves
    /// everything, an empty `to` takes a name away. Each tensor is renamed once, by the first call that knows
    /// it, so two calls can swap names. An optimizer's state follows its parameter.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// let net = vec![("a.weight", Tensor::from([1.0_f32])), ("b.weight", Tensor::from([2.0]))];
    /// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes()?)?;
    /// let mut swapped = net.clone();
    /// checkpoint.restoring().rename("a", "b").rename("b", "a").restore_into(&mut swapped)?;
    /// assert_eq!((swapped[0].1.as_slice(), swapped[1].1.as_slice()), (&[2.0][..], &[1.0][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        let (from, to) = (from.into(), to.into());
        self.froms.push(from.clone());
        self.rename_with(move |path| below(path, &from).map(|rest| join(&to, rest)))
    }

    /// The same by a function of the path in the checkpoint; where it gives `None`, the next call decides, or
    /// the path stays.
    ///
    /// It is asked for the network's tensors only: an optimizer's state follows its parameter.
    pub fn rename_with(mut self, rename: impl Fn(&str) -> Option<String> + 'c) -> Self {
        self.renames.push(Box::new(rename));
        self
    }

    /// Restores what is at or below `prefix` in the network, and leaves all else alone, on both sides.
    /// Several calls add up. The path is that in the network: it has been renamed already.
    pub fn only(mut self, prefix: impl Into<String>) -> Self {
        self.only.push(prefix.into());
        self
    }

    /// Tensors may be missing in the checkpoint, and keep their values; and it may have others. What is on
    /// both sides has to have the same shape and element type. The [`Report`] tells what was restored; read
    /// it.
    pub fn partial(mut self) -> Self {
        if self.fit < Fit::Partial {
            self.fit = Fit::Partial;
        }
        self
    }

    /// As [`partial`](Self::partial), and tensors with another shape or element type keep their values too,
    /// with the optimizer's state for them.
    pub fn skip_misshapen(mut self) -> Self {
        self.fit = Fit::SkipMisshapen;
        self
    }

    /// Single precision goes into a network of double precision, exactly, and double precision into one of
    /// single precision: each number is rounded to the nearest. A finite one that would become infinite is
    /// the error [`NotHeld`](RestoreError::NotHeld).
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// let wide = vec![("scale", Tensor::from([0.1_f64, 2.0]))];
    /// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&wide).to_bytes()?)?;
    /// let mut net = vec![("scale", Tensor::from([0.0_f32, 0.0]))];
    /// assert!(checkpoint.restore(&mut net).is_err());
    /// checkpoint.restoring().convert().restore_into(&mut net)?;
    /// assert_eq!(net[0].1.as_slice(), [0.1, 2.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn convert(mut self) -> Self {
        self.convert = true;
        self
    }

    /// Restores the network.
    ///
    /// # Errors
    /// - [`RestoreError::Mismatch`] with every tensor that should fit and doesn't, or when not one fits;
    /// - [`RestoreError::Collision`] when two tensors were given one name;
    /// - [`RestoreError::UnknownRename`] and [`RestoreError::UnknownOnly`] for a path that nothing has: a
    ///   typing error must not pass for a partial success;
    /// - [`RestoreError::NotHeld`] for a number that the network's element type doesn't have.
    ///
    /// Nothing has been changed then.
    pub fn restore_into<T: Scalar>(
        self,
        network: &mut (impl NamedTensors<T> + ?Sized),
    ) -> Result<Report, RestoreError> {
        self.run(network, None::<&mut dyn TrainingState<T>>, true)
    }

    /// Restores the network and the optimizer with its step count and options: both or none.
    ///
    /// # Errors
    /// [`RestoreError::NoOptimizer`] when none was saved, [`RestoreError::Options`] when the optimizer can't
    /// have the options that were saved, and those of [`restore_into`](Self::restore_into); nothing has been
    /// changed then.
    pub fn restore_into_with_optimizer<T: Scalar>(
        self,
        network: &mut (impl NamedTensors<T> + ?Sized),
        optimizer: &mut (impl TrainingState<T> + ?Sized),
    ) -> Result<Report, RestoreError> {
        self.run(network, Some(optimizer), true)
    }

    /// Restores all or nothing. The report is empty, unless it is to be `listed`.
    fn run<T: Scalar>(
        &self,
        network: &mut (impl NamedTensors<T> + ?Sized),
        mut optimizer: Option<&mut (impl TrainingState<T> + ?Sized)>,
        listed: bool,
    ) -> Result<Report, RestoreError> {
        let saved = self.checkpoint.optimizer();
        if optimizer.is_some() && saved.is_none() {
            return Err(RestoreError::NoOptimizer);
        }
        self.check_names(network)?;
        let mut buffer = self.checkpoint.payload().buffer()?;
        let mut net = Plan::new(self, Group::Network)?;
        net.decide(network, &mut buffer, |_| true);
        let mut state = None;
        if let Some(optimizer) = &mut optimizer {
            let state = state.insert(Plan::new(self, Group::Optimizer)?);
            // The state of a parameter that keeps its values belongs to other values, even where its shape
            // fits.
            let kept = |path: &str| self.fit == Fit::SkipMisshapen && net.keeps(path);
            state.decide(*optimizer, &mut buffer, |path| owner(path, kept).is_none());
        }

        let counts = state.iter().fold(net.counts, |counts, state| counts.and(state.counts));
        let Counts { restored, missing, unexpected, skipped } = counts;
        let all = missing == 0 && unexpected == 0 && skipped == 0;
        let none = net.counts.restored == 0;
        let fits = all
            || !none
                && match self.fit {
                    Fit::Strict => false,
                    Fit::Partial => skipped == 0,
                    Fit::SkipMisshapen => true,
                };
        let mut report = Report::default();
        if !fits || listed {
            // A list without room stays empty.
            reserve(&mut report.restored, if fits { restored } else { 0 })?;
            if fits || none || self.fit == Fit::Strict {
                reserve(&mut report.missing, missing)?;
                reserve(&mut report.unexpected, unexpected)?;
            }
            reserve(&mut report.skipped, skipped)?;
        }
        if fits {
            let refused = net.refused.take().or_else(|| state.as_mut()?.refused.take());
            refused.map_or(Ok(()), Err)?;
            self.source()?;
            if let (Some(optimizer), Some(saved)) = (&mut optimizer, saved)
                && !saved.options.is_empty()
            {
                optimizer.set_options(saved.options.clone())?;
            }
        }
        // From here on only the file can fail, if the elements are still there.
        net.carry_out(network, &mut buffer, fits, &mut report)?;
        if let (Some(optimizer), Some(state)) = (&mut optimizer, &mut state) {
            state.carry_out(*optimizer, &mut buffer, fits, &mut report)?;
        }
        if !fits {
            let Report { missing, unexpected, skipped: misshapen, .. } = report;
            return Err(Mismatch { missing, unexpected, misshapen }.into());
        }
        if let (Some(optimizer), Some(saved)) = (optimizer, saved) {
            optimizer.set_step_count(saved.steps);
        }
        Ok(report)
    }

    /// Whether all paths that were given mean something.
    fn check_names<T: Scalar>(
        &self,
        network: &mut (impl NamedTensors<T> + ?Sized),
    ) -> Result<(), RestoreError> {
        for from in &self.froms {
            let mut stored = self.checkpoint.from_place(Group::Network, 0);
            if !stored.any(|(_, stored)| below(stored.path, from).is_some()) {
                return Err(RestoreError::UnknownRename { from: from.clone() });
            }
        }
        let mut unknown: BTreeSet<&String> = self.only.iter().collect();
        network.visit_mut(Path::ROOT, &mut |path, _, _| {
            unknown.retain(|prefix| below(&path.to_string(), prefix).is_none());
        });
        match unknown.first() {
            Some(&prefix) => Err(RestoreError::UnknownOnly { prefix: prefix.clone() }),
            None => Ok(()),
        }
    }

    /// Whether the elements are still those that were verified: the last look before anything is written.
    fn source(&self) -> Result<(), RestoreError> {
        match self.checkpoint.payload().unchanged() {
            Ok(true) => Ok(()),
            Ok(false) => Err(RestoreError::Changed { reason: "it was written to".to_string() }),
            Err(error) => Err(RestoreError::Changed { reason: error.to_string() }),
        }
    }

    fn includes(&self, path: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|prefix| below(path, prefix).is_some())
    }

    fn renamed(&self, path: &str) -> String {
        self.renames.iter().find_map(|rename| rename(path)).unwrap_or_else(|| path.to_string())
    }
}

/// What is left of `path` when it is at or below `prefix`, without the dot between them.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    if prefix.is_empty() || rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

fn join(path: &str, rest: &str) -> String {
    let dot = if path.is_empty() || rest.is_empty() { "" } else { "." };
    format!("{path}{dot}{rest}")
}

/// The longest path above or at `slot` that is a parameter's: of `fc1.weight.velocity`, `fc1.weight`.
fn owner(slot: &str, is_parameter: impl Fn(&str) -> bool) -> Option<&str> {
    let above = slot.rmatch_indices('.').filter_map(|(dot, _)| slot.get(..dot));
    std::iter::once(slot).chain(above).chain([""]).find(|path| is_parameter(path))
}

/// Makes room for a list of so many.
fn reserve<I>(list: &mut Vec<I>, count: usize) -> Result<(), MemoryError> {
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
    restoring: &'r Restoring<'r>,
    group: Group,
    /// The network's tensors by their paths in the file: an optimizer's state is renamed with its parameter.
    parameters: Option<Index>,
}

impl<'r> Names<'r> {
    fn new(restoring: &'r Restoring<'r>, group: Group) -> Result<Self, MemoryError> {
        let mut parameters = None;
        if group == Group::Optimizer && !restoring.renames.is_empty() {
            let stored = || restoring.checkpoint.from_place(Group::Network, 0);
            let index = parameters.insert(Index::with_room(stored().count())?);
            for (place, stored) in stored() {
                // No path stands twice in a group.
                index.insert(stored.path, place, |_| false);
            }
        }
        Ok(Self { restoring, group, parameters })
    }

    /// Where the tensor goes that is called `path` in the file.
    fn of<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if self.restoring.renames.is_empty() {
            return path.into();
        }
        let parameter = self.parameters.as_ref().and_then(|parameters| {
            let is = |name: &str, place| self.stored(Group::Network, place).is_some_and(|it| it.path == name);
            owner(path, |name| parameters.find(name, |place| is(name, place)).is_some())
        });
        let parameter = parameter.unwrap_or(path);
        join(&self.restoring.renamed(parameter), below(path, parameter).unwrap_or_default()).into()
    }

    /// Whether the tensor at `place` goes to `path`.
    fn leads(&self, place: u32, path: &str) -> bool {
        self.stored(self.group, place).is_some_and(|stored| self.of(stored.path) == path)
    }

    fn stored(&self, group: Group, place: u32) -> Option<Stored<'r>> {
        self.restoring.checkpoint.at(group, place)
    }
}

/// How many tensors each list of a report has.
#[derive(Clone, Copy, Default)]
struct Counts {
    restored: usize,
    missing: usize,
    unexpected: usize,
    skipped: usize,
}

impl Counts {
    fn and(self, other: Self) -> Self {
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
struct Plan<'r> {
    names: Names<'r>,
    /// The file's tensors by where they go.
    index: Index,
    /// The place of every 64th tensor, and where its elements begin.
    marks: Vec<(u32, usize)>,
    counts: Counts,
    /// Why nothing can be written, although names, shapes and types fit: the first reason.
    refused: Option<RestoreError>,
}

/// Tensors from one mark to the next.
const MARK: usize = 64;

impl<'r> Plan<'r> {
    fn new(restoring: &'r Restoring<'r>, group: Group) -> Result<Self, RestoreError> {
        let names = Names::new(restoring, group)?;
        let stored = |group| restoring.checkpoint.from_place(group, 0);
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
            if restoring.includes(&path) {
                counts.unexpected = counts.unexpected.saturating_add(1);
            }
        }
        Ok(Self { names, index, marks, counts, refused: None })
    }

    /// Decides for every tensor of `target`, and changes nothing.
    ///
    /// It visits as `carry_out` will, for writing: what has been compared here is exactly what is going to be
    /// written.
    fn decide<T: Scalar>(
        &mut self,
        target: &mut (impl NamedTensors<T> + ?Sized),
        buffer: &mut Vec<u8>,
        wanted: impl Fn(&str) -> bool,
    ) {
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let path = path.to_string();
            if !self.names.restoring.includes(&path) {
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
    fn keeps(&self, path: &str) -> bool {
        self.find(path).is_some_and(|(_, _, state)| state == State::Kept)
    }

    /// The elements of the tensor at a place. Their sizes add up: that was checked when they were read.
    fn elements(&self, place: u32) -> Option<Elements<'r>> {
        let Restoring { checkpoint, convert: rounded, .. } = *self.names.restoring;
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
        let Restoring { convert, fit, .. } = *self.names.restoring;
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
    fn carry_out<T: Scalar>(
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
            if outcome.is_err() || !self.names.restoring.includes(&path) {
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
        for (_, stored) in self.names.restoring.checkpoint.from_place(group, 0) {
            if report.unexpected.len() == report.unexpected.capacity() {
                break;
            }
            let path = self.names.of(stored.path);
            let waiting = self.find(&path).is_some_and(|(_, _, state)| state == State::Waiting);
            if waiting && self.names.restoring.includes(&path) {
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

/// Why a checkpoint was not restored. Nothing has been changed, except by [`Interrupted`](Self::Interrupted).
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The tensors are not those that were saved: all that don't fit are listed.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// An optimizer was to be restored, and none was saved.
    #[error(
        "nothing restored: the checkpoint has no optimizer (use `restore` for the network alone, and save with \
         `.optimizer(..)`)"
    )]
    NoOptimizer,
    /// The optimizer can't have the options that were saved.
    #[error("nothing restored, because the optimizer doesn't fit: {0}")]
    Options(ConfigError),
    /// Two tensors of the checkpoint would go to one place.
    #[error(
        "nothing restored: {} and `{}` of the checkpoint would both be called `{}`: rename one of them otherwise",
        Name(*group, first), second.escape_debug(), path.escape_debug()
    )]
    Collision {
        /// Whose tensors they are.
        group: Group,
        /// Where both would go.
        path: String,
        /// One of them, as the checkpoint calls it.
        first: String,
        /// The other.
        second: String,
    },
    /// Something was to be renamed that the checkpoint doesn't have.
    #[error(
        "nothing restored: the checkpoint has nothing at or below `{}`, which was to be renamed: see \
         `Checkpoint::tensors` for what there is", from.escape_debug()
    )]
    UnknownRename {
        /// What was given to [`rename`](Restoring::rename).
        from: String,
    },
    /// Something was to be restored alone that the network doesn't have.
    #[error(
        "nothing restored: the network has nothing at or below `{}`, which alone was to be restored",
        prefix.escape_debug()
    )]
    UnknownOnly {
        /// What was given to [`only`](Restoring::only).
        prefix: String,
    },
    /// There is no memory for comparing, or for the report.
    #[error("nothing restored: {0}")]
    Memory(MemoryError),
    /// A number of the checkpoint is none of the network's element type: a whole number that would be
    /// rounded, or a finite one that would become infinite.
    #[error(
        "nothing restored: {} has {value} ({dtype}) at element {at}, which {target} can't hold", Name(*group, path)
    )]
    NotHeld {
        /// Whose tensor it is.
        group: Group,
        /// Its path in the checkpoint.
        path: String,
        /// Its element type.
        dtype: ElementType,
        /// The first such element, in row-major order.
        at: usize,
        /// Its value.
        value: String,
        /// The element type of the network.
        target: DType,
    },
    /// The elements had stayed in the file, and it is not as it was when [`Checkpoint::open`] verified it.
    #[error(
        "nothing restored, because the file has changed since it was opened ({}): open it again",
        Quoted(reason)
    )]
    Changed {
        /// What has become of it.
        reason: String,
    },
    /// The one exception to all or nothing: the file of a checkpoint that was [opened](Checkpoint::open) was
    /// written to or became unreadable **while** it was restored. Network and optimizer now hold old and new
    /// values: restore all of them from another file. A checkpoint that was [loaded](Checkpoint::load) never
    /// gives this error.
    #[error(
        "restored in part only: reading {} again failed: {}; restore all from another file",
        Name(*group, path), Quoted(reason)
    )]
    Interrupted {
        /// Whose tensor could not be read.
        group: Group,
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
}

impl From<MemoryError> for RestoreError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<ConfigError> for RestoreError {
    fn from(error: ConfigError) -> Self {
        Self::Options(error)
    }
}

backrule_tensor::readable! {
    enum RestoreError {
        Mismatch(list),
        NoOptimizer,
        Options(error),
        Collision { group, path, first, second },
        UnknownRename { from },
        UnknownOnly { prefix },
        Memory(error),
        NotHeld { group, path, dtype, at, value, target },
        Changed { reason },
        Interrupted { group, path, reason },
    }
}

#[cfg(test)]
mod tests {
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
