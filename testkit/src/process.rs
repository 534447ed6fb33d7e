use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use backrule_tensor::parallel;

/// This many threads, while the guard lives. Their number belongs to the process: a test that sets it, or
/// counts allocations that depend on it, runs alone.
pub fn with_threads(count: usize) -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    parallel::set_threads(NonZeroUsize::new(count).expect("at least one thread"));
    guard
}

/// The most memory that this process has had so far, in bytes.
#[cfg(target_os = "linux")]
pub fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("the system says");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of its own");
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().expect("kilobytes")
}

/// An empty directory that is removed at the end. Its name has the process in it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A directory of this name, which no other test of the process may have.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("backrule-{}-{name}", process::id()));
        fs::create_dir_all(&path).expect("a directory for temporary files");
        Self(path)
    }

    /// The files in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let files = fs::read_dir(&self.0).expect("the directory is there");
        let name = |file: fs::DirEntry| file.file_name().into_string().expect("a name in UTF-8");
        let mut names: Vec<_> = files.map(|file| name(file.expect("a file"))).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_is_gone_afterwards() {
        let scratch = Scratch::new("testkit");
        let path = scratch.0.clone();
        for name in ["b", "a"] {
            fs::write(scratch.0.join(name), "").expect("a new file");
        }
        assert_eq!(scratch.names(), ["a", "b"]);
        drop(scratch);
        assert!(!path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_was_written_counts() {
        let before = peak();
        let block = std::hint::black_box(vec![1_u8; 1 << 26]);
        assert!(peak() >= 1 << 26, "{before} bytes, then {}", peak());
        drop(block);
    }
}
