//! Restoring: all or nothing.

mod error;
mod index;
mod plan;

use std::collections::BTreeSet;

use backrule_tensor::{NamedTensors, Path, Scalar, TrainingState, memory};

use crate::checkpoint::Checkpoint;
use crate::format::entry::Group;
use crate::report::{Mismatch, Report};
use crate::restore::plan::{Findings, Fit, Plan, Request, below, join, owner};

pub use error::RestoreError;

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

    /// Begins to restore into something that differs from the saved network: see [`Restoring`].
    pub fn restoring(&self) -> Restoring<'_> {
        Restoring { request: Request::new(self), renamed: Vec::new() }
    }
}

/// A restore into something that differs from the saved network: made by [`Checkpoint::restoring`].
///
/// By default everything has to fit, as with [`Checkpoint::restore`]. Everything is compared before anything
/// is written, and on an error network and optimizer are as they were.
///
/// Fine-tuning takes the old body and a new head:
///
/// ```
/// # use backrule_io::Checkpoint;
/// # use backrule_io::tensor::Tensor;
/// // The trained network: a body with an output for two classes.
/// let old = vec![
///     ("fc1.weight", Tensor::from([[1.0_f32, 2.0], [3.0, 4.0]])),
///     ("fc1.bias", Tensor::from([5.0, 6.0])),
///     ("fc2.weight", Tensor::from([[7.0, 8.0], [9.0, 10.0]])),
/// ];
/// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&old).to_bytes()?)?;
///
/// // The network to be trained: the same body under another name, and three classes.
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
    request: Request<'c>,
    /// The arguments of `rename`: from, and to.
    renamed: Vec<(String, String)>,
}

