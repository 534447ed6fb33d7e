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
        let mut read = Read::new(loss, n, scale);
        let (mut l, mut start, mut e) = (0.0, 0, [T::ZERO; ROWS * LANES]);
        while start < z.len() {
            let (z, mut dz) = (&z[start..], dz.as_deref_mut().map(|dz| &mut dz[start..]));
            let at = first + start;
            let rows = if n > LANES { read.long(z, dz.as_deref_mut()) } else { read.short::<S>(z) };
            l += read.of::<S>(z, dz, target, at, rows, &mut e);
            start += rows * n;
        }
        l
    }
}

/// The rows that are read at a time: one, or of up to sixteen logits as many as [`lanes::turn`] takes.
struct Read<'a, T> {
    loss: &'a CrossEntropy,
    n: usize,
    scale: f64,
    max: [T; ROWS],
    /// Σ exp(z − max z), and its logarithm.
    sum: [f64; ROWS],
    ln_sum: [f64; ROWS],
    /// Short rows, turned, and exp(z − max z).
    z: lanes::Turned<T>,
    e: lanes::Turned<T>,
}

impl<'a, T: Scalar> Read<'a, T> {
    fn new(loss: &'a CrossEntropy, n: usize, scale: f64) -> Self {
        let (turned, max, sum) = ([[T::ZERO; ROWS]; LANES], [T::ZERO; ROWS], [0.0; ROWS]);
        Self { loss, n, scale, max, sum, ln_sum: sum, z: turned, e: turned }
    }

    /// Reads a row, and leaves its exponentials in dz. Gives the number of rows.
    #[inline(always)]
    fn long(&mut self, z: &[T], dz: Option<&mut [T]>) -> usize {
        // A NaN is never the maximum, but it makes the sum NaN.
        self.max[0] = lanes::max(z, self.n);
        self.sum[0] = lanes::exp_sum(z, self.n, self.max[0], dz, T::to_f64);
        self.ln_sum[0] = lanes::ln(self.sum[0]);
        1
    }

    /// Reads short rows. Gives their number.
    #[inline(always)]
    fn short<S: Simd>(&mut self, z: &[T]) -> usize {
        let n = self.n;
        let rows = lanes::turn::<T, S>(z, n, &mut self.z);
        self.max = lanes::max_each(&self.z[..n]);
        self.sum = lanes::exp_each(&self.z[..n], &self.max, &mut self.e, T::to_f64);
        for i in 0..ROWS {
            self.ln_sum[i] = lanes::ln(self.sum[i]);
        }
        rows
    }

    /// l of these rows, which begin at logit number `at` of the batch: of short ones with labels and without smoothing all at
    /// once, of others row by row. `e` is for the exponentials of short rows.
    #[inline(always)]
    fn of<S: Simd>(
        &self,
        z: &[T],
        mut dz: Option<&mut [T]>,
        target: Target<'_, T>,
        at: usize,
        rows: usize,
        e: &mut [T],
    ) -> f64 {
        let Self { loss, n, scale, .. } = *self;
        let (mut l, mut own, mut factor) = (0.0, [0.0; ROWS], [T::ONE; ROWS]);
        let labels = match target {
            Target::Classes(labels) if n <= LANES && loss.label_smoothing == 0.0 => {
                Some(&labels[at / n..][..rows])
            }
            _ => None,
        };
        if let Some(labels) = labels {
            for (i, &y) in labels.iter().enumerate() {
                if loss.ignore_index != Some(y) {
                    own[i] = loss.weight(y);
                    l += own[i] * (self.ln_sum[i] - (z[i * n + y] - self.max[i]).to_f64());
                }
            }
            for i in 0..ROWS {
                factor[i] = T::from_f64(scale * own[i] / self.sum[i]);
            }
        }
        if n <= LANES {
            let to = match (labels, &mut dz) {
                (None, _) => &mut *e,
                (_, Some(dz)) => dz,
                (_, None) => return l,
            };
            lanes::turn_back::<T, S>(&self.e, &factor, n, rows, to);
        }
        if let (Some(labels), Some(dz)) = (labels, &mut dz) {
            for ((dz, &y), own) in dz.chunks_exact_mut(n).zip(labels).zip(own) {
                if loss.ignore_index == Some(y) {
                    dz.fill(T::ZERO);
                } else {
                    dz[y] -= T::from_f64(scale * own);
                }
            }
            return l;
        }
        for i in 0..rows {
            let start = i * n;
            let (z, mut dz) = (&z[start..], dz.as_deref_mut().map(|dz| &mut dz[start..]));
            if n <= LANES
                && let Some(dz) = &mut dz
            {
                // Not all of them before: what is stored behind a row is overwritten by the next one.
                lanes::store(lanes::read(&e[start..], T::ZERO), dz);
            }
            let (max, sum, ln_sum) = (self.max[i], self.sum[i], self.ln_sum[i]);
            l += Row { loss, z, dz, n, max, sum, ln_sum, scale }.of(target, at + start);
        }
        l
    }
}

