//! The contracts that every layer keeps, and the table of all layers that is held to them.
//!
//! A new layer gets a row in [`table`]; without one, the last test fails.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use backrule_nn::{
    At, Cache, Dropout, Gradcheck, Grads, Key, Layer, Linear, LinearConfig, LogSoftmax, Mode, Relu, Residual,
    Sequential, Sigmoid, Softmax, Tanh, Tape, gradcheck, predict,
};
use backrule_tensor::{Grad, NamedTensors, Path, Scalar, Tensor, parallel, random};

struct Row<T> {
    name: &'static str,
    layer: Box<dyn Layer<T>>,
    /// Input shapes, batch first.
    shapes: Vec<Vec<usize>>,
}

/// Every layer of the crate, with parameters from `seed`.
fn table<T: Scalar>(seed: u64) -> Vec<Row<T>> {
    let rng = &mut random::rng(seed);
    let mut rows = Vec::new();
    let mut row = |name, layer: Box<dyn Layer<T>>, shapes: &[&[usize]]| {
        rows.push(Row { name, layer, shapes: shapes.iter().map(|shape| shape.to_vec()).collect() });
    };
    let linear =
        |in_features, out_features, rng: &mut _| Linear::new(in_features, out_features, rng).unwrap();

    let any: &[&[usize]] = &[&[1, 1], &[1, 7], &[3, 4], &[300, 2], &[2, 3, 5]];
    row("Relu", Box::new(Relu), any);
    row("Sigmoid", Box::new(Sigmoid), any);
    row("Tanh", Box::new(Tanh), any);
    row("Softmax", Box::new(Softmax), any);
    row("LogSoftmax", Box::new(LogSoftmax), any);
    row("Dropout", Box::new(Dropout::new(0.4).unwrap()), any);

    let five: &[&[usize]] = &[&[1, 5], &[4, 5], &[300, 5], &[2, 3, 5]];
    row("Linear", Box::new(linear(5, 3, rng)), five);
    row("Linear", Box::new(linear(5, 9, rng)), five);
    row("Linear", Box::new(linear(1, 1, rng)), &[&[1, 1], &[6, 1]]);
    row("Linear", Box::new(linear(20, 12, rng)), &[&[1, 20], &[16, 20]]);
    let bias_free = LinearConfig { bias: false, ..LinearConfig::new(5, 7) };
    row("Linear", Box::new(bias_free.build(rng).unwrap()), five);

    row("Residual", Box::new(Residual::new(linear(5, 5, rng))), five);
    let inner = Sequential::builder()
        .layer("fc1", linear(6, 6, rng))
        .layer("tanh", Tanh)
        .layer("fc2", linear(6, 6, rng))
        .build()
        .unwrap();
    let nested = Sequential::builder()
        .layer("sigmoid", Sigmoid)
        .layer("fc1", linear(5, 6, rng))
        .layer("block", Residual::new(inner))
        .layer("relu", Relu)
        .layer("drop", Dropout::new(0.3).unwrap())
        .layer("fc2", linear(6, 4, rng))
        .build()
        .unwrap();
    row("Sequential", Box::new(nested), five);
    row("Sequential", Box::new(Sequential::builder().build().unwrap()), any);
    rows
}

/// Calls `check` for every layer at every shape.
fn every<T: Scalar>(mut check: impl FnMut(&str, &mut dyn Layer<T>, &[usize])) {
    for Row { name, mut layer, shapes } in table::<T>(1) {
        for shape in shapes {
            check(&format!("{name} {shape:?} {}", T::DTYPE), &mut *layer, &shape);
        }
    }
}

fn normal<T: Scalar>(shape: &[usize], seed: u64) -> Tensor<T> {
    Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).unwrap()
}

const TRAIN: Mode = Mode::Train(Key::new(11));

/// One pass: y, ∂l/∂x for a random ∂l/∂y, and the gradients added to `grads`.
fn pass<T: Scalar>(layer: &dyn Layer<T>, x: &Tensor<T>, mode: Mode, grads: &mut Grads<T>) -> [Tensor<T>; 2] {
    let (mut tape, mut dx) = (Tape::new(), Tensor::default());
    let pass = tape.forward(layer, x, mode).unwrap();
    let y = pass.output().clone();
    let dy = normal(&y.shape(), 5);
    pass.backward_to_input(&dy, grads, &mut dx).unwrap();
    [y, dx]
}

