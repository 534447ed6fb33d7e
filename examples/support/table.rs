//! Aligned columns of plain text.

use std::fmt;

/// A header, rows, and columns as wide as their widest cell, aligned to the right as numbers
/// should be.
///
/// Rows may differ in length. Widths are counted in characters.
///
/// ```
/// let mut table = backrule_examples::table::Table::new(["epoch", "loss"]);
/// table.row(["1", "0.25"]).row(["10", "0.125"]);
/// assert_eq!(table.to_string(), "\
/// epoch   loss
/// ────────────
///     1   0.25
///    10  0.125");
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    /// The cells of each row; a rule is a row without cells.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this header, and a rule below it.
    #[must_use]
    pub fn new<C: Into<String>>(header: impl IntoIterator<Item = C>) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(header).rule();
        table
    }

    /// Adds a row.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) -> &mut Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// Adds a horizontal rule.
    pub fn rule(&mut self) -> &mut Self {
        self.rows.push(Vec::new());
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let total = (widths.iter().sum::<usize>() + 2 * widths.len()).saturating_sub(2);
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths);
            let cells: Vec<_> = cells.map(|(cell, &width)| format!("{cell:>width$}")).collect();
            if cells.is_empty() { "─".repeat(total) } else { cells.join("  ") }
        };
        f.write_str(&self.rows.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_even_if_rows_differ() {
        let mut table = Table::new(["epoch", "n"]);
        table.row(["1", "·"]).row(["10"]).rule().row(["100", "–––", "x"]);
        let expected = "\
epoch    n
─────────────
    1    ·
   10
─────────────
  100  –––  x";
        assert_eq!(table.to_string(), expected);
        assert_eq!(Table::new([""; 0]).to_string(), "\n");
    }
}
