//! A network made ready for predictions.

use std::fmt;

use backrule_tensor::{Scalar, Tensor};

use crate::error::LayerError;
use crate::layer::Layer;
use crate::layer::sealed::Sealed;
use crate::mode::Mode;
use crate::packer::Packer;
use crate::tape::{Tape, predict, predict_many};

/// A copy of a network that only predicts, with its weights packed once.
///
/// A product of several samples packs the weight first, each time anew, because a step of training changes
/// it. Here nothing does, so the packed copy stays: it takes the weights' memory a second time, and
/// predictions for a few samples take less time. **No bit of them changes**, but for the sign of a NaN.
///
/// It is made for a network of any layers; those without a weight, and somebody's own that don't implement
/// [`Layer::prepare`], run as they are. Threads can share it, each with a [`Tape`] of its own, and a warm
/// prediction allocates nothing.
///
/// ```
/// use backrule_nn::tensor::{Tensor, random};
/// use backrule_nn::{Linear, Prepared, Relu, Sequential, Tape, predict};
///
/// let rng = &mut random::rng(1);
/// let net: Sequential = Sequential::builder()
///     .layer("fc1", Linear::new(784, 128, rng)?)
///     .layer("relu", Relu)
///     .layer("fc2", Linear::new(128, 10, rng)?)
///     .build()?;
/// let prepared = Prepared::of(&net)?;
/// let x = Tensor::normal([16, 784], 0.0, 1.0, rng)?;
///
/// let mut tape = Tape::new();
/// assert_eq!(prepared.forward(&mut tape, &x)?, &predict(&net, &x)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The network's later changes don't reach it: make another one then.
#[derive(Clone)]
pub struct Prepared<T: Scalar = f32> {
    /// Nobody can get at it: a changed weight would leave the packed one unchanged.
    net: Box<dyn Layer<T>>,
    bytes: usize,
}

impl<T: Scalar> Prepared<T> {
    /// Copies a network, and packs the weights of the copy.
    ///
    /// # Errors
    /// When a layer of somebody's own refuses, or there is no memory for a packed weight. The copy itself is
    /// a clone, which ends the process where there is no memory for it.
    pub fn of(net: &dyn Layer<T>) -> Result<Self, LayerError> {
        let (mut net, mut packer) = (net.boxed_clone(), Packer { bytes: 0 });
        net.prepare(&mut packer)?;
        Ok(Self { net, bytes: packer.bytes })
    }

    /// The bytes of all packed weights.
    pub fn packed_bytes(&self) -> usize {
        self.bytes
    }

    /// The network's output for `x`, the easy way: see [`predict`].
    ///
    /// # Errors
    /// As [`predict`].
    pub fn predict(&self, x: &Tensor<T>) -> Result<Tensor<T>, LayerError> {
        predict(&*self.net, x)
    }

    /// The same for a network of several inputs or outputs: see [`predict_many`].
    ///
    /// # Errors
    /// As [`predict_many`].
    pub fn predict_many(&self, x: &[&Tensor<T>]) -> Result<Vec<Tensor<T>>, LayerError> {
        predict_many(&*self.net, x)
    }

    /// The network's output for `x` on a tape that is reused, so nothing is allocated.
    ///
    /// # Errors
    /// As [`Tape::forward`].
    pub fn forward<'a>(
        &'a self,
        tape: &'a mut Tape<T>,
        x: &'a Tensor<T>,
    ) -> Result<&'a Tensor<T>, LayerError> {
        Ok(tape.forward(&*self.net, x, Mode::Eval)?.into_output())
    }

    /// The same for a network of several inputs or outputs.
    ///
    /// # Errors
    /// As [`Tape::forward_many`].
    pub fn forward_many<'a>(
        &'a self,
        tape: &'a mut Tape<T>,
        x: &[&'a Tensor<T>],
    ) -> Result<&'a [Tensor<T>], LayerError> {
        Ok(tape.forward_many(&*self.net, x, Mode::Eval)?.into_outputs())
    }
}

