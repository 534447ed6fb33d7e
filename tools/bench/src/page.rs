//! The history as a page: static, without a script or a network, light or dark as the reader's system.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::history::{self, Entry};
use crate::{Result, report};

const STYLE: &str = include_str!("page.css");

/// The order of the crates on the page; others follow.
const ORDER: [&str; 5] = ["tensor", "nn", "loss", "optim", "io"];

pub(crate) fn write(history: &Path, out: &Path) -> Result<bool> {
    let text = fs::read_to_string(history).map_err(|error| format!("{}: {error}", history.display()))?;
    let entries = history::read(&text)?;
    if entries.is_empty() {
        return Err(format!("{} has no line", history.display()).into());
    }
    fs::write(out, page(&entries)?).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(true)
}

/// The quantity plotted: instructions or times.
#[derive(Clone, Copy)]
struct What {
    class: &'static str,
    title: &'static str,
    of: fn(&Entry, &str) -> Option<f64>,
    show: fn(f64) -> String,
}

const WHAT: [What; 2] = [
    What {
        class: "count",
        title: "instructions",
        of: |entry, id| entry.instructions.get(id).copied(),
        show: |n| format!("{} instructions", report::thousands(n)),
    },
    What { class: "time", title: "time", of: |entry, id| entry.times.get(id).copied(), show: duration },
];

fn page(entries: &[Entry]) -> std::result::Result<String, std::fmt::Error> {
    let ids: BTreeSet<&String> =
        entries.iter().flat_map(|entry| entry.times.keys().chain(entry.instructions.keys())).collect();
    let crate_of = |id: &str| id.split('/').next().unwrap_or_default().to_string();
    let mut crates: Vec<String> =
        ids.iter().map(|id| crate_of(id)).collect::<BTreeSet<_>>().into_iter().collect();
    crates.sort_by_key(|name| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));

    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Benchmarks</title>\n\
         <style>\n{STYLE}</style>\n<h1>Benchmarks over time</h1>\n"
    );
    if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
        writeln!(
            text,
            "<p>{} commits, from {} to {}. Instructions can be compared from commit to commit; times only where the \
             machine is the same. A dashed line marks another machine.</p>",
            entries.len(),
            day(first),
            day(last)
        )?;
    }
    text += "<nav>";
    for name in &crates {
        write!(text, "<a href=\"#{0}\">{0}</a>", escape(name))?;
    }
    text += "</nav>\n";
    for name in &crates {
        let own: Vec<&str> = ids.iter().map(|id| id.as_str()).filter(|id| crate_of(id) == *name).collect();
        section(&mut text, entries, name, &own)?;
    }
    commits(&mut text, entries)?;
    Ok(text)
}

fn section(text: &mut String, entries: &[Entry], name: &str, ids: &[&str]) -> std::fmt::Result {
    writeln!(text, "<h2 id=\"{0}\">{0}</h2>", escape(name))?;
    let machines = machines(entries, name);
    let means = WHAT.map(|what| mean(entries, ids, what.of));
    let keys = WHAT.iter().zip(&means).filter(|(_, mean)| mean.iter().flatten().count() > 0);
    let keys = keys.map(|(what, mean)| {
        let last = mean.iter().flatten().last().copied().unwrap_or(1.0);
        let [class, title] = [what.class, what.title];
        format!("<span><i class=\"key {class}\"></i>{title}, all ids {}</span>", change(last))
    });
    let keys: String = keys.collect();
    writeln!(
        text,
        "<figure class=\"wide\"><figcaption>{keys}<span class=\"value\">1 is where an id began</span></figcaption>"
    )?;
    let curves: Vec<(What, Vec<Option<f64>>)> = WHAT.into_iter().zip(means).collect();
    plot(text, entries, &curves, &machines, [880.0, 190.0], |ratio| format!("× {ratio:.3}"))?;
    text.push_str("</figure>\n");
    for what in WHAT {
        let with: Vec<&&str> =
            ids.iter().filter(|id| entries.iter().any(|entry| (what.of)(entry, id).is_some())).collect();
        if with.is_empty() {
            continue;
        }
        // Hundreds of times: shown on request.
        let open = if what.class == "count" { " open" } else { "" };
        writeln!(
            text,
            "<details{open}><summary>{} of {} ids</summary><div class=\"cards\">",
            what.title,
            with.len()
        )?;
        for id in with {
            let values: Vec<Option<f64>> = entries.iter().map(|entry| (what.of)(entry, id)).collect();
            let (first, last) = (values.iter().flatten().next(), values.iter().flatten().last());
            let (Some(first), Some(last)) = (first, last) else { continue };
            let made = entries.iter().rev().find_map(|entry| entry.allocations.get(*id).copied());
            let made = made.filter(|&count| what.class == "count" && count > 0.0);
            let made = made.map_or(String::new(), |count| {
                format!(", {count} allocation{}", if count == 1.0 { "" } else { "s" })
            });
            let short = id.split_once('/').map_or(*id, |(_, rest)| rest);
            write!(
                text,
                "<figure><figcaption><b>{}</b><span class=\"value\">{}{made} {}</span></figcaption>",
                escape(short),
                (what.show)(*last),
                change(last / first)
            )?;
            let marks: &[usize] = if what.class == "time" { &machines } else { &[] };
            plot(text, entries, &[(what, values)], marks, [260.0, 56.0], what.show)?;
            text.push_str("</figure>\n");
        }
        text.push_str("</div></details>\n");
    }
    Ok(())
}

