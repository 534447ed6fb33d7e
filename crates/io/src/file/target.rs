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
        let (path, old) = follow(file)
            .map_err(|error| not_committed(file, SaveStep::Look, error))?
            .ok_or_else(|| refused(TargetProblem::LinkLoop))?;
        if let Some(old) = &old {
            if let Some(kind) = FileKind::special(old) {
                return Err(refused(TargetProblem::Special(kind)));
            }
            if old.permissions().readonly() {
                return Err(refused(TargetProblem::ReadOnly));
            }
        }
        // `runs/` means a folder, although `runs` is a file name.
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

/// The path at the end of all symbolic links, and the file there; `None` when the links have no end. A link
/// that leads nowhere is followed too: the file will be created where it points.
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
