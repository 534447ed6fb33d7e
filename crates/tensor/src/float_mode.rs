//! The floating-point mode of a thread: how it rounds, and whether it takes tiny numbers for zero.
//!
//! A processor keeps the mode for each thread, and a new thread inherits it. Some libraries for sound and
//! graphics flush tiny numbers to zero, or are compiled so that loading them does. Results in such a mode
//! have other bits, and a pool's workers may be in another mode than its caller.
//!
//! So everything that computes does so in the default mode: round to nearest, ties to even, tiny numbers as
//! they are, no traps. Covered: products, sums, softmax, element-wise operations, random tensors,
//! gradients, [`parallel`](crate::parallel), and in the crates above tape, predictions, losses and
//! optimizers. The caller's mode is back when they return, also by an error or a panic. Not covered: a
//! layer's `forward` and a [`Kernel`](crate::simd::Kernel) that are called directly. [`with_default`] covers
//! these.
//!
//! ```
//! use backrule_tensor::float_mode;
//!
//! assert!(float_mode::with_default(float_mode::is_default));
//! ```
//!
//! The check takes eight instructions. Only x86-64 and AArch64 have it; elsewhere the mode is taken for the
//! default.

use std::hint::black_box;

/// Whether this thread is in the default mode.
#[inline(always)]
pub fn is_default() -> bool {
    register::read() & register::CONTROL == register::DEFAULT
}

/// Calls `f` in the default mode. The mode of before is back afterwards, also when `f` panics.
#[inline(always)]
pub fn with_default<R>(f: impl FnOnce() -> R) -> R {
    if is_default() { f() } else { changed(f) }
}

/// At the start of a function that computes: has it called again in the default mode if the caller is in
/// another one. The computation is then behind a call, and none of its instructions before the change.
#[doc(hidden)]
#[macro_export]
macro_rules! in_default_mode {
    ($again:expr) => {
        if !$crate::float_mode::is_default() {
            return $crate::float_mode::with_default(move || $again);
        }
    };
}

#[cold]
#[inline(never)]
fn changed<R>(f: impl FnOnce() -> R) -> R {
    let _restored = Restored(register::read());
    register::write(register::DEFAULT);
    // The compiler knows no mode, and may move an addition across the change of one. It moves nothing across
    // a black box that needs the box's value, or gives it.
    black_box(black_box(f)())
}

/// Puts the register back.
struct Restored(register::Word);

impl Drop for Restored {
    fn drop(&mut self) {
        register::write(self.0);
    }
}

/// Has this thread compute in the default mode from now on.
#[cfg(feature = "threads")]
pub(crate) fn set_default() {
    if !is_default() {
        register::write(register::DEFAULT);
    }
}

/// The register that holds the mode.
///
/// **Invariant**: Rust's arithmetic is defined in the default mode only. The one value that this crate
/// chooses is the default; any other was in the register before, on the same thread, and is put back where
/// that thread's code goes on (`Restored`). Both instructions exist on every processor of their architecture,
/// and their memory is a local variable.
#[cfg(not(miri))]
#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    pub(super) type Word = u32;
    /// All exceptions masked, to nearest, no flushing.
    pub(super) const DEFAULT: Word = 0x1f80;
    /// All but the flags that tell what has happened.
    pub(super) const CONTROL: Word = 0xffc0;

    #[inline(always)]
    pub(super) fn read() -> Word {
        let mut word: Word = 0;
        // SAFETY: see above. It writes four bytes into `word`.
        #[expect(unsafe_code, reason = "the mode is in a register that Rust has no function for")]
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags));
        }
        word
    }

    #[inline(always)]
    pub(super) fn write(word: Word) {
        // SAFETY: see above. It reads four bytes from `word`, none of whose reserved bits is set: `word` was
        // in the register before, or is a constant.
        #[expect(unsafe_code, reason = "the mode is in a register that Rust has no function for")]
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags));
        }
    }
}

