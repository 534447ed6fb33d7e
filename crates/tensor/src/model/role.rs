use std::fmt;

/// How a tensor of a network changes during training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A parameter θ: its gradient is ∂l/∂θ, and the optimizer's rule updates it.
    Parameter,
    /// A value that the layer keeps of its inputs, such as a batch norm's running mean. Its entry among the
    /// gradients is not a derivative but the sum of its increments, and every optimizer adds their mean.
    Buffer,
    /// A value that never changes, such as a table of positions or the weights of a frozen layer. It is
    /// saved, and an optimizer has no state for it.
    Constant,
}

impl Role {
    /// The role of a tensor of this role within a field of `other`: any field of a constant is constant.
    #[doc(hidden)]
    pub fn within(self, other: Self) -> Self {
        match (self, other) {
            (Self::Constant, _) | (_, Self::Constant) => Self::Constant,
            (Self::Buffer, _) | (_, Self::Buffer) => Self::Buffer,
            (Self::Parameter, Self::Parameter) => Self::Parameter,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parameter => "parameter",
            Self::Buffer => "buffer",
            Self::Constant => "constant",
        })
    }
}
