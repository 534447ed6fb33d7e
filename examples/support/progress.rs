//! A progress bar over the epochs of a training.

use crate::chart::nice_step;
use std::{
    fmt,
    io::{self, IsTerminal, Write},
    mem,
    time::{Duration, Instant},
};

/// What the usual terminal holds. A longer line would wrap and could not be redrawn in place.
const WIDTH: usize = 79;
/// Between two drawings. Fifty quick epochs take no longer, and drawing each would slow them down.
const PAUSE: Duration = Duration::from_millis(50);
/// About as many plain lines are written where there is no terminal.
const LINES: f64 = 20.0;

/// What came of one epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epoch {
    /// Its number, counted from 1.
    pub number: usize,
    /// The mean loss.
    pub loss: f64,
    /// The share of right answers, from 0 to 1.
    pub accuracy: f64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.accuracy * 100.0;
        write!(f, "loss {:.4}  accuracy {percent:>6.2} %", self.loss)
    }
}

/// A progress bar over the epochs of a training.
///
/// On a terminal it is one line, redrawn in place at most twenty times a second. Elsewhere, in a
/// log for example, it is a line for each of some twenty epochs. Every epoch is kept, drawn or not,
/// and [`finish`](Self::finish) hands them over. Dropping the bar, as an early return does, leaves
/// the cursor on a fresh line too.
///
/// Nothing is reported if drawing fails: a closed terminal is no reason to stop training.
#[derive(Debug)]
pub struct Progress<W: Write> {
    out: W,
    terminal: bool,
    epochs: usize,
    started: Instant,
    /// What was drawn last: the epoch's number, and when.
    drawn: Option<(usize, Duration)>,
    history: Vec<Epoch>,
}

impl Progress<io::Stderr> {
    /// A bar on the standard error stream, which leaves the standard output to results.
    #[must_use]
    pub fn stderr(epochs: usize) -> Self {
        Self::new(io::stderr(), io::stderr().is_terminal(), epochs)
    }
}

impl<W: Write> Progress<W> {
    /// A bar over this many epochs, redrawn in place if `out` leads to a terminal.
    pub fn new(out: W, terminal: bool, epochs: usize) -> Self {
        let (started, drawn, history) = (Instant::now(), None, Vec::new());
        Self { out, terminal, epochs, started, drawn, history }
    }

    /// Says that another epoch is done: its mean loss, and its accuracy from 0 to 1.
    pub fn epoch(&mut self, loss: f64, accuracy: f64) {
        self.epoch_at(loss, accuracy, self.started.elapsed());
    }

    /// Completes the drawing and hands over what came of each epoch.
    pub fn finish(mut self) -> Vec<Epoch> {
        self.close();
        mem::take(&mut self.history)
    }

    fn epoch_at(&mut self, loss: f64, accuracy: f64, now: Duration) {
        let number = self.history.len() + 1;
        let epoch = Epoch { number, loss, accuracy };
        self.history.push(epoch);
        let due = if self.terminal {
            let recently = |(_, last)| now.saturating_sub(last) < PAUSE;
            !self.drawn.is_some_and(recently)
        } else {
            let step = nice_step(self.epochs as f64 / LINES).max(1.0) as usize;
            number == 1 || number.is_multiple_of(step)
        };
        if due {
            self.draw(epoch, now);
        }
    }

    fn draw(&mut self, epoch: Epoch, now: Duration) {
        let text = if self.terminal {
            // Back to the line's start, and after the text wipe what a longer one has left.
            format!("\r{}\x1b[K", bar(epoch, self.epochs, now))
        } else {
            format!("{}{epoch}\n", counter(epoch, self.epochs))
        };
        // A failure is dropped on purpose: see the type's documentation.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
        self.drawn = Some((epoch.number, now));
    }

