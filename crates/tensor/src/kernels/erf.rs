//! The error function and its complement: rational approximations on five intervals, with the coefficients of
//! the FreeBSD mathematical library (`s_erf.c`, Sun Microsystems, 1993). Within one unit in the last place of
//! a double.
#![allow(clippy::excessive_precision, reason = "the coefficients as they were published")]

/// Σ cᵢ xⁱ
#[inline(always)]
fn polynomial<const N: usize>(c: [f64; N], x: f64) -> f64 {
    c.iter().rev().fold(0.0, |sum, &c| sum * x + c)
}

/// The largest double of 24 significant bits around erf(1).
const ERX: f64 = 8.450_629_115_104_675e-1;

/// erf x = x + x P(x²)/Q(x²) for |x| < 0.84375.
const PP: [f64; 5] = [
    1.283_791_670_955_125_6e-1,
    -3.250_421_072_470_015e-1,
    -2.848_174_957_559_851e-2,
    -5.770_270_296_489_442e-3,
    -2.376_301_665_665_016_3e-5,
];
const QQ: [f64; 6] = [
    1.0,
    3.979_172_239_591_553_5e-1,
    6.502_224_998_876_729e-2,
    5.081_306_281_875_766e-3,
    1.324_947_380_043_216_4e-4,
    -3.960_228_278_775_368e-6,
];
/// erf x = ERX + P(s)/Q(s) with s = |x| − 1 for |x| < 1.25.
const PA: [f64; 7] = [
    -2.362_118_560_752_659_4e-3,
    4.148_561_186_837_483_3e-1,
    -3.722_078_760_357_013e-1,
    3.183_466_199_011_617_5e-1,
    -1.108_946_942_823_966_8e-1,
    3.547_830_432_561_823_6e-2,
    -2.166_375_594_868_790_8e-3,
];
const QA: [f64; 7] = [
    1.0,
    1.064_208_804_008_442_3e-1,
    5.403_979_177_021_71e-1,
    7.182_865_441_419_627e-2,
    1.261_712_198_087_616_4e-1,
    1.363_708_391_202_905_1e-2,
    1.198_449_984_679_910_7e-2,
];
/// erfc x = exp(−x² − 0.5625 + R(s)/S(s)) / x with s = 1/x² for x < 1/0.35.
const RA: [f64; 8] = [
    -9.864_944_034_847_148e-3,
    -6.938_585_727_071_818e-1,
    -1.055_862_622_532_329_1e1,
    -6.237_533_245_032_600_6e1,
    -1.623_966_694_625_734_7e2,
    -1.846_050_929_067_110_4e2,
    -8.128_743_550_630_66e1,
    -9.814_329_344_169_145,
];
const SA: [f64; 9] = [
    1.0,
    1.965_127_166_743_925_7e1,
    1.376_577_541_435_190_4e2,
    4.345_658_774_752_292_3e2,
    6.453_872_717_332_679e2,
    4.290_081_400_275_678_3e2,
    1.086_350_055_417_794_4e2,
    6.570_249_770_319_282,
    -6.042_441_521_485_81e-2,
];
/// The same for larger x.
const RB: [f64; 7] = [
    -9.864_942_924_700_1e-3,
    -7.992_832_376_805_23e-1,
    -1.775_795_491_775_475_2e1,
    -1.606_363_848_558_219_2e2,
    -6.375_664_433_683_896e2,
    -1.025_095_131_611_077_2e3,
    -4.835_191_916_086_514e2,
];
const SB: [f64; 8] = [
    1.0,
    3.033_806_074_348_246e1,
    3.257_925_129_965_739e2,
    1.536_729_586_084_437e3,
    3.199_858_219_508_595_5e3,
    2.553_050_406_433_164_4e3,
    4.745_285_412_069_554e2,
    -2.244_095_244_658_581_8e1,
];

