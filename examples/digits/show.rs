//! The display of the run: its progress, its results, its curves.

use std::path::Path;

use backrule::tensor::Tensor;
use backrule_examples::chart::{Chart, Panel};
use backrule_examples::confusion::Confusion;
use backrule_examples::digits;
use backrule_examples::table::Table;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::run::{Epoch, Run, Score};
use crate::{Data, Result};

const BAR: &str = "epoch {pos}/{len}  {bar:16}  {msg}  {elapsed}, {eta} left";

/// About as many plain lines are written where there is no terminal.
const LINES: usize = 20;

/// A bar over the epochs on the standard error stream; where that is no terminal, a line now and then.
pub(crate) struct Progress {
    bar: ProgressBar,
    epochs: usize,
    done: usize,
}

impl Progress {
    pub(crate) fn new(epochs: usize) -> Self {
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        // Stopped early, the bar stays where it is.
        let bar = ProgressBar::new(epochs as u64).with_finish(ProgressFinish::Abandon);
        Self { bar: bar.with_style(style.progress_chars("━━─")), epochs, done: 0 }
    }

    pub(crate) fn epoch(&mut self, Score { loss, accuracy }: Score) {
        self.done += 1;
        let text = format!("loss {loss:.4}  accuracy {:>6.2} %", accuracy * 100.0);
        if self.bar.is_hidden() && is_shown(self.done, self.epochs) {
            let width = self.epochs.to_string().len();
            eprintln!("epoch {:>width$}/{}  {text}", self.done, self.epochs);
        }
        self.bar.set_message(text);
        self.bar.inc(1);
    }
}

/// Whether an epoch has a line of its own.
fn is_shown(epoch: usize, epochs: usize) -> bool {
    epoch == 1 || epoch == epochs || epoch.is_multiple_of(epochs.div_ceil(LINES))
}

/// Every epoch's figures, and the digits that were taken for others.
pub(crate) fn report(logits: &Tensor, run: &Run, test: &Data) -> Result<()> {
    let mut table = Table::new(["epoch", "loss", "accuracy", "test loss", "test accuracy"]);
    for (i, Epoch { train, test }) in run.history.iter().enumerate() {
        let numbers = [train.loss, train.accuracy, test.loss, test.accuracy].map(|x| format!("{x:.4}"));
        table.row([(i + 1).to_string()].into_iter().chain(numbers));
    }
    println!("{table}\n");
    let mut confusion = Confusion::new(digits::CLASSES);
    for (guess, &label) in logits.argmax_rows().zip(&test.labels) {
        confusion.add(label, guess)?;
    }
    println!("{confusion}");
    Ok(())
}

/// Writes the curves of loss and accuracy to a file.
pub(crate) fn curves(run: &Run, file: &Path) -> Result<()> {
    let line = |pick: fn(&Epoch) -> f64| {
        let points = run.history.iter().enumerate();
        points.map(|(i, epoch)| ((i + 1) as f64, pick(epoch))).collect::<Vec<_>>()
    };
    let sizes = [&[digits::PIXELS], &run.hidden[..], &[digits::CLASSES]].concat();
    let sizes = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("-");
    let Run { lr, momentum, batch_size, seed, .. } = run;
    let chart = Chart::new("Learning to read digits")
        .subtitle(format!(
            "{sizes}, batch {batch_size}, learning rate {lr}, momentum {momentum}, seed {seed}"
        ))
        .panel(
            Panel::new("Cross-entropy", "epoch")
                .line("train", line(|epoch| epoch.train.loss))
                .line("test", line(|epoch| epoch.test.loss)),
        )
        .panel(
            Panel::percent("Accuracy", "epoch")
                .line("train", line(|epoch| epoch.train.accuracy))
                .line("test", line(|epoch| epoch.test.accuracy)),
        );
    std::fs::write(file, chart.to_svg()).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("curves in {}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_there_are_some_lines() {
        for (epochs, lines) in [(1, 1), (20, 20), (21, 12), (50, 18), (10_000, 21)] {
            assert_eq!((1..=epochs).filter(|&epoch| is_shown(epoch, epochs)).count(), lines, "{epochs}");
        }
    }

    #[test]
    fn the_bar_has_a_style_of_its_own() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
