//! formula: softmax(q kᵀ / √d) v for each head
//! rule: that of each product and of the softmax
//! tape: y, q, k, v, the heads' results, and the probabilities

use std::iter;
use std::ops::{Range, RangeInclusive};

use backrule_tensor::kernels::softmax::{self, Rule};
use backrule_tensor::linalg::{Epilogue, MatMut, MatRef, Packed, SumOfProducts, affine, matmul, sum_of_rows};
use backrule_tensor::rand::Rng;
use backrule_tensor::{
    ConfigError, Grad, Options, Scalar, Shape, ShapeError, Tensor, affine_activation_into, apply,
    matmul_into, matmul_tn_into, named_tensors,
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

const FORWARD: &str = "multi-head attention forward";
const BACKWARD: &str = "multi-head attention backward";
/// Queries of a causal layer that are multiplied at once. Keys that only some see follow query by query.
const BLOCK: usize = 16;
/// At most so many blocks: a value's gradient is the sum of theirs, and its error grows with their number.
const BLOCKS: usize = 256;

/// Multi-head attention (A. Vaswani et al., 2017): every query takes a mean of values, weighted by how well
/// their keys fit.
///
/// For x `[batch, time, e]` and a memory m `[batch, source, e]`, which is x itself in self-attention:
///
/// q = x W_qᵀ + b_q, k = m W_kᵀ + b_k, v = m W_vᵀ + b_v
///
/// Each of n heads has e/n of the features of q, k and v, and for every query t and key s
///
/// p(t, s) = softmaxₛ(q(t)·k(s) / √(e/n)), z(t) = Σₛ p(t, s) v(s)
///
/// y = z W_oᵀ + b_o, where z has the heads side by side, is `[batch, time, e]`.
///
/// | tensor | shape |
/// |---|---|
/// | `in_proj_weight`: W_q, W_k, W_v | `[3 e, e]` |
/// | `in_proj_bias`: b_q, b_k, b_v | `[3 e]` |
/// | `out_proj.weight`, W_o | `[e, e]` |
/// | `out_proj.bias`, b_o | `[e]` |
///
/// # Inputs and outputs
/// [`MultiHeadAttentionConfig`] says which there are. The form of one input, [`forward`](Layer::forward), is
/// self-attention; a layer with more inputs refuses it.
///
/// | settings | inputs |
/// |---|---|
/// | | x |
/// | `lengths` | x, lengths |
/// | `cross` | x, m |
/// | `cross`, `lengths` | x, m, lengths |
///
/// With `probabilities` there is a second output, p `[batch, n, time, source]`. It is differentiated, too: a
/// loss on it reaches q and k. A forward pass of one output gives y alone.
///
/// # Hidden keys
/// Lengths `[batch]` are whole numbers from 0 to source: a sample's keys from its length on are hidden. In a
/// causal layer query t sees keys up to t. A hidden key isn't part of the softmax's row at all. So its p is
/// exactly 0, ∂l/∂m is 0 where all queries miss it, and NaN in a key or value doesn't reach y of a query from
/// which it is hidden. A query without keys has z = 0 and no gradient. Lengths hide keys only: queries behind
/// a length have an output, which a loss or a mean should leave out.
///
/// # Rule
/// With dz = ∂l/∂y W_o, and for each head, summed over the positions it sees:
///
/// | derivative | formula |
/// |---|---|
/// | dp(t, s) | dz(t)·v(s), and ∂l/∂p(t, s) of the second output |
/// | da(t, s) | p(t, s) (dp(t, s) − Σᵣ dp(t, r) p(t, r)) |
/// | dq(t) | Σₛ da(t, s) k(s) / √(e/n) |
/// | dk(s), dv(s) | Σₜ da(t, s) q(t) / √(e/n), Σₜ p(t, s) dz(t) |
/// | ∂l/∂x, ∂l/∂m | dq W_q, dk W_k + dv W_v; in self-attention their sum |
/// | ∂l/∂W_q, ∂l/∂W_k, ∂l/∂W_v | Σ dqᵀ x, Σ dkᵀ m, Σ dvᵀ m |
/// | ∂l/∂W_o | Σ (∂l/∂y)ᵀ z |
/// | ∂l/∂b | Σ dq, Σ dk, Σ dv; Σ ∂l/∂y |
///
/// # Memory
/// The tape keeps q, k, v and z, and the probabilities of the batch: batch · n · time · source numbers.
///
/// # Differences from PyTorch
/// Names, layouts and start of the parameters are PyTorch's. The batch is always the first axis. Lengths
/// stand for its `key_padding_mask`, `causal` for its `attn_mask`; there are no other masks. Keys and values
/// have e features and come from one memory. Probabilities are those of each head, not their mean, and there
/// is no dropout on them. A query without keys is b_o, and not NaN.
///
/// # Example
/// One head of one feature, W_q = ln 3, W_k = W_v = W_o = 1:
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Mode, MultiHeadAttention, MultiHeadAttentionConfig, Tape};
///
/// let config = MultiHeadAttentionConfig::new(1, 1).bias(false);
/// let w_qkv = Tensor::from([[3_f64.ln()], [1.0], [1.0]]);
/// let attention = MultiHeadAttention::from_tensors(config, [w_qkv, Tensor::from([[1.0]])])?;
/// let x = Tensor::from([[[0.0], [1.0]]]); // q = (0, ln 3), k = v = (0, 1)
/// let mut grads = Grads::new(&attention)?;
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
///
/// // Query 0: scores (0, 0), so p = (½, ½). Query 1: scores (0, ln 3), so p = (¼, ¾).
/// // y = p v
/// let pass = tape.forward(&attention, &x, Mode::Eval)?;
/// assert_eq!(format!("{:.2}", pass.output()), "[[[0.50],\n  [0.75]]]");
///
/// // Of y in query 1: dv = p = (¼, ¾), dp = v = (0, 1), Σ dp p = ¾,
/// // da = (−¾ · ¼, ¼ · ¾) = (−3/16, 3/16),
/// // dq = 3/16 · 1 for query 1, dk = ln 3 (−3/16, 3/16) = (−0.206, 0.206).
/// pass.backward_to_input(&Tensor::from([[[0.0], [1.0]]]), &mut grads, &mut dx)?;
/// // ¼ − 0.206, and ¾ + 0.206 + 3/16 · ln 3
/// assert_eq!(format!("{dx:.3}"), "[[[0.044],\n  [1.162]]]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MultiHeadAttention<T: Scalar = f32> {
    config: MultiHeadAttentionConfig,
    in_proj_weight: Tensor<T>,
    in_proj_bias: Option<Tensor<T>>,
    out_proj: OutProj<T>,
    /// W_q; W_k above W_v; W_o
    packed: Option<Box<[Packed<T>; 3]>>,
}

/// W_o and b_o, whose names are `out_proj.weight` and `out_proj.bias`.
#[derive(Clone, Debug, PartialEq)]
struct OutProj<T: Scalar> {
    weight: Tensor<T>,
    bias: Option<Tensor<T>>,
}

named_tensors!(MultiHeadAttention { in_proj_weight, in_proj_bias, out_proj } forgets { packed });
named_tensors!(OutProj { weight, bias });

