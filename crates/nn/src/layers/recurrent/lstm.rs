//! formula: h(t) = o tanh c(t), c(t) = f c(t−1) + i g
//! rule: back in time
//! tape: y, and gates and states of all time steps

use std::fmt::{self, Write as _};
use std::iter;
use std::ops::{Range, RangeInclusive};

use backrule_tensor::kernels::lstm as kernel;
use backrule_tensor::linalg::{MatMut, MatRef, Packed, SumOfProducts, affine, matmul, sum_of_rows};
use backrule_tensor::rand::Rng;
use backrule_tensor::{
    ConfigError, Grad, NamedTensors, Options, Path, Role, Scalar, Shape, ShapeError, Tensor, TensorError,
    memory,
};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin, of_tensors};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Input, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::init::Init;
use crate::layer::sealed::Sealed;
use crate::layer::{At, AtMany, Layer, zeros_like};
use crate::mode::Mode;
use crate::packer::Packer;

/// A long short-term memory (S. Hochreiter, J. Schmidhuber, 1997): units with a state h and a memory c that
/// go along a sequence.
///
/// For time step t of x `[batch, time, in]` and n units, z = x(t) W_ihᵀ + b_ih + h(t−1) W_hhᵀ + b_hh has four
/// blocks of n elements, and
///
/// i = σ(zᵢ), f = σ(z_f), g = tanh z_g, o = σ(zₒ); c(t) = f c(t−1) + i g; h(t) = o tanh c(t).
///
/// y(t) is h(t). With two directions a second set of weights goes from the end to the beginning, and y(t) has
/// both h(t), the forward one first. The y of a layer is the x of the layer above.
///
/// | tensor | shape |
/// |---|---|
/// | `weight_ih_l0`, W_ih | `[4 n, in]`; in a layer above `[4 n, directions · n]` |
/// | `weight_hh_l0`, W_hh | `[4 n, n]` |
/// | `bias_ih_l0`, `bias_hh_l0` | `[4 n]` |
/// | `…_l0_reverse`, `…_l1`, … | the same for the other direction, and for the layers above |
///
/// # Inputs and outputs
///
/// | number | inputs |
/// |---|---|
/// | 1 | x |
/// | 2 | x, lengths |
/// | 3 | x, h0, c0 |
/// | 4 | x, h0, c0, lengths |
///
/// h0 and c0 `[batch, layers · directions, n]` are the states at the start, zeros if they aren't given. Their
/// middle axis is in the order layer 0 forward, layer 0 reverse, layer 1 forward, …. The outputs are y
/// `[batch, time, directions · n]` and the states at the end, hn and cn. The form of one input and one
/// output, [`forward`](Layer::forward), gives y alone.
///
/// Lengths `[batch]` are whole numbers from 0 to time. Steps behind a sequence's end aren't read: y and ∂l/∂x
/// are 0 there, hn and cn are the states at the end, and the reverse direction begins there. A sequence of
/// length 0 keeps its states.
///
/// # Rule
///
/// Each direction of each layer goes back in time. dh and dc come from the step behind; at the end they are
/// ∂l/∂hn and ∂l/∂cn.
///
/// | derivative | formula |
/// |---|---|
/// | dh | dh + ∂l/∂y(t) |
/// | dc | dc + dh o (1 − tanh² c(t)) |
/// | dz in four blocks | dc g i (1 − i), dc c(t−1) f (1 − f), dc i (1 − g²), dh tanh c(t) o (1 − o) |
/// | dc, dh for the step before | dc f, dz W_hh; at the start ∂l/∂c0, ∂l/∂h0 |
/// | ∂l/∂x(t) | dz W_ih |
/// | ∂l/∂W_ih, ∂l/∂W_hh, both ∂l/∂b | Σ dzᵀ x(t), Σ dzᵀ h(t−1), Σ dz over samples and steps |
///
/// # Truncation
///
/// The layer keeps no state. A caller who hands hn and cn on as the next part's h0 and c0, and not their
/// gradients, has truncated backpropagation through time:
///
/// ```
/// use backrule_nn::tensor::{Tensor, random};
/// use backrule_nn::{Grads, Lstm, Mode, Tape};
///
/// let lstm: Lstm = Lstm::new(3, 4, &mut random::rng(1))?;
/// let (mut tape, mut grads) = (Tape::new(), Grads::new(&lstm)?);
/// let [mut h, mut c] = lstm.zero_states(2)?;
/// for part in 0..3 {
///     let x = Tensor::normal([2, 5, 3], 0.0, 1.0, &mut random::rng(part))?; // five steps
///     let pass = tape.forward_many(&lstm, &[&x, &h, &c], Mode::train())?;
///     let [y, hn, cn] = pass.outputs() else { unreachable!("three outputs") };
///     let (dy, hn, cn) = (y.clone(), hn.clone(), cn.clone()); // l = ½ Σ y²
///     pass.backward_many(&[Some(&dy), None, None], &mut grads)?;
///     (h, c) = (hn, cn);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # One answer for a sequence
///
/// In a `Sequential` the layer gives y of all steps. hn, the state after each sequence's last step, is output
/// 1 in a `Graph`:
///
/// ```
/// use backrule_nn::tensor::{Tensor, random};
/// use backrule_nn::{Embedding, Flatten, Graph, Linear, Lstm, predict};
///
/// let rng = &mut random::rng(1);
/// let mut g = Graph::builder();
/// let [tokens] = g.inputs(["tokens"]);
/// let x = g.layer("embed", Embedding::new(10, 4, rng)?, [tokens]);
/// let lstm = g.layer("lstm", Lstm::new(4, 8, rng)?, [x]);
/// // [batch, 1, 8] → [batch, 8]
/// let hn = g.layer("flat", Flatten::default(), [lstm.output(1)]);
/// let logits = g.layer("logits", Linear::new(8, 2, rng)?, [hn]);
/// let net: Graph = g.build([logits])?;
/// let tokens = Tensor::from([[3.0, 7.0, 1.0], [0.0, 2.0, 9.0]]);
/// assert_eq!(predict(&net, &tokens)?.shape(), [2, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Differences from PyTorch
///
/// Names, layouts and start of the parameters are PyTorch's. The batch is the first axis of the states, too.
/// Lengths are an input, of sequences in any order, and may be 0. There are no projections, and no dropout
/// between layers.
///
/// # Example
///
/// One unit, whose weights are 0 but for that of g:
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Lstm, LstmConfig, Mode, Tape};
///
/// let w = 0.5 * 3_f64.ln(); // tanh w = ½
/// let w_ih = Tensor::from([[0.0], [0.0], [w], [0.0]]);
/// let w_hh = Tensor::zeros([4, 1])?;
/// let lstm = Lstm::from_tensors(LstmConfig::new(1, 1).bias(false), [w_ih, w_hh])?;
/// let x = Tensor::from([[[1.0], [1.0]]]);
/// let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&lstm)?, Tensor::default());
///
/// // i = f = o = σ(0) = ½ and g = ½: c = ¼ and ½ · ¼ + ¼ = ⅜, y = ½ tanh ¼ and ½ tanh ⅜
/// let pass = tape.forward(&lstm, &x, Mode::Eval)?;
/// assert_eq!(format!("{:.3}", pass.output()), "[[[0.122],\n  [0.179]]]");
///
/// // For y in step 2, dc = ½ (1 − tanh² ⅜) = 0.436 there, and f · 0.436 in step 1.
/// // dx = dc · ½ · (1 − ¼) · w.
/// pass.backward_to_input(&Tensor::from([[[0.0], [1.0]]]), &mut grads, &mut dx)?;
/// assert_eq!(format!("{dx:.3}"), "[[[0.045],\n  [0.090]]]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Lstm<T: Scalar = f32> {
    config: LstmConfig,
    /// For each layer the forward direction, then the reverse one if there is one.
    cells: Vec<Cell<T>>,
}

