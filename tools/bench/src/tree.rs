//! The working tree, a checkout of the base beside it, and the benchmark programs of both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Result;

/// The bench target that counts instead of timing.
pub(crate) const GATE: &str = "gate";

/// Programs by the name of their bench target.
pub(crate) type Programs = BTreeMap<String, PathBuf>;

pub(crate) fn git(arguments: &[&str]) -> Result<String> {
    output(Command::new("git").args(arguments))
}

/// What a command printed; its errors go to the terminal.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.stderr(Stdio::inherit()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_string())
    } else {
        Err(format!("{command:?}: {}", done.status).into())
    }
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A workspace: the working tree's, or the base's.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    packages: Vec<Package>,
}

/// A package with benchmarks.
struct Package {
    name: String,
    folder: PathBuf,
    /// The names of its bench targets.
    targets: Vec<String>,
    /// Their files.
    sources: Vec<PathBuf>,
    /// Whether it has no other targets.
    benches_only: bool,
}

impl Package {
    fn has_any(&self, names: &[String]) -> bool {
        self.targets.iter().any(|target| names.contains(target))
    }
}

impl Tree {
    pub(crate) fn here() -> Result<Self> {
        Self::at(Path::new("."), None)
    }

    fn at(folder: &Path, target: Option<&Path>) -> Result<Self> {
        let mut command = cargo();
        command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(folder);
        if let Some(target) = target {
            command.env("CARGO_TARGET_DIR", target);
        }
        let metadata: Value = serde_json::from_str(&output(&mut command)?)?;
        let path =
            |value: &Value| value.as_str().map(PathBuf::from).ok_or("cargo metadata: a path is missing");
        let mut packages = Vec::new();
        for package in list(&metadata["packages"]) {
            let is_bench = |target: &&Value| list(&target["kind"]).any(|kind| kind == "bench");
            let all = list(&package["targets"]);
            let benches: Vec<&Value> = all.clone().filter(is_bench).collect();
            let names = benches.iter().filter_map(|target| Some(target["name"].as_str()?.to_string()));
            let sources = benches.iter().map(|target| path(&target["src_path"]));
            let manifest = path(&package["manifest_path"])?;
            if let (Some(name), Some(folder), false) =
                (package["name"].as_str(), manifest.parent(), benches.is_empty())
            {
                packages.push(Package {
                    name: name.to_string(),
                    folder: folder.to_path_buf(),
                    targets: names.collect(),
                    sources: sources.collect::<std::result::Result<_, _>>()?,
                    benches_only: benches.len() == all.count(),
                });
            }
        }
        Ok(Self {
            root: path(&metadata["workspace_root"])?,
            target: path(&metadata["target_directory"])?,
            packages,
        })
    }

