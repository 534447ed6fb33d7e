//! Layers made of layers.

mod add;
mod concat;
mod frozen;
pub(crate) mod graph;
mod join;
mod mul;
mod residual;
mod sequential;

pub use add::Add;
pub use concat::Concat;
pub use frozen::{Frozen, freeze, thaw};
pub use graph::{Graph, GraphBuilder, Value};
pub use mul::Mul;
pub use residual::Residual;
pub use sequential::{Sequential, SequentialBuilder};

use backrule_tensor::{Grad, Scalar};

use crate::error::LayerError;
use crate::layer::Layer;

/// Takes the gradients of the last child off the end of `grads`.
fn split_grads<'g, T: Scalar>(
    grads: &mut &'g mut [Grad<T>],
    child: &dyn Layer<T>,
) -> Result<&'g mut [Grad<T>], LayerError> {
    let Some(rest) = grads.len().checked_sub(child.tensor_count()) else {
        return Err(LayerError::count("backward: gradients", "one for every tensor", grads.len()));
    };
    let (others, own) = std::mem::take(grads).split_at_mut(rest);
    *grads = others;
    Ok(own)
}

/// The child's name in front of a path, and the rest of the path.
fn split_path(path: &str) -> (&str, &str) {
    path.split_once('.').unwrap_or((path, ""))
}
