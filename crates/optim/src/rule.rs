use backrule_tensor::{ConfigError, Options, Scalar};

/// How one tensor changes in a step. An [`Optimizer`](crate::Optimizer) calls it for every parameter of a
/// network.
///
/// A rule of your own, the sign of the gradient instead of the gradient:
///
/// ```
/// use backrule_optim::tensor::{Grads, Options, Scalar, Tensor};
/// use backrule_optim::{ConfigError, Optimizer, Rule};
///
/// struct SignDescent {
///     learning_rate: f64,
/// }
///
/// impl<T: Scalar> Rule<T> for SignDescent {
///     fn slots(&self) -> &'static [&'static str] {
///         &[]
///     }
///     fn update(&self, _step: u64, x: &mut [T], dx: &[T], _slots: &mut [&mut [T]]) {
///         let rate = T::from_f64(self.learning_rate);
///         for (x, &dx) in x.iter_mut().zip(dx) {
///             *x -= if dx == T::ZERO { dx } else { rate * dx / dx.abs() };
///         }
///     }
///     fn learning_rate(&self) -> f64 {
///         self.learning_rate
///     }
///     fn set_learning_rate(&mut self, rate: f64) -> Result<(), ConfigError> {
///         let rate = ConfigError::not_negative("SignDescent", "learning_rate", rate)?;
///         self.learning_rate = rate;
///         Ok(())
///     }
///     fn options(&self) -> Options {
///         Options::new().with("learning_rate", self.learning_rate)
///     }
///     fn set_options(&mut self, mut options: Options) -> Result<(), ConfigError> {
///         let rate = options.number("learning_rate")?;
///         options.finish()?;
///         Rule::<T>::set_learning_rate(self, rate)
///     }
/// }
///
/// let mut x: Tensor = Tensor::from([1.0, 2.0]);
/// let mut optimizer = Optimizer::new(SignDescent { learning_rate: 0.5 }, &x)?;
/// let mut grads = Grads::new(&x)?;
/// grads[0] = Tensor::from([7.0, -0.01]).into();
/// optimizer.step(&mut x, &mut grads)?;
/// assert_eq!(x, Tensor::from([0.5, 2.5]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no rule for parameters of type `{T}`",
    label = "no rule",
    note = "`Sgd::new(0.1)` and its options give a `Result`: the rule is behind `?`"
)]
pub trait Rule<T: Scalar>: Send + Sync {
    /// The names of the state tensors that each parameter needs, such as `["velocity"]`. They start at zero,
    /// have the parameter's shape, and are saved as `fc1.weight.velocity`. The answer must never change.
    fn slots(&self) -> &'static [&'static str];

    /// Changes a parameter x by its gradient dx.
    ///
    /// `step` is 1 in an optimizer's first step. `slots` are the tensors named by [`slots`](Self::slots), in
    /// that order; like dx they are as long as x. All of them are **a part of the parameter**, unless
    /// [`needs_whole`](Self::needs_whole): large ones are updated part by part, on several threads.
    fn update(&self, step: u64, x: &mut [T], dx: &[T], slots: &mut [&mut [T]]);

    /// Whether [`update`](Self::update) has to see a parameter as a whole, because it takes a norm, say. The
    /// default is no: the update of an element depends on no other.
    fn needs_whole(&self) -> bool {
        false
    }

    /// The learning rate.
    fn learning_rate(&self) -> f64;

    /// Changes the learning rate.
    ///
    /// # Errors
    /// When it isn't finite or is negative; it stays as it was then.
    fn set_learning_rate(&mut self, rate: f64) -> Result<(), ConfigError>;

    /// All options, so a checkpoint can hold them: one missing here is lost when a run is resumed.
    fn options(&self) -> Options;

    /// Changes all options to those that [`options`](Self::options) has given before.
    ///
    /// # Errors
    /// When one is unknown, missing or impossible, or would change the [`slots`](Self::slots). They stay as
    /// they were then.
    fn set_options(&mut self, options: Options) -> Result<(), ConfigError>;
}

/// A rule that is chosen while the program runs: `Optimizer<Box<dyn Rule<f32>>>`.
impl<T: Scalar, R: Rule<T> + ?Sized> Rule<T> for Box<R> {
    fn slots(&self) -> &'static [&'static str] {
        (**self).slots()
    }

    fn update(&self, step: u64, x: &mut [T], dx: &[T], slots: &mut [&mut [T]]) {
        (**self).update(step, x, dx, slots);
    }

    fn needs_whole(&self) -> bool {
        (**self).needs_whole()
    }

    fn learning_rate(&self) -> f64 {
        (**self).learning_rate()
    }

    fn set_learning_rate(&mut self, rate: f64) -> Result<(), ConfigError> {
        (**self).set_learning_rate(rate)
    }

    fn options(&self) -> Options {
        (**self).options()
    }

    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        (**self).set_options(options)
    }
}
