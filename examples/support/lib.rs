//! What the examples need for show: data to learn from, a command line, a progress bar, tables and
//! charts.
//!
//! It is here so that each example holds only what it is about. Nothing in it knows of the Backrule
//! crates, and it depends on the standard library alone; a program of your own would take crates of
//! its liking for these jobs.
//!
//! - [`args`]: options from the command line, with `--help` and one clear line for a mistake;
//! - [`digits`]: 1,797 handwritten digits, embedded;
//! - [`progress`]: a bar over the epochs, or a few plain lines where there is no terminal;
//! - [`chart`]: line charts as SVG files;
//! - [`confusion`]: which class was taken for which;
//! - [`table`]: aligned columns of plain text.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub mod args;
pub mod chart;
pub mod confusion;
pub mod digits;
pub mod progress;
pub mod table;
