//! Permissions of the new file: those of the old one.

use std::fs::{File, Metadata};
use std::io;

/// Gives `new` the mode of the old file and, as far as the system lets us, its owner and group.
#[cfg(unix)]
pub(super) fn keep(old: &Metadata, new: &File) -> io::Result<()> {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    let created = new.metadata()?;
    if (created.uid(), created.gid()) != (old.uid(), old.gid()) {
        // Only root may give a file away; everybody may hand it to a group of theirs.
        if fchown(new, Some(old.uid()), Some(old.gid())).is_err() {
            let _ = fchown(new, None, Some(old.gid()));
        }
    }
    let group_kept = new.metadata()?.gid() == old.gid();
    let mode = mode(old.mode(), group_kept);
    // On a file system where all files have one mode, setting it may be an error.
    if created.mode() & 0o777 != mode {
        new.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// A group that is not the old one gets the permissions of everybody.
#[cfg(unix)]
fn mode(old: u32, group_kept: bool) -> u32 {
    if group_kept { old & 0o777 } else { old & 0o707 | (old & 0o007) << 3 & old & 0o070 }
}

#[cfg(not(unix))]
pub(super) fn keep(_: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::mode;

    #[test]
    fn a_strange_group_gets_no_more_than_everybody() {
        for (old, kept, strange) in [
            (0o100_640, 0o640, 0o600),
            (0o100_664, 0o664, 0o644),
            (0o100_644, 0o644, 0o644),
            (0o104_777, 0o777, 0o777),
            (0o100_606, 0o606, 0o606),
        ] {
            assert_eq!(mode(old, true), kept);
            assert_eq!(mode(old, false), strange, "{old:o}");
        }
    }
}
