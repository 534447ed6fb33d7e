//! The rule for one row of logits z.
//!
//! Every target comes down to l = −Σ_c a_c ln p_c with p = softmax(z), which is l = Σ_c a_c (ln Σ_k exp(z_k) − z_c).
//! The derivative of ln Σ_k exp(z_k) by z_j is p_j, hence ∂l/∂z_j = p_j Σ_c a_c − a_j.
//!
//! Both are computed from the differences d = z − max z: ln p_c = d_c − ln Σ_k exp(d_k). That is why this module has
//! exponentials of its own: ln Σ exp(z) as one number has lost the small differences by the time the logits are 10⁴
//! in single precision.

use backrule_tensor::Scalar;

use super::CrossEntropy;

/// One row of the batch: what it predicts, and where its gradient goes, times the share `scale` that the row has in l.
pub(super) struct Row<'a, T> {
    pub(super) z: &'a [T],
    pub(super) dz: Option<&'a mut [T]>,
    pub(super) scale: f64,
}

impl<T: Scalar> Row<'_, T> {
    /// A row that doesn't count: l = 0, ∂l/∂z = 0.
    pub(super) fn ignore(self) -> f64 {
        if let Some(dz) = self.dz {
            dz.fill(T::ZERO);
        }
        0.0
    }

    /// max z and Σ_k exp(z_k − max z); the exponentials stay in dz.
    fn exponentials(&mut self) -> (T, f64) {
        // A NaN is never the maximum, but it makes the sum NaN.
        let larger = |max, &z| if z > max { z } else { max };
        let max = self.z.iter().fold(T::NEG_INFINITY, larger);
        let mut sum = 0.0;
        match &mut self.dz {
            Some(dz) => {
                for (e, &z) in dz.iter_mut().zip(self.z) {
                    *e = (z - max).exp();
                    sum += e.to_f64();
                }
            }
            None => sum = self.z.iter().map(|&z| (z - max).exp().to_f64()).sum(),
        }
        (max, sum)
    }
}

impl CrossEntropy {
    /// l = −(1−ε) w_y ln p_y − ε/C Σ_c w_c ln p_c, before any mean.
    pub(super) fn of_class<T: Scalar>(&self, row: Row<'_, T>, y: usize) -> f64 {
        let (epsilon, n) = (self.label_smoothing, row.z.len());
        match &self.class_weights {
            None => of_class(row, y, epsilon, |_| 1.0),
            Some(w) => of_class(row, y, epsilon, by_index(&w[..n])),
        }
    }

    /// l = −Σ_c w_c t′_c ln p_c with t′ = (1−ε) t + ε/C, before any mean.
    pub(super) fn of_probabilities<T: Scalar>(&self, row: Row<'_, T>, t: &[T]) -> f64 {
        let (epsilon, n) = (self.label_smoothing, row.z.len());
        match &self.class_weights {
            None => of_probabilities(row, t, epsilon, |_| 1.0),
            Some(w) => of_probabilities(row, t, epsilon, by_index(&w[..n])),
        }
    }
}

fn by_index(w: &[f64]) -> impl Fn(usize) -> f64 {
    |c| w[c]
}

/// Without smoothing only the label's term is there: an impossible class elsewhere must not give 0·∞.
fn of_class<T: Scalar>(mut row: Row<'_, T>, y: usize, epsilon: f64, w: impl Fn(usize) -> f64) -> f64 {
    let (max, sum) = row.exponentials();
    let (z, ln_sum) = (row.z, sum.ln());
    let minus_ln_p = |c: usize| ln_sum - (z[c] - max).to_f64();
    let own = (1.0 - epsilon) * w(y);
    let spread = epsilon / z.len() as f64;
    let (others, all) = if spread > 0.0 {
        (sum_over(z.len(), |c| w(c) * minus_ln_p(c)), sum_over(z.len(), &w))
    } else {
        (0.0, 0.0)
    };
    if let Some(dz) = row.dz {
        // p Σ a = exp(d) · (Σ a / Σ exp(d))
        let factor = T::from_f64(row.scale * (spread * all + own) / sum);
        let dz_y = dz[y] * factor;
        if spread > 0.0 {
            for (c, dz) in dz.iter_mut().enumerate() {
                *dz = *dz * factor - T::from_f64(row.scale * (spread * w(c)));
            }
        } else {
            dz.iter_mut().for_each(|dz| *dz *= factor);
        }
        dz[y] = dz_y - T::from_f64(row.scale * (spread * w(y) + own));
    }
    own * minus_ln_p(y) + spread * others
}

fn of_probabilities<T: Scalar>(mut row: Row<'_, T>, t: &[T], epsilon: f64, w: impl Fn(usize) -> f64) -> f64 {
    let (max, sum) = row.exponentials();
    let (z, ln_sum) = (row.z, sum.ln());
    let (t, spread) = (&t[..z.len()], epsilon / z.len() as f64);
    let a = |c: usize| w(c) * ((1.0 - epsilon) * t[c].to_f64() + spread);
    let l = sum_over(z.len(), |c| a(c) * (ln_sum - (z[c] - max).to_f64()));
    if let Some(dz) = row.dz {
        let factor = T::from_f64(row.scale * sum_over(z.len(), a) / sum);
        for (c, dz) in dz.iter_mut().enumerate() {
            *dz = *dz * factor - T::from_f64(row.scale * a(c));
        }
    }
    l
}

/// Σ_c f(c) for c from 0 to n − 1. Eight running sums can be added at once, always in the same order.
pub(super) fn sum_over(n: usize, f: impl Fn(usize) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    for c in (0..n - n % 8).step_by(8) {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum += f(c + j);
        }
    }
    for (c, sum) in (n - n % 8..n).zip(&mut sums) {
        *sum += f(c);
    }
    sums.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_counts_once() {
        for n in [0, 1, 7, 8, 9, 17] {
            assert_eq!(sum_over(n, |c| c as f64 + 1.0), (n * (n + 1) / 2) as f64);
        }
    }
}
