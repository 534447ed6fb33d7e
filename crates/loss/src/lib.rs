#![doc = include_str!("../README.md")]

mod cross_entropy;
mod error;
mod mse;
mod reduction;
mod target;

pub use cross_entropy::CrossEntropy;
pub use error::LossError;
pub use mse::Mse;
pub use reduction::Reduction;
pub use target::Target;

// Part of this crate's interface: losses take and give its tensors.
pub use backrule_tensor as tensor;
