//! A layer that runs as the epilogue of the one in front: the types say which can, so no layer can get it
//! wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::tensor::{Grad, NamedTensors, Scalar, Shape, Tensor, random};
use backrule_nn::testing::table;
use backrule_nn::{
    Architecture, At, Cache, Grads, Layer, LayerError, Linear, Mode, Of, Pointwise, Relu, Sequential, Tape,
    gradcheck,
};

/// y = x σ(x), with a rule that reads x: written by hand.
#[derive(Clone)]
struct Silu;

fn silu<T: Scalar>(x: T) -> T {
    x * x.sigmoid()
}

impl<T: Scalar> NamedTensors<T> for Silu {}
impl<T: Scalar> Layer<T> for Silu {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        Ok(y.map_from(x, silu)?)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let Some(dx) = dx else { return Ok(()) };
        Ok(dx.zip_from(at.x, dy, |x, dy| {
            let s = x.sigmoid();
            dy * (s + x * s * (T::ONE - s))
        })?)
    }
}

/// The same, element by element.
#[derive(Clone, Copy)]
struct PointwiseSilu;

impl<T: Scalar> NamedTensors<T> for PointwiseSilu {}
impl Pointwise for PointwiseSilu {
    const DF_OF: Of = Of::X;
    fn f<T: Scalar>(&self, x: T) -> T {
        silu(x)
    }
    fn df<T: Scalar>(&self, x: T) -> T {
        let s = x.sigmoid();
        s + x * s * (T::ONE - s)
    }
}

/// A rule that reads y, as a rectifier's does, under a name of ours.
mod own {
    use super::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Relu;

    impl<T: Scalar> NamedTensors<T> for Relu {}
    impl Pointwise for Relu {
        const DF_OF: Of = Of::Y;
        fn f<T: Scalar>(&self, x: T) -> T {
            if x > T::ZERO { x } else { T::from_f64(0.5) * x }
        }
        fn df<T: Scalar>(&self, y: T) -> T {
            if y > T::ZERO { T::ONE } else { T::from_f64(0.5) }
        }
    }
}

/// `apart` puts the layer into a container of its own, which offers no epilogue.
fn net(layer: impl Layer<f64>, apart: bool) -> Sequential<f64> {
    let mut rng = random::rng(1);
    let builder = Sequential::builder().layer("fc", Linear::new(3, 5, &mut rng).unwrap());
    let builder = match apart {
        true => builder.layer("act", Sequential::builder().layer("s", layer).build().unwrap()),
        false => builder.layer("act", layer),
    };
    builder.layer("fc2", Linear::new(5, 2, &mut rng).unwrap()).build().unwrap()
}

fn norm(tape: &mut Tape<f64>, net: &Sequential<f64>, x: &Tensor<f64>) -> f64 {
    let (dy, mut grads) = (Tensor::full([4, 2], 1.0).unwrap(), Grads::new(net).unwrap());
    tape.forward(net, x, Mode::Eval).unwrap().backward(&dy, &mut grads).unwrap();
    grads.norm()
}

/// On a fresh tape, and on one that has served another network of the same sizes.
#[test]
fn a_rule_has_what_it_reads() {
    let [x1, x2] = [2, 3].map(|seed| Tensor::normal([4, 3], 0.0, 1.0, &mut random::rng(seed)).unwrap());
    let own: [Box<dyn Layer<f64>>; 3] = [Box::new(Silu), Box::new(PointwiseSilu), Box::new(own::Relu)];
    // And all of ours that keep a shape and always give the same.
    let samples = table::<f64>().into_iter().flat_map(|entry| (entry.samples)()).filter(|sample| {
        let shape = Shape::new(&[4, 5]).unwrap();
        !sample.random && sample.layer.output_shape(shape).is_ok_and(|y| y == shape)
    });
    let layers: Vec<_> = own.into_iter().chain(samples.map(|sample| sample.layer)).collect();
    assert!(layers.len() > 15, "{}", layers.len());
    for (i, layer) in layers.into_iter().enumerate() {
        let mut together = net(layer.clone(), false);
        let apart = net(layer, true);
        gradcheck(&mut together, [4, 3], 1).unwrap_or_else(|error| panic!("layer {i}: {error}"));
        let right = norm(&mut Tape::new(), &apart, &x2);
        let mut tape = Tape::new();
        norm(&mut tape, &apart, &x1);
        assert_eq!(norm(&mut tape, &together, &x2), right, "layer {i}");
        assert_eq!(norm(&mut tape, &apart, &x2), right, "layer {i}");
    }
}

#[test]
fn a_layer_of_ones_own_is_never_taken_for_ours() {
    let error = Architecture::of(&net(own::Relu, false)).unwrap_err();
    assert!(error.to_string().starts_with("act: Relu is not a built-in layer"), "{error}");
}

/// The output of a layer whose epilogue has taken its place is never written. A debug build fills it with
/// NaN, so a read of it shows.
#[test]
#[cfg(debug_assertions)]
fn an_output_that_is_never_written_is_poisoned() {
    let rng = &mut random::rng(1);
    let net: Sequential = Sequential::builder()
        .layer("fc", Linear::new(3, 4, rng).unwrap())
        .layer("relu", Relu)
        .layer("out", Linear::new(4, 2, rng).unwrap())
        .build()
        .unwrap();
    let (mut y, mut cache) = (Tensor::default(), Cache::default());
    let x = Tensor::full([5, 3], 1.0).unwrap();
    net.forward(&x, &mut y, &mut cache, Mode::Eval).unwrap();
    // Behind two gradients: the outputs of `fc`, which is fused with `relu`, and of `relu`.
    let (tensors, _) = cache.split(4, 3).unwrap();
    assert_eq!(tensors[2].shape(), [5, 4]);
    assert!(tensors[2].as_slice().iter().all(|x| x.is_nan()));
    assert!(tensors[3].as_slice().iter().all(|x| x.is_finite()));
}
