//! Backrule's rows. Predictions have a second line, with a network that was prepared for them.

use backrule_loss::CrossEntropy;
use backrule_nn::{Grads, Key, Linear, Mode, Prepared, Relu, Sequential, Tape, predict};
use backrule_optim::{Optimizer, Sgd};
use backrule_peers::{
    Args, CROSS_ENTROPY, CrossEntropyRow, Digits, DigitsRow, LossStep, MOMENTUM, NetworkRow, Outcome,
    PREDICT, Report, SgdRow, Step, TRAIN_STEP,
};
use backrule_tensor::{Tensor, TensorError, random};

fn main() -> Outcome {
    let args = Args::from_env();
    let threads = args.threads;
    let prepared = Report::new(args.clone(), "prepared", "backrule-nn");
    let report = Report::new(args, "backrule", "backrule-nn");
    for row in TRAIN_STEP {
        // Large batches go in one part per thread: the work of a part is worth handing over as a whole.
        let parts = if row.batch >= 512 { threads } else { 1 };
        report.train_step(row, || train_step(*row, parts))?;
    }
    for row in PREDICT {
        report.predict(row, || prediction(*row))?;
        prepared.predict(row, || prepared_prediction(*row))?;
    }
    for row in CROSS_ENTROPY {
        report.cross_entropy(row, || cross_entropy(*row))?;
    }
    report.sgd(sgd)?;
    report.digits(train, classes)
}

fn network(sizes: &[usize]) -> Outcome<Sequential> {
    let mut rng = random::rng(1);
    let mut builder = Sequential::builder();
    for (i, pair) in sizes.windows(2).enumerate() {
        if i > 0 {
            builder = builder.layer(format!("relu{i}"), Relu);
        }
        builder = builder.layer(format!("fc{}", i + 1), Linear::new(pair[0], pair[1], &mut rng)?);
    }
    Ok(builder.build()?)
}

fn train_step(row: NetworkRow, parts: usize) -> Outcome<Step> {
    let mut net = network(row.sizes)?;
    let (x, labels) = (Tensor::from_vec([row.batch, row.inputs()], row.x())?, row.labels());
    let loss = CrossEntropy::new();
    let mut optimizer = Optimizer::new(Sgd::new(NetworkRow::LR)?.momentum(MOMENTUM)?, &net)?;
    let mut tape = Tape::new().parts(parts)?;
    let (mut grads, mut dy) = (Grads::new(&net)?, Tensor::default());
    let mut step = 0;
    Ok(Box::new(move || {
        step += 1;
        let pass = tape.forward(&net, &x, Mode::train_with(Key::new(step))).unwrap();
        let l = loss.value_and_grad(pass.output(), &labels, &mut dy).unwrap();
        pass.backward(&dy, &mut grads).unwrap();
        optimizer.step(&mut net, &mut grads).unwrap();
        l
    }))
}

fn prediction(row: NetworkRow) -> Outcome<Step> {
    let net = network(row.sizes)?;
    let x = Tensor::from_vec([row.batch, row.inputs()], row.x())?;
    let mut tape = Tape::new();
    Ok(Box::new(move || tape.forward(&net, &x, Mode::Eval).unwrap().into_output().as_slice()[0]))
}

fn prepared_prediction(row: NetworkRow) -> Outcome<Step> {
    let net = Prepared::of(&network(row.sizes)?)?;
    let x = Tensor::from_vec([row.batch, row.inputs()], row.x())?;
    let mut tape = Tape::new();
    Ok(Box::new(move || net.forward(&mut tape, &x).unwrap().as_slice()[0]))
}

fn cross_entropy(row: CrossEntropyRow) -> Outcome<LossStep> {
    let (z, labels) = (Tensor::from_vec([row.batch, row.classes], row.logits())?, row.labels());
    let mut dz = Tensor::default();
    Ok(Box::new(move |_| {
        let l = CrossEntropy::new().value_and_grad(&z, &labels, &mut dz).unwrap();
        (l, dz.as_slice()[0])
    }))
}

fn sgd() -> Outcome<Step> {
    let mut net = vec![("w", Tensor::from_vec([SgdRow::LEN], SgdRow::parameters())?)];
    let mut grads = Grads::new(&net)?;
    grads[0] = Tensor::from_vec([SgdRow::LEN], SgdRow::gradient())?.into();
    let mut optimizer = Optimizer::new(Sgd::new(SgdRow::LR)?.momentum(MOMENTUM)?, &net)?;
    Ok(Box::new(move || {
        // The update has used it up: it is there again, as if a backward pass had written it.
        grads[0].accumulate(|_, _| Ok::<_, TensorError>(())).unwrap();
        optimizer.step(&mut net, &mut grads).unwrap();
        net[0].1.as_slice()[0]
    }))
}

fn train(digits: &Digits) -> Outcome<Sequential> {
    let mut net = network(DigitsRow::SIZES)?;
    let all = Tensor::from_vec([digits.rows(), DigitsRow::SIZES[0]], digits.pixels.clone())?;
    let loss = CrossEntropy::new();
    let mut optimizer = Optimizer::new(Sgd::new(DigitsRow::LR)?.momentum(MOMENTUM)?, &net)?;
    let (mut tape, mut grads, mut dy) = (Tape::new(), Grads::new(&net)?, Tensor::default());
    let (mut x, mut labels) = (Tensor::default(), Vec::new());
    for epoch in 0..DigitsRow::EPOCHS {
        for rows in digits.shuffled(epoch).chunks(DigitsRow::BATCH) {
            x.gather(&all, rows)?;
            labels.clear();
            labels.extend(rows.iter().map(|&row| digits.labels[row]));
            let pass = tape.forward(&net, &x, Mode::train_with(Key::new(epoch as u64)))?;
            loss.value_and_grad(pass.output(), &labels, &mut dy)?;
            pass.backward(&dy, &mut grads)?;
            optimizer.step(&mut net, &mut grads)?;
        }
    }
    Ok(net)
}

fn classes(net: &Sequential, digits: &Digits) -> Outcome<Vec<usize>> {
    let x = Tensor::from_vec([digits.rows(), DigitsRow::SIZES[0]], digits.pixels.clone())?;
    Ok(predict(net, &x)?.argmax_rows().collect())
}
