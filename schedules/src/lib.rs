//! The tensor crate's pool of threads, compiled from its own source with types of sync that try out the
//! orders in which threads can run: see README.md.
#![cfg(all(test, any(feature = "loom", feature = "shuttle")))]

mod parallel;
