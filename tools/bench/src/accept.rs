//! Costs that a commit accepts, by lines of its message:
//!
//! ```text
//! Accept-cost: instructions nn/train_step/* +12% sums are compensated
//! Accept-cost: allocations io/to_bytes +1 a second buffer for the trailer
//! Accept-cost: time loss/mse/* +40% sums are compensated
//! Accept-cost: removed nn/old_layer/* the layer is gone
//! ```
//!
//! A line in a message holds for that change alone. A file of exceptions would go stale, and conflict.

use crate::Result;
use crate::git::{Against, Repository};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Instructions,
    Allocations,
    Time,
    Removed,
}

#[derive(Debug)]
pub(crate) struct Accepted {
    kind: Kind,
    /// An id, or its beginning and `*`.
    id: String,
    /// In percent, or a number of allocations.
    limit: f64,
    pub(crate) reason: String,
}

impl Accepted {
    pub(crate) fn find<'a>(list: &'a [Self], kind: Kind, id: &str, rise: f64) -> Option<&'a Self> {
        list.iter().find(|accepted| accepted.kind == kind && accepted.names(id) && rise <= accepted.limit)
    }

    fn names(&self, id: &str) -> bool {
        self.id.strip_suffix('*').map_or(self.id == id, |beginning| id.starts_with(beginning))
    }
}

const MARK: &str = "Accept-cost:";

/// Everything that commits after the base accept.
pub(crate) fn since(repository: &Repository, base: &Against) -> Result<Vec<Accepted>> {
    let Some(commit) = &base.commit else { return Ok(Vec::new()) };
    parse(&repository.ask(["log", "--format=%B", &format!("{commit}..HEAD")])?)
}

/// A line with the mark that can't be read is an error: its author believes that it does something.
pub(crate) fn parse(messages: &str) -> Result<Vec<Accepted>> {
    let lines = messages.lines().filter_map(|line| line.trim().strip_prefix(MARK));
    lines.map(|line| read(line).ok_or_else(|| explain(line).into())).collect()
}

fn explain(line: &str) -> String {
    format!(
        "`{MARK}{line}` is none of\n    {MARK} instructions ID +N% REASON\n    {MARK} allocations ID +N REASON\n    \
         {MARK} time ID +N% REASON\n    {MARK} removed ID REASON"
    )
}

fn read(line: &str) -> Option<Accepted> {
    let (kind, rest) = line.trim().split_once(' ')?;
    let (id, rest) = rest.trim().split_once(' ')?;
    let (kind, unit) = match kind {
        "instructions" => (Kind::Instructions, "%"),
        "time" => (Kind::Time, "%"),
        "allocations" => (Kind::Allocations, ""),
        "removed" => (Kind::Removed, ""),
        _ => return None,
    };
    let (limit, reason) = if kind == Kind::Removed { ("+0", rest) } else { rest.trim().split_once(' ')? };
    let limit: f64 = limit.strip_prefix('+')?.strip_suffix(unit)?.parse().ok()?;
    let reason = reason.trim();
    let sensible = limit.is_finite() && limit >= 0.0 && !reason.is_empty() && id != "*";
    sensible.then(|| Accepted { kind, id: id.to_string(), limit, reason: reason.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_messages_are_read() {
        let text = "Sums are compensated\n\nAccept-cost: instructions nn/train_step/* +12.5% exact sums\n\n\
                    Another\n\n  Accept-cost: allocations io/save +1 a buffer\nAccept-cost: removed nn/x gone\n";
        let accepted = parse(text).unwrap();
        assert_eq!(accepted.len(), 3);
        let find = |kind, id, rise| Accepted::find(&accepted, kind, id, rise).map(|a| a.reason.as_str());
        assert_eq!(find(Kind::Instructions, "nn/train_step/64", 12.5), Some("exact sums"));
        assert_eq!(find(Kind::Instructions, "nn/train_step/64", 12.6), None);
        assert_eq!(find(Kind::Instructions, "nn/train", 1.0), None);
        assert_eq!(find(Kind::Time, "nn/train_step/64", 1.0), None);
        assert_eq!(find(Kind::Allocations, "io/save", 1.0), Some("a buffer"));
        assert_eq!(find(Kind::Allocations, "io/save", 2.0), None);
        assert_eq!(find(Kind::Removed, "nn/x", 0.0), Some("gone"));
        assert!(parse("nothing to accept").unwrap().is_empty());
    }

    #[test]
    fn what_would_silently_do_nothing_is_an_error() {
        for line in [
            "instructions nn/x +12%",
            "instructions nn/x 12% because",
            "instructions nn/x +12 because",
            "allocations nn/x +1% because",
            "instruction nn/x +1% because",
            "instructions * +100% because",
            "time nn/x +inf% because",
            "removed nn/x",
            "",
        ] {
            assert!(parse(&format!("Accept-cost: {line}")).is_err(), "{line}");
        }
    }
}
