//! The derivative check finds what it is for: rules that are wrong on purpose, each in one way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::{
    At, Cache, Gradcheck, GradcheckError, Grads, Layer, LayerError, Linear, Mode, Relu, gradcheck,
};
use backrule_tensor::{
    Grad, Scalar, Shape, Tensor, matmul_into, matmul_nt_into, matmul_tn_into, named_tensors, random,
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
    WrongShape,
}

/// y = x W + x, with W square: a dense layer with a way past it.
#[derive(Clone)]
struct Faulty<T> {
    w: Tensor<T>,
    b: Tensor<T>,
    fault: Fault,
}

named_tensors!(Faulty { w, b });

impl Layer<f64> for Faulty<f64> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        match self.fault {
            Fault::WrongShape => Ok(input.with_columns(1)?),
            _ => Ok(input),
        }
    }

    fn forward(
        &self,
        x: &Tensor<f64>,
        y: &mut Tensor<f64>,
        _: &mut Cache<f64>,
        _: Mode,
    ) -> Result<(), LayerError> {
        y.copy_from(x)?;
        matmul_into(x, &self.w, 1.0, y)?;
        y.add_to_rows(&self.b)?;
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, f64>,
        dy: &Tensor<f64>,
        dx: Option<&mut Tensor<f64>>,
        grads: &mut [Grad<f64>],
    ) -> Result<(), LayerError> {
        let [dw, db] = grads else { return Err(LayerError::value("faulty", "two gradients", grads.len())) };
        let batch = at.x.shape().rows() as f64;
        let mut step = Tensor::zeros(dw.shape())?;
        match self.fault {
            Fault::Transposed => matmul_tn_into(dy, at.x, 0.0, &mut step)?,
            _ => matmul_tn_into(at.x, dy, 0.0, &mut step)?,
        }
        match self.fault {
            Fault::WrongSign => step.scale(-1.0),
            Fault::ScaledByTheBatch => step.scale(1.0 / batch),
            Fault::OverwritesGradients => dw.clear(),
            // β left out: what has been cleared still counts.
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
            match self.fault {
                Fault::MissingTerm => dx.map_from(dy, |_| 0.0)?, // dy itself, of the way past
                _ => dx.copy_from(dy)?,
            }
            matmul_nt_into(dy, &self.w, 1.0, dx)?;
            match self.fault {
                Fault::AddsToInputGradient => dx.add(&old)?,
                Fault::NanInOneElement => dx.as_mut_slice()[2] = f64::NAN,
                _ => {}
            }
        }
        Ok(())
    }
}

fn check(fault: Fault, batch: usize) -> Result<(), GradcheckError> {
    let mut rng = random::rng(1);
    let mut layer = Faulty {
        w: Tensor::normal([3, 3], 0.0, 1.0, &mut rng)?,
        b: Tensor::normal([3], 0.0, 1.0, &mut rng)?,
        fault,
    };
    gradcheck(&mut layer, [batch, 3], 5).map(|_| ())
}

#[test]
fn a_right_rule_passes() {
    check(Fault::None, 1).unwrap();
    check(Fault::None, 4).unwrap();
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
        let error = check(fault, 4).unwrap_err();
        let GradcheckError::Mismatch(report) = &error else { panic!("{fault:?}: {error}") };
        let worst = report.worst.as_ref().unwrap();
        assert_eq!((worst.path.as_str(), report.wrong), (path, wrong), "{fault:?}: {error}");
        assert_eq!(report.elements, 12 + 9 + 3);
    }
    assert!(matches!(check(Fault::WrongShape, 4), Err(GradcheckError::Layer(_))));
}

#[test]
fn the_report_names_the_element_and_both_numbers() {
    let error = check(Fault::NanInOneElement, 1).unwrap_err().to_string();
    let begins = "1 of 15 derivatives wrong, 0 undecided at kinks; worst: ∂l/∂input[0, 2]: \
                  the rule says NaN, finite differences say ";
    assert!(error.starts_with(begins), "{error}");
}

#[test]
fn the_report_counts_by_tensor_and_tells_what_overwrites() {
    let error = check(Fault::BiasOfOneSample, 4).unwrap_err().to_string();
    assert!(error.contains("b: 0 of 3") && error.contains("w: 9 of 9"), "{error}");
    assert!(!error.contains("must add"), "{error}");
    let error = check(Fault::OverwritesGradients, 4).unwrap_err().to_string();
    assert!(error.contains("(right once, wrong when run twice: it must add)"), "{error}");
}

/// y = ln x, whose derivative at a negative x is NaN; and y = ∞ where x > 0.
#[derive(Clone)]
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