/// The parameters of one direction of one layer.
#[derive(Clone, Debug, PartialEq)]
struct Cell<T: Scalar> {
    weight_ih: Tensor<T>,
    weight_hh: Tensor<T>,
    /// `bias_ih`, `bias_hh`
    bias: Option<[Tensor<T>; 2]>,
    /// W_ih, W_hh
    packed: Option<Box<[Packed<T>; 2]>>,
}

impl<T: Scalar> Lstm<T> {
    /// One layer in one direction, whose parameters start uniformly within ±1/√units. [`LstmConfig`] has the
    /// other choices.
    ///
    /// # Errors
    /// When a size is 0, or there is no memory.
    pub fn new(
        in_features: usize,
        units: usize,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Self, ArchitectureError> {
        LstmConfig::new(in_features, units).build(rng)
    }

    /// A layer of these settings with these parameters, in PyTorch's order: `weight_ih_l0`, `weight_hh_l0`,
    /// `bias_ih_l0`, `bias_hh_l0`, then those of `l0_reverse`, of `l1`, ….
    ///
    /// # Errors
    /// When the settings can't be, or number or shapes of the tensors don't fit them.
    pub fn from_tensors(
        config: LstmConfig,
        tensors: impl IntoIterator<Item = Tensor<T>>,
    ) -> Result<Self, ArchitectureError> {
        of_tensors("lstm tensors", tensors, |tensor| config.assemble(tensor))
    }

    /// The features of x.
    pub fn in_features(&self) -> usize {
        self.config.in_features
    }

    /// The units of each direction of each layer.
    pub fn units(&self) -> usize {
        self.config.units
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.config.layers
    }

    /// Whether each layer has a second direction.
    pub fn is_bidirectional(&self) -> bool {
        self.config.bidirectional
    }

    /// h0 and c0 of zeros: the initial states of a sequence.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn zero_states(&self, batch: usize) -> Result<[Tensor<T>; 2], TensorError> {
        let shape = self.state(batch)?;
        Ok([Tensor::zeros(shape)?, Tensor::zeros(shape)?])
    }

    /// The shape of h0, c0, hn and cn.
    fn state(&self, batch: usize) -> Result<Shape, ShapeError> {
        Shape::new(&[batch, self.cells.len(), self.config.units])
    }

    /// Batch and time of inputs of these shapes.
    fn sizes(&self, operation: &'static str, x: &[Shape]) -> Result<[usize; 2], LayerError> {
        let Some((x, states, lengths)) = told_apart(x) else {
            return Err(LayerError::count(operation, "1 to 4 inputs", x.len()));
        };
        let (batch, time) = match x[..] {
            [batch, time, features] if features == self.config.in_features => (batch, time),
            _ => {
                let expected = format_args!("[_, _, {}]", self.config.in_features);
                return Err(ShapeError::new(operation, expected, x).into());
            }
        };
        let expected = self.state(batch)?;
        if let Some(state) = states.into_iter().flatten().find(|&state| state != expected) {
            return Err(ShapeError::new("lstm states", expected, state).into());
        }
        match lengths {
            Some(lengths) if lengths != [batch] => {
                let expected = format_args!("[{batch}]");
                Err(ShapeError::new("lstm lengths", expected, lengths).into())
            }
            _ => Ok([batch, time]),
        }
    }

    fn inputs_of<'a>(
        &self,
        operation: &'static str,
        inputs: &[&'a Tensor<T>],
    ) -> Result<Inputs<'a, T>, LayerError> {
        let mut shapes = [Shape::EMPTY; 4];
        shapes.iter_mut().zip(inputs).for_each(|(shape, x)| *shape = x.shape());
        let (Some(shapes), Some((x, states, lengths))) = (shapes.get(..inputs.len()), told_apart(inputs))
        else {
            return Err(LayerError::count(operation, "1 to 4 inputs", inputs.len()));
        };
        let [batch, time] = self.sizes(operation, shapes)?;
        let ends = Ends { batch, time, lengths: lengths.map(Tensor::as_slice) };
        ends.check()?;
        Ok(Inputs { x, states: states.map(|states| states.map(Tensor::as_slice)), ends })
    }

    /// The directions of a layer: their cells' numbers.
    fn of_layer(&self, layer: usize) -> Range<usize> {
        let directions = self.config.directions();
        layer * directions..(layer + 1) * directions
    }

    fn direction<'a>(&'a self, index: usize, inputs: &Inputs<'a, T>) -> Direction<'a, T> {
        let (config, Inputs { states, ends, .. }) = (self.config, *inputs);
        let reverse = config.bidirectional && index % 2 == 1;
        let (cell, cells) = (&self.cells[index], self.cells.len());
        Direction {
            cell,
            index,
            cells,
            reverse,
            units: config.units,
            columns: config.columns(),
            states,
            ends,
        }
    }

    /// y, and the states at the end, if wanted.
    fn run(
        &self,
        inputs: Inputs<'_, T>,
        y: &mut Tensor<T>,
        mut last: Option<[&mut Tensor<T>; 2]>,
        cache: &mut Cache<T>,
    ) -> Result<(), LayerError> {
        let (own, caches) = cache.split(self.config.layers, self.cells.len())?;
        let (inner, rest) = own.split_at_mut(self.config.layers - 1);
        let zeros = self.zeros(&mut rest[0])?;
        for state in last.iter_mut().flatten() {
            state.resize(self.state(inputs.ends.batch)?)?;
        }
        for layer in 0..self.config.layers {
            let (below, above) = inner.split_at_mut(layer);
            let x = below.last().unwrap_or(inputs.x);
            let y = above.first_mut().unwrap_or(&mut *y);
            y.resize(inputs.ends.of_steps(self.config.columns())?)?;
            for index in self.of_layer(layer) {
                let (direction, cache) = (self.direction(index, &inputs), &mut caches[index]);
                direction.forward(x, y, zeros, cache)?;
                if let Some([hn, cn]) = &mut last {
                    direction.last_states(y, zeros, cache, [hn, cn]);
                }
            }
            clear_rows(y, inputs.ends.behind());
        }
        Ok(())
    }

    /// A row of zeros: the state before the first step, or the gradient of an output that nobody uses.
    fn zeros<'b>(&self, buffer: &'b mut Tensor<T>) -> Result<&'b [T], LayerError> {
        buffer.resize([self.config.units])?;
        buffer.fill(T::ZERO);
        Ok(buffer.as_slice())
    }

    /// The shapes of all that the rule reads, before it writes anything.
    fn check(
        &self,
        inputs: &Inputs<'_, T>,
        y: &Tensor<T>,
        dy: [Option<&Tensor<T>>; 3],
        grads: &[Grad<T>],
        cache: &mut Cache<T>,
    ) -> Result<(), LayerError> {
        const OPERATION: &str = "lstm backward";
        let Inputs { ends, .. } = *inputs;
        let expect = |expected: Shape, got: Shape| match expected == got {
            true => Ok(()),
            false => Err(ShapeError::new(OPERATION, expected, got)),
        };
        let (of_y, state) = (ends.of_steps(self.config.columns())?, self.state(ends.batch)?);
        expect(of_y, y.shape())?;
        for (i, dy) in dy.into_iter().enumerate() {
            if let Some(dy) = dy {
                expect(if i == 0 { of_y } else { state }, dy.shape())?;
            }
        }
        let expected = self.cells.len() * self.config.tensors();
        if grads.len() != expected {
            return Err(LayerError::count("lstm gradients", expected, grads.len()));
        }
        let (inner, caches) = cache.split(self.config.layers - 1, self.cells.len())?;
        inner.iter().try_for_each(|y| expect(of_y, y.shape()))?;
        let (of_z, of_c) = (ends.of_steps(4 * self.config.units)?, ends.of_steps(self.config.units)?);
        for cache in caches {
            let [z, c] = cache.tensors();
            expect(of_z, z.shape())?;
            expect(of_c, c.shape())?;
        }
        Ok(())
    }
}

