//! The results of a run: Markdown on the terminal and in the job's summary, JSON in a file.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Result;
use crate::git::Repository;
use crate::process::{print, tell};

/// Prints, and appends to the summary of a GitHub job if this is one.
pub(crate) fn show(markdown: &str) -> Result<()> {
    print(format!("{markdown}\n"))?;
    if let Some(summary) = std::env::var_os("GITHUB_STEP_SUMMARY") {
        writeln!(OpenOptions::new().create(true).append(true).open(summary)?, "{markdown}")?;
    }
    Ok(())
}

pub(crate) fn save(file: &Path, results: &Value) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, format!("{results:#}\n")).map_err(|error| format!("{}: {error}", file.display()))?;
    tell(format!("results in {}", file.display()));
    Ok(())
}

/// The commit of the working tree, and whether it is that commit exactly.
pub(crate) fn head(repository: &Repository) -> Result<Value> {
    Ok(json!({
        "commit": repository.ask(["rev-parse", "HEAD"])?,
        "date": repository.ask(["log", "-1", "--format=%cI"])?,
        "subject": repository.ask(["log", "-1", "--format=%s"])?,
        "changed": !repository.ask(["status", "--porcelain", "--untracked-files=no"])?.is_empty(),
    }))
}

/// The folder of results, from the root if a name is given: programs run elsewhere.
pub(crate) fn folder(chosen: Option<&Path>, target: &Path) -> Result<PathBuf> {
    Ok(chosen.map_or(Ok(target.join("bench")), std::path::absolute)?)
}

/// The base of the tables.
pub(crate) fn base(commit: Option<&str>) -> String {
    commit.map_or("nothing".to_string(), |commit| format!("`{commit:.12}`"))
}

pub(crate) fn failures(failures: &[String], none: &str) -> String {
    if failures.is_empty() {
        return format!("{none}\n\n");
    }
    let lines: String = failures.iter().map(|failure| format!("- {failure}\n")).collect();
    format!("**Failed:**\n\n{lines}\n")
}

/// 1234567.8 as 1,234,568.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let texts = [0.4, 999.0, 1000.0, 1_234_567.8].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,568"]);
    }
}
