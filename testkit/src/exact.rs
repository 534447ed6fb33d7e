//! eˣ, tanh x, the logistic function, logarithms and the error function in twice the precision of a double,
//! as a measure for faster functions.
//!
//! A number is the sum of two doubles, and a function's relative error is below 2⁻⁹⁶.
//! `testkit/exact/values.txt` has values of mpmath to compare with.

use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::LazyLock;

/// The sum of two doubles, of which the second is at most half a unit in the last place of the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Twice(pub f64, pub f64);

/// A result: a number near 1, or 0, and a power of two. Its product may be below the normal doubles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// The number.
    pub number: Twice,
    /// The exponent of two.
    pub exponent: i32,
}

/// a + b and the error of its rounding, for |a| ≥ |b|.
fn ordered_sum(a: f64, b: f64) -> Twice {
    let sum = a + b;
    Twice(sum, b - (sum - a))
}

/// a + b and the error of its rounding.
fn sum(a: f64, b: f64) -> Twice {
    let sum = a + b;
    let of_b = sum - a;
    Twice(sum, (a - (sum - of_b)) + (b - of_b))
}

/// a b and the error of its rounding, by halves of 26 bits: not every processor has a multiply-add.
fn product(a: f64, b: f64) -> Twice {
    let halves = |x: f64| {
        let scaled = 134_217_729.0 * x;
        let high = scaled - (scaled - x);
        (high, x - high)
    };
    let (product, (a1, a2), (b1, b2)) = (a * b, halves(a), halves(b));
    Twice(product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2)
}

/// 2ⁿ for n from −1022 to 1023.
fn power(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

impl From<f64> for Twice {
    fn from(x: f64) -> Self {
        Self(x, 0.0)
    }
}

impl Add for Twice {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        let (high, low) = (sum(self.0, b.0), sum(self.1, b.1));
        let Twice(first, second) = ordered_sum(high.0, high.1 + low.0);
        ordered_sum(first, second + low.1)
    }
}

impl Neg for Twice {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0, -self.1)
    }
}

impl Sub for Twice {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        self + -b
    }
}

impl Mul for Twice {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        let Twice(high, low) = product(self.0, b.0);
        ordered_sum(high, low + (self.0 * b.1 + self.1 * b.0))
    }
}

impl Div for Twice {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let first = self.0 / b.0;
        let left = self - b * first.into();
        let second = left.0 / b.0;
        let left = left - b * second.into();
        ordered_sum(first, second) + (left.0 / b.0).into()
    }
}

impl Twice {
    const ONE: Self = Self(1.0, 0.0);
    /// ln 2, rounded to 106 bits.
    const LN_2: Self = Self(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);
    /// 2/√π
    const SLOPE: Self = Self(std::f64::consts::FRAC_2_SQRT_PI, 1.533_545_961_316_588e-17);

    /// Times 2ⁿ for n from −1022 to 1023, which is exact unless the result is out of range.
    fn scaled(self, n: i32) -> Self {
        let factor = power(n);
        Self(self.0 * factor, self.1 * factor)
    }

    /// eˣ − 1 for |x| below 1: x is halved seven times, and (1 + m)² − 1 = m (2 + m).
    fn exp_m1(self) -> Self {
        const HALVED: i32 = 7;
        let x = self.scaled(-HALVED);
        let mut m = Self::from(0.0);
        for k in (1..=14).rev() {
            m = x * (Self::ONE + m) / f64::from(k).into();
        }
        for _ in 0..HALVED {
            m = m * (Self(2.0, 0.0) + m);
        }
        m
    }

    /// ln (1 + x) for |x| ≤ 1/8, by the series of the inverse hyperbolic tangent.
    fn ln_1p(self) -> Self {
        let s = self / (Self(2.0, 0.0) + self);
        let z = s * s;
        let mut series = Self::from(0.0);
        for k in (1..=16).rev() {
            series = z * (series + Self::ONE / f64::from(2 * k + 1).into());
        }
        (s + s * series).scaled(1)
    }

    /// ln x for a normal number x.
    fn ln(self) -> Self {
        // x = 2ⁿ m with m between √½ and √2.
        let mut n = (self.0.to_bits() >> 52) as i32 - 1023;
        if self.scaled_to(-n).0 > std::f64::consts::SQRT_2 {
            n += 1;
        }
        let m = self.scaled_to(-n);
        // m = k/16 (1 + f)
        let k = (16.0 * m.0).round();
        let f = (m - (k / 16.0).into()) / (k / 16.0).into();
        let of_k = match k {
            16.0 => Self::from(0.0),
            k => SIXTEENTHS[k as usize],
        };
        f.ln_1p() + (of_k + Self::LN_2 * f64::from(n).into())
    }

