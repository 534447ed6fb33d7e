use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use backrule_tensor::{MemoryError, Scalar, memory};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::load::LoadError;
use crate::checkpoint::payload::Stamp;
use crate::file::OutOfReach;
use crate::file::durability::Durability;
use crate::file::temporary::{self, MAX_STEM};
use crate::format::problem::LoadProblem;
use crate::quoted::{At, Beginning, Message};
use crate::snapshot::{SaveError, Snapshot};

/// Names the operation in errors.
const OPERATION: &str = "rotation";

/// The checkpoints of one run in a folder: the last few and the best; older ones are removed.
///
/// ```
/// use backrule_io::tensor::Tensor;
/// use backrule_io::{Best, Checkpoint, Rotation, Run};
///
/// # let folder = std::env::temp_dir().join(format!("backrule-rotation-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let rotation = Rotation::new(&folder, "digits")?.keep_last(2).keep_best(Best::Min);
/// let mut net = vec![("weight", Tensor::from([0.0_f32]))];
/// for (epoch, loss) in (1..).zip([0.9, 0.4, 0.5, 0.7, 0.6]) {
///     net[0].1.fill(1.0 / epoch as f32);
///     rotation.save(&Checkpoint::of(&net).run(&Run { epoch, ..Run::default() }), loss)?;
/// }
/// let files = rotation.files()?;
/// let names: Vec<_> = files.iter().map(|file| file.path.file_name().unwrap()).collect();
/// assert_eq!(names[0], "digits-00000005-6e-1.brk");
/// assert_eq!(names[1], "digits-00000004-7e-1.brk");
/// assert_eq!(names[2], "digits-00000002-4e-1.brk");
/// assert_eq!(names.len(), 3);
///
/// // After a crash: whatever was saved last, if there is anything yet.
/// if let Some(found) = rotation.latest()? {
///     found.checkpoint.restore(&mut net)?;
///     assert_eq!(found.checkpoint.run().epoch, 5);
/// }
/// assert_eq!(rotation.best()?.unwrap().file.metric, Some(0.4));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What it relies on
/// All that it knows stands in the names of the files, `NAME-NUMBER-METRIC.brk`: there is no index that could
/// disagree with them. Only regular files are removed that are called just as it would have called them. The
/// numbers go on from the largest that is there; one process at a time should save under one name.
///
/// The new file is on the disk, and its name is, before an old one is removed. A process that is killed in
/// between leaves files too many, finished or not, which the next [`save`](Self::save) removes.
///
/// A name proves nothing, so a stranger's file in the folder neither stops a rotation nor costs it
/// the best checkpoint: a file counts as the best one only if it is a whole checkpoint, and for an infinite
/// metric that this `Rotation` has not saved itself, the best finite one is kept as well. A whole checkpoint
/// under a name with a finite metric can't be told from one that was saved.
#[derive(Clone, Debug)]
pub struct Rotation {
    folder: PathBuf,
    name: String,
    last: usize,
    best: Option<Best>,
    /// The best file that was verified, so it isn't read again in each save; and whether it was saved here.
    verified: Arc<Mutex<Option<(PathBuf, Stamp, bool)>>>,
}

/// Which metric is the best one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// The smallest, as of a loss.
    Min,
    /// The largest, as of an accuracy.
    Max,
}

/// The metric of a checkpoint: a number, or none. An f32 is widened, exactly, as by [`f64::from`].
///
/// ```
/// use backrule_io::Metric;
///
/// assert_eq!(Metric::from(0.5_f32), Metric::from(0.5));
/// assert_eq!(Metric::from(0.5), Metric::from(Some(0.5)));
/// assert_eq!(Metric::from(0.1_f32).value(), Some(0.10000000149011612));
/// assert_eq!(Metric::from(None).value(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric(Option<f64>);

impl Metric {
    /// The number.
    pub fn value(self) -> Option<f64> {
        self.0
    }
}

impl From<f64> for Metric {
    fn from(value: f64) -> Self {
        Self(Some(value))
    }
}

impl From<f32> for Metric {
    fn from(value: f32) -> Self {
        Self(Some(value.into()))
    }
}

impl From<Option<f64>> for Metric {
    fn from(value: Option<f64>) -> Self {
        Self(value)
    }
}

