//! The contract of each loss of the list, with every combination of its settings.
#![allow(clippy::unwrap_used)]

use backrule_loss::listed::{AnyLoss, Sample};
use backrule_loss::tensor::{Scalar, Tensor, random};
use backrule_loss::{ConfigError, CrossEntropy, LossError, Mse, Reduction, Target, losses};
use backrule_testkit::bits;

/// One sample of one loss.
struct Case<T: Scalar> {
    mean: Box<dyn AnyLoss<T>>,
    sample: Sample<T>,
}

impl<T: Scalar> Case<T> {
    fn reduced(&self, reduction: Reduction) -> (Box<dyn AnyLoss<T>>, String) {
        let loss = self.mean.with(reduction);
        let name = format!("{} of {}, {}", loss.kind(), self.sample.prediction.shape(), loss.options());
        (loss, name)
    }

    /// With each reduction, and its name in messages.
    fn losses(&self) -> [(Box<dyn AnyLoss<T>>, String); 3] {
        [Reduction::Mean, Reduction::Sum, Reduction::Over(3.5)].map(|reduction| self.reduced(reduction))
    }

    /// L of another prediction.
    fn value_of(&self, loss: &dyn AnyLoss<T>, prediction: &Tensor<T>) -> T {
        loss.evaluate(&Sample { prediction: prediction.clone(), ..self.sample.clone() }, None).unwrap()
    }
}

fn table<T: Scalar>() -> Vec<Case<T>> {
    let samples = losses().into_iter().flat_map(|kind| (kind.samples)());
    samples.map(|(mean, sample)| Case { mean, sample }).collect()
}

fn uniform<T: Scalar>(shape: &[usize], seed: u64) -> Tensor<T> {
    Tensor::uniform(shape, -2.0, 2.0, &mut random::rng(seed)).unwrap()
}

fn in_both_precisions(contract32: fn(&Case<f32>), contract64: fn(&Case<f64>)) {
    table().iter().for_each(contract32);
    table().iter().for_each(contract64);
}

/// All elements of a small tensor, and 64 of a large one.
fn elements<T: Scalar>(x: &Tensor<T>) -> impl Iterator<Item = usize> {
    let len = x.len();
    (0..len.min(64)).map(move |i| if len <= 64 { i } else { (i * 7919 + 13) % len })
}

