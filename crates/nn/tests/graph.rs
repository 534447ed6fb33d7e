//! Networks of several inputs and outputs, made of the layers that people make them of.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::{
    Add, Architecture, BatchNorm, Concat, Conv2dConfig, Embedding, Flatten, Frozen, Gradcheck, Grads, Graph,
    Key, Layer, LayerNorm, Linear, Lstm, Mode, Mul, MultiHeadAttentionConfig, Relu, Sequential, Tanh, Tape,
    predict_many, summary_many,
};
use backrule_tensor::{NamedTensors, Options, Path, Role, Shape, Tensor, random, share};
use backrule_testkit::with_threads;

const TRAIN: Mode = Mode::train_with(Key::new(1));

/// A network with inputs of 6 samples, and which of the inputs have a derivative.
struct Case {
    name: &'static str,
    net: Graph<f64>,
    x: Vec<Tensor<f64>>,
    differentiable: Vec<bool>,
}

fn normal(shape: &[usize], seed: u64) -> Tensor<f64> {
    Tensor::normal(shape, 0.0, 1.0, &mut random::rng(seed)).unwrap()
}

/// Reads a source of different lengths, hands its states to a decoder of the target.
fn encoder_decoder() -> Case {
    let rng = &mut random::rng(1);
    let mut g = Graph::builder();
    let [source, lengths, target] = g.inputs(["source", "lengths", "target"]);
    let words = g.layer("words", Embedding::new(9, 4, rng).unwrap(), [source]);
    let encoder = g.layer("encoder", Lstm::new(4, 5, rng).unwrap(), [words, lengths]);
    let (hn, cn) = (encoder.output(1), encoder.output(2));
    let decoder = g.layer("decoder", Lstm::new(3, 5, rng).unwrap(), [target, hn, cn]);
    // The decoder looks back at the encoder's outputs, as far as each source goes.
    let attention = MultiHeadAttentionConfig::new(5, 1).cross(true).lengths(true).build(rng).unwrap();
    let seen = g.layer("attention", attention, [decoder, encoder, lengths]);
    let both = g.layer("both", Add, [decoder, seen]);
    let norm = g.layer("norm", LayerNorm::new([5]).unwrap(), [both]);
    let y = g.layer("logits", Linear::new(5, 2, rng).unwrap(), [norm]);
    let source = Tensor::from_fn([6, 4], |at| ((at[0] * 5 + at[1] * 3) % 9) as f64).unwrap();
    let lengths = Tensor::from([4.0, 1.0, 3.0, 0.0, 2.0, 4.0]);
    Case {
        name: "encoder, decoder",
        net: g.build([y]).unwrap(),
        x: vec![source, lengths, normal(&[6, 3, 3], 2)],
        differentiable: vec![false, false, true],
    }
}

/// Actor and critic: two heads on one trunk.
fn two_heads() -> Case {
    let rng = &mut random::rng(2);
    let mut g = Graph::builder();
    let [x] = g.inputs(["state"]);
    let trunk = g.layer("trunk", Linear::new(4, 5, rng).unwrap(), [x]);
    let trunk = g.layer("tanh", Tanh, [trunk]);
    let actor = g.layer("actor", Linear::new(5, 3, rng).unwrap(), [trunk]);
    let norm = g.layer("norm", BatchNorm::new(5).unwrap(), [trunk]);
    let critic = g.layer("critic", Linear::new(5, 1, rng).unwrap(), [norm]);
    Case {
        name: "two heads",
        net: g.build([actor, critic]).unwrap(),
        x: vec![normal(&[6, 4], 3)],
        differentiable: vec![true],
    }
}

