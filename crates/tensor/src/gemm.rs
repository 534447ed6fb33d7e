//! The one place that multiplies matrices.
//!
//! C is computed in tiles of MR rows by NR columns that stay in vector registers while the sum over k runs:
//!
//! ```text
//!              NR                      for each block of columns of B
//!            ┌────┐                      for each block of KC terms of the sum, or more if there are few columns
//!            │    │ KC   packed B          pack B: panels of NR columns, row after row     (second-level cache)
//!            └────┘                        for each MR rows of A
//!       KC                                   pack A: MR rows, column after column          (first-level cache)
//!    ┌──────┐┌────┐                          for each panel of B
//! MR │      ││tile│ of C                       tile: MR·NR running sums                   (registers)
//!    └──────┘└────┘
//!    packed A
//! ```
//!
//! Packing ([`pack`]) is what makes A·B, A·Bᵀ and Aᵀ·B one loop: only the packing functions know which operand is
//! transposed. Where C has few columns, rows of A are read in place instead, and a product with few rows packs nothing
//! ([`few_rows`]). The buffer belongs to the thread and is reused, so that products allocate nothing (nalgebra's fast kernel
//! allocates for each one, and its transposed products never reach that kernel: dimforge/nalgebra#717).
//!
//! **An element of C has the same bits in whatever product it is computed**: alone, in a batch of any size, at any
//! place, by any number of threads. Its sum runs over blocks of terms ([`Form::block`]), which are added in order. In A·Bᵀ,
//! within a long block, it runs in interleaved partial sums, which are added in order, too ([`Form::lanes`]): for a
//! single row there is nothing else that could be computed at a time. That is what lets a batch be split without anybody
//! noticing.
//!
//! What must stay in registers is written in registers (`simd/registers.rs`), for each instruction set:
//! see [`simd`](crate::simd). AVX2 and AVX-512 give the same bits, for both round a·b + c once.

/// Repeats a block for `$i` in 0..`$n`, written out, so that the tile's sums stay in registers.
macro_rules! unrolled {
    ($i:ident < $n:ident => $body:block) => {
        unrolled!(@ $i $n $body 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident $n:ident $body:block $($value:literal)*) => {
        $(if $value < $n { let $i = $value; $body })*
    };
}

mod few_rows;
mod pack;

use few_rows::{outer, row_nn};
use pack::{pack, pack_transposed};

use crate::linalg::Epilogue;
use crate::memory::reserve;
use crate::simd::{Kernel, Lanes, Register, Simd};
use crate::{MemoryError, Scalar};
pub(crate) use few_rows::FewRows;

/// Which operand of a product is read as its transpose. No layer's rule needs Aᵀ·Bᵀ.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// A·B
    Nn,
    /// A·Bᵀ
    Nt,
    /// Aᵀ·B
    Tn,
}

/// What the product is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a, T> {
    /// Nothing: C is only written, and whatever it held, NaN included, is gone.
    Zero,
    /// This row, in every row of C: the bias of a dense layer. C is only written.
    Row(&'a [T]),
    /// β C
    Scaled(T),
}

impl Form {
    /// The number of partial sums for a block of so many terms: 1, 4 or 8. Eight of them fill a register of 32 bytes, and make
    /// one sample's product as fast as the cache gives weights; but they cost a batch something at each of their ends. A single
    /// row of A·B or Aᵀ·B is computed many columns at a time and needs none.
    #[inline(always)]
    fn lanes(self, terms: usize) -> usize {
        match self {
            Self::Nt if terms >= LONG => 8,
            Self::Nt if terms > SHORT => 4,
            _ => 1,
        }
    }

    /// The number of terms in a block of the sum, and in a packed block, which has more if C has few columns: as many terms
    /// of MR rows of A, or of a lane's part of them, fit the first-level cache.
    #[inline(always)]
    fn block(self) -> usize {
        match self {
            Self::Nt => 2 * KC,
            Self::Nn | Self::Tn => KC,
        }
    }
}

impl<T: Scalar> Start<'_, T> {
    /// β C, where 0·NaN is 0.
    pub(crate) fn scaled(beta: T) -> Self {
        if beta == T::ZERO { Self::Zero } else { Self::Scaled(beta) }
    }
}

/// From so many terms on there are eight partial sums in A·Bᵀ: of fewer, for batches, the ends take too long.
const LONG: usize = 512;
/// Up to so many terms there is one sum: adding up four would take longer than the few terms of each.
const SHORT: usize = 64;
/// Products of up to so many multiplications are computed element by element.
const TINY: usize = 128;
/// Up to so many columns of C, rows of A are read where they are: packing them would take longer than it saves.
const FEW_COLUMNS: usize = 256;
/// The most columns of a tile, in the narrowest type and the widest registers.
const WIDEST: usize = 32;
/// The most rows of a tile.
const TALLEST: usize = 8;
/// Tiles have no fewer rows: with fewer, each addition would wait for the one before, so that four take no longer than one.
const LOW: usize = 4;
/// Terms of the sum in a block.
const KC: usize = 512;
/// Elements of a packed block of B: half a megabyte in single precision, within the second-level cache.
const BLOCK: usize = 1 << 17;
/// Elements of C that are finished at once: few enough for the first-level cache, and enough for what beginning costs.
const FINISHED: usize = 2048;

