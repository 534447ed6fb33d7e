//! Counts of one program of workloads, by valgrind.
//!
//! The program (`benches/gate`) warms a workload up, counts its allocations, then calls it several times in
//! the function `measured`. Callgrind counts in that function only, and writes its counts at each return: one
//! dump a workload, in the order of the lines that the program prints.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::Result;
use crate::costs::Cost;
use crate::process::{command, output};

/// Whether valgrind can be run here.
pub(crate) fn version() -> Option<String> {
    let output = command("valgrind").arg("--version").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// Costs by id of the workloads of one crate. `scratch` is a folder of its own.
pub(crate) fn count(
    program: &Path,
    root: &Path,
    scratch: &Path,
    name: &str,
    only: &str,
) -> Result<BTreeMap<String, Cost>> {
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    fs::create_dir_all(scratch)?;
    let file = scratch.join("out");
    let mut valgrind = command("valgrind");
    valgrind.current_dir(root).env("BACKRULE_THREADS", "1");
    valgrind.args([
        "--quiet",
        "--tool=callgrind",
        "--toggle-collect=gate::measured",
        "--dump-after=gate::measured",
    ]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display()));
    valgrind.arg(program).args([name, only]);
    let printed = output(&mut valgrind)?;
    let mut costs = BTreeMap::new();
    for (i, line) in printed.lines().enumerate() {
        let dump = scratch.join(format!("out.{}", i + 1));
        let dump = fs::read_to_string(&dump).map_err(|error| format!("{}: {error}", dump.display()))?;
        let (id, cost) = combine(line, &dump)?;
        costs.insert(id, cost);
    }
    // With a dump too many, dumps and lines don't belong together.
    let next = scratch.join(format!("out.{}", printed.lines().count() + 1));
    if next.exists() {
        return Err(format!("{}: callgrind wrote more dumps than there are workloads", next.display()).into());
    }
    Ok(costs)
}

/// A line that the program printed, and the dump of the same workload.
fn combine(line: &str, dump: &str) -> Result<(String, Cost)> {
    let line: Value = serde_json::from_str(line)?;
    let number =
        |name: &str| line[name].as_u64().ok_or_else(|| format!("the gate printed no `{name}`: {line}"));
    let total = dump.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 = total.ok_or("callgrind: a dump without `totals:`")?.trim().parse()?;
    if total == 0 {
        return Err(format!("callgrind counted nothing: is there a function `gate::measured`? {line}").into());
    }
    let id = line["id"].as_str().ok_or("the gate printed no id")?.to_string();
    let instructions = total as f64 / number("calls")? as f64;
    Ok((id, Cost { instructions, allocations: number("allocations")?, bytes: number("bytes")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_its_dump_make_a_cost() {
        let line = r#"{"id":"nn/a","calls":4,"allocations":2,"bytes":64}"#;
        let (id, cost) = combine(line, "events: Ir\nfn=(1) x\n1 400\n\ntotals: 402\n").unwrap();
        assert_eq!((id.as_str(), cost.instructions, cost.allocations, cost.bytes), ("nn/a", 100.5, 2, 64));
        // The function has another name, or was inlined.
        assert!(combine(line, "totals: 0\n").is_err());
        assert!(combine(line, "events: Ir\n").is_err());
        assert!(combine("{}", "totals: 402\n").is_err());
    }
}
