//! README.md gives the commands that CI runs, and counts the crates as cargo does. Those of `nn`, `loss` and
//! `optim` have a row for every layer, loss and rule, which comes from its file.
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

/// The words in `NAME=(…)`.
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

/// The words of a list such as `layer_table! { Linear<T>, Relu }` or `rules! { sgd::Sgd }`: the types.
fn listed<'a>(source: &'a str, list: &str) -> Vec<&'a str> {
    let from = source.rfind(list).unwrap_or_else(|| panic!("no {list}"));
    let words = source[from + list.len()..].split('}').next().unwrap();
    let words = words.split(',').map(|word| word.rsplit("::").next().unwrap_or(word));
    words.map(|word| word.split('<').next().unwrap_or(word).trim()).filter(|word| !word.is_empty()).collect()
}

/// The sources below `folder`, each with its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(sources(&path));
        } else {
            found.push((path.clone(), read(&path)));
        }
    }
    found
}

/// The page with the rows of the table whose first column is `what`. The heads of the other columns are
/// labels: a cell is the text of the line `//! LABEL: …` at the top of the file that declares the type.
fn with_rows(page: &str, what: &str, types: &[&str], sources: &[(String, String)], link: &str) -> String {
    let start = page.find(&format!("| {what} |")).unwrap_or_else(|| panic!("no table of each {what}"));
    let (before, table) = page.split_at(start);
    let mut lines = table.split_inclusive('\n');
    let (heads, rule) = (lines.next().unwrap(), lines.next().unwrap());
    let after: String = lines.skip_while(|line| line.starts_with('|')).collect();
    let labels = heads.trim().trim_matches('|').split('|').skip(1).map(str::trim);
    let row = |name: &&str| {
        let declares = |source: &str| {
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            source.lines().any(|line| {
                line.strip_prefix("pub struct ").and_then(|rest| rest.strip_prefix(name)).is_some_and(ends)
            })
        };
        let (path, source) = sources
            .iter()
            .find(|(_, source)| declares(source))
            .unwrap_or_else(|| panic!("no file has `pub struct {name}`"));
        let cell = |label: &str| {
            let mut head = source.lines().map_while(|line| line.strip_prefix("//! "));
            head.find_map(|line| line.strip_prefix(label)?.strip_prefix(": "))
                .unwrap_or_else(|| panic!("{path} doesn't begin with a line `//! {label}: …`"))
                // Of an absolute value; alone it would end the cell.
                .replace('|', "\\|")
        };
        let link = if link.is_empty() { String::new() } else { format!("({link}{path})") };
        let cells: Vec<String> = labels.clone().map(cell).collect();
        format!("| [`{name}`]{link} | {} |\n", cells.join(" | "))
    };
    let rows: String = types.iter().map(row).collect();
    format!("{before}{heads}{rule}{rows}{after}")
}

/// `BACKRULE_WRITE=1` writes the pages.
#[test]
fn tables_come_from_the_files_of_layers_losses_and_rules() {
    const FILES: &str = "https://github.com/backrule/backrule/blob/main/";
    for (name, what, file, list_name, link) in [
        ("nn", "layer", "layers/mod.rs", "layer_table! {", FILES),
        ("loss", "loss", "lib.rs", "losses! {", ""),
        ("optim", "rule", "rules/mod.rs", "rules! {", ""),
    ] {
        let (source, readme) = (format!("crates/{name}/src"), format!("crates/{name}/README.md"));
        let list = read(&format!("{source}/{file}"));
        let types = listed(&list, list_name);
        let page = read(&readme);
        let wanted = with_rows(&page, what, &types, &sources(&source), link);
        if std::env::var_os("BACKRULE_WRITE").is_some() {
            fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(&readme), &wanted).unwrap();
        } else {
            let stale = !page.lines().eq(wanted.lines()); // a checkout may have turned its line ends around
            assert!(!stale, "{readme} is stale: run `BACKRULE_WRITE=1 cargo test --test readme`");
        }
    }
}

/// Else a layer could be missing from the table without notice.
#[test]
fn the_list_of_layers_is_read_whole() {
    let kinds: Vec<&str> = backrule_nn::testing::table::<f32>().iter().map(|entry| entry.kind).collect();
    assert_eq!(listed(&read("crates/nn/src/layers/mod.rs"), "layer_table! {"), kinds);
}

#[test]
fn a_row_is_made_of_the_head_of_a_file() {
    let sources = [
        (
            "a/b.rs".to_string(),
            "//! y: x²\n//! dx: 2 x dy\n//!\n//! y: no\n\npub struct Square;\n".to_string(),
        ),
        ("a/c.rs".to_string(), "//! dx: 1\n//! y: x\n\npub struct Squared {\n".to_string()),
    ];
    let types = listed("no, word\nlist! {\n    b::Square,\n    c::Squared<T>, }, other", "list! {");
    let page = "text\n\n| f | y | dx |\n|---|---|---|\n| old | |\n\nmore\n";
    assert_eq!(
        with_rows(page, "f", &types, &sources, "x/"),
        "text\n\n| f | y | dx |\n|---|---|---|\n| [`Square`](x/a/b.rs) | x² | 2 x dy |\n\
         | [`Squared`](x/a/c.rs) | x | 1 |\n\nmore\n"
    );
}

/// The figure stands for one system: others have other crates at the edges.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
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
