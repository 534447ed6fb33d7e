//! The trait that every layer implements, and the arguments of a rule.

use std::any::TypeId;
use std::ops::RangeInclusive;

use backrule_tensor::{Grad, NamedTensors, Options, Path, Role, Scalar, Shape, ShapeError, Tensor};

use crate::cache::Cache;
use crate::error::LayerError;
use crate::mode::Mode;
use crate::packer::Packer;

/// The most inputs that a layer can have.
pub const MAX_INPUTS: usize = 16;
/// The most outputs that a layer can have.
pub const MAX_OUTPUTS: usize = 16;

/// Types that only this crate can name: a method that takes a [`Sealed`] can be neither overridden nor called
/// from outside.
pub(crate) mod sealed {
    use backrule_tensor::{Grad, Scalar, Shape, Tensor};

    use crate::cache::Cache;
    use crate::error::LayerError;
    use crate::layer::Layer;

    /// A child, as a walk over its container's children shows it.
    pub struct Step<'a, T: Scalar> {
        pub(crate) name: &'a str,
        pub(crate) layer: &'a dyn Layer<T>,
        /// The shapes of its inputs.
        pub(crate) inputs: &'a [Shape],
        /// The names of its inputs, where they aren't the child in front.
        pub(crate) from: Option<&'a dyn Fn() -> String>,
    }

    impl<'a, T: Scalar> Step<'a, T> {
        /// The child behind the one before, or the only one.
        pub(crate) fn next(name: &'a str, layer: &'a dyn Layer<T>, inputs: &'a [Shape]) -> Self {
            Self { name, layer, inputs, from: None }
        }
    }

    pub(crate) type Walk<'a, T> = dyn FnMut(Step<'_, T>) -> Result<(), LayerError> + 'a;

    /// The key to the sealed methods.
    #[derive(Clone, Copy, Debug)]
    pub struct Sealed;

    /// An element-wise layer as the end of the layer in front: f in place, and a derivative that sees y
    /// alone. There is no x here, because the output of the layer in front never exists by itself.
    pub trait Epilogue<T: Scalar>: Sync {
        /// y ← f(y)
        fn apply(&self, y: &mut [T]);
        /// ∂l/∂x from y and ∂l/∂y.
        fn back(&self, y: &Tensor<T>, dy: &Tensor<T>, dx: &mut Tensor<T>) -> Result<(), LayerError>;
    }

    /// A layer that can run an [`Epilogue`] on elements of y that it has just written. Its rule has no y to
    /// read, because the values there are the epilogue's.
    pub trait Affine<T: Scalar> {
        /// y = epilogue(f(x; θ))
        fn forward_then(
            &self,
            x: &Tensor<T>,
            y: &mut Tensor<T>,
            cache: &mut Cache<T>,
            epilogue: &dyn Epilogue<T>,
        ) -> Result<(), LayerError>;

        /// As [`Layer::backward`].
        fn backward_from(
            &self,
            x: &Tensor<T>,
            cache: &mut Cache<T>,
            dy: &Tensor<T>,
            dx: Option<&mut Tensor<T>>,
            grads: &mut [Grad<T>],
        ) -> Result<(), LayerError>;
    }
}
use sealed::{Affine, Epilogue, Sealed, Walk};

