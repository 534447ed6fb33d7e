//! Which class was taken for which.

use crate::table::Table;
use std::{collections::BTreeMap, error, fmt, iter::once};

/// A confusion matrix: for each true class, how often each class was predicted.
///
/// A share is NaN where there is nothing to divide by. [`Display`](fmt::Display) writes a table
/// with a row for each true class and a column for each predicted one. Zeros are dots, so mistakes
/// stand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    // Only pairs that were seen: the square of the caller's number of classes might not fit into memory.
    counts: BTreeMap<(usize, usize), u64>,
}

impl Confusion {
    /// An empty matrix for the classes `0..classes`.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        let counts = BTreeMap::new();
        Self { classes, counts }
    }

    /// Counts one answer.
    ///
    /// # Errors
    /// If either class is out of range; nothing is counted then.
    pub fn add(&mut self, truth: usize, predicted: usize) -> Result<(), OutOfRange> {
        let (class, classes) = (truth.max(predicted), self.classes);
        if class >= classes {
            return Err(OutOfRange { class, classes });
        }
        *self.counts.entry((truth, predicted)).or_default() += 1;
        Ok(())
    }

    /// How often `predicted` was the answer where `truth` was right.
    #[must_use]
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts.get(&(truth, predicted)).copied().unwrap_or(0)
    }

    /// The share of right answers, from 0 to 1.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.share(|_, _| true)
    }

    /// The share of this class that was recognized.
    #[must_use]
    pub fn recall(&self, class: usize) -> f64 {
        self.share(|truth, _| truth == class)
    }

    /// The share of the answers with this class that are right.
    #[must_use]
    pub fn precision(&self, class: usize) -> f64 {
        self.share(|_, predicted| predicted == class)
    }

    /// The share of right answers among those chosen.
    fn share(&self, chosen: impl Fn(usize, usize) -> bool) -> f64 {
        let (mut right, mut all) = (0, 0);
        for (&(truth, predicted), count) in &self.counts {
            if chosen(truth, predicted) {
                all += count;
                right += if truth == predicted { *count } else { 0 };
            }
        }
        right as f64 / all as f64
    }
}

impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn row(head: &str, cells: impl Iterator<Item = String>, last: String) -> Vec<String> {
            let cells = once(head.to_owned()).chain(cells);
            cells.chain(once(last)).collect()
        }
        let classes = || 0..self.classes;
        let names = classes().map(|class| class.to_string());
        let mut table = Table::new(row("truth", names, "recall".to_owned()));
        for truth in classes() {
            let counts = classes().map(|predicted| match self.count(truth, predicted) {
                0 => "·".to_owned(),
                count => count.to_string(),
            });
            table.row(row(&truth.to_string(), counts, percent(self.recall(truth))));
        }
        let precisions = classes().map(|class| percent(self.precision(class)));
        table.rule();
        table.row(row("precision", precisions, percent(self.accuracy())));
        writeln!(f, "Rows: what it is. Columns: what it was taken for.")?;
        writeln!(f, "Recall, precision and, in the corner, accuracy in %.\n")?;
        table.fmt(f)
    }
}

/// A share in per cent. Only a full one reads `100`: one mistake among thousands must not be
/// rounded away.
fn percent(share: f64) -> String {
    match share {
        1.0 => "100".to_owned(),
        _ if share.is_nan() => "–".to_owned(),
        _ => format!("{:.1}", (share * 100.0).min(99.9)),
    }
}

/// A class that the matrix does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfRange {
    /// The class.
    pub class: usize,
    /// How many classes there are, counted from 0.
    pub classes: usize,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, classes } = self;
        write!(f, "class {class} is out of range: it must be below {classes}")
    }
}

impl error::Error for OutOfRange {}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Confusion {
        let mut confusion = Confusion::new(3);
        for (truth, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1)] {
            confusion.add(truth, predicted).unwrap();
        }
        confusion
    }

    #[test]
    fn shares_are_of_the_right_whole() {
        let confusion = example();
        assert_eq!(confusion.accuracy(), 0.75);
        assert_eq!([0, 1].map(|class| confusion.recall(class)), [2.0 / 3.0, 1.0]);
        assert_eq!([0, 1].map(|class| confusion.precision(class)), [1.0, 0.5]);
        assert!(confusion.recall(2).is_nan() && confusion.precision(9).is_nan());
        assert!(Confusion::new(0).accuracy().is_nan());
    }

    #[test]
    fn a_class_out_of_range_is_refused_and_not_counted() {
        let mut confusion = example();
        for (truth, predicted, class) in [(0, 3, 3), (7, 0, 7)] {
            let error = confusion.add(truth, predicted).unwrap_err();
            assert_eq!((error.class, error.classes), (class, 3));
        }
        assert_eq!(confusion, example());
        assert_eq!(Confusion::new(usize::MAX).add(0, usize::MAX - 1), Ok(()));
    }

    #[test]
    fn the_table_shows_mistakes_and_hides_zeros() {
        let table = example().to_string();
        let expected = "
    truth    0     1  2  recall
───────────────────────────────
        0    2     1  ·    66.7
        1    ·     1  ·     100
        2    ·     ·  ·       –
───────────────────────────────
precision  100  50.0  –    75.0";
        assert!(table.ends_with(expected), "{table}");
        assert_eq!(percent(0.9999), "99.9", "which is not all");
    }
}
