//! The outcome of a restore.

use std::fmt;

use crate::element::ElementType;
use crate::format::entry::{Group, TensorInfo};

/// The result of a partial restore: every tensor of both sides is in one of the lists.
///
/// As text it is a table with the tensors of network and optimizer on the left, and those of the checkpoint
/// on the right: see [`Restoring`](crate::Restoring).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors that have the checkpoint's values now.
    pub restored: Vec<Pair>,
    /// Tensors that have kept their values, because the checkpoint has none for them.
    pub missing: Vec<TensorInfo>,
    /// Tensors that are in the checkpoint and have no place to go.
    pub unexpected: Vec<TensorInfo>,
    /// Tensors that have kept their values, because those of the checkpoint have another shape or element
    /// type; and the optimizer's state for such a parameter.
    pub skipped: Vec<Pair>,
}

/// A tensor of the checkpoint, and the one whose values it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The tensor in the checkpoint.
    pub stored: TensorInfo,
    /// The tensor that should be restored. Its path differs from the stored one if it was renamed.
    pub target: TensorInfo,
}

impl Pair {
    /// Whether a conversion is all that is missing.
    fn is_of_another_precision(&self) -> bool {
        let Self { stored, target } = self;
        let types = [ElementType::F32, ElementType::F64];
        let both = types.contains(&stored.dtype) && types.contains(&target.dtype);
        both && stored.dtype != target.dtype && stored.shape == target.shape
    }
}

/// A pair that doesn't fit, for a list of errors.
impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored, target } = self;
        write!(f, "{stored} in the checkpoint, expected ")?;
        if stored.path == target.path {
            write!(f, "{} {}", target.dtype, target.shape)
        } else {
            write!(f, "{target}")
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restored, missing, unexpected, skipped } = self;
        let counts = [restored.len(), missing.len(), unexpected.len(), skipped.len()];
        let [a, b, c, d] = counts;
        write!(f, "{a} restored, {b} missing, {c} unexpected, {d} skipped")?;
        // Made twice: all rows together can be as long as the file.
        let pair = |what, pair: &Pair| (what, pair.target.to_string(), pair.stored.to_string());
        let rows = || {
            (restored.iter().map(|it| pair("restored", it)))
                .chain(missing.iter().map(|info| ("missing", info.to_string(), String::new())))
                .chain(unexpected.iter().map(|info| ("unexpected", String::new(), info.to_string())))
                .chain(skipped.iter().map(|it| pair("skipped", it)))
        };
        let width = rows().map(|(_, target, _)| target.chars().count()).max().unwrap_or(0);
        for (what, target, stored) in rows() {
            let row = format!("{what:<10}  {target:<width$}  {stored}");
            write!(f, "\n{}", row.trim_end())?;
        }
        Ok(())
    }
}

/// Tensors that a message lists at most. It says how many more there are.
const LISTED: usize = 20;

/// All tensors that don't fit. The message has a line for each of the first twenty.
#[derive(Clone, Default, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Mismatch {
    /// Tensors that should be restored and are not in the checkpoint.
    pub missing: Vec<TensorInfo>,
    /// Tensors that are in the checkpoint and have no place to go.
    pub unexpected: Vec<TensorInfo>,
    /// Tensors that are in both, with another shape or element type.
    pub misshapen: Vec<Pair>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, unexpected, misshapen } = self;
        f.write_str("nothing restored, because the checkpoint doesn't fit:")?;
        let mut left = LISTED;
        for info in missing.iter().take(left) {
            write!(f, "\n  missing in the checkpoint: {info}")?;
        }
        left = left.saturating_sub(missing.len());
        for info in unexpected.iter().take(left) {
            write!(f, "\n  only in the checkpoint: {info}")?;
        }
        left = left.saturating_sub(unexpected.len());
        for pair in misshapen.iter().take(left) {
            write!(f, "\n  {pair}")?;
        }
        let all = missing.len().saturating_add(unexpected.len()).saturating_add(misshapen.len());
        match all.saturating_sub(LISTED) {
            0 => {}
            more => write!(f, "\n  and {more} more")?,
        }
        if misshapen.iter().any(Pair::is_of_another_precision) {
            f.write_str("\n(`restoring().convert()` converts between f32 and f64)")?;
        }
        if self.is_of_other_state() {
            write!(
                f,
                "\n({MAKE_OPTIMIZER}, such as a momentum: they decide which state there is; {RESTORE_ALONE})"
            )?;
        }
        Ok(())
    }
}

impl Mismatch {
    /// Whether the network fits, and the optimizer has other tensors than the one that was saved.
    fn is_of_other_state(&self) -> bool {
        let Self { missing, unexpected, misshapen } = self;
        let mut one_sided = missing.iter().chain(unexpected).peekable();
        let some = one_sided.peek().is_some();
        some && one_sided.chain(misshapen.iter().map(|it| &it.target)).all(|it| it.group == Group::Optimizer)
    }
}

/// The ways out where an optimizer isn't the one that was saved.
pub(crate) const MAKE_OPTIMIZER: &str = "make the optimizer with the rule and the options of the \
    checkpoint, which `checkpoint.optimizer()` gives";
pub(crate) const RESTORE_ALONE: &str = "or restore the network alone, by `restore` or `restore_into`";

backrule_tensor::readable! { struct Mismatch { missing, unexpected, misshapen } }
