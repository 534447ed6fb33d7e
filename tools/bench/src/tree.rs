//! Copies of both sides of a comparison, and the benchmark programs of each.
//!
//! Both are built and run in the target folder: nothing is written into the working tree, also if this
//! program is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Result;
use crate::git::{Against, Repository, is_folder, mirror, remove, stays_in};
use crate::process::{command, output, tell};

/// The bench target that counts instead of timing.
pub(crate) const GATE: &str = "gate";

/// Programs by the name of their bench target.
pub(crate) type Programs = BTreeMap<String, PathBuf>;

fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A workspace: the user's, or a copy.
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

    /// Builds bench targets to be asked for their ids and says where they are. They are not optimized, which
    /// would take minutes; a `Cargo.lock` that wasn't there isn't there afterwards.
    pub(crate) fn build_to_list(&self, names: &[String]) -> Result<Programs> {
        let lock = self.root.join("Cargo.lock");
        let there = lock.exists();
        let programs = self.build_with(names, &["--profile", "dev"]);
        if !there && lock.exists() {
            fs::remove_file(lock)?;
        }
        programs
    }

    /// Builds bench targets and says where they are.
    fn build(&self, names: &[String]) -> Result<Programs> {
        self.build_with(names, &[])
    }

    fn build_with(&self, names: &[String], arguments: &[&str]) -> Result<Programs> {
        let mut command = cargo();
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command.args(["bench", "--no-run", "--message-format", "json-render-diagnostics"]);
        command.args(arguments);
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
}

fn list(value: &Value) -> impl Iterator<Item = &Value> + Clone {
    value.as_array().into_iter().flatten()
}

/// One side of a comparison.
pub(crate) struct Side {
    /// Where its programs run.
    pub(crate) root: PathBuf,
    /// None if there is nothing to compare with.
    pub(crate) programs: Programs,
}

/// Both sides, built.
pub(crate) struct Sides {
    pub(crate) head: Side,
    pub(crate) base: Side,
    /// For the report, if the base isn't the expected one.
    pub(crate) note: Option<String>,
    /// Another comparison in the same target folder waits for this one.
    _lock: File,
}

impl Tree {
    /// Builds the working tree and the base of the comparison, in copies. `out` takes no part in the copy.
    ///
    /// The base is built with the working tree's benchmarks: both sides do the same work. Where they use
    /// items that it lacks, it is built with its own. Target folders are kept, so the next build is short.
    pub(crate) fn build_both(
        &self,
        repository: &Repository,
        against: &Against,
        names: &[String],
        out: &Path,
    ) -> Result<Sides> {
        let _lock = lock(&self.target)?;
        let [head, base] = ["bench-head", "bench-base"].map(|name| self.target.join(name));
        let copy = head.join("tree");
        repository.copy(&copy, &[&self.target, out])?;
        let head = Self::of_copy(repository, &copy, &head.join("target"))?;
        tell(format!("building {} of the working tree", names.join(", ")));
        let programs = head.build(names)?;
        let built = Side { root: head.root.clone(), programs };
        let mut note = against.note.clone();
        let base = match &against.commit {
            None => Side { root: head.root.clone(), programs: Programs::new() },
            Some(commit) => {
                let place = Place { repository, tree: base.join("tree"), target: base.join("target") };
                let (side, own) = place.build((&head, &copy), commit, names)?;
                if own {
                    let text = "The base was built with its own benchmarks: those of the working tree don't fit it. \
                                What an id measures may have changed.";
                    note = Some(note.map_or(text.to_string(), |note| format!("{note} {text}")));
                }
                side
            }
        };
        Ok(Sides { head: built, base, note, _lock })
    }

    /// The workspace in a copy of its repository.
    fn of_copy(repository: &Repository, tree: &Path, target: &Path) -> Result<Self> {
        let root = repository.workspace(tree)?;
        let [manifest, lock] = ["Cargo.toml", "Cargo.lock"].map(|name| root.join(name));
        if lock.is_symlink() {
            // Cargo writes through a link.
            replace(&lock, &fs::read_to_string(&lock)?)?;
        }
        let is_root = |folder: &Path| {
            let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
            text.lines().any(|line| line.trim_start().starts_with("[workspace"))
        };
        // Else cargo looks further up, finds the user's workspace, and misses the copy among its members.
        if manifest.exists() && !root.ancestors().take_while(|folder| folder.starts_with(tree)).any(is_root) {
            let text = fs::read_to_string(&manifest)?;
            replace(&manifest, &format!("{text}\n[workspace]\n"))?;
        }
        Self::at(&root, Some(target))
    }
}