/// A formula y = f(x; θ) and its derivative.
///
/// A layer holds its parameters and nothing else: the tensors of the forward pass come back to
/// it in [`At`]. So a layer can be shared between threads, and one network can be in use with any number of
/// tapes.
///
/// To write your own, name its parameters ([`named_tensors!`](backrule_tensor::named_tensors), or an empty
/// `impl NamedTensors` if it has none), derive `Clone`, implement `forward` and `backward`, and let
/// [`gradcheck`](crate::gradcheck()) compare the two. A layer that gives another shape than it takes
/// implements `output_shape`, too. An element-wise layer implements [`Pointwise`](crate::Pointwise) instead,
/// which is shorter.
///
/// ```
/// use backrule_nn::tensor::{Grad, NamedTensors, Scalar, Tensor};
/// use backrule_nn::{At, Cache, Layer, LayerError, Mode, gradcheck};
///
/// /// The mean of each row, in all of its places: y = (Σ x) / n, so ∂l/∂x = (Σ ∂l/∂y) / n.
/// #[derive(Clone)]
/// struct RowMean;
///
/// fn mean_of_rows<T: Scalar>(x: &Tensor<T>, y: &mut Tensor<T>) -> Result<(), LayerError> {
///     y.copy_from(x)?;
///     for row in y.rows_mut() {
///         let mean = row.iter().copied().sum::<T>() / T::from_f64(row.len() as f64);
///         row.fill(mean);
///     }
///     Ok(())
/// }
///
/// impl<T: Scalar> NamedTensors<T> for RowMean {}
///
/// impl<T: Scalar> Layer<T> for RowMean {
///     fn forward(
///         &self,
///         x: &Tensor<T>,
///         y: &mut Tensor<T>,
///         _: &mut Cache<T>,
///         _: Mode,
///     ) -> Result<(), LayerError> {
///         mean_of_rows(x, y)
///     }
///
///     fn backward(
///         &self,
///         _: At<'_, T>,
///         dy: &Tensor<T>,
///         dx: Option<&mut Tensor<T>>,
///         _: &mut [Grad<T>],
///     ) -> Result<(), LayerError> {
///         dx.map_or(Ok(()), |dx| mean_of_rows(dy, dx))
///     }
/// }
///
/// let report = gradcheck(&mut RowMean, [3, 4], 1)?;
/// assert_eq!(report.elements, 12);
/// # Ok::<(), backrule_nn::GradcheckError>(())
/// ```
///
/// A layer with **buffers** (running statistics: changed in training without a derivative) names them
/// as such. Its rule doesn't change them, which would need `&mut self`: in training it adds increments by
/// [`Grad::increment`], and the optimizer's step moves the buffers. Gradcheck looks at that, too.
///
/// ```
/// use backrule_nn::tensor::{Grad, Scalar, Tensor, named_tensors};
/// use backrule_nn::{At, Cache, Grads, Layer, LayerError, Mode, Tape, gradcheck};
///
/// /// y = x − m, where m is the mean of each column: in training that of the batch, so
/// /// ∂l/∂x = ∂l/∂y − its mean, and in evaluation the running one.
/// #[derive(Clone)]
/// struct Center<T: Scalar> {
///     running: Tensor<T>,
/// }
///
/// named_tensors!(Center {} buffers { running });
///
/// /// y = x − (Σ x) / n, and the negative mean.
/// fn centered<T: Scalar>(
///     x: &Tensor<T>,
///     minus_mean: &mut Tensor<T>,
///     y: &mut Tensor<T>,
/// ) -> Result<(), LayerError> {
///     minus_mean.resize([x.shape().columns()])?;
///     minus_mean.fill(T::ZERO);
///     minus_mean.add_sum_of_rows(x)?;
///     minus_mean.scale(T::from_f64(-1.0 / x.shape().rows() as f64));
///     y.copy_from(x)?;
///     Ok(y.add_to_rows(minus_mean)?)
/// }
///
/// impl<T: Scalar> Layer<T> for Center<T> {
///     fn forward(
///         &self,
///         x: &Tensor<T>,
///         y: &mut Tensor<T>,
///         cache: &mut Cache<T>,
///         mode: Mode,
///     ) -> Result<(), LayerError> {
///         let [minus_mean, _] = cache.tensors();
///         if mode.is_train() {
///             return centered(x, minus_mean, y);
///         }
///         minus_mean.copy_from(&self.running)?;
///         minus_mean.scale(-T::ONE);
///         y.copy_from(x)?;
///         Ok(y.add_to_rows(minus_mean)?)
///     }
///
///     fn backward(
///         &self,
///         at: At<'_, T>,
///         dy: &Tensor<T>,
///         dx: Option<&mut Tensor<T>>,
///         grads: &mut [Grad<T>],
///     ) -> Result<(), LayerError> {
///         let [minus_mean, of_dy] = at.cache.tensors();
///         if at.mode.is_train() {
///             // A step adds it: running ← running + 0.1 (mean − running).
///             grads[0].increment(|delta| {
///                 let means = minus_mean.as_slice().iter().zip(self.running.as_slice());
///                 for (d, (&minus, &m)) in delta.as_mut_slice().iter_mut().zip(means) {
///                     *d -= T::from_f64(0.1) * (minus + m);
///                 }
///                 Ok::<_, LayerError>(())
///             })?;
///         }
///         match dx {
///             Some(dx) if at.mode.is_train() => centered(dy, of_dy, dx),
///             Some(dx) => Ok(dx.copy_from(dy)?),
///             None => Ok(()),
///         }
///     }
/// }
///
/// let mut layer = Center { running: Tensor::zeros([2])? };
/// gradcheck(&mut layer, [4, 2], 1)?;
///
/// let x = Tensor::from([[1.0_f64, 10.0], [3.0, 30.0]]);
/// let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer)?);
/// let pass = tape.forward(&layer, &x, Mode::train())?;
/// assert_eq!(pass.output(), &Tensor::from([[-1.0, -10.0], [1.0, 10.0]]));
/// pass.backward(&Tensor::zeros([2, 2])?, &mut grads)?;
/// // 0.1 · (2 − 0) and 0.1 · (20 − 0)
/// assert_eq!(grads[0].to_tensor()?, Tensor::from([0.2, 2.0]));
/// assert_eq!(grads[0].count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A layer with **several inputs or outputs** (states, lengths, a memory to attend to) says how many in
/// [`inputs`](Self::inputs) and [`outputs`](Self::outputs), and implements the functions in `_many`;
/// [`through_many!`](crate::through_many) gives it the two others. It runs in a [`Graph`](crate::Graph), or
/// by [`Tape::forward_many`](crate::Tape::forward_many).
///
/// Settings are no layer yet, and the compiler says that `.build(rng)` makes one of them:
///
/// ```compile_fail,E0277
/// use backrule_nn::{Conv2dConfig, Sequential};
///
/// let net = Sequential::<f32>::builder().layer("conv", Conv2dConfig::new(1, 8, [3, 3]));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no layer for elements of type `{T}`",
    label = "no layer",
    note = "a `*Config` becomes a layer by `.build(rng)` (without random numbers `.build()`), the builder of a \
            `Sequential` by `.build()`, that of a `Graph` by `.build([outputs])`; a `Result` gives its layer by `?`",
    note = "a layer of your own implements `Layer` and `NamedTensors`, or `Pointwise`, and is `Clone`"
)]
pub trait Layer<T: Scalar>: NamedTensors<T> + BoxedClone<T> + Send + Sync + 'static {
    /// y = f(x; θ): gives `y` its shape and overwrites it, and notes in `cache` the derivative's
    /// operands besides x and y. Allocates nothing when the buffers have been as large before.
    ///
    /// # Errors
    /// When the layer doesn't take such an x.
    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError>;

    /// Given dy = ∂l/∂y: gives `dx` the shape of x and overwrites it with ∂l/∂x when that is wanted, and
    /// **adds** ∂l/∂θ to `grads`, one per tensor in visit order, by [`Grad::accumulate`] or
    /// [`Grad::add_to`].
    ///
    /// The entry of a [`Role::Buffer`] gets the increment of that buffer instead, by [`Grad::increment`].
    ///
    /// # Errors
    /// When `dy` or `grads` don't have the shapes that belong to this forward pass.
    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError>;

    /// The shape of y for an x of this shape. The default is for element-wise layers: the same.
    ///
    /// # Errors
    /// When the layer doesn't take such an input.
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        Ok(x)
    }

    /// The layer's settings. A file holds them beside the layer's tensors, and a summary shows them: of a
    /// built-in layer, those that aren't their defaults.
    fn options(&self) -> Options {
        Options::new()
    }

    /// Shows the layers in this one, each with its name, in visit order.
    fn children(&self, visit: &mut dyn FnMut(&str, &dyn Layer<T>)) {
        let _ = visit;
    }

    /// The name of a layer of your own in files, `"crate/Name"`. Loading such a file takes a
    /// [`Registry`](crate::Registry) that knows the name.
    ///
    /// Without one, a network with this layer has no [`Architecture`](crate::Architecture), and a program
    /// that restores it builds it first.
    fn custom_kind(&self) -> Option<&'static str> {
        None
    }

    /// Packs the layer's weights: called for the copy of a network that a [`Prepared`](crate::Prepared) owns,
    /// and that only predicts.
    ///
    /// A layer whose formula has a product x Wᵀ keeps the result of [`Packer::pack`], and hands it to that
    /// product; a container hands the call on to its children. The default does nothing: a layer without a
    /// weight runs as it is.
    ///
    /// # Errors
    /// When there is no memory.
    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        let _ = packer;
        Ok(())
    }

    /// The number of inputs that the layer takes.
    fn inputs(&self) -> RangeInclusive<usize> {
        1..=1
    }

    /// The number of outputs that the layer gives.
    fn outputs(&self) -> usize {
        1
    }

    /// The shapes of the outputs for inputs of these shapes. `y` is as long as there are outputs.
    ///
    /// # Errors
    /// When the layer doesn't take such inputs.
    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        let ([x], [y]) = (x, y) else { return Err(not_one(x.len())) };
        *y = self.output_shape(*x)?;
        Ok(())
    }

    /// y₀, y₁, … = f(x₀, x₁, …; θ), as [`forward`](Self::forward). `y` is as long as there are outputs.
    ///
    /// # Errors
    /// When the layer doesn't take such inputs.
    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        let ([x], [y]) = (x, y) else { return Err(not_one(x.len())) };
        if self.is_through_many() {
            return Err(not_written("forward_many"));
        }
        self.forward(x, y, cache, mode)
    }

    /// As [`backward`](Self::backward). `dy[i]` is `None` where nobody has used output i, `dx[i]` where
    /// nobody wants it. An input without a derivative, such as a list of lengths, gets zeros if it is wanted.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let (&[x], &[y], &[dy], [dx]) = (at.x, at.y, dy, dx) else { return Err(not_one(at.x.len())) };
        if self.is_through_many() {
            return Err(not_written("backward_many"));
        }
        let dx = dx.as_deref_mut();
        match dy {
            Some(dy) => self.backward(At { x, y, cache: at.cache, mode: at.mode }, dy, dx, grads),
            None => match dx {
                Some(dx) => zeros_like(dx, x),
                None => Ok(()),
            },
        }
    }

    /// Whether `forward` and `backward` are those of [`through_many!`](crate::through_many): then the
    /// functions in `_many` can't be the defaults, which would call them.
    #[doc(hidden)]
    fn is_through_many(&self) -> bool {
        false
    }

    /// Of the settings in [`options`](Self::options) those that have a default, with that default: a summary
    /// shows the others.
    #[doc(hidden)]
    fn defaults(&self, _: Sealed) -> Options {
        Options::new()
    }

    /// Whether the layer is somebody's own: then its outputs are compared with its `output_shape` in release
    /// builds, too. The name of the type decides that; a wrong guess costs a comparison, or saves one.
    #[doc(hidden)]
    fn is_own(&self, _: Sealed) -> bool {
        let library = concat!(env!("CARGO_CRATE_NAME"), "::");
        !std::any::type_name::<Self>().starts_with(library)
    }

    /// The type of the layer: it names a built-in one in files. Somebody's own layer of the same name is
    /// another type.
    #[doc(hidden)]
    fn of_type(&self, _: Sealed) -> TypeId {
        TypeId::of::<Self>()
    }

    /// The name of that type, without its path.
    #[doc(hidden)]
    fn type_name(&self, _: Sealed) -> &'static str {
        let name = std::any::type_name::<Self>();
        let name = name.split('<').next().unwrap_or(name);
        name.rsplit("::").next().unwrap_or(name)
    }

    /// Shows every child, for inputs of shapes `x`. `false`: it has none to show.
    #[doc(hidden)]
    fn walk(&self, _: Sealed, x: &[Shape], visit: &mut Walk<'_, T>) -> Result<bool, LayerError> {
        let _ = (x, visit);
        Ok(false)
    }

    /// The names of the inputs, where the layer gives them any.
    #[doc(hidden)]
    fn input_names(&self, _: Sealed) -> &[String] {
        &[]
    }

    /// Freezes or thaws the layer at `path`, and says whether there is one to be.
    #[doc(hidden)]
    fn set_frozen(&mut self, _: Sealed, path: &str, frozen: bool) -> bool {
        let _ = (path, frozen);
        false
    }

    /// This layer as the end of the one in front. Element-wise layers whose derivative needs y alone have
    /// one.
    #[doc(hidden)]
    fn epilogue(&self, _: Sealed) -> Option<&dyn Epilogue<T>> {
        None
    }

    /// For tests: dy · df and `back` of an element-wise layer, which are to be the same.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn both_rules(&self, at: T, dy: T) -> Option<[T; 2]> {
        let _ = (at, dy);
        None
    }

    /// This layer as one that runs an epilogue.
    #[doc(hidden)]
    fn affine(&self, _: Sealed) -> Option<&dyn Affine<T>> {
        None
    }
}

