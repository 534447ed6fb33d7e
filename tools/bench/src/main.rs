//! Compares two commits of a workspace by its benchmarks:
//! `cargo run --release -p backrule-bench -- compare main`.
//!
//! Nothing here knows Backrule. `cargo metadata` tells the bench targets of a workspace, `docs/benchmarks.md`
//! the ids that are expected, criterion's files the times. docs/benchmarking.md says how to use it, here and
//! elsewhere.

mod accept;
mod args;
mod callgrind;
mod compare;
mod costs;
mod criterion;
mod gate;
mod git;
mod history;
mod ids;
mod machine;
mod page;
mod process;
mod report;
mod sources;
mod times;
mod tree;

use std::process::ExitCode;

/// Its error is a sentence about the machine, the arguments or the files.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// 0: nothing found. 1: a regression, or something is missing. 2: the comparison could not be made.
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match args::run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            process::tell(format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}
