//! The common parts of the examples: data, tables and charts. This crate knows nothing of the Backrule
//! crates, and depends on the standard library alone, so each file can be copied into another program.
//!
//! - [`digits`]: 1,797 handwritten digits, embedded;
//! - [`chart`]: line charts as SVG files;
//! - [`confusion`]: which class was taken for which;
//! - [`table`]: aligned columns of plain text.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub mod chart;
pub mod confusion;
pub mod digits;
pub mod table;
