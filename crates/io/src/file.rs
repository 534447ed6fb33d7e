//! Putting a file in another's place, so that a crash leaves the old one or the new one, whole; and opening one.

mod kind;
mod permissions;
mod target;
mod temporary;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

pub use kind::FileKind;
pub use target::TargetProblem;

use crate::{LoadProblem, SaveError};
use target::Target;
use temporary::Temporary;

/// What is done to save a file, up to the moment at which the new one is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveStep {
    /// Looking at what is there.
    Look,
    /// Creating a file beside it.
    Create,
    /// Giving that the permissions of the old one.
    Permissions,
    /// Writing it.
    Write,
    /// Having it written to the disk.
    Sync,
    /// Giving it the name of the old one.
    Rename,
}

impl fmt::Display for SaveStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "looking at what is there",
            Self::Create => "creating a file beside it",
            Self::Permissions => "setting the permissions of the file beside it",
            Self::Write => "writing",
            Self::Sync => "syncing",
            Self::Rename => "renaming the file beside it",
        })
    }
}

/// Lets `write` fill a new file, and puts that in the place of `file`.
pub(crate) fn replace(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), SaveError> {
    replace_with(file, write, sync_directory)
}

fn replace_with(
    file: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    sync_directory: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), SaveError> {
    let directory = commit(file, write)?;
    // A sync that failed is not tried again: the system may have dropped the data that it could not write, and report
    // success the second time.
    sync_directory(&directory)
        .map_err(|source| SaveError::DurabilityUncertain { file: file.to_path_buf(), source })
}

/// Everything up to and including the renaming; gives the directory that has to be synced.
fn commit(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<PathBuf, SaveError> {
    let failed = |step| move |source| not_committed(file, step, source);
    let target = Target::of(file)?;
    temporary::clean(&target.directory, &target.name);
    let mut new = Temporary::create(&target.directory, &target.name, target.old.is_some())
        .map_err(failed(SaveStep::Create))?;
    if let Some(old) = &target.old {
        permissions::keep(old, &new.file).map_err(failed(SaveStep::Permissions))?;
    }
    write(&mut new.file).map_err(failed(SaveStep::Write))?;
    new.file.sync_all().map_err(failed(SaveStep::Sync))?;
    new.rename(&target.path).map_err(failed(SaveStep::Rename))?;
    Ok(target.directory)
}

/// An error of the system, as what it says about the target where it does.
fn not_committed(file: &Path, step: SaveStep, source: io::Error) -> SaveError {
    use io::ErrorKind as E;
    let file = file.to_path_buf();
    let problem = match (step, source.kind()) {
        (SaveStep::Look | SaveStep::Create, E::NotFound | E::NotADirectory) => TargetProblem::NoFolder,
        (SaveStep::Create, E::PermissionDenied) => TargetProblem::FolderNotWritable,
        (SaveStep::Create, E::ReadOnlyFilesystem) => TargetProblem::ReadOnlyFileSystem,
        (SaveStep::Rename, E::CrossesDevices | E::ResourceBusy) => TargetProblem::OtherDevice,
        _ => return SaveError::NotCommitted { file, step, source },
    };
    SaveError::Target { file, problem }
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

/// Opens a file and tells how long it is. What is no file is refused at once: a pipe would keep us waiting, a device
/// might never end.
pub(crate) fn open(file: &Path) -> Result<(File, u64), LoadProblem> {
    // Before it is opened, because opening alone has effects on some devices; and again when it is, because it may be
    // another one by then.
    regular(&fs::metadata(file)?)?;
    let file = for_reading().open(file)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata.len()))
}

fn regular(metadata: &fs::Metadata) -> Result<(), LoadProblem> {
    FileKind::special(metadata).map_or(Ok(()), |kind| Err(LoadProblem::Special(kind)))
}

/// Opening never waits, whatever the path has become since it was looked at.
#[cfg(unix)]
fn for_reading() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    /// O_NONBLOCK. It is not worth a dependency; elsewhere, only the check before opening is left.
    const NONBLOCK: i32 = if cfg!(all(
        any(target_os = "linux", target_os = "android"),
        any(
            target_arch = "x86_64",
            target_arch = "x86",
            target_arch = "aarch64",
            target_arch = "arm",
            target_arch = "riscv64"
        )
    )) {
        0o4000
    } else if cfg!(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    )) {
        4
    } else {
        0
    };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(NONBLOCK);
    options
}

