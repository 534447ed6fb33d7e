//! An encoder with attention, on sequences of different lengths: does the marked bracket have a partner?
//!
//! A token is a bracket of one of six kinds that opens or closes. One bracket that opens is marked. The class
//! of a sequence is whether a bracket of the same kind closes anywhere in it. Which brackets there are says
//! nothing: a network has to look from the marked one at all others. So the same network is trained without
//! attention, too, and stays near chance.
//!
//! ```console
//! $ cargo run --release --example 09_attention
//! ```

use std::error::Error;
use std::ops::RangeInclusive;

use backrule::prelude::*;
use backrule::tensor::random::Rng;

const KINDS: usize = 6;
/// The kind, whether it closes, whether it is marked.
const INPUTS: usize = KINDS + 2;
const FEATURES: usize = 16;
const HEADS: usize = 2;
const SHORTEST: usize = 3;
const LONGEST: usize = 12;
const STEPS: usize = 3000;
const BATCH: usize = 64;
/// The largest norm of a step's gradients: when attention finds its target, they grow all at once.
const NORM: f64 = 0.3;
/// Of 1,000 sequences nobody trained on: right with attention at least, and without it at most.
const CLAIMS: [f64; 2] = [0.98, 0.7];

/// The mean of a sequence over time, without the elements behind its end. For x `[batch, time, features]` and
/// lengths `[batch]`
///
/// y = (Σₜ x(t)) / length over all t below the length.
///
/// Its rule: ∂l/∂x(t) = ∂l/∂y / length there, and 0 behind the end.
#[derive(Clone)]
struct MeanOverLengths;

impl MeanOverLengths {
    fn shape(x: Shape, lengths: Shape) -> Result<[usize; 3], LayerError> {
        match x[..] {
            [batch, time, features] if lengths == [batch] => Ok([batch, time, features]),
            _ => {
                let got = format!("{x}, {lengths}");
                Err(ShapeError::new("mean over lengths", "[batch, time, _], [batch]", got).into())
            }
        }
    }

    /// Lengths are numbers like all others, so they are checked where they are used.
    fn length<T: Scalar>(length: T, time: usize) -> Result<usize, LayerError> {
        let exact = length.to_f64();
        if exact.fract() == 0.0 && (1.0..=time as f64).contains(&exact) {
            return Ok(exact as usize);
        }
        Err(LayerError::value("mean over lengths", format!("a length from 1 to {time}"), length))
    }
}

impl<T: Scalar> NamedTensors<T> for MeanOverLengths {}

impl<T: Scalar> Layer<T> for MeanOverLengths {
    backrule::nn::through_many!(T);

    fn inputs(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        let (&[x, lengths], [y]) = (x, y) else { return Err(not_two(x.len())) };
        let [batch, _, features] = Self::shape(x, lengths)?;
        *y = Shape::new(&[batch, features])?;
        Ok(())
    }

    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        _: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        let (&[x, lengths], [y]) = (x, y) else { return Err(not_two(x.len())) };
        let [batch, time, features] = Self::shape(x.shape(), lengths.shape())?;
        y.resize(Shape::new(&[batch, features])?)?;
        y.fill(T::ZERO);
        let mut rows = x.rows();
        for (y, &length) in y.rows_mut().zip(lengths.as_slice()) {
            let length = Self::length(length, time)?;
            for x in rows.by_ref().take(time).take(length) {
                y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
            }
            rows.by_ref().take(time - length).for_each(drop);
            let factor = T::from_f64(1.0 / length as f64);
            y.iter_mut().for_each(|y| *y *= factor);
        }
        Ok(())
    }

    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let (&[x, lengths], &[dy], [dx, of_lengths]) = (at.x, dy, dx) else {
            return Err(not_two(at.x.len()));
        };
        let [batch, time, features] = Self::shape(x.shape(), lengths.shape())?;
        // A wanted gradient is overwritten, with zeros where there is no derivative.
        for (dx, x) in [(&mut *dx, x), (of_lengths, lengths)] {
            if let Some(dx) = dx {
                dx.resize(x.shape())?;
                dx.fill(T::ZERO);
            }
        }
        let (Some(dx), Some(dy)) = (dx, dy) else { return Ok(()) };
        if dy.shape() != [batch, features] {
            return Err(
                ShapeError::new("mean over lengths", format!("[{batch}, {features}]"), dy.shape()).into()
            );
        }
        let samples = dx.as_mut_slice().chunks_exact_mut((time * features).max(1));
        for ((dx, dy), &length) in samples.zip(dy.rows()).zip(lengths.as_slice()) {
            let length = Self::length(length, time)?;
            let factor = T::from_f64(1.0 / length as f64);
            for dx in dx.chunks_exact_mut(features).take(length) {
                dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = factor * dy);
            }
        }
        Ok(())
    }
}