    /// Times a power of two that may be out of a double's range.
    fn scaled_to(self, exponent: i32) -> Self {
        self.scaled(exponent / 2).scaled(exponent - exponent / 2)
    }
}

/// ln (k/16) for k from 8 on: ln (k/16) = ln ((k − 1)/16) + ln (1 + 1/(k − 1)).
static SIXTEENTHS: LazyLock<[Twice; 25]> = LazyLock::new(|| {
    let mut ln = [Twice::from(0.0); 25];
    ln[8] = -Twice::LN_2;
    for k in 9..25 {
        ln[k] = ln[k - 1] + (Twice::ONE / (k as f64 - 1.0).into()).ln_1p();
    }
    ln
});

impl Exact {
    /// A number, whose power of two is taken out.
    fn new(number: Twice, exponent: i32) -> Self {
        let own = match number.0 {
            0.0 => 0,
            x => (x.abs().to_bits() >> 52) as i32 - 1023,
        };
        Self { number: number.scaled_to(-own), exponent: exponent + own }
    }

    /// The nearest double, or next to it where that is below the normal numbers.
    pub fn rounded(self) -> f64 {
        Twice(self.number.0, 0.0).scaled_to(self.exponent.clamp(-1100, 1100)).0
    }

    /// How far `y` is from this, in units of this one's last place. Infinite where only one of the two is NaN
    /// or infinite.
    pub fn error(self, y: f64) -> f64 {
        if self.number.0.is_nan() || y.is_nan() {
            return if self.number.0.is_nan() && y.is_nan() { 0.0 } else { f64::INFINITY };
        }
        let overflows = self.number.0.is_infinite() || self.exponent > 1023;
        if overflows || y.is_infinite() {
            // The largest double is less than a unit from 2¹⁰²⁴.
            let same =
                overflows && y.is_infinite() && y.is_sign_positive() == self.number.0.is_sign_positive();
            return if same { 0.0 } else { f64::INFINITY };
        }
        // y over the same power of two, exactly: at most 1, or about 1, and not below the normal numbers.
        let y = Twice::from(y).scaled_to((-self.exponent).min(1400)).0;
        let unit = power((self.exponent.max(-1022) - self.exponent - 52).min(1000));
        let error = Twice::from(y) - self.number;
        (error.0 / unit).abs()
    }
}

/// A value that needs no power of two: 0, an infinity, NaN.
fn as_it_is(x: f64) -> Exact {
    Exact { number: x.into(), exponent: 0 }
}

/// eˣ for a sum of two doubles.
fn exp_of(x: Twice) -> Exact {
    let n = (x.0 * std::f64::consts::LOG2_E).round();
    let r = x - Twice::LN_2 * n.into() - Twice(0.0, LN_2_BELOW * n);
    Exact::new(Twice::ONE + r.exp_m1(), n as i32)
}

/// The rest of ln 2 behind two doubles.
const LN_2_BELOW: f64 = 5.707_708_438_416_212e-34;

/// eˣ
pub fn exp(x: f64) -> Exact {
    match x {
        x if x > 800.0 => as_it_is(f64::INFINITY),
        x if x < -800.0 => as_it_is(0.0),
        x if x.is_nan() => as_it_is(x),
        x => exp_of(x.into()),
    }
}

/// tanh x = m / (m + 2) with m = e²ˣ − 1.
pub fn tanh(x: f64) -> Exact {
    let a = x.abs();
    let positive = match a {
        a if a.is_nan() || a == 0.0 => as_it_is(a),
        a if a > 40.0 => as_it_is(1.0),
        // x − x³/3 = x
        a if a < 1e-100 => Exact::new(Twice::from(a).scaled_to(200), -200),
        a => {
            let m = match a {
                a if a < 0.45 => Twice::from(2.0 * a).exp_m1(),
                a => {
                    let Exact { number, exponent } = exp_of((2.0 * a).into());
                    number.scaled(exponent) - Twice::ONE
                }
            };
            Exact::new(m / (m + Twice(2.0, 0.0)), 0)
        }
    };
    if x.is_sign_negative() { Exact { number: -positive.number, ..positive } } else { positive }
}

/// 1 / (1 + e⁻ˣ), or eˣ / (1 + eˣ).
pub fn logistic(x: f64) -> Exact {
    let e = exp(-x.abs());
    // Far below 1, the size of e doesn't matter.
    let sum = Twice::ONE + e.number.scaled(e.exponent.max(-300));
    let above = if x < 0.0 { e } else { as_it_is(1.0) };
    Exact::new(above.number / sum, above.exponent)
}

