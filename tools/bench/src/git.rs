//! The user's repository, which is only read, and a clone that is the tool's own.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{bytes, command, output};

/// Git that takes no lock for its own convenience, and starts nothing that the user has set up.
fn git() -> Command {
    let mut git = command("git");
    // Without optional locks `git status` doesn't rewrite the index.
    git.args(["--no-pager", "--no-optional-locks"]).env("GIT_TERMINAL_PROMPT", "0");
    for setting in [
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "gc.auto=0",
        "maintenance.auto=false",
        "submodule.recurse=false",
        // A clone of a folder is a transport, and some have switched it off.
        "protocol.file.allow=always",
        // Else a signature's report stands among the lines of a log.
        "log.showSignature=false",
    ] {
        git.args(["-c", setting]);
    }
    git
}

/// The repository of a workspace.
pub(crate) struct Repository {
    /// The top of its working tree.
    top: PathBuf,
    /// The workspace's folder in it, with a slash at its end, or nothing.
    prefix: OsString,
}

/// The commit that a comparison is made with.
#[derive(Debug)]
pub(crate) struct Against {
    /// `None` if HEAD is the first commit.
    pub(crate) commit: Option<String>,
    /// If it isn't the commit that was asked for.
    pub(crate) note: Option<String>,
}

impl Repository {
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let ask = |question: &str| {
            let mut answer = bytes(git().arg("-C").arg(root).args(["rev-parse", question]))?;
            // A folder's name may end in anything else.
            answer.truncate(answer.strip_suffix(b"\n").unwrap_or(&answer).len());
            name(&answer)
        };
        Ok(Self { top: ask("--show-toplevel")?.into(), prefix: ask("--show-prefix")? })
    }

    /// Git's answer about it. Only for commands that change nothing.
    pub(crate) fn ask<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        output(git().arg("-C").arg(&self.top).args(arguments))
    }

    /// The object that a name stands for, if it is here.
    fn find(&self, name: impl AsRef<OsStr>) -> Option<String> {
        let arguments = ["rev-parse", "--quiet", "--verify"].map(OsStr::new);
        self.ask(arguments.into_iter().chain([name.as_ref()])).ok()
    }

    /// A file of the workspace in a commit, if it is there.
    pub(crate) fn read(&self, commit: &str, path: &str) -> Result<Option<String>> {
        let mut name = OsString::from(format!("{commit}:"));
        name.push(&self.prefix);
        name.push(path);
        self.find(name).map(|blob| self.ask(["cat-file", "blob", &blob])).transpose()
    }

    /// The merge base of a commit and HEAD.
    ///
    /// A full hash that isn't here stands for the commit before HEAD: a push that creates a branch says that
    /// there were only zeros before, and one by force names a commit that no branch has any more.
    pub(crate) fn against(&self, name: &str) -> Result<Against> {
        let hash = matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (commit, note) = match self.find(format!("{name}^{{commit}}")) {
            Some(commit) => (commit, None),
            None if hash => {
                let text = self.ask(["cat-file", "commit", "HEAD"])?;
                let mut header = text.lines().take_while(|line| !line.is_empty());
                let Some(parent) = header.find_map(|line| line.strip_prefix("parent ")) else {
                    let note = "HEAD is the first commit: there is nothing to compare with.";
                    return Ok(Against { commit: None, note: Some(note.to_string()) });
                };
                let note = format!("`{name:.12}` is not here: compared with the commit before HEAD.");
                (parent.to_string(), Some(note))
            }
            None => return Err(format!("there is no commit `{name}` here").into()),
        };
        let base = self
            .ask(["merge-base", &commit, "HEAD"])
            .map_err(|error| format!("`{commit}` and HEAD have no common commit that is here ({error})"))?;
        Ok(Against { commit: Some(base), note })
    }

    /// The workspace's folder in a copy of the repository.
    pub(crate) fn workspace(&self, tree: &Path) -> Result<PathBuf> {
        let root = tree.join(&self.prefix);
        if !root.is_dir() {
            return Err(format!("no folder {} in that commit", Path::new(&self.prefix).display()).into());
        }
        stays_in(tree, &root)?;
        Ok(root)
    }

    /// Checks a commit out. The contents of `tree` are lost.
    ///
    /// It is a clone that borrows the repository's objects, so nothing has to be cleaned up in the
    /// repository. One that was left behind by a killed run, or that belongs to another repository, is made
    /// anew.
    pub(crate) fn check_out(&self, tree: &Path, commit: &str) -> Result<()> {
        let git_dir = tree.join(".git");
        // Named, so git doesn't go up to the user's repository if the clone is no repository.
        let inside = |arguments: &[&str]| {
            let mut git = git();
            git.arg("--git-dir").arg(&git_dir).arg("--work-tree").arg(tree);
            output(git.args(arguments)).map(drop)
        };
        let renew = || {
            inside(&["checkout", "--quiet", "--force", "--detach", commit])?;
            inside(&["clean", "--quiet", "-ffdx"])
        };
        let object = format!("{commit}^{{tree}}");
        if is_folder(&git_dir) && inside(&["cat-file", "-e", &object]).and_then(|()| renew()).is_ok() {
            return Ok(());
        }
        remove(tree)?;
        let mut clone = git();
        // Without a template there are no hooks in it.
        clone.args(["clone", "--quiet", "--shared", "--no-checkout", "--template="]);
        output(clone.arg(&self.top).arg(tree))?;
        renew()
    }

    /// Makes `tree` a copy of the working tree: of the files that git tracks or doesn't ignore, but none in
    /// one of the folders `without`. Files that are equal stay untouched, so cargo builds only changed
    /// crates.
    pub(crate) fn copy(&self, tree: &Path, without: &[&Path]) -> Result<()> {
        let without: Vec<PathBuf> = without.iter().map(|path| canonical(path)).collect();
        let top = canonical(&self.top);
        let mut list = git();
        list.arg("-C").arg(&self.top);
        list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let mut files = BTreeSet::new();
        for file in bytes(&mut list)?.split(|&byte| byte == 0).filter(|file| !file.is_empty()) {
            let file = PathBuf::from(name(file)?);
            let outside = !without.iter().any(|folder| top.join(&file).starts_with(folder));
            // Neither a deleted file, nor a submodule, nor another repository.
            let there = fs::symlink_metadata(self.top.join(&file)).is_ok_and(|kind| !kind.is_dir());
            if outside && there {
                files.insert(file);
            }
        }
        // Ignored or not, it says which dependencies are built. Cargo makes one in the copy if there is none.
        files.insert(PathBuf::from(&self.prefix).join("Cargo.lock"));
        if !is_folder(tree) {
            remove(tree)?;
            fs::create_dir_all(tree)?;
        }
        prune(tree, Path::new(""), &files)?;
        for file in &files {
            let (from, to) = (self.top.join(file), tree.join(file));
            if fs::symlink_metadata(&from).is_ok() {
                mirror(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
            }
        }
        Ok(())
    }
}

