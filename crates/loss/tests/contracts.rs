//! One table of all losses and their options, and what each of them has to hold.
#![allow(clippy::unwrap_used)]

use backrule_loss::tensor::ConfigError;
use backrule_loss::tensor::{Scalar, Tensor, random};
use backrule_loss::{CrossEntropy, LossError, Mse, Reduction, Target};

/// A loss with a target: given a prediction and perhaps a place for the gradient.
type Run<T> = Box<dyn Fn(&Tensor<T>, Option<&mut Tensor<T>>) -> Result<T, LossError> + Send + Sync>;

/// One entry of the table.
struct Case<T> {
    /// The loss's type.
    loss: &'static str,
    /// Its options and shapes, for messages.
    what: String,
    prediction: Tensor<T>,
    mean: Run<T>,
    sum: Run<T>,
    /// What the mean divides the sum by.
    divisor: f64,
}

impl<T> Case<T> {
    fn runs(&self) -> [(&Run<T>, String); 2] {
        let name = |reduction| format!("{} {reduction} {}", self.loss, self.what);
        [(&self.mean, name("mean")), (&self.sum, name("sum"))]
    }
}

/// Every public loss, with every combination of its options.
fn table<T: Scalar>() -> Vec<Case<T>> {
    let mut cases = Vec::new();
    for shape in [&[1, 1][..], &[3], &[5, 3], &[2, 3, 4]] {
        cases.push(mse(shape));
    }
    for (shape, labels) in [
        (&[1, 1][..], vec![0]),
        (&[4], vec![2]),
        (&[5, 3], vec![0, 2, 1, 1, 2]),
        (&[2, 3, 4], vec![3, 0, 1, 2, 2, 0]),
        (&[2, 16], vec![15, 2]),
        (&[2, 17], vec![16, 2]),
    ] {
        for weighted in [false, true] {
            for smoothing in [0.0, 0.1, 1.0] {
                cases.push(probabilities(shape, weighted, smoothing));
                cases.push(classes(shape, &labels, weighted, smoothing, None));
                if labels.len() > 1 {
                    cases.push(classes(shape, &labels, weighted, smoothing, Some(2)));
                }
            }
        }
    }
    cases
}

fn mse<T: Scalar>(shape: &[usize]) -> Case<T> {
    let (prediction, target) = (uniform(shape, 1), uniform(shape, 2));
    let divisor = prediction.len() as f64;
    let run = |reduction| -> Run<T> {
        let (loss, target) = (Mse::new().reduction(reduction), target.clone());
        Box::new(move |p, dy| match dy {
            Some(dy) => loss.value_and_grad(p, &target, dy),
            None => loss.value(p, &target),
        })
    };
    Case {
        loss: "Mse",
        what: format!("{shape:?}"),
        prediction,
        mean: run(Reduction::Mean),
        sum: run(Reduction::Sum),
        divisor,
    }
}

fn cross_entropy(classes: usize, weighted: bool, smoothing: f64) -> CrossEntropy {
    let loss = CrossEntropy::new().label_smoothing(smoothing).unwrap();
    if weighted { loss.class_weights(weights(classes)).unwrap() } else { loss }
}

/// The second class has none.
fn weights(classes: usize) -> Vec<f64> {
    (0..classes).map(|c| if c == 1 { 0.0 } else { 0.5 + c as f64 }).collect()
}

fn classes<T: Scalar>(
    shape: &[usize],
    labels: &[usize],
    weighted: bool,
    smoothing: f64,
    ignored: Option<usize>,
) -> Case<T> {
    let prediction: Tensor<T> = uniform(shape, 3);
    let classes = prediction.shape().columns();
    let loss = cross_entropy(classes, weighted, smoothing);
    let loss = match ignored {
        Some(index) => loss.ignore_index(index),
        None => loss,
    };
    let counted = labels.iter().filter(|&&y| Some(y) != ignored);
    let divisor = counted.map(|&y| if weighted { weights(classes)[y] } else { 1.0 }).sum();
    let run = |reduction| -> Run<T> {
        let (loss, labels) = (loss.clone().reduction(reduction), labels.to_vec());
        Box::new(move |p, dy| match dy {
            Some(dy) => loss.value_and_grad(p, &labels, dy),
            None => loss.value(p, &labels),
        })
    };
    Case {
        loss: "CrossEntropy",
        what: format!(
            "{shape:?} of classes, weighted {weighted}, smoothing {smoothing}, ignored {ignored:?}"
        ),
        prediction,
        mean: run(Reduction::Mean),
        sum: run(Reduction::Sum),
        divisor,
    }
}