impl<T: Scalar> MultiHeadAttention<T> {
    /// Self-attention that sees everything. [`MultiHeadAttentionConfig`] has the other choices.
    ///
    /// # Errors
    /// When `heads` doesn't divide `features`, one of them is 0, or there is no memory.
    pub fn new(
        features: usize,
        heads: usize,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Self, ArchitectureError> {
        MultiHeadAttentionConfig::new(features, heads).build(rng)
    }

    /// A layer of these settings with these parameters, in PyTorch's order: `in_proj_weight`, `in_proj_bias`,
    /// `out_proj.weight`, `out_proj.bias`.
    ///
    /// # Errors
    /// When the settings can't be, or number or shapes of the tensors don't fit them.
    pub fn from_tensors(
        config: MultiHeadAttentionConfig,
        tensors: impl IntoIterator<Item = Tensor<T>>,
    ) -> Result<Self, ArchitectureError> {
        of_tensors("multi-head attention tensors", tensors, |tensor| config.assemble(tensor))
    }

    /// The features of x, m and y.
    pub fn features(&self) -> usize {
        self.config.features
    }

    /// The number of heads.
    pub fn heads(&self) -> usize {
        self.config.heads
    }

    /// Whether a query sees only keys up to its own place.
    pub fn is_causal(&self) -> bool {
        self.config.causal
    }

    /// Batch, time and source of inputs of these shapes.
    fn sizes(&self, operation: &'static str, x: &[Shape]) -> Result<[usize; 3], LayerError> {
        let MultiHeadAttentionConfig { features, cross, lengths, .. } = self.config;
        let (&x, memory, lengths) = match (x, cross, lengths) {
            ([x], false, false) => (x, None, None),
            ([x, lengths], false, true) => (x, None, Some(lengths)),
            ([x, memory], true, false) => (x, Some(memory), None),
            ([x, memory, lengths], true, true) => (x, Some(memory), Some(lengths)),
            _ => {
                let names = ["x", "x, lengths", "x, memory", "x, memory, lengths"];
                let expected = names[2 * usize::from(cross) + usize::from(lengths)];
                let expected = format_args!("{} ({expected})", self.config.inputs());
                return Err(LayerError::count(operation, expected, x.len()));
            }
        };
        let [batch, time, _] = axes(x, features)
            .ok_or_else(|| ShapeError::new(operation, format_args!("[_, _, {features}]"), x))?;
        let source = match memory {
            None => time,
            Some(&memory) => match axes(memory, features) {
                Some([samples, source, _]) if samples == batch => source,
                _ => {
                    let expected = format_args!("[{batch}, _, {features}]");
                    return Err(ShapeError::new("multi-head attention memory", expected, memory).into());
                }
            },
        };
        match lengths {
            Some(&lengths) if lengths != [batch] => {
                let expected = format_args!("[{batch}]");
                Err(ShapeError::new("multi-head attention lengths", expected, lengths).into())
            }
            _ => Ok([batch, time, source]),
        }
    }

    fn inputs_of<'a>(
        &self,
        operation: &'static str,
        x: &[&'a Tensor<T>],
    ) -> Result<Inputs<'a, T>, LayerError> {
        let mut shapes = [Shape::EMPTY; 3];
        shapes.iter_mut().zip(x).for_each(|(shape, x)| *shape = x.shape());
        let (&[first, ..], Some(shapes)) = (x, shapes.get(..x.len())) else {
            return Err(LayerError::count(operation, self.config.inputs(), x.len()));
        };
        let [batch, time, source] = self.sizes(operation, shapes)?;
        let memory = if self.config.cross { x[1] } else { first };
        let lengths = if self.config.lengths { x.last().map(|lengths| lengths.as_slice()) } else { None };
        let inputs = Inputs { x: first, memory, lengths, batch, time, source };
        inputs.check()?;
        Ok(inputs)
    }

    /// The shape of p.
    fn of_probabilities(&self, [batch, time, source]: [usize; 3]) -> Result<Shape, ShapeError> {
        Shape::new(&[batch, self.config.heads, time, source])
    }

    /// 1/√(e/n)
    fn scale(&self) -> T {
        T::from_f64(1.0 / (self.config.width() as f64).sqrt())
    }

    /// W_q, and W_k above W_v.
    fn weights(&self) -> Result<[MatRef<'_, T>; 2], ShapeError> {
        let (e, w) = (self.config.features, self.in_proj_weight.as_slice());
        let [packed_q, packed_kv, _] = self.packed();
        let (w_q, w_kv) = (rows(&(0..e), e).of(w)?, rows(&(e..3 * e), e).of(w)?);
        Ok([w_q.with_packed(packed_q)?, w_kv.with_packed(packed_kv)?])
    }

    fn packed(&self) -> [Option<&Packed<T>>; 3] {
        self.packed.as_deref().map_or([None; 3], |packed| packed.each_ref().map(Some))
    }

    /// All heads of all samples in order.
    fn heads_of(&self, inputs: Inputs<'_, T>) -> impl Iterator<Item = Head> {
        let MultiHeadAttentionConfig { features, heads, causal, .. } = self.config;
        let Inputs { batch, time, source, .. } = inputs;
        let width = self.config.width();
        (0..batch).flat_map(move |sample| {
            let seen = inputs.seen(sample);
            let head = move |head| Head { sample, head, heads, time, source, features, width, seen, causal };
            (0..heads).map(head)
        })
    }

    /// y, and p in `p` or in the cache.
    fn run(
        &self,
        inputs: Inputs<'_, T>,
        y: &mut Tensor<T>,
        p: Option<&mut Tensor<T>>,
        cache: &mut Cache<T>,
    ) -> Result<(), LayerError> {
        let Inputs { x, memory, batch, time, source, .. } = inputs;
        let e = self.config.features;
        let [q, kv, z, own_p, scores] = cache.tensors();
        let p = p.unwrap_or(own_p);
        q.resize(x.shape())?;
        z.resize(x.shape())?;
        kv.resize([batch, source, 2 * e])?;
        p.resize(self.of_probabilities([batch, time, source])?)?;
        scores.resize([time, source])?;

        // q is scaled instead of the scores, which are more.
        let ([w_q, w_kv], scale) = (self.weights()?, self.scale());
        let (b_q, b_kv) = self.in_proj_bias.as_ref().map(|b| b.as_slice().split_at(e)).unzip();
        let scaled = |q: &mut [T]| apply(q, |q| scale * q);
        affine(x.mat(), w_q, b_q, Some(Epilogue::new(&scaled)), q.mat_mut())?;
        let (q, kv, z_of_heads) = (q.as_slice(), kv.as_mut_slice(), z.as_mut_slice());
        for keys in inputs.keys() {
            let memory = rows(&keys, e).of(memory.as_slice())?;
            affine(memory, w_kv, b_kv, None, rows(&keys, 2 * e).of_mut(kv)?)?;
        }
        for head in self.heads_of(inputs) {
            head.forward(q, kv, scores.as_mut_slice(), p.as_mut_slice(), z_of_heads)?;
        }
        let OutProj { weight, bias } = &self.out_proj;
        let [.., packed] = self.packed();
        if packed.is_some() {
            y.resize(x.shape())?;
            let (w, b) = (weight.mat().with_packed(packed)?, bias.as_ref().map(Tensor::as_slice));
            return Ok(affine(z.mat(), w, b, None, y.mat_mut())?);
        }
        Ok(affine_activation_into(z, weight, bias.as_ref(), None, y)?)
    }
}

