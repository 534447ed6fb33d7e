//! Published examples that were worked by hand, to every digit that they print.
//!
//! 1 and 2: the derivation pages of tinyml ("Fully Connected Layers", "Back Propagation"), whose weights are
//! in × out. 3: M. Mazur, "A Step by Step Backpropagation Example". 4: the cross-entropy of two equal logits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_loss::{CrossEntropy, Mse, Reduction};
use backrule_nn::{Grads, Key, Linear, Mode, Relu, Sequential, Sigmoid, Tape};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{NamedTensors, Tensor};

const TRAIN: Mode = Mode::train_with(Key::new(0));

/// Numbers printed with all their digits: equal up to the last bits of f64.
const EXACT: f64 = 1e-15;

#[track_caller]
fn assert_all(what: &str, got: &Tensor<f64>, expected: &Tensor<f64>, bound: f64) {
    assert_eq!(got.shape(), expected.shape(), "{what}");
    for (got, expected) in got.as_slice().iter().zip(expected.as_slice()) {
        assert!((got - expected).abs() <= bound, "{what}: got {got}, published {expected}");
    }
}

/// Compares with numbers as the page prints them: rounded to as many decimals.
#[track_caller]
fn assert_printed(what: &str, got: &[f64], published: &[&str]) {
    let decimals = |text: &str| text.split('.').nth(1).map_or(0, str::len);
    let printed = got.iter().zip(published).map(|(x, text)| format!("{x:.0$}", decimals(text)));
    assert_eq!(printed.collect::<Vec<_>>(), published, "{what}");
}

/// l = ½ Σ (y − ŷ)² and its gradient.
fn half_squares(y: &Tensor<f64>, target: &Tensor<f64>, dy: &mut Tensor<f64>) -> f64 {
    let l = Mse::new().reduction(Reduction::Sum).value_and_grad(y, target, dy).unwrap();
    dy.scale(0.5);
    l / 2.0
}

fn dense(weight: Tensor<f64>, bias: [f64; 2]) -> Linear<f64> {
    Linear::from_tensors(weight, Some(Tensor::from(bias))).unwrap()
}

#[test]
fn example_1_one_dense_layer() {
    let layer = dense(Tensor::from([[0.15, 0.25], [0.20, 0.30]]), [0.35, 0.45]);
    let (x, target) = (Tensor::from([[0.1, 0.5]]), Tensor::from([[0.01, 0.99]]));
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
    let (mut dy, mut dx) = (Tensor::default(), Tensor::default());
    let pass = tape.forward(&layer, &x, TRAIN).unwrap();
    assert_all("y", pass.output(), &Tensor::from([[0.49, 0.62]]), EXACT);
    let l = half_squares(pass.output(), &target, &mut dy);
    assert!((l - 0.18365).abs() <= EXACT, "{l}");
    assert_all("∂l/∂y", &dy, &Tensor::from([[0.48, -0.37]]), EXACT);
    pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
    assert_all(
        "∂l/∂W",
        &grads[0].to_tensor().unwrap(),
        &Tensor::from([[0.048, 0.24], [-0.037, -0.185]]),
        EXACT,
    );
    assert_all("∂l/∂b", &grads[1].to_tensor().unwrap(), &Tensor::from([0.48, -0.37]), EXACT);
    assert_all("∂l/∂x", &dx, &Tensor::from([[-0.002, 0.009]]), EXACT);
}

