//! The common items of the tests of several crates: PyTorch's reference values, exact exponentials,
//! comparisons that say what differs, a training step, and small helpers.
//!
//! Test code: everything here panics with a message instead of returning errors.
#![allow(clippy::panic, clippy::expect_used)]

mod bits;
mod compare;
pub mod exact;
mod memory;
pub mod oracle;
mod process;
#[cfg(feature = "training")]
mod training;

pub use serde_json::Value;

pub use crate::bits::{Bits, bits};
pub use crate::compare::{assert_close, assert_near};
pub use crate::memory::Failing;
pub use crate::oracle::{number, numbers, tensor};
#[cfg(target_os = "linux")]
pub use crate::process::peak;
pub use crate::process::{Scratch, with_threads};
#[cfg(feature = "training")]
pub use crate::training::Trainer;
