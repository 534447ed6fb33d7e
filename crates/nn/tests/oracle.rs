//! Every layer against PyTorch's values, by the mapping in the layer's own file: 1e-12 forward and 1e-10
//! backward in f64, and 2e-6 in f32.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::BTreeSet;

use backrule_nn::testing::{self, Oracle, table};
use backrule_nn::{Grads, Tape};
use backrule_tensor::{DType, Path, Role, Scalar, Tensor};
use backrule_testkit::assert_close;
use backrule_testkit::oracle::{self, Case};

struct Bounds {
    forward: f64,
    backward: f64,
}

const F64: Bounds = Bounds { forward: 1e-12, backward: 1e-10 };

/// Around 10⁶, where files drawn by older generators have inputs, PyTorch's own values are off by several
/// roundings of 10⁶, 1e-10 each, times the square of 1/σ. A variance of squares instead of differences would
/// be off by 1e-4.
const F64_FAR_FROM_ZERO: Bounds = Bounds { forward: 1e-8, backward: 1e-8 };

/// In f32 a value of size 1 carries a rounding error of 6e-8, and the cases themselves are rounded on the way
/// in: some 33 of these errors, of values as large as the largest element of the tensor. An element near 0 is
/// a sum of such values, too.
const F32: Bounds = Bounds { forward: 2e-6, backward: 2e-6 };

/// The layer that a case is an example of, and the tensors it is made of. A mapping gives every option its
/// meaning.
fn subject<T: Scalar>(case: &Case) -> Option<(Oracle<T>, BTreeSet<String>)> {
    table::<T>().iter().find_map(|entry| {
        let read = RefCell::<BTreeSet<_>>::default();
        let tensor = |name: &str| {
            read.borrow_mut().insert(name.to_string());
            case.tensor(name)
        };
        let mut of_layer = testing::Case { op: case.op(), options: case.options(), tensor: &tensor };
        let subject = (entry.oracle)(&mut of_layer)?;
        assert!(of_layer.options.is_empty(), "{case}: {} doesn't read {}", entry.kind, of_layer.options);
        Some((subject, read.take()))
    })
}

/// A case's tensors, and which of them have been read or compared.
struct Expected<'a> {
    case: &'a Case,
    used: RefCell<BTreeSet<String>>,
}

impl Expected<'_> {
    /// An output without a name is not in the case.
    fn tensor<T: Scalar>(&self, name: &str) -> Option<Tensor<T>> {
        self.used.borrow_mut().insert(name.to_string());
        self.case.tensor(name)
    }

    /// An input. A case without initial states starts with zeros, as large as the last states.
    fn input<T: Scalar>(&self, name: &str) -> Tensor<T> {
        let state = || name.strip_suffix('0').and_then(|name| self.case.tensor(&format!("{name}n")));
        let state = || state().or_else(|| self.case.tensor("hn"));
        let zeros = || state().and_then(|state: Tensor<T>| Tensor::zeros(state.shape()).ok());
        self.tensor(name).or_else(zeros).unwrap_or_else(|| panic!("{}: no {name}", self.case))
    }

    #[track_caller]
    fn compare<T: Scalar>(&self, name: &str, got: &Tensor<T>, bound: f64) {
        if let Some(expected) = self.tensor::<T>(name) {
            let largest = expected.as_slice().iter().fold(0.0, |max: f64, x| max.max(x.to_f64().abs()));
            let bound =
                if T::DTYPE == DType::F32 && largest.is_finite() { bound * (1.0 + largest) } else { bound };
            assert_close(&format!("{} in {}: {name}", self.case, T::DTYPE), got, &expected, bound);
        }
    }

    /// Results that nothing was compared with would be no test.
    fn finish(self) {
        let used = self.used.into_inner();
        let left: Vec<_> = self.case.tensors().into_keys().filter(|name| !used.contains(name)).collect();
        assert!(left.is_empty(), "{}: nothing was compared with {left:?}", self.case);
    }
}

fn check<T: Scalar>(case: &Case, (subject, read): (Oracle<T>, BTreeSet<String>), bounds: &Bounds) {
    let (subject, expected) = (&subject, Expected { case, used: read.into() });
    let layer = &*subject.layer;
    let mut grads = Grads::new(layer).unwrap();
    let mut x: Vec<Tensor<T>> = subject.inputs.iter().map(|name| expected.input(name)).collect();
    let dy: Vec<_> = subject.outputs.iter().map(|name| expected.tensor(&format!("grad_{name}"))).collect();
    let (y, dx) = match case.option("parts") {
        None => run(subject, &x, &dy, &mut grads),
        Some(parts) => {
            let parts: Vec<_> = oracle::numbers(parts).into_iter().map(|part| part as usize).collect();
            (in_parts(subject, &mut x, &dy, &parts, &mut grads), Vec::new())
        }
    };
    for (name, y) in subject.outputs.iter().zip(&y) {
        expected.compare(name, y, bounds.forward);
    }
    for (name, dx) in subject.inputs.iter().zip(&dx) {
        expected.compare(&format!("grad_{name}"), dx, bounds.backward);
    }
    let mut grads = grads.iter();
    layer.visit(Path::ROOT, &mut |path, role, tensor| {
        let (path, grad) = (path.to_string(), grads.next().unwrap());
        let name = subject.names.iter().find(|(own, _)| *own == path).map_or(&path, |(_, name)| name);
        match role {
            Role::Parameter => {
                expected.compare(&format!("grad_{name}"), &grad.to_tensor().unwrap(), bounds.backward);
            }
            Role::Buffer => {
                let passes = T::from_f64(grad.count().max(1) as f64);
                let mut after = tensor.clone();
                after.zip_from(tensor, &grad.to_tensor().unwrap(), |x, dx| x + dx / passes).unwrap();
                expected.compare(&format!("{name}_after"), &after, bounds.forward);
            }
            Role::Constant => {}
        }
    });
    expected.finish();
}

