//! eˣ, tanh x, the logistic function, logarithms and the error function in double precision.
//!
//! As in single precision, they are additions, multiplications, divisions and selections, in one order and
//! without a fused multiply-add: the bits are the same on every machine and with every instruction set. They
//! have no branch, so a loop over them becomes vector instructions. Where an intermediate result's rounding
//! would count, its error is carried along.
//!
//! No larger errors were found in 3·10⁶ points of each function, in units of the last place of the exact
//! result:
//!
//! | function | error |
//! |---|---|
//! | `exp` | 0.8 |
//! | `tanh` | 1.25 |
//! | `sigmoid` | 1.1 |
//! | `ln`, `ln_1p` | 1.0 |
//! | `erf` | 0.9 |
//! | `erfc` | 1.45 |
//!
//! `tests/functions.rs` measures them, and `.ci/run functions` in more points.

use std::f64::consts::{self, LOG2_E};

/// eˣ = 2ⁿ eʳ with n = x / ln 2, rounded, and r = x − n ln 2.
///
/// Overflow gives ∞; underflow goes through the subnormal numbers to 0. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    // At 710 the result is ∞. At −1418 n is −2046, and both powers of two below are 0.
    let Reduced { high, tail, n } = reduce::<2046>(x.clamp(-1418.0, 710.0));
    let (sum, lost) = one_and(high);
    // 2ⁿ itself may be out of range: it is the product of two, each with half of n.
    (sum + (lost + tail)) * power(n >> 1) * power(n.wrapping_add(1) >> 1)
}

/// eˣ for x ≤ 0.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f64) -> f64 {
    // 2ⁿ times 2⁶⁴ is a normal number where eˣ isn't. From −746 on the result is 0.
    let scale = f64::from_bits((1023 - 64) << 52);
    (if x < -746.0 { 0.0 } else { scaled::<{ 1023 + 64 }>(x) }) * scale
}

/// The same, but 0 where that is below the normal numbers.
#[inline(always)]
pub(crate) fn exp_in_sum(x: f64) -> f64 {
    // The logarithm of the smallest normal number.
    if x < -708.396_418_532_264_1 { 0.0 } else { scaled::<1023>(x) }
}

/// eˣ times a power of two, whose biased exponent is given: 1023 is that of 1.
#[inline(always)]
fn scaled<const BIAS: u16>(x: f64) -> f64 {
    let Reduced { high, tail, n } = reduce::<BIAS>(x);
    let (sum, lost) = one_and(high);
    (sum + (lost + tail)) * power(n)
}

/// tanh x = m / (m + 2) with m = e²ˣ − 1.
#[inline(always)]
pub(crate) fn tanh(x: f64) -> f64 {
    let a = x.abs();
    // Beyond 20 the result is 1. NaN stays.
    let Reduced { high, tail, n } = reduce::<1023>(2.0 * if a > 20.0 { 20.0 } else { a });
    // m = (2ⁿ − 1) + 2ⁿ (eʳ − 1)
    let scale = power(n);
    let (whole, part) = (scale - 1.0, scale * high);
    let sum = whole + part;
    let rest = ((whole - sum) + part) + scale * tail;
    let m = sum + rest;
    let lost_of_m = (sum - m) + rest;
    let below = m + 2.0;
    let larger = if m > 2.0 { m } else { 2.0 };
    let smaller = if m > 2.0 { 2.0 } else { m };
    let lost = (larger - below) + smaller + lost_of_m;
    let y = m / below;
    // 1 / (m + 2) = ½ (1 − y)
    (y + (lost_of_m - y * lost) * (0.5 - 0.5 * y)).copysign(x)
}

/// 1 / (1 + e⁻ˣ), or, where x is negative, the same as eˣ / (1 + eˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f64) -> f64 {
    let Reduced { high, tail, n } = reduce::<2046>((-x.abs()).clamp(-1418.0, 0.0));
    let (first, second) = (power(n >> 1), power(n.wrapping_add(1) >> 1));
    let (sum, lost) = one_and(high);
    let rest = lost + tail;
    let near_1 = sum + rest;
    let e = near_1 * first * second;
    let lost_of_e = ((sum - near_1) + rest) * first * second;
    let below = 1.0 + e;
    let lost = ((1.0 - below) + e) + lost_of_e;
    let negative = x < 0.0;
    let y = if negative { e } else { 1.0 } / below;
    // Of the quotient by the sum a rough value will do.
    y + (if negative { lost_of_e } else { 0.0 } - y * lost) * (1.0 - 0.5 * e)
}