#[test]
fn the_gradient_is_the_derivative() {
    const H: f64 = 1e-5;
    for case in table::<f64>() {
        // The sum of a large batch has lost the digits in which the differences are.
        let reductions = if case.sample.prediction.len() > 1000 { 1 } else { 3 };
        for (loss, name) in case.losses().into_iter().take(reductions) {
            let mut dy = Tensor::default();
            loss.evaluate(&case.sample, Some(&mut dy)).unwrap();
            for i in elements(&case.sample.prediction) {
                let at = |h| {
                    let mut p = case.sample.prediction.clone();
                    p.as_mut_slice()[i] += h;
                    case.value_of(&*loss, &p)
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
fn one_value_with_and_without_gradient() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for (loss, name) in case.losses() {
            let value = loss.evaluate(&case.sample, None).unwrap();
            let with_gradient = loss.evaluate(&case.sample, Some(&mut Tensor::default())).unwrap();
            let bits = [value, with_gradient].map(|value| value.to_f64().to_bits());
            assert_eq!(bits[0], bits[1], "{name}: {value}, {with_gradient}");
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn the_gradient_is_overwritten() {
    fn contract<T: Scalar>(case: &Case<T>) {
        let shape = case.sample.prediction.shape();
        for (loss, name) in case.losses() {
            let mut fresh = Tensor::default();
            loss.evaluate(&case.sample, Some(&mut fresh)).unwrap();
            assert_eq!(fresh.shape(), shape, "{name}");
            assert!(fresh.as_slice().iter().all(|dy| dy.is_finite()), "{name}");
            // Of the same shape, and of others.
            for shape in [&shape[..], &[40], &[1, 2, 1]] {
                let mut poisoned = Tensor::full(shape, T::from_f64(f64::NAN)).unwrap();
                loss.evaluate(&case.sample, Some(&mut poisoned)).unwrap();
                assert_eq!(bits(&poisoned), bits(&fresh), "{name}");
            }
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn a_warm_call_allocates_nothing() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for (loss, name) in case.losses() {
            let mut dy = Tensor::default();
            loss.evaluate(&case.sample, Some(&mut dy)).unwrap();
            let allocations = allocation_counter::measure(|| {
                loss.evaluate(&case.sample, Some(&mut dy)).unwrap();
                loss.evaluate(&case.sample, None).unwrap();
            });
            assert_eq!(allocations.count_total, 0, "{name}");
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn the_mean_is_the_sum_divided() {
    for case in table::<f64>() {
        let ([(mean, name), (sum, _), _], divisor) = (case.losses(), case.sample.divisor);
        let [mut of_mean, mut of_sum] = [Tensor::default(), Tensor::default()];
        let mean = mean.evaluate(&case.sample, Some(&mut of_mean)).unwrap();
        let sum = sum.evaluate(&case.sample, Some(&mut of_sum)).unwrap();
        assert_eq!(mean, sum / divisor, "{name}");
        of_sum.scale(1.0 / divisor);
        backrule_testkit::assert_close(&name, &of_mean, &of_sum, 1e-15);
    }
}

#[test]
fn over_the_mean_s_number_has_the_mean_s_bits() {
    fn contract<T: Scalar>(case: &Case<T>) {
        let (over, name) = case.reduced(Reduction::Over(case.sample.divisor));
        let [mut of_mean, mut of_over] = [Tensor::default(), Tensor::default()];
        let mean = case.mean.evaluate(&case.sample, Some(&mut of_mean)).unwrap();
        let over = over.evaluate(&case.sample, Some(&mut of_over)).unwrap();
        assert_eq!(mean.to_f64().to_bits(), over.to_f64().to_bits(), "{name}");
        assert_eq!(bits(&of_mean), bits(&of_over), "{name}");
    }
    in_both_precisions(contract, contract);
}

#[test]
fn nothing_is_divided_by_what_is_not_positive_and_finite() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for n in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::from_bits(1)] {
            let (loss, name) = case.reduced(Reduction::Over(n));
            let mut dy = uniform(&[2, 3], 6);
            let before = bits(&dy);
            for dy in [Some(&mut dy), None] {
                let error = loss.evaluate(&case.sample, dy).unwrap_err();
                assert!(matches!(error, LossError::Divisor { .. }), "{name}: {error}");
            }
            assert_eq!(bits(&dy), before, "{name}");
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn every_setting_survives() {
    for kind in losses::<f32>() {
        for (mean, _) in (kind.samples)() {
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::Over(0.1)] {
                let loss = mean.with(reduction);
                let options = loss.options();
                options.check().unwrap();
                let built = (kind.build)(options.clone()).unwrap();
                assert_eq!(format!("{built:?}"), format!("{loss:?}"));
                // A setting that is left over is refused, and so is a missing one.
                let error = (kind.build)(options.clone().with("more", 1.0)).err().unwrap();
                assert_eq!((&*error.what, &*error.option), (kind.name, "more"));
                for (missing, _) in options.iter() {
                    let others = options.iter().filter(|(name, _)| *name != missing);
                    let others = others
                        .fold(Default::default(), |o: backrule_loss::tensor::Options, (n, v)| {
                            o.with(n, v.clone())
                        });
                    let error = (kind.build)(others).err().unwrap();
                    assert_eq!((&*error.what, &*error.option), (kind.name, missing));
                }
            }
        }
    }
}

#[test]
fn single_precision_is_double_precision_rounded() {
    for (case, exact) in table::<f32>().iter().zip(table::<f64>()) {
        for ((loss, name), (exact_loss, _)) in case.losses().into_iter().zip(exact.losses()) {
            let (mut dy, mut exact_dy) = (Tensor::default(), Tensor::default());
            let value = loss.evaluate(&case.sample, Some(&mut dy)).unwrap();
            let exact_value = exact_loss.evaluate(&exact.sample, Some(&mut exact_dy)).unwrap();
            // Inputs of up to 2 and targets are rounded by 2⁻²⁴ of themselves, and a few operations add as
            // much again; a sum over 24 elements can have 24 times that.
            backrule_testkit::assert_near(&name, value.into(), exact_value, 2e-6);
            backrule_testkit::assert_close(&name, &dy, &exact_dy.cast().unwrap(), 2e-6);
        }
    }
}

#[test]
fn a_refused_prediction_leaves_the_gradient_alone() {
    fn contract<T: Scalar>(case: &Case<T>) {
        for batches in [0, 3] {
            let wrong = [&[batches], &case.sample.prediction.shape()[..]].concat();
            let prediction = Tensor::full(&wrong[..], T::ONE).unwrap();
            let sample = Sample { prediction, ..case.sample.clone() };
            for (loss, name) in case.losses() {
                let mut dy = uniform(&[2, 3], 6);
                let before = bits(&dy);
                let refused = loss.evaluate(&sample, Some(&mut dy));
                assert!(refused.is_err(), "{name} took {wrong:?}");
                assert_eq!(bits(&dy), before, "{name}");
                assert_eq!(loss.evaluate(&sample, None), refused, "{name}");
            }
        }
    }
    in_both_precisions(contract, contract);
}

#[test]
fn no_entry_of_the_list_is_empty() {
    for kind in losses::<f64>() {
        let samples = (kind.samples)();
        assert!(samples.iter().any(|(_, sample)| sample.prediction.len() == 1), "{}", kind.name);
        assert!(samples.iter().any(|(_, sample)| sample.prediction.len() > 10_000), "{}", kind.name);
        let new = (kind.new)();
        assert_eq!((new.kind(), new.options()), (kind.name, (kind.build)(new.options()).unwrap().options()));
    }
}

#[test]
fn a_refused_target_leaves_the_gradient_alone() {
    fn check<'t>(name: &str, loss: CrossEntropy, target: impl Into<Target<'t, f64>>) {
        let target = target.into();
        let logits = uniform(&[2, 2], 7);
        let mut dy = uniform(&[2, 2], 8);
        let before = bits(&dy);
        let error = loss.value_and_grad(&logits, target, &mut dy).unwrap_err();
        let variant = format!("{error:#?}");
        assert!(variant.starts_with(name), "{variant} is not {name}");
        assert_eq!(bits(&dy), before, "{name}");
        let again = loss.value(&logits, target).unwrap_err();
        // As text: NaN is among them.
        assert_eq!(again.to_string(), error.to_string());
    }
    // The fault is in the last row, where it is found last.
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
    check("Divisor", loss.clone().reduction(Reduction::Over(0.0)), &[1, 1]);
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

/// Sums and gradients of parts add up, and a part of the batch may have no rows.
#[test]
fn only_a_mean_needs_rows() {
    let (z, mut dz) = (Tensor::<f32>::zeros([0, 3]).unwrap(), Tensor::from([f32::NAN]));
    for reduction in [Reduction::Sum, Reduction::Over(7.0), Reduction::Mean] {
        let cross = CrossEntropy::new().reduction(reduction);
        let mse = Mse::new().reduction(reduction);
        let soft = cross.value_and_grad(&z, &z, &mut dz);
        let all = [cross.value_and_grad(&z, &[], &mut dz), soft, mse.value_and_grad(&z, &z, &mut dz)];
        for value in all {
            match reduction {
                Reduction::Mean => assert!(value.unwrap_err().to_string().contains("[0, 3]")),
                _ => assert_eq!((value, dz.shape()), (Ok(0.0), z.shape())),
            }
        }
    }
}
