//! The frame carries parts not built yet: layers with running statistics, shared weights, several tapes at
//! once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::{
    At, Cache, Gradcheck, Grads, Key, Layer, LayerError, Linear, Mode, Relu, Sequential, Tape, gradcheck,
    predict,
};
use backrule_tensor::{Grad, NamedTensors, Scalar, Shape, Tensor, named_tensors, random};

/// y = x − mean, with the batch's mean in training and the running one in prediction: the part of a batch
/// norm that is not plain calculus.
#[derive(Clone)]
struct Center<T: Scalar> {
    running_mean: Tensor<T>,
    momentum: T,
}

named_tensors!(Center {} buffers { running_mean });

impl<T: Scalar> Layer<T> for Center<T> {
    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        let [mean] = cache.tensors();
        match mode {
            Mode::Train(_) => {
                mean.resize(self.running_mean.shape())?;
                mean.fill(T::ZERO);
                mean.add_sum_of_rows(x)?;
                mean.scale(T::ONE / T::from_f64(x.shape().rows() as f64));
            }
            Mode::Eval => mean.copy_from(&self.running_mean)?,
        }
        y.copy_from(x)?;
        for y in y.rows_mut() {
            y.iter_mut().zip(mean.as_slice()).for_each(|(y, &mean)| *y -= mean);
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
        if let Some(dx) = dx {
            dx.copy_from(dy)?;
            if let Mode::Train(_) = at.mode {
                let mut mean = Tensor::zeros_like(&self.running_mean).unwrap();
                mean.add_sum_of_rows(dy)?;
                mean.scale(T::ONE / T::from_f64(at.x.shape().rows() as f64));
                for dx in dx.rows_mut() {
                    dx.iter_mut().zip(mean.as_slice()).for_each(|(dx, &mean)| *dx -= mean);
                }
            }
        }
        // The increment of the running mean travels with the gradients; the optimizer's step adds it.
        if let Mode::Train(_) = at.mode {
            let [mean] = at.cache.tensors();
            let pairs = mean.as_slice().iter().zip(self.running_mean.as_slice());
            grads[0].increment(|delta| {
                for (delta, (&mean, &running)) in delta.as_mut_slice().iter_mut().zip(pairs) {
                    *delta += self.momentum * (mean - running);
                }
                Ok::<_, LayerError>(())
            })?;
        }
        Ok(())
    }
}

#[test]
fn running_statistics_travel_with_the_gradients() {
    let mut layer = Center { running_mean: Tensor::from([1.0, -1.0]), momentum: 0.25 };
    for mode in [Mode::train_with(Key::new(1)), Mode::Eval] {
        let check = Gradcheck { mode, ..Gradcheck::new(1) };
        let x = Tensor::normal([4, 2], 0.0, 1.0, &mut random::rng(2)).unwrap();
        assert_eq!(check.run(&mut layer, &x).unwrap().elements, 8); // a statistic has no derivative
    }
    let x = Tensor::from([[4.0, 0.0], [6.0, 2.0]]);
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
    let pass = tape.forward(&layer, &x, Mode::train_with(Key::new(1))).unwrap();
    assert_eq!(pass.output(), &Tensor::from([[-1.0, -1.0], [1.0, 1.0]]));
    pass.backward(&Tensor::from([[1.0, 0.0], [0.0, 0.0]]), &mut grads).unwrap();
    assert_eq!(grads[0], Tensor::from([1.0, 0.5])); // ¼ (5 − 1), ¼ (1 + 1)
    assert_eq!(predict(&layer, &x).unwrap(), Tensor::from([[3.0, 1.0], [5.0, 3.0]]));
}

/// One layer used twice in a row: its tensors are visited once, and both uses add to the same gradients.
#[derive(Clone)]
struct Twice<T: Scalar> {
    layer: Linear<T>,
}

named_tensors!(Twice { layer });

impl<T: Scalar> Layer<T> for Twice<T> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        self.layer.output_shape(self.layer.output_shape(input)?)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        let ([middle, _], [first, second]) = cache.arrays();
        self.layer.forward(x, middle, first, mode.child(0))?;
        self.layer.forward(middle, y, second, mode.child(1))
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let ([middle, dmiddle], [first, second]) = at.cache.arrays();
        let upper = At { x: &*middle, y: at.y, cache: second, mode: at.mode.child(1) };
        self.layer.backward(upper, dy, Some(dmiddle), grads)?;
        let lower = At { x: at.x, y: &*middle, cache: first, mode: at.mode.child(0) };
        self.layer.backward(lower, dmiddle, dx, grads)
    }
}

#[test]
fn shared_weights_are_a_container_that_uses_its_child_twice() {
    let layer = Linear::new(4, 4, &mut random::rng(1)).unwrap();
    let mut twice = Twice { layer };
    assert_eq!(gradcheck(&mut twice, [3, 4], 1).unwrap().elements, 12 + 16 + 4);
    assert_eq!(twice.tensor_count(), 2);
}

/// Data-parallel training: one network, a tape and gradients per worker, gradients added in a fixed order.
#[test]
fn workers_share_a_network() {
    let mut rng = random::rng(1);
    let net: Sequential<f64> = Sequential::builder()
        .layer("fc1", Linear::new(5, 8, &mut rng).unwrap())
        .layer("relu", Relu)
        .layer("fc2", Linear::new(8, 3, &mut rng).unwrap())
        .build()
        .unwrap();
    let x = Tensor::normal([12, 5], 0.0, 1.0, &mut rng).unwrap();
    let dy = Tensor::normal([12, 3], 0.0, 1.0, &mut rng).unwrap();
    let part = |range: std::ops::Range<usize>| {
        let (x, dy) = (x.slice(range.clone()).unwrap(), dy.slice(range).unwrap());
        let (mut tape, mut grads) = (Tape::new(), Grads::new(&net).unwrap());
        tape.forward(&net, &x, Mode::Eval).unwrap().backward(&dy, &mut grads).unwrap();
        grads
    };
    let parallel = std::thread::scope(|scope| {
        let workers = [0..6, 6..12].map(|range| scope.spawn(|| part(range)));
        let [mut a, b] = workers.map(|worker| worker.join().unwrap());
        a.add(&b).unwrap();
        a
    });
    let mut serial = part(0..6);
    serial.add(&part(6..12)).unwrap();
    assert_eq!(parallel, serial);
    for (parts, whole) in parallel.iter().zip(part(0..12).iter()) {
        backrule_testkit::assert_close("the whole batch", parts.get().unwrap(), whole.get().unwrap(), 1e-13);
    }
}
