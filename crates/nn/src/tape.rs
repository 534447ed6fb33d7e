use backrule_tensor::{ConfigError, Scalar, ShapeError, Tensor};

use crate::parts::{self, Part};
use crate::{At, Cache, Grads, Layer, LayerError, Mode};

/// The memory of forward passes: outputs and notes of every layer. Make one, and reuse it for every step: after the first
/// step of a batch shape, nothing is allocated any more.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Key, Linear, Mode, Tape};
///
/// // y = x Wᵀ + b with W = [[2, 3]], b = [1]
/// let layer = Linear::from_tensors(Tensor::from([[2.0_f32, 3.0]]), Some(Tensor::from([1.0])))?;
/// let x = Tensor::from([[10.0, 1.0]]);
///
/// let mut tape = Tape::new();
/// let mut grads = Grads::new(&layer)?;
/// let pass = tape.forward(&layer, &x, Mode::Train(Key::new(0)))?;
/// assert_eq!(pass.output(), &Tensor::from([[24.0]]));
/// pass.backward(&Tensor::from([[1.0]]), &mut grads)?;
/// assert_eq!(grads[0], Tensor::from([[10.0, 1.0]])); // ∂l/∂W = ∂l/∂y · x
/// assert_eq!(grads[1], Tensor::from([1.0])); // ∂l/∂b = ∂l/∂y
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tape<T: Scalar = f32> {
    y: Tensor<T>,
    cache: Cache<T>,
    /// Empty if the batch isn't split.
    parts: Vec<Part<T>>,
    /// The parts that the last forward pass had samples for; 0 if it wasn't split.
    used: usize,
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
    /// Nothing else of a training loop changes. The parts are contiguous along x's first axis and of equal sizes, give or
    /// take one sample; a batch with fewer samples has fewer parts. When all are done, their outputs are one y again, and
    /// their gradients are added up in a fixed order. **The number of threads changes no bit**, so that a run can go on
    /// on another machine; the number of parts does, in the last digits, and belongs to a run as the batch size does.
    /// Take as many parts as there will be threads (see [`parallel`](backrule_tensor::parallel)).
    ///
    /// Each part draws its random numbers from a key of its own: dropout has other masks than in a tape without parts. A
    /// layer that looks across the batch sees its part; of the increments of a statistic the mean counts.
    ///
    /// It pays when a part's work takes far longer than handing it to a thread, some microseconds. It costs memory: for
    /// each part a second set of gradients, and all parts together a copy of x, y, dy and dx.
    ///
    /// # Errors
    /// When `count` is 0.
    pub fn parts(mut self, count: usize) -> Result<Self, ConfigError> {
        if count == 0 {
            return Err(ConfigError::new("Tape", "parts", "at least 1", count));
        }
        // One part is the batch as it is.
        self.parts.resize_with(if count == 1 { 0 } else { count }, Part::default);
        self.used = 0;
        Ok(self)
    }

    /// Computes y = f(x) and keeps what the derivative needs.
    ///
    /// The [`Pass`] borrows the network, the input and the tape, so that none of them can change before its derivative
    /// has been taken.
    ///
    /// # Errors
    /// When x doesn't suit the network; the error names the layer. With [`parts`](Self::parts) it is about the first part
    /// that has one, and a network whose y has another first axis than x is an error, too.
    pub fn forward<'a>(
        &'a mut self,
        net: &'a dyn Layer<T>,
        x: &'a Tensor<T>,
        mode: Mode,
    ) -> Result<Pass<'a, T>, LayerError> {
        let samples = x.shape().first().copied().unwrap_or(1);
        self.used = if samples < 2 { 0 } else { self.parts.len().min(samples) };
        if self.used > 0 {
            parts::forward(&mut self.parts[..self.used], net, x, &mut self.y, mode)?;
        } else {
            net.forward(x, &mut self.y, &mut self.cache, mode)?;
        }
        Ok(Pass { net, x, tape: self, mode })
    }
}

impl<T: Scalar> Default for Tape<T> {
    fn default() -> Self {
        Self { y: Tensor::default(), cache: Cache::default(), parts: Vec::new(), used: 0 }
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
/// # let (mut tape, mut grads) = (Tape::new(), Grads::new(&net)?);
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
/// # let (mut tape, mut grads) = (Tape::new(), Grads::new(&net)?);
/// let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
/// pass.backward(&dy, &mut grads).unwrap();
/// pass.backward(&dy, &mut grads).unwrap(); // the pass has been used up
/// ```
pub struct Pass<'a, T: Scalar = f32> {
    net: &'a dyn Layer<T>,
    x: &'a Tensor<T>,
    tape: &'a mut Tape<T>,
    mode: Mode,
}

impl<'a, T: Scalar> Pass<'a, T> {
    /// y, the network's output.
    pub fn output(&self) -> &Tensor<T> {
        &self.tape.y
    }

    /// y, for as long as the tape is lent: for predictions with a tape that is reused.
    pub fn into_output(self) -> &'a Tensor<T> {
        &self.tape.y
    }

    /// Given dy = ∂l/∂y, adds ∂l/∂θ to `grads` for every parameter.
    ///
    /// # Errors
    /// When `dy` doesn't have the output's shape, or `grads` belong to another network. They are unchanged then.
    pub fn backward(self, dy: &Tensor<T>, grads: &mut Grads<T>) -> Result<(), LayerError> {
        self.run(dy, None, grads)
    }

    /// As [`backward`](Self::backward), and overwrites `dx` with ∂l/∂x, which plain training doesn't need.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    pub fn backward_to_input(
        self,
        dy: &Tensor<T>,
        grads: &mut Grads<T>,
        dx: &mut Tensor<T>,
    ) -> Result<(), LayerError> {
        self.run(dy, Some(dx), grads)
    }

    fn run(self, dy: &Tensor<T>, dx: Option<&mut Tensor<T>>, grads: &mut Grads<T>) -> Result<(), LayerError> {
        let Tape { y, cache, parts, used } = self.tape;
        if dy.shape() != y.shape() {
            return Err(ShapeError::new("backward: ∂l/∂y", y.shape(), dy.shape()).into());
        }
        grads.expect(self.net)?;
        if *used > 0 {
            return parts::backward(&mut parts[..*used], self.net, self.x, dy, dx, grads, self.mode);
        }
        let at = At { x: self.x, y, cache, mode: self.mode };
        self.net.backward(at, dy, dx, grads)
    }
}

/// The network's output for `x`, the easy way: nothing is random, nothing is kept.
///
/// To predict often without allocating, keep a [`Tape`] and use `tape.forward(&net, &x, Mode::Eval)?.into_output()`.
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
    let mut tape = Tape::new();
    net.forward(x, &mut tape.y, &mut tape.cache, Mode::Eval)?;
    Ok(tape.y)
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;
    use crate::{Key, Linear};

    #[test]
    fn wrong_gradients_are_refused_before_anything_is_added() {
        let layer = Linear::<f32>::new(3, 2, &mut random::rng(1)).unwrap();
        let other = Linear::<f32>::new(2, 3, &mut random::rng(1)).unwrap();
        let x = Tensor::zeros([4, 3]).unwrap();
        let mut tape = Tape::new();

        let mut grads = Grads::new(&layer).unwrap();
        let before = grads.clone();
        let pass = tape.forward(&layer, &x, Mode::Train(Key::new(1))).unwrap();
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