/// Lets one comparison at a time use the copies. The system frees the lock, also of a process that is killed.
fn lock(target: &Path) -> Result<File> {
    for name in ["bench-head", "bench-base"] {
        fs::create_dir_all(target.join(name))?;
        // A target folder that git doesn't ignore would show both copies.
        fs::write(target.join(name).join(".gitignore"), "*\n")?;
    }
    let file = File::create(target.join("bench-base").join("lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tell("waiting for another comparison in this target folder");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => tell(format!("this target folder can't be locked: {error}")),
    }
    Ok(file)
}

/// Where the base is built.
struct Place<'a> {
    repository: &'a Repository,
    tree: PathBuf,
    target: PathBuf,
}

impl Place<'_> {
    /// Whether it was built with its own benchmarks, too.
    fn build(&self, head: (&Tree, &Path), commit: &str, names: &[String]) -> Result<(Side, bool)> {
        tell(format!("building {} of {commit:.12}", names.join(", ")));
        let overlaid = self.check_out(head.0, commit).and_then(|tree| {
            overlay(head, &self.tree, names)?;
            // The manifests are other ones now.
            Ok((Tree::at(&tree.root, Some(&self.target))?.build(names)?, tree.root))
        });
        match overlaid {
            Ok((programs, root)) => Ok((Side { root, programs }, false)),
            Err(error) => {
                tell(format!(
                    "the benchmarks of the working tree don't fit {commit:.12} ({error}): building its own"
                ));
                let tree = self.check_out(head.0, commit)?;
                let there: BTreeSet<&String> = tree.targets().collect();
                let own: Vec<String> = names.iter().filter(|name| there.contains(name)).cloned().collect();
                let programs = if own.is_empty() { Programs::new() } else { tree.build(&own)? };
                Ok((Side { root: tree.root, programs }, true))
            }
        }
    }

    fn check_out(&self, head: &Tree, commit: &str) -> Result<Tree> {
        self.repository.check_out(&self.tree, commit)?;
        // Where git ignores it, both sides are built with the same dependencies.
        let lock = |root: &Path| root.join("Cargo.lock");
        let (from, to) = (lock(&head.root), lock(&self.repository.workspace(&self.tree)?));
        if from.exists() && fs::symlink_metadata(&to).is_err() {
            fs::copy(from, to)?;
        }
        Tree::of_copy(self.repository, &self.tree, &self.target)
    }
}

/// Copies head's benchmarks over the base's: the whole folder of a package that has nothing else, the folder
/// `benches` of any other.
///
/// A manifest is copied over a manifest only. A base whose root package owns the same files gets the files,
/// and builds them as its own.
fn overlay((head, tree): (&Tree, &Path), base: &Path, names: &[String]) -> Result<()> {
    for package in head.packages.iter().filter(|package| package.has_any(names)) {
        let place = base.join(package.folder.strip_prefix(tree)?);
        stays_in(base, &place)?;
        let manifest = place.join("Cargo.toml");
        if package.benches_only {
            copy(&package.folder, &place)?;
            if manifest.exists() {
                mirror(&package.folder.join("Cargo.toml"), &manifest)?;
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
    replace(manifest, &text)
}

/// All files but manifests, those of nested packages, and those of build folders.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !is_folder(to) {
        remove(to)?;
        fs::create_dir_all(to)?;
    }
    for entry in fs::read_dir(from).map_err(|error| format!("{}: {error}", from.display()))? {
        let (path, place) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if !is_folder(&path) {
            if !path.ends_with("Cargo.toml") {
                mirror(&path, &place)?;
            }
        } else if !path.join("Cargo.toml").exists() && !path.ends_with("target") {
            copy(&path, &place)?;
        }
    }
    Ok(())
}

/// A link would be followed.
fn replace(file: &Path, text: &str) -> Result<()> {
    remove(file)?;
    Ok(fs::write(file, text)?)
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
            overlay((&head, &head.root), &root, &["nn".to_string(), "one".to_string()])?;
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
