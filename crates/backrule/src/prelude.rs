//! The names that most programs use: `use backrule::prelude::*;`.
//!
//! All layers, losses and rules, tensors with their seeded numbers, checkpoints, and [`Error`].

pub use backrule_io::{Best, Checkpoint, Rotation, Run, Snapshot};
pub use backrule_loss::*;
pub use backrule_nn::*;
pub use backrule_optim::*;
pub use backrule_tensor::{
    ConfigError, Grad, Grads, NamedTensors, Options, Role, Scalar, Shape, ShapeError, Tensor, TensorError,
    TrainingState, named_tensors, parallel, random,
};

pub use crate::error::Error;
pub use crate::load::{Loaded, load, load_with};
