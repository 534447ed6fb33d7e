//! The rule for one row of logits z.
//!
//! Every target comes down to l = −Σ_c a_c ln p_c with p = softmax(z), which is l = Σ_c a_c (ln Σ_k exp(z_k) − z_c).
//! The derivative of ln Σ_k exp(z_k) by z_j is p_j, hence ∂l/∂z_j = p_j Σ_c a_c − a_j.
//!
//! Both are computed from the differences d = z − max z: ln p_c = d_c − ln Σ_k exp(d_k). That is why this module has
//! exponentials of its own: ln Σ exp(z) as one number has lost the small differences by the time the logits are 10⁴
//! in single precision.

use backrule_tensor::lanes::{self, LANES, ROWS};
use backrule_tensor::simd::{Kernel, Simd};
use backrule_tensor::{Scalar, Tensor};

use super::CrossEntropy;
use crate::Target;

/// A part of the batch, from logit number `first` on. Gives the sum of the rows' l, and writes their gradients, times the share `scale` that each has in
/// the result. Everything must have been checked.
pub(super) struct Rows<'a, T: Scalar> {
    pub(super) loss: &'a CrossEntropy,
    pub(super) first: usize,
    pub(super) z: &'a [T],
    pub(super) classes: usize,
    pub(super) target: Target<'a, T>,
    pub(super) dz: Option<&'a mut [T]>,
    pub(super) scale: f64,
}

impl<T: Scalar> Kernel for Rows<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        let Self { loss, first, z, classes: n, target, mut dz, scale } = self;
        let (w, epsilon) = (loss.class_weights.as_deref(), loss.label_smoothing);
        let narrow = n <= LANES;
        let (mut max, mut e) = ([T::ZERO; ROWS], [[T::ZERO; LANES]; ROWS]);
        let (mut sum, mut ln_sum) = ([0.0; ROWS], [0.0; ROWS]);
        let (mut l, mut start) = (0.0, 0);
        while start < z.len() {
            // Short rows are taken many at a time, for the reason that `narrow` gives.
            let rows = if narrow {
                let rows = lanes::narrow(&z[start..], n, &mut max, &mut e);
                for (sum, e) in sum[..rows].iter_mut().zip(&e) {
                    *sum = lanes::sum(e.map(T::to_f64));
                }
                rows
            } else {
                let dz = dz.as_deref_mut().map(|dz| &mut dz[start..]);
                (max[0], sum[0]) = exponentials(&z[start..], n, dz);
                1
            };
            for (ln_sum, sum) in ln_sum.iter_mut().zip(&sum[..rows]) {
                *ln_sum = sum.ln();
            }
            for i in 0..rows {
                let dz = dz.as_deref_mut().map(|dz| &mut dz[start..]);
                let (z, e) = (&z[start..], narrow.then_some(&e[i]));
                let row = Row { z, dz, n, max: max[i], e, sum: sum[i], ln_sum: ln_sum[i], w, epsilon, scale };
                l += match target {
                    Target::Classes(labels) => {
                        let y = labels[(first + start) / n];
                        if loss.ignore_index == Some(y) { row.ignore() } else { row.of_class(y) }
                    }
                    Target::Probabilities(t) => row.of_probabilities(&t.as_slice()[first + start..]),
                };
                start += n;
            }
        }
        l
    }
}

/// max z and Σ_k exp(z_k − max z) of the first `n` logits; the exponentials stay in dz.
#[inline(always)]
fn exponentials<T: Scalar>(z: &[T], n: usize, mut dz: Option<&mut [T]>) -> (T, f64) {
    // A NaN is never the maximum, but it makes the sum NaN.
    let max = lanes::max(z, n);
    let mut sums = [0.0; LANES];
    for (at, left) in lanes::chunks(n) {
        let e = lanes::exp(&z[at..], left, max);
        sums.iter_mut().zip(e).for_each(|(sum, e)| *sum += e.to_f64());
        if let Some(dz) = &mut dz {
            lanes::store(e, &mut dz[at..]);
        }
    }
    (max, lanes::sum(sums))
}

/// One row: its `n` logits and the place for its gradient are the first of what is left of the batch.
struct Row<'a, T> {
    z: &'a [T],
    dz: Option<&'a mut [T]>,
    n: usize,
    /// max z
    max: T,
    /// exp(z_k − max z) of a narrow row. Those of others are in dz.
    e: Option<&'a [T; LANES]>,
    /// Their sum.
    sum: f64,
    /// Its logarithm.
    ln_sum: f64,
    w: Option<&'a [f64]>,
    epsilon: f64,
    scale: f64,
}

