//! The page that lists all ids, `docs/benchmarks.md`.
//!
//! This module writes it: the ids come from the bench targets' lists, the descriptions from their sources
//! ([`crate::sources`]). Each target has a section (`## nn`) with tables whose first column is headed `timed`
//! or `counted` and holds ids in backquotes. The text above the first section is written by hand, and kept.
//!
//! The comparisons read the page: it tells the base's ids without a build of the base.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::git::Repository;
use crate::process;
use crate::sources::{self, Source};
use crate::tree::{GATE, Tree};
use crate::{Result, criterion};

const PAGE: &str = "docs/benchmarks.md";

/// With the target in front: `nn/train_step/64-32-10/32`.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    pub(crate) timed: BTreeSet<String>,
    pub(crate) counted: BTreeSet<String>,
}

/// The ids on the page of the working tree.
pub(crate) fn here(root: &Path) -> Result<Ids> {
    let page = fs::read_to_string(root.join(PAGE))
        .map_err(|error| format!("{PAGE}: {error} (`backrule-bench ids --write` writes it)"))?;
    parse(&page)
}

/// `None` if the page isn't there in that commit.
pub(crate) fn at(repository: &Repository, commit: &str) -> Result<Option<Ids>> {
    repository.read(commit, PAGE)?.map(|page| parse(&page)).transpose()
}

fn parse(page: &str) -> Result<Ids> {
    let (mut ids, mut section, mut table) = (Ids::default(), "", "");
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim();
        }
        let Some(cell) = line.strip_prefix('|').and_then(|rest| rest.split('|').next()).map(str::trim) else {
            table = "";
            continue;
        };
        if table.is_empty() {
            table = cell;
        } else if let Some(id) = cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
            let into = match table {
                "timed" => &mut ids.timed,
                "counted" => &mut ids.counted,
                _ => continue,
            };
            if !into.insert(format!("{section}/{id}")) {
                return Err(format!("{PAGE}: `{id}` stands twice in section {section}").into());
            }
        }
    }
    Ok(ids)
}

/// Prints the page, or writes it.
pub(crate) fn print(write: bool) -> Result<bool> {
    let head = Tree::here()?;
    let place = head.root.join(PAGE);
    let page = build(&head, &fs::read_to_string(&place).unwrap_or_default())?;
    if write {
        fs::write(&place, page).map_err(|error| format!("{PAGE}: {error}"))?;
    } else {
        process::print(page)?;
    }
    Ok(true)
}

/// Whether the page is the one that [`print()`] would write.
pub(crate) fn check() -> Result<bool> {
    let head = Tree::here()?;
    let text = fs::read_to_string(head.root.join(PAGE)).map_err(|error| format!("{PAGE}: {error}"))?;
    let listed = parse(&text)?;
    // A checkout may have turned its line ends around.
    let page = build(&head, &text)?;
    let there = parse(&page)?;
    let mut complaints = differences("timed", &listed.timed, &there.timed);
    complaints.extend(differences("counted", &listed.counted, &there.counted));
    if complaints.is_empty() && !text.lines().eq(page.lines()) {
        complaints.push(format!("{PAGE} has the right ids, and another text"));
    }
    let right = complaints.is_empty();
    complaints.push(format!("{} timed and {} counted in {PAGE}", listed.timed.len(), listed.counted.len()));
    if !right {
        complaints.push("`backrule-bench ids --write` writes the page anew".to_string());
    }
    process::print(complaints.join("\n") + "\n")?;
    Ok(right)
}

fn differences(what: &str, listed: &BTreeSet<String>, there: &BTreeSet<String>) -> Vec<String> {
    let missing =
        listed.difference(there).map(|id| format!("{PAGE} lists `{id}` as {what}, and no benchmark has it"));
    let unlisted = there.difference(listed).map(|id| format!("`{id}` is {what}, and {PAGE} doesn't list it"));
    missing.chain(unlisted).collect()
}

/// A section in the making.
struct Section {
    name: String,
    source: Source,
    timed: Vec<String>,
    counted: Vec<String>,
}