/// An image with scalars beside it.
fn image_and_scalars() -> Case {
    let rng = &mut random::rng(3);
    let mut g = Graph::builder();
    let [image, scalars] = g.inputs(["image", "scalars"]);
    let conv = Conv2dConfig::new(2, 3, [3, 3]).padding([1, 1]).build(rng).unwrap();
    let features = g.layer("conv", conv, [image]);
    let features = g.layer("tanh", Tanh, [features]);
    let flat = g.layer("flat", Flatten::new(1).unwrap(), [features]);
    let both = g.layer("both", Concat::new(1).unwrap(), [flat, scalars]);
    let y = g.layer("fc", Linear::new(3 * 4 * 5 + 3, 2, rng).unwrap(), [both]);
    Case {
        name: "image and scalars",
        net: g.build([y]).unwrap(),
        x: vec![normal(&[6, 2, 4, 5], 4), normal(&[6, 3], 5)],
        differentiable: vec![true, true],
    }
}

/// Two towers of one weight, whose outputs meet in a product and a sum; a value is used three times.
fn towers() -> Case {
    let rng = &mut random::rng(4);
    let mut g = Graph::builder();
    let [a, b] = g.inputs(["a", "b"]);
    let tower = g.layer("tower", Linear::new(4, 3, rng).unwrap(), [a]);
    let other = g.again(tower, [b]);
    let product = g.layer("product", Mul, [tower, other]);
    let sum = g.layer("sum", Add, [product, tower, tower]);
    Case {
        name: "towers",
        // One output is an inner value, and one stands twice.
        net: g.build([sum, other, sum]).unwrap(),
        x: vec![normal(&[6, 4], 6), normal(&[6, 4], 7)],
        differentiable: vec![true, true],
    }
}

fn cases() -> Vec<Case> {
    vec![encoder_decoder(), two_heads(), image_and_scalars(), towers()]
}

/// Outputs, ∂l/∂x, and ∂l/∂θ, for a random ∂l/∂y of every output.
fn pass(tape: &mut Tape<f64>, case: &Case, grads: &mut Grads<f64>) -> [Vec<Tensor<f64>>; 2] {
    let x: Vec<_> = case.x.iter().collect();
    let run = tape.forward_many(&case.net, &x, TRAIN).unwrap();
    let y = run.outputs().to_vec();
    let dy: Vec<_> = y.iter().zip(20..).map(|(y, seed)| normal(&y.shape(), seed)).collect();
    let dy: Vec<_> = dy.iter().map(Some).collect();
    let mut dx = vec![Tensor::default(); x.len()];
    let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
    run.backward_many_to_inputs(&dy, grads, &mut wanted).unwrap();
    [y, dx]
}

fn values(grads: &Grads<f64>) -> Vec<Option<Vec<u64>>> {
    let bits = |tensor: &Tensor<f64>| tensor.as_slice().iter().map(|x| x.to_bits()).collect();
    grads.iter().map(|grad| grad.get().map(bits)).collect()
}

#[test]
fn their_derivatives_are_right() {
    for mut case in cases() {
        let x: Vec<_> = case.x.iter().collect();
        let check = Gradcheck { mode: TRAIN, ..Gradcheck::new(9) };
        let report = check.run_many(&mut case.net, &x, &case.differentiable);
        let report = report.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let parameters = case.net.tensors().iter().map(|(_, tensor)| tensor.len()).sum::<usize>();
        assert!(report.elements + 12 >= parameters, "{}: {report}", case.name); // 2 · 5 + 1 are buffers
    }
}

#[test]
fn a_warm_step_allocates_nothing_and_threads_change_no_bit() {
    for case in cases() {
        for parts in [1, 3] {
            let mut expected = None;
            for threads in [1, 2, 3, 7] {
                let _one = with_threads(threads);
                let mut grads = Grads::new(&case.net).unwrap();
                let outputs = pass(&mut Tape::new().parts(parts).unwrap(), &case, &mut grads);
                let result = (outputs, values(&grads));
                let expected = expected.get_or_insert_with(|| result.clone());
                assert!(result == *expected, "{}, {parts} parts, {threads} threads", case.name);
            }
        }
    }
    let _one = with_threads(1);
    for case in cases() {
        let (mut tape, mut grads) = (Tape::new(), Grads::new(&case.net).unwrap());
        let x: Vec<_> = case.x.iter().collect();
        let y = predict_many(&case.net, &x).unwrap();
        let dy: Vec<_> = y.iter().map(Some).collect();
        let mut dx = vec![Tensor::default(); x.len()];
        let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
        let mut step = || {
            let run = tape.forward_many(&case.net, &x, TRAIN).unwrap();
            run.backward_many_to_inputs(&dy, &mut grads, &mut wanted).unwrap();
        };
        step();
        let allocations = allocation_counter::measure(step);
        assert_eq!(allocations.count_total, 0, "{}", case.name);
    }
}

