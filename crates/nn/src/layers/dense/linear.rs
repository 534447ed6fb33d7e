//! formula: y = x Wᵀ + b
//! rule: dx = dy W, dW = dyᵀ x, db = Σ dy
//! tape: y, or nothing in front of an activation whose rule needs y alone

use backrule_tensor::linalg::{self, Packed};
use backrule_tensor::rand::Rng;
use backrule_tensor::{
    Grad, Options, Scalar, Shape, ShapeError, Tensor, TensorError, affine_activation_into, matmul_into,
    matmul_tn_into, named_tensors,
};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Input, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::init::Init;
use crate::layer::sealed::{Affine, Epilogue, Sealed};
use crate::layer::{At, Layer};
use crate::mode::Mode;
use crate::packer::Packer;

/// A dense layer: y = x Wᵀ + b for x of shape `[.., in]`, W `[out, in]`, b `[out]`, y `[.., out]`. A size may
/// be 0: without inputs each row of y is b.
///
/// Its rule, for dy = ∂l/∂y and summed over all rows of the batch:
///
/// | derivative | formula | shape |
/// |---|---|---|
/// | ∂l/∂x | dy W | `[.., in]` |
/// | ∂l/∂W | dyᵀ x | `[out, in]` |
/// | ∂l/∂b | Σ dy | `[out]` |
///
/// A worked example ("Fully Connected Layers" of tinyml's derivation pages; its W is this one's transpose):
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Linear, Mode, Tape};
///
/// let w = Tensor::from([[0.15_f64, 0.25], [0.20, 0.30]]);
/// let layer = Linear::from_tensors(w, Some(Tensor::from([0.35, 0.45])))?;
/// let x = Tensor::from([[0.1, 0.5]]);
/// let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&layer)?, Tensor::default());
///
/// let pass = tape.forward(&layer, &x, Mode::Eval)?;
/// // 0.1·0.15 + 0.5·0.25 + 0.35, …
/// assert_eq!(format!("{:.2}", pass.output()), "[[0.49, 0.62]]");
///
/// // l = ½ Σ (y − ŷ)² with ŷ = [0.01, 0.99]: ∂l/∂y = y − ŷ
/// let dy = Tensor::from([[0.48, -0.37]]);
/// pass.backward_to_input(&dy, &mut grads, &mut dx)?;
/// // 0.48·0.1, 0.48·0.5, …
/// assert_eq!(format!("{:.3}", grads[0]), "[[ 0.048,  0.240],\n [-0.037, -0.185]]");
/// assert_eq!(grads[1], Tensor::from([0.48, -0.37]));
/// assert_eq!(format!("{dx:.3}"), "[[-0.002,  0.009]]"); // 0.48·0.15 − 0.37·0.20, …
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Linear<T: Scalar = f32> {
    weight: Tensor<T>,
    bias: Option<Tensor<T>>,
    packed: Option<Box<Packed<T>>>,
}

impl<T: Scalar> Linear<T> {
    /// A layer whose weights and biases start uniformly within ±1/√in. [`LinearConfig`] has the other
    /// choices.
    ///
    /// # Errors
    /// When there can be no matrix of this size, or there is no memory.
    pub fn new(
        in_features: usize,
        out_features: usize,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Self, TensorError> {
        LinearConfig::new(in_features, out_features).build(rng)
    }

    /// A layer of zeros: to be restored from a file.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn zeros(in_features: usize, out_features: usize) -> Result<Self, TensorError> {
        let weight = Tensor::zeros([out_features, in_features])?;
        Ok(Self { weight, bias: Some(Tensor::zeros([out_features])?), packed: None })
    }

    /// A layer with these weights `[out, in]` and biases `[out]`.
    ///
    /// # Errors
    /// When the shapes don't fit.
    pub fn from_tensors(weight: Tensor<T>, bias: Option<Tensor<T>>) -> Result<Self, ShapeError> {
        let [out_features, _] = matrix(weight.shape())?;
        match &bias {
            Some(bias) if bias.shape() != [out_features] => {
                let expected = format_args!("[{out_features}]");
                Err(ShapeError::new("linear bias", expected, bias.shape()))
            }
            _ => Ok(Self { weight, bias, packed: None }),
        }
    }

    /// W, of shape `[out, in]`.
    pub fn weight(&self) -> &Tensor<T> {
        &self.weight
    }

    /// b, of shape `[out]`.
    pub fn bias(&self) -> Option<&Tensor<T>> {
        self.bias.as_ref()
    }

    fn affine_into(
        &self,
        x: &Tensor<T>,
        epilogue: Option<linalg::Epilogue<'_, T>>,
        y: &mut Tensor<T>,
    ) -> Result<(), LayerError> {
        y.resize(self.output_shape(x.shape())?)?;
        if let Some(packed) = &self.packed {
            let w = self.weight.mat().with_packed(Some(packed))?;
            let b = self.bias.as_ref().map(Tensor::as_slice);
            return Ok(linalg::affine(x.mat(), w, b, epilogue, y.mat_mut())?);
        }
        Ok(affine_activation_into(x, &self.weight, self.bias.as_ref(), epilogue, y)?)
    }
}

