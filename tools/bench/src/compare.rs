//! Times of two commits, taken in turn.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::criterion::{self, Settings};
use crate::times::{Evidence, Outcome, Ratio, Series, Times, Verdict, judge, suspects};
use crate::tree::{Base, Programs, Tree};
use crate::{Result, accept, ids, machine, report, tree};

pub(crate) struct Options {
    pub(crate) base: String,
    pub(crate) crates: Option<Vec<String>>,
    pub(crate) rounds: usize,
    pub(crate) threshold: f64,
    pub(crate) seconds: f64,
    pub(crate) samples: usize,
    pub(crate) only: String,
    pub(crate) out: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let head = Tree::here()?;
    let names = head.timed(options.crates.as_deref())?;
    let commit = Tree::merge_base(&options.base)?;
    let accepted = accept::since(&commit)?;
    eprintln!("building {} of the working tree", names.join(", "));
    let programs = head.build(&names)?;
    let base = tree::base(&head, &commit, &names)?;

    let out = options.out.clone().unwrap_or_else(|| head.target.join("bench"));
    let raw = out.join("criterion");
    if raw.exists() {
        fs::remove_dir_all(&raw)?;
    }
    let settings = Settings { seconds: options.seconds, samples: options.samples };
    let sides =
        Sides { head: (&head.root, &programs), base: (&base.root, &base.programs), settings, raw: &raw };
    let filter = (!options.only.is_empty()).then(|| criterion::literally(&options.only));
    let mut first = Series::new();
    for round in 0..options.rounds {
        for name in &names {
            sides.measure("first", round, name, filter.as_deref(), &mut first)?;
        }
    }
    let again = suspects(&first, options.threshold);
    let mut second = Series::new();
    for round in 0..if again.is_empty() { 0 } else { options.rounds } {
        for name in &names {
            let own = again.iter().filter_map(|id| id.strip_prefix(name)?.strip_prefix('/'));
            let own: Vec<&str> = own.collect();
            if !own.is_empty() {
                sides.measure("second", round, name, Some(&criterion::exactly(&own)), &mut second)?;
            }
        }
    }

    let wanted = |id: &String| {
        let of_these =
            |name: &String| id.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'));
        names.iter().any(of_these) && id.contains(&options.only)
    };
    let listed = ids::here(&head.root)?.timed.into_iter().filter(wanted).collect();
    let before = ids::at(&commit)?.map(|ids| ids.timed.into_iter().filter(wanted).collect::<BTreeSet<_>>());
    let verdict = judge(&Evidence {
        expected: &listed,
        before: &before.unwrap_or_default(),
        rounds: options.rounds,
        first: &first,
        second: &second,
        threshold: options.threshold,
        accepted: &accepted,
    });
    let results = json!({
        "kind": "times",
        "base": commit,
        "head": report::head()?,
        "machine": machine::describe(),
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "samples": options.samples},
        "first": to_json(&first),
        "second": to_json(&second),
        "failures": verdict.failures,
    });
    report::save(&out.join(format!("times-{}.json", names.join("-"))), &results)?;
    report::show(&markdown(&verdict, &names, options, &commit, &base))?;
    Ok(verdict.failures.is_empty())
}

/// Where the programs are, and how they are run.
struct Sides<'a> {
    head: (&'a Path, &'a Programs),
    base: (&'a Path, &'a Programs),
    settings: Settings,
    raw: &'a Path,
}

impl Sides<'_> {
    /// One target on both sides, one after the other. Every other round begins with head, so that a machine that becomes
    /// slower favours neither.
    fn measure(
        &self,
        part: &str,
        round: usize,
        name: &str,
        filter: Option<&str>,
        series: &mut Series,
    ) -> Result<()> {
        eprintln!("{part} series, round {}: {name}", round + 1);
        let mut measured = [None, None];
        for i in [round % 2, 1 - round % 2] {
            let (side, (root, programs)) = [("base", self.base), ("head", self.head)][i];
            // The base may not have this target.
            if let Some(program) = programs.get(name) {
                let home = self.raw.join(part).join((round + 1).to_string()).join(side).join(name);
                measured[i] = Some(criterion::run(program, root, &home, filter, &self.settings)?);
            }
        }
        let [base, head] = measured.map(Option::unwrap_or_default);
        // What only the base has is found by the lists of ids.
        for (id, &time) in &head {
            let times: &mut Times = series.entry(format!("{name}/{id}")).or_default();
            times.head.push(time);
            times.base.extend(base.get(id));
        }
        Ok(())
    }
}

fn to_json(series: &Series) -> Value {
    series.iter().map(|(id, times)| (id.clone(), json!({"base": times.base, "head": times.head}))).collect()
}

fn markdown(verdict: &Verdict, names: &[String], options: &Options, commit: &str, base: &Base) -> String {
    let Options { rounds, threshold, .. } = options;
    let mut text = format!("## Times: {}\n\n", names.join(", "));
    text += &report::failures(&verdict.failures, "No regression.");
    let ratios: Vec<Ratio> = verdict.rows.iter().filter_map(|row| row.first).collect();
    let n = ratios.len() as f64;
    let mean = (ratios.iter().map(|ratio| ratio.middle.ln()).sum::<f64>() / n).exp();
    let mut widths: Vec<f64> = ratios.iter().map(|ratio| (ratio.high / ratio.middle - 1.0) * 100.0).collect();
    widths.sort_by(f64::total_cmp);
    let blind = ratios.iter().filter(|ratio| 1.3 * ratio.low / ratio.middle <= 1.0 + threshold).count();
    text += &format!(
        "{} ids against `{commit:.12}` in {rounds} rounds; all together × {mean:.3}. Half of the 98 % intervals are \
         narrower than ± {:.1} %. {blind} are so wide that 30 % would not show.\n\n",
        ratios.len(),
        widths.get(widths.len() / 2).copied().unwrap_or(f64::NAN),
    );
    if let Some(note) = &base.note {
        text += &format!("{note}\n\n");
    }
    const HEAD: &str = "| id | head / base | interval | repeated | |\n|---|---:|---:|---:|---|\n";
    let row = |row: &crate::times::Row| {
        let interval = |ratio: Option<Ratio>| {
            ratio.map_or(["–".to_string(), "–".to_string()], |r| {
                [format!("× {:.3}", r.middle), format!("{:.3} … {:.3}", r.low, r.high)]
            })
        };
        let ([middle, first], [_, second]) = (interval(row.first), interval(row.second));
        let outcome = match &row.outcome {
            Outcome::Slower => "**slower**".to_string(),
            Outcome::Accepted(reason) => format!("slower, accepted: {reason}"),
            Outcome::NotConfirmed => "not confirmed".to_string(),
            Outcome::Faster => "faster".to_string(),
            Outcome::Level => String::new(),
            Outcome::New => "new".to_string(),
        };
        format!("| `{}` | {middle} | {first} | {second} | {outcome} |\n", row.id)
    };
    let telling: String = verdict.rows.iter().filter(|row| row.outcome != Outcome::Level).map(row).collect();
    if !telling.is_empty() {
        text += &format!("{HEAD}{telling}\n");
    }
    let all: String = verdict.rows.iter().map(row).collect();
    text + &format!("<details><summary>all ids</summary>\n\n{HEAD}{all}\n</details>\n")
}
