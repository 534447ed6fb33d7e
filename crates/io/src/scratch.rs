//! A directory for a test's files. The workspace's test kit has one too, but isn't published, and the tests
//! of this library are.

use std::path::PathBuf;
use std::{env, fs, process};

/// Removed with its files at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// A directory of this name, which no other test of the process may have.
    pub(crate) fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("backrule-io-{}-{name}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The files in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let files = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}