fn matrix(shape: Shape) -> Result<[usize; 2], ShapeError> {
    (shape[..].try_into()).map_err(|_| ShapeError::new("linear weight", "[_, _]", shape))
}

named_tensors!(Linear { weight, bias } forgets { packed });

impl<T: Scalar> Layer<T> for Linear<T> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        let [out_features, in_features] = matrix(self.weight.shape())?;
        if input.rank() == 0 || input.columns() != in_features {
            let of_sample =
                input.iter().skip(1).fold(1, |product: usize, &size| product.saturating_mul(size));
            let hint = if of_sample == in_features { " (`Flatten` gives that)" } else { "" };
            let expected = format_args!("[.., {in_features}]{hint}");
            return Err(ShapeError::new("linear forward", expected, input).into());
        }
        Ok(input.with_columns(out_features)?)
    }

    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        self.affine_into(x, None, y)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        self.backward_from(at.x, at.cache, dy, dx, grads)
    }

    fn options(&self) -> Options {
        let shape = self.weight.shape();
        Options::new()
            .with("in_features", shape.columns())
            .with("out_features", shape.rows())
            .with("bias", self.bias.is_some())
    }

    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        self.packed = Some(Box::new(packer.pack(self.weight.mat())?));
        Ok(())
    }

    fn affine(&self, _: Sealed) -> Option<&dyn Affine<T>> {
        Some(self)
    }
}

impl<T: Scalar> Affine<T> for Linear<T> {
    fn forward_then(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        _: &mut Cache<T>,
        epilogue: &dyn Epilogue<T>,
    ) -> Result<(), LayerError> {
        let apply = |y: &mut [T]| epilogue.apply(y);
        self.affine_into(x, Some(linalg::Epilogue::new(&apply)), y)
    }

    fn backward_from(
        &self,
        x: &Tensor<T>,
        _: &mut Cache<T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let (dw, db) = match (grads, &self.bias) {
            ([dw], None) => (dw, None),
            ([dw, db], Some(_)) => (dw, Some(db)),
            (grads, bias) => {
                let expected = 1 + usize::from(bias.is_some());
                return Err(LayerError::count("linear gradients", expected, grads.len()));
            }
        };
        dw.accumulate(|beta, dw| matmul_tn_into(dy, x, beta, dw))?;
        if let Some(db) = db {
            db.add_to(|db| db.add_sum_of_rows(dy))?;
        }
        if let Some(dx) = dx {
            dx.resize(x.shape())?;
            matmul_into(dy, &self.weight, T::ZERO, dx)?;
        }
        Ok(())
    }
}

impl<T: Scalar> Builtin<T> for Linear<T> {
    const KIND: &'static str = "Linear";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let (in_features, out_features) = (from.whole("in_features")?, from.whole("out_features")?);
        let bias = from.flag("bias")?;
        let weight = from.zeros([out_features, in_features])?;
        let bias = if bias { Some(from.zeros([out_features])?) } else { None };
        Ok(Self { weight, bias, packed: None })
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        let of = |name, shape: &[usize], out_features, bias| {
            let in_features = shape.last().copied().unwrap_or_default();
            let config = LinearConfig::new(in_features, out_features).bias(bias);
            let layer: Self = config.build(&mut random::rng(1)).ok()?;
            Some(Sample::new(name, layer, [Input::normal(shape)]))
        };
        let samples = [
            of("one", &[1, 1], 1, true),
            of("column", &[6, 1], 1, false),
            of("sample", &[1, 5], 3, true),
            of("small", &[4, 5], 9, true),
            of("tall", &[300, 5], 7, false),
            of("three axes", &[2, 3, 5], 3, true),
            of("tile", &[16, 20], 12, true),
            of("64x128x64", &[64, 128], 64, true).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        if case.op != "linear" {
            return None;
        }
        let bias = if case.flag("bias", true) { case.tensor("bias") } else { None };
        Self::from_tensors(case.tensor("weight")?, bias).ok().map(Oracle::new)
    }
}

/// The settings of a [`Linear`] layer.
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Init, Linear, LinearConfig};
///
/// let config = LinearConfig::new(64, 32).bias(false).weight_init(Init::HeNormal);
/// let layer: Linear = config.build(&mut random::rng(1))?;
/// assert_eq!(layer.weight().shape(), [32, 64]);
/// assert_eq!(layer.bias(), None);
/// # Ok::<(), backrule_nn::tensor::TensorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct LinearConfig {
    in_features: usize,
    out_features: usize,
    bias: bool,
    weight_init: Init,
    bias_init: Init,
}

impl LinearConfig {
    /// With bias, and everything uniformly within ±1/√in at the start.
    pub const fn new(in_features: usize, out_features: usize) -> Self {
        let (weight_init, bias_init) = (Init::FanIn, Init::FanIn);
        Self { in_features, out_features, bias: true, weight_init, bias_init }
    }