/// The inputs of a pass.
#[derive(Clone, Copy)]
struct Inputs<'a, T: Scalar> {
    x: &'a Tensor<T>,
    /// h0 and c0
    states: Option<[&'a [T]; 2]>,
    ends: Ends<'a, T>,
}

/// x, both states, lengths: told apart by how many there are.
fn told_apart<X: Copy>(inputs: &[X]) -> Option<(X, Option<[X; 2]>, Option<X>)> {
    match *inputs {
        [x] => Some((x, None, None)),
        [x, lengths] => Some((x, None, Some(lengths))),
        [x, h0, c0] => Some((x, Some([h0, c0]), None)),
        [x, h0, c0, lengths] => Some((x, Some([h0, c0]), Some(lengths))),
        _ => None,
    }
}

/// Where the sequences of a batch end.
#[derive(Clone, Copy)]
struct Ends<'a, T> {
    batch: usize,
    time: usize,
    lengths: Option<&'a [T]>,
}

/// Samples, one after the other, that have a time step, and whether it is the first one of their direction.
struct Run {
    t: usize,
    samples: Range<usize>,
    starts: bool,
}

impl<T: Scalar> Ends<'_, T> {
    fn check(&self) -> Result<(), LayerError> {
        let whole = |length: f64| length.fract() == 0.0 && (0.0..=self.time as f64).contains(&length);
        let wrong =
            self.lengths.into_iter().flatten().enumerate().find(|(_, length)| !whole(length.to_f64()));
        wrong.map_or(Ok(()), |(sample, length)| {
            let expected = format_args!("a whole number from 0 to {}", self.time);
            Err(LayerError::value("lstm lengths", expected, format_args!("{length} for sample {sample}")))
        })
    }

    /// The length of a sequence.
    fn of(&self, sample: usize) -> usize {
        self.lengths.map_or(self.time, |lengths| (lengths[sample].to_f64() as usize).min(self.time))
    }

    /// `[batch, time, columns]`
    fn of_steps(&self, columns: usize) -> Result<Shape, ShapeError> {
        Shape::new(&[self.batch, self.time, columns])
    }

    /// Rows of `[batch · time, _]` before the ends, in ranges as long as possible: without lengths in one.
    fn rows(self) -> impl Iterator<Item = Range<usize>> {
        let mut sample = 0;
        iter::from_fn(move || {
            while sample < self.batch && self.of(sample) == 0 {
                sample += 1;
            }
            let first = (sample < self.batch).then_some(sample * self.time)?;
            loop {
                let (end, full) = (sample * self.time + self.of(sample), self.of(sample) == self.time);
                sample += 1;
                if !full || sample == self.batch || self.of(sample) == 0 {
                    return Some(first..end);
                }
            }
        })
    }

    /// Rows of `[batch · time, _]` behind the ends.
    fn behind(self) -> impl Iterator<Item = Range<usize>> {
        let samples = if self.lengths.is_some() { self.batch } else { 0 };
        (0..samples).map(move |sample| {
            let start = sample * self.time;
            start + self.of(sample)..start + self.time
        })
    }

    /// The samples that have time step t, in runs as long as possible. Without lengths one run has all.
    fn runs(self, t: usize, reverse: bool) -> impl Iterator<Item = Run> {
        let starts = move |sample: usize| {
            let end = if sample < self.batch { self.of(sample) } else { 0 };
            (t < end).then_some(if reverse { t + 1 == end } else { t == 0 })
        };
        let mut sample = 0;
        iter::from_fn(move || {
            while sample < self.batch && starts(sample).is_none() {
                sample += 1;
            }
            let (first, kind) = (sample, starts(sample)?);
            while starts(sample) == Some(kind) {
                sample += 1;
            }
            Some(Run { t, samples: first..sample, starts: kind })
        })
    }
}

/// One direction of one layer, in one pass.
#[derive(Clone, Copy)]
struct Direction<'a, T: Scalar> {
    cell: &'a Cell<T>,
    /// The number of the cell, and of its states among those of a sample.
    index: usize,
    /// How many there are.
    cells: usize,
    reverse: bool,
    units: usize,
    /// Columns of y.
    columns: usize,
    /// h0 and c0
    states: Option<[&'a [T]; 2]>,
    ends: Ends<'a, T>,
}

impl<'a, T: Scalar> Direction<'a, T> {
    /// All time steps in its order. A batch without samples has none: its time axis can have any size.
    fn steps(&self) -> impl DoubleEndedIterator<Item = usize> + use<T> {
        let time = if self.ends.batch == 0 { 0 } else { self.ends.time };
        let reverse = self.reverse;
        (0..time).map(move |step| if reverse { time - 1 - step } else { step })
    }

    fn runs(&self, t: usize) -> impl Iterator<Item = Run> {
        self.ends.runs(t, self.reverse)
    }

    /// The time step before t in its order.
    fn before(&self, t: usize) -> usize {
        if self.reverse { t + 1 } else { t - 1 }
    }

    /// Elements of z.
    fn z(&self, sample: usize, t: usize) -> Range<usize> {
        let start = (sample * self.ends.time + t) * 4 * self.units;
        start..start + 4 * self.units
    }

    /// Elements of c.
    fn c(&self, sample: usize, t: usize) -> Range<usize> {
        let start = (sample * self.ends.time + t) * self.units;
        start..start + self.units
    }

    /// Elements of y.
    fn h(&self, sample: usize, t: usize) -> Range<usize> {
        let offset = if self.reverse { self.units } else { 0 };
        let start = (sample * self.ends.time + t) * self.columns + offset;
        start..start + self.units
    }

    /// Elements of h0, c0, hn and cn.
    fn state(&self, sample: usize) -> Range<usize> {
        let start = (sample * self.cells + self.index) * self.units;
        start..start + self.units
    }

