//! The rule for counts. Pure: counts in, verdicts out.
//!
//! A busy machine gives the same counts, so one run is enough. More instructions than the threshold allows is
//! a regression, and so is one allocation more in a warm call.
//!
//! The same function takes other numbers of instructions in another program: addresses differ, and so do
//! the functions inlined around it. A change elsewhere moved workloads of some thousand instructions by
//! 0.7 %, from [`LARGE`] on by 0.3 %. So there are two thresholds.

use std::collections::{BTreeMap, BTreeSet};

use crate::accept::{Accepted, Kind};

/// Of one warm call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) instructions: f64,
    pub(crate) allocations: u64,
    pub(crate) bytes: u64,
}

pub(crate) type Costs = BTreeMap<String, Cost>;

pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) base: Option<Cost>,
    pub(crate) head: Cost,
    pub(crate) remark: String,
}

impl Row {
    /// Change of instructions in percent.
    pub(crate) fn rise(&self) -> Option<f64> {
        self.base.map(|base| (self.head.instructions / base.instructions - 1.0) * 100.0)
    }
}

/// From so many instructions on the first of [`THRESHOLDS`] holds, below it the second.
const LARGE: f64 = 10_000.0;
pub(crate) const THRESHOLDS: [f64; 2] = [0.01, 0.02];

/// The suffix of a layer's id for the workload that does the same without the layer. The layer may take 2 %
/// more, or so many instructions, which a pass takes around a few layers.
const BY_HAND: &str = "/by_hand";
const PASS: f64 = 5_000.0;

pub(crate) struct Verdict {
    pub(crate) rows: Vec<Row>,
    /// Empty if all is well.
    pub(crate) failures: Vec<String>,
}

