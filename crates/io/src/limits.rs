//! What a checkpoint may hold. The same limits apply to writing and to reading, so that what was saved can be loaded; a
//! tensor's rank is limited by [`MAX_RANK`](backrule_tensor::MAX_RANK).

use crate::LimitError;

/// Tensors of the network, and as many again of the optimiser.
pub const MAX_TENSORS: usize = 65_536;
/// Bytes of a tensor's path in UTF-8.
pub const MAX_PATH: usize = 512;
/// Bytes of the header: all paths, shapes and the metadata.
pub const MAX_HEADER: usize = 16 << 20;
/// Bytes of the metadata.
pub const MAX_METADATA: usize = 8 << 20;
/// How deep values may be nested in the metadata.
pub const MAX_METADATA_DEPTH: usize = 128;

/// Refuses a `found` above `limit`.
pub(crate) fn check(what: &str, found: usize, limit: usize) -> Result<(), LimitError> {
    if found <= limit {
        return Ok(());
    }
    Err(LimitError { what: what.to_string(), found, limit })
}
