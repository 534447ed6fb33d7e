#![doc = include_str!("../README.md")]
// On docs.rs each item that needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod optimizer;
mod rule;
mod rules;

pub use error::StepError;
pub use optimizer::Optimizer;
pub use rule::Rule;
pub use rules::*;

// Part of this crate's interface: optimizers change its tensors.
pub use backrule_tensor as tensor;
pub use backrule_tensor::ConfigError;
