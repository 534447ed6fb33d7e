//! The derivative check finds its targets: rules that are wrong on purpose, each in one way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use backrule_nn::testing::{Entry, Input, table};
use backrule_nn::{
    At, AtMany, BatchNorm, Cache, Counted, Frozen, Gradcheck, GradcheckError, GradcheckReport, Grads, Graph,
    Key, Layer, LayerError, Linear, Mode, Relu, Sequential, gradcheck, through_many,
};
use backrule_tensor::{
    Grad, NamedTensors, Path, Role, Scalar, Shape, Tensor, matmul_into, matmul_nt_into, matmul_tn_into,
    named_tensors, random,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    WrongSign,
    Transposed,
    MissingTerm,
    ScaledByTheBatch,
    BiasOfOneSample,
    OverwritesGradients,
    AddsToCleared,
    AddsToInputGradient,
    NanInOneElement,
    /// ∂l/∂x keeps the shape that it has.
    FillsWhatIsThere,
    WrongShape,
    /// It is done where nobody wants ∂l/∂x.
    NothingWithoutDx,
}

/// y = x W + x, with W square: a dense layer with a way past it.
#[derive(Clone)]
struct Faulty<T> {
    w: Tensor<T>,
    b: Tensor<T>,
    fault: Fault,
}

named_tensors!(Faulty { w, b });

impl<T: Scalar> Layer<T> for Faulty<T> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        match self.fault {
            Fault::WrongShape => Ok(input.with_columns(1)?),
            _ => Ok(input),
        }
    }

    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        y.copy_from(x)?;
        matmul_into(x, &self.w, T::ONE, y)?;
        y.add_to_rows(&self.b)?;
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let [dw, db] = grads else { return Err(LayerError::value("faulty", "two gradients", grads.len())) };
        if self.fault == Fault::NothingWithoutDx && dx.is_none() {
            return Ok(());
        }
        let batch = at.x.shape().rows() as f64;
        let mut step = Tensor::zeros(dw.shape())?;
        match self.fault {
            Fault::Transposed => matmul_tn_into(dy, at.x, T::ZERO, &mut step)?,
            _ => matmul_tn_into(at.x, dy, T::ZERO, &mut step)?,
        }
        match self.fault {
            Fault::WrongSign => step.scale(-T::ONE),
            Fault::ScaledByTheBatch => step.scale(T::from_f64(1.0 / batch)),
            Fault::OverwritesGradients => dw.clear(),
            // β left out: the cleared values still count.
            Fault::AddsToCleared => dw.accumulate(|_, dw| dw.add(&step))?,
            _ => {}
        }
        if self.fault != Fault::AddsToCleared {
            dw.add_to(|dw| dw.add(&step))?;
        }
        match self.fault {
            Fault::BiasOfOneSample => {
                db.add_to(|db| Ok::<_, LayerError>(db.add_sum_of_rows(&dy.slice(0..1)?)?))?
            }
            _ => db.add_to(|db| db.add_sum_of_rows(dy))?,
        }
        if let Some(dx) = dx {
            let old = dx.clone();
            if self.fault == Fault::FillsWhatIsThere {
                let mut right = dy.clone();
                matmul_nt_into(dy, &self.w, T::ONE, &mut right)?;
                dx.as_mut_slice().iter_mut().zip(right.as_slice()).for_each(|(dx, &right)| *dx = right);
                return Ok(());
            }
            match self.fault {
                Fault::MissingTerm => dx.map_from(dy, |_| T::ZERO)?, // dy itself, of the way past
                _ => dx.copy_from(dy)?,
            }
            matmul_nt_into(dy, &self.w, T::ONE, dx)?;
            match self.fault {
                Fault::AddsToInputGradient => dx.add(&old)?,
                Fault::NanInOneElement => dx.as_mut_slice()[2] = T::from_f64(f64::NAN),
                _ => {}
            }
        }
        Ok(())
    }
}

fn check<T: Check>(fault: Fault, batch: usize) -> Result<(), GradcheckError> {
    let mut rng = random::rng(1);
    let mut layer: Faulty<T> = Faulty {
        w: Tensor::normal([3, 3], 0.0, 1.0, &mut rng)?,
        b: Tensor::normal([3], 0.0, 1.0, &mut rng)?,
        fault,
    };
    let x = Tensor::normal([batch, 3], 0.0, 1.0, &mut random::rng(5))?;
    T::check(Gradcheck::new(5), &mut layer, &[&x], &[true]).map(|_| ())
}

#[test]
fn a_right_rule_passes() {
    check::<f64>(Fault::None, 1).unwrap();
    check::<f64>(Fault::None, 4).unwrap();
    check::<f32>(Fault::None, 1).unwrap();
    check::<f32>(Fault::None, 4).unwrap();
}

