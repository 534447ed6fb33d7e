//! Times of two commits, taken in turn.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::criterion::{self, Settings};
use crate::git::Repository;
use crate::process::tell;
use crate::times::{Evidence, Outcome, ROUNDS, Ratio, Series, Times, Verdict, judge, open, suspects};
use crate::tree::{Programs, Sides, Tree};
use crate::{Result, accept, ids, machine, report};

pub(crate) struct Options {
    pub(crate) base: String,
    pub(crate) crates: Option<Vec<String>>,
    /// The most for an id.
    pub(crate) rounds: usize,
    pub(crate) threshold: f64,
    pub(crate) seconds: f64,
    pub(crate) samples: usize,
    pub(crate) only: String,
    pub(crate) out: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let here = Tree::here()?;
    // Before anything is built: no verdict without the page.
    let listed = ids::here(&here.root)?;
    let names = here.timed(options.crates.as_deref())?;
    let repository = Repository::of(&here.root)?;
    let against = repository.against(&options.base)?;
    let commit = against.commit.as_deref();
    let before = commit.map(|commit| ids::at(&repository, commit)).transpose()?.flatten();
    let accepted = accept::since(&repository, &against)?;
    let described = report::head(&repository)?;
    let out = report::folder(options.out.as_deref(), &here.target)?;
    let sides = here.build_both(&repository, &against, &names, &out)?;

    let places = Places::copy(&out.join("programs"), &sides.head.programs, &sides.base.programs)?;
    let home = out.join("criterion");
    if home.exists() {
        // Of a run that was ended.
        fs::remove_dir_all(&home)?;
    }
    let mut turns = Turns { sides: &sides, home, places };
    let mut all = Vec::new();
    for name in &names {
        let ids = criterion::list(&sides.head.programs[name], &sides.head.root)?;
        all.extend(ids.iter().map(|id| format!("{name}/{id}")).filter(|id| id.contains(&options.only)));
    }
    let first = turns.series("first", all, options)?;
    let second = turns.series("second", suspects(&first, options.threshold), options)?;

    let wanted = |id: &String| {
        let of_these =
            |name: &String| id.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'));
        names.iter().any(of_these) && id.contains(&options.only)
    };
    let listed = listed.timed.into_iter().filter(wanted).collect();
    let before = before.unwrap_or_default().timed.into_iter().filter(wanted).collect();
    let verdict = judge(&Evidence {
        expected: &listed,
        before: &before,
        first_commit: commit.is_none(),
        first: &first,
        second: &second,
        threshold: options.threshold,
        accepted: &accepted,
    });
    let results = json!({
        "kind": "times",
        "base": commit,
        "head": described,
        "machine": machine::describe(),
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "samples": options.samples},
        "first": to_json(&first),
        "second": to_json(&second),
        "failures": verdict.failures,
    });
    report::save(&out.join(format!("times-{}.json", names.join("-"))), &results)?;
    report::show(&markdown(&verdict, &first, &names, options.threshold, commit, sides.note.as_deref()))?;
    Ok(verdict.failures.is_empty())
}

/// Copies of both sides' programs, under paths of equal length.
///
/// A program's path is one of its first allocations, and moves all later ones. Under a path longer by a few
/// characters the same code took 1.4 times as long to fill a matrix, in every process, because the matrix lay
/// differently. So both sides have equally long paths, and each round has others: the effect of the path
/// widens the interval, and favors no side.
struct Places {
    folder: PathBuf,
    now: PathBuf,
}

impl Places {
    fn copy(folder: &Path, head: &Programs, base: &Programs) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        for (side, programs) in [("head", head), ("base", base)] {
            let to = folder.join("0").join(side);
            fs::create_dir_all(&to)?;
            for (name, program) in programs {
                fs::copy(program, to.join(executable(name)))?;
            }
        }
        Ok(Self { folder: folder.to_path_buf(), now: folder.join("0") })
    }

    /// The programs of both sides for a round.
    fn of_round(&mut self, round: usize) -> Result<[PathBuf; 2]> {
        // An allocator hands out multiples of 16 bytes; a cache line has four of them, and a page 256.
        let next = self.folder.join("0".repeat(1 + 16 * (round % 8)));
        if next != self.now {
            fs::rename(&self.now, &next)?;
            self.now = next;
        }
        Ok(["base", "head"].map(|side| self.now.join(side)))
    }
}

fn executable(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

/// How the programs are run.
struct Turns<'a> {
    sides: &'a Sides,
    /// Criterion's files of one turn.
    home: PathBuf,
    places: Places,
}

/// An id whose rounds have taken longer gets no further ones: a benchmark of a file of 64 MiB is as
/// uncertain as the disk, and would take most of the time.
const PATIENCE: Duration = Duration::from_secs(20);