/// ln x. NaN for a negative x and for NaN, −∞ for 0.
#[inline(always)]
pub(crate) fn ln(x: f64) -> f64 {
    // 2⁵⁴ makes a subnormal number normal.
    let (subnormal, scale) = (x < f64::MIN_POSITIVE, 18_014_398_509_481_984.0);
    let (n, f) = split(if subnormal { scale * x } else { x });
    let ln = sum_of_logarithms(n - if subnormal { 54.0 } else { 0.0 }, f, 0.0);
    let of_infinity = if x > 0.0 { x } else { f64::NAN };
    let outside = if x == 0.0 { f64::NEG_INFINITY } else { of_infinity };
    if x > 0.0 && x <= f64::MAX { ln } else { outside }
}

/// ln x for a positive normal number x; for anything else, NaN included, this is NaN.
#[inline(always)]
pub(crate) fn ln_of_normal(x: f64) -> f64 {
    let (n, f) = split(x);
    let ln = sum_of_logarithms(n, f, 0.0);
    if (f64::MIN_POSITIVE..=f64::MAX).contains(&x) { ln } else { f64::NAN }
}

/// ln (1 + x) = ln u + (1 + x − u) / u, where u is 1 + x, rounded.
#[inline(always)]
pub(crate) fn ln_1p(x: f64) -> f64 {
    let u = 1.0 + x;
    let larger = if x > 1.0 { x } else { 1.0 };
    let smaller = if x > 1.0 { 1.0 } else { x };
    let (n, f) = split(u);
    let ln = sum_of_logarithms(n, f, ((larger - u) + smaller) / u);
    let of_infinity = if x > 0.0 { x } else { f64::NAN };
    let outside = if x == -1.0 { f64::NEG_INFINITY } else { of_infinity };
    // Also where it is −0.
    let small = if x.abs() < 1e-17 { x } else { ln };
    if x > -1.0 && x <= f64::MAX { small } else { outside }
}

/// Where erfc x is ¼: for smaller x it is 1 − erf x.
const LEAST: f64 = 0.8125;

/// erf x = 2/√π ∫₀ˣ exp(−t²) dt. NaN is passed on.
#[inline(always)]
pub(crate) fn erf(x: f64) -> f64 {
    let a = x.abs();
    let small = x + x * error_function(x);
    let large = 1.0 - tail(a);
    if a < LEAST { small } else { large.copysign(x) }
}

/// erfc x = 1 − erf x, accurate where that is small. NaN is passed on.
#[inline(always)]
pub(crate) fn erfc(x: f64) -> f64 {
    let a = x.abs();
    let y = x * error_function(x);
    // From ¼ on the result is near ½, and x − ½ is exact.
    let (one, half) = (1.0 - (x + y), 0.5 - ((x - 0.5) + y));
    let small = if x < 0.25 { one } else { half };
    let tail = tail(a);
    let large = if x < 0.0 { 2.0 - tail } else { tail };
    if a < LEAST { small } else { large }
}

/// The parts of Φ and φ in single precision: exp(−a²/2), and Φ(−a), for a from 0 to 15.
#[inline(always)]
pub(super) fn normal_of_single(a: f64) -> (f64, f64) {
    let x = -0.5 * a * a;
    let (n, bits) = round::<1023>(x * LOG2_E);
    let r = x - n * consts::LN_2;
    let exp = (1.0 + (r + r * r * polynomial(Q_SINGLE, r))) * power(bits);
    let w = 1.0 / (a + 3.0);
    (exp, exp * (w * polynomial(MILLS, w - 0.1875)))
}

/// Where eˣ is 2ⁿ (1 + high + tail).
struct Reduced {
    high: f64,
    tail: f64,
    /// n + BIAS in its low bits.
    n: u64,
}

#[inline(always)]
fn reduce<const BIAS: u16>(x: f64) -> Reduced {
    let (n, bits) = round::<BIAS>(x * LOG2_E);
    // r in two parts: the first is exact.
    let high = x - n * LN_2[0];
    let low = -n * LN_2[1];
    let r = high + low;
    Reduced { high, tail: low + r * r * polynomial(Q, r), n: bits }
}

/// The nearest whole number n, and a number whose low bits are n + BIAS.
#[inline(always)]
fn round<const BIAS: u16>(x: f64) -> (f64, u64) {
    let whole = WHOLE + f64::from(BIAS);
    let biased = x + whole;
    (biased - whole, biased.to_bits())
}

/// 1 + x and the error of its rounding, for |x| < 1.
#[inline(always)]
fn one_and(x: f64) -> (f64, f64) {
    let sum = 1.0 + x;
    (sum, (1.0 - sum) + x)
}

