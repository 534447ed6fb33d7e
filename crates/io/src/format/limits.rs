//! The limits of a checkpoint. The same ones apply to writing and to reading, so a saved file can be
//! loaded. The rank of a tensor is limited by [`MAX_RANK`](backrule_tensor::MAX_RANK).

use backrule_tensor::{Options, Path};

use crate::quoted::Quoted;

/// Tensors of the network, and as many again of the optimizer.
pub const MAX_TENSORS: usize = 65_536;
/// Bytes of a tensor's path in UTF-8.
pub const MAX_PATH: usize = Path::MAX;
/// Bytes of the header: all paths, shapes and sections.
pub const MAX_HEADER: usize = 16 << 20;
/// Bytes of each [`Section`](crate::Section).
pub const MAX_SECTION: usize = 8 << 20;
/// Bytes of each text in the section [`Architecture`](crate::Section::Architecture), in UTF-8.
pub const MAX_ARCHITECTURE_TEXT: usize = 1024;
/// How deep values may be nested in a section.
pub const MAX_SECTION_DEPTH: usize = 128;
/// Bytes of the program's version in UTF-8.
pub const MAX_PROGRAM: usize = 256;
/// Its name in errors.
pub(crate) const PROGRAM: &str = "bytes of the program's version";
/// Options of the optimizer.
pub const MAX_OPTIONS: usize = Options::MAX;
/// Bytes of an option's name in UTF-8.
pub const MAX_OPTION_NAME: usize = Options::MAX_NAME;
/// Bytes of an option that is a word, in UTF-8.
pub const MAX_OPTION_WORD: usize = Options::MAX_WORD;
/// Values of all options that are lists, together.
pub const MAX_OPTION_VALUES: usize = 4096;
/// How deep the lists of an option may be nested.
pub const MAX_OPTION_NESTING: usize = Options::MAX_NESTING;

/// More of something than a checkpoint can hold: see [`limits`](crate::limits).
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found} {}, and the limit is {limit}", Quoted(what))]
#[non_exhaustive]
pub struct LimitError {
    /// The quantity that is too large, such as `bytes of metadata`.
    pub what: String,
    /// How much there is.
    pub found: usize,
    /// How much there may be.
    pub limit: usize,
}

backrule_tensor::readable! { struct LimitError { what, found, limit } }

impl LimitError {
    pub(crate) fn new(what: impl Into<String>, found: usize, limit: usize) -> Self {
        Self { what: what.into(), found, limit }
    }
}

/// Refuses a `found` above `limit`.
pub(crate) fn check(what: &str, found: usize, limit: usize) -> Result<(), LimitError> {
    if found <= limit { Ok(()) } else { Err(LimitError::new(what, found, limit)) }
}