impl Turns<'_> {
    /// Criterion takes ten samples at least, and one call is the least sample. Where a call outlasts a
    /// round, each round has one call: then an id of a third of a second takes no more than the
    /// others.
    fn settings(&mut self, id: &str, options: &Options) -> Result<Settings> {
        let Options { seconds, samples, .. } = *options;
        let [_, head] = self.places.of_round(0)?;
        let (name, benchmark) = parts(id)?;
        let program = head.join(executable(name));
        let calls = Settings::Calls { seconds: 0.001 };
        let time = criterion::run(&program, &self.sides.head.root, &self.home, benchmark, calls)?;
        Ok(match time.is_some_and(|ns| ns > seconds * 1e9) {
            true => Settings::Calls { seconds },
            false => Settings::Samples { seconds, samples },
        })
    }

    /// Eight rounds of each id, then eight more of those whose interval tells too little, and so on. All
    /// rounds between two looks follow on each other: a state of the machine that lasts a second is the same
    /// for both sides. Further ones come when all ids have had theirs, in another state perhaps.
    fn series(&mut self, part: &str, ids: Vec<String>, options: &Options) -> Result<Series> {
        let (mut series, mut spent, mut settings) = (Series::new(), BTreeMap::new(), BTreeMap::new());
        let (mut ids, mut done) = (ids, 0);
        while done < options.rounds && !ids.is_empty() {
            tell(format!("{part} series, rounds {} to {}: {} ids", done + 1, done + ROUNDS, ids.len()));
            for id in &ids {
                let start = Instant::now();
                let settings = match settings.get(id) {
                    Some(settings) => *settings,
                    None => *settings.entry(id.clone()).or_insert(self.settings(id, options)?),
                };
                for round in done..done + ROUNDS {
                    self.round(round, id, settings, &mut series)?;
                }
                *spent.entry(id.clone()).or_insert(Duration::ZERO) += start.elapsed();
            }
            done += ROUNDS;
            let open = open(&series, options.threshold);
            ids.retain(|id| open.contains(id) && spent[id] < PATIENCE);
        }
        Ok(series)
    }

    /// Both sides, one after the other. Every other round begins with head: a machine that becomes slower
    /// favors no side.
    fn round(&mut self, round: usize, id: &str, settings: Settings, series: &mut Series) -> Result<()> {
        let (name, benchmark) = parts(id)?;
        let programs = self.places.of_round(round)?;
        let mut measured = [None, None];
        for i in [round % 2, 1 - round % 2] {
            let program = programs[i].join(executable(name));
            // The base may not have this target.
            if program.exists() {
                let root = [&self.sides.base.root, &self.sides.head.root][i];
                measured[i] = criterion::run(&program, root, &self.home, benchmark, settings)?;
            }
        }
        let [base, head] = measured;
        if let Some(head) = head {
            let times: &mut Times = series.entry(id.to_string()).or_default();
            times.head.push(head);
            times.base.extend(base);
        }
        Ok(())
    }
}

/// The bench target, and criterion's name of the benchmark.
fn parts(id: &str) -> Result<(&str, &str)> {
    Ok(id.split_once('/').ok_or_else(|| format!("`{id}` has no bench target"))?)
}

fn to_json(series: &Series) -> Value {
    series.iter().map(|(id, times)| (id.clone(), json!({"base": times.base, "head": times.head}))).collect()
}

fn markdown(
    verdict: &Verdict,
    first: &Series,
    names: &[String],
    threshold: f64,
    commit: Option<&str>,
    note: Option<&str>,
) -> String {
    let mut text = format!("## Times: {}\n\n", names.join(", "));
    text += &report::failures(&verdict.failures, "No regression.");
    let ratios: Vec<Ratio> = verdict.rows.iter().filter_map(|row| row.first).collect();
    text += &format!("{} ids against {}", ratios.len(), report::base(commit));
    let mut widths: Vec<f64> = ratios.iter().map(|ratio| (ratio.high / ratio.low).sqrt() - 1.0).collect();
    widths.sort_by(f64::total_cmp);
    if let Some(width) = widths.get(widths.len() / 2) {
        let rounds = || first.values().map(|times| times.head.len());
        let (least, most) = (rounds().min().unwrap_or(0), rounds().max().unwrap_or(0));
        let mean = ratios.iter().map(|ratio| ratio.middle.ln()).sum::<f64>() / ratios.len() as f64;
        let open = ratios.iter().filter(|ratio| ratio.is_open(threshold)).count();
        text += &format!(
            " in {least} to {most} rounds; all together × {:.3}. Half of the 98 % intervals are narrower than ± {:.1} \
             %. {open} can't tell 30 % from none",
            mean.exp(),
            width * 100.0
        );
    }
    text += ".\n\n";
    if let Some(note) = note {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn both_sides_have_paths_of_equal_length_and_each_round_has_others() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("backrule-bench-{}", std::process::id()));
        let (head, base) = (folder.join("a-long-name-for-a-program"), folder.join("b"));
        fs::create_dir_all(&folder)?;
        fs::write(&head, "head")?;
        fs::write(&base, "base")?;
        let programs = |path: &PathBuf| Programs::from([("nn".to_string(), path.clone())]);
        let mut seen = BTreeSet::new();
        // The remains of an earlier run do no harm.
        for _ in 0..2 {
            seen.clear();
            let mut places = Places::copy(&folder.join("places"), &programs(&head), &programs(&base))?;
            for round in [0, 1, 2, 3, 4, 0, 1] {
                let [base, head] = places.of_round(round)?.map(|folder| folder.join(executable("nn")));
                assert_eq!(fs::read_to_string(&base)?, "base");
                assert_eq!(fs::read_to_string(&head)?, "head");
                assert_eq!(base.as_os_str().len(), head.as_os_str().len());
                seen.insert(base.as_os_str().len());
            }
        }
        assert_eq!(seen.len(), 5);
        fs::remove_dir_all(folder)?;
        Ok(())
    }
}
