//! A network as a table for people. It stands above the layers, and knows them from data alone.

use std::fmt;

use backrule_tensor::{IntoShape, MemoryError, Path, Role, Scalar, Shape, memory};

use crate::catalogue::{describe, kind};
use crate::error::LayerError;
use crate::layer::sealed::Sealed;
use crate::layer::{Layer, MAX_OUTPUTS};

/// A network as a table: every layer's place, kind, output shape and number of parameters. It is at most 100
/// columns wide, unless names, words or shapes are long: a layer of many settings has several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The shape of each, and the name where the network gives it one.
    inputs: Vec<(String, Shape)>,
    rows: Vec<Row>,
    outputs: Vec<Shape>,
    parameters: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    path: String,
    layer: String,
    outputs: Vec<Shape>,
    parameters: usize,
    frozen: usize,
}

/// The summary of `net` for inputs of shape `input`, without computing anything.
///
/// # Errors
/// When the network doesn't take such an input; the error names the layer that refuses.
pub fn summary<T: Scalar>(net: &dyn Layer<T>, input: impl IntoShape) -> Result<Summary, LayerError> {
    if !net.inputs().contains(&1) {
        let expected = format!("{}, by `summary_many`", net.inputs().start());
        return Err(LayerError::count("summary: shapes of inputs", expected, 1));
    }
    summary_many(net, [input])
}

/// The same for a network of several inputs, with a shape for each: arrays, [`Shape`]s, or where the number
/// of axes differs slices such as `[&[4, 16][..], &[4]]`.
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Concat, Graph, Linear, summary_many};
///
/// let mut g = Graph::builder();
/// let [image, scalars] = g.inputs(["image", "scalars"]);
/// let both = g.layer("both", Concat::new(1)?, [image, scalars]);
/// let class = g.layer("class", Linear::new(16 + 3, 5, &mut random::rng(1))?, [both]);
/// let net: Graph = g.build([class])?;
///
/// let summary = summary_many(&net, [[4, 16], [4, 3]])?;
/// assert_eq!(summary.parameters(), (16 + 3) * 5 + 5);
/// assert!(summary.to_string().contains("Concat(axis 1) ← image, scalars"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`summary`].
pub fn summary_many<T: Scalar>(
    net: &dyn Layer<T>,
    inputs: impl IntoIterator<Item: IntoShape>,
) -> Result<Summary, LayerError> {
    let inputs = inputs.into_iter().map(IntoShape::into_shape).collect::<Result<Vec<_>, _>>()?;
    of_shapes(net, inputs)
}

fn of_shapes<T: Scalar>(net: &dyn Layer<T>, inputs: Vec<Shape>) -> Result<Summary, LayerError> {
    let mut rows = Vec::new();
    let trained = trained(net)?;
    let outputs = add_rows(net, Path::ROOT, &inputs, &trained, &mut rows)?;
    let parameters = below(&trained, "");
    let names = net
        .input_names(Sealed)
        .iter()
        .map(|name| name.escape_debug().to_string())
        .chain(std::iter::repeat(String::new()));
    let inputs = names.zip(inputs).collect();
    Ok(Summary { inputs, rows, outputs, parameters })
}

