//! What a file is going to replace.

use std::fs::{self, Metadata};
use std::io;
use std::path::{self, Path, PathBuf};

use super::{FileKind, SaveStep, not_committed};
use crate::SaveError;

/// As many as Linux follows.
const MAX_LINKS: usize = 40;

/// Why nothing can be saved at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetProblem {
    /// An empty path, or one that ends in `/` or `..`.
    #[error("the path has no file name at its end: add one, such as `model.brk`")]
    NoName,
    /// Something that is no file: replacing a device would remove it.
    #[error("there is {0}: choose another name")]
    Special(FileKind),
    /// A file that nobody may write. That it could be replaced all the same is not what its owner meant.
    #[error("the file there is read-only: make it writable, or choose another name")]
    ReadOnly,
    /// Symbolic links that lead to each other.
    #[error("more than {MAX_LINKS} symbolic links, one behind the other: remove those that lead in a circle")]
    LinkLoop,
    /// The folder isn't there, or is no folder.
    #[error("its folder doesn't exist: create it first")]
    NoFolder,
    /// No file may be created in the folder. Being allowed to write the old file is not enough.
    #[error("no file may be created in its folder: change the folder's permissions, or choose another one")]
    FolderNotWritable,
    /// The file system is mounted for reading.
    #[error("its file system is read-only: choose another one")]
    ReadOnlyFileSystem,
    /// The file is a mount of its own (as a container's may be), and can't be replaced by one of its folder.
    #[error(
        "it is on another device than its folder, and can't be replaced: mount the folder, or choose another one"
    )]
    OtherDevice,
}

pub(super) struct Target {
    /// Behind all symbolic links, so that the links stay.
    pub(super) path: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) name: String,
    /// Of the file that is there.
    pub(super) old: Option<Metadata>,
}

impl Target {
    pub(super) fn of(file: &Path) -> Result<Self, SaveError> {
        let refused = |problem| SaveError::Target { file: file.to_path_buf(), problem };
        let (path, old) = follow(file)
            .map_err(|source| not_committed(file, SaveStep::Look, source))?
            .ok_or_else(|| refused(TargetProblem::LinkLoop))?;
        if let Some(old) = &old {
            if let Some(kind) = FileKind::special(old) {
                return Err(refused(TargetProblem::Special(kind)));
            }
            if old.permissions().readonly() {
                return Err(refused(TargetProblem::ReadOnly));
            }
        }
        // `runs/` means a folder, though its last component would do as a name.
        let ends_in_separator = path.to_string_lossy().ends_with(path::is_separator);
        let (Some(name), Some(parent), false) = (path.file_name(), path.parent(), ends_in_separator) else {
            return Err(refused(TargetProblem::NoName));
        };
        let name = name.to_string_lossy().into_owned();
        // The parent of a bare name such as `model.brk` is an empty path, which can't be opened.
        let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent }.to_path_buf();
        Ok(Self { directory, name, path, old })
    }
}

/// Where `file` really is, and what is there; `None` when there is no end of links. One that leads nowhere is followed,
/// too: the file will be created where it points.
fn follow(file: &Path) -> io::Result<Option<(PathBuf, Option<Metadata>)>> {
    let mut path = file.to_path_buf();
    for _ in 0..=MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some((path, None))),
            Err(error) => return Err(error),
            Ok(found) if found.is_symlink() => {
                let link = fs::read_link(&path)?;
                // A relative link starts in its own folder; an absolute one replaces what it is joined to.
                path = path.parent().unwrap_or(Path::new("")).join(link);
            }
            Ok(found) => return Ok(Some((path, Some(found)))),
        }
    }
    Ok(None)
}