#[test]
fn the_rule_is_the_derivative() {
    every::<f64>(|name, layer, shape| {
        // Large inputs repeat their few features many times: one seed shows as much as three, and takes as long.
        let seeds = if shape.iter().product::<usize>() < 500 { 3 } else { 1 };
        for seed in 0..seeds {
            let report = gradcheck(layer, shape, seed).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(report.wrong, 0, "{name}");
            let eval = Gradcheck { mode: Mode::Eval, ..Gradcheck::new(seed) };
            eval.run(layer, &normal(shape, seed)).unwrap_or_else(|error| panic!("{name}, eval: {error}"));
        }
    });
}

/// Whatever its tensors hold: the next pass gives the bits that it gives where zeros have been written.
#[test]
fn gradients_that_are_used_up_count_for_nothing() {
    every::<f32>(|name, layer, shape| {
        let x = normal(shape, 3);
        let (mut zeros, mut used) = (Grads::new(layer).unwrap(), Grads::new(layer).unwrap());
        zeros.iter_mut().for_each(|grad| *grad = Tensor::zeros(grad.shape()).unwrap().into());
        used.iter_mut().for_each(|grad| *grad = Tensor::full(grad.shape(), f32::NAN).unwrap().into());
        used.zero();
        for _ in 0..2 {
            assert_eq!(pass(layer, &x, TRAIN, &mut used), pass(layer, &x, TRAIN, &mut zeros), "{name}");
            for (used, zeros) in used.iter().zip(zeros.iter()) {
                let bits = |grad: &Grad| {
                    grad.get().unwrap().as_slice().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                };
                assert_eq!(bits(used), bits(zeros), "{name}");
            }
        }
    });
}

/// From its architecture alone, as a file would have it, and then its values: the same layer.
#[test]
fn it_is_built_again_from_its_architecture() {
    every::<f32>(|name, layer, shape| {
        let architecture = layer.architecture().unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut parameters = 0;
        layer.visit(Path::ROOT, &mut |_, _, tensor| parameters += tensor.len());
        assert_eq!(architecture.parameters(), parameters, "{name}");
        let mut again = architecture.build::<f32>(parameters).unwrap();
        assert_eq!(again.architecture().unwrap(), architecture, "{name}");
        let values = layer.tensors();
        let mut left = values.iter();
        again.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let (expected, value) = left.next().unwrap();
            assert_eq!((path.to_string(), tensor.shape()), (expected.clone(), value.shape()), "{name}");
            assert!(tensor.as_slice().iter().all(|&x| x == 0.0), "{name}");
            tensor.copy_from(value).unwrap();
        });
        assert!(left.next().is_none(), "{name}");
        let x = normal(shape, 7);
        let (mut one, mut two) = (Grads::new(&*layer).unwrap(), Grads::new(&*again).unwrap());
        assert_eq!(pass(&*again, &x, TRAIN, &mut two), pass(&*layer, &x, TRAIN, &mut one), "{name}");
        assert_eq!(one.iter().collect::<Vec<_>>(), two.iter().collect::<Vec<_>>(), "{name}");
    });
}

#[test]
fn output_shape_tells_the_truth() {
    every::<f32>(|name, layer, shape| {
        let x = normal(shape, 1);
        let y = predict(layer, &x).unwrap();
        assert_eq!(layer.output_shape(x.shape()).unwrap(), y.shape(), "{name}");
    });
}

#[test]
fn parameter_gradients_accumulate_and_the_input_gradient_is_overwritten() {
    every::<f64>(|name, layer, shape| {
        let x = normal(shape, 2);
        let (mut once, mut twice) = (Grads::new(layer).unwrap(), Grads::new(layer).unwrap());
        let [y, dx] = pass(layer, &x, TRAIN, &mut once);

        let (mut cache, mut again) = (Cache::default(), Tensor::default());
        let mut poisoned = Tensor::full(x.shape(), f64::NAN).unwrap();
        let dy = normal(&y.shape(), 5);
        for _ in 0..2 {
            layer.forward(&x, &mut again, &mut cache, TRAIN).unwrap();
            let at = At { x: &x, y: &again, cache: &mut cache, mode: TRAIN };
            layer.backward(at, &dy, Some(&mut poisoned), &mut twice).unwrap();
        }
        assert_eq!(again, y, "{name}: y");
        assert_eq!(poisoned, dx, "{name}: dx");
        once.scale(2.0);
        for (once, twice) in once.iter().zip(twice.iter()) {
            backrule_testkit::assert_close(
                name,
                &twice.to_tensor().unwrap(),
                &once.to_tensor().unwrap(),
                1e-14,
            );
        }
    });
}

