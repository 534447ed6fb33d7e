//! What a checkpoint may hold. The same limits apply to writing and to reading, so that what was saved can be loaded; a
//! tensor's rank is limited by [`MAX_RANK`](backrule_tensor::MAX_RANK).

use crate::LimitError;

/// Tensors of the network, and as many again of the optimiser.
pub const MAX_TENSORS: usize = 65_536;
/// Bytes of a tensor's path in UTF-8.
pub const MAX_PATH: usize = 512;
/// Bytes of the header: all paths, shapes and sections.
pub const MAX_HEADER: usize = 16 << 20;
/// Bytes of each [`Section`](crate::Section).
pub const MAX_SECTION: usize = 8 << 20;
/// How deep values may be nested in a section.
pub const MAX_SECTION_DEPTH: usize = 128;
/// Bytes of the program's version in UTF-8.
pub const MAX_PROGRAM: usize = 256;
/// Options of the optimiser.
pub const MAX_OPTIONS: usize = 64;
/// Bytes of an option's name in UTF-8.
pub const MAX_OPTION_NAME: usize = 64;

/// Refuses a `found` above `limit`.
pub(crate) fn check(what: &str, found: usize, limit: usize) -> Result<(), LimitError> {
    if found <= limit {
        return Ok(());
    }
    Err(LimitError { what: what.to_string(), found, limit })
}
