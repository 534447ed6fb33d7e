//! Weights in the [safetensors](https://huggingface.co/docs/safetensors) format, for PyTorch and other
//! readers.
//!
//! Names and layouts carry over: a path such as `fc1.weight` is a name in a `state_dict`, a dense layer's
//! weight is `[out, in]` on both sides, and elements are in row-major order. In Python,
//! `safetensors.torch.load_file` reads files of [`save`], and `save_file(model.state_dict(), path)` writes
//! files for [`load`].
//!
//! A file is loaded as a [`Checkpoint`] with nothing but tensors. It is restored as strictly as any other, or
//! as freely on request:
//!
//! ```
//! use backrule_io::safetensors;
//! use backrule_io::tensor::Tensor;
//!
//! # let folder = std::env::temp_dir().join(format!("backrule-safetensors-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("model.safetensors");
//! let theirs = vec![
//!     ("0.weight", Tensor::from([[1.0_f32, 2.0]])),
//!     ("0.bias", Tensor::from([3.0])),
//! ];
//! safetensors::save(&theirs, &path)?;
//!
//! let mut net = vec![
//!     ("fc1.weight", Tensor::from([[0.0_f32, 0.0]])),
//!     ("fc1.bias", Tensor::from([0.0])),
//! ];
//! safetensors::load(&path)?.restoring().rename("0", "fc1").restore_into(&mut net)?;
//! assert_eq!(net[0].1.as_slice(), [1.0, 2.0]);
//! assert_eq!(net[1].1.as_slice(), [3.0]);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To resume training, save a checkpoint: this format has no checksums, no optimizer and no place for a run.

mod header;
pub(crate) mod problem;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use backrule_tensor::{DType, NamedTensors, Scalar, Shape, Tensor, memory};

pub use problem::Problem;

use crate::checkpoint::load::{LoadError, read_bytes, read_file};
use crate::checkpoint::payload::{CAN_STAY, Payload, Stamp};
use crate::checkpoint::stored::Foreign;
use crate::checkpoint::{Checkpoint, Source};
use crate::file::durability::Durability;
use crate::file::replace::replace;
use crate::format::entry::{Entry, Group};
use crate::format::limits::{self, MAX_HEADER};
use crate::format::problem::{LoadProblem, Malformed};
use crate::format::reader;
use crate::run::Run;
use crate::snapshot::{self, SaveError};

/// Writes the tensors of a network, in their order, with `format: pt` as metadata.
///
/// The file is put in place as that of a checkpoint is: see [`Snapshot::save`](crate::Snapshot::save).
///
/// # Errors
/// Those of [`Snapshot::save`](crate::Snapshot::save), and [`SaveError::Reserved`] for a tensor with the name
/// `__metadata__`.
pub fn save<T: Scalar>(
    network: &(impl NamedTensors<T> + ?Sized),
    path: impl AsRef<Path>,
) -> Result<Durability, SaveError> {
    let tensors = snapshot::named(network)?;
    let head = head(&tensors)?;
    let mut buffer = snapshot::chunk_buffer(tensors.iter().map(|(_, tensor)| *tensor))?;
    let durability = replace(path.as_ref(), |out| {
        let mut out = snapshot::gathered(out);
        write(&head, &tensors, &mut buffer, &mut out)?;
        out.flush()
    })?;
    Ok(durability)
}

/// The bytes of the file that [`save`] would write.
///
/// # Errors
/// Those of [`save`] that don't come from the system.
pub fn to_bytes<T: Scalar>(network: &(impl NamedTensors<T> + ?Sized)) -> Result<Vec<u8>, SaveError> {
    let tensors = snapshot::named(network)?;
    let head = head(&tensors)?;
    let size = |tensor: &Tensor<T>| tensor.len().saturating_mul(T::DTYPE.size());
    let size = tensors.iter().fold(head.len(), |sum, (_, tensor)| sum.saturating_add(size(tensor)));
    let mut out = memory::room("save", size)?;
    let mut buffer = snapshot::chunk_buffer(tensors.iter().map(|(_, tensor)| *tensor))?;
    snapshot::written(write(&head, &tensors, &mut buffer, &mut out))?;
    Ok(out)
}

fn head<T: Scalar>(tensors: &[(String, &Tensor<T>)]) -> Result<Vec<u8>, SaveError> {
    let entries = tensors.iter().map(|(path, tensor)| entry(path, T::DTYPE, tensor.shape()));
    let entries = memory::collect("save", entries)?;
    // The same limits as a checkpoint's.
    snapshot::check_paths(&entries)?;
    crate::format::header::encode(Vec::new(), &Run::default(), None, &BTreeMap::new(), &entries)?;
    header::encode(&entries)
}