/// The sizes of `[_, _, features]`.
fn axes(shape: Shape, features: usize) -> Option<[usize; 3]> {
    shape[..].try_into().ok().filter(|axes: &[usize; 3]| axes[2] == features)
}

/// A part of a matrix in a slice: nothing is copied, its rows are further apart than they are long.
#[derive(Clone, Copy)]
struct Place {
    /// Elements of a row of the whole matrix.
    columns: usize,
    /// The first row and column.
    at: [usize; 2],
    shape: [usize; 2],
}

impl Place {
    fn of<T: Scalar>(self, data: &[T]) -> Result<MatRef<'_, T>, ShapeError> {
        // A part without elements may begin behind the end.
        let data = data.get(self.start()..).unwrap_or_default();
        MatRef::new(data, self.shape)?.with_row_stride(self.columns)
    }

    fn of_mut<T: Scalar>(self, data: &mut [T]) -> Result<MatMut<'_, T>, ShapeError> {
        let data = data.get_mut(self.start()..).unwrap_or_default();
        MatMut::new(data, self.shape)?.with_row_stride(self.columns)
    }

    /// Sets all elements to 0.
    fn clear<T: Scalar>(self, data: &mut [T]) -> Result<(), ShapeError> {
        let mut part = self.of_mut(data)?;
        (0..self.shape[0]).for_each(|i| part.row_mut(i).fill(T::ZERO));
        Ok(())
    }

    fn start(self) -> usize {
        self.at[0] * self.columns + self.at[1]
    }
}

/// Rows of a matrix.
fn rows(rows: &Range<usize>, columns: usize) -> Place {
    Place { columns, at: [rows.start, 0], shape: [rows.len(), columns] }
}

/// The inputs of a pass.
#[derive(Clone, Copy)]
struct Inputs<'a, T: Scalar> {
    x: &'a Tensor<T>,
    /// In self-attention it is x.
    memory: &'a Tensor<T>,
    lengths: Option<&'a [T]>,
    batch: usize,
    time: usize,
    source: usize,
}

impl<'a, T: Scalar> Inputs<'a, T> {
    fn check(&self) -> Result<(), LayerError> {
        let whole = |length: f64| length.fract() == 0.0 && (0.0..=self.source as f64).contains(&length);
        let mut lengths = self.lengths.into_iter().flatten().enumerate();
        lengths.find(|(_, length)| !whole(length.to_f64())).map_or(Ok(()), |(sample, length)| {
            let expected = format_args!("a whole number from 0 to {}", self.source);
            let got = format_args!("{length} for sample {sample}");
            Err(LayerError::value("multi-head attention lengths", expected, got))
        })
    }

    /// The keys of a sample that aren't hidden.
    fn seen(&self, sample: usize) -> usize {
        self.lengths.map_or(self.source, |lengths| (lengths[sample].to_f64() as usize).min(self.source))
    }

    /// Rows of `[batch · source, _]` that aren't hidden, in ranges as long as possible: without lengths one
    /// has all rows.
    fn keys(self) -> impl Iterator<Item = Range<usize>> + use<'a, T> {
        let mut sample = 0;
        iter::from_fn(move || {
            while sample < self.batch && self.seen(sample) == 0 {
                sample += 1;
            }
            let start = (sample < self.batch).then_some(sample * self.source)?;
            let mut end = start;
            while sample < self.batch && end == sample * self.source {
                end += self.seen(sample);
                sample += 1;
            }
            Some(start..end)
        })
    }
}

/// A head of a sample: where its parts of q, k, v, z and p lie, and which keys its queries see.
#[derive(Clone, Copy)]
struct Head {
    sample: usize,
    head: usize,
    heads: usize,
    time: usize,
    source: usize,
    features: usize,
    /// Features of a head.
    width: usize,
    /// Keys of the sample that aren't hidden.
    seen: usize,
    causal: bool,
}

/// Queries, and keys.
type Pair = (Range<usize>, Range<usize>);

impl Head {
    /// Runs of queries that see equally many keys, with their number: a softmax each.
    fn runs(self) -> impl Iterator<Item = (Range<usize>, usize)> {
        let rising = if self.causal { self.seen.saturating_sub(1).min(self.time) } else { 0 };
        (0..rising).map(|t| (t..t + 1, t + 1)).chain(iter::once((rising..self.time, self.seen)))
    }

    /// Blocks of queries with the keys that one of them sees or more: for products whose hidden elements
    /// nobody reads.
    fn blocks(self) -> impl Iterator<Item = Pair> {
        let block = if self.causal { self.time.div_ceil(BLOCKS).max(BLOCK) } else { self.time.max(1) };
        (0..self.time).step_by(block).map(move |start| {
            let queries = start..(start + block).min(self.time);
            let end = if self.causal { queries.end.min(self.seen) } else { self.seen };
            (queries, 0..end)
        })
    }

    /// All pairs of a query and a key that it sees, as rectangles: of each block the keys that all its
    /// queries see, and then the others of each query. The first rectangle of every query begins with key 0.
    fn rectangles(self) -> impl Iterator<Item = Pair> {
        self.blocks().flat_map(move |(queries, keys)| {
            let common = if self.causal { keys.end.min(queries.start + 1) } else { keys.end };
            let others = if self.causal { queries.start + 1..queries.end } else { 0..0 };
            let others = others.map(move |t| (t..t + 1, common..self.seen.min(t + 1)));
            iter::once((queries, 0..common)).chain(others.filter(|(_, keys)| !keys.is_empty()))
        })
    }

    /// Queries in q and z.
    fn q(self, queries: &Range<usize>) -> Place {
        let at = [self.sample * self.time + queries.start, self.head * self.width];
        Place { columns: self.features, at, shape: [queries.len(), self.width] }
    }

    /// Keys in the matrix that has k and v side by side.
    fn k(self, keys: &Range<usize>) -> Place {
        let at = [self.sample * self.source + keys.start, self.head * self.width];
        Place { columns: 2 * self.features, at, shape: [keys.len(), self.width] }
    }

    /// Their values.
    fn v(self, keys: &Range<usize>) -> Place {
        let Place { columns, at: [row, column], shape } = self.k(keys);
        Place { columns, at: [row, self.features + column], shape }
    }

    /// Pairs in a matrix `[time, source]`.
    fn pairs(self, (queries, keys): &Pair) -> Place {
        let (at, shape) = ([queries.start, keys.start], [queries.len(), keys.len()]);
        Place { columns: self.source, at, shape }
    }

    /// This head's `[time, source]` among the elements of p.
    fn p(self) -> Range<usize> {
        let size = self.time * self.source;
        let start = (self.sample * self.heads + self.head) * size;
        start..start + size
    }

    /// Elements of whole rows of `[time, source]`.
    fn rows(self, queries: &Range<usize>) -> Range<usize> {
        queries.start * self.source..queries.end * self.source
    }