impl<T: Scalar> fmt::Debug for Prepared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepared({}, {} bytes packed)", self.net.type_name(Sealed), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::{NamedTensors, Path, random};

    use super::*;
    use crate::{
        Add, Cache, Dropout, Embedding, Frozen, Graph, Linear, Lstm, LstmConfig, MultiHeadAttention, Relu,
        Residual, Sequential,
    };

    fn linear(inputs: usize, outputs: usize) -> Linear {
        Linear::new(inputs, outputs, &mut random::rng(7)).unwrap()
    }

    fn block(features: usize) -> Sequential {
        let (fc1, fc2) = (linear(features, 70), linear(70, features));
        Sequential::builder().layer("fc1", fc1).layer("relu", Relu).layer("fc2", fc2).build().unwrap()
    }

    fn packed_bytes(net: &dyn Layer<f32>) -> usize {
        Prepared::of(net).unwrap().packed_bytes()
    }

    /// Where a container doesn't hand the call on, its layers run as they are, and nobody would see it.
    #[test]
    fn every_weight_of_a_product_is_packed_in_every_container() {
        let one = packed_bytes(&linear(33, 40));
        assert!(one >= 33 * 40 * 4);
        let inner = packed_bytes(&block(33));
        assert!(inner >= 2 * 33 * 70 * 4);
        assert_eq!(packed_bytes(&Residual::new(block(33))), inner);
        assert_eq!(packed_bytes(&Frozen::new(block(33))), inner);
        let boxed: Box<dyn Layer<f32>> = Box::new(block(33));
        assert_eq!(packed_bytes(&boxed), inner);
        let mut g = Graph::builder();
        let [x] = g.inputs(["x"]);
        let left = g.layer("left", block(33), [x]);
        let right = g.layer("right", block(33), [x]);
        let y = g.layer("sum", Add, [left, right]);
        assert_eq!(packed_bytes(&g.build([y]).unwrap()), 2 * inner);

        let rng = &mut random::rng(1);
        assert!(packed_bytes(&Lstm::<f32>::new(33, 16, rng).unwrap()) >= 64 * (33 + 16) * 4);
        let deep: Lstm = LstmConfig::new(16, 16).layers(3).build(rng).unwrap();
        assert!(packed_bytes(&deep) >= 3 * 64 * (16 + 16) * 4);
        assert!(packed_bytes(&MultiHeadAttention::<f32>::new(32, 4, rng).unwrap()) >= 4 * 32 * 32 * 4);
        // An embedding looks up rows, and multiplies nothing.
        assert_eq!(packed_bytes(&Embedding::<f32>::new(9, 4, rng).unwrap()), 0);
    }

    #[test]
    fn it_predicts_what_the_network_predicts() {
        let drop =
            Sequential::builder().layer("fc", linear(150, 150)).layer("drop", Dropout::new(0.5).unwrap());
        let net = Sequential::builder()
            .layer("block", Residual::new(block(150)))
            .layer("drop", drop.build().unwrap())
            .build()
            .unwrap();
        let prepared = Prepared::of(&net).unwrap();
        let mut tape = Tape::new();
        for batch in [1, 2, 3, 8, 9, 64, 200] {
            let x = Tensor::normal([batch, 150], 0.0, 1.0, &mut random::rng(2)).unwrap();
            let y = predict(&net, &x).unwrap();
            assert_eq!(prepared.forward(&mut tape, &x).unwrap(), &y, "batch {batch}");
            assert_eq!(prepared.predict(&x).unwrap(), y);
            assert_eq!(prepared.forward_many(&mut tape, &[&x]).unwrap(), &[y]);
        }
        let error = prepared.predict(&Tensor::zeros([2, 4]).unwrap()).unwrap_err();
        assert_eq!(error, predict(&net, &Tensor::zeros([2, 4]).unwrap()).unwrap_err());
        assert!(format!("{prepared:?}").starts_with("Prepared(Sequential, "), "{prepared:?}");
    }

    /// A layer of somebody's own may hand the packer to a layer that it changes later on.
    #[test]
    fn who_changes_a_weight_has_it_unpacked() {
        let rng = &mut random::rng(1);
        let layers: [Box<dyn Layer<f32>>; 3] = [
            Box::new(linear(32, 32)),
            Box::new(MultiHeadAttention::<f32>::new(32, 4, rng).unwrap()),
            Box::new(Lstm::<f32>::new(32, 32, rng).unwrap()),
        ];
        let x = Tensor::normal([5, 9, 32], 0.0, 1.0, rng).unwrap();
        for mut layer in layers {
            let mut packer = Packer { bytes: 0 };
            layer.prepare(&mut packer).unwrap();
            assert!(packer.bytes > 0);
            let before = predict(&*layer, &x).unwrap();
            layer.visit_mut(Path::ROOT, &mut |_, _, tensor| tensor.fill(0.0));
            let after = predict(&*layer, &x).unwrap();
            assert!(
                before != after && after.as_slice().iter().all(|&y| y == 0.0),
                "{}",
                layer.type_name(Sealed)
            );
        }
    }

    #[test]
    fn a_layer_that_refuses_is_named() {
        #[derive(Clone)]
        struct Refuses;

        impl NamedTensors<f32> for Refuses {}

        impl Layer<f32> for Refuses {
            fn forward(&self, x: &Tensor, y: &mut Tensor, _: &mut Cache, _: Mode) -> Result<(), LayerError> {
                Ok(y.copy_from(x)?)
            }

            fn backward(
                &self,
                _: crate::At<'_, f32>,
                dy: &Tensor,
                dx: Option<&mut Tensor>,
                _: &mut [crate::tensor::Grad<f32>],
            ) -> Result<(), LayerError> {
                dx.map_or(Ok(()), |dx| Ok(dx.copy_from(dy)?))
            }

            fn prepare(&mut self, _: &mut Packer) -> Result<(), LayerError> {
                Err(LayerError::value("refuses", "another layer", "this one"))
            }
        }

        let inner = Sequential::builder().layer("own", Refuses).build().unwrap();
        let mut g = Graph::builder();
        let [x] = g.inputs(["x"]);
        let y = g.layer("inner", inner, [x]);
        let error = Prepared::of(&g.build([y]).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "inner.own: refuses: expected another layer, got this one");
    }

    /// And the prepared network is a copy.
    #[test]
    fn a_layer_of_somebodys_own_runs_as_it_is() {
        #[derive(Clone)]
        struct Own(Linear);

        impl NamedTensors<f32> for Own {}

        impl Layer<f32> for Own {
            fn forward(
                &self,
                x: &Tensor,
                y: &mut Tensor,
                cache: &mut Cache,
                mode: Mode,
            ) -> Result<(), LayerError> {
                self.0.forward(x, y, cache, mode)
            }

            fn backward(
                &self,
                at: crate::At<'_, f32>,
                dy: &Tensor,
                dx: Option<&mut Tensor>,
                grads: &mut [crate::tensor::Grad<f32>],
            ) -> Result<(), LayerError> {
                self.0.backward(at, dy, dx, grads)
            }
        }

        let mut own = Own(linear(20, 9));
        let prepared = Prepared::of(&own).unwrap();
        assert_eq!(prepared.packed_bytes(), 0);
        let x = Tensor::full([5, 20], 0.5).unwrap();
        let before = predict(&own, &x).unwrap();
        own.0.tensor_mut("weight").unwrap().fill(0.0);
        assert_eq!(prepared.predict(&x).unwrap(), before);
    }
}
