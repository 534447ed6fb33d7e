//! Single tensors as NumPy's `.npy` files: data from `numpy.save`, and tensors for `numpy.load`.

mod header;
pub(crate) mod problem;

use std::io::{self, Read, Write};
use std::path::Path;

use backrule_tensor::{MAX_RANK, Scalar, Shape, Tensor, TensorError, memory};

pub use problem::Problem;

use crate::checkpoint::load::{LoadError, read_bytes, read_file};
use crate::element::NotHeld;
use crate::exchange::npy::header::Header;
use crate::file::durability::Durability;
use crate::file::replace::replace;
use crate::format::limits;
use crate::format::problem::{LoadProblem, Malformed};
use crate::format::reader;
use crate::snapshot::{self, SaveError};

/// The first bytes of a file.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Those of a zip archive, and of one without files.
const ARCHIVES: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
/// Bytes of a header. NumPy writes some hundred.
const MAX_HEADER: usize = 1 << 16;

/// Writes a tensor with its shape: version 1.0 of the format, `<f4` or `<f8`, in row-major order.
///
/// The file is put in place as that of a checkpoint is: see [`Snapshot::save`](crate::Snapshot::save).
///
/// ```
/// use backrule_io::npy;
/// use backrule_io::tensor::Tensor;
///
/// # let folder = std::env::temp_dir().join(format!("backrule-npy-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("weight.npy");
/// npy::save(&path, &Tensor::from([[1.0_f32, 2.0, 3.0]]))?;
/// let bytes = std::fs::read(&path)?;
/// let header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }";
/// assert!(bytes[10..].starts_with(header));
/// assert_eq!(bytes[128..132], 1.0_f32.to_le_bytes());
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of [`Snapshot::save`](crate::Snapshot::save) that concern the file.
pub fn save<T: Scalar>(path: impl AsRef<Path>, tensor: &Tensor<T>) -> Result<Durability, SaveError> {
    let mut buffer = snapshot::chunk_buffer([tensor].into_iter())?;
    let durability = replace(path.as_ref(), |out| {
        let mut out = snapshot::gathered(out);
        write(tensor, &mut buffer, &mut out)?;
        out.flush()
    })?;
    Ok(durability)
}

/// The bytes of the file that [`save`] would write.
///
/// # Errors
/// When there is not enough memory.
pub fn to_bytes<T: Scalar>(tensor: &Tensor<T>) -> Result<Vec<u8>, SaveError> {
    let elements = tensor.len().saturating_mul(T::DTYPE.size());
    let mut out = memory::room("save", elements.saturating_add(header::encode(tensor).len()))?;
    let mut buffer = snapshot::chunk_buffer([tensor].into_iter())?;
    snapshot::written(write(tensor, &mut buffer, &mut out))?;
    Ok(out)
}

