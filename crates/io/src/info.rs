use std::fmt;

use backrule_tensor::{DType, Shape};

/// Whose tensor it is. Paths are unique within a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The network's own tensors: parameters and statistics.
    Network,
    /// The optimiser's state, such as momentum.
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

/// What a checkpoint says about one tensor, short of its elements.
///
/// ```
/// use backrule_io::Checkpoint;
/// use backrule_io::tensor::Tensor;
///
/// let net = vec![("weight", Tensor::from([[1.0_f32, 2.0, 3.0]]))];
/// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes()?)?;
/// let tensors: Vec<_> = checkpoint.tensors().map(|info| info.to_string()).collect();
/// assert_eq!(tensors, ["network `weight` f32 [1, 3]"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Whose it is.
    pub group: Group,
    /// Its place, such as `encoder.fc1.weight`.
    pub path: String,
    /// The type of its elements.
    pub dtype: DType,
    /// The sizes of its axes.
    pub shape: Shape,
}

impl TensorInfo {
    /// Bytes of all elements. A [`Shape`] is proof that eight bytes per element fit the address space.
    pub(crate) fn size(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name(self.group, &self.path);
        write!(f, "{name} {} {}", self.dtype, self.shape)
    }
}

/// A tensor's group and path for a message. A path comes from a file, which may be anybody's, so that control characters
/// must not reach the reader's terminal.
pub(crate) struct Name<'a>(pub(crate) Group, pub(crate) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.0, self.1.escape_debug())
    }
}
