//! Checkpoints from outside: one program, so it is linked once.

#![allow(clippy::unwrap_used, clippy::panic)] // in helpers of tests too

mod common;
mod forge;

mod damage;
mod inspect;
mod layout;
mod malformed;
mod messages;
mod metadata;
mod npy;
#[cfg(feature = "npz")]
mod npz;
mod options;
mod python;
mod restore;
mod restoring;
mod rotation;
mod round_trip;
#[cfg(feature = "safetensors")]
mod safetensors;
mod save;
