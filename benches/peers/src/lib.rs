//! The common items of this package's programs: rows, their inputs, checks of the results, and the clock.

mod args;
mod check;
mod data;
mod report;
mod rows;
mod timing;

pub use args::Args;
pub use data::{Digits, labels, normal};
pub use report::{LossStep, Report, Step};
pub use rows::{
    CROSS_ENTROPY, CrossEntropyRow, DigitsRow, MOMENTUM, NetworkRow, PREDICT, SgdRow, TRAIN_STEP,
};

/// The result of a program: all errors of the libraries fit in.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;
