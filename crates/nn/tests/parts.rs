//! A tape that splits the batch: its differences from one that doesn't, and its errors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::{At, Cache, Dropout, Grads, Key, Layer, LayerError, Linear, Mode, Sequential, Tape};
use backrule_tensor::{Grad, NamedTensors, Scalar, Shape, Tensor, named_tensors, random};

const TRAIN: Mode = Mode::train_with(Key::new(3));

fn net() -> Sequential<f64> {
    let mut rng = random::rng(1);
    Sequential::builder()
        .layer("fc1", Linear::new(5, 8, &mut rng).unwrap())
        .layer("drop", Dropout::new(0.5).unwrap())
        .layer("fc2", Linear::new(8, 3, &mut rng).unwrap())
        .build()
        .unwrap()
}

fn normal(shape: [usize; 2], seed: u64) -> Tensor<f64> {
    Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).unwrap()
}

/// With dropout on: the parts are passes of their own with the keys of children, and their gradients add up.
#[test]
fn a_part_is_a_pass_with_its_own_key() {
    let net = net();
    let (x, dy) = (normal([8, 5], 1), normal([8, 3], 2));
    let mut tape = Tape::new().parts(3).unwrap();
    let (mut grads, mut dx) = (Grads::new(&net).unwrap(), Tensor::default());
    grads[0] = Tensor::full(grads[0].shape(), 0.25).unwrap().into();
    let pass = tape.forward(&net, &x, TRAIN).unwrap();
    let y = pass.output().clone();
    pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();

    let mut own_grads = Vec::new();
    for (i, range) in [0..3, 3..6, 6..8].into_iter().enumerate() {
        let of = |whole: &Tensor<f64>| whole.slice(range.clone()).unwrap();
        let (mut tape, mut own, mut own_dx) = (Tape::new(), Grads::new(&net).unwrap(), Tensor::default());
        let own_x = of(&x);
        let pass = tape.forward(&net, &own_x, TRAIN.child(i)).unwrap();
        assert_eq!(pass.output(), &of(&y), "part {i}");
        pass.backward_to_input(&of(&dy), &mut own, &mut own_dx).unwrap();
        assert_eq!(own_dx, of(&dx), "part {i}");
        own_grads.push(own);
    }
    // A tree: (p₀ + p₁) + p₂, and that is added to the old gradients.
    let [mut expected, second, third] = <[_; 3]>::try_from(own_grads).unwrap();
    expected.add(&second).unwrap();
    expected.add(&third).unwrap();
    let mut start = Grads::new(&net).unwrap();
    start[0] = Tensor::full(start[0].shape(), 0.25).unwrap().into();
    start.add(&expected).unwrap();
    assert_eq!(grads, start);
}

/// The caller's and the parts' own, of which the first pass leaves numbers behind.
#[test]
fn gradients_that_are_used_up_count_for_nothing() {
    let net = net();
    let mut tape = Tape::new().parts(3).unwrap();
    let (mut zeros, mut used) = (Grads::new(&net).unwrap(), Grads::new(&net).unwrap());
    for seed in 1..4 {
        let (x, dy) = (normal([8, 5], seed), normal([8, 3], seed));
        zeros.iter_mut().for_each(|grad| *grad = Tensor::zeros(grad.shape()).unwrap().into());
        used.iter_mut().for_each(|grad| *grad = Tensor::full(grad.shape(), f64::NAN).unwrap().into());
        used.clear();
        tape.forward(&net, &x, TRAIN).unwrap().backward(&dy, &mut used).unwrap();
        Tape::new().parts(3).unwrap().forward(&net, &x, TRAIN).unwrap().backward(&dy, &mut zeros).unwrap();
        assert_eq!(used.iter().collect::<Vec<_>>(), zeros.iter().collect::<Vec<_>>());
    }
}

/// y = x, with a parameter that has nothing to do with it.
#[derive(Clone)]
struct Idle<T> {
    unused: Tensor<T>,
}

named_tensors!(Idle { unused });

impl<T: Scalar> Layer<T> for Idle<T> {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        y.copy_from(x)?;
        Ok(())
    }

    fn backward(
        &self,
        _: At<'_, T>,
        _: &Tensor<T>,
        _: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        Ok(())
    }
}

/// A rule that leaves a gradient alone leaves it zero, in parts, too.
#[test]
fn what_no_part_adds_to_stays_zero() {
    let layer = Idle { unused: Tensor::from([1.0_f64, 2.0]) };
    let mut grads = Grads::new(&layer).unwrap();
    for parts in [1, 2] {
        let x = normal([4, 2], 1);
        let mut tape = Tape::new().parts(parts).unwrap();
        tape.forward(&layer, &x, TRAIN).unwrap().backward(&x, &mut grads).unwrap();
        assert!(grads[0].is_zero());
    }
}