fn entry(path: &str, dtype: DType, shape: Shape) -> Entry<'_> {
    Entry { group: Group::Network, path, dtype, shape, crc: 0 }
}

fn write<T: Scalar>(
    head: &[u8],
    tensors: &[(String, &Tensor<T>)],
    buffer: &mut [u8],
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(head)?;
    tensors.iter().try_for_each(|(_, tensor)| snapshot::chunks(tensor, buffer, |bytes| out.write_all(bytes)))
}

/// Reads a file into memory, and checks its structure. Metadata are passed over.
///
/// Elements of any type are taken: [`Checkpoint::tensors`] lists them. `F16`, `BF16` and the types of 8 bits
/// are restored as the same numbers in the network's type. Whole numbers and `BOOL` are too, or it is an
/// error if one is none of that type's numbers. `F64` into `f32` and `F32` into `f64` is asked for with
/// [`Restoring::convert`](crate::Restoring::convert). A tensor of any other type is an error only if it is to
/// be restored: [`only`](crate::Restoring::only) and [`partial`](crate::Restoring::partial) leave it out.
///
/// Nothing in it can make this panic. The memory that it takes is bounded by the length of the file, twelve
/// times that of its header, and 1 MiB. There are no checksums in this format: damage to elements is not
/// noticed.
///
/// # Errors
/// When the file can't be read, is no safetensors file, is beyond the [limits] of a checkpoint, or doesn't
/// fit into memory. The message names the file.
pub fn load(path: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    read_file(path.as_ref(), |mut input, length| read_to_memory(&mut input, length))
}

/// The same with the elements left in the file, as [`Checkpoint::open`] leaves them.
///
/// # Errors
/// Those of [`load`].
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    if !CAN_STAY {
        return load(path);
    }
    read_file(path.as_ref(), |mut input, length| {
        let verified = Stamp::of(&input.file().metadata()?);
        let begin = |size| Ok(Payload::start_of(length, size, 0));
        let (tensors, start) = read(&mut input, length, begin, |_, _| {})?;
        let payload = Payload::Stored { file: Arc::new(input.into_file()), start, verified };
        Ok(Checkpoint::foreign(tensors, payload, Source::Safetensors { length }))
    })
}

/// The same for a file's bytes in memory. The elements are copied.
///
/// # Errors
/// Those of [`load`].
pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, LoadError> {
    read_bytes(bytes, |input, length| read_to_memory(input, length))
}

fn read_to_memory(input: &mut impl BufRead, length: u64) -> Result<Checkpoint, LoadProblem> {
    let (tensors, bytes) = read(input, length, reader::memory, reader::keep)?;
    Ok(Checkpoint::foreign(tensors, Payload::Memory(Arc::new(bytes)), Source::Safetensors { length }))
}

/// As [`reader::read`].
fn read<K>(
    input: &mut impl BufRead,
    length: u64,
    begin: impl FnOnce(u64) -> Result<K, LoadProblem>,
    mut keep: impl FnMut(&mut K, &[u8]),
) -> Result<(Vec<Foreign>, K), LoadProblem> {
    let there = length.checked_sub(header::LENGTH).ok_or(Problem::Short { found: length })?;
    let claimed = reader::read_exactly(input, header::LENGTH)?;
    let claimed = claimed.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let size = there.checked_sub(claimed).ok_or(Problem::HeaderLength { claimed, there })?;
    limits::check("bytes of the header", usize::try_from(claimed).unwrap_or(usize::MAX), MAX_HEADER)?;

    let json = reader::read_exactly(input, claimed)?;
    let json = std::str::from_utf8(&json).map_err(|error| Problem::Utf8 { at: error.valid_up_to() })?;
    let tensors = header::decode(json, size)?;

    let mut kept = begin(size)?;
    let mut list = memory::room("load", tensors.len())?;
    for tensor in &tensors {
        let (path, dtype, shape, size) = (&*tensor.name, tensor.dtype, tensor.shape, tensor.size());
        let crc = reader::pieces(input, size, |piece| keep(&mut kept, piece))?.finalize();
        list.push(Foreign { path: path.into(), dtype, shape, size, crc });
    }
    if !input.fill_buf()?.is_empty() {
        return Err(Malformed::Grew.into());
    }
    Ok((list, kept))
}
