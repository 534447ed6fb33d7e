use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::file::attributes::Attributes;
use crate::file::durability::Durability;
use crate::file::error::{FileError, SaveStep, not_committed};
use crate::file::permissions;
use crate::file::target::Target;
use crate::file::temporary::{self, Temporary};

/// Lets `write` fill a new file, and puts that in the place of `file`.
pub(crate) fn replace(
    file: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<Durability, FileError> {
    replace_with(file, write, File::sync_all, Durability::sync)
}

fn replace_with(
    file: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    sync_file: impl FnOnce(&File) -> io::Result<()>,
    sync_folder: impl FnOnce(&Path) -> io::Result<Durability>,
) -> Result<Durability, FileError> {
    let folder = commit(file, write, sync_file)?;
    // A sync that failed is not tried again: the system may have dropped the data that it could not write,
    // and report success the second time.
    sync_folder(&folder).map_err(|error| FileError::DurabilityUncertain { file: file.to_path_buf(), error })
}

/// All steps up to the renaming; gives the folder that has to be synced.
fn commit(
    file: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> Result<PathBuf, FileError> {
    let failed = |step| move |error| not_committed(file, step, error);
    let target = Target::of(file)?;
    temporary::clean(&target.directory, &target.name);
    let mut new = Temporary::create(&target.directory, &target.name, target.old.is_some())
        .map_err(failed(SaveStep::Create))?;
    if let Some(old) = &target.old {
        keep(&target.path, old, &new.file).map_err(|(step, error)| not_committed(file, step, error))?;
    }
    write(&mut new.file).map_err(failed(SaveStep::Write))?;
    sync(&new.file).map_err(failed(SaveStep::Sync))?;
    new.rename(&target.path).map_err(failed(SaveStep::Rename))?;
    Ok(target.directory)
}

/// Gives the new file the old one's owner, attributes and mode.
fn keep(path: &Path, old: &Metadata, new: &File) -> Result<(), (SaveStep, io::Error)> {
    let failed = |step| move |error| (step, error);
    let kept = permissions::keep_owner(old, new).map_err(failed(SaveStep::Permissions))?;
    let attributes = Attributes::of(path).map_err(failed(SaveStep::Attributes))?;
    let same = kept.owner && kept.group;
    attributes.give(new, same).map_err(failed(SaveStep::Attributes))?;
    // With an access control list, the group's bits are the most that anybody in the list has.
    let group_kept = kept.group && (same || !attributes.has_acl());
    permissions::keep_mode(old, new, group_kept).map_err(failed(SaveStep::Permissions))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::file::error::TargetProblem;
    use crate::file::kind::FileKind;
    use crate::scratch::Scratch;

    fn write_new(file: &Path) -> Result<Durability, FileError> {
        replace(file, |out| out.write_all(b"new"))
    }

    fn problem(result: Result<Durability, FileError>) -> TargetProblem {
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
            File::sync_all,
            |folder| {
                assert_eq!(folder, scratch.0);
                Err(io::ErrorKind::Other.into())
            },
        );
        let error = result.unwrap_err();
        assert!(matches!(error, FileError::DurabilityUncertain { .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(scratch.names(), ["model.brk"]);
    }

    /// The order of syncing: all bytes before the name, and the name before success.
    #[test]
    fn the_file_is_synced_before_it_is_renamed_and_its_folder_after() {
        let scratch = Scratch::new("order");
        let file = scratch.0.join("model.brk");
        fs::write(&file, "old").unwrap();
        let steps = std::cell::RefCell::new(Vec::new());
        let note = |step| {
            let there = String::from_utf8(fs::read(&file).unwrap()).unwrap();
            steps.borrow_mut().push((step, there));
        };
        let saved = replace_with(
            &file,
            |out| {
                note("write");
                out.write_all(b"new")
            },
            |new| {
                note("sync the file");
                assert_eq!(new.metadata().unwrap().len(), 3);
                Ok(())
            },
            |_| {
                note("sync the folder");
                Ok(Durability::FileOnly)
            },
        );
        assert_eq!(saved.unwrap(), Durability::FileOnly);
        let steps: Vec<_> =
            steps.take().into_iter().map(|(step, there)| format!("{step}: {there}")).collect();
        assert_eq!(steps, ["write: old", "sync the file: old", "sync the folder: new"]);
    }

    #[test]
    fn a_file_that_can_not_be_synced_does_not_take_the_place() {
        let scratch = Scratch::new("failing-file-sync");
        let file = scratch.0.join("model.brk");
        fs::write(&file, "old").unwrap();
        let failing = |_: &File| Err(io::ErrorKind::InvalidInput.into());
        let error = replace_with(&file, |out| out.write_all(b"new"), failing, Durability::sync).unwrap_err();
        assert!(matches!(error, FileError::NotCommitted { step: SaveStep::Sync, .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"old");
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

        #[cfg(target_os = "linux")]
        #[test]
        fn extended_attributes_are_kept() {
            let scratch = Scratch::new("attributes");
            let file = scratch.0.join("model.brk");
            let attribute = |file: &Path, name: &str| {
                let mut value = [0; 100];
                rustix::fs::getxattr(file, name, &mut value[..]).ok().map(|length| value[..length].to_vec())
            };
            let set = |file: &Path, name: &str, value: &[u8]| {
                rustix::fs::setxattr(file, name, value, rustix::fs::XattrFlags::empty())
            };
            fs::write(&file, "old").unwrap();
            if set(&file, "user.origin", b"run 7").is_err() {
                println!("skipped: this file system has no extended attributes");
                return;
            }
            set(&file, "user.empty", b"").unwrap();
            write_new(&file).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"new");
            assert_eq!(attribute(&file, "user.origin").as_deref(), Some(&b"run 7"[..]));
            assert_eq!(attribute(&file, "user.empty").as_deref(), Some(&b""[..]));

            // An access control list: version 2; the owner, user 12345, the group, the mask, and others.
            let entries: [(u16, u16, u32); 5] =
                [(1, 6, u32::MAX), (2, 4, 12345), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, permissions, id) in entries {
                list.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat());
            }
            const ACL: &str = "system.posix_acl_access";
            if set(&file, ACL, &list).is_err() {
                println!("skipped: this file system has no access control lists");
                return;
            }
            write_new(&file).unwrap();
            assert_eq!(attribute(&file, ACL), Some(list.clone()));
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);

            // One that the folder gives to new files doesn't come in with the new file.
            fs::remove_file(&file).unwrap();
            fs::write(&file, "old").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            set(&scratch.0, "system.posix_acl_default", &list).unwrap();
            write_new(&file).unwrap();
            assert_eq!(attribute(&file, ACL), None);
        }

        /// Files that others can plant: a link that leads a save to another file, a file that gives the new
        /// one away.
        #[test]
        fn in_a_folder_of_everybody_nothing_of_others_is_followed_or_replaced() {
            let scratch = Scratch::new("everybody");
            let folder = scratch.0.join("tmp");
            fs::create_dir(&folder).unwrap();
            fs::write(scratch.0.join("precious"), "kept").unwrap();
            let (link, file) = (folder.join("run.brk"), folder.join("file.brk"));
            symlink(scratch.0.join("precious"), &link).unwrap();
            fs::write(&file, "old").unwrap();
            let folder_mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let owner = |path: &Path, owner| std::os::unix::fs::lchown(path, Some(owner), Some(owner));
            // Ours, in a folder of ours.
            folder_mode(0o1777);
            write_new(&link).unwrap();
            assert_eq!(fs::read(scratch.0.join("precious")).unwrap(), b"new");
            write_new(&file).unwrap();
            if owner(&link, 12345).is_err() {
                println!("skipped: only root can give files away");
                return;
            }
            owner(&file, 12345).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
            fs::write(scratch.0.join("precious"), "kept").unwrap();
            let untouched = || {
                assert_eq!(fs::read(scratch.0.join("precious")).unwrap(), b"kept");
                assert_eq!(fs::symlink_metadata(&link).unwrap().uid(), 12345);
            };
            for mode in [0o1777, 0o1773] {
                folder_mode(mode);
                assert_eq!(problem(write_new(&link)), TargetProblem::ForeignLink, "{mode:o}");
                assert_eq!(problem(write_new(&file)), TargetProblem::ForeignFile, "{mode:o}");
                untouched();
            }
            folder_mode(0o777);
            assert_eq!(problem(write_new(&link)), TargetProblem::ForeignLink);
            untouched();
            // Of the folder's owner.
            folder_mode(0o1777);
            owner(&folder, 12345).unwrap();
            write_new(&link).unwrap();
            write_new(&file).unwrap();
            let found = fs::metadata(&file).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12345, 12345, 0o666));
            // In a folder of a few, all is followed and handed on.
            owner(&folder, 0).unwrap();
            folder_mode(0o1775);
            write_new(&link).unwrap();
            write_new(&file).unwrap();
            assert_eq!(fs::metadata(&file).unwrap().uid(), 12345);
            assert_eq!(fs::read(scratch.0.join("precious")).unwrap(), b"new");
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
