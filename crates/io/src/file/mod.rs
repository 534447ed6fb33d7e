//! Putting a file in another's place, so a crash leaves the old one or the new one, whole; and opening one.

#[cfg_attr(
    not(any(target_os = "linux", target_os = "android", target_vendor = "apple")),
    path = "no_attributes.rs"
)]
mod attributes;
pub(crate) mod durability;
pub(crate) mod error;
pub(crate) mod kind;
pub(crate) mod open;
mod permissions;
pub(crate) mod replace;
mod target;
pub(crate) mod temporary;

pub(crate) use target::OutOfReach;
