//! One layer, one file: its formula, its struct, its rule, its tests.

mod dropout;
mod linear;
mod log_softmax;
mod relu;
mod residual;
mod sequential;
mod sigmoid;
mod softmax;
mod tanh;

pub use dropout::Dropout;
pub use linear::{Linear, LinearConfig};
pub use log_softmax::LogSoftmax;
pub use relu::Relu;
pub use residual::Residual;
pub use sequential::{Sequential, SequentialBuilder};
pub use sigmoid::Sigmoid;
pub use softmax::Softmax;
pub use tanh::Tanh;