/// Outputs, and gradients of all inputs.
fn run<T: Scalar>(
    subject: &Oracle<T>,
    x: &[Tensor<T>],
    dy: &[Option<Tensor<T>>],
    grads: &mut Grads<T>,
) -> (Vec<Tensor<T>>, Vec<Tensor<T>>) {
    let mut tape = Tape::new();
    let inputs: Vec<_> = x.iter().collect();
    let pass = tape.forward_many(&*subject.layer, &inputs, subject.mode).unwrap();
    let y = pass.outputs().to_vec();
    assert_eq!(y.len(), subject.outputs.len());
    let mut dx = vec![Tensor::default(); x.len()];
    let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
    let dy: Vec<_> = dy.iter().map(Option::as_ref).collect();
    pass.backward_many_to_inputs(&dy, grads, &mut wanted).unwrap();
    (y, dx)
}

/// Some time steps after the others: the states, all inputs and outputs but the first, are handed on, their
/// gradients are not.
fn in_parts<T: Scalar>(
    subject: &Oracle<T>,
    x: &mut [Tensor<T>],
    dy: &[Option<Tensor<T>>],
    parts: &[usize],
    grads: &mut Grads<T>,
) -> Vec<Tensor<T>> {
    let (whole, whole_dy) = (x[0].clone(), dy[0].clone().unwrap());
    let (mut outputs, mut last, mut start) = (Vec::new(), Vec::new(), 0);
    for &steps in parts {
        x[0] = time_steps(&whole, start, steps);
        let mut dy = vec![None; dy.len()];
        dy[0] = Some(time_steps(&whole_dy, start, steps));
        last = run(subject, x, &dy, grads).0;
        outputs.push(last[0].clone());
        x[1..].clone_from_slice(&last[1..]);
        start += steps;
    }
    last[0] = joined(&outputs);
    last
}

/// Some rows of the second axis.
fn time_steps<T: Scalar>(x: &Tensor<T>, start: usize, steps: usize) -> Tensor<T> {
    let [batch, time, features] = [0, 1, 2].map(|axis| x.shape()[axis]);
    let rows = x.as_slice().chunks_exact(time * features);
    let data =
        rows.flat_map(|sample| &sample[start * features..(start + steps) * features]).copied().collect();
    Tensor::from_vec([batch, steps, features], data).unwrap()
}

/// Tensors one behind the other along the second axis.
fn joined<T: Scalar>(parts: &[Tensor<T>]) -> Tensor<T> {
    let [batch, features] = [0, 2].map(|axis| parts[0].shape()[axis]);
    let samples = (0..batch).flat_map(|i| parts.iter().map(move |part| (i, part)));
    let rows = samples.flat_map(|(i, part)| part.as_slice().chunks_exact(part.len() / batch).nth(i).unwrap());
    let data: Vec<T> = rows.copied().collect();
    Tensor::from_vec([batch, data.len() / batch / features, features], data).unwrap()
}

#[test]
fn layers_agree() {
    oracle::every("layer", |case| {
        let Some(double) = subject::<f64>(case) else { return false };
        let far = case.flag("far_from_zero") == Some(true);
        // The cases are rounded on the way in, too. Around 10⁶ that alone is 0.06.
        let inputs = double.0.inputs.iter().filter_map(|name| case.tensor::<f64>(name));
        let single = inputs.flat_map(|x| x.as_slice().to_vec()).all(|x| x.abs() < 1e3);
        check(case, double, if far { &F64_FAR_FROM_ZERO } else { &F64 });
        if single {
            check(case, subject::<f32>(case).unwrap(), &F32);
        }
        true
    });
}

/// No layer comes of such settings, or it doesn't take such an input.
#[test]
fn what_pytorch_refuses_is_refused() {
    oracle::every("error", |case| {
        if !oracle::layers(case.op()).into_iter().any(|case| subject::<f64>(case).is_some()) {
            return false;
        }
        if let Some((subject, _)) = subject::<f64>(case) {
            let x: Vec<_> = subject.inputs.iter().map(|name| case.tensor(name).unwrap()).collect();
            let mut tape = Tape::new();
            let result = tape.forward_many(&*subject.layer, &x.iter().collect::<Vec<_>>(), subject.mode);
            assert!(result.is_err(), "{case} is not refused: {}", case["why"]);
        }
        true
    });
}

#[test]
fn parts_of_time_join_again() {
    let x = Tensor::from_vec([2, 3, 2], (0..12).map(f64::from).collect()).unwrap();
    let parts = [time_steps(&x, 0, 1), time_steps(&x, 1, 2)];
    assert_eq!(parts[1].as_slice(), [2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(joined(&parts), x);
}
