use crate::error::ConfigError;
use crate::model::options::Options;
use crate::model::visit::NamedTensors;
use crate::scalar::Scalar;

/// The state of an optimizer to be saved: its tensors, the number of its steps, and its options.
///
/// The three belong together: velocities without the step count, or with another momentum, are another
/// optimizer.
pub trait TrainingState<T: Scalar>: NamedTensors<T> {
    /// The number of steps made so far.
    fn step_count(&self) -> u64;
    /// Continues as if `steps` steps had been made.
    fn set_step_count(&mut self, steps: u64);

    /// The options that the next step will be made with; none unless implemented.
    fn options(&self) -> Options {
        Options::new()
    }

    /// Goes on with these options, which [`options`](Self::options) has given before. It must not change
    /// which tensors there are.
    ///
    /// # Errors
    /// When one is unknown, missing or impossible. The options are as they were then.
    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        options.finish()
    }
}
