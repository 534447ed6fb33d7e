//! A file's description of a tensor: of a checkpoint, or of somebody else's file.

use backrule_tensor::Shape;

use crate::element::ElementType;
use crate::format::entry::{Entry, Group, TensorInfo};

/// A tensor of a file of somebody else's.
#[derive(Debug, PartialEq)]
pub(crate) struct Foreign {
    pub(crate) path: Box<str>,
    pub(crate) dtype: ElementType,
    pub(crate) shape: Shape,
    /// Bytes of all elements.
    pub(crate) size: usize,
    pub(crate) crc: u32,
}

/// One tensor, without its elements.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) group: Group,
    pub(crate) path: &'a str,
    pub(crate) dtype: ElementType,
    pub(crate) shape: Shape,
    pub(crate) size: usize,
    pub(crate) crc: u32,
}

impl Stored<'_> {
    pub(crate) fn info(&self) -> TensorInfo {
        let Self { group, path, dtype, shape, size, crc } = *self;
        TensorInfo { group, path: path.to_string(), dtype, shape, size, crc: Some(crc) }
    }
}

impl<'a> From<Entry<'a>> for Stored<'a> {
    fn from(entry: Entry<'a>) -> Self {
        let Entry { group, path, dtype, shape, crc } = entry;
        Self { group, path, dtype: dtype.into(), shape, size: entry.size(), crc }
    }
}

impl<'a> From<&'a Foreign> for Stored<'a> {
    fn from(foreign: &'a Foreign) -> Self {
        let Foreign { path, dtype, shape, size, crc } = foreign;
        let (dtype, shape, size, crc) = (*dtype, *shape, *size, *crc);
        Self { group: Group::Network, path, dtype, shape, size, crc }
    }
}