/// Geometric mean of the ratios to each id's first value, commit by commit, over the ids that the commit has.
fn mean(entries: &[Entry], ids: &[&str], of: fn(&Entry, &str) -> Option<f64>) -> Vec<Option<f64>> {
    let firsts: Vec<Option<f64>> =
        ids.iter().map(|id| entries.iter().find_map(|entry| of(entry, id))).collect();
    let at = |entry: &Entry| {
        let logarithms =
            ids.iter().zip(&firsts).filter_map(|(id, first)| Some((of(entry, id)? / (*first)?).ln()));
        let logarithms: Vec<f64> = logarithms.filter(|l| l.is_finite()).collect();
        (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
    };
    entries.iter().map(at).collect()
}

/// Commits whose machine isn't the one before.
fn machines(entries: &[Entry], name: &str) -> Vec<usize> {
    let cpu = |entry: &Entry| entry.machines.get(name).map(|machine| machine["cpu"].to_string());
    let mut last = None;
    let mut changes = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let now = cpu(entry);
        if last.is_some() && now.is_some() && now != last {
            changes.push(i);
        }
        last = now.or(last);
    }
    changes
}

/// Curves over the commits. The vertical axis holds the values, and 5 % around the last one at least: a
/// smaller change looks flat.
fn plot(
    text: &mut String,
    entries: &[Entry],
    curves: &[(What, Vec<Option<f64>>)],
    marks: &[usize],
    [width, height]: [f64; 2],
    show: impl Fn(f64) -> String,
) -> std::fmt::Result {
    let values = || curves.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values() {
        (low, high) = (low.min(value), high.max(value));
    }
    if !(low.is_finite() && high.is_finite()) {
        return Ok(());
    }
    let labels = [high, low];
    let room = (0.05 * high - (high - low)).max(0.0) / 2.0;
    (low, high) = (low - room, high + room);
    let margin = 5.0;
    let x = |i: usize| {
        let steps = entries.len().saturating_sub(1).max(1) as f64;
        margin + (width - 2.0 * margin) * if entries.len() == 1 { 0.5 } else { i as f64 / steps }
    };
    let span = if high > low { high - low } else { 1.0 };
    let top = if width > 500.0 { 22.0 } else { margin };
    let y = |value: f64| top + (height - top - margin) * (high - value) / span;
    write!(text, "<svg viewBox=\"0 0 {width} {height}\" role=\"img\">")?;
    write!(text, "<line class=\"grid\" x1=\"0\" x2=\"{width}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>", height - 0.5)?;
    if low <= 1.0 && 1.0 <= high {
        write!(text, "<line class=\"grid\" x1=\"0\" x2=\"{width}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>", y(1.0))?;
    }
    // A small plot has its last value in the caption.
    if width > 500.0 && high > low {
        for value in labels {
            write!(
                text,
                "<text x=\"{width}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                y(value) - 6.0,
                show(value)
            )?;
        }
    }
    for &i in marks {
        write!(text, "<line class=\"machine\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{height}\"/>", x(i))?;
    }
    for (what, values) in curves {
        write!(text, "<g class=\"{}\">", what.class)?;
        let points = values.iter().enumerate().filter_map(|(i, value)| Some((i, (*value)?)));
        let line: String = points.clone().map(|(i, value)| format!("{:.1},{:.1} ", x(i), y(value))).collect();
        write!(text, "<polyline class=\"curve\" points=\"{}\"/>", line.trim_end())?;
        for (i, value) in points {
            let (entry, shown) = (&entries[i], show(value));
            write!(
                text,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"><title>{} {}: {}\n{shown}</title></circle>",
                x(i),
                y(value),
                day(entry),
                short(entry),
                escape(&entry.subject)
            )?;
        }
        text.push_str("</g>");
    }
    text.push_str("</svg>");
    Ok(())
}