#[test]
fn every_fault_is_found_where_it_is() {
    for (fault, path, wrong) in [
        (Fault::WrongSign, "w", 9),
        (Fault::Transposed, "w", 6), // the diagonal stays right
        (Fault::MissingTerm, "input", 12),
        (Fault::ScaledByTheBatch, "w", 9),
        (Fault::BiasOfOneSample, "b", 3),
        (Fault::OverwritesGradients, "w", 9),
        (Fault::AddsToCleared, "w", 9),
        (Fault::AddsToInputGradient, "input", 12), // which NaN was in
        (Fault::NanInOneElement, "input", 1),
    ] {
        for error in [check::<f64>(fault, 4).unwrap_err(), check::<f32>(fault, 4).unwrap_err()] {
            let GradcheckError::Mismatch(report) = &error else { panic!("{fault:?}: {error}") };
            let worst = report.worst.as_ref().unwrap();
            assert_eq!((worst.path.as_str(), report.wrong), (path, wrong), "{fault:?}: {error}");
            assert_eq!(report.elements, 12 + 9 + 3);
        }
    }
    assert!(matches!(check::<f64>(Fault::WrongShape, 4), Err(GradcheckError::Layer(_))));
    assert!(matches!(check::<f32>(Fault::WrongShape, 4), Err(GradcheckError::Layer(_))));
    let error = check::<f64>(Fault::FillsWhatIsThere, 4).unwrap_err();
    let text = "gradcheck: the rule has to give ∂l/∂x its shape: expected [4, 3], got [0]";
    assert_eq!(error.to_string(), text);
    assert_eq!(check::<f32>(Fault::FillsWhatIsThere, 4).unwrap_err().to_string(), text);
}

#[test]
fn the_report_names_the_element_and_both_numbers() {
    let error = check::<f64>(Fault::NanInOneElement, 1).unwrap_err().to_string();
    let begins = "1 of 15 derivatives wrong, 0 undecided at kinks; worst: ∂l/∂input[0, 2]: \
                  the rule says NaN, finite differences say ";
    assert!(error.starts_with(begins), "{error}");
    assert!(error.contains("(the check put NaN there before: the rule must write every element)"), "{error}");
}

#[test]
fn a_report_without_a_fault_says_so() {
    let report = gradcheck(&mut Linear::<f64>::new(3, 2, &mut random::rng(1)).unwrap(), [4, 3], 1).unwrap();
    let begins =
        "20 of 20 derivatives right (input: 12 of 12, weight: 6 of 6, bias: 2 of 2); least exact: ∂l/∂";
    assert!(report.to_string().starts_with(begins), "{report}");
    let mut x = Tensor::full([3, 5], 1.0).unwrap();
    x.as_mut_slice()[4] = 0.0;
    let report = Gradcheck::new(1).run(&mut Relu, &x).unwrap();
    let begins = "14 of 15 derivatives right (input: 14 of 15 and 1 undecided), 1 undecided at kinks; ";
    assert!(report.to_string().starts_with(begins), "{report}");
}

#[test]
fn the_report_counts_by_tensor_and_tells_what_overwrites() {
    for check in [check::<f64>, check::<f32>] {
        let error = check(Fault::BiasOfOneSample, 4).unwrap_err().to_string();
        assert!(error.contains("right: input: 12 of 12, w: 9 of 9, b: 0 of 3"), "{error}");
        assert!(!error.contains("must add"), "{error}");
        let error = check(Fault::OverwritesGradients, 4).unwrap_err().to_string();
        let twice = "(right once, wrong when run twice: it must add, also when nobody wants ∂l/∂x)";
        assert!(error.contains(&format!("w: 0 of 9 {twice}")), "{error}");
        let error = check(Fault::NothingWithoutDx, 4).unwrap_err().to_string();
        assert!(error.contains(&format!("input: 12 of 12, w: 0 of 9 {twice}, b: 0 of 3 {twice}")), "{error}");
    }
}

/// y = ln x, whose derivative at a negative x is NaN; and y = ∞ where x > 0.
#[derive(Clone, Copy)]
struct NoNumbers {
    infinite: bool,
}

impl<T: Scalar> backrule_tensor::NamedTensors<T> for NoNumbers {}
impl backrule_nn::Pointwise for NoNumbers {
    const DF_OF: backrule_nn::Of = backrule_nn::Of::X;
    fn f<T: Scalar>(&self, x: T) -> T {
        match self.infinite {
            true if x > T::ZERO => T::ONE / T::ZERO,
            true => x,
            false => x.ln(),
        }
    }
    fn df<T: Scalar>(&self, _: T) -> T {
        T::from_f64(12345.0)
    }
}

#[test]
fn a_difference_that_is_no_number_is_no_success() {
    for infinite in [false, true] {
        assert!(gradcheck(&mut NoNumbers { infinite }, [4, 4], 1).is_err(), "infinite: {infinite}");
    }
}

#[test]
fn the_layer_is_left_as_it_was() {
    let mut layer = Linear::<f64>::new(4, 3, &mut random::rng(1)).unwrap();
    let before = layer.clone();
    gradcheck(&mut layer, [2, 4], 3).unwrap();
    assert_eq!(layer, before);
}

#[test]
fn kinks_are_counted_and_not_taken_for_faults() {
    // One element lies at ReLU's kink: finite differences give ½, the rule 0.
    let mut x = Tensor::full([3, 5], 1.0).unwrap();
    x.as_mut_slice()[7] = 0.0;
    let report = Gradcheck::new(1).run(&mut Relu, &x).unwrap();
    assert_eq!((report.kinks, report.wrong, report.elements), (1, 0, 15));
    // A check that takes place at kinks only has shown nothing.
    x.fill(0.0);
    assert!(Gradcheck::new(1).run(&mut Relu, &x).is_err());
}

