use std::fmt;
use std::fs::Metadata;

/// The kind of the thing that stands where a file should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A named pipe: reading could wait forever.
    Pipe,
    /// A socket.
    Socket,
    /// A device, such as `/dev/zero`: reading might never end.
    Device,
    /// None of these, and no regular file.
    Other,
}

impl FileKind {
    /// `None` for a regular file.
    pub(super) fn special(metadata: &Metadata) -> Option<Self> {
        if metadata.is_file() {
            None
        } else if metadata.is_dir() {
            Some(Self::Directory)
        } else {
            Some(Self::neither_file_nor_directory(metadata))
        }
    }

    #[cfg(unix)]
    fn neither_file_nor_directory(metadata: &Metadata) -> Self {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            Self::Pipe
        } else if kind.is_socket() {
            Self::Socket
        } else if kind.is_char_device() || kind.is_block_device() {
            Self::Device
        } else {
            Self::Other
        }
    }

    #[cfg(not(unix))]
    fn neither_file_nor_directory(_: &Metadata) -> Self {
        Self::Other
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "something else than a file",
        })
    }
}
