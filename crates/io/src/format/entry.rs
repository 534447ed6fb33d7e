//! A header's entry for a tensor.

use std::fmt;

use backrule_tensor::{DType, Shape};

use crate::element::ElementType;

/// Whose tensor it is. Paths are unique within a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Group {
    /// The network's own tensors: parameters, buffers and constants.
    Network,
    /// The optimizer's state, such as momentum.
    Optimizer,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::Optimizer => "optimizer",
        })
    }
}

/// One tensor, without its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    pub(crate) group: Group,
    pub(crate) path: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    /// Of its elements' bytes.
    pub(crate) crc: u32,
}

impl Entry<'_> {
    /// Bytes of all elements. A [`Shape`] is proof that eight bytes per element fit the address space.
    pub(crate) fn size(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }
}

/// A tensor without its elements: one of a checkpoint, or one that should be restored.
///
/// ```
/// use backrule_io::Checkpoint;
/// use backrule_io::tensor::Tensor;
///
/// let net = vec![("weight", Tensor::from([[1.0_f32, 2.0, 3.0]]))];
/// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes()?)?;
/// let tensors: Vec<_> = checkpoint.tensors().map(|info| info.to_string()).collect();
/// assert_eq!(tensors, ["network `weight` f32 [1, 3]"]);
/// assert_eq!(checkpoint.tensors().map(|info| info.bytes()).sum::<usize>(), 12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Whose it is.
    pub group: Group,
    /// Its place, such as `encoder.fc1.weight`.
    pub path: String,
    /// The type of its elements.
    pub dtype: ElementType,
    /// The sizes of its axes.
    pub shape: Shape,
    /// CRC-32 of its elements' bytes; `None` for a tensor that is in no file.
    pub crc: Option<u32>,
    /// Bytes of its elements.
    pub(crate) size: usize,
}

impl TensorInfo {
    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        self.size
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name(self.group, &self.path);
        write!(f, "{name} {} {}", self.dtype, self.shape)
    }
}

/// A tensor's group and path for a message. A path can come from anybody's file, so its control characters
/// are escaped: they must not reach the reader's terminal.
pub(crate) struct Name<'a>(pub(crate) Group, pub(crate) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.0, self.1.escape_debug())
    }
}
