//! formula: y = w (x − μ) / √(v + eps) + b, by sample
//! rule: through μ and v
//! tape: y, and mean and deviation of each sample

use backrule_tensor::kernels::norm::{self, Normal};
use backrule_tensor::{
    ConfigError, Grad, IntoShape, Options, Scalar, Shape, ShapeError, Tensor, named_tensors,
};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Input, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::sealed::Sealed;
use crate::layer::{At, Layer};
use crate::mode::Mode;

/// A layer norm (J. L. Ba et al., 2016): the elements of each sample get the mean 0 and the variance 1, and
/// then weights and biases. The normalized axes are one or more of the last ones: `[.., features]` or
/// `[.., channels, height, width]`.
///
/// With the mean μ and the variance v = Σ (x − μ)² / m of such m elements, x̂ = (x − μ) / √(v + eps)
/// and y = w x̂ + b. The weights w and biases b have the shape of the normalized axes.
///
/// Its rule, for dy = ∂l/∂y, g = w dy and means over the m elements:
///
/// | derivative | formula | shape |
/// |---|---|---|
/// | ∂l/∂x | (g − mean of g − x̂ · mean of g x̂) / √(v + eps) | x's |
/// | ∂l/∂w | Σ dy x̂ over all else | the normalized axes' |
/// | ∂l/∂b | Σ dy over all else | the normalized axes' |
///
/// The mode makes no difference: no sample depends on another.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, LayerNorm, Mode, Tape};
///
/// let w = Tensor::from([1.0_f64, 1.0, 1.0, 2.0]);
/// let b = Tensor::from([0.0, 0.0, 0.0, 10.0]);
/// let layer = LayerNorm::from_tensors(w, b, 0.0)?;
/// let x = Tensor::from([[1.0, 1.0, 3.0, 3.0]]);
/// let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&layer)?, Tensor::default());
///
/// let pass = tape.forward(&layer, &x, Mode::train())?;
/// // Mean 2, variance 1, so x̂ = x − 2.
/// assert_eq!(pass.output(), &Tensor::from([[-1.0, -1.0, 1.0, 12.0]]));
///
/// // g = [1, 0, 0, 4] with the mean 5/4, and g x̂ = [−1, 0, 0, 4] with the mean 3/4
/// pass.backward_to_input(&Tensor::from([[1.0, 0.0, 0.0, 2.0]]), &mut grads, &mut dx)?;
/// // 1 − 5/4 + 3/4, 0 − 5/4 + 3/4, 0 − 5/4 − 3/4, …
/// assert_eq!(dx, Tensor::from([[0.5, -0.5, -2.0, 2.0]]));
/// assert_eq!(grads[0], Tensor::from([-1.0, 0.0, 0.0, 2.0])); // dy x̂
/// assert_eq!(grads[1], Tensor::from([1.0, 0.0, 0.0, 2.0])); // dy
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm<T: Scalar = f32> {
    weight: Option<Tensor<T>>,
    bias: Option<Tensor<T>>,
    shape: Shape,
    eps: f64,
}

impl<T: Scalar> LayerNorm<T> {
    /// Over the last axes of these sizes, with an eps of 1e-5, weights of 1 and biases of 0.
    /// [`LayerNormConfig`] has the other choices.
    ///
    /// # Errors
    /// When there are no axes, one has the size 0, or there is no memory.
    pub fn new(shape: impl IntoShape) -> Result<Self, ArchitectureError> {
        LayerNormConfig::new(shape).build()
    }

    /// With these weights and biases, over as many of the last axes as they have.
    ///
    /// # Errors
    /// When their shapes differ, have no axes or an axis of size 0, or eps isn't a finite number from 0 up.
    pub fn from_tensors(weight: Tensor<T>, bias: Tensor<T>, eps: f64) -> Result<Self, ArchitectureError> {
        let shape = checked(weight.shape(), eps)?;
        if bias.shape() != shape {
            return Err(ShapeError::new("layer norm bias", shape, bias.shape()).into());
        }
        Ok(Self { weight: Some(weight), bias: Some(bias), shape, eps })
    }