    /// This head's part of p and z.
    fn forward<T: Scalar>(
        self,
        q: &[T],
        kv: &[T],
        scores: &mut [T],
        p: &mut [T],
        z: &mut [T],
    ) -> Result<(), LayerError> {
        let p = &mut p[self.p()];
        for pair in self.blocks() {
            let (q, k) = (self.q(&pair.0).of(q)?, self.k(&pair.1).of(kv)?);
            matmul(q, k.t(), T::ZERO, self.pairs(&pair).of_mut(scores)?)?;
        }
        for (queries, seen) in self.runs() {
            let rows = self.rows(&queries);
            let (scores, p) = (&scores[rows.clone()], &mut p[rows]);
            p.chunks_exact_mut(self.source.max(1)).for_each(|p| p[seen..].fill(T::ZERO));
            softmax::forward_strided(scores, p, seen, [self.source; 2], Rule::Softmax);
        }
        for pair in self.rectangles() {
            let (p, v) = (self.pairs(&pair).of(p)?, self.v(&pair.1).of(kv)?);
            matmul(p, v, beta(&pair), self.q(&pair.0).of_mut(z)?)?;
        }
        Ok(())
    }

    /// dq √(e/n), dk and dv of this head, in the places of dz, k and v: each is written after the last
    /// read of the old values.
    fn backward<T: Scalar>(self, of: Given<'_, T>, kv: &mut [T], dz: &mut [T]) -> Result<(), LayerError> {
        let Given { q, p, of_p, dp, da, wants } = of;
        let p = &p[self.p()];
        // dp = dz vᵀ, and the second output's gradient.
        if let Some(of_p) = of_p {
            dp.copy_from_slice(&of_p[self.p()]);
        }
        let old = if of_p.is_some() { T::ONE } else { T::ZERO };
        for pair in self.blocks() {
            let (dz, v) = (self.q(&pair.0).of(dz)?, self.v(&pair.1).of(kv)?);
            matmul(dz, v.t(), old, self.pairs(&pair).of_mut(dp)?)?;
        }
        for (queries, seen) in self.runs() {
            let rows = self.rows(&queries);
            let (p, dp, da) = (&p[rows.clone()], &dp[rows.clone()], &mut da[rows]);
            softmax::backward_strided(p, dp, da, seen, [self.source; 3], Rule::Softmax);
        }
        let (da, all) = (&*da, 0..self.source);
        if wants.keys {
            self.v(&all).clear(kv)?;
            for pair in self.rectangles() {
                let (p, dz) = (self.pairs(&pair).of(p)?, self.q(&pair.0).of(dz)?);
                matmul(p.t(), dz, T::ONE, self.v(&pair.1).of_mut(kv)?)?;
            }
        }
        if wants.queries {
            for pair in self.rectangles() {
                let (da, k) = (self.pairs(&pair).of(da)?, self.k(&pair.1).of(kv)?);
                matmul(da, k, beta(&pair), self.q(&pair.0).of_mut(dz)?)?;
            }
        }
        if wants.keys {
            self.k(&all).clear(kv)?;
            for pair in self.rectangles() {
                let (da, q) = (self.pairs(&pair).of(da)?, self.q(&pair.0).of(q)?);
                matmul(da.t(), q, T::ONE, self.k(&pair.1).of_mut(kv)?)?;
            }
        }
        Ok(())
    }
}

/// 0 for the first rectangle of a query, 1 for those that are added.
fn beta<T: Scalar>((_, keys): &Pair) -> T {
    if keys.start == 0 { T::ZERO } else { T::ONE }
}

/// The arguments of a head's rule.
struct Given<'a, T> {
    q: &'a [T],
    p: &'a [T],
    /// ∂l/∂p of the second output.
    of_p: Option<&'a [T]>,
    /// Room for two matrices `[time, source]`.
    dp: &'a mut [T],
    da: &'a mut [T],
    wants: Wants,
}

/// Which gradients anybody wants: dq, and dk with dv.
#[derive(Clone, Copy)]
struct Wants {
    queries: bool,
    keys: bool,
}

impl<T: Scalar> MultiHeadAttention<T> {
    /// The shapes of all that the rule reads, before it writes anything.
    fn check(
        &self,
        inputs: Inputs<'_, T>,
        y: &[&Tensor<T>],
        dy: [Option<&Tensor<T>>; 2],
        grads: &[Grad<T>],
        cache: &mut Cache<T>,
    ) -> Result<(), LayerError> {
        let Inputs { x, batch, time, source, .. } = inputs;
        let expect = |expected: Shape, got: Shape| match expected == got {
            true => Ok(()),
            false => Err(ShapeError::new(BACKWARD, expected, got)),
        };
        let [q, kv, z, own_p, scores] = cache.tensors();
        let of_p = self.of_probabilities([batch, time, source])?;
        expect(x.shape(), q.shape())?;
        expect(x.shape(), z.shape())?;
        expect(Shape::new(&[batch, source, 2 * self.config.features])?, kv.shape())?;
        expect(of_p, y.get(1).map_or(own_p.shape(), |p| p.shape()))?;
        expect(Shape::new(&[time, source])?, scores.shape())?;
        for (dy, expected) in dy.into_iter().zip([x.shape(), of_p]) {
            dy.map_or(Ok(()), |dy| expect(expected, dy.shape()))?;
        }
        let Self { in_proj_weight: w, in_proj_bias: b, out_proj: OutProj { weight, bias }, .. } = self;
        let tensors = [Some(w), b.as_ref(), Some(weight), bias.as_ref()].into_iter().flatten();
        let count = tensors.clone().count();
        if grads.len() != count {
            return Err(LayerError::count("multi-head attention gradients", count, grads.len()));
        }
        for (tensor, grad) in tensors.zip(grads) {
            expect(tensor.shape(), grad.shape())?;
        }
        Ok(())
    }
}

