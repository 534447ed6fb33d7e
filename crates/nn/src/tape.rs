//! The memory of passes, and the pass that borrows it.

use std::ops::Range;

use backrule_tensor::{ConfigError, Grads, Scalar, ShapeError, Tensor, in_default_mode, memory};

use crate::cache::Cache;
use crate::data_parallel::{self, Call, Part, Split};
use crate::error::LayerError;
use crate::layer::{At, Layer, MAX_INPUTS};
use crate::mode::Mode;

/// The memory of forward passes: outputs and notes of every layer. Make one, and reuse it for every step:
/// after the first step of a batch shape, nothing is allocated any more.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Linear, Mode, Tape};
///
/// // y = x Wᵀ + b with W = [[2, 3]], b = [1]
/// let (w, b) = (Tensor::from([[2.0_f32, 3.0]]), Tensor::from([1.0]));
/// let layer = Linear::from_tensors(w, Some(b))?;
/// let x = Tensor::from([[10.0, 1.0]]);
///
/// let mut tape = Tape::new();
/// let mut grads = Grads::new(&layer)?;
/// let pass = tape.forward(&layer, &x, Mode::train())?;
/// assert_eq!(pass.output(), &Tensor::from([[24.0]]));
/// pass.backward(&Tensor::from([[1.0]]), &mut grads)?;
/// assert_eq!(grads[0], Tensor::from([[10.0, 1.0]])); // ∂l/∂W = ∂l/∂y · x
/// assert_eq!(grads[1], Tensor::from([1.0])); // ∂l/∂b = ∂l/∂y
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tape<T: Scalar = f32> {
    /// The outputs of the last pass.
    y: Vec<Tensor<T>>,
    cache: Cache<T>,
    /// Empty if the batch isn't split, and before the first pass.
    parts: Vec<Part<T>>,
    split: Split,
    /// Whether the last forward pass was split.
    is_split: bool,
}

impl<T: Scalar> Tape<T> {
    /// An empty tape, for any network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has every pass split its batch into this many parts, which several threads work on at once:
    ///
    /// ```
    /// use backrule_nn::Tape;
    ///
    /// let mut tape: Tape = Tape::new().parts(4)?;
    /// # Ok::<(), backrule_nn::tensor::ConfigError>(())
    /// ```
    ///
    /// Nothing else of a training loop changes. The parts are contiguous along the first axis of every input,
    /// of the sizes that [`share`](backrule_tensor::share) gives; a batch with fewer samples has fewer parts,
    /// and a single input of rank below 2 is one sample, which isn't split. When all are done, their outputs
    /// are one y again, and their gradients are added as a tree: ((p₀ + p₁) + (p₂ + p₃)). **The number of
    /// threads changes no bit**, so a run can go on on another machine; the number of parts does, in the last
    /// digits, and belongs to a run as the batch size does. Take as many parts as there will be threads (see
    /// [`parallel`](backrule_tensor::parallel)).
    ///
    /// Each part draws its random numbers from a key of its own: dropout has other masks than in a tape
    /// without parts. A layer that looks across the batch sees its part; a buffer gets the mean of the parts'
    /// increments, by their samples.
    ///
    /// It pays when a part's work takes far longer than handing it to a thread, some microseconds. It costs
    /// memory: for each part a second set of gradients, and all parts together a copy of x, y, dy and dx.
    ///
    /// # Errors
    /// When `count` is 0, or above 65,536.
    pub fn parts(mut self, count: usize) -> Result<Self, ConfigError> {
        if !(1..=1 << 16).contains(&count) {
            return Err(ConfigError::new("Tape", "parts", "1 to 65536", count));
        }
        self.split = Split { count, here: 0..count, samples: None };
        self.is_split = false;
        Ok(self)
    }

