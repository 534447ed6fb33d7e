//! Linear regression: the smallest training loop. Recovers a plane from noisy points.
//!
//! ```console
//! $ cargo run --release --example 02_linear_regression
//! ```

use std::error::Error;

use backrule::prelude::*;

const POINTS: usize = 200;
const NOISE: f64 = 0.1;

fn main() -> Result<(), Box<dyn Error>> {
    // y = 3 x₀ − 2 x₁ + 0.5, plus noise.
    let mut rng = random::rng(42);
    let x: Tensor = Tensor::uniform([POINTS, 2], -1.0, 1.0, &mut rng)?;
    let mut y: Tensor = Tensor::normal([POINTS, 1], 0.5, NOISE, &mut rng)?;
    for (y, x) in y.as_mut_slice().iter_mut().zip(x.rows()) {
        *y += 3.0 * x[0] - 2.0 * x[1];
    }

    let mut layer = Linear::new(2, 1, &mut rng)?;
    let loss = Mse::new();
    let mut optimizer = Optimizer::new(Sgd::new(0.1)?, &layer)?;
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&layer)?, Tensor::default());

    println!("step      loss        w0        w1         b");
    for step in 0..=100 {
        let pass = tape.forward(&layer, &x, Mode::train_with(Key::new(step)))?;
        let l = loss.value_and_grad(pass.output(), &y, &mut dy)?;
        pass.backward(&dy, &mut grads)?;
        if step % 10 == 0 {
            let (w, b) = (layer.weight().as_slice(), layer.bias().ok_or("no bias")?.as_slice());
            println!("{step:4}  {l:8.5}  {:8.4}  {:8.4}  {:8.4}", w[0], w[1], b[0]);
        }
        optimizer.step(&mut layer, &mut grads)?;
    }

    // Of 200 points with this noise the coefficients' standard errors are about 0.1 / √(200 / 3) = 0.012.
    let (w, b) = (layer.weight().as_slice(), layer.bias().ok_or("no bias")?.as_slice());
    let errors = [w[0] - 3.0, w[1] + 2.0, b[0] - 0.5];
    if errors.iter().any(|error| error.abs() > 0.05) {
        return Err(format!("the plane was not found: {errors:?}").into());
    }
    println!("\nThe plane was 3 x0 − 2 x1 + 0.5, and the noise's variance {:.2}.", NOISE * NOISE);
    Ok(())
}