impl<T: Scalar> Layer<T> for MultiHeadAttention<T> {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        self.sizes(FORWARD, &[x])?;
        Ok(x)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        self.run(self.inputs_of(FORWARD, &[x])?, y, None, cache)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let at = AtMany { x: &[at.x], y: &[at.y], cache: at.cache, mode: at.mode };
        self.backward_many(at, &[Some(dy)], &mut [dx], grads)
    }

    fn inputs(&self) -> RangeInclusive<usize> {
        self.config.inputs()..=self.config.inputs()
    }

    fn outputs(&self) -> usize {
        1 + usize::from(self.config.probabilities)
    }

    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        let sizes = self.sizes(FORWARD, x)?;
        match (y, self.config.probabilities, x) {
            ([y], false, [x, ..]) => *y = *x,
            ([y, p], true, [x, ..]) => (*y, *p) = (*x, self.of_probabilities(sizes)?),
            (y, ..) => {
                return Err(LayerError::count("multi-head attention outputs", self.outputs(), y.len()));
            }
        }
        Ok(())
    }

    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        let inputs = self.inputs_of(FORWARD, x)?;
        match (y, self.config.probabilities) {
            ([y], false) => self.run(inputs, y, None, cache),
            ([y, p], true) => self.run(inputs, y, Some(p), cache),
            (y, _) => Err(LayerError::count("multi-head attention outputs", self.outputs(), y.len())),
        }
    }

    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let inputs = self.inputs_of(BACKWARD, at.x)?;
        let (dy, of_p) = match *dy {
            [dy] if at.y.len() == 1 => (dy, None),
            [dy, of_p] if at.y.len() == 2 => (dy, of_p),
            _ => return Err(LayerError::count("multi-head attention outputs", at.y.len(), dy.len())),
        };
        if dx.len() != at.x.len() {
            return Err(LayerError::count("multi-head attention inputs", at.x.len(), dx.len()));
        }
        self.check(inputs, at.y, [dy, of_p], grads, at.cache)?;
        let Inputs { x, memory, .. } = inputs;
        let MultiHeadAttentionConfig { features: e, bias, cross, .. } = self.config;
        let ([dx, others @ ..], [dw, of_rest @ ..]) = (dx, grads) else { return Ok(()) };
        let (dm, of_lengths) = others.split_at_mut(usize::from(cross));
        if let ([Some(zeros)], [.., lengths]) = (of_lengths, at.x) {
            zeros_like(zeros, lengths)?;
        }
        let (mut dx, mut dm) = (dx.as_deref_mut(), dm.first_mut().and_then(|dm| dm.as_deref_mut()));
        if dy.is_none() && of_p.is_none() {
            dx.map_or(Ok(()), |dx| zeros_like(dx, x))?;
            return dm.map_or(Ok(()), |dm| zeros_like(dm, memory));
        }
        let (db, of_out) = of_rest.split_at_mut(usize::from(bias));
        let [q, kv, z, own_p, dp, da, dz, room] = at.cache.tensors();
        let p = at.y.get(1).map_or(&*own_p, |p| p);
        if let (Some(dy), [dw_out, db_out @ ..]) = (dy, of_out) {
            dw_out.accumulate(|beta, dw| matmul_tn_into(dy, z, beta, dw))?;
            for db in db_out {
                db.add_to(|db| db.add_sum_of_rows(dy))?;
            }
        }
        let parameters = dw.is_wanted() || db.iter().any(Grad::is_wanted);
        let to_memory = if cross { dm.is_some() } else { dx.is_some() };
        let wants = Wants { queries: parameters || dx.is_some(), keys: parameters || to_memory };
        if !wants.queries && !wants.keys {
            return Ok(());
        }

        da.resize(dp.shape())?;
        dz.resize(x.shape())?;
        match dy {
            Some(dy) => matmul_into(dy, &self.out_proj.weight, T::ZERO, dz)?,
            None => dz.fill(T::ZERO),
        }
        for head in self.heads_of(inputs) {
            let given = Given {
                q: q.as_slice(),
                p: p.as_slice(),
                of_p: of_p.map(Tensor::as_slice),
                dp: dp.as_mut_slice(),
                da: da.as_mut_slice(),
                wants,
            };
            head.backward(given, kv.as_mut_slice(), dz.as_mut_slice())?;
        }
        let (dq, dkv) = (dz, &*kv);
        dq.scale(self.scale());

        dw.accumulate(|beta, dw| {
            let (of_q, of_kv) = dw.as_mut_slice().split_at_mut(e * e);
            matmul(dq.mat().t(), x.mat(), beta, MatMut::new(of_q, [e, e])?)?;
            let mut of_kv = SumOfProducts::new(beta, MatMut::new(of_kv, [2 * e, e])?, room);
            for keys in inputs.keys() {
                let dkv = rows(&keys, 2 * e).of(dkv.as_slice())?;
                of_kv.add(dkv.t(), rows(&keys, e).of(memory.as_slice())?)?;
            }
            of_kv.finish();
            Ok::<_, LayerError>(())
        })?;
        for db in db {
            db.accumulate(|beta, db| {
                let (of_q, of_kv) = db.as_mut_slice().split_at_mut(e);
                sum_of_rows(dq.mat(), beta, of_q)?;
                sum_of_rows(dkv.mat(), beta, of_kv)
            })?;
        }
        let [w_q, w_kv] = self.weights()?;
        if let Some(dx) = &mut dx {
            dx.resize(x.shape())?;
            matmul(dq.mat(), w_q, T::ZERO, dx.mat_mut())?;
        }
        if let Some(dm) = &mut dm {
            zeros_like(dm, memory)?;
        }
        // In self-attention both parts of ∂l/∂x add.
        let Some(to) = (if cross { dm } else { dx }) else { return Ok(()) };
        for keys in inputs.keys() {
            let (dkv, to) =
                (rows(&keys, 2 * e).of(dkv.as_slice())?, rows(&keys, e).of_mut(to.as_mut_slice())?);
            matmul(dkv, w_kv, T::ONE, to)?;
        }
        Ok(())
    }

    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        let [w_q, w_kv] = self.weights()?;
        let w_out = self.out_proj.weight.mat();
        self.packed = Some(Box::new([packer.pack(w_q)?, packer.pack(w_kv)?, packer.pack(w_out)?]));
        Ok(())
    }

    fn options(&self) -> Options {
        let MultiHeadAttentionConfig { features, heads, bias, causal, cross, lengths, probabilities } =
            self.config;
        Options::new()
            .with("features", features)
            .with("heads", heads)
            .with("bias", bias)
            .with("causal", causal)
            .with("cross", cross)
            .with("lengths", lengths)
            .with("probabilities", probabilities)
    }

    fn defaults(&self, _: Sealed) -> Options {
        let MultiHeadAttentionConfig { causal, cross, lengths, probabilities, .. } =
            MultiHeadAttentionConfig::new(1, 1);
        Options::new()
            .with("causal", causal)
            .with("cross", cross)
            .with("lengths", lengths)
            .with("probabilities", probabilities)
    }
}

impl<T: Scalar> Builtin<T> for MultiHeadAttention<T> {
    const KIND: &'static str = "MultiHeadAttention";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let config = MultiHeadAttentionConfig::new(from.size("features")?, from.size("heads")?)
            .bias(from.flag("bias")?)
            .causal(from.flag("causal")?)
            .cross(from.flag("cross")?)
            .lengths(from.flag("lengths")?)
            .probabilities(from.flag("probabilities")?);
        config.assemble(|_, shape| from.zeros(shape))
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        let of = |name, config: MultiHeadAttentionConfig, [batch, time, source]: [usize; 3]| {
            let layer: Self = config.build(&mut random::rng(1)).ok()?;
            let mut inputs = vec![Input::normal(&[batch, time, config.features])];
            inputs.extend(config.cross.then(|| Input::normal(&[batch, source, config.features])));
            inputs.extend(config.lengths.then(|| Input::whole(&[batch], 1, source as u32 + 1)));
            Some(Sample::new(name, layer, inputs))
        };
        let config = MultiHeadAttentionConfig::new;
        let samples = [
            of("one", config(1, 1), [1, 1, 1]),
            of("self", config(6, 2), [2, 4, 4]),
            of("without bias", config(4, 4).bias(false), [3, 5, 5]),
            of("causal", config(4, 2).causal(true), [2, 19, 19]),
            of("lengths", config(4, 2).lengths(true), [5, 7, 7]),
            of("causal lengths", config(3, 1).causal(true).lengths(true), [3, 18, 18]),
            of("cross", config(4, 2).cross(true), [2, 3, 5]),
            of("cross lengths", config(6, 3).cross(true).lengths(true), [4, 2, 17]),
            of("probabilities", config(4, 2).lengths(true).probabilities(true), [3, 4, 4]),
            of("cross probabilities", config(2, 2).cross(true).probabilities(true), [2, 1, 3]),
            of("8x32x64", config(64, 4), [8, 32, 32]).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        if case.op != "multi_head_attention" {
            return None;
        }
        let features = case.tensor("out_proj_weight")?.shape().columns();
        let lengths = case.tensor("lengths").is_some();
        let config = MultiHeadAttentionConfig::new(features, case.whole("heads", 1))
            .bias(case.flag("bias", true))
            .causal(case.flag("causal", false))
            .cross(case.flag("cross", false))
            .lengths(lengths)
            .probabilities(true);
        let of_case = |name: &str| name.replace('.', "_");
        let missing = || ConfigError::new("MultiHeadAttention", "tensor", "one of the case's", "none").into();
        let layer = config.assemble(|name, _| case.tensor(&of_case(name)).ok_or_else(missing)).ok()?;
        let names = ["out_proj.weight", "out_proj.bias"].map(|name| (name.to_string(), of_case(name))).into();
        let mut inputs = vec!["input"];
        inputs.extend(config.cross.then_some("memory"));
        inputs.extend(lengths.then_some("lengths"));
        Some(Oracle { inputs, outputs: vec!["output", "weights"], names, ..Oracle::new(layer) })
    }
}