/// Rows of C = A·B + start: those from `first` on that `c` has room for. The whole product is m × n and sums over k terms.
/// All buffers are row-major, and the caller has checked their lengths.
pub struct Product<'a, T> {
    pub(crate) form: Form,
    pub(crate) sizes: [usize; 3],
    /// Elements from one stored row to the next: of A, B and C.
    pub(crate) strides: [usize; 3],
    pub(crate) first: usize,
    pub(crate) a: &'a [T],
    pub(crate) b: &'a [T],
    pub(crate) start: Start<'a, T>,
    /// What becomes of C's elements, once they are there: an activation.
    pub(crate) finish: Option<Epilogue<'a, T>>,
    pub(crate) c: &'a mut [T],
}

/// A product, and the buffer for its packed operands.
pub(crate) struct Gemm<'a, 'b, T> {
    /// By reference: a copy would wait for the stores that have just written it.
    pub(crate) product: &'a mut Product<'b, T>,
    /// At least [`Product::buffer_len`] elements.
    pub(crate) buffer: &'a mut [T],
}

impl<T: Scalar> Kernel for Gemm<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        T::tiles::<S>(self.product, self.buffer);
    }
}

/// The blocks of B: so many columns and terms of it are packed at once.
struct Blocks {
    columns: usize,
    terms: usize,
}

impl Blocks {
    /// For fewer terms, a packed block has more columns, and for fewer columns, more terms.
    #[inline(always)]
    fn of(form: Form, [_, n, k]: [usize; 3]) -> Self {
        let kc = form.block();
        let columns = (BLOCK / k.min(KC)).min(n).next_multiple_of(WIDEST);
        Self { columns, terms: k.min((BLOCK / columns / kc).max(1) * kc) }
    }
}

/// A product that is computed element by element. A kernel of its own, for it is compiled to little code: entering that of
/// the tiles takes longer than such a product.
pub(crate) struct Tiny<'a, 'b, T>(pub(crate) &'a mut Product<'b, T>);

impl<T: Scalar> Kernel for Tiny<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let &mut Product { form, sizes, strides, first, a, b, start, finish, ref mut c } = self.0;
        let ([_, n, k], [lda, ldb, _]) = (sizes, strides);
        let (a_row, a_term, b_column, b_term) = match form {
            Form::Nn => (lda, 1, 1, ldb),
            Form::Nt => (lda, 1, ldb, 1),
            Form::Tn => (1, lda, 1, ldb),
        };
        let (mut i, mut j) = (first * a_row, 0);
        for c in c.iter_mut() {
            let mut sum = T::ZERO;
            for p in 0..k {
                sum = S::mul_add(a[i + p * a_term], b[j * b_column + p * b_term], sum);
            }
            // Sums begin at 0 everywhere: −0 becomes 0.
            sum = T::ZERO + sum;
            *c = match start {
                Start::Zero => sum,
                Start::Row(row) => sum + row[j],
                Start::Scaled(beta) => S::mul_add(beta, *c, sum),
            };
            j += 1;
            if j == n {
                (i, j) = (i + a_row, 0);
            }
        }
        if let Some(finish) = finish {
            finish.apply(c);
        }
    }
}