/// y = row of a table: the input is an index, so only the table has a derivative.
#[derive(Clone)]
struct Lookup<T> {
    table: Tensor<T>,
}

named_tensors!(Lookup { table });

impl<T: Scalar> Lookup<T> {
    fn row(&self, index: T) -> Result<usize, LayerError> {
        let (rows, index) = (self.table.shape().rows(), index.to_f64());
        if index.fract() == 0.0 && (0.0..rows as f64).contains(&index) {
            Ok(index as usize)
        } else {
            Err(LayerError::value("lookup", format_args!("an index below {rows}"), index))
        }
    }
}

impl<T: Scalar> Layer<T> for Lookup<T> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        Ok(Shape::new(&[input.elements(), self.table.shape().columns()])?)
    }

    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        x.as_slice().iter().try_for_each(|&index| self.row(index).map(|_| ()))?;
        y.resize(self.output_shape(x.shape())?)?;
        for (y, &index) in y.rows_mut().zip(x.as_slice()) {
            if let Some(row) = self.table.row(self.row(index)?) {
                y.copy_from_slice(row);
            }
        }
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        grads[0].add_to(|dw| {
            for (dy, &index) in dy.rows().zip(at.x.as_slice()) {
                if let Some(row) = dw.row_mut(self.row(index)?) {
                    row.iter_mut().zip(dy).for_each(|(dw, &dy)| *dw += dy);
                }
            }
            Ok::<_, LayerError>(())
        })?;
        if let Some(dx) = dx {
            dx.map_from(at.x, |_| T::ZERO)?;
        }
        Ok(())
    }
}

/// The frame carries integer input: indices are whole numbers in x, wrong ones are typed errors with a place.
#[test]
fn inputs_without_a_derivative_can_be_left_out() {
    let mut layer = Lookup { table: Tensor::<f64>::normal([5, 3], 0.0, 1.0, &mut random::rng(1)).unwrap() };
    let x = Tensor::from([4.0, 0.0, 4.0]);
    let check = Gradcheck { input: false, ..Gradcheck::new(1) };
    assert_eq!(check.run(&mut layer, &x).unwrap().elements, 15);

    let net = backrule_nn::Sequential::builder().layer("words", layer).build().unwrap();
    let error = backrule_nn::predict(&net, &Tensor::from([1.0, 5.0])).unwrap_err();
    assert_eq!(error.to_string(), "words: lookup: expected an index below 5, got 5");
    assert_eq!(Grads::new(&net).unwrap().len(), 1);
}

/// y = f(x), with a derivative that is claimed.
#[derive(Clone)]
struct Claim<T> {
    f: fn(T) -> T,
    df: fn(T) -> T,
}

impl<T: Scalar> NamedTensors<T> for Claim<T> {}

impl<T: Scalar> Layer<T> for Claim<T> {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        Ok(y.map_from(x, self.f)?)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        dx.map_or(Ok(()), |dx| Ok(dx.zip_from(at.x, dy, |x, dy| dy * (self.df)(x))?))
    }
}

#[test]
fn what_is_not_finite_is_an_error_that_names_it() {
    // In y itself, and in a difference: √(x − h) is NaN.
    let mut layer = Claim::<f64> { f: f64::ln, df: |_| 12345.0 };
    let x = Tensor::from([[1.0, 2.0], [-1.0, 1.0]]);
    let error = Gradcheck::new(1).run(&mut layer, &x).unwrap_err();
    assert_eq!(error.to_string(), "gradcheck: expected finite numbers, got NaN in output[1, 0]");
    let mut layer = Claim::<f64> { f: f64::sqrt, df: |x| 0.5 / x.sqrt() };
    let x = Tensor::from([1.0, 1e-6]);
    let error = Gradcheck::new(1).run(&mut layer, &x).unwrap_err();
    let message =
        "gradcheck: expected finite numbers, got NaN in output[1] where input[1] is moved by a step of `h`";
    assert_eq!(error.to_string(), message);
    let smaller = Gradcheck { h: 1e-9, ..Gradcheck::new(1) };
    assert!(smaller.run(&mut layer, &x).is_ok());
    // An infinite output that stays the same proves nothing either; nor does an infinite input.
    let mut constant = Claim::<f64> { f: |_| f64::INFINITY, df: |_| 0.0 };
    assert!(matches!(gradcheck(&mut constant, [2, 2], 1), Err(GradcheckError::NotFinite { .. })));
    let mut step = Claim::<f64> { f: |_| 1.0, df: |_| 0.0 };
    let error = Gradcheck::new(1).run(&mut step, &Tensor::from([1.0, f64::INFINITY])).unwrap_err();
    assert_eq!(error.to_string(), "gradcheck: expected finite numbers, got inf in input[1]");
    // In single precision, too, where the first step is larger, and may go too far.
    let mut root = Claim::<f32> { f: f32::sqrt, df: |x| 0.5 / x.sqrt() };
    assert!(Gradcheck::new(1).run_f32(&mut root, &Tensor::from([1.0, 0.05])).is_ok());
    assert!(Gradcheck::new(1).run_f32(&mut root, &Tensor::from([1.0, 0.0])).is_err());
    let mut layer = Claim::<f32> { f: |x| if x > 0.0 { f32::INFINITY } else { x }, df: |_| 7.0 };
    let error = Gradcheck::new(1).run_f32(&mut layer, &Tensor::from([-1.0, 1.0])).unwrap_err();
    assert_eq!(error.to_string(), "gradcheck: expected finite numbers, got inf in output[1]");
}

