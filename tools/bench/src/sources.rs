//! Descriptions of benchmarks, from the sources of their bench target.
//!
//! A comment of the form
//!
//! ```text
//! // `train_step/*`: forward, loss, backward and update
//! ```
//!
//! describes all ids that fit, `*` being any text. An id takes the longest pattern that fits. A pattern has a
//! `/` or a `*`. The line may be a plain or a doc comment, or an item of a list in one. The target's `//!`
//! text, without such lines, introduces its section.

use std::fs;
use std::path::Path;

use crate::Result;

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) introduction: String,
    /// Patterns and their descriptions.
    descriptions: Vec<(String, String)>,
}

/// The width of a line of Markdown.
const WIDTH: usize = 100;

/// Reads a target's file. A `main.rs` stands for all files of its folder.
pub(crate) fn read(file: &Path) -> Result<Source> {
    let text = |file: &Path| fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()));
    let mut source = parse(&text(file)?);
    if let (true, Some(folder)) = (file.ends_with("main.rs"), file.parent()) {
        let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let others =
            files.iter().filter(|other| *other != file && other.extension().is_some_and(|e| e == "rs"));
        for other in others {
            source.descriptions.extend(parse(&text(other)?).descriptions);
        }
    }
    Ok(source)
}

pub(crate) fn parse(text: &str) -> Source {
    let (mut paragraphs, mut descriptions) = (vec![String::new()], Vec::new());
    for line in text.lines().map(str::trim) {
        let Some(comment) = line.strip_prefix("//") else { continue };
        let comment = comment.trim_start_matches('/').trim_start_matches('!').trim();
        if let Some(description) = description(comment) {
            descriptions.push(description);
        } else if line.starts_with("//!") {
            match paragraphs.last_mut() {
                Some(paragraph) if !comment.is_empty() => *paragraph += &format!("{comment} "),
                _ => paragraphs.push(String::new()),
            }
        }
    }
    let paragraphs = paragraphs.iter().filter(|paragraph| !paragraph.is_empty());
    let introduction = paragraphs.map(|paragraph| wrap(paragraph)).collect::<Vec<_>>().join("\n\n");
    Source { introduction, descriptions }
}

fn description(comment: &str) -> Option<(String, String)> {
    let (pattern, text) = comment.trim_start_matches("- ").strip_prefix('`')?.split_once("`: ")?;
    // Else it is a sentence that begins with code.
    let is_pattern = pattern.contains(['/', '*']) && !pattern.contains('`');
    is_pattern.then(|| (pattern.to_string(), text.to_string()))
}

impl Source {
    /// Rows of a table, in the order of the descriptions, which stand in the first row of each. An id without
    /// a description is an error, and a description without an id.
    pub(crate) fn describe(&self, target: &str, ids: &[String]) -> Result<Vec<String>> {
        let mut of = vec![Vec::new(); self.descriptions.len()];
        for id in ids {
            let fitting = self.descriptions.iter().enumerate().filter(|(_, (pattern, _))| fits(pattern, id));
            let (i, _) = fitting.max_by_key(|(_, (pattern, _))| pattern.len()).ok_or_else(|| {
                format!(
                    "no comment in the sources of {target} describes `{id}`: one line, // `PATTERN`: TEXT"
                )
            })?;
            of[i].push(id);
        }
        let mut rows = Vec::new();
        for ((pattern, text), ids) in self.descriptions.iter().zip(of) {
            if ids.is_empty() {
                return Err(format!("{target} describes `{pattern}`, and has no such benchmark").into());
            }
            rows.extend(ids.iter().enumerate().map(|(i, id)| {
                if i == 0 { format!("| `{id}` | {text} |") } else { format!("| `{id}` | |") }
            }));
        }
        Ok(rows)
    }
}

/// Whether a pattern stands for an id.
fn fits(pattern: &str, id: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == id };
    let Some(rest) = id.strip_prefix(before) else { return false };
    (0..=rest.len()).filter(|&i| rest.is_char_boundary(i)).any(|i| fits(after, &rest[i..]))
}

fn wrap(paragraph: &str) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[&str]) -> Vec<String> {
        list.iter().map(|id| id.to_string()).collect()
    }

    #[test]
    fn comments_describe() {
        let source = parse(
            "//! `cargo bench`: layers.\n//! More.\n//!\n//! - `b/*`: two\n//! Throughput.\nfn x() {\n    // `a/*`: one\n    // `a/*/1`: \
             three\n    /// `code`: no id\n    let y = \"`c/d`: four\";\n}\n",
        );
        assert_eq!(source.introduction, "`cargo bench`: layers. More.\n\nThroughput.");
        let rows = source.describe("nn", &ids(&["a/x/1", "a/x/2", "b/y", "a/z"])).unwrap();
        assert_eq!(rows, ["| `b/y` | two |", "| `a/x/2` | one |", "| `a/z` | |", "| `a/x/1` | three |"]);
    }

    #[test]
    fn what_is_not_described_or_not_there_is_an_error() {
        let source = parse("// `a/*`: one\n// `b/*`: two\n");
        assert!(
            source.describe("nn", &ids(&["a/x", "b/x", "c/x"])).unwrap_err().to_string().contains("`c/x`")
        );
        assert!(source.describe("nn", &ids(&["a/x"])).unwrap_err().to_string().contains("`b/*`"));
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, id, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/*", "a/b/c", true),
            ("a/*/1", "a/b/c/1", true),
            ("a/*/1", "a/b/2", false),
            ("a/*/*x", "a/é/yx", true),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, id), expected, "{pattern} {id}");
        }
    }

    #[test]
    fn paragraphs_are_wrapped() {
        let text = wrap(&"word ".repeat(30));
        assert_eq!(text.lines().map(str::len).collect::<Vec<_>>(), [99, 49]);
    }
}