impl<T: Scalar> Product<'_, T> {
    /// Whether it is computed element by element.
    #[inline]
    pub(crate) fn is_tiny(&self) -> bool {
        let ([_, n, terms], [_, _, ldc]) = (self.sizes, self.strides);
        let work = self.c.len().saturating_mul(terms);
        work <= TINY && work > 0 && terms <= SHORT && ldc == n
    }

    /// Whether it is A·Bᵀ with few rows: see [`is_few_rows`].
    #[inline]
    pub(crate) fn has_few_rows(&self) -> bool {
        is_few_rows(self.form, self.sizes, self.strides, self.c.len())
    }

    /// How many elements of a buffer the product packs into.
    #[inline]
    pub(crate) fn buffer_len(&self) -> usize {
        if self.c.is_empty() { 0 } else { buffer_len(self.form, self.sizes, self.strides, self.rows()) }
    }

    /// The rows of `c`, which isn't empty. The last one may end where its columns do.
    #[inline(always)]
    fn rows(&self) -> usize {
        let ldc = self.strides[2];
        (self.c.len() + (ldc - self.sizes[1])) / ldc
    }

    /// Whether nothing is added to a product before it is rounded, so that all instruction sets give the same bits.
    #[inline]
    pub(crate) fn is_exact(&self) -> bool {
        self.sizes[2] == 1 && !matches!(self.start, Start::Scaled(_))
    }

    /// Computes it in tiles of at most MR rows by NR columns, which are two vector registers. AW is MR rounded up to a
    /// multiple of 4.
    #[inline(always)]
    pub(crate) fn compute<S: Simd, const MR: usize, const AW: usize, const NR: usize>(
        &mut self,
        buffer: &mut [T],
    ) {
        if self.c.is_empty() {
            return;
        }
        let rows = self.rows();
        let &mut Self { form, sizes, strides, first, a, b, start, finish, ref mut c } = self;
        let ([_, n, k], [lda, ldb, ldc]) = (sizes, strides);
        if k == 0 {
            for c in c.chunks_mut(ldc) {
                for j in 0..n {
                    write_elements::<T, S>(&[T::ZERO], start, &mut c[j..=j], j);
                }
            }
        } else if is_outer(form, sizes, strides) {
            let step = if let Form::Tn = form { 1 } else { lda };
            for (i, c) in c.chunks_mut(ldc).enumerate() {
                outer::<T, S>(a[(first + i) * step], &b[..n], start, &mut c[..n]);
            }
        } else if is_by_rows(form, sizes, strides, rows) {
            let kc = form.block();
            for (i, c) in c.chunks_mut(ldc).enumerate() {
                let (a, c) = (&a[(first + i) * lda..][..k], &mut c[..n]);
                for p in steps(0, k, kc) {
                    let start = if p == 0 { start } else { Start::Scaled(T::ONE) };
                    row_nn::<T, S>(&a[p..][..kc.min(k - p)], &b[p * ldb..], ldb, start, c);
                }
            }
        } else {
            self.blocks::<S, MR, AW, NR>(buffer);
            return; // finished already
        }
        if let Some(finish) = finish {
            finish.apply_to_rows(c, n, ldc);
        }
    }

    /// The loops of the picture above.
    #[inline(always)]
    fn blocks<S: Simd, const MR: usize, const AW: usize, const NR: usize>(&mut self, buffer: &mut [T]) {
        let rows = self.rows();
        let &mut Self { form, sizes: [m, n, k], strides, first, a, b, start, finish, ref mut c } = self;
        let [lda, ldb, ldc] = strides;
        let kc = form.block();
        let Blocks { columns: nc, terms: depth } = Blocks::of(form, [m, n, k]);
        let skip = buffer.as_ptr().align_offset(64).min(WIDEST);
        let b_len = nc * depth;
        let (panels, columns) = buffer[skip..].split_at_mut(b_len);
        let (panels, _) = panels.as_chunks_mut::<NR>();
        let (columns, _) = columns.as_chunks_mut::<AW>();
        let zero = std::hint::black_box(0);
        // A tile that is larger than what is left of C.
        let mut edge = [[T::ZERO; NR]; AW];
        for j in steps(0, n, nc) {
            let nc = nc.min(n - j);
            for p in steps(0, k, depth) {
                let depth = depth.min(k - p);
                let start = if p == 0 { start } else { Start::Scaled(T::ONE) };
                for (j, panel) in steps(j, j + nc, NR).zip(panels.chunks_exact_mut(depth)) {
                    for (p, block) in steps(p, k, kc).zip(panel.chunks_mut(kc)) {
                        match form {
                            Form::Nt => {
                                let (b, count) = (&b[j * ldb + p..], NR.min(n - j));
                                pack_transposed::<T, S, NR>(form, b, ldb, count, block);
                            }
                            Form::Nn | Form::Tn => {
                                pack::<T, S, NR>(&b[p * ldb + j..], ldb, NR.min(n - j), block);
                            }
                        }
                    }
                }
                // Tiles of about the same height: 13 rows are 5, 4 and 4 rather than 6, 6 and 1.
                let tiles = rows.div_ceil(MR);
                let row = |tile: usize| tile * rows / tiles;
                let (last, count, mut finished) = (p + depth == k, rows, 0);
                for tile in 0..tiles {
                    let (i, height) = (row(tile), row(tile + 1) - row(tile));
                    let (rows, row, term) = match form {
                        Form::Nn | Form::Nt => (&a[(first + i) * lda + p..], lda, 1),
                        Form::Tn => (&a[p * lda + first + i..], 1, lda),
                    };
                    // Also the rows that a low tile computes and drops.
                    let a = if n <= FEW_COLUMNS && first + i + height.max(LOW) <= m {
                        Strided { form, elements: rows, row, term, sorted: false, zero }
                    } else {
                        for (p, block) in steps(0, depth, kc).zip(columns[..depth].chunks_mut(kc)) {
                            match form {
                                Form::Nn | Form::Nt => {
                                    pack_transposed::<T, S, AW>(form, &rows[p..], lda, height, block);
                                }
                                Form::Tn => pack::<T, S, AW>(&rows[p * lda..], lda, height, block),
                            }
                        }
                        Strided {
                            form,
                            elements: columns.as_flattened(),
                            row: 1,
                            term: AW,
                            sorted: true,
                            zero,
                        }
                    };
                    let tiles = Tiles::<'_, T, NR> { a, depth, panels, start, n, ldc, j, nc };
                    tiles.compute::<S, MR, AW>(height, &mut c[i * ldc..], &mut edge);
                    // While they are in the first-level cache.
                    let end = i + height;
                    if let Some(finish) = finish
                        && last
                        && ((end - finished) * nc >= FINISHED || end == count)
                    {
                        if nc == ldc {
                            finish.apply(&mut c[finished * n..end * n]);
                        } else {
                            let rows = c[finished * ldc..].chunks_mut(ldc).take(end - finished);
                            rows.for_each(|c| finish.apply(&mut c[j..j + nc]));
                        }
                        finished = end;
                    }
                }
            }
        }
    }
}

