//! The page that lists all ids, `docs/benchmarks.md`: what has to be there.
//!
//! Each crate has a section (`## nn`) with tables whose first column is headed `timed` or `counted` and holds ids in
//! backquotes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::tree::{self, GATE, Tree};
use crate::{Result, criterion};

const PAGE: &str = "docs/benchmarks.md";

/// With the crate in front: `nn/train_step/64-32-10/32`.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    pub(crate) timed: BTreeSet<String>,
    pub(crate) counted: BTreeSet<String>,
}

pub(crate) fn here(root: &Path) -> Result<Ids> {
    let page = root.join(PAGE);
    parse(&fs::read_to_string(&page).map_err(|error| format!("{}: {error}", page.display()))?)
}

/// `None` if the page isn't there in that commit.
pub(crate) fn at(commit: &str) -> Result<Option<Ids>> {
    if tree::git(&["ls-tree", "--name-only", "--full-tree", commit, PAGE])?.is_empty() {
        return Ok(None);
    }
    parse(&tree::git(&["show", &format!("{commit}:{PAGE}")])?).map(Some)
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

/// Compares the page with what the programs say of themselves.
pub(crate) fn check() -> Result<bool> {
    let head = Tree::here()?;
    let mut names = head.timed(None)?;
    let listed = here(&head.root)?;
    names.push(GATE.to_string());
    let programs = head.build(&names)?;
    let (mut timed, mut counted) = (BTreeSet::new(), BTreeSet::new());
    for (name, program) in &programs {
        let own = criterion::list(program, &head.root)?;
        if own.is_empty() {
            println!("the bench target {name} has no benchmark");
            return Ok(false);
        }
        if name == GATE {
            counted.extend(own);
        } else {
            timed.extend(own.iter().map(|id| format!("{name}/{id}")));
        }
    }
    let mut complaints = differences("timed", &listed.timed, &timed);
    complaints.extend(differences("counted", &listed.counted, &counted));
    for complaint in &complaints {
        println!("{complaint}");
    }
    println!("{} timed and {} counted in {PAGE}", listed.timed.len(), listed.counted.len());
    Ok(complaints.is_empty() && !timed.is_empty() && !counted.is_empty())
}

fn differences(what: &str, listed: &BTreeSet<String>, there: &BTreeSet<String>) -> Vec<String> {
    let missing =
        listed.difference(there).map(|id| format!("{PAGE} lists `{id}` as {what}, and no benchmark has it"));
    let unlisted = there.difference(listed).map(|id| format!("`{id}` is {what}, and {PAGE} doesn't list it"));
    missing.chain(unlisted).collect()
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
}