    /// z of a run: a row for each sample.
    fn z_of<'z>(&self, run: &Run, z: &'z [T]) -> Result<MatRef<'z, T>, ShapeError> {
        let z = &z[self.z(run.samples.start, run.t).start..];
        MatRef::new(z, [run.samples.len(), 4 * self.units])?.with_row_stride(self.ends.time * 4 * self.units)
    }

    /// The same to be written.
    fn z_of_mut<'z>(&self, run: &Run, z: &'z mut [T]) -> Result<MatMut<'z, T>, ShapeError> {
        let z = &mut z[self.z(run.samples.start, run.t).start..];
        MatMut::new(z, [run.samples.len(), 4 * self.units])?.with_row_stride(self.ends.time * 4 * self.units)
    }

    /// h of a run before its time step, or none where it is 0.
    fn h_before<'m>(&self, run: &Run, y: &'m [T]) -> Result<Option<MatRef<'m, T>>, ShapeError>
    where
        'a: 'm,
    {
        let (first, shape) = (run.samples.start, [run.samples.len(), self.units]);
        if !run.starts {
            let h = MatRef::new(&y[self.h(first, self.before(run.t)).start..], shape)?;
            return h.with_row_stride(self.ends.time * self.columns).map(Some);
        }
        let Some([h0, _]) = self.states else { return Ok(None) };
        let h0 = MatRef::new(&h0[self.state(first).start..], shape)?;
        h0.with_row_stride(self.cells * self.units).map(Some)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        zeros: &[T],
        cache: &mut Cache<T>,
    ) -> Result<(), LayerError> {
        let Cell { weight_ih, weight_hh, bias, packed } = self.cell;
        let (packed_ih, packed_hh) = packed.as_deref().map(|[ih, hh]| (ih, hh)).unzip();
        let (w_ih, w_hh) = (weight_ih.mat().with_packed(packed_ih)?, weight_hh.mat().with_packed(packed_hh)?);
        let [z, c, b] = cache.tensors();
        z.resize(self.ends.of_steps(4 * self.units)?)?;
        c.resize(self.ends.of_steps(self.units)?)?;
        let b = match bias {
            Some([b_ih, b_hh]) => {
                b.zip_from(b_ih, b_hh, |b_ih, b_hh| b_ih + b_hh)?;
                Some(b.as_slice())
            }
            None => None,
        };
        // z = x W_ihᵀ + b of all steps
        for rows in self.ends.rows() {
            affine(part(x, &rows)?, w_ih, b, None, part_mut(z, &rows)?)?;
        }
        let (z, c, y) = (z.as_mut_slice(), c.as_mut_slice(), y.as_mut_slice());
        for t in self.steps() {
            for run in self.runs(t) {
                // z += h(t−1) W_hhᵀ
                if let Some(h) = self.h_before(&run, y)? {
                    matmul(h, w_hh.t(), T::ONE, self.z_of_mut(&run, z)?)?;
                }
                for sample in run.samples.clone() {
                    let (before, c) = match (run.starts, self.reverse) {
                        (true, _) => (self.c_at_start(sample, zeros), &mut c[self.c(sample, t)]),
                        (false, false) => {
                            let (before, c) = c.split_at_mut(self.c(sample, t).start);
                            (&before[self.c(sample, t - 1)], &mut c[..self.units])
                        }
                        (false, true) => {
                            let (c, before) = c.split_at_mut(self.c(sample, t).end);
                            (&before[..self.units], &mut c[self.c(sample, t)])
                        }
                    };
                    kernel::forward(&mut z[self.z(sample, t)], before, c, &mut y[self.h(sample, t)]);
                }
            }
        }
        Ok(())
    }

    fn c_at_start<'c>(&self, sample: usize, zeros: &'c [T]) -> &'c [T]
    where
        'a: 'c,
    {
        self.states.map_or(zeros, |[_, c0]| &c0[self.state(sample)])
    }

    /// Copies the states at the ends.
    fn last_states(&self, y: &Tensor<T>, zeros: &[T], cache: &mut Cache<T>, [hn, cn]: [&mut Tensor<T>; 2]) {
        let [_, c] = cache.tensors();
        for sample in 0..self.ends.batch {
            let state = self.state(sample);
            let (h, c) = match self.ends.of(sample).checked_sub(1) {
                Some(last) => {
                    let last = if self.reverse { 0 } else { last };
                    (&y.as_slice()[self.h(sample, last)], &c.as_slice()[self.c(sample, last)])
                }
                None => match self.states {
                    Some([h0, c0]) => (&h0[state.clone()], &c0[state.clone()]),
                    None => (zeros, zeros),
                },
            };
            hn.as_mut_slice()[state.clone()].copy_from_slice(h);
            cn.as_mut_slice()[state].copy_from_slice(c);
        }
    }

    /// dz of all steps, in place of the gates. dh and dc are ∂l/∂hn and ∂l/∂cn at first and ∂l/∂h0 and ∂l/∂c0
    /// at last; ∂l/∂h0 only if it is wanted.
    fn backward(
        &self,
        dy: Option<&Tensor<T>>,
        zeros: &[T],
        [dh, dc]: [&mut [T]; 2],
        wants_dh0: bool,
        cache: &mut Cache<T>,
    ) -> Result<(), LayerError> {
        let [z, c] = cache.tensors();
        let (z, c) = (z.as_mut_slice(), c.as_slice());
        for t in self.steps().rev() {
            for run in self.runs(t) {
                for sample in run.samples.clone() {
                    let before = match run.starts {
                        true => self.c_at_start(sample, zeros),
                        false => &c[self.c(sample, self.before(t))],
                    };
                    let (z, c, state) =
                        (&mut z[self.z(sample, t)], &c[self.c(sample, t)], self.state(sample));
                    let dy = dy.map_or(zeros, |dy| &dy.as_slice()[self.h(sample, t)]);
                    kernel::backward(z, before, c, dy, &dh[state.clone()], &mut dc[state]);
                }
                // dh = dz W_hh
                if !run.starts || wants_dh0 {
                    let dh = &mut dh[self.state(run.samples.start).start..];
                    let dh = MatMut::new(dh, [run.samples.len(), self.units])?;
                    let dh = dh.with_row_stride(self.cells * self.units)?;
                    matmul(self.z_of(&run, z)?, self.cell.weight_hh.mat(), T::ZERO, dh)?;
                }
            }
        }
        Ok(())
    }

    /// The gradients of the parameters from dz.
    fn gradients(
        &self,
        x: &Tensor<T>,
        y: &Tensor<T>,
        grads: &mut [Grad<T>],
        cache: &mut Cache<T>,
    ) -> Result<(), LayerError> {
        let [dz, _, db, room] = cache.tensors();
        let [dw_ih, dw_hh, biases @ ..] = grads else {
            return Err(LayerError::count("lstm gradients", "two weights and their biases", grads.len()));
        };
        dw_ih.add_to(|dw| {
            let mut sum = SumOfProducts::new(T::ONE, dw.mat_mut(), room);
            for rows in self.ends.rows() {
                sum.add(part(dz, &rows)?.t(), part(x, &rows)?)?;
            }
            sum.finish();
            Ok::<_, TensorError>(())
        })?;
        dw_hh.add_to(|dw| {
            let mut sum = SumOfProducts::new(T::ONE, dw.mat_mut(), room);
            self.add_to_dw_hh(y.as_slice(), dz.as_slice(), &mut sum)?;
            sum.finish();
            Ok::<_, TensorError>(())
        })?;
        if biases.iter().any(Grad::is_wanted) {
            // One sum over all rows is accurate, a sum of each sample's sums isn't. So the rows behind the
            // ends count, which may hold gates of an earlier pass.
            clear_rows(dz, self.ends.behind());
            db.resize([4 * self.units])?;
            sum_of_rows(dz.mat(), T::ZERO, db.as_mut_slice())?;
            for grad in biases {
                grad.add_to(|sum| sum.add(db))?;
            }
        }
        Ok(())
    }

    /// dx ← β dx + dz W_ih
    fn input_gradient(&self, beta: T, dx: &mut Tensor<T>, cache: &mut Cache<T>) -> Result<(), LayerError> {
        let [dz] = cache.tensors();
        for rows in self.ends.rows() {
            matmul(part(dz, &rows)?, self.cell.weight_ih.mat(), beta, part_mut(dx, &rows)?)?;
        }
        Ok(())
    }

    /// dW_hh ← dW_hh + Σ dzᵀ h(t−1): a product for each time step, of all samples, or for each sample, of all
    /// time steps, whichever are fewer. The first time step has h0, and always a product of its own.
    fn add_to_dw_hh(&self, y: &[T], dz: &[T], dw: &mut SumOfProducts<'_, T>) -> Result<(), TensorError> {
        let by_time = self.ends.time < self.ends.batch;
        for t in self.steps() {
            for run in self.runs(t).filter(|run| run.starts || by_time) {
                if let Some(h) = self.h_before(&run, y)? {
                    dw.add(self.z_of(&run, dz)?.t(), h)?;
                }
            }
        }
        for sample in 0..if by_time { 0 } else { self.ends.batch } {
            let Some(last @ 1..) = self.ends.of(sample).checked_sub(1) else { continue };
            let [of_z, of_h] = if self.reverse { [0, 1] } else { [1, 0] };
            let dz = MatRef::new(&dz[self.z(sample, of_z).start..], [last, 4 * self.units])?;
            let h = MatRef::new(&y[self.h(sample, of_h).start..], [last, self.units])?;
            let h = h.with_row_stride(self.columns)?;
            dw.add(dz.t(), h)?;
        }
        Ok(())
    }
}

