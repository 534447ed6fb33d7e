//! Vectors of AVX2 and AVX-512.

#![expect(unsafe_code, reason = "vector instructions are unsafe functions")]
// SAFETY of every block below. First, the processor must have the instruction: these types are reached
// through `Avx2` and `Avx512` alone, which only code inside `simd::run` sees, after the processor has said
// that it has them. Second, loads and stores touch LEN elements of a slice of that length; those of a part
// touch as many as the slice has, at most LEN. Price of arrays instead:
// `cargo bench --bench tensor -- matmul` takes up to 1.5 times as long, and the crate four times as long to
// compile.

use std::arch::x86_64::*;

use crate::simd::portable::Pair;
use crate::simd::vector::{Halves, Oct, Quad, Quads, Register, Registers, Vector};
use crate::simd::{Avx2, Avx512};

impl Registers for Avx512 {
    type F32 = F32x16;
    type F64 = F64x8;
    type QuadF32 = F32x4;
    type QuadF64 = F64x4;
    type OctF32 = F32x8;
    type OctF64 = Pair<F64x4>;
    type HexF32 = F32x16;
    type HexF64 = Pair<Pair<F64x4>>;
}

impl Registers for Avx2 {
    type F32 = F32x8;
    type F64 = F64x4;
    type QuadF32 = F32x4;
    type QuadF64 = F64x4;
    type OctF32 = F32x8;
    type OctF64 = Pair<F64x4>;
    type HexF32 = Pair<F32x8>;
    type HexF64 = Pair<Pair<F64x4>>;
}

macro_rules! register {
    ($name:ident, $inner:ident: $len:literal $type:ident; $set1:ident $load:ident $store:ident $add:ident $mul:ident $fma:ident;
     |$x:ident, $n:ident| $load_part:expr, |$to:ident, $m:ident, $v:ident| $store_part:expr) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($inner);

        impl Vector<$type> for $name {
            const LEN: usize = $len;
            #[inline(always)]
            fn splat(x: $type) -> Self {
                Self(unsafe { $set1(x) })
            }
            #[inline(always)]
            fn load(x: &[$type]) -> Self {
                let x = &x[..$len];
                Self(unsafe { $load(x.as_ptr()) })
            }
            #[inline(always)]
            fn load_part(x: &[$type]) -> Self {
                let ($x, $n) = (x.as_ptr(), x.len().min($len));
                Self(unsafe { $load_part })
            }
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                Self(unsafe { $fma(self.0, b.0, c.0) })
            }
        }

        impl Register<$type> for $name {
            #[inline(always)]
            fn store(self, x: &mut [$type]) {
                let x = &mut x[..$len];
                unsafe { $store(x.as_mut_ptr(), self.0) }
            }
            #[inline(always)]
            fn store_part(self, x: &mut [$type]) {
                let ($to, $m, $v) = (x.as_mut_ptr(), x.len().min($len), self.0);
                unsafe { $store_part }
            }
            #[inline(always)]
            fn plus(self, b: Self) -> Self {
                Self(unsafe { $add(self.0, b.0) })
            }
            #[inline(always)]
            fn times(self, b: Self) -> Self {
                Self(unsafe { $mul(self.0, b.0) })
            }
        }
    };
}

/// A window of n entries that are all ones and then zeros begins n before the middle.
static ONES_32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
static ONES_64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

/// The first n < 4 numbers. Masked stores of AVX2 take a dozen cycles on AMD's processors.
#[inline(always)]
unsafe fn store_f32s(x: *mut f32, n: usize, v: __m128) {
    unsafe {
        if n & 2 == 0 {
            if n & 1 != 0 {
                _mm_store_ss(x, v);
            }
        } else {
            _mm_storel_pd(x.cast(), _mm_castps_pd(v));
            if n & 1 != 0 {
                _mm_store_ss(x.add(2), _mm_movehl_ps(v, v));
            }
        }
    }
}

register!(F32x4, __m128: 4 f32; _mm_set1_ps _mm_loadu_ps _mm_storeu_ps _mm_add_ps _mm_mul_ps _mm_fmadd_ps;
    |x, n| _mm_maskload_ps(x, _mm_loadu_si128(ONES_32[8 - n..][..4].as_ptr().cast())),
    |x, n, v| store_f32s(x, n, v));
