//! One network, many threads: prediction takes `&net`, so threads share it without a lock or a copy.
//!
//! ```console
//! $ cargo run --release --example 06_threads
//! ```

use std::error::Error;
use std::time::Instant;

use backrule::prelude::*;

const REQUESTS: usize = 400;
const BATCH: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut rng = random::rng(1);
    let net: Sequential = Sequential::builder()
        .layer("fc1", Linear::new(64, 128, &mut rng)?)
        .layer("relu", Relu)
        .layer("fc2", Linear::new(128, 10, &mut rng)?)
        .layer("softmax", Softmax)
        .build()?;
    let requests = (0..REQUESTS)
        .map(|i| Tensor::normal([BATCH, 64], 0.0, 1.0, &mut random::rng(i as u64)))
        .collect::<Result<Vec<Tensor>, _>>()?;
    let parameters: usize = net.tensors().iter().map(|(_, tensor)| tensor.len()).sum();
    println!("{REQUESTS} batches of {BATCH} for one network of {parameters} parameters\n");

    let expected = requests.iter().map(|x| predict(&net, x)).collect::<Result<Vec<_>, _>>()?;
    for threads in [1, 2, 4] {
        let start = Instant::now();
        let answers = serve(&net, &requests, threads)?;
        let time = start.elapsed();
        println!("{threads} threads: {:6.2} ms", time.as_secs_f64() * 1e3);
        if answers != expected {
            return Err("another number of threads gave other bits".into());
        }
    }
    println!("\nEvery answer is the same to the last bit, whichever thread gave it.");
    Ok(())
}

/// Each thread has a tape of its own, which it reuses, and answers a contiguous part of the requests.
fn serve(net: &Sequential, requests: &[Tensor], threads: usize) -> Result<Vec<Tensor>, LayerError> {
    let answer = |part: &[Tensor]| {
        let mut tape = Tape::new();
        let mut answers = Vec::with_capacity(part.len());
        for x in part {
            answers.push(tape.forward(net, x, Mode::Eval)?.into_output().clone());
        }
        Ok(answers)
    };
    let parts = requests.chunks(requests.len().div_ceil(threads));
    let answers = std::thread::scope(|scope| {
        let workers: Vec<_> = parts.map(|part| scope.spawn(move || answer(part))).collect();
        // A panic in a worker goes on in the caller.
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect::<Result<Vec<Vec<Tensor>>, LayerError>>()
    })?;
    Ok(answers.concat())
}
