use backrule_tensor::Options;

/// Where a run is: a resumed one's data beside its tensors. [`Snapshot::run`](crate::Snapshot::run) saves
/// it, and [`Checkpoint::run`](crate::Checkpoint::run) gives it back.
///
/// Later versions may add fields, so write one with `..Run::default()`:
///
/// ```
/// use backrule_io::tensor::Tensor;
/// use backrule_io::{Checkpoint, Run};
///
/// let net = vec![("weight", Tensor::from([1.0_f32]))];
/// let run = Run { epoch: 3, step: 450, seed: Some(42), ..Run::default() };
/// let bytes = Checkpoint::of(&net).run(&run).to_bytes()?;
/// assert_eq!(*Checkpoint::from_bytes(&bytes)?.run(), run);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Epochs completed.
    pub epoch: u64,
    /// Steps, of the run or of the current epoch. The optimizer's own count is saved with the optimizer.
    pub step: u64,
    /// Where to go on in the data: in samples, batches or bytes, as your program wants.
    pub position: u64,
    /// The seed from which random numbers go on.
    pub seed: Option<u64>,
    /// The version of your program, such as `env!("CARGO_PKG_VERSION")` or a commit.
    pub program: Option<String>,
}

/// An optimizer's state in a checkpoint beside its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct OptimizerState {
    /// The steps that it had made.
    pub steps: u64,
    /// Its options, such as the learning rate.
    pub options: Options,
}
