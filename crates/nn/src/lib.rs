#![doc = include_str!("../README.md")]
// On docs.rs each item that needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod architecture;
mod builtin;
mod cache;
mod catalogue;
mod data_parallel;
mod error;
mod gradcheck;
mod init;
mod layer;
mod layers;
mod mode;
mod packer;
mod prepared;
mod summary;
mod tape;

pub use architecture::{Architecture, ArchitectureError, LayerSpec};
pub use builtin::Build;
pub use cache::Cache;
pub use catalogue::{Registry, describe};
pub use error::LayerError;
pub use gradcheck::{Counted, Element, Gradcheck, GradcheckError, GradcheckReport, gradcheck};
pub use init::Init;
pub use layer::{At, AtMany, BoxedClone, Layer, MAX_INPUTS, MAX_OUTPUTS};
pub use layers::*;
pub use mode::{Key, Mode};
pub use packer::Packer;
pub use prepared::Prepared;
pub use summary::{Summary, summary, summary_many};
pub use tape::{Pass, Tape, predict, predict_many};

pub use backrule_tensor as tensor;
pub use backrule_tensor::Grads;

/// The items for tests and benchmarks that iterate over all layers.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing {
    pub use crate::builtin::{Builtin, Case, Entry, Input, Oracle, Sample};
    pub use crate::layers::table;

    /// All layers of an element type.
    pub type Table<T> = fn() -> Vec<Entry<T>>;

    /// All layers of both element types, compiled here. Without it, each program of tests compiles them for
    /// itself, which takes a minute instead of some seconds. With full optimization nothing is
    /// shared, and this crate's own tests share none of their code.
    #[cfg(all(debug_assertions, not(test)))]
    pub static TABLES: (Table<f32>, Table<f64>) = (table, table);
}
