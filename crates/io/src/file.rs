//! Putting a file in another's place, so that a crash leaves the old one or the new one, whole; and opening one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::SaveError;

/// Names that are taken, one after the other, before giving up.
const ATTEMPTS: usize = 1000;

/// Lets `write` fill a new file, and puts that in the place of `file`.
pub(crate) fn replace(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), SaveError> {
    replace_with(file, write, sync_directory)
}

fn replace_with(
    file: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    sync_directory: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), SaveError> {
    match commit(file, write) {
        Err(source) => Err(SaveError::NotCommitted { file: file.to_path_buf(), source }),
        // A sync that failed is not tried again: the system may have dropped the data that it could not write, and
        // report success the second time.
        Ok(directory) => sync_directory(&directory)
            .map_err(|source| SaveError::NotDurable { file: file.to_path_buf(), source }),
    }
}

/// Everything up to and including the renaming; gives the directory that has to be synced.
fn commit(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<PathBuf> {
    let target = target(file)?;
    let (Some(name), Some(parent)) = (target.file_name(), target.parent()) else {
        return Err(invalid("this path has no file name"));
    };
    // The parent of a bare name such as `model.brk` is an empty path, which can't be opened.
    let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let (sibling, mut new) = create_sibling(directory, &name.to_string_lossy())?;
    let done = write(&mut new).and_then(|()| new.sync_all()).and_then(|()| {
        drop(new);
        fs::rename(&sibling, &target)
    });
    if let Err(error) = done {
        // What made writing fail may make removing fail too; the first error is the one to report.
        let _ = fs::remove_file(&sibling);
        return Err(error);
    }
    Ok(directory.to_path_buf())
}

/// Where `file` really is: behind a symbolic link, so that the link stays one. What is there must be a file, or nothing:
/// renaming over a device would remove it.
fn target(file: &Path) -> io::Result<PathBuf> {
    let kind = match fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(file.to_path_buf()),
        found => found?.file_type(),
    };
    let target = if kind.is_symlink() { fs::canonicalize(file)? } else { file.to_path_buf() };
    regular(&fs::metadata(&target)?)?;
    Ok(target)
}

/// A new file beside the target: only within one file system can a file be renamed.
fn create_sibling(directory: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // A name of full length would be too long with something added.
    let name: String = name.chars().take(32).collect();
    let mut taken = None;
    for _ in 0..ATTEMPTS {
        let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".{name}.{}.{counter}.tmp", process::id()));
        // `create_new` never opens what somebody else put there, be it a file or a link.
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = Some(error),
            opened => return opened.map(|file| (path, file)),
        }
    }
    Err(taken.unwrap_or_else(|| invalid("no free name beside it")))
}

/// Makes the renaming last. Elsewhere than on Unix a directory can't be opened for that.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Opens a file and tells how long it is.
pub(crate) fn open(file: &Path) -> io::Result<(File, u64)> {
    // Before it is opened: opening a pipe would wait for somebody to write to it.
    regular(&fs::metadata(file)?)?;
    let file = File::open(file)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        Ok(())
    } else if metadata.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        Err(invalid("it is not a regular file"))
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// An empty directory that is removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("backrule-{}-{name}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_failing_write_leaves_the_old_file_and_nothing_else() {
        let scratch = Scratch::new("failing-write");
        let file = scratch.0.join("model.brk");
        fs::write(&file, "old").unwrap();
        let error = replace(&file, |out| {
            out.write_all(b"half of the n")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(error, Err(SaveError::NotCommitted { .. })));
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(scratch.names(), ["model.brk"]);
    }

    #[test]
    fn a_failing_directory_sync_is_told_apart() {
        let scratch = Scratch::new("failing-sync");
        let file = scratch.0.join("model.brk");
        fs::write(&file, "old").unwrap();
        let result = replace_with(
            &file,
            |out| out.write_all(b"new"),
            |directory| {
                assert_eq!(directory, scratch.0);
                Err(io::ErrorKind::Other.into())
            },
        );
        let error = result.unwrap_err();
        assert!(matches!(error, SaveError::NotDurable { .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(scratch.names(), ["model.brk"]);
    }

    #[test]
    fn a_leftover_is_stepped_around() {
        let scratch = Scratch::new("leftover");
        let (first, _) = create_sibling(&scratch.0, "x").unwrap();
        let count: u64 = first.to_str().unwrap().rsplit('.').nth(1).unwrap().parse().unwrap();
        // Other tests count too: take every name that the next calls could choose.
        let leftovers: Vec<PathBuf> = (count + 1..count + 50)
            .map(|next| scratch.0.join(format!(".x.{}.{next}.tmp", process::id())))
            .collect();
        for leftover in &leftovers {
            fs::write(leftover, "theirs").unwrap();
        }
        let (second, _) = create_sibling(&scratch.0, "x").unwrap();
        assert!(!leftovers.contains(&second));
        for leftover in &leftovers {
            assert_eq!(fs::read(leftover).unwrap(), b"theirs");
        }
    }

    #[test]
    fn long_names_work() {
        let scratch = Scratch::new("long-names");
        let name = format!("{}.brk", "ß".repeat(120));
        replace(&scratch.0.join(&name), |out| out.write_all(b"new")).unwrap();
        assert_eq!(scratch.names(), [name]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_left_alone() {
        use std::os::unix::fs::symlink;
        let scratch = Scratch::new("links");
        let (file, link) = (scratch.0.join("real.brk"), scratch.0.join("latest.brk"));
        fs::write(&file, "old").unwrap();
        symlink("real.brk", &link).unwrap();
        replace(&link, |out| out.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");

        // A stand-in for a device: a socket is no regular file either.
        let socket = scratch.0.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = replace(&socket, |out| out.write_all(b"new")).unwrap_err();
        assert!(matches!(error, SaveError::NotCommitted { .. }));
        assert!(!fs::metadata(&socket).unwrap().is_file());
        assert!(open(&socket).is_err());
    }
}
