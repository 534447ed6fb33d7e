use std::hint::black_box;

use backrule_io::Checkpoint;
use backrule_optim::{Optimizer, Sgd};

use crate::Gate;
use crate::common::{Folder, io_kernels, mlp};

/// In memory, or from a file in the system's cache: the work on files is the system's.
pub(crate) fn workloads(gate: &mut Gate) {
    // `io/checkpoint*/bytes`: a checkpoint with its optimizer, written into memory
    // `io/checkpoint*/verify`: the same read from memory, every byte verified
    // `io/checkpoint*/restore`: the same put back into network and optimizer
    let networks: [(&str, &[usize], u32); 2] =
        [("checkpoint_tiny", &[3, 4, 2], 10), ("checkpoint", &[784, 128, 64, 10], 1)];
    for (name, sizes, calls) in networks {
        let run = || {
            let net = mlp(sizes);
            let optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
            let bytes = Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap();
            (net, optimizer, bytes)
        };
        gate.workload(&format!("{name}/bytes"), calls, || {
            let (net, optimizer, _) = run();
            move || _ = black_box(Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap())
        });
        gate.workload(&format!("{name}/verify"), calls, || {
            let (_, _, bytes) = run();
            move || _ = black_box(Checkpoint::from_bytes(&bytes).unwrap())
        });
        gate.workload(&format!("{name}/restore"), calls, || {
            let (mut net, mut optimizer, bytes) = run();
            let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
            move || checkpoint.restore_with_optimizer(&mut net, &mut optimizer).unwrap()
        });
    }
    // `io/checksum/*`: a file of one tensor, every byte verified, nothing kept
    // `io/header/encode/*`: a checkpoint of so many tensors of one element, written into memory
    // `io/header/decode/*`: the same from a file, every byte verified, nothing kept
    // `io/elements/*`: a tensor's elements copied from a checkpoint in memory
    let folder = Folder::new("gate");
    for (name, _, make) in io_kernels() {
        gate.workload(name, 1, || make(&folder));
    }
}
