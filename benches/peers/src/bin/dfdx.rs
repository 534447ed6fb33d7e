//! dfdx's rows. Sizes of layers are types there, so each row names its network.

use std::fmt::Debug;

use backrule_peers::{
    Args, CROSS_ENTROPY, CrossEntropyRow, Digits, DigitsRow, LossStep, MOMENTUM, NetworkRow, Outcome,
    PREDICT, Report, SgdRow, Step, TRAIN_STEP,
};
use dfdx::optim::{Momentum, Sgd, SgdConfig};
use dfdx::prelude::*;

type Mlp2<const I: usize, const H: usize, const O: usize> = ((Linear<I, H>, ReLU), Linear<H, O>);
type Mlp3<const I: usize, const G: usize, const H: usize, const O: usize> =
    ((Linear<I, G>, ReLU), (Linear<G, H>, ReLU), Linear<H, O>);
type DigitsNet = Mlp2<64, 32, 10>;

type Batch<const N: usize, T = NoneTape> = Tensor<(usize, Const<N>), f32, Cpu, T>;
type Taped<const N: usize> = Batch<N, OwnedTape<f32, Cpu>>;

fn main() -> Outcome {
    let report = Report::new(Args::from_env(), "dfdx", "dfdx");
    dfdx::flush_denormals_to_zero();

    let [digits, small, large, wide, odd, one, other] = TRAIN_STEP else {
        unreachable!("there are seven rows")
    };
    report.train_step(digits, || train_step::<DigitsNet, 64, 10>(*digits))?;
    report.train_step(small, || train_step::<Mlp3<784, 128, 64, 10>, 784, 10>(*small))?;
    report.train_step(large, || train_step::<Mlp3<784, 128, 64, 10>, 784, 10>(*large))?;
    report.train_step(wide, || train_step::<Mlp3<1024, 4096, 4096, 1000>, 1024, 1000>(*wide))?;
    report.train_step(odd, || train_step::<Mlp2<33, 33, 7>, 33, 7>(*odd))?;
    report.train_step(one, || train_step::<Mlp2<100, 50, 3>, 100, 3>(*one))?;
    report.train_step(other, || train_step::<Mlp2<200, 300, 17>, 200, 17>(*other))?;

    for row in PREDICT {
        report.predict(row, || match row.sizes {
            [784, 128, 64, 10] => prediction::<Mlp3<784, 128, 64, 10>, 784, 10>(*row),
            [1024, 4096, 4096, 1000] => prediction::<Mlp3<1024, 4096, 4096, 1000>, 1024, 1000>(*row),
            [33, 33, 7] => prediction::<Mlp2<33, 33, 7>, 33, 7>(*row),
            sizes => Err(format!("no type has the sizes {sizes:?}").into()),
        })?;
    }

    let [few, many, vocabulary] = CROSS_ENTROPY else { unreachable!("there are three rows") };
    report.cross_entropy(few, || cross_entropy::<1024, 10>(*few))?;
    report.cross_entropy(many, || cross_entropy::<256, 1000>(*many))?;
    report.cross_entropy(vocabulary, || cross_entropy::<64, 50257>(*vocabulary))?;
    report.sgd(sgd)?;
    report.digits(train, classes)
}

fn config(lr: f64) -> SgdConfig {
    SgdConfig { lr, momentum: Some(Momentum::Classic(MOMENTUM)), weight_decay: None }
}

/// The loss takes a probability for each class.
fn one_hot(labels: &[usize], classes: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; labels.len() * classes];
    for (row, &label) in numbers.chunks_mut(classes).zip(labels) {
        row[label] = 1.0;
    }
    numbers
}

