//! eˣ, tanh x, the logistic function, logarithms and the error function in single precision.
//!
//! They are our own: additions, multiplications, one division and selections, in one order. The bits are the
//! same on every machine and with every instruction set, because no multiply-add is fused, and a loop over
//! them becomes vector instructions. Calls of the platform's library never do.
//!
//! The largest errors over all 2³² floats, in units of the last place of the exact result, below the normal
//! numbers too:
//!
//! | function | error |
//! |---|---|
//! | `exp` | 0.79 |
//! | `exp_of_negative`; `exp_in_sum`, above the subnormal results | 0.99 |
//! | `tanh` | 1.48 |
//! | `sigmoid` | 1.97 |
//! | `ln`, `ln_1p`, `erf`, `erfc`, which are computed in double precision | 0.51 |
//! | `gelu`, which is, too | 0.52 |
//!
//! `cargo test --release -p backrule-tensor every_float -- --ignored --nocapture` measures them.
//!
//! The polynomials are by Remez's exchange on the weighted relative error, in double precision, their
//! coefficients then rounded to single; the errors given are those after rounding.

use std::f32::consts::LOG2_E;

use crate::kernels::double;

/// eˣ = 2ⁿ eʳ with n = x / ln 2, rounded, and r = x − n ln 2.
///
/// Overflow gives ∞; underflow goes through the subnormal numbers to 0. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // At 89 the result is ∞. At −176 n is −254, both powers of two below are 0, and so is the result: at
    // once, where a product of small numbers that vanishes costs the processor a hundred cycles.
    let (exp_r, n) = reduce::<254>(x.clamp(-176.0, 89.0));
    // 2ⁿ itself may be out of range: it is the product of two, each with half of n.
    let power = |half: u32| f32::from_bits(half << 23);
    exp_r * power(n >> 1) * power(n.wrapping_add(1) >> 1)
}

/// eˣ for x ≤ 0, in two thirds of the operations.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    // 2ⁿ times 2⁶⁴ is a normal number where eˣ isn't. From −104 on the result is 0, and at once: a product of
    // small numbers that vanishes costs the processor a hundred cycles.
    let scale = f32::from_bits((127 - 64) << 23);
    (if x < -104.0 { 0.0 } else { scaled::<64>(x) }) * scale
}

/// The same, but 0 where that is below the normal numbers: enough for a sum with a term of 1.
#[inline(always)]
pub(crate) fn exp_in_sum(x: f32) -> f32 {
    // The logarithm of the smallest normal number.
    if x < -87.336_54 { 0.0 } else { scaled::<0>(x) }
}

/// eˣ times a power of two, for x ≤ 0 whose result is a normal number.
#[inline(always)]
fn scaled<const POWER: u16>(x: f32) -> f32 {
    let whole = WHOLE + 127.0 + f32::from(POWER);
    let biased = x * LOG2_E + whole;
    let n = biased - whole;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    // Multiplied by 2ⁿ rather than added to the exponent: NaN stays.
    (1.0 + (r + r * r * q(r))) * f32::from_bits(biased.to_bits() << 23)
}

/// tanh x: an odd polynomial up to 0.55, and 1 − 2 / (e²ˣ + 1) beyond.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    /// (tanh x − x) / x³ in powers of x². The error in tanh x is below 2⁻²⁷, relatively.
    const P: [f32; 5] = [-0.333_333_2, 0.133_326_25, -0.053_851_65, 0.021_055_805, -0.006_238_845_6];
    let a = x.abs();
    let s = a * a;
    let small = a + a * (s * (P[0] + s * (P[1] + s * (P[2] + s * (P[3] + s * P[4])))));
    // Beyond 10 the result is 1. NaN stays.
    let (exp_r, n) = reduce::<127>(2.0 * if a > 10.0 { 10.0 } else { a });
    let large = 1.0 - 2.0 / (exp_r * f32::from_bits(n << 23) + 1.0);
    (if a < 0.55 { small } else { large }).copysign(x)
}

/// 1 / (1 + e⁻ˣ), or, where x is negative, the same as eˣ / (1 + eˣ): small results are as accurate as large
/// ones.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let sum = 1.0 + e;
    let y = if x < 0.0 { e } else { 1.0 } / sum;
    // The rounding error of the sum is known exactly, because e ≤ 1. Of its quotient by the sum a rough value
    // will do.
    let lost = e - (sum - 1.0);
    y - y * (lost * (1.0 - 0.5 * e))
}

/// ln x
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    double::ln(x.into()) as f32
}

/// ln (1 + x)
#[inline(always)]
pub(crate) fn ln_1p(x: f32) -> f32 {
    double::ln_1p(x.into()) as f32
}

/// erf x
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    double::erf(x.into()) as f32
}

/// erfc x
#[inline(always)]
pub(crate) fn erfc(x: f32) -> f32 {
    double::erfc(x.into()) as f32
}