/// Rows of a tensor.
fn part<'a, T: Scalar>(x: &'a Tensor<T>, rows: &Range<usize>) -> Result<MatRef<'a, T>, ShapeError> {
    let columns = x.shape().columns();
    MatRef::new(&x.as_slice()[rows.start * columns..], [rows.len(), columns])
}

/// Rows of a tensor, to be written.
fn part_mut<'a, T: Scalar>(x: &'a mut Tensor<T>, rows: &Range<usize>) -> Result<MatMut<'a, T>, ShapeError> {
    let columns = x.shape().columns();
    MatMut::new(&mut x.as_mut_slice()[rows.start * columns..], [rows.len(), columns])
}

/// Sets rows of a tensor to 0.
fn clear_rows<T: Scalar>(x: &mut Tensor<T>, rows: impl Iterator<Item = Range<usize>>) {
    let columns = x.shape().columns();
    for rows in rows {
        x.as_mut_slice()[rows.start * columns..rows.end * columns].fill(T::ZERO);
    }
}

/// A tensor's name, such as `weight_ih_l0_reverse`. It is made for each visit, without an allocation: kept,
/// the names would be a quarter of a small layer's memory.
struct Name {
    bytes: [u8; 32],
    len: usize,
}

impl Name {
    const NAMES: [&str; 4] = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"];

    /// In the `i`th cell.
    fn new(name: &str, i: usize, config: LstmConfig) -> Self {
        let (layer, direction) = (i / config.directions(), i % config.directions());
        let mut new = Self { bytes: [0; 32], len: 0 };
        let suffix = if direction == 0 { "" } else { "_reverse" };
        let written = write!(new, "{name}_l{layer}{suffix}");
        debug_assert!(written.is_ok(), "no layer has a number of more than four digits");
        new
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

impl<T: Scalar> NamedTensors<T> for Lstm<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        for (i, Cell { weight_ih, weight_hh, bias, .. }) in self.cells.iter().enumerate() {
            let tensors = [weight_ih, weight_hh].into_iter().chain(bias.iter().flatten());
            for (tensor, name) in tensors.zip(Name::NAMES) {
                visitor(path.join(Name::new(name, i, self.config).as_str()), Role::Parameter, tensor);
            }
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        let config = self.config;
        for (i, Cell { weight_ih, weight_hh, bias, packed }) in self.cells.iter_mut().enumerate() {
            *packed = None;
            let tensors = [weight_ih, weight_hh].into_iter().chain(bias.iter_mut().flatten());
            for (tensor, name) in tensors.zip(Name::NAMES) {
                visitor(path.join(Name::new(name, i, config).as_str()), Role::Parameter, tensor);
            }
        }
    }
}

impl<T: Scalar> Layer<T> for Lstm<T> {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        let [batch, time] = self.sizes("lstm forward", &[x])?;
        Ok(Shape::new(&[batch, time, self.config.columns()])?)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        self.run(self.inputs_of("lstm forward", &[x])?, y, None, cache)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let at = AtMany { x: &[at.x], y: &[at.y], cache: at.cache, mode: at.mode };
        self.backward_many(at, &[Some(dy), None, None], &mut [dx], grads)
    }

    fn inputs(&self) -> RangeInclusive<usize> {
        1..=4
    }

    fn outputs(&self) -> usize {
        3
    }

    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        let [batch, time] = self.sizes("lstm forward", x)?;
        let [y, hn, cn] = y else { return Err(LayerError::count("lstm forward", "three outputs", y.len())) };
        *y = Shape::new(&[batch, time, self.config.columns()])?;
        [*hn, *cn] = [self.state(batch)?; 2];
        Ok(())
    }

    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        let inputs = self.inputs_of("lstm forward", x)?;
        let [y, hn, cn] = y else { return Err(LayerError::count("lstm forward", "three outputs", y.len())) };
        self.run(inputs, y, Some([hn, cn]), cache)
    }

    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let inputs = self.inputs_of("lstm backward", at.x)?;
        let (dy, dhn, dcn) = match *dy {
            [dy] => (dy, None, None),
            [dy, dhn, dcn] => (dy, dhn, dcn),
            _ => return Err(LayerError::count("lstm backward", "three outputs", dy.len())),
        };
        let (Some(&y), true) = (at.y.first(), dx.len() == at.x.len()) else {
            return Err(LayerError::count("lstm backward", at.x.len(), dx.len()));
        };
        self.check(&inputs, y, [dy, dhn, dcn], grads, at.cache)?;
        let Some((dx, others)) = dx.split_first_mut() else { return Ok(()) };
        // Of four inputs and of three the second and third are states.
        let (states, lengths) = others.split_at_mut(others.len() & !1);
        if let ([Some(zeros)], [.., x]) = (lengths, at.x) {
            zeros_like(zeros, x)?;
        }
        let [dh0, dc0] = match states {
            [dh0, dc0] => [dh0.as_deref_mut(), dc0.as_deref_mut()],
            _ => [None, None],
        };
        let (wants_dh0, layers, count) = (dh0.is_some(), self.config.layers, self.config.tensors());
        let wants = |grads: &[Grad<T>], index| grads[index * count..][..count].iter().any(Grad::is_wanted);
        let to_input = dx.is_some() || wants_dh0 || dc0.is_some();
        // Below the lowest layer nobody wants a gradient.
        let is_wanted = |&layer: &usize| to_input || self.of_layer(layer).any(|index| wants(grads, index));
        let Some(lowest) = (0..layers).find(is_wanted) else { return Ok(()) };
        let (own, caches) = at.cache.split(layers + 3, self.cells.len())?;
        let (inner, own) = own.split_at_mut(layers - 1);
        let [zeros, between, dh, dc] = own else { return Ok(()) };
        let zeros = self.zeros(zeros)?;
        // dh and dc go from step to step in place, where ∂l/∂h0 and ∂l/∂c0 are wanted at the end.
        let (dh, dc) = (dh0.unwrap_or(dh), dc0.unwrap_or(dc));
        for (d, dn) in [(&mut *dh, dhn), (&mut *dc, dcn)] {
            d.resize(self.state(inputs.ends.batch)?)?;
            match dn {
                Some(dn) => d.as_mut_slice().copy_from_slice(dn.as_slice()),
                None => d.fill(T::ZERO),
            }
        }
        if dy.is_none() && dhn.is_none() && dcn.is_none() {
            return dx.as_deref_mut().map_or(Ok(()), |dx| zeros_like(dx, inputs.x));
        }
        for layer in (lowest..layers).rev() {
            let x = if layer == 0 { inputs.x } else { &inner[layer - 1] };
            let y = inner.get(layer).unwrap_or(y);
            let dy = if layer + 1 == layers { dy } else { Some(&*between) };
            for index in self.of_layer(layer) {
                // Nothing is below that needs it.
                if layer == lowest && !to_input && !wants(grads, index) {
                    continue;
                }
                let (direction, cache) = (self.direction(index, &inputs), &mut caches[index]);
                let states = [dh.as_mut_slice(), dc.as_mut_slice()];
                direction.backward(dy, zeros, states, wants_dh0, cache)?;
                direction.gradients(x, y, &mut grads[index * count..][..count], cache)?;
            }
            // Both directions have read ∂l/∂y. So ∂l/∂x, which is ∂l/∂y of the layer below, may take its
            // place.
            let dx = match layer {
                0 => dx.as_deref_mut(),
                _ => (layer > lowest).then_some(&mut *between),
            };
            let Some(dx) = dx else { continue };
            dx.resize(x.shape())?;
            clear_rows(dx, inputs.ends.behind());
            for index in self.of_layer(layer) {
                let direction = self.direction(index, &inputs);
                let beta = if direction.reverse { T::ONE } else { T::ZERO };
                direction.input_gradient(beta, dx, &mut caches[index])?;
            }
        }
        Ok(())
    }

    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        for Cell { weight_ih, weight_hh, packed, .. } in &mut self.cells {
            *packed = Some(Box::new([packer.pack(weight_ih.mat())?, packer.pack(weight_hh.mat())?]));
        }
        Ok(())
    }

    fn options(&self) -> Options {
        let LstmConfig { in_features, units, layers, bidirectional, bias } = self.config;
        Options::new()
            .with("in_features", in_features)
            .with("units", units)
            .with("layers", layers)
            .with("bidirectional", bidirectional)
            .with("bias", bias)
    }

    fn defaults(&self, _: Sealed) -> Options {
        let LstmConfig { layers, bidirectional, .. } = LstmConfig::new(1, 1);
        Options::new().with("layers", layers).with("bidirectional", bidirectional)
    }
}

