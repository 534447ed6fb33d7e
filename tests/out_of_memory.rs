//! Memory that runs out: the n-th large allocation fails, n = 1, 2, …, until an operation gets by without.
//! Each time it is an error, nothing has changed, and the same call succeeds once there is memory again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use backrule::io::{Best, npy, npz, safetensors};
use backrule::nn::testing::{Input, Sample, table};
use backrule::prelude::*;
use backrule::tensor;
use backrule_testkit::{Failing, Scratch, with_threads};
use serde_json::json;

#[global_allocator]
static MEMORY: Failing = Failing;

/// FNV-1a over numbers: a comparison without memory of its own.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    fn tensor(&mut self, x: &Tensor) {
        x.shape().iter().for_each(|&size| self.add(size as u64));
        x.as_slice().iter().for_each(|x| self.add(x.to_bits().into()));
    }

    fn named(&mut self, tensors: &(impl NamedTensors<f32> + ?Sized)) {
        tensors.visit(tensor::Path::ROOT, &mut |_, _, x| self.tensor(x));
    }
}

fn of_named(tensors: &(impl NamedTensors<f32> + ?Sized)) -> u64 {
    let mut digest = Digest::new();
    digest.named(tensors);
    digest.0
}

/// Names and bytes of all files of a folder.
fn of_folder(folder: &Path) -> u64 {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let mut digest = Digest::new();
    for name in names {
        name.as_encoded_bytes().iter().for_each(|&byte| digest.add(byte.into()));
        fs::read(folder.join(name)).unwrap().iter().for_each(|&byte| digest.add(byte.into()));
    }
    digest.0
}

/// A trial of `call` on a fresh thing of `make`, whose `state` is compared. `failed` looks at it after an
/// error.
struct Trial<M, S, C, F> {
    what: &'static str,
    make: M,
    state: S,
    call: C,
    failed: F,
}