fn not_two(inputs: usize) -> LayerError {
    LayerError::count("mean over lengths", "two inputs, one output", inputs)
}

/// Tokens and lengths → one score for each class, and the heads' weights.
fn network(attention: bool, rng: &mut impl Rng) -> Result<Graph, Box<dyn Error>> {
    let config = MultiHeadAttentionConfig::new(FEATURES, HEADS).lengths(true).probabilities(true);
    let mut g = Graph::builder();
    let [tokens, lengths] = g.inputs(["tokens", "lengths"]);
    let mut x = g.layer("embed", Linear::new(INPUTS, FEATURES, rng)?, [tokens]);
    let mut outputs = Vec::new();
    if attention {
        let attention: MultiHeadAttention = config.build(rng)?;
        let attended = g.layer("attention", attention, [x, lengths]);
        x = g.layer("sum", Add, [x, attended]);
        outputs.push(attended.output(1));
    }
    let hidden = g.layer("hidden", Linear::new(FEATURES, FEATURES, rng)?, [x]);
    let hidden = g.layer("relu", Relu, [hidden]);
    let mean = g.layer("mean", MeanOverLengths, [hidden, lengths]);
    let scores = g.layer("scores", Linear::new(FEATURES, 2, rng)?, [mean]);
    outputs.insert(0, scores);
    Ok(g.build(outputs)?)
}

/// A bracket.
#[derive(Clone, Copy)]
struct Token {
    kind: usize,
    closes: bool,
    marked: bool,
}

/// Sequences of different lengths, in any order of their tokens.
struct Data {
    /// `[batch, LONGEST, INPUTS]`; zeros behind the ends.
    tokens: Tensor,
    lengths: Tensor,
    classes: Vec<usize>,
    sequences: Vec<Vec<Token>>,
}

impl Data {
    fn new(count: usize, rng: &mut impl Rng) -> Result<Self, Box<dyn Error>> {
        let (mut sequences, mut classes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut below = |n| random::below(rng, n);
            let (kind, class) = (below(KINDS), below(2));
            let other = |offset: usize| (kind + 1 + offset) % KINDS;
            let partner = if class == 1 { kind } else { other(below(KINDS - 1)) };
            let mut sequence = vec![
                Token { kind, closes: false, marked: true },
                Token { kind: partner, closes: true, marked: false },
            ];
            // The rest closes nothing of the marked kind.
            for _ in 2..SHORTEST + below(LONGEST - SHORTEST + 1) {
                let closes = below(2) == 1;
                let kind = if closes { other(below(KINDS - 1)) } else { below(KINDS) };
                sequence.push(Token { kind, closes, marked: false });
            }
            random::shuffle(&mut sequence, rng);
            sequences.push(sequence);
            classes.push(class);
        }
        let lengths = sequences.iter().map(|sequence| sequence.len() as f32).collect();
        let tokens = Tensor::from_fn([count, LONGEST, INPUTS], |at| {
            let Some(token) = sequences[at[0]].get(at[1]) else { return 0.0 };
            let is = match at[2] {
                KINDS => token.closes,
                i if i > KINDS => token.marked,
                i => i == token.kind,
            };
            f32::from(is)
        })?;
        Ok(Self { tokens, lengths: Tensor::from_vec([count], lengths)?, classes, sequences })
    }
}