/// ln x
pub fn ln(x: f64) -> Exact {
    match x {
        0.0 => as_it_is(f64::NEG_INFINITY),
        x if x < 0.0 || x.is_nan() => as_it_is(f64::NAN),
        f64::INFINITY => as_it_is(x),
        x if x < f64::MIN_POSITIVE => {
            let scaled = Twice::from(x * power(100)).ln();
            Exact::new(scaled - Twice::LN_2 * 100.0.into(), 0)
        }
        x => Exact::new(Twice::from(x).ln(), 0),
    }
}

/// ln (1 + x)
pub fn ln_1p(x: f64) -> Exact {
    match x {
        -1.0 => as_it_is(f64::NEG_INFINITY),
        x if x < -1.0 || x.is_nan() => as_it_is(f64::NAN),
        x if x == f64::INFINITY || x == 0.0 => as_it_is(x),
        // x − x²/2 = x
        x if x.abs() < 1e-100 => Exact::new(Twice::from(x).scaled_to(200), -200),
        x if x.abs() <= 0.0625 => Exact::new(Twice::from(x).ln_1p(), 0),
        x => Exact::new(sum(1.0, x).ln(), 0),
    }
}

/// The points around which erfc is a series: multiples of 1/8 up to 28.
const STEP: f64 = 0.125;
const LAST: usize = 224;

/// erfc at those points, over exp(−x²).
static ERFC: LazyLock<Vec<Twice>> = LazyLock::new(|| {
    // From 2 on the continued fraction x + ½/(x + 1/(x + 3/2/(x + …))) converges.
    const FRACTION: usize = 16;
    let mut values = vec![Twice::from(0.0); LAST + 1];
    for (i, value) in values.iter_mut().enumerate().skip(FRACTION) {
        let x = Twice::from(i as f64 * STEP);
        let fraction = (1..1000).rev().fold(x, |below, k| x + Twice::from(0.5 * f64::from(k)) / below);
        *value = Twice::SLOPE.scaled(-1) / fraction;
    }
    for i in (0..FRACTION).rev() {
        let x = (i + 1) as f64 * STEP;
        // From exp(−(x − h)²) to exp(−x²)
        let factor = exp_of(product(STEP, STEP - 2.0 * x));
        values[i] = (values[i + 1] + area(x, -STEP)) * factor.number.scaled(factor.exponent);
    }
    values
});

/// 2/√π ∫ exp(−t²) dt from x + h to x, over exp(−x²), for h ≤ 0: the Taylor series, whose terms are all
/// positive.
fn area(x: f64, h: f64) -> Twice {
    // gₙ hⁿ of exp(−(x + h)²) = exp(−x²) Σ gₙ hⁿ: (n + 1) gₙ₊₁ = −2 (x gₙ + gₙ₋₁)
    let (mut before, mut g, mut sum) = (Twice::from(0.0), Twice::ONE, Twice::from(0.0));
    let (first, second) = (product(-2.0 * x, h), product(-2.0 * h, h));
    for n in 1..100 {
        let n = f64::from(n);
        sum = sum + g / n.into();
        if g.0.abs() < 1e-35 * sum.0 && before.0.abs() < 1e-35 * sum.0 {
            break;
        }
        (before, g) = (g, (first * g + second * before) / n.into());
    }
    Twice::SLOPE * sum * (-h).into()
}

/// erfc x for x from 0 to 28.
fn erfc_of_positive(x: f64) -> Exact {
    let i = (x / STEP).ceil();
    let point = i * STEP;
    let factor = exp_of(-product(point, point));
    Exact::new((ERFC[i as usize] + area(point, x - point)) * factor.number, factor.exponent)
}

/// erf x
pub fn erf(x: f64) -> Exact {
    let a = x.abs();
    let positive = match a {
        a if a.is_nan() || a == 0.0 => as_it_is(a),
        a if a > 10.0 => as_it_is(1.0),
        // 2/√π (x − x³/3) = 2/√π x
        a if a < 1e-100 => Exact::new(Twice::SLOPE * Twice::from(a).scaled_to(400), -400),
        a if a < 0.5 => {
            // 2/√π Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n + 1))
            let (square, mut term, mut sum) = (product(a, a), Twice::from(a), Twice::from(a));
            for n in 1..30 {
                term = -(term * square / f64::from(n).into());
                sum = sum + term / f64::from(2 * n + 1).into();
            }
            Exact::new(Twice::SLOPE * sum, 0)
        }
        a => {
            let Exact { number, exponent } = erfc_of_positive(a);
            Exact::new(Twice::ONE - number.scaled(exponent), 0)
        }
    };
    if x.is_sign_negative() { Exact { number: -positive.number, ..positive } } else { positive }
}

