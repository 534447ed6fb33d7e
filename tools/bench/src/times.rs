//! The rule for times. Pure: measurements in, verdicts out.
//!
//! Each round runs base and head one after the other on the same machine, and gives one ratio head/base for
//! each id. A Student interval is taken over the logarithms of the ratios. An id is a **regression** when the
//! whole interval lies above 1 + threshold, and lies there again in as many further rounds. Only suspects get
//! these, and they share no measurement with the first. One unlucky series is frequent among some hundred
//! benchmarks; two of the same id are not.

use std::collections::{BTreeMap, BTreeSet};

use crate::accept::{Accepted, Kind};

/// Fastest samples of one id, in ns a call, one for each round that measured it on both sides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) base: Vec<f64>,
    pub(crate) head: Vec<f64>,
}

/// By id, which begins with the crate.
pub(crate) type Series = BTreeMap<String, Times>;

/// The ratio head/base with its interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) low: f64,
    pub(crate) middle: f64,
    pub(crate) high: f64,
}

/// Quantiles of Student's distribution for 1 to 20 degrees of freedom at 0.99: two-sided intervals of 98 %.
const STUDENT: [f64; 20] = [
    31.821, 6.965, 4.541, 3.747, 3.365, 3.143, 2.998, 2.896, 2.821, 2.764, 2.7181, 2.681, 2.650, 2.624,
    2.602, 2.583, 2.567, 2.552, 2.539, 2.528,
];

impl Times {
    /// `None` for fewer than three rounds, and for times that are zero or no numbers.
    pub(crate) fn ratio(&self) -> Option<Ratio> {
        let n = self.base.len();
        if n < 3 || self.head.len() != n {
            return None;
        }
        let logarithms: Vec<f64> =
            self.head.iter().zip(&self.base).map(|(head, base)| (head / base).ln()).collect();
        let mean = logarithms.iter().sum::<f64>() / n as f64;
        let variance = logarithms.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        // Beyond the table the last value is a little too wide, which raises no alarm.
        let half = STUDENT[(n - 2).min(STUDENT.len() - 1)] * (variance / n as f64).sqrt();
        (mean.is_finite() && half.is_finite()).then(|| Ratio {
            low: (mean - half).exp(),
            middle: mean.exp(),
            high: (mean + half).exp(),
        })
    }
}

/// Ids whose interval lies wholly above the threshold: they are measured again.
pub(crate) fn suspects(series: &Series, threshold: f64) -> Vec<String> {
    let above = |times: &Times| times.ratio().is_some_and(|ratio| ratio.low > 1.0 + threshold);
    series.iter().filter(|(_, times)| above(times)).map(|(id, _)| id.clone()).collect()
}

/// The verdict on one id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Above the threshold twice.
    Slower,
    /// The same, but a commit's message says why.
    Accepted(String),
    /// Above the threshold the first time only.
    NotConfirmed,
    /// The whole interval below 1 / (1 + threshold).
    Faster,
    Level,
    /// Only head has it.
    New,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) first: Option<Ratio>,
    pub(crate) second: Option<Ratio>,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) rows: Vec<Row>,
    /// Empty if all is well.
    pub(crate) failures: Vec<String>,
}

/// The input of a comparison.
pub(crate) struct Evidence<'a> {
    /// Ids that head's page lists.
    pub(crate) expected: &'a BTreeSet<String>,
    /// Ids that base's page lists.
    pub(crate) before: &'a BTreeSet<String>,
    /// Then nothing can be compared.
    pub(crate) first_commit: bool,
    pub(crate) rounds: usize,
    pub(crate) first: &'a Series,
    /// Of the suspects.
    pub(crate) second: &'a Series,
    pub(crate) threshold: f64,
    pub(crate) accepted: &'a [Accepted],
}

