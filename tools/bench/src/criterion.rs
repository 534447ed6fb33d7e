//! Runs criterion's programs, and reads the files that they leave.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::Result;
use crate::process;

#[derive(Clone, Copy)]
pub(crate) enum Settings {
    /// So many samples in about this time, after a third of it to warm up.
    Samples { seconds: f64, samples: usize },
    /// One call; more, if these take less than the time in all.
    Calls { seconds: f64 },
}

/// Runs one benchmark: its fastest sample, in ns a call. `None` if the program doesn't have it. `home` must
/// not exist yet, so all results in it are of this run, and is removed again.
///
/// Disturbances only ever add time, hence the fastest, and not criterion's mean or median. On a machine that
/// also compiled something, the ratios of two runs of the same code scattered four times less
/// (docs/benchmarking.md).
pub(crate) fn run(
    program: &Path,
    root: &Path,
    home: &Path,
    id: &str,
    settings: Settings,
) -> Result<Option<f64>> {
    if home.exists() {
        return Err(format!("{} has results already", home.display()).into());
    }
    fs::create_dir_all(home)?;
    let mut command = process::command(program);
    command.current_dir(root).env("CRITERION_HOME", home).args([
        "--bench",
        "--noplot",
        "--nresamples",
        "1000",
    ]);
    match settings {
        Settings::Samples { seconds, samples } => {
            command.args(["--measurement-time", &seconds.to_string()]);
            command.args(["--warm-up-time", &(seconds / 3.0).to_string()]);
            command.args(["--sample-size", &samples.to_string()]);
        }
        Settings::Calls { seconds } => {
            command.args(["--quick", "--measurement-time", &seconds.to_string()]);
        }
    }
    command.arg(exactly(id));
    // Criterion warns of samples that take too long; wide intervals show these as well.
    let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !done.success() {
        return Err(format!("{command:?}: {done}").into());
    }
    let time = read(home, id)?;
    fs::remove_dir_all(home)?;
    Ok(time)
}

/// The fastest sample of an id, from the `…/new/benchmark.json` with this full id and the `sample.json`
/// beside it.
fn read(folder: &Path, id: &str) -> Result<Option<f64>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let benchmark = path.join("benchmark.json");
        if path.ends_with("new") && benchmark.is_file() {
            let benchmark: Value = serde_json::from_slice(&fs::read(&benchmark)?)?;
            if benchmark["full_id"] == id {
                let sample: Value = serde_json::from_slice(&fs::read(path.join("sample.json"))?)?;
                let none = || format!("criterion: sample.json of {id} has no time");
                return Ok(Some(fastest(&sample).ok_or_else(none)?));
            }
        } else if let Some(time) = read(&path, id)? {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

fn fastest(sample: &Value) -> Option<f64> {
    let numbers = |name: &str| sample[name].as_array().into_iter().flatten().filter_map(Value::as_f64);
    let per_call = numbers("times").zip(numbers("iters")).map(|(time, calls)| time / calls);
    per_call.filter(|time| time.is_finite()).min_by(f64::total_cmp)
}

/// The ids that `--list` prints, in lines `ID: benchmark`.
pub(crate) fn list(program: &Path, root: &Path) -> Result<Vec<String>> {
    let mut command = process::command(program);
    let text = process::output(command.current_dir(root).args(["--bench", "--list"]))?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": benchmark")).map(str::to_string).collect())
}

/// A regular expression for exactly this id.
fn exactly(id: &str) -> String {
    let special = |c: char| !c.is_alphanumeric() && !matches!(c, '/' | '_' | ' ');
    let literally: String =
        id.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect();
    format!("^{literally}$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_literally() {
        assert_eq!(exactly("a/b(c) d/1.5"), r"^a/b\(c\) d/1\.5$");
        assert_eq!(exactly("relu 784-128"), r"^relu 784\-128$");
    }

    #[test]
    fn times_are_found_by_the_full_id() {
        let home = std::env::temp_dir().join(format!("backrule-bench-criterion-{}", std::process::id()));
        let new = home.join("group").join("a_b").join("new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("benchmark.json"), r#"{"full_id":"group/a/b","throughput":null}"#).unwrap();
        let sample = r#"{"iters":[10.0,20.0,30.0],"times":[80.0,150.0,270.0]}"#;
        fs::write(new.join("sample.json"), sample).unwrap();
        // Criterion's copy of an earlier run.
        let base = home.join("group").join("a_b").join("base");
        fs::create_dir_all(&base).unwrap();
        fs::write(base.join("benchmark.json"), r#"{"full_id":"group/old"}"#).unwrap();
        assert_eq!(read(&home, "group/a/b").unwrap(), Some(7.5));
        assert_eq!(read(&home, "group/a").unwrap(), None);
        assert_eq!(read(&home, "group/old").unwrap(), None);
        fs::write(new.join("sample.json"), "{}").unwrap();
        assert!(read(&home, "group/a/b").is_err());
        fs::remove_dir_all(&home).unwrap();
    }
}
