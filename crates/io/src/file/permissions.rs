//! Owner, group and permissions of the new file: those of the old one.

use std::fs::{File, Metadata};
use std::io;

/// Whether the new file has the old one's owner and group.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub(super) owner: bool,
    pub(super) group: bool,
}

/// Gives `new` the owner and the group of the old file, as far as the system lets us.
#[cfg(unix)]
pub(super) fn keep_owner(old: &Metadata, new: &File) -> io::Result<Kept> {
    use std::os::unix::fs::{MetadataExt, fchown};

    let created = new.metadata()?;
    if (created.uid(), created.gid()) != (old.uid(), old.gid()) {
        // Only root may give a file away; everybody may hand it to a group of theirs.
        if fchown(new, Some(old.uid()), Some(old.gid())).is_err() {
            let _ = fchown(new, None, Some(old.gid()));
        }
    }
    let new = new.metadata()?;
    Ok(Kept { owner: new.uid() == old.uid(), group: new.gid() == old.gid() })
}

/// Gives `new` the mode of the old file. `group_kept`: its group may have the rights of the old one's.
#[cfg(unix)]
pub(super) fn keep_mode(old: &Metadata, new: &File, group_kept: bool) -> io::Result<()> {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let mode = mode(old.mode(), group_kept);
    // On a file system where all files have one mode, setting it may be an error.
    if new.metadata()?.mode() & 0o777 != mode {
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
pub(super) fn keep_owner(_: &Metadata, _: &File) -> io::Result<Kept> {
    Ok(Kept { owner: true, group: true })
}

#[cfg(not(unix))]
pub(super) fn keep_mode(_: &Metadata, _: &File, _: bool) -> io::Result<()> {
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
