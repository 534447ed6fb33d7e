//! The pages: lines are narrow, words have one spelling, links lead somewhere, and every decision is in the
//! index.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Columns of a line of prose.
const WIDEST: usize = 100;

/// Columns of a line of a comment.
const WIDEST_COMMENT: usize = 110;

/// Columns of a line of an example in the documentation: rustdoc shows no more without a bar to scroll.
const WIDEST_EXAMPLE: usize = 90;

/// The sections of a page of docs/decisions, in this order. "Decision" and "Evidence" may have other words
/// behind them.
const SECTIONS: [&str; 5] = ["## Context", "## Decision", "## Cost", "## Evidence", "## How to undo it"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text of the repository below `folder`, with its path from the root.
fn texts(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if ["target", ".git", "corpus", "artifacts"].iter().any(|skipped| name == *skipped) {
            continue;
        }
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            texts(&path, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((path.strip_prefix(root()).unwrap().to_path_buf(), text));
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    texts(root(), &mut found);
    found
}

fn pages() -> Vec<(PathBuf, String)> {
    let mut found = all();
    found.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "md"));
    found
}

/// The lines of a page that are neither code nor a row of a table, with their numbers.
fn prose(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    page.lines().enumerate().filter_map(move |(i, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence && !line.trim_start().starts_with('|')).then_some((i + 1, line))
    })
}

/// The targets of the links `[text](target)` in a line, and the rest of the line without them.
fn links(line: &str) -> (Vec<&str>, String) {
    let (mut targets, mut rest, mut left) = (Vec::new(), line, String::new());
    while let Some((before, after)) = rest.split_once("](") {
        left.push_str(before);
        let Some((target, after)) = after.split_once(')') else { break };
        targets.push(target);
        rest = after;
    }
    left.push_str(rest);
    (targets, left)
}

/// Lines that are too wide; an address can't be broken.
fn wide(page: &str) -> Vec<usize> {
    let too_wide = |line: &str| links(line).1.chars().count() > WIDEST && !line.contains("://");
    prose(page).filter(|(_, line)| too_wide(line)).map(|(number, _)| number).collect()
}

/// `path: 3, 17` for every text that has such lines.
fn complaints(texts: Vec<(PathBuf, String)>, lines: impl Fn(&str) -> Vec<usize>) -> Vec<String> {
    let numbers = |found: Vec<usize>| found.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut texts: Vec<_> = texts.into_iter().map(|(path, text)| (path, lines(&text))).collect();
    texts.retain(|(_, found)| !found.is_empty());
    texts.sort();
    texts.into_iter().map(|(path, found)| format!("{}: {}", path.display(), numbers(found))).collect()
}

/// The lines of comments that are neither code nor a row of a table nor the description of an id, with their
/// numbers.
fn comments(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    source.lines().enumerate().filter_map(move |(i, line)| {
        let text = line.trim_start().strip_prefix("//")?;
        let is_doc = text.starts_with(['/', '!']);
        let text = text.trim_start_matches(['/', '!']).trim_start();
        let fence = is_doc && text.starts_with("```");
        code ^= fence;
        let other = text.starts_with('|') || !is_doc && text.starts_with('`') || text.contains("://");
        let skipped = fence || other || is_doc && code;
        (!skipped).then_some((i + 1, line))
    })
}

/// The lines of Rust in a page, without those that rustdoc hides, with their numbers. `text` takes away the
/// frame of a line of the page, and is nothing outside of it.
fn examples<'a>(
    page: &'a str,
    text: impl Fn(&'a str) -> Option<&'a str>,
) -> impl Iterator<Item = (usize, &'a str)> {
    let (mut code, mut rust) = (false, false);
    page.lines().enumerate().filter_map(move |(i, line)| {
        let Some(line) = text(line) else {
            code = false;
            return None;
        };
        if let Some(words) = line.trim_start().strip_prefix("```") {
            code = !code;
            rust = !["console", "sh", "text", "toml"].contains(&words);
            return None;
        }
        let hidden = line == "#" || line.starts_with("# ");
        (code && rust && !hidden).then_some((i + 1, line))
    })
}

/// The text of a line of documentation in a source.
fn documentation(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
    Some(text.strip_prefix(' ').unwrap_or(text))
}

#[test]
fn lines_of_examples_are_narrow() {
    let mut texts = all();
    let ends = |path: &Path, end: &str| path.to_str().is_some_and(|path| path.ends_with(end));
    texts.retain(|(path, _)| ends(path, ".rs") || ends(path, "README.md"));
    let (pages, sources): (Vec<_>, Vec<_>) = texts.into_iter().partition(|(path, _)| ends(path, ".md"));
    assert!(pages.len() >= 7 && sources.len() >= 100, "{} pages, {} sources", pages.len(), sources.len());
    let wide = |(number, line): (usize, &str)| (line.chars().count() > WIDEST_EXAMPLE).then_some(number);
    let mut found = complaints(pages, |page| examples(page, Some).filter_map(wide).collect());
    found.extend(complaints(sources, |page| examples(page, documentation).filter_map(wide).collect()));
    assert_eq!(found, [""; 0], "more than {WIDEST_EXAMPLE} columns");
}

#[test]
fn only_lines_of_rust_that_are_shown_count_as_examples() {
    let source = "/// a\n/// ```\n/// b\n/// # c\n/// ```\nd\n    //! ```text\n    //! e\n    //! ```\n/// ```no_run\n///  f\n";
    let lines: Vec<_> = examples(source, documentation).collect();
    assert_eq!(lines, [(3, "b"), (11, " f")]);
    assert_eq!(examples("```rust\na\n```\nb\n```console\nc\n```\n", Some).collect::<Vec<_>>(), [(2, "a")]);
}