fn write<T: Scalar>(tensor: &Tensor<T>, buffer: &mut [u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(&header::encode(tensor))?;
    snapshot::chunks(tensor, buffer, |bytes| out.write_all(bytes))
}

/// Reads a tensor: versions 1 to 3 of the format, in C's order or Fortran's, with the bytes of an element in
/// either order.
///
/// The elements may be floats of 16, 32 and 64 bits, whole numbers of 8 to 64 bits, and bools, which become 0
/// and 1. Each has to be a number of the tensor's type, or it is an error: an array in double precision
/// is read as `f64`, and [`Tensor::cast`] rounds it.
///
/// Nothing in the file can make this panic, or take more memory than the tensor and 1 MiB; and the tensor has
/// no more elements than the file.
///
/// ```
/// use backrule_io::npy;
/// use backrule_io::tensor::Tensor;
///
/// # let folder = std::env::temp_dir().join(format!("backrule-npy-load-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("x.npy");
/// # npy::save(&path, &Tensor::from([[0.1_f64, 2.0]]))?;
/// // In Python: numpy.save("x.npy", numpy.array([[0.1, 2.0]]))
/// let x: Tensor<f64> = npy::load(&path)?;
/// assert_eq!(x, Tensor::from([[0.1_f64, 2.0]]));
/// assert_eq!(x.cast::<f32>()?, Tensor::from([[0.1_f32, 2.0]]));
/// let error = npy::load::<f32>(&path).unwrap_err().to_string();
/// assert!(error.contains("it has 0.1 at element 0, which f32 can't hold"));
/// assert!(error.ends_with("`f64` holds more, and a tensor of it can be `cast`"));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the file can't be read, is none of NumPy's or several arrays of it (`npz::open`, a feature, reads
/// those), has other elements (texts, complex numbers, dates,
/// records, Python's objects), has an element that `T` can't hold, isn't as long as its header says, or
/// doesn't fit into memory. The message names the file.
pub fn load<T: Scalar>(path: impl AsRef<Path>) -> Result<Tensor<T>, LoadError> {
    read_file(path.as_ref(), |mut input, length| read(&mut input, length))
}

/// The same for a file's bytes in memory.
///
/// # Errors
/// Those of [`load`].
pub fn from_bytes<T: Scalar>(bytes: &[u8]) -> Result<Tensor<T>, LoadError> {
    read_bytes(bytes, |input, length| read(input, length))
}

/// Reads all of the `length` bytes.
pub(crate) fn read<T: Scalar>(input: &mut impl Read, length: u64) -> Result<Tensor<T>, LoadProblem> {
    let mut rest = length;
    let mut next = |input: &mut _, count: u64| {
        let found = length;
        let needed = length.saturating_sub(rest).saturating_add(count);
        rest = rest.checked_sub(count).ok_or(Problem::Length { needed, found })?;
        Ok::<_, LoadProblem>((reader::read_exactly(input, count)?, rest))
    };
    if length < MAGIC.len() as u64 {
        return Err(Problem::NotNpy.into());
    }
    let first = next(input, MAGIC.len() as u64)?.0;
    if *first != *MAGIC {
        let archive = ARCHIVES.iter().any(|magic| first.starts_with(magic));
        return Err(if archive { Problem::Archive } else { Problem::NotNpy }.into());
    }
    let (version, _) = next(input, 2)?;
    let width = match *version {
        [1, 0] => 2,
        [2 | 3, 0] => 4,
        [major, minor] => return Err(Problem::Version { major, minor }.into()),
        _ => return Err(Problem::NotNpy.into()),
    };
    let size = next(input, width)?.0.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    limits::check("bytes of the header", usize::try_from(size).unwrap_or(usize::MAX), MAX_HEADER)?;
    let (text, there) = next(input, size)?;
    let header = header::decode(&text)?;
    // A shape is proof that eight bytes per element fit the address space.
    let bytes = header.shape.elements().saturating_mul(header.dtype.size().unwrap_or(1)) as u64;
    if bytes != there {
        let needed = length.saturating_sub(there).saturating_add(bytes);
        return Err(Problem::Length { needed, found: length }.into());
    }
    let mut tensor = Tensor::zeros(header.shape).map_err(|error| match error {
        TensorError::Memory(error) => LoadProblem::from(error),
        other => Problem::Shape { reason: other.to_string() }.into(),
    })?;
    elements(input, &header, tensor.as_mut_slice())?;
    if input.read(&mut [0])? > 0 {
        return Err(Malformed::Grew.into());
    }
    Ok(tensor)
}

/// Reads all elements into the places of a row-major tensor.
fn elements<T: Scalar>(input: &mut impl Read, header: &Header, values: &mut [T]) -> Result<(), LoadProblem> {
    let size = header.dtype.size().unwrap_or(1);
    let mut places = Places::new(header.shape, header.fortran);
    let mut bytes = [0_u8; 8 * 64];
    let mut piece = [T::ZERO; 64];
    let mut left = values.len();
    while left > 0 {
        let count = left.min(piece.len());
        let bytes = bytes.get_mut(..count.saturating_mul(size)).unwrap_or_default();
        input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => LoadProblem::from(Malformed::Shrank),
            _ => error.into(),
        })?;
        if header.big_endian {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        let held = header.dtype.read(bytes, &mut piece, false);
        let good = held.as_ref().err().map_or(count, |not_held| not_held.at);
        for value in piece.iter().take(good) {
            if let Some(place) = values.get_mut(places.at) {
                *place = *value;
            }
            places.step();
        }
        if let Err(NotHeld { value, .. }) = held {
            return Err(Problem::NotHeld { at: places.at, value, target: T::DTYPE }.into());
        }
        left = left.saturating_sub(count);
    }
    Ok(())
}

/// Where the elements of a file belong in a row-major tensor, one after the other.
struct Places {
    at: usize,
    /// Of every axis, from the one that changes fastest: its index, its size, and the increment of one step.
    axes: [(usize, usize, usize); MAX_RANK],
    rank: usize,
}

impl Places {
    fn new(shape: Shape, fortran: bool) -> Self {
        let mut axes = [(0, 1, 0); MAX_RANK];
        let mut step = 1_usize;
        let of_rank = axes.get_mut(..shape.rank()).unwrap_or_default();
        for (axis, size) in of_rank.iter_mut().zip(shape.iter().rev()) {
            *axis = (0, *size, step);
            step = step.saturating_mul(*size);
        }
        if fortran {
            of_rank.reverse();
        }
        Self { at: 0, axes, rank: shape.rank() }
    }

    fn step(&mut self) {
        for (index, size, step) in self.axes.iter_mut().take(self.rank) {
            *index = index.saturating_add(1);
            self.at = self.at.saturating_add(*step);
            if *index < *size {
                return;
            }
            self.at = self.at.saturating_sub(step.saturating_mul(*size));
            *index = 0;
        }
    }
}