/// erfc x = 1 − erf x
pub fn erfc(x: f64) -> Exact {
    match x {
        x if x.is_nan() => as_it_is(x),
        x if x >= 28.0 => as_it_is(0.0),
        x if x >= 0.5 => erfc_of_positive(x),
        x => {
            let Exact { number, exponent } = erf(x);
            Exact::new(Twice::ONE - number.scaled(exponent.max(-300)), 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Function = (&'static str, fn(f64) -> Exact);

    const FUNCTIONS: [Function; 7] = [
        ("exp", exp),
        ("tanh", tanh),
        ("logistic", logistic),
        ("ln", ln),
        ("ln_1p", ln_1p),
        ("erf", erf),
        ("erfc", erfc),
    ];

    fn double(bits: &str) -> f64 {
        f64::from_bits(u64::from_str_radix(bits, 16).expect("bits"))
    }

    /// The values of mpmath: function, x, and the result as two doubles and an exponent.
    #[test]
    fn mpmath_agrees() {
        let mut counts = [0; 7];
        for line in include_str!("../exact/values.txt").lines().filter(|line| !line.starts_with('#')) {
            let [name, x, high, low, exponent] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("five words: {line}")
            };
            let i = FUNCTIONS.iter().position(|(own, _)| *own == name).expect("a function");
            let x = double(x);
            let Exact { number, exponent: own } = FUNCTIONS[i].1(x);
            let exponent: i32 = exponent.parse().expect("an exponent");
            // Next to a power of two, the exponents may differ by one.
            let error = number.scaled_to(own - exponent) - Twice(double(high), double(low));
            assert!((error.0 / double(high)).abs() < 2_f64.powi(-96), "{line}, {x:e}: {:e}", error.0);
            counts[i] += 1;
        }
        assert!(counts.iter().all(|&count| count > 250), "{counts:?}");
    }

    #[test]
    fn special_values() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let all = |f: fn(f64) -> Exact, pairs: &[(f64, f64)]| {
            for &(x, y) in pairs {
                let got = f(x);
                let value = got.number.0;
                assert!(
                    got.error(y) < 1e-9 && (y.is_nan() || y.is_sign_negative() == value.is_sign_negative()),
                    "{x:e}: {got:?}"
                );
            }
        };
        all(
            exp,
            &[(0.0, 1.0), (-0.0, 1.0), (inf, inf), (-inf, 0.0), (nan, nan), (710.0, inf), (-1e300, 0.0)],
        );
        all(tanh, &[(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (nan, nan), (5e-324, 5e-324)]);
        all(logistic, &[(0.0, 0.5), (inf, 1.0), (-inf, 0.0), (nan, nan), (5e-324, 0.5)]);
        all(ln, &[(0.0, -inf), (-0.0, -inf), (-1.0, nan), (inf, inf), (nan, nan), (1.0, 0.0)]);
        all(ln_1p, &[(0.0, 0.0), (-0.0, -0.0), (-1.0, -inf), (-2.0, nan), (inf, inf), (5e-324, 5e-324)]);
        all(erf, &[(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (nan, nan)]);
        all(erfc, &[(0.0, 1.0), (inf, 0.0), (-inf, 2.0), (nan, nan), (1e-320, 1.0)]);
    }

    #[test]
    fn errors_are_in_units_of_the_last_place() {
        let e = exp(1.0);
        let nearest = std::f64::consts::E;
        assert_eq!(e.rounded(), nearest);
        assert!(e.error(nearest) < 0.5 && (1.5..2.5).contains(&e.error(nearest.next_up().next_up())));
        // Below the normal numbers the unit is the smallest double: e⁻⁷⁴⁰ is 84.78 of them.
        let small = exp(-740.0);
        assert!((small.number.0 * power(small.exponent + 1074) - 84.78).abs() < 0.01);
        assert_eq!(small.rounded(), f64::from_bits(85));
        assert!((small.error(f64::from_bits(83)) - 1.78).abs() < 0.01);
        assert_eq!((exp(-746.0).rounded(), exp(-745.0).rounded()), (0.0, f64::from_bits(1)));
        assert_eq!(e.error(f64::NAN), f64::INFINITY);
        assert_eq!(e.error(f64::INFINITY), f64::INFINITY);
        assert_eq!(exp(f64::NAN).error(1.0), f64::INFINITY);
        assert_eq!(exp(720.0).error(f64::MAX), f64::INFINITY);
    }
}
