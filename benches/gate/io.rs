use std::hint::black_box;

use backrule_io::Checkpoint;
use backrule_optim::{Optimizer, Sgd};

use crate::Gate;
use crate::common::{mlp, name};

/// In memory: the work on files is the system's.
pub(crate) fn workloads(gate: &mut Gate) {
    // `io/to_bytes/*`: a checkpoint with its optimizer, written into memory
    // `io/from_bytes/*`: the same read from memory, every byte verified
    // `io/restore/*`: the same put back into network and optimizer
    let networks: [(&[usize], u32); 2] = [(&[3, 4, 2], 10), (&[784, 128, 64, 10], 1)];
    for (sizes, calls) in networks {
        let run = || {
            let net = mlp(sizes);
            let optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
            let bytes = Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap();
            (net, optimizer, bytes)
        };
        let name = name(sizes);
        gate.workload(&format!("to_bytes/{name}"), calls, || {
            let (net, optimizer, _) = run();
            move || _ = black_box(Checkpoint::of(&net).optimizer(&optimizer).to_bytes().unwrap())
        });
        gate.workload(&format!("from_bytes/{name}"), calls, || {
            let (_, _, bytes) = run();
            move || _ = black_box(Checkpoint::from_bytes(&bytes).unwrap())
        });
        gate.workload(&format!("restore/{name}"), calls, || {
            let (mut net, mut optimizer, bytes) = run();
            let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
            move || checkpoint.restore_with_optimizer(&mut net, &mut optimizer).unwrap()
        });
    }
}
