//! Sums in twice the precision: beside each sum stands its rounding error.

use crate::scalar::Scalar;

/// So many terms can as well be added in order, in the element's type: eight additions, each off by ε/2, are
/// within 4 ε Σ|x|.
pub const FEW: usize = 9;

/// Of terms whose number isn't known beforehand, so many are added in order: one more rounding follows.
pub const IN_ORDER: u32 = 8;

/// (sum, low) ← (sum, low) + x, where low is the sum's error. Both begin at 0, and the sum is rounded at
/// any time: nothing is left to do at the end.
///
/// ```
/// use backrule_tensor::kernels::twofold;
///
/// let (mut sum, mut low) = (0.0_f32, 0.0);
/// for _ in 0..20_000 {
///     twofold::add(&mut sum, &mut low, 0.1);
/// }
/// assert_eq!(sum, 2000.0); // 0.1 is 0.100000001; with `+=` this is 1999.6
/// ```
#[inline(always)]
pub fn add<T: Scalar>(sum: &mut T, low: &mut T, x: T) {
    // The rounding error of the addition: Knuth's sum of two numbers.
    let rough = *sum + x;
    let added = rough - *sum;
    let lost = (*sum - (rough - added)) + (x - added);
    // Beside ∞ there is nothing to lose, and ∞ − ∞ would be NaN.
    let rest = finite(*low + lost);
    *sum = rough + rest;
    *low = rest - (*sum - rough);
}

/// x, or 0 for NaN and ±∞.
#[inline(always)]
fn finite<T: Scalar>(x: T) -> T {
    if x * T::ZERO == T::ZERO { x } else { T::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(x: impl IntoIterator<Item = f32>) -> f32 {
        let (mut sum, mut low) = (0.0, 0.0);
        x.into_iter().for_each(|x| add(&mut sum, &mut low, x));
        sum
    }

    #[test]
    fn sums_are_those_of_twice_the_precision() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        for terms in [1, 2, 9, 10, 1_000, 1_000_000] {
            for scale in [1.0, 1e-30, 1e30] {
                let x: Vec<f32> = (0..terms).map(|_| random() * scale).collect();
                let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
                let absolute: f64 = x.iter().map(|&x| f64::from(x).abs()).sum();
                let error = (f64::from(sum(x)) - exact).abs();
                let bound = f64::from(f32::EPSILON) / 2.0 * exact.abs() + 1e-12 * absolute;
                assert!(error <= bound, "{terms} terms of {scale:e}: {error:e} > {bound:e}");
            }
        }
    }

    #[test]
    fn infinities_and_nan_stay() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!(sum([1.0, inf, 2.0]), inf);
        assert_eq!(sum([-inf, 2.0, -inf]), -inf);
        assert!(sum([inf, 1.0, -inf, 3.0]).is_nan());
        assert!(sum([1.0, nan, 3.0]).is_nan());
        assert_eq!(sum([f32::MAX, f32::MAX, 1.0]), inf);
    }
}