/// Whatever the batch was before, smaller than the parts or empty.
#[test]
fn any_batch_can_be_split() {
    let net = net();
    let mut tape = Tape::new().parts(4).unwrap();
    for batch in [9, 0, 3, 1, 4, 10, 2] {
        let (x, dy) = (normal([batch, 5], 1), normal([batch, 3], 2));
        let (mut split, mut whole) = (Grads::new(&net).unwrap(), Grads::new(&net).unwrap());
        let (mut dx, mut plain) = (Tensor::default(), Tape::new());
        let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
        let expected = plain.forward(&net, &x, Mode::Eval).unwrap();
        assert_eq!(pass.output(), expected.output(), "batch {batch}");
        pass.backward_to_input(&dy, &mut split, &mut dx).unwrap();
        expected.backward(&dy, &mut whole).unwrap();
        assert_eq!(dx.shape(), [batch, 5]);
        for (split, whole) in split.iter().zip(whole.iter()) {
            backrule_testkit::assert_close(
                "gradients",
                &split.to_tensor().unwrap(),
                &whole.to_tensor().unwrap(),
                1e-13,
            );
        }
    }
}

/// One tape after another network has used it, larger and smaller ones.
#[test]
fn a_split_tape_serves_any_network() {
    let mut tape = Tape::<f64>::new().parts(2).unwrap();
    for (inputs, outputs) in [(3, 2), (7, 5), (2, 1)] {
        let layer = Linear::new(inputs, outputs, &mut random::rng(1)).unwrap();
        let (x, dy) = (normal([6, inputs], 1), normal([6, outputs], 2));
        for tape in [&mut tape, &mut Tape::new().parts(2).unwrap()] {
            let mut grads = Grads::new(&layer).unwrap();
            tape.forward(&layer, &x, TRAIN).unwrap().backward(&dy, &mut grads).unwrap();
            let mut whole = Grads::new(&layer).unwrap();
            Tape::new().forward(&layer, &x, TRAIN).unwrap().backward(&dy, &mut whole).unwrap();
            for (split, whole) in grads.iter().zip(whole.iter()) {
                backrule_testkit::assert_close(
                    "gradients",
                    &split.to_tensor().unwrap(),
                    &whole.to_tensor().unwrap(),
                    1e-13,
                );
            }
        }
    }
}

#[test]
fn errors_come_from_the_first_part_and_change_no_gradient() {
    let error = Tape::<f32>::new().parts(0).unwrap_err();
    assert_eq!(error.to_string(), "Tape: parts: expected 1 to 65536, got 0");

    let net = net();
    let mut tape = Tape::new().parts(2).unwrap();
    let x = normal([5, 6], 1);
    let error = tape.forward(&net, &x, TRAIN).err().unwrap();
    assert_eq!(error.to_string(), "fc1: linear forward: expected [.., 5], got [3, 6]");

    let x = normal([5, 5], 1);
    let mut grads = Grads::new(&net).unwrap();
    let pass = tape.forward(&net, &x, TRAIN).unwrap();
    let error = pass.backward(&normal([4, 3], 1), &mut grads).unwrap_err();
    assert_eq!(error.to_string(), "backward: ∂l/∂y: expected [5, 3], got [4, 3]");
    assert_eq!(grads, Grads::new(&net).unwrap());
}

/// y = x, but row 7 of the data (its first feature says which it is) is refused by backward, and dx isn't
/// written where it is 100; a row is missing where the first feature is negative, and all axes where it is
/// −2.
#[derive(Clone)]
struct Moody;

impl<T: Scalar> NamedTensors<T> for Moody {}

impl<T: Scalar> Layer<T> for Moody {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        let first = x.as_slice().first().map_or(0.0, |x| x.to_f64());
        if first >= 0.0 {
            y.copy_from(x)?;
        } else {
            let [rows, columns] = [x.shape().rows(), x.shape().columns()];
            y.resize(if first < -1.0 { Shape::SCALAR } else { Shape::new(&[rows - 1, columns])? })?;
        }
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let holds = |first: f64| at.x.rows().any(|row| row[0].to_f64() == first);
        match dx {
            _ if holds(7.0) => Err(LayerError::value("backward", "another row", at.x.shape())),
            Some(dx) if !holds(100.0) => Ok(dx.copy_from(dy)?),
            _ => Ok(()),
        }
    }
}

