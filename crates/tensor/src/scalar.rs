use std::cell::Cell;
use std::fmt::{Debug, Display, LowerExp};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};
use std::thread::LocalKey;

use crate::MemoryError;
use crate::gemm::{FewRows, Gemm, Product, Tiny, with_buffer};
use crate::math;
use crate::simd::{self, Kernel, Simd};

/// The element type of a tensor: `f32` for work, `f64` where derivatives are checked. Sealed.
pub trait Scalar:
    sealed::Gemm
    + Copy
    + Default
    + PartialOrd
    + Debug
    + Display
    + LowerExp
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
    + Send
    + Sync
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The distance from 1 to the next larger number.
    const EPSILON: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// The name and size of this type in files.
    const DTYPE: DType;

    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
    /// The same number in double precision, exactly.
    fn to_f64(self) -> f64;
    /// eˣ. In single precision it is this crate's own, with the same bits on every machine, and within one unit in the
    /// last place of the exact result.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// ln(1 + x), accurate for small x.
    fn ln_1p(self) -> Self;
    /// The hyperbolic tangent. As [`exp`](Self::exp), but within one and a half units.
    fn tanh(self) -> Self;
    /// The logistic function, 1 / (1 + e⁻ˣ). As [`exp`](Self::exp), but within two units.
    fn sigmoid(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// |x|.
    fn abs(self) -> Self;
    /// Whether this is NaN.
    fn is_nan(self) -> bool;
    /// Whether this is neither infinite nor NaN.
    fn is_finite(self) -> bool;

    /// Writes `values` as little-endian bytes. Of two slices that don't match in length, the shorter one counts.
    fn write_le(values: &[Self], bytes: &mut [u8]);
    /// Reads little-endian bytes into `values`, bit for bit, NaN included. The shorter slice counts.
    fn read_le(bytes: &[u8], values: &mut [Self]);
}

/// The element type of a tensor as a value: what files store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// IEEE 754 double precision, 8 bytes.
    F64,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

impl Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

pub(crate) mod sealed {
    use std::cell::Cell;
    use std::thread::LocalKey;

    use crate::MemoryError;
    use crate::gemm::Product;
    use crate::simd::{Quad, Quads, Register, Simd};

