//! A disk that keeps a log of everything written to it.
//!
//! It is one file of a FUSE file system, served by a thread of this program, with a loop device on it. The
//! writes of the file system above, and its flushes of the disk's cache, arrive here in order.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// An event of a recording, which has them in order.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    /// Everything before is durable from here on.
    Flush,
    /// Saving this epoch has returned.
    Saved(u64),
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) image: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

/// Unmounts everything when it is dropped.
pub(crate) struct Disk {
    pub(crate) log: Arc<Mutex<Log>>,
    file: PathBuf,
    pub(crate) device: String,
}

impl Disk {
    pub(crate) fn new(folder: &Path, image: Vec<u8>) -> Result<Self, String> {
        let file = folder.join("disk");
        fs::write(&file, "").map_err(|error| error.to_string())?;
        let fuse = File::options().read(true).write(true).open("/dev/fuse");
        let fuse = fuse.map_err(|error| format!("/dev/fuse: {error}"))?;
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=100600,user_id=0,group_id=0", "backrule"]);
        run(mount.arg(&file).stdin(Stdio::from(fuse.try_clone().unwrap())))?;
        let log = Arc::new(Mutex::new(Log { image, events: Vec::new() }));
        let mut disk = Self { log: Arc::clone(&log), file, device: String::new() };
        thread::spawn(move || serve(fuse, &log));
        disk.device =
            run(Command::new("losetup").args(["--find", "--show"]).arg(&disk.file))?.trim().to_string();
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            let _ = run(Command::new("losetup").args(["--detach", &self.device]));
        }
        let _ = run(Command::new("umount").arg(&self.file));
    }
}

pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

const MAX_WRITE: usize = 1 << 20;

/// The protocol of `linux/fuse.h`, as far as a single file needs it.
fn serve(mut fuse: File, log: &Mutex<Log>) {
    let mut buffer = vec![0; MAX_WRITE + 4096];
    // Reading fails once it is unmounted.
    while let Ok(length) = fuse.read(&mut buffer) {
        let request = &buffer[..length];
        let (opcode, unique) = (u32_at(request, 4), u64_at(request, 8));
        let body = &request[40..];
        let answer = match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET have no answer.
            2 | 36 | 42 => continue,
            26 => Ok(init()),
            // GETATTR, and SETATTR for times that nobody asks for.
            3 | 4 => Ok(attributes(log.lock().unwrap().image.len() as u64)),
            14 => Ok(vec![0; 16]),
            15 => {
                let (offset, size) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
                let image = &log.lock().unwrap().image;
                Ok(image[offset.min(image.len())..(offset + size).min(image.len())].to_vec())
            }
            16 => {
                let (offset, size) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
                let data = body[40..40 + size].to_vec();
                let mut log = log.lock().unwrap();
                log.image[offset..offset + size].copy_from_slice(&data);
                log.events.push(Event::Write { offset, data });
                Ok((size as u64).to_le_bytes().to_vec())
            }
            20 => {
                log.lock().unwrap().events.push(Event::Flush);
                Ok(Vec::new())
            }
            // RELEASE, FLUSH, ACCESS, DESTROY: nothing to do.
            18 | 25 | 34 | 38 => Ok(Vec::new()),
            _ => Err(-38_i32), // ENOSYS
        };
        let (error, body) = answer.map_or_else(|error| (error, Vec::new()), |body| (0, body));
        let mut reply = ((16 + body.len()) as u32).to_le_bytes().to_vec();
        reply.extend(error.to_le_bytes());
        reply.extend(unique.to_le_bytes());
        reply.extend(body);
        // An answer that nobody waits for any more is refused.
        let _ = fuse.write(&reply);
    }
}

/// Version 7.31; writes of more than a page, of up to `MAX_WRITE`.
fn init() -> Vec<u8> {
    let mut reply = Vec::new();
    for word in [7_u32, 31, 0, 1 << 5 | 1 << 22, 0, MAX_WRITE as u32, 1, (MAX_WRITE / 4096) as u32] {
        reply.extend(word.to_le_bytes());
    }
    reply.resize(64, 0);
    reply
}

fn attributes(size: u64) -> Vec<u8> {
    let mut reply = Vec::new();
    for long in [3600, 0, 1, size, size / 512, 0, 0, 0] {
        reply.extend(long.to_le_bytes());
    }
    for word in [0_u32, 0, 0, 0o100_600, 1, 0, 0, 0, 4096, 0] {
        reply.extend(word.to_le_bytes());
    }
    reply
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
