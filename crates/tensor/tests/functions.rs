//! How far the exponentials, logarithms and error functions are from the exact results, in units of the last
//! place.
//!
//! `cargo test --release -p backrule-tensor --test functions -- --ignored --nocapture` tries more points, and
//! all floats; `POINTS` says how many doubles.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::thread;

use backrule_tensor::rand::Rng;
use backrule_tensor::{Scalar, apply, random};
use backrule_testkit::exact::{self, Exact};

/// A function of ours and its exact results.
struct Function {
    name: &'static str,
    /// y ← f(y) for each element, compiled as for a tensor.
    double: fn(&mut [f64]),
    single: fn(&mut [f32]),
    exact: fn(f64) -> Exact,
    /// The largest error in double precision.
    bound: f64,
    /// Where another formula holds, a result leaves the normal numbers, or a term of the formula jumps.
    branches: &'static [f64],
    /// Where the function is neither simple nor out of range.
    range: [f64; 2],
}

const LN_2: f64 = std::f64::consts::LN_2;

const FUNCTIONS: [Function; 7] = [
    Function {
        name: "exp",
        double: |x| apply(x, Scalar::exp),
        single: |x| apply(x, Scalar::exp),
        exact: exact::exp,
        bound: 1.0,
        branches: &[
            0.5 * LN_2,
            1.5 * LN_2,
            2.5 * LN_2,
            9.5 * LN_2,
            99.5 * LN_2,
            708.396_418_532_264_1,
            709.782_712_893_384,
            710.0,
            745.133_219_101_941_1,
            1418.0,
        ],
        range: [-746.0, 710.0],
    },
    Function {
        name: "tanh",
        double: |x| apply(x, Scalar::tanh),
        single: |x| apply(x, Scalar::tanh),
        exact: exact::tanh,
        bound: 1.5,
        // tanh ½ ln 3 = ½
        branches: &[
            0.25 * LN_2,
            0.75 * LN_2,
            1.25 * LN_2,
            9.25 * LN_2,
            0.549_306_144_334_054_8,
            19.061_547_465_398_5,
            20.0,
        ],
        range: [-20.0, 20.0],
    },
    Function {
        name: "sigmoid",
        double: |x| apply(x, Scalar::sigmoid),
        single: |x| apply(x, Scalar::sigmoid),
        exact: exact::logistic,
        bound: 1.5,
        branches: &[
            0.5 * LN_2,
            1.5 * LN_2,
            2.5 * LN_2,
            9.5 * LN_2,
            36.7,
            708.396_418_532_264_1,
            745.133_219_101_941_1,
            1418.0,
        ],
        range: [-746.0, 40.0],
    },
    Function {
        name: "ln",
        double: |x| apply(x, Scalar::ln),
        single: |x| apply(x, Scalar::ln),
        exact: exact::ln,
        bound: 1.5,
        branches: &[
            f64::MIN_POSITIVE,
            f64::MAX,
            0.353_553_390_593_273_8,
            0.5,
            std::f64::consts::FRAC_1_SQRT_2,
            1.0,
            std::f64::consts::SQRT_2,
            2.0,
            2.828_427_124_746_19,
        ],
        range: [0.3, 3.0],
    },
    Function {
        name: "ln_1p",
        double: |x| apply(x, Scalar::ln_1p),
        single: |x| apply(x, Scalar::ln_1p),
        exact: exact::ln_1p,
        bound: 1.5,
        branches: &[
            1e-17,
            1.110_223_024_625_156_5e-16,
            0.292_893_218_813_452_5,
            0.414_213_562_373_095,
            0.5,
            1.0,
            3.0,
            f64::MAX,
        ],
        range: [-1.0, 3.0],
    },
    Function {
        name: "erf",
        double: |x| apply(x, Scalar::erf),
        single: |x| apply(x, Scalar::erf),
        exact: exact::erf,
        bound: 1.5,
        branches: &[0.8125, 1.0, 2.0, 5.863_584_748_755_168, 28.0],
        range: [-6.0, 6.0],
    },
    Function {
        name: "erfc",
        double: |x| apply(x, Scalar::erfc),
        single: |x| apply(x, Scalar::erfc),
        exact: exact::erfc,
        bound: 1.55,
        branches: &[0.25, 0.8125, 1.0, 2.0, 4.0, 26.543_258_454_25, 27.226_017_111_108, 28.0],
        range: [-6.0, 27.3],
    },
];

