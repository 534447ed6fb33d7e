//! Twenty million terms in f32: every sum of layers, losses and gradients is within 4 ε Σ|x| of the exact
//! one, where a running sum in f32 would stop growing. Those of the tensor crate, of which most of these are
//! made, are tested there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_loss::{CrossEntropy, Mse, Reduction};
use backrule_nn::{
    Add, BatchNormConfig, Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, Grads, Graph, Layer,
    LayerNormConfig, Linear, MaxPool2dConfig, Mode, Tape, predict,
};
use backrule_tensor::Tensor;

/// 4,000 × 5,000: a convolution takes them as an image.
const SIDES: [usize; 2] = [4_000, 5_000];
const TERMS: usize = SIDES[0] * SIDES[1];
const EPSILON: f64 = f32::EPSILON as f64;

/// Terms with their name.
type Kind = (&'static str, fn(usize) -> f32);

/// Terms of each kind.
const KINDS: [Kind; 5] = [
    ("equal", |_| 0.1),
    ("random", |i| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / 16_777_216.0),
    ("sorted", |i| i as f32 / 1024.0),
    ("alternating", |i| if i.is_multiple_of(2) { 0.7 } else { -0.1 }),
    ("one large among small", |i| if i == 12_345_678 { 1e7 } else { 0.3 }),
];

/// Those of them by which sums can be told that stop growing, or lose small terms.
const SOME: [Kind; 2] = [KINDS[0], KINDS[4]];

/// One column of terms.
fn column(term: impl Fn(usize) -> f32) -> Tensor {
    let mut x = Tensor::zeros([TERMS, 1]).unwrap();
    x.as_mut_slice().iter_mut().enumerate().for_each(|(i, x)| *x = term(i));
    x
}

/// The exact sum of these terms, and that of their absolute values: of f32's 24 bits, f64 adds 2²⁹ without an
/// error that matters here.
fn sums(terms: impl Iterator<Item = f64>) -> (f64, f64) {
    terms.fold((0.0, 0.0), |(sum, absolute), x| (sum + x, absolute + x.abs()))
}

fn terms(x: &Tensor) -> impl Iterator<Item = f64> {
    x.as_slice().iter().map(|&x| f64::from(x))
}

/// `more`: ε/2 for each rounding of a term before it is added.
#[track_caller]
fn assert_within(what: &str, got: f64, (exact, absolute): (f64, f64), more: f64) {
    let error = (got - exact).abs() / (EPSILON * absolute);
    assert!(error <= 4.0 + more, "{what}: {got} instead of {exact}: {error} ε Σ|x|");
}

/// The gradients of one pass.
fn grads(layer: &dyn Layer<f32>, x: &Tensor, dy: &Tensor) -> Grads {
    let (mut tape, mut grads) = (Tape::new(), Grads::new(layer).unwrap());
    tape.forward(layer, x, Mode::train()).unwrap().backward(dy, &mut grads).unwrap();
    grads
}

fn value(grads: &Grads, k: usize) -> f64 {
    grads[k].get().unwrap().as_slice()[0].into()
}

#[test]
fn norms_of_gradients_and_squares() {
    for (kind, term) in KINDS {
        let x = column(term);
        let (squares, _) = sums(terms(&x).map(|x| x * x));
        let zeros = Tensor::zeros(x.shape()).unwrap();
        let mse = Mse::new().reduction(Reduction::Sum).value(&x, &zeros).unwrap();
        assert_within(&format!("MSE, {kind}"), mse.into(), (squares, squares), 1.0);
        let net = vec![("w", zeros)];
        let mut grads = Grads::new(&net).unwrap();
        grads[0].add_to(|g| g.copy_from(&x)).unwrap();
        assert_within(&format!("norm, {kind}"), grads.norm(), (squares.sqrt(), squares.sqrt()), 0.0);
    }
}

/// −ln p of two classes: ln (1 + eᵈ).
#[test]
fn totals_of_cross_entropy() {
    for (kind, term) in SOME {
        let d = |i: usize| term(i).min(50.0);
        let mut z = Tensor::zeros([TERMS, 2]).unwrap();
        z.rows_mut().enumerate().for_each(|(i, row)| row[1] = d(i));
        let labels = vec![0; TERMS];
        let total = CrossEntropy::new().reduction(Reduction::Sum).value(&z, &labels).unwrap();
        let exact = sums((0..TERMS).map(|i| f64::from(d(i)).exp().ln_1p()));
        // The exponential, its sum, its logarithm and a difference.
        assert_within(&format!("cross-entropy, {kind}"), total.into(), exact, 2.0);
    }
}

#[test]
fn statistics_and_gradients_of_norms() {
    let batch_norm = BatchNormConfig::new(1).momentum(1.0).build().unwrap();
    let layer_norm = LayerNormConfig::new([8]).build().unwrap();
    let image = [1, 1, SIDES[0], SIDES[1]];
    let mut alternating = column(|i| if i.is_multiple_of(2) { 1.0 } else { -1.0 });
    alternating.set_shape(image).unwrap();
    for (kind, term) in SOME {
        let mut x = column(term);
        x.set_shape(image).unwrap();
        let what = |name| format!("{name}, {kind}");
        // The increments with which running statistics of 0 and 1 become those of the batch.
        let of_batch = grads(&batch_norm, &x, &alternating);
        let (n, (sum, absolute)) = (TERMS as f64, sums(terms(&x)));
        assert_within(&what("mean"), value(&of_batch, 2), (sum / n, absolute / n), 0.0);
        let (squares, _) = sums(terms(&x).map(|x| (x - sum / n).powi(2)));
        let variance = squares / (n - 1.0);
        assert_within(&what("variance"), value(&of_batch, 3), (variance - 1.0, variance + 1.0), 0.0);
        // x̂ is ±1: its mean is 0, and its variance 1.
        let of_signs = grads(&batch_norm, &alternating, &x);
        assert_within(&what("batch norm: db"), value(&of_signs, 1), (sum, absolute), 0.0);
        // In step with x̂, or the products would cancel.
        let mut dy = Tensor::default();
        dy.zip_from(&alternating, &x, |sign, x| sign * x).unwrap();
        let scale = 1.0 / (1.0 + 1e-5_f64).sqrt();
        // x̂ is rounded, and so is the product.
        let exact = sums(terms(&x).map(|x| scale * x));
        assert_within(&what("batch norm: dw"), value(&grads(&batch_norm, &alternating, &dy), 0), exact, 1.0);
        // Rows of one would take a minute.
        x.set_shape([TERMS / 8, 8]).unwrap();
        let exact = sums(x.rows().map(|row| f64::from(row[0])));
        assert_within(&what("layer norm: db"), value(&grads(&layer_norm, &x, &x), 1), exact, 0.0);
    }
}

/// All terms are one sample's: y of the first and the last tell its mean and variance.
#[test]
fn statistics_of_one_sample() {
    let layer = LayerNormConfig::new([TERMS]).affine(false).build::<f32>().unwrap();
    for (kind, term) in SOME {
        let mut x = column(term);
        let (n, (sum, absolute)) = (TERMS as f64, sums(terms(&x)));
        let (squares, _) = sums(terms(&x).map(|x| (x - sum / n).powi(2)));
        let scale = 1.0 / (squares / n + layer.eps()).sqrt();
        x.set_shape([1, TERMS]).unwrap();
        let y = predict(&layer, &x).unwrap();
        for i in [0, TERMS - 1] {
            let (x, y) = (f64::from(x.as_slice()[i]), f64::from(y.as_slice()[i]));
            // Of the mean, in units of the deviation, and of that itself.
            let exact = ((x - sum / n) * scale, (absolute / n + x.abs()) * scale);
            assert_within(&format!("y[{i}], {kind}"), y, exact, 1.0);
        }
    }
}

#[test]
fn gradients_of_tables_and_of_convolutions() {
    let table = Embedding::from_tensors(EmbeddingConfig::new(1, 1), Tensor::zeros([1, 1]).unwrap()).unwrap();
    let index = Tensor::zeros([TERMS]).unwrap();
    let (config, weight) = (Conv2dConfig::new(1, 1, [1, 1]), Tensor::zeros([1, 1, 1, 1]).unwrap());
    let conv = Conv2d::from_tensors(config, weight, Some(Tensor::zeros([1]).unwrap())).unwrap();
    let ones = Tensor::full([1, 1, SIDES[0], SIDES[1]], 1.0).unwrap();
    for (kind, term) in SOME {
        let mut dy = column(term);
        let exact = sums(terms(&dy));
        assert_within(&format!("embedding, {kind}"), value(&grads(&table, &index, &dy), 0), exact, 0.0);
        dy.set_shape(ones.shape()).unwrap();
        let of_conv = grads(&conv, &ones, &dy);
        assert_within(&format!("convolution: db, {kind}"), value(&of_conv, 1), exact, 0.0);
    }
}

/// An element that all windows see gets a term from each: side by side, or one behind the other. The rounding
/// error of a large sample's sums is no other's.
#[test]
fn gradients_of_what_many_windows_see() {
    for (windows, stride) in [([1, 2_001], 1), ([2_001, 1], 1), ([45, 45], 1), ([1, 1_001], 2)] {
        let [rows, columns] = windows;
        let kernel = windows.map(|n| stride * (n - 1) + 1);
        let size = kernel.map(|kernel| 2 * kernel - 1);
        let at = (kernel[0] - 1) * size[1] + kernel[1] - 1;
        let mut x = Tensor::zeros([2, 1, size[0], size[1]]).unwrap();
        x.as_mut_slice().chunks_mut(size[0] * size[1]).for_each(|x| x[at] = 1.0);
        let pool = MaxPool2dConfig::new(kernel).stride([stride; 2]).build().unwrap();
        let config = Conv2dConfig::new(1, 1, kernel).stride([stride; 2]);
        let weight = Tensor::full([1, 1, kernel[0], kernel[1]], 1.0).unwrap();
        let conv = Conv2d::from_tensors(config, weight, None).unwrap();
        let layers: [(&str, &dyn Layer<f32>); 2] = [("max pool", &pool), ("convolution", &conv)];
        for ((kind, term), (name, layer)) in SOME.into_iter().flat_map(|kind| layers.map(|l| (kind, l))) {
            let (mut dy, windows) = (Tensor::zeros([2, 1, rows, columns]).unwrap(), rows * columns);
            let first = 12_345_678 - windows / 2;
            for (i, dy) in dy.as_mut_slice().iter_mut().enumerate() {
                *dy = if i < windows { 1e20 * term(first + i) } else { term(first + i - windows) };
            }
            let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(layer).unwrap(), Tensor::default());
            let pass = tape.forward(layer, &x, Mode::Eval).unwrap();
            assert_eq!(pass.output().shape(), dy.shape());
            pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
            let what = format!("{name} of {rows} × {columns} windows, {kind}");
            let of_samples = dx.as_slice().chunks(size[0] * size[1]).zip(dy.as_slice().chunks(windows));
            for (dx, dy) in of_samples {
                assert_within(&what, dx[at].into(), sums(dy.iter().map(|&dy| dy.into())), 0.0);
            }
        }
    }
}