    /// Runs only these of the parts here, on their share of a batch of `samples`: the other parts run in
    /// other processes, and x has the rows of these parts alone, those from the first one's
    /// [`share`](backrule_tensor::share) to the last one's.
    ///
    /// Keys, weights and sums are as in a tape that runs all parts. So the gradients of several processes,
    /// added as a tree again, have the bits of one process:
    ///
    /// ```
    /// use backrule_nn::tensor::{Tensor, random, share};
    /// use backrule_nn::{Grads, Linear, Mode, Tape};
    ///
    /// let net: Linear = Linear::new(3, 2, &mut random::rng(1))?;
    /// let x = Tensor::normal([10, 3], 0.0, 1.0, &mut random::rng(2))?;
    /// let gradients = |tape: Tape, rows: std::ops::Range<usize>| {
    ///     let (mut tape, x, mut grads) = (tape, x.slice(rows.clone())?, Grads::new(&net)?);
    ///     let dy = Tensor::full([rows.len(), 2], 1.0)?;
    ///     tape.forward(&net, &x, Mode::train())?.backward(&dy, &mut grads)?;
    ///     Ok::<_, Box<dyn std::error::Error>>(grads)
    /// };
    /// let whole = gradients(Tape::new().parts(4)?, 0..10)?;
    /// let half = share(10, 0, 4).start..share(10, 1, 4).end; // the rows of parts 0 and 1
    /// let mut sum = gradients(Tape::new().parts(4)?.only(0..2, 10)?, half.clone())?;
    /// sum.add(&gradients(Tape::new().parts(4)?.only(2..4, 10)?, half.end..10)?)?;
    /// assert_eq!(sum[0].get(), whole[0].get());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the parts aren't a node of the tree: as many as a power of two, or up to the last one, from a
    /// multiple of that power on.
    pub fn only(mut self, parts: Range<usize>, samples: usize) -> Result<Self, ConfigError> {
        let within = parts.end <= self.split.count && !parts.is_empty();
        let size = if within { parts.len().next_power_of_two() } else { 1 };
        let whole = parts.len() == size || parts.end == self.split.count;
        if !within || !whole || !parts.start.is_multiple_of(size) {
            let expected = "a power of two of parts from a multiple of it on";
            let got = format_args!("{parts:?} of {}", self.split.count).to_string();
            return Err(ConfigError::new("Tape", "only", expected, got));
        }
        self.split.here = parts;
        self.split.samples = Some(samples);
        self.is_split = false;
        Ok(self)
    }

    /// The samples of the whole batches from now on, for a tape that runs [`only`](Self::only) some of the
    /// parts: the last batch of an epoch may be smaller.
    pub fn set_samples(&mut self, samples: usize) {
        if self.split.samples.is_some() {
            self.split.samples = Some(samples);
        }
    }

    /// Computes y = f(x) and keeps the derivative's operands.
    ///
    /// The [`Pass`] borrows the network, the input and the tape, so none of them can change before its
    /// derivative has been taken.
    ///
    /// # Errors
    /// When x doesn't suit the network; the error names the layer. With [`parts`](Self::parts) it is about
    /// the first part that has one, and a network whose y has another first axis than x is an error, too.
    pub fn forward<'a>(
        &'a mut self,
        net: &'a dyn Layer<T>,
        x: &'a Tensor<T>,
        mode: Mode,
    ) -> Result<Pass<'a, T>, LayerError> {
        in_default_mode!(self.forward(net, x, mode));
        // One part is the batch as it is.
        let plain = self.split.count == 1 && self.split.samples.is_none();
        if plain {
            // The usual pass takes no detour: a small prediction is a thousand instructions.
            self.is_split = false;
            self.y.resize_with(1, Tensor::default);
            net.forward(x, &mut self.y[0], &mut self.cache, mode)?;
        }
        let pass = Pass { net, x: [x; MAX_INPUTS], inputs: 1, tape: self, mode, many: false };
        if plain { Ok(pass) } else { pass.run_forward() }
    }

    /// The same for a network of several inputs or outputs. The first input's first axis is the batch; with
    /// [`parts`](Self::parts) all the others have that first axis, too.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and when there are no inputs, or more than 16.
    pub fn forward_many<'a>(
        &'a mut self,
        net: &'a dyn Layer<T>,
        x: &[&'a Tensor<T>],
        mode: Mode,
    ) -> Result<Pass<'a, T>, LayerError> {
        in_default_mode!(self.forward_many(net, x, mode));
        let [first, ..] = x else { return Err(LayerError::count("forward: inputs", "1 to 16", 0)) };
        if x.len() > MAX_INPUTS {
            return Err(LayerError::count("forward: inputs", "1 to 16", x.len()));
        }
        let mut inputs = [*first; MAX_INPUTS];
        inputs[..x.len()].copy_from_slice(x);
        let pass = Pass { net, x: inputs, inputs: x.len(), tape: self, mode, many: true };
        pass.run_forward()
    }
}

