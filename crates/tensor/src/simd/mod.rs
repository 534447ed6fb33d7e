//! Numeric loops, compiled once for each instruction set; the processor is asked when the program runs.
//!
//! A program is compiled for the oldest processor that it should run on. On x86-64 that has no FMA and
//! vectors of four floats, so most of a newer processor idles. A loop that matters is therefore a [`Kernel`]:
//! it is compiled once for each instruction set, and [`run`] chooses:
//!
//! ```
//! use backrule_tensor::simd::{self, Kernel, Simd};
//!
//! /// yᵢ ← yᵢ + a xᵢ
//! struct Axpy<'a>(f32, &'a [f32], &'a mut [f32]);
//!
//! impl Kernel for Axpy<'_> {
//!     type Output = ();
//!     #[inline(always)] // or it would be compiled on its own, for the oldest processor
//!     fn run<S: Simd>(self) {
//!         let Self(a, x, y) = self;
//!         for (y, &x) in y.iter_mut().zip(x) {
//!             *y = S::mul_add(a, x, *y);
//!         }
//!     }
//! }
//!
//! let mut y = [1.0, 2.0];
//! simd::run(Axpy(10.0, &[3.0, 4.0], &mut y));
//! assert_eq!(y, [31.0, 42.0]);
//! ```
//!
//! `RUSTFLAGS='--cfg backrule_simd="avx2"'` or `"baseline"` limits a program to that instruction set, for
//! measurements.

mod portable;
pub(crate) mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::simd::vector::{Element, Registers};

/// A function whose body is compiled once for each instruction set: a [`Kernel`] of its arguments, and the
/// call of [`run`]. In the body, `S` is the instruction set.
macro_rules! kernel {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$($G:ident: $bound:path),+>($($x:ident: $t:ty),+ $(,)?) $(-> $output:ty)?
        $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name<$($G: $bound),+>($($x: $t),+) $(-> $output)? {
            struct Arguments<A>(A);

            impl<$($G: $bound),+> $crate::simd::Kernel for Arguments<($($t,)+)> {
                type Output = kernel!(@output $($output)?);
                #[inline(always)]
                fn run<S: $crate::simd::Simd>(self) -> Self::Output {
                    let ($($x,)+) = self.0;
                    $body
                }
            }

            $crate::simd::run(Arguments(($($x,)+)))
        }
    };
    (@output) => { () };
    (@output $output:ty) => { $output };
}
pub(crate) use kernel;

/// A computation that is compiled once for each instruction set.
pub trait Kernel {
    /// Its output.
    type Output;

    /// The computation. It must be `#[inline(always)]`, and so must every function of its loop.
    fn run<S: Simd>(self) -> Self::Output;
}

/// An instruction set. Sealed: [`run`] chooses it.
pub trait Simd: Registers {
    /// Whether a b + c is one instruction, with one rounding.
    const FMA: bool;
    /// Bytes of a vector register.
    const BYTES: usize;

    /// a b + c: rounded once where that is one instruction, else twice.
    #[inline(always)]
    fn mul_add<T: Element>(a: T, b: T, c: T) -> T {
        if Self::FMA { a.mul_add(b, c) } else { a * b + c }
    }
}

/// AVX-512 (F, BW, DQ, VL): 32 registers of 64 bytes. Only [`on::avx512`] may name it.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx512;
/// AVX2 with FMA: 16 registers of 32 bytes. Only [`on::avx2`] may name it.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;
/// The instruction set the program was compiled for.
pub(crate) struct Baseline;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    const FMA: bool = true;
    const BYTES: usize = 64;
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    const FMA: bool = true;
    const BYTES: usize = 32;
}

impl Simd for Baseline {
    const FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    const BYTES: usize = 16;
}

/// Runs `kernel` with the best instructions that this processor has.
#[inline(always)]
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    run_within(64, kernel)
}

