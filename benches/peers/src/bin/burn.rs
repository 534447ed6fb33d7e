//! Burn's rows, on its CPU backend `flex`.
#![recursion_limit = "256"]

use backrule_peers::{
    Args, CROSS_ENTROPY, CrossEntropyRow, Digits, DigitsRow, LossStep, MOMENTUM, NetworkRow, Outcome,
    PREDICT, Report, SgdRow, Step, TRAIN_STEP,
};
use burn::module::{Module, Param};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{Linear, LinearConfig, Relu};
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig, momentum::MomentumConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

fn main() -> Outcome {
    let report = Report::new(Args::from_env(), "burn", "burn");
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
    report.digits(|digits| Ok(train(digits)), |net, digits| Ok(classes(net, digits)))
}

#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
    relu: Relu,
}

impl Mlp {
    fn new(sizes: &[usize], device: &Device) -> Self {
        let layers = sizes.windows(2).map(|pair| LinearConfig::new(pair[0], pair[1]).init(device)).collect();
        Self { layers, relu: Relu::new() }
    }

    fn forward(&self, mut x: Tensor<2>) -> Tensor<2> {
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                x = self.relu.forward(x);
            }
            x = layer.forward(x);
        }
        x
    }
}

fn matrix(rows: usize, columns: usize, numbers: Vec<f32>, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers, [rows, columns]), device)
}

fn indices(numbers: &[usize], device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i32> = numbers.iter().map(|&n| n as i32).collect();
    Tensor::from_ints(numbers.as_slice(), device)
}

/// Burn's momentum weighs the new gradient with 1 - dampening.
fn momentum() -> ModuleOptimizer {
    let momentum = MomentumConfig::new().with_momentum(MOMENTUM).with_dampening(0.0);
    SgdConfig::new().with_momentum(Some(momentum)).init()
}

fn loss(device: &Device) -> CrossEntropyLoss {
    CrossEntropyLossConfig::new().init(device)
}

fn train_step(row: NetworkRow) -> Outcome<Step> {
    let device = Device::flex().autodiff();
    let mut net = Some(Mlp::new(row.sizes, &device));
    let x = matrix(row.batch, row.inputs(), row.x(), &device);
    let labels = indices(&row.labels(), &device);
    let (loss, mut optimizer) = (loss(&device), momentum());
    Ok(Box::new(move || {
        let model = net.take().unwrap();
        let loss = loss.forward(model.forward(x.clone()), labels.clone());
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        net = Some(optimizer.step(NetworkRow::LR, model, grads));
        loss.into_scalar()
    }))
}

fn prediction(row: NetworkRow) -> Outcome<Step> {
    let device = Device::flex();
    let net = Mlp::new(row.sizes, &device);
    let x = matrix(row.batch, row.inputs(), row.x(), &device);
    Ok(Box::new(move || net.forward(x.clone()).slice([0..1, 0..1]).into_scalar()))
}

fn cross_entropy(row: CrossEntropyRow) -> Outcome<LossStep> {
    let device = Device::flex().autodiff();
    let z = matrix(row.batch, row.classes, row.logits(), &device).require_grad();
    let labels = indices(&row.labels(), &device);
    let loss = loss(&device);
    Ok(Box::new(move |_| {
        let loss = loss.forward(z.clone(), labels.clone());
        let gradient = z.grad(&loss.backward()).unwrap();
        (loss.into_scalar(), gradient.slice([0..1, 0..1]).into_scalar())
    }))
}

/// Optimizers update modules.
#[derive(Module, Debug)]
struct One {
    w: Param<Tensor<1>>,
}

fn sgd() -> Outcome<Step> {
    let device = Device::flex().autodiff();
    let tensor =
        |numbers: Vec<f32>, device| Tensor::<1>::from_data(TensorData::new(numbers, [SgdRow::LEN]), device);
    let plain = device.clone().inner();
    let gradient = tensor(SgdRow::gradient(), &plain);
    let mut net = Some(One { w: Param::from_tensor(tensor(SgdRow::parameters(), &device)) });
    let mut optimizer = momentum();
    Ok(Box::new(move || {
        let old = net.take().unwrap();
        let mut grads = GradientsParams::new();
        grads.register(old.w.id, gradient.clone());
        let new = optimizer.step(SgdRow::LR, old, grads);
        let first = new.w.val().inner().narrow(0, 0, 1).into_scalar();
        net = Some(new);
        first
    }))
}

fn train(digits: &Digits) -> Mlp {
    let device = Device::flex().autodiff();
    let mut net = Mlp::new(DigitsRow::SIZES, &device);
    let all = matrix(digits.rows(), DigitsRow::SIZES[0], digits.pixels.clone(), &device);
    let labels = indices(&digits.labels, &device);
    let (loss, mut optimizer) = (loss(&device), momentum());
    for epoch in 0..DigitsRow::EPOCHS {
        for rows in digits.shuffled(epoch).chunks(DigitsRow::BATCH) {
            let rows = indices(rows, &device);
            let logits = net.forward(all.clone().select(0, rows.clone()));
            let loss = loss.forward(logits, labels.clone().select(0, rows));
            let grads = GradientsParams::from_grads(loss.backward(), &net);
            net = optimizer.step(DigitsRow::LR, net, grads);
        }
    }
    net
}

fn classes(net: &Mlp, digits: &Digits) -> Vec<usize> {
    let x = matrix(digits.rows(), DigitsRow::SIZES[0], digits.pixels.clone(), &Device::flex().autodiff());
    let classes = net.forward(x).argmax(1).into_data();
    classes.iter::<i64>().map(|class| class as usize).collect()
}
