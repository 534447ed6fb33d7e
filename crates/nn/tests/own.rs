//! Layers of somebody's own, and their possible mistakes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::RangeInclusive;

use backrule_nn::{
    Architecture, ArchitectureError, At, Cache, Dropout, Frozen, Grads, Graph, Layer, LayerError, LayerSpec,
    Linear, Mode, Registry, Relu, Residual, Sequential, Tape, describe, freeze, predict, predict_many,
    summary, thaw, through_many,
};
use backrule_tensor::{Grad, NamedTensors, OptionValue, Options, Tensor, random};

/// The fault of a layer.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// ∂l/∂x stays as it was.
    DxUnwritten,
    /// ∂l/∂x has a shape of its own.
    DxMisshapen,
    /// Another shape than `output_shape` says.
    YMisshapen,
    /// It shows itself as its child.
    OwnChild,
}

/// y = x.
#[derive(Clone)]
struct Same {
    fault: Fault,
    kind: Option<&'static str>,
}

fn same(fault: Fault) -> Same {
    Same { fault, kind: Some("own/Same") }
}

impl NamedTensors<f64> for Same {}

impl Layer<f64> for Same {
    fn forward(
        &self,
        x: &Tensor<f64>,
        y: &mut Tensor<f64>,
        _: &mut Cache<f64>,
        _: Mode,
    ) -> Result<(), LayerError> {
        y.copy_from(x)?;
        if self.fault == Fault::YMisshapen {
            y.resize([x.len()])?;
        }
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, f64>,
        dy: &Tensor<f64>,
        dx: Option<&mut Tensor<f64>>,
        _: &mut [Grad<f64>],
    ) -> Result<(), LayerError> {
        match (dx, self.fault) {
            (None, _) | (_, Fault::DxUnwritten) => Ok(()),
            (Some(dx), Fault::DxMisshapen) => Ok(dx.resize([at.x.len(), 1])?),
            (Some(dx), _) => Ok(dx.copy_from(dy)?),
        }
    }

    fn children(&self, visit: &mut dyn FnMut(&str, &dyn Layer<f64>)) {
        if self.fault == Fault::OwnChild {
            visit("me", self);
        }
    }

    fn custom_kind(&self) -> Option<&'static str> {
        self.kind
    }
}

fn linear() -> Linear<f64> {
    Linear::new(2, 2, &mut random::rng(1)).unwrap()
}

/// The layer between two others, in a sequence and in a graph.
fn networks(fault: Fault) -> [Box<dyn Layer<f64>>; 2] {
    let sequence = Sequential::builder().layer("a", linear()).layer("own", same(fault)).layer("b", linear());
    let mut g = Graph::builder();
    let [x] = g.inputs(["x"]);
    let a = g.layer("a", linear(), [x]);
    let own = g.layer("own", same(fault), [a]);
    let b = g.layer("b", linear(), [own]);
    [Box::new(sequence.build().unwrap()), Box::new(g.build([b]).unwrap())]
}