#[test]
fn a_batch_is_its_samples_one_by_one() {
    every::<f64>(|name, layer, shape| {
        let x = normal(shape, 3);
        let (mut whole, mut parts) = (Grads::new(layer).unwrap(), Grads::new(layer).unwrap());
        let mut tape = Tape::new();
        let run = tape.forward(layer, &x, Mode::Eval).unwrap();
        let y = run.output().clone();
        let dy = normal(&y.shape(), 5);
        let mut dx = Tensor::default();
        run.backward_to_input(&dy, &mut whole, &mut dx).unwrap();
        for i in 0..shape[0] {
            let (xi, dyi) = (x.slice(i..i + 1).unwrap(), dy.slice(i..i + 1).unwrap());
            let run = tape.forward(layer, &xi, Mode::Eval).unwrap();
            assert_eq!(run.output(), &y.slice(i..i + 1).unwrap(), "{name}, sample {i}: y");
            let mut dxi = Tensor::default();
            run.backward_to_input(&dyi, &mut parts, &mut dxi).unwrap();
            assert_eq!(dxi, dx.slice(i..i + 1).unwrap(), "{name}, sample {i}: dx");
        }
        // y and dx are equal to the last bit. Sums over the batch are taken in another order here.
        for (whole, parts) in whole.iter().zip(parts.iter()) {
            backrule_testkit::assert_close(
                name,
                &parts.to_tensor().unwrap(),
                &whole.to_tensor().unwrap(),
                1e-12,
            );
        }
    });
}

/// A tape that splits the batch gives what one gives that doesn't; sums over the batch are taken in another order.
#[test]
fn the_parts_of_a_batch_are_the_batch() {
    every::<f64>(|name, layer, shape| {
        let x = normal(shape, 3);
        let mut whole = Grads::new(layer).unwrap();
        let expected = pass(layer, &x, Mode::Eval, &mut whole);
        let dy = normal(&expected[0].shape(), 5);
        for parts in [1, 2, 3, 7] {
            let (mut tape, mut dx) = (Tape::new().parts(parts).unwrap(), Tensor::default());
            for _ in 0..2 {
                let mut sum = Grads::new(layer).unwrap();
                let run = tape.forward(layer, &x, Mode::Eval).unwrap();
                assert_eq!(run.output(), &expected[0], "{name}, {parts} parts: y");
                run.backward_to_input(&dy, &mut sum, &mut dx).unwrap();
                assert_eq!(dx, expected[1], "{name}, {parts} parts: dx");
                for (sum, whole) in sum.iter().zip(whole.iter()) {
                    backrule_testkit::assert_close(
                        name,
                        &sum.to_tensor().unwrap(),
                        &whole.to_tensor().unwrap(),
                        1e-12,
                    );
                }
            }
        }
    });
}

fn nan_goes_through<T: Scalar>() {
    every::<T>(|name, layer, shape| {
        for mode in [TRAIN, Mode::Eval] {
            let mut x = normal::<T>(shape, 4);
            x.as_mut_slice()[0] = T::from_f64(f64::NAN);
            let mut grads = Grads::new(layer).unwrap();
            let [y, dx] = pass(layer, &x, mode, &mut grads);
            let of_row = |t: &Tensor<T>, i| t.row(i).is_some_and(|row| row.iter().any(|x| x.is_nan()));
            assert!(of_row(&y, 0), "{name}: NaN in, but not out");
            for i in 1..y.shape().rows() {
                assert!(!of_row(&y, i), "{name}: NaN in row 0, but out in row {i}");
            }
            // Rules that use x or y pass it on as well; a dense layer's dx depends on neither.
            if name.starts_with("Relu") {
                assert!(!of_row(&dx, 0), "{name}: the gradient passes where x isn't known to be ≤ 0");
            }
        }
        let x = normal::<T>(shape, 4);
        let (mut tape, mut dx) = (Tape::new(), Tensor::default());
        let run = tape.forward(layer, &x, Mode::Eval).unwrap();
        let mut dy = normal::<T>(&run.output().shape(), 5);
        dy.fill(T::from_f64(f64::NAN));
        let mut grads = Grads::new(layer).unwrap();
        run.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
        let nan = |t: &Tensor<T>| t.as_slice().iter().any(|x| x.is_nan());
        assert!(nan(&dx) || name.starts_with("Relu [1, 1]"), "{name}: NaN upstream, but not in dx");
        assert!(
            grads.iter().all(|grad| nan(grad.get().unwrap())),
            "{name}: NaN upstream, but not in the parameters' gradients"
        );
    });
}