/// 2ⁿ from n + 1023, or from 0, where it is 0.
#[inline(always)]
fn power(biased: u64) -> f64 {
    f64::from_bits(biased << 52)
}

/// Σ cᵢ xⁱ
#[inline(always)]
fn polynomial<const N: usize>(c: [f64; N], x: f64) -> f64 {
    let mut sum = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = c[i] + x * sum;
    }
    sum
}

/// n and f of a positive normal number x = 2ⁿ (1 + f) with 1 + f between √½ and √2.
#[inline(always)]
fn split(x: f64) -> (f64, f64) {
    const ONE: u64 = 1.0_f64.to_bits();
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let exponent = (x.to_bits().wrapping_sub(SQRT_HALF).wrapping_add(ONE)) >> 52;
    // With the bits of 2⁵² above it, a whole number is a float.
    let n = f64::from_bits(exponent | 0x4330_0000_0000_0000) - (4_503_599_627_370_496.0 + 1023.0);
    (n, f64::from_bits(x.to_bits().wrapping_sub(exponent << 52).wrapping_add(ONE)) - 1.0)
}

/// n ln 2 + ln (1 + f) + c for a small c.
///
/// With s = f / (2 + f), ln (1 + f) = 2 (s + s³/3 + s⁵/5 + …): |s| is below 0.172, and the sum of the terms
/// after s¹⁹ is below 2⁻⁵⁵, relatively.
#[inline(always)]
fn sum_of_logarithms(n: f64, f: f64, c: f64) -> f64 {
    let s = f / (2.0 + f);
    let z = s * s;
    let r =
        [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0].into_iter().fold(0.0, |r, k| z * (2.0 / k + r));
    // 2 s = f − s f: only f itself isn't rounded, so the rest is made small.
    let half = 0.5 * f * f;
    n * LN_2[0] - ((half - (s * (half + r) + (n * LN_2[1] + c))) - f)
}

/// erf x / x − 1 for |x| ≤ 13/16.
#[inline(always)]
fn error_function(x: f64) -> f64 {
    polynomial(ERF, x * x)
}

/// erfc a = exp(−a² − 3/4 + g) / a for a ≥ 13/16, with a polynomial for g.
#[inline(always)]
fn tail(a: f64) -> f64 {
    // Beyond 28 the result is 0. NaN stays.
    let a = if a > 28.0 { 28.0 } else { a };
    let a = if a < LEAST { LEAST } else { a };
    // With 21 significant bits the square is exact, so the exponent loses nothing to rounding.
    let z = f64::from_bits(a.to_bits() & 0xffff_ffff_0000_0000);
    let below = z - a;
    // w = 1 / (a + 1), and the rest: w has so few bits in its first part that their product is exact.
    let w = 1.0 / (a + 1.0);
    let first = f64::from_bits(w.to_bits() & 0xffff_ffff_c000_0000);
    let left = ((1.0 - (z + 1.0) * first) - (z + 1.0) * (w - first)) + below * w;
    let g = polynomial(TAIL, (w - 0.3125) + left * w);
    let (square, rest) = (-z * z - 0.75, below * (z + a) + g);
    let (n, bits) = round::<2046>((square + rest) * LOG2_E);
    let high = square - n * LN_2[0];
    let low = rest - n * LN_2[1];
    let r = high + low;
    let (sum, lost) = one_and(high);
    let rest = lost + (low + r * r * polynomial(Q, r));
    let exp = sum + rest;
    let lost = (sum - exp) + rest;
    // exp / a, and its rest, as above.
    let inverse = 1.0 / a;
    let y = exp * inverse;
    let first = f64::from_bits(y.to_bits() & 0xffff_ffff_c000_0000);
    let left = ((exp - z * first) - z * (y - first)) + below * y;
    (y + (left + lost) * inverse) * power(bits >> 1) * power(bits.wrapping_add(1) >> 1)
}

/// 1/√(2π)
pub(super) const ONE_OVER_SQRT_2_PI: f64 = 0.398_942_280_401_432_7;
/// A float of this size has no places after the point, and its low bits are a whole number: adding it rounds.
const WHOLE: f64 = 1.5 * 4_503_599_627_370_496.0;
/// ln 2 in two parts. The first has 33 bits, so its product with n is exact.
const LN_2: [f64; 2] = [0.693_147_180_485_539_1, 7.440_617_110_012_397e-11];

// By testkit/exact/coefficients.py. The errors given are those after rounding.

