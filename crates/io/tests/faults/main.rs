//! Saving under faults: the file afterwards is the old checkpoint or the new one.
//!
//! ```console
//! $ cargo test -p backrule-io --test faults               # kills, and an error at every system call: seconds
//! $ cargo test -p backrule-io --test faults -- --all      # every error at every system call
//! # cargo test -p backrule-io --test faults -- --power    # power cuts: root, loop devices, FUSE
//! ```
//!
//! The program drives itself as a child process under `strace`, which kills it or lets one of its system
//! calls fail. A naive writer goes through the same, to show that torn files are found where there are some.
//! docs/reliability.md has the figures.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test program")]

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod power;
#[cfg(target_os = "linux")]
mod writer;

#[cfg(target_os = "linux")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["save", writer, path, epoch] => writer::child(writer, path, epoch.parse().unwrap()),
        ["--all"] => calls::run(true),
        ["--power"] => power::run(),
        // Arguments that `cargo test` hands to all test programs, such as `--quiet` or the name of another
        // test.
        [] => calls::run(false),
        _ if arguments.iter().all(|argument| ["-q", "--quiet", "--nocapture"].contains(argument)) => {
            calls::run(false);
        }
        _ => println!("faults: skipped: {arguments:?} asks for something else"),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("faults: skipped: needs Linux");
}
