//! One row of logits.

use backrule_tensor::Scalar;
use backrule_tensor::kernels::row::{self, CHUNK};

use crate::cross_entropy::settings::CrossEntropy;
use crate::target::Target;

/// The target of a row.
#[derive(Clone, Copy)]
enum Wanted<'a, T> {
    Class(usize),
    Probabilities(&'a [T]),
}

/// One row of `n` logits. `z` and `dz` begin with it.
pub(super) struct Row<'a, T> {
    pub(super) loss: &'a CrossEntropy,
    pub(super) z: &'a [T],
    /// On entry exp(z_k − max z), at the end the gradient.
    pub(super) dz: Option<&'a mut [T]>,
    pub(super) n: usize,
    /// max z
    pub(super) max: T,
    /// Σ exp(z_k − max z)
    pub(super) sum: f64,
    /// ln Σ exp(z_k − max z)
    pub(super) ln_sum: f64,
    pub(super) scale: f64,
}

impl<T: Scalar> Row<'_, T> {
    /// l of this row, which is row `row` of the batch.
    #[inline(always)]
    pub(super) fn loss_to(self, target: Target<'_, T>, row: usize) -> f64 {
        let target = match target {
            Target::Probabilities(t) => Wanted::Probabilities(&t.as_slice()[row * self.n..]),
            Target::Classes(labels) => Wanted::Class(labels[row]),
        };
        match target {
            Wanted::Class(y) if self.loss.ignore_index == Some(y) => self.ignored(),
            Wanted::Class(y) if self.loss.label_smoothing == 0.0 => self.loss_to_class(y),
            _ => self.loss_to_distribution(target),
        }
    }

    /// A row that doesn't count: l = 0, ∂l/∂z = 0.
    #[inline(always)]
    fn ignored(self) -> f64 {
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
    fn weights(&self, at: usize, left: usize) -> [f64; CHUNK] {
        match &self.loss.class_weights {
            None => row::load(&[1.0; CHUNK], left, 0.0),
            Some(w) => row::load(&w[at..], left, 0.0),
        }
    }

    /// a_c = w_c ((1−ε) t_c + ε/C), and 0 past the end of the row. A class is the t that is 1 there.
    #[inline(always)]
    fn soft(&self, target: Wanted<'_, T>, at: usize, left: usize) -> [f64; CHUNK] {
        let spread = self.loss.label_smoothing / self.n as f64;
        let t = match target {
            Wanted::Probabilities(t) => row::load(&t[at..], left, T::ZERO),
            Wanted::Class(y) => {
                let mut t = [T::ZERO; CHUNK];
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

    /// l = −w_y ln p_y, before any mean. Only the label's term is there: an impossible class elsewhere must
    /// not give 0·∞.
    #[inline(always)]
    fn loss_to_class(mut self, y: usize) -> f64 {
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
    fn loss_to_distribution(mut self, target: Wanted<'_, T>) -> f64 {
        let (mut l, mut all) = ([0.0; CHUNK], [0.0; CHUNK]);
        for (at, left) in row::chunks(self.n) {
            let (z, a) = (row::load(&self.z[at..], left, self.max), self.soft(target, at, left));
            for j in 0..CHUNK {
                l[j] += a[j] * self.minus_ln_p(z[j]);
                all[j] += a[j];
            }
        }
        if let Some(dz) = self.dz.take() {
            // p Σ a = exp(d) · (Σ a / Σ exp(d))
            let factor = T::from_f64(self.scale * row::sum(all) / self.sum);
            for (at, left) in row::chunks(self.n) {
                let mut chunk = row::read(&dz[at..], T::ZERO);
                for (dz, a) in chunk.iter_mut().zip(self.soft(target, at, left)) {
                    *dz = *dz * factor - T::from_f64(self.scale * a);
                }
                row::store(chunk, &mut dz[at..]);
            }
        }
        row::sum(l)
    }
}