fn probabilities<T: Scalar>(shape: &[usize], weighted: bool, smoothing: f64) -> Case<T> {
    let prediction: Tensor<T> = uniform(shape, 4);
    let classes = prediction.shape().columns();
    let loss = cross_entropy(classes, weighted, smoothing);
    let mut target: Tensor<T> = uniform(shape, 5);
    for row in target.as_mut_slice().chunks_mut(classes) {
        row.iter_mut().for_each(|t| *t = *t * *t);
        let sum: T = row.iter().copied().sum();
        row.iter_mut().for_each(|t| *t /= sum);
    }
    let run = |reduction| -> Run<T> {
        let (loss, target) = (loss.clone().reduction(reduction), target.clone());
        Box::new(move |p, dy| match dy {
            Some(dy) => loss.value_and_grad(p, &target, dy),
            None => loss.value(p, &target),
        })
    };
    Case {
        loss: "CrossEntropy",
        what: format!("{shape:?} of probabilities, weighted {weighted}, smoothing {smoothing}"),
        divisor: prediction.shape().rows() as f64,
        prediction,
        mean: run(Reduction::Mean),
        sum: run(Reduction::Sum),
    }
}

fn uniform<T: Scalar>(shape: &[usize], seed: u64) -> Tensor<T> {
    Tensor::uniform(shape, -2.0, 2.0, &mut random::rng(seed)).unwrap()
}

/// The bits of all elements: unlike ==, this tells −0 from 0 and holds for NaN.
fn bits<T: Scalar>(x: &Tensor<T>) -> (Vec<usize>, Vec<u64>) {
    let bits = x.as_slice().iter().map(|x| x.to_f64().to_bits()).collect();
    (x.shape().to_vec(), bits)
}

fn in_both_precisions(contract32: fn(&Case<f32>), contract64: fn(&Case<f64>)) {
    table().iter().for_each(contract32);
    table().iter().for_each(contract64);
}

#[test]
fn the_gradient_is_the_derivative() {
    const H: f64 = 1e-5;
    for case in table::<f64>() {
        for (run, name) in case.runs() {
            let mut dy = Tensor::default();
            run(&case.prediction, Some(&mut dy)).unwrap();
            for i in 0..case.prediction.len() {
                let at = |h| {
                    let mut p = case.prediction.clone();
                    p.as_mut_slice()[i] += h;
                    run(&p, None).unwrap()
                };
                let numeric = (at(H) - at(-H)) / (2.0 * H);
                let analytic = dy.as_slice()[i];
                assert!(
                    (analytic - numeric).abs() <= 1e-8 + 1e-6 * numeric.abs(),
                    "{name}, element {i}: {analytic} is not {numeric}"
                );
            }
        }
    }
}