#[test]
fn a_used_tape_gives_what_a_fresh_one_gives() {
    let mut tape = Tape::new();
    for _ in 0..2 {
        for case in cases() {
            let (mut used, mut fresh) = (Grads::new(&case.net).unwrap(), Grads::new(&case.net).unwrap());
            let of_used = pass(&mut tape, &case, &mut used);
            assert_eq!(of_used, pass(&mut Tape::new(), &case, &mut fresh), "{}", case.name);
            assert_eq!(values(&used), values(&fresh), "{}", case.name);
        }
    }
}

#[test]
fn they_are_built_again_from_their_architecture() {
    for case in cases() {
        let architecture = Architecture::of(&case.net).unwrap();
        let json = serde_json::to_string(&architecture).unwrap();
        let read: Architecture = serde_json::from_str(&json).unwrap();
        assert_eq!(read, architecture, "{}", case.name);
        let mut again = read.build::<f64>(10_000).unwrap();
        again.copy_tensors_from(&case.net).unwrap();
        let x: Vec<_> = case.x.iter().collect();
        assert_eq!(predict_many(&*again, &x).unwrap(), predict_many(&case.net, &x).unwrap(), "{}", case.name);
    }
}

/// The head's parameters and buffers stay as they are.
#[test]
fn a_head_without_a_loss_is_skipped() {
    let case = two_heads();
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&case.net).unwrap());
    let pass = tape.forward_many(&case.net, &[&case.x[0]], TRAIN).unwrap();
    pass.backward_many(&[Some(&normal(&[6, 3], 1)), None], &mut grads).unwrap();
    let mut k = 0;
    case.net.visit(Path::ROOT, &mut |path, _, _| {
        let of_head = path.to_string().starts_with("norm") || path.to_string().starts_with("critic");
        assert_eq!(grads[k].is_zero(), of_head, "{path}");
        k += 1;
    });
    assert_eq!(k, grads.len());
}

#[test]
fn the_summary_shows_every_node() {
    let case = image_and_scalars();
    let shapes: Vec<Shape> = case.x.iter().map(Tensor::shape).collect();
    let table = summary_many(&case.net, &shapes).unwrap();
    assert_eq!(summary_many(&case.net, [&[6, 2, 4, 5][..], &[6, 3]]).unwrap(), table);
    // A box has all that its layer has, the names of the inputs, too.
    let boxed: Box<dyn Layer<f64>> = Box::new(case.net.clone());
    assert_eq!(summary_many(&boxed, &shapes).unwrap(), table);
    assert_eq!(table.outputs(), [Shape::new(&[6, 2]).unwrap()]);
    let text = table.to_string();
    for row in ["[6, 2, 4, 5]", "conv ", "[6, 3, 4, 5]", "both ", "[6, 63]", "fc ", " ← conv"] {
        assert!(text.contains(row), "{row}: {text}");
    }
}

