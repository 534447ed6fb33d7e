//! Other programs, and the output of this one.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use crate::Result;

/// A program that reads no input, and knows nothing of the git command that may have started this one.
///
/// A hook is started with `GIT_DIR`, `GIT_INDEX_FILE` and others. Under these, git in another folder, a build
/// script's too, works on the user's repository.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let start = name.as_encoded_bytes().get(..4);
        if start.is_some_and(|start| start.eq_ignore_ascii_case(b"GIT_")) {
            command.env_remove(name);
        }
    }
    command
}

/// The output of a program; its errors go where this program's go.
pub(crate) fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    // A closed pipe would end the program: its errors are handed on. A terminal can't be closed like that.
    let errors = if io::stderr().is_terminal() { Stdio::inherit() } else { Stdio::piped() };
    let child = command.stdout(Stdio::piped()).stderr(errors).spawn();
    let named = |error: io::Error| format!("{command:?}: {error}");
    let mut child = child.map_err(named)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut printed = Vec::new();
    let read = thread::scope(|scope| {
        scope.spawn(|| stderr.map(hand_on));
        stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut printed))
    });
    let status = child.wait().map_err(named)?;
    read.map_err(named)?;
    if status.success() { Ok(printed) } else { Err(format!("{command:?}: {status}").into()) }
}

/// Reads to the end, whether anybody listens or not.
fn hand_on(mut from: impl Read) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        _ = io::stderr().write_all(&buffer[..length]);
    }
}

/// The same as text, without the line's end.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes(command)?).trim_end().to_string())
}

/// Prints on standard output. A reader that has closed the pipe has read enough: that is no error.
pub(crate) fn print(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}").into())
        }
        _ => Ok(()),
    }
}

/// A line for a watching user, who may have closed the stream.
pub(crate) fn tell(text: impl Display) {
    _ = writeln!(io::stderr(), "{text}");
}