pub(crate) fn judge(evidence: &Evidence<'_>) -> Verdict {
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let above = |ratio: Option<Ratio>| ratio.is_some_and(|ratio| ratio.low > 1.0 + evidence.threshold);
    let mut compared = 0;
    for (id, times) in evidence.first {
        let first = times.ratio();
        let second = evidence.second.get(id).and_then(Times::ratio);
        let outcome = match first {
            _ if times.head.len() < evidence.rounds => {
                failures.push(format!(
                    "`{id}`: {} of {} rounds gave an estimate",
                    times.head.len(),
                    evidence.rounds
                ));
                Outcome::Level
            }
            _ if times.base.is_empty() => Outcome::New,
            None => {
                failures.push(format!("`{id}`: base and head have no ratio; base: {:?}", times.base));
                Outcome::Level
            }
            Some(_) if above(first) => match second {
                None => {
                    failures.push(format!("`{id}`: a suspect that was not measured again"));
                    Outcome::Level
                }
                Some(again) if above(second) => {
                    let percent = (again.low - 1.0) * 100.0;
                    match Accepted::find(evidence.accepted, Kind::Time, id, percent) {
                        Some(accepted) => Outcome::Accepted(accepted.reason.clone()),
                        None => {
                            failures.push(format!(
                                "`{id}` is slower: × {:.2}, and × {:.2} when repeated",
                                middle(first),
                                again.middle
                            ));
                            Outcome::Slower
                        }
                    }
                }
                Some(_) => Outcome::NotConfirmed,
            },
            Some(ratio) if ratio.high < 1.0 / (1.0 + evidence.threshold) => Outcome::Faster,
            Some(_) => Outcome::Level,
        };
        compared += usize::from(first.is_some());
        rows.push(Row { id: id.clone(), first, second, outcome });
    }
    for id in evidence.expected.iter().filter(|&id| !evidence.first.contains_key(id)) {
        failures.push(format!("`{id}` is listed, and has no estimate"));
    }
    for id in evidence.first.keys().filter(|&id| !evidence.expected.contains(id)) {
        failures.push(format!("`{id}` has an estimate, and is not listed"));
    }
    for id in evidence.before.difference(evidence.expected) {
        if Accepted::find(evidence.accepted, Kind::Removed, id, 0.0).is_none() {
            failures.push(format!("`{id}` has disappeared"));
        }
    }
    if compared == 0 && !evidence.first_commit {
        failures.push("nothing was compared".to_string());
    }
    Verdict { rows, failures }
}

