//! formula: y = w (x − μ) / √(v + eps) + b, by channel
//! rule: through μ and v while training
//! tape: y, and mean and deviation of each channel

use backrule_tensor::kernels::norm::{Channels, Normal};
use backrule_tensor::{
    ConfigError, Grad, OptionValue, Options, Scalar, Shape, ShapeError, Tensor, named_tensors,
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

/// A batch norm (S. Ioffe and C. Szegedy, 2015) of `[batch, channels]`, `[batch, channels, time]` or
/// `[batch, channels, height, width]`: the elements of each channel get the mean 0 and the variance 1, and
/// then a weight and a bias.
///
/// With x̂ = (x − μ) / √(v + eps), y = w x̂ + b. In training μ and v = Σ (x − μ)² / m are mean and variance
/// of the channel's m elements in this batch. In evaluation they are the running mean and variance.
///
/// Its rule, for dy = ∂l/∂y and means over the m elements of a channel:
///
/// | derivative | in training | in evaluation | shape |
/// |---|---|---|---|
/// | ∂l/∂x | w (dy − mean of dy − x̂ · mean of dy x̂) / √(v + eps) | w dy / √(v + eps) | x's |
/// | ∂l/∂w | Σ dy x̂ | the same | `[channels]` |
/// | ∂l/∂b | Σ dy | the same | `[channels]` |
///
/// **The running statistics are buffers.** In training backward gives them increments, and the optimizer's
/// step moves them:
///
/// | buffer | increment | shape |
/// |---|---|---|
/// | `running_mean` | momentum · (μ − running mean) | `[channels]` |
/// | `running_var` | momentum · (v m / (m − 1) − running variance) | `[channels]` |
/// | `num_batches_tracked` | 1 | `[]` |
///
/// The running variance is one of v m / (m − 1), which has no bias. With a cumulative average the momentum is
/// 1 / k, where k − 1 is `num_batches_tracked`, so they are means over all steps; the count is saved with
/// them.
///
/// Differences from PyTorch: a forward pass alone moves nothing, and k passes before a step move the
/// statistics once, by the mean of their increments, and count as one batch. A batch in
/// [parts](crate::Tape::parts) is normalized part by part. Frozen statistics stay.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{BatchNorm, BatchNormConfig, Grads, Mode, Tape};
///
/// let (w, b) = (Tensor::from([2.0_f64]), Tensor::from([10.0]));
/// let config = BatchNormConfig::new(1).eps(0.0);
/// let layer = BatchNorm::from_tensors(config, Some([w, b]), None)?;
/// let x = Tensor::from([[1.0], [1.0], [3.0], [3.0]]);
/// let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&layer)?, Tensor::default());
///
/// let pass = tape.forward(&layer, &x, Mode::train())?;
/// // Mean 2, variance 1.
/// assert_eq!(pass.output(), &Tensor::from([[8.0], [8.0], [12.0], [12.0]]));
///
/// // The mean of dy is 5/4, that of dy x̂ = [−1, 0, 0, 4] is 3/4.
/// pass.backward_to_input(&Tensor::from([[1.0], [0.0], [0.0], [4.0]]), &mut grads, &mut dx)?;
/// // 2 (1 − 5/4 + 3/4), 2 (0 − 5/4 + 3/4), …
/// assert_eq!(dx, Tensor::from([[1.0], [-1.0], [-4.0], [4.0]]));
/// assert_eq!(grads[0], Tensor::from([3.0])); // −1 + 4
/// assert_eq!(grads[1], Tensor::from([5.0])); // 1 + 4
/// assert_eq!(grads[2], Tensor::from([0.1 * 2.0])); // from the running mean 0 to the batch's
/// // 0.1 (4/3 − 1): the variance of 4 elements, ÷ 3
/// assert_eq!(format!("{:.4}", grads[3]), "[0.0333]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNorm<T: Scalar = f32> {
    weight: Option<Tensor<T>>,
    bias: Option<Tensor<T>>,
    running_mean: Tensor<T>,
    running_var: Tensor<T>,
    num_batches_tracked: Tensor<T>,
    eps: f64,
    /// Below 0: 1 / k. An option would take as much again.
    momentum: f64,
}

