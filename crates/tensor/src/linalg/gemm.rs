//! Matrix products, blocked for the caches.
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
//! Packing ([`pack`]) makes one loop of A·B, A·Bᵀ and Aᵀ·B: only the packing functions know which operand is
//! transposed. Rows of A are packed for one tile at a time; those of Aᵀ for four, which share cache lines. A
//! result with few columns reads the rows of A in place, and a product with few rows packs nothing
//! ([`gemv`](crate::linalg::gemv), [`gevm`](crate::linalg::gevm)), as does one of a weight that was
//! [packed](crate::linalg::panels) before. The buffer belongs to the thread, or to the
//! [task](crate::linalg::workspace) that brings one, and is reused, so a warm product allocates nothing.
//! (nalgebra's fast kernel allocates for each product, and its transposed products never reach that kernel:
//! dimforge/nalgebra#717.)
//!
//! **An element of C has the same bits in every product**: alone, in a batch of any size, at any place, on
//! any number of threads. So a batch can be split. The element's sum runs over blocks of terms
//! ([`Form::block`]), which are added in order; of more than eight blocks it is made of
//! [groups](crate::linalg::groups). In a long block of A·Bᵀ it has several accumulators
//! ([`Form::accumulators`]), which are added in order, too: they hide the latency of a single row's
//! additions, and a batch must sum in the same order.
//!
//! Registers are written as values ([`simd::vector`](crate::simd)). AVX2 and AVX-512 give the same bits,
//! because both round a·b + c once.

use crate::linalg::ger::ger;
use crate::linalg::gevm::gevm;
use crate::linalg::microkernel::{Strided, Tiles, write_elements};
use crate::linalg::pack::{pack, pack_transposed};
use crate::linalg::product::{
    Blocks, Choice, EPILOGUE, FEW_COLUMNS, Form, Initial, LOW, Product, SIDE_BY_SIDE, WIDEST, range_by,
    rows_mut,
};
use crate::scalar::Scalar;
use crate::simd::{Kernel, Simd};

/// An element type with the tiles that suit it.
pub(super) trait Tiled: Scalar {
    /// Computes a product with a buffer that is long enough.
    fn run<S: Simd>(gemm: Gemm<'_, '_, Self>);
}

macro_rules! tiled {
    ($type:ident) => {
        impl Tiled for $type {
            #[inline(always)]
            fn run<S: Simd>(Gemm { choice, product, buffer }: Gemm<'_, '_, Self>) {
                const SIZE: usize = size_of::<$type>();
                match S::BYTES {
                    64 => product.compute::<S, 8, 8, { 128 / SIZE }>(choice, buffer),
                    32 => product.compute::<S, 6, 8, { 64 / SIZE }>(choice, buffer),
                    _ => product.compute::<S, 4, 4, { 32 / SIZE }>(choice, buffer),
                }
            }
        }
    };
}

tiled!(f32);
tiled!(f64);

/// A product that the tiles compute, or one of the kernels that are compiled with them.
pub(super) struct Gemm<'a, 'b, T> {
    pub(super) choice: Choice,
    /// By reference: a copy would wait for the stores that have just written it.
    pub(super) product: &'a mut Product<'b, T>,
    /// At least [`buffer_len`](crate::linalg::dispatch) elements.
    pub(super) buffer: &'a mut [T],
}

impl<T: Tiled> Kernel for Gemm<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        T::run::<S>(self);
    }
}

