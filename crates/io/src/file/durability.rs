//! Whether a power cut can undo a save.

use std::fs::File;
use std::io;
use std::path::Path;

/// The effect that a power cut can have on a checkpoint that was saved into a folder.
///
/// ```
/// use backrule_io::Durability;
///
/// # let folder = std::env::temp_dir();
/// if Durability::in_folder(&folder)? == Durability::FileOnly {
///     println!("a power cut may bring an older checkpoint back");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// None: the file and its name are on the disk.
    Full,
    /// The file is on the disk, and its folder can't be synced: it may not be read, or its file system or
    /// operating system syncs no folders. A power cut soon after a save may bring the old file back, whole.
    /// Saving again doesn't help, so a save into such a folder is a success.
    FileOnly,
}

impl Durability {
    /// The durability of a save into this folder, found by syncing the folder: for a program to tell once.
    ///
    /// # Errors
    /// When the folder isn't there, or syncing it fails.
    pub fn in_folder(folder: impl AsRef<Path>) -> io::Result<Self> {
        Self::sync(folder.as_ref())
    }

    /// Makes the changes of the names in a folder durable.
    #[cfg(unix)]
    pub(super) fn sync(folder: &Path) -> io::Result<Self> {
        let folder = match File::open(folder) {
            // A drop box: files may be put there, and nobody may look. That they could be was seen just now.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Self::FileOnly),
            opened => opened?,
        };
        Self::of(folder.sync_all())
    }

    /// A folder can't be opened for that.
    #[cfg(not(unix))]
    pub(super) fn sync(_: &Path) -> io::Result<Self> {
        Ok(Self::FileOnly)
    }

    /// Of a folder sync's error. "Not supported" has four names: EINVAL, ENOTSUP, ENOSYS, and EPERM of
    /// some file systems in user space. EACCES is of the same kind as EPERM, and would be a failure.
    #[cfg(unix)]
    fn of(synced: io::Result<()>) -> io::Result<Self> {
        const EPERM: i32 = 1;
        match synced {
            Ok(()) => Ok(Self::Full),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
                    || error.raw_os_error() == Some(EPERM) =>
            {
                Ok(Self::FileOnly)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_no_failure() {
        let of = |code| Durability::of(Err(io::Error::from_raw_os_error(code)));
        // EPERM, EINVAL, ENOSYS, EOPNOTSUPP.
        for code in [1, 22, 38, 95] {
            assert_eq!(of(code).unwrap(), Durability::FileOnly, "{code}");
        }
        // EIO, EACCES, EROFS, ENOSPC, EDQUOT.
        for code in [5, 13, 30, 28, 122] {
            assert_eq!(of(code).unwrap_err().raw_os_error(), Some(code));
        }
        assert_eq!(Durability::of(Ok(())).unwrap(), Durability::Full);
    }
}
