//! Candle's rows.

use std::collections::HashMap;

use backrule_peers::{
    Args, CROSS_ENTROPY, CrossEntropyRow, Digits, DigitsRow, LossStep, MOMENTUM, NetworkRow, Outcome,
    PREDICT, Report, SgdRow, Step, TRAIN_STEP,
};
use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, IndexOp, Result, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::{Activation, Module, Optimizer, Sequential, VarBuilder, VarMap, linear, seq};

const CPU: Device = Device::Cpu;

fn main() -> Outcome {
    let report = Report::new(Args::from_env(), "candle", "candle-core");
    for row in TRAIN_STEP {
        report.train_step(row, || train_step(*row))?;
    }
    for row in PREDICT {
        report.predict(row, || prediction(*row))?;
    }
    for row in CROSS_ENTROPY {
        report.cross_entropy(row, || loss_and_grad(*row))?;
    }
    report.sgd(sgd)?;
    report.digits(|digits| Ok(train(digits)?), |net, digits| Ok(classes(net, digits)?))
}

/// Candle's own SGD has no momentum. This one is written as its other optimizers are.
struct Momentum {
    vars: Vec<Var>,
    velocities: Vec<Tensor>,
    lr: f64,
}

impl Momentum {
    fn update(var: &Var, velocity: &mut Tensor, grad: &Tensor, lr: f64) -> Result<()> {
        *velocity = ((&*velocity * MOMENTUM)? + grad)?;
        var.set(&var.sub(&(&*velocity * lr)?)?)
    }
}

impl Optimizer for Momentum {
    type Config = f64;

    fn new(vars: Vec<Var>, lr: f64) -> Result<Self> {
        let velocities = vars.iter().map(|var| var.zeros_like()).collect::<Result<_>>()?;
        Ok(Self { vars, velocities, lr })
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        for (var, velocity) in self.vars.iter().zip(&mut self.velocities) {
            if let Some(grad) = grads.get(var) {
                Self::update(var, velocity, grad, self.lr)?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.lr = lr;
    }
}

fn network(sizes: &[usize], vars: &VarBuilder) -> Result<Sequential> {
    let mut net = seq();
    for (i, pair) in sizes.windows(2).enumerate() {
        if i > 0 {
            net = net.add(Activation::Relu);
        }
        net = net.add(linear(pair[0], pair[1], vars.pp(format!("fc{i}")))?);
    }
    Ok(net)
}

fn indices(numbers: &[usize]) -> Result<Tensor> {
    Tensor::from_iter(numbers.iter().map(|&n| n as u32), &CPU)
}

fn train_step(row: NetworkRow) -> Outcome<Step> {
    let vars = VarMap::new();
    let net = network(row.sizes, &VarBuilder::from_varmap(&vars, DType::F32, &CPU))?;
    let x = Tensor::from_vec(row.x(), (row.batch, row.inputs()), &CPU)?;
    let labels = indices(&row.labels())?;
    let mut optimizer = Momentum::new(vars.all_vars(), NetworkRow::LR)?;
    let mut step = move || -> Result<f32> {
        let loss = cross_entropy(&net.forward(&x)?, &labels)?;
        optimizer.backward_step(&loss)?;
        loss.to_scalar()
    };
    Ok(Box::new(move || step().unwrap()))
}

/// Variables are always tracked, and plain tensors never: a network to predict with has the latter.
fn prediction(row: NetworkRow) -> Outcome<Step> {
    let vars = VarMap::new();
    network(row.sizes, &VarBuilder::from_varmap(&vars, DType::F32, &CPU))?;
    let tensors: HashMap<_, _> = vars
        .data()
        .lock()
        .unwrap()
        .iter()
        .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
        .collect();
    let net = network(row.sizes, &VarBuilder::from_tensors(tensors, DType::F32, &CPU))?;
    let x = Tensor::from_vec(row.x(), (row.batch, row.inputs()), &CPU)?;
    Ok(Box::new(move || net.forward(&x).unwrap().i((0, 0)).unwrap().to_scalar().unwrap()))
}

fn loss_and_grad(row: CrossEntropyRow) -> Outcome<LossStep> {
    let z = Var::from_vec(row.logits(), (row.batch, row.classes), &CPU)?;
    let labels = indices(&row.labels())?;
    let step = move || -> Result<(f32, f32)> {
        let loss = cross_entropy(&z, &labels)?;
        let grads = loss.backward()?;
        Ok((loss.to_scalar()?, grads.get(&z).unwrap().i((0, 0))?.to_scalar()?))
    };
    Ok(Box::new(move |_| step().unwrap()))
}

fn sgd() -> Outcome<Step> {
    let var = Var::from_vec(SgdRow::parameters(), SgdRow::LEN, &CPU)?;
    let grad = Tensor::from_vec(SgdRow::gradient(), SgdRow::LEN, &CPU)?;
    let mut velocity = grad.zeros_like()?;
    Ok(Box::new(move || {
        Momentum::update(&var, &mut velocity, &grad, SgdRow::LR).unwrap();
        var.i(0).unwrap().to_scalar().unwrap()
    }))
}

fn train(digits: &Digits) -> Result<Sequential> {
    let vars = VarMap::new();
    let net = network(DigitsRow::SIZES, &VarBuilder::from_varmap(&vars, DType::F32, &CPU))?;
    let x = Tensor::from_slice(&digits.pixels, (digits.rows(), DigitsRow::SIZES[0]), &CPU)?;
    let labels = indices(&digits.labels)?;
    let mut optimizer = Momentum::new(vars.all_vars(), DigitsRow::LR)?;
    for epoch in 0..DigitsRow::EPOCHS {
        for rows in digits.shuffled(epoch).chunks(DigitsRow::BATCH) {
            let rows = indices(rows)?;
            let logits = net.forward(&x.index_select(&rows, 0)?)?;
            optimizer.backward_step(&cross_entropy(&logits, &labels.index_select(&rows, 0)?)?)?;
        }
    }
    Ok(net)
}

fn classes(net: &Sequential, digits: &Digits) -> Result<Vec<usize>> {
    let x = Tensor::from_slice(&digits.pixels, (digits.rows(), DigitsRow::SIZES[0]), &CPU)?;
    let classes = net.forward(&x)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
    Ok(classes.into_iter().map(|class| class as usize).collect())
}