/// The settings of a [`MultiHeadAttention`].
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, Tensor, random};
/// use backrule_nn::{MultiHeadAttention, MultiHeadAttentionConfig, predict_many};
///
/// // A decoder looks at an encoder's output, of which sample 1 has two steps.
/// let config = MultiHeadAttentionConfig::new(8, 2);
/// let config = config.cross(true).lengths(true).probabilities(true);
/// let attention: MultiHeadAttention = config.build(&mut random::rng(1))?;
/// assert_eq!(attention.tensor("in_proj_weight").unwrap().shape(), [3 * 8, 8]);
///
/// let (x, memory) = (Tensor::full([2, 3, 8], 0.5)?, Tensor::full([2, 4, 8], 0.5)?);
/// let lengths = Tensor::from([4.0, 2.0]);
/// let outputs = predict_many(&attention, &[&x, &memory, &lengths])?;
/// assert_eq!(outputs[0].shape(), [2, 3, 8]);
/// assert_eq!(outputs[1].shape(), [2, 2, 3, 4]); // of each sample, head, query and key
/// // Sample 1, head 0, query 0.
/// assert_eq!(outputs[1].row(6), Some(&[0.5, 0.5, 0.0, 0.0][..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct MultiHeadAttentionConfig {
    features: usize,
    heads: usize,
    bias: bool,
    causal: bool,
    cross: bool,
    lengths: bool,
    probabilities: bool,
}

impl MultiHeadAttentionConfig {
    /// Self-attention that sees everything, with biases. Each head has features ÷ heads of the features.
    pub const fn new(features: usize, heads: usize) -> Self {
        let (bias, causal, cross, lengths, probabilities) = (true, false, false, false, false);
        Self { features, heads, bias, causal, cross, lengths, probabilities }
    }

