//! The contracts that every layer keeps. They iterate over the catalogue: a layer with samples is held to all
//! of them, and a layer without samples fails.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use backrule_nn::testing::{Entry, Input, Sample, table};
use backrule_nn::{
    Architecture, Cache, Gradcheck, GradcheckError, Grads, Key, Layer, Linear, Mode, Prepared, Sequential,
    Tape, predict_many,
};
use backrule_tensor::{Grad, NamedTensors, Path, Role, Scalar, Tensor, random};
use backrule_testkit::{Bits, bits, with_threads};

const TRAIN: Mode = Mode::train_with(Key::new(1));

/// Calls `check` for every sample of every layer.
fn every<T: Scalar>(mut check: impl FnMut(&str, &mut Sample<T>)) {
    for Entry { kind, samples, .. } in table::<T>() {
        let mut samples = samples();
        assert!(samples.len() >= 3, "{kind} has {} samples", samples.len());
        for sample in &mut samples {
            let inputs: Vec<_> = sample.inputs.iter().map(Input::shape).collect();
            check(&format!("{kind} `{}` {inputs:?} {}", sample.name, T::DTYPE), sample);
        }
    }
}

/// As [`every`], without those that are too large for a test of every element in debug builds.
fn every_small<T: Scalar>(mut check: impl FnMut(&str, &mut Sample<T>)) {
    every(|name, sample| {
        if !sample.bench {
            check(name, sample);
        }
    });
}

fn refs<T>(tensors: &[T]) -> Vec<&T> {
    tensors.iter().collect()
}

fn normal<T: Scalar>(like: &Tensor<T>, seed: u64) -> Tensor<T> {
    Tensor::normal(like.shape(), 0.0, 1.0, &mut random::rng(seed)).unwrap()
}

/// ∂l/∂y that differs from output to output.
fn upstream<T: Scalar>(y: &[Tensor<T>]) -> Vec<Tensor<T>> {
    y.iter().zip(5..).map(|(y, seed)| normal(y, seed)).collect()
}

/// y and ∂l/∂x of all inputs, for a random ∂l/∂y.
fn pass<T: Scalar>(
    tape: &mut Tape<T>,
    layer: &dyn Layer<T>,
    x: &[Tensor<T>],
    mode: Mode,
    grads: &mut Grads<T>,
) -> [Vec<Tensor<T>>; 2] {
    let x = refs(x);
    let run = tape.forward_many(layer, &x, mode).unwrap();
    let y = run.outputs().to_vec();
    let dy = upstream(&y);
    let dy: Vec<_> = dy.iter().map(Some).collect();
    let mut dx = vec![Tensor::default(); x.len()];
    let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
    run.backward_many_to_inputs(&dy, grads, &mut wanted).unwrap();
    [y, dx]
}

fn once<T: Scalar>(sample: &Sample<T>, mode: Mode, grads: &mut Grads<T>) -> [Vec<Tensor<T>>; 2] {
    pass(&mut Tape::new(), &*sample.layer, &sample.tensors(3).unwrap(), mode, grads)
}

fn grads_of<T: Scalar>(sample: &Sample<T>) -> Grads<T> {
    Grads::new(&*sample.layer).unwrap()
}

fn bits_of_grads<T: Scalar>(grads: &Grads<T>) -> Vec<Option<Bits>> {
    grads.iter().map(|grad| grad.get().map(bits)).collect()
}

fn assert_close<T: Scalar>(name: &str, a: &Grads<T>, b: &Grads<T>, bound: f64) {
    for (a, b) in a.iter().zip(b.iter()) {
        match (a.get(), b.get()) {
            (Some(a), Some(b)) => {
                let scale = b.as_slice().iter().fold(1.0, |scale: f64, b| scale.max(b.to_f64().abs()));
                for (a, b) in a.as_slice().iter().zip(b.as_slice()) {
                    let (a, b) = (a.to_f64(), b.to_f64());
                    assert!((a - b).abs() <= bound * scale, "{name}: {a} {b}");
                }
            }
            (a, b) => assert_eq!(a.is_some(), b.is_some(), "{name}"),
        }
    }
}

#[test]
fn the_rule_is_the_derivative() {
    every::<f64>(|name, sample| {
        let x = sample.tensors(3).unwrap();
        let differentiable: Vec<_> = sample.inputs.iter().map(Input::is_differentiable).collect();
        // Of large tensors 64 elements are drawn: one seed shows as much as three there, and takes as long.
        let large = sample.bench || x.iter().any(|x| x.len() >= 400);
        for seed in 0..if large { 1 } else { 3 } {
            for mode in [TRAIN, Mode::Eval] {
                let most = if large { 64 } else { usize::MAX };
                let check = Gradcheck { mode, most, ..Gradcheck::new(seed) };
                let x = sample.tensors(seed).unwrap();
                let report = check.run_many(&mut *sample.layer, &refs(&x), &differentiable);
                let report = report.unwrap_or_else(|error| panic!("{name} {mode:?}: {error}"));
                assert_eq!(report.wrong, 0, "{name}: {report}");
                assert!(sample.kinks || report.kinks == 0, "{name} has kinks and doesn't say so: {report}");
            }
        }
    });
}

