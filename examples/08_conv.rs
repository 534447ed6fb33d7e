//! A convolutional network on handwritten digits, ten times from other random numbers. It reads more of them
//! than the dense network of the example `digits`, with fewer parameters.
//!
//! ```console
//! $ cargo run --release --example 08_conv
//! ```

use std::error::Error;

use backrule::prelude::*;
use backrule::tensor::random::Rng;
use backrule_examples::digits::{CLASSES, Digits, SIDE};

const SEEDS: u64 = 10;
const EPOCHS: usize = 15;
const BATCH: usize = 32;
/// The mean test accuracy of the dense network, also of ten seeds.
const DENSE: f64 = 0.9158;

fn main() -> Result<(), Box<dyn Error>> {
    let (train_set, test_set) = Digits::load()?;
    let (x, x_test) = (images(&train_set)?, images(&test_set)?);
    let net = network(&mut random::rng(1))?;
    println!("{}\n", summary(&net, Shape::new(&[BATCH, 1, SIDE, SIDE])?)?);

    println!("seed  first loss  last loss  test accuracy");
    let mut sum = 0.0;
    for seed in 1..=SEEDS {
        let mut rng = random::rng(seed);
        let mut net = network(&mut rng)?;
        let losses = train(&mut net, &x, &train_set.labels, &mut rng)?;
        let accuracy = accuracy(&net, &x_test, &test_set.labels)?;
        println!("{seed:4}  {:10.4}  {:9.4}  {accuracy:13.4}", losses[0], losses[EPOCHS - 1]);
        sum += accuracy;
    }

    // Single seeds are off by 0.015, so the mean of ten is by 0.005.
    let mean = sum / SEEDS as f64;
    if mean <= DENSE {
        return Err(format!("mean test accuracy {mean:.4}: no better than a dense network's {DENSE}").into());
    }
    println!("\nMean test accuracy {mean:.4}, where a dense network has {DENSE}.");
    Ok(())
}

/// One channel of 8×8 pixels an image.
fn images(digits: &Digits) -> Result<Tensor, Box<dyn Error>> {
    Ok(Tensor::from_vec([digits.rows(), 1, SIDE, SIDE], digits.pixels.clone())?)
}

fn network(rng: &mut impl Rng) -> Result<Sequential, Box<dyn Error>> {
    let conv1 = Conv2dConfig::new(1, 8, [3, 3]).padding([1, 1]).build(rng)?;
    let conv2 = Conv2dConfig::new(8, 16, [3, 3]).padding([1, 1]).build(rng)?;
    let net = Sequential::builder()
        .layer("conv1", conv1) // [batch, 8, 8, 8]
        .layer("relu1", Relu)
        .layer("pool1", MaxPool2d::new([2, 2])?) // [batch, 8, 4, 4]
        .layer("conv2", conv2) // [batch, 16, 4, 4]
        .layer("relu2", Relu)
        .layer("pool2", MaxPool2d::new([2, 2])?) // [batch, 16, 2, 2]
        .layer("flatten", Flatten::default()) // [batch, 64]
        .layer("logits", Linear::new(64, CLASSES, rng)?);
    Ok(net.build()?)
}

/// The mean loss of each epoch.
fn train(
    net: &mut Sequential,
    x: &Tensor,
    labels: &[usize],
    rng: &mut impl Rng,
) -> Result<[f64; EPOCHS], Box<dyn Error>> {
    let mut optimizer = Optimizer::new(Sgd::new(0.05)?.momentum(0.9)?, net)?;
    let (mut tape, mut grads) = (Tape::new(), Grads::new(net)?);
    let (mut batch, mut dy, mut classes) = (Tensor::default(), Tensor::default(), Vec::new());
    let mut order: Vec<usize> = (0..labels.len()).collect();
    let mut losses = [0.0; EPOCHS];
    for loss in &mut losses {
        random::shuffle(&mut order, rng);
        for indices in order.chunks(BATCH) {
            batch.gather(x, indices)?;
            classes.clear();
            classes.extend(indices.iter().map(|&i| labels[i]));
            let pass = tape.forward(net, &batch, Mode::train())?;
            let mean = CrossEntropy::new().value_and_grad(pass.output(), &classes[..], &mut dy)?;
            *loss += f64::from(mean) * indices.len() as f64 / labels.len() as f64;
            pass.backward(&dy, &mut grads)?;
            optimizer.step(net, &mut grads)?;
        }
    }
    Ok(losses)
}

fn accuracy(net: &impl Layer<f32>, x: &Tensor, labels: &[usize]) -> Result<f64, Box<dyn Error>> {
    let y = predict(net, x)?;
    let right = y.argmax_rows().zip(labels).filter(|(guess, label)| guess == *label).count();
    Ok(right as f64 / labels.len() as f64)
}