    /// The sizes of the axes that are normalized together.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// w, if there are weights.
    pub fn weight(&self) -> Option<&Tensor<T>> {
        self.weight.as_ref()
    }

    /// b, if there are biases.
    pub fn bias(&self) -> Option<&Tensor<T>> {
        self.bias.as_ref()
    }

    /// The number added to the variance, so its root isn't 0.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// The number of groups of elements in x.
    fn rows(&self, x: Shape) -> Result<usize, LayerError> {
        if !x.ends_with(&self.shape) {
            let sizes = self.shape.iter().map(|size| format!(", {size}")).collect::<String>();
            return Err(ShapeError::new("layer norm forward", format_args!("[..{sizes}]"), x).into());
        }
        for tensor in [&self.weight, &self.bias].into_iter().flatten() {
            if tensor.shape() != self.shape {
                return Err(ShapeError::new("layer norm forward", self.shape, tensor.shape()).into());
            }
        }
        Ok(x.elements() / self.shape.elements())
    }
}

/// The shape, if something can be normalized over it.
fn checked(shape: Shape, eps: f64) -> Result<Shape, ConfigError> {
    if shape.is_empty() || shape.contains(&0) {
        return Err(ConfigError::new("LayerNorm", "shape", "one axis or more, of at least 1", shape));
    }
    ConfigError::not_negative("LayerNorm", "eps", eps)?;
    Ok(shape)
}

/// All elements, or none where there is no tensor.
fn slice_of<T: Scalar>(tensor: Option<&Tensor<T>>) -> &[T] {
    tensor.map_or(&[], Tensor::as_slice)
}

named_tensors!(LayerNorm { weight, bias });

impl<T: Scalar> Layer<T> for LayerNorm<T> {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        self.rows(x).map(|_| x)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        let groups = Shape::new(&[self.rows(x.shape())?])?;
        let [mean, rest, scale] = cache.tensors();
        for tensor in [&mut *mean, &mut *rest, &mut *scale] {
            tensor.resize(groups)?;
        }
        y.resize(x.shape())?;
        let normal =
            Normal { mean: mean.as_mut_slice(), rest: rest.as_mut_slice(), scale: scale.as_mut_slice() };
        let affine = [slice_of(self.weight()), slice_of(self.bias())];
        let columns = self.shape.elements();
        norm::layer_forward(x.as_slice(), columns, self.eps, affine, normal, y.as_mut_slice());
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let (columns, rows) = (self.shape.elements(), self.rows(at.x.shape())?);
        let [mean, rest, scale] = at.cache.tensors();
        if dy.shape() != at.x.shape() || scale.shape() != [rows] {
            return Err(ShapeError::new("layer norm backward", at.x.shape(), dy.shape()).into());
        }
        let normal = Normal { mean: mean.as_slice(), rest: rest.as_slice(), scale: scale.as_slice() };
        let (x, dy) = (at.x.as_slice(), dy.as_slice());
        let add = |dw: Option<&mut Tensor<T>>, db: Option<&mut Tensor<T>>| {
            let (dw, db) = (dw.map(Tensor::as_mut_slice), db.map(Tensor::as_mut_slice));
            norm::add_layer_sums(x, dy, columns, normal, dw, db);
            Ok::<_, LayerError>(())
        };
        match (grads, &self.weight) {
            ([], None) => {}
            // Both come of one pass over x and dy.
            ([dw, db], Some(_)) if dw.is_wanted() && db.is_wanted() => {
                dw.add_to(|dw| db.add_to(|db| add(Some(dw), Some(db))))?;
            }
            ([dw, db], Some(_)) => {
                dw.add_to(|dw| add(Some(dw), None))?;
                db.add_to(|db| add(None, Some(db)))?;
            }
            (grads, weight) => {
                let expected = if weight.is_some() { 2 } else { 0 };
                return Err(LayerError::count("layer norm gradients", expected, grads.len()));
            }
        }
        if let Some(dx) = dx {
            dx.resize(at.x.shape())?;
            norm::layer_backward(x, dy, columns, slice_of(self.weight()), normal, dx.as_mut_slice());
        }
        Ok(())
    }

    fn options(&self) -> Options {
        Options::new()
            .with("shape", self.shape.to_vec())
            .with("eps", self.eps)
            .with("affine", self.weight.is_some())
    }

    fn defaults(&self, _: Sealed) -> Options {
        let LayerNormConfig { eps, affine, .. } = LayerNormConfig::new([1]);
        Options::new().with("eps", eps).with("affine", affine)
    }
}

