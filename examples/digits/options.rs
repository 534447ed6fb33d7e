//! The command line.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process;
use std::str::FromStr;

use backrule::io::Checkpoint;
use lexopt::{Arg, Parser, ValueExt};

use crate::run::Run;

const HELP: &str = "\
Learns to read handwritten digits.

Usage: digits [OPTION]...

  --epochs N      passes over the data, those of a resumed run included [default: 50]
  --batch-size N  images per step [default: 32]
  --lr X          learning rate [default: 0.1]
  --momentum X    share of the last step in the next [default: 0.9]
  --hidden LIST   units of the hidden layers, such as 64,32 [default: 32]
  --seed N        the seed of all random numbers [default: 0]
  --resume FILE   a checkpoint to go on from, with its settings
  --out DIR       where the checkpoint and the curves go [default: out]
  --help, -h      print this help
";

pub(crate) struct Options {
    /// The settings given, or those of the run to go on with.
    pub(crate) run: Run,
    pub(crate) epochs: usize,
    pub(crate) resume: Option<(PathBuf, Checkpoint)>,
    pub(crate) out: PathBuf,
}

impl Options {
    /// The program's own command line. Help and mistakes end the program, with exit codes 0 and 2.
    pub(crate) fn from_env() -> Self {
        match Self::parse(Parser::from_env()) {
            Ok(Some(options)) => options,
            Ok(None) => {
                // A reader that has gone away, as in `--help | head -1`, is no reason to panic.
                _ = io::stdout().write_all(HELP.as_bytes());
                process::exit(0)
            }
            Err(mistake) => {
                eprintln!("digits: {mistake} (try --help)");
                process::exit(2)
            }
        }
    }

    /// `None`: help was asked for.
    fn parse(mut parser: Parser) -> Result<Option<Self>, lexopt::Error> {
        const COUNT: Check<usize> = ("a whole number above 0", |n| *n > 0);
        const RATE: Check<f64> = ("a positive number", |x| *x > 0.0 && x.is_finite());
        const FACTOR: Check<f64> = ("a number from 0 to 1, without 1", |x| (0.0..1.0).contains(x));
        const SEED: Check<u64> = ("a whole number", |_| true);

        let mut run =
            Run { hidden: vec![32], batch_size: 32, lr: 0.1, momentum: 0.9, seed: 0, history: Vec::new() };
        let (mut epochs, mut resume, mut out) = (50, None, PathBuf::from("out"));
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("epochs") => epochs = value(&mut parser, "epochs", COUNT)?,
                Arg::Long("batch-size") => run.batch_size = value(&mut parser, "batch-size", COUNT)?,
                Arg::Long("lr") => run.lr = value(&mut parser, "lr", RATE)?,
                Arg::Long("momentum") => run.momentum = value(&mut parser, "momentum", FACTOR)?,
                Arg::Long("hidden") => {
                    let list = parser.value()?.string()?;
                    let units = list.split(',').map(|units| read("hidden", units, COUNT));
                    run.hidden = units.collect::<Result<_, _>>()?;
                }
                Arg::Long("seed") => run.seed = value(&mut parser, "seed", SEED)?,
                Arg::Long("resume") => resume = Some(PathBuf::from(parser.value()?)),
                Arg::Long("out") => out = PathBuf::from(parser.value()?),
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        let resume = resume.map(|file| {
            let checkpoint = Checkpoint::load(&file).map_err(|error| format!("--resume: {error}"))?;
            run = checkpoint.metadata().map_err(|error| format!("--resume: {error}"))?;
            match run.history.len() {
                done if done < epochs => Ok((file, checkpoint)),
                done => {
                    Err(format!("--epochs: {} has {done} epochs behind it; ask for more", file.display()))
                }
            }
        });
        Ok(Some(Self { resume: resume.transpose()?, run, epochs, out }))
    }
}

/// The values that an option takes, in words and as a condition. NaN and ∞ are numbers, too.
type Check<T> = (&'static str, fn(&T) -> bool);

fn value<T: FromStr>(parser: &mut Parser, name: &str, check: Check<T>) -> Result<T, lexopt::Error> {
    let text = parser.value()?.string()?;
    Ok(read(name, &text, check)?)
}

fn read<T: FromStr>(name: &str, text: &str, (expected, holds): Check<T>) -> Result<T, String> {
    text.parse().ok().filter(holds).ok_or_else(|| format!("--{name}: expected {expected}, got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Option<Options>, String> {
        Options::parse(Parser::from_args(words.split_whitespace())).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_both_ways_to_write_a_value() {
        let Options { run, epochs, resume, out } = parse("").unwrap().unwrap();
        assert_eq!((epochs, resume.is_none(), out), (50, true, PathBuf::from("out")));
        assert_eq!((run.hidden, run.batch_size, run.lr, run.momentum, run.seed), (vec![32], 32, 0.1, 0.9, 0));
        let Options { run, epochs, out, .. } =
            parse("--lr=1e-3 --epochs 3 --seed 9 --hidden 8,4 --out=--odd").unwrap().unwrap();
        assert_eq!((run.lr, epochs, run.seed, run.hidden), (1e-3, 3, 9, vec![8, 4]));
        assert_eq!(out, PathBuf::from("--odd"));
    }

    #[test]
    fn a_mistake_is_one_clear_line() {
        for (words, expected) in [
            ("--lr abc", "--lr: expected a positive number, got \"abc\""),
            ("--lr -1", "--lr: expected a positive number, got \"-1\""),
            ("--lr inf", "--lr: expected a positive number, got \"inf\""),
            ("--momentum 1", "--momentum: expected a number from 0 to 1, without 1, got \"1\""),
            ("--epochs 0", "--epochs: expected a whole number above 0, got \"0\""),
            ("--hidden 64,,8", "--hidden: expected a whole number above 0, got \"\""),
            ("--epochs", "missing argument for option '--epochs'"),
            ("--frob", "invalid option '--frob'"),
            ("train", "unexpected argument \"train\""),
        ] {
            assert_eq!(parse(words).err().as_deref(), Some(expected), "{words}");
        }
        assert!(parse("--resume no-such-file").err().unwrap().starts_with("--resume: "));
    }

    #[test]
    fn help_names_every_option() {
        assert!(parse("--lr 1 -h").unwrap().is_none());
        assert!(parse("--help").unwrap().is_none());
        for name in ["epochs", "batch-size", "lr", "momentum", "hidden", "seed", "resume", "out", "help"] {
            assert!(HELP.contains(&format!("\n  --{name}")), "{name}");
        }
    }
}
