//! One time step of one sample of a long short-term memory, without its products.
//!
//! The gates of n units are four blocks of n elements: input i, forget f, cell g, output o.
//!
//! | from | to |
//! |---|---|
//! | sums z of the four blocks | i = σ(zᵢ), f = σ(z_f), g = tanh z_g, o = σ(zₒ) |
//! | c₋ of the step before | c = f c₋ + i g, h = o tanh c |

use crate::scalar::Scalar;
use crate::simd::kernel;

kernel!(
    /// The gates from their sums, in place, and c and h.
    ///
    /// Of slices that are longer than the others, the beginning counts.
    ///
    /// ```
    /// use backrule_tensor::kernels::lstm::forward;
    ///
    /// let mut gates = [0.0_f64, 0.0, 0.5 * 3_f64.ln(), 0.0]; // tanh (½ ln 3) = ½
    /// let (mut c, mut h) = ([0.0], [0.0]);
    /// forward(&mut gates, &[2.0], &mut c, &mut h);
    /// assert!((gates[2] - 0.5).abs() < 1e-15 && gates[0] == 0.5);
    /// assert!((c[0] - 1.25).abs() < 1e-15); // ½ · 2 + ½ · ½
    /// assert!((h[0] - 0.5 * 1.25_f64.tanh()).abs() < 1e-15);
    /// ```
    pub fn forward<T: Scalar>(gates: &mut [T], before: &[T], c: &mut [T], h: &mut [T]) {
        let n = (gates.len() / 4).min(before.len()).min(c.len()).min(h.len());
        // As long as each other: no element is checked in the loop.
        let [i, f, g, o] = blocks(gates, n);
        let (before, c, h) = (&before[..n], &mut c[..n], &mut h[..n]);
        for j in 0..n {
            let gates = [i[j].sigmoid(), f[j].sigmoid(), g[j].tanh(), o[j].sigmoid()];
            [i[j], f[j], g[j], o[j]] = gates;
            c[j] = gates[1] * before[j] + gates[0] * gates[2];
            h[j] = gates[3] * c[j].tanh();
        }
    }
);

kernel!(
    /// The derivatives by the sums of the gates, in place of the gates, and by c₋, in place of the derivative
    /// by c.
    ///
    /// The derivative by h is the sum of `dy`, of the step's own output, and `dh`, of the step behind it.
    ///
    /// | derivative | formula |
    /// |---|---|
    /// | ∂l/∂c, with that by h | dc + dh o (1 − tanh² c) |
    /// | ∂l/∂zᵢ | dc g i (1 − i) |
    /// | ∂l/∂z_f | dc c₋ f (1 − f) |
    /// | ∂l/∂z_g | dc i (1 − g²) |
    /// | ∂l/∂zₒ | dh tanh c o (1 − o) |
    /// | ∂l/∂c₋ | dc f |
    ///
    /// tanh c is computed again: it would be a sixth number to keep for each unit and step.
    ///
    /// Of slices that are longer than the others, the beginning counts.
    ///
    /// ```
    /// use backrule_tensor::kernels::lstm::backward;
    ///
    /// let mut gates = [0.5_f64, 0.25, 0.5, 0.75];
    /// let mut dc = [8.0];
    /// backward(&mut gates, &[2.0], &[0.0], &[3.0], &[1.0], &mut dc);
    /// // tanh 0 = 0, so ∂l/∂c = 8 + (3 + 1) · ¾ = 11.
    /// assert_eq!(gates, [11.0 * 0.5 * 0.25, 11.0 * 2.0 * 0.1875, 11.0 * 0.5 * 0.75, 0.0]);
    /// assert_eq!(dc, [11.0 * 0.25]);
    /// ```
    pub fn backward<T: Scalar>(gates: &mut [T], before: &[T], c: &[T], dy: &[T], dh: &[T], dc: &mut [T]) {
        let n = (gates.len() / 4).min(before.len()).min(c.len()).min(dy.len()).min(dh.len()).min(dc.len());
        let [zi, zf, zg, zo] = blocks(gates, n);
        let (before, c, dy, dh, dc) = (&before[..n], &c[..n], &dy[..n], &dh[..n], &mut dc[..n]);
        for j in 0..n {
            let ([i, f, g, o], tanh) = ([zi[j], zf[j], zg[j], zo[j]], c[j].tanh());
            let dh = dh[j] + dy[j];
            let d = dc[j] + dh * o * (T::ONE - tanh * tanh);
            zi[j] = d * g * (i * (T::ONE - i));
            zf[j] = d * before[j] * (f * (T::ONE - f));
            zg[j] = d * i * (T::ONE - g * g);
            zo[j] = dh * tanh * (o * (T::ONE - o));
            dc[j] = d * f;
        }
    }
);

/// The first `n` elements of each of the four blocks.
#[inline(always)]
fn blocks<T>(gates: &mut [T], n: usize) -> [&mut [T]; 4] {
    let units = gates.len() / 4;
    let (i, rest) = gates.split_at_mut(units);
    let (f, rest) = rest.split_at_mut(units);
    let (g, o) = rest.split_at_mut(units);
    [&mut i[..n], &mut f[..n], &mut g[..n], &mut o[..n]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::at_level;

    fn numbers(n: usize, salt: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + salt * 104_729) % 997) as f32 * 0.008 - 4.0).collect()
    }

    #[test]
    fn instruction_sets_agree() {
        for n in [1, 7, 16, 37] {
            let run = |level| {
                let (mut gates, before) = (numbers(4 * n, 1), numbers(n, 2));
                let (mut c, mut h) = (vec![0.0; n], vec![0.0; n]);
                at_level(level, || forward(&mut gates, &before, &mut c, &mut h))?;
                let of_forward = gates.clone();
                let (dy, dh, mut dc) = (numbers(n, 3), numbers(n, 4), numbers(n, 5));
                at_level(level, || backward(&mut gates, &before, &c, &dy, &dh, &mut dc))?;
                Some([of_forward, c, h, gates, dc])
            };
            let expected = run("baseline");
            for level in ["avx2", "avx512"] {
                let got = run(level);
                assert!(got.is_none() || got == expected, "{level}, {n} units");
            }
        }
    }

    #[test]
    fn of_longer_slices_the_beginning_counts() {
        let mut gates = [0.0_f32; 8];
        let (mut c, mut h) = ([7.0; 3], [7.0; 2]);
        forward(&mut gates, &[2.0], &mut c, &mut h);
        assert_eq!((c, gates[..2] == [0.5, 0.0], h[1]), ([1.0, 7.0, 7.0], true, 7.0));
    }
}
