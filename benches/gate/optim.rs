use backrule_optim::{Momentum, Optimizer, Sgd};

use crate::Gate;
use crate::common::{mlp, normal, renew};

pub(crate) fn workloads(gate: &mut Gate) {
    // `optim/sgd/plain/*`: SGD, one tensor of so many parameters
    // `optim/sgd/momentum/*`: SGD with momentum
    // `optim/sgd/nesterov/*`: SGD with Nesterov momentum
    // `optim/sgd/decay/*`: SGD with weight decay
    let plain = Sgd::new(1e-6).unwrap();
    let rules = [
        ("plain", plain),
        ("momentum", plain.momentum(0.9).unwrap()),
        ("nesterov", plain.momentum(Momentum::Nesterov { factor: 0.9 }).unwrap()),
        ("decay", plain.weight_decay(0.01).unwrap()),
    ];
    for (name, rule) in rules {
        for (parameters, calls) in [(10, 100), (100_000, 1)] {
            gate.workload(&format!("sgd/{name}/{parameters}"), calls, || {
                let mut net = normal([1, parameters], 1);
                let mut grads = backrule_nn::Grads::new(&net).unwrap();
                grads[0] = normal([1, parameters], 2).into();
                let mut optimizer = Optimizer::new(rule, &net).unwrap();
                move || {
                    renew(&mut grads);
                    optimizer.step(&mut net, &mut grads).unwrap();
                }
            });
        }
    }
    // Many small tensors: the cost of the walk over names.
    // `optim/network/*`: SGD with momentum, a network's tensors one by one
    gate.workload("network/64-32-10", 20, || {
        let mut net = mlp(&[64, 32, 10]);
        let mut grads = backrule_nn::Grads::new(&net).unwrap();
        let mut optimizer = Optimizer::new(plain.momentum(0.9).unwrap(), &net).unwrap();
        move || {
            renew(&mut grads);
            optimizer.step(&mut net, &mut grads).unwrap();
        }
    });
}