    /// Whether there is a bias. The default is that there is one.
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// How the weights start. The default is uniformly within ±1/√in.
    pub fn weight_init(mut self, init: Init) -> Self {
        self.weight_init = init;
        self
    }

    /// How the biases start. The default is uniformly within ±1/√in.
    pub fn bias_init(mut self, init: Init) -> Self {
        self.bias_init = init;
        self
    }

    /// A layer of these settings.
    ///
    /// # Errors
    /// When there can be no matrix of this size, or there is no memory.
    pub fn build<T: Scalar>(self, rng: &mut (impl Rng + ?Sized)) -> Result<Linear<T>, TensorError> {
        let Self { in_features, out_features, .. } = self;
        let shape = [out_features, in_features];
        let weight = self.weight_init.tensor(shape, in_features, out_features, rng)?;
        let bias = match self.bias {
            true => Some(self.bias_init.tensor([out_features], in_features, out_features, rng)?),
            false => None,
        };
        Ok(Linear { weight, bias, packed: None })
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::{Grads, NamedTensors, random};

    use super::*;
    use crate::architecture::Architecture;
    use crate::tape::{Tape, predict};

    #[test]
    fn starts_within_one_over_root_of_inputs() {
        let layer = Linear::<f32>::new(64, 32, &mut random::rng(1)).unwrap();
        for (path, tensor) in layer.tensors() {
            let largest = tensor.as_slice().iter().fold(0.0_f32, |a, x| a.max(x.abs()));
            assert!(largest <= 0.125 && largest > 0.1, "{path}: {largest}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let layer = Linear::<f32>::new(3, 2, &mut random::rng(1)).unwrap();
        let error = predict(&layer, &Tensor::zeros([4, 5]).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "linear forward: expected [.., 3], got [4, 5]");
        let error = predict(&layer, &Tensor::zeros([4, 1, 3, 1]).unwrap()).unwrap_err();
        let text = "linear forward: expected [.., 3] (`Flatten` gives that), got [4, 1, 3, 1]";
        assert_eq!(error.to_string(), text);
        assert!(predict(&layer, &Tensor::scalar(1.0)).is_err());
        let weight = || Tensor::<f32>::zeros([2, 3]).unwrap();
        let error = Linear::from_tensors(weight(), Some(weight())).unwrap_err();
        assert_eq!(error.to_string(), "linear bias: expected [2], got [2, 3]");
        assert!(Linear::<f32>::from_tensors(Tensor::from([1.0]), None).is_err());
        assert!(Linear::<f32>::new(usize::MAX, 2, &mut random::rng(1)).is_err());
    }

    /// Of another matrix, to see that it is read.
    #[test]
    fn a_packed_weight_is_read() {
        let mut layer = Linear::<f32>::zeros(9, 33).unwrap();
        layer.packed = Some(Box::new(Packed::of(Tensor::full([33, 9], 1.0).unwrap().mat()).unwrap()));
        let y = predict(&layer, &Tensor::full([5, 9], 1.0).unwrap()).unwrap();
        assert_eq!(y, Tensor::full([5, 33], 9.0).unwrap());
    }

    /// Tensors without elements, and the results from them: 0 for a sum of nothing.
    #[test]
    fn a_batch_may_be_empty_and_so_may_an_axis() {
        for (batch, inputs, outputs) in [(0, 3, 2), (4, 0, 2), (4, 3, 0), (4, 0, 0), (0, 0, 0)] {
            let layer = Linear::<f32>::new(inputs, outputs, &mut random::rng(1)).unwrap();
            let x = Tensor::full([batch, inputs], 1.0).unwrap();
            let (mut tape, mut grads, mut dx) =
                (Tape::new(), Grads::new(&layer).unwrap(), Tensor::full([1], 7.0).unwrap());
            let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
            assert_eq!(pass.output().shape(), [batch, outputs]);
            let dy = Tensor::full([batch, outputs], 1.0).unwrap();
            pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
            assert_eq!(dx.shape(), [batch, inputs]);
            assert_eq!(grads[1], Tensor::full([outputs], batch as f32).unwrap());
            if outputs == 0 {
                assert!(dx.as_slice().iter().all(|&dx| dx == 0.0));
            }
        }
    }

    #[test]
    fn an_axis_without_values_is_bounded_in_a_file() {
        let built = |inputs, outputs| {
            let config = LinearConfig::new(inputs, outputs).bias(false);
            let layer: Linear = config.build(&mut random::rng(1)).unwrap();
            Architecture::of(&layer).unwrap().build::<f32>(0).map(|_| ())
        };
        for (inputs, outputs) in [(3, 0), (0, 0), (0, 1 << 12)] {
            assert!(built(inputs, outputs).is_ok(), "{inputs} to {outputs}");
        }
        for (inputs, outputs) in [(0, (1 << 12) + 1), (1 << 40, 0)] {
            let error = built(inputs, outputs).unwrap_err();
            assert!(matches!(error, ArchitectureError::TooLarge { most: 0, .. }), "{error}");
        }
    }
}
