//! The command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser, ValueExt};

use crate::costs::THRESHOLDS;
use crate::times::ROUNDS;
use crate::{Result, compare, gate, history, ids, page, process};

const USAGE: &str = "\
backrule-bench compare BASE     times of the working tree against those of BASE (their merge base)
    --crates LIST               bench targets, separated by commas (default: all)
    --rounds N                  the most rounds for an id, in steps of 8 (default: 40)
    --threshold PERCENT         no regression below it (default: 10)
    --seconds S                 criterion's time for each id in each round (default: 0.05)
    --samples N                 criterion's samples in that time (default: 20)
    --only TEXT                 benchmarks whose id contains it
    --out DIR                   raw estimates and results (default: bench in the target folder)
backrule-bench gate BASE        instructions and allocations of the workloads in benches/gate, by valgrind
    --crates, --only, --out     as above
    --threshold PERCENT         (default: 1 from 10,000 instructions on, 2 below)
backrule-bench ids              prints docs/benchmarks.md: what the benchmarks list, and what their sources say of it
    --write                     writes it
backrule-bench check            docs/benchmarks.md is that page
backrule-bench history FILE RESULT...   appends results of compare and gate to a file of JSON lines
backrule-bench page FILE OUT    builds a page from that file
";

/// The arguments behind the command.
#[derive(Debug, Default)]
struct Args {
    positional: Vec<String>,
    /// By name; a flag's value is empty.
    options: BTreeMap<String, String>,
}

impl Args {
    fn parse(parser: &mut Parser, options: &[&str], flags: &[&str]) -> Result<Self> {
        let mut args = Self::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Value(value) => args.positional.push(value.string()?),
                Arg::Long(name) if options.contains(&name) => {
                    let name = name.to_string();
                    args.options.insert(name, parser.value()?.string()?);
                }
                Arg::Long(name) if flags.contains(&name) => {
                    args.options.insert(name.to_string(), String::new());
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(args)
    }

    fn the(&self, count: usize) -> Result<&[String]> {
        if self.positional.len() == count { Ok(&self.positional) } else { Err(wrong_number()) }
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

fn wrong_number() -> Box<dyn std::error::Error> {
    "too few or too many arguments (--help shows them)".into()
}

/// Whether everything is as it should be.
pub(crate) fn run(arguments: &[OsString]) -> Result<bool> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        process::print(USAGE)?;
        return Ok(true);
    }
    let mut parser = Parser::from_args(arguments);
    let command = match parser.next()? {
        Some(Arg::Value(command)) => command.string()?,
        Some(other) => return Err(other.unexpected().into()),
        None => return Err(format!("which command?\n\n{USAGE}").into()),
    };
    let mut parse = |options: &[&str], flags: &[&str]| Args::parse(&mut parser, options, flags);
    match command.as_str() {
        "compare" => {
            let args = parse(&["crates", "rounds", "threshold", "seconds", "samples", "only", "out"], &[])?;
            compare::run(&compare::Options {
                base: args.the(1)?[0].clone(),
                crates: args.crates(),
                // Fewer have no interval.
                rounds: args.number("rounds", 40.0, ROUNDS as f64)? as usize,
                threshold: args.number("threshold", 10.0, 0.0)? / 100.0,
                seconds: args.number("seconds", 0.05, 0.01)?,
                samples: args.number("samples", 20.0, 10.0)? as usize,
                only: args.only(),
                out: args.out(),
            })
        }
        "gate" => {
            let args = parse(&["crates", "threshold", "only", "out"], &[])?;
            gate::run(&gate::Options {
                base: args.the(1)?[0].clone(),
                crates: args.crates(),
                thresholds: match args.options.contains_key("threshold") {
                    true => [args.number("threshold", 0.0, 0.0)? / 100.0; 2],
                    false => THRESHOLDS,
                },
                only: args.only(),
                out: args.out(),
            })
        }
        "ids" => {
            let args = parse(&[], &["write"])?;
            args.the(0)?;
            ids::print(args.options.contains_key("write"))
        }
        "check" => {
            parse(&[], &[])?.the(0)?;
            ids::check()
        }
        "history" => match parse(&[], &[])?.positional.split_first() {
            Some((file, results)) if !results.is_empty() => history::append(Path::new(file), results),
            _ => Err(wrong_number()),
        },
        "page" => {
            let args = parse(&[], &[])?;
            let files = args.the(2)?;
            page::write(Path::new(&files[0]), Path::new(&files[1]))
        }
        _ => Err(format!("no command `{command}`\n\n{USAGE}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "measure",
            "compare",
            "compare a b",
            "compare main --round 8",
            "compare main --rounds",
            "compare main --rounds 7",
            "compare main --threshold much",
            "compare main --threshold -1",
            "compare main --seconds NaN",
            "history file",
            "page file",
            "check it",
            "check --write",
            "ids it",
            "ids --write=yes",
            "--rounds 8 compare main",
        ] {
            assert!(run(&words(line)).is_err(), "{line}");
        }
    }
}
