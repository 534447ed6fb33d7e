//! The rule for times. Pure: measurements in, verdicts out.
//!
//! A round runs base and head one after the other, and gives one time of each. Two intervals are taken for
//! the ratio head/base, and neither asks how the times are distributed (`Times::ratio`). Eight rounds are
//! the first look; an id whose interval can't tell a slowdown of 30 % from none gets further ones. An id is
//! a **regression** when the whole interval lies above 1 + threshold, and lies there again in a second
//! series. Only suspects get one, and it shares no measurement with the first. One unlucky series is
//! frequent among some hundred benchmarks; two of the same id are not.

use std::collections::{BTreeMap, BTreeSet};

use crate::accept::{Accepted, Kind};

/// Rounds between two looks at an id's interval, and the least of which there is one.
pub(crate) const ROUNDS: usize = 8;

/// The ratio that an interval has to tell from no change, or its id gets further rounds.
const SLOWDOWN: f64 = 1.3;

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
    /// The median of the rounds' ratios; the nearer end, if it lies outside of the interval.
    pub(crate) middle: f64,
    pub(crate) high: f64,
}

/// How often one end of one of the two intervals is wrong: both are intervals of 99 %, and their common part
/// is one of 98 %.
const ERROR: f64 = 0.005;

/// The k-th smallest of `n` ratios is above their true median with probability [`ERROR`] at most: each is
/// above or below it as a coin falls. The largest such k, or 0.
fn rank_of_median(n: usize) -> usize {
    let (mut rank, mut exactly, mut fewer) = (0, 0.5_f64.powi(n as i32), 0.0);
    while rank < n && fewer + exactly <= ERROR {
        fewer += exactly;
        exactly *= (n - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    rank
}

/// Of two sides with `n` times each and no difference, the fastest of one is slower than the k-th fastest of
/// the other with probability [`ERROR`] at most: the k fastest of all would have to be on one side. The
/// smallest such k.
fn rank_of_fastest(n: usize) -> Option<usize> {
    let mut on_one_side = 1.0;
    (0..n).find_map(|i| {
        on_one_side *= (n - i) as f64 / (2 * n - i) as f64;
        (on_one_side <= ERROR).then_some(i + 1)
    })
}

impl Times {
    /// `None` for fewer than eight rounds, and for times that are zero or no numbers.
    ///
    /// The interval is the common part of two. **Rounds**: an order-statistic interval of the median of the
    /// rounds' ratios. It holds while a machine's state lasts longer than a round, for then both sides of
    /// most rounds are in the same state. **Fastest**: from head's fastest time over base's k-th fastest to
    /// head's k-th fastest over base's fastest. It holds while each side meets the machine's fastest state
    /// now and then, however short that is. If they contradict each other, the interval spans both, and
    /// tells nothing.
    pub(crate) fn ratio(&self) -> Option<Ratio> {
        let n = self.base.len();
        if n < ROUNDS || self.head.len() != n {
            return None;
        }
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        let ratios = sorted(self.head.iter().zip(&self.base).map(|(head, base)| head / base).collect());
        let (base, head) = (sorted(self.base.clone()), sorted(self.head.clone()));
        // The extremes, because NaN is sorted to an end.
        if ![ratios[0], ratios[n - 1]].iter().all(|&ratio| ratio > 0.0 && ratio.is_finite()) {
            return None;
        }
        let (k, j) = (rank_of_median(n).checked_sub(1)?, rank_of_fastest(n)? - 1);
        let rounds = [ratios[k], ratios[n - 1 - k]];
        let fastest = [head[0] / base[j], head[j] / base[0]];
        let (mut low, mut high) = (rounds[0].max(fastest[0]), rounds[1].min(fastest[1]));
        if low > high {
            (low, high) = (rounds[0].min(fastest[0]), rounds[1].max(fastest[1]));
        }
        let middle = (ratios[(n - 1) / 2] * ratios[n / 2]).sqrt();
        Some(Ratio { low, middle: middle.clamp(low, high), high })
    }
}

impl Ratio {
    pub(crate) fn is_above(&self, threshold: f64) -> bool {
        self.low > 1.0 + threshold
    }

    /// Neither a slowdown above the threshold, nor sure to be less than 30 %.
    pub(crate) fn is_open(&self, threshold: f64) -> bool {
        !self.is_above(threshold) && self.high >= SLOWDOWN.max(1.0 + threshold)
    }
}

/// Ids for which further rounds may tell more.
pub(crate) fn open(series: &Series, threshold: f64) -> Vec<String> {
    chosen(series, |ratio| ratio.is_open(threshold))
}

/// Ids whose interval lies wholly above the threshold: they are measured again.
pub(crate) fn suspects(series: &Series, threshold: f64) -> Vec<String> {
    chosen(series, |ratio| ratio.is_above(threshold))
}

fn chosen(series: &Series, condition: impl Fn(&Ratio) -> bool) -> Vec<String> {
    let ratios = series.iter().filter_map(|(id, times)| Some((id, times.ratio()?)));
    ratios.filter(|(_, ratio)| condition(ratio)).map(|(id, _)| id.clone()).collect()
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
    pub(crate) first: &'a Series,
    /// Of the suspects.
    pub(crate) second: &'a Series,
    pub(crate) threshold: f64,
    pub(crate) accepted: &'a [Accepted],
}

pub(crate) fn judge(evidence: &Evidence<'_>) -> Verdict {
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let above = |ratio: Option<Ratio>| ratio.is_some_and(|ratio| ratio.is_above(evidence.threshold));
    let mut compared = 0;
    for (id, times) in evidence.first {
        let first = times.ratio();
        let second = evidence.second.get(id).and_then(Times::ratio);
        let outcome = match first {
            _ if !times.head.len().is_multiple_of(ROUNDS) => {
                let (there, all) = (times.head.len(), times.head.len().next_multiple_of(ROUNDS));
                failures.push(format!("`{id}`: {there} of {all} rounds gave an estimate"));
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

        fn hits(&mut self, probability: f64) -> bool {
            self.uniform() < probability
        }
    }

    /// A machine. Its times have an ordinary noise (the standard deviation of their logarithm). A drift by a
    /// fifth is shared by both sides of a round, and every tenth turn is hit by a neighbor, by up to a
    /// third.
    #[derive(Clone, Copy, Debug)]
    struct Machine {
        noise: f64,
        /// With this probability it enters its other state before a turn. In one of them all takes 1.42
        /// times as long: 173 and 247 µs were measured.
        changes: f64,
    }

    /// One state: nobody else is there; somebody is.
    const QUIET: Machine = Machine { noise: 0.01, changes: 0.0 };
    const ROUGH: Machine = Machine { noise: 0.12, changes: 0.0 };
    /// Two states that last ten turns, and two that change from turn to turn.
    const SLOW_CHANGES: Machine = Machine { noise: 0.06, changes: 0.1 };
    const FAST_CHANGES: Machine = Machine { noise: 0.03, changes: 0.5 };
    /// All at once.
    const WORST: Machine = Machine { noise: 0.12, changes: 0.3 };

    /// The most rounds for an id, as by default.
    const MOST: usize = 40;

    impl Machine {
        /// As many rounds as it takes to tell, in eights.
        fn series(self, numbers: &mut Numbers, factor: f64) -> Series {
            let mut series = Series::from([("a".to_string(), Times::default())]);
            let mut slow = numbers.hits(0.5);
            for round in 0..MOST {
                let drift = 1.0 + 0.2 * numbers.uniform();
                let mut turn = |factor: f64| {
                    slow ^= numbers.hits(self.changes);
                    let state = if slow { 1.42 } else { 1.0 };
                    let neighbor = if numbers.hits(0.1) { 1.0 + numbers.uniform() / 3.0 } else { 1.0 };
                    100.0 * factor * drift * state * neighbor * (self.noise * numbers.normal()).exp()
                };
                let (base, head) = match round % 2 {
                    0 => (turn(1.0), turn(factor)),
                    _ => {
                        let head = turn(factor);
                        (turn(1.0), head)
                    }
                };
                for times in series.values_mut() {
                    times.base.push(base);
                    times.head.push(head);
                }
                if (round + 1).is_multiple_of(ROUNDS) && open(&series, THRESHOLD).is_empty() {
                    break;
                }
            }
            series
        }

        /// Ids that are suspects, and alarms, of so many ids.
        fn judged(self, ids: u64, factor: f64) -> (usize, usize) {
            let (mut suspected, mut alarms) = (0, 0);
            for seed in 0..ids {
                let mut numbers = Numbers(seed);
                let [first, second] = [(); 2].map(|()| self.series(&mut numbers, factor));
                suspected += suspects(&first, THRESHOLD).len();
                alarms += verdict(&first, &second, &["a"], &["a"], &[]).failures.len();
            }
            (suspected, alarms)
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
            first,
            second,
            threshold: THRESHOLD,
            accepted,
        })
    }

    /// On each machine 100 runs with 150 ids each: 15,000 chances of a false alarm.
    #[test]
    fn identical_code_raises_no_alarm() {
        for machine in [QUIET, ROUGH, SLOW_CHANGES, FAST_CHANGES, WORST] {
            let (suspected, alarms) = machine.judged(15_000, 1.0);
            assert_eq!(alarms, 0, "{machine:?}");
            // Judged once, these would have been alarms.
            let expected =
                if machine.noise == WORST.noise && machine.changes > 0.0 { 5..=20 } else { 0..=10 };
            assert!(expected.contains(&suspected), "{machine:?}: {suspected}");
        }
    }

    /// And one of 5 % never, for it lies below the threshold.
    #[test]
    fn a_slowdown_of_30_percent_is_found() {
        let found = |machine: Machine, factor| machine.judged(1000, factor).1;
        for machine in [QUIET, SLOW_CHANGES, FAST_CHANGES, ROUGH, WORST] {
            assert_eq!(found(machine, 1.05), 0, "{machine:?}");
        }
        for machine in [QUIET, SLOW_CHANGES, FAST_CHANGES] {
            let found = found(machine, 1.3);
            assert!(found >= 950, "{machine:?}: {found} of 1000");
        }
        // Too much of everything hides some.
        let [rough, worst] = [ROUGH, WORST].map(|machine| found(machine, 1.3));
        assert!(rough >= 900 && worst >= 500, "{rough} and {worst} of 1000");
    }

    /// More rounds only where they may tell more.
    #[test]
    fn an_interval_is_open_until_it_tells() {
        let is_open = |low, high| Ratio { low, middle: low, high }.is_open(THRESHOLD);
        assert!(!is_open(0.9, 1.29) && !is_open(1.11, 1.5));
        assert!(is_open(0.9, 1.3) && is_open(1.1, 1.5));
        // A threshold above 30 % asks for less.
        assert!(!Ratio { low: 0.9, middle: 1.0, high: 1.4 }.is_open(0.5));
        let rounds = |machine: Machine| {
            let of = |seed| machine.series(&mut Numbers(seed), 1.0)["a"].base.len();
            (0..1000).map(of).sum::<usize>()
        };
        let [quiet, worst] = [rounds(QUIET), rounds(WORST)];
        assert!(quiet < 9_000 && worst > 12_000, "{quiet} and {worst} of 1000 ids");
    }

    /// Binomial coefficients, by hand.
    #[test]
    fn ranks_err_once_in_200() {
        // 1/2⁷ = 0.8 %, 1/2⁸ = 0.4 %; of 16 the sum 1 + 16 + 120 = 137 of 65,536 is 0.2 %, with 560 more 1.1
        // %.
        assert_eq!([7, 8, 16].map(rank_of_median), [0, 1, 3]);
        // The k fastest of 16 on the side of 8: 1/2 · 7/15 · 6/14 · 5/13 · 4/12 = 1.3 %, and · 3/11 0.35 %.
        assert_eq!(rank_of_fastest(8), Some(6));
        assert_eq!(rank_of_fastest(3), None);
        // Of many: 1/2⁸.
        assert_eq!(rank_of_fastest(1000), Some(8));
    }

    #[test]
    fn the_interval_is_what_both_agree_on() {
        let ratio = |base: [f64; 8], head: [f64; 8]| {
            let r = Times { base: base.to_vec(), head: head.to_vec() }.ratio().unwrap();
            [r.low, r.middle, r.high].map(|ratio| (ratio * 1000.0).round() / 1000.0)
        };
        let both = [10.0, 20.0, 10.0, 20.0, 10.0, 20.0, 10.0, 20.0];
        // Two states that last: the ratio of every round is 1.3, and the sixth fastest is in the slow state.
        assert_eq!(ratio(both, both.map(|time| 1.3 * time)), [1.3, 1.3, 1.3]);
        // Each side is in the slow state twice, at different times: the rounds' ratios reach from 0.65 to
        // 2.6.
        let base = [10.0, 10.0, 10.0, 20.0, 20.0, 10.0, 10.0, 10.0];
        let head = [26.0, 26.0, 13.0, 13.0, 13.0, 13.0, 13.0, 13.0];
        assert_eq!(ratio(base, head), [1.3, 1.3, 1.3]);
        // They contradict each other: the fast state is the same on both sides, but head is rarely in it.
        let head = [vec![10.0; 8], vec![20.0; 32]].concat();
        let ratio = Times { base: vec![10.0; 40], head }.ratio().unwrap();
        assert_eq!([ratio.low, ratio.middle, ratio.high], [1.0, 2.0, 2.0]);
        assert!(Times { base: vec![1.0; 7], head: vec![1.0; 7] }.ratio().is_none());
        assert!(Times { base: vec![1.0; 8], head: vec![1.0; 9] }.ratio().is_none());
        for wrong in [0.0, f64::NAN, f64::INFINITY] {
            let mut times = steady(1.0);
            times.base[3] = wrong;
            assert!(times.ratio().is_none(), "{wrong}");
        }
    }

    fn steady(factor: f64) -> Times {
        let base = vec![100.0, 101.0, 99.0, 100.0, 102.0, 100.0, 100.0, 98.0];
        Times { base, head: vec![100.0 * factor; 8] }
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
        let new = Series::from([("a".to_string(), Times { base: vec![], head: vec![1.0; 8] })]);
        let (none, expected) = (BTreeSet::new(), ids(&["a"]));
        let mut evidence = Evidence {
            expected: &expected,
            before: &none,
            first_commit: true,
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
            "`a`: 7 of 8 rounds gave an estimate"
        );

        // New on this branch, beside one that is compared.
        let new = Times { base: vec![], head: vec![1.0; 8] };
        let series = Series::from([("a".to_string(), steady(1.0)), ("b".to_string(), new)]);
        let verdict = verdict(&series, &Series::new(), &["a", "b"], &["a"], &[]);
        assert_eq!((verdict.failures.len(), &verdict.rows[1].outcome), (0, &Outcome::New));
    }
}
