//! Learns to read handwritten digits: a 64-32-10 network on real data, from the pixels to a saved checkpoint.
//!
//! ```console
//! $ cargo run --release --example digits
//! $ cargo run --release --example digits -- --help
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use backrule_examples::args::{Args, Check, Stop};
use backrule_examples::chart::{Chart, Panel};
use backrule_examples::confusion::Confusion;
use backrule_examples::digits::{self, Digits};
use backrule_examples::progress::Progress;
use backrule_examples::table::Table;
use backrule_io::Checkpoint;
use backrule_loss::CrossEntropy;
use backrule_nn::{Grads, Key, Linear, Mode, Relu, Sequential, Tape, predict};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Tensor, TrainingState, random};
use serde::{Deserialize, Serialize};

/// What the run was asked to do, and how it went: both are saved with the weights.
#[derive(Clone, Serialize, Deserialize)]
struct Run {
    hidden: Vec<usize>,
    batch_size: usize,
    lr: f64,
    momentum: f64,
    seed: u64,
    history: Vec<Epoch>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Epoch {
    train: Score,
    test: Score,
}

/// Mean loss, and the share of right answers.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Score {
    loss: f64,
    accuracy: f64,
}

struct Options {
    run: Run,
    epochs: usize,
    resume: Option<PathBuf>,
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(options()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let (train, test) = Digits::load()?;
    let (train, test) = (Data::new(train)?, Data::new(test)?);

    let (net, optimizer, mut run) = match &options.resume {
        Some(file) => resume(file, options.epochs)?,
        None => {
            let net = network(&options.run)?;
            let optimizer = optimizer(&options.run, &net)?;
            (net, optimizer, options.run)
        }
    };
    println!("{}\n", net.summary([run.batch_size, digits::PIXELS])?);
    println!(
        "{} digits to learn from, {} to be tested on. The first:\n",
        train.labels.len(),
        test.labels.len()
    );
    println!("{}\n", digits::show(train.x.row(0).unwrap_or_default()));

    let start = Instant::now();
    let (net, optimizer) = fit(net, optimizer, &mut run, options.epochs, &train, &test)?;
    let seconds = start.elapsed().as_secs_f64();
    report(&net, &run, &test)?;

    std::fs::create_dir_all(&options.out)
        .map_err(|error| format!("--out: {}: {error}", options.out.display()))?;
    let file = options.out.join("digits.brk");
    Checkpoint::of(&net)
        .optimizer(&optimizer)
        .epoch(run.history.len() as u64)
        .step(optimizer.step_count())
        .seed(run.seed)
        .metadata(&run)?
        .save(&file)?;
    let mut again = network(&Run { seed: !run.seed, ..run.clone() })?;
    Checkpoint::load(&file)?.restore(&mut again)?;
    let bits = |net| Ok::<_, Box<dyn Error>>(predict(net, &test.x)?.into_vec().into_iter().map(f32::to_bits));
    if !bits(&net)?.eq(bits(&again)?) {
        return Err("the reloaded network predicts otherwise".into());
    }
    println!("\nsaved to {}; a fresh network restored from it predicts the same bits", file.display());

    let picture = options.out.join("digits.svg");
    std::fs::write(&picture, curves(&run)).map_err(|error| format!("{}: {error}", picture.display()))?;
    println!("curves in {}", picture.display());
    let last = run.history.last().map_or(Score::default(), |epoch| epoch.test);
    println!(
        "\ntest accuracy {:.4} after {} epochs; training took {seconds:.3} s",
        last.accuracy,
        run.history.len()
    );
    Ok(())
}

/// Images as rows of a tensor, and what they show.
struct Data {
    x: Tensor,
    labels: Vec<usize>,
}

impl Data {
    fn new(digits: Digits) -> Result<Self, Box<dyn Error>> {
        let x = Tensor::from_vec([digits.rows(), digits::PIXELS], digits.pixels)?;
        Ok(Self { x, labels: digits.labels })
    }
}

fn network(run: &Run) -> Result<Sequential, Box<dyn Error>> {
    let mut rng = random::rng(run.seed);
    let mut builder = Sequential::builder();
    let mut inputs = digits::PIXELS;
    for (i, &outputs) in run.hidden.iter().enumerate() {
        builder = builder
            .layer(format!("fc{}", i + 1), Linear::new(inputs, outputs, &mut rng)?)
            .layer(format!("relu{}", i + 1), Relu);
        inputs = outputs;
    }
    Ok(builder.layer("logits", Linear::new(inputs, digits::CLASSES, &mut rng)?).build()?)
}

fn optimizer(run: &Run, net: &Sequential) -> Result<Optimizer<Sgd>, Box<dyn Error>> {
    Ok(Optimizer::new(Sgd::new(run.lr)?.momentum(run.momentum)?, net)?)
}

/// The training loop. Everything that it needs is allocated in the first epoch; from then on it allocates nothing.
fn fit(
    mut net: Sequential,
    mut optimizer: Optimizer<Sgd>,
    run: &mut Run,
    epochs: usize,
    train: &Data,
    test: &Data,
) -> Result<(Sequential, Optimizer<Sgd>), Box<dyn Error>> {
    let loss = CrossEntropy::new();
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&net)?, Tensor::default());
    let (mut x, mut labels) = (Tensor::default(), Vec::new());
    let mut order: Vec<usize> = Vec::new();
    let mut progress = Progress::stderr(epochs - run.history.len());

    for epoch in run.history.len()..epochs {
        // The order of an epoch follows from the seed and its number alone, so that a resumed run sees the same.
        let key = Key::new(run.seed).child(epoch as u64);
        order.clear();
        order.extend(0..train.labels.len());
        random::shuffle(&mut order, &mut key.rng());

        let mut score = Score::default();
        for (step, batch) in order.chunks(run.batch_size).enumerate() {
            x.gather(&train.x, batch)?;
            labels.clear();
            labels.extend(batch.iter().map(|&i| train.labels[i]));

            let pass = tape.forward(&net, &x, Mode::Train(key.child(step as u64)))?;
            let l = loss.value_and_grad(pass.output(), &labels, &mut dy)?;
            score.loss += f64::from(l) * labels.len() as f64;
            score.accuracy += right(pass.output(), &labels);
            pass.backward(&dy, &mut grads)?;
            optimizer.step(&mut net, &mut grads)?;
        }
        let n = train.labels.len() as f64;
        let train = Score { loss: score.loss / n, accuracy: score.accuracy / n };

        let y = tape.forward(&net, &test.x, Mode::Eval)?.into_output();
        let accuracy = right(y, &test.labels) / test.labels.len() as f64;
        let test = Score { loss: f64::from(loss.value(y, &test.labels)?), accuracy };
        progress.epoch(test.loss, test.accuracy);
        run.history.push(Epoch { train, test });
    }
    progress.finish();
    Ok((net, optimizer))
}