/// A rule that an element-wise layer writes itself, to select rather than multiply, is no other rule.
#[test]
fn a_rule_of_its_own_is_dy_times_df() {
    fn check<T: Scalar>() {
        let mut kinds = BTreeSet::new();
        every::<T>(|name, sample| {
            for at in [-1e4, -2.5, -1.0, -0.3, -0.0, 0.0, 0.3, 1.0, 7.0, 1e4] {
                for dy in [-3.0, -0.5, 0.0, 2.5] {
                    let rules = (*sample.layer).both_rules(T::from_f64(at), T::from_f64(dy));
                    let Some([product, own]) = rules.map(|rules| rules.map(T::to_f64)) else { return };
                    let bound = 4.0 * T::EPSILON.to_f64() * product.abs();
                    assert!((own - product).abs() <= bound, "{name}: at {at}, dy {dy}: {own}, not {product}");
                }
            }
            kinds.insert(name.split(' ').next().unwrap_or_default().to_string());
        });
        assert!(kinds.contains("Relu") && kinds.contains("LeakyRelu"), "{kinds:?}");
    }
    check::<f32>();
    check::<f64>();
}

/// In f32, where differences say less: no sample is wrong at any seed, and each is decided at one. A
/// saturated function, or a rectifier near its kink, isn't.
#[test]
fn the_rule_is_the_derivative_in_f32() {
    every::<f32>(|name, sample| {
        let differentiable: Vec<_> = sample.inputs.iter().map(Input::is_differentiable).collect();
        let large = sample.bench || sample.tensors(3).unwrap().iter().any(|x| x.len() >= 400);
        let most = if large { 16 } else { 200 };
        for mode in [TRAIN, Mode::Eval] {
            let mut right = 0;
            for seed in 0..if large { 1 } else { 3 } {
                let check = Gradcheck { mode, most, ..Gradcheck::new(seed) };
                let x = sample.tensors(seed).unwrap();
                match check.run_many_f32(&mut *sample.layer, &refs(&x), &differentiable) {
                    Ok(report) => {
                        assert!(sample.kinks || report.kinks == 0, "{name} has kinks: {report}");
                        right += 1;
                    }
                    Err(GradcheckError::Mismatch(report)) if report.wrong == 0 => {}
                    Err(error) => panic!("{name} {mode:?}: {error}"),
                }
            }
            assert!(right > 0, "{name} {mode:?}");
        }
    });
}

/// Alone and behind a dense layer, where an element-wise one may run as its epilogue.
#[test]
fn the_rule_is_the_derivative_behind_a_dense_layer() {
    fn behind<T: Scalar>(mut check: impl FnMut(&str, &mut Sequential<T>, &Tensor<T>)) {
        every_small::<T>(|name, sample| {
            let [Input::Normal(shape)] = &sample.inputs[..] else { return };
            let (Some(&columns), true) =
                (shape.last(), shape.len() == 2 && shape.iter().product::<usize>() < 100)
            else {
                return;
            };
            let front = Linear::new(3, columns, &mut random::rng(2)).unwrap();
            let net =
                Sequential::builder().layer("front", front).layer("layer", sample.layer.clone()).build();
            let x = Tensor::normal([shape[0], 3], 0.0, 1.0, &mut random::rng(3)).unwrap();
            check(name, &mut net.unwrap(), &x);
        });
    }
    let check = Gradcheck { mode: TRAIN, ..Gradcheck::new(4) };
    behind::<f64>(|name, net, x| {
        check.run(net, x).unwrap_or_else(|error| panic!("{name}: {error}"));
    });
    behind::<f32>(|name, net, x| {
        check.run_f32(net, x).unwrap_or_else(|error| panic!("{name}: {error}"));
    });
}

/// An output that nobody uses counts as one with a gradient of zeros, whichever others are used.
#[test]
fn an_unused_output_counts_as_zeros() {
    every_small::<f64>(|name, sample| {
        let (x, layer) = (sample.tensors(3).unwrap(), &*sample.layer);
        let (x, outputs) = (refs(&x), layer.outputs());
        if outputs < 2 {
            return;
        }
        for used in 0..1_usize << outputs {
            let is_used = |k: usize| used >> k & 1 == 1;
            let run = |zeros: bool| {
                let (mut tape, mut grads) = (Tape::new(), grads_of(sample));
                let run = tape.forward_many(layer, &x, TRAIN).unwrap();
                let mut dy = upstream(run.outputs());
                (0..outputs).filter(|&k| !is_used(k)).for_each(|k| dy[k].fill(0.0));
                let dy: Vec<_> = (0..outputs).map(|k| (zeros || is_used(k)).then_some(&dy[k])).collect();
                let mut dx = vec![Tensor::default(); x.len()];
                let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
                run.backward_many_to_inputs(&dy, &mut grads, &mut wanted).unwrap();
                let grads: Vec<_> = grads.iter().map(|grad| grad.to_tensor().unwrap()).collect();
                (dx, grads)
            };
            assert_eq!(run(false), run(true), "{name}, outputs {used:b}");
        }
    });
}

