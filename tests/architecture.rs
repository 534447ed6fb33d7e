//! A network from a file alone: its layers and its values, and nothing that the file could not know.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::slice::from_ref;

use backrule_io::{Checkpoint, Section};
use backrule_nn::testing::table;
use backrule_nn::{
    Architecture, At, Cache, Dropout, Layer, LayerError, Linear, LinearConfig, LogSoftmax, Mode, Relu,
    Residual, Sequential, Sigmoid, Softmax, Tanh, predict, predict_many,
};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{Grad, NamedTensors, Path, Scalar, Tensor, random};

/// Containers in containers.
fn network<T: Scalar>() -> Sequential<T> {
    let rng = &mut random::rng(3);
    let block = Sequential::builder()
        .layer("fc", LinearConfig::new(6, 6).bias(false).build(rng).unwrap())
        .layer("tanh", Tanh)
        .layer("inner", Residual::new(Linear::new(6, 6, rng).unwrap()))
        .layer("softmax", Softmax)
        .build()
        .unwrap();
    Sequential::builder()
        .layer("fc1", Linear::new(5, 6, rng).unwrap())
        .layer("relu", Relu)
        .layer("block", Residual::new(block))
        .layer("drop", Dropout::new(0.25).unwrap())
        .layer("sigmoid", Sigmoid)
        .layer("fc2", Linear::new(6, 3, rng).unwrap())
        .layer("log_softmax", LogSoftmax)
        .build()
        .unwrap()
}

fn saved<T: Scalar>(net: &dyn Layer<T>) -> Vec<u8> {
    Checkpoint::of(net).architecture(&Architecture::of(net).unwrap()).unwrap().to_bytes().unwrap()
}

fn from_the_file_alone<T: Scalar>(what: &str, mut net: Box<dyn Layer<T>>, x: &[Tensor<T>]) {
    let x: Vec<_> = x.iter().collect();
    // As a layer of this architecture can't have them by chance.
    let mut count = 0;
    net.visit_mut(Path::ROOT, &mut |_, _, tensor| {
        count += 1;
        *tensor = Tensor::uniform(tensor.shape(), 0.5, 1.5, &mut random::rng(count)).unwrap();
    });
    let (expected, bytes) = (predict_many(&*net, &x).unwrap(), saved(&*net));
    drop(net);
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    assert!(checkpoint.sections().eq([Section::Architecture]), "{what}");
    let architecture = checkpoint.architecture::<Architecture>().unwrap();
    let mut net = architecture.build::<T>(checkpoint.element_count()).unwrap();
    assert!(count == 0 || saved(&*net) != bytes, "{what}: before the values are restored");
    checkpoint.restore(&mut net).unwrap();
    assert_eq!(predict_many(&*net, &x).unwrap(), expected, "{what}");
    assert_eq!(saved(&*net), bytes, "{what}");
}

#[test]
fn every_layer_is_built_again_from_the_file_alone() {
    fn check<T: Scalar>() {
        for entry in table::<T>() {
            for sample in (entry.samples)() {
                let what = format!("{} `{}` {}", entry.kind, sample.name, T::DTYPE);
                from_the_file_alone(&what, sample.layer.clone(), &sample.tensors(9).unwrap());
            }
        }
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn a_network_is_built_again_from_the_file_alone() {
    let x = Tensor::normal([4, 5], 0.0, 1.0, &mut random::rng(9)).unwrap();
    from_the_file_alone("f32", Box::new(network::<f32>()), from_ref(&x));
    from_the_file_alone("f64", Box::new(network::<f64>()), from_ref(&x.cast().unwrap()));
}

/// Twice as much, and no parameters: a layer that only this program knows.
#[derive(Clone)]
struct Double;

impl NamedTensors<f32> for Double {}

impl Layer<f32> for Double {
    fn forward(&self, x: &Tensor, y: &mut Tensor, _: &mut Cache<f32>, _: Mode) -> Result<(), LayerError> {
        y.map_from(x, |x| 2.0 * x)?;
        Ok(())
    }

    fn backward(
        &self,
        _: At<'_, f32>,
        dy: &Tensor,
        dx: Option<&mut Tensor>,
        _: &mut [Grad],
    ) -> Result<(), LayerError> {
        if let Some(dx) = dx {
            dx.map_from(dy, |dy| 2.0 * dy)?;
        }
        Ok(())
    }
}

#[test]
fn with_a_layer_of_ones_own_the_program_builds_the_network() {
    let build = |seed| {
        let fc = Linear::new(2, 2, &mut random::rng(seed)).unwrap();
        Sequential::<f32>::builder().layer("fc", fc).layer("double", Double).build().unwrap()
    };
    let net = build(1);
    let error = Architecture::of(&net).unwrap_err().to_string();
    assert!(error.starts_with("double: Double is not a built-in layer"), "{error}");

    let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes().unwrap()).unwrap();
    let error = checkpoint.architecture::<Architecture>().unwrap_err().to_string();
    assert!(error.contains("architecture"), "{error}");
    let mut own = build(2);
    checkpoint.restore(&mut own).unwrap();
    let x = Tensor::from([[1.0, -2.0]]);
    assert_eq!(predict(&own, &x).unwrap(), predict(&net, &x).unwrap());
}

#[test]
fn a_file_that_claims_more_than_it_holds_is_refused() {
    let small = vec![("weight", Tensor::from([[1.0_f32, 2.0]]))];
    let large = Architecture::of(&network::<f32>()).unwrap();
    let sgd = Sgd::new(0.1).unwrap().momentum(0.9).unwrap();
    let optimizer = Optimizer::new(sgd, &small).unwrap(); // its state doesn't count
    let snapshot = Checkpoint::of(&small).optimizer(&optimizer).architecture(&large).unwrap();
    let bytes = snapshot.to_bytes().unwrap();
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    assert_eq!((checkpoint.tensors().count(), checkpoint.element_count()), (2, 2));
    let built = checkpoint.architecture::<Architecture>().unwrap().build::<f32>(checkpoint.element_count());
    let error = built.err().unwrap().to_string();
    // Those of its first weight.
    assert!(error.starts_with("fc1: 30 parameters up to here, where 2 are allowed: a file has"), "{error}");
}