#[test]
fn example_2_two_layers_and_a_step() {
    let fc1 = dense(Tensor::from([[0.20, 0.30], [0.25, 0.35]]), [0.30, 0.30]);
    let fc2 = dense(Tensor::from([[0.50, 0.60], [0.55, 0.65]]), [0.20, 0.20]);
    let (x, target) = (Tensor::from([[0.25, 0.65]]), Tensor::from([[0.99, 0.01]]));
    let h = backrule_nn::predict(&fc1, &x).unwrap();
    assert_all("h", &h, &Tensor::from([[0.545, 0.59]]), EXACT);

    let (mut tape, mut fc2_grads) = (Tape::new(), Grads::new(&fc2).unwrap());
    let (mut dy, mut dh) = (Tensor::default(), Tensor::default());
    let pass = tape.forward(&fc2, &h, TRAIN).unwrap();
    assert_all("y", pass.output(), &Tensor::from([[0.8265, 0.88325]]), EXACT);
    let l = half_squares(pass.output(), &target, &mut dy);
    assert!((l - 0.39464890625).abs() <= EXACT, "{l}");
    pass.backward_to_input(&dy, &mut fc2_grads, &mut dh).unwrap();
    assert_all("∂l/∂h", &dh, &Tensor::from([[0.3985375, 0.4695125]]), EXACT);

    let net = Sequential::builder()
        .layer("fc1", fc1)
        .layer("relu1", Relu)
        .layer("fc2", fc2)
        .layer("relu2", Relu)
        .build();
    let mut net = net.unwrap();
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap(), &net).unwrap();
    let mut grads = Grads::new(&net).unwrap();
    let pass = tape.forward(&net, &x, TRAIN).unwrap();
    half_squares(pass.output(), &target, &mut dy);
    pass.backward(&dy, &mut grads).unwrap();
    let gradient = |path| grads.of(&net, path).unwrap().to_tensor().unwrap();
    let dw2 = Tensor::from([[-0.0891075, -0.096465], [0.47592125, 0.5152175]]);
    assert_all("∂l/∂W2", &gradient("fc2.weight"), &dw2, EXACT);
    assert_all("∂l/∂b2", &gradient("fc2.bias"), &Tensor::from([-0.1635, 0.87325]), EXACT);
    let dw1 = Tensor::from([[0.099634375, 0.259049375], [0.117378125, 0.305183125]]);
    assert_all("∂l/∂W1", &gradient("fc1.weight"), &dw1, EXACT);

    optimizer.step(&mut net, &mut grads).unwrap();
    let parameter = |path| net.tensor(path).unwrap();
    let w2 = Tensor::from([[0.50891075, 0.6096465], [0.502407875, 0.59847825]]);
    assert_all("W2", parameter("fc2.weight"), &w2, EXACT);
    assert_all("b2", parameter("fc2.bias"), &Tensor::from([0.21635, 0.112675]), EXACT);
    assert_all("b1", parameter("fc1.bias"), &Tensor::from([0.26014625, 0.25304875]), EXACT);
    let y = backrule_nn::predict(&net, &x).unwrap();
    let l = half_squares(&y, &target, &mut dy);
    assert!((l - 0.2384542802724947).abs() <= EXACT, "{l}");
}

#[test]
fn example_3_logistic_units() {
    let mut net = Sequential::builder()
        .layer("fc1", dense(Tensor::from([[0.15, 0.20], [0.25, 0.30]]), [0.35, 0.35]))
        .layer("sigmoid1", Sigmoid)
        .layer("fc2", dense(Tensor::from([[0.40, 0.45], [0.50, 0.55]]), [0.60, 0.60]))
        .layer("sigmoid2", Sigmoid)
        .build()
        .unwrap();
    let (x, target) = (Tensor::from([[0.05, 0.10]]), Tensor::from([[0.01, 0.99]]));
    let mut optimizer = Optimizer::new(Sgd::new(0.5).unwrap(), &net).unwrap();
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&net).unwrap(), Tensor::default());
    let pass = tape.forward(&net, &x, TRAIN).unwrap();
    let l = half_squares(pass.output(), &target, &mut dy);
    assert_printed("l", &[l], &["0.298371109"]);
    pass.backward(&dy, &mut grads).unwrap();
    optimizer.step(&mut net, &mut grads).unwrap();
    let parameter = |path| net.tensor(path).unwrap().as_slice();
    assert_printed("W1", parameter("fc1.weight"), &["0.149780716", "0.19956143", "0.24975114", "0.29950229"]);
    assert_printed(
        "W2",
        parameter("fc2.weight"),
        &["0.35891648", "0.408666186", "0.511301270", "0.561370121"],
    );
}

#[test]
fn example_4_cross_entropy() {
    let logits = Tensor::from([[3.0_f64, 3.0], [2.0, 2.0]]);
    let mut dz = Tensor::default();
    let l = CrossEntropy::new().value_and_grad(&logits, &[0, 1], &mut dz).unwrap();
    assert_eq!(l, std::f64::consts::LN_2);
    assert_eq!(dz, Tensor::from([[-0.25, 0.25], [0.25, -0.25]]));
}
