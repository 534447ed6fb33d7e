//! Stop and go on: a run that is saved and resumed ends with the same bits as one that was never interrupted.
//!
//! ```console
//! $ cargo run --release --example 05_save_and_resume
//! ```

use std::error::Error;

use backrule::prelude::*;

const SEED: u64 = 42;
const STEPS: u64 = 200;

/// All that changes during training.
struct Training {
    net: Sequential,
    optimizer: Optimizer<Sgd>,
}

impl Training {
    fn new() -> Result<Self, Box<dyn Error>> {
        let mut rng = random::rng(SEED);
        let net = Sequential::builder()
            .layer("fc1", Linear::new(2, 16, &mut rng)?)
            .layer("relu", Relu)
            .layer("drop", Dropout::new(0.2)?)
            .layer("fc2", Linear::new(16, 2, &mut rng)?)
            .build()?;
        let optimizer = Optimizer::new(Sgd::new(0.1)?.momentum(0.9)?, &net)?;
        Ok(Self { net, optimizer })
    }

    /// Trains on the steps `steps`, and returns the last loss. Everything random follows from the seed and
    /// the step.
    fn train(&mut self, steps: std::ops::Range<u64>) -> Result<f32, Box<dyn Error>> {
        let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&self.net)?, Tensor::default());
        let mut l = f32::NAN;
        for step in steps {
            let key = Key::new(SEED).child(step);
            let (x, labels) = batch(key)?;
            let pass = tape.forward(&self.net, &x, Mode::train_with(key))?;
            l = CrossEntropy::new().value_and_grad(pass.output(), &labels, &mut dy)?;
            pass.backward(&dy, &mut grads)?;
            self.optimizer.step(&mut self.net, &mut grads)?;
        }
        Ok(l)
    }
}

/// Points of a square; the class says whether they lie within a circle.
fn batch(key: Key) -> Result<(Tensor, Vec<usize>), Box<dyn Error>> {
    let x: Tensor = Tensor::uniform([32, 2], -1.0, 1.0, &mut key.child(1).rng())?;
    let labels = x.rows().map(|x| usize::from(x[0] * x[0] + x[1] * x[1] < 0.6)).collect();
    Ok((x, labels))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut whole = Training::new()?;
    let l = whole.train(0..2 * STEPS)?;
    println!("{} steps in one go:      loss {l}", 2 * STEPS);

    let mut first = Training::new()?;
    let l = first.train(0..STEPS)?;
    println!("{STEPS} steps, then saved:    loss {l}");
    let folder = std::env::temp_dir().join(format!("backrule-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("half.brk");
    Checkpoint::of(&first.net)
        .optimizer(&first.optimizer)
        .run(&Run { step: STEPS, seed: Some(SEED), ..Run::default() })
        .metadata(&"points in a circle".to_string())?
        .save(&file)?;

    let checkpoint = Checkpoint::load(&file)?;
    println!("\nin the file ({} bytes):", std::fs::metadata(&file)?.len());
    for tensor in checkpoint.tensors() {
        println!("  {tensor}");
    }
    let mut second = Training::new()?;
    checkpoint.restore_with_optimizer(&mut second.net, &mut second.optimizer)?;
    let l = second.train(checkpoint.run().step..2 * STEPS)?;
    println!("\nresumed, {STEPS} steps more: loss {l}");
    std::fs::remove_dir_all(&folder)?;

    let same = whole.net.tensors() == second.net.tensors()
        && whole.optimizer.tensors() == second.optimizer.tensors();
    if !same {
        return Err("the resumed run is another run".into());
    }
    println!("Both runs ended with the same bits, dropout and momentum included.");
    Ok(())
}
