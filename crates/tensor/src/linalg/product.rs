//! What a product is: its operands, its sizes, and the properties by which a kernel is chosen.

use crate::linalg::epilogue::Epilogue;
use crate::linalg::panels::Panels;
use crate::scalar::Scalar;
use crate::simd;

/// Repeats a block for `$i` in 0..`$n`, written out, so the accumulators stay in registers. `$n` is a parameter
/// of the function, at most 8, or the number 4 or 8.
macro_rules! unrolled {
    ($i:ident < 4 => $body:block) => {
        unrolled!(@ $i $body 0 1 2 3)
    };
    ($i:ident < 8 => $body:block) => {
        unrolled!(@ $i $body 0 1 2 3 4 5 6 7)
    };
    ($i:ident < $n:ident => $body:block) => {
        // The compiler makes no code of a block behind a constant that is false: half the time it takes for this
        // crate.
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
/// The most multiplications of a small product, which is computed element by element.
pub(super) const SMALL: usize = 128;
/// Up to this number of columns of C, rows of A are read in place: packing them costs more than it saves.
pub(super) const FEW_COLUMNS: usize = 256;
/// The most rows of A·B for which B is read in place.
pub(super) const FEW: usize = 12;
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

/// Columns of C that are computed at once, so what is kept beside them stays small. Whole blocks of packed
/// columns: nothing is packed twice.
pub(super) fn columns_at_once(rows: usize, n: usize) -> usize {
    const ELEMENTS: usize = 1 << 18;
    const PACKED: usize = 256;
    match rows.saturating_mul(n) <= ELEMENTS {
        true => n,
        false => n.min((ELEMENTS / rows / PACKED).max(1) * PACKED),
    }
}

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
    /// Whether it is computed element by element.
    #[inline]
    pub(super) fn is_small(&self) -> bool {
        let ([_, n, terms], [_, _, ldc]) = (self.sizes, self.strides);
        let work = self.c.len().saturating_mul(terms);
        work <= SMALL && work > 0 && terms <= SHORT && ldc == n
    }

    /// Whether its sums are made of several groups: see [`total`](crate::linalg::groups).
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        is_long(self.form, self.sizes)
    }

    /// Whether it is A·Bᵀ with few rows: see [`is_gemv`].
    #[inline]
    pub(super) fn is_gemv(&self) -> bool {
        is_gemv::<T>(self.form, self.sizes, self.strides, self.c.len(), self.panels.is_some())
    }

    /// Whether it is A·B with few rows and a large B: see [`is_by_rows_of_b`].
    #[inline]
    pub(super) fn is_by_rows_of_b(&self) -> bool {
        is_by_rows_of_b(self.form, self.sizes, self.strides, self.rows)
    }

    /// How many elements of a buffer the product packs into.
    #[inline]
    pub(super) fn buffer_len(&self) -> usize {
        buffer_len::<T>(self.form, self.sizes, self.strides, self.rows, self.panels.is_some())
    }

    /// Whether each element is one rounded multiplication: then all instruction sets give the same bits.
    #[inline]
    pub(super) fn is_exact(&self) -> bool {
        self.sizes[2] == 1 && !matches!(self.initial, Initial::Beta(_))
    }
}

/// Whether `len` elements of A·Bᵀ are few rows: reading B in place for each of them costs less than packing
/// it. With eight accumulators more rows are few, and if B is packed already, those of a
/// low tile.
#[inline(always)]
pub(super) fn is_gemv<T>(
    form: Form,
    [_, _, k]: [usize; 3],
    [_, _, ldc]: [usize; 3],
    len: usize,
    packed: bool,
) -> bool {
    let few = || if packed { 3 } else { few_rows::<T>(form, k) };
    matches!(form, Form::Nt) && k > 1 && len > 0 && len <= few() * ldc
}

/// The most rows of A·Bᵀ for which the kernel without packing is the faster one. It has registers of 32
/// bytes.
#[inline(always)]
fn few_rows<T>(form: Form, k: usize) -> usize {
    // Three rows of A and four of B fit the first-level cache.
    let near = k.min(form.block()) * size_of::<T>() <= 4096;
    match (form.accumulators(k), simd::widest()) {
        (1, _) | (4, ..32) => 3,
        (4, 64..) | (_, ..32) => 8,
        (_, 64..) => 16,
        (4, _) => 16,
        _ if near => 64,
        _ => 12,
    }
}

