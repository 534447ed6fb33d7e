/// How the losses of a batch become one number.
///
/// The mean is the default: its gradient doesn't grow with the batch, so that a learning rate fits any batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Reduction {
    /// Their mean. What it divides by, each loss says.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}
