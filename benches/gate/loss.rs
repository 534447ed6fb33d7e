use backrule_loss::{CrossEntropy, Mse};
use backrule_tensor::Tensor;

use crate::Gate;
use crate::common::{labels, normal};

pub(crate) fn workloads(gate: &mut Gate) {
    // `loss/cross_entropy/*`: cross-entropy on logits, value and gradient; batch × classes
    // `loss/cross_entropy/value/*`: the value alone
    for ([batch, classes], calls) in [([1, 10], 50), ([32, 10], 20), ([32, 1000], 2)] {
        let size = format!("{batch}x{classes}");
        let data = || (normal([batch, classes], 1), labels(batch, classes), Tensor::default());
        gate.workload(&format!("cross_entropy/{size}"), calls, || {
            let (z, labels, mut dz) = data();
            move || _ = CrossEntropy::new().value_and_grad(&z, &labels, &mut dz).unwrap()
        });
        gate.workload(&format!("cross_entropy/value/{size}"), calls, || {
            let (z, labels, _) = data();
            move || _ = std::hint::black_box(CrossEntropy::new().value(&z, &labels).unwrap())
        });
    }
    // `loss/mse/value_and_grad/*`: mean squared error, value and gradient; batch × outputs
    for ([batch, outputs], calls) in [([1, 1], 50), ([32, 10], 20), ([1024, 10], 2)] {
        gate.workload(&format!("mse/value_and_grad/{batch}x{outputs}"), calls, || {
            let (y, t, mut dy) =
                (normal([batch, outputs], 1), normal([batch, outputs], 2), Tensor::default());
            move || _ = Mse::new().value_and_grad(&y, &t, &mut dy).unwrap()
        });
    }
}