impl<T: Scalar> BatchNorm<T> {
    /// Of so many channels, with a momentum of 0.1, an eps of 1e-5, weights of 1 and biases of 0.
    /// [`BatchNormConfig`] has the other choices.
    ///
    /// # Errors
    /// When there are no channels, or there is no memory.
    pub fn new(channels: usize) -> Result<Self, ArchitectureError> {
        BatchNormConfig::new(channels).build()
    }

    /// A layer of these settings with these weights and biases, and with this running mean and variance
    /// instead of 0 and 1. All have the shape `[channels]`.
    ///
    /// # Errors
    /// When the settings can't be, or the shapes don't fit them.
    pub fn from_tensors(
        config: BatchNormConfig,
        affine: Option<[Tensor<T>; 2]>,
        running: Option<[Tensor<T>; 2]>,
    ) -> Result<Self, ArchitectureError> {
        let mut layer: Self = config.affine(false).build()?;
        if let Some([weight, bias]) = affine {
            (layer.weight, layer.bias) = (Some(weight), Some(bias));
        }
        if let Some([mean, var]) = running {
            (layer.running_mean, layer.running_var) = (mean, var);
        }
        layer.expect_own_shapes(config.channels)?;
        Ok(layer)
    }

    /// w, of shape `[channels]`, if there are weights.
    pub fn weight(&self) -> Option<&Tensor<T>> {
        self.weight.as_ref()
    }

    /// b, of shape `[channels]`, if there are biases.
    pub fn bias(&self) -> Option<&Tensor<T>> {
        self.bias.as_ref()
    }

    /// μ in evaluation, of shape `[channels]`.
    pub fn running_mean(&self) -> &Tensor<T> {
        &self.running_mean
    }

    /// v in evaluation, of shape `[channels]`.
    pub fn running_var(&self) -> &Tensor<T> {
        &self.running_var
    }

    /// How many times a step has moved the running statistics. In f32 it counts to 2²⁴.
    pub fn num_batches_tracked(&self) -> u64 {
        let count = self.num_batches_tracked.as_slice().first().map_or(0.0, |count| count.to_f64());
        // The parts of a batch have weights whose sum is 1 but for a rounding error. NaN and negative numbers
        // are 0.
        count.round() as u64
    }

    /// The settings.
    pub fn config(&self) -> BatchNormConfig {
        let momentum = Some(self.momentum).filter(|momentum| *momentum >= 0.0);
        BatchNormConfig { channels: self.channels(), eps: self.eps, momentum, affine: self.weight.is_some() }
    }

    fn channels(&self) -> usize {
        self.running_mean.len()
    }

    /// Tensors that somebody gave another shape make the layer refuse to work.
    fn expect_own_shapes(&self, channels: usize) -> Result<(), ShapeError> {
        let running =
            [("batch norm running_mean", &self.running_mean), ("batch norm running_var", &self.running_var)];
        let affine = [("batch norm weight", &self.weight), ("batch norm bias", &self.bias)];
        let affine = affine.into_iter().filter_map(|(name, tensor)| Some((name, tensor.as_ref()?)));
        for (name, tensor) in affine.chain(running) {
            if tensor.shape() != [channels] {
                return Err(ShapeError::new(name, format_args!("[{channels}]"), tensor.shape()));
            }
        }
        Ok(())
    }

    fn sizes(&self, x: Shape) -> Result<Channels, LayerError> {
        let channels = self.channels();
        self.expect_own_shapes(channels)?;
        match x[..] {
            [samples, second, ref plane @ ..] if second == channels && plane.len() <= 2 => {
                Ok(Channels { samples, channels, plane: plane.iter().product() })
            }
            _ => {
                let expected = format_args!("[_, {channels}], [_, {channels}, _] or [_, {channels}, _, _]");
                Err(ShapeError::new("batch norm forward", expected, x).into())
            }
        }
    }