    /// Whether there are biases. The default is that there are.
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Whether query t sees keys up to t only. The default is that it sees all. Not together with
    /// [`cross`](Self::cross).
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }

    /// Whether the second input is a memory `[batch, source, features]`, which has the keys and values. The
    /// default is self-attention.
    pub fn cross(mut self, cross: bool) -> Self {
        self.cross = cross;
        self
    }

    /// Whether the last input is the number of keys `[batch]` that each sample has. The default is that all
    /// are there.
    pub fn lengths(mut self, lengths: bool) -> Self {
        self.lengths = lengths;
        self
    }

    /// Whether the second output is the probabilities `[batch, heads, time, source]`. The default is that
    /// there is one output.
    pub fn probabilities(mut self, probabilities: bool) -> Self {
        self.probabilities = probabilities;
        self
    }

    /// A layer of these settings. As in PyTorch, `in_proj_weight` starts uniformly within ±√(6/4e)
    /// ([`Init::GlorotUniform`]), `out_proj.weight` within ±1/√e, and the biases are 0.
    ///
    /// # Errors
    /// When `heads` doesn't divide `features`, one of them is 0, the layer is causal and crosses, or there is
    /// no memory.
    pub fn build<T: Scalar>(
        self,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<MultiHeadAttention<T>, ArchitectureError> {
        let e = self.features;
        self.assemble(|name, shape| {
            let (init, outputs) = match name {
                "in_proj_weight" => (Init::GlorotUniform, shape.rows()),
                "out_proj.weight" => (Init::FanIn, e),
                _ => (Init::Zeros, e),
            };
            Ok(init.tensor(shape, e, outputs, rng)?)
        })
    }

    /// Features of a head.
    fn width(self) -> usize {
        self.features / self.heads.max(1)
    }

    /// How many inputs there are.
    fn inputs(self) -> usize {
        1 + usize::from(self.cross) + usize::from(self.lengths)
    }

    /// A layer of tensors that `tensor` gives for their paths and shapes.
    fn assemble<T: Scalar>(
        self,
        mut tensor: impl FnMut(&'static str, Shape) -> Result<Tensor<T>, ArchitectureError>,
    ) -> Result<MultiHeadAttention<T>, ArchitectureError> {
        const WHAT: &str = "MultiHeadAttention";
        let Self { features, heads, .. } = self;
        for (option, size) in [("features", features), ("heads", heads)] {
            if size == 0 {
                return Err(ConfigError::new(WHAT, option, "at least 1", size).into());
            }
        }
        if !features.is_multiple_of(heads) {
            let expected = format_args!("a divisor of {features} features").to_string();
            return Err(ConfigError::new(WHAT, "heads", expected, heads).into());
        }
        if self.causal && self.cross {
            let got = "both `causal` and `cross`";
            return Err(ConfigError::new(WHAT, "causal", "self-attention", got).into());
        }
        let rows = features.saturating_mul(3);
        let (of_weight, of_bias) = (Shape::new(&[rows, features])?, Shape::new(&[rows])?);
        let in_proj_weight = tensor("in_proj_weight", of_weight)?;
        let in_proj_bias = if self.bias { Some(tensor("in_proj_bias", of_bias)?) } else { None };
        let weight = tensor("out_proj.weight", Shape::new(&[features; 2])?)?;
        let bias = if self.bias { Some(tensor("out_proj.bias", Shape::new(&[features])?)?) } else { None };
        let out_proj = OutProj { weight, bias };
        Ok(MultiHeadAttention { config: self, in_proj_weight, in_proj_bias, out_proj, packed: None })
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::{Grads, NamedTensors, random};

    use super::*;
    use crate::gradcheck::Gradcheck;
    use crate::tape::{Tape, predict, predict_many};

    /// Of another layer, to see that all of them are read.
    #[test]
    fn packed_weights_are_read() {
        let of = |seed| {
            MultiHeadAttentionConfig::new(8, 2).bias(false).build::<f64>(&mut random::rng(seed)).unwrap()
        };
        let (mut layer, mut other) = (of(1), of(2));
        other.prepare(&mut Packer { bytes: 0 }).unwrap();
        layer.packed = other.packed.clone();
        let x = Tensor::normal([5, 6, 8], 0.0, 1.0, &mut random::rng(3)).unwrap();
        assert_eq!(predict(&layer, &x).unwrap(), predict(&other, &x).unwrap());
    }

    fn config(features: usize, heads: usize) -> MultiHeadAttentionConfig {
        MultiHeadAttentionConfig::new(features, heads)
    }

    fn layer(config: MultiHeadAttentionConfig) -> MultiHeadAttention<f64> {
        let mut layer: MultiHeadAttention<f64> = config.build(&mut random::rng(1)).unwrap();
        // Biases start with 0, where a wrong use wouldn't show.
        for path in ["in_proj_bias", "out_proj.bias"] {
            if let Some(bias) = layer.tensor_mut(path) {
                *bias = normal(&bias.shape(), 2);
            }
        }
        layer
    }

    fn normal(shape: &[usize], seed: u64) -> Tensor<f64> {
        Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).unwrap()
    }

    /// Outputs, ∂l/∂x of all inputs and gradients, for a random ∂l/∂y of the outputs that have a loss.
    fn pass(
        layer: &MultiHeadAttention<f64>,
        x: &[&Tensor<f64>],
        losses: &[bool],
    ) -> (Vec<Tensor<f64>>, Vec<Tensor<f64>>, Grads<f64>) {
        let (mut tape, mut grads) = (Tape::new(), Grads::new(layer).unwrap());
        let pass = tape.forward_many(layer, x, Mode::train()).unwrap();
        let y = pass.outputs().to_vec();
        let dy: Vec<_> = y.iter().zip(7..).map(|(y, seed)| normal(&y.shape(), seed)).collect();
        let dy: Vec<_> = dy.iter().zip(losses).map(|(dy, &loss)| loss.then_some(dy)).collect();
        let mut dx = vec![Tensor::default(); x.len()];
        let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
        pass.backward_many_to_inputs(&dy, &mut grads, &mut wanted).unwrap();
        (y, dx, grads)
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let refuses = |config: MultiHeadAttentionConfig, x: &[&Tensor<f64>], message: &str| {
            let error = predict_many(&layer(config), x).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        let zeros = |shape: &[usize]| Tensor::<f64>::zeros(shape).unwrap();
        let (x, own) = (zeros(&[2, 3, 4]), config(4, 2));
        let cross = own.cross(true);
        refuses(
            own,
            &[&zeros(&[2, 3, 5])],
            "multi-head attention forward: expected [_, _, 4], got [2, 3, 5]",
        );
        refuses(own, &[&zeros(&[3, 4])], "multi-head attention forward: expected [_, _, 4], got [3, 4]");
        refuses(own, &[&x, &x], "multi-head attention forward: expected 1 (x), got 2");
        refuses(cross, &[&x], "multi-head attention forward: expected 2 (x, memory), got 1");
        refuses(
            cross,
            &[&x, &zeros(&[1, 3, 4])],
            "multi-head attention memory: expected [2, _, 4], got [1, 3, 4]",
        );
        refuses(
            own.lengths(true),
            &[&x, &zeros(&[3])],
            "multi-head attention lengths: expected [2], got [3]",
        );
        let cross = cross.lengths(true);
        let memory = zeros(&[2, 5, 4]);
        refuses(
            cross,
            &[&x, &memory],
            "multi-head attention forward: expected 3 (x, memory, lengths), got 2",
        );
        for wrong in [1.5, -1.0, 6.0, f64::NAN, f64::INFINITY] {
            let message = format!(
                "multi-head attention lengths: expected a whole number from 0 to 5, got {wrong} for sample 1"
            );
            refuses(cross, &[&x, &memory, &Tensor::from([5.0, wrong])], &message);
        }
        assert_eq!(
            predict(&layer(cross), &x).unwrap_err().to_string(),
            "multi-head attention forward: expected 3 (x, memory, lengths), got 1"
        );
    }

    #[test]
    fn settings_that_can_not_be_are_refused() {
        let refuses = |config: MultiHeadAttentionConfig, message: &str| {
            let built: Result<MultiHeadAttention, _> = config.build(&mut random::rng(1));
            assert_eq!(built.unwrap_err().to_string(), message);
        };
        refuses(config(0, 1), "MultiHeadAttention: features: expected at least 1, got 0");
        refuses(config(4, 0), "MultiHeadAttention: heads: expected at least 1, got 0");
        refuses(config(4, 3), "MultiHeadAttention: heads: expected a divisor of 4 features, got 3");
        refuses(
            config(4, 2).causal(true).cross(true),
            "MultiHeadAttention: causal: expected self-attention, got both `causal` and `cross`",
        );
        assert!(MultiHeadAttention::<f32>::new(usize::MAX, 1, &mut random::rng(1)).is_err());
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        let of = |shapes: &[&[usize]]| {
            let tensors = shapes.iter().map(|&shape| Tensor::<f32>::zeros(shape).unwrap());
            MultiHeadAttention::from_tensors(config(2, 1), tensors)
                .map(drop)
                .map_err(|error| error.to_string())
        };
        assert_eq!(of(&[&[6, 2], &[6], &[2, 2], &[2]]), Ok(()));
        let refused = |message: &str| Err(message.to_string());
        assert_eq!(
            of(&[&[6, 2], &[2, 2], &[2, 2]]),
            refused("in_proj_bias: multi-head attention tensors: expected [6], got [2, 2]")
        );
        assert_eq!(
            of(&[&[6, 2], &[6], &[2, 2]]),
            refused("out_proj.bias: multi-head attention tensors: expected [2], got none")
        );
        assert_eq!(
            of(&[&[6, 2], &[6], &[2, 2], &[2], &[2]]),
            refused("multi-head attention tensors: expected 4, got more")
        );
    }

    #[test]
    fn starts_as_in_pytorch() {
        let layer = MultiHeadAttention::<f64>::new(64, 4, &mut random::rng(1)).unwrap();
        let largest = |path: &str| {
            let tensor = layer.tensor(path).unwrap();
            tensor.as_slice().iter().fold(0.0_f64, |largest, x| largest.max(x.abs()))
        };
        let (glorot, fan_in) = ((6.0 / 256_f64).sqrt(), 1.0 / 8.0);
        assert!((0.98 * glorot..=glorot).contains(&largest("in_proj_weight")));
        assert!((0.98 * fan_in..=fan_in).contains(&largest("out_proj.weight")));
        assert_eq!((largest("in_proj_bias"), largest("out_proj.bias")), (0.0, 0.0));
    }

    /// y is the last bias, and nothing else takes part.
    #[test]
    fn a_sample_without_keys_is_no_nan_and_has_no_gradient() {
        for (cross, causal) in [(false, false), (false, true), (true, false)] {
            let config = config(4, 2).lengths(true).probabilities(true);
            let mut layer = layer(config.cross(cross).causal(causal));
            let (x, memory, lengths) =
                (normal(&[3, 3, 4], 3), normal(&[3, 3, 4], 4), Tensor::from([0.0, 2.0, 0.0]));
            let inputs = if cross { vec![&x, &memory, &lengths] } else { vec![&x, &lengths] };
            let (y, dx, _) = pass(&layer, &inputs, &[true, true]);
            for sample in [0, 2] {
                let rows = sample..sample + 1;
                for y in y[0].slice(rows.clone()).unwrap().rows() {
                    assert_eq!(y, layer.tensor("out_proj.bias").unwrap().as_slice());
                }
                for zeros in y[1..].iter().chain(&dx) {
                    let zeros = zeros.slice(rows.clone()).unwrap();
                    assert!(zeros.as_slice().iter().all(|&x| x == 0.0));
                }
            }
            let differentiable: &[bool] = if cross { &[true, true, false] } else { &[true, false] };
            let report = Gradcheck::new(5).run_many(&mut layer, &inputs, differentiable).unwrap();
            assert_eq!(report.wrong, 0, "{report}");
        }
    }

    #[test]
    fn batches_and_sequences_without_elements_work() {
        let (own, cross) = (layer(config(4, 2)), layer(config(4, 2).cross(true)));
        for shape in [[0, 3, 4], [2, 0, 4]] {
            let x = Tensor::zeros(shape).unwrap();
            let (y, dx, grads) = pass(&own, &[&x], &[true]);
            assert_eq!((y[0].shape(), dx[0].shape()), (x.shape(), x.shape()));
            assert!(grads.iter().all(|grad| grad.to_tensor().unwrap().as_slice().iter().all(|&g| g == 0.0)));
        }
        let (x, nothing) = (normal(&[2, 3, 4], 3), Tensor::zeros([2, 0, 4]).unwrap());
        let (y, dx, _) = pass(&cross, &[&x, &nothing], &[true]);
        assert!(y[0].rows().all(|y| y == cross.tensor("out_proj.bias").unwrap().as_slice()));
        assert!(dx[0].as_slice().iter().all(|&dx| dx == 0.0));
        assert_eq!(pass(&cross, &[&nothing, &x], &[true]).1[1], Tensor::zeros([2, 3, 4]).unwrap());
    }

    /// Whatever is behind a length, NaN included, every bit is that of a memory which ends there.
    #[test]
    fn hidden_keys_reach_nothing() {
        let layer = layer(config(4, 2).cross(true).lengths(true).probabilities(true));
        let (x, lengths) = (normal(&[2, 3, 4], 3), Tensor::from([5.0, 2.0]));
        let mut memory = normal(&[2, 5, 4], 4);
        let (y, dx, grads) = pass(&layer, &[&x, &memory, &lengths], &[true, true]);
        assert!(dx[1].as_slice()[7 * 4..].iter().all(|&dm| dm == 0.0));
        assert!(dx[1].as_slice()[..7 * 4].iter().all(|&dm| dm != 0.0));
        memory.as_mut_slice()[7 * 4..].fill(f64::NAN);
        let (other_y, other_dx, other_grads) = pass(&layer, &[&x, &memory, &lengths], &[true, true]);
        assert_eq!((&y, &dx), (&other_y, &other_dx));
        assert!(grads.iter().zip(other_grads.iter()).all(|(a, b)| a.get() == b.get() && a.get().is_some()));
    }

    /// On both sides of a block's end. NaN shows that later positions aren't multiplied by 0.
    #[test]
    fn what_comes_later_changes_no_bit_of_a_causal_layer() {
        let layer = layer(config(4, 2).causal(true));
        let x = normal(&[1, 37, 4], 3);
        let y = predict(&layer, &x).unwrap();
        for time in [1, 2, 15, 16, 17, 18, 32, 33, 36] {
            let (seen, _) = x.as_slice().split_at(4 * time);
            let start = Tensor::from_vec([1, time, 4], seen.to_vec()).unwrap();
            assert_eq!(predict(&layer, &start).unwrap().as_slice(), &y.as_slice()[..4 * time], "{time}");
            let mut other = x.clone();
            other.as_mut_slice()[4 * time..].fill(f64::NAN);
            let other = predict(&layer, &other).unwrap();
            let (before, after) = other.as_slice().split_at(4 * time);
            assert_eq!(before, &y.as_slice()[..4 * time], "{time}");
            assert!(after.iter().all(|y| y.is_nan()), "{time}");
        }
    }

    #[test]
    fn a_causal_layer_sees_each_pair_once() {
        for (time, seen) in [(1, 1), (16, 16), (17, 17), (40, 40), (40, 23), (40, 1), (40, 0), (0, 0)] {
            for causal in [false, true] {
                let (sample, head, heads, source, features, width) = (0, 0, 1, time, 1, 1);
                let head = Head { sample, head, heads, time, source, features, width, seen, causal };
                let mut pairs = vec![0; time * source];
                for (queries, keys) in head.rectangles() {
                    queries.for_each(|t| keys.clone().for_each(|s| pairs[t * source + s] += 1));
                }
                let expected = |t: usize, s: usize| i32::from(s < seen && (!causal || s <= t));
                let all = (0..time).flat_map(|t| (0..source).map(move |s| (t, s)));
                assert_eq!(pairs, all.map(|(t, s)| expected(t, s)).collect::<Vec<_>>());
                let rows: Vec<_> = head.runs().flat_map(|(run, seen)| run.map(move |t| (t, seen))).collect();
                let seen = |t: usize| if causal { seen.min(t + 1) } else { seen };
                assert_eq!(rows, (0..time).map(|t| (t, seen(t))).collect::<Vec<_>>());
            }
        }
    }

    /// A loss on the probabilities alone: as one of 0 on y, but that W_o and b_o have nothing to do with it.
    #[test]
    fn an_output_without_a_loss_costs_nothing() {
        let layer = layer(config(4, 2).probabilities(true));
        let x = normal(&[2, 3, 4], 3);
        let (_, dx, grads) = pass(&layer, &[&x], &[false, true]);
        assert!(dx[0].as_slice().iter().all(|&dx| dx != 0.0));
        let zero = |path| grads.of(&layer, path).unwrap().is_zero();
        assert_eq!(
            [zero("in_proj_weight"), zero("out_proj.weight"), zero("out_proj.bias")],
            [false, true, true]
        );
        let (_, dx, grads) = pass(&layer, &[&x], &[false, false]);
        assert_eq!(dx[0], Tensor::zeros([2, 3, 4]).unwrap());
        assert!(grads.iter().all(Grad::is_zero));
        // One output, where the probabilities are in the tape.
        let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&layer).unwrap(), Tensor::default());
        let (both, expected, _) = pass(&layer, &[&x], &[true, false]);
        let one = tape.forward(&layer, &x, Mode::train()).unwrap();
        assert_eq!(one.output(), &both[0]);
        one.backward_to_input(&normal(&[2, 3, 4], 7), &mut grads, &mut dx).unwrap();
        assert_eq!(dx, expected[0]);
    }

    /// A wanted gradient doesn't depend on which others are wanted.
    #[test]
    fn unwanted_gradients_are_left_out() {
        let layer = layer(config(4, 2).cross(true));
        let (x, memory) = (normal(&[2, 3, 4], 3), normal(&[2, 5, 4], 4));
        let (y, expected, all) = pass(&layer, &[&x, &memory], &[true]);
        let dy = normal(&y[0].shape(), 7);
        for [wants_dx, wants_dm, thawed] in [[true, false, false], [false, true, false], [false, false, true]]
        {
            let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
            grads.iter_mut().take(2).for_each(|grad| grad.set_wanted(thawed));
            let mut dx = [Tensor::default(), Tensor::default()];
            let [of_x, of_memory] = &mut dx;
            let mut wanted = [wants_dx.then_some(of_x), wants_dm.then_some(of_memory)];
            let pass = tape.forward_many(&layer, &[&x, &memory], Mode::train()).unwrap();
            pass.backward_many_to_inputs(&[Some(&dy)], &mut grads, &mut wanted).unwrap();
            assert!(!wants_dx || dx[0] == expected[0]);
            assert!(!wants_dm || dx[1] == expected[1]);
            for (grad, expected) in grads.iter().zip(all.iter()) {
                assert!(!grad.is_wanted() || grad.get() == expected.get());
            }
        }
    }
}
