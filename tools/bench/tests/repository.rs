//! The tool changes nothing in the repository that it is started in, wherever and however it is started.
//!
//! The workspaces here have a benchmark without criterion that leaves the same files, so each is built in a
//! second.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MANIFEST: &str = "[package]\nname = \"mini\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
                        [[bench]]\nname = \"mini\"\nharness = false\n";

/// Criterion's command line, and its files. `SLOW` gives a test the time to end the tool meanwhile.
const BENCH: &str = r##"//! Sums.
// `sum/*`: a sum
fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return println!("sum/1: benchmark");
    }
    if std::env::var_os("SLOW").is_some() {
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    let new = std::path::PathBuf::from(std::env::var_os("CRITERION_HOME").unwrap()).join("sum/1/new");
    std::fs::create_dir_all(&new).unwrap();
    std::fs::write(new.join("benchmark.json"), r#"{"full_id":"sum/1"}"#).unwrap();
    let sample = format!(r#"{{"iters":[1.0],"times":[{}.0]}}"#, mini::NS);
    std::fs::write(new.join("sample.json"), sample).unwrap();
    // A benchmark's own file.
    std::fs::write("written-by-the-benchmark", "").unwrap();
}
"##;

const PAGE: &str =
    "# Benchmarks\n\n## mini\n\nSums.\n\n| timed | what it measures |\n|---|---|\n| `sum/1` | a sum |\n";

/// A repository with two commits, and a home folder without settings beside it.
struct Repository {
    folder: PathBuf,
    top: PathBuf,
}

impl Drop for Repository {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.folder);
    }
}

impl Repository {
    fn new(name: &str) -> Self {
        Self::with_workspace_in(name, "")
    }

