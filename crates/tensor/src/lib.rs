#![doc = include_str!("../README.md")]
// On docs.rs each item that needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod dtype;
mod error;
pub mod float_mode;
#[doc(hidden)]
pub mod kernels;
pub mod linalg;
#[doc(hidden)]
pub mod memory;
mod model;
pub mod parallel;
pub mod random;
mod scalar;
mod shape;
pub mod simd;
mod tensor;

pub use dtype::DType;
pub use error::{ConfigError, MemoryError, Place, ShapeError, TensorError, write_with_causes};
pub use kernels::softmax::{log_softmax, softmax};
pub use linalg::{
    Epilogue, MatMut, MatRef, affine_activation_into, affine_into, matmul_into, matmul_nt_into,
    matmul_tn_into,
};
pub use model::{
    ClipError, Grad, Grads, GradsError, IncompleteError, Layout, LayoutEntry, NamedTensors, OptionValue,
    Options, Path, Role, TrainingState, share,
};
pub use scalar::Scalar;
pub use shape::{IntoShape, MAX_RANK, Shape};
pub use tensor::Tensor;
pub use tensor::pointwise::apply;

// Part of this crate's interface: conversions take nalgebra's matrices, random values come from rand's
// generators.
pub use nalgebra;
pub use rand;
