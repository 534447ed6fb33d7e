//! The format of a checkpoint. docs/checkpoint-format.md specifies it to the byte.
//!
//! From the bottom: `bytes`, `limits`, `entry`, `section`; `problem`, the errors of reading; `checksum`;
//! `envelope`, the first 40 bytes; `codec`, the only module that knows bincode; `options` and `header`;
//! `reader`, which reads a whole file.

pub(crate) mod bytes;
pub(crate) mod checksum;
pub(crate) mod codec;
pub(crate) mod entry;
pub(crate) mod envelope;
pub(crate) mod header;
pub mod limits;
pub(crate) mod options;
pub(crate) mod plain;
pub(crate) mod problem;
pub(crate) mod reader;
pub(crate) mod section;
mod show;
