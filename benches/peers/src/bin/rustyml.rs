//! RustyML's rows.

use backrule_peers::{
    Args, CROSS_ENTROPY, CrossEntropyRow, Digits, DigitsRow, LossStep, MOMENTUM, NetworkRow, Outcome,
    PREDICT, Report, SgdRow, Step, TRAIN_STEP,
};
use ndarray::ArrayD;
use rustyml::neural_network::layers::{Activation, Dense};
use rustyml::neural_network::losses::SparseCategoricalCrossEntropy;
use rustyml::neural_network::optimizers::SGD;
use rustyml::neural_network::sequential::{Sequential, SequentialBuilder};
use rustyml::neural_network::traits::{LayerBase, Loss, Optimizer, UnaryLayer};
use rustyml::neural_network::{Ctx, LayerPath, Shape, Tensor};

fn main() -> Outcome {
    let report = Report::new(Args::from_env(), "rustyml", "rustyml");
    for row in TRAIN_STEP {
        report.train_step(row, || train_step(*row))?;
    }
    for row in PREDICT {
        report.predict(row, || prediction(*row))?;
    }
    for row in CROSS_ENTROPY {
        report.cross_entropy(row, || cross_entropy(*row))?;
    }
    report.sgd(sgd)?;
    report.digits(train, classes)
}

fn network(sizes: &[usize], lr: f64) -> Outcome<Sequential> {
    let mut builder = SequentialBuilder::new();
    for (i, &units) in sizes.iter().enumerate().skip(1) {
        let activation = if i + 1 < sizes.len() { Activation::ReLU } else { Activation::Linear };
        builder = builder.add(Dense::new(units, activation)?.with_random_state(i as u64));
    }
    let mut net = builder.build(&Shape::with_free_batch(&[1, sizes[0]]))?;
    net.compile(momentum(lr)?, SparseCategoricalCrossEntropy::new(true));
    Ok(net)
}

fn momentum(lr: f64) -> Outcome<SGD> {
    Ok(SGD::new(lr as f32, MOMENTUM as f32, false, 0.0)?)
}

fn matrix(rows: usize, columns: usize, numbers: Vec<f32>) -> Outcome<Tensor> {
    Ok(ArrayD::from_shape_vec(vec![rows, columns], numbers)?)
}

/// Labels are whole numbers in a column.
fn column(labels: &[usize]) -> Outcome<Tensor> {
    matrix(labels.len(), 1, labels.iter().map(|&label| label as f32).collect())
}

fn train_step(row: NetworkRow) -> Outcome<Step> {
    let mut net = network(row.sizes, NetworkRow::LR)?;
    let (x, labels) = (matrix(row.batch, row.inputs(), row.x())?, column(&row.labels())?);
    Ok(Box::new(move || net.train_batch(&x, &labels).unwrap()))
}

fn prediction(row: NetworkRow) -> Outcome<Step> {
    let net = network(row.sizes, NetworkRow::LR)?;
    let x = matrix(row.batch, row.inputs(), row.x())?;
    Ok(Box::new(move || net.predict(&x).unwrap()[[0, 0]]))
}

fn cross_entropy(row: CrossEntropyRow) -> Outcome<LossStep> {
    let (z, labels) = (matrix(row.batch, row.classes, row.logits())?, column(&row.labels())?);
    let loss = SparseCategoricalCrossEntropy::new(true);
    Ok(Box::new(move |_| {
        let l = loss.compute_loss(&labels, &z).unwrap();
        (l, loss.compute_grad(&labels, &z).unwrap()[[0, 0]])
    }))
}

/// Optimizers update layers: one of which all numbers are in the matrix, since a bias without a gradient is
/// left out.
fn sgd() -> Outcome<Step> {
    const UNITS: usize = 1000;
    let inputs = SgdRow::LEN / UNITS;
    let mut layer = Dense::new(UNITS, Activation::Linear)?;
    layer.build(&Shape::known(&[1, inputs]))?;
    let mut ctx = Ctx::training();
    ctx.set_owner(0);
    ctx.add_grad("kernel", matrix(inputs, UNITS, SgdRow::gradient())?)?;
    for parameter in layer.parameters_mut() {
        if parameter.name == "kernel" {
            parameter.value.copy_from_slice(&SgdRow::parameters());
        }
    }
    let (mut optimizer, path) = (momentum(SgdRow::LR)?, LayerPath::root(0));
    Ok(Box::new(move || {
        optimizer.step();
        optimizer.update(&path, &mut layer, ctx.grads(), 1.0);
        layer.parameters_mut()[0].value[0]
    }))
}

fn train(digits: &Digits) -> Outcome<Sequential> {
    let mut net = network(DigitsRow::SIZES, DigitsRow::LR)?;
    let all = matrix(digits.rows(), DigitsRow::SIZES[0], digits.pixels.clone())?;
    let labels = column(&digits.labels)?;
    net.fit_with_batches(&all, &labels, DigitsRow::EPOCHS as u32, DigitsRow::BATCH)?;
    Ok(net)
}

fn classes(net: &Sequential, digits: &Digits) -> Outcome<Vec<usize>> {
    let y = net.predict(&matrix(digits.rows(), DigitsRow::SIZES[0], digits.pixels.clone())?)?;
    let class = |row: ndarray::ArrayViewD<f32>| {
        row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(class, _)| class)
    };
    Ok(y.outer_iter().map(class).collect())
}