#[test]
fn lines_of_comments_are_narrow() {
    let mut sources = all();
    sources.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"));
    let wide = |source: &str| {
        let wide = comments(source).filter(|(_, line)| line.chars().count() > WIDEST_COMMENT);
        wide.map(|(number, _)| number).collect()
    };
    assert_eq!(complaints(sources, wide), [""; 0], "more than {WIDEST_COMMENT} columns");
}

/// Sentences begin with a thing that has a name.
#[test]
fn comments_do_not_begin_with_what() {
    let sources = all().into_iter().filter(|(path, _)| path.extension().is_some_and(|ext| ext == "rs"));
    let text = |line: &str| line.trim_start().trim_start_matches(['/', '!']).trim_start().to_string();
    let begins = |line: &str| text(line).starts_with("What ") && !line.ends_with('?');
    let complaints = complaints(sources.collect(), |source| {
        comments(source).filter(|(_, line)| begins(line)).map(|(i, _)| i).collect()
    });
    assert_eq!(complaints, [""; 0], "begin with \"What\"");
}

#[test]
fn lines_of_prose_are_narrow() {
    assert_eq!(complaints(pages(), wide), [""; 0], "more than {WIDEST} columns");
}

#[test]
fn one_spelling() {
    // In two pieces, or this file would be found.
    let others = [
        concat!("ptimi", "se"),
        concat!("nitiali", "ser"),
        concat!("ectori", "se"),
        concat!("ormali", "sed"),
        concat!("ecogni", "se"),
        concat!("eriali", "se"),
        concat!("ehavi", "our"),
        concat!("eighb", "our"),
        concat!("col", "our"),
        concat!("fav", "our"),
    ];
    let lines = |text: &str| {
        let is_other = |line: &str| others.iter().any(|other| line.contains(other));
        let lines = text.lines().enumerate().filter(|(_, line)| is_other(line));
        lines.map(|(i, _)| i + 1).collect()
    };
    assert_eq!(complaints(all(), lines), [""; 0], "-ize and -or: optimizer, neighbor");
}

#[test]
fn nothing_is_left_of_a_merge() {
    // As above: in two pieces.
    let marks = [concat!("<<<<", "<<< "), concat!(">>>>", ">>> ")];
    let lines = |text: &str| {
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| marks.iter().any(|mark| line.starts_with(mark)));
        lines.map(|(i, _)| i + 1).collect()
    };
    assert_eq!(complaints(all(), lines), [""; 0], "marks of a merge");
}

/// A build's products are no part of the project: a file that isn't text is a test's data.
#[test]
fn no_build_product_is_tracked() {
    const DATA: [&str; 4] = ["npy", "npz", "brk", "safetensors"];
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    // The sources alone, without a repository, have nothing that is tracked.
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else { return };
    let paths = String::from_utf8(listed.stdout).unwrap();
    let is_text = |path: &Path| match fs::read(root().join(path)) {
        Ok(bytes) => String::from_utf8(bytes).is_ok_and(|text| !text.contains('\0')),
        // It is deleted in the working tree.
        Err(_) => true,
    };
    let is_data = |path: &Path| {
        path.starts_with("fuzz/seeds")
            || path.extension().is_some_and(|kind| DATA.iter().any(|data| kind == *data))
    };
    let strange: Vec<_> = paths
        .split_terminator('\0')
        .filter(|path| !is_data(Path::new(path)) && !is_text(Path::new(path)))
        .collect();
    assert!(strange.is_empty(), "neither text nor a test's data: {strange:?}");
}

#[test]
fn links_between_files_lead_somewhere() {
    let mut found = Vec::new();
    for (path, page) in pages() {
        for (number, line) in prose(&page) {
            for target in links(line).0 {
                let file = target.split('#').next().unwrap();
                let there = root().join(&path).parent().unwrap().join(file).exists();
                // Names of items are rustdoc's.
                let is_file = !target.contains("://") && (file.contains('/') || file.contains(".md"));
                if is_file && !there {
                    found.push(format!("{}:{number}: {target}", path.display()));
                }
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn decisions_are_complete_and_in_the_index() {
    let index = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut decisions = pages();
    decisions.retain(|(path, _)| path.starts_with("docs/decisions") && !path.ends_with("README.md"));
    assert!(decisions.len() >= 52, "only {} decisions were found", decisions.len());
    decisions.sort();
    for (i, (path, page)) in decisions.iter().enumerate() {
        let (number, name) = (format!("{:04}", i + 1), path.file_name().unwrap().to_str().unwrap());
        assert!(name.starts_with(&format!("{number}-")), "{name}: the next number is {number}");
        let title = page.lines().next().unwrap().strip_prefix(&format!("# {number}. "));
        let title = title.unwrap_or_else(|| panic!("{name}: the title begins with its number"));
        let line = format!("- [{number}](docs/decisions/{name}) {title}");
        assert!(index.lines().any(|have| have == line), "ARCHITECTURE.md has no line\n{line}");
        let mut rest = page.as_str();
        for section in SECTIONS {
            let at = rest.find(section).unwrap_or_else(|| panic!("{name}: no section {section}"));
            rest = &rest[at..];
        }
        assert!(page.lines().count() <= 80, "{name}: more than a screen");
    }
}

#[test]
fn a_wide_line_and_a_dead_link_would_be_found() {
    let long = "word ".repeat(21);
    assert_eq!(wide(&format!("short\n{long}\n| {long} |\n```\n{long}\n```\n{long}")), [2, 7]);
    assert_eq!(wide(&format!("[{}]({long})", "a".repeat(90))), [0; 0]);
    assert_eq!(links("a [b](c.md#d), [e](f) g"), (vec!["c.md#d", "f"], "a [b, [e g".to_string()));
}
