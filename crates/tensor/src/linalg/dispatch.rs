//! The choice of a product's kernel.

use crate::error::MemoryError;
use crate::linalg::gemm::Gemm;
use crate::linalg::gemv::Gemv;
use crate::linalg::gevm::ByRowsOfB;
use crate::linalg::groups::add_group;
use crate::linalg::product::{
    Blocks, Choice, Form, GROUP, Initial, Product, SHORT, SIDE_BY_SIDE, TALLEST, WIDEST, is_long, range_by,
    strips,
};
use crate::linalg::small::Small;
use crate::linalg::workspace::{Buffered, with_buffer};
use crate::simd::{self, Kernel};

/// The most multiplications of a small product.
const SMALL: usize = 128;
/// The most rows of A·B for which a large B is read in place.
const FEW: usize = 12;

/// Whether a product is computed element by element: it has few multiplications.
#[inline(always)]
fn is_small<T>(product: &Product<'_, T>) -> bool {
    let ([_, n, terms], [_, _, ldc]) = (product.sizes, product.strides);
    let work = product.c.len().saturating_mul(terms);
    work <= SMALL && work > 0 && terms <= SHORT && ldc == n
}

/// The kernel for `rows` rows of any other product. `packed`: B is packed already.
#[inline(always)]
pub(super) fn choose<T>(
    form: Form,
    [m, n, k]: [usize; 3],
    [lda, ldb, _]: [usize; 3],
    rows: usize,
    packed: bool,
) -> Choice {
    if rows == 0 || n == 0 || k == 0 {
        return Choice::Initial;
    }
    match form {
        Form::Nt => {
            // In place, B is read for each row of A, and packed but once. With eight accumulators more rows
            // are few, and if B is packed already, those of a low tile.
            let few = || if packed { 3 } else { few_rows::<T>(form, k) };
            match k {
                1 if ldb < 2 => Choice::Ger,
                2.. if rows <= few() => Choice::Gemv,
                _ => Choice::Tiles,
            }
        }
        Form::Nn | Form::Tn => {
            let rows_of_a_are_contiguous = matches!((form, m, lda), (Form::Nn, _, _) | (Form::Tn, 1, 1));
            let large = if rows == 1 { 1 << 20 } else { 1 << 15 };
            match rows {
                _ if k == 1 => Choice::Ger,
                _ if !rows_of_a_are_contiguous => Choice::Tiles,
                ..=FEW if n.saturating_mul(k) >= large => Choice::ByRowsOfB,
                // Packing B would cost more than the product.
                ..=3 => Choice::Gevm,
                _ => Choice::Tiles,
            }
        }
    }
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
        (_, 64..) => 32,
        (4, _) => 16,
        _ if near => 64,
        _ => 12,
    }
}

/// The elements of a buffer that `rows` rows of a product need; 0 if both operands are read in place.
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
        false => {
            let choice = choose::<T>(form, sizes, strides, rows, packed);
            buffer_len_of(choice, form, sizes, rows, packed)
        }
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
    let lens = sizes.into_iter().flatten().map(|sizes| {
        let choice = choose::<T>(form, sizes, strides, rows, packed);
        buffer_len_of(choice, form, sizes, rows, packed)
    });
    2 * rows * columns + lens.max().unwrap_or(0)
}

#[inline(always)]
fn buffer_len_of(choice: Choice, form: Form, sizes: [usize; 3], rows: usize, packed: bool) -> usize {
    match choice {
        Choice::Initial | Choice::Gemv | Choice::Ger | Choice::Gevm => 0,
        Choice::ByRowsOfB => strips(rows),
        Choice::Tiles => {
            let Blocks { columns, terms } = Blocks::of(form, sizes);
            // Panels begin at a cache line.
            let rows = if let Form::Tn = form { SIDE_BY_SIDE * TALLEST } else { TALLEST };
            (if packed { 0 } else { columns } + rows) * terms + WIDEST
        }
    }
}

/// Columns of C that are computed at once, so the memory beside them stays small. Whole blocks of packed
/// columns: nothing is packed twice.
fn columns_at_once(rows: usize, n: usize) -> usize {
    const ELEMENTS: usize = 1 << 18;
    const PACKED: usize = 256;
    match rows.saturating_mul(n) <= ELEMENTS {
        true => n,
        false => n.min((ELEMENTS / rows / PACKED).max(1) * PACKED),
    }
}