/// As on x86-64.
#[cfg(not(miri))]
#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    pub(super) type Word = u64;
    pub(super) const DEFAULT: Word = 0;
    /// Rounding, flushing (FZ, FZ16, FIZ), default NaN, the alternatives (AHP, AH, NEP), and traps.
    pub(super) const CONTROL: Word = 0x07c8_9f07;

    #[inline(always)]
    pub(super) fn read() -> Word {
        let word: Word;
        // SAFETY: see above. It changes no memory.
        #[expect(unsafe_code, reason = "the mode is in a register that Rust has no function for")]
        unsafe {
            asm!("mrs {}, fpcr", out(reg) word, options(nomem, nostack, preserves_flags));
        }
        word
    }

    #[inline(always)]
    pub(super) fn write(word: Word) {
        // SAFETY: see above. It isn't `nomem`: no store may be moved across it.
        #[expect(unsafe_code, reason = "the mode is in a register that Rust has no function for")]
        unsafe {
            asm!("msr fpcr, {}", in(reg) word, options(nostack, preserves_flags));
        }
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod register {
    pub(super) type Word = u32;
    pub(super) const DEFAULT: Word = 0;
    pub(super) const CONTROL: Word = 0;

    pub(super) fn read() -> Word {
        DEFAULT
    }

    pub(super) fn write(_: Word) {}
}

/// Modes that a test's caller is in.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing {
    use super::{Restored, register};

    /// A floating-point mode that a host may have set for its thread.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Mode {
        /// As it should be.
        Default,
        /// Results too small for a normal number are 0.
        FlushToZero,
        /// Operands too small for a normal number are 0.
        DenormalsAreZero,
        /// Both, as sound libraries do.
        Both,
        /// Towards −∞.
        Down,
        /// Towards ∞.
        Up,
        /// Towards 0.
        ToZero,
    }

    impl Mode {
        /// All of them, the default first.
        pub const ALL: [Self; 7] = [
            Self::Default,
            Self::FlushToZero,
            Self::DenormalsAreZero,
            Self::Both,
            Self::Down,
            Self::Up,
            Self::ToZero,
        ];

        pub(super) fn bits(self) -> register::Word {
            let x86 = cfg!(target_arch = "x86_64");
            let (flush, tiny, down, up) =
                if x86 { (1 << 15, 1 << 6, 1 << 13, 1 << 14) } else { (1 << 24, 1 << 24, 1 << 23, 1 << 22) };
            match self {
                Self::Default => 0,
                Self::FlushToZero => flush,
                Self::DenormalsAreZero => tiny,
                Self::Both => flush | tiny,
                Self::Down => down,
                Self::Up => up,
                Self::ToZero => down | up,
            }
        }
    }

    /// The bits that make up this thread's mode.
    pub fn current() -> impl PartialEq + std::fmt::Debug {
        register::read() & register::CONTROL
    }

    /// Calls `f` on a thread that is in this mode.
    #[inline(never)]
    pub fn within<R>(mode: Mode, f: impl FnOnce() -> R) -> R {
        let _restored = Restored(register::read());
        register::write(register::DEFAULT | mode.bits());
        std::hint::black_box(std::hint::black_box(f)())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::testing::{Mode, current, within};
    use super::*;
    use crate::linalg::MatMut;
    use crate::random::{normal, rng};
    use crate::tensor::Tensor;
    use crate::{
        affine_into, linalg, log_softmax, matmul_into, matmul_nt_into, matmul_tn_into, parallel, softmax,
    };

    /// Values whose products, or which themselves, are too small for a normal number.
    fn tiny(rows: usize, columns: usize, seed: u64) -> Tensor {
        let mut rng = rng(seed);
        Tensor::from_fn([rows, columns], |_| (normal(&mut rng) * 1e-20) as f32).unwrap()
    }

    fn same_in_all_modes<R: PartialEq + std::fmt::Debug>(name: &str, f: impl Fn() -> R) {
        let expected = f();
        for mode in Mode::ALL {
            within(mode, || {
                let before = current();
                let result = f();
                assert_eq!(current(), before, "{name}, {mode:?}: the mode afterwards");
                assert!(result == expected, "{name}, {mode:?}: {result:?}, {expected:?}");
            });
        }
    }

    fn bits(x: &Tensor) -> Vec<u32> {
        x.as_slice().iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn the_modes_of_this_test_change_results() {
        if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            return;
        }
        let (a, b) = (black_box(1e-30_f32), black_box(1e-10_f32));
        let (x, y) = (black_box(1.0_f32), black_box(3.0_f32));
        let in_mode = |mode| {
            within(mode, || (black_box(black_box(a) * black_box(b)), black_box(black_box(x) / black_box(y))))
        };
        let all = Mode::ALL.map(in_mode);
        assert_ne!(all[0].0, 0.0);
        assert_eq!((all[1].0, all[3].0), (0.0, 0.0));
        assert!(all[4].1 < all[5].1 && all[6].1 == all[4].1);
    }

    #[test]
    fn a_product_of_tiny_numbers_has_the_same_bits_in_all_modes_on_any_number_of_threads() {
        let (a, b) = (tiny(512, 256, 1), tiny(256, 128, 2));
        let product = |threads: usize| {
            parallel::set_threads(threads.try_into().unwrap());
            bits(&a.matmul(&b).unwrap())
        };
        let expected = product(1);
        let nonzero = expected.iter().filter(|&&bits| bits << 1 != 0).count();
        assert!(nonzero > 30_000, "{nonzero}");
        for threads in [1, 2, 3] {
            for _ in 0..5 {
                for mode in Mode::ALL {
                    assert!(within(mode, || product(threads)) == expected, "{threads} threads, {mode:?}");
                }
            }
        }
    }

    #[test]
    fn operations_have_the_same_bits_in_all_modes() {
        let (a, b, bias) = (tiny(13, 7, 1), tiny(7, 9, 2), tiny(1, 7, 3).reshape([7]).unwrap());
        let y = |f: &dyn Fn(&mut Tensor)| {
            let mut y = a.clone();
            f(&mut y);
            bits(&y)
        };
        same_in_all_modes("matmul", || bits(&a.matmul(&b).unwrap()));
        same_in_all_modes("matmul_into", || {
            let mut c = Tensor::full([13, 9], 1e-38).unwrap();
            matmul_into(&a, &b, 0.3, &mut c).unwrap();
            bits(&c)
        });
        same_in_all_modes("affine", || {
            let (mut y, w) = (Tensor::zeros([13, 13]).unwrap(), a.clone());
            linalg::affine(a.mat(), w.mat(), Some(&[1e-40; 13]), None, y.mat_mut()).unwrap();
            bits(&y)
        });
        same_in_all_modes("softmax", || {
            y(&|y| {
                y.softmax_from(&Tensor::from([[0.0, -95.0, 3.0]])).unwrap();
            })
        });
        same_in_all_modes("matmul_nt_into", || {
            let mut c = Tensor::full([13, 13], 1e-38).unwrap();
            matmul_nt_into(&a, &a, 0.3, &mut c).unwrap();
            bits(&c)
        });
        same_in_all_modes("matmul_tn_into", || {
            let mut c = Tensor::full([7, 7], 1e-38).unwrap();
            matmul_tn_into(&a, &a, 0.3, &mut c).unwrap();
            bits(&c)
        });
        same_in_all_modes("affine_into", || {
            let mut c = Tensor::default();
            affine_into(&a, &a, &Tensor::full([13], 1e-38).unwrap(), &mut c).unwrap();
            bits(&c)
        });
        same_in_all_modes("matmul of slices", || {
            let mut c = Tensor::full([13, 13], 1e-38).unwrap();
            linalg::matmul(a.mat(), a.mat().t(), 0.3, c.mat_mut()).unwrap();
            bits(&c)
        });
        same_in_all_modes("softmax of rows in slices", || {
            let x = Tensor::<f32>::from([[0.0, -95.0, 3.0], [0.1, 0.2, 0.4]]);
            let mut p = [0.0; 6];
            linalg::softmax(x.mat(), MatMut::new(&mut p, [2, 3]).unwrap()).unwrap();
            p.map(f32::to_bits).to_vec()
        });
        same_in_all_modes("softmax of slices", || {
            let mut p = [[0.0_f32; 3]; 2];
            softmax(&[0.0, -95.0, 3.0], &mut p[0]);
            log_softmax(&[0.1, 1e-39, 0.3], &mut p[1]);
            p.as_flattened().iter().map(|p| p.to_bits()).collect::<Vec<_>>()
        });
        same_in_all_modes("log-softmax", || y(&|y| y.log_softmax_from(&a).unwrap()));
        same_in_all_modes("sum", || vec![a.sum().to_bits()]);
        same_in_all_modes("sum of rows", || {
            let mut db = bias.clone();
            db.add_sum_of_rows(&a).unwrap();
            let mut of_tensor = bits(&db);
            linalg::sum_of_rows(a.mat(), 1e-20, db.as_mut_slice()).unwrap();
            of_tensor.extend(bits(&db));
            of_tensor
        });
        same_in_all_modes("normal numbers", || {
            let mut rng = rng(1);
            (0..20).map(|_| normal(&mut rng).to_bits()).collect::<Vec<_>>()
        });
        same_in_all_modes("scale", || y(&|y| y.scale(1e-20)));
        same_in_all_modes("apply", || y(&|y| y.apply(|y| y / 3e20)));
        same_in_all_modes("map", || y(&|y| y.map_from(&a, |x| x * 1e-20 / 3.0).unwrap()));
        same_in_all_modes("zip", || y(&|y| y.zip_from(&a, &a, |a, b| a * b).unwrap()));
        same_in_all_modes("add", || {
            y(&|y| {
                y.scale(1e-20);
                let z = y.clone();
                y.add(&z).unwrap();
            })
        });
        same_in_all_modes("add to rows", || {
            y(&|y| {
                y.add_to_rows(&bias).unwrap();
                linalg::add_to_rows(bias.as_slice(), y.mat_mut()).unwrap();
            })
        });
        same_in_all_modes("cast", || {
            let x = Tensor::from([0.1_f64, 1e-40]);
            bits(&x.cast::<f32>().unwrap())
        });
        same_in_all_modes("random", || bits(&Tensor::normal([50], 0.1, 0.3, &mut rng(1)).unwrap()));
        same_in_all_modes("uniform", || bits(&Tensor::uniform([50], 0.1, 0.3, &mut rng(1)).unwrap()));
        same_in_all_modes("tasks", || {
            let mut y = [1e-30_f32; 7];
            parallel::for_each(&mut y, |y| *y *= black_box(1e-10));
            parallel::for_each(&mut y[..1], |y| *y *= black_box(3.0));
            y.map(f32::to_bits).to_vec()
        });
    }

    #[test]
    fn the_mode_is_back_after_an_error_and_a_panic() {
        let (a, b) = (tiny(3, 2, 1), tiny(3, 2, 2));
        same_in_all_modes("error", || a.matmul(&b).unwrap_err().to_string());
        for tasks in [1, 2, 5] {
            same_in_all_modes("panic", || {
                let run = || {
                    parallel::run(tasks, |i| {
                        if i == 0 {
                            resume_unwind(Box::new(is_default()))
                        }
                    })
                };
                *catch_unwind(AssertUnwindSafe(run)).unwrap_err().downcast::<bool>().unwrap()
            });
        }
    }

    /// A task that changes a worker's mode for good, as loading a library may, doesn't change the next job's.
    #[test]
    #[cfg(feature = "threads")]
    fn a_worker_begins_every_job_in_the_default_mode() {
        use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

        let caller = std::thread::current().id();
        for _ in 0..20 {
            parallel::set_threads(2.try_into().unwrap());
            let (changed, default) = (AtomicBool::new(false), AtomicBool::new(true));
            for _ in 0..2 {
                parallel::run(2, |i| {
                    default.fetch_and(is_default(), SeqCst);
                    if i == 1 && std::thread::current().id() != caller {
                        register::write(register::DEFAULT | Mode::Both.bits());
                        changed.store(true, SeqCst);
                    }
                    let start = std::time::Instant::now();
                    while i == 0 && !changed.load(SeqCst) && start.elapsed().as_millis() < 100 {
                        std::hint::spin_loop();
                    }
                });
            }
            assert!(default.load(SeqCst));
        }
    }
}