#[test]
fn settings_that_no_wrong_rule_would_fail_are_refused() {
    let mut wrong = Claim::<f64> { f: |x| x * x, df: |x| x };
    let mut in_f32 = Claim::<f32> { f: |x| x * x, df: |x| x };
    let (x, x32) = (Tensor::full([2, 2], 1.0).unwrap(), Tensor::full([2, 2], 1.0).unwrap());
    let good = Gradcheck::new(1);
    for (option, check) in [
        ("h", [0.0, -1e-5, f64::NAN, f64::INFINITY, 1e-300, 0.9e-9, 1.1e-2].map(|h| Gradcheck { h, ..good })),
        (
            "absolute",
            [0.0, -1e-8, f64::NAN, f64::INFINITY, 1.1e-3, 1.0, f64::NEG_INFINITY]
                .map(|absolute| Gradcheck { absolute, ..good }),
        ),
        (
            "relative",
            [0.0, -1e-8, f64::NAN, f64::INFINITY, 1.1e-3, 1.0, f64::NEG_INFINITY]
                .map(|relative| Gradcheck { relative, ..good }),
        ),
        ("most", [Gradcheck { most: 0, ..good }; 7]),
    ] {
        for check in check {
            for result in [check.run(&mut wrong, &x), check.run_f32(&mut in_f32, &x32)] {
                let error = result.unwrap_err();
                let GradcheckError::Config(config) = &error else { panic!("{check:?}: {error}") };
                assert_eq!((&*config.what, &*config.option), ("Gradcheck", option), "{error}");
            }
        }
    }
    // The step's bounds grow with the moved input.
    let mut square = Claim::<f64> { f: |x| x * x, df: |x| x + x };
    let far = Tensor::from([1.0, 1e6]);
    assert!(matches!(good.run(&mut square, &far), Err(GradcheckError::Config(_))));
    assert!(Gradcheck { h: 1e-3, ..good }.run(&mut square, &far).is_ok());
    assert!(Gradcheck { h: 0.5, ..good }.run(&mut square, &Tensor::from([60.0, -70.0])).is_ok());
}

#[test]
fn a_check_that_compares_nothing_is_an_error() {
    let nothing = |result| matches!(result, Err(GradcheckError::Nothing(_)));
    let mut layer = Claim::<f64> { f: |x| x * x, df: |_| 99.0 };
    assert!(nothing(gradcheck(&mut layer, [0, 4], 1)));
    let without = Gradcheck { input: false, ..Gradcheck::new(1) };
    assert!(nothing(without.run(&mut layer, &Tensor::full([2, 2], 1.0).unwrap())));
    assert!(nothing(Gradcheck::new(1).run_many(&mut layer, &[&Tensor::from([1.0])], &[false])));
    // There are parameters, but no output that depends on them.
    let mut layer = Linear::<f64>::new(4, 3, &mut random::rng(1)).unwrap();
    assert!(nothing(gradcheck(&mut layer, [0, 4], 1)));
    let mut layer = Linear::<f32>::new(4, 3, &mut random::rng(1)).unwrap();
    assert!(nothing(Gradcheck::new(1).run_f32(&mut layer, &Tensor::zeros([0, 4]).unwrap())));
}

/// A layer that exists in single precision alone: y = x + x⁵ / 10, by the bits of floats.
#[derive(Clone)]
struct OnlyF32 {
    factor: f32,
}

impl NamedTensors<f32> for OnlyF32 {}

impl Layer<f32> for OnlyF32 {
    fn forward(
        &self,
        x: &Tensor<f32>,
        y: &mut Tensor<f32>,
        _: &mut Cache<f32>,
        _: Mode,
    ) -> Result<(), LayerError> {
        Ok(y.map_from(x, |x| f32::from_bits(x.to_bits()) + x.powi(5) / 10.0)?)
    }

    fn backward(
        &self,
        at: At<'_, f32>,
        dy: &Tensor<f32>,
        dx: Option<&mut Tensor<f32>>,
        _: &mut [Grad<f32>],
    ) -> Result<(), LayerError> {
        dx.map_or(Ok(()), |dx| Ok(dx.zip_from(at.x, dy, |x, dy| dy * self.factor * (1.0 + 0.5 * x.powi(4)))?))
    }
}

#[test]
fn a_layer_for_f32_alone_is_checked() {
    for seed in 0..20 {
        let x = Tensor::normal([3, 7], 0.0, 1.0, &mut random::rng(seed)).unwrap();
        let check = |factor| Gradcheck::new(seed).run_f32(&mut OnlyF32 { factor }, &x);
        let report = check(1.0).unwrap();
        assert_eq!((report.elements, report.wrong, report.kinks, report.hidden), (21, 0, 0, 0));
        for factor in [0.99, 1.01, 2.0, -1.0, 0.0] {
            let error = check(factor).unwrap_err();
            let GradcheckError::Mismatch(report) = &error else { panic!("{factor}: {error}") };
            assert!(report.wrong > 0, "{factor}: {error}");
        }
    }
}

