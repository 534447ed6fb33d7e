use backrule_tensor::{
    Shape, Tensor, TensorError, affine_into, matmul_into, matmul_nt_into, matmul_tn_into, random,
};

use crate::Gate;
use crate::common::{Product, normal};

pub(crate) fn workloads(gate: &mut Gate) {
    // `tensor/matmul/forward_nt/*`: y = x Wᵀ of a dense layer; batch × inputs × outputs
    // `tensor/matmul/dx_nn/*`: dx = dy W of the same layer
    // `tensor/matmul/dw_tn/*`: dW = dyᵀ x of the same layer
    for ([batch, inputs, outputs], calls) in [
        ([3, 3, 2], 200),
        ([1, 784, 128], 20),
        ([8, 784, 128], 2),
        ([8, 256, 256], 2),
        ([32, 64, 32], 20),
        ([64, 784, 128], 1),
    ] {
        let (x, w, dy) = ([batch, inputs], [outputs, inputs], [batch, outputs]);
        for (name, a, b, product, result) in [
            ("forward_nt", x, w, matmul_nt_into as Product, dy),
            ("dx_nn", dy, w, matmul_into, x),
            ("dw_tn", dy, x, matmul_tn_into, w),
        ] {
            gate.workload(&format!("matmul/{name}/{batch}x{inputs}x{outputs}"), calls, || {
                let (a, b, mut c) = (normal(a, 1), normal(b, 2), Tensor::zeros(result).unwrap());
                move || product(&a, &b, 0.0, &mut c).unwrap()
            });
        }
    }
    // `tensor/affine/*`: A Bᵀ and a bias; m × n × k
    gate.workload("affine/32x32x64", 20, || {
        let (x, w, bias) =
            (normal([32, 64], 1), normal([32, 64], 2), normal([1, 32], 3).reshape([32]).unwrap());
        let mut y = Tensor::zeros([32, 32]).unwrap();
        move || affine_into(&x, &w, &bias, &mut y).unwrap()
    });
    // `tensor/softmax/*`: the softmax of each row; rows × columns
    // `tensor/log_softmax/*`: the log-softmax of each row
    // `tensor/copy/*`: a copy
    type Rows = fn(&mut Tensor, &Tensor) -> Result<(), TensorError>;
    let of_rows: [(&str, Rows); 3] = [
        ("softmax", Tensor::softmax_from),
        ("log_softmax", Tensor::log_softmax_from),
        ("copy", Tensor::copy_from),
    ];
    for (name, operation) in of_rows {
        for ([rows, columns], calls) in [([32, 10], 50), ([32, 1000], 5)] {
            gate.workload(&format!("{name}/{rows}x{columns}"), calls, || {
                let (x, mut y) = (normal([rows, columns], 1), Tensor::default());
                move || operation(&mut y, &x).unwrap()
            });
        }
    }
    // `tensor/relu/*`: max(x, 0) of each element
    gate.workload("relu/32x128", 20, || {
        let (x, mut y) = (normal([32, 128], 1), Tensor::default());
        move || y.map_from(&x, |x| x.max(0.0)).unwrap()
    });
    // `tensor/product/*`: a b of each element
    gate.workload("product/32x128", 20, || {
        let (a, b, mut y) = (normal([32, 128], 1), normal([32, 128], 2), Tensor::default());
        move || y.zip_from(&a, &b, |a, b| a * b).unwrap()
    });
    // `tensor/rows/gather/*`: rows × columns gathered from 1,437 rows
    gate.workload("rows/gather/32x64", 20, || {
        let (data, mut batch) = (normal([1437, 64], 1), Tensor::default());
        let indices: Vec<usize> = (0..32).map(|i| i * 37 % 1437).collect();
        move || batch.gather(&data, &indices).unwrap()
    });
    // `tensor/sum_of_rows/*`: all rows added to one: the gradient of a bias
    gate.workload("sum_of_rows/32x128", 20, || {
        let (x, mut sum) = (normal([32, 128], 1), Tensor::zeros([128]).unwrap());
        move || sum.add_sum_of_rows(&x).unwrap()
    });
    // `tensor/shuffle/*`: the order of an epoch
    gate.workload("shuffle/1437", 5, || {
        let (mut order, mut rng) = ((0..1437).collect::<Vec<usize>>(), random::rng(1));
        move || random::shuffle(&mut order, &mut rng)
    });
    // `tensor/zeros/*`: a new tensor: one allocation
    gate.workload("zeros/32x128", 20, || {
        let shape = Shape::new(&[32, 128]).unwrap();
        move || drop(std::hint::black_box(Tensor::<f32>::zeros(shape).unwrap()))
    });
}
