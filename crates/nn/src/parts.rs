//! A pass over parts of the batch, each with its own memory, as tasks that may run at once.

use std::convert::Infallible;

use backrule_tensor::{Grad, MAX_RANK, Path, Role, Scalar, Shape, ShapeError, Tensor, TensorError, parallel};

use crate::{At, Cache, Grads, Layer, LayerError, Mode};

/// Elements of a gradient that a thread adds up at a time, whatever the number of threads.
const CHUNK: usize = 1 << 14;

/// One part of the batch, and all that a pass over it needs.
#[derive(Clone, Debug)]
pub(crate) struct Part<T: Scalar> {
    x: Tensor<T>,
    y: Tensor<T>,
    dy: Tensor<T>,
    dx: Tensor<T>,
    cache: Cache<T>,
    grads: Vec<Grad<T>>,
    /// What became of the last pass.
    result: Result<(), LayerError>,
}

impl<T: Scalar> Default for Part<T> {
    fn default() -> Self {
        let [x, y, dy, dx] = std::array::from_fn(|_| Tensor::default());
        Self { x, y, dy, dx, cache: Cache::default(), grads: Vec::new(), result: Ok(()) }
    }
}

/// Runs each part's share of x, and gathers the outputs in y. There are no more parts than samples.
pub(crate) fn forward<T: Scalar>(
    parts: &mut [Part<T>],
    net: &dyn Layer<T>,
    x: &Tensor<T>,
    y: &mut Tensor<T>,
    mode: Mode,
) -> Result<(), LayerError> {
    let count = parts.len();
    run(parts, |i, part| {
        copy_share(i, count, x, &mut part.x)?;
        net.forward(&part.x, &mut part.y, &mut part.cache, mode.child(i))
    })?;
    let first = parts.first().map_or(Shape::EMPTY, |part| part.y.shape());
    for Part { x, y, .. } in &*parts {
        let samples = x.shape().first().copied().unwrap_or(1);
        if y.shape().first() != Some(&samples) || y.shape().get(1..) != first.get(1..) {
            let expected = format_args!("one output for each of {samples} samples");
            return Err(ShapeError::new("forward in parts", expected, y.shape()).into());
        }
    }
    y.resize(with_samples(first, x.shape().first().copied().unwrap_or(1))?)?;
    gather(parts.iter().map(|part| &part.y), y);
    Ok(())
}

/// Adds the sum of all parts' gradients to `grads`, which fit the network.
pub(crate) fn backward<T: Scalar>(
    parts: &mut [Part<T>],
    net: &dyn Layer<T>,
    x: &Tensor<T>,
    dy: &Tensor<T>,
    dx: Option<&mut Tensor<T>>,
    grads: &mut Grads<T>,
    mode: Mode,
) -> Result<(), LayerError> {
    let count = parts.len();
    let (shapes, to_input) = (&*grads, dx.is_some());
    run(parts, |i, Part { x, y, dy: own, dx, cache, grads, .. }| {
        copy_share(i, count, dy, own)?;
        grads.resize_with(shapes.len(), Grad::default);
        for (grad, like) in grads.iter_mut().zip(shapes.iter()) {
            grad.clear_like(like)?;
        }
        net.backward(At { x, y, cache, mode: mode.child(i) }, own, to_input.then_some(dx), grads)
    })?;
    if let Some(dx) = dx {
        for part in &*parts {
            if part.dx.shape() != part.x.shape() {
                return Err(ShapeError::new("backward: ∂l/∂x", part.x.shape(), part.dx.shape()).into());
            }
        }
        dx.resize(x.shape())?;
        gather(parts.iter().map(|part| &part.dx), dx);
    }
    add(parts, net, x, grads);
    Ok(())
}

/// Calls `task` for every part. Of several errors it returns the first part's.
fn run<T: Scalar>(
    parts: &mut [Part<T>],
    task: impl Fn(usize, &mut Part<T>) -> Result<(), LayerError> + Sync,
) -> Result<(), LayerError> {
    parallel::for_each(parts.iter_mut().enumerate(), |(i, part)| part.result = task(i, part));
    parts.iter_mut().try_for_each(|part| std::mem::replace(&mut part.result, Ok(())))
}

/// Adds in the order of the parts, so that it doesn't matter who was ready first.
fn add<T: Scalar>(parts: &[Part<T>], net: &dyn Layer<T>, x: &Tensor<T>, grads: &mut Grads<T>) {
    let samples = |x: &Tensor<T>| x.shape().first().map_or(1.0, |&samples| samples as f64);
    let mut grads = grads.iter_mut().enumerate();
    net.visit(Path::ROOT, &mut |_, role, _| {
        let Some((k, grad)) = grads.next() else { return };
        if parts.iter().all(|part| live(part, k).is_none()) {
            return;
        }
        // One pass is one step of a buffer, whatever the number of parts.
        let passes = parts.iter().filter_map(|part| part.grads.get(k)).map(Grad::count).max();
        let Ok(()) = grad.increment_by(passes.unwrap_or(0), |sums| {
            let chunks = sums.as_mut_slice().chunks_mut(CHUNK).enumerate();
            parallel::for_each(chunks, |(chunk, sum)| {
                for part in parts {
                    let own = live(part, k).and_then(|own| own.get(chunk * CHUNK..)).unwrap_or_default();
                    match role {
                        Role::Parameter | Role::Constant => {
                            sum.iter_mut().zip(own).for_each(|(sum, &own)| *sum += own)
                        }
                        // The mean of the parts' increments, each with the weight of its samples.
                        Role::Buffer => {
                            let share = T::from_f64(samples(&part.x) / samples(x));
                            sum.iter_mut().zip(own).for_each(|(sum, &own)| *sum += share * own);
                        }
                    }
                }
            });
            Ok::<_, Infallible>(())
        });
    });
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

/// Copies the samples of part `i` of `count`. If it doesn't come out even, the first parts have one sample more.
fn copy_share<T: Scalar>(
    i: usize,
    count: usize,
    whole: &Tensor<T>,
    own: &mut Tensor<T>,
) -> Result<(), TensorError> {
    let batch = whole.shape().first().copied().unwrap_or(1);
    let (samples, size) = (batch / count + usize::from(i < batch % count), whole.len() / batch);
    let start = (i * (batch / count) + i.min(batch % count)) * size;
    own.resize(with_samples(whole.shape(), samples)?)?;
    own.as_mut_slice().copy_from_slice(&whole.as_slice()[start..start + samples * size]);
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
