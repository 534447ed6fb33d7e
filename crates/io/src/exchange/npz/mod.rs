//! Several tensors in one of NumPy's `.npz` files, as `numpy.savez` and `numpy.savez_compressed` write them.
//!
//! ```no_run
//! use backrule_io::npz;
//! use backrule_io::tensor::Tensor;
//!
//! // In Python: numpy.savez("digits.npz", images=images, labels=labels)
//! let digits = npz::open("digits.npz")?;
//! assert_eq!(digits.names().collect::<Vec<_>>(), ["images", "labels"]);
//! let images: Tensor = digits.load("images")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod inflate;
pub(crate) mod problem;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backrule_tensor::{Scalar, Tensor, memory};
use rawzip::{
    CompressionMethod, Error, ErrorKind, FileReader, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive,
    ZipArchiveEntryWayfinder, ZipLocator,
};

pub use problem::Problem;

use crate::checkpoint::load::LoadError;
use crate::exchange::npy;
use crate::exchange::npz::inflate::Inflate;
use crate::file::open::open as open_file;
use crate::format::limits::{self, MAX_PATH, MAX_TENSORS};
use crate::format::problem::{LoadProblem, Malformed};
use crate::format::reader;

/// One byte of `deflate` becomes no more than so many.
const MOST: u64 = 1032;

/// A file that was opened: the names of its arrays. The elements stay in it until they are asked for.
pub struct Npz {
    file: Option<PathBuf>,
    archive: ZipArchive<Source>,
    length: u64,
    entries: Vec<Entry>,
}

type Source = Arc<dyn ReaderAt + Send + Sync>;

struct Entry {
    name: String,
    /// `None` for a method that can't be read.
    method: Option<CompressionMethod>,
    place: ZipArchiveEntryWayfinder,
}

/// Opens a file and reads the list of its arrays.
///
/// The memory that it takes is bounded by eight times the length of that list, and 1 MiB.
///
/// # Errors
/// When the file can't be read, is no zip archive, has two arrays of one name, or more or longer names than a
/// [checkpoint](limits) can have. The message names the file.
pub fn open(path: impl AsRef<Path>) -> Result<Npz, LoadError> {
    let path = path.as_ref();
    let opened = open_file(path).map_err(LoadProblem::from);
    let opened = opened.and_then(|(file, length)| Npz::new(Arc::new(FileReader::from(file)), length));
    match opened {
        Ok(npz) => Ok(Npz { file: Some(path.to_path_buf()), ..npz }),
        Err(problem) => Err(LoadError { file: Some(path.to_path_buf()), problem }),
    }
}

/// The same for a file's bytes in memory. They are copied.
///
/// # Errors
/// Those of [`open`].
pub fn from_bytes(bytes: &[u8]) -> Result<Npz, LoadError> {
    let length = bytes.len() as u64;
    let npz = reader::memory(length).and_then(|mut copy| {
        reader::keep(&mut copy, bytes);
        Npz::new(Arc::new(copy), length)
    });
    npz.map_err(|problem| LoadError { file: None, problem })
}

impl Npz {
    fn new(source: Source, length: u64) -> Result<Self, LoadProblem> {
        let mut buffer = reader::memory(RECOMMENDED_BUFFER_SIZE as u64)?;
        buffer.resize(RECOMMENDED_BUFFER_SIZE, 0);
        let located = ZipLocator::new().locate_in_reader(source, &mut buffer, length);
        let archive = located.map_err(|(_, error)| unreadable(error))?;
        let (mut entries, mut names) = (Vec::new(), BTreeMap::new());
        let mut list = archive.entries(&mut buffer);
        while let Some(entry) = list.next_entry().map_err(unreadable)? {
            let at = entries.len();
            limits::check("arrays", at.saturating_add(1), MAX_TENSORS)?;
            let path = entry.file_path();
            let name = path.as_ref();
            limits::check("bytes of an array's name", name.len(), MAX_PATH)?;
            let name = std::str::from_utf8(name).map_err(|_| Problem::Name { at })?;
            let name = name.strip_suffix(".npy").unwrap_or(name).to_string();
            if names.insert(name.clone(), ()).is_some() {
                return Err(Problem::Duplicate { name }.into());
            }
            let method = entry.compression_method();
            let known = [CompressionMethod::STORE, CompressionMethod::DEFLATE].contains(&method);
            let method = (known && !entry.flags().is_encrypted()).then_some(method);
            memory::push("load", &mut entries, Entry { name, method, place: entry.wayfinder() })?;
        }
        Ok(Self { file: None, archive, length, entries })
    }

    /// The names of all arrays, in the order of the file, without `.npy`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Reads an array as [`npy::load`] does, and compares its checksum.
    ///
    /// It takes no more memory than the tensor and 1 MiB; and no tensor has more elements than the array's
    /// bytes in the file can become.
    ///
    /// # Errors
    /// When there is no such array, its bytes are damaged, or one of [`npy::load`]. The message names the
    /// file and the array.
    pub fn load<T: Scalar>(&self, name: &str) -> Result<Tensor<T>, LoadError> {
        let file = self.file.clone();
        let Some(entry) = self.entries.iter().find(|entry| entry.name == name) else {
            let problem = Problem::Missing { name: name.to_string() }.into();
            return Err(LoadError { file, problem });
        };
        self.read(entry).map_err(|problem| {
            // Below the archive, whatever it says: joined, `/etc` would be another file. Escaped: it comes
            // from the file.
            let entry = format!("{}.npy", name.trim_start_matches(['/', '\\']).escape_debug());
            LoadError { file: Some(file.unwrap_or_default().join(entry)), problem }
        })
    }

