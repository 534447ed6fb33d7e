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
    ///
    /// Without smoothing only the label's term is there: an impossible class elsewhere must not give 0·∞.
    pub(super) fn of_class<T: Scalar>(&self, mut row: Row<'_, T>, y: usize) -> f64 {
        let (max, sum) = row.exponentials();
        let ln_sum = sum.ln();
        let minus_ln_p = |c: usize| ln_sum - (row.z[c] - max).to_f64();
        let spread = self.label_smoothing / row.z.len() as f64;
        let own = (1.0 - self.label_smoothing) * self.weight(y);
        let mut l = own * minus_ln_p(y);
        let mut all = 0.0; // Σ_c w_c
        if spread > 0.0 {
            let mut others = 0.0;
            for c in 0..row.z.len() {
                others += self.weight(c) * minus_ln_p(c);
                all += self.weight(c);
            }
            l += spread * others;
        }
        if let Some(dz) = row.dz {
            // p Σ a = exp(d) · (Σ a / Σ exp(d))
            let factor = T::from_f64(row.scale * (spread * all + own) / sum);
            let dz_y = dz[y] * factor;
            for (c, dz) in dz.iter_mut().enumerate() {
                *dz *= factor;
                if spread > 0.0 {
                    *dz -= T::from_f64(row.scale * (spread * self.weight(c)));
                }
            }
            dz[y] = dz_y - T::from_f64(row.scale * (spread * self.weight(y) + own));
        }
        l
    }

    /// l = −Σ_c w_c t′_c ln p_c with t′ = (1−ε) t + ε/C, before any mean.
    pub(super) fn of_probabilities<T: Scalar>(&self, mut row: Row<'_, T>, t: &[T]) -> f64 {
        let (max, sum) = row.exponentials();
        let spread = self.label_smoothing / row.z.len() as f64;
        let a = |c: usize, t: T| self.weight(c) * ((1.0 - self.label_smoothing) * t.to_f64() + spread);
        let (mut l, mut all, ln_sum) = (0.0, 0.0, sum.ln());
        for (c, (&z, &t)) in row.z.iter().zip(t).enumerate() {
            l += a(c, t) * (ln_sum - (z - max).to_f64());
            all += a(c, t);
        }
        if let Some(dz) = row.dz {
            let factor = T::from_f64(row.scale * all / sum);
            for (c, (dz, &t)) in dz.iter_mut().zip(t).enumerate() {
                *dz = *dz * factor - T::from_f64(row.scale * a(c, t));
            }
        }
        l
    }
}
