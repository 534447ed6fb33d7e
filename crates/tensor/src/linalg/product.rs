//! A product: its operands, its sizes, and the order of its sums.

use crate::linalg::epilogue::Epilogue;
use crate::linalg::panels::Panels;
use crate::scalar::Scalar;

/// Repeats a block for `$i` in 0..`$n`, written out, so the accumulators stay in registers. `$n` is a
/// parameter of the function, at most 8, or the number 4 or 8.
macro_rules! unrolled {
    ($i:ident < 4 => $body:block) => {
        unrolled!(@ $i $body 0 1 2 3)
    };
    ($i:ident < 8 => $body:block) => {
        unrolled!(@ $i $body 0 1 2 3 4 5 6 7)
    };
    ($i:ident < $n:ident => $body:block) => {
        // The compiler makes no code of a block behind a constant that is false. With code of all eight, this
        // crate took twice as long to compile without optimization.
        unrolled!(@ $i < $n $body 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident < $n:ident $body:block $($value:literal)*) => {
        $(if const { $value < $n } { let $i = $value; $body })*
    };
    (@ $i:ident $body:block $($value:literal)*) => {
        $({ let $i = $value; $body })*
    };
}

pub(super) use unrolled;

/// Which operand of a product is stored transposed. No layer's rule needs Aᵀ·Bᵀ.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// A·B
    Nn,
    /// A·Bᵀ
    Nt,
    /// Aᵀ·B
    Tn,
}

/// The kernels of products that aren't small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// No sum: C is the initial value.
    Initial,
    /// A·Bᵀ with few rows: [`gemv`](crate::linalg::gemv).
    Gemv,
    /// A column times a row: [`ger`](crate::linalg::ger).
    Ger,
    /// A·B row by row: [`gevm`](crate::linalg::gevm).
    Gevm,
    /// A·B with few rows and a large B: [`gevm`](crate::linalg::gevm).
    ByRowsOfB,
    /// Packed and in tiles: [`gemm`](crate::linalg::gemm).
    Tiles,
}

/// The value that the product is added to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Initial<'a, T> {
    /// 0: C is only written. NaN in it is gone.
    Zero,
    /// This row, in every row of C: the bias of a dense layer. C is only written.
    Bias(&'a [T]),
    /// β C
    Beta(T),
}

impl Form {
    /// The name in errors.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::Nn => "matmul A·B",
            Self::Nt => "matmul A·Bᵀ",
            Self::Tn => "matmul Aᵀ·B",
        }
    }

    /// The strides of matrices without gaps.
    #[inline(always)]
    pub(super) fn strides(self, [m, n, k]: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Nn => [k, n, n],
            Self::Nt => [k, k, n],
            Self::Tn => [m, n, n],
        }
    }

    /// The number of accumulators for a block of `terms` terms: 1, 4 or 8. Eight fill a register of 32 bytes:
    /// the product of one sample is then bound by the cache. In a batch each costs an addition at its end. A
    /// row of A·B or Aᵀ·B computes many columns at once and needs one accumulator.
    #[inline(always)]
    pub(super) fn accumulators(self, terms: usize) -> usize {
        match self {
            Self::Nt if terms >= LONG => 8,
            Self::Nt if terms > SHORT => 4,
            _ => 1,
        }
    }

    /// Terms in a block of the sum: so many of MR rows of A, or one accumulator's part of them, fit the
    /// first-level cache. A packed block is a multiple of this if C has few columns.
    #[inline(always)]
    pub(super) fn block(self) -> usize {
        match self {
            Self::Nt => 2 * KC,
            Self::Nn | Self::Tn => KC,
        }
    }
}

impl<T: Scalar> Initial<'_, T> {
    /// β C, where 0·NaN is 0.
    pub(super) fn beta(beta: T) -> Self {
        if beta == T::ZERO { Self::Zero } else { Self::Beta(beta) }
    }
}

