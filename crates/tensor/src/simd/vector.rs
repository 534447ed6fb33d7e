//! Vector registers as values, for matrix products, whose accumulators must stay in registers. Elsewhere the
//! compiler makes vector instructions of plain loops.

use std::ops::{Add, AddAssign, Mul, MulAssign};

/// A number that registers hold.
pub trait Element: Copy + Default + Add<Output = Self> + Mul<Output = Self> + AddAssign + MulAssign {
    /// A register full of this type.
    type Register<S: Registers>: Register<Self>;
    /// Four of this type.
    type Quad<S: Registers>: Quad<Self>;
    /// Eight of this type.
    type Oct<S: Registers>: Oct<Self, Self::Quad<S>>;
    /// Sixteen of this type.
    type Hex<S: Registers>: Halves<Self, Self::Oct<S>>;
    /// a b + c with a single rounding.
    fn mul_add(self, b: Self, c: Self) -> Self;
}

macro_rules! element {
    ($type:ident, $register:ident, $quad:ident, $oct:ident, $hex:ident) => {
        impl Element for $type {
            type Register<S: Registers> = S::$register;
            type Quad<S: Registers> = S::$quad;
            type Oct<S: Registers> = S::$oct;
            type Hex<S: Registers> = S::$hex;
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }
        }
    };
}

element!(f32, F32, QuadF32, OctF32, HexF32);
element!(f64, F64, QuadF64, OctF64, HexF64);

/// The registers of an instruction set.
pub trait Registers {
    /// As many f32 as a register holds.
    type F32: Register<f32>;
    /// As many f64 as a register holds.
    type F64: Register<f64>;
    /// Four f32.
    type QuadF32: Quad<f32>;
    /// Four f64.
    type QuadF64: Quad<f64>;
    /// Eight f32.
    type OctF32: Oct<f32, Self::QuadF32>;
    /// Eight f64.
    type OctF64: Oct<f64, Self::QuadF64>;
    /// Sixteen f32.
    type HexF32: Halves<f32, Self::OctF32>;
    /// Sixteen f64.
    type HexF64: Halves<f64, Self::OctF64>;
}

/// Numbers side by side: a register, or more than one.
pub trait Vector<T>: Copy {
    /// How many.
    const LEN: usize;
    /// The same number everywhere.
    fn splat(x: T) -> Self;
    /// The first `LEN` numbers of `x`.
    fn load(x: &[T]) -> Self;
    /// All numbers of `x`, which are fewer than `LEN`, and zeros.
    fn load_part(x: &[T]) -> Self;
    /// self · b + c, element by element.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The first numbers of `x`, as many as there are, and zeros.
    #[inline(always)]
    fn load_at_most(x: &[T]) -> Self {
        if x.len() >= Self::LEN { Self::load(x) } else { Self::load_part(x) }
    }
}

/// A register full of numbers.
pub trait Register<T>: Vector<T> {
    /// Overwrites the first `LEN` numbers of `x`.
    fn store(self, x: &mut [T]);
    /// Overwrites `x`, which is shorter than `LEN`.
    fn store_part(self, x: &mut [T]);
    /// self + b, element by element.
    fn plus(self, b: Self) -> Self;
    /// self · b, element by element.
    fn times(self, b: Self) -> Self;
}

/// Four numbers.
pub trait Quad<T>: Register<T> {
    /// Rows become columns.
    fn transpose(rows: [Self; 4]) -> [Self; 4];
}

/// One quad or two.
pub trait Quads<T, Q>: Vector<T> {
    /// How many registers they take.
    const REGISTERS: usize;
    /// The `i`th of them.
    fn quad(self, i: usize) -> Q;
}

impl<T, Q: Quad<T>> Quads<T, Q> for Q {
    const REGISTERS: usize = 1;
    #[inline(always)]
    fn quad(self, _: usize) -> Q {
        self
    }
}

/// Eight numbers.
pub trait Oct<T, Q>: Quads<T, Q> {
    /// Of two quads.
    fn join(first: Q, last: Q) -> Self;
}

/// Sixteen numbers.
pub trait Halves<T, H>: Vector<T> {
    /// Of two halves.
    fn join(first: H, last: H) -> Self;
    /// The two halves.
    fn halves(self) -> [H; 2];
}