    fn close(&mut self) {
        let Some(&last) = self.history.last() else {
            return;
        };
        if self.drawn.is_none_or(|(number, _)| number != last.number) {
            self.draw(last, self.started.elapsed());
        }
        if self.terminal {
            let _ = writeln!(self.out);
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.close();
    }
}

fn counter(epoch: Epoch, epochs: usize) -> String {
    let width = epochs.to_string().len();
    format!("epoch {:>width$}/{epochs}  ", epoch.number)
}

/// The bar: how far, how good, how long, and how much longer.
fn bar(epoch: Epoch, epochs: usize, now: Duration) -> String {
    let counter = counter(epoch, epochs);
    let done = (epoch.number as f64 / epochs as f64).min(1.0);
    let mut times = time(now.as_secs_f64());
    if done < 1.0 {
        let left = now.as_secs_f64() * (1.0 - done) / done;
        times += &format!(", {} left", time(left));
    }
    // Room for the longest times, so that the bar does not change its length with them.
    let texts = format!("{counter}  {epoch}  59m59s, 59m59s left").len();
    let room = WIDTH.saturating_sub(texts).clamp(4, 16);
    let full = "━".repeat((done * room as f64) as usize);
    format!("{counter}{full:─<room$}  {epoch}  {times}")
}

fn time(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    format!("{}m{:02}s", whole / 60, whole % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const EPOCH: Epoch = Epoch { number: 5, loss: 0.25, accuracy: 0.9 };

    /// What is written for some of the epochs if each takes this long.
    fn written(terminal: bool, some: usize, epochs: usize, each: Duration) -> String {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, terminal, epochs);
        for number in 1..=some {
            progress.epoch_at(1.0 / number as f64, 0.5, each * number as u32);
        }
        assert_eq!(progress.finish().len(), some, "drawn or not");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_bar_says_how_far_how_good_and_how_long() {
        let expected = "epoch  5/20  ━━━──────────  loss 0.2500  accuracy  90.00 %  30.0 s, 1m30s left";
        assert_eq!(bar(EPOCH, 20, SECOND * 30), expected);
        let expected = "epoch 20/20  ━━━━━━━━━━━━━  loss 0.2500  accuracy  90.00 %  59m59s";
        let last = Epoch { number: 20, ..EPOCH };
        assert_eq!(bar(last, 20, SECOND * 3599), expected);
    }

    #[test]
    fn the_bar_takes_any_number() {
        for (number, epochs) in [(1, 0), (3, 2), (usize::MAX, 1), (1, usize::MAX)] {
            let epoch = Epoch { number, ..EPOCH };
            let text = bar(epoch, epochs, Duration::MAX);
            assert!(text.contains(&format!("{number}/{epochs} ")), "{text}");
        }
    }

    #[test]
    fn a_terminal_has_one_line_redrawn_at_most_twenty_times_a_second() {
        let text = written(true, 50, 50, SECOND / 1000);
        assert_eq!(text.matches('\r').count(), 2, "{text:?}");
        assert!(text.contains("epoch 50/50"), "{text:?}");
        let text = written(true, 49, 50, SECOND);
        assert_eq!(text.matches('\r').count(), 49);
        assert_eq!(text.find('\n'), Some(text.len() - 1));
    }

    #[test]
    fn without_a_terminal_there_are_some_plain_lines() {
        for (epochs, lines) in [(1, 1), (20, 20), (21, 12), (50, 11), (10_000, 21)] {
            let text = written(false, epochs, epochs, SECOND);
            assert_eq!(text.lines().count(), lines, "{text}");
            assert!(!text.contains(['\r', '\x1b']), "{text}");
        }
    }

    #[test]
    fn stopping_early_still_shows_the_last_epoch_once() {
        let text = written(false, 7, 100, SECOND);
        let numbers: Vec<_> = text.lines().map(|line| &line[6..13]).collect();
        assert_eq!(numbers, ["  1/100", "  5/100", "  7/100"]);
        assert!(text.ends_with("  loss 0.1429  accuracy  50.00 %\n"), "{text}");
        assert_eq!(written(true, 0, 100, SECOND), "");
    }
}
