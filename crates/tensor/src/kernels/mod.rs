//! Loops that layers, losses and rules share, on slices. They know no tensor, and their interface may change
//! in any version.

pub mod bias;
pub(crate) mod double;
pub(crate) mod exp;
pub mod gelu;
pub mod im2col;
pub mod lstm;
pub mod mask;
pub mod norm;
pub mod row;
pub mod softmax;
pub mod sum;
pub mod twofold;
