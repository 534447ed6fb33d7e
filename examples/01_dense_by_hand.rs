//! A dense layer and a two-layer network, every number of which can be checked on paper.
//!
//! Two worked examples from the derivation pages of tinyml ("Fully Connected Layers" and "Back Propagation").
//! There W is written in × out; here it is out × in, so it is the transpose of those pages' W.
//!
//! ```console
//! $ cargo run --release --example 01_dense_by_hand
//! ```

use std::error::Error;

use backrule::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    one_layer()?;
    two_layers()
}

/// y = x Wᵀ + b, and its three derivatives.
fn one_layer() -> Result<(), Box<dyn Error>> {
    println!("One dense layer: y = x Wᵀ + b\n");
    let w = Tensor::from([[0.15_f64, 0.25], [0.20, 0.30]]);
    let layer = Linear::from_tensors(w, Some(Tensor::from([0.35, 0.45])))?;
    let x = Tensor::from([[0.1, 0.5]]);
    let target = Tensor::from([[0.01, 0.99]]);

    let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer)?);
    let (mut dy, mut dx) = (Tensor::default(), Tensor::default());
    let pass = tape.forward(&layer, &x, Mode::train_with(Key::new(0)))?;
    show("y", pass.output(), &Tensor::from([[0.49, 0.62]]))?;
    let l = half_squares(pass.output(), &target, &mut dy)?;
    show("l = ½ Σ (y − ŷ)²", &Tensor::from([l]), &Tensor::from([0.18365]))?;
    show("∂l/∂y = y − ŷ", &dy, &Tensor::from([[0.48, -0.37]]))?;

    pass.backward_to_input(&dy, &mut grads, &mut dx)?;
    show("∂l/∂W = (∂l/∂y)ᵀ x", &grads[0].to_tensor()?, &Tensor::from([[0.048, 0.24], [-0.037, -0.185]]))?;
    show("∂l/∂b = ∂l/∂y", &grads[1].to_tensor()?, &Tensor::from([0.48, -0.37]))?;
    show("∂l/∂x = ∂l/∂y W", &dx, &Tensor::from([[-0.002, 0.009]]))
}

/// Two layers with a ReLU after each, one step of gradient descent, and the loss after it.
fn two_layers() -> Result<(), Box<dyn Error>> {
    println!("\nTwo layers with ReLU, one step of gradient descent\n");
    let w1 = Tensor::from([[0.20_f64, 0.30], [0.25, 0.35]]);
    let w2 = Tensor::from([[0.50, 0.60], [0.55, 0.65]]);
    let mut net = Sequential::builder()
        .layer("fc1", Linear::from_tensors(w1, Some(Tensor::from([0.30, 0.30])))?)
        .layer("relu1", Relu)
        .layer("fc2", Linear::from_tensors(w2, Some(Tensor::from([0.20, 0.20])))?)
        .layer("relu2", Relu)
        .build()?;
    println!("{}\n", summary(&net, [1, 2])?);
    let x = Tensor::from([[0.25, 0.65]]);
    let target = Tensor::from([[0.99, 0.01]]);
    let mut optimizer = Optimizer::new(Sgd::new(0.1)?, &net)?;

    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&net)?, Tensor::default());
    let pass = tape.forward(&net, &x, Mode::train_with(Key::new(0)))?;
    show("y", pass.output(), &Tensor::from([[0.8265, 0.88325]]))?;
    let l = half_squares(pass.output(), &target, &mut dy)?;
    show("l", &Tensor::from([l]), &Tensor::from([0.39464890625]))?;

    pass.backward(&dy, &mut grads)?;
    for (path, expected) in [
        ("fc2.weight", Tensor::from([[-0.0891075, -0.096465], [0.47592125, 0.5152175]])),
        ("fc2.bias", Tensor::from([-0.1635, 0.87325])),
        ("fc1.weight", Tensor::from([[0.099634375, 0.259049375], [0.117378125, 0.305183125]])),
        ("fc1.bias", Tensor::from([0.3985375, 0.4695125])),
    ] {
        show(&format!("∂l/∂{path}"), &grads.of(&net, path).ok_or("no such path")?.to_tensor()?, &expected)?;
    }

    optimizer.step(&mut net, &mut grads)?;
    for (path, expected) in [
        ("fc2.weight", Tensor::from([[0.50891075, 0.6096465], [0.502407875, 0.59847825]])),
        ("fc2.bias", Tensor::from([0.21635, 0.112675])),
        ("fc1.bias", Tensor::from([0.26014625, 0.25304875])),
    ] {
        show(&format!("{path} after the step"), net.tensor(path).ok_or("no such path")?, &expected)?;
    }
    let l = half_squares(&forward(&net, &x)?, &target, &mut dy)?;
    show("l after the step", &Tensor::from([l]), &Tensor::from([0.2384542802724947]))
}

fn forward(net: &dyn Layer<f64>, x: &Tensor<f64>) -> Result<Tensor<f64>, Box<dyn Error>> {
    Ok(predict(net, x)?)
}

/// l = ½ Σ (y − ŷ)², the textbooks' form: half of the sum of squares, with half of its gradient.
fn half_squares(y: &Tensor<f64>, target: &Tensor<f64>, dy: &mut Tensor<f64>) -> Result<f64, Box<dyn Error>> {
    let l = Mse::new().reduction(Reduction::Sum).value_and_grad(y, target, dy)?;
    dy.scale(0.5);
    Ok(l / 2.0)
}

/// Prints a result, and stops if it isn't that of the pages: to every digit, rounding in the last place
/// aside.
fn show(name: &str, got: &Tensor<f64>, published: &Tensor<f64>) -> Result<(), Box<dyn Error>> {
    let numbers: Vec<String> = got.as_slice().iter().map(|x| format!("{:.12}", x)).collect();
    let numbers: Vec<&str> = numbers.iter().map(|x| x.trim_end_matches('0')).collect();
    println!("{name:24} {}", numbers.join("  "));
    let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-15;
    if got.shape() != published.shape() || !got.as_slice().iter().zip(published.as_slice()).all(close) {
        return Err(format!("{name}: the worked example has {published:?}").into());
    }
    Ok(())
}