impl<T: Scalar> Builtin<T> for Lstm<T> {
    const KIND: &'static str = "Lstm";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let config = LstmConfig::new(from.size("in_features")?, from.size("units")?)
            .layers(from.size("layers")?)
            .bidirectional(from.flag("bidirectional")?)
            .bias(from.flag("bias")?);
        config.assemble(|_, shape| from.zeros(shape))
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        let of = |name, config: LstmConfig, [batch, time]: [usize; 2], states: bool, lengths: bool| {
            let layer: Self = config.build(&mut random::rng(1)).ok()?;
            let state = Input::normal(&[batch, layer.cells.len(), config.units]);
            let mut inputs = vec![Input::normal(&[batch, time, config.in_features])];
            inputs.extend(iter::repeat_n(state, if states { 2 } else { 0 }));
            inputs.extend(lengths.then(|| Input::whole(&[batch], 1, time as u32 + 1)));
            Some(Sample::new(name, layer, inputs))
        };
        let config = LstmConfig::new;
        let both = config(2, 3).bidirectional(true);
        let samples = [
            of("one", config(1, 1), [1, 1], true, false),
            of("sequence", config(3, 2), [2, 5], false, false),
            of("without bias", config(2, 5).bias(false), [7, 3], true, false),
            of("lengths", config(3, 2), [5, 4], false, true),
            of("two layers", config(2, 3).layers(2), [3, 4], true, true),
            of("both ways", both, [3, 4], true, false),
            of("two layers both ways", both.layers(2), [6, 5], true, true),
            of("wide", config(5, 17), [2, 3], false, false),
            of("16x16x32", config(32, 32), [16, 16], false, false).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        let inputs = match case.op {
            "lstm" | "lstm_truncated" => vec!["input", "h0", "c0"],
            "lstm_lengths" => vec!["input", "lengths"],
            _ => return None,
        };
        let columns = |name| case.tensor(name).map(|weight| weight.shape().columns());
        let config = LstmConfig::new(columns("weight_ih_l0")?, columns("weight_hh_l0")?);
        let config = config
            .layers(case.whole("layers", 1))
            .bidirectional(case.flag("bidirectional", false))
            .bias(case.flag("bias", true));
        // The order of the blocks, and how the caller cuts the sequences.
        let _ = (case.word("gates", ""), case.options.wholes("parts"));
        let missing = || ConfigError::new("Lstm", "tensor", "one of the case's", "none").into();
        let layer = config.assemble(|name, _| case.tensor(name).ok_or_else(missing)).ok()?;
        let outputs = vec!["output", "hn", "cn"];
        Some(Oracle { inputs, outputs, ..Oracle::new(layer) })
    }
}

/// The settings of an [`Lstm`].
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, random};
/// use backrule_nn::{Lstm, LstmConfig};
///
/// let config = LstmConfig::new(12, 64).layers(2).bidirectional(true);
/// let lstm: Lstm = config.build(&mut random::rng(1))?;
/// let columns = |path| lstm.tensor(path).map(|weight| weight.shape().columns());
/// assert_eq!(columns("weight_ih_l0"), Some(12));
/// assert_eq!(columns("weight_ih_l1_reverse"), Some(2 * 64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct LstmConfig {
    in_features: usize,
    units: usize,
    layers: usize,
    bidirectional: bool,
    bias: bool,
}

impl LstmConfig {
    /// Layers that there may be.
    const MOST: usize = 1024;

    /// One layer in one direction, with biases.
    pub const fn new(in_features: usize, units: usize) -> Self {
        Self { in_features, units, layers: 1, bidirectional: false, bias: true }
    }

    /// The number of layers, one on the other. The default is 1.
    pub fn layers(mut self, layers: usize) -> Self {
        self.layers = layers;
        self
    }

    /// Whether each layer has a second direction, from the end to the beginning. The default is that it
    /// hasn't.
    pub fn bidirectional(mut self, bidirectional: bool) -> Self {
        self.bidirectional = bidirectional;
        self
    }

    /// Whether there are biases. The default is that there are.
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// A layer of these settings, whose parameters start uniformly within ±1/√units.
    ///
    /// # Errors
    /// When a size is 0, there are more than 1024 layers, or there is no memory.
    pub fn build<T: Scalar>(self, rng: &mut (impl Rng + ?Sized)) -> Result<Lstm<T>, ArchitectureError> {
        self.assemble(|_, shape| Ok(Init::FanIn.tensor(shape, self.units, self.units, rng)?))
    }

    fn directions(self) -> usize {
        1 + usize::from(self.bidirectional)
    }

    /// Columns of y.
    fn columns(self) -> usize {
        self.directions() * self.units
    }

    /// Tensors of each direction of each layer.
    fn tensors(self) -> usize {
        if self.bias { 4 } else { 2 }
    }

