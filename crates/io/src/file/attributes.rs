//! Extended attributes of the new file: those of the old one.

use std::fs::File;
use std::io;
use std::path::Path;

use backrule_tensor::{MemoryError, memory};

/// A file's access control list, as an attribute.
const ACL: &[u8] = b"system.posix_acl_access";
/// Its label under SELinux. Where SELinux is off, only root may set it.
const LABEL: &[u8] = b"security.selinux";

/// The extended attributes of a file that is going to be replaced.
///
/// On Linux these are the user's own, the access control list and the label of SELinux. All others belong to
/// the contents that are replaced (signatures, capabilities) or to the file system. On Apple's systems they
/// are all.
pub(super) struct Attributes(Vec<(Vec<u8>, Vec<u8>)>);

impl Attributes {
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let mut attributes = Vec::new();
        for name in names(file)? {
            if is_kept(&name) {
                let length = rustix::fs::lgetxattr_query(file, name.as_slice());
                let value = read(length, |value| rustix::fs::lgetxattr(file, name.as_slice(), value));
                // The label is no loss where nobody may read it.
                match value {
                    Ok(value) => {
                        memory::push("save", &mut attributes, (name, value)).map_err(out_of_memory)?
                    }
                    Err(_) if name == LABEL => {}
                    Err(error) => return Err(told(&name, error)),
                }
            }
        }
        Ok(Self(attributes))
    }

    /// Whether some user or group of its own has permissions.
    pub(super) fn has_acl(&self) -> bool {
        self.0.iter().any(|(name, _)| name == ACL)
    }

    /// Gives them to the new file, which has the owner and the group of the old one if `same_owners`. To
    /// others, an access control list would give permissions that nobody meant them to have.
    pub(super) fn give(&self, new: &File, same_owners: bool) -> io::Result<()> {
        let flags = rustix::fs::XattrFlags::empty();
        if !self.has_acl() {
            // The folder may have given it one. Where it hasn't, this fails.
            let _ = rustix::fs::fremovexattr(new, ACL);
        }
        for (name, value) in self.0.iter().filter(|(name, _)| same_owners || name != ACL) {
            match rustix::fs::fsetxattr(new, name.as_slice(), value, flags) {
                Err(error) if name != LABEL => return Err(told(name, error.into())),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_kept(name: &[u8]) -> bool {
    cfg!(target_vendor = "apple") || name.starts_with(b"user.") || name == ACL || name == LABEL
}

fn names(file: &Path) -> io::Result<Vec<Vec<u8>>> {
    match read(rustix::fs::llistxattr_query(file), |list| rustix::fs::llistxattr(file, list)) {
        Ok(list) => {
            let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            memory::collect("save", names.map(<[u8]>::to_vec)).map_err(out_of_memory)
        }
        // A file system without them.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The bytes that `call` puts into a buffer of the length that `query` gives.
fn read(
    query: rustix::io::Result<usize>,
    call: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    memory::grow("save", &mut bytes, query?).map_err(out_of_memory)?;
    if !bytes.is_empty() {
        let length = call(&mut bytes)?;
        bytes.truncate(length);
    }
    Ok(bytes)
}

fn out_of_memory(error: MemoryError) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, error)
}

/// The error with the attribute's name in it.
fn told(name: &[u8], error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", String::from_utf8_lossy(name).escape_debug()))
}
