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

/// A part of a checkpoint that serde writes and reads: something that only the program which saves it understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Section {
    /// The user's own: [`Snapshot::metadata`](crate::Snapshot::metadata).
    Metadata,
    /// Losses, accuracies and the like up to now: [`Snapshot::metrics`](crate::Snapshot::metrics).
    Metrics,
    /// What the learning rate is going to be: [`Snapshot::schedule`](crate::Snapshot::schedule).
    Schedule,
    /// What layers the network is made of: [`Snapshot::architecture`](crate::Snapshot::architecture).
    Architecture,
}

impl Section {
    /// In the order of their codes.
    const ALL: [Self; 4] = [Self::Metadata, Self::Metrics, Self::Schedule, Self::Architecture];

    /// How it is called in files.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Metadata => 1,
            Self::Metrics => 2,
            Self::Schedule => 3,
            Self::Architecture => 4,
        }
    }

    pub(crate) fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.code() == code)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "metadata",
            Self::Metrics => "metrics",
            Self::Schedule => "schedule",
            Self::Architecture => "architecture",
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
