//! Power cuts: a disk's possible contents at any moment, mounted again.
//!
//! Checkpoints are saved to a real file system on a disk whose writes are logged, while a neighbor has the
//! journal committed again and again. Afterwards the power is cut after each event of the log: flushed
//! blocks are on the disk, and of the blocks written since then all, nothing, or anything. The file system
//! recovers, and the checkpoint has to be the last one whose saving had returned, or the one that was being
//! saved.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::disk::{Disk, Event, run as command};
use crate::writer::{self, Found};

const IMAGE: usize = 16 << 20;
const SECTOR: usize = 512;
const EPOCHS: u64 = 4;

pub(crate) fn run() {
    let began = Instant::now();
    // Where images of disks are written again and again, memory is the right place.
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let folder = base.join(format!("backrule-power-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let outcome = all(&folder);
    let _ = fs::remove_dir_all(&folder);
    match outcome {
        Err(reason) => println!("power cuts: skipped: {reason}"),
        Ok(()) => println!("power cuts: ok, {:.1} s", began.elapsed().as_secs_f64()),
    }
}

/// An error: the simulation's tools can't be had here.
fn all(folder: &Path) -> Result<(), String> {
    for options in ["data=ordered", "data=writeback,noauto_da_alloc"] {
        for writer in ["ours", "unsynced", "naive"] {
            let recording = record(folder, writer, options)?;
            let tally = cut_everywhere(folder, &recording, options, writer == "ours");
            println!("ext4, {options}, {writer}: {tally}");
            if writer == "ours" {
                assert!(tally.bad.is_empty(), "{:#?}", tally.bad);
            } else {
                assert!(tally.torn + tally.lost > 0, "no cut has harmed {writer}: this test can't fail");
            }
        }
    }
    Ok(())
}

/// The first contents of the disk, and the events after them.
struct Recording {
    image: Vec<u8>,
    events: Vec<Event>,
}

fn record(folder: &Path, writer: &str, options: &str) -> Result<Recording, String> {
    let blank = folder.join("blank");
    fs::write(&blank, vec![0; IMAGE]).unwrap();
    command(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=0"]).arg(&blank))?;
    let disk = Disk::new(folder, fs::read(&blank).unwrap())?;
    let mounted = Mount::new(&disk.device, folder.join("recording"), options)?;
    let path = mounted.folder.join("model.brk");
    writer::save(&path, 1).unwrap();
    command(&mut Command::new("sync"))?;
    let (image, start) = {
        let log = disk.log.lock().unwrap();
        (log.image.clone(), log.events.len())
    };
    let mark = |epoch| disk.log.lock().unwrap().events.push(Event::Saved(epoch));
    mark(1);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                neighbor(&mounted.folder);
            }
        });
        for epoch in 2..=EPOCHS {
            writer::save_as(writer, &path, epoch);
            mark(epoch);
            neighbor(&mounted.folder);
        }
        done.store(true, Ordering::Relaxed);
    });
    let events = disk.log.lock().unwrap().events[start..].to_vec();
    Ok(Recording { image, events })
}

/// Its sync commits the journal, with whatever else has changed in the file system.
fn neighbor(folder: &Path) {
    let mut file = fs::File::options().append(true).create(true).open(folder.join("neighbor")).unwrap();
    file.write_all(b"another line\n").unwrap();
    file.sync_all().unwrap();
}

#[derive(Default)]
struct Tally {
    events: usize,
    cuts: usize,
    newer: usize,
    acknowledged: usize,
    lost: usize,
    torn: usize,
    bad: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, cuts, newer, acknowledged, lost, torn, .. } = self;
        write!(
            f,
            "{events} events, {cuts} cuts: {acknowledged} times the last one saved, {newer} the one being saved, \
             {lost} an older one or none, {torn} torn"
        )
    }
}

fn cut_everywhere(folder: &Path, recording: &Recording, options: &str, ours: bool) -> Tally {
    let mut durable = recording.image.clone();
    let mut volatile: Vec<(usize, &[u8])> = Vec::new();
    let mut acknowledged = 0;
    let mut tally = Tally { events: recording.events.len(), ..Tally::default() };
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for (i, event) in recording.events.iter().enumerate() {
        match event {
            Event::Write { offset, data } => volatile.push((*offset, data)),
            Event::Flush => volatile.drain(..).for_each(|(offset, data)| put(&mut durable, offset, data)),
            Event::Saved(epoch) => acknowledged = *epoch,
        }
        for (what, writes) in survivors(&volatile, &mut random) {
            let mut image = durable.clone();
            writes.iter().for_each(|(offset, data)| put(&mut image, *offset, data));
            let found = recover(folder, &image, options, ours).unwrap();
            tally.cuts += 1;
            match found {
                Found::Whole(epoch) if epoch == acknowledged => tally.acknowledged += 1,
                Found::Whole(epoch) if epoch == acknowledged + 1 => tally.newer += 1,
                other => {
                    match other {
                        Found::Torn(_) => tally.torn += 1,
                        _ => tally.lost += 1,
                    }
                    tally.bad.push(format!("after event {i}, {what}, {acknowledged} saved: {other:?}"));
                }
            }
        }
    }
    tally
}

fn put(image: &mut [u8], offset: usize, data: &[u8]) {
    image[offset..offset + data.len()].copy_from_slice(data);
}

type Writes<'a> = Vec<(usize, &'a [u8])>;

/// The parts of the cache that may have reached the disk.
fn survivors<'a>(volatile: &Writes<'a>, random: &mut u64) -> Vec<(&'static str, Writes<'a>)> {
    let mut next = || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random
    };
    let mut all = vec![("all of the cache", volatile.clone())];
    if volatile.is_empty() {
        return all;
    }
    all.push(("nothing of the cache", Vec::new()));
    // Sector by sector, since a disk promises no more than that to be whole.
    for _ in 0..2 {
        let sectors = volatile.iter().flat_map(|(offset, data)| {
            data.chunks(SECTOR).enumerate().map(move |(i, sector)| (offset + i * SECTOR, sector))
        });
        all.push(("some sectors of the cache", sectors.filter(|_| next() % 2 == 0).collect()));
        all.push((
            "some writes of the cache",
            volatile.iter().copied().filter(|_| next() % 2 == 0).collect(),
        ));
    }
    all
}

/// Mounts the image, and looks.
fn recover(folder: &Path, image: &[u8], options: &str, ours: bool) -> Result<Found, String> {
    let file = folder.join("cut");
    fs::write(&file, image).unwrap();
    let mounted = Mount::new(file.to_str().unwrap(), folder.join("recovered"), &format!("loop,{options}"))?;
    let path = mounted.folder.join("model.brk");
    let found = writer::look(&path);
    if ours {
        writer::save(&path, 99).map_err(|error| error.to_string())?;
        let next = writer::look(&path);
        assert_eq!(next, Found::Whole(99), "the save after the cut");
        let temporary = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".tmp");
        let left = fs::read_dir(&mounted.folder).unwrap().any(|entry| temporary(&entry.unwrap().file_name()));
        assert!(!left, "the save after the cut didn't clean up");
    }
    Ok(found)
}

struct Mount {
    folder: PathBuf,
}

impl Mount {
    fn new(device: &str, folder: PathBuf, options: &str) -> Result<Self, String> {
        fs::create_dir_all(&folder).unwrap();
        command(Command::new("mount").args(["-t", "ext4", "-o", options, device]).arg(&folder))?;
        Ok(Self { folder })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = command(Command::new("umount").arg(&self.folder));
    }
}