impl<T: Scalar> Default for Tape<T> {
    fn default() -> Self {
        let split = Split { count: 1, here: 0..1, samples: None };
        Self { y: Vec::new(), cache: Cache::default(), parts: Vec::new(), split, is_split: false }
    }
}

/// A forward pass whose derivative hasn't been taken yet.
///
/// The network can't change between forward and backward:
///
/// ```compile_fail,E0502
/// # use backrule_nn::tensor::{NamedTensors, Tensor, random};
/// # use backrule_nn::{Grads, Linear, Mode, Tape};
/// # let mut net: Linear = Linear::new(2, 1, &mut random::rng(0)).unwrap();
/// # let (x, dy) = (Tensor::from([[1.0, 2.0]]), Tensor::from([[1.0]]));
/// # let (mut tape, mut grads) = (Tape::new(), Grads::new(&net).unwrap());
/// let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
/// net.tensor_mut("weight").unwrap().fill(0.0); // net is borrowed by the pass
/// pass.backward(&dy, &mut grads).unwrap();
/// ```
///
/// and backward can't run twice on one forward pass:
///
/// ```compile_fail,E0382
/// # use backrule_nn::tensor::{Tensor, random};
/// # use backrule_nn::{Grads, Linear, Mode, Tape};
/// # let net: Linear = Linear::new(2, 1, &mut random::rng(0)).unwrap();
/// # let (x, dy) = (Tensor::from([[1.0, 2.0]]), Tensor::from([[1.0]]));
/// # let (mut tape, mut grads) = (Tape::new(), Grads::new(&net).unwrap());
/// let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
/// pass.backward(&dy, &mut grads).unwrap();
/// pass.backward(&dy, &mut grads).unwrap(); // the pass has been used up
/// ```
pub struct Pass<'a, T: Scalar = f32> {
    net: &'a dyn Layer<T>,
    /// The inputs, and behind them the first one again.
    x: [&'a Tensor<T>; MAX_INPUTS],
    inputs: usize,
    tape: &'a mut Tape<T>,
    mode: Mode,
    many: bool,
}

impl<'a, T: Scalar> Pass<'a, T> {
    fn run_forward(self) -> Result<Self, LayerError> {
        let Self { net, x, inputs, mode, many, .. } = self;
        let call = Call { net, x: &x[..inputs], mode, many };
        let Tape { y, cache, parts, split, is_split } = &mut *self.tape;
        let count = if split.count == 1 && split.samples.is_none() { 0 } else { split.here.len() };
        memory::grow("parts of a batch", parts, count)?;
        parts.truncate(count);
        let one_sample = inputs == 1 && x[0].shape().rank() < 2;
        let rows = x[0].shape().first().copied().unwrap_or(1);
        // A batch without samples has no parts.
        *is_split = !parts.is_empty() && !one_sample && rows > 0;
        if split.samples.is_some() {
            let expected = split.expected(rows);
            let fits = |x: &&Tensor<T>| !one_sample && x.shape().first() == Some(&expected);
            if let Some(other) = x[..inputs].iter().find(|x| !fits(x)) {
                let expected = format_args!("the {expected} rows of parts {:?}", split.here);
                return Err(ShapeError::new("forward in parts", expected, other.shape()).into());
            }
        }
        if *is_split {
            data_parallel::forward(parts, split, call, y)?;
        } else if split.samples.is_some() {
            // Rightly none of the batch's samples are here.
            call.empty(y)?;
        } else {
            call.forward(y, cache, mode)?;
        }
        Ok(self)
    }