/// A step so small that rounding hides the slope decides nothing, whatever the rule says.
#[test]
fn rounding_that_hides_the_slopes_is_no_success() {
    let x = Tensor::normal([3, 7], 0.0, 1.0, &mut random::rng(1)).unwrap();
    for factor in [1.0, 1.001] {
        let check = Gradcheck { h: 3e-9, ..Gradcheck::new(1) };
        let error = check.run_f32(&mut OnlyF32 { factor }, &x).unwrap_err();
        let GradcheckError::Mismatch(report) = &error else { panic!("{error}") };
        assert!(report.wrong == 0 && report.hidden > 4, "{error}");
    }
}

/// Beside a large constant, outputs in f32 tell little of x, or nothing: that is no slope of 0.
#[test]
fn a_large_constant_is_no_success() {
    let formulas: [fn(f32) -> f32; 3] = [|x| 3e5 + x, |x| 1e6 + x, |x| 1e7 + x];
    let rules: [fn(f32) -> f32; 3] = [|_| 2.0, |_| -1.0, |_| 5.0];
    for f in formulas {
        for df in rules {
            for seed in 0..5 {
                let error = Gradcheck::new(seed).run_f32(
                    &mut Claim { f, df },
                    &Tensor::normal([6, 7], 0.0, 1.0, &mut random::rng(seed)).unwrap(),
                );
                assert!(error.is_err(), "{} {}: {}", f(0.0), df(0.0), error.unwrap());
            }
        }
    }
}

/// An output that is 0 has moved from there: that is no sign that nothing moves.
#[test]
fn outputs_of_0_hide_no_rule_in_f32() {
    type Function = fn(f32) -> f32;
    let rectified: Function = |x| x.max(0.0);
    let shrunk: Function = |x| x.signum() * (x.abs() - 0.5).max(0.0);
    let wrong: [(Function, Function); 3] = [
        (rectified, |x| if x > 0.0 { 1.0 } else { f32::from(x > -0.2) * 1000.0 }),
        (rectified, |x| if x > 0.0 { 1.0 } else { -f32::from(x > -0.15) }),
        (shrunk, |x| if x.abs() > 0.5 { 1.0 } else { f32::from(x.abs() > 0.35) * 9.0 }),
    ];
    for (i, (f, df)) in wrong.into_iter().enumerate() {
        for seed in 0..5 {
            let x = Tensor::normal([20, 20], 0.0, 1.0, &mut random::rng(seed)).unwrap();
            match Gradcheck::new(seed).run_f32(&mut Claim { f, df }, &x) {
                Err(GradcheckError::Mismatch(report)) => assert!(report.wrong > 9, "{i}, {seed}: {report}"),
                result => panic!("{i}, {seed}: {result:?}"),
            }
        }
    }
    let rng = &mut random::rng(1);
    let near_0 = Tensor::uniform([10, 10], -0.18, 0.05, rng).unwrap();
    let rows = Tensor::normal([4, 3], 0.0, 1.0, rng).unwrap();
    let right: [(&mut dyn Layer<f32>, Tensor); 4] = [
        (&mut Relu, near_0),
        (&mut Linear::zeros(3, 2).unwrap(), rows),
        (&mut Linear::new(0, 3, rng).unwrap(), Tensor::zeros([4, 0]).unwrap()),
        (&mut Claim { f: |x: f32| 3.0 * x, df: |_| 3.0 }, Tensor::zeros([4, 4]).unwrap()),
    ];
    for (layer, x) in right {
        Gradcheck::new(1).run_f32(layer, &x).unwrap();
    }
}

/// Within most steps, rectifiers have kinks: the right rule is not called wrong for that, at any seed.
#[test]
fn many_kinks_are_not_taken_for_faults_in_f32() {
    let mut kinks = 0;
    for seed in 0..40 {
        let rng = &mut random::rng(seed);
        let mut net: Sequential = Sequential::builder()
            .layer("1", Linear::new(5, 32, rng).unwrap())
            .layer("2", Relu)
            .layer("3", Linear::new(32, 32, rng).unwrap())
            .layer("4", Relu)
            .layer("5", Linear::new(32, 2, rng).unwrap())
            .build()
            .unwrap();
        let x = Tensor::normal([7, 5], 0.0, 1.0, rng).unwrap();
        match (Gradcheck { most: 60, ..Gradcheck::new(seed) }).run_f32(&mut net, &x) {
            Ok(report) => kinks += report.kinks,
            Err(error) => panic!("{seed}: {error}"),
        }
    }
    assert!(kinks > 0);
}

/// With a large step a curved function looks as if it had a kink, and a rule that is wrong there passed.
#[test]
fn a_curve_is_no_kink() {
    let mut layer =
        Claim::<f64> { f: |x| x * x * x, df: |x| if x > 1.4 { 3.0 * x * x + 0.02 } else { 3.0 * x * x } };
    let check = Gradcheck { h: 1e-2, absolute: 1e-3, relative: 1e-3, ..Gradcheck::new(1) };
    let x = Tensor::from_fn([1, 15], |i| i[1] as f64 / 10.0 + 0.05).unwrap();
    let error = check.run(&mut layer, &x).unwrap_err();
    assert!(error.to_string().starts_with("1 of 15 derivatives wrong, 0 undecided at kinks"), "{error}");
}