    /// Names of all bench targets.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &String> {
        self.packages.iter().flat_map(|package| &package.targets)
    }

    /// The file of a bench target.
    pub(crate) fn source(&self, target: &str) -> Result<&Path> {
        let mut all = self.packages.iter().flat_map(|package| package.targets.iter().zip(&package.sources));
        let (_, file) = all.find(|(name, _)| *name == target).ok_or("no such bench target")?;
        Ok(file)
    }

    /// Names of the targets that time, or those of `chosen`, which must exist.
    pub(crate) fn timed(&self, chosen: Option<&[String]>) -> Result<Vec<String>> {
        let all: Vec<String> = self.targets().filter(|name| *name != GATE).cloned().collect();
        let Some(chosen) = chosen else { return Ok(all) };
        match chosen.iter().find(|name| !all.contains(name)) {
            Some(name) => {
                Err(format!("--crates: no bench target `{name}`; there are: {}", all.join(", ")).into())
            }
            None => Ok(chosen.to_vec()),
        }
    }

    /// Builds bench targets and says where they are.
    pub(crate) fn build(&self, names: &[String]) -> Result<Programs> {
        let mut command = cargo();
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command.args(["bench", "--no-run", "--message-format", "json-render-diagnostics"]);
        for package in self.packages.iter().filter(|package| package.has_any(names)) {
            command.args(["--package", &package.name]);
        }
        for name in names {
            command.args(["--bench", name]);
        }
        let mut programs = Programs::new();
        for line in output(&mut command)?.lines() {
            let message: Value = serde_json::from_str(line)?;
            let target = &message["target"];
            if list(&target["kind"]).any(|kind| kind == "bench")
                && let (Some(name), Some(program)) = (target["name"].as_str(), message["executable"].as_str())
            {
                programs.insert(name.to_string(), PathBuf::from(program));
            }
        }
        match names.iter().find(|name| !programs.contains_key(*name)) {
            Some(name) => Err(format!("cargo built no program for the bench target `{name}`").into()),
            None => Ok(programs),
        }
    }

    /// The merge base of `commit` and the working tree's commit.
    pub(crate) fn merge_base(commit: &str) -> Result<String> {
        git(&["merge-base", commit, "HEAD"]).map_err(|error| {
            format!("`{commit}` and HEAD have no common commit that is here ({error})").into()
        })
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> + Clone {
    value.as_array().into_iter().flatten()
}

/// The base's programs, and whose benchmarks they are.
pub(crate) struct Base {
    pub(crate) root: PathBuf,
    pub(crate) programs: Programs,
    /// For the report, if it needs to be known.
    pub(crate) note: Option<String>,
}

/// Builds the base with the working tree's benchmarks: both sides do the same work. Where they use what the
/// base doesn't have, it is built with its own. Its target folder is kept, so the next build is short.
pub(crate) fn base(head: &Tree, commit: &str, names: &[String]) -> Result<Base> {
    let folder = head.target.join("bench-base");
    let (root, target) = (folder.join("tree"), folder.join("target"));
    checkout(&root, commit)?;
    overlay(head, &root, names)?;
    eprintln!("building {} of {commit:.12}", names.join(", "));
    match Tree::at(&root, Some(&target)).and_then(|tree| tree.build(names)) {
        Ok(programs) => Ok(Base { root, programs, note: None }),
        Err(error) => {
            eprintln!(
                "the benchmarks of the working tree don't fit {commit:.12} ({error}): building its own"
            );
            checkout(&root, commit)?;
            let tree = Tree::at(&root, Some(&target))?;
            let there: BTreeSet<&String> = tree.targets().collect();
            let own: Vec<String> = names.iter().filter(|name| there.contains(name)).cloned().collect();
            let programs = if own.is_empty() { Programs::new() } else { tree.build(&own)? };
            let note = "The base was built with its own benchmarks: those of the working tree don't fit it. \
                        What an id measures may have changed.";
            Ok(Base { root, programs, note: Some(note.to_string()) })
        }
    }
}

/// A clone that borrows the repository's objects: nothing has to be cleaned up in the repository afterwards.
fn checkout(root: &Path, commit: &str) -> Result<()> {
    let path = root.to_string_lossy();
    // It may borrow from a repository that has moved, or from another one that shares this target folder.
    let has = |commit: &str| git(&["-C", &path, "cat-file", "-e", &format!("{commit}^{{tree}}")]).is_ok();
    if root.join(".git").exists() && !has(commit) {
        fs::remove_dir_all(root)?;
    }
    if !root.join(".git").exists() {
        git(&["clone", "--quiet", "--shared", "--no-checkout", ".", &path])?;
    }
    git(&["-C", &path, "checkout", "--quiet", "--force", "--detach", commit])?;
    git(&["-C", &path, "clean", "--quiet", "--force", "-d"])?;
    Ok(())
}

/// Copies head's benchmarks over the base's: the whole folder of a package that has nothing else, the folder
/// `benches` of any other.
///
/// A manifest is copied over a manifest only. A base whose root package owns the same files gets the files,
/// and builds them as its own.
fn overlay(head: &Tree, root: &Path, names: &[String]) -> Result<()> {
    for package in head.packages.iter().filter(|package| package.has_any(names)) {
        let place = root.join(package.folder.strip_prefix(&head.root)?);
        let manifest = place.join("Cargo.toml");
        if package.benches_only {
            copy(&package.folder, &place)?;
            if manifest.exists() {
                fs::copy(package.folder.join("Cargo.toml"), &manifest)?;
            }
        } else {
            copy(&package.folder.join("benches"), &place.join("benches"))?;
            declare(&manifest, &package.targets, names)?;
        }
    }
    Ok(())
}

/// Adds the bench targets that a manifest doesn't know.
fn declare(manifest: &Path, targets: &[String], names: &[String]) -> Result<()> {
    let mut text = fs::read_to_string(manifest)?;
    for target in targets.iter().filter(|target| names.contains(target)) {
        if !text.contains(&format!("name = \"{target}\"")) {
            text += &format!("\n[[bench]]\nname = \"{target}\"\nharness = false\n");
        }
    }
    fs::write(manifest, text)?;
    Ok(())
}

/// All files but manifests, those of nested packages, and those of build folders.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(|error| format!("{}: {error}", from.display()))? {
        let (path, place) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_file() {
            if path.ends_with("Cargo.toml") {
                continue;
            }
            fs::create_dir_all(to)?;
            fs::copy(&path, &place)?;
        } else if path.is_dir() && !path.join("Cargo.toml").exists() && !path.ends_with("target") {
            copy(&path, &place)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_laid_over_either_layout() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("backrule-bench-overlay-{}", std::process::id()));
        let write = |path: &str, text: &str| -> Result<()> {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().ok_or("no folder")?)?;
            Ok(fs::write(path, text)?)
        };
        for file in
            ["benches/Cargo.toml", "benches/nn.rs", "benches/gate/main.rs", "benches/peers/Cargo.toml"]
        {
            write(&format!("head/{file}"), "head")?;
        }
        write("head/one/benches/one.rs", "head")?;
        // The files belong to the root package, then to the same package as in head.
        for base in ["old", "new"] {
            write(&format!("{base}/benches/nn.rs"), "base")?;
            write(&format!("{base}/one/Cargo.toml"), "[[bench]]\nname = \"two\"\n")?;
        }
        write("new/benches/Cargo.toml", "base")?;
        let package = |name: &str, path: &str, benches_only| Package {
            name: name.to_string(),
            folder: folder.join("head").join(path),
            targets: vec![name.to_string()],
            sources: Vec::new(),
            benches_only,
        };
        let packages = vec![package("nn", "benches", true), package("one", "one", false)];
        let head = Tree { root: folder.join("head"), target: folder.join("target"), packages };
        for (base, manifest) in [("old", None), ("new", Some("head"))] {
            let root = folder.join(base);
            overlay(&head, &root, &["nn".to_string(), "one".to_string()])?;
            let read = |path: &str| fs::read_to_string(root.join(path)).ok();
            for file in ["benches/nn.rs", "benches/gate/main.rs", "one/benches/one.rs"] {
                assert_eq!(read(file).as_deref(), Some("head"), "{base}: {file}");
            }
            assert_eq!(read("benches/Cargo.toml").as_deref(), manifest, "{base}");
            assert_eq!(read("benches/peers/Cargo.toml"), None, "a workspace of its own");
            let declared = read("one/Cargo.toml").ok_or("no manifest")?;
            assert_eq!(declared, "[[bench]]\nname = \"two\"\n\n[[bench]]\nname = \"one\"\nharness = false\n");
        }
        fs::remove_dir_all(folder)?;
        Ok(())
    }
}
