//! The common items of the benchmarks.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each target uses a part of it, and a benchmark may fail loudly"
)]

use std::hint::black_box;
use std::path::PathBuf;

use backrule_io::Checkpoint;
use backrule_loss::{CrossEntropy, Mse};
use backrule_nn::testing::{Sample, table};
use backrule_nn::{
    Dropout, Grads, Key, Layer, Linear, LogSoftmax, MAX_INPUTS, MAX_OUTPUTS, Mode, Relu, Sequential, Sigmoid,
    Softmax, Tanh, Tape,
};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Grad, Tensor, TensorError, random};
use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;

/// One of the three forms of a product.
pub(crate) type Product = fn(&Tensor, &Tensor, f32, &mut Tensor) -> Result<(), TensorError>;

/// A benchmark of the work that `make` gives. `make` runs once, outside of the timed part, and not at all for
/// a benchmark that a filter leaves out. A first call follows, in which buffers grow.
pub(crate) fn bench<O, F: FnMut() -> O>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: impl Into<String>,
    make: impl FnOnce() -> F,
) {
    let (mut make, mut work) = (Some(make), None);
    group.bench_function(id.into(), |bencher| {
        if let Some(make) = make.take() {
            black_box(work.insert(make())());
        }
        bencher.iter(work.as_mut().unwrap());
    });
}

/// Dense layers of these sizes with ReLU between them.
pub(crate) fn mlp(sizes: &[usize]) -> Sequential {
    let mut rng = random::rng(1);
    let mut builder = Sequential::builder();
    for (i, pair) in sizes.windows(2).enumerate() {
        if i > 0 {
            builder = builder.layer(format!("relu{i}"), Relu);
        }
        builder = builder.layer(format!("fc{}", i + 1), Linear::new(pair[0], pair[1], &mut rng).unwrap());
    }
    builder.build().unwrap()
}

/// The name of a network in a benchmark's id: `784-128-64-10`.
pub(crate) fn name(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("-")
}

/// Normally distributed numbers. In large tensors they repeat after 2¹⁷, because `compare` makes all inputs
/// anew in each round, and 10 million take longer to draw than to update.
pub(crate) fn normal(shape: [usize; 2], seed: u64) -> Tensor {
    const DRAWN: usize = 1 << 17;
    let elements = shape[0] * shape[1];
    if elements <= DRAWN {
        return Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).unwrap();
    }
    let drawn = normal([1, DRAWN], seed);
    let repeated = drawn.as_slice().iter().cycle().take(elements).copied();
    Tensor::from_vec(shape, repeated.collect()).unwrap()
}

/// Gradients that a step has cleared are there again, as if a backward pass had written them.
pub(crate) fn renew(grads: &mut [Grad]) {
    grads.iter_mut().for_each(|grad| grad.accumulate(|_, _| Ok::<_, TensorError>(())).unwrap());
}

/// A class for each row.
pub(crate) fn labels(rows: usize, classes: usize) -> Vec<usize> {
    (0..rows).map(|i| i * 7 % classes).collect()
}

/// Multiplications and additions of a training step: forward, ∂l/∂W, and ∂l/∂x of all layers but the first.
pub(crate) fn training_flop(sizes: &[usize], batch: usize) -> u64 {
    let layers = sizes.windows(2).enumerate();
    layers.map(|(i, pair)| (if i == 0 { 4 } else { 6 }) * (batch * pair[0] * pair[1]) as u64).sum()
}

/// The same of a prediction.
pub(crate) fn prediction_flop(sizes: &[usize], batch: usize) -> u64 {
    sizes.windows(2).map(|pair| 2 * (batch * pair[0] * pair[1]) as u64).sum()
}

/// A training step, to be called again and again.
pub(crate) fn training(sizes: &[usize], batch: usize, mut tape: Tape) -> impl FnMut() -> f32 {
    let mut net = mlp(sizes);
    let (x, labels) = (normal([batch, sizes[0]], 2), labels(batch, sizes[sizes.len() - 1]));
    let loss = CrossEntropy::new();
    // A small rate: the same batch again and again must not diverge.
    let mut optimizer = Optimizer::new(Sgd::new(0.001).unwrap().momentum(0.9).unwrap(), &net).unwrap();
    let (mut grads, mut dy, mut step) = (Grads::new(&net).unwrap(), Tensor::default(), 0);
    move || {
        step += 1;
        let pass = tape.forward(&net, &x, Mode::train_with(Key::new(step))).unwrap();
        let l = loss.value_and_grad(pass.output(), &labels, &mut dy).unwrap();
        pass.backward(&dy, &mut grads).unwrap();
        optimizer.step(&mut net, &mut grads).unwrap();
        l
    }
}

