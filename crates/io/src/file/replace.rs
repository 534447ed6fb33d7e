use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::file::error::{FileError, SaveStep, not_committed};
use crate::file::permissions;
use crate::file::target::Target;
use crate::file::temporary::{self, Temporary};

/// Lets `write` fill a new file, and puts that in the place of `file`.
pub(crate) fn replace(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), FileError> {
    replace_with(file, write, sync_directory)
}

fn replace_with(
    file: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    sync_directory: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), FileError> {
    let directory = commit(file, write)?;
    // A sync that failed is not tried again: the system may have dropped the data that it could not write,
    // and report success the second time.
    sync_directory(&directory)
        .map_err(|error| FileError::DurabilityUncertain { file: file.to_path_buf(), error })
}

/// All steps up to the renaming; gives the directory that has to be synced.
fn commit(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<PathBuf, FileError> {
    let failed = |step| move |error| not_committed(file, step, error);
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

/// Makes the renaming durable. On systems other than Unix a directory can't be opened for that.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::file::error::TargetProblem;
    use crate::file::kind::FileKind;
    use crate::scratch::Scratch;

    fn write_new(file: &Path) -> Result<(), FileError> {
        replace(file, |out| out.write_all(b"new"))
    }

    fn problem(result: Result<(), FileError>) -> TargetProblem {
        match result {
            Err(FileError::Target { problem, .. }) => problem,
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
        assert!(matches!(error, Err(FileError::NotCommitted { step: SaveStep::Write, .. })));
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
        assert!(matches!(error, FileError::DurabilityUncertain { .. }), "{error}");
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
        assert!(matches!(error, FileError::NotCommitted { step: SaveStep::Look, .. }), "{error}");
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
            assert!(matches!(found(step, kind), FileError::NotCommitted { step: s, .. } if s == step));
        }
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
        use std::os::unix::net::UnixListener;
        use std::process::Command;

        use super::*;
        use crate::file::open::{NotOpened, open};

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
                assert!(matches!(error, NotOpened::Special(found) if found == kind), "{path:?}: {error:?}");
            }
            assert_eq!(scratch.names(), ["link", "pipe", "socket"]);
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
