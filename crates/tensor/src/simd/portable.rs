//! Vectors as arrays, which the compiler turns into registers where it can.

use crate::simd::vector::{Element, Halves, Oct, Quad, Quads, Register, Registers, Vector};
use crate::simd::{Baseline, Simd};

/// Twice as many numbers as a register has.
#[derive(Clone, Copy)]
pub(crate) struct Pair<H>(H, H);

impl<T: Copy, H: Vector<T>> Vector<T> for Pair<H> {
    const LEN: usize = 2 * H::LEN;
    #[inline(always)]
    fn splat(x: T) -> Self {
        Self(H::splat(x), H::splat(x))
    }
    #[inline(always)]
    fn load(x: &[T]) -> Self {
        Self(H::load(x), H::load(&x[H::LEN..]))
    }
    #[inline(always)]
    fn load_part(x: &[T]) -> Self {
        let (first, last) = x.split_at(x.len().min(H::LEN));
        Self(H::load_at_most(first), H::load_part(last))
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(self.0.mul_add(b.0, c.0), self.1.mul_add(b.1, c.1))
    }
}

impl<T: Element, Q: Quad<T>> Quads<T, Q> for Pair<Q> {
    const REGISTERS: usize = 2;
    #[inline(always)]
    fn quad(self, i: usize) -> Q {
        if i == 0 { self.0 } else { self.1 }
    }
}

impl<T: Element, Q: Quad<T>> Oct<T, Q> for Pair<Q> {
    #[inline(always)]
    fn join(first: Q, last: Q) -> Self {
        Self(first, last)
    }
}

impl<T: Copy, H: Vector<T>> Halves<T, H> for Pair<H> {
    #[inline(always)]
    fn join(first: H, last: H) -> Self {
        Self(first, last)
    }
    #[inline(always)]
    fn halves(self) -> [H; 2] {
        [self.0, self.1]
    }
}

/// An array that the compiler turns into vector instructions, if there are any.
#[derive(Clone, Copy)]
pub(crate) struct Plain<T, const N: usize>([T; N]);

impl Registers for Baseline {
    type F32 = Plain<f32, 4>;
    type F64 = Plain<f64, 2>;
    type QuadF32 = Plain<f32, 4>;
    type QuadF64 = Plain<f64, 4>;
    type OctF32 = Plain<f32, 8>;
    type OctF64 = Plain<f64, 8>;
    type HexF32 = Pair<Self::OctF32>;
    type HexF64 = Pair<Self::OctF64>;
}

impl<T: Element, const N: usize> Vector<T> for Plain<T, N> {
    const LEN: usize = N;
    #[inline(always)]
    fn splat(x: T) -> Self {
        Self([x; N])
    }
    #[inline(always)]
    fn load(x: &[T]) -> Self {
        let mut register = [T::default(); N];
        register.copy_from_slice(&x[..N]);
        Self(register)
    }
    // Not inlined: ends of rows are rare, and inlined they make a program 3 KB larger.
    #[inline(never)]
    fn load_part(x: &[T]) -> Self {
        let mut register = [T::default(); N];
        register.iter_mut().zip(x).for_each(|(register, &x)| *register = x);
        Self(register)
    }
    #[inline(always)]
    fn mul_add(self, b: Self, mut c: Self) -> Self {
        for i in 0..N {
            c.0[i] = <Baseline as Simd>::mul_add(self.0[i], b.0[i], c.0[i]);
        }
        c
    }
}

impl<T: Element, const N: usize> Register<T> for Plain<T, N> {
    #[inline(always)]
    fn store(self, x: &mut [T]) {
        x[..N].copy_from_slice(&self.0);
    }
    #[inline(never)]
    fn store_part(self, x: &mut [T]) {
        x.iter_mut().zip(self.0).for_each(|(x, register)| *x = register);
    }
    #[inline(always)]
    fn plus(mut self, b: Self) -> Self {
        for i in 0..N {
            self.0[i] += b.0[i];
        }
        self
    }
    #[inline(always)]
    fn times(mut self, b: Self) -> Self {
        for i in 0..N {
            self.0[i] *= b.0[i];
        }
        self
    }
}

impl<T: Element> Quad<T> for Plain<T, 4> {
    #[inline(always)]
    fn transpose([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        [0, 1, 2, 3].map(|j| Self([a.0[j], b.0[j], c.0[j], d.0[j]]))
    }
}

impl<T: Element> Quads<T, Plain<T, 4>> for Plain<T, 8> {
    const REGISTERS: usize = 2;
    #[inline(always)]
    fn quad(self, i: usize) -> Plain<T, 4> {
        Plain::load(&self.0[4 * i..])
    }
}

impl<T: Element> Oct<T, Plain<T, 4>> for Plain<T, 8> {
    #[inline(always)]
    fn join(first: Plain<T, 4>, last: Plain<T, 4>) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (first.0, last.0);
        Self([a, b, c, d, e, f, g, h])
    }
}
