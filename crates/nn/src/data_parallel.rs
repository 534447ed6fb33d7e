//! A pass over parts of the batch, each with its own memory, as tasks that may run at once.

use std::convert::Infallible;
use std::ops::Range;

use backrule_tensor::linalg::Workspace;
use backrule_tensor::{
    Grad, Grads, MAX_RANK, MemoryError, Path, Role, Scalar, Shape, ShapeError, Tensor, TensorError, memory,
    parallel, share,
};

use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::{At, AtMany, Layer, MAX_INPUTS, MAX_OUTPUTS};
use crate::mode::Mode;

/// Elements of a gradient that a thread adds up at a time, whatever the number of threads.
const CHUNK: usize = 1 << 14;
/// Elements that are added up on the stack.
const BLOCK: usize = 64;

/// One part of the batch, and all that a pass over it needs.
#[derive(Clone, Debug)]
pub(crate) struct Part<T: Scalar> {
    x: Vec<Tensor<T>>,
    y: Vec<Tensor<T>>,
    dy: Vec<Tensor<T>>,
    dx: Vec<Tensor<T>>,
    cache: Cache<T>,
    grads: Vec<Grad<T>>,
    /// For its products.
    workspace: Workspace<T>,
    /// Of the last pass: its samples, and its result.
    samples: usize,
    result: Result<(), LayerError>,
}

impl<T: Scalar> Default for Part<T> {
    fn default() -> Self {
        let [x, y, dy, dx] = std::array::from_fn(|_| Vec::new());
        Self {
            x,
            y,
            dy,
            dx,
            cache: Cache::default(),
            grads: Vec::new(),
            workspace: Workspace::default(),
            samples: 0,
            result: Ok(()),
        }
    }
}

/// Which parts of which batch run here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Split {
    /// The parts of the whole batch.
    pub(crate) count: usize,
    /// Those of them that run here: a node of the tree in which their gradients are added.
    pub(crate) here: Range<usize>,
    /// The samples of the whole batch, where only some of its parts run here.
    pub(crate) samples: Option<usize>,
}

impl Split {
    /// The mode of the part that is number `i` here: a key for each part, and of a single one the pass's own.
    fn mode(&self, mode: Mode, i: usize) -> Mode {
        if self.count == 1 { mode } else { mode.child(self.here.start + i) }
    }

    /// The samples of the batch that has `rows` of them here.
    fn samples(&self, rows: usize) -> usize {
        self.samples.unwrap_or(rows)
    }

    /// The rows of x here for the part that is number `i` here.
    fn rows(&self, i: usize, rows: usize) -> Range<usize> {
        let samples = self.samples(rows);
        let before = share(samples, self.here.start, self.count).start;
        let own = share(samples, self.here.start + i, self.count);
        own.start - before..own.end - before
    }

    /// The rows that x must have here.
    pub(crate) fn expected(&self, rows: usize) -> usize {
        let samples = self.samples(rows);
        let last = self.here.end.saturating_sub(1);
        share(samples, last, self.count).end - share(samples, self.here.start, self.count).start
    }
}

/// How a network is called.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a, T: Scalar> {
    pub(crate) net: &'a dyn Layer<T>,
    pub(crate) x: &'a [&'a Tensor<T>],
    pub(crate) mode: Mode,
    /// By the functions in `_many`.
    pub(crate) many: bool,
}