impl<T: Scalar> Row<'_, T> {
    /// A row that doesn't count: l = 0, ∂l/∂z = 0.
    #[inline(always)]
    fn ignore(self) -> f64 {
        if let Some(dz) = self.dz {
            dz[..self.n].fill(T::ZERO);
        }
        0.0
    }

    /// −ln p of a logit.
    #[inline(always)]
    fn minus_ln_p(&self, z: T) -> f64 {
        self.ln_sum - (z - self.max).to_f64()
    }

    /// The exponentials of the chunk at `at`.
    #[inline(always)]
    fn chunk(e: Option<&[T; LANES]>, dz: &[T], at: usize) -> [T; LANES] {
        match e {
            Some(e) => *e,
            None => lanes::read(&dz[at..], T::ZERO),
        }
    }

    /// w_c of the chunk at `at`, and 0 past the end of the row.
    #[inline(always)]
    fn weights(&self, at: usize, left: usize) -> [f64; LANES] {
        match self.w {
            None => lanes::load(&[1.0; LANES], left, 0.0),
            Some(w) => lanes::load(&w[at..], left, 0.0),
        }
    }

    /// w_c t′_c with t′ = (1−ε) t + ε/C, and 0 past the end of the row.
    #[inline(always)]
    fn soft(&self, t: &[T], at: usize, left: usize) -> [f64; LANES] {
        let spread = self.epsilon / self.n as f64;
        let (mut a, t) = (self.weights(at, left), lanes::load(&t[at..], left, T::ZERO));
        for (a, t) in a.iter_mut().zip(t) {
            *a *= (1.0 - self.epsilon) * t.to_f64() + spread;
        }
        a
    }

    /// l = −(1−ε) w_y ln p_y − ε/C Σ_c w_c ln p_c, before any mean. Without smoothing only the label's term is there: an
    /// impossible class elsewhere must not give 0·∞.
    #[inline(always)]
    fn of_class(mut self, y: usize) -> f64 {
        let w_y = self.w.map_or(1.0, |w| w[y]);
        let (own, spread) = ((1.0 - self.epsilon) * w_y, self.epsilon / self.n as f64);
        let (mut others, mut all) = ([0.0; LANES], [0.0; LANES]);
        if spread > 0.0 {
            for (at, left) in lanes::chunks(self.n) {
                let (z, w) = (lanes::load(&self.z[at..], left, self.max), self.weights(at, left));
                for j in 0..LANES {
                    others[j] += w[j] * self.minus_ln_p(z[j]);
                    all[j] += w[j];
                }
            }
        }
        let (others, all) = (lanes::sum(others), lanes::sum(all));
        if let Some(dz) = self.dz.take() {
            // p Σ a = exp(d) · (Σ a / Σ exp(d))
            let factor = T::from_f64(self.scale * (spread * all + own) / self.sum);
            let dz_y = self.e.map_or(dz[y], |e| e[y]) * factor;
            for (at, left) in lanes::chunks(self.n) {
                let mut chunk = Self::chunk(self.e, dz, at);
                chunk.iter_mut().for_each(|dz| *dz *= factor);
                if spread > 0.0 {
                    for (dz, w) in chunk.iter_mut().zip(self.weights(at, left)) {
                        *dz -= T::from_f64(self.scale * (spread * w));
                    }
                }
                lanes::store(chunk, &mut dz[at..]);
            }
            dz[y] = dz_y - T::from_f64(self.scale * (spread * w_y + own));
        }
        own * self.minus_ln_p(self.z[y]) + spread * others
    }

    /// l = −Σ_c w_c t′_c ln p_c with t′ = (1−ε) t + ε/C, before any mean.
    #[inline(always)]
    fn of_probabilities(mut self, t: &[T]) -> f64 {
        let (mut l, mut all) = ([0.0; LANES], [0.0; LANES]);
        for (at, left) in lanes::chunks(self.n) {
            let (z, a) = (lanes::load(&self.z[at..], left, self.max), self.soft(t, at, left));
            for j in 0..LANES {
                l[j] += a[j] * self.minus_ln_p(z[j]);
                all[j] += a[j];
            }
        }
        if let Some(dz) = self.dz.take() {
            let factor = T::from_f64(self.scale * lanes::sum(all) / self.sum);
            for (at, left) in lanes::chunks(self.n) {
                let mut chunk = Self::chunk(self.e, dz, at);
                for (dz, a) in chunk.iter_mut().zip(self.soft(t, at, left)) {
                    *dz = *dz * factor - T::from_f64(self.scale * a);
                }
                lanes::store(chunk, &mut dz[at..]);
            }
        }
        lanes::sum(l)
    }
}

/// The first row of probabilities that isn't a distribution, and its sum: one that is negative or NaN, or a sum that is
/// not 1.
pub(super) struct NoDistribution<'a, T: Scalar> {
    pub(super) t: &'a Tensor<T>,
    pub(super) tolerance: f64,
}

impl<T: Scalar> Kernel for NoDistribution<'_, T> {
    type Output = Option<(usize, f64)>;
    #[inline(always)]
    fn run<S: Simd>(self) -> Self::Output {
        let (t, n) = (self.t.as_slice(), self.t.shape().columns());
        for (row, start) in (0..t.len()).step_by(n.max(1)).enumerate() {
            let (mut sums, mut bad) = ([0.0; LANES], [T::ZERO; LANES]);
            for (at, left) in lanes::chunks(n) {
                let t = lanes::load(&t[start + at..], left, T::ZERO);
                sums.iter_mut().zip(t).for_each(|(sum, t)| *sum += t.to_f64());
                bad.iter_mut().zip(t).for_each(|(bad, t)| *bad = if t >= T::ZERO { *bad } else { T::ONE });
            }
            let sum = lanes::sum(sums);
            if lanes::sum(bad) > T::ZERO || (sum - 1.0).abs() > self.tolerance {
                return Some((row, sum));
            }
        }
        None
    }
}