/// A kink beside the point is passed by smaller steps, and one at the point decides nothing about that
/// tensor.
#[test]
fn kinks_are_told_by_tensor() {
    let x = Tensor::from([[1.0, 4e-6, -3e-6, 2.0]]);
    let report = Gradcheck::new(1).run(&mut Relu, &x).unwrap();
    assert_eq!((report.kinks, report.wrong), (0, 0));
    // Of two inputs, one has an element at the kink, and no other.
    let (a, b) = (Tensor::full([3, 5], 1.0).unwrap(), Tensor::zeros([1]).unwrap());
    let error = Gradcheck::new(1).run_many(&mut Both, &[&a, &b], &[true, true]).unwrap_err();
    assert!(
        error.to_string().ends_with("right: input 0: 15 of 15, input 1: 0 of 1 and 1 undecided"),
        "{error}"
    );
}

/// y₀ = max(x₀, 0), y₁ = max(x₁, 0)
#[derive(Clone)]
struct Both;

impl NamedTensors<f64> for Both {}

impl Layer<f64> for Both {
    through_many!(f64);

    fn inputs(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn outputs(&self) -> usize {
        2
    }

    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        y.copy_from_slice(x);
        Ok(())
    }

    fn forward_many(
        &self,
        x: &[&Tensor<f64>],
        y: &mut [Tensor<f64>],
        _: &mut Cache<f64>,
        _: Mode,
    ) -> Result<(), LayerError> {
        y.iter_mut().zip(x).try_for_each(|(y, x)| Ok(y.map_from(x, |x| x.max(0.0))?))
    }

    fn backward_many(
        &self,
        at: AtMany<'_, f64>,
        dy: &[Option<&Tensor<f64>>],
        dx: &mut [Option<&mut Tensor<f64>>],
        _: &mut [Grad<f64>],
    ) -> Result<(), LayerError> {
        for ((x, dy), dx) in at.x.iter().zip(dy).zip(dx) {
            if let (Some(dy), Some(dx)) = (dy, dx) {
                dx.zip_from(x, dy, |x, dy| if x > 0.0 { dy } else { 0.0 })?;
            }
        }
        Ok(())
    }
}

/// The fault of a layer of the catalogue, in its rule for one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plant {
    Nothing,
    Factor(f64),
    /// In the first column, a tenth is missing.
    Column,
    NeverWritten,
    /// A parameter's gradient is overwritten, ∂l/∂x stays as first computed.
    Stale,
}

/// A layer whose rule for tensor `at` (the inputs first) is wrong.
#[derive(Clone)]
struct Planted<T: Scalar> {
    layer: Box<dyn Layer<T>>,
    at: usize,
    plant: Plant,
    first: Arc<Mutex<Option<Tensor<T>>>>,
    /// Whether that changes anything which is above rounding.
    shows: Arc<AtomicBool>,
}

impl<T: Scalar> Planted<T> {
    /// The rule's result instead of `right`.
    fn instead(&self, right: &Tensor<T>) -> Tensor<T> {
        let mut planted = right.clone();
        let columns = right.shape().last().copied().unwrap_or(1);
        match self.plant {
            Plant::Factor(factor) => planted.scale(T::from_f64(factor)),
            Plant::Column => {
                planted.as_mut_slice().iter_mut().step_by(columns).for_each(|x| *x *= T::from_f64(0.9));
            }
            Plant::NeverWritten => planted.fill(T::ZERO),
            Plant::Stale | Plant::Nothing => {}
        }
        let pairs = || right.as_slice().iter().map(|x| x.to_f64()).zip(planted.as_slice());
        let size = (pairs().map(|(x, _)| x * x).sum::<f64>() / right.len() as f64).sqrt();
        let change = pairs().map(|(x, planted)| (x - planted.to_f64()).abs()).fold(0.0, f64::max);
        let shows = size > 1e-3 && (change > 8e-3 * size || self.plant == Plant::Stale);
        self.shows.fetch_or(shows, Ordering::Relaxed);
        planted
    }
}

impl<T: Scalar> NamedTensors<T> for Planted<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        self.layer.visit(path, visitor);
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        self.layer.visit_mut(path, visitor);
    }
}

impl<T: Scalar> Layer<T> for Planted<T> {
    through_many!(T);

    fn inputs(&self) -> RangeInclusive<usize> {
        self.layer.inputs()
    }

    fn outputs(&self) -> usize {
        self.layer.outputs()
    }

    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        self.layer.output_shapes(x, y)
    }

    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        self.layer.forward_many(x, y, cache, mode)
    }

    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let inputs = at.x.len();
        let k = self.at.checked_sub(inputs);
        let before = k.map(|k| grads[k].clone());
        if let Some(k) = k {
            grads[k].clear();
        }
        self.layer.backward_many(at, dy, dx, grads)?;
        match (k, before) {
            (Some(k), Some(before)) => {
                let planted = self.instead(&grads[k].to_tensor()?);
                let own = std::mem::replace(&mut grads[k], before);
                match self.plant {
                    Plant::NeverWritten => {}
                    Plant::Stale => grads[k] = own,
                    _ => grads[k].add_to(|dw| dw.add(&planted))?,
                }
            }
            _ => {
                let Some(dx) = &mut dx[self.at] else { return Ok(()) };
                let mut planted = self.instead(dx);
                if self.plant == Plant::Stale {
                    planted = self.first.lock().unwrap().get_or_insert(planted).clone();
                }
                dx.copy_from(&planted)?;
            }
        }
        Ok(())
    }
}