#[test]
fn an_error_in_one_part_only_is_an_error() {
    let mut net = Sequential::<f64>::builder().layer("moody", Moody);
    net = net.layer("fc", Linear::new(2, 2, &mut random::rng(1)).unwrap());
    let net = net.build().unwrap();
    let mut tape = Tape::new().parts(3).unwrap();
    let mut x = Tensor::from_fn([9, 2], |at| at[0] as f64).unwrap();
    let (mut grads, dy) = (Grads::new(&net).unwrap(), normal([9, 2], 2));
    let mut dx = Tensor::default();
    for _ in 0..2 {
        let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
        let error = pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap_err();
        assert_eq!(error.to_string(), "moody: backward: expected another row, got [3, 2]");
        assert_eq!(grads, Grads::new(&net).unwrap(), "the other parts' gradients have been added");
    }
    // Without that row it works, and nothing is left of the failed pass.
    x.row_mut(7).unwrap()[0] = 0.0;
    let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
    pass.backward(&dy, &mut grads).unwrap();
    let mut fresh = Grads::new(&net).unwrap();
    let mut other = Tape::new().parts(3).unwrap();
    other.forward(&net, &x, Mode::Eval).unwrap().backward(&dy, &mut fresh).unwrap();
    assert_eq!(grads, fresh);

    for (first, got) in [(-1.0, "[2, 2]"), (-2.0, "[]")] {
        x.row_mut(3).unwrap()[0] = first;
        let error = tape.forward(&Moody, &x, Mode::Eval).err().unwrap();
        let expected = "forward in parts: expected one output for each of 3 samples, got ";
        assert_eq!(error.to_string(), format!("{expected}{got}"));
    }
    // No dx was written by a layer that must write it.
    x = Tensor::full([9, 2], 100.0).unwrap();
    let pass = tape.forward(&Moody, &x, Mode::Eval).unwrap();
    assert!(pass.backward_to_input(&dy, &mut Grads::new(&Moody).unwrap(), &mut dx).is_err());
}

/// y = x; the statistic follows the batch's mean.
#[derive(Clone)]
struct Mean<T: Scalar> {
    running: Tensor<T>,
}

named_tensors!(Mean {} buffers { running });

impl<T: Scalar> Layer<T> for Mean<T> {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        y.copy_from(x)?;
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let mut mean = Tensor::zeros_like(&self.running)?;
        mean.add_sum_of_rows(at.x)?;
        mean.scale(T::ONE / T::from_f64(at.x.shape().rows() as f64));
        mean.zip_from(&mean.clone(), &self.running, |mean, running| mean - running)?;
        grads[0].increment(|delta| delta.add(&mean))?;
        if let Some(dx) = dx {
            dx.copy_from(dy)?;
        }
        Ok(())
    }
}

#[test]
fn a_statistic_moves_as_far_as_without_parts() {
    let layer = Mean { running: Tensor::from([1.0_f64, -1.0]) };
    let x = normal([7, 2], 1);
    let mut expected = Grads::new(&layer).unwrap();
    Tape::new().forward(&layer, &x, TRAIN).unwrap().backward(&x, &mut expected).unwrap();
    for parts in [2, 3, 9] {
        let (mut tape, mut grads) = (Tape::new().parts(parts).unwrap(), Grads::new(&layer).unwrap());
        tape.forward(&layer, &x, TRAIN).unwrap().backward(&x, &mut grads).unwrap();
        backrule_testkit::assert_close(
            "the running mean",
            &grads[0].to_tensor().unwrap(),
            &expected[0].to_tensor().unwrap(),
            1e-14,
        );
    }
}

/// A part that isn't there is no 0 that is added: −0 + 0 would be 0.
#[test]
fn an_absent_part_adds_nothing() {
    /// Its gradient is −0, and absent for an x of zeros.
    #[derive(Clone)]
    struct MinusZero<T: Scalar> {
        w: Tensor<T>,
    }

    named_tensors!(MinusZero { w });

    impl<T: Scalar> Layer<T> for MinusZero<T> {
        fn forward(
            &self,
            x: &Tensor<T>,
            y: &mut Tensor<T>,
            _: &mut Cache<T>,
            _: Mode,
        ) -> Result<(), LayerError> {
            Ok(y.copy_from(x)?)
        }

        fn backward(
            &self,
            at: At<'_, T>,
            dy: &Tensor<T>,
            dx: Option<&mut Tensor<T>>,
            grads: &mut [Grad<T>],
        ) -> Result<(), LayerError> {
            if at.x.as_slice().iter().any(|&x| x != T::ZERO) {
                grads[0].add_to(|dw| {
                    dw.as_mut_slice().iter_mut().for_each(|dw| *dw -= T::ZERO);
                    dw.scale(-T::ONE);
                    Ok::<_, LayerError>(())
                })?;
            }
            dx.map_or(Ok(()), |dx| Ok(dx.copy_from(dy)?))
        }
    }

    let net = MinusZero::<f64> { w: Tensor::zeros([2]).unwrap() };
    // Of a tree of four parts, the last one is absent with three. Others may have nothing to add, to the left
    // of a sum and to the right.
    for (parts, silent) in (1..=5).flat_map(|parts| (0..=parts).map(move |silent| (parts, silent))) {
        if (parts, silent) == (1, 0) {
            continue;
        }
        let (mut tape, mut grads) = (Tape::new().parts(parts).unwrap(), Grads::new(&net).unwrap());
        let mut x = Tensor::full([parts, 2], 1.0).unwrap();
        x.rows_mut().skip(silent).take(1).for_each(|row| row.fill(0.0));
        tape.forward(&net, &x, TRAIN).unwrap().backward(&x, &mut grads).unwrap();
        let dw = grads[0].to_tensor().unwrap();
        let minus_zero = dw.as_slice().iter().all(|dw| dw.to_bits() == (-0.0_f64).to_bits());
        assert!(minus_zero, "{parts} parts, without the one at {silent}: {dw}");
    }
}