/// Whatever their tensors hold: the next pass gives the bits that it gives where zeros have been written.
#[test]
fn gradients_that_are_clear_count_for_nothing() {
    every_small::<f32>(|name, sample| {
        let (mut zeros, mut clear) = (grads_of(sample), grads_of(sample));
        for (zeros, clear) in zeros.iter_mut().zip(clear.iter_mut()) {
            let fill = |grad: &mut Grad, value| {
                grad.accumulate(|_, dw| {
                    dw.fill(value);
                    Ok::<_, ()>(())
                })
            };
            fill(zeros, 0.0).unwrap();
            fill(clear, f32::NAN).unwrap();
        }
        clear.clear();
        for _ in 0..2 {
            assert_eq!(once(sample, TRAIN, &mut clear), once(sample, TRAIN, &mut zeros), "{name}");
            for (clear, zeros) in clear.iter().zip(zeros.iter()).filter(|(clear, _)| !clear.is_zero()) {
                assert_eq!(clear.get().map(bits), zeros.get().map(bits), "{name}");
            }
        }
    });
}

/// From its architecture alone, as a file would have it, and then its values: the same layer.
#[test]
fn it_is_built_again_from_its_architecture() {
    every_small::<f32>(|name, sample| {
        let layer = &sample.layer;
        let architecture = Architecture::of(&**layer).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut values = 0;
        layer.visit(Path::ROOT, &mut |_, _, tensor| values += tensor.len());
        if values > 0 {
            assert!(architecture.build::<f32>(values - 1).is_err(), "{name}: more values than allowed");
        }
        let mut again = architecture.build::<f32>(values).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Architecture::of(&*again).unwrap(), architecture, "{name}");
        let from: Vec<_> = layer.tensors();
        let mut k = 0;
        again.visit_mut(Path::ROOT, &mut |_, _, tensor| {
            tensor.copy_from(from[k].1).unwrap();
            k += 1;
        });
        let (mut one, mut two) = (grads_of(sample), Grads::new(&*again).unwrap());
        let expected = once(sample, TRAIN, &mut one);
        let again = Sample { layer: again, ..sample.clone() };
        assert_eq!(once(&again, TRAIN, &mut two), expected, "{name}");
        assert_eq!(bits_of_grads(&one), bits_of_grads(&two), "{name}");
    });
}

/// Settings that nobody knows, or that are missing, are refused by name.
#[test]
fn unknown_and_missing_settings_are_refused() {
    every_small::<f32>(|name, sample| {
        let architecture = Architecture::of(&*sample.layer).unwrap();
        let mut specs = architecture.layers().to_vec();
        let (known, first) = (specs[0].options.clone(), &mut specs[0]);
        first.options = known.clone().with("color", "red");
        let error = Architecture::try_from(specs.clone()).unwrap().build::<f32>(usize::MAX).err().unwrap();
        assert!(error.to_string().contains("color"), "{name}: {error}");
        for (option, _) in known.iter() {
            let mut left = backrule_tensor::Options::new();
            for (other, value) in known.iter().filter(|(other, _)| *other != option) {
                left = left.with(other, value.clone());
            }
            specs[0].options = left;
            let built = Architecture::try_from(specs.clone()).unwrap().build::<f32>(usize::MAX);
            let error = built.err().unwrap_or_else(|| panic!("{name}: `{option}` isn't needed"));
            assert!(error.to_string().contains(option), "{name}: {error}");
        }
    });
}

#[test]
fn every_option_takes_two_values_and_samples_are_of_all_sizes() {
    for Entry { kind, samples, .. } in table::<f32>() {
        let samples = samples();
        let mut values = BTreeMap::<String, BTreeSet<String>>::new();
        for sample in &samples {
            for (option, value) in sample.layer.options().iter() {
                values.entry(option.to_string()).or_default().insert(value.to_string());
            }
        }
        for (option, values) in values {
            assert!(values.len() >= 2, "{kind}: `{option}` is always {values:?}");
        }
        let sizes: BTreeSet<_> =
            samples.iter().flat_map(|sample| &sample.inputs).flat_map(Input::shape).collect();
        assert!(sizes.contains(&1), "{kind}: no axis of 1 among {sizes:?}");
        assert!(
            [3, 5, 7, 11, 13].iter().any(|size| sizes.contains(size)),
            "{kind}: no prime among {sizes:?}"
        );
        assert!(sizes.iter().any(|&&size| size > 16), "{kind}: nothing above a register tile in {sizes:?}");
        assert!(samples.iter().any(|sample| sample.bench), "{kind}: none for benchmarks");
        let names: BTreeSet<_> = samples.iter().map(|sample| sample.name).collect();
        assert_eq!(names.len(), samples.len(), "{kind}: names that stand twice");
    }
}

#[test]
fn the_catalogue_is_in_order_and_every_kind_stands_once() {
    let kinds: Vec<_> = table::<f32>().into_iter().map(|entry| entry.kind).collect();
    assert!(kinds.is_sorted_by(|a, b| a < b), "{kinds:?}");
}