#[test]
fn what_can_not_be_wired_is_refused_by_name() {
    type Builder = backrule_nn::GraphBuilder<f32>;
    let refusal = |build: &dyn Fn(&mut Builder) -> Vec<backrule_nn::Value>| {
        let mut g = Graph::<f32>::builder();
        let outputs = build(&mut g);
        g.build(outputs).unwrap_err().to_string()
    };
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        let [other] = Graph::<f32>::builder().inputs(["x"]);
        vec![g.layer("relu", Relu, [other]), x]
    });
    assert_eq!(message, "Graph: value: expected one of this builder's, got another builder's");
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        g.layer("idle", Relu, [x]);
        vec![x]
    });
    assert_eq!(message, "Graph: nodes: expected nodes that are used, got `idle`, unused");
    let message = refusal(&|g| {
        let [x, _] = g.inputs(["x", "y"]);
        vec![x]
    });
    assert_eq!(message, "Graph: inputs: expected inputs that are used, got `y`, unused");
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        vec![g.layer("relu", Relu, [x, x])]
    });
    assert_eq!(message, "Graph: inputs of a layer: expected 1 value, got 2 for `relu`");
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        let y = g.layer("a", Relu, [x]);
        vec![g.layer("a", Relu, [y])]
    });
    assert_eq!(message, "Graph: name of a child: expected a name that no other child has, got \"a\"");
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        vec![g.layer("relu", Relu, [x]).output(1)]
    });
    assert_eq!(message, "Graph: output: expected a number below 1, the outputs of `relu`, got 1");
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        vec![g.layer("relu", Relu, [x.output(1)])]
    });
    assert_eq!(message, "Graph: output: expected a number below 1, the outputs of `x`, got 1");
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        vec![g.again(x, [x])]
    });
    assert_eq!(message, "Graph: again: expected an output of this builder's, got an input");
    let message = refusal(&|g| {
        let [x] = g.inputs(["x"]);
        let mut other = Graph::<f32>::builder();
        let [a] = other.inputs(["a"]);
        let relu = other.layer("relu", Relu, [a]);
        vec![g.again(relu, [x])]
    });
    assert_eq!(message, "Graph: again: expected an output of this builder's, got another builder's");
    assert_eq!(refusal(&|_| vec![]), "Graph: inputs: expected 1 to 16, got 0");
}