/// Whether B isn't packed for a product, and all of its rows are computed in one pass over it, or it was
/// packed before.
pub(super) fn reads_b_once<T>(
    form: Form,
    sizes @ [m, _, _]: [usize; 3],
    strides: [usize; 3],
    packed: bool,
) -> bool {
    packed
        || is_gemv::<T>(form, sizes, strides, m.saturating_mul(strides[2]), packed)
        || is_by_rows_of_b(form, sizes, strides, m)
}

/// Whether a sum has more blocks than are added in the element's type.
#[inline(always)]
pub(super) fn is_long(form: Form, [_, _, k]: [usize; 3]) -> bool {
    k > GROUP * form.block()
}

/// The elements that `rows` rows of a product pack into; 0 if both operands are read in place.
#[inline]
pub(super) fn buffer_len<T>(
    form: Form,
    sizes: [usize; 3],
    strides: [usize; 3],
    rows: usize,
    packed: bool,
) -> usize {
    match is_long(form, sizes) {
        true => long_buffer_len::<T>(form, sizes, strides, rows, packed),
        false => packed_len::<T>(form, sizes, strides, rows, packed),
    }
}

/// The same for a product of several groups. The last strip has fewer columns, and the last group fewer
/// terms, for which blocks are larger.
#[cold]
fn long_buffer_len<T>(
    form: Form,
    [m, n, k]: [usize; 3],
    strides: [usize; 3],
    rows: usize,
    packed: bool,
) -> usize {
    if rows == 0 || n == 0 {
        return 0;
    }
    let (columns, terms) = (columns_at_once(rows, n), GROUP * form.block());
    let sizes = [columns, n % columns].map(|n| [terms, k % terms].map(|k| [m, n, k]));
    let lens = sizes.into_iter().flatten().map(|sizes| packed_len::<T>(form, sizes, strides, rows, packed));
    2 * rows * columns + lens.max().unwrap_or(0)
}

#[inline(always)]
fn packed_len<T>(form: Form, sizes: [usize; 3], strides: [usize; 3], rows: usize, packed: bool) -> usize {
    let ([_, n, k], [_, _, ldc]) = (sizes, strides);
    if rows == 0
        || n == 0
        || k == 0
        || is_ger(form, sizes, strides)
        || is_gemv::<T>(form, sizes, strides, rows * ldc, packed)
        || is_gevm(form, sizes, strides, rows)
    {
        return 0;
    }
    if is_by_rows_of_b(form, sizes, strides, rows) {
        return strips(rows);
    }
    let Blocks { columns, terms } = Blocks::of(form, sizes);
    // Panels begin at a cache line.
    let rows = if let Form::Tn = form { SIDE_BY_SIDE * TALLEST } else { TALLEST };
    (if packed { 0 } else { columns } + rows) * terms + WIDEST
}

/// The elements that few rows of A·B keep: a strip of sums for each row and for one more if they are odd, and
/// one of zeros.
pub(super) fn strips(rows: usize) -> usize {
    (rows.next_multiple_of(2) + 1) * STRIP
}

/// Whether `rows` rows of A·B are computed one by one: packing B would cost more than the product.
#[inline(always)]
pub(super) fn is_gevm(form: Form, sizes: [usize; 3], strides: [usize; 3], rows: usize) -> bool {
    rows <= 3 && has_rows_of_a(form, sizes, strides) && !is_by_rows_of_b(form, sizes, strides, rows)
}

/// Whether `rows` rows of A·B are computed in one pass over the rows of B: they are few, and B is large.
#[inline(always)]
pub(super) fn is_by_rows_of_b(form: Form, sizes: [usize; 3], strides: [usize; 3], rows: usize) -> bool {
    let [_, n, k] = sizes;
    let large = if rows == 1 { 1 << 20 } else { 1 << 15 };
    (1..=FEW).contains(&rows) && k > 1 && n.saturating_mul(k) >= large && has_rows_of_a(form, sizes, strides)
}

/// Whether rows of A are contiguous, in A·B or Aᵀ·B.
#[inline(always)]
fn has_rows_of_a(form: Form, [m, _, _]: [usize; 3], [lda, _, _]: [usize; 3]) -> bool {
    matches!((form, m, lda), (Form::Nn, _, _) | (Form::Tn, 1, 1))
}

/// Whether C is a column times a contiguous row.
#[inline(always)]
pub(super) fn is_ger(form: Form, [_, _, k]: [usize; 3], [_, ldb, _]: [usize; 3]) -> bool {
    k == 1 && !matches!((form, ldb), (Form::Nt, 2..))
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
