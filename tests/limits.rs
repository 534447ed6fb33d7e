//! The largest network that a file may hold: its memory beside its own size.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_io::Checkpoint;
use backrule_nn::testing::table;
use backrule_nn::{Architecture, Dropout, Linear, Sequential};
use backrule_optim::{Optimizer, Sgd};
use backrule_tensor::{NamedTensors, Path, random};

/// The bytes that a stage may take beside its result.
const BESIDE: u64 = 1 << 20;
/// Bytes of a layer beside its values.
const OF_LAYER: u64 = 512;

/// As deep and with as many layers and as long paths as there may be. All of it is below `outermost`.
fn largest(outermost: &str) -> Sequential {
    let rng = &mut random::rng(1);
    let leaves = Architecture::MAX_LAYERS - Architecture::MAX_DEPTH;
    let mut inner = Sequential::builder();
    for i in 0..leaves {
        let name = format!("leaf{i:08}");
        inner = match i % 2 {
            0 => inner.layer(name, Linear::new(1, 1, rng).unwrap()),
            _ => inner.layer(name, Dropout::new(0.5).unwrap()),
        };
    }
    let mut net = inner.build().unwrap();
    for _ in 2..Architecture::MAX_DEPTH {
        net = Sequential::builder().layer("n".repeat(14), net).build().unwrap();
    }
    Sequential::builder().layer(outermost, net).build().unwrap()
}

/// The result of `stage`, the bytes of it that stay, and the bytes that it takes beside them.
fn measured<R>(stage: impl FnOnce() -> R) -> (R, u64, u64) {
    let mut result = None;
    let measured = allocation_counter::measure(|| result = Some(stage()));
    let stays = u64::try_from(measured.bytes_current).unwrap();
    (result.unwrap(), stays, measured.bytes_max - stays)
}

#[test]
fn every_stage_of_loading_the_largest_network_takes_little() {
    let net = largest("encoder");
    let mut longest = 0;
    net.visit(Path::ROOT, &mut |path, _, _| longest = longest.max(path.bytes()));
    assert!((470..=512).contains(&longest), "{longest}");
    let architecture = Architecture::of(&net).unwrap();
    assert_eq!(architecture.layers().len(), Architecture::MAX_LAYERS);
    let sgd = Sgd::new(0.1).unwrap().momentum(0.9).unwrap();
    let optimizer = Optimizer::new(sgd, &net).unwrap();
    let snapshot = Checkpoint::of(&net).optimizer(&optimizer).architecture(&architecture).unwrap();
    let bytes = snapshot.to_bytes().unwrap();

    let (checkpoint, stays, beside) = measured(|| Checkpoint::from_bytes(&bytes).unwrap());
    println!("load: {stays} bytes for a file of {}, {beside} beside", bytes.len());
    assert!(stays <= bytes.len() as u64 + BESIDE && beside <= BESIDE);

    let (read, stays, beside) = measured(|| checkpoint.architecture::<Architecture>().unwrap());
    println!("architecture: {stays} bytes, {beside} beside");
    assert!(beside <= BESIDE);

    let values = 2 * architecture.layers().iter().filter(|layer| layer.kind == "Linear").count();
    let (mut built, stays, beside) = measured(|| read.build::<f32>(values).unwrap());
    println!("build: {stays} bytes for {values} values, {beside} beside");
    assert!(stays <= 4 * values as u64 + OF_LAYER * architecture.layers().len() as u64);
    assert!(beside <= BESIDE);

    let (report, stays, beside) = measured(|| checkpoint.restore(&mut built));
    println!("restore: {beside} beside");
    assert!(report.is_ok() && stays == 0 && beside <= BESIDE);
    let mut fresh = Optimizer::new(sgd, &built).unwrap();
    let (report, stays, beside) = measured(|| checkpoint.restore_with_optimizer(&mut built, &mut fresh));
    println!("with the optimizer: {beside} beside");
    assert!(report.is_ok() && stays == 0 && beside <= BESIDE);
    assert_eq!(fresh.tensor_count(), values);
}

/// With a report, and with the error that lists every tensor.
#[test]
fn a_restore_under_other_names_takes_little() {
    let net = largest("encoder");
    let sgd = Sgd::new(0.1).unwrap().momentum(0.9).unwrap();
    let optimizer = Optimizer::new(sgd, &net).unwrap();
    let bytes = Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap();
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    let mut net = largest("decoder");
    let mut optimizer = Optimizer::new(sgd, &net).unwrap();

    let (error, stays, beside) =
        measured(|| checkpoint.restore_with_optimizer(&mut net, &mut optimizer).unwrap_err());
    println!("mismatch: {stays} bytes, {beside} beside");
    assert!(beside <= BESIDE);
    let (text, stays, beside) = measured(|| error.to_string());
    println!("its text: {stays} bytes, {beside} beside");
    assert!(text.lines().count() == 22 && stays + beside <= BESIDE);

    let by_prefix = checkpoint.restoring().rename("encoder", "decoder");
    let by_function = checkpoint.restoring().rename_with(|path| Some(path.replace("enc", "dec")));
    for restoring in [by_prefix, by_function] {
        let restoring = restoring.only("decoder");
        let (report, stays, beside) =
            measured(|| restoring.restore_into_with_optimizer(&mut net, &mut optimizer).unwrap());
        println!("report: {stays} bytes, {beside} beside");
        assert_eq!(report.restored.len(), net.tensor_count() + optimizer.tensor_count());
        assert!(beside <= BESIDE);
    }
}

/// Of every kind, built as from a file: the memory of eight more of them. Each direction of each layer of an
/// LSTM is a layer, and so is a child of a container.
#[test]
fn no_layer_takes_more_than_512_bytes_beside_its_values() {
    let mut kinds = 0;
    for entry in table::<f32>() {
        for sample in (entry.samples)().into_iter().filter(|sample| sample.layer.inputs().contains(&1)) {
            let built = |count: usize| {
                let mut net = Sequential::<f32>::builder();
                for i in 0..count {
                    net = net.layer(format!("layer{i}"), sample.layer.clone());
                }
                let net = net.build().unwrap();
                let architecture = Architecture::of(&net).unwrap();
                let tensors = net.tensors();
                let values = tensors.iter().map(|(_, tensor)| tensor.len()).sum();
                let (_, stays, _) = measured(|| architecture.build::<f32>(values).unwrap());
                let has_bias = tensors.iter().any(|(path, _)| path.contains("bias"));
                let layers = match entry.kind {
                    "Lstm" => tensors.len() / if has_bias { 4 } else { 2 },
                    _ => architecture.layers().len(),
                };
                (stays - 4 * values as u64, layers as u64)
            };
            let ((one, layers), (nine, more)) = (built(1), built(9));
            let beside = (nine - one) as f64 / (more - layers) as f64;
            println!("{} `{}`: {beside} bytes a layer", entry.kind, sample.name);
            assert!(beside <= OF_LAYER as f64, "{} `{}`: {beside} bytes", entry.kind, sample.name);
        }
        kinds += 1;
    }
    assert!(kinds >= 24);
}