/// The page as it has to be. The text above the first section is that of `old`.
fn build(head: &Tree, old: &str) -> Result<String> {
    let mut names = head.timed(None)?;
    let gate = head.targets().any(|name| name == GATE);
    names.extend(gate.then(|| GATE.to_string()));
    let programs = head.build_to_list(&names)?;
    let (mut sections, mut counted) = (Vec::new(), Vec::new());
    for name in &names {
        let program = &programs[name];
        let ids = criterion::list(program, &head.root)?;
        if ids.is_empty() {
            return Err(format!("the bench target {name} has no benchmark").into());
        }
        let source = sources::read(head.source(name)?)?;
        if name == GATE {
            counted = source.describe(name, &ids)?;
        } else {
            let timed = source.describe(name, &ids)?;
            sections.push(Section { name: name.clone(), source, timed, counted: Vec::new() });
        }
    }
    for row in counted {
        // The gate's ids begin with the name of a bench target.
        let section = sections.iter_mut().find_map(|section| {
            let rest = row.strip_prefix("| `")?.strip_prefix(&section.name)?.strip_prefix('/')?;
            let rest = format!("| `{rest}");
            Some((section, rest))
        });
        let (section, row) = section.ok_or_else(|| format!("no bench target is the section of {row}"))?;
        section.counted.push(row);
    }
    Ok(render(old, &sections))
}

fn render(old: &str, sections: &[Section]) -> String {
    let head: Vec<&str> = old.lines().take_while(|line| !line.starts_with("## ")).collect();
    let head = head.join("\n");
    let mut page =
        if head.trim().is_empty() { "# All benchmarks".to_string() } else { head.trim().to_string() };
    page.push('\n');
    for Section { name, source, timed, counted } in sections {
        page += &format!("\n## {name}\n\n{}\n", source.introduction);
        for (kind, what, rows) in
            [("timed", "what it measures", timed), ("counted", "what one call does", counted)]
        {
            if !rows.is_empty() {
                page += &format!("\n| {kind} | {what} |\n|---|---|\n{}\n", rows.join("\n"));
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Benchmarks\n\n| other | table |\n|---|---|\n| `x` | |\n\n## nn\n\n| timed | what |\n|---|---|\n\
                        | `a/b` | one |\n| `a/c` | two |\n\n| counted | what |\n|---|---|\n| `a/b` | one |\n\n## io\n\n\
                        | timed | what |\n|---|---|\n| `a/b` | three |\n";

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| id.to_string()).collect()
    }

    #[test]
    fn ids_are_read_from_the_page() {
        let ids = parse(TEXT).unwrap();
        assert_eq!(ids.timed, set(&["nn/a/b", "nn/a/c", "io/a/b"]));
        assert_eq!(ids.counted, set(&["nn/a/b"]));
        assert!(parse(&TEXT.replace("`a/c`", "`a/b`")).is_err());
    }

    #[test]
    fn both_directions_are_compared() {
        let (ab, bc) = (set(&["a", "b"]), set(&["b", "c"]));
        assert!(differences("timed", &ab, &ab).is_empty());
        let complaints = differences("timed", &ab, &bc);
        assert_eq!(complaints.len(), 2);
        assert!(
            complaints[0].contains("lists `a`") && complaints[1].contains("`c` is timed"),
            "{complaints:?}"
        );
    }

    #[test]
    fn what_is_written_is_read_again_and_the_head_stays() {
        let source = sources::parse("//! Layers.\n// `a/*`: one\n");
        let rows =
            |ids: &[&str]| source.describe("nn", &ids.iter().map(|id| id.to_string()).collect::<Vec<_>>());
        let (timed, counted) = (rows(&["a/b", "a/c"]).unwrap(), rows(&["a/d"]).unwrap());
        let section = Section { name: "nn".to_string(), source, timed, counted };
        let page = render("# Mine\n\ntext\n\n## old\n\nold\n", &[section]);
        assert_eq!(
            page,
            "# Mine\n\ntext\n\n## nn\n\nLayers.\n\n| timed | what it measures |\n|---|---|\n| `a/b` | one |\n| `a/c` | |\n\
             \n| counted | what one call does |\n|---|---|\n| `a/d` | one |\n"
        );
        let ids = parse(&page).unwrap();
        assert_eq!((ids.timed, ids.counted), (set(&["nn/a/b", "nn/a/c"]), set(&["nn/a/d"])));
        assert_eq!(render(&page, &[]), "# Mine\n\ntext\n");
        assert_eq!(render("", &[]), "# All benchmarks\n");
    }
}
