#[path = "../../../crates/tensor/src/parallel/panics.rs"]
mod panics;
#[path = "../../../crates/tensor/src/parallel/pool.rs"]
mod pool;
mod sync;
mod tests;