impl<T, M, S, C, F> Trial<M, S, C, F>
where
    M: Fn() -> T + Sync,
    S: Fn(&T) -> u64 + Sync,
    C: Fn(&mut T) -> Result<u64, Error> + Sync,
    F: Fn(&mut T) + Sync,
{
    /// Returns how many large allocations there are.
    fn run(&self) -> usize {
        let what = self.what;
        let undisturbed = self.on_a_new_thread(|it| {
            let result = (self.call)(it).unwrap();
            (result, (self.state)(it))
        });
        for n in 1..10_000 {
            let (outcome, failed) = self.on_a_new_thread(|it| self.once(it, n));
            assert_eq!(outcome, undisturbed, "{what}: {n}");
            if !failed {
                println!("{what}: {} large allocations", n - 1);
                return n - 1;
            }
        }
        panic!("{what}: no end")
    }

    /// The outcome, in the end: result and state. Also says whether there were n large allocations.
    fn once(&self, it: &mut T, n: usize) -> ((u64, u64), bool) {
        let (what, before) = (self.what, (self.state)(it));
        let (result, failed) = Failing::without(n, || (self.call)(it));
        let result = result.unwrap_or_else(|error| {
            assert!(failed && is_memory(&error), "{what}: {n}: {error}");
            (self.failed)(it);
            assert_eq!((self.state)(it), before, "{what}: {n}: {error}");
            (self.call)(it).unwrap_or_else(|error| panic!("{what}: {n}: once more: {error}"))
        });
        ((result, (self.state)(it)), failed)
    }

    /// Such a thread has no buffers yet.
    fn on_a_new_thread<R: Send>(&self, f: impl FnOnce(&mut T) -> R + Send) -> R {
        let run = || f(&mut (self.make)());
        thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn is_memory(error: &Error) -> bool {
    let text = error.to_string();
    ["no memory for", "expected memory for"].iter().any(|memory| text.contains(memory))
}

/// A network with inputs for it.
struct Model {
    net: Box<dyn Layer<f32>>,
    x: Vec<Tensor>,
}

type Make = fn() -> Result<Model, Error>;

/// The layers that hold buffers, and containers of many layers.
const MODELS: [(&str, Make); 7] = [
    ("dense", dense),
    ("deep", deep),
    ("graph", graph),
    ("images", images),
    ("lstm", lstm),
    ("attention", attention),
    ("words", words),
];

/// Its products are shared between threads.
fn dense() -> Result<Model, Error> {
    let rng = &mut random::rng(1);
    let net: Sequential = Sequential::builder()
        .layer("fc1", Linear::new(130, 150, rng)?)
        .layer("relu", Relu)
        .layer("fc2", Linear::new(150, 140, rng)?)
        .layer("softmax", Softmax)
        .build()?;
    Ok(Model { net: Box::new(net), x: vec![Tensor::normal([128, 130], 0.0, 1.0, rng)?] })
}

/// Lists of layers and of tensors are large here, and tensors small.
fn deep() -> Result<Model, Error> {
    let rng = &mut random::rng(1);
    let mut net = Sequential::builder();
    for i in 0..70 {
        net = net.layer(format!("fc{i}"), Linear::new(5, 5, rng)?).layer(format!("tanh{i}"), Tanh);
    }
    let net: Sequential = net.build()?;
    let net = Sequential::builder().layer("block", Residual::new(net)).build()?;
    Ok(Model { net: Box::new(net), x: vec![Tensor::normal([4, 5], 0.0, 1.0, rng)?] })
}

/// Several inputs, and a weight that is used again and again.
fn graph() -> Result<Model, Error> {
    let rng = &mut random::rng(1);
    let mut g = Graph::builder();
    let [a, b] = g.inputs(["a", "b"]);
    let shared = g.layer("shared", Linear::new(40, 40, rng)?, [a]);
    let mut value = g.layer("sum", Add, [shared.output(0), b]).output(0);
    for i in 0..70 {
        value = g.again(shared, [value]).output(0);
        value = g.layer(format!("tanh{i}"), Tanh, [value]).output(0);
        value = g.layer(format!("own{i}"), Linear::new(40, 40, rng)?, [value]).output(0);
    }
    let both = g.layer("both", Concat::new(1)?, [value, a]);
    let net = g.build([both.output(0), value])?;
    let x = vec![Tensor::normal([40, 40], 0.0, 1.0, rng)?, Tensor::normal([40, 40], 0.0, 1.0, rng)?];
    Ok(Model { net: Box::new(net), x })
}

fn images() -> Result<Model, Error> {
    let rng = &mut random::rng(1);
    let net: Sequential = Sequential::builder()
        .layer("conv", Conv2d::new(3, 8, [3, 3], rng)?)
        .layer("norm", BatchNorm::new(8)?)
        .layer("relu", Relu)
        .layer("pool", MaxPool2d::new([2, 2])?)
        .layer("drop", Dropout::new(0.3)?)
        .layer("flatten", Flatten::new(1)?)
        .layer("fc", Linear::new(8 * 7 * 7, 12, rng)?)
        .build()?;
    Ok(Model { net: Box::new(net), x: vec![Tensor::normal([9, 3, 16, 16], 0.0, 1.0, rng)?] })
}

fn lstm() -> Result<Model, Error> {
    let rng = &mut random::rng(1);
    let config = LstmConfig::new(12, 16).layers(6).bidirectional(true);
    let x = vec![Tensor::normal([5, 11, 12], 0.0, 1.0, rng)?];
    Ok(Model { net: Box::new(config.build::<f32>(rng)?), x })
}

fn attention() -> Result<Model, Error> {
    let rng = &mut random::rng(1);
    let net: Sequential = Sequential::builder()
        .layer("attention", MultiHeadAttention::new(32, 4, rng)?)
        .layer("norm", LayerNorm::new([32])?)
        .layer("gelu", Gelu::new())
        .layer("softmax", LogSoftmax)
        .build()?;
    Ok(Model { net: Box::new(net), x: vec![Tensor::normal([6, 17, 32], 0.0, 1.0, rng)?] })
}

fn words() -> Result<Model, Error> {
    let rng = &mut random::rng(1);
    let net: Sequential = Sequential::builder()
        .layer("words", Embedding::new(60, 20, rng)?)
        .layer("block", Residual::new(Linear::new(20, 20, rng)?))
        .layer("frozen", Frozen::new(Linear::new(20, 40, rng)?))
        .build()?;
    let words = Tensor::from_fn([30, 50], |at| ((at[0] * 7 + at[1]) % 60) as f32)?;
    Ok(Model { net: Box::new(net), x: vec![words] })
}

/// All that a training loop has.
struct Training {
    model: Model,
    tape: Tape,
    grads: Grads,
    optimizer: Optimizer<Sgd>,
    dy: Vec<Tensor>,
}

impl Training {
    fn new(make: Make, parts: usize) -> Result<Self, Error> {
        let model = make()?;
        let optimizer = Optimizer::new(Sgd::new(0.1)?.momentum(0.9)?, &model.net)?;
        let (tape, grads) = (Tape::new().parts(parts)?, Grads::new(&model.net)?);
        Ok(Self { model, tape, grads, optimizer, dy: Vec::new() })
    }

    fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        digest.named(&self.model.net);
        digest.named(&self.optimizer);
        digest.add(self.optimizer.step_count());
        digest.0
    }

    /// Forward, a loss, backward, clipping, update. The loss of y is y²/2.
    fn step(&mut self) -> Result<u64, Error> {
        let Self { model: Model { net, x }, tape, grads, optimizer, dy } = self;
        let mode = Mode::train_with(Key::new(3));
        let mut digest = Digest::new();
        if let [x] = &x[..] {
            let pass = tape.forward(net, x, mode)?;
            dy.resize_with(1, Tensor::default);
            dy[0].copy_from(pass.output())?;
            digest.tensor(pass.output());
            pass.backward(&dy[0], grads)?;
        } else {
            let [a, b] = &x[..] else { panic!("two inputs") };
            let pass = tape.forward_many(net, &[a, b], mode)?;
            dy.resize_with(2, Tensor::default);
            for (y, dy) in pass.outputs().iter().zip(&mut *dy) {
                digest.tensor(y);
                dy.copy_from(y)?;
            }
            pass.backward_many(&[Some(&dy[0]), Some(&dy[1])], grads)?;
        }
        grads.iter().filter_map(Grad::get).for_each(|grad| digest.tensor(grad));
        digest.add(grads.clip_norm(1.0)?.to_bits());
        grads.clip_value(0.5)?;
        optimizer.step(net, grads)?;
        Ok(digest.0)
    }

    /// After an error: gradients that a backward pass has left in the middle are of no use until they are
    /// cleared.
    fn refuses_incomplete_gradients(&mut self) {
        if self.grads.is_complete() {
            return;
        }
        let before = self.digest();
        let error = self.optimizer.step(&mut self.model.net, &mut self.grads).unwrap_err();
        assert!(error.to_string().contains("call `clear`"), "{error}");
        assert!(matches!(error, StepError::Incomplete(_)));
        assert!(matches!(self.grads.clip_norm(1.0), Err(tensor::ClipError::Incomplete(_))));
        assert_eq!(self.digest(), before);
        self.grads.clear();
    }
}

fn nothing<T>(_: &mut T) {}

#[test]
fn building() {
    let _one = with_threads(2);
    for (what, make) in MODELS {
        let call = |built: &mut Option<u64>| {
            *built = Some(Training::new(make, 2)?.digest());
            Ok(built.unwrap())
        };
        Trial { what, make: || None, state: |built: &Option<u64>| built.unwrap_or(0), call, failed: nothing }
            .run();
    }
}

#[test]
fn training() {
    let mut failures = 0;
    for (threads, parts) in [(1, 1), (2, 1), (2, 2)] {
        let _one = with_threads(threads);
        for (what, make) in MODELS {
            let trial = Trial {
                what,
                make: || Training::new(make, parts).unwrap(),
                state: Training::digest,
                call: Training::step,
                failed: Training::refuses_incomplete_gradients,
            };
            failures += trial.run();
        }
    }
    assert!(failures > 100);
}

/// Every layer of the catalogue, at the sizes of benchmarks: forward and backward, to all inputs.
#[test]
fn every_layer() {
    let _one = with_threads(2);
    let mut failures = 0;
    let samples = table::<f32>()
        .into_iter()
        .flat_map(|entry| (entry.samples)().into_iter().map(move |it| (entry.kind, it)));
    for (what, Sample { layer, inputs, .. }) in samples.filter(|(_, sample)| sample.bench) {
        let tensor = |(seed, input): (u64, &Input)| input.tensor(seed).unwrap();
        let x: Vec<Tensor> = (1..).zip(&inputs).map(tensor).collect();
        let x: Vec<_> = x.iter().collect();
        let dy = predict_many(&*layer, &x).unwrap();
        let dy: Vec<_> = dy.iter().map(Some).collect();
        let layer = &*layer;
        let call = |(tape, grads, dx): &mut (Tape, Grads, Vec<Tensor>)| {
            let mut digest = Digest::new();
            let pass = tape.forward_many(layer, &x, Mode::train_with(Key::new(1)))?;
            pass.outputs().iter().for_each(|y| digest.tensor(y));
            let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
            pass.backward_many_to_inputs(&dy, grads, &mut wanted)?;
            dx.iter().chain(grads.iter().filter_map(Grad::get)).for_each(|dx| digest.tensor(dx));
            Ok(digest.0)
        };
        let make = || (Tape::new(), Grads::new(layer).unwrap(), vec![Tensor::default(); x.len()]);
        let failed = |it: &mut (Tape, Grads, Vec<Tensor>)| it.1.clear();
        failures += Trial { what, make, state: |_: &_| of_named(layer), call, failed }.run();
    }
    assert!(failures > 50);
}

/// Sums of more terms than are added in order, each a gradient of another pass.
#[test]
fn adding_gradients() {
    let _one = with_threads(1);
    let Model { net, x } = dense().unwrap();
    let mut one = Grads::new(&net).unwrap();
    let (mut tape, mode) = (Tape::new(), Mode::Eval);
    let pass = tape.forward(&net, &x[0], mode).unwrap();
    let dy = pass.output().clone();
    pass.backward(&dy, &mut one).unwrap();
    let digest = |grads: &Grads| {
        let mut digest = Digest::new();
        grads.iter().filter_map(Grad::get).for_each(|grad| digest.tensor(grad));
        digest.add(grads.is_complete().into());
        digest.0
    };
    let make = || {
        let mut sum = Grads::new(&net).unwrap();
        (0..8).for_each(|_| sum.add(&one).unwrap());
        sum
    };
    let call = |sum: &mut Grads| {
        sum.add(&one)?;
        Ok(0)
    };
    let failures = Trial { what: "addition", make, state: digest, call, failed: nothing }.run();
    assert!(failures > 0);
}

/// An error's text may be as long as a text of the file.
#[test]
fn hostile_architectures() {
    let long = "x".repeat(backrule::io::limits::MAX_ARCHITECTURE_TEXT);
    let layer = |kind: &str, option: &str| json!([{ "name": "", "kind": kind, "options": { option: long } }]);
    for layers in [
        layer("Linear", "in_features"),
        layer("Linear", &long),
        layer(&long, "a"),
        json!([{ &long: 1 }]),
        json!(long),
    ] {
        let net = vec![("a", Tensor::from([1.0_f32]))];
        let bytes = Checkpoint::of(&net).architecture(&layers).unwrap().to_bytes().unwrap();
        let call = |_: &mut ()| {
            let checkpoint = Checkpoint::from_bytes(&bytes)?;
            Ok(checkpoint.architecture::<Architecture>().is_err().into())
        };
        Trial { what: "a hostile architecture", make: || (), state: |(): &()| 0, call, failed: nothing }
            .run();
    }
}

/// A table for people, and a copy of values.
#[test]
fn looking_and_copying() {
    let _one = with_threads(1);
    let deep = deep().unwrap();
    let summary = |_: &mut ()| Ok(summary(&deep.net, [4, 5])?.parameters() as u64);
    let failures =
        Trial { what: "summary", make: || (), state: |(): &()| 0, call: summary, failed: nothing }.run();
    assert!(failures > 0);

    let from = dense().unwrap();
    let make = || dense().unwrap();
    let copy = |to: &mut Model| {
        to.net.copy_tensors_from(&from.net)?;
        Ok(0)
    };
    Trial { what: "copy", make, state: |it: &Model| of_named(&it.net), call: copy, failed: nothing }.run();
}

#[test]
fn losses() {
    let _one = with_threads(2);
    let y: Tensor = Tensor::normal([150, 40], 0.0, 1.0, &mut random::rng(1)).unwrap();
    let labels: Vec<usize> = (0..150).map(|i| i % 40).collect();
    let call = |dy: &mut Tensor| {
        let mut digest = Digest::new();
        digest.add(CrossEntropy::new().value_and_grad(&y, &labels, dy)?.to_bits().into());
        digest.tensor(dy);
        Ok(digest.0)
    };
    Trial { what: "cross-entropy", make: Tensor::default, state: |_: &_| 0, call, failed: nothing }.run();
    let call = |dy: &mut Tensor| {
        let mut digest = Digest::new();
        digest.add(Mse::new().value_and_grad(&y, &y, dy)?.to_bits().into());
        digest.tensor(dy);
        Ok(digest.0)
    };
    Trial { what: "mse", make: Tensor::default, state: |_: &_| 0, call, failed: nothing }.run();
}

/// A folder of its own.
struct Folder {
    scratch: Scratch,
    training: Training,
}

impl Folder {
    fn new(make: Make) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let scratch = Scratch::new(&format!("memory-{}", NUMBER.fetch_add(1, Relaxed)));
        let mut training = Training::new(make, 1).unwrap();
        training.step().unwrap();
        Self { scratch, training }
    }

    /// The same with a checkpoint and its like, of older values.
    fn saved(make: Make) -> Self {
        let mut folder = Self::new(make);
        folder.save().unwrap();
        folder.save_tensors().unwrap();
        folder.training.step().unwrap();
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    fn digest(&self) -> u64 {
        self.training.digest() ^ of_folder(&self.scratch.0).rotate_left(1)
    }

    fn run() -> Run {
        Run { epoch: 3, program: Some("1.2".to_string()), ..Run::default() }
    }

    fn save(&mut self) -> Result<u64, Error> {
        let Training { model, optimizer, .. } = &self.training;
        let snapshot = Checkpoint::of(&model.net).optimizer(optimizer).run(&Self::run()).finite_only();
        let snapshot = snapshot.architecture(&Architecture::of(&*model.net)?)?.metadata(&1)?;
        snapshot.save(self.file("net.brk"))?;
        Ok(0)
    }

    fn encode(&mut self) -> Result<u64, Error> {
        let Training { model, optimizer, .. } = &self.training;
        let mut digest = Digest::new();
        let bytes = [
            Checkpoint::of(&model.net).optimizer(optimizer).to_bytes()?,
            safetensors::to_bytes(&model.net)?,
            npy::to_bytes(&model.x[0])?,
        ];
        bytes.iter().flatten().for_each(|&byte| digest.add(byte.into()));
        Ok(digest.0)
    }

    fn save_tensors(&mut self) -> Result<u64, Error> {
        // One file each: the first is saved when the second fails.
        safetensors::save(&self.training.model.net, self.file("net.safetensors"))?;
        npy::save(self.file("x.npy"), &self.training.model.x[0])?;
        Ok(0)
    }

    fn load(&mut self) -> Result<u64, Error> {
        let mut digest = Digest::new();
        let file = self.file("net.brk");
        for checkpoint in [Checkpoint::load(&file)?, Checkpoint::open(&file)?] {
            let architecture: Architecture = checkpoint.architecture()?;
            digest.named(&architecture.build(checkpoint.element_count())?);
            checkpoint.tensors().for_each(|info| digest.add(info.crc.unwrap_or_default().into()));
            digest.add(checkpoint.metadata()?);
        }
        Ok(digest.0)
    }

    /// The network and the optimizer are those of the file then, or as they were.
    fn restore(&mut self) -> Result<u64, Error> {
        let Training { model, optimizer, .. } = &mut self.training;
        let file = self.scratch.0.join("net.brk");
        Checkpoint::load(&file)?.restore_with_optimizer(&mut model.net, optimizer)?;
        Ok(0)
    }

    fn restore_opened(&mut self) -> Result<u64, Error> {
        let Training { model, optimizer, .. } = &mut self.training;
        let file = self.scratch.0.join("net.brk");
        Checkpoint::open(&file)?.restore_with_optimizer(&mut model.net, optimizer)?;
        Ok(0)
    }

    fn restore_partly(&mut self) -> Result<u64, Error> {
        let Training { model, optimizer, .. } = &mut self.training;
        let checkpoint = Checkpoint::open(self.scratch.0.join("net.brk"))?;
        let restoring = checkpoint.restoring().rename_with(|path| Some(path.to_string())).partial();
        let report = restoring.restore_into_with_optimizer(&mut model.net, optimizer)?;
        Ok(report.restored.len() as u64)
    }

    fn load_all(&mut self) -> Result<u64, Error> {
        Ok(of_named(&load::<f32>(self.file("net.brk"))?.network))
    }

    fn load_tensors(&mut self) -> Result<u64, Error> {
        let mut digest = Digest::new();
        let file = self.file("net.safetensors");
        for checkpoint in [safetensors::load(&file)?, safetensors::open(&file)?] {
            checkpoint.tensors().for_each(|info| digest.add(info.crc.unwrap_or_default().into()));
        }
        digest.tensor(&npy::load(self.file("x.npy"))?);
        Ok(digest.0)
    }
}

fn files(models: &[(&'static str, Make)], saved: bool, call: fn(&mut Folder) -> Result<u64, Error>) {
    let _one = with_threads(2);
    for &(what, make) in models {
        let make = || if saved { Folder::saved(make) } else { Folder::new(make) };
        Trial { what, make, state: Folder::digest, call, failed: nothing }.run();
    }
}

#[test]
fn saving() {
    files(&MODELS, false, Folder::save);
    files(&MODELS, true, Folder::save);
    files(&MODELS, false, Folder::encode);
}

#[test]
fn saving_tensors() {
    files(&MODELS, false, |folder| {
        safetensors::save(&folder.training.model.net, folder.file("net.safetensors"))?;
        Ok(0)
    });
    files(&MODELS, true, |folder| {
        npy::save(folder.file("x.npy"), &folder.training.model.x[0])?;
        Ok(0)
    });
}

#[test]
fn loading() {
    files(&MODELS, true, Folder::load);
    files(&MODELS, true, Folder::load_all);
    files(&MODELS, true, Folder::load_tensors);
}

#[test]
fn restoring() {
    files(&MODELS, true, Folder::restore);
    files(&MODELS, true, Folder::restore_opened);
    files(&MODELS, true, Folder::restore_partly);
}

#[test]
fn arrays_of_numpy() {
    let _one = with_threads(1);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/io/tests/golden/others");
    for what in ["stored", "deflated"] {
        let call = |_: &mut ()| {
            let mut digest = Digest::new();
            let npz = npz::open(golden.join(what).with_extension("npz"))?;
            digest.tensor(&npz.load("w")?);
            digest.tensor(&npz.load("b")?);
            Ok(digest.0)
        };
        Trial { what, make: || (), state: |(): &()| 0, call, failed: nothing }.run();
    }
}

/// Among so many files that their list is large.
#[test]
fn rotation() {
    let _one = with_threads(1);
    let of = |scratch: &Scratch| {
        Rotation::new(&scratch.0, "run").map(|rotation| rotation.keep_last(600).keep_best(Best::Min))
    };
    let net = vec![("weight", Tensor::<f32>::full([1100], 0.5).unwrap())];
    let make = || {
        let scratch = Scratch::new("memory-rotation");
        of(&scratch).unwrap().save(&Checkpoint::of(&net), 0.5).unwrap();
        let name = |number: u64| scratch.0.join(format!("run-{number:08}-{:e}.brk", number as f64));
        let first = of(&scratch).unwrap().files().unwrap().remove(0).path;
        for number in 2..=601 {
            fs::hard_link(&first, name(number)).unwrap();
        }
        scratch
    };
    let save = |scratch: &mut Scratch| {
        of(scratch)?.save(&Checkpoint::of(&net), 0.7)?;
        Ok(0)
    };
    let state = |scratch: &Scratch| of_folder(&scratch.0);
    // Where there was no memory to look at the best file, more may be left.
    let saved = |scratch: &Scratch| {
        let names = scratch.names();
        let new = names.iter().find(|name| name.starts_with("run-00000602-"));
        match new {
            None => state(scratch),
            Some(new) => {
                assert!(
                    (601..603).contains(&names.len()) && names[0].starts_with("run-00000001-"),
                    "{names:?}"
                );
                fs::read(scratch.0.join(new)).unwrap().len() as u64
            }
        }
    };
    Trial { what: "save", make, state: saved, call: save, failed: nothing }.run();
    let find = |scratch: &mut Scratch| {
        let rotation = of(scratch)?;
        let mut numbers = 0;
        for found in [rotation.latest()?, rotation.best()?].into_iter().flatten() {
            numbers = 1000 * numbers + found.file.number;
        }
        Ok(numbers)
    };
    Trial { what: "find", make, state, call: find, failed: nothing }.run();
}

/// In processes of their own: no thread of the pool has started yet.
#[test]
fn the_first_use_of_pool_and_buffers() {
    const CHILD: &str = "BACKRULE_TEST_MEMORY";
    let _one = with_threads(3);
    let trial = Trial {
        what: "first use",
        make: || Training::new(dense, 3).unwrap(),
        state: Training::digest,
        call: Training::step,
        failed: Training::refuses_incomplete_gradients,
    };
    if let Ok(n) = env::var(CHILD) {
        let (outcome, failed) = trial.once(&mut (trial.make)(), n.parse().unwrap());
        println!("{CHILD}: {outcome:?} {failed}");
        return;
    }
    let mut outcomes = Vec::new();
    for n in 1..1000 {
        let mut child = Command::new(env::current_exe().unwrap());
        let name = "the_first_use_of_pool_and_buffers";
        let child = child.args(["--exact", name, "--nocapture"]).env(CHILD, n.to_string()).output().unwrap();
        let (text, error) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success(), "{n}: {text}\n{error}");
        let (_, outcome) = text.split_once(CHILD).unwrap();
        let (outcome, failed) = outcome.lines().next().unwrap().rsplit_once(' ').unwrap();
        outcomes.push(outcome.to_string());
        if failed == "false" {
            assert!(outcomes.len() > 10 && outcomes.iter().all(|other| *other == outcome), "{outcomes:?}");
            return;
        }
    }
    panic!("no end");
}