/// How many rows have their largest logit at the label.
fn right(logits: &Tensor, labels: &[usize]) -> f64 {
    logits.argmax_rows().zip(labels).filter(|(guess, label)| guess == *label).count() as f64
}

/// Takes up a saved run: its network, its optimiser and its settings.
fn resume(file: &Path, epochs: usize) -> Result<(Sequential, Optimizer<Sgd>, Run), Box<dyn Error>> {
    let mistake = |text: String| Stop::mistake("digits", text).exit();
    let checkpoint = Checkpoint::load(file).unwrap_or_else(|error| mistake(format!("--resume: {error}")));
    let run: Run = checkpoint.metadata()?;
    let mut net = network(&run)?;
    let mut optimizer = optimizer(&run, &net)?;
    checkpoint.restore_with_optimizer(&mut net, &mut optimizer)?;
    let done = run.history.len();
    if done >= epochs {
        mistake(format!("--epochs: {} has {done} epochs behind it; ask for more", file.display()));
    }
    println!("going on after epoch {done} of {}\n", file.display());
    Ok((net, optimizer, run))
}

fn options() -> Options {
    const COUNT: Check<usize> = ("a whole number above 0", |n| *n > 0);
    const RATE: Check<f64> = ("a positive number", |x| *x > 0.0 && x.is_finite());
    const FACTOR: Check<f64> = ("a number from 0 to 1, without 1", |x| (0.0..1.0).contains(x));
    const SEED: Check<u64> = ("a whole number", |_| true);

    let mut args = Args::from_env("digits", "Learns to read handwritten digits.");
    let epochs =
        args.option("--epochs N", "passes over the data, those of a resumed run included", 50, COUNT);
    let run = Run {
        batch_size: args.option("--batch-size N", "images per step", 32, COUNT),
        lr: args.option("--lr X", "learning rate", 0.1, RATE),
        momentum: args.option("--momentum X", "share of the last step in the next", 0.9, FACTOR),
        hidden: args.list("--hidden LIST", "units of the hidden layers, such as 64,32", &[32], COUNT),
        seed: args.option("--seed N", "what all random numbers follow from", 0, SEED),
        history: Vec::new(),
    };
    let resume = args.path("--resume FILE", "a checkpoint to go on from, with its settings");
    let out = args.path("--out DIR", "where the checkpoint and the curves go (default: out)");
    args.finish().unwrap_or_else(|stop| stop.exit());
    Options { run, epochs, resume, out: out.unwrap_or_else(|| PathBuf::from("out")) }
}

/// Every epoch's figures, and which digit was taken for which.
fn report(net: &Sequential, run: &Run, test: &Data) -> Result<(), Box<dyn Error>> {
    let mut table = Table::new(["epoch", "loss", "accuracy", "test loss", "test accuracy"]);
    for (i, Epoch { train, test }) in run.history.iter().enumerate() {
        let numbers = [train.loss, train.accuracy, test.loss, test.accuracy].map(|x| format!("{x:.4}"));
        table.row([(i + 1).to_string()].into_iter().chain(numbers));
    }
    println!("{table}\n");
    let mut confusion = Confusion::new(digits::CLASSES);
    for (guess, &label) in predict(net, &test.x)?.argmax_rows().zip(&test.labels) {
        confusion.add(label, guess)?;
    }
    println!("{confusion}");
    Ok(())
}

fn curves(run: &Run) -> String {
    let line = |pick: fn(&Epoch) -> f64| {
        let points = run.history.iter().enumerate();
        points.map(|(i, epoch)| ((i + 1) as f64, pick(epoch))).collect::<Vec<_>>()
    };
    let sizes: Vec<String> = [&[digits::PIXELS], &run.hidden[..], &[digits::CLASSES]]
        .concat()
        .iter()
        .map(usize::to_string)
        .collect();
    let (sizes, Run { lr, momentum, batch_size, seed, .. }) = (sizes.join("-"), run);
    Chart::new("Learning to read digits")
        .subtitle(format!(
            "{sizes}, batch {batch_size}, learning rate {lr}, momentum {momentum}, seed {seed}"
        ))
        .panel(
            Panel::new("Cross-entropy", "epoch")
                .line("train", line(|epoch| epoch.train.loss))
                .line("test", line(|epoch| epoch.test.loss)),
        )
        .panel(
            Panel::percent("Accuracy", "epoch")
                .line("train", line(|epoch| epoch.train.accuracy))
                .line("test", line(|epoch| epoch.test.accuracy)),
        )
        .to_svg()
}