    /// The momentum of the next step.
    fn momentum(&self) -> f64 {
        self.config().momentum.unwrap_or_else(|| 1.0 / (self.num_batches_tracked() as f64 + 1.0))
    }

    /// All elements, or none where there are no weights and biases.
    fn affine(&self) -> [&[T]; 2] {
        [&self.weight, &self.bias].map(|tensor| tensor.as_ref().map_or(&[][..], Tensor::as_slice))
    }
}

named_tensors!(BatchNorm { weight, bias } buffers { running_mean, running_var, num_batches_tracked });

impl<T: Scalar> Layer<T> for BatchNorm<T> {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        self.sizes(x).map(|_| x)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        let (sizes, eps) = (self.sizes(x.shape())?, self.eps);
        if mode.is_train() && sizes.group() < 2 {
            let expected = "two elements or more of each channel in training";
            let got = format_args!("{} in {}", sizes.group(), x.shape());
            return Err(LayerError::value("batch norm forward", expected, got));
        }
        let [mean, rest, scale, variance] = cache.tensors();
        for tensor in [&mut *mean, &mut *rest, &mut *scale, &mut *variance] {
            tensor.resize(self.running_mean.shape())?;
        }
        y.resize(x.shape())?;
        if mode.is_train() {
            let [mean, rest, scale] = [&mut *mean, &mut *rest, &mut *scale].map(Tensor::as_mut_slice);
            sizes.moments(x.as_slice(), eps, Normal { mean, rest, scale }, variance.as_mut_slice());
        } else {
            mean.copy_from(&self.running_mean)?;
            rest.fill(T::ZERO);
            scale.map_from(&self.running_var, |v| T::from_f64(1.0 / (v.to_f64() + eps).sqrt()))?;
        }
        let normal = Normal { mean: mean.as_slice(), rest: rest.as_slice(), scale: scale.as_slice() };
        sizes.forward(x.as_slice(), normal, self.affine(), y.as_mut_slice());
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let sizes = self.sizes(at.x.shape())?;
        let [mean, rest, scale, variance, sum_x, sum] = at.cache.tensors();
        let channels = self.running_mean.shape();
        if dy.shape() != at.x.shape() || scale.shape() != channels {
            return Err(ShapeError::new("batch norm backward", at.x.shape(), dy.shape()).into());
        }
        let (affine, buffers) = match grads {
            [dw, db, buffers @ ..] if self.weight.is_some() => (Some((dw, db)), buffers),
            buffers => (None, buffers),
        };
        let [running_mean, running_var, count] = buffers else {
            let expected = if self.weight.is_some() { 5 } else { 3 };
            let got = buffers.len() + if affine.is_some() { 2 } else { 0 };
            return Err(LayerError::count("batch norm gradients", expected, got));
        };
        let normal = Normal { mean: mean.as_slice(), rest: rest.as_slice(), scale: scale.as_slice() };
        let (x, dy, train) = (at.x.as_slice(), dy.as_slice(), at.mode.is_train());
        // Where the statistics are x's own, ∂l/∂x needs both sums.
        let both = train && dx.is_some();
        let wanted = affine.as_ref().map_or([false; 2], |(dw, db)| [dw.is_wanted(), db.is_wanted()]);
        let [has_dw, has_db] = wanted.map(|wanted| both || wanted);
        if has_dw {
            sum_x.resize(channels)?;
        }
        if has_db {
            sum.resize(channels)?;
        }
        let (dw, db) = (has_dw.then(|| sum_x.as_mut_slice()), has_db.then(|| sum.as_mut_slice()));
        sizes.sums(x, dy, normal, dw, db);
        if let Some((dw, db)) = affine {
            dw.add_to(|dw| dw.add(sum_x))?;
            db.add_to(|db| db.add(sum))?;
        }
        if train {
            let (momentum, m) = (self.momentum(), sizes.group() as f64);
            running_mean.increment(|delta| {
                let means = normal.mean.iter().zip(normal.rest);
                let means = means.map(|(mean, rest)| mean.to_f64() + rest.to_f64());
                move_towards(means, &self.running_mean, momentum, delta)
            })?;
            running_var.increment(|delta| {
                let variances = variance.as_slice().iter().map(|v| v.to_f64() * m / (m - 1.0));
                move_towards(variances, &self.running_var, momentum, delta)
            })?;
            count.increment(|count| {
                count.apply(|count| count + T::ONE);
                Ok::<_, LayerError>(())
            })?;
        }
        if let Some(dx) = dx {
            dx.resize(at.x.shape())?;
            let [weight, _] = self.affine();
            let sums = train.then_some([sum_x.as_slice(), sum.as_slice()]);
            sizes.backward(x, dy, normal, weight, sums, dx.as_mut_slice());
        }
        Ok(())
    }

    fn options(&self) -> Options {
        let BatchNormConfig { channels, eps, momentum, affine } = self.config();
        let momentum = momentum.map_or(OptionValue::from(CUMULATIVE), OptionValue::from);
        Options::new()
            .with("channels", channels)
            .with("eps", eps)
            .with("momentum", momentum)
            .with("affine", affine)
    }

    fn defaults(&self, _: Sealed) -> Options {
        let BatchNormConfig { eps, momentum, affine, .. } = BatchNormConfig::new(1);
        let momentum = momentum.map_or(OptionValue::from(CUMULATIVE), OptionValue::from);
        Options::new().with("eps", eps).with("momentum", momentum).with("affine", affine)
    }
}

