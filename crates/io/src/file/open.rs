use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::file::kind::FileKind;

/// Why a file was not opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    Special(FileKind),
    /// Of so many bytes, the disk holds so few.
    Holes {
        length: u64,
        stored: u64,
    },
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
    open_after(file, || ())
}

/// `meanwhile` stands for another process's action between the look and the opening.
fn open_after(file: &Path, meanwhile: impl FnOnce()) -> Result<(File, u64), NotOpened> {
    // Checked before, because opening alone has effects on some devices; and after, because it may be another
    // file by then.
    regular(&fs::metadata(file)?)?;
    meanwhile();
    let file = for_reading().open(file)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let (length, stored) = (metadata.len(), stored(&metadata));
    if length > HOLES_COUNT && stored.is_some_and(|stored| stored < length / HOLES) {
        return Err(NotOpened::Holes { length, stored: stored.unwrap_or(0) });
    }
    Ok((file, length))
}

/// A file that is longer is not read if more than all but one in [`HOLES`] of its bytes are holes: nobody
/// stored them, and reading them would take as long as if somebody had.
const HOLES_COUNT: u64 = 64 << 30;
const HOLES: u64 = 1024;

/// The bytes that a file takes on the disk; `None` where the file system doesn't say.
#[cfg(unix)]
fn stored(metadata: &fs::Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(metadata.blocks().saturating_mul(512)).filter(|stored| *stored > 0)
}

#[cfg(not(unix))]
fn stored(_: &fs::Metadata) -> Option<u64> {
    None
}

fn regular(metadata: &fs::Metadata) -> Result<(), NotOpened> {
    FileKind::special(metadata).map_or(Ok(()), |kind| Err(NotOpened::Special(kind)))
}

/// Opening never waits, even if another process has put a pipe there since the check.
#[cfg(unix)]
fn for_reading() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
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

    /// A pipe, a folder or a device that takes the file's place after the first look is found by the second.
    #[test]
    fn what_was_put_there_after_the_look_is_refused() {
        let scratch = Scratch::new("swapped");
        let (file, pipe) = (scratch.0.join("file"), scratch.0.join("pipe"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::create_dir(scratch.0.join("directory")).unwrap();
        let directory = scratch.0.join("directory");
        for (other, expected) in [
            (pipe.as_path(), FileKind::Pipe),
            (&directory, FileKind::Directory),
            (Path::new("/dev/null"), FileKind::Device),
        ] {
            fs::write(&file, "regular").unwrap();
            let found = open_after(&file, || {
                fs::remove_file(&file).unwrap();
                std::os::unix::fs::symlink(other, &file).unwrap();
            });
            assert!(matches!(found, Err(NotOpened::Special(kind)) if kind == expected), "{found:?}");
            fs::remove_file(&file).unwrap();
        }
    }

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