/// (eʳ − 1 − r) / r² for |r| ≤ ½ ln 2. The error in eʳ is below 2⁻⁶¹, relatively.
const Q: [f64; 11] = [
    0.5,
    0.166_666_666_666_666_7,
    0.041_666_666_666_666_67,
    0.008_333_333_333_326_136,
    0.001_388_888_888_888_374_8,
    0.000_198_412_698_748_206_27,
    2.480_158_732_554_774_3e-5,
    2.755_725_540_020_642_2e-6,
    2.755_727_364_311_03e-7,
    2.510_521_700_472_074_5e-8,
    2.091_468_696_808_687_6e-9,
];
/// The same for single precision. The error in eʳ is below 2⁻³², relatively.
const Q_SINGLE: [f64; 6] = [
    0.500_000_001_346_581,
    0.166_666_666_816_232_32,
    0.041_666_464_925_285_904,
    0.008_333_310_925_480_9,
    0.001_393_364_999_630_925_1,
    0.000_198_909_908_246_736_54,
];
/// (a + 3) Φ(−a) exp(a²/2) in powers of 1 / (a + 3) − 3/16, for a from 0 to 15. The error is below 2⁻²⁹,
/// relatively.
const MILLS: [f64; 11] = [
    0.796_433_763_007_957_4,
    3.413_770_915_702_251_8,
    8.878_630_565_292_95,
    8.854_046_351_362_811,
    -18.808_052_602_030_514,
    -45.822_444_984_670_66,
    84.131_758_267_397_27,
    203.731_377_902_325_6,
    -597.407_577_387_555_6,
    -644.560_512_941_097_4,
    3_355.381_281_797_129_3,
];
/// erf x / x − 1 in powers of x², for |x| ≤ 13/16. The error in erf x is below 2⁻⁵⁵, relatively.
const ERF: [f64; 11] = [
    0.128_379_167_095_512_56,
    -0.376_126_389_031_835_8,
    0.112_837_916_709_448_64,
    -0.026_866_170_642_701_32,
    0.005_223_977_595_902_754,
    -0.000_854_832_492_564_041_1,
    0.000_120_552_399_165_994_9,
    -1.492_299_047_667_657_2e-5,
    1.641_300_983_327_223_8e-6,
    -1.579_677_030_201_240_6e-7,
    1.097_902_252_471_873_8e-8,
];
/// ln (a erfc a) + a² + 3/4 in powers of v = 1 / (a + 1) − 5/16, for a from 13/16 to 28. The error is
/// below 2⁻⁵⁵.
const TAIL: [f64; 26] = [
    0.092_807_667_172_893_2,
    -0.665_775_650_552_712_9,
    -1.658_463_031_416_822_7,
    -1.276_995_733_966_938_2,
    -0.278_104_577_671_613_8,
    -1.690_383_079_702_025_6,
    -2.697_443_621_765_309,
    0.295_762_557_244_476_25,
    -3.171_861_941_197_495,
    -7.823_495_147_841_426,
    5.225_260_044_430_62,
    -9.851_196_582_163_084,
    -26.559_106_792_789_798,
    39.888_426_832_413_97,
    -57.456_428_552_246_344,
    -81.090_570_229_546_36,
    247.409_112_050_271_57,
    -423.343_703_653_459_84,
    35.554_677_549_084_87,
    710.341_907_952_259_1,
    -3_683.044_686_083_313,
    8_834.754_892_447_552,
    6_721.570_988_343_418,
    -56_351.068_590_524_28,
    6_397.875_719_343_269,
    116_027.422_310_244_61,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::exp as single;
    use crate::simd::{Kernel, Simd, run_at};

    /// The platform's is within half a unit and a bit of the exact result.
    #[test]
    fn logarithms() {
        let ulp = |y: f64| y.abs().next_up() - y.abs();
        let near = |x: f64| (ln_of_normal(x) - x.ln()).abs() <= ulp(x.ln());
        let (all, mut x) = (f64::MIN_POSITIVE.to_bits()..f64::MAX.to_bits(), 1.0_f64);
        assert!(all.step_by(99_999_999_999_989).map(f64::from_bits).all(near));
        // Where the sums of softmax are.
        while x < 1e9 {
            assert!(near(x), "{x}: {} is not {}", ln_of_normal(x), x.ln());
            x *= 1.0001;
        }
        assert!([1.0, 2.0, 4.0, 0.5, 2_f64.sqrt(), 0.5_f64.sqrt(), f64::MAX].into_iter().all(near));
        assert_eq!(ln(1.0).to_bits(), 0.0_f64.to_bits());
        for x in [0.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-324] {
            assert!(ln_of_normal(x).is_nan(), "{x}");
        }
    }

    #[test]
    fn special_values() {
        let (inf, nan, tiny) = (f64::INFINITY, f64::NAN, f64::from_bits(1));
        let all = |f: fn(f64) -> f64, name, pairs: &[(f64, f64)]| {
            for &(x, y) in pairs {
                assert!(
                    f(x).to_bits() == y.to_bits() || f(x).is_nan() && y.is_nan(),
                    "{name} {x:e}: {:e}",
                    f(x)
                );
            }
        };
        // The last results that are finite, or not 0, and their neighbors.
        let (most, least) = (709.782_712_893_384_f64, -745.133_219_101_941_1_f64);
        assert!(exp(most) < inf && exp(most.next_up()) == inf);
        for exp in [exp, exp_of_negative] {
            assert!(exp(least) == tiny && exp(least.next_down()) == 0.0);
        }
        let exp_pairs =
            [(0.0, 1.0), (-0.0, 1.0), (inf, inf), (-inf, 0.0), (f64::MAX, inf), (f64::MIN, 0.0), (nan, nan)];
        all(exp, "exp", &exp_pairs);
        all(
            exp_of_negative,
            "exp of negative",
            &[(0.0, 1.0), (-0.0, 1.0), (-inf, 0.0), (f64::MIN, 0.0), (nan, nan)],
        );
        all(exp_in_sum, "exp in sums", &[(0.0, 1.0), (-0.0, 1.0), (-inf, 0.0), (f64::MIN, 0.0), (nan, nan)]);
        let odd =
            [(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (f64::MIN, -1.0), (nan, nan), (-nan, nan)];
        all(tanh, "tanh", &odd);
        all(erf, "erf", &odd);
        all(tanh, "tanh", &[(tiny, tiny), (-tiny, -tiny)]);
        all(
            sigmoid,
            "sigmoid",
            &[(0.0, 0.5), (-0.0, 0.5), (inf, 1.0), (-inf, 0.0), (f64::MIN, 0.0), (nan, nan)],
        );
        let ln_pairs =
            [(0.0, -inf), (-0.0, -inf), (-tiny, nan), (-inf, nan), (inf, inf), (nan, nan), (1.0, 0.0)];
        all(ln, "ln", &ln_pairs);
        let near_0 = [(0.0, 0.0), (-0.0, -0.0), (tiny, tiny), (-tiny, -tiny)];
        all(ln_1p, "ln_1p", &near_0);
        all(ln_1p, "ln_1p", &[(-1.0, -inf), (-1.5, nan), (-inf, nan), (inf, inf), (nan, nan)]);
        all(erfc, "erfc", &[(0.0, 1.0), (inf, 0.0), (-inf, 2.0), (f64::MAX, 0.0), (28.0, 0.0), (nan, nan)]);
    }

    /// The same bits with every instruction set: a × b + c is nowhere contracted.
    #[test]
    fn instruction_sets_agree() {
        struct All<'a>(&'a [f64], &'a mut [[f64; 9]], &'a mut [[f32; 4]]);
        impl Kernel for All<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self) {
                let Self(x, y, z) = self;
                for (&x, y) in x.iter().zip(&mut *y) {
                    *y = [
                        exp(x),
                        exp_of_negative(-x.abs()),
                        exp_in_sum(-x.abs()),
                        tanh(x),
                        sigmoid(x),
                        ln(x),
                        ln_1p(x),
                        erf(x),
                        erfc(x),
                    ];
                }
                for (&x, z) in x.iter().zip(z) {
                    let x = x as f32;
                    *z = [single::ln(x), single::ln_1p(x), single::erf(x), single::erfc(x)];
                }
            }
        }

        // All exponents, and where the functions are neither simple nor out of range.
        let exponents = (0..=u64::MAX).step_by(999_999_999_999_989).map(f64::from_bits);
        let x: Vec<f64> = exponents.chain((-8000..8000).map(|i| f64::from(i) * 0.003_7)).collect();
        let at = |level| {
            let (mut y, mut z) = (vec![[0.0; 9]; x.len()], vec![[0.0; 4]; x.len()]);
            run_at(level, All(&x, &mut y, &mut z))?;
            let z = z.iter().flatten().map(|z| f64::from(*z));
            Some(
                y.iter()
                    .flatten()
                    .copied()
                    .chain(z)
                    .map(|y| if y.is_nan() { 1 } else { y.to_bits() })
                    .collect::<Vec<_>>(),
            )
        };
        let expected = at("baseline").unwrap();
        for level in ["avx2", "avx512"] {
            if let Some(y) = at(level) {
                assert!(y == expected, "{level}");
            }
        }
    }
}