/// Many passes before one step.
#[test]
fn gradients_of_many_passes() {
    const PASSES: usize = 20_000;
    let layer = Linear::from_tensors(Tensor::from([[1.0]]), Some(Tensor::from([0.0]))).unwrap();
    for (kind, term) in KINDS {
        let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
        let (mut one_by_one, mut dy, x) = (Vec::new(), Tensor::from([[0.0]]), Tensor::from([[1.0]]));
        // The second time as the first.
        for _ in 0..2 {
            grads.clear();
            for i in 0..PASSES {
                dy.fill(term(12_345_678 - PASSES / 2 + i));
                one_by_one.push(f64::from(dy.as_slice()[0]));
                let pass = tape.forward(&layer, &x, Mode::Eval).unwrap();
                pass.backward(&dy, &mut grads).unwrap();
            }
            let exact = sums(one_by_one.drain(..));
            for k in 0..2 {
                assert_within(&format!("{PASSES} passes, {kind}"), value(&grads, k), exact, 0.0);
            }
        }
        // Factors are for the rest of the sum, too.
        let before = value(&grads, 0);
        grads.scale(0.5);
        tape.forward(&layer, &Tensor::from([[0.0]]), Mode::Eval).unwrap().backward(&dy, &mut grads).unwrap();
        assert_eq!(value(&grads, 0), 0.5 * before);
    }
}

