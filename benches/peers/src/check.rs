use crate::rows::CrossEntropyRow;

/// The loss and the first number of its gradient, in double precision.
pub(crate) fn cross_entropy(row: CrossEntropyRow) -> (f64, f64) {
    let (logits, labels) = (row.logits(), row.labels());
    let mut loss = 0.0;
    let mut first = None;
    for (z, label) in logits.chunks(row.classes).zip(labels) {
        let sum: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
        loss += sum.ln() - f64::from(z[label]);
        let is_label = if label == 0 { 1.0 } else { 0.0 };
        first.get_or_insert(f64::from(z[0]).exp() / sum - is_label);
    }
    let rows = row.batch as f64;
    (loss / rows, first.unwrap_or(0.0) / rows)
}

/// The result of a library must be the right one, or its time means nothing.
pub(crate) fn close(id: &str, what: &str, actual: f32, expected: f64) -> crate::Outcome {
    let actual = f64::from(actual);
    if (actual - expected).abs() <= 1e-3 * expected.abs() {
        Ok(())
    } else {
        Err(format!("{id}: {what} is {actual} instead of {expected}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_their_number() {
        // Normal logits cost half their variance more.
        let (loss, first) = cross_entropy(CrossEntropyRow { batch: 4, classes: 5000 });
        assert!((loss - 5000_f64.ln() - 0.5).abs() < 1.5, "{loss}");
        assert!((-0.25..-0.24).contains(&first), "{first}");
    }

    #[test]
    fn what_is_off_is_an_error() {
        assert!(close("id", "it", 1.0, 1.0005).is_ok());
        for wrong in [1.01, f32::NAN] {
            assert!(close("id", "it", wrong, 1.0).is_err());
        }
    }
}
