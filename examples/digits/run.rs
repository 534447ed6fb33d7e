//! The data saved with the weights.

use serde::{Deserialize, Serialize};

/// The settings of a run, and its results so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) hidden: Vec<usize>,
    pub(crate) batch_size: usize,
    pub(crate) lr: f64,
    pub(crate) momentum: f64,
    pub(crate) seed: u64,
    pub(crate) history: Vec<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Epoch {
    pub(crate) train: Score,
    pub(crate) test: Score,
}

/// Mean loss, and the share of right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Score {
    pub(crate) loss: f64,
    pub(crate) accuracy: f64,
}
