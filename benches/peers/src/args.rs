use std::process::exit;
use std::time::Duration;

const HELP: &str = "\
Times one library on the rows that all programs of this package share.

  --only SUBSTRING   rows whose id contains it
  --seconds S        time for each row (default: 0.6)
  --threads N        threads that the library may use (default: 1)";

/// Where the libraries here look for their number of threads.
const KNOBS: [&str; 3] = ["BACKRULE_THREADS", "RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// The command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Args {
    pub(crate) only: String,
    pub(crate) time: Duration,
    /// How many threads a library may use.
    pub threads: usize,
}

impl Args {
    /// Reads the command line, and hands the number of threads to the libraries. The first thing a program
    /// does: they read their knobs once, when they start.
    #[must_use]
    pub fn from_env() -> Self {
        let args = Self::parse(std::env::args().skip(1)).unwrap_or_else(|mistake| {
            eprintln!("{mistake}\n\n{HELP}");
            exit(2)
        });
        for knob in KNOBS {
            // SAFETY: the program has one thread until now, so nobody reads the environment meanwhile.
            unsafe { std::env::set_var(knob, args.threads.to_string()) };
        }
        args
    }

    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self { only: String::new(), time: Duration::from_millis(600), threads: 1 };
        while let Some(name) = words.next() {
            if name == "--help" {
                println!("{HELP}");
                exit(0)
            }
            let value = words.next().ok_or_else(|| format!("{name}: a value is missing"))?;
            let wrong = || format!("{name}: not {value}");
            match name.as_str() {
                "--only" => args.only = value,
                "--seconds" => {
                    let seconds = value.parse().map_err(|_| wrong())?;
                    args.time = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
                }
                "--threads" => {
                    args.threads = value.parse().ok().filter(|&n| n > 0).ok_or_else(wrong)?;
                }
                _ => return Err(format!("{name}: there is no such option")),
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let args = parse("--only sgd --seconds 0.5 --threads 2").unwrap();
        assert_eq!(args, Args { only: "sgd".to_owned(), time: Duration::from_millis(500), threads: 2 });
    }

    #[test]
    fn mistakes_are_named() {
        for line in ["--threads 0", "--seconds -1", "--only", "--fast 1"] {
            let name = line.split(' ').next().unwrap();
            assert!(parse(line).unwrap_err().starts_with(name), "{line}");
        }
    }
}