#[test]
fn nan_in_gives_nan_out() {
    nan_goes_through::<f32>();
    nan_goes_through::<f64>();
}

#[test]
fn eval_is_deterministic_and_training_follows_the_key() {
    every::<f32>(|name, layer, shape| {
        let x = normal(shape, 6);
        assert_eq!(predict(layer, &x).unwrap(), predict(layer, &x).unwrap(), "{name}");
        for mode in [TRAIN, Mode::Eval] {
            let (mut a, mut b) = (Grads::new(layer).unwrap(), Grads::new(layer).unwrap());
            assert_eq!(pass(layer, &x, mode, &mut a), pass(layer, &x, mode, &mut b), "{name}");
            assert_eq!(a, b, "{name}");
        }
    });
}

/// A used tape gives what a fresh one does: nothing of an earlier pass, of another shape or mode, shows.
#[test]
fn a_reused_tape_forgets() {
    for Row { name, layer, shapes } in table::<f64>(1) {
        let (mut tape, mut dx) = (Tape::new(), Tensor::default());
        for shape in shapes.iter().chain(shapes.iter().rev()) {
            for mode in [TRAIN, Mode::Eval] {
                let x = normal(shape, 7);
                let (mut used, mut fresh) = (Grads::new(&layer).unwrap(), Grads::new(&layer).unwrap());
                let run = tape.forward(&layer, &x, mode).unwrap();
                let y = run.output().clone();
                run.backward_to_input(&normal(&y.shape(), 5), &mut used, &mut dx).unwrap();
                assert_eq!([y, dx.clone()], pass(&*layer, &x, mode, &mut fresh), "{name} {shape:?}");
                assert_eq!(used, fresh, "{name} {shape:?}");
            }
        }
    }
}

#[test]
fn the_second_step_allocates_nothing() {
    // Other tests use the pool at the same time, so that its workers might start only when this one counts.
    parallel::set_threads(NonZeroUsize::MIN);
    every::<f32>(|name, layer, shape| {
        let x = normal(shape, 8);
        let dy = normal(&layer.output_shape(x.shape()).unwrap(), 5);
        for parts in [1, 3] {
            let mut tape = Tape::new().parts(parts).unwrap();
            let (mut grads, mut dx) = (Grads::new(layer).unwrap(), Tensor::default());
            let mut step = |mode| {
                tape.forward(layer, &x, mode).unwrap().backward(&dy, &mut grads).unwrap();
                let run = tape.forward(layer, &x, mode).unwrap();
                run.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
            };
            step(TRAIN);
            step(Mode::Eval);
            let allocations = allocation_counter::measure(|| {
                step(TRAIN);
                step(Mode::Eval);
            });
            assert_eq!(allocations.count_total, 0, "{name}, {parts} parts");
        }
    });
}

#[test]
fn both_visits_agree_and_allocate_nothing() {
    for Row { name, mut layer, .. } in table::<f32>(1) {
        let first: Vec<String> = layer.tensors().into_iter().map(|(path, _)| path).collect();
        let mut of_mut = Vec::new();
        layer.visit_mut(Path::ROOT, &mut |path, role, tensor| {
            of_mut.push((path.to_string(), role, tensor.shape()));
        });
        let mut of_ref = Vec::new();
        layer.visit(Path::ROOT, &mut |path, role, tensor| {
            of_ref.push((path.to_string(), role, tensor.shape()));
        });
        assert_eq!(of_ref, of_mut, "{name}");
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), layer.tensor_count(), "{name}: paths that occur twice");
        let again = table::<f32>(2).into_iter().filter(|row| row.name == name);
        let stable =
            again.map(|row| row.layer.tensors().into_iter().map(|(path, _)| path).collect::<Vec<_>>());
        assert!(stable.into_iter().any(|paths| paths == first), "{name}: other paths in another instance");
        let allocations = allocation_counter::measure(|| layer.visit_mut(Path::ROOT, &mut |_, _, _| {}));
        assert_eq!(allocations.count_total, 0, "{name}");
    }
}

