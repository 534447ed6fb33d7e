use std::fmt::{self, Write};
use std::io;
use std::path::Path;

/// A message that may quote a file: escaped, because it may hold commands for the terminal. Quotes and
/// backslashes stay, so a message that has escaped its quotations reads as it was.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '"' | '\'' | '\\' => f.write_char(char),
            _ => write!(f, "{}", char.escape_debug()),
        })
    }
}

/// A path in a message. The name of a file may be a stranger's choice.
pub(crate) struct At<'a>(pub(crate) &'a Path);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_string_lossy() {
            empty if empty.is_empty() => f.write_str("an empty path"),
            path => Quoted(&path).fmt(f),
        }
    }
}

/// The end of a message about a path that isn't there: where a relative one begins.
pub(crate) struct Beginning<'a> {
    pub(crate) path: &'a Path,
    pub(crate) is_missing: bool,
}

impl fmt::Display for Beginning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_missing || self.path.is_absolute() {
            return Ok(());
        }
        // A folder that was removed has no path.
        std::env::current_dir().map_or(Ok(()), |folder| write!(f, "; the current folder is {}", At(&folder)))
    }
}

/// The message of the system, or of a writer of one's own.
pub(crate) struct Message<'a>(pub(crate) &'a io::Error);

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quoted(&self.0.to_string()).fmt(f)
    }
}
