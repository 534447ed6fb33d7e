//! What every crate knows of a model: tensors with names and roles, gradients, settings, training state.

mod grad;
mod options;
mod path;
mod state;
mod visit;

pub use grad::Grad;
pub use options::{OptionValue, Options};
pub use path::Path;
pub use state::TrainingState;
pub use visit::{NamedTensors, Role};
