use backrule_nn::{BatchNorm, Grads, Key, Layer, LayerNorm, Linear, Mode, Prepared, Tape};
use backrule_tensor::{Tensor, affine_into, matmul_into, matmul_tn_into, random};

use crate::Gate;
use crate::common::{
    self, activations, inputs, mlp, name, normal, of_catalogue, pass_of_sample, training, upstream,
};

/// Rows, inputs and outputs of a dense layer.
const DENSE: [usize; 3] = [32, 784, 128];

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
    // `nn/predict_prepared/*`: the forward pass with weights that were packed before
    gate.workload("predict_prepared/784-128-64-10/32", 1, || {
        let (net, x) = (mlp(&[784, 128, 64, 10]), normal([32, 784], 2));
        let (prepared, mut tape) = (Prepared::of(&net).unwrap(), Tape::new());
        move || _ = prepared.forward(&mut tape, &x).unwrap()
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
    // `nn/unwanted/all/*`: a layer with parameters, forward and backward when nobody wants a gradient
    // `nn/unwanted/all/*/by_hand`: the forward pass alone
    for (name, sample) in of_catalogue() {
        let id = format!("unwanted/all/{name}");
        let frozen = frozen(&*sample.layer);
        if frozen.iter().next().is_none() {
            continue;
        }
        let (layer, mode) = (sample.layer.clone(), Mode::train_with(Key::new(1)));
        let x = sample.tensors(1).unwrap();
        gate.workload(&id, 1, || {
            let mut grads = frozen;
            let (mut tape, layer, x) = (Tape::new(), layer.clone(), x.clone());
            let dy = tape.forward_many(&*layer, &x.iter().collect::<Vec<_>>(), mode).unwrap();
            let dy = dy.outputs().to_vec();
            move || {
                let pass = tape.forward_many(&*layer, &inputs(&x)[..x.len()], mode).unwrap();
                pass.backward_many(&upstream(&dy)[..dy.len()], &mut grads).unwrap();
            }
        });
        gate.workload(&format!("{id}/by_hand"), 1, || {
            let mut tape = Tape::new();
            move || _ = tape.forward_many(&*layer, &inputs(&x)[..x.len()], mode).unwrap()
        });
    }
    // `nn/unwanted/parameters/*`: a dense layer with frozen parameters, forward and backward
    // `nn/unwanted/parameters/*/by_hand`: y = x Wᵀ + b and dx = dy W
    // `nn/unwanted/input/*`: a dense layer of whose input nobody wants the gradient, forward and backward
    // `nn/unwanted/input/*/by_hand`: y = x Wᵀ + b, dW = dyᵀ x, and db
    let [rows, columns, outputs] = DENSE;
    let dense = format!("Linear/{rows}x{columns}x{outputs}");
    let layer = || Linear::<f32>::new(columns, outputs, &mut random::rng(1)).unwrap();
    let (x, dy) = (normal([rows, columns], 1), normal([rows, outputs], 2));
    let (w, b) = (normal([outputs, columns], 3), Tensor::zeros([outputs]).unwrap());
    gate.workload(&format!("unwanted/parameters/{dense}"), 1, || {
        let (layer, x, dy, mut tape, mut dx) =
            (layer(), x.clone(), dy.clone(), Tape::new(), Tensor::default());
        let mut grads = frozen(&layer);
        move || {
            let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
            pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
        }
    });
    gate.workload(&format!("unwanted/parameters/{dense}/by_hand"), 1, || {
        let (x, dy, w, b) = (x.clone(), dy.clone(), w.clone(), b.clone());
        let (mut y, mut dx) = (Tensor::default(), Tensor::default());
        move || {
            affine_into(&x, &w, &b, &mut y).unwrap();
            matmul_into(&dy, &w, 0.0, &mut dx).unwrap();
        }
    });
    gate.workload(&format!("unwanted/input/{dense}"), 1, || {
        let (layer, x, dy, mut tape) = (layer(), x.clone(), dy.clone(), Tape::new());
        let mut grads = Grads::new(&layer).unwrap();
        move || {
            let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
            pass.backward(&dy, &mut grads).unwrap();
        }
    });
    gate.workload(&format!("unwanted/input/{dense}/by_hand"), 1, || {
        let (mut y, mut dw, mut db) =
            (Tensor::default(), Tensor::zeros(w.shape()).unwrap(), Tensor::zeros(b.shape()).unwrap());
        move || {
            affine_into(&x, &w, &b, &mut y).unwrap();
            matmul_tn_into(&dy, &x, 1.0, &mut dw).unwrap();
            db.add_sum_of_rows(&dy).unwrap();
        }
    });
    // `nn/unwanted/weight/*`: a norm of whose gradients only the bias's is wanted, forward and backward
    // `nn/unwanted/weight/*/by_hand`: the forward pass, and db
    let norms: [(&str, Box<dyn Layer<f32>>); 2] = [
        ("LayerNorm/64x256", Box::new(LayerNorm::new([256]).unwrap())),
        ("BatchNorm/64x256", Box::new(BatchNorm::new(256).unwrap())),
    ];
    for (name, layer) in norms {
        let (x, dy) = (normal([64, 256], 1), normal([64, 256], 2));
        gate.workload(&format!("unwanted/weight/{name}"), 1, || {
            let (layer, x, dy, mut tape, mut grads) =
                (layer.clone(), x.clone(), dy.clone(), Tape::new(), frozen(&*layer));
            grads[1].set_wanted(true);
            move || {
                let pass = tape.forward(&*layer, &x, Mode::train()).unwrap();
                pass.backward(&dy, &mut grads).unwrap();
            }
        });
        gate.workload(&format!("unwanted/weight/{name}/by_hand"), 1, || {
            let (mut tape, mut db) = (Tape::new(), Tensor::zeros([256]).unwrap());
            move || {
                tape.forward(&*layer, &x, Mode::train()).unwrap();
                db.add_sum_of_rows(&dy).unwrap();
            }
        });
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

/// Gradients of which nobody wants any.
fn frozen(layer: &dyn Layer<f32>) -> Grads<f32> {
    let mut grads = Grads::new(layer).unwrap();
    grads.iter_mut().for_each(|grad| grad.set_wanted(false));
    grads
}