impl Function {
    /// The largest error over these points, and where it is.
    fn largest(&self, points: impl Iterator<Item = f64>) -> (f64, f64) {
        let (mut points, mut largest, mut x) = (points.peekable(), (0.0, 0.0), Vec::new());
        while points.peek().is_some() {
            x.clear();
            x.extend(points.by_ref().take(256));
            let mut y = x.clone();
            (self.double)(&mut y);
            for (&x, &y) in x.iter().zip(&y) {
                let error = (self.exact)(x).error(y);
                if error > largest.0 {
                    largest = (error, x);
                }
            }
        }
        largest
    }

    /// As many random points as that: in the range, evenly; with exponents near that of 1; of all bits.
    fn random(&self, count: u64, seed: u64) -> impl Iterator<Item = f64> {
        let ([low, high], mut rng) = (self.range, random::rng(seed));
        (0..count).map(move |i| {
            let u = random::uniform(&mut rng);
            match i % 4 {
                0 | 1 => low + (high - low) * u,
                2 => (40.0 * u - 34.0).exp2() * [1.0, -1.0][(rng.next_u32() % 2) as usize],
                _ => f64::from_bits(rng.next_u64()),
            }
        })
    }

    /// Every exponent with a few mantissas, and 64 doubles on both sides of every branch, of both signs.
    fn edges(&self) -> impl Iterator<Item = f64> {
        let mantissas = [0, 1, 1 << 51, 0x5_5555_5555_5555, 0xf_ffff_ffff_ffff];
        let exponents = (0..2048_u64).flat_map(move |e| mantissas.map(|m| f64::from_bits(e << 52 | m)));
        let near = self
            .branches
            .iter()
            .flat_map(|x| (-64..=64).map(|i| f64::from_bits(x.to_bits().wrapping_add_signed(i))));
        exponents.chain(near).flat_map(|x| [x, -x])
    }

    fn check(&self, points: impl Iterator<Item = f64>) {
        let (error, x) = self.largest(points);
        assert!(error <= self.bound, "{} {x:e}: {error} ulp", self.name);
    }
}

#[test]
fn every_exponent_and_every_branch() {
    for f in &FUNCTIONS {
        f.check(f.edges());
    }
}

#[test]
fn random_doubles() {
    for f in &FUNCTIONS {
        f.check(f.random(10_000, 1));
    }
}

/// A million doubles for each function, or as many as `POINTS` says.
#[test]
#[ignore = "takes seconds in release: `.ci/run test` runs it, and `.ci/run functions` with more points"]
fn many_doubles() {
    let points: u64 = std::env::var("POINTS").map_or(1_000_000, |points| points.parse().unwrap());
    for f in &FUNCTIONS {
        let (error, x) =
            on_all_threads(|thread, threads| f.largest(f.random(points.div_ceil(threads), 2 + thread)));
        println!("{}: {error:.3} ulp at {x:e}", f.name);
        assert!(error <= f.bound);
    }
}

/// The largest error among those of all threads.
fn on_all_threads(f: impl Fn(u64, u64) -> (f64, f64) + Sync) -> (f64, f64) {
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    thread::scope(|scope| {
        let f = &f;
        let workers: Vec<_> = (0..threads).map(|i| scope.spawn(move || f(i, threads))).collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap());
        results.fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
    })
}

