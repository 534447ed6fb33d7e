//! Options and settings of all crates can be kept in files of one's own, and in a checkpoint's metadata.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Debug;

use backrule_io::Checkpoint;
use backrule_loss::{CrossEntropy, Mse, Reduction};
use backrule_nn::testing::table;
use backrule_nn::{Architecture, Init, Key, Mode};
use backrule_optim::{Momentum, Sgd};
use backrule_tensor::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// There and back as JSON, and as metadata.
#[track_caller]
fn assert_kept<S: Serialize + DeserializeOwned + PartialEq + Debug>(settings: S) {
    let json = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<S>(&json).unwrap(), settings, "{json}");
    let net = vec![("w", Tensor::from([1.0_f32]))];
    let bytes = Checkpoint::of(&net).metadata(&settings).unwrap().to_bytes().unwrap();
    assert_eq!(Checkpoint::from_bytes(&bytes).unwrap().metadata::<S>().unwrap(), settings);
}

#[test]
fn every_setting_survives() {
    for init in
        [Init::Zeros, Init::Constant(0.1), Init::Uniform(-1.0, 2.0), Init::Normal(0.0, 0.3), Init::FanIn]
    {
        assert_kept(init);
    }
    assert_kept([Mode::Eval, Mode::train(), Mode::train_with(Key::new(u64::MAX))]);
    assert_kept(Mse::new().reduction(Reduction::Sum));
    let loss = CrossEntropy::new().class_weights([0.1, 2.0]).unwrap().label_smoothing(0.1).unwrap();
    assert_kept(loss.ignore_index(usize::MAX));
    // A weight for each word of a language model.
    assert_kept(CrossEntropy::new().class_weights(vec![0.5; 50_257]).unwrap());
    let sgd = Sgd::new(0.1).unwrap().weight_decay(0.01).unwrap();
    assert_kept(sgd.momentum(Momentum::Nesterov { factor: 0.9 }).unwrap());
    assert_kept(sgd.momentum(Momentum::Classic { factor: 0.9, dampening: 0.1 }).unwrap());
}

/// A layer's settings are those of its architecture.
#[test]
fn every_setting_of_every_layer_survives() {
    for entry in table::<f32>() {
        for sample in (entry.samples)() {
            assert_kept(Architecture::of(&*sample.layer).unwrap());
        }
    }
}
