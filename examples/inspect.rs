//! The contents of a checkpoint: verified and listed, without the network that it was saved from.
//!
//! ```console
//! $ cargo run --release --example inspect -- FILE
//! ```
//!
//! Without a file it makes one and shows that.

use std::error::Error;
use std::process::ExitCode;

use backrule::prelude::*;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(file) = std::env::args_os().nth(1) else {
        demonstrate()?;
        return Ok(ExitCode::SUCCESS);
    };
    match Checkpoint::open(file) {
        Ok(contents) => {
            println!("{contents}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let mut rng = random::rng(42);
    let net: Sequential = Sequential::builder()
        .layer("fc1", Linear::new(2, 16, &mut rng)?)
        .layer("relu", Relu)
        .layer("fc2", Linear::new(16, 2, &mut rng)?)
        .build()?;
    let optimizer = Optimizer::new(Sgd::new(0.1)?.momentum(0.9)?, &net)?;
    let folder = std::env::temp_dir().join(format!("backrule-inspect-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("demo.brk");
    let program = Some(env!("CARGO_PKG_VERSION").to_string());
    Checkpoint::of(&net)
        .optimizer(&optimizer)
        .run(&Run { epoch: 2, position: 128, seed: Some(42), program, ..Run::default() })
        .metrics(&vec![0.69, f64::NAN])?
        .metadata(&"points in a circle".to_string())?
        .save(&file)?;
    println!("{}", Checkpoint::open(&file)?);

    // It verifies, too: one bit is enough.
    let mut bytes = std::fs::read(&file)?;
    if let Some(byte) = bytes.iter_mut().rev().nth(100) {
        *byte ^= 1;
    }
    std::fs::write(&file, bytes)?;
    if let Err(error) = Checkpoint::open(&file) {
        println!("\nafter one flipped bit: {}", error.problem);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