    /// y, the network's output; of several the first.
    pub fn output(&self) -> &Tensor<T> {
        &self.tape.y[0]
    }

    /// All outputs.
    pub fn outputs(&self) -> &[Tensor<T>] {
        &self.tape.y
    }

    /// y, for as long as the tape is lent: for predictions with a tape that is reused.
    pub fn into_output(self) -> &'a Tensor<T> {
        &self.tape.y[0]
    }

    /// All outputs, for as long as the tape is lent.
    pub fn into_outputs(self) -> &'a [Tensor<T>] {
        &self.tape.y
    }

    /// Given dy = ∂l/∂y, adds ∂l/∂θ to `grads` for every parameter.
    ///
    /// # Errors
    /// When `dy` doesn't have the output's shape, there are several outputs, or `grads` belong to another
    /// network. They are unchanged then. After any other error, such as that of a layer without memory, they
    /// are [incomplete](Grads#incomplete-gradients): [`clear`](Grads::clear) them before the pass is run
    /// again.
    pub fn backward(self, dy: &Tensor<T>, grads: &mut Grads<T>) -> Result<(), LayerError> {
        let inputs = self.inputs;
        self.run_backward(&[Some(dy)], &mut [const { None }; MAX_INPUTS][..inputs], grads)
    }

    /// As [`backward`](Self::backward), and overwrites `dx` with ∂l/∂x, which plain training doesn't need.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and when there are several inputs.
    pub fn backward_to_input(
        self,
        dy: &Tensor<T>,
        grads: &mut Grads<T>,
        dx: &mut Tensor<T>,
    ) -> Result<(), LayerError> {
        self.run_backward(&[Some(dy)], &mut [Some(dx)], grads)
    }

    /// Given ∂l/∂y of every output, `None` where nobody has used it, adds ∂l/∂θ to `grads`. Layers that only
    /// unused outputs depend on are skipped: neither their parameters' gradients nor their buffers'
    /// increments change.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    pub fn backward_many(self, dy: &[Option<&Tensor<T>>], grads: &mut Grads<T>) -> Result<(), LayerError> {
        let inputs = self.inputs;
        self.run_backward(dy, &mut [const { None }; MAX_INPUTS][..inputs], grads)
    }

    /// As [`backward_many`](Self::backward_many), and overwrites the `dx` that are wanted with ∂l/∂x of that
    /// input. An input without a derivative, such as a list of lengths, gives zeros.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and when there aren't as many `dx` as inputs.
    pub fn backward_many_to_inputs(
        self,
        dy: &[Option<&Tensor<T>>],
        grads: &mut Grads<T>,
        dx: &mut [Option<&mut Tensor<T>>],
    ) -> Result<(), LayerError> {
        self.run_backward(dy, dx, grads)
    }

    fn run_backward(
        self,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut Grads<T>,
    ) -> Result<(), LayerError> {
        in_default_mode!(self.run_backward(dy, dx, grads));
        let Self { net, x, inputs, mode, many, tape } = self;
        let Tape { y, cache, parts, split, is_split } = tape;
        if dy.len() != y.len() {
            let expected = match dy.len() {
                1 => format!("{}, by `backward_many`", y.len()),
                _ => y.len().to_string(),
            };
            return Err(LayerError::count("backward: ∂l/∂y", expected, dy.len()));
        }
        if dx.len() != inputs {
            return Err(LayerError::count("backward: ∂l/∂x", inputs, dx.len()));
        }
        for (y, dy) in y.iter().zip(dy) {
            if let Some(dy) = dy
                && dy.shape() != y.shape()
            {
                return Err(ShapeError::new("backward: ∂l/∂y", y.shape(), dy.shape()).into());
            }
        }
        grads.expect(net)?;
        if let (false, false, None, [y], &[Some(dy)], [dx]) =
            (many, *is_split, split.samples, &y[..], dy, &mut *dx)
        {
            let at = At { x: x[0], y, cache, mode };
            return complete(grads, |grads| net.backward(at, dy, dx.as_deref_mut(), grads));
        }
        let call = Call { net, x: &x[..inputs], mode, many };
        if !*is_split && split.samples.is_some() && x[0].is_empty() {
            // None of the batch's samples are here: absent ones add nothing, not even 0.
            for (dx, x) in dx.iter_mut().zip(&x[..inputs]) {
                if let Some(dx) = dx {
                    dx.resize(x.shape())?;
                }
            }
            return Ok(());
        }
        complete(grads, |grads| match is_split {
            true => data_parallel::backward(parts, split, call, dy, dx, grads),
            false => call.backward(y, cache, mode, dy, dx, grads),
        })
    }
}

