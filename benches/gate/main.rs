//! `cargo run --release -p backrule-bench -- gate BASE`: fixed work of each crate, for counting instead of
//! timing.
//!
//! Run by valgrind with a crate's name, this program prints a line of JSON for each workload: its number of
//! calls in [`measured`], and the allocations of one warm call. Valgrind counts the instructions in
//! `measured`. It offers AVX2 and no AVX-512, so the AVX2 kernels are counted on every machine.
#![allow(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod io;
mod loss;
mod nn;
mod optim;
mod tensor;

use std::num::NonZeroUsize;

use backrule_tensor::parallel;

type Workloads = fn(&mut Gate);

const CRATES: [(&str, Workloads); 5] = [
    ("tensor", tensor::workloads),
    ("nn", nn::workloads),
    ("loss", loss::workloads),
    ("optim", optim::workloads),
    ("io", io::workloads),
];

/// Without arguments, as in `cargo bench`, every workload runs once.
fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let list = arguments.iter().any(|argument| argument == "--list");
    arguments.retain(|argument| !argument.starts_with("--"));
    let [name, only] = [0, 1].map(|i| arguments.get(i).cloned().unwrap_or_default());
    // The counts are of one thread.
    parallel::set_threads(NonZeroUsize::MIN);
    let mut gate = Gate { prefix: "", only, list };
    for (prefix, workloads) in CRATES {
        if name.is_empty() || name == prefix {
            gate.prefix = prefix;
            workloads(&mut gate);
        }
    }
}

struct Gate {
    prefix: &'static str,
    only: String,
    list: bool,
}

impl Gate {
    /// Work that is done `calls` times under the counter. `make` prepares its inputs, if the id is wanted.
    fn workload<F: FnMut()>(&mut self, id: &str, calls: u32, make: impl FnOnce() -> F) {
        let id = format!("{}/{id}", self.prefix);
        if !id.contains(&self.only) {
            return;
        }
        if self.list {
            println!("{id}: benchmark");
            return;
        }
        let mut work = make();
        // Buffers grow in the first call, and some only in the second.
        work();
        work();
        let heap = allocation_counter::measure(&mut work);
        measured(calls, &mut work);
        let (allocations, bytes) = (heap.count_total, heap.bytes_total);
        println!(r#"{{"id":"{id}","calls":{calls},"allocations":{allocations},"bytes":{bytes}}}"#);
    }
}

/// Valgrind knows this function by its name.
#[inline(never)]
fn measured(calls: u32, work: &mut dyn FnMut()) {
    for _ in 0..calls {
        work();
    }
}