impl<T> Product<'_, T> {
    /// The kernel, unless the product is small.
    #[inline(always)]
    pub(super) fn choice(&self) -> Choice {
        choose::<T>(self.form, self.sizes, self.strides, self.rows, self.panels.is_some())
    }
}

/// Computes a product on this thread, in its own buffer.
#[inline(always)]
pub(super) fn run_here<T: Buffered>(product: &mut Product<'_, T>) -> Result<(), MemoryError> {
    let operation = product.form.operation();
    if product.is_long() {
        let &mut Product { form, sizes, strides, rows, ref panels, .. } = product;
        let len = long_buffer_len::<T>(form, sizes, strides, rows, panels.is_some());
        return with_buffer(operation, len, |buffer| run_long(product, buffer));
    }
    if run_small(product) {
        return Ok(());
    }
    let choice = product.choice();
    if let Choice::Gemv = choice {
        run_gemv(product);
        return Ok(());
    }
    let len = buffer_len_of(choice, product.form, product.sizes, product.rows, product.panels.is_some());
    with_buffer(operation, len, |buffer| run_choice(choice, product, buffer))
}

/// The same with a buffer that is long enough.
pub(super) fn run<T: Buffered>(product: &mut Product<'_, T>, buffer: &mut [T]) {
    if product.is_long() {
        run_long(product, buffer);
    } else if !run_small(product) {
        run_choice(product.choice(), product, buffer);
    }
}

/// Computes a product whose sums are made of several groups: strips of columns, and in each of them a product
/// for each group.
#[cold]
fn run_long<T: Buffered>(product: &mut Product<'_, T>, buffer: &mut [T]) {
    let &mut Product { form, sizes, strides, first, rows, a, b, panels, initial, epilogue, ref mut c } =
        product;
    let ([m, n, k], [lda, ldb, ldc]) = (sizes, strides);
    if c.is_empty() {
        return;
    }
    let (columns, terms) = (columns_at_once(rows, n), GROUP * form.block());
    let (low, rest) = buffer.split_at_mut(rows * columns);
    let (part, buffer) = rest.split_at_mut(rows * columns);
    for j in range_by(0, n, columns) {
        let columns = columns.min(n - j);
        let size = rows * columns;
        let c = &mut c[j..];
        low[..size].fill(T::ZERO);
        for p in range_by(0, k, terms) {
            let a = match form {
                Form::Nn | Form::Nt => &a[p..],
                Form::Tn => &a[p * lda..],
            };
            let b = match form {
                Form::Nn | Form::Tn => &b[p * ldb + j..],
                Form::Nt => &b[j * ldb + p..],
            };
            let panels = panels.map(|panels| panels.from(j, p));
            let (sizes, part) = ([m, columns, terms.min(k - p)], &mut part[..size]);
            let mut group = |strides, initial, c| {
                let epilogue = None;
                let product =
                    &mut Product { form, sizes, strides, first, rows, a, b, panels, initial, epilogue, c };
                run(product, buffer);
            };
            if p == 0 {
                let initial = match initial {
                    Initial::Bias(row) => Initial::Bias(&row[j..]),
                    initial => initial,
                };
                group(strides, initial, c);
            } else {
                group([lda, ldb, columns], Initial::Zero, part);
                add_group(c, ldc, &mut low[..size], part, columns);
            }
        }
    }
    if let Some(epilogue) = epilogue {
        epilogue.apply_to_rows(c, n, ldc);
    }
}

/// Computes a small product. Returns whether it was one.
#[inline(always)]
fn run_small<T: Buffered>(product: &mut Product<'_, T>) -> bool {
    let small = is_small(product);
    if small {
        match product.is_exact() {
            true => Small(product).run::<simd::Baseline>(),
            // Neither gains by more than 32 bytes: a kernel that isn't compiled for AVX-512 makes programs
            // smaller.
            false => simd::run_within(32, Small(product)),
        }
    }
    small
}

#[inline(always)]
fn run_gemv<T: Buffered>(product: &mut Product<'_, T>) {
    // In double precision it gains nothing by 64 bytes, and isn't compiled for them.
    if const { size_of::<T>() == 4 } {
        simd::run(Gemv(product));
    } else {
        simd::run_within(32, Gemv(product));
    }
}

#[inline(always)]
fn run_choice<T: Buffered>(choice: Choice, product: &mut Product<'_, T>, buffer: &mut [T]) {
    match choice {
        Choice::Gemv => run_gemv(product),
        Choice::ByRowsOfB => simd::run(ByRowsOfB { product, sums: buffer }),
        _ => simd::run(Gemm { choice, product, buffer }),
    }
}
