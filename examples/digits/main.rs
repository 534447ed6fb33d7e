//! Learns to read handwritten digits: a 64-32-10 network on real data, from the pixels to a saved checkpoint.
//!
//! ```console
//! $ cargo run --release --example digits
//! $ cargo run --release --example digits -- --help
//! ```

mod options;
mod run;
mod show;

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use backrule::{io, prelude::*};
use backrule_examples::digits::{self, Digits};
use options::Options;
use run::{Epoch, Run, Score};
use show::Progress;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    if let Err(error) = run(Options::from_env()) {
        eprintln!("digits: {error}");
        std::process::exit(1);
    }
}

fn run(options: Options) -> Result<()> {
    let (train, test) = Digits::load()?;
    let (train, test) = (Data::new(train)?, Data::new(test)?);
    let mut run = options.run;
    let mut net = network(&run)?;
    let mut optimizer = Optimizer::new(Sgd::new(run.lr)?.momentum(run.momentum)?, &net)?;
    if let Some((file, checkpoint)) = options.resume {
        checkpoint.restore_with_optimizer(&mut net, &mut optimizer)?;
        println!("going on after epoch {} of {}\n", run.history.len(), file.display());
    }
    println!("{}\n", summary(&net, [run.batch_size, digits::PIXELS])?);
    let (learn, check) = (train.labels.len(), test.labels.len());
    let first = digits::show(train.x.row(0).unwrap_or_default());
    println!("{learn} digits to learn from, {check} to be tested on. The first:\n\n{first}\n");

    let start = Instant::now();
    fit(&mut net, &mut optimizer, &mut run, options.epochs, &train, &test)?;
    let seconds = start.elapsed().as_secs_f64();
    show::report(&predict(&net, &test.x)?, &run, &test)?;

    let out = &options.out;
    std::fs::create_dir_all(out).map_err(|error| format!("--out: {}: {error}", out.display()))?;
    save(&net, &optimizer, &run, &test, &out.join("digits.brk"))?;
    show::curves(&run, &out.join("digits.svg"))?;
    let (epochs, last) = (run.history.len(), run.history.last().map_or(0.0, |epoch| epoch.test.accuracy));
    println!("\ntest accuracy {last:.4} after {epochs} epochs; training took {seconds:.3} s");
    Ok(())
}

/// Images as rows of a tensor, and their digits.
struct Data {
    x: Tensor,
    labels: Vec<usize>,
}

impl Data {
    fn new(digits: Digits) -> Result<Self> {
        let x = Tensor::from_vec([digits.rows(), digits::PIXELS], digits.pixels)?;
        Ok(Self { x, labels: digits.labels })
    }
}

fn network(run: &Run) -> Result<Sequential> {
    let mut rng = random::rng(run.seed);
    let (mut builder, mut inputs) = (Sequential::builder(), digits::PIXELS);
    for (i, &outputs) in (1..).zip(&run.hidden) {
        let layer = Linear::new(inputs, outputs, &mut rng)?;
        builder = builder.layer(format!("fc{i}"), layer).layer(format!("relu{i}"), Relu);
        inputs = outputs;
    }
    Ok(builder.layer("logits", Linear::new(inputs, digits::CLASSES, &mut rng)?).build()?)
}

/// The training loop. All its buffers are allocated in the first epoch; from then on it allocates nothing.
fn fit(
    net: &mut Sequential,
    optimizer: &mut Optimizer<Sgd>,
    run: &mut Run,
    epochs: usize,
    train: &Data,
    test: &Data,
) -> Result<()> {
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(net)?, Tensor::default());
    let (mut x, mut labels, mut order) = (Tensor::default(), Vec::new(), Vec::<usize>::new());
    let mut progress = Progress::new(epochs - run.history.len());

    for epoch in run.history.len()..epochs {
        // The order of an epoch follows from the seed and its number alone, so a resumed run sees the same.
        let key = Key::new(run.seed).child(epoch as u64);
        order.clear();
        order.extend(0..train.labels.len());
        random::shuffle(&mut order, &mut key.rng());

        let mut score = Score::default();
        for (step, batch) in order.chunks(run.batch_size).enumerate() {
            x.gather(&train.x, batch)?;
            labels.clear();
            labels.extend(batch.iter().map(|&i| train.labels[i]));

            let pass = tape.forward(net, &x, Mode::train_with(key.child(step as u64)))?;
            let l = CrossEntropy::new().value_and_grad(pass.output(), &labels, &mut dy)?;
            score.loss += f64::from(l) * labels.len() as f64;
            score.accuracy += right(pass.output(), &labels);
            pass.backward(&dy, &mut grads)?;
            optimizer.step(net, &mut grads)?;
        }
        let n = train.labels.len() as f64;
        let train = Score { loss: score.loss / n, accuracy: score.accuracy / n };

        let y = tape.forward(net, &test.x, Mode::Eval)?.into_output();
        let accuracy = right(y, &test.labels) / test.labels.len() as f64;
        let test = Score { loss: f64::from(CrossEntropy::new().value(y, &test.labels)?), accuracy };
        progress.epoch(test);
        run.history.push(Epoch { train, test });
    }
    Ok(())
}

/// How many rows have their largest logit at the label.
fn right(logits: &Tensor, labels: &[usize]) -> f64 {
    logits.argmax_rows().zip(labels).filter(|(guess, label)| guess == *label).count() as f64
}

/// Saves the run, and proves that a fresh network restored from the file predicts the same.
fn save(net: &Sequential, optimizer: &Optimizer<Sgd>, run: &Run, test: &Data, file: &Path) -> Result<()> {
    let (epoch, step, seed) = (run.history.len() as u64, optimizer.step_count(), Some(run.seed));
    let place = io::Run { epoch, step, seed, ..io::Run::default() };
    let architecture = Architecture::of(net)?; // `backrule::load` builds the network from the file alone
    let snapshot = Checkpoint::of(net).architecture(&architecture)?.optimizer(optimizer);
    snapshot.run(&place).metadata(run)?.save(file)?;
    let mut again = network(&Run { seed: !run.seed, ..run.clone() })?;
    Checkpoint::load(file)?.restore(&mut again)?;
    let bits = |net| Ok::<_, Box<dyn Error>>(predict(net, &test.x)?.into_vec().into_iter().map(f32::to_bits));
    if !bits(net)?.eq(bits(&again)?) {
        return Err("the reloaded network predicts otherwise".into());
    }
    println!("\nsaved to {}; a fresh network restored from it predicts the same bits", file.display());
    Ok(())
}
