//! The history of the main branch: one line of JSON for each commit.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Result;

/// Appends the results of `compare` and `gate` for one commit, all crates in one line. A line of the same
/// commit, which a workflow wrote before it was run again, is replaced.
pub(crate) fn append(file: &Path, results: &[String]) -> Result<bool> {
    let mut read = Vec::new();
    for path in results {
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        read.push(serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?);
    }
    let named = |error: io::Error| format!("{}: {error}", file.display());
    let old = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(named)?,
    };
    // Under its own name only when it is whole.
    let new = file.with_extension("new");
    fs::write(&new, replaced(&old, &merge(&read)?)).map_err(named)?;
    fs::rename(&new, file).map_err(named)?;
    Ok(true)
}

/// The lines with this one: in the place of that of the same commit, or at the end.
fn replaced(old: &str, line: &Value) -> String {
    let commit = |text: &str| Some(serde_json::from_str::<Value>(text).ok()?["commit"].clone());
    let (mut lines, mut new) = (String::new(), Some(format!("{line}\n")));
    for text in old.lines() {
        match commit(text).as_ref() == Some(&line["commit"]) {
            true => lines += &new.take().unwrap_or_default(),
            false => lines += &format!("{text}\n"),
        }
    }
    lines + &new.unwrap_or_default()
}

fn merge(results: &[Value]) -> Result<Value> {
    let head = &results.first().ok_or("no results")?["head"];
    let (mut times, mut costs, mut machines) = (Map::new(), Map::new(), BTreeMap::new());
    for result in results {
        if result["head"]["commit"] != head["commit"] {
            return Err(format!(
                "results of two commits: {} and {}",
                head["commit"], result["head"]["commit"]
            )
            .into());
        }
        if result["head"]["changed"] != json!(false) {
            return Err("these results are of a tree with uncommitted changes".into());
        }
        let (source, into) = match result["kind"].as_str() {
            Some("times") => (&result["first"], &mut times),
            Some("costs") => (&result["after"], &mut costs),
            _ => return Err("a file that neither compare nor gate wrote".into()),
        };
        for (id, value) in source.as_object().into_iter().flatten() {
            let value = match value["head"].as_array() {
                Some(rounds) => json!(median(rounds.iter().filter_map(Value::as_f64).collect())),
                None => value.clone(),
            };
            into.insert(id.clone(), value);
            // In a matrix each crate has a machine of its own.
            if let Some((name, _)) = id.split_once('/') {
                machines.insert(name.to_string(), result["machine"].clone());
            }
        }
    }
    if times.is_empty() && costs.is_empty() {
        return Err("results without a single id".into());
    }
    Ok(json!({
        "commit": head["commit"], "date": head["date"], "subject": head["subject"],
        "machines": machines, "times": times, "costs": costs,
    }))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let (low, high) = (values.get(n.checked_sub(1)? / 2)?, values.get(n / 2)?);
    Some((low + high) / 2.0)
}

/// One commit.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) commit: String,
    pub(crate) date: String,
    pub(crate) subject: String,
    /// By crate.
    pub(crate) machines: BTreeMap<String, Value>,
    /// ns by id.
    pub(crate) times: BTreeMap<String, f64>,
    pub(crate) instructions: BTreeMap<String, f64>,
    pub(crate) allocations: BTreeMap<String, f64>,
}

/// All lines, in their order. A commit that was measured again counts once, as measured last.
pub(crate) fn read(text: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", i + 1))?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_string();
        let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let number = |part: &str, field: Option<&str>| {
            let values = object(&value[part]).into_iter();
            let number = |v: &Value| field.map_or(v.as_f64(), |field| v[field].as_f64());
            values.filter_map(|(id, v)| Some((id, number(&v)?))).collect()
        };
        let entry = Entry {
            commit: text("commit"),
            date: text("date"),
            subject: text("subject"),
            machines: object(&value["machines"]).into_iter().collect(),
            times: number("times", None),
            instructions: number("costs", Some("instructions")),
            allocations: number("costs", Some("allocations")),
        };
        if entry.commit.is_empty() {
            return Err(format!("line {}: no commit", i + 1).into());
        }
        match entries.iter_mut().find(|old| old.commit == entry.commit) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(commit: &str) -> Value {
        json!({"commit": commit, "date": "2026-01-02T03:04:05Z", "subject": "a", "changed": false})
    }

    fn results(commit: &str) -> [Value; 2] {
        [
            json!({"kind": "times", "head": head(commit), "machine": {"cpu": "x"},
                   "first": {"nn/a": {"base": [9.0], "head": [3.0, 1.0, 2.0]}}}),
            json!({"kind": "costs", "head": head(commit), "machine": {"cpu": "y"},
                   "after": {"io/b": {"instructions": 10.5, "allocations": 2, "bytes": 64}}}),
        ]
    }

    #[test]
    fn results_become_a_line_and_are_read_again() {
        let line = merge(&results("c1")).unwrap().to_string();
        assert!(!line.contains('\n'));
        let entries = read(&format!("{line}\n{}\n\n{line}\n", merge(&results("c2")).unwrap())).unwrap();
        assert_eq!(entries.iter().map(|e| e.commit.as_str()).collect::<Vec<_>>(), ["c1", "c2"]);
        assert_eq!(entries[0].times["nn/a"], 2.0);
        assert_eq!((entries[0].instructions["io/b"], entries[0].allocations["io/b"]), (10.5, 2.0));
        assert_eq!(
            (&entries[0].machines["nn"]["cpu"], &entries[0].machines["io"]["cpu"]),
            (&json!("x"), &json!("y"))
        );
        assert!(read("{}").is_err());
        assert!(read("{").is_err());
    }

    #[test]
    fn a_commit_has_one_line() {
        let [one, two] = ["c1", "c2"].map(|commit| merge(&results(commit)).unwrap());
        let again = merge(&results("c1")[..1]).unwrap();
        // A line that can't be read stays: `page` names it.
        let old = format!("{one}\n{{\n{two}\n");
        // In its place: the lines are in the order of the commits.
        assert_eq!(replaced(&old, &again), format!("{again}\n{{\n{two}\n"));
        assert_eq!(replaced("", &one), format!("{one}\n"));
    }

    #[test]
    fn what_belongs_to_no_single_commit_is_refused() {
        let [times, costs] = results("c1");
        assert!(merge(&[]).is_err());
        assert!(merge(&[times.clone(), results("c2")[1].clone()]).is_err());
        let mut changed = costs;
        changed["head"]["changed"] = json!(true);
        assert!(merge(&[times.clone(), changed]).is_err());
        let mut empty = times.clone();
        empty["first"] = json!({});
        assert!(merge(&[empty]).is_err());
        let mut other = times;
        other["kind"] = json!("else");
        assert!(merge(&[other]).is_err());
    }
}
