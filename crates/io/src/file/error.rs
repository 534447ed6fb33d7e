//! The errors of putting a file in another's place.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::file::kind::FileKind;
use crate::quoted::{At, Beginning, Message};

/// Why a file was not put in place, or not surely.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Nothing can be saved at this path. Nothing was written.
    #[error(
        "{}: not saved: {problem}{}", At(file),
        Beginning { path: file, is_missing: *problem == TargetProblem::NoFolder }
    )]
    Target {
        /// Where it was to be saved.
        file: PathBuf,
        /// The fault of that place.
        problem: TargetProblem,
    },
    /// The system refused: a file that was there before is unchanged, and the unfinished one was removed.
    #[error("{}: not saved, an older file is unchanged: {step} failed: {}", At(file), Message(error))]
    NotCommitted {
        /// Where it was to be saved.
        file: PathBuf,
        /// The step that failed.
        step: SaveStep,
        /// Why it failed.
        error: io::Error,
    },
    /// The new file is in its place and complete, but the directory could not be synced: after a power cut
    /// now, the old one may be back. Save again to be sure.
    #[error(
        "{}: saved, but a power cut could still undo it, because its directory can't be synced: {}; save again",
        At(file),
        Message(error)
    )]
    DurabilityUncertain {
        /// Where it was saved.
        file: PathBuf,
        /// The error of syncing its directory.
        error: io::Error,
    },
}

backrule_tensor::readable! {
    enum FileError {
        Target { file, problem },
        NotCommitted { file, step, error },
        DurabilityUncertain { file, error },
    }
}

/// A step of saving a file, up to the renaming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaveStep {
    /// Looking at the path.
    Look,
    /// Creating a file beside it.
    Create,
    /// Giving the new file the permissions of the old one.
    Permissions,
    /// Giving the new file the extended attributes of the old one, its access control list among them.
    Attributes,
    /// Writing it.
    Write,
    /// Syncing it to the disk.
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
            Self::Attributes => "keeping the extended attributes",
            Self::Write => "writing",
            Self::Sync => "syncing",
            Self::Rename => "renaming the file beside it",
        })
    }
}

/// As many as Linux follows.
pub(super) const MAX_LINKS: usize = 40;

/// Why nothing can be saved at a path.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetProblem {
    /// An empty path, or one that ends in `/` or `..`.
    #[error("the path has no file name at its end: add one, such as `model.brk`")]
    NoName,
    /// Something that is no file: replacing a device would remove it.
    #[error("there is {0}: choose another name")]
    Special(FileKind),
    /// A file that nobody may write. The system would replace it all the same, but its owner meant otherwise.
    #[error("the file there is read-only: make it writable, or choose another name")]
    ReadOnly,
    /// Symbolic links that lead to each other.
    #[error("more than {MAX_LINKS} symbolic links, one after the other: remove those that lead in a circle")]
    LinkLoop,
    /// A symbolic link of another user, in a folder that everybody can write to: it may have been put there
    /// to make saving replace some other file. Linux has the same rule (`fs.protected_symlinks`).
    #[error(
        "it is a symbolic link of another user in a folder that everybody can write to: choose a folder of your own"
    )]
    ForeignLink,
    /// A file of another user, in a folder where everybody can create files: replaced, it would go on
    /// belonging to that user.
    #[error(
        "the file there belongs to another user, in a folder that everybody can write to: choose a folder of your own"
    )]
    ForeignFile,
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

backrule_tensor::readable! {
    enum TargetProblem {
        NoName,
        Special(kind),
        ReadOnly,
        LinkLoop,
        ForeignLink,
        ForeignFile,
        NoFolder,
        FolderNotWritable,
        ReadOnlyFileSystem,
        OtherDevice,
    }
}

/// An error of the system; where it says something about the target, as that.
pub(super) fn not_committed(file: &Path, step: SaveStep, error: io::Error) -> FileError {
    use io::ErrorKind as E;
    let file = file.to_path_buf();
    let problem = match (step, error.kind()) {
        (SaveStep::Look | SaveStep::Create, E::NotFound | E::NotADirectory) => TargetProblem::NoFolder,
        (SaveStep::Create, E::PermissionDenied) => TargetProblem::FolderNotWritable,
        (SaveStep::Create, E::ReadOnlyFilesystem) => TargetProblem::ReadOnlyFileSystem,
        (SaveStep::Rename, E::CrossesDevices | E::ResourceBusy) => TargetProblem::OtherDevice,
        _ => return FileError::NotCommitted { file, step, error },
    };
    FileError::Target { file, problem }
}