#[test]
fn output_shapes_tell_the_truth() {
    every::<f32>(|name, sample| {
        let x = sample.tensors(1).unwrap();
        let y = predict_many(&*sample.layer, &refs(&x)).unwrap();
        let shapes: Vec<_> = x.iter().map(Tensor::shape).collect();
        let mut said = vec![backrule_tensor::Shape::EMPTY; sample.layer.outputs()];
        sample.layer.output_shapes(&shapes, &mut said).unwrap();
        assert_eq!(said, y.iter().map(Tensor::shape).collect::<Vec<_>>(), "{name}");
    });
}

#[test]
fn parameter_gradients_accumulate_and_input_gradients_are_overwritten() {
    every_small::<f64>(|name, sample| {
        let x = sample.tensors(3).unwrap();
        let (mut single, mut twice) = (grads_of(sample), grads_of(sample));
        let [_, dx] = once(sample, TRAIN, &mut single);
        let inputs = refs(&x);
        let mut tape = Tape::new();
        let mut poisoned: Vec<_> = x.iter().map(|x| Tensor::full(x.shape(), f64::NAN).unwrap()).collect();
        for _ in 0..2 {
            let run = tape.forward_many(&*sample.layer, &inputs, TRAIN).unwrap();
            let dy = upstream(run.outputs());
            let dy: Vec<_> = dy.iter().map(Some).collect();
            let mut wanted: Vec<_> = poisoned.iter_mut().map(Some).collect();
            run.backward_many_to_inputs(&dy, &mut twice, &mut wanted).unwrap();
        }
        assert_eq!(poisoned, dx, "{name}: dx");
        for (single, twice) in single.iter().zip(twice.iter()) {
            let (Some(single), Some(twice)) = (single.get(), twice.get()) else { continue };
            for (single, twice) in single.as_slice().iter().zip(twice.as_slice()) {
                assert!((2.0 * single - twice).abs() <= 1e-13 * (1.0 + single.abs()), "{name}");
            }
        }
    });
}

/// Samples `range` of all inputs.
fn slices<T: Scalar>(x: &[Tensor<T>], range: std::ops::Range<usize>) -> Vec<Tensor<T>> {
    x.iter().map(|x| x.slice(range.clone()).unwrap()).collect()
}

#[test]
fn a_batch_is_its_samples_one_by_one() {
    every_small::<f64>(|name, sample| {
        let layer = &*sample.layer;
        let modes = if sample.independent_samples && !sample.random {
            vec![TRAIN, Mode::Eval]
        } else {
            vec![Mode::Eval]
        };
        for mode in modes {
            let x = sample.tensors(3).unwrap();
            let (mut whole, mut parts, mut tape) = (grads_of(sample), grads_of(sample), Tape::new());
            let inputs = refs(&x);
            let run = tape.forward_many(layer, &inputs, mode).unwrap();
            let y = run.outputs().to_vec();
            let dy = upstream(&y);
            let mut dx = vec![Tensor::default(); x.len()];
            let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
            let all: Vec<_> = dy.iter().map(Some).collect();
            run.backward_many_to_inputs(&all, &mut whole, &mut wanted).unwrap();
            for i in 0..x[0].shape()[0] {
                let (xi, dyi) = (slices(&x, i..i + 1), slices(&dy, i..i + 1));
                let inputs = refs(&xi);
                let run = tape.forward_many(layer, &inputs, mode).unwrap();
                assert_eq!(run.outputs(), slices(&y, i..i + 1), "{name}, sample {i}: y");
                let mut dxi = vec![Tensor::default(); x.len()];
                let mut wanted: Vec<_> = dxi.iter_mut().map(Some).collect();
                let dyi: Vec<_> = dyi.iter().map(Some).collect();
                run.backward_many_to_inputs(&dyi, &mut parts, &mut wanted).unwrap();
                assert_eq!(dxi, slices(&dx, i..i + 1), "{name}, sample {i}: dx");
            }
            // y and dx are equal to the last bit. Sums over the batch are taken in another order here.
            if mode == Mode::Eval {
                assert_close(name, &parts, &whole, 1e-12);
            }
        }
    });
}

/// The gradient of many equal samples is that of two, so many times, within the error of one product: a
/// running sum in f32 would lose terms.
#[test]
fn gradients_of_a_large_batch_lose_no_terms() {
    let (mut checked, mut means) = (0, 0);
    every_small::<f32>(|name, sample| {
        let x = sample.tensors(3).unwrap();
        if grads_of(sample).iter().next().is_none() || x[0].shape()[0] == 0 {
            return;
        }
        let elements = x.iter().map(Tensor::len).max().unwrap_or(1) / x[0].shape()[0];
        let many = (1 << 21) / elements.next_power_of_two().max(64);
        let x = slices(&x, 0..1);
        let dy = upstream(&predict_many(&*sample.layer, &refs(&x)).unwrap());
        let of = |samples: usize| {
            let repeated = |x: &Tensor| {
                let mut shape = x.shape().to_vec();
                shape[0] = samples;
                Tensor::from_vec(&shape[..], x.as_slice().repeat(samples)).unwrap()
            };
            let (x, dy): (Vec<_>, Vec<_>) =
                (x.iter().map(repeated).collect(), dy.iter().map(repeated).collect());
            let (mut tape, mut grads, x) = (Tape::new(), grads_of(sample), refs(&x));
            let run = tape.forward_many(&*sample.layer, &x, Mode::Eval).unwrap();
            run.backward_many(&dy.iter().map(Some).collect::<Vec<_>>(), &mut grads).unwrap();
            let elements = |grad: &Grad| grad.get().map(|grad| grad.as_slice().to_vec());
            grads.iter().map(|grad| elements(grad).unwrap_or_default()).collect::<Vec<_>>()
        };
        // 260 ε of the products, and the error of each sample's own sums.
        let bound = 300.0 * f64::from(f32::EPSILON);
        for ((one, two), all) in of(1).into_iter().zip(of(2)).zip(of(many)) {
            // The sum of a row that counts its places is their mean.
            if one == two && one.iter().any(|&x| x != 0.0) {
                means += 1;
                continue;
            }
            let largest = two.iter().fold(0.0, |most: f64, x| most.max(f64::from(x.abs()))) / 2.0;
            for (two, all) in two.into_iter().zip(all) {
                let (one, mean) = (f64::from(two) / 2.0, f64::from(all) / many as f64);
                let close = (one - mean).abs() <= bound * largest;
                assert!(close, "{name}: {many} × {one} became {many} × {mean}");
            }
            checked += 1;
        }
    });
    assert!(checked > 40 && means < 5, "{checked} tensors checked, {means} are means");
}

