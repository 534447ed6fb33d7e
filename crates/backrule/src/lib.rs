#![doc = include_str!("../README.md")]
// On docs.rs each item that needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod load;
pub mod prelude;

pub use error::Error;
pub use load::{Loaded, load, load_with};

pub use backrule_io as io;
pub use backrule_loss as loss;
pub use backrule_nn as nn;
pub use backrule_optim as optim;
pub use backrule_tensor as tensor;
