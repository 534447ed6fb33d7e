//! The file that is going to be replaced.

use std::fs::{self, Metadata};
use std::io;
use std::path::{self, Path, PathBuf};

use crate::file::error::{FileError, MAX_LINKS, SaveStep, TargetProblem, not_committed};
use crate::file::kind::FileKind;

pub(super) struct Target {
    /// The end of all symbolic links: they stay.
    pub(super) path: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) name: String,
    /// Of the file that is there already.
    pub(super) old: Option<Metadata>,
}

impl Target {
    pub(super) fn of(file: &Path) -> Result<Self, FileError> {
        let refused = |problem| FileError::Target { file: file.to_path_buf(), problem };
        let look = |error| not_committed(file, SaveStep::Look, error);
        let (path, old) = follow(file).map_err(|stop| match stop {
            Stop::Io(error) => look(error),
            Stop::Problem(problem) => refused(problem),
        })?;
        if let Some(old) = &old {
            if let Some(kind) = FileKind::special(old) {
                return Err(refused(TargetProblem::Special(kind)));
            }
            if old.permissions().readonly() {
                return Err(refused(TargetProblem::ReadOnly));
            }
            if is_foreign(old, &path, STICKY | EVERYBODY).map_err(look)? {
                return Err(refused(TargetProblem::ForeignFile));
            }
        }
        // `runs/` means a folder, although `runs` is a file name.
        let ends_in_separator = path.to_string_lossy().ends_with(path::is_separator);
        let (Some(name), Some(_), false) = (path.file_name(), path.parent(), ends_in_separator) else {
            return Err(refused(TargetProblem::NoName));
        };
        let name = name.to_string_lossy().into_owned();
        let directory = folder(&path).to_path_buf();
        Ok(Self { directory, name, path, old })
    }
}

/// Why the end of the links wasn't found.
enum Stop {
    Io(io::Error),
    Problem(TargetProblem),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The path at the end of all symbolic links, and the file there. A link that leads nowhere is followed too:
/// the file will be created where it points.
fn follow(file: &Path) -> Result<(PathBuf, Option<Metadata>), Stop> {
    let mut path = file.to_path_buf();
    for _ in 0..=MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, None)),
            Err(error) => return Err(error.into()),
            Ok(found) if found.is_symlink() => {
                // The system's own protection is for links that the system follows.
                if is_foreign(&found, &path, EVERYBODY)? {
                    return Err(Stop::Problem(TargetProblem::ForeignLink));
                }
                let link = fs::read_link(&path)?;
                // A relative link starts in its own folder; an absolute one replaces the whole path.
                path = path.parent().unwrap_or(Path::new("")).join(link);
            }
            Ok(found) => return Ok((path, Some(found))),
        }
    }
    Err(Stop::Problem(TargetProblem::LinkLoop))
}

/// Everybody may create files in the folder.
const EVERYBODY: u32 = 0o002;
/// Only its owner may rename or remove a file in the folder.
const STICKY: u32 = 0o1000;

/// Whether something belongs neither to us nor to the owner of its folder, and the folder has a mode of
/// `mode`.
#[cfg(unix)]
fn is_foreign(found: &Metadata, path: &Path, mode: u32) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    if found.uid() == rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    let folder = fs::metadata(folder(path))?;
    Ok(folder.mode() & mode == mode && found.uid() != folder.uid())
}

#[cfg(not(unix))]
fn is_foreign(_: &Metadata, _: &Path, _: u32) -> io::Result<bool> {
    Ok(false)
}

/// Which files in a folder belong to others and can't be renamed or removed by us. A rotation doesn't count
/// them: anybody may put one there.
pub(crate) struct OutOfReach {
    #[cfg(unix)]
    owner: Option<u32>,
}

#[cfg(unix)]
impl OutOfReach {
    pub(crate) fn of(folder: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let me = rustix::process::geteuid().as_raw();
        let sticky = fs::metadata(folder).is_ok_and(|it| is_sticky_for(me, it.mode(), it.uid()));
        Self { owner: sticky.then_some(me) }
    }

    pub(crate) fn has(&self, entry: &fs::DirEntry) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.owner.is_some_and(|me| entry.metadata().is_ok_and(|it| it.uid() != me))
    }
}

/// Whether user `me` may rename and remove only files of their own in a folder of this mode and owner.
#[cfg(unix)]
fn is_sticky_for(me: u32, mode: u32, owner: u32) -> bool {
    mode & STICKY != 0 && owner != me && me != 0
}

#[cfg(not(unix))]
impl OutOfReach {
    pub(crate) fn of(_: &Path) -> Self {
        Self {}
    }

    pub(crate) fn has(&self, _: &fs::DirEntry) -> bool {
        false
    }
}

/// The parent of a bare name such as `model.brk` is an empty path, which can't be opened.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// As in /tmp: root's file with the largest number would stop every save of another user.
    #[test]
    fn files_of_others_in_a_sticky_folder_are_out_of_reach() {
        let (me, root, other) = (1000, 0, 1001);
        assert!(is_sticky_for(me, 0o41777, root) && is_sticky_for(me, 0o41777, other));
        for (me, mode, owner) in [(me, 0o40777, root), (me, 0o41777, me), (root, 0o41777, other)] {
            assert!(!is_sticky_for(me, mode, owner), "{me} {mode:o} {owner}");
        }
    }
}
