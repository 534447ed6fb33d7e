//! Fine-tuning: the body of a trained network, under another name, below a new head. With little data it is
//! ahead at once. A frozen body stays as it was, and the head alone learns.
//!
//! ```console
//! $ cargo run --release --example 07_fine_tuning
//! ```

use std::error::Error;

use backrule::prelude::*;
use backrule_examples::{
    digits::{CLASSES, Digits, PIXELS},
    table::Table,
};

const UNITS: usize = 32;
/// The first network learns the digits below this one, the second one all ten.
const FIRST_NEW: usize = 6;
/// So many images of each digit are there for the second to learn from.
const EXAMPLES: usize = 4;
const EPOCHS: u64 = 30;

/// Images as a batch, and their classes.
type Data = (Tensor, Vec<usize>);

fn main() -> Result<(), Box<dyn Error>> {
    let (train_set, test_set) = Digits::load()?;
    let mut rng = random::rng(1);

    // Pixels → features → the old classes.
    let mut old = Sequential::builder()
        .layer("fc1", Linear::new(PIXELS, UNITS, &mut rng)?)
        .layer("relu", Relu)
        .layer("logits", Linear::new(UNITS, FIRST_NEW, &mut rng)?)
        .build()?;
    let known = choose(&train_set, FIRST_NEW, usize::MAX)?;
    for epoch in 0..EPOCHS {
        train(&mut old, &known, epoch)?;
    }
    let known_test = choose(&test_set, FIRST_NEW, usize::MAX)?;
    println!("digits below {FIRST_NEW}: test accuracy {:.4}\n", accuracy(&old, &known_test)?);
    let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&old).to_bytes()?)?;

    let (mut fresh, mut tuned) = (with_new_head()?, with_new_head()?);
    let report = checkpoint.restoring().rename("fc1", "body.fc1").partial().restore_into(&mut tuned)?;
    println!("{report}\n");
    // The body is in a `Frozen` now: same paths, but no gradients, and `thaw` takes that back.
    let mut frozen = tuned.clone();
    freeze(&mut frozen, "body")?;

    let few = choose(&train_set, CLASSES, EXAMPLES)?;
    let test = choose(&test_set, CLASSES, usize::MAX)?;
    println!("all digits, from {} images; test accuracy on {}:\n", few.1.len(), test.1.len());
    let mut table = Table::new(["epoch", "from scratch", "fine-tuned", "body frozen"]);
    for epoch in 0..=EPOCHS {
        if epoch > 0 {
            for net in [&mut fresh, &mut tuned, &mut frozen] {
                train(net, &few, epoch)?;
            }
        }
        if epoch % 5 == 0 {
            let mut row = vec![epoch.to_string()];
            for net in [&fresh, &tuned, &frozen] {
                row.push(format!("{:.4}", accuracy(net, &test)?));
            }
            table.row(row);
        }
    }
    println!("{table}");
    if frozen.tensor("body.fc1.weight") != old.tensor("fc1.weight") {
        return Err("the frozen body has changed".into());
    }
    println!("\nThe frozen body has the bits of the file.");
    Ok(())
}

/// The same body, for which this network has another name, and a head for all digits.
fn with_new_head() -> Result<Sequential, Box<dyn Error>> {
    let mut rng = random::rng(2);
    let fc1 = Linear::new(PIXELS, UNITS, &mut rng)?;
    let body = Sequential::builder().layer("fc1", fc1).layer("relu", Relu).build()?;
    let head = Linear::new(UNITS, CLASSES, &mut rng)?;
    Ok(Sequential::builder().layer("body", body).layer("head", head).build()?)
}

/// The first `most` images of each digit below `end`.
fn choose(all: &Digits, end: usize, most: usize) -> Result<Data, Box<dyn Error>> {
    let (mut pixels, mut labels, mut counts) = (Vec::new(), Vec::new(), [0; CLASSES]);
    for (image, &label) in all.pixels.chunks(PIXELS).zip(&all.labels) {
        if label < end && counts[label] < most {
            counts[label] += 1;
            pixels.extend_from_slice(image);
            labels.push(label);
        }
    }
    Ok((Tensor::from_vec([labels.len(), PIXELS], pixels)?, labels))
}

/// One pass over the data in batches of 16.
fn train(net: &mut Sequential, (x, labels): &Data, epoch: u64) -> Result<(), Box<dyn Error>> {
    let mut optimizer = Optimizer::new(Sgd::new(0.1)?, net)?;
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(net)?, Tensor::default());
    for (pixels, labels) in x.as_slice().chunks(16 * PIXELS).zip(labels.chunks(16)) {
        let x = Tensor::from_vec([labels.len(), PIXELS], pixels.to_vec())?;
        let pass = tape.forward(net, &x, Mode::train_with(Key::new(epoch)))?;
        CrossEntropy::new().value_and_grad(pass.output(), labels, &mut dy)?;
        pass.backward(&dy, &mut grads)?;
        optimizer.step(net, &mut grads)?;
    }
    Ok(())
}

fn accuracy(net: &impl Layer<f32>, (x, labels): &Data) -> Result<f64, Box<dyn Error>> {
    let y = predict(net, x)?;
    let right = y.argmax_rows().zip(labels).filter(|(guess, label)| guess == *label).count();
    Ok(right as f64 / labels.len() as f64)
}