    fn with_workspace_in(name: &str, workspace: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("backrule-bench-{name}-{}", std::process::id()));
        _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("home")).unwrap();
        let repository = Self { top: folder.join("a folder ü"), folder };
        let root = repository.top.join(workspace);
        for (file, text) in [
            ("Cargo.toml", MANIFEST),
            (".gitignore", "target\n"),
            ("src/lib.rs", "pub const NS: u32 = 100;\n"),
            ("benches/mini.rs", BENCH),
            ("docs/benchmarks.md", PAGE),
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository.commit("one");
        fs::write(root.join("src/two.rs"), "").unwrap();
        repository.commit("two");
        repository
    }

    fn git(&self, arguments: &[&str]) -> String {
        self.git_in(&self.top, arguments)
    }

    fn git_in(&self, folder: &Path, arguments: &[&str]) -> String {
        let output = self.command("git", folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    /// With the settings of the home folder here, and the toolchain of the one outside.
    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        let outside = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        for (name, place) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            let place = std::env::var_os(name).map_or_else(|| outside.join(place), PathBuf::from);
            command.env(name, place);
        }
        for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "XDG_CONFIG_HOME", "GITHUB_STEP_SUMMARY"] {
            command.env_remove(name);
        }
        let home = self.folder.join("home");
        command.env("HOME", home).current_dir(folder).stdin(Stdio::null());
        if program == "git" {
            command.args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        }
        command
    }

    fn tool(&self, folder: &Path, arguments: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_backrule-bench"), folder);
        command.args(arguments.split_whitespace());
        command
    }

    /// All files with git's own, but not the target folder.
    fn state(&self) -> BTreeMap<PathBuf, (Vec<u8>, i128, u32)> {
        let mut state = BTreeMap::new();
        walk(&self.top, &mut state);
        state
    }

    /// Runs the tool, which must leave everything as it was.
    fn run(&self, folder: &Path, arguments: &str, expected: i32) -> String {
        self.watch(&mut self.tool(folder, arguments), expected)
    }

    fn watch(&self, command: &mut Command, expected: i32) -> String {
        let before = self.state();
        let output = command.output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(expected), "{command:?}\n{text}");
        self.is_as(&before);
        text
    }

    fn is_as(&self, before: &BTreeMap<PathBuf, (Vec<u8>, i128, u32)>) {
        let after = self.state();
        let changed = |(file, state)| (after.get(file) != Some(state)).then_some(file);
        let changed: Vec<_> = before.iter().filter_map(changed).collect();
        let new: Vec<_> = after.keys().filter(|file| !before.contains_key(*file)).collect();
        assert!(changed.is_empty() && new.is_empty(), "changed: {changed:?}, new: {new:?}");
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

fn walk(folder: &Path, state: &mut BTreeMap<PathBuf, (Vec<u8>, i128, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap();
        let time = i128::from(kind.mtime()) * 1_000_000_000 + i128::from(kind.mtime_nsec());
        if !kind.is_dir() {
            let bytes = if kind.is_symlink() { Vec::new() } else { fs::read(&path).unwrap() };
            state.insert(path, (bytes, time, kind.mode()));
        } else if !path.ends_with("target") {
            walk(&path, state);
        }
    }
}

fn script(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

const COMPARE: &str = "compare HEAD~1 --rounds 8 --seconds 0.01 --samples 10";

#[test]
fn it_can_be_started_from_anywhere() {
    let repository = Repository::new("anywhere");
    let top = repository.top.clone();
    assert!(repository.run(&top, COMPARE, 0).contains("No regression."));
    repository.run(&top.join("src"), COMPARE, 0);
    // Where the programs run is none of the user's folders, so a relative name must not lead elsewhere.
    repository.run(&top.join("src"), &format!("{COMPARE} --out ../target/results"), 0);
    assert!(top.join("target/results/times-mini.json").exists());
    repository.git(&["checkout", "--quiet", "--detach"]);
    repository.run(&top, COMPARE, 0);

    let worktree = repository.folder.join("worktree");
    repository.git(&["worktree", "add", "--quiet", worktree.to_str().unwrap(), "-b", "side"]);
    let mut before = BTreeMap::new();
    walk(&worktree, &mut before);
    repository.run(&worktree, COMPARE, 0);
    let mut after = BTreeMap::new();
    walk(&worktree, &mut after);
    assert_eq!(before, after);
}

#[test]
fn a_workspace_may_be_a_folder_of_its_repository() {
    let repository = Repository::with_workspace_in("folder", "rust/all");
    let root = repository.top.join("rust/all");
    repository.run(&root, COMPARE, 0);
    repository.run(&root.join("src"), COMPARE, 0);
    // The base's page is found, too.
    fs::write(root.join("docs/benchmarks.md"), PAGE.replace("sum/1", "sum/2")).unwrap();
    assert!(repository.run(&root, COMPARE, 1).contains("`mini/sum/1` has disappeared"));
    // And a base that has its workspace elsewhere gets a sentence.
    repository.git(&["checkout", "--quiet", "--force", "HEAD"]);
    repository.git(&["mv", "rust/all", "all"]);
    repository.commit("moved");
    let said = repository.run(&repository.top.join("all"), COMPARE, 2);
    assert!(said.contains("error: no folder all/ in that commit"), "{said}");
}

/// Uncommitted files take part: changed, staged, and new ones, but none that git ignores.
#[test]
fn the_working_tree_is_compared() {
    let repository = Repository::new("dirty");
    let top = repository.top.clone();
    fs::write(top.join("src/lib.rs"), "mod new;\npub use new::NS;\n").unwrap();
    fs::write(top.join("src/new.rs"), "pub const NS: u32 = 300;\n").unwrap();
    fs::remove_file(top.join("src/two.rs")).unwrap();
    fs::write(top.join("staged"), "").unwrap();
    repository.git(&["add", "staged"]);
    let said = repository.run(&top, COMPARE, 1);
    assert!(said.contains("`mini/sum/1` is slower: × 3.00, and × 3.00 when repeated"), "{said}");
    assert!(top.join("target/bench-head/tree/staged").exists());
    assert!(!top.join("target/bench-head/tree/src/two.rs").exists());
    // The copy follows.
    fs::write(top.join("src/new.rs"), "pub const NS: u32 = 100;\n").unwrap();
    repository.run(&top, COMPARE, 0);
}

#[test]
fn in_a_hook_it_works_on_its_own_clone() {
    let repository = Repository::new("hook");
    let top = repository.top.clone();
    fs::write(top.join("staged"), "").unwrap();
    repository.git(&["add", "staged"]);
    // As git starts hooks, and with variables that somebody may have exported.
    let git = top.join(".git");
    let mut command = repository.tool(&top, COMPARE);
    command.env("GIT_DIR", &git).env("GIT_WORK_TREE", &top).env("GIT_INDEX_FILE", git.join("index"));
    command.env("GIT_OBJECT_DIRECTORY", git.join("objects")).env("GIT_PREFIX", "src/");
    repository.watch(&mut command, 0);
    // The folders of a clone that a kill has cut short are no repository: git would go up, to the user's.
    for broken in ["HEAD", "config", "objects"] {
        let place = top.join("target/bench-base/tree/.git").join(broken);
        if place.is_dir() {
            fs::remove_dir_all(place).unwrap()
        } else {
            fs::remove_file(place).unwrap()
        }
        repository.run(&top, COMPARE, 0);
    }
    fs::write(top.join("target/bench-base/tree/.git/index.lock"), "").unwrap();
    repository.run(&top, COMPARE, 0);

    // A hook itself: it fails the commit if the tool fails.
    let tool = env!("CARGO_BIN_EXE_backrule-bench");
    script(
        &git.join("hooks/pre-commit"),
        &format!("exec '{tool}' {COMPARE} >'{}/said' 2>&1", repository.folder.display()),
    );
    let head = repository.git(&["rev-parse", "HEAD"]);
    repository.git(&["commit", "--quiet", "--message", "three"]);
    assert_eq!(repository.git(&["rev-parse", "HEAD~1"]), head);
    assert_eq!(repository.git(&["symbolic-ref", "HEAD"]), "refs/heads/main");
    assert_eq!(repository.git(&["status", "--short"]), "");
    let said = fs::read_to_string(repository.folder.join("said")).unwrap();
    assert!(said.contains("No regression."), "{said}");
}

#[test]
fn nothing_that_the_user_has_set_up_is_started() {
    let repository = Repository::new("settings");
    let marker = repository.folder.join("started");
    let start = format!("echo $0 >>'{}'", marker.display());
    let home = repository.folder.join("home");
    for hook in ["post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc", "monitor"] {
        script(&home.join("hooks").join(hook), &start);
        script(&home.join("template/hooks").join(hook), &start);
        script(&repository.top.join(".git/hooks").join(hook), &start);
    }
    let home = home.display();
    let settings = format!(
        "[core]\nhooksPath = {home}/hooks\nfsmonitor = {home}/hooks/monitor\n[init]\ntemplateDir = {home}/template\n\
         [protocol \"file\"]\nallow = never\n[log]\nshowSignature = true\n[gc]\nauto = 1\n[submodule]\nrecurse = true\n"
    );
    fs::write(repository.folder.join("home/.gitconfig"), settings).unwrap();
    repository.run(&repository.top.clone(), COMPARE, 0);
    assert!(!marker.exists(), "{}", fs::read_to_string(marker).unwrap());
}

#[test]
fn a_killed_run_leaves_nothing_behind_and_the_next_one_works() {
    let repository = Repository::new("killed");
    let top = repository.top.clone();
    fs::write(top.join("staged"), "").unwrap();
    repository.git(&["add", "staged"]);
    let before = repository.state();
    // In the copy, in cargo, in the clone, in a series.
    for (i, mark) in ["bench-head/tree/src", "bench-head/target", "bench-base/tree/.git", "bench/criterion"]
        .iter()
        .enumerate()
    {
        let mut command = repository.tool(&top, COMPARE);
        command.env("SLOW", "1").stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        while !top.join("target").join(mark).exists() {
            assert!(began.elapsed() < Duration::from_secs(120), "{mark} did not come");
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        repository.is_as(&before);
        if i == 3 {
            // The program it had started ends by itself.
            sleep(Duration::from_secs(3));
            repository.is_as(&before);
        }
    }
    repository.run(&top, COMPARE, 0);
}

#[test]
fn two_at_once_take_turns() {
    let repository = Repository::new("two");
    let top = repository.top.clone();
    let before = repository.state();
    let mut children = [0, 1].map(|_| {
        let mut command = repository.tool(&top, COMPARE);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Some(command.spawn().unwrap())
    });
    for child in &mut children {
        let output = child.take().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    repository.is_as(&before);
}

/// The reader has read enough. The exit code still tells.
#[test]
fn a_closed_pipe_is_no_error() {
    let repository = Repository::new("pipe");
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let top = repository.top.clone();
    for (arguments, expected) in [("--help", 0), ("ids", 0), ("check", 0), ("nonsense", 2), (COMPARE, 0)] {
        let mut command = repository.tool(&top, arguments);
        let output = command.stdout(closed()).output().unwrap();
        assert_eq!(output.status.code(), Some(expected), "{arguments}: {}", text(&output));
        assert!(!text(&output).contains("panicked"), "{}", text(&output));
        let mut command = repository.tool(&top, arguments);
        // Cargo has to build, and has something to say.
        _ = fs::remove_dir_all(top.join("target"));
        let output = command.stdout(closed()).stderr(closed()).output().unwrap();
        assert_eq!(output.status.code(), Some(expected), "{arguments}");
    }
    fs::write(top.join("src/lib.rs"), "pub const NS: u32 = 300;\n").unwrap();
    let mut command = repository.tool(&top, COMPARE);
    let output = command.stdout(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    // Another error is one.
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        assert_eq!(repository.tool(&top, "--help").stdout(full).output().unwrap().status.code(), Some(2));
    }
}

#[test]
fn help_is_no_error() {
    let repository = Repository::new("help");
    for arguments in ["--help", "-h", "compare --help"] {
        let output = repository.tool(&repository.folder, arguments).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
        assert!(output.stdout.starts_with(b"backrule-bench compare BASE"));
    }
}

#[test]
fn the_pages_are_read_before_anything_is_built() {
    let repository = Repository::new("page");
    let top = repository.top.clone();
    fs::remove_file(top.join("docs/benchmarks.md")).unwrap();
    for command in [COMPARE, "check"] {
        assert!(repository.run(&top, command, 2).contains("docs/benchmarks.md"));
    }
    fs::write(top.join("docs/benchmarks.md"), format!("{PAGE}| `sum/1` | twice |\n")).unwrap();
    assert!(repository.run(&top, COMPARE, 2).contains("stands twice"));
    // The base's, too.
    repository.commit("a broken page");
    fs::write(top.join("docs/benchmarks.md"), PAGE).unwrap();
    assert!(repository.run(&top, &COMPARE.replace("HEAD~1", "HEAD"), 2).contains("stands twice"));
    assert!(!top.join("target").exists());
}

#[test]
fn a_workspace_needs_no_gate() {
    let repository = Repository::new("gate");
    let top = repository.top.clone();
    repository.run(&top, "check", 0);
    assert!(repository.run(&top, "ids", 0).contains(PAGE));
    let valgrind =
        Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    let said = repository.run(&top, "gate HEAD", 2);
    assert!(!valgrind || said.contains("no bench target is named `gate`"), "{said}");
}

/// The commits before a push that creates a branch, one by force, and the first of all.
#[test]
fn a_commit_that_is_not_here_is_the_one_before() {
    let repository = Repository::new("push");
    let top = repository.top.clone();
    let (zeros, gone) = ("0".repeat(40), "1234567890".repeat(4));
    for before in [&zeros, &gone] {
        let said = repository.run(&top, &COMPARE.replace("HEAD~1", before), 0);
        assert!(said.contains("is not here: compared with the commit before HEAD."), "{said}");
        assert!(said.contains("1 ids against"), "{said}");
    }
    repository.run(&top, &COMPARE.replace("HEAD~1", "main~7"), 2);
    repository.git(&["checkout", "--quiet", "HEAD~1"]);
    let said =
        repository.run(&top, &format!("{} --out target/results", COMPARE.replace("HEAD~1", &zeros)), 0);
    assert!(said.contains("HEAD is the first commit: there is nothing to compare with."), "{said}");
    repository.run(&top, COMPARE, 2);
    // The history gets its first line, and no second one for the same commit.
    for _ in 0..2 {
        repository.run(&top, "history target/history.jsonl target/results/times-mini.json", 0);
    }
    assert_eq!(fs::read_to_string(top.join("target/history.jsonl")).unwrap().lines().count(), 1);
    repository.run(&top, "page target/history.jsonl target/index.html", 0);
    // Of a clone without a past that is no such thing.
    repository.git(&["checkout", "--quiet", "main"]);
    let shallow = repository.folder.join("shallow");
    let from = format!("file://{}", top.display());
    repository.git(&["clone", "--quiet", "--depth", "1", &from, shallow.to_str().unwrap()]);
    let output = repository.tool(&shallow, &COMPARE.replace("HEAD~1", &zeros)).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

/// A link in the base, where head has a file or a folder: a copy to that place must not follow it.
#[test]
fn a_link_that_leads_out_of_the_repository_is_not_followed() {
    let repository = Repository::new("links");
    let (top, outside) = (repository.top.clone(), repository.folder.join("outside"));
    for folder in [outside.join("benches"), outside.join("member/benches")] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("mini.rs"), BENCH).unwrap();
        fs::write(folder.join("data"), "the user's").unwrap();
    }
    let lock = outside.join("Cargo.lock");
    fs::write(&lock, "").unwrap();
    let links = [("benches", "benches"), ("member", "member"), ("Cargo.lock", "Cargo.lock")];
    fs::remove_dir_all(top.join("benches")).unwrap();
    for (name, to) in links {
        symlink(outside.join(to), top.join(name)).unwrap();
    }
    symlink(outside.join("benches/data"), top.join("data")).unwrap();
    repository.commit("links");
    for (name, _) in links {
        fs::remove_file(top.join(name)).unwrap();
    }
    fs::create_dir(top.join("benches")).unwrap();
    fs::write(top.join("benches/mini.rs"), BENCH).unwrap();
    fs::write(top.join("benches/data"), "head's").unwrap();
    repository.commit("folders");
    let mut before = BTreeMap::new();
    walk(&outside, &mut before);
    repository.run(&top, COMPARE, 0);
    // A head with links, and a copy that has them already.
    repository.run(&top, &COMPARE.replace("HEAD~1", "HEAD"), 0);
    repository.git(&["checkout", "--quiet", "HEAD~1"]);
    repository.run(&top, COMPARE, 0);
    repository.git(&["checkout", "--quiet", "main"]);
    repository.run(&top, COMPARE, 0);
    let mut after = BTreeMap::new();
    walk(&outside, &mut after);
    assert_eq!(before, after);
}

/// As docs/benchmarking.md promises: the folder, copied into another workspace, and named among its members.
#[test]
fn a_copy_of_the_tool_works_in_another_workspace() {
    let repository = Repository::new("copy");
    let (top, tool) = (repository.top.clone(), Path::new(env!("CARGO_MANIFEST_DIR")));
    for folder in ["src", "tests"] {
        fs::create_dir_all(top.join("tools/bench").join(folder)).unwrap();
        for entry in fs::read_dir(tool.join(folder)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), top.join("tools/bench").join(folder).join(entry.file_name())).unwrap();
        }
    }
    fs::copy(tool.join("Cargo.toml"), top.join("tools/bench/Cargo.toml")).unwrap();
    // The dependencies as they are here: nothing is downloaded.
    fs::copy(tool.join("../../Cargo.lock"), top.join("Cargo.lock")).unwrap();
    fs::write(
        top.join("Cargo.toml"),
        MANIFEST.replace("[workspace]\n", "[workspace]\nmembers = [\"tools/bench\"]\n"),
    )
    .unwrap();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let run = |arguments: &str, expected: i32| {
        let mut command = repository.command(&cargo, &top);
        command.args(["run", "--quiet", "--offline", "--package", "backrule-bench", "--"]);
        let output = command.args(arguments.split_whitespace()).output().unwrap();
        assert_eq!(output.status.code(), Some(expected), "{arguments}: {}", text(&output));
        text(&output)
    };
    run("--help", 0);
    repository.commit("a copy of the tool");
    let before = repository.state();
    run("check", 0);
    assert!(run(COMPARE, 0).contains("No regression."));
    run(&COMPARE.replace("HEAD~1", "HEAD"), 0);
    repository.is_as(&before);
}