/// The first factor of erfc for |x| ≥ 1.25, without 1/x.
#[inline(always)]
fn tail(x: f64) -> f64 {
    let s = 1.0 / (x * x);
    let ratio = match x < 1.0 / 0.35 {
        true => polynomial(RA, s) / polynomial(SA, s),
        false => polynomial(RB, s) / polynomial(SB, s),
    };
    // x with 21 significant bits: its square is exact, so the exponent loses nothing to rounding.
    let z = f64::from_bits(x.to_bits() & 0xffff_ffff_0000_0000);
    (-z * z - 0.5625).exp() * ((z - x) * (z + x) + ratio).exp() / x
}

/// erf x = 2/√π ∫₀ˣ exp(−t²) dt. NaN is passed on.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 0.84375 {
        // Below 2⁻²⁸ the series is its first term; x² may be subnormal there.
        return x + x * if a < 3.725_290_298_461_914e-9 {
            PP[0]
        } else {
            polynomial(PP, x * x) / polynomial(QQ, x * x)
        };
    }
    let erf = if a < 1.25 {
        ERX + polynomial(PA, a - 1.0) / polynomial(QA, a - 1.0)
    } else if a < 6.0 {
        1.0 - tail(a)
    } else if a.is_nan() {
        a
    } else {
        1.0
    };
    erf.copysign(x)
}

/// erfc x = 1 − erf x, accurate where that is small. NaN is passed on.
pub fn erfc(x: f64) -> f64 {
    let a = x.abs();
    if a < 0.84375 {
        let y = polynomial(PP, x * x) / polynomial(QQ, x * x);
        return if x < 0.25 { 1.0 - (x + x * y) } else { 0.5 - (x - 0.5 + x * y) };
    }
    let of_positive = if a < 1.25 {
        1.0 - ERX - polynomial(PA, a - 1.0) / polynomial(QA, a - 1.0)
    } else if a < 28.0 {
        tail(a)
    } else if a.is_nan() {
        a
    } else {
        0.0
    };
    if x < 0.0 { 2.0 - of_positive } else { of_positive }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2/√π Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n+1)): the terms grow to e^(x²), so it is exact enough for small x alone.
    fn series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    /// erfc x as a continued fraction, which converges for large x.
    fn fraction(x: f64) -> f64 {
        let mut fraction = x;
        for k in (1..400).rev() {
            fraction = x + f64::from(k) / 2.0 / fraction;
        }
        (-x * x).exp() / fraction / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn erf_is_its_series_and_erfc_its_continued_fraction() {
        for i in 0..=2400 {
            let x = f64::from(i) / 1000.0;
            let error = (erf(x) - series(x)).abs();
            assert!(error <= 4e-15 * (1.0 + (x * x).exp() / 20.0), "erf {x}: {error:e}");
            assert_eq!(erf(-x), -erf(x));
            assert!((erfc(x) + erf(x) - 1.0).abs() <= 4e-16 && (erfc(-x) - erf(x) - 1.0).abs() <= 4e-16);
        }
        for i in 20..=260 {
            let x = f64::from(i) / 10.0;
            let (got, expected) = (erfc(x), fraction(x));
            assert!((got / expected - 1.0).abs() <= 1e-15 * x * x + 4e-15, "erfc {x}: {got:e} {expected:e}");
        }
    }

    #[test]
    fn edges() {
        assert_eq!([erf(0.0), erf(f64::INFINITY), erf(f64::NEG_INFINITY), erf(1e4)], [0.0, 1.0, -1.0, 1.0]);
        assert_eq!(
            [erfc(0.0), erfc(f64::INFINITY), erfc(f64::NEG_INFINITY), erfc(-1e4)],
            [1.0, 0.0, 2.0, 2.0]
        );
        assert!(erf(-0.0).is_sign_negative() && erf(f64::NAN).is_nan() && erfc(f64::NAN).is_nan());
        assert_eq!(erf(1e-300), 1e-300 + 1e-300 * PP[0]);
        // One half of the normal distribution is below 0.6745 standard deviations of the mean.
        assert!((erf(0.476_936_276_204_469_9) - 0.5).abs() < 1e-16);
    }
}