/// The same with registers of no more than so many bytes. A loop that waits for memory can be faster with 32
/// than with 64.
///
/// ```
/// use backrule_tensor::simd::{self, Kernel, Simd};
///
/// /// The bytes of a register.
/// struct Bytes;
///
/// impl Kernel for Bytes {
///     type Output = usize;
///     #[inline(always)]
///     fn run<S: Simd>(self) -> usize {
///         S::BYTES
///     }
/// }
///
/// assert!(simd::run_within(32, Bytes) <= 32);
/// assert_eq!(simd::run_within(64, Bytes), simd::run(Bytes));
/// ```
#[inline(always)]
pub fn run_within<K: Kernel>(bytes: usize, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the processor must have the instructions that a function was compiled for. Each is called
        // only after the processor has said that it has them. Price without: `cargo bench --bench tensor`
        // takes two to seven times as long with `--cfg backrule_simd="baseline"`.
        #[expect(unsafe_code, reason = "the compiler can't know what the processor was asked")]
        unsafe {
            match level::get() {
                Level::Avx512 if bytes >= Avx512::BYTES => on::avx512::run(kernel),
                Level::Avx512 | Level::Avx2 if bytes >= Avx2::BYTES => on::avx2::run(kernel),
                _ => on::baseline::run(kernel),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = bytes; // one width
        kernel.run::<Baseline>()
    }
}

/// The instruction set that [`run`] chooses on this machine: `"avx512"`, `"avx2"` or `"baseline"`.
pub fn level() -> &'static str {
    match level::get() {
        Level::Avx512 => "avx512",
        Level::Avx2 => "avx2",
        Level::Baseline => "baseline",
    }
}

/// The bytes of a register that [`run`] chooses.
#[inline]
pub(crate) fn widest() -> usize {
    match level::get() {
        Level::Avx512 => 64,
        Level::Avx2 => 32,
        Level::Baseline => 16,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Baseline,
    Avx2,
    Avx512,
}

/// The processor's instruction set, asked once.
mod level {
    use std::sync::atomic::AtomicU8;
    use std::sync::atomic::Ordering::Relaxed;

    use super::Level;

    const UNKNOWN: u8 = 0;
    static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

    #[cfg(test)]
    thread_local! {
        /// The level a test asks for.
        pub(super) static HERE: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
    }

    #[inline]
    pub(super) fn get() -> Level {
        #[cfg(test)]
        if let Some(level) = HERE.get() {
            return level;
        }
        of_machine()
    }

    #[inline]
    pub(super) fn of_machine() -> Level {
        match LEVEL.load(Relaxed) {
            1 => Level::Baseline,
            2 => Level::Avx2,
            3 => Level::Avx512,
            _ => ask(),
        }
    }

    #[cold]
    fn ask() -> Level {
        #[cfg(target_arch = "x86_64")]
        let level = if has_avx512() {
            Level::Avx512
        } else if has_avx2() {
            Level::Avx2
        } else {
            Level::Baseline
        };
        #[cfg(not(target_arch = "x86_64"))]
        let level = Level::Baseline;
        let number = match level {
            Level::Baseline => 1,
            Level::Avx2 => 2,
            Level::Avx512 => 3,
        };
        LEVEL.store(number, Relaxed);
        level
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx512() -> bool {
        has_avx2()
            && !cfg!(backrule_simd = "avx2")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx2() -> bool {
        !cfg!(backrule_simd = "baseline")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
    }
}

/// The functions that are compiled for an instruction set, each in a module of its own: the compiler takes
/// one thread for all that a module has, and these hold most of the machine code of a program.
#[cfg(target_arch = "x86_64")]
mod on {
    pub(super) mod avx512 {
        use crate::simd::{Avx512, Kernel};

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx512>()
        }
    }

    pub(super) mod avx2 {
        use crate::simd::{Avx2, Kernel};

        #[target_feature(enable = "avx2,fma")]
        pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx2>()
        }
    }

    pub(super) mod baseline {
        use crate::simd::{Baseline, Kernel};

        /// A function of its own: in each caller it would be compiled again.
        #[inline(never)]
        pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Baseline>()
        }
    }
}

/// The same for a kernel.
#[cfg(test)]
pub(crate) fn run_at<K: Kernel>(level: &str, kernel: K) -> Option<K::Output> {
    at_level(level, || run(kernel))
}

/// Runs kernels as on a processor that has nothing newer than `level`, if this one has that: for tests that
/// compare instruction sets. Other threads keep theirs.
#[cfg(test)]
pub(crate) fn at_level<R>(level: &str, f: impl FnOnce() -> R) -> Option<R> {
    let level = match level {
        "baseline" => Level::Baseline,
        "avx2" => Level::Avx2,
        _ => Level::Avx512,
    };
    level::of_machine().ge(&level).then(|| {
        level::HERE.set(Some(level));
        let result = f();
        level::HERE.set(None);
        result
    })
}