impl<T: Scalar> Product<'_, T> {
    /// Computes it in tiles of at most MR rows by NR columns, which are two vector registers. AW is MR
    /// rounded up to a multiple of 4.
    #[inline(always)]
    fn compute<S: Simd, const MR: usize, const AW: usize, const NR: usize>(
        &mut self,
        choice: Choice,
        buffer: &mut [T],
    ) {
        if self.c.is_empty() {
            return;
        }
        let &mut Self { form, sizes, strides, first, a, b, initial, epilogue, ref mut c, .. } = self;
        let ([_, n, k], [lda, ldb, ldc]) = (sizes, strides);
        match choice {
            Choice::Initial => {
                for c in rows_mut(c, n, ldc) {
                    for j in 0..n {
                        write_elements::<T, S>(&[T::ZERO], initial, &mut c[j..=j], j);
                    }
                }
            }
            Choice::Ger => {
                let step = if let Form::Tn = form { 1 } else { lda };
                for (i, c) in (first..).zip(rows_mut(c, n, ldc)) {
                    ger::<T, S>(a[i * step], &b[..n], initial, c);
                }
            }
            Choice::Gevm => {
                let kc = form.block();
                for (i, c) in (first..).zip(rows_mut(c, n, ldc)) {
                    let a = &a[i * lda..][..k];
                    for p in range_by(0, k, kc) {
                        let initial = if p == 0 { initial } else { Initial::Beta(T::ONE) };
                        gevm::<T, S>(&a[p..][..kc.min(k - p)], &b[p * ldb..], ldb, initial, c);
                    }
                }
            }
            // The epilogue runs there, block by block.
            _ => return self.blocks::<S, MR, AW, NR>(buffer),
        }
        if let Some(epilogue) = epilogue {
            epilogue.apply_to_rows(c, n, ldc);
        }
    }

    /// The loops of the picture above.
    #[inline(always)]
    fn blocks<S: Simd, const MR: usize, const AW: usize, const NR: usize>(&mut self, buffer: &mut [T]) {
        let &mut Self {
            form,
            sizes,
            strides,
            first,
            rows,
            a,
            b,
            panels: packed,
            initial,
            epilogue,
            ref mut c,
        } = self;
        let [m, n, k] = sizes;
        let [lda, ldb, ldc] = strides;
        let kc = form.block();
        let Blocks { columns: nc, terms: depth } = Blocks::of(form, sizes);
        let skip = buffer.as_ptr().align_offset(64).min(WIDEST);
        let b_len = if packed.is_some() { 0 } else { nc * depth };
        let (panels, columns) = buffer[skip..].split_at_mut(b_len);
        let (panels, _) = panels.as_chunks_mut::<NR>();
        let (columns, _) = columns.as_chunks_mut::<AW>();
        let zero = std::hint::black_box(0);
        // A tile that reaches beyond C.
        let mut edge = [[T::ZERO; NR]; AW];
        let tiles = Heights::of(rows, MR);
        for j in range_by(0, n, nc) {
            let nc = nc.min(n - j);
            for p in range_by(0, k, depth) {
                let depth = depth.min(k - p);
                let initial = if p == 0 { initial } else { Initial::Beta(T::ONE) };
                let (panels, next) = if let Some(packed) = packed {
                    (packed.rows(j, p), packed.terms)
                } else {
                    match form {
                        Form::Nt => {
                            for (j, panel) in range_by(j, j + nc, NR).zip(panels.chunks_exact_mut(depth)) {
                                for (p, block) in range_by(p, k, kc).zip(panel.chunks_mut(kc)) {
                                    let (b, count) = (&b[j * ldb + p..], NR.min(n - j));
                                    pack_transposed::<T, S, NR>(form, b, ldb, count, block);
                                }
                            }
                        }
                        Form::Nn | Form::Tn => {
                            let (count, width) = (nc.div_ceil(NR), (nc - 1) % NR + 1);
                            let panels = &mut panels[..count * depth];
                            pack::<T, S, NR>(&b[p * ldb + j..], ldb, |q| q * NR, width, panels, depth);
                        }
                    }
                    (&*panels, depth)
                };
                let (last, count, mut finished) = (p + depth == k, rows, 0);
                for tile in 0..tiles.count {
                    let (i, height) = (tiles.start(tile), tiles.height(tile));
                    let end = i + height;
                    let (rows, row, term) = match form {
                        Form::Nn | Form::Nt => (&a[(first + i) * lda + p..], lda, 1),
                        Form::Tn => (&a[p * lda + first + i..], 1, lda),
                    };
                    // A low tile computes four rows and drops the last ones: A must have them, too.
                    let a = if n <= FEW_COLUMNS && first + i + height.max(LOW) <= m {
                        Strided { form, elements: rows, row, term, sorted: false, zero }
                    } else {
                        let slot = match form {
                            Form::Nn | Form::Nt => {
                                for (p, block) in range_by(0, depth, kc).zip(columns[..depth].chunks_mut(kc))
                                {
                                    pack_transposed::<T, S, AW>(form, &rows[p..], lda, height, block);
                                }
                                0
                            }
                            // A cache line has elements of several tiles: all are packed at once.
                            Form::Tn => {
                                let slot = tile % SIDE_BY_SIDE;
                                if slot == 0 || n <= FEW_COLUMNS {
                                    let some = SIDE_BY_SIDE.min(tiles.count - tile);
                                    let start = |q: usize| tiles.start(tile + q) - i;
                                    let width = tiles.height(tile + some - 1);
                                    let slots = &mut columns[..some * depth];
                                    pack::<T, S, AW>(rows, lda, start, width, slots, depth);
                                }
                                if n <= FEW_COLUMNS { 0 } else { slot }
                            }
                        };
                        let elements = columns[slot * depth..].as_flattened();
                        Strided { form, elements, row: 1, term: AW, sorted: true, zero }
                    };
                    let tiles = Tiles::<'_, T, NR> { a, depth, panels, next, initial, n, ldc, j, nc };
                    tiles.compute::<S, MR, AW>(height, &mut c[i * ldc..], &mut edge);
                    // These rows are still in the first-level cache.
                    if let Some(epilogue) = epilogue
                        && last
                        && ((end - finished) * nc >= EPILOGUE || end == count)
                    {
                        if nc == ldc {
                            epilogue.apply(&mut c[finished * n..end * n]);
                        } else {
                            let rows = c[finished * ldc..].chunks_mut(ldc).take(end - finished);
                            rows.for_each(|c| epilogue.apply(&mut c[j..j + nc]));
                        }
                        finished = end;
                    }
                }
            }
        }
    }
}

/// The rows of C in tiles of about the same height: 13 rows are 4, 4 and 5 rather than 6, 6 and 1. The last
/// ones are the higher ones: a low tile reads rows behind its own.
#[derive(Clone, Copy)]
struct Heights {
    count: usize,
    /// The rows of the first `low` ones. The others have one more.
    least: usize,
    low: usize,
}

impl Heights {
    #[inline(always)]
    fn of(rows: usize, most: usize) -> Self {
        let count = rows.div_ceil(most);
        // A division takes as long as a small tile.
        let least = if count == 1 { rows } else { rows / count };
        Self { count, least, low: count - (rows - count * least) }
    }

    /// The first row of a tile.
    #[inline(always)]
    fn start(self, tile: usize) -> usize {
        tile * self.least + tile.saturating_sub(self.low)
    }

    #[inline(always)]
    fn height(self, tile: usize) -> usize {
        self.least + usize::from(tile >= self.low)
    }
}
