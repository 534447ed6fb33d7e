#![doc = include_str!("../README.md")]
// On docs.rs each item that needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]
// A checkpoint often comes from somebody else: nothing in one may bring the process down.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod checkpoint;
mod element;
mod exchange;
mod file;
mod format;
mod quoted;
mod report;
mod restore;
mod rotation;
mod run;
#[cfg(test)]
mod scratch;
mod snapshot;

pub use checkpoint::Checkpoint;
pub use checkpoint::load::LoadError;
pub use element::{ElementType, OtherType};
pub use exchange::npy;
#[cfg(feature = "npz")]
pub use exchange::npz;
#[cfg(feature = "safetensors")]
pub use exchange::safetensors;
pub use file::durability::Durability;
pub use file::error::{FileError, SaveStep, TargetProblem};
pub use file::kind::FileKind;
pub use format::entry::{Group, TensorInfo};
pub use format::limits::{self, LimitError};
pub use format::problem::{LoadProblem, Malformed, Part};
pub use format::section::{Section, SectionError, SectionProblem};
pub use report::{Mismatch, Pair, Report};
pub use restore::{RestoreError, Restoring};
pub use rotation::{Best, Found, Metric, Rotated, Rotation, RotationError, RotationFile};
pub use run::{OptimizerState, Run};
pub use snapshot::{SaveError, Snapshot};

// Part of this crate's interface: its functions take and give tensors.
pub use backrule_tensor as tensor;