fn middle(ratio: Option<Ratio>) -> f64 {
    ratio.map_or(f64::NAN, |ratio| ratio.middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers for made-up data (SplitMix64).
    struct Numbers(u64);

    impl Numbers {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Twelve uniform numbers make a normal one, near enough.
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }

        /// `noise` is ordinary. Beside it there is a drift that base and head share, and every tenth
        /// measurement is hit by a neighbour, by up to a third.
        fn times(&mut self, rounds: usize, factor: f64, noise: f64) -> Times {
            let mut times = Times::default();
            for _ in 0..rounds {
                let drift = 1.0 + 0.2 * self.uniform();
                for (side, factor) in [(&mut times.base, 1.0), (&mut times.head, factor)] {
                    let neighbour = if self.uniform() < 0.1 { 1.0 + self.uniform() / 3.0 } else { 1.0 };
                    side.push(100.0 * factor * drift * neighbour * (noise * self.normal()).exp());
                }
            }
            times
        }
    }

    const THRESHOLD: f64 = 0.1;

    fn ids(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn verdict(
        first: &Series,
        second: &Series,
        expected: &[&str],
        before: &[&str],
        accepted: &[Accepted],
    ) -> Verdict {
        judge(&Evidence {
            expected: &ids(expected),
            before: &ids(before),
            first_commit: false,
            rounds: 5,
            first,
            second,
            threshold: THRESHOLD,
            accepted,
        })
    }

    fn one(factor: f64, noise: f64, seed: u64) -> (Series, Series) {
        let mut numbers = Numbers(seed);
        let mut series = || Series::from([("a".to_string(), numbers.times(5, factor, noise))]);
        (series(), series())
    }

    /// 100 runs with 150 ids each, on a machine whose times swing by a fifth: 15,000 chances of a false
    /// alarm.
    #[test]
    fn identical_code_raises_no_alarm() {
        let (mut suspected, mut alarms) = (0, 0);
        for seed in 0..15_000 {
            let (first, second) = one(1.0, 0.12, seed);
            suspected += suspects(&first, THRESHOLD).len();
            alarms += verdict(&first, &second, &["a"], &["a"], &[]).failures.len();
        }
        // Judged once, one in 900 would have been an alarm, and with it every sixth run.
        assert!((10..=25).contains(&suspected), "{suspected}");
        assert_eq!(alarms, 0);
    }

    /// How often five rounds find a slowdown depends on the noise.
    #[test]
    fn a_slowdown_of_30_percent_is_found() {
        let found = |factor, noise| {
            let run = |seed| {
                let (first, second) = one(factor, noise, seed);
                !verdict(&first, &second, &["a"], &["a"], &[]).failures.is_empty()
            };
            (0..1000).filter(|&seed| run(seed)).count()
        };
        assert_eq!(found(1.05, 0.01), 0, "below the threshold");
        let [quiet, noisy] = [found(1.3, 0.01), found(1.3, 0.12)];
        assert!(quiet > 500 && noisy < 100, "{quiet} and {noisy} of 1000");
        assert!(found(2.0, 0.01) > 990);
    }

    #[test]
    fn the_interval_is_students() {
        let times = Times { base: vec![1.0; 3], head: vec![1.0_f64.exp(), 2.0_f64.exp(), 3.0_f64.exp()] };
        let ratio = times.ratio().unwrap();
        // Mean 2, standard deviation 1: 2 ± 6.965 / √3.
        assert!((ratio.middle.ln() - 2.0).abs() < 1e-12);
        assert!((ratio.high.ln() - 2.0 - 6.965 / 3.0_f64.sqrt()).abs() < 1e-12);
        assert!((ratio.low.ln() - 2.0 + 6.965 / 3.0_f64.sqrt()).abs() < 1e-12);
        assert!(Times { base: vec![1.0, 1.0], head: vec![1.0, 1.0] }.ratio().is_none());
        assert!(Times { base: vec![0.0, 1.0, 1.0], head: vec![1.0; 3] }.ratio().is_none());
    }

    fn steady(factor: f64) -> Times {
        Times { base: vec![100.0, 101.0, 99.0, 100.0, 102.0], head: [100.0; 5].map(|t| t * factor).to_vec() }
    }

    #[test]
    fn what_is_slower_only_once_is_no_regression() {
        let series = |factor| Series::from([("a".to_string(), steady(factor))]);
        let outcome = |first, second| {
            let verdict = verdict(&series(first), &series(second), &["a"], &["a"], &[]);
            (verdict.rows[0].outcome.clone(), verdict.failures.len())
        };
        assert_eq!(outcome(1.3, 1.3), (Outcome::Slower, 1));
        assert_eq!(outcome(1.3, 1.0), (Outcome::NotConfirmed, 0));
        assert_eq!(outcome(1.0, 1.3), (Outcome::Level, 0));
        assert_eq!(outcome(0.7, 0.7), (Outcome::Faster, 0));
        // The suspect was not repeated.
        assert_eq!(verdict(&series(1.3), &Series::new(), &["a"], &["a"], &[]).failures.len(), 1);
    }

    #[test]
    fn a_reason_accepts_what_it_names_and_no_more() {
        let series = Series::from([("nn/a".to_string(), steady(1.3))]);
        let fails = |line: &str| {
            let accepted = crate::accept::parse(line).unwrap();
            verdict(&series, &series, &["nn/a"], &["nn/a"], &accepted).failures.len()
        };
        assert_eq!(fails("Accept-cost: time nn/a +40% exact sums"), 0);
        assert_eq!(fails("Accept-cost: time nn/* +40% exact sums"), 0);
        assert_eq!(fails("Accept-cost: time nn/a +20% exact sums"), 1);
        assert_eq!(fails("Accept-cost: time io/a +40% exact sums"), 1);
        assert_eq!(fails("Accept-cost: instructions nn/a +40% exact sums"), 1);
    }

    #[test]
    fn what_is_missing_is_found() {
        let series = Series::from([("a".to_string(), steady(1.0))]);
        let failures = |expected: &[&str], before: &[&str]| {
            verdict(&series, &Series::new(), expected, before, &[]).failures
        };
        assert_eq!(failures(&["a"], &["a"]), [""; 0]);
        assert_eq!(failures(&["a"], &[]), [""; 0]);
        assert_eq!(failures(&["a", "b"], &["a"]), ["`b` is listed, and has no estimate"]);
        assert_eq!(failures(&[], &[]), ["`a` has an estimate, and is not listed"]);
        assert_eq!(failures(&["a"], &["a", "c"]), ["`c` has disappeared"]);
        assert_eq!(verdict(&Series::new(), &Series::new(), &[], &[], &[]).failures, ["nothing was compared"]);

        // Unless there is nothing to compare with.
        let new = Series::from([("a".to_string(), Times { base: vec![], head: vec![1.0; 5] })]);
        let (none, expected) = (BTreeSet::new(), ids(&["a"]));
        let mut evidence = Evidence {
            expected: &expected,
            before: &none,
            first_commit: true,
            rounds: 5,
            first: &new,
            second: &Series::new(),
            threshold: THRESHOLD,
            accepted: &[],
        };
        assert_eq!(judge(&evidence).failures, [""; 0]);
        evidence.first_commit = false;
        assert_eq!(judge(&evidence).failures, ["nothing was compared"]);

        // A round in which head gave no estimate.
        let mut times = steady(1.0);
        times.head.pop();
        let series = Series::from([("a".to_string(), times)]);
        assert_eq!(
            verdict(&series, &series, &["a"], &["a"], &[]).failures[0],
            "`a`: 4 of 5 rounds gave an estimate"
        );

        // New on this branch, beside one that is compared.
        let new = Times { base: vec![], head: vec![1.0; 5] };
        let series = Series::from([("a".to_string(), steady(1.0)), ("b".to_string(), new)]);
        let verdict = verdict(&series, &Series::new(), &["a", "b"], &["a"], &[]);
        assert_eq!((verdict.failures.len(), &verdict.rows[1].outcome), (0, &Outcome::New));
    }
}