/// `base` is `None` if nothing can be compared.
pub(crate) fn judge(
    base: Option<&Costs>,
    head: &Costs,
    expected: &BTreeSet<String>,
    before: &BTreeSet<String>,
    [large, small]: [f64; 2],
    accepted: &[Accepted],
) -> Verdict {
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let mut compared = 0;
    for (id, &cost) in head {
        let mut row = Row {
            id: id.clone(),
            base: base.and_then(|base| base.get(id)).copied(),
            head: cost,
            remark: String::new(),
        };
        let mut judge = |kind, rise: f64, what: String| match Accepted::find(accepted, kind, id, rise) {
            Some(accepted) => row.remark += &format!("{what}, accepted: {}. ", accepted.reason),
            None => {
                row.remark += &format!("**{what}**. ");
                failures.push(format!("`{id}`: {what}"));
            }
        };
        match row.base {
            None => row.remark += "new",
            Some(before) => {
                compared += 1;
                let rise = (cost.instructions / before.instructions - 1.0) * 100.0;
                // NaN must not pass as "not above".
                let threshold = if before.instructions >= LARGE { large } else { small };
                if rise.is_nan() || cost.instructions > before.instructions * (1.0 + threshold) {
                    // As printed, so the printed bound can be accepted.
                    let rise = (rise * 10.0).round() / 10.0;
                    judge(Kind::Instructions, rise, format!("{rise:+.1} % instructions"));
                }
                if cost.allocations > before.allocations {
                    let more = cost.allocations - before.allocations;
                    judge(Kind::Allocations, more as f64, format!("{more:+} allocations"));
                }
            }
        }
        rows.push(row);
    }
    for (id, by_hand) in head {
        if let Some(cost) = id.strip_suffix(BY_HAND).and_then(|id| head.get(id)) {
            let more = cost.instructions - by_hand.instructions;
            if more.is_nan() || more > PASS.max(0.02 * by_hand.instructions) {
                failures.push(format!("`{id}` takes {more:.0} instructions less"));
            }
        }
    }
    for id in expected.iter().filter(|&id| !head.contains_key(id)) {
        failures.push(format!("`{id}` is listed, and was not counted"));
    }
    for id in head.keys().filter(|&id| !expected.contains(id)) {
        failures.push(format!("`{id}` was counted, and is not listed"));
    }
    for id in before.difference(expected) {
        if Accepted::find(accepted, Kind::Removed, id, 0.0).is_none() {
            failures.push(format!("`{id}` has disappeared"));
        }
    }
    if compared == 0 && base.is_some() {
        failures.push("nothing was compared".to_string());
    }
    Verdict { rows, failures }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept;

    fn costs(rows: &[(&str, f64, u64)]) -> Costs {
        let cost = |&(id, instructions, allocations): &(&str, f64, u64)| {
            (id.to_string(), Cost { instructions, allocations, bytes: 64 * allocations })
        };
        rows.iter().map(cost).collect()
    }

    fn failures(base: &[(&str, f64, u64)], head: &[(&str, f64, u64)], message: &str) -> Vec<String> {
        let [base, head] = [base, head].map(costs);
        let listed = head.keys().cloned().collect();
        let before = base.keys().cloned().collect();
        judge(Some(&base), &head, &listed, &before, THRESHOLDS, &accept::parse(message).unwrap()).failures
    }

    #[test]
    fn one_percent_of_many_instructions_two_of_few_and_one_allocation() {
        for (before, allowed, too_many) in [(9_999.0, 10_198.0, 10_199.5), (10_000.0, 10_100.0, 10_101.0)] {
            let of = |instructions| failures(&[("nn/a", before, 0)], &[("nn/a", instructions, 0)], "").len();
            assert_eq!((of(allowed), of(too_many)), (0, 1), "{before}");
        }
        let base = [("nn/a", 1000.0, 0), ("nn/b", 1000.0, 3)];
        assert_eq!(failures(&base, &base, ""), [""; 0]);
        assert_eq!(failures(&base, &[("nn/a", 1020.0, 0), ("nn/b", 900.0, 2)], ""), [""; 0]);
        assert_eq!(
            failures(&base, &[("nn/a", 1021.0, 0), ("nn/b", 1000.0, 3)], ""),
            ["`nn/a`: +2.1 % instructions"]
        );
        assert_eq!(
            failures(&base, &[("nn/a", 1000.0, 1), ("nn/b", 1000.0, 3)], ""),
            ["`nn/a`: +1 allocations"]
        );
        assert_eq!(failures(&base, &[("nn/a", f64::NAN, 0), ("nn/b", 1000.0, 3)], "").len(), 1);
    }

    #[test]
    fn what_is_there_by_hand_too_may_take_2_percent_more() {
        let of = |instructions, by_hand| {
            let costs = [("nn/a", instructions, 0), ("nn/a/by_hand", by_hand, 0)];
            failures(&costs, &costs, "")
        };
        assert_eq!(of(15_000.0, 10_000.0), [""; 0]);
        assert_eq!(of(5_000.0, 10_000.0), [""; 0]);
        assert_eq!(of(15_100.0, 10_000.0), ["`nn/a/by_hand` takes 5100 instructions less"]);
        assert_eq!(of(1_020_000.0, 1_000_000.0), [""; 0]);
        assert_eq!(of(1_030_000.0, 1_000_000.0), ["`nn/a/by_hand` takes 30000 instructions less"]);
        assert_eq!(of(f64::NAN, 10_000.0).len(), 2);
    }

    #[test]
    fn accepted_rises_pass() {
        let (base, head) = ([("nn/a", 1000.0, 0)], [("nn/a", 1100.0, 1)]);
        let [instructions, allocations] =
            ["Accept-cost: instructions nn/a +10% safer\n", "Accept-cost: allocations nn/a +1 safer\n"];
        assert_eq!(failures(&base, &head, "").len(), 2);
        assert_eq!(failures(&base, &head, instructions), ["`nn/a`: +1 allocations"]);
        assert_eq!(failures(&base, &head, allocations), ["`nn/a`: +10.0 % instructions"]);
        assert_eq!(failures(&base, &head, &format!("{instructions}{allocations}")), [""; 0]);
        assert_eq!(failures(&base, &[("nn/a", 1200.0, 0)], instructions).len(), 1);
    }

    #[test]
    fn what_is_missing_is_found() {
        let (a, b) = (("nn/a", 1000.0, 0), ("nn/b", 1000.0, 0));
        assert_eq!(failures(&[a], &[a, b], ""), [""; 0], "b is new");
        assert_eq!(failures(&[a, b], &[a], ""), ["`nn/b` has disappeared"]);
        assert_eq!(failures(&[a, b], &[a], "Accept-cost: removed nn/b gone"), [""; 0]);
        assert_eq!(failures(&[], &[a], ""), ["nothing was compared"]);
        assert_eq!(failures(&[], &[], ""), ["nothing was compared"]);
        let (one, listed) = (costs(&[a]), BTreeSet::from(["nn/a".to_string()]));
        let first = judge(None, &one, &listed, &BTreeSet::new(), THRESHOLDS, &[]);
        assert_eq!(first.failures, [""; 0], "the first commit");
        let one = costs(&[a]);
        let listed = BTreeSet::from(["nn/b".to_string()]);
        let verdict = judge(Some(&one), &one, &listed, &BTreeSet::new(), THRESHOLDS, &[]);
        let said = ["`nn/b` is listed, and was not counted", "`nn/a` was counted, and is not listed"];
        assert_eq!(verdict.failures, said);
    }
}
