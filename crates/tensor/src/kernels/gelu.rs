//! x Φ(x), where Φ is the distribution function of the normal distribution, and its derivative.

use std::f64::consts::FRAC_1_SQRT_2;
use std::marker::PhantomData;

use crate::kernels::double;
use crate::scalar::Scalar;
use crate::scalar::sealed::Work;

/// x Φ(x). Its error: below 0.53 units of the last place in f32.
///
/// ```
/// use backrule_tensor::kernels::gelu::{gelu, slope};
///
/// assert!((gelu(1.0_f64) - 0.841_344_746).abs() < 1e-9); // Φ(1)
/// assert!((slope(1.0_f64) - 1.083_315_471).abs() < 1e-9); // Φ(1) + φ(1)
/// ```
#[inline(always)]
pub fn gelu<T: Scalar>(x: T) -> T {
    let mut y = x;
    T::work::<Value<'_>>(&mut y);
    y
}

/// Its derivative, Φ(x) + x φ(x), with the density φ(x) = exp(−x²/2) / √(2π). Where it is near 0, its error
/// is below 10⁻⁹ in f32.
#[inline(always)]
pub fn slope<T: Scalar>(x: T) -> T {
    let mut y = x;
    T::work::<Slope<'_>>(&mut y);
    y
}

/// Writes the value where x is.
struct Value<'a>(PhantomData<&'a mut ()>);

impl<'a> Work for Value<'a> {
    type On<T: 'static> = &'a mut T;
    type Output = ();

    /// Below −15 it is −0. In double precision, where x² is exact: its rounding would be an error of x²/2
    /// units.
    #[inline(always)]
    fn f32(x: &'a mut f32) {
        let a = up_to_15(*x);
        let (_, lower) = double::normal_of_single(a);
        *x = (if *x < 0.0 { -a * lower } else { f64::from(*x) * (1.0 - lower) }) as f32;
    }

    /// Φ(x) = ½ erfc(−x/√2). At −∞ the value is −0.
    #[inline(always)]
    fn f64(x: &'a mut f64) {
        let phi = 0.5 * double::erfc(-*x * FRAC_1_SQRT_2);
        *x = if phi == 0.0 { -0.0 } else { *x * phi };
    }
}

/// Writes the slope where x is.
struct Slope<'a>(PhantomData<&'a mut ()>);

impl<'a> Work for Slope<'a> {
    type On<T: 'static> = &'a mut T;
    type Output = ();

    #[inline(always)]
    fn f32(x: &'a mut f32) {
        let a = up_to_15(*x);
        let (exp, lower) = double::normal_of_single(a);
        let density = a * (exp * double::ONE_OVER_SQRT_2_PI);
        *x = (if *x < 0.0 { lower - density } else { (1.0 - lower) + density }) as f32;
    }

    #[inline(always)]
    fn f64(x: &'a mut f64) {
        let density = double::exp(-0.5 * *x * *x) * double::ONE_OVER_SQRT_2_PI;
        // ∞ · 0 would be NaN.
        let bend = if density == 0.0 { 0.0 } else { *x * density };
        *x = 0.5 * double::erfc(-*x * FRAC_1_SQRT_2) + bend;
    }
}

/// |x|, but at most 15. NaN stays.
#[inline(always)]
fn up_to_15(x: f32) -> f64 {
    let a = x.abs();
    f64::from(if a > 15.0 { 15.0 } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values() {
        let inf = f32::INFINITY;
        for (x, y) in [(0.0, 0.0), (-0.0, -0.0), (inf, inf), (f32::MAX, f32::MAX), (f32::MIN, -0.0)] {
            assert_eq!(gelu(x).to_bits(), f32::to_bits(y), "gelu {x:e}");
        }
        for (x, y) in [(0.0, 0.5), (inf, 1.0), (-inf, -0.0), (f32::MAX, 1.0), (f32::MIN, -0.0)] {
            assert_eq!(slope(x).to_bits(), f32::to_bits(y), "slope of gelu {x:e}");
        }
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(u32::MAX)] {
            assert!(gelu(nan).is_nan() && slope(nan).is_nan());
        }
    }

    /// Between its zero at −0.75 and where it is 1, and where it goes through the subnormal numbers.
    #[test]
    fn slopes() {
        let exact_slope = |x: f64| {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * double::erfc(-x * FRAC_1_SQRT_2) + x * density
        };
        for i in -160_000..160_000 {
            let x = i as f32 * 1e-4;
            let exact = exact_slope(x.into());
            let unit = f64::from((exact as f32).abs().next_up() - (exact as f32).abs());
            let bound = 0.53 * unit + if x > -2.0 { 1e-9 } else { 0.0 };
            assert!((f64::from(slope(x)) - exact).abs() <= bound, "{x}: {:e} {exact:e}", slope(x));
        }
    }
}
