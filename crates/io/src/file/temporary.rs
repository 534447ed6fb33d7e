//! The file beside the target, until it takes its place.
//!
//! Its name is `.NAME.PID.TIME.tmp`. Its writer holds a lock on it, which the system releases when a process
//! dies: so the leftovers of killed writers differ from files that are being written.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::time::SystemTime;

/// Names that are tried before giving up.
const ATTEMPTS: usize = 1000;

/// Removed when dropped, unless it was renamed.
pub(super) struct Temporary {
    pub(super) file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    /// In the target's folder: only within one file system can a file be renamed.
    pub(super) fn create(directory: &Path, name: &str, private: bool) -> io::Result<Self> {
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        Self::create_from(time, directory, name, private)
    }

    fn create_from(mut time: u128, directory: &Path, name: &str, private: bool) -> io::Result<Self> {
        let prefix = prefix(name);
        for _ in 0..ATTEMPTS {
            time = time.wrapping_add(1);
            let path = directory.join(format!("{prefix}{}.{time}.tmp", process::id()));
            // `create_new` never opens what somebody else put there, be it a file or a link.
            let file = match options(private).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened?,
            };
            let new = Self { file, path, renamed: false };
            match new.file.try_lock() {
                // Another writer may have cleaned it away before it was locked. Now nobody will.
                Ok(()) if new.path.exists() => return Ok(new),
                // A file system without locks: leftovers can't be recognized there, and are not cleaned.
                Err(TryLockError::Error(_)) => return Ok(new),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for a file beside it"))
    }

    /// The lock is released after that: a leftover never has the name of a file that somebody still wants.
    pub(super) fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // The cause of a failed write may make removing fail too; the first error is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the leftovers of killed writers of this name: the new file may need their room. One that can't be
/// removed is no reason not to save.
pub(super) fn clean(directory: &Path, name: &str) {
    let prefix = prefix(name);
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.map_while(Result::ok) {
        if is_temporary(&prefix, &entry.file_name().to_string_lossy()) {
            let _ = remove_if_abandoned(&entry.path());
        }
    }
}

fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.try_lock().is_ok() {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn prefix(name: &str) -> String {
    // A name of full length has no room for the suffix.
    let name: String = name.chars().take(32).collect();
    format!(".{name}.")
}

fn is_temporary(prefix: &str, name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (name.strip_prefix(prefix))
        .and_then(|rest| rest.strip_suffix(".tmp"))
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(pid, time)| number(pid) && number(time))
}

/// `private`: readable for nobody else, until it gets the permissions of the file that it replaces.
#[cfg(unix)]
fn options(private: bool) -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.write(true).mode(if private { 0o600 } else { 0o666 });
    options
}

#[cfg(not(unix))]
fn options(_: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn leftovers_are_removed_and_nothing_else() {
        let scratch = Scratch::new("leftovers");
        let put = |name: &str| fs::write(scratch.0.join(name), "theirs").unwrap();
        let others =
            [".x.1.2", ".x.1.tmp", ".x.1.b.tmp", ".x.a.2.tmp", ".x.brk.1.2.tmp", ".x.1..tmp", "x.1.2.tmp"];
        others.iter().for_each(|name| put(name));
        [".x.1.2.tmp", ".x.4294967295.1764000000000000000.tmp"].iter().for_each(|name| put(name));
        fs::create_dir(scratch.0.join(".x.3.4.tmp")).unwrap();
        let live = Temporary::create(&scratch.0, "x", false).unwrap();
        clean(&scratch.0, "x");
        let mut expected: Vec<String> = others.iter().map(ToString::to_string).collect();
        expected.push(".x.3.4.tmp".to_string());
        expected.push(live.path.file_name().unwrap().to_str().unwrap().to_string());
        expected.sort();
        assert_eq!(scratch.names(), expected);
        let path = live.path.clone();
        drop(live);
        assert!(!path.exists());
    }

    /// Between creating and locking it, another writer may take it for a leftover.
    #[test]
    fn nobody_keeps_a_file_that_was_cleaned_away() {
        let scratch = Scratch::new("cleaned");
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..2000 {
                            let new = Temporary::create(&scratch.0, "x", false).unwrap();
                            new.rename(&scratch.0.join("x")).unwrap();
                        }
                    })
                })
                .collect();
            while !writers.iter().all(|writer| writer.is_finished()) {
                clean(&scratch.0, "x");
            }
        });
        assert_eq!(scratch.names(), ["x"]);
    }

    #[test]
    fn a_taken_name_is_stepped_around() {
        let scratch = Scratch::new("taken");
        let name = |time| format!(".x.{}.{time}.tmp", process::id());
        fs::write(scratch.0.join(name(6)), "theirs").unwrap();
        let new = Temporary::create_from(5, &scratch.0, "x", false).unwrap();
        assert_eq!(new.path, scratch.0.join(name(7)));
        assert_eq!(fs::read(scratch.0.join(name(6))).unwrap(), b"theirs");
        for time in 8..=5 + ATTEMPTS as u128 {
            fs::write(scratch.0.join(name(time)), "theirs").unwrap();
        }
        let error =
            Temporary::create_from(5, &scratch.0, "x", false).map(|new| new.path.clone()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
