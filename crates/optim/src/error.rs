use backrule_tensor::{IncompleteError, ShapeError, readable};

/// Why a step was not made. Nothing is changed then: no parameter, no gradient, no state, no step count.
///
/// ```
/// use backrule_optim::tensor::{Grads, Tensor};
/// use backrule_optim::{Optimizer, Sgd};
///
/// let mut net = vec![("weight", Tensor::from([1.0_f32]))];
/// let mut optimizer = Optimizer::new(Sgd::new(0.1)?, &net)?;
/// net.push(("bias", Tensor::from([0.0])));
/// let mut grads = Grads::new(&net)?;
/// let error = optimizer.step(&mut net, &mut grads).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "another network than the optimizer was made for: \
///      optimizer step: expected no more tensors, got the tensor `bias`"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The network has changed: a tensor was renamed, reshaped, added, lost or moved, or has another role.
    #[error("another network than the optimizer was made for: {0}")]
    Network(ShapeError),
    /// The gradients were made for another network.
    #[error("gradients of another network than the optimizer was made for: {0}")]
    Gradients(ShapeError),
    /// A gradient or a tensor of the state was replaced by one of another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A backward pass over the gradients has failed: [`Grads::clear`](backrule_tensor::Grads::clear) makes
    /// them whole again.
    #[error(transparent)]
    Incomplete(#[from] IncompleteError),
}

readable! { enum StepError { Network(error), Gradients(error), Shape(error), Incomplete(error) } }
