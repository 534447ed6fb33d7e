//! A fault at every system call that saving makes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::writer::{self, BEGIN, END, FILE_ONLY, Found, NOT_SAVED, UNCERTAIN};

const ERRORS: [&str; 5] = ["ENOSPC", "EIO", "EDQUOT", "EACCES", "EMFILE"];
const OLD: u64 = 1;
const NEW: u64 = 2;
const NEXT: u64 = 3;
const LEFTOVER: &str = ".model.brk.1.2.tmp";

/// Not about files, though they may be given one.
const IRRELEVANT: [&str; 4] = ["mmap", "munmap", "mprotect", "execve"];

pub(crate) fn run(all: bool) {
    if let Err(reason) = strace_works() {
        println!("faults: skipped: {reason}");
        return;
    }
    let began = Instant::now();
    order_of_calls();
    folders_that_sync_nothing();
    rotation_that_is_killed();
    best_that_can_not_be_read();
    for (title, writer, replaces) in [
        ("ours, replacing a file", "ours", true),
        ("ours, a new file", "ours", false),
        ("naive, replacing a file", "naive", true),
    ] {
        let tally = scenario(writer, replaces, all);
        println!("{title}: {tally}");
        if writer == "naive" {
            assert!(tally.torn > 0, "no fault has torn the naive writer's file: this test can't fail");
        } else {
            assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
            assert!(tally.uncertain > 0 && tally.cleaned > 0 && tally.old > 0 && tally.new > 0);
        }
    }
    println!("faults: ok, {:.1} s", began.elapsed().as_secs_f64());
}

