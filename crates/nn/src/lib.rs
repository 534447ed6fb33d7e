#![doc = include_str!("../README.md")]

mod architecture;
mod cache;
mod error;
mod gradcheck;
mod grads;
mod init;
mod key;
mod layer;
mod layers;
mod parts;
mod summary;
mod tape;

pub use architecture::{Architecture, ArchitectureError, LayerKind, LayerSpec};
pub use cache::Cache;
pub use error::LayerError;
pub use gradcheck::{Element, Gradcheck, GradcheckError, GradcheckReport, gradcheck};
pub use grads::Grads;
pub use init::Init;
pub use key::{Key, Mode};
pub use layer::{At, Layer};
pub use layers::{
    Dropout, Linear, LinearConfig, LogSoftmax, Relu, Residual, Sequential, SequentialBuilder, Sigmoid,
    Softmax, Tanh,
};
pub use summary::{Summary, summary};
pub use tape::{Pass, Tape, predict};

pub use backrule_tensor as tensor;
