//! Weights in the [safetensors](https://huggingface.co/docs/safetensors) format, for PyTorch and whatever else reads it.
//!
//! Names and layouts carry over: a path such as `fc1.weight` is what a `state_dict` calls it, a dense layer's weight is
//! `[out, in]` on both sides, and elements are in row-major order. In Python, `safetensors.torch.load_file` reads what
//! [`save`] writes, and `save_file(model.state_dict(), path)` writes what [`load`] reads.
//!
//! What is loaded is a [`Checkpoint`] with nothing but tensors, so that it is restored as strictly as any other, or as
//! freely on request:
//!
//! ```
//! use backrule_io::safetensors;
//! use backrule_io::tensor::Tensor;
//!
//! # let folder = std::env::temp_dir().join(format!("backrule-safetensors-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("model.safetensors");
//! let theirs = vec![("0.weight", Tensor::from([[1.0_f32, 2.0]])), ("0.bias", Tensor::from([3.0]))];
//! safetensors::save(&theirs, &path)?;
//!
//! let mut net = vec![("fc1.weight", Tensor::from([[0.0_f32, 0.0]])), ("fc1.bias", Tensor::from([0.0]))];
//! safetensors::load(&path)?.restoring().rename("0", "fc1").into(&mut net)?;
//! assert_eq!(net[0].1.as_slice(), [1.0, 2.0]);
//! assert_eq!(net[1].1.as_slice(), [3.0]);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To resume training, save a checkpoint: this format has no checksums, no optimiser and no place for a run.

mod header;
mod problem;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};

use backrule_tensor::{NamedTensors, Scalar, Tensor};

pub use problem::Problem;

use crate::header::{Entry, Header, Run};
use crate::payload::{self, Payload};
use crate::{
    Checkpoint, Group, LoadError, LoadProblem, Malformed, SaveError, SaveStep, checkpoint, file, limits,
    reader, snapshot,
};

/// Before the header, its length.
const LENGTH: u64 = 8;

/// Writes the tensors of a network, in their order, with `format: pt` as metadata.
///
/// The file is put in place as that of a checkpoint is: see [`Snapshot::save`](crate::Snapshot::save).
///
/// # Errors
/// Those of [`Snapshot::save`](crate::Snapshot::save), and [`SaveError::Reserved`] for a tensor that is called
/// `__metadata__`.
pub fn save<T: Scalar>(
    network: &(impl NamedTensors<T> + ?Sized),
    path: impl AsRef<Path>,
) -> Result<(), SaveError> {
    let tensors = network.tensors();
    let head = head(&tensors)?;
    file::replace(path.as_ref(), |out| {
        let mut out = BufWriter::new(out);
        write(&head, &tensors, &mut out)?;
        out.flush()
    })
}

/// The bytes of the file that [`save`] would write.
///
/// # Errors
/// Those of [`save`] that don't come from the system.
pub fn to_bytes<T: Scalar>(network: &(impl NamedTensors<T> + ?Sized)) -> Result<Vec<u8>, SaveError> {
    let tensors = network.tensors();
    let mut out = Vec::new();
    // Writing to memory can't fail.
    write(&head(&tensors)?, &tensors, &mut out).map_err(|source| SaveError::NotCommitted {
        file: PathBuf::new(),
        step: SaveStep::Write,
        source,
    })?;
    Ok(out)
}

fn head<T: Scalar>(tensors: &[(String, &Tensor<T>)]) -> Result<Vec<u8>, SaveError> {
    let entries: Vec<_> =
        (tensors.iter()).map(|(path, tensor)| entry(path, T::DTYPE, tensor.shape(), 0)).collect();
    // The same limits as a checkpoint's, because one is made of it when it is loaded.
    crate::header::encode(&Run::default(), &BTreeMap::new(), &entries)?;
    header::encode(&entries)
}

fn entry(path: &str, dtype: backrule_tensor::DType, shape: backrule_tensor::Shape, crc: u32) -> Entry<'_> {
    Entry { group: Group::Network, path, dtype, shape, crc }
}

fn write<T: Scalar>(head: &[u8], tensors: &[(String, &Tensor<T>)], out: &mut impl Write) -> io::Result<()> {
    out.write_all(head)?;
    tensors.iter().try_for_each(|(_, tensor)| snapshot::chunks(tensor, |bytes| out.write_all(bytes)))
}

/// Reads a file whose elements are all `F32` or `F64`, and checks its structure. Metadata are passed over.
///
/// Nothing in it can make this panic; what it takes of memory is bounded by the file's length, twelve times that of its
/// header, and 1 MiB. Many elements stay in the file, as with [`Checkpoint::load`]. There are no checksums in this format:
/// damage to elements is not noticed.
///
/// # Errors
/// When the file can't be read, is no safetensors file, has elements of another type (the message names the tensor), or
/// is beyond the [limits] of a checkpoint. The message names the file.
pub fn load(path: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    checkpoint::load_with(path.as_ref(), payload::KEPT, 0, |input, length, begin| read(input, length, begin))
}

/// The same for a file's bytes in memory. The elements are copied.
///
/// # Errors
/// Those of [`load`].
pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint, LoadError> {
    read(&mut &bytes[..], bytes.len() as u64, checkpoint::in_memory)
        .map_err(|problem| LoadError { file: None, problem })
}

fn read(
    input: &mut impl BufRead,
    length: u64,
    begin: impl FnOnce(u64) -> Result<Payload, LoadProblem>,
) -> Result<Checkpoint, LoadProblem> {
    let there = length.checked_sub(LENGTH).ok_or(Problem::Short { found: length })?;
    let claimed = reader::read_exactly(input, LENGTH)?;
    let claimed = claimed.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let size = there.checked_sub(claimed).ok_or(Problem::HeaderLength { claimed, there })?;
    limits::check("bytes of the header", usize::try_from(claimed).unwrap_or(usize::MAX), limits::MAX_HEADER)?;

    let json = reader::read_exactly(input, claimed)?;
    let json = std::str::from_utf8(&json)
        .map_err(|error| Problem::Json { at: error.valid_up_to(), expected: "UTF-8" })?;
    let tensors = header::decode(json, size)?;

    let mut payload = begin(size)?;
    let mut entries = Vec::new();
    entries.try_reserve_exact(tensors.len()).map_err(|error| LoadProblem::Io(error.into()))?;
    for tensor in &tensors {
        let mut entry = entry(&tensor.name, tensor.dtype, tensor.shape, 0);
        entry.crc = reader::pieces(input, entry.size(), |piece| payload.keep(piece))?.finalize();
        entries.push(entry);
    }
    if !input.fill_buf()?.is_empty() {
        return Err(Malformed::Grew.into());
    }
    let header =
        crate::header::encode(&Run::default(), &BTreeMap::new(), &entries).map_err(|error| match error {
            SaveError::Limit(limit) => LoadProblem::Limit(limit),
            // No other is left: names were compared.
            other => LoadProblem::Io(io::Error::other(other)),
        })?;
    Ok(Checkpoint::new(Header::decode(header)?, payload))
}
