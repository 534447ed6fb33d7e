//! Instructions and allocations of two commits.

use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};

use crate::costs::{Costs, Verdict, judge};
use crate::git::Repository;
use crate::process::tell;
use crate::tree::{GATE, Tree};
use crate::{Result, accept, callgrind, ids, machine, report};

pub(crate) struct Options {
    pub(crate) base: String,
    pub(crate) crates: Option<Vec<String>>,
    pub(crate) thresholds: [f64; 2],
    pub(crate) only: String,
    pub(crate) out: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    callgrind::version()
        .ok_or("valgrind is not on the PATH (on Debian and Ubuntu: apt-get install valgrind)")?;
    let here = Tree::here()?;
    // Before anything is built: no verdict without the page.
    let listed = ids::here(&here.root)?;
    // Workloads have the name of a timed target in front.
    let names = here.timed(options.crates.as_deref())?;
    if !here.targets().any(|name| name == GATE) {
        return Err(
            format!("no bench target is named `{GATE}` (docs/benchmarking.md says what it does)").into()
        );
    }
    let repository = Repository::of(&here.root)?;
    let against = repository.against(&options.base)?;
    let commit = against.commit.as_deref();
    let listed_before = commit.map(|commit| ids::at(&repository, commit)).transpose()?.flatten();
    let accepted = accept::since(&repository, &against)?;
    let described = report::head(&repository)?;
    let out = report::folder(options.out.as_deref(), &here.target)?;
    let sides = here.build_both(&repository, &against, &[GATE.to_string()], &out)?;

    let count =
        |side: &str, root: &PathBuf, program: Option<&PathBuf>| -> std::result::Result<Costs, String> {
            let mut costs = Costs::new();
            for name in &names {
                if let Some(program) = program {
                    let scratch = out.join("callgrind").join(side).join(name);
                    let counted = callgrind::count(program, root, &scratch, name, &options.only);
                    costs.extend(counted.map_err(|error| format!("{side}: {error}"))?);
                }
            }
            Ok(costs)
        };
    tell(format!("counting {}", names.join(", ")));
    // Side by side: counts don't mind.
    let (before, after) = thread::scope(|scope| {
        let before = scope.spawn(|| count("base", &sides.base.root, sides.base.programs.get(GATE)));
        let after = count("head", &sides.head.root, sides.head.programs.get(GATE));
        (before.join().unwrap_or_else(|_| Err("counting the base panicked".to_string())), after)
    });
    let (before, after) = (before?, after?);

    let wanted = |id: &String| {
        let of_these =
            |name: &String| id.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'));
        names.iter().any(of_these) && id.contains(&options.only)
    };
    let listed = listed.counted.into_iter().filter(wanted).collect();
    let listed_before = listed_before.unwrap_or_default().counted.into_iter().filter(wanted).collect();
    let verdict =
        judge(commit.map(|_| &before), &after, &listed, &listed_before, options.thresholds, &accepted);
    let results = json!({
        "kind": "costs",
        "base": commit,
        "head": described,
        "machine": machine::describe(),
        "before": to_json(&before),
        "after": to_json(&after),
        "failures": verdict.failures,
    });
    report::save(&out.join(format!("costs-{}.json", names.join("-"))), &results)?;
    report::show(&markdown(&verdict, &names, commit, sides.note.as_deref()))?;
    Ok(verdict.failures.is_empty())
}

fn to_json(costs: &Costs) -> Value {
    let cost = |(id, c): (&String, &crate::costs::Cost)| {
        let cost = json!({"instructions": c.instructions, "allocations": c.allocations, "bytes": c.bytes});
        (id.clone(), cost)
    };
    costs.iter().map(cost).collect()
}

fn markdown(verdict: &Verdict, names: &[String], commit: Option<&str>, note: Option<&str>) -> String {
    let mut text = format!("## Instructions and allocations: {}\n\n", names.join(", "));
    text += &report::failures(&verdict.failures, "Nothing costs more.");
    text += &format!("One warm call, against {}.\n\n", report::base(commit));
    if let Some(note) = note {
        text += &format!("{note}\n\n");
    }
    const HEAD: &str = "| id | instructions | change | allocations | |\n|---|---:|---:|---:|---|\n";
    let row = |row: &crate::costs::Row| {
        let change = row.rise().map_or("–".to_string(), |rise| format!("{rise:+.2} %"));
        let allocations = match row.base {
            Some(base) if base.allocations != row.head.allocations => {
                format!("{} → {}", base.allocations, row.head.allocations)
            }
            _ => row.head.allocations.to_string(),
        };
        let instructions = report::thousands(row.head.instructions);
        format!("| `{}` | {instructions} | {change} | {allocations} | {} |\n", row.id, row.remark.trim_end())
    };
    // The rows that moved, then all.
    let moved =
        |row: &&crate::costs::Row| !row.remark.is_empty() || row.rise().is_some_and(|rise| rise.abs() >= 0.1);
    let telling: String = verdict.rows.iter().filter(moved).map(row).collect();
    if !telling.is_empty() {
        text += &format!("{HEAD}{telling}\n");
    }
    let all: String = verdict.rows.iter().map(row).collect();
    text + &format!("<details><summary>all workloads</summary>\n\n{HEAD}{all}\n</details>\n")
}