/// [`Layer::forward`] and [`Layer::backward`] of a layer with several inputs or outputs, for its `impl
/// Layer<T>`: by its functions in `_many`, which may refuse a single input.
#[macro_export]
macro_rules! through_many {
    ($T:ty) => {
        fn forward(
            &self,
            x: &$crate::tensor::Tensor<$T>,
            y: &mut $crate::tensor::Tensor<$T>,
            cache: &mut $crate::Cache<$T>,
            mode: $crate::Mode,
        ) -> ::std::result::Result<(), $crate::LayerError> {
            let (inputs, outputs) = ($crate::Layer::<$T>::inputs(self), $crate::Layer::<$T>::outputs(self));
            if !inputs.contains(&1) || outputs != 1 {
                return ::std::result::Result::Err($crate::LayerError::several(inputs, outputs));
            }
            $crate::Layer::<$T>::forward_many(self, &[x], ::std::slice::from_mut(y), cache, mode)
        }

        fn is_through_many(&self) -> bool {
            true
        }

        fn backward(
            &self,
            at: $crate::At<'_, $T>,
            dy: &$crate::tensor::Tensor<$T>,
            dx: ::std::option::Option<&mut $crate::tensor::Tensor<$T>>,
            grads: &mut [$crate::tensor::Grad<$T>],
        ) -> ::std::result::Result<(), $crate::LayerError> {
            let at = $crate::AtMany { x: &[at.x], y: &[at.y], cache: at.cache, mode: at.mode };
            $crate::Layer::<$T>::backward_many(self, at, &[::std::option::Option::Some(dy)], &mut [dx], grads)
        }
    };
}