fn strace_works() -> Result<(), String> {
    let probe = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    match probe {
        Err(error) => Err(format!("strace can't be run: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("strace: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

#[derive(Default)]
struct Tally {
    calls: usize,
    runs: usize,
    old: usize,
    new: usize,
    torn: usize,
    uncertain: usize,
    cleaned: usize,
    wrong: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, runs, old, new, torn, uncertain, cleaned, .. } = self;
        write!(
            f,
            "{calls} system calls, {runs} faults: {old} times the old one, {new} the new one ({uncertain} told as \
             uncertain), {torn} torn; {cleaned} leftovers of kills"
        )
    }
}

/// A folder as saving finds it.
struct Stage {
    folder: PathBuf,
    /// Where the checkpoint is. It is saved through a link when it replaces one.
    real: PathBuf,
    path: PathBuf,
    replaces: bool,
}

impl Stage {
    fn new(name: &str, replaces: bool) -> Self {
        let folder = std::env::temp_dir().join(format!("backrule-faults-{}-{name}", std::process::id()));
        let real = folder.join("model.brk");
        let path = if replaces { folder.join("latest.brk") } else { real.clone() };
        let stage = Self { folder, real, path, replaces };
        stage.set();
        stage
    }

    /// An old file of an unusual mode behind a link, and the file of a killed process; or an empty folder.
    fn set(&self) {
        let _ = fs::remove_dir_all(&self.folder);
        fs::create_dir(&self.folder).unwrap();
        if self.replaces {
            fs::write(&self.real, writer::bytes(OLD)).unwrap();
            fs::set_permissions(&self.real, fs::Permissions::from_mode(0o640)).unwrap();
            symlink("model.brk", &self.path).unwrap();
            fs::write(self.folder.join(LEFTOVER), "half of a che").unwrap();
        }
    }

    /// Temporary files, without the one that was there before.
    fn temporary(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.extension().is_some_and(|e| e == "tmp") && !path.ends_with(LEFTOVER))
            .collect()
    }

    fn entries(&self) -> usize {
        fs::read_dir(&self.folder).unwrap().count()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Bytes that are to survive a power cut reach the disk before the name does, and the name before success is
/// told.
fn order_of_calls() {
    for replaces in [true, false] {
        let stage = Stage::new(&format!("order-{replaces}"), replaces);
        for (writer, proven) in [("ours", true), ("unsynced", false), ("naive", false)] {
            stage.set();
            let (code, log) = strace(writer, &stage.path, None);
            assert_eq!(code, Some(0), "without a fault, saving works");
            match durable(&log, &stage.folder) {
                Ok(()) => assert!(proven, "`{writer}` passes: this test can't fail"),
                Err(wrong) => assert!(!proven, "{wrong}:\n{log}"),
            }
        }
    }
    println!("order of calls: write, fsync of the file, rename, fsync of the folder");
}

/// Whether a trace has write, fsync of the file, rename, fsync of the folder, in this order, all successful.
fn durable(trace: &str, folder: &Path) -> Result<(), &'static str> {
    let lines: Vec<&str> = trace.lines().skip_while(|line| !line.contains(BEGIN)).collect();
    let end = lines.iter().position(|line| line.contains(END)).ok_or("it never ends")?;
    let mut lines = lines[..end].iter();
    // `None` for a call that failed.
    let descriptor = |line: &str| line.rsplit_once(" = ").and_then(|(_, fd)| fd.parse::<u32>().ok());
    let created = lines.find(|line| line.contains("O_CREAT|O_EXCL")).ok_or("no file is created beside it")?;
    let file = descriptor(created).ok_or("no file is created beside it")?;
    let name = created.split('"').nth(1).ok_or("the file has no name")?;

    let about = |line: &str| {
        line.split_once('(').is_some_and(|(_, rest)| rest.split([',', ')']).next() == Some(&file.to_string()))
    };
    let (mut written, mut synced) = (false, false);
    let renamed = lines.find(|line| {
        if about(line) && line.starts_with("write") {
            (written, synced) = (true, false);
        } else if about(line) && line.starts_with("fsync") {
            synced = line.ends_with(" = 0");
        } else if about(line) && !["close", "fcntl", "flock"].iter().any(|call| line.starts_with(call)) {
            // A mode, an owner or an attribute has to be on the disk, too.
            synced = false;
        }
        line.starts_with("rename") && line.split('"').nth(1) == Some(name)
    });
    if !renamed.is_some_and(|line| line.ends_with(" = 0")) {
        return Err("the file is not renamed");
    }
    if !(written && synced) {
        return Err("the file is renamed before all of it is synced");
    }
    let opened = format!("\"{}\", O_RDONLY", folder.display());
    let opened = lines.find(|line| line.contains(&opened)).ok_or("its folder is not opened")?;
    let folder = descriptor(opened).ok_or("its folder can't be opened")?;
    let sync = format!("fsync({folder})");
    match lines.find(|line| line.starts_with(&sync)) {
        Some(line) if line.ends_with(" = 0") => Ok(()),
        _ => Err("its folder is not synced"),
    }
}

/// File systems that sync files and no folders: saving works, and works again, and says so each time.
fn folders_that_sync_nothing() {
    for writer in ["ours", "rotation"] {
        let stage = Stage::new(&format!("unsupported-{writer}"), false);
        let path = if writer == "ours" { &stage.path } else { &stage.folder };
        let fail = |call: &str, nth: usize, error: &'static str, expected: i32| {
            let fault = Fault::Error { error, lasting: false };
            for epochs in 1..=2 {
                let (code, log) = strace(writer, path, Some(&fault.option(call, nth)));
                assert_eq!(code, Some(expected), "{fault:?} at {call}:\n{log}");
                assert_eq!(stage.entries(), if writer == "ours" { 1 } else { epochs }, "{error} at {call}");
            }
            stage.set();
        };
        let (_, log) = strace(writer, path, None);
        stage.set();
        let calls = calls(&log);
        // The folder is opened and synced last.
        let last = |name: &str| calls.iter().rfind(|call| call.name == name).unwrap().nth;
        for error in ["EINVAL", "EOPNOTSUPP", "EPERM", "ENOSYS"] {
            fail("fsync", last("fsync"), error, FILE_ONLY);
        }
        fail("fsync", last("fsync"), "EIO", UNCERTAIN);
        if writer == "ours" {
            fail("openat", last("openat"), "EACCES", FILE_ONLY);
            fail("openat", last("openat"), "EMFILE", UNCERTAIN);
        }
    }
    println!("folders that sync nothing: saved to");
}

/// The epoch with the best metric of all.
const BEST: u64 = 1_000;

/// Killed at every call of a save in turn, with nothing removed in between: after one save that isn't, there
/// are the best and the last.
fn rotation_that_is_killed() {
    let folder = std::env::temp_dir().join(format!("backrule-faults-{}-rotation", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    for epoch in [BEST, 3, 2] {
        writer::rotate(&folder, epoch).unwrap();
    }
    // Of a trace that removes one: a save into a folder that has been filled.
    let (code, log) = strace_epoch("rotation", &folder, 4, None);
    assert_eq!(code, Some(0));
    let (mut leftovers, mut kills) = (0, 0);
    let names = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let temporary = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
    for (Call { name, nth, .. }, epoch) in calls(&log).into_iter().zip(5..) {
        // Another epoch each time, so another metric: no later save has the name of a killed one.
        let kill = Fault::Kill.option(&name, nth);
        let (code, _) = strace_epoch("rotation", &folder, epoch, Some(&kill));
        // With fewer or more files there than at first, it may make fewer calls of this name.
        kills += usize::from(code.is_none());
        leftovers = leftovers.max(names().filter(temporary).count());
        let best = writer::rotation(&folder).best().unwrap().unwrap();
        assert_eq!(best.checkpoint.run().epoch, BEST, "killed at {name} number {nth}");
        assert!(writer::rotation(&folder).latest().unwrap().unwrap().passed_over.is_empty());
    }
    assert!(kills > 20 && leftovers > 0, "{kills} kills, {leftovers} leftovers: this test can't fail");
    writer::rotate(&folder, 4).unwrap();
    let left: Vec<PathBuf> = names().collect();
    assert_eq!(left.len(), 2, "after {kills} kills: {left:?}");
    let _ = fs::remove_dir_all(&folder);
    println!("rotation: {kills} kills leave nothing behind");
}

/// The best file can't be opened, or not be read, while another one is saved: it stays, and is the best again
/// when the disk is back. As in `what_can_not_be_read_at_the_moment_is_kept`, which root skips.
fn best_that_can_not_be_read() {
    let folder = std::env::temp_dir().join(format!("backrule-faults-{}-best", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    for epoch in [BEST, 2] {
        writer::rotate(&folder, epoch).unwrap();
    }
    let best = writer::rotation(&folder).best().unwrap().unwrap().file.path;
    let (code, log) = strace_epoch("rotation", &folder, 3, None);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = log.lines().collect();
    let of_best = |line: &&str| line.starts_with("openat(") && line.contains(&best.display().to_string());
    // A new process has verified nothing yet.
    let open = lines.iter().position(of_best).unwrap();
    let read = lines[open..].iter().position(|line| line.starts_with("read(")).unwrap() + open;
    let nth = |call: &str, at: usize| lines[..=at].iter().filter(|line| line.starts_with(call)).count();
    let mut runs = 0;
    for (call, nth) in [("openat", nth("openat(", open)), ("read", nth("read(", read))] {
        for error in ERRORS {
            runs += 1;
            let fault = Fault::Error { error, lasting: false };
            let (code, log) = strace_epoch("rotation", &folder, 3 + runs, Some(&fault.option(call, nth)));
            let injected: Vec<&str> = log.lines().filter(|line| line.ends_with("(INJECTED)")).collect();
            assert!(code == Some(0) && injected.len() == 1, "{fault:?} at {call}: {code:?}, {injected:?}");
            let found = writer::rotation(&folder).best().unwrap().unwrap();
            assert!(found.file.path == best && found.checkpoint.run().epoch == BEST, "{fault:?} at {call}");
            // The new one, the best, and for once the second best.
            assert!(fs::read_dir(&folder).unwrap().count() <= 3, "{fault:?} at {call}");
        }
    }
    let _ = fs::remove_dir_all(&folder);
    println!("rotation: the best file is kept through {runs} faults of reading it");
}

fn scenario(writer: &str, replaces: bool, all: bool) -> Tally {
    let stage = Stage::new(&format!("{writer}-{replaces}"), replaces);
    let (code, log) = strace(writer, &stage.path, None);
    assert_eq!(code, Some(0), "without a fault, saving works");
    assert_eq!(writer::look(&stage.real), Found::Whole(NEW));
    let calls = calls(&log);
    let mut tally = Tally { calls: calls.len(), ..Tally::default() };
    for (i, Call { name, nth, can_fail }) in calls.iter().enumerate() {
        let mut faults = vec![Fault::Kill];
        if !can_fail {
            // Only killed.
        } else if all {
            faults.extend(ERRORS.map(|error| Fault::Error { error, lasting: false }));
            if name != "close" {
                faults.extend(ERRORS.map(|error| Fault::Error { error, lasting: true }));
            }
        } else {
            faults.push(Fault::Error { error: ERRORS[i % ERRORS.len()], lasting: false });
        }
        for fault in faults {
            stage.set();
            let (code, log) = strace(writer, &stage.path, Some(&fault.option(name, *nth)));
            let mut wrong = judge(&stage, &fault, code, &log, &mut tally);
            let matters = ["write", "fsync", "rename"].contains(&name.as_str());
            if matters && matches!(fault, Fault::Error { .. }) && matches!(code, Some(0 | FILE_ONLY)) {
                wrong = Err("it reports success".to_string());
            }
            tally.wrong.extend(wrong.err().map(|wrong| format!("{fault:?} at {name} number {nth}: {wrong}")));
        }
    }
    tally
}

/// Whether the file that is there may be there after a fault.
fn judge(
    stage: &Stage,
    fault: &Fault,
    code: Option<i32>,
    log: &str,
    tally: &mut Tally,
) -> Result<(), String> {
    tally.runs += 1;
    let before = if stage.replaces { Found::Whole(OLD) } else { Found::Nothing };
    let found = writer::look(&stage.real);
    if found == before {
        tally.old += 1;
    } else if found == Found::Whole(NEW) {
        tally.new += 1;
    } else {
        tally.torn += 1;
        return Err(format!("{found:?}"));
    }
    if matches!(fault, Fault::Kill) {
        if code.is_some() {
            return Err(format!("it was not killed, but exited with {code:?}"));
        }
        tally.cleaned += stage.temporary().len();
        writer::save(&stage.path, NEXT).map_err(|error| error.to_string())?;
        if writer::look(&stage.real) != Found::Whole(NEXT) {
            return Err("the next save doesn't load".to_string());
        }
        let expected = if stage.replaces { 2 } else { 1 };
        return if stage.entries() == expected {
            Ok(())
        } else {
            Err("the next save did not clean".to_string())
        };
    }
    if !log.contains("(INJECTED)") {
        return Err("nothing was injected".to_string());
    }
    tally.uncertain += usize::from(code == Some(UNCERTAIN));
    let expected = match code {
        Some(0 | UNCERTAIN | FILE_ONLY) => Found::Whole(NEW),
        Some(NOT_SAVED) => before,
        other => return Err(format!("exit code {other:?}")),
    };
    if found != expected {
        return Err(format!("exit code {code:?}, but {found:?} is there"));
    }
    if stage.temporary().is_empty() { Ok(()) } else { Err("a temporary file was left".to_string()) }
}

#[derive(Debug)]
enum Fault {
    /// Killed on its way into the call, which is never made.
    Kill,
    /// The call is not made and fails; all later ones of that name, too, if it lasts.
    Error { error: &'static str, lasting: bool },
}

impl Fault {
    fn option(&self, call: &str, nth: usize) -> String {
        match self {
            Self::Kill => format!("inject={call}:signal=KILL:when={nth}"),
            Self::Error { error, lasting } => {
                format!("inject={call}:error={error}:when={nth}{}", if *lasting { "+" } else { "" })
            }
        }
    }
}

/// Lets a child save under strace; gives its exit code (none if it was killed) and the trace.
fn strace(writer: &str, path: &Path, inject: Option<&str>) -> (Option<i32>, String) {
    strace_epoch(writer, path, NEW, inject)
}

fn strace_epoch(writer: &str, path: &Path, epoch: u64, inject: Option<&str>) -> (Option<i32>, String) {
    let log = std::env::temp_dir().join(format!("backrule-faults-{}.log", std::process::id()));
    let mut command = Command::new("strace");
    command.args(["-qq", "-e", "trace=%file,%desc", "-o"]).arg(&log);
    command.args(inject.map(|inject| format!("--{inject}")));
    let status = command
        .arg(std::env::current_exe().unwrap())
        .args(["save", writer])
        .arg(path)
        .arg(epoch.to_string())
        .status()
        .unwrap();
    let trace = read(&log);
    (status.code(), trace)
}

fn read(log: &Path) -> String {
    let trace = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    fs::remove_file(log).unwrap();
    trace
}

struct Call {
    name: String,
    /// The how manyth of this name in the whole process.
    nth: usize,
    can_fail: bool,
}

/// The relevant calls made while it saved.
fn calls(trace: &str) -> Vec<Call> {
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut calls = Vec::new();
    let mut saving = false;
    // Closing a directory that was listed has nothing to write back, and no way to fail; std panics if it
    // does.
    let mut listed = String::new();
    for line in trace.lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        let nth = *counts.entry(name).and_modify(|count| *count += 1).or_insert(1);
        if line.contains(BEGIN) {
            saving = true;
        } else if line.contains(END) {
            saving = false;
        } else if saving && !IRRELEVANT.contains(&name) {
            let can_fail = !(name == "close" && rest.starts_with(&listed) && !listed.is_empty());
            if !can_fail {
                listed.clear();
            }
            calls.push(Call { name: name.to_string(), nth, can_fail });
        }
        if let (true, Some((_, fd))) = (rest.contains("O_DIRECTORY"), line.rsplit_once(" = ")) {
            listed = format!("{fd})");
        }
    }
    assert!(!calls.is_empty() && !saving, "the marks are not in the trace:\n{trace}");
    calls
}