/// The flags of each sample are true: a layer said to see the batch does, one said to be random is, and
/// an input without a derivative gets zeros.
#[test]
fn flags_are_true() {
    every::<f64>(|name, sample| {
        let x = sample.tensors(3).unwrap();
        let key = |key| Mode::train_with(Key::new(key));
        let run = |x: &[Tensor<f64>], mode| {
            let (mut tape, x) = (Tape::new(), refs(x));
            tape.forward_many(&*sample.layer, &x, mode).unwrap().outputs().to_vec()
        };
        let y = run(&x, key(1));
        // One number may be the same by chance, but not a thousand.
        let others = if sample.bench { 2..3 } else { 2..20 };
        let differs = others.into_iter().any(|other| run(&x, key(other)) != y);
        assert_eq!(sample.random, differs, "{name}: says that it is random");
        if x[0].shape()[0] > 1 {
            let mut other = x.clone();
            for (x, input) in other.iter_mut().zip(&sample.inputs) {
                let size = x.len() / x.shape()[0];
                if input.is_differentiable() {
                    x.as_mut_slice()[size..].iter_mut().for_each(|x| *x = 2.0 * *x + 1.0);
                }
            }
            let differs = slices(&run(&other, key(1)), 0..1) != slices(&y, 0..1);
            assert_eq!(!sample.independent_samples, differs, "{name}: says that it sees the batch");
        }
        let [_, dx] = once(sample, TRAIN, &mut grads_of(sample));
        for (input, dx) in sample.inputs.iter().zip(&dx) {
            let zeros = dx.as_slice().iter().all(|&dx| dx == 0.0);
            assert!(input.is_differentiable() || zeros, "{name}: a derivative by whole numbers");
        }
    });
}

/// Whether l = Σ dy ⊙ y jumps in slope along the line from one random x to another: a second difference over
/// twice the step is twice as large at a kink, and four times as large where the function is smooth.
fn jumps(sample: &Sample<f64>, seed: u64) -> bool {
    const POINTS: usize = 800;
    let [from, to] = [seed, seed + 1].map(|seed| sample.tensors(seed).unwrap());
    let mut tape = Tape::new();
    let l: Vec<f64> = (0..=POINTS)
        .map(|i| {
            let t = i as f64 / POINTS as f64;
            let mut x = from.clone();
            for ((x, to), input) in x.iter_mut().zip(&to).zip(&sample.inputs) {
                if input.is_differentiable() {
                    x.as_mut_slice().iter_mut().zip(to.as_slice()).for_each(|(x, &to)| *x += t * (to - *x));
                }
            }
            let y = tape.forward_many(&*sample.layer, &refs(&x), Mode::Eval).unwrap().outputs().to_vec();
            let dy = upstream(&y);
            let products = y.iter().zip(&dy).flat_map(|(y, dy)| y.as_slice().iter().zip(dy.as_slice()));
            products.map(|(y, dy)| y * dy).sum()
        })
        .collect();
    let second = |step: usize| {
        let at = |i: usize| (l[i + step] - 2.0 * l[i] + l[i - step]).abs();
        (step..l.len() - step).map(at).fold(0.0, f64::max)
    };
    let (one, two) = (second(4), second(8));
    one > 1e-9 && one / two > 0.35
}

/// A sample that is said to have kinks has one, on some line, and no other sample has.
#[test]
fn kinks_are_where_they_are_said_to_be() {
    every_small::<f64>(|name, sample| {
        let mut lines = if sample.kinks { 3..15 } else { 3..4 };
        assert_eq!(lines.any(|seed| jumps(sample, seed)), sample.kinks, "{name}");
    });
}

