use std::collections::{BTreeMap, BTreeSet};

use backrule_tensor::{ConfigError, DType, NamedTensors, Path, Scalar, TrainingState};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::payload::Elements;
use crate::element::{self, ElementType, NotHeld};
use crate::format::entry::{Group, Name, TensorInfo};
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
    /// let mut other = vec![
    ///     ("weight", Tensor::from([[0.0_f32], [0.0]])),
    ///     ("scale", Tensor::from([0.0])),
    /// ];
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
        self.restoring().restore_into(network).map(drop)
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
        self.restoring().restore_into_with_optimizer(network, optimizer).map(drop)
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
/// let restoring = checkpoint.restoring().rename("fc1", "body.fc1").partial();
/// let report = restoring.restore_into(&mut net)?;
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
        let mut report = Report::default();
        let mut plan = self.network(network, &mut report)?;
        let report = self.accept(report)?;
        plan.refused.take().map_or(Ok(()), Err)?;
        self.source()?;
        plan.write(network)?;
        Ok(report)
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
        let saved = self.checkpoint.optimizer().ok_or(RestoreError::NoOptimizer)?;
        let mut report = Report::default();
        let mut net = self.network(network, &mut report)?;
        let mut state = Plan::new(&self, Group::Optimizer)?;
        // The state of a parameter that keeps its values belongs to other values, even where its shape fits.
        let mut kept = BTreeSet::new();
        if self.fit == Fit::SkipMisshapen {
            kept.extend(report.skipped.iter().map(|pair| pair.target.path.clone()));
        }
        state.compare(optimizer, &mut report, |path| owner(path, |it| kept.contains(it)).is_none());
        let report = self.accept(report)?;
        net.refused.take().or(state.refused.take()).map_or(Ok(()), Err)?;
        self.source()?;
        if !saved.options.is_empty() {
            optimizer.set_options(saved.options.clone())?;
        }
        // From here on only the file can fail, if the elements are still there.
        net.write(network)?;
        state.write(optimizer)?;
        optimizer.set_step_count(saved.steps);
        Ok(report)
    }

    /// What is going to be written to the network, after a look at whether all paths that were given mean
    /// something.
    fn network<T: Scalar>(
        &self,
        network: &mut (impl NamedTensors<T> + ?Sized),
        report: &mut Report,
    ) -> Result<Plan<'_>, RestoreError> {
        let stored = || self.checkpoint.group(Group::Network);
        for from in &self.froms {
            if !stored().any(|(info, _)| below(&info.path, from).is_some()) {
                return Err(RestoreError::UnknownRename { from: from.clone() });
            }
        }
        let mut unknown: BTreeSet<&String> = self.only.iter().collect();
        network.visit_mut(Path::ROOT, &mut |path, _, _| {
            unknown.retain(|prefix| below(&path.to_string(), prefix).is_none());
        });
        if let Some(&prefix) = unknown.first() {
            return Err(RestoreError::UnknownOnly { prefix: prefix.clone() });
        }
        let mut plan = Plan::new(self, Group::Network)?;
        plan.compare(network, report, |_| true);
        Ok(plan)
    }

    /// Whether the elements are still those that were verified: the last look before anything is written.
    fn source(&self) -> Result<(), RestoreError> {
        match self.checkpoint.payload().unchanged() {
            Ok(true) => Ok(()),
            Ok(false) => Err(RestoreError::Changed { reason: "it was written to".to_string() }),
            Err(error) => Err(RestoreError::Changed { reason: error.to_string() }),
        }
    }

    /// Whether as much fits as was asked for.
    fn accept(&self, report: Report) -> Result<Report, RestoreError> {
        let Report { restored, missing, unexpected, skipped } = &report;
        let all = missing.is_empty() && unexpected.is_empty() && skipped.is_empty();
        let none = !restored.iter().any(|pair| pair.target.group == Group::Network);
        let fits = match self.fit {
            Fit::Strict => all,
            Fit::Partial => skipped.is_empty(),
            Fit::SkipMisshapen => true,
        };
        if all || fits && !none {
            return Ok(report);
        }
        let mut mismatch = Mismatch { misshapen: report.skipped, ..Mismatch::default() };
        if self.fit == Fit::Strict || none {
            (mismatch.missing, mismatch.unexpected) = (report.missing, report.unexpected);
        }
        Err(mismatch.into())
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

/// What is going to be written to the network or the optimizer.
struct Plan<'r> {
    restoring: &'r Restoring<'r>,
    group: Group,
    /// What no tensor has asked for yet, by the path where it goes.
    stored: BTreeMap<String, (TensorInfo, Elements<'r>)>,
    /// What fits, by the path where it goes.
    writes: BTreeMap<String, Elements<'r>>,
    /// Why nothing can be written, although names, shapes and types fit: the first reason.
    refused: Option<RestoreError>,
}

impl<'r> Plan<'r> {
    fn new(restoring: &'r Restoring<'r>, group: Group) -> Result<Self, RestoreError> {
        let checkpoint = restoring.checkpoint;
        let parameters: BTreeSet<String> =
            checkpoint.group(Group::Network).map(|(info, _)| info.path).collect();
        let mut stored = BTreeMap::new();
        for (info, elements) in checkpoint.group(group) {
            let parameter = match group {
                Group::Optimizer => owner(&info.path, |path| parameters.contains(path)),
                _ => None,
            };
            let path = match parameter {
                Some(path) => join(&restoring.renamed(path), below(&info.path, path).unwrap_or_default()),
                None => restoring.renamed(&info.path),
            };
            let second = info.path.clone();
            if let Some((first, _)) = stored.insert(path.clone(), (info, elements)) {
                return Err(RestoreError::Collision { group, path, first: first.path, second });
            }
        }
        stored.retain(|path, _| restoring.includes(path));
        Ok(Self { restoring, group, stored, writes: BTreeMap::new(), refused: None })
    }

    /// Decides for every tensor of `target`, notes it in `report`, and changes nothing.
    ///
    /// It visits as `write` will, for writing: what has been compared here is exactly what is going to be
    /// written.
    fn compare<T: Scalar>(
        &mut self,
        target: &mut (impl NamedTensors<T> + ?Sized),
        report: &mut Report,
        wanted: impl Fn(&str) -> bool,
    ) {
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let path = path.to_string();
            if !self.restoring.includes(&path) {
                return;
            }
            let target = TensorInfo {
                group: self.group,
                path: path.clone(),
                dtype: T::DTYPE.into(),
                shape: tensor.shape(),
                crc: None,
                size: tensor.len().saturating_mul(T::DTYPE.size()),
            };
            // Taken out, so the second of two tensors with one name is missing.
            let Some((stored, mut elements)) = self.stored.remove(&path) else {
                report.missing.push(target);
                return;
            };
            elements.rounded = self.restoring.convert;
            let fits = stored.shape == target.shape && wanted(&path) && self.holds::<T>(&stored, &elements);
            let pair = Pair { stored, target };
            if fits {
                self.writes.insert(path, elements);
                report.restored.push(pair);
            } else {
                report.skipped.push(pair);
            }
        });
        report.unexpected.extend(self.stored.values().map(|(info, _)| info.clone()));
    }

    /// Whether a tensor of `T` has these values. A reason that isn't a matter of types is noted.
    fn holds<T: Scalar>(&mut self, stored: &TensorInfo, elements: &Elements<'_>) -> bool {
        match stored.dtype.fit(T::DTYPE, self.restoring.convert) {
            element::Fit::Always => return true,
            element::Fit::Never => return false,
            element::Fit::IfHeld => {}
        }
        let reason = match elements.not_held::<T>() {
            Ok(None) => return true,
            Ok(Some(_)) if self.restoring.fit == Fit::SkipMisshapen => return false,
            Ok(Some(NotHeld { at, value })) => {
                let TensorInfo { group, path, dtype, .. } = stored.clone();
                RestoreError::NotHeld { group, path, dtype, at, value, target: T::DTYPE }
            }
            Err(lost) => RestoreError::Changed { reason: lost.to_string() },
        };
        self.refused.get_or_insert(reason);
        true
    }

    /// Copies all values. After `compare` and `source` it can only fail while a file is being read.
    fn write<T: Scalar>(mut self, target: &mut (impl NamedTensors<T> + ?Sized)) -> Result<(), RestoreError> {
        let mut outcome = Ok(());
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let path = path.to_string();
            let Some(elements) = self.writes.remove(&path).filter(|_| outcome.is_ok()) else { return };
            outcome = elements.copy_to(tensor.as_mut_slice()).map_err(|lost| RestoreError::Interrupted {
                group: self.group,
                path,
                reason: lost.to_string(),
            });
        });
        outcome
    }
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
