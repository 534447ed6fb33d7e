use std::fmt;

use backrule_tensor::{IntoShape, Path, Scalar, Shape};

use crate::{Layer, LayerError};

/// A network as a table: every layer's place, kind, output shape and number of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    input: Shape,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    path: String,
    layer: String,
    output: Shape,
    parameters: usize,
}

/// The summary of `net` for inputs of shape `input`, without computing anything.
///
/// # Errors
/// When the network doesn't take such an input; the error names the layer that refuses.
pub fn summary<T: Scalar>(net: &dyn Layer<T>, input: impl IntoShape) -> Result<Summary, LayerError> {
    let input = input.into_shape()?;
    let mut summary = Summary { input, rows: Vec::new() };
    net.summarize(Path::ROOT, input, &mut summary)?;
    Ok(summary)
}

impl Summary {
    /// Adds a line: what [`Layer::summarize`] does.
    pub fn add(&mut self, path: Path<'_>, layer: String, output: Shape, parameters: usize) {
        self.rows.push(Row { path: path.to_string(), layer, output, parameters });
    }

    /// The number of parameters of the whole network.
    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|row| row.parameters).sum()
    }

    /// The shape of the network's output.
    pub fn output(&self) -> Shape {
        self.rows.last().map_or(self.input, |row| row.output)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![["name", "layer", "output", "parameters"].map(String::from)];
        lines.push(["".into(), "input".into(), self.input.to_string(), "".into()]);
        lines.extend(self.rows.iter().map(|row| {
            let parameters = match row.parameters {
                0 => String::new(),
                n => thousands(n),
            };
            [row.path.clone(), row.layer.clone(), row.output.to_string(), parameters]
        }));
        lines.push(["total".into(), "".into(), "".into(), thousands(self.parameters())]);

        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let [a, b, c, d] = [0, 1, 2, 3].map(|column| width(column).unwrap_or(0));
        let rule = "─".repeat(a + b + c + d + 6);
        for (i, [name, layer, output, parameters]) in lines.iter().enumerate() {
            if i == 1 || i == lines.len() - 1 {
                writeln!(f, "{rule}")?;
            }
            let line = format!("{name:a$}  {layer:b$}  {output:c$}  {parameters:>d$}");
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
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
    }
}
