//! What a product is: its operands, its sizes, and the properties by which a kernel is chosen.

use crate::linalg::epilogue::Epilogue;
use crate::scalar::Scalar;

/// Repeats a block for `$i` in 0..`$n`, written out, so that the tile's sums stay in registers.
macro_rules! unrolled {
    ($i:ident < $n:ident => $body:block) => {
        unrolled!(@ $i $n $body 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident $n:ident $body:block $($value:literal)*) => {
        $(if $value < $n { let $i = $value; $body })*
    };
}

pub(super) use unrolled;

/// Which operand of a product is read as its transpose. No layer's rule needs Aᵀ·Bᵀ.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// A·B
    Nn,
    /// A·Bᵀ
    Nt,
    /// Aᵀ·B
    Tn,
}

/// What the product is added to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Initial<'a, T> {
    /// Nothing: C is only written, and whatever it held, NaN included, is gone.
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

    /// The number of partial sums for a block of so many terms: 1, 4 or 8. Eight of them fill a register of 32 bytes, and make
    /// one sample's product as fast as the cache gives weights; but they cost a batch something at each of their ends. A single
    /// row of A·B or Aᵀ·B is computed many columns at a time and needs none.
    #[inline(always)]
    pub(super) fn accumulators(self, terms: usize) -> usize {
        match self {
            Self::Nt if terms >= LONG => 8,
            Self::Nt if terms > SHORT => 4,
            _ => 1,
        }
    }

    /// The number of terms in a block of the sum, and in a packed block, which has more if C has few columns: as many terms
    /// of MR rows of A, or of a accumulator's part of them, fit the first-level cache.
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

/// From so many terms on there are eight partial sums in A·Bᵀ: of fewer, for batches, the ends take too long.
pub(super) const LONG: usize = 512;
/// Up to so many terms there is one sum: adding up four would take longer than the few terms of each.
pub(super) const SHORT: usize = 64;
/// Products of up to so many multiplications are computed element by element.
pub(super) const SMALL: usize = 128;
/// Up to so many columns of C, rows of A are read where they are: packing them would take longer than it saves.
pub(super) const FEW_COLUMNS: usize = 256;
/// The most columns of a tile, in the narrowest type and the widest registers.
pub(super) const WIDEST: usize = 32;
/// The most rows of a tile.
pub(super) const TALLEST: usize = 8;
/// Tiles have no fewer rows: with fewer, each addition would wait for the one before, so that four take no longer than one.
pub(super) const LOW: usize = 4;
/// Terms of the sum in a block.
pub(super) const KC: usize = 512;
/// Elements of a packed block of B: half a megabyte in single precision, within the second-level cache.
pub(super) const BLOCK: usize = 1 << 17;
/// Elements of C that are finished at once: few enough for the first-level cache, and enough for what beginning costs.
pub(super) const FINISHED: usize = 2048;

/// Rows of C = A·B + initial: those from `first` on that `c` has room for. The whole product is m × n and sums over k terms.
/// All buffers are row-major, and the caller has checked their lengths.
pub(super) struct Product<'a, T> {
    pub(super) form: Form,
    pub(super) sizes: [usize; 3],
    /// Elements from one stored row to the next: of A, B and C.
    pub(super) strides: [usize; 3],
    pub(super) first: usize,
    pub(super) a: &'a [T],
    pub(super) b: &'a [T],
    pub(super) initial: Initial<'a, T>,
    /// What becomes of C's elements, once they are there: an activation.
    pub(super) epilogue: Option<Epilogue<'a, T>>,
    pub(super) c: &'a mut [T],
}

impl<T: Scalar> Product<'_, T> {
    /// Whether it is computed element by element.
    #[inline]
    pub(super) fn is_small(&self) -> bool {
        let ([_, n, terms], [_, _, ldc]) = (self.sizes, self.strides);
        let work = self.c.len().saturating_mul(terms);
        work <= SMALL && work > 0 && terms <= SHORT && ldc == n
    }

    /// Whether it is A·Bᵀ with few rows: see [`is_gemv`].
    #[inline]
    pub(super) fn is_gemv(&self) -> bool {
        is_gemv(self.form, self.sizes, self.strides, self.c.len())
    }

    /// How many elements of a buffer the product packs into.
    #[inline]
    pub(super) fn buffer_len(&self) -> usize {
        if self.c.is_empty() { 0 } else { buffer_len(self.form, self.sizes, self.strides, self.rows()) }
    }

    /// The rows of `c`, which isn't empty. The last one may end where its columns do.
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        let ldc = self.strides[2];
        (self.c.len() + (ldc - self.sizes[1])) / ldc
    }

    /// Whether nothing is added to a product before it is rounded, so that all instruction sets give the same bits.
    #[inline]
    pub(super) fn is_exact(&self) -> bool {
        self.sizes[2] == 1 && !matches!(self.initial, Initial::Beta(_))
    }
}

/// Whether `len` elements of A·Bᵀ are so few rows that packing B would take longer than reading it where it is, for each of
/// them. With eight partial sums that is true of more rows.
#[inline(always)]
pub(super) fn is_gemv(form: Form, [_, _, k]: [usize; 3], [_, _, ldc]: [usize; 3], len: usize) -> bool {
    let few = if k >= LONG { 8 } else { 3 };
    matches!(form, Form::Nt) && k > 1 && len > 0 && len <= few * ldc
}

/// How many elements of a buffer `rows` rows of a product pack into; 0 if both operands are read where they are.
#[inline]
pub(super) fn buffer_len(form: Form, sizes: [usize; 3], strides: [usize; 3], rows: usize) -> usize {
    let ([_, n, k], [_, _, ldc]) = (sizes, strides);
    if rows * n * k == 0
        || is_ger(form, sizes, strides)
        || is_gemv(form, sizes, strides, rows * ldc)
        || is_gevm(form, sizes, strides, rows)
    {
        return 0;
    }
    let blocks = Blocks::of(form, sizes);
    // Panels begin at a cache line.
    (blocks.columns + TALLEST) * blocks.terms + WIDEST
}

/// Whether `rows` rows of C are too few for B to be read a second time: packing it would cost more than the product.
#[inline(always)]
pub(super) fn is_gevm(form: Form, [m, _, _]: [usize; 3], [lda, _, _]: [usize; 3], rows: usize) -> bool {
    rows <= 3 && matches!((form, m, lda), (Form::Nn, _, _) | (Form::Tn, 1, 1))
}

/// Whether C is a column times a row that lies contiguous.
#[inline(always)]
pub(super) fn is_ger(form: Form, [_, _, k]: [usize; 3], [_, ldb, _]: [usize; 3]) -> bool {
    k == 1 && !matches!((form, ldb), (Form::Nt, 2..))
}

/// The blocks of B: so many columns and terms of it are packed at once.
pub(super) struct Blocks {
    pub(super) columns: usize,
    pub(super) terms: usize,
}

impl Blocks {
    /// For fewer terms, a packed block has more columns, and for fewer columns, more terms.
    #[inline(always)]
    pub(super) fn of(form: Form, [_, n, k]: [usize; 3]) -> Self {
        let kc = form.block();
        let columns = (BLOCK / k.min(KC)).min(n).next_multiple_of(WIDEST);
        Self { columns, terms: k.min((BLOCK / columns / kc).max(1) * kc) }
    }
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
