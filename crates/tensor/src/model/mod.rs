//! What every crate knows of a model: tensors with names and roles, gradients, settings, training state.

mod grad;
mod grads;
mod layout;
mod options;
mod path;
mod share;
mod state;
mod visit;

pub use grad::Grad;
pub use grads::{ClipError, Grads};
pub use layout::{Layout, LayoutEntry};
pub use options::{OptionValue, Options};
pub use path::Path;
pub use share::share;
pub use state::TrainingState;
pub use visit::{NamedTensors, Role};