impl<'c> Restoring<'c> {
    /// A tensor at or below `from` in the checkpoint goes to the same place at or below `to`.
    ///
    /// Paths are compared by whole names: `fc1` is not the beginning of `fc10.weight`. An empty `from` moves
    /// everything, an empty `to` takes a name away. Each tensor is renamed once, by the first call that knows
    /// it, so two calls can swap names. An optimizer's state follows its parameter. There has to be something
    /// at or below both, whatever else may be missing; to leave a part of the checkpoint out, say
    /// [`only`](Self::only) the wanted parts.
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
        self.renamed.push((from.clone(), to.clone()));
        self.rename_with(move |path| below(path, &from).map(|rest| join(&to, rest)))
    }

    /// The same by a function of the path in the checkpoint; where it gives `None`, the next call decides, or
    /// the path stays.
    ///
    /// It is asked several times about a path, and has to give the same each time. An optimizer's state
    /// follows its parameter; it is asked about state without one.
    pub fn rename_with(mut self, rename: impl Fn(&str) -> Option<String> + 'c) -> Self {
        self.request.renames.push(Box::new(rename));
        self
    }

    /// Restores the tensors at or below `prefix` in the network, and leaves all else alone, on both sides.
    /// Several calls add up. The path is that in the network: it has been renamed already.
    pub fn only(mut self, prefix: impl Into<String>) -> Self {
        self.request.only.push(prefix.into());
        self
    }

    /// Tensors may be missing in the checkpoint, and keep their values; and it may have others. Tensors on
    /// both sides have to have the same shape and element type. The [`Report`] tells what was restored; read
    /// it.
    pub fn partial(mut self) -> Self {
        if self.request.fit < Fit::Partial {
            self.request.fit = Fit::Partial;
        }
        self
    }

    /// As [`partial`](Self::partial), and tensors with another shape or element type keep their values too,
    /// with the optimizer's state for them.
    pub fn skip_misshapen(mut self) -> Self {
        self.request.fit = Fit::SkipMisshapen;
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
        self.request.convert = true;
        self
    }

    /// Restores the network.
    ///
    /// # Errors
    /// - [`RestoreError::Mismatch`] with every tensor that should fit and doesn't, or when not one fits;
    /// - [`RestoreError::Collision`] when two tensors were given one name;
    /// - [`RestoreError::UnknownRename`], [`RestoreError::UnknownTarget`] and [`RestoreError::UnknownOnly`]
    ///   for a path that nothing has: a typing error must not pass for a partial success;
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
    /// The options are those that were saved, so **the learning rate becomes the saved one**, with weight
    /// decay and all else, whatever the optimizer was made with. For another one, to fine-tune at a smaller
    /// rate, say, set it afterwards:
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::{ConfigError, NamedTensors, Options, Tensor, TrainingState};
    /// # struct Plain(f64);
    /// # impl NamedTensors<f32> for Plain {}
    /// # impl TrainingState<f32> for Plain {
    /// #     fn step_count(&self) -> u64 {
    /// #         0
    /// #     }
    /// #     fn set_step_count(&mut self, _: u64) {}
    /// #     fn options(&self) -> Options {
    /// #         Options::new().with("lr", self.0)
    /// #     }
    /// #     fn set_options(&mut self, mut options: Options) -> Result<(), ConfigError> {
    /// #         self.0 = options.number("lr")?;
    /// #         options.finish()
    /// #     }
    /// # }
    /// # let mut net = vec![("weight", Tensor::from([1.0_f32]))];
    /// # let optimizer = |lr| Plain(lr);
    /// # let bytes = Checkpoint::of(&net).optimizer(&optimizer(0.1)).to_bytes()?;
    /// # let checkpoint = Checkpoint::from_bytes(&bytes)?;
    /// // Saved with a learning rate of 0.1.
    /// let mut sgd = optimizer(0.001);
    /// checkpoint.restoring().restore_into_with_optimizer(&mut net, &mut sgd)?;
    /// assert_eq!(sgd.options().number("lr")?, 0.1);
    /// sgd.set_options(Options::new().with("lr", 0.001))?;
    /// # assert_eq!(sgd.0, 0.001);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
        let saved = self.request.checkpoint.optimizer();
        if optimizer.is_some() && saved.is_none() {
            return Err(RestoreError::NoOptimizer);
        }
        self.check_names(network)?;
        let fit = self.request.fit;
        let mut buffer = self.request.checkpoint.payload().buffer()?;
        let mut findings = Findings::default();
        let mut net = Plan::new(&self.request, Group::Network, &mut findings)?;
        net.decide(network, &mut buffer, &mut findings, |_| true);
        let none = findings.restored == 0;
        let mut state = None;
        if let Some(optimizer) = &mut optimizer {
            let state = state.insert(Plan::new(&self.request, Group::Optimizer, &mut findings)?);
            // The state of a parameter that keeps its values belongs to other values, even where its shape
            // fits.
            let kept = |path: &str| fit == Fit::SkipMisshapen && net.keeps(path);
            state.decide(*optimizer, &mut buffer, &mut findings, |path| owner(path, kept).is_none());
        }

        let Findings { restored, missing, unexpected, skipped, refused } = findings;
        let all = missing == 0 && unexpected == 0 && skipped == 0;
        let enough = fit == Fit::SkipMisshapen || fit == Fit::Partial && skipped == 0;
        let fits = all || enough && !none;
        let mut report = Report::default();
        if !fits || listed {
            // A list without room stays empty.
            report.restored = memory::room("restore", if fits { restored } else { 0 })?;
            if fits || none || fit == Fit::Strict {
                report.missing = memory::room("restore", missing)?;
                report.unexpected = memory::room("restore", unexpected)?;
            }
            report.skipped = memory::room("restore", skipped)?;
        }
        if fits {
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
        for (from, _) in &self.renamed {
            let mut stored = self.request.checkpoint.stored_from(Group::Network, 0);
            if !stored.any(|(_, stored)| below(stored.path, from).is_some()) {
                return Err(RestoreError::UnknownRename { from: from.clone() });
            }
        }
        let mut targets: BTreeSet<&(String, String)> = self.renamed.iter().collect();
        let mut unknown: BTreeSet<&String> = self.request.only.iter().collect();
        if targets.is_empty() && unknown.is_empty() {
            return Ok(());
        }
        network.visit_mut(Path::ROOT, &mut |path, _, _| {
            let path = path.to_string();
            targets.retain(|(_, to)| below(&path, to).is_none());
            unknown.retain(|prefix| below(&path, prefix).is_none());
        });
        if let Some((from, to)) = targets.first() {
            return Err(RestoreError::UnknownTarget { from: from.clone(), to: to.clone() });
        }
        match unknown.first() {
            Some(&prefix) => Err(RestoreError::UnknownOnly { prefix: prefix.clone() }),
            None => Ok(()),
        }
    }

    /// Whether the elements are still those that were verified: the last look before anything is written.
    fn source(&self) -> Result<(), RestoreError> {
        match self.request.checkpoint.payload().unchanged() {
            Ok(true) => Ok(()),
            Ok(false) => Err(RestoreError::Changed { reason: "it was written to".to_string() }),
            Err(error) => Err(RestoreError::Changed { reason: error.to_string() }),
        }
    }
}