/// The momentum of a cumulative average in files.
const CUMULATIVE: &str = "cumulative";

fn momentum_is_word(options: &Options) -> bool {
    options.iter().any(|(name, value)| name == "momentum" && matches!(value, OptionValue::Word(_)))
}

/// Adds momentum · (of the batch − running) to an increment.
fn move_towards<T: Scalar>(
    of_batch: impl Iterator<Item = f64>,
    running: &Tensor<T>,
    momentum: f64,
    delta: &mut Tensor<T>,
) -> Result<(), LayerError> {
    for ((delta, running), of_batch) in delta.as_mut_slice().iter_mut().zip(running.as_slice()).zip(of_batch)
    {
        *delta += T::from_f64(momentum * (of_batch - running.to_f64()));
    }
    Ok(())
}

impl<T: Scalar> Builtin<T> for BatchNorm<T> {
    const KIND: &'static str = "BatchNorm";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let config = BatchNormConfig::new(from.size("channels")?).eps(from.number("eps")?);
        let is_cumulative = momentum_is_word(&from.options);
        let config = match is_cumulative {
            false => config.momentum(from.number("momentum")?),
            true => match from.word("momentum")? {
                word if word == CUMULATIVE => config.cumulative(),
                word => {
                    let expected = "a number or \"cumulative\"";
                    return Err(ConfigError::new("BatchNorm", "momentum", expected, word).into());
                }
            },
        };
        let config = config.affine(from.flag("affine")?).checked()?;
        let channels = [config.channels];
        let (weight, bias) = match config.affine {
            true => (Some(from.zeros(channels)?), Some(from.zeros(channels)?)),
            false => (None, None),
        };
        let (running_mean, running_var) = (from.zeros(channels)?, from.full(channels, T::ONE)?);
        let num_batches_tracked = from.zeros([])?;
        let (eps, momentum) = (config.eps, config.momentum.unwrap_or(-1.0));
        Ok(Self { weight, bias, running_mean, running_var, num_batches_tracked, eps, momentum })
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        let of = |name, shape: &[usize], change: fn(BatchNormConfig) -> BatchNormConfig| {
            let config = change(BatchNormConfig::new(*shape.get(1)?));
            let channels = [config.channels];
            let tensor = |seed| Tensor::normal(channels, 0.0, 1.0, &mut random::rng(seed)).ok();
            let affine = if config.affine { Some([tensor(1)?, tensor(2)?]) } else { None };
            let variances = Tensor::uniform(channels, 0.5, 2.0, &mut random::rng(3)).ok()?;
            let mut layer = Self::from_tensors(config, affine, Some([tensor(4)?, variances])).ok()?;
            layer.num_batches_tracked.fill(T::from_f64(3.0));
            Some(Sample::new(name, layer, [Input::normal(shape)]).sees_the_batch())
        };
        // In three parts each has two elements of a channel or more.
        let samples = [
            of("one", &[6, 1], |config| config),
            of("features", &[7, 3], |config| config.momentum(0.3)),
            of("above a tile", &[33, 17], |config| config.cumulative()),
            of("plain", &[9, 5], |config| config.affine(false)),
            of("time", &[3, 2, 5], |config| config.eps(1e-3)),
            of("image", &[1, 2, 3, 3], |config| config.affine(false)),
            of("images", &[4, 3, 5, 2], |config| config),
            of("16x32x8x8", &[16, 32, 8, 8], |config| config).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        if case.op != "batch_norm" || case.whole("axis", 1) != 1 {
            return None;
        }
        let train = case.word("mode", "train") == "train";
        let (step, eps) = (case.whole("step", 1), case.number("eps", 1e-5));
        let config = BatchNormConfig::new(*case.tensor("input")?.shape().get(1)?).eps(eps);
        let is_cumulative = momentum_is_word(&case.options);
        let config = match is_cumulative {
            true => case.word("momentum", "").starts_with(CUMULATIVE).then(|| config.cumulative())?,
            false => config.momentum(case.number("momentum", 0.1)),
        };
        let affine = match case.flag("affine", true) {
            true => case.tensor("weight").zip(case.tensor("bias")).map(|(weight, bias)| [weight, bias]),
            false => None,
        };
        let end = if train { "_start" } else { "" };
        let running = |name: &str| case.tensor(&format!("running_{name}{end}"));
        let running = running("mean").zip(running("var")).map(|(mean, var)| [mean, var]);
        let mut layer = Self::from_tensors(config, affine, running).ok()?;
        layer.num_batches_tracked.fill(T::from_f64(step as f64 - 1.0));
        let mode = if train { Mode::train() } else { Mode::Eval };
        Some(Oracle { mode, ..Oracle::new(layer) })
    }
}