/// A tape that splits the batch gives the results of any other; sums over the batch are taken in another
/// order.
#[test]
fn the_parts_of_a_batch_are_the_batch() {
    every_small::<f64>(|name, sample| {
        let x = sample.tensors(3).unwrap();
        let mut whole = grads_of(sample);
        let [y, dx] = once(sample, Mode::Eval, &mut whole);
        for parts in [1, 2, 3, 7] {
            let mut tape = Tape::new().parts(parts).unwrap();
            for _ in 0..2 {
                let mut sum = grads_of(sample);
                let run = tape.forward_many(&*sample.layer, &refs(&x), Mode::Eval);
                drop(run);
                // The same ∂l/∂y as without parts.
                let of_parts = pass(&mut tape, &*sample.layer, &x, Mode::Eval, &mut sum);
                assert_eq!(of_parts, [y.clone(), dx.clone()], "{name}, {parts} parts");
                assert_close(name, &sum, &whole, 1e-12);
            }
        }
    });
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    every::<f32>(|name, sample| {
        let run = |threads| {
            let _one = with_threads(threads);
            let (mut grads, mut tape) = (grads_of(sample), Tape::new().parts(3).unwrap());
            let x = sample.tensors(3).unwrap();
            let of_parts = pass(&mut tape, &*sample.layer, &x, TRAIN, &mut grads);
            let mut whole = grads_of(sample);
            let of_whole = once(sample, TRAIN, &mut whole);
            (of_parts, bits_of_grads(&grads), of_whole, bits_of_grads(&whole))
        };
        let expected = run(1);
        for threads in [2, 3, 7] {
            assert!(run(threads) == expected, "{name}: {threads} threads");
        }
    });
}