/// The named tensors are the whole layer: copied into another instance, they make it the same function.
#[test]
fn restore_equals_save() {
    for (saved, mut restored) in table::<f32>(1).into_iter().zip(table::<f32>(2)) {
        let tensors: BTreeMap<String, Tensor> =
            saved.layer.tensors().into_iter().map(|(path, tensor)| (path, tensor.clone())).collect();
        restored.layer.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            tensor.copy_from(&tensors[&path.to_string()]).unwrap();
        });
        for shape in &saved.shapes {
            let x = normal(shape, 9);
            let (mut a, mut b) = (Grads::new(&saved.layer).unwrap(), Grads::new(&saved.layer).unwrap());
            let (y, z) = (pass(&saved.layer, &x, TRAIN, &mut a), pass(&restored.layer, &x, TRAIN, &mut b));
            assert_eq!((y, a), (z, b), "{} {shape:?}", saved.name);
        }
    }
}

#[test]
fn wrong_shapes_are_errors_and_change_no_gradient() {
    every::<f32>(|name, layer, shape| {
        let x = normal(shape, 1);
        let mut tape = Tape::new();
        let mut grads = Grads::new(layer).unwrap();
        let run = tape.forward(layer, &x, TRAIN).unwrap();
        let mut wrong = run.output().shape().to_vec();
        wrong[0] += 1;
        let error = run.backward(&Tensor::zeros(&wrong[..]).unwrap(), &mut grads);
        assert!(error.is_err(), "{name}");
        assert_eq!(grads, Grads::new(layer).unwrap(), "{name}");
    });
}

/// Logits of ±1e4, equal ones, one class: nothing overflows, rows of probabilities sum to 1.
#[test]
fn extreme_inputs_stay_finite() {
    let rows = [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [0.0, 0.0, 0.0]];
    let x = Tensor::from(rows.map(|row| row.map(|x: f64| x as f32)));
    let layers: [&dyn Layer<f32>; 5] = [&Sigmoid, &Tanh, &Relu, &Softmax, &LogSoftmax];
    for layer in layers {
        let mut grads = Grads::new(layer).unwrap();
        for result in pass(layer, &x, Mode::Eval, &mut grads) {
            assert!(result.as_slice().iter().all(|y| y.is_finite()), "{}: {result}", layer.describe());
        }
    }
    let p = predict(&Softmax, &x).unwrap();
    for row in p.rows() {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{p}");
    }
    let one = Tensor::from([[1e4_f32], [-3.0]]);
    assert_eq!(predict(&Softmax, &one).unwrap(), Tensor::from([[1.0], [1.0]]));
    assert_eq!(predict(&LogSoftmax, &one).unwrap(), Tensor::from([[0.0], [0.0]]));
    // A shift of 2²⁷ changes nothing: whole numbers of this size are exact in f64.
    let y = Tensor::from([[1.0_f64, 2.0, 3.0]]);
    let mut shifted = y.clone();
    shifted.apply(|x| x + f64::from(1 << 27));
    for layer in [&Softmax as &dyn Layer<f64>, &LogSoftmax] {
        assert_eq!(predict(layer, &y).unwrap(), predict(layer, &shifted).unwrap(), "{}", layer.describe());
    }
}

#[test]
fn layers_tapes_and_gradients_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Box<dyn Layer<f32>>>();
    crosses::<Sequential>();
    crosses::<(Linear, Relu, Sigmoid, Tanh, Softmax, LogSoftmax, Dropout, Residual<Linear>)>();
    crosses::<(Tape, Grads, Cache)>();
}

/// Reads the sources for `impl … Layer<T> for Name`: a layer without a row above can't land.
#[test]
fn no_layer_is_missing_from_the_table() {
    fn scan(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                scan(&path, found);
                continue;
            }
            // Layers of doctests are in comments.
            let source = std::fs::read_to_string(path).unwrap();
            let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (_, name) in code.filter_map(|line| line.split_once(" Layer<T> for ")) {
                found.push(name.chars().take_while(|c| c.is_alphanumeric()).collect());
            }
        }
    }
    let mut found = Vec::new();
    scan(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() >= 10, "only {found:?}: has the form of their impl changed?");
    let names: Vec<_> = table::<f32>(1).into_iter().map(|row| row.name).collect();
    for name in found {
        // A box of a layer only hands on.
        assert!(name == "Box" || names.contains(&name.as_str()), "{name} has no row in the contracts table");
    }
}