/// A layer of one input and one output was handed others.
fn not_one(inputs: usize) -> LayerError {
    LayerError::count("layer: inputs and outputs", "one of each", inputs)
}

/// A layer with [`through_many!`](crate::through_many) has one of its functions from the trait.
#[cold]
fn not_written(function: &'static str) -> LayerError {
    LayerError::count("layer with through_many!", format!("a `{function}` of its own"), 0)
}

/// Compares the shape of ∂l/∂x that a layer has written with that of x.
///
/// # Errors
/// When it is another one. Nobody else would say where the mistake is.
pub(crate) fn check_dx<T: Scalar>(x: &Tensor<T>, dx: Option<&mut Tensor<T>>) -> Result<(), LayerError> {
    match dx {
        Some(dx) if dx.shape() != x.shape() => {
            Err(ShapeError::new("backward: the layer's ∂l/∂x", x.shape(), dx.shape()).into())
        }
        _ => Ok(()),
    }
}

/// Fills a tensor for results with NaN, in debug builds: the numbers of another layer would pass for
/// its own.
pub(crate) fn poison<T: Scalar>(dx: Option<&mut Tensor<T>>) {
    if cfg!(debug_assertions)
        && let Some(dx) = dx
    {
        dx.fill(T::from_f64(f64::NAN));
    }
}