/// How far from the exact result, in the last place of an f32. Infinite where only one of the two is NaN or
/// infinite.
fn error_in_single(y: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if y == rounded || (y.is_nan() && rounded.is_nan()) {
        0.0
    } else if y.is_finite() && rounded.is_finite() {
        // Of the exact result's exponent, or the smallest normal number's: in a double, 1023 is added to it.
        let exponent = (exact.to_bits() >> 52 & 0x7ff).max(1023 - 126);
        (f64::from(y) - exact).abs() / f64::from_bits((exponent - 23) << 52)
    } else {
        f64::INFINITY
    }
}

/// The functions that are computed in double precision are the exact results, rounded, or next to a tie.
const BOUND_OF_ROUNDED: f64 = 0.51;

/// The largest error of these floats, and where it is.
fn largest_in_single(
    f: &Function,
    exact: impl Fn(f32) -> f64,
    floats: impl Iterator<Item = u32>,
) -> (f64, f64) {
    let (mut floats, mut largest, mut x) = (floats.map(f32::from_bits).peekable(), (0.0, 0.0), Vec::new());
    while floats.peek().is_some() {
        x.clear();
        x.extend(floats.by_ref().take(256));
        let mut y = x.clone();
        (f.single)(&mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let error = error_in_single(y, exact(x));
            if error > largest.0 {
                largest = (error, f64::from(x));
            }
        }
    }
    largest
}

/// The functions of [`FUNCTIONS`] whose results in single precision are rounded doubles. `kernels/exp.rs` has
/// tests of the others.
fn rounded() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.iter().filter(|f| f.name.starts_with("ln") || f.name.starts_with("erf"))
}

#[test]
fn floats_of_all_exponents() {
    for f in rounded() {
        let floats = (0..=u32::MAX).step_by(131_071);
        let (error, x) = largest_in_single(f, |x| (f.exact)(x.into()).rounded(), floats);
        assert!(error <= BOUND_OF_ROUNDED, "{} {x:e}: {error} ulp", f.name);
    }
}

fn every_float_of(f: &Function, exact: impl Fn(f32) -> f64 + Sync) {
    let (error, x) = on_all_threads(|thread, threads| {
        // In blocks of consecutive floats, as many at a time as there are threads.
        let blocks = (thread..1 << 16).step_by(threads as usize);
        let floats = blocks.flat_map(|block| (0..1 << 16).map(move |i| (block as u32) << 16 | i));
        largest_in_single(f, &exact, floats)
    });
    println!("{}: {error:.3} ulp at {x:e}", f.name);
    assert!(error <= BOUND_OF_ROUNDED);
}

/// The platform's logarithms in double precision are exact enough for this.
#[test]
#[ignore = "takes minutes in release: `.ci/run functions` runs it each night"]
fn every_float_of_the_logarithms() {
    for f in rounded() {
        match f.name {
            "ln" => every_float_of(f, |x| f64::from(x).ln()),
            "ln_1p" => every_float_of(f, |x| f64::from(x).ln_1p()),
            _ => {}
        }
    }
}

/// The exact results take long, and for nine floats in ten a simpler function is as exact.
#[test]
#[ignore = "takes minutes in release: `.ci/run functions` runs it each night"]
fn every_float_of_the_error_functions() {
    let slope = std::f64::consts::FRAC_2_SQRT_PI;
    for f in rounded() {
        let exact = |x: f32| match (f.name, f64::from(x)) {
            // x³/3 is below 2⁻⁴¹ x.
            ("erf", x) if x.abs() < 2_f64.powi(-20) => slope * x,
            ("erf", x) if x.abs() > 6.0 => x.signum(),
            ("erfc", x) if x.abs() < 2_f64.powi(-40) => 1.0 - slope * x,
            ("erfc", x) if x < -6.0 => 2.0,
            // The smallest float is e⁻¹⁰³.
            ("erfc", x) if x > 11.0 => 0.0,
            (_, x) => (f.exact)(x).rounded(),
        };
        if f.name.starts_with("erf") {
            every_float_of(f, exact);
        }
    }
}