/// Whether `len` elements of A·Bᵀ are so few rows that packing B would take longer than reading it where it is, for each of
/// them. With eight partial sums that is true of more rows.
#[inline(always)]
fn is_few_rows(form: Form, [_, _, k]: [usize; 3], [_, _, ldc]: [usize; 3], len: usize) -> bool {
    let few = if k >= LONG { 8 } else { 3 };
    matches!(form, Form::Nt) && k > 1 && len > 0 && len <= few * ldc
}

/// How many elements of a buffer `rows` rows of a product pack into; 0 if both operands are read where they are.
#[inline]
pub(crate) fn buffer_len(form: Form, sizes: [usize; 3], strides: [usize; 3], rows: usize) -> usize {
    let ([_, n, k], [_, _, ldc]) = (sizes, strides);
    if rows * n * k == 0
        || is_outer(form, sizes, strides)
        || is_few_rows(form, sizes, strides, rows * ldc)
        || is_by_rows(form, sizes, strides, rows)
    {
        return 0;
    }
    let blocks = Blocks::of(form, sizes);
    // Panels begin at a cache line.
    (blocks.columns + TALLEST) * blocks.terms + WIDEST
}

/// Whether `rows` rows of C are too few for B to be read a second time: packing it would cost more than the product.
#[inline(always)]
fn is_by_rows(form: Form, [m, _, _]: [usize; 3], [lda, _, _]: [usize; 3], rows: usize) -> bool {
    rows <= 3 && matches!((form, m, lda), (Form::Nn, _, _) | (Form::Tn, 1, 1))
}

/// Whether C is a column times a row that lies contiguous.
#[inline(always)]
fn is_outer(form: Form, [_, _, k]: [usize; 3], [_, ldb, _]: [usize; 3]) -> bool {
    k == 1 && !matches!((form, ldb), (Form::Nt, 2..))
}

/// Calls `f` with this thread's buffer, of at least `len` elements. If there is no memory for them, `f` isn't called.
pub(crate) fn with_buffer<T: Scalar>(
    operation: &'static str,
    len: usize,
    f: impl FnOnce(&mut [T]),
) -> Result<(), MemoryError> {
    // Taken out while it is in use, so no borrow can be outstanding.
    let mut buffer = T::buffer().take();
    let reserved = if buffer.len() < len { grow(operation, &mut buffer, len) } else { Ok(()) };
    if reserved.is_ok() {
        f(&mut buffer);
    }
    T::buffer().set(buffer);
    reserved
}

#[cold]
fn grow<T: Scalar>(operation: &'static str, buffer: &mut Vec<T>, len: usize) -> Result<(), MemoryError> {
    reserve(operation, buffer, len)?;
    buffer.resize(len, T::ZERO);
    Ok(())
}

/// Rows of A for one row of tiles, packed or where they are: term p of row i is `elements[i * row + p * term]`.
#[derive(Clone, Copy)]
struct Strided<'a, T> {
    form: Form,
    elements: &'a [T],
    row: usize,
    term: usize,
    /// Whether the terms are sorted by lane.
    sorted: bool,
    /// 0, but unknown to the compiler, which would write out a loop that it knows to run eight times at most.
    zero: usize,
}

/// Rows of A and a packed block of B, of `depth` terms: their tiles are side by side in C, from column j on.
struct Tiles<'a, T, const NR: usize> {
    a: Strided<'a, T>,
    depth: usize,
    panels: &'a [[T; NR]],
    start: Start<'a, T>,
    n: usize,
    ldc: usize,
    j: usize,
    nc: usize,
}

impl<T: Scalar, const NR: usize> Tiles<'_, T, NR> {
    #[inline(always)]
    fn compute<S: Simd, const MR: usize, const AW: usize>(
        self,
        height: usize,
        c: &mut [T],
        edge: &mut [[T; NR]; AW],
    ) {
        let Self { a, depth, panels, start, n, ldc, j, nc } = self;
        for (j, panel) in steps(j, j + nc, NR).zip(panels.chunks_exact(depth)) {
            let width = NR.min(n - j);
            let kc = a.form.block();
            for (p, b) in steps(0, depth, kc).zip(panel.chunks(kc)) {
                let a = Strided { elements: &a.elements[p * a.term..], ..a };
                let start = if p == 0 { start } else { Start::Scaled(T::ONE) };
                let whole = width == NR && height >= LOW;
                let place = whole.then_some((&mut *c, start, ldc, j));
                match height {
                    ..=LOW => tile::<T, S, LOW, NR>(a, b, width, place, edge),
                    5 if MR >= 5 => tile::<T, S, 5, NR>(a, b, width, place, edge),
                    6 if MR >= 6 => tile::<T, S, 6, NR>(a, b, width, place, edge),
                    7 if MR >= 7 => tile::<T, S, 7, NR>(a, b, width, place, edge),
                    8 if MR >= 8 => tile::<T, S, 8, NR>(a, b, width, place, edge),
                    _ => unreachable!("no tile has more than {MR} rows"),
                }
                if !whole {
                    write_edge::<T, S, NR>(&edge[..height], start, c, width, ldc, j);
                }
            }
        }
    }
}