/// Compares the shapes that a layer has written with those that it says it writes: of somebody's [own
/// layer](Layer::is_own), and of any in debug builds. Containers compare those of their children.
///
/// # Errors
/// When they differ. The next layer would be blamed for it.
pub(crate) fn check_outputs<T: Scalar>(
    is_own: bool,
    layer: &dyn Layer<T>,
    x: &[&Tensor<T>],
    y: &[Tensor<T>],
) -> Result<(), LayerError> {
    if !is_own {
        if !cfg!(debug_assertions) {
            return Ok(());
        }
        let mut is_container = false;
        layer.children(&mut |_, _| is_container = true);
        if is_container {
            return Ok(());
        }
    }
    if let ([x], [_]) = (x, y) {
        let mut said = [Shape::EMPTY];
        layer.output_shapes(&[x.shape()], &mut said)?;
        return compare(&said, y);
    }
    let (mut inputs, mut outputs) = ([Shape::EMPTY; MAX_INPUTS], [Shape::EMPTY; MAX_OUTPUTS]);
    inputs.iter_mut().zip(x).for_each(|(shape, x)| *shape = x.shape());
    let outputs = &mut outputs[..y.len().min(MAX_OUTPUTS)];
    layer.output_shapes(&inputs[..x.len().min(MAX_INPUTS)], outputs)?;
    compare(outputs, y)
}

