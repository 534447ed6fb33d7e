use backrule_tensor::{Scalar, Tensor};

use crate::OptionError;

/// How one tensor changes in a step. An [`Optimizer`](crate::Optimizer) calls it for every parameter of a network.
///
/// A rule of your own, the sign of the gradient instead of the gradient:
///
/// ```
/// use std::mem::take;
///
/// use backrule_optim::tensor::{Scalar, Tensor};
/// use backrule_optim::{OptionError, Optimizer, Rule};
///
/// struct SignDescent {
///     learning_rate: f64,
/// }
///
/// impl<T: Scalar> Rule<T> for SignDescent {
///     fn slots(&self) -> &'static [&'static str] {
///         &[]
///     }
///     fn update(&self, _step: u64, x: &mut [T], dx: &mut [T], _slots: &mut [Tensor<T>]) {
///         let rate = T::from_f64(self.learning_rate);
///         for (x, dx) in x.iter_mut().zip(dx) {
///             let dx = take(dx);
///             *x -= if dx == T::ZERO { dx } else { rate * dx / dx.abs() };
///         }
///     }
///     fn learning_rate(&self) -> f64 {
///         self.learning_rate
///     }
///     fn set_learning_rate(&mut self, rate: f64) -> Result<(), OptionError> {
///         self.learning_rate = OptionError::check_not_negative("learning_rate", rate)?;
///         Ok(())
///     }
/// }
///
/// let mut x: Tensor = Tensor::from([1.0, 2.0]);
/// let mut optimizer = Optimizer::new(SignDescent { learning_rate: 0.5 }, &x);
/// let mut grads = [Tensor::from([7.0, -0.01])];
/// optimizer.step(&mut x, &mut grads)?;
/// assert_eq!(x, Tensor::from([0.5, 2.5]));
/// assert_eq!(grads[0], Tensor::from([0.0, 0.0]));
/// # Ok::<(), backrule_optim::StepError>(())
/// ```
pub trait Rule<T: Scalar> {
    /// The names of the state tensors that each parameter needs, such as `["velocity"]`. They start at zero, have the
    /// parameter's shape, and are saved as `fc1.weight.velocity`. The answer must never change.
    fn slots(&self) -> &'static [&'static str];

    /// Changes a parameter x by its gradient dx, **and sets dx to zero**: take each element out with
    /// [`std::mem::take`], then neither a second pass nor a forgotten one is possible.
    ///
    /// `step` is 1 in an optimiser's first step. `slots` are the tensors named by [`slots`](Self::slots), in that
    /// order; like dx they are as long as x.
    fn update(&self, step: u64, x: &mut [T], dx: &mut [T], slots: &mut [Tensor<T>]);

    /// The learning rate.
    fn learning_rate(&self) -> f64;

    /// Changes the learning rate.
    ///
    /// # Errors
    /// When it isn't finite or is negative; it stays as it was then.
    fn set_learning_rate(&mut self, rate: f64) -> Result<(), OptionError>;
}

/// A rule that is chosen while the program runs: `Optimizer<Box<dyn Rule<f32>>>`.
impl<T: Scalar, R: Rule<T> + ?Sized> Rule<T> for Box<R> {
    fn slots(&self) -> &'static [&'static str] {
        (**self).slots()
    }

    fn update(&self, step: u64, x: &mut [T], dx: &mut [T], slots: &mut [Tensor<T>]) {
        (**self).update(step, x, dx, slots);
    }

    fn learning_rate(&self) -> f64 {
        (**self).learning_rate()
    }

    fn set_learning_rate(&mut self, rate: f64) -> Result<(), OptionError> {
        (**self).set_learning_rate(rate)
    }
}
