use backrule_tensor::{Role, ShapeError};

/// Why a step was not made. Nothing is changed then: no parameter, no gradient, no state, no step count.
///
/// ```
/// use backrule_optim::tensor::{Grad, Tensor};
/// use backrule_optim::{Optimizer, Sgd};
///
/// let mut net = vec![("weight", Tensor::from([1.0_f32]))];
/// let mut optimizer = Optimizer::new(Sgd::new(0.1)?, &net)?;
/// net.push(("bias", Tensor::from([0.0])));
/// let mut grads = [Tensor::from([1.0]), Tensor::from([1.0])].map(Grad::from);
/// let error = optimizer.step(&mut net, &mut grads).unwrap_err();
/// assert_eq!(error.to_string(), "optimizer step: `bias` was not there when the optimizer was made for this network");
/// assert_eq!(net[0].1, Tensor::from([1.0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A tensor, its gradient or its state doesn't have the shape that the tensor had when the optimizer was made.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Another tensor stands at this place of the network: one was renamed, or their order changed.
    #[error("optimizer step: `{found}` stands where `{expected}` was when the optimizer was made")]
    Path {
        /// The path that was there.
        expected: String,
        /// The path that is there now.
        found: String,
    },
    /// The network has lost a tensor.
    #[error("optimizer step: `{path}` was there when the optimizer was made, and no longer is")]
    Missing {
        /// Its path.
        path: String,
    },
    /// The network has a tensor more.
    #[error("optimizer step: `{path}` was not there when the optimizer was made for this network")]
    Unexpected {
        /// Its path.
        path: String,
    },
    /// A parameter has become a statistic, or the other way round.
    #[error("optimizer step: `{path}` is a {found:?}, and was a {expected:?} when the optimizer was made")]
    Role {
        /// Its path.
        path: String,
        /// What it was.
        expected: Role,
        /// What it is now.
        found: Role,
    },
    /// There are more gradients than tensors.
    #[error("optimizer step: {gradients} gradients for {tensors} tensors, the last of which is `{last}`")]
    ExtraGradients {
        /// The number of gradients.
        gradients: usize,
        /// The number of tensors.
        tensors: usize,
        /// The path of the network's last tensor.
        last: String,
    },
    /// The gradients end before this tensor.
    #[error("optimizer step: {gradients} gradients for {tensors} tensors: none for `{path}`")]
    MissingGradient {
        /// The number of gradients.
        gradients: usize,
        /// The number of tensors.
        tensors: usize,
        /// The first tensor without a gradient.
        path: String,
    },
}