#[test]
fn wrong_shapes_name_the_node() {
    let case = image_and_scalars();
    let error = predict_many(&case.net, &[&case.x[0], &normal(&[6, 4], 1)]).unwrap_err();
    assert!(error.to_string().starts_with("fc: linear forward: expected [.., 63]"), "{error}");
    let error = predict_many(&case.net, &[&case.x[0]]).unwrap_err();
    assert_eq!(error.to_string(), "graph: inputs: expected 2, got 1");
    let error = backrule_nn::predict(&case.net, &case.x[0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "forward: expected inputs: 2, outputs: 1, by `forward_many` or `predict_many`, got one of each"
    );
    // In parts all inputs have the first one's first axis.
    let mut tape = Tape::new().parts(2).unwrap();
    let error = tape.forward_many(&case.net, &[&case.x[0], &normal(&[5, 3], 1)], TRAIN).err().unwrap();
    assert!(error.to_string().contains("a first axis of 6 for input 1"), "{error}");
}

/// A node of the tree of parts runs in another process: its gradients, added as the tree is, have the bits of
/// one process.
#[test]
fn processes_that_share_the_parts_give_the_bits_of_one() {
    for case in [image_and_scalars(), towers(), encoder_decoder()] {
        for (parts, ranks) in [(4, 2), (4, 4), (8, 2), (3, 2)] {
            let mut whole = Grads::new(&case.net).unwrap();
            pass(&mut Tape::new().parts(parts).unwrap(), &case, &mut whole);
            let y = predict_many(&case.net, &case.x.iter().collect::<Vec<_>>()).unwrap();
            let dy: Vec<_> = y.iter().zip(20..).map(|(y, seed)| normal(&y.shape(), seed)).collect();
            let size = usize::next_power_of_two(parts) / ranks;
            let mut nodes: Vec<Grads<f64>> = (0..ranks)
                .map(|rank| {
                    let here = rank * size..((rank + 1) * size).min(parts);
                    let rows = share(6, here.start, parts).start..share(6, here.end - 1, parts).end;
                    let x: Vec<_> = case.x.iter().map(|x| x.slice(rows.clone()).unwrap()).collect();
                    let dy: Vec<_> = dy.iter().map(|dy| dy.slice(rows.clone()).unwrap()).collect();
                    let mut grads = Grads::new(&case.net).unwrap();
                    let mut tape = Tape::new().parts(parts).unwrap().only(here, 6).unwrap();
                    let inputs: Vec<_> = x.iter().collect();
                    let run = tape.forward_many(&case.net, &inputs, TRAIN).unwrap();
                    run.backward_many(&dy.iter().map(Some).collect::<Vec<_>>(), &mut grads).unwrap();
                    grads
                })
                .collect();
            while nodes.len() > 1 {
                let pairs = nodes.chunks(2).map(|pair| {
                    let mut sum = pair[0].clone();
                    pair.get(1).map_or(Ok(()), |right| sum.add(right)).unwrap();
                    sum
                });
                nodes = pairs.collect();
            }
            assert_eq!(values(&nodes[0]), values(&whole), "{}: {parts} parts, {ranks} ranks", case.name);
        }
    }
}

/// A batch norm that is used twice: its buffers move by the mean of both uses' increments, with parts and
/// without, in one process and in several.
#[test]
fn buffers_move_alike_with_parts_and_processes() {
    let mut g = Graph::<f64>::builder();
    let [a, b] = g.inputs(["a", "b"]);
    let norm = g.layer("norm", BatchNorm::new(2).unwrap(), [a]);
    let again = g.again(norm, [b]);
    let sum = g.layer("sum", Add, [norm, again]);
    let net = g.build([sum]).unwrap();
    // Equal halves, so a part's mean is the batch's.
    let half = [normal(&[4, 2], 1), normal(&[4, 2], 2)];
    let twice = |x: &Tensor<f64>| Tensor::from_vec([8, 2], [x.as_slice(), x.as_slice()].concat()).unwrap();
    let (x, dy) = ([twice(&half[0]), twice(&half[1])], normal(&[8, 2], 3));
    let increments = |grads: &Grads<f64>| {
        ["norm.running_mean", "norm.num_batches_tracked"].map(|path| {
            let grad = grads.of(&net, path).unwrap();
            let values = grad.to_tensor().unwrap();
            values.as_slice().iter().map(|x| x / grad.count() as f64).collect::<Vec<_>>()
        })
    };
    let run = |mut tape: Tape<f64>, rows: std::ops::Range<usize>, grads: &mut Grads<f64>| {
        let own: Vec<_> = x.iter().map(|x| x.slice(rows.clone()).unwrap()).collect();
        let dy = dy.slice(rows).unwrap();
        let inputs: Vec<_> = own.iter().collect();
        tape.forward_many(&net, &inputs, TRAIN).unwrap().backward_many(&[Some(&dy)], grads).unwrap();
    };
    let fresh = || Grads::new(&net).unwrap();
    let [mut whole, mut parts, mut processes, mut second] = [fresh(), fresh(), fresh(), fresh()];
    let two = || Tape::new().parts(2).unwrap();
    run(Tape::new(), 0..8, &mut whole);
    run(two(), 0..8, &mut parts);
    run(two().only(0..1, 8).unwrap(), 0..4, &mut processes);
    run(two().only(1..2, 8).unwrap(), 4..8, &mut second);
    processes.add(&second).unwrap();
    for other in [&parts, &processes] {
        for (whole, other) in increments(&whole).iter().flatten().zip(increments(other).iter().flatten()) {
            assert!((whole - other).abs() < 1e-14, "{whole} {other}");
        }
    }
    assert_eq!(increments(&whole)[1], [1.0]);
    assert_eq!(values(&processes), values(&parts));
}

/// The rows that `only` runs are checked, also where there are none.
#[test]
fn a_share_of_the_wrong_size_is_refused() {
    let net = Linear::<f64>::new(2, 3, &mut random::rng(1)).unwrap();
    let tape = || Tape::new().parts(2).unwrap().only(0..1, 10).unwrap();
    for shape in [&[0, 2][..], &[4, 2], &[2]] {
        let error = tape().forward(&net, &Tensor::zeros(shape).unwrap(), TRAIN).map(drop).unwrap_err();
        assert!(error.to_string().contains("the 5 rows of parts 0..1"), "{error}");
    }
    assert!(Tape::<f64>::new().parts(6).unwrap().only(0..usize::MAX, 7).is_err());
    // Rightly without rows: two samples have no parts 2 and 3.
    let mut tape = Tape::new().parts(4).unwrap().only(2..4, 2).unwrap();
    let (x, mut grads) = (Tensor::zeros([0, 2]).unwrap(), Grads::new(&net).unwrap());
    let pass = tape.forward(&net, &x, TRAIN).unwrap();
    assert_eq!(pass.output().shape(), [0, 3]);
    pass.backward(&Tensor::zeros([0, 3]).unwrap(), &mut grads).unwrap();
    assert!(grads.iter().all(backrule_tensor::Grad::is_zero));
}

/// Graphs in graphs, each of which uses its child twice: a file of a kilobyte would describe a pass of 2³⁰
/// layers.
#[test]
fn a_pass_without_end_is_refused() {
    let graph = |children| {
        let options = Options::new()
            .with("inputs", vec!["a".to_string()])
            .with("nodes", vec![0_usize, 0])
            .with("arity", vec![1_usize, 1])
            .with("from", vec![0_usize, 1])
            .with("outputs", vec![2_usize]);
        backrule_nn::LayerSpec { name: "x".to_string(), kind: "Graph".to_string(), options, children }
    };
    let mut specs = vec![graph(1); 30];
    specs.push(backrule_nn::LayerSpec {
        name: "x".to_string(),
        kind: "Relu".to_string(),
        ..backrule_nn::LayerSpec::default()
    });
    let error = Architecture::try_from(specs).unwrap().build::<f32>(0).err().unwrap();
    assert!(error.to_string().contains("at most 65536 runs in a pass"), "{error}");
}

/// A graph that is built can be saved, and a saved one can be built: both have the limits of settings.
#[test]
fn a_graph_has_the_limits_of_its_settings() {
    let of = |sums: usize, rest: usize| {
        let mut g = Graph::<f32>::builder();
        let [x] = g.inputs(["x"]);
        let mut sum = x;
        for i in 0..sums {
            sum = g.layer(format!("sum{i}"), Add, [sum].into_iter().chain([x; 15]));
        }
        let y = g.layer("rest", Add, [sum].into_iter().chain(vec![x; rest]));
        g.build([y])
    };
    // 255 · 16 + 16 and + 17 values.
    let net = of(255, 15).unwrap();
    let architecture = Architecture::of(&net).unwrap();
    let again = architecture.build::<f32>(0).unwrap();
    assert_eq!(Architecture::of(&*again).unwrap(), architecture);
    let message = "Graph: from: expected at most 4096 values in a list, got more";
    assert_eq!(of(256, 0).unwrap_err().to_string(), message);
    // As a file has it.
    let mut json = serde_json::to_value(&architecture).unwrap();
    let read = serde_json::from_value::<Architecture>(json.clone()).unwrap();
    assert_eq!(Architecture::of(&*read.build::<f32>(0).unwrap()).unwrap(), architecture);
    json[0]["options"]["from"].as_array_mut().unwrap().push(0.into());
    let error = serde_json::from_value::<Architecture>(json.clone()).unwrap_err().to_string();
    assert_eq!(error, "from: expected at most 4096 values in a list, got more");
    json[0]["options"]["from"].as_array_mut().unwrap().pop();
    json[0]["options"]["inputs"] = vec!["x".repeat(257)].into();
    let error = serde_json::from_value::<Architecture>(json).unwrap_err().to_string();
    assert_eq!(error, "inputs: expected at most 256 bytes of a word, got 257");

    let named = |bytes: usize| {
        let mut g = Graph::<f32>::builder();
        let [x] = g.inputs([&*"x".repeat(bytes)]);
        let y = g.layer("relu", Relu, [x]);
        g.build([y]).map(drop)
    };
    named(256).unwrap();
    let error = named(257).unwrap_err().to_string();
    assert_eq!(error, "Graph: inputs: expected at most 256 bytes of a word, got 257");
}

/// Frozen: constants, evaluation inside, no derivative computed; thawed without building anything anew.
#[test]
fn frozen_layers_stay_and_let_gradients_through() {
    let rng = &mut random::rng(5);
    let front = Sequential::builder()
        .layer("fc", Linear::new(4, 5, rng).unwrap())
        .layer("norm", BatchNorm::new(5).unwrap())
        .build()
        .unwrap();
    let mut net = Sequential::<f64>::builder()
        .layer("first", Linear::new(4, 4, rng).unwrap())
        .layer("front", Frozen::new(front))
        .layer("head", Linear::new(5, 2, rng).unwrap())
        .build()
        .unwrap();
    let (x, dy) = (normal(&[6, 4], 1), normal(&[6, 2], 2));
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&net).unwrap());
    tape.forward(&net, &x, TRAIN).unwrap().backward(&dy, &mut grads).unwrap();
    net.visit(Path::ROOT, &mut |path, role, _| {
        let frozen = path.to_string().starts_with("front");
        assert_eq!(role == Role::Constant, frozen, "{path}");
        assert_eq!(grads.of(&net, &path.to_string()).unwrap().is_zero(), frozen, "{path}");
    });
    let check = Gradcheck { mode: TRAIN, ..Gradcheck::new(1) };
    let report = check.run(&mut net, &x).unwrap();
    assert_eq!(report.elements, 6 * 4 + 4 * 4 + 4 + 5 * 2 + 2);
}