/// One file of a rotation.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its number; larger ones are newer.
    pub number: u64,
    /// The metric with which it was saved.
    pub metric: Option<f64>,
}

impl RotationFile {
    /// Whether it has a metric that is a number.
    fn has_merit(&self) -> bool {
        self.metric.is_some_and(|metric| !metric.is_nan())
    }
}

/// The files that a rotation has saved and removed.
#[derive(Debug)]
pub struct Rotated {
    /// The new file.
    pub file: RotationFile,
    /// Whether a power cut can undo the save.
    pub durability: Durability,
    /// The files that are gone.
    pub removed: Vec<PathBuf>,
    /// Those that should be gone and could not be removed. Nothing is lost by that; the next save tries
    /// again.
    pub not_removed: Vec<(PathBuf, io::Error)>,
}

/// A checkpoint that was found in a folder.
#[derive(Debug)]
pub struct Found {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Where it was.
    pub file: RotationFile,
    /// Those that would have come first and can't be loaded.
    pub passed_over: Vec<LoadError>,
}

impl Rotation {
    /// The checkpoints of the run `name` in a folder that exists. All are kept, as long as nothing else is
    /// said.
    ///
    /// # Errors
    /// [`RotationError::Name`] if `name` can't begin the name of a file.
    pub fn new(folder: impl Into<PathBuf>, name: impl Into<String>) -> Result<Self, RotationError> {
        let name = name.into();
        // A leading dot would hide the files, and is the first byte of temporary ones.
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', '\0']) {
            return Err(RotationError::Name { name });
        }
        Ok(Self { folder: folder.into(), name, last: usize::MAX, best: None, verified: Arc::default() })
    }

    /// Keeps the newest `count`; the newest one always.
    pub fn keep_last(mut self, count: usize) -> Self {
        self.last = count.max(1);
        self
    }

    /// Keeps also the one with the best metric; of equal ones the first. NaN is never the best, and a file
    /// that is no whole checkpoint isn't either. One that can't be read at the moment is kept: it might be.
    pub fn keep_best(mut self, best: Best) -> Self {
        self.best = Some(best);
        self
    }

    /// Saves a checkpoint, and then removes those that needn't be kept any longer. Unfinished files of this
    /// rotation that killed processes have left are removed first.
    ///
    /// The metric is a number, such as the loss of a training in f32 or in f64, or `None`. If the largest
    /// number of all is taken, the files that are there are numbered anew from 0, in their order.
    ///
    /// # Errors
    /// When the folder can't be read, or the checkpoint was not saved, or not surely. Nothing has been
    /// removed then.
    pub fn save<T: Scalar>(
        &self,
        snapshot: &Snapshot<'_, T>,
        metric: impl Into<Metric>,
    ) -> Result<Rotated, RotationError> {
        self.save_with(snapshot, metric.into().value(), |path| fs::remove_file(path))
    }

    fn save_with<T: Scalar>(
        &self,
        snapshot: &Snapshot<'_, T>,
        metric: Option<f64>,
        remove: impl Fn(&Path) -> io::Result<()>,
    ) -> Result<Rotated, RotationError> {
        temporary::clean_where(&self.folder, |stem| is_ours(&self.name, stem));
        let (number, path) = match self.free(metric)? {
            Some(free) => free,
            None => {
                self.number_anew()?;
                self.free(metric)?.ok_or_else(|| RotationError::Full { folder: self.folder.clone() })?
            }
        };
        // The steps after the save find their memory there.
        let mut files = self.files()?;
        memory::make_room(OPERATION, &mut files, 1)?;
        let most = files.len().saturating_add(1);
        let (mut removed, mut not_removed) = (memory::room(OPERATION, most)?, memory::room(OPERATION, most)?);
        let kept = memory::room(OPERATION, most)?;
        let durability = snapshot.save(&path)?;

        self.list(&mut files)?;
        let best = match self.best {
            Some(best) if files.len() > self.last => {
                // One list in two orders: a second one would take memory after a save.
                by_merit(best, &mut files);
                let kept = self.worth_keeping(&files, &path, kept, |path| Checkpoint::open(path).map(drop));
                by_number(&mut files);
                kept
            }
            _ => Vec::new(),
        };
        let kept = |file: &RotationFile| best.binary_search(&file.path).is_ok();
        // The oldest first: an interrupted process leaves the newest.
        for old in files.into_iter().skip(self.last).rev().filter(|file| !kept(file)) {
            match remove(&old.path) {
                Ok(()) => removed.push(old.path),
                Err(error) => not_removed.push((old.path, error)),
            }
        }
        Ok(Rotated { file: RotationFile { path, number, metric }, durability, removed, not_removed })
    }

    /// The first number after all that are there, and its path; `None` when there is no such number. A folder
    /// or a link may have that name: saving would fail, or follow it.
    fn free(&self, metric: Option<f64>) -> Result<Option<(u64, PathBuf)>, RotationError> {
        let mut number = self.files()?.first().map_or(0, |newest| newest.number);
        while let Some(next) = number.checked_add(1) {
            let path = self.folder.join(file_name(&self.name, next, metric));
            if !is_taken(&path) {
                return Ok(Some((next, path)));
            }
            number = next;
        }
        Ok(None)
    }

    /// Gives the files the numbers from 0 on. The oldest is the first to be renamed, and no number becomes
    /// larger: so at any moment the order is the same.
    fn number_anew(&self) -> Result<(), RotationError> {
        let (mut next, mut before) = (0_u64, None);
        for file in self.files()?.into_iter().rev() {
            if before.is_some_and(|before| before != file.number) {
                next = next.saturating_add(1);
            }
            before = Some(file.number);
            let name = |number| self.folder.join(file_name(&self.name, number, file.metric));
            while name(next) != file.path && is_taken(&name(next)) {
                next = next.saturating_add(1);
            }
            fs::rename(&file.path, name(next))
                .map_err(|_| RotationError::Full { folder: self.folder.clone() })?;
        }
        Ok(())
    }

    /// The best file that is a whole checkpoint, of `files` in the order of their merit. With it those that
    /// would come before it and can't be read at the moment: nobody knows whether they are better. They are
    /// put into `kept`, in the order of their paths. `verify` says whether a file is a whole checkpoint.
    fn worth_keeping(
        &self,
        files: &[RotationFile],
        new: &Path,
        mut kept: Vec<PathBuf>,
        verify: impl Fn(&Path) -> Result<(), LoadError>,
    ) -> Vec<PathBuf> {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut found, mut is_kept) = (None, false);
        for RotationFile { path, metric, .. } in files.iter().filter(|file| file.has_merit()) {
            let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
            let before =
                verified.as_ref().filter(|(known, at, _)| known == path && stamp.as_ref() == Some(at));
            let known = path == new && stamp.is_some() || before.is_some();
            let own = path == new || before.is_some_and(|(_, _, own)| *own);
            let infinite = metric.is_some_and(f64::is_infinite);
            // One of others' is enough.
            if infinite && is_kept && !own {
                continue;
            }
            match if known { Ok(()) } else { verify(path) } {
                Ok(()) => {
                    if found.is_none() || own {
                        found = stamp.map(|stamp| (path.clone(), stamp, own));
                    }
                    kept.push(path.clone());
                    is_kept = true;
                    // Anybody can call a file infinitely good: the best of the others stays.
                    if own || !infinite {
                        break;
                    }
                }
                Err(error) if is_damage(&error.problem) => {}
                Err(_) => kept.push(path.clone()),
            }
        }
        *verified = found.or_else(|| verified.take());
        kept.sort_unstable();
        kept
    }

    /// The files that are there, the newest first.
    ///
    /// # Errors
    /// [`RotationError::Folder`] when the folder can't be read.
    pub fn files(&self) -> Result<Vec<RotationFile>, RotationError> {
        let mut files = Vec::new();
        self.list(&mut files).map(|()| files)
    }

    /// The same in the place of `files`' contents.
    fn list(&self, files: &mut Vec<RotationFile>) -> Result<(), RotationError> {
        let failed = |error| RotationError::Folder { folder: self.folder.clone(), error };
        files.clear();
        let others = OutOfReach::of(&self.folder);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let parsed = entry.file_name().to_str().and_then(|name| parse(&self.name, name));
            // A link is not ours, wherever it leads.
            if let Some((number, metric)) = parsed {
                match entry.file_type() {
                    Ok(kind) if kind.is_file() && !others.has(&entry) => {
                        let file = RotationFile { path: entry.path(), number, metric };
                        memory::push(OPERATION, files, file)?;
                    }
                    // Removed meanwhile.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        by_number(files);
        Ok(())
    }

    /// The newest checkpoint that can be loaded; `None` if there are no files yet.
    ///
    /// A run that goes on from an older checkpoint than its last one should say so. [`Found::passed_over`]
    /// has the reasons:
    ///
    /// ```
    /// use backrule_io::tensor::Tensor;
    /// use backrule_io::{Checkpoint, Rotation, Run};
    ///
    /// # let folder = std::env::temp_dir().join(format!("backrule-latest-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// let rotation = Rotation::new(&folder, "digits")?;
    /// let mut net = vec![("weight", Tensor::from([0.5_f32]))];
    /// for epoch in 1..=3 {
    ///     rotation.save(&Checkpoint::of(&net).run(&Run { epoch, ..Run::default() }), None)?;
    /// }
    /// // A fault of the disk: the newest file has lost its end.
    /// let newest = rotation.files()?[0].path.clone();
    /// std::fs::OpenOptions::new().write(true).open(&newest)?.set_len(100)?;
    ///
    /// if let Some(found) = rotation.latest()? {
    ///     for problem in &found.passed_over {
    ///         eprintln!("passed over: {problem}"); // digits-00000003.brk: cut short: …
    ///     }
    ///     assert_eq!(found.passed_over.len(), 1);
    ///     assert_eq!(found.passed_over[0].file, Some(newest));
    ///     found.checkpoint.restore(&mut net)?;
    ///     assert_eq!(found.checkpoint.run().epoch, 2);
    /// }
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// It is [loaded](Checkpoint::load) into memory. For a network that doesn't fit there twice, give the
    /// first of the [`files`](Self::files) to [`Checkpoint::open`].
    ///
    /// # Errors
    /// When the folder can't be read, or there are files and none of them can be loaded; or there is no
    /// memory for one that comes first.
    pub fn latest(&self) -> Result<Option<Found>, RotationError> {
        self.first(self.files()?)
    }

    /// The best checkpoint that can be loaded; `None` if none has a metric.
    ///
    /// # Errors
    /// Those of [`latest`](Self::latest), and when [`keep_best`](Self::keep_best) has not defined the best
    /// one.
    pub fn best(&self) -> Result<Option<Found>, RotationError> {
        let best = self.best.ok_or(RotationError::Unordered)?;
        let mut files = self.files()?;
        files.retain(RotationFile::has_merit);
        by_merit(best, &mut files);
        self.first(files)
    }

    fn first(&self, files: impl IntoIterator<Item = RotationFile>) -> Result<Option<Found>, RotationError> {
        let mut passed_over = Vec::new();
        for file in files {
            match Checkpoint::load(&file.path) {
                Ok(checkpoint) => return Ok(Some(Found { checkpoint, file, passed_over })),
                // An older one may be small enough, and is not the one asked for.
                Err(LoadError { problem: LoadProblem::Memory(error), .. }) => return Err(error.into()),
                Err(error) => memory::push(OPERATION, &mut passed_over, error)?,
            }
        }
        if passed_over.is_empty() {
            return Ok(None);
        }
        Err(RotationError::NoneLoads { folder: self.folder.clone(), problems: passed_over })
    }
}

/// Whatever it is.
fn is_taken(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether the file itself is at fault, and not the disk, the memory, or the age of this crate.
fn is_damage(problem: &LoadProblem) -> bool {
    matches!(
        problem,
        LoadProblem::NotACheckpoint
            | LoadProblem::Truncated { .. }
            | LoadProblem::Checksum(_)
            | LoadProblem::Limit(_)
            | LoadProblem::Holes { .. }
            | LoadProblem::Malformed(_)
    )
}

/// Whether the name that an unfinished file was to get is one of the rotation's. Of a long one, only the
/// first [`MAX_STEM`] bytes are known.
fn is_ours(name: &str, stem: &str) -> bool {
    let cut = || {
        let first = format!("{name}-");
        let number = |rest: &str| rest.bytes().take(8).all(|byte| byte.is_ascii_digit());
        // A character of up to four bytes was the next.
        stem.len().saturating_add(4) > MAX_STEM
            && (first.starts_with(stem) || stem.strip_prefix(&first).is_some_and(number))
    };
    parse(name, stem).is_some() || cut()
}

/// The newest first.
fn by_number(files: &mut [RotationFile]) {
    files.sort_unstable_by(|a, b| (b.number, &b.path).cmp(&(a.number, &a.path)));
}

/// The best first, of equal ones the oldest, and in the end those that have no metric, or NaN.
fn by_merit(best: Best, files: &mut [RotationFile]) {
    files.sort_unstable_by(|a, b| in_merit(best, a, b));
}

fn in_merit(best: Best, a: &RotationFile, b: &RotationFile) -> Ordering {
    #[cfg(test)]
    tests::COMPARED.set(tests::COMPARED.get().saturating_add(1));
    let order = a.metric.partial_cmp(&b.metric).unwrap_or(Ordering::Equal);
    let order = if best == Best::Min { order } else { order.reverse() };
    let order = b.has_merit().cmp(&a.has_merit()).then(order);
    order.then_with(|| (a.number, &a.path).cmp(&(b.number, &b.path)))
}

fn file_name(name: &str, number: u64, metric: Option<f64>) -> String {
    let metric = metric.map_or(String::new(), |metric| format!("-{metric:e}"));
    format!("{name}-{number:08}{metric}.brk")
}

/// The number and the metric of a file called exactly as [`file_name`] calls it.
fn parse(name: &str, file: &str) -> Option<(u64, Option<f64>)> {
    let rest = file.strip_prefix(name)?.strip_prefix('-')?.strip_suffix(".brk")?;
    let (number, metric) = match rest.split_once('-') {
        Some((number, metric)) => (number, Some(metric.parse().ok()?)),
        None => (rest, None),
    };
    let number = number.parse().ok()?;
    (file_name(name, number, metric) == file).then_some((number, metric))
}

/// Why a [`Rotation`](Rotation) has not saved or found a checkpoint. Nothing has been removed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// A run's name has to be the beginning of the name of a file.
    #[error("no name for a run: {name:?}; it can't be empty, begin with a dot, or have one of / \\ : in it")]
    Name {
        /// The name.
        name: String,
    },
    /// The folder can't be read.
    #[error(
        "{}: can't be read: {}; create the folder first{}", At(folder), Message(error),
        Beginning { path: folder, is_missing: error.kind() == io::ErrorKind::NotFound }
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Saving failed.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The largest number is taken, and the files can't be renamed.
    #[error("{}: not saved: the numbers of its checkpoints are used up; choose another name", At(folder))]
    Full {
        /// The folder.
        folder: PathBuf,
    },
    /// The best one is asked for, and nobody has said whether the smallest or the largest metric is.
    #[error(
        "rotation: which metric is the best? Say it with `keep_best(Best::Min)` or `keep_best(Best::Max)`"
    )]
    Unordered,
    /// There is no memory for a list of the files, or for a checkpoint that should be loaded.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// There are checkpoints, and all of them are damaged or can't be read.
    #[error(
        "{}: none of its {} checkpoints can be loaded; the first one: {}",
        At(folder), problems.len(), problems.first().map_or(String::new(), LoadError::to_string)
    )]
    NoneLoads {
        /// The folder.
        folder: PathBuf,
        /// The error of each of them.
        problems: Vec<LoadError>,
    },
}