/// eʳ, and the low nine bits of n + BIAS, below others.
#[inline(always)]
fn reduce<const BIAS: u16>(x: f32) -> (f32, u32) {
    let whole = WHOLE + f32::from(BIAS);
    let biased = x * LOG2_E + whole;
    let n = biased - whole;
    // r in two parts: the first is exact.
    let high = x - n * LN_2[0];
    let low = -n * LN_2[1];
    let r = high + low;
    // 1 + high, and the rounding error of that sum: only the last addition's rounding counts.
    let sum = 1.0 + high;
    let lost = (1.0 - sum) + high;
    (sum + (lost + (low + r * r * q(r))), biased.to_bits())
}

/// A float of this size has no places after the point, and its low bits are a whole number: adding it rounds.
const WHOLE: f32 = 1.5 * 8_388_608.0;
/// ln 2 in two parts. The first has nine bits, so its product with n is exact.
const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// (eʳ − 1 − r) / r² for |r| ≤ ½ ln 2. The error in eʳ is below 2⁻²⁸, relatively.
#[inline(always)]
fn q(r: f32) -> f32 {
    const Q: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_453_9];
    Q[0] + r * (Q[1] + r * (Q[2] + r * (Q[3] + r * Q[4])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gelu::{gelu, slope};
    use crate::simd::{self, Kernel, Simd, run_at};

    /// A function of ours, and the same in double precision.
    struct Function {
        name: &'static str,
        /// x ← f(x), compiled as in a loop over a tensor.
        ours: fn(&mut [f32]),
        exact: fn(&[f32], &mut [f64]),
        bound: f64,
    }

    const FUNCTIONS: [Function; 6] = [
        Function {
            name: "exp",
            ours: |x| simd::run(Apply(x, exp)),
            exact: |x, y| exact(x, y, [|x| 1.0 + x, f64::exp, |x| if x > 0.0 { f64::INFINITY } else { 0.0 }]),
            bound: 1.0,
        },
        Function {
            name: "exp in sums",
            ours: |x| simd::run(Apply(x, |x: f32| exp_in_sum(-x.abs()))),
            exact: |x, y| exact(x, y, [|x| 1.0 - x.abs(), normal_exp_of_negative, |_| 0.0]),
            bound: 1.0,
        },
        Function {
            name: "exp of negative numbers",
            ours: |x| simd::run(Apply(x, |x: f32| exp_of_negative(-x.abs()))),
            exact: |x, y| exact(x, y, [|x| 1.0 - x.abs(), |x| (-x.abs()).exp(), |_| 0.0]),
            bound: 1.0,
        },
        Function {
            name: "tanh",
            ours: |x| simd::run(Apply(x, tanh)),
            exact: |x, y| exact(x, y, [|x| x, f64::tanh, f64::signum]),
            bound: 1.5,
        },
        Function {
            name: "sigmoid",
            ours: |x| simd::run(Apply(x, sigmoid)),
            exact: |x, y| {
                let limit = |x| if x > 0.0 { 1.0 } else { 0.0 };
                exact(x, y, [|x| 0.5 + 0.25 * x, |x| 1.0 / (1.0 + (-x).exp()), limit]);
            },
            bound: 2.0,
        },
        Function {
            name: "gelu",
            ours: |x| simd::run(Apply(x, gelu)),
            exact: |x, y| exact(x, y, [|x| 0.5 * x, gelu, |x| x.max(0.0)]),
            bound: 0.53,
        },
    ];

    fn normal_exp_of_negative(x: f64) -> f64 {
        let exp = (-x.abs()).exp();
        if exp < f64::from(f32::MIN_POSITIVE) { 0.0 } else { exp }
    }

    /// y = f(x), of which six floats in seven are so small or so large that in single precision it is a
    /// simpler function.
    #[inline(always)]
    fn exact(x: &[f32], y: &mut [f64], [small, f, large]: [fn(f64) -> f64; 3]) {
        for (&x, y) in x.iter().zip(y) {
            let x = f64::from(x);
            *y = match x.abs() {
                size if size < 2_f64.powi(-30) => small(x),
                size if size >= 128.0 => large(x),
                _ => f(x),
            };
        }
    }

    struct Apply<'a, F>(&'a mut [f32], F);

    impl<F: Fn(f32) -> f32> Kernel for Apply<'_, F> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self) {
            let Self(x, f) = self;
            for x in x {
                *x = f(*x);
            }
        }
    }

    impl Function {
        /// The largest error, and where it is.
        fn largest(&self, inputs: impl Iterator<Item = u32>) -> (f64, f32) {
            let (mut inputs, mut largest) = (inputs.map(f32::from_bits).peekable(), (0.0, 0.0));
            while inputs.peek().is_some() {
                let (mut x, mut exact) = ([0.0; 256], [0.0; 256]);
                x.iter_mut().zip(&mut inputs).for_each(|(x, input)| *x = input);
                let mut y = x;
                (self.ours)(&mut y);
                (self.exact)(&x, &mut exact);
                for ((x, y), exact) in x.into_iter().zip(y).zip(exact) {
                    let error = error(y, exact);
                    if error > largest.0 {
                        largest = (error, x);
                    }
                }
            }
            largest
        }
    }

    /// How far from the exact result, in its last place. Infinite where only one of the two is NaN or
    /// infinite.
    #[inline(always)]
    fn error(ours: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        if ours == rounded || (ours.is_nan() && rounded.is_nan()) {
            0.0
        } else if ours.is_finite() && rounded.is_finite() {
            // Of the exact result's exponent, or the smallest normal number's: in a double, 1023 is added to
            // it.
            let exponent = (exact.to_bits() >> 52 & 0x7ff).max(1023 - 126);
            (f64::from(ours) - exact).abs() / f64::from_bits((exponent - 23) << 52)
        } else {
            f64::INFINITY
        }
    }

    #[test]
    fn errors_of_a_sample_of_all_exponents() {
        for f in &FUNCTIONS {
            // 4,000 floats of each sign and exponent, NaN and the subnormal ones included.
            let (error, x) = f.largest((0..=u32::MAX).step_by(2053));
            assert!(error <= f.bound, "{} {x:e}: {error} ulp", f.name);
        }
    }

    #[test]
    #[ignore = "walks all 2³² floats: two minutes on two cores in release; `.ci/run functions` runs it"]
    fn every_float() {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        for f in &FUNCTIONS {
            let (error, x) = std::thread::scope(|scope| {
                // In blocks of consecutive floats, as many at a time as there are threads.
                let walk = move |thread| {
                    let blocks = (thread..1 << 16).step_by(threads as usize);
                    f.largest(blocks.flat_map(|block| (0..1 << 16).map(move |i| block << 16 | i)))
                };
                let workers: Vec<_> = (0..threads).map(|i| scope.spawn(move || walk(i))).collect();
                let results = workers.into_iter().map(|worker| worker.join().unwrap());
                results.fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
            });
            println!("{}: {error:.3} ulp at {x:e}", f.name);
            assert!(error <= f.bound);
        }
    }

    #[test]
    fn special_values() {
        let (inf, nan, tiny) = (f32::INFINITY, f32::NAN, f32::from_bits(1));
        for (x, y) in [(0.0, 1.0), (-0.0, 1.0), (inf, inf), (-inf, 0.0), (f32::MAX, inf), (f32::MIN, 0.0)] {
            assert_eq!(exp(x).to_bits(), f32::to_bits(y), "exp {x:e}");
        }
        // The last finite result, the last that isn't 0, and their neighbors.
        assert!(exp(88.722_83) < inf && exp(88.722_84) == inf);
        let last = -103.972_08_f32;
        for exp in [exp, exp_of_negative] {
            assert!(exp(last) == tiny && exp(last.next_down()) == 0.0);
        }
        for (x, y) in [(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (tiny, tiny), (-tiny, -tiny)] {
            assert_eq!(tanh(x).to_bits(), f32::to_bits(y), "tanh {x:e}");
        }
        for (x, y) in [(0.0, 0.5), (inf, 1.0), (-inf, 0.0), (f32::MAX, 1.0), (f32::MIN, 0.0)] {
            assert_eq!(sigmoid(x).to_bits(), f32::to_bits(y), "sigmoid {x:e}");
        }
        for (x, y) in [(0.0, 1.0), (-0.0, 1.0), (-inf, 0.0), (f32::MIN, 0.0)] {
            assert_eq!([exp_of_negative(x), exp_in_sum(x)], [y; 2], "exp {x:e}");
        }
        for nan in [nan, -nan, f32::from_bits(0x7f80_0001), f32::from_bits(u32::MAX)] {
            assert!(exp_of_negative(nan).is_nan() && exp_in_sum(nan).is_nan());
            assert!(exp(nan).is_nan() && tanh(nan).is_nan() && sigmoid(nan).is_nan());
        }
    }

    #[test]
    fn tanh_is_odd() {
        for bits in (0..0x7f80_0000).step_by(99_991) {
            let x = f32::from_bits(bits);
            assert_eq!(tanh(-x).to_bits(), (-tanh(x)).to_bits(), "{x:e}");
        }
    }

    /// The same bits with every instruction set: a × b + c is nowhere contracted.
    #[test]
    fn instruction_sets_agree() {
        struct All<'a>(&'a [f32], &'a mut [[f32; 7]]);
        impl Kernel for All<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self) {
                for (&x, y) in self.0.iter().zip(self.1) {
                    let gelu = [gelu(x), slope(x)];
                    *y = [
                        exp(x),
                        exp_of_negative(-x.abs()),
                        exp_in_sum(-x.abs()),
                        tanh(x),
                        sigmoid(x),
                        gelu[0],
                        gelu[1],
                    ];
                }
            }
        }

        let x: Vec<f32> =
            (0..=u32::MAX).step_by(99_991).map(f32::from_bits).filter(|x| !x.is_nan()).collect();
        let at = |level| {
            let mut y = vec![[0.0; 7]; x.len()];
            run_at(level, All(&x, &mut y)).map(|()| y)
        };
        let expected = at("baseline").unwrap();
        for level in ["avx2", "avx512"] {
            if let Some(y) = at(level) {
                assert!(y == expected, "{level}");
            }
        }
    }
}
