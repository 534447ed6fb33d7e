//! Every layer against PyTorch's values: 1e-10 relative and absolute in f64. Which layer a case describes stands in the
//! layer's own file; a case that no layer takes, and that isn't pending, fails.
//!
//! In f32 the values themselves are rounded on the way in: there the same cases are only held to be near.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use backrule_nn::testing::{Case, Oracle, table};
use backrule_nn::{Grads, Tape};
use backrule_tensor::{NamedTensors, Path, Role, Scalar, Tensor};
use backrule_testkit::assert_close;
use backrule_testkit::oracle;

/// The layer that a case describes.
fn layer<T: Scalar>(case: &oracle::Case) -> Option<Oracle<T>> {
    let tensor = |name: &str| case.tensor::<T>(name);
    table::<T>().into_iter().find_map(|entry| {
        let mut case = Case { op: case.op(), options: case.options(), tensor: &tensor };
        let oracle = (entry.oracle)(&mut case)?;
        // A layer that hasn't read an option doesn't have it.
        case.options.is_empty().then_some(oracle)
    })
}

fn check<T: Scalar>(case: &oracle::Case, oracle: Oracle<T>, bound: f64) {
    let Oracle { layer, mode, inputs, outputs, names } = oracle;
    let what = |name: &str| format!("{case} in {}, {name}", T::DTYPE);
    let expected = |name: &str| case.tensor::<T>(name).unwrap_or_else(|| panic!("no {name} in {case}"));
    let (mut tape, mut grads) = (Tape::new(), Grads::new(&*layer).unwrap());
    let x: Vec<_> = inputs.iter().map(|name| expected(name)).collect();
    let x_refs: Vec<_> = x.iter().collect();
    let pass = tape.forward_many(&*layer, &x_refs, mode).unwrap_or_else(|error| panic!("{case}: {error}"));
    for (y, name) in pass.outputs().iter().zip(&outputs) {
        // An output without a name is not in the case.
        if !name.is_empty() {
            assert_close(&what(name), y, &expected(name), bound);
        }
    }
    let dy: Vec<_> = outputs.iter().map(|name| case.tensor(&format!("grad_{name}"))).collect();
    let dy: Vec<_> = dy.iter().map(Option::as_ref).collect();
    let mut dx = vec![Tensor::default(); x.len()];
    let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
    pass.backward_many_to_inputs(&dy, &mut grads, &mut wanted).unwrap();
    for (dx, name) in dx.iter().zip(&inputs) {
        let name = format!("grad_{name}");
        if let Some(expected) = case.tensor(&name) {
            assert_close(&what(&name), dx, &expected, bound);
        }
    }
    let mut k = 0;
    layer.visit(Path::ROOT, &mut |path, role, tensor| {
        let path = path.to_string();
        let name = names.iter().find(|(own, _)| *own == path).map_or(&path, |(_, name)| name);
        let grad = &grads[k];
        k += 1;
        match role {
            Role::Parameter => {
                let name = format!("grad_{name}");
                assert_close(&what(&name), &grad.to_tensor().unwrap(), &expected(&name), bound);
            }
            // The buffer as it is after a step of one pass.
            Role::Buffer => {
                let mut after = tensor.clone();
                if let Some(increment) = grad.get() {
                    after.add(increment).unwrap();
                }
                let name = format!("{name}_after");
                if let Some(expected) = case.tensor(&name) {
                    assert_close(&what(&name), &after, &expected, bound);
                }
            }
            Role::Constant => {}
        }
    });
}

#[test]
fn layers_agree() {
    oracle::every("layer", |case| {
        let (Some(single), Some(double)) = (layer::<f32>(case), layer::<f64>(case)) else { return false };
        check(case, double, 1e-10);
        // Numbers of 1e4 and more have no such bound in f32: what they show is shown in f64.
        let largest = case
            .tensors()
            .into_values()
            .flat_map(Tensor::into_vec)
            .fold(0.0, |a: f64, x| if x.is_finite() { a.max(x.abs()) } else { a });
        if largest < 1e3 {
            check(case, single, 1e-4);
        }
        true
    });
}

#[test]
fn what_pytorch_refuses_is_refused() {
    oracle::every("error", |_| false);
}