impl<T: Scalar> Builtin<T> for LayerNorm<T> {
    const KIND: &'static str = "LayerNorm";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let (sizes, eps, affine) = (from.sizes("shape")?, from.number("eps")?, from.flag("affine")?);
        let shape = checked(Shape::new(&sizes)?, eps)?;
        let (weight, bias) = match affine {
            true => (Some(from.zeros(shape)?), Some(from.zeros(shape)?)),
            false => (None, None),
        };
        Ok(Self { weight, bias, shape, eps })
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        let of = |name, x: &[usize], axes: usize, eps, affine| {
            let shape = &x[x.len() - axes..];
            let tensor = |seed| Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).ok();
            let layer: Self = match affine {
                true => Self::from_tensors(tensor(1)?, tensor(2)?, eps).ok()?,
                false => LayerNormConfig::new(shape).eps(eps).affine(false).build().ok()?,
            };
            Some(Sample::new(name, layer, [Input::normal(x)]))
        };
        let samples = [
            of("one", &[1, 1], 1, 1e-5, true),
            of("sample", &[1, 7], 1, 1e-5, true),
            of("small", &[3, 5], 1, 1e-5, false),
            of("tall", &[50, 3], 1, 1e-2, true),
            of("above a tile", &[3, 33], 1, 1e-5, true),
            of("two axes", &[2, 3, 5], 2, 1e-3, true),
            of("images", &[2, 3, 2, 5], 3, 1e-5, true),
            of("64x256", &[64, 256], 1, 1e-5, true).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "layer_norm").then_some(())?;
        let (axes, eps) = (case.whole("axes", 1), case.number("eps", 1e-5));
        if case.flag("affine", true) {
            let layer = Self::from_tensors(case.tensor("weight")?, case.tensor("bias")?, eps);
            return layer.ok().map(Oracle::new);
        }
        let x = case.tensor("input")?.shape();
        let shape = x.get(x.rank().checked_sub(axes)?..)?;
        LayerNormConfig::new(shape).eps(eps).affine(false).build::<T>().ok().map(Oracle::new)
    }
}

/// The settings of a [`LayerNorm`].
///
/// ```
/// use backrule_nn::{LayerNorm, LayerNormConfig};
///
/// let layer: LayerNorm = LayerNormConfig::new([3, 8, 8]).eps(1e-6).affine(false).build()?;
/// assert_eq!(layer.shape(), [3, 8, 8]);
/// assert_eq!(layer.weight(), None);
/// # Ok::<(), backrule_nn::ArchitectureError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct LayerNormConfig {
    /// An impossible shape is an error of `build`.
    shape: Result<Shape, ShapeError>,
    eps: f64,
    affine: bool,
}

impl LayerNormConfig {
    /// Over the last axes of these sizes, with weights, biases and an eps of 1e-5.
    pub fn new(shape: impl IntoShape) -> Self {
        Self { shape: shape.into_shape(), eps: 1e-5, affine: true }
    }

    /// The number added to the variance. The default is 1e-5.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Whether there are weights and biases. The default is that there are.
    pub fn affine(mut self, affine: bool) -> Self {
        self.affine = affine;
        self
    }