/// Where a tile goes: C from the tile's first row on, what it is added to, the stride of C, and the tile's first column.
type Place<'a, 'b, T> = (&'a mut [T], Start<'b, T>, usize, usize);

/// Computes a tile of MR rows, of which `width` columns matter: straight to its place in C, or without one, into `edge`.
#[inline(always)]
fn tile<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
    a: Strided<'_, T>,
    b: &[[T; NR]],
    width: usize,
    place: Option<Place<'_, '_, T>>,
    edge: &mut [[T; NR]],
) {
    let len = T::Register::<S>::LEN;
    // No closures around vector instructions: one that isn't inlined would be compiled without them.
    if width > len {
        let sums = sums::<T, S, MR, NR, 2>(a, b);
        if let Some((c, start, ldc, j)) = place {
            write_tile::<T, S, MR, NR>(&sums, start, c, ldc, j);
        } else {
            unrolled!(i < MR => {
                sums[i][0].store(&mut edge[i]);
                sums[i][1].store(&mut edge[i][len..]);
            });
        }
    } else {
        let sums = sums::<T, S, MR, NR, 1>(a, b);
        unrolled!(i < MR => { sums[i][0].store(&mut edge[i]); });
    }
}

/// MR × V registers of sums: MR rows of A times a packed panel of B.
#[inline(always)]
fn sums<T: Scalar, S: Simd, const MR: usize, const NR: usize, const V: usize>(
    a: Strided<'_, T>,
    b: &[[T; NR]],
) -> [[T::Register<S>; V]; MR] {
    let terms = b.len();
    let zero = T::Register::<S>::splat(T::ZERO);
    // The last element that is read below: with this check all reads are within bounds.
    let _ = a.elements[(MR - 1) * a.row + terms.saturating_sub(1) * a.term];
    let lanes = a.form.lanes(terms) + a.zero;
    let (full, rest) = (terms >> lanes.ilog2(), terms & (lanes - 1));
    let len = |lane: usize| full + usize::from(lane < rest);
    let mut done = len(0);
    let mut sums = lane::<T, S, MR, NR, V>(a, 0, lanes, &b[..done]);
    // Sums begin at 0 everywhere: −0 becomes 0.
    unrolled!(i < MR => {
        for sum in &mut sums[i] {
            *sum = zero.plus(*sum);
        }
    });
    for l in 1..lanes {
        let next = done + len(l);
        let first = if a.sorted { done } else { l };
        let acc = lane::<T, S, MR, NR, V>(a, first, lanes, &b[done..next]);
        unrolled!(i < MR => {
            for v in 0..V {
                sums[i][v] = sums[i][v].plus(acc[i][v]);
            }
        });
        done = next;
    }
    sums
}

/// The partial sums of one lane, whose terms begin with number `first`.
#[inline(always)]
fn lane<T: Scalar, S: Simd, const MR: usize, const NR: usize, const V: usize>(
    a: Strided<'_, T>,
    first: usize,
    lanes: usize,
    b: &[[T; NR]],
) -> [[T::Register<S>; V]; MR] {
    let zero = T::Register::<S>::splat(T::ZERO);
    let (mut at, step) = (first * a.term, if a.sorted { 1 } else { lanes } * a.term);
    let mut acc = [[zero; V]; MR];
    for b in b {
        let mut columns = [zero; V];
        for v in 0..V {
            columns[v] = T::Register::<S>::load(&b[v * T::Register::<S>::LEN..]);
        }
        unrolled!(i < MR => {
            // SAFETY: i < MR, and `at` is one of the terms times a.term, so that this is not behind the element that
            // `sums` has read. What that pays: `cargo bench --bench tensor -- matmul` takes up to 1.3 times as long with
            // checks.
            #[expect(unsafe_code, reason = "the compiler doesn't see what the check in `sums` says")]
            let a = T::Register::<S>::splat(unsafe { *a.elements.get_unchecked(at + i * a.row) });
            for v in 0..V {
                acc[i][v] = a.mul_add(columns[v], acc[i][v]);
            }
        });
        at += step;
    }
    acc
}

