//! README.md gives the commands that CI runs, and counts the crates as cargo does. That of `nn` has every
//! layer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use backrule_nn::tensor::random;
use backrule_nn::{Linear, Relu, Sequential, summary};

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The commands in the page's blocks of code, without the prompt.
fn commands(page: &str) -> BTreeSet<&str> {
    let (mut code, mut found) = (false, BTreeSet::new());
    for line in page.lines().map(str::trim) {
        if line.starts_with("```") {
            code = !code;
        } else if code && let Some(command) = line.strip_prefix("$ ") {
            found.insert(command.split(" #").next().unwrap_or(command).trim());
        }
    }
    found
}

/// What stands in `NAME=(…)`.
fn array<'a>(script: &'a str, name: &str) -> &'a str {
    let line = script.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("=("));
    line.unwrap_or_else(|| panic!(".ci/run has no array {name}")).trim_end_matches(')')
}

#[test]
fn ci_runs_the_commands_of_the_readme() {
    let (readme, script) = (read("README.md"), read(".ci/run"));
    for name in ["README_TEST", "README_TRAIN"] {
        let command = array(&script, name);
        assert!(commands(&readme).contains(command), "README.md no longer gives `{command}`: change both");
    }
}

#[test]
fn a_command_outside_of_code_does_not_count() {
    let page = "$ one\n```console\n$ two --x   # a remark\nthree\n```\n$ four\n";
    assert_eq!(commands(page), BTreeSet::from(["two --x"]));
}

/// The network of the example `digits`.
#[test]
fn the_summary_is_as_printed() {
    let mut rng = random::rng(1);
    let net: Sequential = Sequential::builder()
        .layer("fc1", Linear::new(64, 32, &mut rng).unwrap())
        .layer("relu1", Relu)
        .layer("logits", Linear::new(32, 10, &mut rng).unwrap())
        .build()
        .unwrap();
    let printed = summary(&net, [32, 64]).unwrap().to_string();
    assert!(read("README.md").contains(&format!("```text\n{printed}\n…\n")), "README.md: paste\n{printed}");
}

/// The layers without a row that begins with a link to their file, or without that link's target.
fn missing<'a>(page: &str, kinds: &[&'a str]) -> Vec<&'a str> {
    let there = |kind: &str| {
        let (row, target) = (format!("| [`{kind}`] |"), format!("[`{kind}`]: "));
        let file = page.lines().find_map(|line| line.strip_prefix(&target)?.split_once("/blob/main/"));
        let file = file.is_some_and(|(_, file)| Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists());
        file && page.lines().any(|line| line.starts_with(&row))
    };
    kinds.iter().copied().filter(|kind| !there(kind)).collect()
}

#[test]
fn every_layer_stands_in_the_table_of_nn() {
    let kinds: Vec<&str> = backrule_nn::testing::table::<f32>().iter().map(|entry| entry.kind).collect();
    assert!(kinds.len() >= 24, "only {kinds:?}");
    assert_eq!(missing(&read("crates/nn/README.md"), &kinds), [""; 0]);
}

#[test]
fn a_layer_without_a_row_or_a_file_would_be_found() {
    let page = "| [`A`] |\n[`A`]: x/blob/main/README.md\n[`B`]: x/blob/main/README.md\n| [`C`] |\n| [`D`] |\n\
                [`D`]: x/blob/main/no/such/file";
    assert_eq!(missing(page, &["A", "B", "C", "D"]), ["B", "C", "D"]);
}

/// The figure stands for one system: others have other crates at the edges.
#[cfg(target_os = "linux")]
#[test]
fn the_crates_are_counted() {
    let readme = read("README.md");
    let command = commands(&readme).into_iter().find_map(|command| command.strip_prefix("cargo tree "));
    let (arguments, _) = command.unwrap().split_once(" | ").unwrap();
    let output = Command::new(env!("CARGO"))
        .arg("tree")
        .args(arguments.split_whitespace())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    let crates: BTreeSet<&str> = lines.map(|line| line.trim_end_matches(" (*)")).collect();
    let count = crates.len();
    assert!(readme.contains(&format!(" {count} crates:\n")), "README.md has another figure than {count}");
    assert!(count <= 40, "{count} crates are too many for a small library");
}
