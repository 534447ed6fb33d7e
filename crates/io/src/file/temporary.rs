//! The file beside the target, until it takes its place.
//!
//! Its name is `.NAME.PID.TIME.KERNEL.tmp`. Its writer holds a lock on it, which the system releases when a
//! process dies: so the leftovers of killed writers differ from files that are being written.
//!
//! Some locks exclude nobody, or nobody on another machine. So a free lock counts only if it was seen to keep
//! somebody out, and only on the machine of the writer. In all other cases a leftover is a file into which
//! nobody has written for ten minutes.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// Names that are tried before giving up.
const ATTEMPTS: usize = 1000;
/// Bytes of the target's name that are in the name of the file beside it: a name of full length has no room
/// for the rest.
pub(crate) const MAX_STEM: usize = 80;
/// Where a lock proves nothing, nobody has written into a leftover for so long.
const ABANDONED: Duration = Duration::from_secs(10 * 60);

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
        let (stem, process, kernel) = (stem(name), process::id(), kernel());
        let kernel = kernel.map_or(String::new(), |kernel| format!(".{kernel}"));
        for _ in 0..ATTEMPTS {
            time = time.wrapping_add(1);
            let path = directory.join(format!(".{stem}.{process}.{time}{kernel}.tmp"));
            // `create_new` never opens another's entry there, be it a file or a link.
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
    clean_where(directory, |of| of == stem(name));
}

/// The same for all names of which `ours` is true. It gets a name's first [`MAX_STEM`] bytes.
pub(crate) fn clean_where(directory: &Path, ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.map_while(Result::ok) {
        let name = entry.file_name();
        match parse(&name.to_string_lossy()) {
            Some((stem, writer)) if ours(stem) => {
                let _ = remove_if_abandoned(&entry.path(), writer);
            }
            _ => {}
        }
    }
}

/// `writer`: the kernel under which it was written.
fn remove_if_abandoned(path: &Path, writer: Option<&str>) -> io::Result<()> {
    remove_unless_locked(path, writer, File::try_lock)
}

fn remove_unless_locked(
    path: &Path,
    writer: Option<&str>,
    try_lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> io::Result<()> {
    let seen = fs::symlink_metadata(path)?;
    if !seen.is_file() {
        return Ok(());
    }
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let file = open()?;
    // It may be another one by now, or a link to one.
    if !is_same(&seen, &file.metadata()?) {
        return Ok(());
    }
    let proven = match try_lock(&file) {
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(_)) => false,
        Ok(()) => {
            let elsewhere = writer.is_some_and(|writer| kernel().is_some_and(|here| here != writer));
            // Some file systems give every lock to everybody: this one has to exclude another.
            !elsewhere && matches!(try_lock(&open()?), Err(TryLockError::WouldBlock))
        }
    };
    let silent = || seen.modified().is_ok_and(|at| at.elapsed().is_ok_and(|time| time > ABANDONED));
    if proven || silent() {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(unix)]
fn is_same(seen: &Metadata, opened: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (seen.dev(), seen.ino()) == (opened.dev(), opened.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, opened: &Metadata) -> bool {
    opened.is_file()
}

/// The id of the machine since it was started: it is the same for all processes that locks can keep apart.
/// `None` where the system doesn't say.
fn kernel() -> Option<&'static str> {
    static KERNEL: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let kernel = format!("k{}", id.get(..8)?);
        is_kernel(&kernel).then_some(kernel)
    };
    KERNEL.get_or_init(read).as_deref()
}

fn is_kernel(text: &str) -> bool {
    text.strip_prefix('k').is_some_and(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn stem(name: &str) -> &str {
    let end = name.char_indices().map(|(at, char)| at.saturating_add(char.len_utf8()));
    name.get(..end.take_while(|end| *end <= MAX_STEM).last().unwrap_or(0)).unwrap_or(name)
}

/// The stem and the kernel in the name of a file beside a target.
fn parse(name: &str) -> Option<(&str, Option<&str>)> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let rest = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (rest, kernel) = match rest.rsplit_once('.')? {
        (rest, kernel) if is_kernel(kernel) => (rest, Some(kernel)),
        _ => (rest, None),
    };
    let (rest, time) = rest.rsplit_once('.')?;
    let (stem, process) = rest.rsplit_once('.')?;
    (number(process) && number(time)).then_some((stem, kernel))
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
        let others = [
            ".x.1.2",
            ".x.1.tmp",
            ".x.1.b.tmp",
            ".x.a.2.tmp",
            ".x.brk.1.2.tmp",
            ".x.1..tmp",
            "x.1.2.tmp",
            ".x.1.2.k.tmp",
            ".x.1.2.k0123456g.tmp",
            ".x.1.2.3.tmp",
        ];
        others.iter().for_each(|name| put(name));
        let here = format!(".x.3.3.{}.tmp", kernel().unwrap_or("k00000000"));
        [".x.1.2.tmp", ".x.4294967295.1764000000000000000.tmp", &here].iter().for_each(|name| put(name));
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

    /// Some file systems give a lock to everybody who asks, and others have none: then a lock proves nothing,
    /// and a file that was just written stays.
    #[test]
    fn locks_that_exclude_nobody_prove_nothing() {
        let scratch = Scratch::new("locks");
        let path = scratch.0.join(".x.1.2.tmp");
        for for_everybody in [true, false] {
            let lock = |_: &File| match for_everybody {
                true => Ok(()),
                false => Err(TryLockError::Error(io::ErrorKind::Unsupported.into())),
            };
            fs::write(&path, "half of a che").unwrap();
            remove_unless_locked(&path, kernel(), lock).unwrap();
            assert!(path.exists());
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - ABANDONED - Duration::from_secs(60)).unwrap();
            remove_unless_locked(&path, kernel(), lock).unwrap();
            assert!(!path.exists());
        }
        // A lock that excludes others does.
        fs::write(&path, "half of a che").unwrap();
        remove_unless_locked(&path, kernel(), File::try_lock).unwrap();
        assert!(!path.exists());
    }

    /// A lock that is free on this machine may be held on another.
    #[test]
    fn what_another_machine_writes_is_left_for_a_while() {
        let scratch = Scratch::new("elsewhere");
        if kernel().is_none() {
            println!("skipped: the system doesn't say which kernel is running");
            return;
        }
        let theirs = scratch.0.join(".x.1.2.kffffffff.tmp");
        fs::write(&theirs, "half of a che").unwrap();
        clean(&scratch.0, "x");
        assert!(theirs.exists());
        let file = File::options().write(true).open(&theirs).unwrap();
        file.set_modified(SystemTime::now() - ABANDONED - Duration::from_secs(60)).unwrap();
        clean(&scratch.0, "x");
        assert!(!theirs.exists());
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(stem("model.brk"), "model.brk");
        assert_eq!(stem(&"x".repeat(300)), "x".repeat(MAX_STEM));
        assert_eq!(stem(&format!("x{}", "ß".repeat(99))), format!("x{}", "ß".repeat(39)));
        assert_eq!(stem(""), "");
    }

    #[test]
    fn a_taken_name_is_stepped_around() {
        let scratch = Scratch::new("taken");
        let kernel = kernel().map_or(String::new(), |kernel| format!(".{kernel}"));
        let name = |time| format!(".x.{}.{time}{kernel}.tmp", process::id());
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