/// A·Bᵀ has eight accumulators from this number of terms on: with fewer terms, adding them up takes a batch
/// too long.
pub(super) const LONG: usize = 512;
/// A·Bᵀ has one accumulator up to this number of terms.
pub(super) const SHORT: usize = 64;
/// Up to this number of columns of C, rows of A are read in place: packing them costs more than it saves.
pub(super) const FEW_COLUMNS: usize = 256;
/// Columns of C whose sums such a product keeps at once: with four rows of B they fit the first-level cache.
pub(super) const STRIP: usize = 512;
/// The most columns of a tile, in the narrowest type and the widest registers.
pub(super) const WIDEST: usize = 32;
/// The most rows of a tile.
pub(super) const TALLEST: usize = 8;
/// The fewest rows of a tile: with fewer, the latency of an addition is the bound, and four rows take no
/// longer than one.
pub(super) const LOW: usize = 4;
/// Terms of the sum in a block.
pub(super) const KC: usize = 512;
/// Blocks of terms whose sums are added in the element's type.
pub(super) const GROUP: usize = 8;
/// Elements of a packed block of B: half a megabyte in single precision, within the second-level cache.
pub(super) const BLOCK: usize = 1 << 17;
/// Panels that are packed at once, from rows that lie contiguous.
pub(super) const SIDE_BY_SIDE: usize = 4;
/// Elements of C for one call of the epilogue: they fit the first-level cache, and outweigh the call.
pub(super) const EPILOGUE: usize = 2048;

/// `rows` rows of C = A·B + initial, from row `first` on. The whole product is m × n and sums
/// over k terms. All buffers are row-major, and the caller has checked their lengths.
pub(super) struct Product<'a, T> {
    pub(super) form: Form,
    pub(super) sizes: [usize; 3],
    /// Elements from the start of a stored row to the next: of A, B and C (BLAS's lda, ldb, ldc).
    pub(super) strides: [usize; 3],
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) a: &'a [T],
    pub(super) b: &'a [T],
    /// B of A·Bᵀ once more, if it is packed already.
    pub(super) panels: Option<Panels<'a, T>>,
    pub(super) initial: Initial<'a, T>,
    /// An activation, applied to elements of C whose sums are complete.
    pub(super) epilogue: Option<Epilogue<'a, T>>,
    pub(super) c: &'a mut [T],
}

impl<T: Scalar> Product<'_, T> {
    /// Whether its sums are made of several groups: see [`total`](crate::linalg::groups).
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        is_long(self.form, self.sizes)
    }

    /// Whether each element is one rounded multiplication: then all instruction sets give the same bits.
    #[inline]
    pub(super) fn is_exact(&self) -> bool {
        self.sizes[2] == 1 && !matches!(self.initial, Initial::Beta(_))
    }
}

/// Whether a sum has more blocks than are added in the element's type.
#[inline(always)]
pub(super) fn is_long(form: Form, [_, _, k]: [usize; 3]) -> bool {
    k > GROUP * form.block()
}

/// The elements that few rows of A·B keep: a strip of sums for each row and for one more if they are odd, and
/// one of zeros.
pub(super) fn strips(rows: usize) -> usize {
    (rows.next_multiple_of(2) + 1) * STRIP
}

/// The size of a packed block of B.
pub(super) struct Blocks {
    pub(super) columns: usize,
    pub(super) terms: usize,
}

impl Blocks {
    /// With fewer terms a block has more columns, and with fewer columns more terms.
    #[inline(always)]
    pub(super) fn of(form: Form, [_, n, k]: [usize; 3]) -> Self {
        let kc = form.block();
        // Most products take no division: in a small one, three of them are a hundredth of its time.
        let all = n.saturating_mul(k.min(KC)) <= BLOCK;
        let columns = if all { n } else { BLOCK / k.min(KC) }.next_multiple_of(WIDEST);
        let terms = if k <= kc { k } else { k.min((BLOCK / columns / kc).max(1) * kc) };
        Self { columns, terms }
    }
}

/// The rows of `c`, of `n` elements, each `ldc` behind the one before. The last one may end where its columns
/// do.
#[inline(always)]
pub(super) fn rows_mut<T>(c: &mut [T], n: usize, ldc: usize) -> impl Iterator<Item = &mut [T]> {
    let mut rest = c;
    std::iter::from_fn(move || {
        let (row, others) = std::mem::take(&mut rest).split_at_mut_checked(n)?;
        rest = others.get_mut(ldc - n..).unwrap_or_default();
        Some(row)
    })
}

/// `from`, `from` + `step`, … below `until`: `step_by` begins with a division.
#[inline(always)]
pub(super) fn range_by(from: usize, until: usize, step: usize) -> impl Iterator<Item = usize> {
    let mut next = from;
    std::iter::from_fn(move || {
        let at = next;
        next += step;
        (at < until).then_some(at)
    })
}

/// The first R of N.
#[inline(always)]
pub(super) fn first_of<X: Copy, const N: usize, const R: usize>(all: [X; N]) -> [X; R] {
    let mut first = [all[0]; R];
    first.copy_from_slice(&all[..R]);
    first
}