    /// A layer of these settings, with weights of 1 and biases of 0.
    ///
    /// # Errors
    /// When there are no axes, one has the size 0, eps isn't a finite number from 0 up, or there is no
    /// memory.
    pub fn build<T: Scalar>(self) -> Result<LayerNorm<T>, ArchitectureError> {
        let shape = checked(self.shape?, self.eps)?;
        let (weight, bias) = match self.affine {
            true => (Some(Tensor::full(shape, T::ONE)?), Some(Tensor::zeros(shape)?)),
            false => (None, None),
        };
        Ok(LayerNorm { weight, bias, shape, eps: self.eps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::predict;

    #[test]
    fn what_cannot_be_is_refused() {
        let error = |layer: Result<LayerNorm, ArchitectureError>| layer.unwrap_err().to_string();
        let text = "LayerNorm: shape: expected one axis or more, of at least 1, got ";
        assert_eq!(error(LayerNorm::new([3, 0])), format!("{text}[3, 0]"));
        assert_eq!(
            error(LayerNorm::from_tensors(Tensor::scalar(1.0), Tensor::scalar(1.0), 0.0)),
            format!("{text}[]")
        );
        assert!(error(LayerNorm::new([usize::MAX, 2])).starts_with("shape: expected at most"));
        for eps in [-1e-5, f64::NAN, f64::INFINITY] {
            let text = format!("LayerNorm: eps: expected a finite number from 0 up, got {eps}");
            assert_eq!(error(LayerNormConfig::new([2]).eps(eps).build()), text);
        }
        let (weight, bias) = (Tensor::from([1.0, 2.0]), Tensor::from([1.0]));
        let text = "layer norm bias: expected [2], got [1]";
        assert_eq!(error(LayerNorm::from_tensors(weight, bias, 0.0)), text);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let mut layer = LayerNorm::<f32>::new([3, 4]).unwrap();
        for shape in [&[4, 3][..], &[4], &[2, 3, 4, 1]] {
            let error = predict(&layer, &Tensor::zeros(shape).unwrap()).unwrap_err();
            let text = format!("layer norm forward: expected [.., 3, 4], got {shape:?}");
            assert_eq!(error.to_string(), text);
        }
        assert_eq!(predict(&layer, &Tensor::zeros([0, 3, 4]).unwrap()).unwrap().shape(), [0, 3, 4]);
        layer.bias = Some(Tensor::from([1.0]));
        assert!(predict(&layer, &Tensor::zeros([3, 4]).unwrap()).is_err());
    }

    /// In f32 the mean of such numbers has no room for its last digits.
    #[test]
    fn far_from_zero_deviations_are_exact() {
        let layer = LayerNormConfig::new([4]).eps(0.0).affine(false).build().unwrap();
        let x = Tensor::from([[16_000_000.0_f32, 16_000_001.0, 16_000_002.0, 16_000_007.0]]);
        let near = x.as_slice().iter().map(|x| x - 16_000_000.0).collect();
        let near = Tensor::from_vec([1, 4], near).unwrap();
        assert_eq!(predict(&layer, &x).unwrap(), predict(&layer, &near).unwrap());
    }

    /// A frozen weight leaves the bias alone, and the other way round.
    #[test]
    fn either_gradient_comes_without_the_other() {
        use crate::tape::Tape;
        use backrule_tensor::Grads;

        let layer = LayerNorm::<f64>::new([3]).unwrap();
        let x = Tensor::from([[1.0, 2.0, 4.0], [0.0, 5.0, 1.0]]);
        let run = |unwanted: Option<usize>| {
            let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
            if let Some(unwanted) = unwanted {
                grads[unwanted].set_wanted(false);
            }
            let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
            pass.backward(&x, &mut grads).unwrap();
            [0, 1].map(|k| grads[k].get().cloned())
        };
        let [dw, db] = run(None);
        assert_eq!(run(Some(0)), [None, db]);
        assert_eq!(run(Some(1)), [dw, None]);
    }
}
