use std::hint::black_box;
use std::time::{Duration, Instant};

/// Short calls are timed in groups that last at least this long, so reading the clock doesn't count.
const SAMPLE: Duration = Duration::from_micros(50);
const FEWEST: usize = 3;

/// Microseconds a call takes.
pub(crate) struct Timing {
    pub(crate) median: f64,
    pub(crate) min: f64,
    /// Samples, not calls.
    pub(crate) n: usize,
}

/// Calls it again and again for that long, after a warm-up of a tenth of the time.
pub(crate) fn time<T>(limit: Duration, mut call: impl FnMut() -> T) -> Timing {
    let calls = warm_up(limit / 10, &mut call);
    let mut samples = Vec::new();
    let began = Instant::now();
    while samples.len() < FEWEST || began.elapsed() < limit {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        samples.push(start.elapsed().as_secs_f64() * 1e6 / calls as f64);
    }
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    let median =
        if samples.len() % 2 == 1 { samples[middle] } else { (samples[middle - 1] + samples[middle]) / 2.0 };
    Timing { median, min: samples[0], n: samples.len() }
}

/// How many calls make a sample.
fn warm_up<T>(limit: Duration, call: &mut impl FnMut() -> T) -> u128 {
    let began = Instant::now();
    let mut fastest = Duration::MAX;
    loop {
        let start = Instant::now();
        black_box(call());
        fastest = fastest.min(start.elapsed());
        if began.elapsed() >= limit {
            return (SAMPLE.as_nanos() / fastest.as_nanos().max(1)).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn a_slow_call_is_made_few_times_and_a_fast_one_often() {
        let slow = time(Duration::ZERO, || sleep(Duration::from_millis(2)));
        assert_eq!(slow.n, FEWEST);
        assert!(slow.min >= 2000.0 && slow.median >= slow.min);
        let mut calls = 0;
        let fast = time(Duration::from_millis(1), || calls += 1);
        assert!(calls > 10 * fast.n);
    }
}