backrule_tensor::readable! {
    enum RotationError { Name { name }, Folder { folder, error }, Save(error), Full { folder }, Unordered, Memory(error), NoneLoads { folder, problems } }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use backrule_tensor::Tensor;

    use super::*;
    use crate::scratch::Scratch;

    thread_local! {
        /// Pairs of files whose metrics were compared.
        pub(super) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    fn file(folder: &Path, number: u64, metric: f64) -> RotationFile {
        RotationFile {
            path: folder.join(file_name("run", number, Some(metric))),
            number,
            metric: Some(metric),
        }
    }

    fn problem(problem: LoadProblem) -> LoadError {
        LoadError { file: None, problem }
    }

    #[test]
    fn the_order_of_merit() {
        let metrics = [None, Some(f64::NAN), Some(2.0), Some(-1.0), None, Some(2.0), Some(f64::INFINITY)];
        let named = |(number, metric)| {
            let path = PathBuf::from(file_name("run", number, metric));
            RotationFile { path, number, metric }
        };
        let mut files: Vec<_> = (0..).zip(metrics).map(named).collect();
        let numbers = |files: &[RotationFile]| {
            files.iter().filter(|it| it.has_merit()).map(|it| it.number).collect::<Vec<_>>()
        };
        by_merit(Best::Min, &mut files);
        assert_eq!(numbers(&files), [3, 2, 5, 6]);
        by_merit(Best::Max, &mut files);
        assert_eq!(numbers(&files), [6, 2, 5, 3]);
        by_number(&mut files);
        assert_eq!(files.iter().map(|file| file.number).collect::<Vec<_>>(), [6, 5, 4, 3, 2, 1, 0]);
    }

    /// As many files as anybody likes to plant: each is opened once, and sorting them is all the rest.
    #[test]
    fn damaged_files_are_opened_once_and_cost_no_more() {
        const FILES: usize = 8_000;
        let scratch = Scratch::new("rotation-many");
        let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_last(1).keep_best(Best::Min);
        for unreadable in [false, true] {
            // In no order.
            let files = (0..FILES as u64).map(|i| file(&scratch.0, i, (i * 4_801 % FILES as u64) as f64));
            let mut files: Vec<_> = files.collect();
            let opened = Cell::new(0);
            COMPARED.set(0);
            by_merit(Best::Min, &mut files);
            let kept = rotation.worth_keeping(&files, Path::new("new"), Vec::new(), |_| {
                opened.set(opened.get() + 1);
                Err(problem(match unreadable {
                    true => LoadProblem::Io(io::ErrorKind::PermissionDenied.into()),
                    false => LoadProblem::NotACheckpoint,
                }))
            });
            assert_eq!(opened.get(), FILES);
            assert_eq!(kept.len(), if unreadable { FILES } else { 0 });
            assert!(kept.is_sorted(), "what is kept is searched by halves");
            // n log₂ n is 104,000; each file against each would be 64,000,000.
            assert!(COMPARED.get() < 25 * FILES, "{} comparisons", COMPARED.get());
        }
    }

    /// A file that is one when the folder is read can be something else when it is opened. A user who may do
    /// that can also keep the user, root included, from reading it: a link in a circle, say.
    #[cfg(unix)]
    #[test]
    fn what_can_not_be_opened_is_kept_and_what_is_damaged_is_not() {
        use std::os::unix::fs::symlink;
        use std::process::Command;
        let scratch = Scratch::new("rotation-swapped");
        let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_last(1).keep_best(Best::Min);
        let net = vec![("weight", Tensor::from([1.0_f32]))];
        let mut files: Vec<_> = (0..7).map(|i| file(&scratch.0, i, i as f64)).collect();
        let [folder, pipe, dangling, circle, damaged, whole, worse] =
            [0, 1, 2, 3, 4, 5, 6].map(|i| &files[i].path);
        fs::create_dir(folder).unwrap();
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        symlink("nowhere", dangling).unwrap();
        symlink(circle, circle).unwrap();
        fs::write(damaged, "no checkpoint").unwrap();
        Checkpoint::of(&net).save(whole).unwrap();
        Checkpoint::of(&net).save(worse).unwrap();
        let expected = [folder, pipe, dangling, circle, whole].map(PathBuf::clone);
        files.reverse();
        by_merit(Best::Min, &mut files);
        let open = |path: &Path| Checkpoint::open(path).map(drop);
        assert_eq!(rotation.worth_keeping(&files, Path::new("new"), Vec::new(), open), expected);
    }

    #[test]
    fn names_come_back_and_others_are_not_ours() {
        for metric in [0.0, -0.0, -2.5, 0.1, 1e-300, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, 5e-324] {
            for number in [0, 1, 99_999_999, 100_000_000, u64::MAX] {
                let file = file_name("run", number, Some(metric));
                let (found, back) = parse("run", &file).unwrap();
                assert_eq!((found, back.unwrap().to_bits()), (number, metric.to_bits()), "{file}");
            }
        }
        assert_eq!(parse("run", "run-00000012.brk"), Some((12, None)));
        assert!(parse("run", &file_name("run", 1, Some(f64::NAN))).unwrap().1.unwrap().is_nan());
        for file in [
            "run.brk",
            "run-1.brk",
            "run-000000012.brk",
            "run-+0000012.brk",
            "run-00000012-5.brk",
            "run-00000012-0.5.brk",
            "run-00000012-5E-1.brk",
            "run-00000012-nan.brk",
            "run-00000012-.brk",
            "run-00000012-5e-1.brk~",
            "run-00000012-5e-1.BRK",
            "run-99999999999999999999.brk",
            "run2-00000012.brk",
            "run-2-00000012.brk",
            "run-00000002-00000012.brk",
            "run-00000002-00000012-5e-1.brk",
            "my-run-00000012.brk",
        ] {
            assert_eq!(parse("run", file), None, "{file}");
        }
    }

    /// Whatever number, metric and length of name the killed process was at.
    #[test]
    fn leftovers_are_found_by_the_pattern() {
        let folder = Scratch::new("rotation-leftovers");
        let net = vec![("weight", Tensor::from([1.0_f32]))];
        for name in
            ["run", "run.x", &"long".repeat(18), &"long".repeat(19), &"long".repeat(20), &"ß".repeat(50)]
        {
            let rotation = Rotation::new(&folder.0, name).unwrap().keep_last(1);
            let leftover = |name: &str| {
                let cut: String = name
                    .chars()
                    .scan(0, |at, c| {
                        *at += c.len_utf8();
                        (*at <= MAX_STEM).then_some(c)
                    })
                    .collect();
                fs::write(folder.0.join(format!(".{cut}.1.2.tmp")), "half of a che").unwrap();
            };
            for (number, metric) in
                [(1, None), (3, Some(-0.25)), (u64::MAX, Some(f64::NAN)), (7, Some(-1e-300))]
            {
                leftover(&file_name(name, number, metric));
            }
            let others = [
                ".run2-00000001.brk.1.2.tmp",
                ".run-1.brk.1.2.tmp",
                ".run.brk.1.2.tmp",
                ".run-00000001.brk.1.tmp",
            ];
            others.iter().for_each(|name| fs::write(folder.0.join(name), "theirs").unwrap());
            rotation.save(&Checkpoint::of(&net), None).unwrap();
            let mut expected: Vec<String> = others.iter().map(ToString::to_string).collect();
            expected.push(format!("{name}-00000001.brk"));
            expected.sort();
            assert_eq!(folder.names(), expected, "{name}");
            fs::remove_file(folder.0.join(format!("{name}-00000001.brk"))).unwrap();
        }
    }

    /// As if the process were killed before each of the removals in turn, and then went on.
    #[test]
    fn an_interrupted_removal_is_made_up_for() {
        let folder = std::env::temp_dir().join(format!("backrule-{}-interrupted", std::process::id()));
        let net = vec![("weight", Tensor::from([1.0_f32]))];
        let snapshot = Checkpoint::of(&net);
        for removals in 0..=4_usize {
            fs::create_dir_all(&folder).unwrap();
            let all = Rotation::new(&folder, "run").unwrap();
            for metric in [3.0, 1.0, 2.0, 5.0, 6.0] {
                all.save(&snapshot, metric).unwrap();
            }
            let rotation = all.keep_last(2).keep_best(Best::Min);
            let left = std::cell::Cell::new(removals);
            let rotated = rotation.save_with(&snapshot, Some(4.0), |path| {
                let rest = left.get().checked_sub(1).ok_or(io::ErrorKind::Interrupted)?;
                left.set(rest);
                fs::remove_file(path)
            });
            let rotated = rotated.unwrap();
            let numbers = || rotation.files().unwrap().iter().map(|file| file.number).collect::<Vec<_>>();
            // Of 1 to 6, the last two and the best one (2) are kept; the oldest goes first.
            let kept = [&[6, 5, 4, 3, 2, 1][..], &[6, 5, 4, 3, 2], &[6, 5, 4, 2], &[6, 5, 2], &[6, 5, 2]];
            assert_eq!(numbers(), kept[removals]);
            assert_eq!(rotated.removed.len() + rotated.not_removed.len(), 3);
            assert_eq!(rotation.latest().unwrap().unwrap().file, rotated.file);
            assert_eq!(rotation.best().unwrap().unwrap().file.number, 2);
            rotation.save(&snapshot, 7.0).unwrap();
            assert_eq!(numbers(), [7, 6, 2]);
            fs::remove_dir_all(&folder).unwrap();
        }
    }
}