    /// A layer of tensors that `tensor` gives for their names and shapes.
    fn assemble<T: Scalar>(
        self,
        mut tensor: impl FnMut(&str, Shape) -> Result<Tensor<T>, ArchitectureError>,
    ) -> Result<Lstm<T>, ArchitectureError> {
        for (option, size) in [("in_features", self.in_features), ("units", self.units)] {
            if size == 0 {
                return Err(ConfigError::new("Lstm", option, "at least 1", size).into());
            }
        }
        if !(1..=Self::MOST).contains(&self.layers) {
            return Err(ConfigError::new("Lstm", "layers", "1 to 1024", self.layers).into());
        }
        let rows = self.units.saturating_mul(4);
        let mut cells = memory::room("new LSTM", self.layers * self.directions())?;
        for i in 0..self.layers * self.directions() {
            let mut tensor = |name, shape| tensor(Name::new(name, i, self).as_str(), shape);
            let [ih, hh, bias_ih, bias_hh] = Name::NAMES;
            let columns = if i < self.directions() { self.in_features } else { self.columns() };
            let weight_ih = tensor(ih, Shape::new(&[rows, columns])?)?;
            let weight_hh = tensor(hh, Shape::new(&[rows, self.units])?)?;
            let bias = match self.bias {
                true => {
                    let shape = Shape::new(&[rows])?;
                    Some([tensor(bias_ih, shape)?, tensor(bias_hh, shape)?])
                }
                false => None,
            };
            cells.push(Cell { weight_ih, weight_hh, bias, packed: None });
        }
        Ok(Lstm { config: self, cells })
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;
    use crate::{Grads, Tape, predict, predict_many};

    type Tensor = backrule_tensor::Tensor<f64>;

    /// Of another layer, to see that all of them are read.
    #[test]
    fn packed_weights_are_read() {
        let of =
            |seed| LstmConfig::new(8, 8).layers(2).bias(false).build::<f64>(&mut random::rng(seed)).unwrap();
        let (mut layer, mut other) = (of(1), of(2));
        other.prepare(&mut Packer { bytes: 0 }).unwrap();
        for (cell, other) in layer.cells.iter_mut().zip(&other.cells) {
            cell.packed = other.packed.clone();
        }
        let x = Tensor::normal([5, 6, 8], 0.0, 1.0, &mut random::rng(3)).unwrap();
        assert_eq!(predict(&layer, &x).unwrap(), predict(&other, &x).unwrap());
    }

    fn normal(shape: &[usize], seed: u64) -> Tensor {
        Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).unwrap()
    }

    fn both_ways() -> Lstm<f64> {
        LstmConfig::new(3, 2).layers(2).bidirectional(true).build(&mut random::rng(1)).unwrap()
    }

    /// Outputs, gradients of the inputs and of the parameters.
    fn pass(
        lstm: &Lstm<f64>,
        x: &[&Tensor],
        dy: &[Option<&Tensor>],
        grads: &mut Grads<f64>,
    ) -> [Vec<Tensor>; 2] {
        let mut tape = Tape::new();
        let pass = tape.forward_many(lstm, x, Mode::train()).unwrap();
        let y = pass.outputs().to_vec();
        let mut dx = vec![Tensor::default(); x.len()];
        let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
        pass.backward_many_to_inputs(dy, grads, &mut wanted).unwrap();
        [y, dx]
    }

    fn grads_of(lstm: &Lstm<f64>) -> Grads<f64> {
        Grads::new(lstm).unwrap()
    }

    /// Steps of `[1, time, features]`.
    fn steps(x: &Tensor, range: Range<usize>) -> Tensor {
        let columns = x.shape().columns();
        let part = x.as_slice()[range.start * columns..range.end * columns].to_vec();
        Tensor::from_vec([1, range.len(), columns], part).unwrap()
    }

