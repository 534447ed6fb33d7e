use std::io::{Write, stdout};

use crate::data::Digits;
use crate::rows::{CrossEntropyRow, DigitsRow, NetworkRow, SgdRow};
use crate::timing::{Timing, time};
use crate::{Args, Outcome, check};

const LOCK: &str = include_str!("../Cargo.lock");
/// A network that doesn't train stays near 0.1: there are ten classes.
const ACCURACY: f64 = 0.85;

/// Times the rows of one library, checks its results, and prints a line of JSON for each row.
#[derive(Debug)]
pub struct Report {
    args: Args,
    peer: &'static str,
    version: &'static str,
}

impl Report {
    /// The version is that of `package` in Cargo.lock.
    #[must_use]
    pub fn new(args: Args, peer: &'static str, package: &str) -> Self {
        let entry = format!("name = \"{package}\"\nversion = \"");
        let version = LOCK.split_once(&entry).and_then(|(_, rest)| rest.split('"').next());
        Self { args, peer, version: version.expect("Cargo.lock has the package") }
    }

    /// A training step. `step` returns its loss, which the steps must make smaller.
    ///
    /// # Errors
    /// If the loss doesn't fall.
    pub fn train_step(&self, row: &NetworkRow, start: impl FnOnce() -> Outcome<Step>) -> Outcome {
        let id = row.id("train_step");
        if !self.wants(&id) {
            return Ok(());
        }
        let mut step = start()?;
        let (first, mut last) = (step(), f32::NAN);
        let timing = time(self.args.time, || last = step());
        if last.is_nan() || last >= first {
            return Err(format!("{id}: the loss went from {first} to {last}").into());
        }
        self.print(&id, &timing)
    }

    /// A prediction. `step` returns one number of the output.
    ///
    /// # Errors
    /// If it is no number.
    pub fn predict(&self, row: &NetworkRow, start: impl FnOnce() -> Outcome<Step>) -> Outcome {
        let id = row.id("predict");
        if !self.wants(&id) {
            return Ok(());
        }
        let mut predict = start()?;
        let mut last = f32::NAN;
        let timing = time(self.args.time, || last = predict());
        if !last.is_finite() {
            return Err(format!("{id}: the output is {last}").into());
        }
        self.print(&id, &timing)
    }

    /// A loss and its gradient. `step` returns the loss and, if told to look, the first number of the
    /// gradient: some libraries copy all of it for that, which mustn't be timed.
    ///
    /// # Errors
    /// If either is wrong.
    pub fn cross_entropy(&self, row: &CrossEntropyRow, start: impl FnOnce() -> Outcome<LossStep>) -> Outcome {
        let id = row.id();
        if !self.wants(&id) {
            return Ok(());
        }
        let mut step = start()?;
        let timing = time(self.args.time, || step(false));
        let ((loss, first), expected) = (step(true), check::cross_entropy(*row));
        check::close(&id, "the loss", loss, expected.0)?;
        check::close(&id, "the gradient", first, expected.1)?;
        self.print(&id, &timing)
    }

    /// An update. `step` returns the first parameter, which the updates must move against its gradient.
    ///
    /// # Errors
    /// If it doesn't move.
    pub fn sgd(&self, start: impl FnOnce() -> Outcome<Step>) -> Outcome {
        let id = SgdRow::id();
        if !self.wants(&id) {
            return Ok(());
        }
        let mut step = start()?;
        let (first, mut last) = (step(), f32::NAN);
        let timing = time(self.args.time, || last = step());
        let gradient = crate::normal(1, 2)[0];
        let moved = (first - last) * gradient;
        if moved.is_nan() || moved <= 0.0 {
            let text = format!("{id}: the parameter went from {first} to {last}, its gradient is {gradient}");
            return Err(text.into());
        }
        self.print(&id, &timing)
    }

    /// A whole run. `train` is timed; `predict` then gives the class of each test row.
    ///
    /// # Errors
    /// If one of the two fails, or too few of the classes are right.
    pub fn digits<N>(
        &self,
        train: impl Fn(&Digits) -> Outcome<N>,
        predict: impl Fn(&N, &Digits) -> Outcome<Vec<usize>>,
    ) -> Outcome {
        let id = DigitsRow::id();
        if !self.wants(&id) {
            return Ok(());
        }
        let (rows, test) = Digits::load();
        let mut last = None;
        let timing = time(self.args.time, || last = Some(train(&rows)));
        let Some(net) = last.transpose()? else { return Ok(()) };
        let guesses = predict(&net, &test)?;
        let right = guesses.iter().zip(&test.labels).filter(|(guess, label)| guess == label).count();
        let accuracy = right as f64 / test.rows() as f64;
        if accuracy < ACCURACY {
            return Err(format!("{id}: test accuracy is {accuracy}").into());
        }
        self.print(&id, &timing)
    }

    fn wants(&self, id: &str) -> bool {
        id.contains(&self.args.only)
    }

    fn print(&self, id: &str, timing: &Timing) -> Outcome {
        let mut out = stdout().lock();
        writeln!(
            out,
            r#"{{"id":"{id}","peer":"{}","version":"{}","threads":{},"median_us":{:.3},"min_us":{:.3},"n":{}}}"#,
            self.peer, self.version, self.args.threads, timing.median, timing.min, timing.n
        )?;
        // A reader at the other end of a pipe sees each row when it is done.
        Ok(out.flush()?)
    }
}

/// The function that is timed. It returns a number to check.
pub type Step = Box<dyn FnMut() -> f32>;
/// The same for a loss, which is told whether to look at the gradient.
pub type LossStep = Box<dyn FnMut(bool) -> (f32, f32)>;
