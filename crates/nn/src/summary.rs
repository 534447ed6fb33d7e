//! A network as a table for people. It stands above the layers, and knows of them what data tell.

use std::fmt;

use backrule_tensor::{IntoShape, MemoryError, Path, Role, Scalar, Shape, memory};

use crate::catalogue::{describe, kind};
use crate::error::LayerError;
use crate::layer::sealed::Sealed;
use crate::layer::{Layer, MAX_OUTPUTS};

/// A network as a table: every layer's place, kind, output shape and number of parameters.
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

/// Values that are trained, by the paths of their tensors. The outermost layer says what is: one that is
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
    /// The number of parameters of the whole network: what is trained.
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

        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|column| width(column).unwrap_or(0));
        // Most networks need no column for what is frozen.
        let rule = "─".repeat(a + b + c + d + 6 + if frozen > 0 { e + 2 } else { 0 });
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
    use crate::layers::{BatchNorm, Dropout, Frozen, Graph, Linear, Sequential, freeze, thaw};

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

    /// Wherever they are frozen, and whatever is within: what was a parameter before is counted once, and no
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

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
    }
}