/// Trains on batches of new sequences, and returns the accuracy on `test`.
fn train(net: &mut Graph, test: &Data, rng: &mut impl Rng) -> Result<f64, Box<dyn Error>> {
    let mut optimizer = Optimizer::new(Sgd::new(0.1)?.momentum(0.9)?, net)?;
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(net)?, Tensor::default());
    let mut loss = 0.0;
    println!("step   loss    test accuracy");
    for step in 1..=STEPS {
        let Data { tokens, lengths, classes, .. } = Data::new(BATCH, rng)?;
        let pass = tape.forward_many(net, &[&tokens, &lengths], Mode::train())?;
        loss += CrossEntropy::new().value_and_grad(pass.output(), &classes[..], &mut dy)?;
        // There is no loss on the probabilities.
        let of_outputs = [Some(&dy), None];
        let outputs = pass.outputs().len();
        pass.backward_many(&of_outputs[..outputs], &mut grads)?;
        grads.clip_norm(NORM)?;
        optimizer.step(net, &mut grads)?;
        if step.is_multiple_of(STEPS / 10) {
            println!("{step:5}  {:.4}  {:.3}", loss / (STEPS / 10) as f32, accuracy(net, test)?);
            loss = 0.0;
        }
    }
    accuracy(net, test)
}

fn accuracy(net: &Graph, data: &Data) -> Result<f64, Box<dyn Error>> {
    let outputs = predict_many(net, &[&data.tokens, &data.lengths])?;
    let right = outputs[0].argmax_rows().zip(&data.classes).filter(|(guess, class)| guess == *class).count();
    Ok(right as f64 / data.classes.len() as f64)
}

/// The attention of the marked bracket in two sequences of each class, in percent for each head.
fn show(net: &Graph, data: &Data) -> Result<(), Box<dyn Error>> {
    let outputs = predict_many(net, &[&data.tokens, &data.lengths])?;
    for (class, title) in [(1, "a partner"), (0, "no partner")] {
        let of_class = (0..data.classes.len()).filter(|&sample| data.classes[sample] == class);
        for sample in of_class.take(2) {
            let sequence = &data.sequences[sample];
            let brackets = sequence.iter().map(|token| {
                let letter = (b'a' + token.kind as u8) as char;
                let mark = if token.marked { '*' } else { ' ' };
                if token.closes { format!("{letter:>4})") } else { format!("{mark:>3}({letter}") }
            });
            println!("\n{title:10} {}", brackets.collect::<String>());
            let marked = sequence.iter().position(|token| token.marked).unwrap_or_default();
            for head in 0..HEADS {
                let row = (sample * HEADS + head) * LONGEST + marked;
                let row = outputs[1].row(row).unwrap_or_default().iter().take(sequence.len());
                println!("head {head}     {}", row.map(|p| format!("{:5.0}", 100.0 * p)).collect::<String>());
            }
        }
    }
    println!();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (x, lengths) =
        (Tensor::normal([3, 4, 2], 0.0, 1.0, &mut random::rng(1))?, Tensor::from([4.0, 1.0, 3.0]));
    let report = Gradcheck::new(2).run_many(&mut MeanOverLengths, &[&x, &lengths], &[true, false])?;
    println!("the mean over lengths: {report}\n");

    let test = Data::new(1000, &mut random::rng(3))?;
    let mut right = [0.0; 2];
    for (right, attention) in right.iter_mut().zip([true, false]) {
        println!("{} attention", if attention { "with" } else { "without" });
        let mut net = network(attention, &mut random::rng(4))?;
        *right = train(&mut net, &test, &mut random::rng(5))?;
        if attention {
            show(&net, &test)?;
        }
    }
    if right[0] < CLAIMS[0] || right[1] > CLAIMS[1] {
        return Err(format!("accuracy {:.3} and {:.3}, not {CLAIMS:?}", right[0], right[1]).into());
    }
    println!(
        "\nWith attention it knows {:.1} % of the partners, without {:.1} %.",
        100.0 * right[0],
        100.0 * right[1]
    );
    Ok(())
}