    fn read<T: Scalar>(&self, entry: &Entry) -> Result<Tensor<T>, LoadProblem> {
        let method = entry.method.ok_or(Problem::Method)?;
        let (compressed, claimed) =
            (entry.place.compressed_size_hint(), entry.place.uncompressed_size_hint());
        let most = match method {
            CompressionMethod::STORE => compressed,
            _ => compressed.saturating_mul(MOST),
        };
        if compressed > self.length || claimed > most {
            return Err(Problem::Size { compressed, claimed }.into());
        }
        let data = self.archive.get_entry(entry.place).map_err(unreadable)?;
        let tensor = match method {
            CompressionMethod::STORE => npy::read(&mut data.verifying_reader(data.reader()), claimed),
            _ => {
                let inflated = Inflate::new(data.reader())?;
                npy::read(&mut data.verifying_reader(inflated), claimed)
            }
        };
        tensor.map_err(|problem| match problem {
            // Not from the system, so from the reader of the archive.
            LoadProblem::Io(error) if error.raw_os_error().is_none() => {
                Problem::Damaged { reason: error.to_string() }.into()
            }
            LoadProblem::Malformed(Malformed::Shrank | Malformed::Grew) => {
                Problem::Damaged { reason: "it has another length than the list says".to_string() }.into()
            }
            problem => problem,
        })
    }
}

/// The error of the reader of archives, or that of the system: the latter is no fault of the file.
fn unreadable(error: Error) -> LoadProblem {
    let reason = error.to_string();
    match error.into_kind() {
        ErrorKind::IO(error) if error.raw_os_error().is_some() => error.into(),
        _ => Problem::Archive { reason }.into(),
    }
}

/// The names: elements would be too many.
impl fmt::Debug for Npz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Npz")
            .field("file", &self.file)
            .field("names", &self.names().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A disk that fails at one of the reads and works again.
    struct Failing {
        bytes: Vec<u8>,
        until: Arc<AtomicUsize>,
    }

    /// `EIO`, on Linux and elsewhere.
    const CODE: i32 = 5;

    impl ReaderAt for Failing {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            match self.until.fetch_sub(1, Ordering::Relaxed) {
                0 => Err(io::Error::from_raw_os_error(CODE)),
                _ => self.bytes.read_at(buf, offset),
            }
        }
    }

    /// An archive of one array, which `method` has made these bytes of.
    fn archive(method: u8, array: &[u8], packed: &[u8]) -> Vec<u8> {
        let number = |n: usize| (n as u32).to_le_bytes();
        let crc = crc32fast::hash(array).to_le_bytes();
        let sizes = [number(packed.len()), number(array.len())].concat();
        // Version, flags, method, time and date, checksum, sizes, and the lengths of name and extra field.
        let entry = [&[20, 0, 0, 0, method, 0, 0, 0, 0, 0][..], &crc, &sizes, &[5, 0, 0, 0]].concat();
        let file = [b"PK\x03\x04", &entry[..], b"x.npy", packed].concat();
        let list = [b"PK\x01\x02\x14\0", &entry[..], &[0; 14], b"x.npy"].concat();
        let places = [number(list.len()), number(file.len())].concat();
        [&file[..], &list, b"PK\x05\x06", &[0, 0, 0, 0, 1, 0, 1, 0], &places, &[0; 2]].concat()
    }

    /// A refusal of the disk is told as such, at every read: the file may be as whole as ever.
    #[test]
    fn a_disk_that_fails_is_no_damage() {
        let array = npy::to_bytes(&Tensor::from([1.0_f32, 2.0])).unwrap();
        let length = array.len() as u16;
        let block = [&[1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), &array].concat();
        for bytes in [archive(0, &array, &array), archive(8, &array, &block)] {
            let (mut reads, mut told) = (0, 0);
            loop {
                let until = Arc::new(AtomicUsize::new(reads));
                let source = Failing { bytes: bytes.clone(), until: Arc::clone(&until) };
                let npz = Npz::new(Arc::new(source), bytes.len() as u64);
                match npz.and_then(|npz| npz.read::<f32>(&npz.entries[0])) {
                    // One of the reads is a look at whether something precedes the archive.
                    Ok(x) => assert_eq!(x, Tensor::from([1.0, 2.0])),
                    Err(LoadProblem::Io(error)) => {
                        assert_eq!(error.raw_os_error(), Some(CODE));
                        told += 1;
                    }
                    Err(problem) => panic!("read {reads}: {problem}"),
                }
                // It goes below 0 at the read that fails.
                if until.load(Ordering::Relaxed) <= reads {
                    break;
                }
                reads += 1;
            }
            assert!(told >= 4 && told + 1 >= reads, "{told} of {reads} reads");
        }
    }
}