/// Runs a backward pass that adds to `grads`. A sum without memory is an error, of which the rule that adds
/// to it knows nothing.
fn complete<T: Scalar>(
    grads: &mut Grads<T>,
    pass: impl FnOnce(&mut Grads<T>) -> Result<(), LayerError>,
) -> Result<(), LayerError> {
    let was_complete = grads.is_complete();
    grads.accumulate(|grads| {
        pass(grads)?;
        if was_complete { data_parallel::expect_complete(grads) } else { Ok(()) }
    })
}

/// The network's output for `x`, the easy way: nothing is random, nothing is kept.
///
/// To predict often without allocating, keep a [`Tape`] and use `tape.forward(&net, &x,
/// Mode::Eval)?.into_output()`.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Relu, predict};
///
/// let x: Tensor = Tensor::from([[-1.0, 2.0]]);
/// assert_eq!(predict(&Relu, &x)?, Tensor::from([[0.0, 2.0]]));
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
///
/// # Errors
/// When x doesn't suit the network; the error names the layer.
pub fn predict<T: Scalar>(net: &dyn Layer<T>, x: &Tensor<T>) -> Result<Tensor<T>, LayerError> {
    in_default_mode!(predict(net, x));
    let mut y = Tensor::default();
    net.forward(x, &mut y, &mut Cache::default(), Mode::Eval)?;
    Ok(y)
}

/// The same for a network of several inputs or outputs.
///
/// # Errors
/// When the inputs don't suit the network; the error names the layer.
pub fn predict_many<T: Scalar>(net: &dyn Layer<T>, x: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, LayerError> {
    let mut tape = Tape::new();
    tape.forward_many(net, x, Mode::Eval)?;
    Ok(tape.y)
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;
    use crate::layers::Linear;

    #[test]
    fn wrong_gradients_are_refused_before_anything_is_added() {
        let layer = Linear::<f32>::new(3, 2, &mut random::rng(1)).unwrap();
        let other = Linear::<f32>::new(2, 3, &mut random::rng(1)).unwrap();
        let x = Tensor::zeros([4, 3]).unwrap();
        let mut tape = Tape::new();

        let mut grads = Grads::new(&layer).unwrap();
        let before = grads.clone();
        let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
        let error = pass.backward(&Tensor::full([2, 4], 1.0).unwrap(), &mut grads).unwrap_err();
        assert_eq!(error.to_string(), "backward: ∂l/∂y: expected [4, 2], got [2, 4]");
        assert_eq!(grads, before);

        let mut foreign = Grads::new(&other).unwrap();
        let dy = Tensor::full([4, 2], 1.0).unwrap();
        let pass = tape.forward(&layer, &x, Mode::Eval).unwrap();
        let error = pass.backward(&dy, &mut foreign).unwrap_err();
        assert_eq!(error.to_string(), "weight: gradients: expected [2, 3], got [3, 2]");
        assert_eq!(foreign, Grads::new(&other).unwrap());
    }

    #[test]
    fn one_tape_serves_any_network_and_batch() {
        let mut tape = Tape::<f32>::new();
        for (batch, inputs) in [(4, 3), (1, 5), (7, 2)] {
            let layer = Linear::new(inputs, 2, &mut random::rng(1)).unwrap();
            let x = Tensor::full([batch, inputs], 0.5).unwrap();
            let y = tape.forward(&layer, &x, Mode::Eval).unwrap().into_output();
            assert_eq!(y, &predict(&layer, &x).unwrap());
            assert_eq!(y.shape(), [batch, 2]);
        }
    }
}