/// A row for every layer: of a container, its own before its children's. The outermost one is the table
/// itself.
fn add_rows<T: Scalar>(
    layer: &dyn Layer<T>,
    path: Path<'_>,
    inputs: &[Shape],
    trained: &[(String, usize)],
    rows: &mut Vec<Row>,
) -> Result<Vec<Shape>, LayerError> {
    let mut outputs = [Shape::EMPTY; MAX_OUTPUTS];
    let count = layer.outputs();
    let outputs = outputs.get_mut(..count);
    let outputs = outputs.ok_or_else(|| LayerError::count("layer: outputs", "at most 16", count))?;
    layer.output_shapes(inputs, outputs)?;
    let outputs = outputs.to_vec();
    let before = rows.len();
    let shown = layer.walk(Sealed, inputs, &mut |step| {
        let (name, own) = (step.name, rows.len());
        let added = add_rows(step.layer, path.join(name), step.inputs, trained, rows);
        added.map_err(|error| error.within(name))?;
        if let (Some(from), Some(row)) = (step.from, rows.get_mut(own)) {
            row.layer = format!("{} ← {}", row.layer, from().escape_debug());
        }
        Ok(())
    })?;
    // A name may come from a file, and must not write to the terminal.
    let text = path.to_string();
    let path = text.escape_debug().to_string();
    if !shown {
        // A layer that is used again has its parameters once.
        let again = rows.iter().any(|row| row.path == path);
        let parameters = if again { 0 } else { below(trained, &text) };
        // Parameters that the layer would train, and the outermost one doesn't.
        let frozen = if again { 0 } else { own(layer).saturating_sub(parameters) };
        let layer = describe(layer);
        memory::push("summary", rows, Row { path, layer, outputs: outputs.clone(), parameters, frozen })?;
    } else if !path.is_empty() {
        // The settings of a container are how its children are put together: the table shows that.
        let layer = kind(layer);
        memory::make_room("summary", rows, 1)?;
        rows.insert(before, Row { path, layer, outputs: outputs.clone(), parameters: 0, frozen: 0 });
    }
    Ok(outputs)
}

/// Values that are trained, by the paths of their tensors. The outermost layer says which: one that is
/// frozen holds layers that know nothing of it.
fn trained<T: Scalar>(net: &dyn Layer<T>) -> Result<Vec<(String, usize)>, MemoryError> {
    let (mut trained, mut outcome) = (Vec::new(), Ok(()));
    net.visit(Path::ROOT, &mut |path, role, tensor| {
        if role == Role::Parameter && outcome.is_ok() {
            outcome = memory::push("summary", &mut trained, (path.to_string(), tensor.len()));
        }
    });
    outcome.map(|()| trained)
}

/// The values that a layer by itself would train.
fn own<T: Scalar>(layer: &dyn Layer<T>) -> usize {
    let mut own = 0_usize;
    layer.visit(Path::ROOT, &mut |_, role, tensor| {
        own += if role == Role::Parameter { tensor.len() } else { 0 };
    });
    own
}

/// The values among them that are at or below `path`.
fn below(trained: &[(String, usize)], path: &str) -> usize {
    let is_below = |tensor: &str| match tensor.strip_prefix(path) {
        Some(rest) => path.is_empty() || rest.is_empty() || rest.starts_with('.'),
        None => false,
    };
    trained.iter().filter(|(tensor, _)| is_below(tensor)).map(|(_, len)| len).sum()
}

impl Summary {
    /// The number of parameters of the whole network: the trained values.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The number of values that would be parameters if their layers were not [frozen](crate::Frozen). The
    /// table has a column of them where there are any.
    ///
    /// ```
    /// use backrule_nn::tensor::random;
    /// use backrule_nn::{Linear, Sequential, freeze, summary};
    ///
    /// let rng = &mut random::rng(1);
    /// let mut net: Sequential = Sequential::builder()
    ///     .layer("front", Linear::new(3, 4, rng)?)
    ///     .layer("head", Linear::new(4, 2, rng)?)
    ///     .build()?;
    /// freeze(&mut net, "front")?;
    /// let summary = summary(&net, [1, 3])?;
    /// assert_eq!((summary.parameters(), summary.frozen()), (4 * 2 + 2, 3 * 4 + 4));
    /// assert_eq!(
    ///     summary.to_string(),
    ///     "\
    /// name   layer                output  parameters  frozen
    /// ──────────────────────────────────────────────────────
    ///        input                [1, 3]
    /// front  Frozen               [1, 4]
    /// front  Linear(3 → 4, bias)  [1, 4]                  16
    /// head   Linear(4 → 2, bias)  [1, 2]          10
    /// ──────────────────────────────────────────────────────
    /// total                                       10      16"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn frozen(&self) -> usize {
        self.rows.iter().map(|row| row.frozen).sum()
    }

    /// The shapes of the network's outputs.
    pub fn outputs(&self) -> &[Shape] {
        &self.outputs
    }
}

