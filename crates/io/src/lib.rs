#![doc = include_str!("../README.md")]
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
mod contents;
mod envelope;
mod error;
mod file;
mod header;
mod info;
pub mod limits;
mod nested;
pub mod npy;
mod payload;
mod reader;
mod report;
mod restore;
mod rotation;
#[cfg(feature = "safetensors")]
pub mod safetensors;
mod section;
mod show;
mod snapshot;

pub use checkpoint::Checkpoint;
pub use contents::{Contents, StoredTensor};
pub use error::{
    LimitError, LoadError, LoadProblem, Malformed, Mismatch, Part, RestoreError, RotationError, SaveError,
    SectionError, SectionProblem,
};
pub use file::{FileKind, SaveStep, TargetProblem};
pub use info::{Group, Section, TensorInfo};
pub use report::{Pair, Report};
pub use restore::Restoring;
pub use rotation::{Best, Found, Rotated, Rotation, RotationFile};
pub use snapshot::Snapshot;

// Part of this crate's interface: what is saved and restored are its named tensors.
pub use backrule_tensor as tensor;
