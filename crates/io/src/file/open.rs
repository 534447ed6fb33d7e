use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::file::kind::FileKind;

/// Why a file was not opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    Special(FileKind),
    Io(io::Error),
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a file, and gives its length. Whatever is no file is refused at once: a pipe would keep us waiting,
/// a device might never end.
pub(crate) fn open(file: &Path) -> Result<(File, u64), NotOpened> {
    // Checked before, because opening alone has effects on some devices; and after, because it may be another
    // file by then.
    regular(&fs::metadata(file)?)?;
    let file = for_reading().open(file)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata.len()))
}

fn regular(metadata: &fs::Metadata) -> Result<(), NotOpened> {
    FileKind::special(metadata).map_or(Ok(()), |kind| Err(NotOpened::Special(kind)))
}

/// Opening never waits, even if another process has put a pipe there since the check.
#[cfg(unix)]
fn for_reading() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    /// O_NONBLOCK, which is not worth a dependency. On other systems the check before opening has to do.
    const NONBLOCK: i32 = if cfg!(all(
        any(target_os = "linux", target_os = "android"),
        any(
            target_arch = "x86_64",
            target_arch = "x86",
            target_arch = "aarch64",
            target_arch = "arm",
            target_arch = "riscv64"
        )
    )) {
        0o4000
    } else if cfg!(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    )) {
        4
    } else {
        0
    };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(NONBLOCK);
    options
}

#[cfg(not(unix))]
fn for_reading() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    options
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::scratch::Scratch;

    /// A pipe that was put there after the check: opening doesn't wait for a writer.
    #[test]
    fn opening_a_pipe_does_not_wait() {
        let scratch = Scratch::new("pipe");
        let pipe = scratch.0.join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(for_reading().open(pipe).is_ok()));
        let opened = receive.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(opened, Ok(true), "opening waited");
    }
}