trait Check: Scalar {
    fn check(
        check: Gradcheck,
        layer: &mut dyn Layer<Self>,
        x: &[&Tensor<Self>],
        differentiable: &[bool],
    ) -> Result<GradcheckReport, GradcheckError>;
}

impl Check for f32 {
    fn check(
        check: Gradcheck,
        layer: &mut dyn Layer<f32>,
        x: &[&Tensor<f32>],
        differentiable: &[bool],
    ) -> Result<GradcheckReport, GradcheckError> {
        check.run_many_f32(layer, x, differentiable)
    }
}

impl Check for f64 {
    fn check(
        check: Gradcheck,
        layer: &mut dyn Layer<f64>,
        x: &[&Tensor<f64>],
        differentiable: &[bool],
    ) -> Result<GradcheckReport, GradcheckError> {
        check.run_many(layer, x, differentiable)
    }
}

fn elements<T: Scalar>(layer: &dyn Layer<T>) -> usize {
    let mut count = 0;
    layer.visit(Path::ROOT, &mut |_, _, tensor| count += tensor.len());
    count
}

/// Every layer of the catalogue, with each fault in the rule of each of its tensors.
fn every_fault_of_every_layer<T: Check>() {
    let plants = [0.99, 1.01, 2.0, -1.0].map(Plant::Factor);
    let plants = plants.into_iter().chain([Plant::Nothing, Plant::Column, Plant::NeverWritten, Plant::Stale]);
    let (mut planted, mut decided) = (0, 0);
    for plant in plants {
        for Entry { kind, samples, .. } in table::<T>() {
            for sample in samples() {
                let x = sample.tensors(1).unwrap();
                if sample.bench || x.iter().any(|x| x.len() > 60) || elements(&*sample.layer) > 150 {
                    continue;
                }
                let mut roles: Vec<_> = sample.inputs.iter().map(Input::is_differentiable).collect();
                let differentiable = roles.clone();
                sample.layer.visit(Path::ROOT, &mut |_, role, _| roles.push(role == Role::Parameter));
                for at in (0..roles.len()).filter(|&at| roles[at]) {
                    let (first, shows) = (Arc::default(), Arc::default());
                    let mut layer = Planted { layer: sample.layer.clone(), at, plant, first, shows };
                    let inputs: Vec<_> = x.iter().collect();
                    for mode in [Mode::train_with(Key::new(1)), Mode::Eval] {
                        *layer.first.lock().unwrap() = None;
                        layer.shows = Arc::default();
                        let check = Gradcheck { mode, ..Gradcheck::new(1) };
                        let result = T::check(check, &mut layer, &inputs, &differentiable);
                        let name = format!("{kind} `{}` {mode:?}, {plant:?} in {at}", sample.name);
                        if plant == Plant::Nothing {
                            let right = match &result {
                                Err(GradcheckError::Mismatch(report)) => report.wrong == 0,
                                result => result.is_ok(),
                            };
                            assert!(right, "{name}: {result:?}");
                        } else if layer.shows.load(Ordering::Relaxed) {
                            planted += 1;
                            match result {
                                Err(GradcheckError::Mismatch(report)) if report.wrong > 0 => {
                                    let wrong =
                                        |tensor: &Counted| tensor.right + tensor.undecided < tensor.of;
                                    let tensors =
                                        report.tensors.iter().filter(|&tensor| wrong(tensor)).count();
                                    assert_eq!(tensors, 1, "{name}: {report}");
                                    decided += 1;
                                }
                                Err(GradcheckError::Mismatch(_)) => {}
                                result => panic!("{name}: {result:?}"),
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(planted > 1000 && decided * 100 > planted * 99, "{decided} of {planted}");
}

#[test]
fn every_fault_of_every_layer_is_found_in_f64() {
    every_fault_of_every_layer::<f64>();
}

#[test]
fn every_fault_of_every_layer_is_found_in_f32() {
    every_fault_of_every_layer::<f32>();
}

/// The rule's fault with its buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BufferFault {
    None,
    /// It is forgotten.
    Never,
    /// No increment is counted.
    Uncounted,
    /// Two are counted for each pass.
    Twice,
    /// One where it adds nothing else.
    Alternately,
    /// Evaluation moves it, too.
    Evaluation,
    /// The same without being counted.
    UncountedEvaluation,
    /// The second pass overwrites the first one's increment.
    Overwrites,
    /// NaN that was there before counts.
    Stale,
    /// Nothing is done where nobody wants ∂l/∂x.
    OnlyWithDx,
    /// Evaluation moves it where somebody wants ∂l/∂x.
    EvaluationWithDx,
}

/// y = 2 x, and the buffer moves towards the mean of x.
#[derive(Clone)]
struct Watching<T: Scalar> {
    mean: Tensor<T>,
    fault: BufferFault,
    passes: Arc<Mutex<usize>>,
}

named_tensors!(Watching {} buffers { mean });

impl<T: Scalar> Watching<T> {
    fn new(fault: BufferFault) -> Self {
        Self { mean: Tensor::full([1], T::from_f64(3.0)).unwrap(), fault, passes: Arc::default() }
    }
}

impl<T: Scalar> Layer<T> for Watching<T> {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        y.copy_from(x)?;
        y.scale(T::from_f64(2.0));
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        use BufferFault::{
            Alternately, Evaluation, EvaluationWithDx, Never, OnlyWithDx, Overwrites, Stale, Twice,
            Uncounted, UncountedEvaluation,
        };
        let mean = at.x.sum() / T::from_f64(at.x.len() as f64);
        let delta = Tensor::full([1], T::from_f64(0.1) * (mean - self.mean.as_slice()[0]))?;
        let mut passes = self.passes.lock().unwrap();
        *passes += 1;
        let buffer = &mut grads[0];
        match (self.fault, at.mode.is_train()) {
            (Never, _) => {}
            (Uncounted, true) | (UncountedEvaluation, false) => buffer.add_to(|sum| sum.add(&delta))?,
            (Alternately, true) if passes.is_multiple_of(2) => {}
            (OnlyWithDx, true) if dx.is_none() => {}
            (EvaluationWithDx, false) if dx.is_some() => buffer.increment(|sum| sum.add(&delta))?,
            (Twice, true) => buffer.increment_by(2, |sum| sum.add(&delta))?,
            (Overwrites, true) => {
                let count = buffer.count();
                buffer.clear();
                buffer.increment_by(count + 1, |sum| sum.add(&delta))?;
            }
            (Stale, true) => {
                buffer.accumulate(|_, sum| sum.add(&delta))?;
                buffer.increment(|_| Ok::<_, LayerError>(()))?;
            }
            (Evaluation, _) | (_, true) => buffer.increment(|sum| sum.add(&delta))?,
            (_, false) => {}
        }
        if let Some(dx) = dx {
            dx.copy_from(dy)?;
            dx.scale(T::from_f64(2.0));
        }
        Ok(())
    }
}

/// Alone and in a container, in both modes, in f64 and in f32.
#[test]
fn what_a_rule_does_to_a_buffer_is_checked() {
    use BufferFault::*;
    fn check(fault: BufferFault, mode: Mode) -> [Result<(), GradcheckError>; 3] {
        let settings = Gradcheck { mode, ..Gradcheck::new(5) };
        let x = Tensor::<f64>::normal([4, 3], 1.0, 1.0, &mut random::rng(1)).unwrap();
        let inner = Sequential::<f64>::builder().layer("watching", Watching::new(fault)).build().unwrap();
        [
            settings.run(&mut Watching::new(fault), &x).map(drop),
            settings.run_f32(&mut Watching::new(fault), &x.cast().unwrap()).map(drop),
            settings.run(&mut Sequential::builder().layer("net", inner).build().unwrap(), &x).map(drop),
        ]
    }
    let each = "an increment in each backward pass of training, got";
    for (fault, expected) in [
        (None, ""),
        (Never, each),
        (Uncounted, each),
        (Twice, "one increment in each backward pass, got 2 in 1"),
        (Alternately, "increment"),
        (Evaluation, "no increment in `Mode::Eval`, got "),
        (UncountedEvaluation, "no increment in `Mode::Eval`, got one that is not counted"),
        (Overwrites, "twice the increment after two passes: it must add, got "),
        (Stale, "NaN"),
        (OnlyWithDx, "increment"),
        (EvaluationWithDx, "no increment in `Mode::Eval`, got 1"),
    ] {
        for (i, result) in check(fault, Mode::train()).into_iter().enumerate() {
            let path = if i == 2 { "net.watching.mean" } else { "mean" };
            match result {
                // That a container has run it twice can't be told from the outside.
                Ok(()) => assert!(fault == None || fault == Twice && i == 2, "{fault:?} {i}"),
                Err(GradcheckError::Buffer { path: got, .. }) if got != path => panic!("{fault:?}: {got}"),
                Err(GradcheckError::NotFinite { tensor, .. }) if fault == Stale => assert_eq!(tensor, path),
                Err(error) => {
                    assert!(error.to_string().contains(expected) && fault != None, "{fault:?}: {error}")
                }
            }
        }
        // In evaluation its own passes show it.
        let finds = matches!(fault, Evaluation | UncountedEvaluation | EvaluationWithDx);
        for result in check(fault, Mode::Eval) {
            assert_eq!(matches!(result, Err(GradcheckError::Buffer { .. })), finds, "{fault:?}: {result:?}");
        }
    }
}

/// A graph may run a layer twice, and a frozen one has no buffers.
#[test]
fn buffers_within_containers_are_right() {
    let mut g = Graph::<f64>::builder();
    let [x] = g.inputs(["x"]);
    let once = g.layer("norm", BatchNorm::new(3).unwrap(), [x]);
    let twice = g.again(once, [once]);
    let mut net = g.build([twice]).unwrap();
    gradcheck(&mut net, [5, 3], 1).unwrap();
    gradcheck(&mut Frozen::new(Watching::<f64>::new(BufferFault::Evaluation)), [5, 3], 1).unwrap();
}
