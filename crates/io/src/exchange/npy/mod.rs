//! Single tensors as NumPy's `.npy` files, to look at them elsewhere: `numpy.load("weight.npy")`.

use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::path::Path;

use backrule_tensor::{Scalar, Tensor};

use crate::file::replace::replace;
use crate::snapshot::{self, SaveError};

/// Bytes before the header: `\x93NUMPY`, the version, and the header's length in two bytes.
const PREFIX: usize = 10;

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
/// assert!(bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }"));
/// assert_eq!(bytes[128..132], 1.0_f32.to_le_bytes());
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of [`Snapshot::save`](crate::Snapshot::save) that concern the file.
pub fn save<T: Scalar>(path: impl AsRef<Path>, tensor: &Tensor<T>) -> Result<(), SaveError> {
    let head = head(tensor);
    replace(path.as_ref(), |out| {
        let mut out = BufWriter::new(out);
        out.write_all(&head)?;
        snapshot::chunks(tensor, |bytes| out.write_all(bytes))?;
        out.flush()
    })?;
    Ok(())
}

/// All before the elements, which begin at a multiple of 64 bytes. With six axes it is 192 bytes at most, so
/// its length fits two bytes.
fn head<T: Scalar>(tensor: &Tensor<T>) -> Vec<u8> {
    let bytes = T::DTYPE.size();
    let mut header = format!("{{'descr': '<f{bytes}', 'fortran_order': False, 'shape': (");
    // As Python writes tuples: one element has a comma.
    let shape = tensor.shape();
    let sizes: Vec<_> = shape.iter().map(usize::to_string).collect();
    // Writing to a text can't fail.
    let _ = write!(header, "{}{}), }}", sizes.join(", "), if sizes.len() == 1 { "," } else { "" });
    let length =
        header.len().saturating_add(PREFIX).saturating_add(1).next_multiple_of(64).saturating_sub(PREFIX);
    let width = length.saturating_sub(1);
    let header = format!("{header:<width$}\n");
    [b"\x93NUMPY\x01\x00", &(length as u16).to_le_bytes()[..], header.as_bytes()].concat()
}