/// `[1, 64]`, or `[1, 64] [3]` for several.
fn list(shapes: &[Shape]) -> String {
    shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(" ")
}

/// A name may come from a file, and must not write to the terminal.
fn printable(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    text.chars().map(escaped).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frozen = self.frozen();
        let number = |n: usize| if n == 0 { String::new() } else { thousands(n) };
        let mut lines = vec![["name", "layer", "output", "parameters", "frozen"].map(String::from)];
        for (name, shape) in &self.inputs {
            lines.push([printable(name), "input".into(), shape.to_string(), "".into(), "".into()]);
        }
        lines.extend(self.rows.iter().map(|row| {
            let [parameters, frozen] = [row.parameters, row.frozen].map(number);
            [printable(&row.path), printable(&row.layer), list(&row.outputs), parameters, frozen]
        }));
        lines.push(["total".into(), "".into(), "".into(), thousands(self.parameters()), number(frozen)]);

        let width = |lines: &[[String; 5]], column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
        };
        let [a, c, d, e] = [0, 2, 3, 4].map(|column| width(&lines, column));
        // Most networks need no column for frozen values.
        let others = a + c + d + 6 + if frozen > 0 { e + 2 } else { 0 };
        let room = COLUMNS.saturating_sub(others).max(LEAST);
        let lines: Vec<_> = lines.into_iter().flat_map(|line| broken(line, room)).collect();
        let b = width(&lines, 1);
        let rule = "─".repeat(others + b);
        for (i, [name, layer, output, parameters, frozen_here]) in lines.iter().enumerate() {
            if i == 1 || i == lines.len() - 1 {
                writeln!(f, "{rule}")?;
            }
            let mut line = format!("{name:a$}  {layer:b$}  {output:c$}  {parameters:>d$}");
            if frozen > 0 {
                line += &format!("  {frozen_here:>e$}");
            }
            f.write_str(line.trim_end())?;
            if i < lines.len() - 1 {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// No line is longer, as long as names and shapes leave a layer [`LEAST`] columns.
const COLUMNS: usize = 100;
const LEAST: usize = 30;

/// A line whose layer has more settings than there is room for goes on in others.
fn broken([name, layer, output, parameters, frozen]: [String; 5], room: usize) -> Vec<[String; 5]> {
    let mut pieces = vec![String::new()];
    for part in layer.split_inclusive(", ") {
        match pieces.last_mut() {
            Some(last)
                if last.is_empty() || last.chars().count() + part.trim_end().chars().count() <= room =>
            {
                last.push_str(part);
            }
            _ => pieces.push(format!("  {part}")),
        }
    }
    let mut pieces = pieces.into_iter().map(|piece| piece.trim_end().to_string());
    let first = [name, pieces.next().unwrap_or_default(), output, parameters, frozen];
    let more = pieces.map(|piece| ["".into(), piece, "".into(), "".into(), "".into()]);
    std::iter::once(first).chain(more).collect()
}

/// 1234567 as `1,234,567`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;
    use crate::layers::{
        BatchNorm, BatchNormConfig, Conv2dConfig, Dropout, Embedding, EmbeddingConfig, Flatten, Frozen, Gelu,
        Graph, LayerNorm, LayerNormConfig, Linear, LstmConfig, MaxPool2d, MaxPool2dConfig,
        MultiHeadAttentionConfig, Sequential, freeze, thaw,
    };

    #[test]
    fn the_column_adds_up_with_a_frozen_layer_too() {
        let rng = &mut random::rng(1);
        let net: Sequential = Sequential::builder()
            .layer("front", Frozen::new(Linear::new(3, 4, rng).unwrap()))
            .layer("head", Linear::new(4, 2, rng).unwrap())
            .build()
            .unwrap();
        let table = summary(&net, [1, 3]).unwrap();
        assert_eq!(table.parameters(), 4 * 2 + 2);
        assert_eq!(table.rows.iter().map(|row| row.parameters).sum::<usize>(), 4 * 2 + 2);
        assert_eq!(table.frozen(), 3 * 4 + 4);
    }

    /// Wherever they are frozen, and whatever is within: an earlier parameter is counted once, and no
    /// buffer is.
    #[test]
    fn all_that_freezing_takes_from_one_column_stands_in_the_other() {
        let rng = &mut random::rng(1);
        let linear = |rng: &mut _| Linear::new(4, 4, rng).unwrap();
        let inner = Sequential::builder()
            .layer("a", linear(rng))
            .layer("norm", BatchNorm::new(4).unwrap())
            .layer("drop", Dropout::new(0.5).unwrap());
        let mut g = Graph::builder();
        let [x] = g.inputs(["x"]);
        let inner = g.layer("inner", inner.build().unwrap(), [x]);
        let once = g.layer("twice", linear(rng), [inner]);
        let twice = g.again(once, [once]);
        let mut net: Graph = g.build([twice]).unwrap();
        let all = summary(&net, [2, 4]).unwrap();
        assert_eq!((all.parameters(), all.frozen()), (20 + 8 + 20, 0));
        assert!(!all.to_string().contains("frozen"), "{all}");
        let counts = |net: &Graph| {
            let table = summary(net, [2, 4]).unwrap();
            let text = table.to_string();
            let total = text.lines().last().unwrap();
            for n in [table.parameters(), table.frozen()].into_iter().filter(|n| *n > 0) {
                assert!(total.split_whitespace().any(|word| word == n.to_string()), "{text}");
            }
            (table.parameters(), table.frozen())
        };
        for (path, expected) in
            [("inner.a", (28, 20)), ("inner", (20, 28)), ("twice", (0, 48)), ("inner.norm", (0, 48))]
        {
            freeze(&mut net, path).unwrap();
            assert_eq!(counts(&net), expected, "{path}");
        }
        thaw(&mut net, "inner").unwrap();
        assert_eq!(counts(&net), (0, 48), "both layers in it are frozen themselves");
        thaw(&mut net, "inner.norm").unwrap();
        assert_eq!(counts(&net), (8, 40));
    }

    /// Longer than 100 columns, a table is broken in a terminal, and nobody can read it.
    #[test]
    fn a_table_of_usual_layers_fits_into_100_columns() {
        let rng = &mut random::rng(1);
        let conv = |inputs| Conv2dConfig::new(inputs, 512, [3, 3]).padding([1, 1]);
        let pool = MaxPool2dConfig::new([3, 3]).stride([2, 2]).padding([1, 1]);
        let net: Sequential = Sequential::builder()
            .layer("conv1", conv(256).build(rng).unwrap())
            .layer("norm1", BatchNorm::new(512).unwrap())
            .layer("pool1", pool.build().unwrap())
            .layer("conv2", conv(512).stride([2, 2]).build(rng).unwrap())
            .layer("depthwise", conv(512).groups(512).dilation([2, 1]).bias(false).build(rng).unwrap())
            .layer("pool2", MaxPool2d::new([2, 2]).unwrap())
            .build()
            .unwrap();
        let text = summary(&net, Shape::new(&[32, 256, 64, 64]).unwrap()).unwrap().to_string();
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let expected = "\
name       layer                                                     output             parameters
──────────────────────────────────────────────────────────────────────────────────────────────────
           input                                                     [32, 256, 64, 64]
conv1      Conv2d(256 → 512, kernel 3×3, padding 1×1, bias)          [32, 512, 64, 64]   1,180,160
norm1      BatchNorm(channels 512)                                   [32, 512, 64, 64]       1,024
pool1      MaxPool2d(kernel 3×3, stride 2×2, padding 1×1)            [32, 512, 32, 32]
conv2      Conv2d(512 → 512, kernel 3×3, stride 2×2, padding 1×1,    [32, 512, 16, 16]   2,359,808
             bias)
depthwise  Conv2d(512 → 512, kernel 3×3, padding 1×1, dilation 2×1,  [32, 512, 14, 16]       4,608
             groups 512, no bias)
pool2      MaxPool2d(kernel 2×2)                                     [32, 512, 7, 8]
──────────────────────────────────────────────────────────────────────────────────────────────────
total                                                                                    3,545,600";
        assert_eq!(text, expected);
    }

    #[test]
    fn several_inputs_have_a_function_of_their_own() {
        let mut g = Graph::<f32>::builder();
        let [a, b] = g.inputs(["a", "b"]);
        let sum = g.layer("sum", crate::layers::Add, [a, b]);
        let error = summary(&g.build([sum]).unwrap(), [1, 2]).unwrap_err().to_string();
        assert_eq!(error, "summary: shapes of inputs: expected 2, by `summary_many`, got 1");
    }

    /// Every setting that isn't its default stands in the table, and none that is.
    #[test]
    fn settings_are_shown_where_somebody_chose_them() {
        let rng = &mut random::rng(1);
        let attention = MultiHeadAttentionConfig::new(64, 8);
        let lstm = LstmConfig::new(8, 16);
        let layers: [(Box<dyn Layer<f32>>, &str); 14] = [
            (Box::new(Linear::<f32>::new(3, 4, rng).unwrap()), "Linear(3 → 4, bias)"),
            (
                Box::new(attention.build::<f32>(rng).unwrap()),
                "MultiHeadAttention(features 64, heads 8, bias)",
            ),
            (
                Box::new(attention.causal(true).lengths(true).build::<f32>(rng).unwrap()),
                "MultiHeadAttention(features 64, heads 8, bias, causal, lengths)",
            ),
            (Box::new(lstm.build::<f32>(rng).unwrap()), "Lstm(in_features 8, units 16, bias)"),
            (
                Box::new(lstm.layers(2).bidirectional(true).bias(false).build::<f32>(rng).unwrap()),
                "Lstm(in_features 8, units 16, layers 2, bidirectional, no bias)",
            ),
            (Box::new(Embedding::<f32>::new(9, 4, rng).unwrap()), "Embedding(rows 9, width 4)"),
            (
                Box::new(EmbeddingConfig::new(9, 4).padding_index(0).build::<f32>(rng).unwrap()),
                "Embedding(rows 9, width 4, padding_index 0)",
            ),
            (Box::new(LayerNorm::<f32>::new([4]).unwrap()), "LayerNorm(shape [4])"),
            (
                Box::new(LayerNormConfig::new([4, 6]).eps(0.5).affine(false).build::<f32>().unwrap()),
                "LayerNorm(shape 4×6, eps 0.5, no affine)",
            ),
            (
                Box::new(BatchNormConfig::new(8).momentum(0.5).build::<f32>().unwrap()),
                "BatchNorm(channels 8, momentum 0.5)",
            ),
            (Box::new(Gelu::tanh()), "Gelu(approximate \"tanh\")"),
            (Box::new(Dropout::new(0.5).unwrap()), "Dropout(rate 0.5)"),
            (
                Box::new(MaxPool2dConfig::new([2, 3]).stride([1, 2]).ceil_mode(true).build().unwrap()),
                "MaxPool2d(kernel 2×3, stride 1×2, ceil_mode)",
            ),
            (Box::new(Flatten::new(2).unwrap()), "Flatten(start_axis 2)"),
        ];
        for (layer, expected) in layers {
            assert_eq!(describe(&*layer), expected);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
    }
}