    #[test]
    fn what_it_cannot_take_is_refused() {
        let lstm = LstmConfig::new(3, 2).build(&mut random::rng(1)).unwrap();
        let (x, state, zeros) =
            (normal(&[2, 4, 3], 1), normal(&[2, 1, 2], 2), |shape: &[usize]| Tensor::zeros(shape).unwrap());
        let refusal = |x: &[&Tensor]| predict_many(&lstm, x).unwrap_err().to_string();
        let cases: [(&[&Tensor], &str); 6] = [
            (&[&zeros(&[4, 3])], "lstm forward: expected [_, _, 3], got [4, 3]"),
            (&[&zeros(&[2, 4, 5])], "lstm forward: expected [_, _, 3], got [2, 4, 5]"),
            (&[&x, &zeros(&[3])], "lstm lengths: expected [2], got [3]"),
            (&[&x, &state, &zeros(&[1, 2, 2])], "lstm states: expected [2, 1, 2], got [1, 2, 2]"),
            (&[&x, &state, &state, &state], "lstm lengths: expected [2], got [2, 1, 2]"),
            (&[&x; 5], "lstm forward: expected 1 to 4 inputs, got 5"),
        ];
        for (x, message) in cases {
            assert_eq!(refusal(x), message);
        }
        for (length, got) in [(2.5, "2.5"), (f64::NAN, "NaN"), (-1.0, "-1"), (5.0, "5"), (1e300, "1")] {
            let refusal = refusal(&[&x, &Tensor::from([4.0, length])]);
            let expected = format!("lstm lengths: expected a whole number from 0 to 4, got {got}");
            assert!(refusal.starts_with(&expected) && refusal.ends_with(" for sample 1"), "{refusal}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refusal = |config: LstmConfig| config.build::<f32>(&mut random::rng(1)).unwrap_err().to_string();
        assert_eq!(refusal(LstmConfig::new(0, 1)), "Lstm: in_features: expected at least 1, got 0");
        assert_eq!(refusal(LstmConfig::new(1, 0)), "Lstm: units: expected at least 1, got 0");
        for layers in [0, 1025, usize::MAX] {
            let refusal = refusal(LstmConfig::new(1, 1).layers(layers));
            assert_eq!(refusal, format!("Lstm: layers: expected 1 to 1024, got {layers}"));
        }
        assert!(LstmConfig::new(1, usize::MAX).build::<f32>(&mut random::rng(1)).is_err());
        let of = |shapes: &[&[usize]]| {
            let tensors = shapes.iter().map(|&shape| Tensor::zeros(shape).unwrap());
            Lstm::from_tensors(LstmConfig::new(3, 2).bias(false), tensors)
                .map(drop)
                .map_err(|e| e.to_string())
        };
        let refused = |message: &str| Err(message.to_string());
        assert_eq!(of(&[&[8, 3], &[8, 2]]), Ok(()));
        assert_eq!(
            of(&[&[8, 3], &[2, 8]]),
            refused("weight_hh_l0: lstm tensors: expected [8, 2], got [2, 8]")
        );
        assert_eq!(of(&[&[8, 3]]), refused("weight_hh_l0: lstm tensors: expected [8, 2], got none"));
        assert_eq!(of(&[&[8, 3], &[8, 2], &[8]]), refused("lstm tensors: expected 2, got more"));
    }

    /// Names and order are PyTorch's.
    #[test]
    fn parameters_have_their_names_and_start_within_one_over_root_of_units() {
        let lstm = LstmConfig::new(3, 16).layers(2).bidirectional(true).build(&mut random::rng(1)).unwrap();
        let mut names = Vec::new();
        for (path, tensor) in NamedTensors::<f64>::tensors(&lstm) {
            let largest = tensor.as_slice().iter().fold(0.0_f64, |a, x| a.max(x.abs()));
            assert!(largest <= 0.25 && largest > 0.2, "{path}: {largest}");
            names.push(path);
        }
        let expected: Vec<_> = ["l0", "l0_reverse", "l1", "l1_reverse"]
            .iter()
            .flat_map(|l| ["weight_ih", "weight_hh", "bias_ih", "bias_hh"].map(|name| format!("{name}_{l}")))
            .collect();
        assert_eq!(names, expected);
    }

    /// Two parts with the states handed on are the whole sequence, but no gradient passes between them.
    #[test]
    fn truncation_is_the_callers() {
        let lstm = LstmConfig::new(3, 2).layers(2).build(&mut random::rng(1)).unwrap();
        let (x, dy) = (normal(&[1, 5, 3], 2), normal(&[1, 5, 2], 3));
        let [mut h, mut c] = lstm.zero_states(1).unwrap();
        let (mut sum, mut y) = (grads_of(&lstm), Vec::new());
        for part in [0..2, 2..5] {
            let (x, dy) = (steps(&x, part.clone()), steps(&dy, part));
            let [out, _] = pass(&lstm, &[&x, &h, &c], &[Some(&dy), None, None], &mut sum);
            y.extend_from_slice(out[0].as_slice());
            [h, c] = [out[1].clone(), out[2].clone()];
        }
        let mut whole = grads_of(&lstm);
        let [out, dx] = pass(&lstm, &[&x], &[Some(&dy), None, None], &mut whole);
        assert_eq!([&y[..], h.as_slice(), c.as_slice()], [0, 1, 2].map(|i| out[i].as_slice()));
        assert_ne!(sum[0], whole[0]);

        // With the states' gradients handed back, the parts have the gradients of the whole.
        let zeros = lstm.zero_states(1).unwrap();
        let first = steps(&x, 0..2);
        let out = predict_many(&lstm, &[&first, &zeros[0], &zeros[1]]).unwrap();
        let mut handed = grads_of(&lstm);
        let second = [&steps(&x, 2..5), &out[1], &out[2]];
        let [_, d] = pass(&lstm, &second, &[Some(&steps(&dy, 2..5)), None, None], &mut handed);
        let upstream = [Some(&steps(&dy, 0..2)), Some(&d[1]), Some(&d[2])];
        let [_, d_first] = pass(&lstm, &[&first], &upstream, &mut handed);
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-14);
        assert!(
            close(d_first[0].as_slice(), dx[0].as_slice()) && close(d[0].as_slice(), &dx[0].as_slice()[6..])
        );
        for (handed, whole) in handed.iter().zip(whole.iter()) {
            assert!(close(handed.get().unwrap().as_slice(), whole.get().unwrap().as_slice()));
        }
    }

    /// Sequences of different lengths give the results of each alone. NaN behind the ends reaches nothing.
    #[test]
    fn what_stands_behind_an_end_is_not_read() {
        let lstm = both_ways();
        let lengths = [2, 0, 5, 5, 3, 1, 1];
        let (batch, time) = (lengths.len(), 5);
        let mut x = normal(&[batch, time, 3], 2);
        for (sample, length) in lengths.into_iter().enumerate() {
            x.as_mut_slice()[(sample * time + length) * 3..(sample + 1) * time * 3].fill(f64::NAN);
        }
        let states = [normal(&[batch, 4, 2], 3), normal(&[batch, 4, 2], 4)];
        let dy = [normal(&[batch, time, 4], 5), normal(&[batch, 4, 2], 6), normal(&[batch, 4, 2], 7)];
        let of_batch = Tensor::from(lengths.map(|length| length as f64));
        // More samples than steps, and fewer: both orders of ∂l/∂W_hh.
        for samples in [0..batch, 0..3] {
            let part = |t: &Tensor| t.slice(samples.clone()).unwrap();
            let inputs = [&x, &states[0], &states[1], &of_batch].map(part);
            let upstream = dy.each_ref().map(part);
            let (mut whole, mut alone) = (grads_of(&lstm), grads_of(&lstm));
            let [y, dx] = pass(&lstm, &inputs.each_ref(), &upstream.each_ref().map(Some), &mut whole);
            for sample in samples.clone() {
                let (of_sample, length) = (sample..sample + 1, lengths[sample]);
                let one = |t: &Tensor| t.slice(of_sample.clone()).unwrap();
                let inputs = [&steps(&one(&x), 0..length), &one(&states[0]), &one(&states[1])];
                let upstream = [steps(&one(&dy[0]), 0..length), one(&dy[1]), one(&dy[2])];
                let [y1, dx1] = pass(&lstm, &inputs, &upstream.each_ref().map(Some), &mut alone);
                for (whole, alone) in [(&y, &y1), (&dx, &dx1)] {
                    let (padded, own) = (one(&whole[0]), alone[0].as_slice());
                    assert_eq!(&padded.as_slice()[..own.len()], own);
                    assert!(padded.as_slice()[own.len()..].iter().all(|&y| y == 0.0));
                    assert_eq!([one(&whole[1]), one(&whole[2])], [alone[1].clone(), alone[2].clone()]);
                }
            }
            assert_eq!(dx[3], Tensor::zeros_like(&inputs[3]).unwrap());
            for (whole, alone) in whole.iter().zip(alone.iter()) {
                let [whole, alone] = [whole, alone].map(|grad| grad.get().unwrap().as_slice());
                assert!(whole.iter().zip(alone).all(|(a, b)| (a - b).abs() < 1e-13), "{whole:?} {alone:?}");
            }
        }
    }

    #[test]
    fn what_is_not_given_is_zero_or_full_and_the_short_form_is_y() {
        let lstm = both_ways();
        let (x, [h0, c0]) = (normal(&[2, 4, 3], 2), lstm.zero_states(2).unwrap());
        let full = Tensor::from([4.0, 4.0]);
        let y = predict_many(&lstm, &[&x]).unwrap();
        assert_eq!(predict_many(&lstm, &[&x, &full]).unwrap(), y);
        assert_eq!(predict_many(&lstm, &[&x, &h0, &c0]).unwrap(), y);
        assert_eq!(predict_many(&lstm, &[&x, &h0, &c0, &full]).unwrap(), y);
        assert_eq!(predict(&lstm, &x).unwrap(), y[0]);
        let (dy, mut long, mut short) = (normal(&[2, 4, 4], 5), grads_of(&lstm), grads_of(&lstm));
        let [_, dx] = pass(&lstm, &[&x], &[Some(&dy), None, None], &mut long);
        let (mut tape, mut of_short) = (Tape::new(), Tensor::default());
        let run = tape.forward(&lstm, &x, Mode::train()).unwrap();
        run.backward_to_input(&dy, &mut short, &mut of_short).unwrap();
        assert_eq!((&of_short, &short), (&dx[0], &long));
    }

    #[test]
    fn outputs_that_nobody_uses_have_no_gradient() {
        let (lstm, x) = (both_ways(), normal(&[2, 4, 3], 2));
        let mut grads = grads_of(&lstm);
        let [_, dx] = pass(&lstm, &[&x], &[None, None, None], &mut grads);
        assert_eq!(dx[0], Tensor::zeros_like(&x).unwrap());
        assert!(grads.iter().all(Grad::is_zero));
    }

    #[test]
    fn empty_batches_and_sequences_work() {
        let lstm = both_ways();
        for [batch, time] in [[0, 3], [2, 0], [0, 1 << 50]] {
            let state = normal(&[batch, 4, 2], 1);
            let x = Tensor::zeros([batch, time, 3]).unwrap();
            let dy = [Some(&Tensor::zeros([batch, time, 4]).unwrap()), Some(&state), None];
            let [y, dx] = pass(&lstm, &[&x, &state, &state], &dy, &mut grads_of(&lstm));
            assert_eq!([&y[1], &y[2], &dx[1]], [&state; 3]);
            assert_eq!((y[0].shape(), dx[0].shape()), (dy[0].unwrap().shape(), x.shape()));
        }
    }

    /// The rule refuses notes of another pass instead of reading them.
    #[test]
    fn notes_of_another_pass_are_refused() {
        let (lstm, x) = (both_ways(), normal(&[2, 4, 3], 2));
        let (mut y, mut cache) = (Tensor::default(), Cache::default());
        lstm.forward(&normal(&[2, 3, 3], 3), &mut y, &mut cache, Mode::train()).unwrap();
        let y = predict(&lstm, &x).unwrap();
        let at = At { x: &x, y: &y, cache: &mut cache, mode: Mode::train() };
        let mut grads = grads_of(&lstm);
        let error = lstm.backward(at, &y, None, &mut grads).unwrap_err();
        assert_eq!(error.to_string(), "lstm backward: expected [2, 4, 4], got [2, 3, 4]");
        let at = At { x: &x, y: &y, cache: &mut cache, mode: Mode::train() };
        let error = lstm.backward(at, &y, None, &mut grads[1..]).unwrap_err();
        assert_eq!(error.to_string(), "lstm gradients: expected 16, got 15");
    }
}