/// Loss and gradients of 24-8-2 with tanh and dropout in double precision, 200 rows, to be called again and
/// again.
pub(crate) fn gradients_in_double() -> impl FnMut() -> f64 {
    let mut rng = random::rng(1);
    let net = Sequential::builder()
        .layer("fc1", Linear::<f64>::new(24, 8, &mut rng).unwrap())
        .layer("tanh", Tanh)
        .layer("dropout", Dropout::new(0.2).unwrap())
        .layer("fc2", Linear::new(8, 2, &mut rng).unwrap())
        .build()
        .unwrap();
    let [x, target] = [24, 2].map(|n| Tensor::normal([200, n], 0.0, 1.0, &mut rng).unwrap());
    let (mut tape, mut grads, mut dy, mut step) =
        (Tape::new(), Grads::new(&net).unwrap(), Tensor::default(), 0);
    move || {
        step += 1;
        grads.clear();
        let pass = tape.forward(&net, &x, Mode::train_with(Key::new(step))).unwrap();
        let l = Mse::new().value_and_grad(pass.output(), &target, &mut dy).unwrap();
        pass.backward(&dy, &mut grads).unwrap();
        l
    }
}

/// A pass over the samples of benchmark size of every layer in the catalogue: forward, and backward with all
/// gradients, in training. Each has its kind and name.
pub(crate) fn of_catalogue() -> Vec<(String, Sample<f32>)> {
    let entries = table::<f32>().into_iter().flat_map(|entry| {
        let samples = (entry.samples)().into_iter().filter(|sample| sample.bench);
        samples.map(move |sample| (format!("{}/{}", entry.kind, sample.name.replace(' ', "_")), sample))
    });
    entries.collect()
}

/// One such pass, to be called again and again.
pub(crate) fn pass_of_sample(sample: &Sample<f32>) -> impl FnMut() + use<> {
    let (layer, x) = (sample.layer.clone(), sample.tensors(1).unwrap());
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&*layer).unwrap());
    let mode = Mode::train_with(Key::new(1));
    let dy = tape.forward_many(&*layer, &x.iter().collect::<Vec<_>>(), mode).unwrap().outputs().to_vec();
    let mut dx = vec![Tensor::default(); x.len()];
    move || {
        let mut wanted = dx.iter_mut().map(Some);
        let mut wanted: [_; MAX_INPUTS] = std::array::from_fn(|_| wanted.next().flatten());
        let pass = tape.forward_many(&*layer, &inputs(&x)[..x.len()], mode).unwrap();
        pass.backward_many_to_inputs(&upstream(&dy)[..dy.len()], &mut grads, &mut wanted[..x.len()]).unwrap();
    }
}

/// References to inputs, without an allocation: as many as there are.
pub(crate) fn inputs(x: &[Tensor]) -> [&Tensor; MAX_INPUTS] {
    std::array::from_fn(|i| &x[i.min(x.len() - 1)])
}

/// The same for the upstream gradients.
pub(crate) fn upstream(dy: &[Tensor]) -> [Option<&Tensor>; MAX_OUTPUTS] {
    std::array::from_fn(|i| dy.get(i))
}

/// Prepares a call.
pub(crate) type MakeKernel = fn(&Folder) -> Box<dyn FnMut() + '_>;

/// The kernels of io, each with little beside it, and the bytes that one call works on. `folder` is the
/// files'.
pub(crate) fn io_kernels() -> [(&'static str, u64, MakeKernel); 4] {
    // As many tensors of one element as a network of some blocks has.
    fn names() -> Vec<(String, Tensor)> {
        let name = |i| format!("block{}.attention.head{}.projection.weight", i / 16, i % 16);
        (0..256).map(|i| (name(i), Tensor::zeros([1]).unwrap())).collect()
    }
    fn one() -> Vec<(&'static str, Tensor)> {
        vec![("weight", Tensor::full([1 << 18], 0.5).unwrap())]
    }
    [
        // Nothing is kept of a file that is only opened.
        ("checksum/1mib", 1 << 20, |folder| {
            let file = folder.file("checksum.brk");
            Checkpoint::of(&one()).save(&file).unwrap();
            Box::new(move || _ = black_box(Checkpoint::open(&file).unwrap()))
        }),
        ("header/encode/256", 256, |_| {
            let names = names();
            Box::new(move || _ = black_box(Checkpoint::of(&names).to_bytes().unwrap()))
        }),
        ("header/decode/256", 256, |folder| {
            let file = folder.file("header.brk");
            Checkpoint::of(&names()).save(&file).unwrap();
            Box::new(move || _ = black_box(Checkpoint::open(&file).unwrap()))
        }),
        ("elements/1mib", 1 << 20, |_| {
            let mut state = one();
            let loaded = Checkpoint::from_bytes(&Checkpoint::of(&state).to_bytes().unwrap()).unwrap();
            Box::new(move || loaded.restore(&mut state).unwrap())
        }),
    ]
}

/// A folder of temporary files, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("backrule-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The layers without parameters, by their names in the ids of benchmarks.
pub(crate) fn activations() -> [(&'static str, Box<dyn Layer<f32>>); 6] {
    [
        ("Relu", Box::new(Relu)),
        ("Sigmoid", Box::new(Sigmoid)),
        ("Tanh", Box::new(Tanh)),
        ("Softmax", Box::new(Softmax)),
        ("LogSoftmax", Box::new(LogSoftmax)),
        ("Dropout(0.5)", Box::new(Dropout::new(0.5).unwrap())),
    ]
}