/// The settings of a [`BatchNorm`].
///
/// ```
/// use backrule_nn::{BatchNorm, BatchNormConfig};
///
/// let layer: BatchNorm = BatchNormConfig::new(16).cumulative().affine(false).build()?;
/// assert_eq!(layer.running_var().shape(), [16]);
/// assert_eq!(layer.weight(), None);
/// # Ok::<(), backrule_nn::ArchitectureError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct BatchNormConfig {
    channels: usize,
    eps: f64,
    /// None: 1 / k.
    momentum: Option<f64>,
    affine: bool,
}

impl BatchNormConfig {
    /// Of so many channels, with a momentum of 0.1, an eps of 1e-5, weights and biases.
    pub const fn new(channels: usize) -> Self {
        Self { channels, eps: 1e-5, momentum: Some(0.1), affine: true }
    }

    /// The number added to the variance. The default is 1e-5.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// How far a step moves the running statistics towards those of the batch: 0 not at all, 1 all the way.
    /// The default is 0.1.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = Some(momentum);
        self
    }

    /// The running statistics are the means of those of all steps: PyTorch's momentum of `None`.
    pub fn cumulative(mut self) -> Self {
        self.momentum = None;
        self
    }

    /// Whether there are weights and biases. The default is that there are.
    pub fn affine(mut self, affine: bool) -> Self {
        self.affine = affine;
        self
    }

    fn checked(self) -> Result<Self, ConfigError> {
        if self.channels == 0 {
            return Err(ConfigError::new("BatchNorm", "channels", "at least 1", 0));
        }
        ConfigError::not_negative("BatchNorm", "eps", self.eps)?;
        if let Some(momentum) = self.momentum {
            let is_right = (0.0..=1.0).contains(&momentum);
            ConfigError::check(is_right, "BatchNorm", "momentum", "a number from 0 to 1", momentum)?;
        }
        Ok(self)
    }

    /// A layer of these settings, with weights of 1, biases of 0, a running mean of 0 and a running variance
    /// of 1.
    ///
    /// # Errors
    /// When there are no channels, eps isn't a finite number from 0 up, the momentum isn't from 0 to 1, or
    /// there is no memory.
    pub fn build<T: Scalar>(self) -> Result<BatchNorm<T>, ArchitectureError> {
        let config = self.checked()?;
        let channels = [config.channels];
        let (weight, bias) = match config.affine {
            true => (Some(Tensor::full(channels, T::ONE)?), Some(Tensor::zeros(channels)?)),
            false => (None, None),
        };
        let (running_mean, running_var) = (Tensor::zeros(channels)?, Tensor::full(channels, T::ONE)?);
        let num_batches_tracked = Tensor::scalar(T::ZERO);
        let (eps, momentum) = (config.eps, config.momentum.unwrap_or(-1.0));
        Ok(BatchNorm { weight, bias, running_mean, running_var, num_batches_tracked, eps, momentum })
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::{Grads, NamedTensors, random};

    use super::*;
    use crate::tape::{Tape, predict};

    #[test]
    fn what_cannot_be_is_refused() {
        let error = |config: BatchNormConfig| config.build::<f32>().unwrap_err().to_string();
        let config = BatchNormConfig::new(2);
        assert_eq!(error(BatchNormConfig::new(0)), "BatchNorm: channels: expected at least 1, got 0");
        for (momentum, got) in [(-0.1, "-0.1"), (1.5, "1.5"), (f64::NAN, "NaN")] {
            let text = format!("BatchNorm: momentum: expected a number from 0 to 1, got {got}");
            assert_eq!(error(config.momentum(momentum)), text);
        }
        assert_eq!(error(config.eps(-1.0)), "BatchNorm: eps: expected a finite number from 0 up, got -1");
        let one = || Tensor::from([1.0_f32]);
        let two = || Tensor::from([1.0_f32, 1.0]);
        let refused =
            |affine, running| BatchNorm::from_tensors(config, affine, running).unwrap_err().to_string();
        assert_eq!(refused(Some([two(), one()]), None), "batch norm bias: expected [2], got [1]");
        assert_eq!(refused(None, Some([one(), two()])), "batch norm running_mean: expected [2], got [1]");
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let layer = BatchNorm::<f32>::new(3).unwrap();
        for shape in [&[3][..], &[2, 4], &[2, 2, 3], &[2, 3, 1, 1, 1]] {
            let error = predict(&layer, &Tensor::zeros(shape).unwrap()).unwrap_err().to_string();
            let text = "batch norm forward: expected [_, 3], [_, 3, _] or [_, 3, _, _], got ";
            assert_eq!(error, format!("{text}{shape:?}"));
        }
        for (shape, elements) in [(&[1, 3][..], 1), (&[1, 3, 1, 1], 1), (&[0, 3], 0)] {
            let (x, mut tape) = (Tensor::zeros(shape).unwrap(), Tape::new());
            let error = tape.forward(&layer, &x, Mode::train()).map(drop).unwrap_err().to_string();
            let text = "batch norm forward: expected two elements or more of each channel in training, got ";
            assert_eq!(error, format!("{text}{elements} in {shape:?}"));
            assert_eq!(predict(&layer, &x).unwrap().shape(), x.shape());
        }
    }

    /// The change of the buffers by steps, each after `passes` batches.
    fn train(layer: &mut BatchNorm<f64>, batches: &[Tensor<f64>], passes: usize) {
        let mut tape = Tape::new();
        for batches in batches.chunks(passes) {
            let mut grads = Grads::new(&*layer).unwrap();
            for x in batches {
                let pass = tape.forward(&*layer, x, Mode::train()).unwrap();
                pass.backward(x, &mut grads).unwrap();
            }
            let mut grads = grads.iter();
            layer.visit_mut(backrule_tensor::Path::ROOT, &mut |_, role, tensor| {
                let grad = grads.next().unwrap();
                if role == backrule_tensor::Role::Buffer {
                    assert_eq!(grad.count(), batches.len() as u64);
                    let step = grad.to_tensor().unwrap();
                    let count = batches.len() as f64;
                    tensor
                        .as_mut_slice()
                        .iter_mut()
                        .zip(step.as_slice())
                        .for_each(|(x, dx)| *x += dx / count);
                }
            });
        }
    }

    fn batches() -> Vec<Tensor<f64>> {
        (0..6).map(|seed| Tensor::normal([5, 2], 3.0, 2.0, &mut random::rng(seed)).unwrap()).collect()
    }

    #[test]
    fn a_cumulative_average_is_the_mean_over_steps_and_goes_on_where_it_was() {
        let batches = batches();
        let config = BatchNormConfig::new(2).cumulative();
        let mut whole: BatchNorm<f64> = config.build().unwrap();
        train(&mut whole, &batches, 1);
        assert_eq!(whole.num_batches_tracked(), 6);
        let mean = |j: usize| {
            batches.iter().flat_map(|x| x.as_slice().iter().skip(j).step_by(2)).sum::<f64>() / 30.0
        };
        for (j, running) in whole.running_mean().as_slice().iter().enumerate() {
            assert!((running - mean(j)).abs() < 1e-12, "{running} {}", mean(j));
        }
        // From a file: the count is one of its tensors.
        let mut half: BatchNorm<f64> = config.build().unwrap();
        train(&mut half, &batches[..3], 1);
        let mut again: BatchNorm<f64> = config.build().unwrap();
        let saved: Vec<_> = half.tensors().into_iter().map(|(path, tensor)| (path, tensor.clone())).collect();
        assert!(saved.iter().any(|(path, _)| path == "num_batches_tracked"));
        for (path, tensor) in saved {
            *again.tensor_mut(&path).unwrap() = tensor;
        }
        train(&mut again, &batches[3..], 1);
        assert_eq!(again, whole);
    }

    #[test]
    fn passes_before_a_step_count_as_one() {
        let mut layer: BatchNorm<f64> = BatchNormConfig::new(2).cumulative().build().unwrap();
        train(&mut layer, &batches(), 3);
        assert_eq!(layer.num_batches_tracked(), 2);
    }

    /// The weights of the parts have a sum that isn't quite 1.
    #[test]
    fn the_count_stays_whole_with_parts() {
        let mut layer = BatchNorm::<f32>::new(1).unwrap();
        let x = Tensor::normal([22, 1], 0.0, 1.0, &mut random::rng(1)).unwrap();
        let (mut tape, mut grads) = (Tape::new().parts(7).unwrap(), Grads::new(&layer).unwrap());
        for steps in 1..=1000 {
            grads.clear();
            tape.forward(&layer, &x, Mode::train()).unwrap().backward(&x, &mut grads).unwrap();
            let step = grads[4].to_tensor().unwrap();
            layer.num_batches_tracked.add(&step).unwrap();
            assert_eq!(layer.num_batches_tracked(), steps);
        }
    }

    #[test]
    fn evaluation_and_frozen_buffers_move_nothing() {
        let layer = BatchNorm::<f64>::new(2).unwrap();
        let (x, mut tape, mut grads) = (&batches()[0], Tape::new(), Grads::new(&layer).unwrap());
        tape.forward(&layer, x, Mode::Eval).unwrap().backward(x, &mut grads).unwrap();
        let moved = |grads: &Grads<f64>| grads.iter().skip(2).map(Grad::count).collect::<Vec<_>>();
        assert_eq!(moved(&grads), [0; 3]);
        grads[2].set_wanted(false);
        tape.forward(&layer, x, Mode::train()).unwrap().backward(x, &mut grads).unwrap();
        assert_eq!(moved(&grads), [0, 1, 1]);
    }
}