fn compare<T: Scalar>(said: &[Shape], y: &[Tensor<T>]) -> Result<(), LayerError> {
    match y.iter().zip(said).find(|(y, said)| y.shape() != **said) {
        Some((y, said)) => Err(ShapeError::new("forward: what `output_shape` says", said, y.shape()).into()),
        None => Ok(()),
    }
}

/// Zeros of x's shape: ∂l/∂x of an input that nothing depends on.
///
/// # Errors
/// When there is no memory.
pub(crate) fn zeros_like<T: Scalar>(dx: &mut Tensor<T>, x: &Tensor<T>) -> Result<(), LayerError> {
    dx.resize(x.shape())?;
    dx.fill(T::ZERO);
    Ok(())
}

/// The point at which a derivative is taken: the forward pass's inputs and outputs.
pub struct At<'a, T: Scalar> {
    /// The layer's input.
    pub x: &'a Tensor<T>,
    /// Its output.
    pub y: &'a Tensor<T>,
    /// The notes of `forward`. They can be written, too: containers keep the gradients between their children
    /// here.
    pub cache: &'a mut Cache<T>,
    /// The mode of the forward pass.
    pub mode: Mode,
}

/// The point at which a derivative of several inputs or outputs is taken.
pub struct AtMany<'a, T: Scalar> {
    /// The layer's inputs.
    pub x: &'a [&'a Tensor<T>],
    /// Its outputs.
    pub y: &'a [&'a Tensor<T>],
    /// The notes of `forward_many`.
    pub cache: &'a mut Cache<T>,
    /// The mode of the forward pass.
    pub mode: Mode,
}

/// Clones a layer whose type is known at run time only. Every layer that is `Clone` has it.
///
/// A clone ends the process where there is no memory for it:
/// [`copy_tensors_from`](NamedTensors::copy_tensors_from) is the copy that can fail.
pub trait BoxedClone<T: Scalar> {
    /// A copy of this layer.
    fn boxed_clone(&self) -> Box<dyn Layer<T>>;
}

impl<T: Scalar, L: Layer<T> + Clone> BoxedClone<T> for L {
    fn boxed_clone(&self) -> Box<dyn Layer<T>> {
        Box::new(self.clone())
    }
}

impl<T: Scalar> Clone for Box<dyn Layer<T>> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// A boxed layer is a layer: for networks whose structure is known at run time only.
impl<T: Scalar> NamedTensors<T> for Box<dyn Layer<T>> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        (**self).visit(path, visitor);
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        (**self).visit_mut(path, visitor);
    }
}

/// Writes a box's methods: all of them, because one that was left out would compile, and give its default.
macro_rules! hand_on {
    ($($(#[$attribute:meta])* fn $name:ident(&self $(, $arg:ident: $ty:ty)* $(,)?) $(-> $out:ty)?;)*) => {
        impl<T: Scalar> Layer<T> for Box<dyn Layer<T>> {
            fn set_frozen(&mut self, key: Sealed, path: &str, frozen: bool) -> bool {
                (**self).set_frozen(key, path, frozen)
            }

            fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
                (**self).prepare(packer)
            }

            $($(#[$attribute])* fn $name(&self $(, $arg: $ty)*) $(-> $out)? { (**self).$name($($arg),*) })*
        }
    };
}
hand_on! {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, cache: &mut Cache<T>, mode: Mode) -> Result<(), LayerError>;
    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError>;
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError>;
    fn options(&self) -> Options;
    fn children(&self, visit: &mut dyn FnMut(&str, &dyn Layer<T>));
    fn custom_kind(&self) -> Option<&'static str>;
    fn inputs(&self) -> RangeInclusive<usize>;
    fn outputs(&self) -> usize;
    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError>;
    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError>;
    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError>;
    fn is_through_many(&self) -> bool;
    fn defaults(&self, key: Sealed) -> Options;
    fn is_own(&self, key: Sealed) -> bool;
    fn of_type(&self, key: Sealed) -> TypeId;
    fn type_name(&self, key: Sealed) -> &'static str;
    fn walk(&self, key: Sealed, x: &[Shape], visit: &mut Walk<'_, T>) -> Result<bool, LayerError>;
    fn input_names(&self, key: Sealed) -> &[String];
    fn epilogue(&self, key: Sealed) -> Option<&dyn Epilogue<T>>;
    #[cfg(feature = "testing")]
    fn both_rules(&self, at: T, dy: T) -> Option<[T; 2]>;
    fn affine(&self, key: Sealed) -> Option<&dyn Affine<T>>;
}
