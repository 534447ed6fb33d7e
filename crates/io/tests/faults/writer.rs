//! The process that saves, and the expected checkpoints.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process;

use backrule_io::tensor::Tensor;
use backrule_io::{Best, Checkpoint, Durability, FileError, Rotation, RotationError, Run, SaveError};

/// Exit codes of the child.
pub(crate) const NOT_SAVED: i32 = 3;
pub(crate) const UNCERTAIN: i32 = 4;
/// Saved, in a folder that can't be synced.
pub(crate) const FILE_ONLY: i32 = 5;

/// Looked up by the child before and after it saves, so a trace shows where saving begins and ends.
pub(crate) const BEGIN: &str = "/backrule-faults-begin";
pub(crate) const END: &str = "/backrule-faults-end";

type Net = Vec<(String, Tensor)>;

/// 300 KB: ten writes, so there are points within the file to be killed at.
fn state(epoch: u64) -> Net {
    let value = |tensor: usize, i: usize| (epoch * 100_000) as f32 + (tensor * 30_000 + i) as f32;
    let tensor = |k: usize| Tensor::from_vec([25_000], (0..25_000).map(|i| value(k, i)).collect()).unwrap();
    (0..3).map(|k| (format!("fc{k}.weight"), tensor(k))).collect()
}

fn run(epoch: u64) -> Run {
    Run { epoch, ..Run::default() }
}

pub(crate) fn bytes(epoch: u64) -> Vec<u8> {
    Checkpoint::of(&state(epoch)).run(&run(epoch)).to_bytes().unwrap()
}

pub(crate) fn save(path: &Path, epoch: u64) -> Result<Durability, SaveError> {
    Checkpoint::of(&state(epoch)).run(&run(epoch)).save(path)
}

/// The way many programs save.
fn save_naively(path: &Path, epoch: u64) -> io::Result<()> {
    let bytes = bytes(epoch);
    let mut file = File::create(path)?;
    bytes.chunks(32 << 10).try_for_each(|chunk| file.write_all(chunk))
}

/// The better way of some: a file beside it, renamed, but never synced.
fn save_without_sync(path: &Path, epoch: u64) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    save_naively(&beside, epoch)?;
    fs::rename(beside, path)
}

/// By one of the writers, which has to work.
pub(crate) fn save_as(writer: &str, path: &Path, epoch: u64) {
    match writer {
        "ours" => _ = save(path, epoch).unwrap(),
        "naive" => save_naively(path, epoch).unwrap(),
        "unsynced" => save_without_sync(path, epoch).unwrap(),
        _ => panic!("no writer {writer}"),
    }
}

pub(crate) fn child(writer: &str, path: &str, epoch: u64) -> ! {
    let path = Path::new(path);
    // Made before: the trace is of the saving alone.
    let net = state(epoch);
    let _ = fs::metadata(BEGIN);
    let code = match writer {
        "ours" => code(Checkpoint::of(&net).run(&run(epoch)).save(path)),
        "rotation" => match rotation(path).save(&Checkpoint::of(&net).run(&run(epoch)), metric(epoch)) {
            Ok(rotated) => code(Ok(rotated.durability)),
            Err(RotationError::Save(error)) => code(Err(error)),
            Err(_) => NOT_SAVED,
        },
        "naive" => save_naively(path, epoch).map_or(NOT_SAVED, |()| 0),
        "unsynced" => save_without_sync(path, epoch).map_or(NOT_SAVED, |()| 0),
        _ => panic!("no writer {writer}"),
    };
    let _ = fs::metadata(END);
    process::exit(code)
}

fn code(saved: Result<Durability, SaveError>) -> i32 {
    match saved {
        Ok(Durability::Full) => 0,
        Ok(_) => FILE_ONLY,
        Err(SaveError::File(FileError::DurabilityUncertain { .. })) => UNCERTAIN,
        Err(_) => NOT_SAVED,
    }
}

/// The last one and the best one are kept.
pub(crate) fn rotation(folder: &Path) -> Rotation {
    Rotation::new(folder, "run").unwrap().keep_last(1).keep_best(Best::Min)
}

/// No two epochs have the same, and so no two files the same name.
pub(crate) fn metric(epoch: u64) -> f64 {
    1.0 + 1.0 / (1.0 + epoch as f64)
}

pub(crate) fn rotate(folder: &Path, epoch: u64) -> Result<(), RotationError> {
    let net = state(epoch);
    rotation(folder).save(&Checkpoint::of(&net).run(&run(epoch)), metric(epoch)).map(drop)
}

/// The file found at a path.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    Nothing,
    /// A checkpoint that loads, restores, and is to the last bit that of this epoch.
    Whole(u64),
    Torn(String),
}

pub(crate) fn look(path: &Path) -> Found {
    if !path.exists() {
        return Found::Nothing;
    }
    let checkpoint = match Checkpoint::load(path) {
        Err(error) => return Found::Torn(error.to_string()),
        Ok(checkpoint) => checkpoint,
    };
    let epoch = checkpoint.run().epoch;
    let mut net = state(99);
    if let Err(error) = checkpoint.restore(&mut net) {
        return Found::Torn(error.to_string());
    }
    if Checkpoint::of(&net).run(&run(epoch)).to_bytes().unwrap() != bytes(epoch) {
        return Found::Torn("its values are not those that were saved".to_string());
    }
    Found::Whole(epoch)
}
