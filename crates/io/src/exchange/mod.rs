//! Files for and from others.

pub mod npy;
#[cfg(feature = "safetensors")]
pub mod safetensors;