/// The commits, the latest first, and where they were measured.
fn commits(text: &mut String, entries: &[Entry]) -> std::fmt::Result {
    text.push_str(
        "<h2>Commits</h2>\n<div class=\"scroll\"><table><tr><th>date<th>commit<th>subject<th>machines</tr>\n",
    );
    for entry in entries.iter().rev() {
        let name = |machine: &serde_json::Value| {
            let text = |name: &str| machine[name].as_str().unwrap_or("?").to_string();
            format!("{}, {} cores, {}, {}", text("cpu"), machine["cores"], text("system"), text("rustc"))
        };
        let machines: BTreeSet<String> = entry.machines.values().map(name).collect();
        let machines = escape(&machines.into_iter().collect::<Vec<_>>().join("; "));
        let subject = escape(&entry.subject);
        writeln!(
            text,
            "<tr><td>{}<td><code>{}</code><td>{subject}<td>{machines}</tr>",
            day(entry),
            short(entry)
        )?;
    }
    text.push_str("</table></div>\n");
    Ok(())
}

fn day(entry: &Entry) -> String {
    escape(entry.date.get(..10).unwrap_or(&entry.date))
}

fn short(entry: &Entry) -> String {
    escape(entry.commit.get(..9).unwrap_or(&entry.commit))
}

/// A ratio to the first value: green when less, red when more.
fn change(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    let class = match percent {
        p if p <= -1.0 => "good",
        p if p >= 1.0 => "bad",
        _ => "value",
    };
    format!("<span class=\"{class}\">{percent:+.1} %</span>")
}

fn duration(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> Vec<Entry> {
        let line = |commit: &str, cpu: &str, time: f64, instructions: f64| {
            format!(
                r#"{{"commit":"{commit}","date":"2026-01-02T00:00:00Z","subject":"<b> & \"q\"","machines":{{"nn":{{"cpu":"{cpu}","cores":2}}}},"times":{{"nn/a":{time}}},"costs":{{"nn/a":{{"instructions":{instructions},"allocations":0}}}}}}"#
            )
        };
        let lines =
            [line("c1", "x", 100.0, 1000.0), line("c2", "x", 200.0, 1000.0), line("c3", "y", 50.0, 900.0)];
        history::read(&lines.join("\n")).unwrap()
    }

    #[test]
    fn means_are_relative_to_the_first_value() {
        let entries = history();
        let times = mean(&entries, &["nn/a", "nn/none"], WHAT[1].of);
        assert_eq!(
            times.iter().map(|t| (t.unwrap() * 1000.0).round()).collect::<Vec<_>>(),
            [1000.0, 2000.0, 500.0]
        );
        assert_eq!(mean(&entries, &["nn/none"], WHAT[0].of), [None; 3]);
        assert_eq!(machines(&entries, "nn"), [2]);
    }

    #[test]
    fn the_page_is_complete_and_needs_nothing() {
        let text = page(&history()).unwrap();
        // Two curves in the overview, one in each of two cards; three points each.
        assert_eq!(text.matches("<polyline").count(), 4);
        assert_eq!(text.matches("<circle").count(), 12);
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        assert!(text.contains("prefers-color-scheme: dark") && text.contains("width=device-width"));
        assert!(text.contains("&lt;b&gt; &amp; &quot;q&quot;") && !text.contains("<b> &"));
        for outside in ["http", "<script", "url(", "@import", "NaN", "inf"] {
            assert!(!text.contains(outside), "{outside}");
        }
        assert!(text.contains("class=\"machine\""));
    }
}