#[cfg(not(unix))]
fn for_reading() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    options
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;
    use std::process;

    use super::*;

    /// An empty directory that is removed at the end.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("backrule-{}-{name}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(crate) fn names(&self) -> Vec<String> {
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

    fn write_new(file: &Path) -> Result<(), SaveError> {
        replace(file, |out| out.write_all(b"new"))
    }

    fn problem(result: Result<(), SaveError>) -> TargetProblem {
        match result {
            Err(SaveError::Target { problem, .. }) => problem,
            other => panic!("{other:?}"),
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
        assert!(matches!(error, Err(SaveError::NotCommitted { step: SaveStep::Write, .. })));
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
        assert!(matches!(error, SaveError::DurabilityUncertain { .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(scratch.names(), ["model.brk"]);
    }

    #[test]
    fn what_a_killed_writer_left_is_cleaned_by_the_next() {
        let scratch = Scratch::new("killed");
        fs::write(scratch.0.join(".model.brk.1.2.tmp"), "half of the n").unwrap();
        fs::write(scratch.0.join(".other.brk.1.2.tmp"), "half of the n").unwrap();
        write_new(&scratch.0.join("model.brk")).unwrap();
        assert_eq!(scratch.names(), [".other.brk.1.2.tmp", "model.brk"]);
    }

    #[test]
    fn long_names_work() {
        let scratch = Scratch::new("long-names");
        let name = format!("{}.brk", "ß".repeat(120));
        write_new(&scratch.0.join(&name)).unwrap();
        assert_eq!(scratch.names(), [name]);
        let name = "x".repeat(256);
        let error = write_new(&scratch.0.join(&name)).unwrap_err();
        assert!(matches!(error, SaveError::NotCommitted { step: SaveStep::Look, .. }), "{error}");
    }

    #[test]
    fn targets_that_can_not_be_are_told() {
        let scratch = Scratch::new("targets");
        fs::create_dir(scratch.0.join("directory")).unwrap();
        fs::write(scratch.0.join("file"), "kept").unwrap();
        let problem = |name: &str| problem(write_new(&scratch.0.join(name)));
        assert_eq!(problem("missing/model.brk"), TargetProblem::NoFolder);
        assert_eq!(problem("file/model.brk"), TargetProblem::NoFolder);
        assert_eq!(problem("missing/.."), TargetProblem::NoName);
        assert_eq!(problem("new/"), TargetProblem::NoName);
        for name in ["directory", "directory/", "directory/.", "directory/..", ""] {
            assert_eq!(problem(name), TargetProblem::Special(FileKind::Directory), "{name}");
        }
        assert_eq!(self::problem(write_new(Path::new(""))), TargetProblem::NoName);
        assert_eq!(self::problem(write_new(Path::new("/"))), TargetProblem::Special(FileKind::Directory));
        assert_eq!(scratch.names(), ["directory", "file"]);
        assert_eq!(fs::read(scratch.0.join("file")).unwrap(), b"kept");
    }

    #[test]
    fn a_read_only_file_is_not_replaced() {
        let scratch = Scratch::new("read-only");
        let file = scratch.0.join("model.brk");
        fs::write(&file, "old").unwrap();
        let writable = fs::metadata(&file).unwrap().permissions();
        let mut read_only = writable.clone();
        read_only.set_readonly(true);
        fs::set_permissions(&file, read_only).unwrap();
        assert_eq!(problem(write_new(&file)), TargetProblem::ReadOnly);
        assert_eq!(fs::read(&file).unwrap(), b"old");
        fs::set_permissions(&file, writable).unwrap();
        write_new(&file).unwrap();
    }

    #[test]
    fn errors_of_the_system_say_what_is_wrong_with_the_target() {
        use io::ErrorKind as E;
        let found = |step, kind: E| not_committed(Path::new("x"), step, kind.into());
        for (step, kind, expected) in [
            (SaveStep::Create, E::PermissionDenied, TargetProblem::FolderNotWritable),
            (SaveStep::Create, E::ReadOnlyFilesystem, TargetProblem::ReadOnlyFileSystem),
            (SaveStep::Rename, E::CrossesDevices, TargetProblem::OtherDevice),
            (SaveStep::Rename, E::ResourceBusy, TargetProblem::OtherDevice),
        ] {
            assert_eq!(problem(Err(found(step, kind))), expected);
        }
        for (step, kind) in [
            (SaveStep::Look, E::PermissionDenied),
            (SaveStep::Create, E::StorageFull),
            (SaveStep::Write, E::PermissionDenied),
            (SaveStep::Rename, E::NotFound),
        ] {
            assert!(matches!(found(step, kind), SaveError::NotCommitted { step: s, .. } if s == step));
        }
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
        use std::os::unix::net::UnixListener;
        use std::process::Command;

        use super::*;

        #[test]
        fn links_are_followed() {
            let scratch = Scratch::new("links");
            fs::create_dir(scratch.0.join("runs")).unwrap();
            let (file, link) = (scratch.0.join("runs/real.brk"), scratch.0.join("latest.brk"));
            // The first leads nowhere yet, and starts where the second one is.
            symlink("real.brk", scratch.0.join("runs/newest.brk")).unwrap();
            symlink("runs/newest.brk", &link).unwrap();
            for _ in 0..2 {
                write_new(&link).unwrap();
                assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
                assert!(fs::symlink_metadata(scratch.0.join("runs/newest.brk")).unwrap().is_symlink());
                assert!(fs::symlink_metadata(&file).unwrap().is_file());
                assert_eq!(fs::read(&file).unwrap(), b"new");
                fs::write(&file, "old").unwrap();
            }
            assert_eq!(scratch.names(), ["latest.brk", "runs"]);

            symlink(scratch.0.join("absolute.brk"), scratch.0.join("runs/away.brk")).unwrap();
            write_new(&scratch.0.join("runs/away.brk")).unwrap();
            assert_eq!(fs::read(scratch.0.join("absolute.brk")).unwrap(), b"new");
            symlink("missing/x", scratch.0.join("lost.brk")).unwrap();
            assert_eq!(problem(write_new(&scratch.0.join("lost.brk"))), TargetProblem::NoFolder);
        }

        #[test]
        fn links_in_a_circle_are_an_error() {
            let scratch = Scratch::new("circle");
            let (a, b) = (scratch.0.join("a"), scratch.0.join("b"));
            symlink("b", &a).unwrap();
            symlink("a", &b).unwrap();
            assert_eq!(problem(write_new(&a)), TargetProblem::LinkLoop);
            assert_eq!(scratch.names(), ["a", "b"]);
            // As many as may be.
            for i in 1..=MAX_CHAIN {
                symlink(format!("l{}", i - 1), scratch.0.join(format!("l{i}"))).unwrap();
            }
            write_new(&scratch.0.join(format!("l{MAX_CHAIN}"))).unwrap();
            assert_eq!(fs::read(scratch.0.join(format!("l{MAX_CHAIN}"))).unwrap(), b"new");
        }
        const MAX_CHAIN: usize = 40;

        #[test]
        fn what_is_no_file_is_neither_replaced_nor_read() {
            let scratch = Scratch::new("special");
            let _socket = UnixListener::bind(scratch.0.join("socket")).unwrap();
            let made = Command::new("mkfifo").arg(scratch.0.join("pipe")).status().unwrap();
            assert!(made.success());
            symlink("/dev/zero", scratch.0.join("link")).unwrap();
            let cases = [
                (scratch.0.clone(), FileKind::Directory),
                (scratch.0.join("socket"), FileKind::Socket),
                (scratch.0.join("pipe"), FileKind::Pipe),
                (PathBuf::from("/dev/zero"), FileKind::Device),
                (scratch.0.join("link"), FileKind::Device),
            ];
            for (path, kind) in cases {
                assert_eq!(problem(write_new(&path)), TargetProblem::Special(kind), "{path:?}");
                let error = open(&path).unwrap_err();
                assert!(matches!(error, LoadProblem::Special(found) if found == kind), "{path:?}: {error}");
            }
            assert_eq!(scratch.names(), ["link", "pipe", "socket"]);
        }

        /// What a path has become after it was looked at: opening doesn't wait for a writer.
        #[test]
        fn opening_a_pipe_does_not_wait() {
            let scratch = Scratch::new("pipe");
            let pipe = scratch.0.join("pipe");
            assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            let (send, receive) = std::sync::mpsc::channel();
            std::thread::spawn(move || send.send(for_reading().open(pipe).is_ok()));
            let opened = receive.recv_timeout(std::time::Duration::from_secs(10));
            assert_eq!(opened, Ok(true), "opening waited");
        }

        #[test]
        fn permissions_are_kept() {
            let scratch = Scratch::new("mode");
            let file = scratch.0.join("model.brk");
            write_new(&file).unwrap();
            // Like that of any new file, whatever the umask.
            fs::write(scratch.0.join("plain"), "").unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
            assert_eq!(mode(&file), mode(&scratch.0.join("plain")));
            for wanted in [0o600, 0o640, 0o666, 0o200, 0o755] {
                fs::set_permissions(&file, fs::Permissions::from_mode(wanted)).unwrap();
                let old = fs::metadata(&file).unwrap().ino();
                write_new(&file).unwrap();
                assert_eq!(mode(&file), wanted);
                assert_ne!(fs::metadata(&file).unwrap().ino(), old, "replaced, not written over");
            }
        }

        /// Readable for nobody else from the first moment on, not only at the end.
        #[test]
        fn a_private_file_is_never_open_to_others() {
            let scratch = Scratch::new("private");
            let file = scratch.0.join("model.brk");
            fs::write(&file, "old").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let new = Temporary::create(&scratch.0, "model.brk", true).unwrap();
            assert_eq!(new.file.metadata().unwrap().mode() & 0o7777, 0o600);
        }

        #[test]
        fn owner_and_group_are_kept_by_root() {
            let scratch = Scratch::new("owner");
            let file = scratch.0.join("model.brk");
            fs::write(&file, "old").unwrap();
            if chown(&file, Some(12345), Some(23456)).is_err() {
                println!("skipped: only root can give files away");
                return;
            }
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            write_new(&file).unwrap();
            let metadata = fs::metadata(&file).unwrap();
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (12345, 23456, 0o640));
        }
    }
}