register!(F32x8, __m256: 8 f32; _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_add_ps _mm256_mul_ps _mm256_fmadd_ps;
|x, n| _mm256_maskload_ps(x, _mm256_loadu_si256(ONES_32[8 - n..][..8].as_ptr().cast())),
|x, n, v| {
    let (first, last) = (_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    if n & 4 == 0 {
        store_f32s(x, n, first);
    } else {
        _mm_storeu_ps(x, first);
        store_f32s(x.add(4), n & 3, last);
    }
});
register!(F64x4, __m256d: 4 f64; _mm256_set1_pd _mm256_loadu_pd _mm256_storeu_pd _mm256_add_pd _mm256_mul_pd _mm256_fmadd_pd;
|x, n| _mm256_maskload_pd(x, _mm256_loadu_si256(ONES_64[4 - n..][..4].as_ptr().cast())),
|x, n, v| {
    let (first, last) = (_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
    if n & 2 == 0 {
        if n & 1 != 0 {
            _mm_store_sd(x, first);
        }
    } else {
        _mm_storeu_pd(x, first);
        if n & 1 != 0 {
            _mm_store_sd(x.add(2), last);
        }
    }
});
register!(F32x16, __m512: 16 f32; _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps _mm512_add_ps _mm512_mul_ps _mm512_fmadd_ps;
    |x, n| _mm512_maskz_loadu_ps(((1_u32 << n) - 1) as u16, x),
    |x, n, v| _mm512_mask_storeu_ps(x, ((1_u32 << n) - 1) as u16, v));
register!(F64x8, __m512d: 8 f64; _mm512_set1_pd _mm512_loadu_pd _mm512_storeu_pd _mm512_add_pd _mm512_mul_pd _mm512_fmadd_pd;
    |x, n| _mm512_maskz_loadu_pd(((1_u32 << n) - 1) as u8, x),
    |x, n, v| _mm512_mask_storeu_pd(x, ((1_u32 << n) - 1) as u8, v));

impl Quads<f32, F32x4> for F32x8 {
    const REGISTERS: usize = 1;
    #[inline(always)]
    fn quad(self, i: usize) -> F32x4 {
        let Self(x) = self;
        F32x4(unsafe { if i == 0 { _mm256_castps256_ps128(x) } else { _mm256_extractf128_ps::<1>(x) } })
    }
}

impl Oct<f32, F32x4> for F32x8 {
    #[inline(always)]
    fn join(first: F32x4, last: F32x4) -> Self {
        Self(unsafe { _mm256_set_m128(last.0, first.0) })
    }
}

impl Halves<f32, F32x8> for F32x16 {
    #[inline(always)]
    fn join(first: F32x8, last: F32x8) -> Self {
        Self(unsafe { _mm512_insertf32x8::<1>(_mm512_castps256_ps512(first.0), last.0) })
    }
    #[inline(always)]
    fn halves(self) -> [F32x8; 2] {
        unsafe { [F32x8(_mm512_castps512_ps256(self.0)), F32x8(_mm512_extractf32x8_ps::<1>(self.0))] }
    }
}

impl Quad<f32> for F32x4 {
    #[inline(always)]
    fn transpose([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        unsafe {
            let (ab, cd) = (_mm_unpacklo_ps(a.0, b.0), _mm_unpacklo_ps(c.0, d.0)); // a0 b0 a1 b1, c0 d0 c1 d1
            let (ab2, cd2) = (_mm_unpackhi_ps(a.0, b.0), _mm_unpackhi_ps(c.0, d.0)); // a2 b2 a3 b3, c2 d2 c3 d3
            [_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab), _mm_movelh_ps(ab2, cd2), _mm_movehl_ps(cd2, ab2)]
                .map(Self)
        }
    }
}

impl Quad<f64> for F64x4 {
    #[inline(always)]
    fn transpose([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        unsafe {
            let (ab, cd) = (_mm256_unpacklo_pd(a.0, b.0), _mm256_unpacklo_pd(c.0, d.0)); // a0 b0 a2 b2, c0 d0 c2 d2
            let (ab1, cd1) = (_mm256_unpackhi_pd(a.0, b.0), _mm256_unpackhi_pd(c.0, d.0)); // a1 b1 a3 b3, …
            [
                Self(_mm256_permute2f128_pd::<0x20>(ab, cd)),
                Self(_mm256_permute2f128_pd::<0x20>(ab1, cd1)),
                Self(_mm256_permute2f128_pd::<0x31>(ab, cd)),
                Self(_mm256_permute2f128_pd::<0x31>(ab1, cd1)),
            ]
        }
    }
}