impl<T: Scalar> Call<'_, T> {
    /// The outputs that such a call gives.
    pub(crate) fn outputs(&self) -> Result<usize, LayerError> {
        match self.net.outputs() {
            _ if !self.many => Ok(1),
            count @ 1..=MAX_OUTPUTS => Ok(count),
            count => Err(LayerError::count("forward: outputs", "1 to 16", count)),
        }
    }

    pub(crate) fn forward(
        self,
        y: &mut Vec<Tensor<T>>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        let count = self.outputs()?;
        if y.len() != count {
            y.resize_with(count, Tensor::default);
        }
        match (self.x, &mut y[..]) {
            ([x], [y]) if !self.many => self.net.forward(x, y, cache, mode),
            (x, y) => self.net.forward_many(x, y, cache, mode),
        }
    }

    /// Outputs of inputs without samples, of the shapes that the network says.
    pub(crate) fn empty(self, y: &mut Vec<Tensor<T>>) -> Result<(), LayerError> {
        let mut shapes = [Shape::EMPTY; MAX_OUTPUTS];
        let shapes = &mut shapes[..self.outputs()?];
        let mut x = [Shape::EMPTY; MAX_INPUTS];
        x.iter_mut().zip(self.x).for_each(|(shape, x)| *shape = x.shape());
        match (&mut shapes[..], self.many) {
            ([shape], false) => *shape = self.net.output_shape(x[0])?,
            (shapes, _) => self.net.output_shapes(&x[..self.x.len()], shapes)?,
        }
        y.resize_with(shapes.len(), Tensor::default);
        for (y, &shape) in y.iter_mut().zip(&*shapes) {
            y.resize(shape)?;
        }
        Ok(())
    }

    pub(crate) fn backward(
        self,
        y: &[Tensor<T>],
        cache: &mut Cache<T>,
        mode: Mode,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        if let (false, &[x], [y], &[Some(dy)], [dx]) = (self.many, self.x, y, dy, &mut *dx) {
            return self.net.backward(At { x, y, cache, mode }, dy, dx.as_deref_mut(), grads);
        }
        let mut outputs = [self.x[0]; MAX_OUTPUTS];
        outputs.iter_mut().zip(y).for_each(|(output, y)| *output = y);
        let at = AtMany { x: self.x, y: &outputs[..y.len()], cache, mode };
        self.net.backward_many(at, dy, dx, grads)
    }
}

/// Runs each part's share of all inputs, and gathers the outputs in y.
pub(crate) fn forward<T: Scalar>(
    parts: &mut [Part<T>],
    split: &Split,
    call: Call<'_, T>,
    y: &mut Vec<Tensor<T>>,
) -> Result<(), LayerError> {
    let rows = call.x[0].shape().first().copied().unwrap_or(1);
    for (i, x) in call.x.iter().enumerate() {
        let own = x.shape().first().copied();
        if own != Some(rows) {
            let expected = format_args!("a first axis of {rows} for input {i}");
            return Err(ShapeError::new("forward in parts", expected, x.shape()).into());
        }
    }
    run(parts, |i, part| {
        let own = split.rows(i, rows);
        part.samples = own.len();
        if own.is_empty() {
            return Ok(());
        }
        part.x.resize_with(call.x.len(), Tensor::default);
        for (part, whole) in part.x.iter_mut().zip(call.x) {
            copy_rows(whole, own.clone(), rows, part)?;
        }
        let mut x = [call.x[0]; MAX_INPUTS];
        x.iter_mut().zip(&part.x).for_each(|(x, part)| *x = part);
        let call = Call { x: &x[..part.x.len()], ..call };
        call.forward(&mut part.y, &mut part.cache, split.mode(call.mode, i))
    })?;
    y.resize_with(call.outputs()?, Tensor::default);
    for (k, y) in y.iter_mut().enumerate() {
        let mut first = None;
        for part in parts.iter().filter(|part| part.samples > 0) {
            let Some(part_y) = part.y.get(k) else {
                return Err(LayerError::count(
                    "forward in parts: outputs",
                    "as many as before",
                    part.y.len(),
                ));
            };
            let shape = part_y.shape();
            let first = *first.get_or_insert(shape);
            if shape.first() != Some(&part.samples) || shape.get(1..) != first.get(1..) {
                let expected = format_args!("one output for each of {} samples", part.samples);
                return Err(ShapeError::new("forward in parts", expected, shape).into());
            }
        }
        y.resize(with_samples(first.unwrap_or(Shape::EMPTY), rows)?)?;
        gather(parts.iter().filter(|part| part.samples > 0).map(|part| &part.y[k]), y);
    }
    Ok(())
}

