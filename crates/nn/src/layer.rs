use backrule_tensor::{Grad, NamedTensors, Path, Scalar, Shape, Tensor};

use crate::{Architecture, ArchitectureError, Cache, LayerError, Mode, Summary};

/// A formula y = f(x; θ) and its derivative.
///
/// A layer holds its parameters and nothing else: what the derivative needs of the forward pass comes back to it in
/// [`At`]. So a layer can be shared between threads, and one network can be in use with any number of tapes.
///
/// To write your own, name its parameters ([`named_tensors!`](backrule_tensor::named_tensors), or an empty `impl
/// NamedTensors` if it has none), implement `forward` and `backward`, and let [`gradcheck`](crate::gradcheck) compare the
/// two. A layer that gives another shape than it takes implements
/// `output_shape`, too.
///
/// ```
/// use backrule_nn::tensor::{Grad, NamedTensors, Scalar, Tensor};
/// use backrule_nn::{At, Cache, Layer, LayerError, Mode, gradcheck};
///
/// /// y = x², so ∂l/∂x = ∂l/∂y · 2x.
/// struct Square;
///
/// impl<T: Scalar> NamedTensors<T> for Square {}
///
/// impl<T: Scalar> Layer<T> for Square {
///     fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
///         y.map_from(x, |x| x * x)?;
///         Ok(())
///     }
///
///     fn backward(
///         &self,
///         at: At<'_, T>,
///         dy: &Tensor<T>,
///         dx: Option<&mut Tensor<T>>,
///         _: &mut [Grad<T>],
///     ) -> Result<(), LayerError> {
///         if let Some(dx) = dx {
///             dx.zip_from(at.x, dy, |x, dy| dy * (x + x))?;
///         }
///         Ok(())
///     }
/// }
///
/// let report = gradcheck(&mut Square, [3, 4], 1)?;
/// assert_eq!(report.elements, 12);
/// # Ok::<(), backrule_nn::GradcheckError>(())
/// ```
pub trait Layer<T: Scalar>: NamedTensors<T> + Send + Sync {
    /// The shape of y for an x of shape `input`. The default is for element-wise layers: the same.
    ///
    /// # Errors
    /// When the layer doesn't take such an input.
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        Ok(input)
    }

    /// y = f(x; θ): gives `y` its shape and overwrites it, and notes in `cache` what the derivative needs and neither x
    /// nor y has. Allocates nothing when the buffers have been as large before.
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

    /// f in place, if this layer is y = f(x) element by element and its derivative needs y alone: `backward` must not read
    /// [`At::x`] then. The layer before may compute it in its own pass over y: see
    /// [`forward_activated`](Self::forward_activated).
    fn activation(&self) -> Option<fn(&mut [T])> {
        None
    }

    /// y = activation(f(x; θ)), if this layer can give that while the elements are still in the cache, and its derivative
    /// doesn't need f(x; θ): `backward` must not read [`At::y`] then. `false` means that it has done nothing, as by default;
    /// the two layers compute one after the other then.
    ///
    /// # Errors
    /// When the layer doesn't take such an x.
    fn forward_activated(
        &self,
        x: &Tensor<T>,
        activation: fn(&mut [T]),
        y: &mut Tensor<T>,
    ) -> Result<bool, LayerError> {
        let _ = (x, activation, y);
        Ok(false)
    }

    /// Given dy = ∂l/∂y: overwrites `dx` with ∂l/∂x when that is wanted, and **adds** ∂l/∂θ to `grads`, one per
    /// parameter in visit order: each is a tensor to add to, or to [`accumulate`](Grad::accumulate) in.
    ///
    /// The entry of a [`Role::Buffer`](backrule_tensor::Role) gets the increment of that buffer instead.
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

    /// What a summary calls this layer, with the settings that matter: `Linear(64 → 32)`. The default is the type's name.
    fn describe(&self) -> String {
        let name = std::any::type_name::<Self>();
        let name = name.split('<').next().unwrap_or(name);
        name.rsplit("::").next().unwrap_or(name).to_string()
    }

    /// What this layer is, as plain data from which it can be built again.
    ///
    /// # Errors
    /// When it is not a built-in layer, or has one in it that is not: that is the default.
    fn architecture(&self) -> Result<Architecture, ArchitectureError> {
        Err(ArchitectureError::Custom { place: Default::default(), layer: self.describe() })
    }

    /// Adds this layer to a summary: one line. Containers hand on to their children instead.
    ///
    /// # Errors
    /// When the layer doesn't take an input of this shape.
    fn summarize(&self, path: Path<'_>, input: Shape, summary: &mut Summary) -> Result<Shape, LayerError> {
        let output = self.output_shape(input)?;
        let mut parameters = 0;
        self.visit(Path::ROOT, &mut |_, _, tensor| parameters += tensor.len());
        summary.add(path, self.describe(), output, parameters);
        Ok(output)
    }
}

/// The point at which a derivative is taken: what the forward pass read and wrote.
pub struct At<'a, T: Scalar> {
    /// The layer's input. Not that of an [`activation`](Layer::activation): it need not have been written.
    pub x: &'a Tensor<T>,
    /// Its output. Not that of a layer whose [`forward_activated`](Layer::forward_activated) was called.
    pub y: &'a Tensor<T>,
    /// The notes of `forward`. They can be written, too: containers keep the gradients between their children here.
    pub cache: &'a mut Cache<T>,
    /// The mode of the forward pass.
    pub mode: Mode,
}

/// A boxed layer is a layer: for networks whose structure is known at run time only.
impl<T: Scalar> NamedTensors<T> for Box<dyn Layer<T>> {
    fn visit<'s>(
        &'s self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, backrule_tensor::Role, &'s Tensor<T>),
    ) {
        (**self).visit(path, visitor);
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, backrule_tensor::Role, &'s mut Tensor<T>),
    ) {
        (**self).visit_mut(path, visitor);
    }
}

impl<T: Scalar> Layer<T> for Box<dyn Layer<T>> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        (**self).output_shape(input)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        (**self).forward(x, y, cache, mode)
    }

    fn activation(&self) -> Option<fn(&mut [T])> {
        (**self).activation()
    }

    fn forward_activated(
        &self,
        x: &Tensor<T>,
        activation: fn(&mut [T]),
        y: &mut Tensor<T>,
    ) -> Result<bool, LayerError> {
        (**self).forward_activated(x, activation, y)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        (**self).backward(at, dy, dx, grads)
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn architecture(&self) -> Result<Architecture, ArchitectureError> {
        (**self).architecture()
    }

    fn summarize(&self, path: Path<'_>, input: Shape, summary: &mut Summary) -> Result<Shape, LayerError> {
        (**self).summarize(path, input, summary)
    }
}