/// What a row should be.
#[derive(Clone, Copy)]
enum Wanted<'a, T> {
    Class(usize),
    Probabilities(&'a [T]),
}

/// One row: its `n` logits and the place for its gradient are the first of what is left of the batch.
struct Row<'a, T> {
    loss: &'a CrossEntropy,
    z: &'a [T],
    /// What it gets are the exponentials exp(z_k − max z).
    dz: Option<&'a mut [T]>,
    n: usize,
    /// max z
    max: T,
    /// Σ exp(z_k − max z)
    sum: f64,
    /// Its logarithm.
    ln_sum: f64,
    scale: f64,
}

impl<T: Scalar> Row<'_, T> {
    /// l of this row, which begins at logit number `at` of the batch.
    #[inline(always)]
    fn of(self, target: Target<'_, T>, at: usize) -> f64 {
        let target = match target {
            Target::Probabilities(t) => Wanted::Probabilities(&t.as_slice()[at..]),
            Target::Classes(labels) => Wanted::Class(labels[at / self.n]),
        };
        match target {
            Wanted::Class(y) if self.loss.ignore_index == Some(y) => self.ignore(),
            Wanted::Class(y) if self.loss.label_smoothing == 0.0 => self.of_class(y),
            _ => self.of_distribution(target),
        }
    }

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

    /// w_c of the chunk at `at`, and 0 past the end of the row.
    #[inline(always)]
    fn weights(&self, at: usize, left: usize) -> [f64; LANES] {
        match &self.loss.class_weights {
            None => lanes::load(&[1.0; LANES], left, 0.0),
            Some(w) => lanes::load(&w[at..], left, 0.0),
        }
    }

    /// a_c = w_c ((1−ε) t_c + ε/C), and 0 past the end of the row. A class is the t that is 1 there.
    #[inline(always)]
    fn soft(&self, target: Wanted<'_, T>, at: usize, left: usize) -> [f64; LANES] {
        let spread = self.loss.label_smoothing / self.n as f64;
        let t = match target {
            Wanted::Probabilities(t) => lanes::load(&t[at..], left, T::ZERO),
            Wanted::Class(y) => {
                let mut t = [T::ZERO; LANES];
                if let Some(t) = y.checked_sub(at).and_then(|j| t.get_mut(j)) {
                    *t = T::ONE;
                }
                t
            }
        };
        let mut a = self.weights(at, left);
        for (a, t) in a.iter_mut().zip(t) {
            *a *= (1.0 - self.loss.label_smoothing) * t.to_f64() + spread;
        }
        a
    }

    /// l = −w_y ln p_y, before any mean. Only the label's term is there: an impossible class elsewhere must not give 0·∞.
    #[inline(always)]
    fn of_class(mut self, y: usize) -> f64 {
        let w_y = self.loss.weight(y);
        if let Some(dz) = self.dz.take() {
            let factor = T::from_f64(self.scale * w_y / self.sum);
            dz[..self.n].iter_mut().for_each(|dz| *dz *= factor);
            dz[y] -= T::from_f64(self.scale * w_y);
        }
        w_y * self.minus_ln_p(self.z[y])
    }

    /// l = −Σ_c a_c ln p_c, before any mean.
    #[inline(always)]
    fn of_distribution(mut self, target: Wanted<'_, T>) -> f64 {
        let (mut l, mut all) = ([0.0; LANES], [0.0; LANES]);
        for (at, left) in lanes::chunks(self.n) {
            let (z, a) = (lanes::load(&self.z[at..], left, self.max), self.soft(target, at, left));
            for j in 0..LANES {
                l[j] += a[j] * self.minus_ln_p(z[j]);
                all[j] += a[j];
            }
        }
        if let Some(dz) = self.dz.take() {
            // p Σ a = exp(d) · (Σ a / Σ exp(d))
            let factor = T::from_f64(self.scale * lanes::sum(all) / self.sum);
            for (at, left) in lanes::chunks(self.n) {
                let mut chunk = lanes::read(&dz[at..], T::ZERO);
                for (dz, a) in chunk.iter_mut().zip(self.soft(target, at, left)) {
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