/// The same for a whole tile.
#[inline(always)]
fn write_tile<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
    sums: &[[T::Register<S>; 2]; MR],
    start: Start<'_, T>,
    c: &mut [T],
    ldc: usize,
    j: usize,
) {
    let len = T::Register::<S>::LEN;
    match start {
        Start::Zero => {
            unrolled!(i < MR => {
                let c = &mut c[i * ldc + j..][..NR];
                sums[i][0].store(c);
                sums[i][1].store(&mut c[len..]);
            });
        }
        Start::Row(row) => {
            let row = &row[j..][..NR];
            let row = [T::Register::<S>::load(row), T::Register::<S>::load(&row[len..])];
            unrolled!(i < MR => {
                let c = &mut c[i * ldc + j..][..NR];
                sums[i][0].plus(row[0]).store(c);
                sums[i][1].plus(row[1]).store(&mut c[len..]);
            });
        }
        Start::Scaled(beta) => {
            let beta = T::Register::<S>::splat(beta);
            unrolled!(i < MR => {
                let c = &mut c[i * ldc + j..][..NR];
                beta.mul_add(T::Register::<S>::load(c), sums[i][0]).store(c);
                beta.mul_add(T::Register::<S>::load(&c[len..]), sums[i][1]).store(&mut c[len..]);
            });
        }
    }
}

/// The same for rows of a tile that is wider than what is left of C: register by register from the top to the bottom.
#[inline(always)]
fn write_edge<T: Scalar, S: Simd, const NR: usize>(
    rows: &[[T; NR]],
    start: Start<'_, T>,
    c: &mut [T],
    columns: usize,
    ldc: usize,
    j: usize,
) {
    let len = T::Register::<S>::LEN;
    for v in steps(0, columns, len) {
        let (j, width) = (j + v, len.min(columns - v));
        let places = rows.iter().zip(c.chunks_mut(ldc));
        if width == len {
            for (row, c) in places {
                write(T::Register::<S>::load(&row[v..]), start, &mut c[j..][..len], j);
            }
        } else {
            for (row, c) in places {
                write(T::Register::<S>::load(&row[v..]), start, &mut c[j..][..width], j);
            }
        }
    }
}

/// `from`, `from` + `step`, … below `until`: `step_by` begins with a division.
#[inline(always)]
fn steps(from: usize, until: usize, step: usize) -> impl Iterator<Item = usize> {
    let mut next = from;
    std::iter::from_fn(move || {
        let at = next;
        next += step;
        (at < until).then_some(at)
    })
}

/// c = sum + start for a register's columns, of which the first is column j, or as many of them as `c` has.
#[inline(always)]
fn write<T: Scalar, R: Register<T>>(sum: R, start: Start<'_, T>, c: &mut [T], j: usize) {
    let sum = match start {
        Start::Zero => sum,
        Start::Row(row) => sum.plus(R::load_at_most(&row[j..][..c.len()])),
        Start::Scaled(beta) => R::splat(beta).mul_add(R::load_at_most(c), sum),
    };
    if c.len() == R::LEN { sum.store(c) } else { sum.store_part(c) }
}