/// Adds the sum of all parts' gradients to `grads`, which fit the network.
pub(crate) fn backward<T: Scalar>(
    parts: &mut [Part<T>],
    split: &Split,
    call: Call<'_, T>,
    dy: &[Option<&Tensor<T>>],
    dx: &mut [Option<&mut Tensor<T>>],
    grads: &mut Grads<T>,
) -> Result<(), LayerError> {
    let rows = call.x[0].shape().first().copied().unwrap_or(1);
    let like = &*grads;
    let mut wanted = [false; MAX_INPUTS];
    wanted.iter_mut().zip(&*dx).for_each(|(wanted, dx)| *wanted = dx.is_some());
    run(parts, |i, part| {
        let Part { x, y, dy: own_dy, dx, cache, grads, samples, .. } = part;
        memory::grow("gradients of a part", grads, like.len())?;
        grads.truncate(like.len());
        for (grad, like) in grads.iter_mut().zip(like.iter()) {
            grad.clear_like(like)?;
        }
        if *samples == 0 {
            return Ok(());
        }
        own_dy.resize_with(dy.len(), Tensor::default);
        for (own, whole) in own_dy.iter_mut().zip(dy) {
            if let Some(whole) = whole {
                copy_rows(whole, split.rows(i, rows), rows, own)?;
            }
        }
        dx.resize_with(x.len(), Tensor::default);
        let mut inputs = [call.x[0]; MAX_INPUTS];
        inputs.iter_mut().zip(&*x).for_each(|(input, x)| *input = x);
        let mut own = [None; MAX_OUTPUTS];
        for ((own, part), whole) in own.iter_mut().zip(&*own_dy).zip(dy) {
            *own = whole.map(|_| part);
        }
        let mut dx = dx.iter_mut().zip(wanted);
        let mut dx: [_; MAX_INPUTS] =
            std::array::from_fn(|_| dx.next().and_then(|(dx, wanted)| wanted.then_some(dx)));
        let call = Call { x: &inputs[..x.len()], ..call };
        let mode = split.mode(call.mode, i);
        call.backward(y, cache, mode, &own[..dy.len()], &mut dx[..x.len()], grads)?;
        expect_complete(grads)
    })?;
    for (i, (dx, x)) in dx.iter_mut().zip(call.x).enumerate() {
        let Some(dx) = dx else { continue };
        let busy = || parts.iter().filter(|part| part.samples > 0);
        for part in busy() {
            if part.dx[i].shape() != part.x[i].shape() {
                let (expected, got) = (part.x[i].shape(), part.dx[i].shape());
                return Err(ShapeError::new("backward: ∂l/∂x", expected, got).into());
            }
        }
        dx.resize(x.shape())?;
        gather(busy().map(|part| &part.dx[i]), dx);
    }
    add(parts, call.net, split, split.samples(rows), grads);
    Ok(())
}

/// Checks that there was memory for every sum.
pub(crate) fn expect_complete<T: Scalar>(grads: &[Grad<T>]) -> Result<(), LayerError> {
    match grads.iter().find(|grad| !grad.is_complete()) {
        None => Ok(()),
        Some(grad) => {
            let bytes = grad.shape().elements().saturating_mul(2 * size_of::<T>());
            Err(MemoryError::new("backward: sum of gradients", bytes).into())
        }
    }
}

/// Calls `task` for every part. Of several errors it returns the first part's.
fn run<T: Scalar>(
    parts: &mut [Part<T>],
    task: impl Fn(usize, &mut Part<T>) -> Result<(), LayerError> + Sync,
) -> Result<(), LayerError> {
    parallel::for_each(parts.iter_mut().enumerate(), |(i, part)| {
        let mut workspace = std::mem::take(&mut part.workspace);
        part.result = Ok(());
        part.result = workspace.lend(|| task(i, part));
        part.workspace = workspace;
    });
    parts.iter().try_for_each(|part| part.result.clone())
}