#[test]
fn one_value_from_both_functions() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for (run, name) in case.runs() {
            let value = run(&case.prediction, None).unwrap();
            let with_gradient = run(&case.prediction, Some(&mut Tensor::default())).unwrap();
            let bits = [value, with_gradient].map(|value| value.to_f64().to_bits());
            assert_eq!(bits[0], bits[1], "{name}: {value}, {with_gradient}");
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn the_gradient_is_overwritten() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for (run, name) in case.runs() {
            let mut fresh = Tensor::default();
            run(&case.prediction, Some(&mut fresh)).unwrap();
            assert_eq!(fresh.shape(), case.prediction.shape(), "{name}");
            assert!(fresh.as_slice().iter().all(|dy| dy.is_finite()), "{name}");
            // Of the same shape, and of others.
            for shape in [&case.prediction.shape()[..], &[40], &[1, 2, 1]] {
                let mut poisoned = Tensor::full(shape, T::from_f64(f64::NAN)).unwrap();
                run(&case.prediction, Some(&mut poisoned)).unwrap();
                assert_eq!(bits(&poisoned), bits(&fresh), "{name}");
            }
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn a_warm_call_allocates_nothing() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for (run, name) in case.runs() {
            let mut dy = Tensor::default();
            run(&case.prediction, Some(&mut dy)).unwrap();
            let allocations = allocation_counter::measure(|| {
                run(&case.prediction, Some(&mut dy)).unwrap();
                run(&case.prediction, None).unwrap();
            });
            assert_eq!(allocations.count_total, 0, "{name}");
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn the_mean_is_the_sum_divided() {
    for case in table::<f64>() {
        let [mut of_mean, mut of_sum] = [Tensor::default(), Tensor::default()];
        let mean = (case.mean)(&case.prediction, Some(&mut of_mean)).unwrap();
        let sum = (case.sum)(&case.prediction, Some(&mut of_sum)).unwrap();
        assert_eq!(mean, sum / case.divisor, "{}", case.what);
        of_sum.scale(1.0 / case.divisor);
        backrule_testkit::assert_close(&case.what, &of_mean, &of_sum, 1e-15);
    }
}

#[test]
fn single_precision_is_double_precision_rounded() {
    for (case, exact) in table::<f32>().iter().zip(table::<f64>()) {
        for ((run, name), (exact_run, _)) in case.runs().into_iter().zip(exact.runs()) {
            let (mut dy, mut exact_dy) = (Tensor::default(), Tensor::default());
            let value = run(&case.prediction, Some(&mut dy)).unwrap();
            let exact_value = exact_run(&exact.prediction, Some(&mut exact_dy)).unwrap();
            // Inputs of up to 2 and targets are rounded by 2⁻²⁴ of themselves, and a few operations add as much again;
            // a sum over 24 elements can have 24 times that.
            backrule_testkit::assert_near(&name, value.into(), exact_value, 2e-6);
            backrule_testkit::assert_close(&name, &dy, &exact_dy.cast().unwrap(), 2e-6);
        }
    }
}

#[test]
fn a_refused_prediction_leaves_the_gradient_alone() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for batches in [0, 3] {
            let wrong = [&[batches], &case.prediction.shape()[..]].concat();
            let prediction = Tensor::full(&wrong[..], T::ONE).unwrap();
            for (run, name) in case.runs() {
                let mut dy = uniform(&[2, 3], 6);
                let before = bits(&dy);
                let refused = run(&prediction, Some(&mut dy));
                assert!(refused.is_err(), "{name} took {wrong:?}");
                assert_eq!(bits(&dy), before, "{name}");
                assert_eq!(run(&prediction, None), refused, "{name}");
            }
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn a_refused_target_leaves_the_gradient_alone() {
    fn check<'t>(name: &str, loss: CrossEntropy, target: impl Into<Target<'t, f64>>) {
        let target = target.into();
        let logits = uniform(&[2, 2], 7);
        let mut dy = uniform(&[2, 2], 8);
        let before = bits(&dy);
        let error = loss.value_and_grad(&logits, target, &mut dy).unwrap_err();
        let variant = format!("{error:?}");
        assert!(variant.starts_with(name), "{variant} is not {name}");
        assert_eq!(bits(&dy), before, "{name}");
        let again = loss.value(&logits, target).unwrap_err();
        // As text: NaN is among them.
        assert_eq!(again.to_string(), error.to_string());
    }
    // What is wrong is wrong in the last row, where it is found last.
    let loss = CrossEntropy::new();
    let none = loss.clone().class_weights([0.0, 1.0]).unwrap();
    let three = loss.clone().class_weights([1.0; 3]).unwrap();
    let half = Tensor::from([[0.5, 0.5]; 2]);
    check("Label", loss.clone(), &[0, 2]);
    check("Shape", loss.clone(), &[0]);
    check("Shape", loss.clone(), &Tensor::from([[0.5, 0.5]]));
    check("Probability {", loss.clone(), &Tensor::from([[0.5, 0.5], [1.5, -0.5]]));
    check("Probability {", loss.clone(), &Tensor::from([[0.5, 0.5], [f64::NAN, 1.0]]));
    check("ProbabilitySum", loss.clone(), &Tensor::from([[0.5, 0.5], [0.5, 0.6]]));
    check("AllIgnored", loss.clone().ignore_index(1), &[1, 1]);
    check("AllIgnored", loss.clone().ignore_index(1).reduction(Reduction::Sum), &[1, 1]);
    check("TotalWeight", none, &[0, 0]);
    check("WeightCount", three, &[0, 1]);
    check("IgnoredIndex", loss.ignore_index(1), &half);
}

#[test]
fn everything_can_be_shared_between_threads() {
    fn check<L: Send + Sync>() {}
    check::<Mse>();
    check::<CrossEntropy>();
    check::<Target<'_, f32>>();
    check::<LossError>();
    check::<ConfigError>();
}

#[test]
fn no_loss_is_missing_from_the_table() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut found = Vec::new();
    losses_in(source.as_ref(), &mut found);
    found.sort();
    let mut listed: Vec<_> = table::<f64>().iter().map(|case| case.loss).collect();
    listed.sort();
    listed.dedup();
    assert_eq!(found, listed);
}

/// The types with a function `value_and_grad`, in all files below `folder`.
fn losses_in(folder: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            losses_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            let mut of = String::new();
            for line in text.lines() {
                if line.starts_with("impl") {
                    let header = line.trim_end_matches('{').trim();
                    let name = header.rsplit(' ').next().unwrap();
                    of = name.split('<').next().unwrap().to_string();
                }
                if line.trim_start().trim_start_matches("pub ").starts_with("fn value_and_grad") {
                    found.push(of.clone());
                }
            }
        }
    }
}