/// A batch norm without parameters in front: its buffers are wanted, though nobody wants ∂l/∂x.
#[test]
fn a_sequence_goes_back_to_the_first_buffer() {
    let norm = backrule_nn::BatchNormConfig::new(4).affine(false).build::<f64>().unwrap();
    let net = Sequential::builder()
        .layer("norm", norm)
        .layer("fc", Linear::new(4, 2, &mut random::rng(1)).unwrap())
        .build()
        .unwrap();
    let (x, dy) = (normal(&[6, 4], 1), normal(&[6, 2], 2));
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&net).unwrap());
    tape.forward(&net, &x, TRAIN).unwrap().backward(&dy, &mut grads).unwrap();
    let mean = grads.of(&net, "norm.running_mean").unwrap();
    assert_eq!((mean.count(), mean.is_zero()), (1, false));
}

/// The first input of the sum is the network's, and nobody wants its gradient.
#[test]
fn a_gradient_goes_through_any_input_of_a_node() {
    let mut g = Graph::<f64>::builder();
    let [x] = g.inputs(["x"]);
    let y = g.layer("fc", Linear::new(2, 2, &mut random::rng(1)).unwrap(), [x]);
    let sum = g.layer("sum", Add, [x, y]);
    let net = g.build([sum]).unwrap();
    let x = normal(&[3, 2], 1);
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&net).unwrap());
    let run = tape.forward(&net, &x, TRAIN).unwrap();
    run.backward(&Tensor::full([3, 2], 1.0).unwrap(), &mut grads).unwrap();
    assert_eq!(grads[1].get().unwrap().as_slice(), [3.0, 3.0]);
}

#[test]
fn a_node_of_another_builder_is_refused() {
    let mut other = Graph::<f64>::builder();
    let [x] = other.inputs(["x"]);
    let node = other.layer("relu", backrule_nn::Relu, [x]);
    let mut g = Graph::<f64>::builder();
    let [z] = g.inputs(["z"]);
    let stranger = g.again(node, [z]);
    let again = g.again(stranger, [z]);
    assert!(g.build([again]).unwrap_err().to_string().starts_with("Graph: "));
}
