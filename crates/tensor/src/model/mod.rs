//! A model as every crate knows it: tensors with names and roles, gradients, settings, training state.

mod copy;
mod entry;
mod grad;
mod grads;
mod layout;
mod options;
mod path;
mod role;
mod share;
mod state;
mod visit;

pub use entry::LayoutEntry;
pub use grad::Grad;
pub use grads::{ClipError, Grads, GradsError, IncompleteError};
pub use layout::Layout;
pub use options::{OptionValue, Options};
pub use path::Path;
pub use role::Role;
pub use share::share;
pub use state::TrainingState;
pub use visit::NamedTensors;