/// c = sum + start for single elements, of which the first is in column j.
#[inline(always)]
fn write_elements<T: Scalar, S: Simd>(sums: &[T], start: Start<'_, T>, c: &mut [T], j: usize) {
    let pairs = c.iter_mut().zip(sums);
    match start {
        Start::Zero => {
            for (c, &sum) in pairs {
                *c = sum;
            }
        }
        Start::Row(row) => {
            for ((c, &sum), &start) in pairs.zip(&row[j..]) {
                *c = sum + start;
            }
        }
        Start::Scaled(beta) => {
            for (c, &sum) in pairs {
                *c = S::mul_add(beta, *c, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;

    const FORMS: [Form; 3] = [Form::Nn, Form::Nt, Form::Tn];

    /// Numbers of all signs and sizes, so that no two orders of summation agree by chance.
    fn numbers<T: Scalar>(len: usize, salt: usize) -> Vec<T> {
        let mixed = |i: usize| (i * 31 + salt * 17 + 3) * 2_654_435_761 % 1_000_003;
        (0..len).map(|i| T::from_f64((mixed(i) as f64 / 5e5 - 1.0).powi(3))).collect()
    }

    fn transposed<T: Scalar>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
        (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
    }

    fn gemm<T: Scalar>(form: Form, sizes: [usize; 3], a: &[T], b: &[T], start: Start<'_, T>, c: &mut [T]) {
        let strides = form.strides(sizes);
        T::product(&mut Product { form, sizes, strides, first: 0, a, b, start, finish: None, c }).unwrap();
    }

    /// C for A and B that are given row-major and untransposed.
    fn product<T: Scalar>(
        form: Form,
        [m, n, k]: [usize; 3],
        a: &[T],
        b: &[T],
        start: Start<'_, T>,
        c: &[T],
    ) -> Vec<T> {
        let mut c = c.to_vec();
        match form {
            Form::Nn => gemm(form, [m, n, k], a, b, start, &mut c),
            Form::Nt => gemm(form, [m, n, k], a, &transposed(b, k, n), start, &mut c),
            Form::Tn => gemm(form, [m, n, k], &transposed(a, m, k), b, start, &mut c),
        }
        c
    }

    fn same_bits_in_any_batch<T: Scalar>() {
        let m = 41;
        for n in [1, 3, 10, 33, 530] {
            for k in [1, 5, 64, 65, 257, 512, 518, 1025, 1540] {
                let (a, b, c) = (numbers::<T>(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
                let row = numbers(n, 4);
                for start in [Start::Zero, Start::Row(&row), Start::Scaled(T::from_f64(0.3))] {
                    for form in FORMS {
                        let whole = product(form, [m, n, k], &a, &b, start, &c);
                        // Without lanes, all forms are one.
                        if form.lanes(k) == 1 {
                            assert_eq!(whole, product(Form::Nn, [m, n, k], &a, &b, start, &c), "{form:?}");
                        }
                        for batch in [1, 3, 4, 8, 9, m] {
                            let mut parts = Vec::new();
                            for (a, c) in a.chunks(batch * k).zip(c.chunks(batch * n)) {
                                parts.extend(product(form, [c.len() / n, n, k], a, &b, start, c));
                            }
                            assert_eq!(whole, parts, "{form:?}, {n} columns, {k} terms, batches of {batch}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_element_has_the_same_bits_in_any_batch_and_place() {
        same_bits_in_any_batch::<f32>();
        same_bits_in_any_batch::<f64>();
    }

    /// Each element once, when its sum is complete.
    #[test]
    fn an_activation_comes_last_and_once() {
        fn f(c: &mut [f32]) {
            c.iter_mut().for_each(|c| *c = *c * 0.5 + 3.0);
        }
        for [m, n, k] in [
            [1, 1, 1],
            [3, 4, 5],
            [3, 4, 0],
            [30, 40, 1],
            [2, 40, 70],
            [41, 33, 65],
            [300, 10, 520],
            [20, 300, 600],
            [8, 30, 600],
            [19, 1100, 300],
        ] {
            let (a, b, c) = (numbers::<f32>(m * k, 1), numbers::<f32>(n * k, 2), numbers(m * n, 3));
            let row = numbers(n, 4);
            for form in FORMS {
                for start in [Start::Zero, Start::Row(&row), Start::Scaled(0.3)] {
                    let with = |finish: Option<Epilogue<'_, f32>>, c: &mut Vec<f32>| {
                        let sizes = [m, n, k];
                        <f32 as crate::scalar::sealed::Gemm>::product(&mut Product {
                            form,
                            sizes,
                            strides: form.strides(sizes),
                            first: 0,
                            a: &a,
                            b: &b,
                            start,
                            finish,
                            c,
                        })
                        .unwrap();
                    };
                    let (mut together, mut after) = (c.clone(), c.clone());
                    with(Some(Epilogue::new(&f)), &mut together);
                    with(None, &mut after);
                    f(&mut after);
                    assert_eq!(together, after, "{form:?} {m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn columns_do_not_depend_on_their_place() {
        let [m, n, k] = [9, 40, 300];
        let (a, b, c) = (numbers::<f32>(m * k, 1), numbers::<f32>(k * n, 2), vec![0.0; m * n]);
        for form in FORMS {
            let whole = product(form, [m, n, k], &a, &b, Start::Zero, &c);
            for j in 0..n {
                let column: Vec<f32> = b.iter().skip(j).step_by(n).copied().collect();
                let alone = product(form, [m, 1, k], &a, &column, Start::Zero, &c[..m]);
                assert!(alone.iter().eq(whole.iter().skip(j).step_by(n)), "{form:?}, column {j}");
            }
        }
    }

    /// What [`gemm`] would do on a processor with no more than `level`.
    fn run_at<T: Scalar>(level: &str, product: &mut Product<'_, T>) -> Option<()> {
        if product.has_few_rows() {
            simd::run_at(level, FewRows(product))
        } else {
            let buffer = &mut vec![T::ZERO; product.buffer_len()];
            simd::run_at(level, Gemm { product, buffer })
        }
    }

    fn same_bits_with_any_registers<T: Scalar>() {
        let edges = (1..16).map(|n| [5, n, 3]);
        let few = [[1, 9, 70], [2, 300, 65], [1, 3, 530], [8, 13, 519], [3, 40, 1030]];
        let many = [[33, 17, 300], [13, 530, 64], [14, 260, 129], [9, 20, 519]];
        for [m, n, k] in edges.chain(few).chain(many) {
            let (a, b, c) = (numbers::<T>(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            let row = numbers(n, 4);
            for form in FORMS {
                for start in [Start::Zero, Start::Row(&row), Start::Scaled(T::from_f64(0.3))] {
                    let with = |level| {
                        let mut c = c.clone();
                        let product = &mut Product {
                            form,
                            sizes: [m, n, k],
                            strides: form.strides([m, n, k]),
                            first: 0,
                            a: &a,
                            b: &b,
                            start,
                            finish: None,
                            c: &mut c,
                        };
                        run_at(level, product).map(|()| c)
                    };
                    if let (Some(wide), Some(narrow)) = (with("avx512"), with("avx2")) {
                        assert_eq!(wide, narrow, "{form:?} {m} {n} {k} {start:?}");
                    }
                }
            }
        }
    }

    /// Both have FMA, so that only the order of the sums could make a difference.
    #[test]
    fn the_width_of_registers_changes_no_bit() {
        same_bits_with_any_registers::<f32>();
        same_bits_with_any_registers::<f64>();
    }

    #[test]
    fn a_part_of_the_rows_has_the_same_bits() {
        let [m, n, k] = [29, 33, 70];
        let (a, b) = (numbers::<f32>(m * k, 1), numbers(k * n, 2));
        for form in FORMS {
            let (mut whole, mut parts) = (vec![0.0; m * n], vec![0.0; m * n]);
            gemm(form, [m, n, k], &a, &b, Start::Zero, &mut whole);
            for (part, c) in parts.chunks_mut(5 * n).enumerate() {
                let (first, start) = (5 * part, Start::Zero);
                let sizes = [m, n, k];
                let strides = form.strides(sizes);
                let product =
                    &mut Product { form, sizes, strides, first, a: &a, b: &b, start, finish: None, c };
                let buffer = &mut vec![0.0; product.buffer_len()];
                simd::run(Gemm { product, buffer });
            }
            assert_eq!(whole, parts, "{form:?}");
        }
    }

    #[test]
    fn nothing_is_swallowed() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        for m in [1, 3, 20] {
            for k in [1, 2, 9] {
                for form in FORMS {
                    let (mut a, b) = (vec![0.0; m * k], vec![infinity; 20 * k]);
                    // 0·∞ is NaN: products with 0 are not skipped.
                    let c = product(form, [m, 20, k], &a, &b, Start::Zero, &vec![0.0; m * 20]);
                    assert!(c.iter().all(|c| c.is_nan()), "{form:?} {m} {k}");
                    a[0] = nan;
                    let c =
                        product(form, [m, 20, k], &a, &vec![1.0; 20 * k], Start::Zero, &vec![nan; m * 20]);
                    assert!(c[..20].iter().all(|c| c.is_nan()), "{form:?} {m} {k}");
                    assert!(
                        c[20..].iter().all(|&c| c == 0.0),
                        "{form:?} {m} {k}: NaN of C or of another row"
                    );
                }
            }
        }
    }

    /// A sum begins at 0, so that what is too small for a float is 0 rather than −0, whoever computes it.
    #[test]
    fn what_vanishes_has_no_sign() {
        for m in [1, 2, 20] {
            for n in [1, 3, 20, 140] {
                for k in [1, 3, 40, 70] {
                    let (a, b) = (vec![1e-30_f32; m * k], vec![-1e-30; k * n]);
                    for form in FORMS {
                        let c = product(form, [m, n, k], &a, &b, Start::Zero, &vec![1.0; m * n]);
                        assert!(c.iter().all(|c| c.to_bits() == 0), "{form:?} {m} {n} {k}: {c:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_second_product_allocates_nothing() {
        for form in FORMS {
            for [m, n, k] in
                [[1, 10, 64], [4, 9, 8], [32, 32, 64], [300, 100, 257], [7, 600, 300], [20, 10, 700]]
            {
                let (a, b) = (numbers::<f32>(m * k, 1), numbers::<f32>(k * n, 2));
                let mut c = vec![0.0; m * n];
                gemm(form, [m, n, k], &a, &b, Start::Zero, &mut c);
                let allocations = allocation_counter::measure(|| {
                    gemm(form, [m, n, k], &a, &b, Start::Scaled(1.0), &mut c);
                });
                assert_eq!(allocations.count_total, 0, "{form:?} {m} {n} {k}");
            }
        }
    }

    /// What runs on processors without AVX2 is tested on the others, too.
    #[test]
    fn the_portable_kernel_computes_the_same_products() {
        for [m, n, k] in [[1, 9, 70], [2, 11, 519], [3, 20, 7], [33, 17, 300], [9, 19, 519], [4, 530, 3]] {
            // Whole numbers: exact in any order, with or without FMA.
            let whole = |len, salt| {
                numbers::<f32>(len, salt).into_iter().map(|x| (x * 9.0).round()).collect::<Vec<_>>()
            };
            let (a, b) = (whole(m * k, 1), whole(k * n, 2));
            let expected = product(Form::Nn, [m, n, k], &a, &b, Start::Zero, &vec![0.0; m * n]);
            for form in FORMS {
                let a = if let Form::Tn = form { transposed(&a, m, k) } else { a.clone() };
                let b = if let Form::Nt = form { transposed(&b, k, n) } else { b.clone() };
                let mut c = vec![f32::NAN; m * n];
                let sizes = [m, n, k];
                let kernel = &mut Product {
                    form,
                    sizes,
                    strides: form.strides(sizes),
                    first: 0,
                    a: &a,
                    b: &b,
                    start: Start::Zero,
                    finish: None,
                    c: &mut c,
                };
                run_at("baseline", kernel).unwrap();
                assert_eq!(c, expected, "{form:?} {m} {n} {k}");
            }
        }
    }
}