fn train_step<N, const I: usize, const O: usize>(row: NetworkRow) -> Outcome<Step>
where
    N: BuildOnDevice<Cpu, f32>,
    N::Built: ModuleMut<Taped<I>, Output = Taped<O>, Error: Debug> + 'static,
{
    let cpu = Cpu::default();
    let mut net = cpu.build_module::<N, f32>();
    let x: Batch<I> = cpu.tensor_from_vec(row.x(), (row.batch, Const));
    let target: Batch<O> = cpu.tensor_from_vec(one_hot(&row.labels(), O), (row.batch, Const));
    let mut optimizer = Sgd::new(&net, config(NetworkRow::LR));
    let mut grads = Some(net.alloc_grads());
    Ok(Box::new(move || {
        let logits = net.forward_mut(x.trace(grads.take().unwrap()));
        let loss = cross_entropy_with_logits_loss(logits, target.clone());
        let l = loss.array();
        let mut new = loss.backward();
        optimizer.update(&mut net, &new).unwrap();
        net.zero_grads(&mut new);
        grads = Some(new);
        l
    }))
}

fn prediction<N, const I: usize, const O: usize>(row: NetworkRow) -> Outcome<Step>
where
    N: BuildOnDevice<Cpu, f32>,
    N::Built: Module<Batch<I>, Output = Batch<O>, Error: Debug> + 'static,
{
    let cpu = Cpu::default();
    let net = cpu.build_module::<N, f32>();
    let x: Batch<I> = cpu.tensor_from_vec(row.x(), (row.batch, Const));
    Ok(Box::new(move || net.forward(x.clone())[[0, 0]]))
}

fn cross_entropy<const B: usize, const C: usize>(row: CrossEntropyRow) -> Outcome<LossStep> {
    let cpu = Cpu::default();
    let z: Tensor<Rank2<B, C>, f32, _> = cpu.tensor_from_vec(row.logits(), (Const, Const));
    let target = cpu.tensor_from_vec(one_hot(&row.labels(), C), (Const, Const));
    let mut grads = Some(z.alloc_grads());
    Ok(Box::new(move |look| {
        let loss = cross_entropy_with_logits_loss(z.trace(grads.take().unwrap()), target.clone());
        let l = loss.array();
        let mut new = loss.backward();
        let first = if look { new.get(&z)[[0, 0]] } else { 0.0 };
        z.zero_grads(&mut new);
        grads = Some(new);
        (l, first)
    }))
}

/// Gradients come from backward passes only: this one gives the gradient that the row asks for.
fn sgd() -> Outcome<Step> {
    let cpu = Cpu::default();
    let mut parameters: Tensor<Rank1<{ SgdRow::LEN }>, f32, _> =
        cpu.tensor_from_vec(SgdRow::parameters(), (Const,));
    let gradient = cpu.tensor_from_vec(SgdRow::gradient(), (Const,));
    let grads = (parameters.trace(parameters.alloc_grads()) * gradient).sum().backward();
    let mut optimizer = Sgd::new(&parameters, config(SgdRow::LR));
    Ok(Box::new(move || {
        optimizer.update(&mut parameters, &grads).unwrap();
        parameters[[0]]
    }))
}

type Trained = <DigitsNet as BuildOnDevice<Cpu, f32>>::Built;

fn train(digits: &Digits) -> Outcome<Trained> {
    let cpu = Cpu::default();
    let mut net = cpu.build_module::<DigitsNet, f32>();
    let mut optimizer = Sgd::new(&net, config(DigitsRow::LR));
    let mut grads = net.alloc_grads();
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for epoch in 0..DigitsRow::EPOCHS {
        for rows in digits.shuffled(epoch).chunks(DigitsRow::BATCH) {
            digits.gather(rows, &mut pixels, &mut labels);
            let x: Batch<64> = cpu.tensor_from_vec(pixels.clone(), (rows.len(), Const));
            let target: Batch<10> = cpu.tensor_from_vec(one_hot(&labels, 10), (rows.len(), Const));
            let logits = net.forward_mut(x.traced(grads));
            grads = cross_entropy_with_logits_loss(logits, target).backward();
            optimizer.update(&mut net, &grads)?;
            net.zero_grads(&mut grads);
        }
    }
    Ok(net)
}

fn classes(net: &Trained, digits: &Digits) -> Outcome<Vec<usize>> {
    let x: Batch<64> = Cpu::default().tensor_from_vec(digits.pixels.clone(), (digits.rows(), Const));
    let logits = net.forward(x).as_vec();
    let class = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
    Ok(logits.chunks(DigitsRow::SIZES[2]).map(class).collect())
}
