//! Loops over slices that layers, losses and rules share.

pub mod sum;