    /// Seals [`super::Scalar`], and keeps nalgebra's traits out of it: their methods would clash with ours.
    pub trait Gemm: Sized {
        /// A matrix product. Not generic, so the kernels are compiled with this crate and not with each of its users.
        /// Without memory for its packed operands nothing is computed.
        fn product(product: &mut Product<'_, Self>) -> Result<(), MemoryError>;
        /// The same with a buffer that is long enough.
        fn product_within(product: &mut Product<'_, Self>, buffer: &mut [Self]);
        /// The same with the tiles that suit this type and the registers.
        fn tiles<S: Simd>(product: &mut Product<'_, Self>, buffer: &mut [Self]);
        /// A register full of this type.
        type Register<S: Simd>: Register<Self>;
        /// Four of this type.
        type Quad<S: Simd>: Quad<Self>;
        /// Eight of this type.
        type Oct<S: Simd>: Quads<Self, Self::Quad<S>>;
        /// a b + c with a single rounding.
        fn mul_add(self, b: Self, c: Self) -> Self;
        /// eˣ for x ≤ 0; results below the normal numbers may be 0.
        fn exp_of_negative(self) -> Self;
        /// This thread's memory for packed operands, kept from product to product.
        fn buffer() -> &'static LocalKey<Cell<Vec<Self>>>;
    }
}

macro_rules! scalar {
    ($type:ident, $dtype:expr, $register:ident, $quad:ident, $oct:ident, $exp:path, $exp_of_negative:path, $tanh:path) => {
        impl sealed::Gemm for $type {
            fn product(product: &mut Product<'_, Self>) -> Result<(), MemoryError> {
                if product.is_tiny() || product.has_few_rows() {
                    Self::product_within(product, &mut []);
                    return Ok(());
                }
                let len = product.buffer_len();
                with_buffer(product.form.operation(), len, |buffer| simd::run(Gemm { product, buffer }))
            }
            fn product_within(product: &mut Product<'_, Self>, buffer: &mut [Self]) {
                match product.is_tiny() {
                    true if product.is_exact() => Tiny(product).run::<simd::Baseline>(),
                    // Neither has use for more than 32 bytes: a kernel that isn't there for AVX-512 makes programs smaller.
                    true => simd::run_within(32, Tiny(product)),
                    false if product.has_few_rows() => simd::run_within(32, FewRows(product)),
                    false => simd::run(Gemm { product, buffer }),
                }
            }
            #[inline(always)]
            fn tiles<S: Simd>(product: &mut Product<'_, Self>, buffer: &mut [Self]) {
                const SIZE: usize = size_of::<$type>();
                match S::BYTES {
                    64 => product.compute::<S, 8, 8, { 128 / SIZE }>(buffer),
                    32 => product.compute::<S, 6, 8, { 64 / SIZE }>(buffer),
                    _ => product.compute::<S, 4, 4, { 32 / SIZE }>(buffer),
                }
            }
            type Register<S: Simd> = S::$register;
            type Quad<S: Simd> = S::$quad;
            type Oct<S: Simd> = S::$oct;
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }
            #[inline(always)]
            fn exp_of_negative(self) -> Self {
                $exp_of_negative(self)
            }
            fn buffer() -> &'static LocalKey<Cell<Vec<Self>>> {
                thread_local!(static BUFFER: Cell<Vec<$type>> = const { Cell::new(Vec::new()) });
                &BUFFER
            }
        }

        impl Scalar for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const EPSILON: Self = Self::EPSILON;
            const NEG_INFINITY: Self = Self::NEG_INFINITY;
            const DTYPE: DType = $dtype;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                self.ln()
            }
            #[inline(always)]
            fn ln_1p(self) -> Self {
                self.ln_1p()
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                $tanh(self)
            }
            #[inline(always)]
            fn sigmoid(self) -> Self {
                math::sigmoid(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self.is_nan()
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }

            fn write_le(values: &[Self], bytes: &mut [u8]) {
                let (chunks, _) = bytes.as_chunks_mut::<{ size_of::<Self>() }>();
                for (chunk, value) in chunks.iter_mut().zip(values) {
                    *chunk = value.to_le_bytes();
                }
            }
            fn read_le(bytes: &[u8], values: &mut [Self]) {
                let (chunks, _) = bytes.as_chunks::<{ size_of::<Self>() }>();
                for (value, chunk) in values.iter_mut().zip(chunks) {
                    *value = Self::from_le_bytes(*chunk);
                }
            }
        }
    };
}

scalar!(f32, DType::F32, F32, QuadF32, OctF32, math::exp, math::exp_of_negative, math::tanh);
scalar!(f64, DType::F64, F64, QuadF64, OctF64, f64::exp, f64::exp, f64::tanh);

#[cfg(test)]
mod tests {
    use super::*;

    fn little_endian_round_trip<T: Scalar>(values: &[T]) {
        let size = T::DTYPE.size();
        let mut bytes = vec![0; values.len() * size];
        T::write_le(values, &mut bytes);
        let mut back = vec![T::ZERO; values.len()];
        T::read_le(&bytes, &mut back);
        let mut again = vec![0; bytes.len()];
        T::write_le(&back, &mut again);
        assert_eq!(bytes, again);
        assert_eq!(bytes[size - 1], 0x3f, "1.0 ends in its exponent");
    }

    #[test]
    fn bytes_are_little_endian_and_keep_every_bit() {
        let nan = f32::from_bits(0x7fc0_1234);
        little_endian_round_trip(&[1.0_f32, -0.0, nan, f32::INFINITY, 1e-45]);
        little_endian_round_trip(&[1.0_f64, -0.0, f64::NAN, 5e-324]);
        assert_eq!((DType::F32.size(), DType::F64.size()), (size_of::<f32>(), size_of::<f64>()));
    }
}