/// A NaN in one sample reaches that sample's y and dx, and no other sample's.
#[test]
fn nan_stays_in_its_sample() {
    fn check<T: Scalar>() {
        every_small::<T>(|name, sample| {
            let has_nan = |t: &Tensor<T>| t.as_slice().iter().any(|x| x.is_nan());
            let nan = T::from_f64(f64::NAN);
            for mode in [TRAIN, Mode::Eval] {
                if !sample.independent_samples && mode == TRAIN {
                    continue;
                }
                for input in 0..sample.inputs.len() {
                    if !sample.inputs[input].is_differentiable() {
                        continue;
                    }
                    let mut x = sample.tensors(4).unwrap();
                    x[input].as_mut_slice()[0] = nan;
                    let [y, dx] = pass(&mut Tape::new(), &*sample.layer, &x, mode, &mut grads_of(sample));
                    assert!(
                        y.iter().any(|y| has_nan(&y.slice(0..1).unwrap())),
                        "{name}: NaN in, but not out"
                    );
                    let samples = x[0].shape()[0];
                    for t in y.iter().chain(&dx) {
                        assert!(!has_nan(&t.slice(1..samples).unwrap()), "{name}: NaN in another sample");
                    }
                }
                let x = sample.tensors(4).unwrap();
                let (mut tape, inputs, mut grads) = (Tape::new(), refs(&x), grads_of(sample));
                let run = tape.forward_many(&*sample.layer, &inputs, mode).unwrap();
                let mut dy = upstream(run.outputs());
                dy.iter_mut().for_each(|dy| dy.fill(nan));
                let dy: Vec<_> = dy.iter().map(Some).collect();
                let mut dx = vec![Tensor::default(); x.len()];
                let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
                run.backward_many_to_inputs(&dy, &mut grads, &mut wanted).unwrap();
                // A rectifier's dx may be 0 everywhere, whatever comes from above.
                if !sample.kinks && sample.inputs[0].is_differentiable() {
                    assert!(has_nan(&dx[0]), "{name}: NaN upstream, but not in dx");
                }
                let mut k = 0;
                sample.layer.visit(Path::ROOT, &mut |path, role, _| {
                    let grad = grads[k].get();
                    k += 1;
                    if role == Role::Parameter && grad.is_some() {
                        assert!(grad.is_some_and(has_nan), "{name}: NaN upstream, but not in {path}");
                    }
                });
            }
        });
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn prediction_is_deterministic_and_training_follows_the_key() {
    every_small::<f32>(|name, sample| {
        for mode in [TRAIN, Mode::Eval] {
            let (mut a, mut b) = (grads_of(sample), grads_of(sample));
            assert_eq!(once(sample, mode, &mut a), once(sample, mode, &mut b), "{name}");
            assert_eq!(bits_of_grads(&a), bits_of_grads(&b), "{name}");
        }
        // Without a key: the layer trains, or asks for one.
        let x = sample.tensors(3).unwrap();
        let without = Tape::new().forward_many(&*sample.layer, &refs(&x), Mode::train()).map(drop);
        match without {
            Ok(()) => assert!(!sample.random, "{name} draws no random numbers without a key"),
            Err(error) => {
                assert!(sample.random, "{name}: {error}");
                assert!(error.to_string().contains("Mode::train_with(key)"), "{name}: {error}");
            }
        }
    });
}

/// A used tape gives the results of a fresh one: nothing of an earlier pass, of another layer, shape or mode,
/// shows.
#[test]
fn a_reused_tape_forgets() {
    let mut tape = Tape::new();
    every_small::<f64>(|name, sample| {
        for mode in [TRAIN, Mode::Eval, TRAIN] {
            let (mut used, mut fresh) = (grads_of(sample), grads_of(sample));
            let x = sample.tensors(3).unwrap();
            let of_used = pass(&mut tape, &*sample.layer, &x, mode, &mut used);
            assert_eq!(of_used, once(sample, mode, &mut fresh), "{name}");
            assert_eq!(bits_of_grads(&used), bits_of_grads(&fresh), "{name}");
        }
    });
}

#[test]
fn the_second_step_allocates_nothing() {
    // Other tests use the pool at the same time, so its workers might start only when this one counts.
    let _one = with_threads(1);
    every_small::<f32>(|name, sample| {
        let x = sample.tensors(8).unwrap();
        let x = refs(&x);
        let y = predict_many(&*sample.layer, &x).unwrap();
        let dy = upstream(&y);
        let dy: Vec<_> = dy.iter().map(Some).collect();
        for parts in [1, 3] {
            let mut tape = Tape::new().parts(parts).unwrap();
            let (mut grads, mut dx) = (grads_of(sample), vec![Tensor::default(); x.len()]);
            let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
            let mut step = |mode| {
                grads.clear();
                let run = tape.forward_many(&*sample.layer, &x, mode).unwrap();
                run.backward_many(&dy, &mut grads).unwrap();
                let run = tape.forward_many(&*sample.layer, &x, mode).unwrap();
                run.backward_many_to_inputs(&dy, &mut grads, &mut wanted).unwrap();
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
fn a_prepared_layer_predicts_the_same_bits_and_allocates_nothing() {
    let _one = with_threads(1);
    fn check<T: Scalar>(name: &str, sample: &mut Sample<T>) {
        // A bias that starts at 0 could be left out.
        let mut seed = 0;
        sample.layer.visit_mut(Path::ROOT, &mut |_, role, tensor| {
            seed += 1;
            if role == Role::Parameter {
                *tensor = normal(tensor, seed);
            }
        });
        let prepared = Prepared::of(&*sample.layer).unwrap();
        let x = sample.tensors(8).unwrap();
        let (x, mut tape) = (refs(&x), Tape::new());
        let expected = predict_many(&*sample.layer, &x).unwrap();
        assert_eq!(prepared.forward_many(&mut tape, &x).unwrap(), expected, "{name}");
        let allocations = allocation_counter::measure(|| {
            prepared.forward_many(&mut tape, &x).unwrap();
        });
        assert_eq!(allocations.count_total, 0, "{name}");
    }
    every::<f32>(check);
    every_small::<f64>(check);
}

#[test]
fn both_visits_agree_and_allocate_nothing() {
    every_small::<f32>(|name, sample| {
        let layer = &mut sample.layer;
        let mut of_mut = Vec::new();
        layer.visit_mut(Path::ROOT, &mut |path, role, tensor| {
            of_mut.push((path.to_string(), role, tensor.shape()));
        });
        let mut of_ref = Vec::new();
        layer.visit(Path::ROOT, &mut |path, role, tensor| {
            of_ref.push((path.to_string(), role, tensor.shape()));
        });
        assert_eq!(of_ref, of_mut, "{name}");
        let distinct: BTreeSet<_> = of_ref.iter().map(|(path, ..)| path).collect();
        assert_eq!(distinct.len(), layer.tensor_count(), "{name}: paths that occur twice");
        let allocations = allocation_counter::measure(|| layer.visit_mut(Path::ROOT, &mut |_, _, _| {}));
        assert_eq!(allocations.count_total, 0, "{name}");
    });
}

#[test]
fn a_clone_is_the_same_layer_and_another_one() {
    every_small::<f32>(|name, sample| {
        let mut copy = sample.clone();
        let (mut a, mut b) = (grads_of(sample), grads_of(&copy));
        assert_eq!(once(sample, TRAIN, &mut a), once(&copy, TRAIN, &mut b), "{name}");
        let before = sample.layer.tensors().into_iter().map(|(_, tensor)| bits(tensor)).collect::<Vec<_>>();
        copy.layer.visit_mut(Path::ROOT, &mut |_, _, tensor| tensor.fill(7.0));
        let after = sample.layer.tensors().into_iter().map(|(_, tensor)| bits(tensor)).collect::<Vec<_>>();
        assert_eq!(before, after, "{name}");
    });
}

#[test]
fn wrong_shapes_are_errors_and_change_no_gradient() {
    every_small::<f32>(|name, sample| {
        let x = sample.tensors(1).unwrap();
        let (mut tape, inputs) = (Tape::new(), refs(&x));
        let mut grads = grads_of(sample);
        let run = tape.forward_many(&*sample.layer, &inputs, TRAIN).unwrap();
        let mut wrong = run.output().shape().to_vec();
        wrong[0] += 1;
        let wrong = Tensor::zeros(&wrong[..]).unwrap();
        let mut dy = vec![None; run.outputs().len()];
        dy[0] = Some(&wrong);
        assert!(run.backward_many(&dy, &mut grads).is_err(), "{name}");
        assert!(grads.iter().all(Grad::is_zero), "{name}");
        // More inputs than the layer takes, or none.
        let many = vec![&x[0]; sample.layer.inputs().end() + 1];
        assert!(tape.forward_many(&*sample.layer, &many, TRAIN).is_err(), "{name}");
        assert!(tape.forward_many(&*sample.layer, &[], TRAIN).is_err(), "{name}");
        let (mut y, mut cache) = (vec![], Cache::default());
        assert!(sample.layer.forward_many(&inputs, &mut y, &mut cache, TRAIN).is_err(), "{name}: no outputs");
    });
}

/// Inputs of ±1e4 and equal ones: nothing overflows.
#[test]
fn extreme_inputs_stay_finite() {
    every_small::<f32>(|name, sample| {
        for scale in [1e4, -1e4, 0.0] {
            let mut x = sample.tensors(3).unwrap();
            for (x, input) in x.iter_mut().zip(&sample.inputs) {
                if input.is_differentiable() {
                    x.apply(|x| if scale == 0.0 { 0.0 } else { scale * if x > 0.0 { 1.0 } else { -1.0 } });
                }
            }
            let [y, dx] = pass(&mut Tape::new(), &*sample.layer, &x, Mode::Eval, &mut grads_of(sample));
            for tensor in y.iter().chain(&dx) {
                assert!(tensor.as_slice().iter().all(|y| y.is_finite()), "{name}: {scale}");
            }
        }
    });
}

/// x of rank 1 is one sample, with parts and without.
#[test]
fn a_single_sample_is_not_split() {
    every_small::<f32>(|name, sample| {
        let [Input::Normal(shape)] = &sample.inputs[..] else { return };
        let one = backrule_tensor::Shape::new(&shape[1..]).unwrap();
        // Layers of images or sequences take no single row.
        if shape.len() != 2 || sample.layer.output_shape(one).is_err() {
            return;
        }
        let x = Tensor::normal([shape[1]], 0.0, 1.0, &mut random::rng(3)).unwrap();
        let run = |mut tape: Tape| {
            let (mut grads, mut dx) = (grads_of(sample), Tensor::default());
            let run = tape.forward(&*sample.layer, &x, TRAIN).ok()?;
            let y = run.output().clone();
            run.backward_to_input(&normal(&y, 5), &mut grads, &mut dx).ok()?;
            Some((y, dx, bits_of_grads(&grads)))
        };
        let whole = run(Tape::new());
        assert_eq!(run(Tape::new().parts(3).unwrap()), whole, "{name}");
        assert!(whole.is_some(), "{name}");
    });
}

#[test]
fn layers_tapes_and_gradients_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Box<dyn Layer<f32>>>();
    crosses::<Sequential>();
    crosses::<(Tape, Grads, Cache)>();
}

/// Whatever else is wanted, a wanted result has the same bits, and any other stays empty.
#[test]
fn what_is_unwanted_changes_nothing_else() {
    unwanted_changes_nothing_else::<f64>(TRAIN);
    unwanted_changes_nothing_else::<f64>(Mode::Eval);
    unwanted_changes_nothing_else::<f32>(TRAIN);
}

fn unwanted_changes_nothing_else<T: Scalar>(mode: Mode) {
    let normal = |y: &Tensor<T>| Tensor::normal(y.shape(), 0.0, 1.0, &mut random::rng(7)).unwrap();
    every_small::<T>(|name, sample| {
        let x = sample.tensors(2).unwrap();
        // ∂l/∂x and ∂l/∂θ of those whose bit is set.
        let run = |wanted_dx: usize, wanted: usize| {
            let mut grads = grads_of(sample);
            for (i, grad) in grads.iter_mut().enumerate() {
                grad.set_wanted(grad.is_wanted() && wanted >> i & 1 == 1);
            }
            let mut tape = Tape::new();
            let run = tape.forward_many(&*sample.layer, &refs(&x), mode).unwrap();
            let dy: Vec<_> = run.outputs().iter().map(normal).collect();
            let dy: Vec<_> = dy.iter().map(Some).collect();
            let mut dx = vec![Tensor::default(); x.len()];
            let mut place: Vec<_> =
                dx.iter_mut().enumerate().map(|(i, dx)| (wanted_dx >> i & 1 == 1).then_some(dx)).collect();
            run.backward_many_to_inputs(&dy, &mut grads, &mut place).unwrap();
            let grads: Vec<_> = grads.iter().map(|grad| grad.get().map(bits)).collect();
            (dx.iter().map(bits).collect::<Vec<_>>(), grads)
        };
        // Of larger networks the first six tensors.
        let tensors = sample.layer.tensor_count();
        let (all_dx, some) = ((1 << x.len()) - 1, 1 << tensors.min(6));
        let (dx, grads) = run(all_dx, usize::MAX);
        for wanted_dx in 0..=all_dx {
            for low in 0..some {
                let wanted = low | (usize::MAX - (some - 1));
                let (own_dx, own) = run(wanted_dx, wanted);
                for (i, (own, dx)) in own_dx.iter().zip(&dx).enumerate() {
                    assert!(
                        wanted_dx >> i & 1 == 0 || own == dx,
                        "{name}: dx {i} with {wanted:b}, {wanted_dx:b}"
                    );
                }
                for (i, (own, grad)) in own.iter().zip(&grads).enumerate() {
                    let expected = if wanted >> i & 1 == 0 { &None } else { grad };
                    assert!(own == expected, "{name}: gradient {i} with {wanted:b}, {wanted_dx:b}");
                }
            }
        }
    });
}
