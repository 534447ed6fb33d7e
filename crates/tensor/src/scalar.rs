use std::fmt::{Debug, Display, LowerExp};
use std::iter::Sum;
use std::ops::{Div, DivAssign, Neg, Sub, SubAssign};

use crate::dtype::DType;
use crate::kernels::{double, exp};
use crate::simd::vector::Element;

/// The element type of a tensor: `f32` for work, `f64` where derivatives are checked. Sealed.
pub trait Scalar:
    Element
    + sealed::Sealed
    + PartialOrd
    + Debug
    + Display
    + LowerExp
    + Sub<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + SubAssign
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
    /// The smallest positive normal number.
    const MIN_POSITIVE: Self;
    /// The name and size of this type in files.
    const DTYPE: DType;

    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
    /// The same number in double precision, exactly.
    fn to_f64(self) -> f64;
    /// eˣ. As the functions below, it is this crate's own, with the same bits on every machine, and its loops
    /// become vector instructions.
    ///
    /// Errors are in units of the last place of the exact result: here below 1.
    fn exp(self) -> Self;
    /// eˣ for x ≤ 0.
    #[doc(hidden)]
    fn exp_of_negative(self) -> Self;
    /// eˣ for x ≤ 0; 0 where that is below the normal numbers.
    #[doc(hidden)]
    fn exp_in_sum(self) -> Self;
    /// The natural logarithm. Its error: below 0.51 in f32, 1.5 in f64.
    fn ln(self) -> Self;
    /// ln(1 + x), accurate for small x. Its error: below 0.51 in f32, 1.5 in f64.
    fn ln_1p(self) -> Self;
    /// The hyperbolic tangent. Its error: below 1.5.
    fn tanh(self) -> Self;
    /// The logistic function, 1 / (1 + e⁻ˣ). Its error: below 2 in f32, 1.5 in f64.
    fn sigmoid(self) -> Self;
    /// The error function, 2/√π ∫₀ˣ exp(−t²) dt. Its error: below 0.51 in f32, 1.5 in f64.
    fn erf(self) -> Self;
    /// 1 − erf x, accurate for large x. Its error: below 0.51 in f32, 1.5 in f64.
    fn erfc(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// |x|.
    fn abs(self) -> Self;
    /// Whether this is NaN.
    fn is_nan(self) -> bool;
    /// Whether this is neither infinite nor NaN.
    fn is_finite(self) -> bool;

    /// Writes `values` as little-endian bytes. Of two slices that don't match in length, the shorter one
    /// counts.
    fn write_le(values: &[Self], bytes: &mut [u8]);
    /// Reads little-endian bytes into `values`, bit for bit, NaN included. The shorter slice counts.
    fn read_le(bytes: &[u8], values: &mut [Self]);
}

/// Work that is compiled for each element type in this crate, and not again in each crate that uses it.
pub(crate) mod sealed {
    /// The work on `On<T>`.
    pub trait Work {
        /// Its input.
        type On<T: 'static>;
        /// Its output.
        type Output;
        /// The work in single precision.
        fn f32(on: Self::On<f32>) -> Self::Output;
        /// The work in double precision.
        fn f64(on: Self::On<f64>) -> Self::Output;
    }

    /// Seals [`Scalar`](super::Scalar).
    pub trait Sealed: Sized + 'static {
        /// Does `W` for this type.
        fn work<W: Work>(on: W::On<Self>) -> W::Output;
    }
}

macro_rules! scalar {
    ($type:ident, $dtype:expr, $functions:ident) => {
        impl sealed::Sealed for $type {
            #[inline(always)]
            fn work<W: sealed::Work>(on: W::On<Self>) -> W::Output {
                W::$type(on)
            }
        }

        impl Scalar for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const EPSILON: Self = Self::EPSILON;
            const NEG_INFINITY: Self = Self::NEG_INFINITY;
            const MIN_POSITIVE: Self = Self::MIN_POSITIVE;
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
                $functions::exp(self)
            }
            #[inline(always)]
            fn exp_of_negative(self) -> Self {
                $functions::exp_of_negative(self)
            }
            #[inline(always)]
            fn exp_in_sum(self) -> Self {
                $functions::exp_in_sum(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $functions::ln(self)
            }
            #[inline(always)]
            fn ln_1p(self) -> Self {
                $functions::ln_1p(self)
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                $functions::tanh(self)
            }
            #[inline(always)]
            fn sigmoid(self) -> Self {
                $functions::sigmoid(self)
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $functions::erf(self)
            }
            #[inline(always)]
            fn erfc(self) -> Self {
                $functions::erfc(self)
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

scalar!(f32, DType::F32, exp);
scalar!(f64, DType::F64, double);

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