/// As many inputs as a sum may have, of which all but the first are lost if they are added one by one.
#[test]
fn sums_of_many_inputs() {
    let term = |i: usize| if i == 0 { 16_777_216.0 } else { 1.0 };
    let x: Vec<Tensor> = (0..16).map(|i| Tensor::full([3, 100], term(i)).unwrap()).collect();
    let inputs: Vec<_> = x.iter().collect();
    let mut tape = Tape::new();
    let pass = tape.forward_many(&Add, &inputs, Mode::Eval).unwrap();
    for y in terms(pass.output()) {
        assert_within("16 inputs", y, sums((0..16).map(|i| term(i).into())), 0.0);
    }
}

/// A value that many layers of a graph take, and a weight that it uses many times.
#[test]
fn gradients_of_many_uses() {
    const USES: usize = 1_201;
    for (kind, term) in KINDS {
        let terms: Vec<_> = (0..USES).map(|i| term(12_345_678 - USES / 2 + i)).collect();
        let linear = |w: f32| Linear::from_tensors(Tensor::from([[w]]), None).unwrap();
        let mut g = Graph::builder();
        let [x] = g.inputs(["x"]);
        let mut shared = None;
        let mut sums_of: Vec<_> = (0..USES)
            .map(|i| {
                let value = g.layer(format!("of{i}"), linear(terms[i]), [x]);
                match shared {
                    Some(first) => g.again(first, [value]),
                    None => *shared.insert(g.layer("shared", linear(1.0), [value])),
                }
            })
            .collect();
        while sums_of.len() > 1 {
            let level = sums_of.len();
            let add = |(i, values): (usize, &[_])| g.layer(format!("sum{level}_{i}"), Add, values.to_vec());
            sums_of = sums_of.chunks(16).enumerate().map(add).collect();
        }
        let (graph, one) = (g.build([sums_of[0]]).unwrap(), Tensor::from([[1.0]]));
        let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&graph).unwrap(), Tensor::default());
        for _ in 0..2 {
            grads.clear();
            let pass = tape.forward(&graph, &one, Mode::Eval).unwrap();
            pass.backward_to_input(&Tensor::from([[1.0]]), &mut grads, &mut dx).unwrap();
            let exact = sums(terms.iter().map(|&term| term.into()));
            assert_within(&format!("{USES} uses of a value, {kind}"), dx.as_slice()[0].into(), exact, 0.0);
            let shared = grads.of(&graph, "shared.weight").unwrap().get().unwrap().as_slice()[0];
            assert_within(&format!("{USES} uses of a weight, {kind}"), shared.into(), exact, 0.0);
        }
    }
}
