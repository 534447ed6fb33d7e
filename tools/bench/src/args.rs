//! The command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Result, compare, gate, history, ids, page};

const USAGE: &str = "\
backrule-bench compare BASE     times of the working tree against those of BASE (their merge base)
    --crates LIST               bench targets, separated by commas (default: all)
    --rounds N                  how often each side runs, in turn (default: 5)
    --threshold PERCENT         what is slower by less is no regression (default: 10)
    --seconds S                 criterion's time for each benchmark (default: 0.3)
    --samples N                 criterion's samples for each benchmark (default: 20)
    --only TEXT                 benchmarks whose id contains it
    --out DIR                   raw estimates and results (default: bench in the target folder)
backrule-bench gate BASE        instructions and allocations of the workloads in benches/gate, by valgrind
    --crates, --only, --out     as above
    --threshold PERCENT         (default: 2)
backrule-bench check            the ids in docs/benchmarks.md are those that the benchmarks have
backrule-bench history FILE RESULT...   appends results of compare and gate to a file of JSON lines
backrule-bench page FILE OUT    builds a page from that file
";

/// Positional arguments and `--name value`.
#[derive(Debug, Default)]
pub(crate) struct Args {
    positional: Vec<String>,
    options: BTreeMap<String, String>,
}

impl Args {
    fn parse(arguments: &[String], known: &[&str]) -> Result<Self> {
        let mut args = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.strip_prefix("--") {
                None => args.positional.push(argument.clone()),
                Some(name) if known.contains(&name) => {
                    let value = rest.next().ok_or_else(|| format!("--{name} needs a value"))?;
                    args.options.insert(name.to_string(), value.clone());
                }
                Some(name) => return Err(format!("no option --{name}\n\n{USAGE}").into()),
            }
        }
        Ok(args)
    }

    fn the(&self, count: usize) -> Result<&[String]> {
        if self.positional.len() == count { Ok(&self.positional) } else { Err(USAGE.into()) }
    }

    /// A number in a range. Outside of it the run would prove nothing.
    fn number(&self, name: &str, default: f64, least: f64) -> Result<f64> {
        let Some(text) = self.options.get(name) else { return Ok(default) };
        match text.parse::<f64>() {
            Ok(number) if number >= least && number.is_finite() => Ok(number),
            _ => Err(format!("--{name} {text}: must be a number from {least} on").into()),
        }
    }

    fn crates(&self) -> Option<Vec<String>> {
        let list = self.options.get("crates")?;
        Some(list.split(',').map(|name| name.trim().to_string()).collect())
    }

    fn only(&self) -> String {
        self.options.get("only").cloned().unwrap_or_default()
    }

    fn out(&self) -> Option<PathBuf> {
        self.options.get("out").map(PathBuf::from)
    }
}

/// Whether everything is as it should be.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let Some((command, rest)) = arguments.split_first() else { return Err(USAGE.into()) };
    match command.as_str() {
        "compare" => {
            let known = ["crates", "rounds", "threshold", "seconds", "samples", "only", "out"];
            let args = Args::parse(rest, &known)?;
            compare::run(&compare::Options {
                base: args.the(1)?[0].clone(),
                crates: args.crates(),
                // Of two rounds no interval is of use.
                rounds: args.number("rounds", 5.0, 3.0)? as usize,
                threshold: args.number("threshold", 10.0, 0.0)? / 100.0,
                seconds: args.number("seconds", 0.3, 0.01)?,
                samples: args.number("samples", 20.0, 10.0)? as usize,
                only: args.only(),
                out: args.out(),
            })
        }
        "gate" => {
            let args = Args::parse(rest, &["crates", "threshold", "only", "out"])?;
            gate::run(&gate::Options {
                base: args.the(1)?[0].clone(),
                crates: args.crates(),
                threshold: args.number("threshold", 2.0, 0.0)? / 100.0,
                only: args.only(),
                out: args.out(),
            })
        }
        "check" => {
            Args::parse(rest, &[])?.the(0)?;
            ids::check()
        }
        "history" => {
            let args = Args::parse(rest, &[])?;
            match args.positional.split_first() {
                Some((file, results)) if !results.is_empty() => history::append(Path::new(file), results),
                _ => Err(USAGE.into()),
            }
        }
        "page" => {
            let args = Args::parse(rest, &[])?;
            let files = args.the(2)?;
            page::write(Path::new(&files[0]), Path::new(&files[1]))
        }
        _ => Err(USAGE.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "measure",
            "compare",
            "compare a b",
            "compare main --round 3",
            "compare main --rounds",
            "compare main --rounds 2",
            "compare main --threshold much",
            "compare main --threshold -1",
            "compare main --seconds NaN",
            "history file",
            "page file",
            "check it",
        ] {
            assert!(run(&words(line)).is_err(), "{line}");
        }
    }
}
