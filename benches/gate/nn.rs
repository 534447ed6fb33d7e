use backrule_nn::{Grads, Key, Mode, Tape};
use backrule_tensor::Tensor;

use crate::Gate;
use crate::common::{self, activations, mlp, name, normal, of_catalogue, pass_of_sample, training};

pub(crate) fn workloads(gate: &mut Gate) {
    // `nn/train_step/*`: forward, loss, backward and update
    // `nn/predict/*`: the forward pass
    let networks: [(&[usize], usize, u32); 4] = [
        (&[100, 50, 3], 1, 20),
        (&[33, 33, 7], 7, 10),
        (&[64, 32, 10], 32, 10),
        (&[784, 128, 64, 10], 32, 1),
    ];
    for (sizes, batch, calls) in networks {
        gate.workload(&format!("train_step/{}/{batch}", name(sizes)), calls, || {
            let mut step = training(sizes, batch, Tape::new());
            move || _ = step()
        });
        gate.workload(&format!("predict/{}/{batch}", name(sizes)), calls, || {
            let (net, x, mut tape) = (mlp(sizes), normal([batch, sizes[0]], 2), Tape::new());
            move || _ = tape.forward(&net, &x, Mode::Eval).unwrap()
        });
    }
    // `nn/train_step_2_parts/*`: forward, loss, backward and update, the batch in two parts
    gate.workload("train_step_2_parts/64-32-10/32", 10, || {
        let mut step = training(&[64, 32, 10], 32, Tape::new().parts(2).unwrap());
        move || _ = step()
    });
    // `nn/gradients/*`: forward, loss and backward in f64, with tanh and dropout
    gate.workload("gradients/24-8-2-tanh-dropout-f64/200", 5, || {
        let mut gradients = common::gradients_in_double();
        move || _ = gradients()
    });
    // `nn/layer/*`: a layer of the catalogue alone, forward and backward with all gradients; its kind and sample
    for (name, sample) in of_catalogue() {
        gate.workload(&format!("layer/{name}"), 1, || pass_of_sample(&sample));
    }
    // `nn/activation/*`: a layer without parameters alone, forward and backward; rows × columns
    for (name, layer) in activations() {
        gate.workload(&format!("activation/{name}/32x128"), 5, || {
            let (x, dy) = (normal([32, 128], 1), normal([32, 128], 2));
            let (mut tape, mut grads, mut dx) =
                (Tape::new(), Grads::new(&*layer).unwrap(), Tensor::default());
            move || {
                let pass = tape.forward(&*layer, &x, Mode::train_with(Key::new(1))).unwrap();
                pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
            }
        });
    }
}