/// The name of a file, as git prints it.
#[cfg(unix)]
fn name(bytes: &[u8]) -> Result<OsString> {
    Ok(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes).to_os_string())
}

#[cfg(not(unix))]
fn name(bytes: &[u8]) -> Result<OsString> {
    Ok(String::from_utf8(bytes.to_vec())?.into())
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// That no link on the way leads out of a copy: a write there would go elsewhere.
pub(crate) fn stays_in(tree: &Path, folder: &Path) -> Result<()> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(tree);
    if canonical(there).starts_with(canonical(tree)) {
        Ok(())
    } else {
        Err(format!("{} is a link that leads out of the repository", there.display()).into())
    }
}

/// Not a link to one.
pub(crate) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir())
}

/// Removes whatever is there; a link, not its target.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Removes entries in none of the files' places, and folders where a file has to be.
fn prune(tree: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(tree.join(folder))? {
        let entry = entry?;
        let place = folder.join(entry.file_name());
        let is_dir = entry.file_type()?.is_dir();
        let first = files.range(place.clone()..).next();
        if is_dir && first.is_some_and(|file| *file != place && file.starts_with(&place)) {
            prune(tree, &place, files)?;
        } else if is_dir || !files.contains(&place) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes `to` the same file or link as `from`.
pub(crate) fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?;
    let same = fs::symlink_metadata(to).is_ok_and(|other| {
        other.file_type() == kind.file_type()
            && match kind.is_symlink() {
                true => fs::read_link(from).ok() == fs::read_link(to).ok(),
                false => {
                    other.len() == kind.len()
                        && other.permissions() == kind.permissions()
                        && fs::read(from).ok() == fs::read(to).ok()
                }
            }
    });
    if same {
        return Ok(());
    }
    // Through a link the copy would overwrite the link's target.
    remove(to)?;
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    if kind.is_symlink() { link(from, to) } else { fs::copy(from, to).map(drop) }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(fs::read_link(from)?, to)
}

/// Links need a privilege there: a file's contents do as well.
#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_file() { fs::copy(from, to).map(drop) } else { Ok(()) }
}
