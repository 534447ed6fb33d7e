//! What the tests of several crates share: PyTorch's reference values, comparisons that say what differs, a training
//! step, and small helpers.
//!
//! Test code: everything here panics with a message instead of returning errors.
#![allow(clippy::panic, clippy::expect_used)]

mod compare;
pub mod oracle;

pub use serde_json::Value;

pub use crate::compare::{assert_close, assert_near};
pub use crate::oracle::{number, numbers, tensor};