fn trained(net: &dyn Layer<f64>) -> Result<Grads<f64>, LayerError> {
    let x = Tensor::from([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let (mut tape, mut grads) = (Tape::new(), Grads::new(net).unwrap());
    let run = tape.forward(net, &x, Mode::Eval)?;
    run.backward(&Tensor::full([3, 2], 1.0).unwrap(), &mut grads)?;
    Ok(grads)
}

#[test]
fn a_wrong_shape_is_the_fault_of_the_layer_that_wrote_it() {
    for net in networks(Fault::None) {
        assert!(trained(&*net).is_ok());
    }
    for net in networks(Fault::DxMisshapen) {
        let error = trained(&*net).err().unwrap().to_string();
        assert_eq!(error, "own: backward: the layer's ∂l/∂x: expected [3, 2], got [6, 1]");
    }
    for net in networks(Fault::YMisshapen) {
        let error = trained(&*net).err().unwrap().to_string();
        assert_eq!(error, "own: forward: what `output_shape` says: expected [3, 2], got [6]");
    }
    // Also where nobody comes after it, and in a frozen layer.
    let wrong = || same(Fault::YMisshapen);
    let last = |layer| -> Sequential<f64> {
        Sequential::builder().layer("a", linear()).layer("last", layer).build().unwrap()
    };
    let mut later_frozen = last(Box::new(wrong()) as Box<dyn Layer<f64>>);
    let frozen = last(Box::new(Frozen::new(wrong())));
    for net in [&later_frozen, &frozen] {
        let error = trained(net).err().unwrap().to_string();
        assert_eq!(error, "last: forward: what `output_shape` says: expected [3, 2], got [6]");
    }
    freeze(&mut later_frozen, "last").unwrap();
    let error = trained(&later_frozen).err().unwrap().to_string();
    assert_eq!(error, "last: forward: what `output_shape` says: expected [3, 2], got [6]");
}

/// The buffer has been another layer's.
#[test]
#[cfg(debug_assertions)]
fn an_unwritten_gradient_is_seen() {
    for net in networks(Fault::DxUnwritten) {
        // In a sequence it has no shape yet in the first pass.
        let grads = trained(&*net).map(|grads| grads[0].get().unwrap().as_slice()[0].is_nan());
        assert!(grads.unwrap_or(true));
    }
    let net: Sequential<f64> = Sequential::builder()
        .layer("a", linear())
        .layer("own", same(Fault::DxUnwritten))
        .layer("b", linear())
        .layer("c", linear())
        .build()
        .unwrap();
    assert!(trained(&net).unwrap()[0].get().unwrap().as_slice()[0].is_nan());
}

/// y = x₀ + x₁, without the functions that it says it has.
#[derive(Clone)]
struct Unwritten(usize);

impl NamedTensors<f64> for Unwritten {}

impl Layer<f64> for Unwritten {
    through_many!(f64);

    fn inputs(&self) -> RangeInclusive<usize> {
        self.0..=self.0
    }
}

#[test]
fn what_through_many_lacks_is_an_error_and_no_recursion() {
    let x = Tensor::from([[1.0, 2.0]]);
    let error = predict(&Unwritten(1), &x).unwrap_err().to_string();
    assert_eq!(error, "layer with through_many!: expected a `forward_many` of its own, got 0");
    assert_eq!(predict_many(&Unwritten(1), &[&x]).unwrap_err().to_string(), error);
    let (mut y, mut cache) = (Tensor::default(), Cache::default());
    let at = At { x: &x, y: &x, cache: &mut cache, mode: Mode::Eval };
    let error = Unwritten(1).backward(at, &x, Some(&mut y), &mut []).unwrap_err().to_string();
    assert_eq!(error, "layer with through_many!: expected a `backward_many` of its own, got 0");
}

#[test]
fn a_layer_of_several_inputs_is_refused_where_it_gets_one() {
    let error = Sequential::builder().layer("two", Unwritten(2)).build().unwrap_err().to_string();
    assert_eq!(error, "Sequential: inputs of a layer: expected one, got at least 2 for `two`: use a `Graph`");
    let x = Tensor::from([[1.0, 2.0]]);
    for net in [Box::new(Unwritten(2)) as Box<dyn Layer<f64>>, Box::new(Residual::new(Unwritten(2)))] {
        let error = predict(&*net, &x).unwrap_err().to_string();
        assert!(error.ends_with("by `forward_many` or `predict_many`, got one of each"), "{error}");
    }
}

#[test]
fn a_kind_has_a_slash_and_something_on_both_sides() {
    for kind in ["", "/", "Relu", "own/", "/Same", "a/b/c"] {
        let error = Architecture::of(&Same { fault: Fault::None, kind: Some(kind) }).unwrap_err().to_string();
        let expected =
            format!("Same: custom_kind: expected the form `crate/Name`, got {}", kind.escape_debug());
        assert_eq!(error, expected);
        // In a text it has its type's name: "Relu" would be taken for ours.
        assert_eq!(describe(&Same { fault: Fault::None, kind: Some(kind) }), "Same");
    }
    assert_eq!(describe(&Same { fault: Fault::None, kind: Some("own/Same") }), "own/Same");
    let none = Architecture::of(&Same { fault: Fault::None, kind: None }).unwrap_err().to_string();
    assert!(none.contains("custom_kind"), "{none}");
}

#[test]
fn a_registry_gives_what_it_is_asked_for() {
    let architecture = Architecture::of(&same(Fault::None)).unwrap();
    let build = |registry: &Registry<f64>| architecture.build_with(0, registry).map(|net| net.custom_kind());
    let right = Registry::new().with("own/Same", |_| Ok(Box::new(same(Fault::None))));
    assert_eq!(build(&right), Ok(Some("own/Same")));
    assert!(build(&Registry::new()).is_err());
    let other = Registry::new().with("own/Same", |_| Ok(Box::new(Relu)));
    let error = build(&other).unwrap_err().to_string();
    assert!(error.ends_with("got Relu"), "{error}");
    // Another one would never be looked for, and its author would wonder why.
    for kind in ["", "Plain", "Relu", "own/", "/Same", "a/b/c"] {
        let registry = Registry::new()
            .with("own/Same", |_| Ok(Box::new(same(Fault::None))))
            .with(kind, |_| Ok(Box::new(same(Fault::None))));
        let error = build(&registry).unwrap_err().to_string();
        let expected = "the form `crate/Name`, as the layer's `custom_kind` says it";
        assert_eq!(error, format!("Registry: kind: expected {expected}, got \"{kind}\""));
    }
}

#[test]
fn the_layer_that_is_too_large_is_named() {
    let inner = Sequential::builder().layer("fc1", linear()).layer("fc2", linear()).build().unwrap();
    let net = Sequential::builder().layer("encoder", inner).layer("head", linear()).build().unwrap();
    let architecture = Architecture::of(&net).unwrap();
    assert!(architecture.build::<f64>(18).is_ok());
    for (most, place, parameters) in [(17, "head", 18), (11, "encoder.fc2", 12), (3, "encoder.fc1", 4)] {
        let error = architecture.build::<f64>(most).err().unwrap().to_string();
        let start = format!("{place}: {parameters} parameters up to here, where {most} are allowed: ");
        assert!(error.starts_with(&start), "{error}");
    }
    let error = Architecture::of(&linear()).unwrap().build::<f64>(5).err().unwrap().to_string();
    assert!(error.starts_with("6 parameters up to here, where 5 are allowed: "), "{error}");
}

/// y = a₀ + a₁ x + a₂ x² + …, with settings of every kind.
#[derive(Clone, Debug, PartialEq)]
struct Polynomial {
    a: Vec<f64>,
    window: Vec<usize>,
}

impl NamedTensors<f64> for Polynomial {}

impl Layer<f64> for Polynomial {
    fn forward(
        &self,
        x: &Tensor<f64>,
        y: &mut Tensor<f64>,
        _: &mut Cache<f64>,
        _: Mode,
    ) -> Result<(), LayerError> {
        y.copy_from(x)?;
        y.apply(|x| self.a.iter().rev().fold(0.0, |sum, a| sum * x + a));
        Ok(())
    }

    fn backward(
        &self,
        _: At<'_, f64>,
        _: &Tensor<f64>,
        _: Option<&mut Tensor<f64>>,
        _: &mut [Grad<f64>],
    ) -> Result<(), LayerError> {
        Ok(())
    }

    fn options(&self) -> Options {
        Options::new().with("a", self.a.clone()).with("window", self.window.clone())
    }

    fn custom_kind(&self) -> Option<&'static str> {
        Some("own/Polynomial")
    }
}

/// A list of numbers is a setting as any other, and one first read as another kind is still there: an
/// older version of the layer had a number, say, or two sizes.
#[test]
fn a_list_of_numbers_comes_back_and_a_setting_can_be_tried_in_two_ways() {
    let registry = Registry::new().with("own/Polynomial", |from| {
        let a = match from.number("a") {
            Ok(a) => vec![a],
            Err(_) => from.numbers("a")?,
        };
        let window = match (from.size("window"), from.wholes::<2>("window")) {
            (Ok(size), _) => vec![size],
            (_, Ok(sizes)) => sizes.to_vec(),
            _ => from.sizes("window")?,
        };
        Ok(Box::new(Polynomial { a, window }))
    });
    let built = |options: Options| {
        let kind = "own/Polynomial".to_string();
        let spec = LayerSpec { name: String::new(), kind, options, children: 0 };
        let net = Architecture::try_from(vec![spec]).unwrap().build_with(0, &registry)?;
        Ok::<_, ArchitectureError>((predict(&*net, &Tensor::from([2.0])).unwrap(), net.options()))
    };
    for window in [vec![], vec![3], vec![3, 5], vec![3, 5, 7]] {
        let own = Polynomial { a: vec![1.0, 0.5, -0.25], window };
        assert_eq!(built(own.options()), Ok((Tensor::from([1.0]), own.options())));
    }
    let one = |window: OptionValue| Options::new().with("a", 0.5).with("window", window);
    let (y, options) = built(one(4_u64.into())).unwrap();
    assert_eq!((y, options.to_string()), (Tensor::from([0.5]), "a [0.5], window [4]".to_string()));
    for (window, expected) in [
        (OptionValue::from(0_u64), "window: expected a list of sizes, got 0"),
        ("x".into(), "window: expected a list of sizes, got \"x\""),
    ] {
        let error = built(one(window)).unwrap_err().to_string();
        assert_eq!(error, format!("own/Polynomial: {expected}"));
    }
}

#[test]
fn a_layer_within_itself_has_no_architecture() {
    let error = Architecture::of(&same(Fault::OwnChild)).unwrap_err().to_string();
    assert!(error.ends_with("layers are nested deeper than 32"), "{error}");
}

/// 2^14 runs in each of them.
#[test]
fn a_pass_without_end_is_refused_wherever_its_layers_are() {
    let doubled = |f: Box<dyn Layer<f64>>| -> Box<dyn Layer<f64>> {
        let mut g = Graph::builder();
        let [x] = g.inputs(["x"]);
        let once = g.layer("f", f, [x]);
        let twice = g.again(once, [once]);
        Box::new(g.build([twice]).unwrap())
    };
    let deep = || (0..14).fold(Box::new(Relu) as Box<dyn Layer<f64>>, |f, _| doubled(f));
    let built = |n: usize| {
        let mut net = Sequential::builder();
        for i in 0..n {
            net = net.layer(format!("{i}"), deep());
        }
        Architecture::of(&net.build().unwrap()).unwrap().build::<f64>(0)
    };
    assert!(built(1).is_ok());
    let error = built(3).err().unwrap().to_string();
    assert!(error.contains("at most 65536 runs in a pass"), "{error}");
}

#[test]
fn no_name_reaches_the_terminal_as_it_is() {
    let name = "\u{1b}[2J\n";
    let mut g = Graph::builder();
    let [x] = g.inputs([name]);
    let inner = Sequential::builder().layer(name, Relu).build().unwrap();
    let y = g.layer(format!("{name}2"), inner, [x]);
    let net: Graph<f64> = g.build([y]).unwrap();
    let text = summary(&net, [1, 2]).unwrap().to_string();
    assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}[2J\\n"), "{text}");
}

#[test]
fn parameters_that_are_used_twice_count_once() {
    let mut g = Graph::builder();
    let [x] = g.inputs(["x"]);
    let once = g.layer("fc", linear(), [x]);
    let twice = g.again(once, [once]);
    let net = g.build([twice]).unwrap();
    let text = summary(&net, [1, 2]).unwrap().to_string();
    assert_eq!(text.lines().filter(|line| line.ends_with(" 6")).count(), 2, "{text}");
}

#[test]
fn only_what_would_be_trained_is_thawed() {
    let inner = Sequential::builder().layer("a", linear()).layer("b", linear()).build().unwrap();
    let mut net: Sequential<f64> = Sequential::builder().layer("enc", inner).build().unwrap();
    freeze(&mut net, "enc").unwrap();
    freeze(&mut net, "enc.a").unwrap();
    for path in ["enc.a", "enc.", ".", "enc..a", "enc.c"] {
        assert!(thaw(&mut net, path).is_err(), "{path}");
    }
    assert!(freeze(&mut net, "enc.").is_err());
    let error = freeze(&mut net, "enc.c").unwrap_err().to_string();
    assert!(error.contains("that of a layer of enc, enc.a, enc.b, got \"enc.c\""), "{error}");
    let error = freeze(&mut net, "enc.a.weight").unwrap_err().to_string();
    assert!(error.ends_with("\"enc.a.weight\", a tensor"), "{error}");
    thaw(&mut net, "enc").unwrap();
    thaw(&mut net, "enc.a").unwrap();
    assert!(Grads::new(&net).unwrap().iter().all(Grad::is_wanted));
}

#[test]
fn gradients_made_before_freezing_are_refused_with_what_to_do() {
    let mut net: Sequential<f64> = Sequential::builder().layer("a", linear()).build().unwrap();
    let x = Tensor::full([1, 2], 1.0).unwrap();
    let mut before = Grads::new(&net).unwrap();
    freeze(&mut net, "a").unwrap();
    let mut while_frozen = Grads::new(&net).unwrap();
    let backward = |net: &Sequential<f64>, grads: &mut Grads<f64>| {
        let mut tape = Tape::new();
        let pass = tape.forward(net, &x, Mode::train()).unwrap();
        let dy = pass.output().clone();
        pass.backward(&dy, grads)
    };
    let todo = "make gradients and optimizer after freezing or thawing";
    let error = backward(&net, &mut before).unwrap_err().to_string();
    assert_eq!(error, format!("a.weight: gradients: expected a constant, got a parameter: {todo}"));
    thaw(&mut net, "a").unwrap();
    let error = backward(&net, &mut while_frozen).unwrap_err().to_string();
    assert_eq!(error, format!("a.weight: gradients: expected a parameter, got a constant: {todo}"));
    backward(&net, &mut before).unwrap();
}

/// One part is the whole: its masks are those of a pass without parts.
#[test]
fn a_single_part_has_the_key_of_the_pass() {
    let net = Dropout::new(0.5).unwrap();
    let x = Tensor::<f64>::full([8, 8], 1.0).unwrap();
    let mode = Mode::train_with(backrule_nn::Key::new(3));
    let run = |mut tape: Tape<f64>| tape.forward(&net, &x, mode).unwrap().output().clone();
    let whole = run(Tape::new());
    assert_eq!(run(Tape::new().parts(1).unwrap()), whole);
    assert_eq!(run(Tape::new().parts(1).unwrap().only(0..1, 8).unwrap()), whole);
}

/// Rightly none of the samples are here, so of no input.
#[test]
fn every_input_of_an_empty_share_is_empty() {
    let mut g = Graph::<f64>::builder();
    let [a, b] = g.inputs(["a", "b"]);
    let frozen = g.layer("frozen", Frozen::new(linear()), [b]);
    let sum = g.layer("sum", backrule_nn::Add, [a, frozen]);
    let net = g.build([sum]).unwrap();
    let mut tape = Tape::new().parts(4).unwrap().only(2..4, 2).unwrap();
    let zeros = |rows: usize| Tensor::<f64>::zeros([rows, 2]).unwrap();
    assert!(tape.forward_many(&net, &[&zeros(0), &zeros(0)], Mode::Eval).is_ok());
    let error = tape.forward_many(&net, &[&zeros(0), &zeros(5)], Mode::Eval).err().unwrap();
    assert_eq!(error.to_string(), "forward in parts: expected the 0 rows of parts 2..4, got [5, 2]");
}