/// Adds the parts' gradients to those of the batch, as a tree over the parts: ((p₀ + p₁) + (p₂ + p₃)) + ….
/// The tree depends on the number of parts alone, so it doesn't matter who was ready first, and a node of it
/// can run in another process.
fn add<T: Scalar>(
    parts: &[Part<T>],
    net: &dyn Layer<T>,
    split: &Split,
    samples: usize,
    grads: &mut Grads<T>,
) {
    let mut grads = grads.iter_mut().enumerate();
    net.visit(Path::ROOT, &mut |_, role, _| {
        let Some((k, grad)) = grads.next() else { return };
        if parts.iter().all(|part| live(part, k).is_none()) {
            return;
        }
        let sum = |beta: T, sums: &mut Tensor<T>| {
            let chunks = sums.as_mut_slice().chunks_mut(CHUNK).enumerate();
            parallel::for_each(chunks, |(chunk, sums)| {
                let mut block = [T::ZERO; BLOCK];
                for (i, sums) in sums.chunks_mut(BLOCK).enumerate() {
                    let at = chunk * CHUNK + i * BLOCK;
                    let block = &mut block[..sums.len()];
                    let tree = Tree { parts, k, at, samples, weighs: role == Role::Buffer };
                    tree.sum(0, parts.len().next_power_of_two(), block);
                    match beta == T::ZERO {
                        true => sums.copy_from_slice(block),
                        false => sums.iter_mut().zip(&*block).for_each(|(sum, &x)| *sum += x),
                    }
                }
            });
            Ok::<_, Infallible>(())
        };
        let Ok(()) = match role {
            Role::Parameter | Role::Constant => grad.accumulate(sum),
            // As many as in a pass over the whole batch. Of several processes, the one with the first part
            // counts them.
            Role::Buffer => {
                let counts = parts.iter().filter_map(|part| part.grads.get(k)).map(Grad::count);
                let count = if split.here.start == 0 { counts.max().unwrap_or(0) } else { 0 };
                let Ok(()) = grad.accumulate(sum);
                grad.increment_by(count, |_| Ok::<_, Infallible>(()))
            }
        };
    });
}

/// Elements `at..` of gradient `k` of all parts.
struct Tree<'a, T: Scalar> {
    parts: &'a [Part<T>],
    k: usize,
    at: usize,
    samples: usize,
    /// Whether a part counts by its samples: a buffer gets the mean of the parts' increments.
    weighs: bool,
}

impl<T: Scalar> Tree<'_, T> {
    /// The sum over the parts `first..first + size`, a power of two, and whether there is one: a part without
    /// samples, or whose rule has added nothing, is absent, and no 0 is added for it.
    fn sum(&self, first: usize, size: usize, sum: &mut [T]) -> bool {
        let Some(part) = self.parts.get(first) else { return false };
        if size == 1 {
            let Some(own) = live(part, self.k) else { return false };
            sum.copy_from_slice(&own[self.at..][..sum.len()]);
            if self.weighs {
                let weight = T::from_f64(part.samples as f64 / self.samples as f64);
                sum.iter_mut().for_each(|x| *x *= weight);
            }
            return true;
        }
        let left = self.sum(first, size / 2, sum);
        let mut right_sum = [T::ZERO; BLOCK];
        let right_sum = &mut right_sum[..sum.len()];
        let right = self.sum(first + size / 2, size / 2, right_sum);
        match (left, right) {
            (true, true) => sum.iter_mut().zip(&*right_sum).for_each(|(sum, &x)| *sum += x),
            (false, true) => sum.copy_from_slice(right_sum),
            (_, false) => {}
        }
        left || right
    }
}

/// A part's gradient of tensor k, if its pass has added to it.
fn live<T: Scalar>(part: &Part<T>, k: usize) -> Option<&[T]> {
    part.grads.get(k).and_then(Grad::get).map(Tensor::as_slice)
}

fn gather<'a, T: Scalar>(parts: impl Iterator<Item = &'a Tensor<T>>, whole: &mut Tensor<T>) {
    let mut rest = whole.as_mut_slice();
    for part in parts {
        let (own, others) = rest.split_at_mut(part.len());
        own.copy_from_slice(part.as_slice());
        rest = others;
    }
}

/// Copies these of the `rows` rows of the first axis.
fn copy_rows<T: Scalar>(
    whole: &Tensor<T>,
    own: Range<usize>,
    rows: usize,
    part: &mut Tensor<T>,
) -> Result<(), TensorError> {
    let size = whole.len() / rows.max(1);
    part.resize(with_samples(whole.shape(), own.len())?)?;
    part.as_mut_slice().copy_from_slice(&whole.as_slice()[own.start * size..own.end * size]);
    Ok(())
}

/// The same shape for another number of samples.
fn with_samples(shape: Shape, samples: usize) -> Result<Shape, ShapeError> {
    let mut sizes = [0; MAX_RANK];
    let sizes = &mut sizes[..shape.rank()];
    sizes.copy_from_slice(&shape);
    if let Some(first) = sizes.first_mut() {
        *first = samples;
    }
    Shape::new(sizes)
}
