//! The threads of a product.

use std::marker::PhantomData;

use crate::error::MemoryError;
use crate::linalg::dispatch::{buffer_len, choose, run, run_here};
use crate::linalg::product::{Choice, Form, Initial, Product, WIDEST};
use crate::linalg::workspace::{Buffered, with_buffer};
use crate::parallel;
use crate::scalar::Scalar;
use crate::scalar::sealed::Work;

/// Computes a product, on as many threads as it is worth. Without memory for its packed operands nothing is
/// computed.
#[inline(always)]
pub(super) fn compute<T: Scalar>(product: &mut Product<'_, T>) -> Result<(), MemoryError> {
    // Whether there was memory: an error as the output would be written and read in each small product.
    if T::work::<Compute<'_, '_>>(product) { Ok(()) } else { Err(refused(product)) }
}

#[cold]
fn refused<T: Scalar>(product: &Product<'_, T>) -> MemoryError {
    let len = Split::of_product(product).buffer_len();
    MemoryError::new(product.form.operation(), len.saturating_mul(size_of::<T>()))
}

/// Makes sure that this thread has the buffer for a product of matrices without gaps.
pub(super) fn prepare<T: Scalar>(form: Form, sizes: [usize; 3]) -> Result<(), MemoryError> {
    T::work::<Prepare>((form, sizes, PhantomData))
}

struct Compute<'a, 'b>(PhantomData<&'a mut &'b ()>);

impl<'a, 'b> Work for Compute<'a, 'b> {
    type On<T: 'static> = &'a mut Product<'b, T>;
    type Output = bool;
    fn f32(product: &'a mut Product<'b, f32>) -> bool {
        compute_typed(product)
    }
    fn f64(product: &'a mut Product<'b, f64>) -> bool {
        compute_typed(product)
    }
}

struct Prepare;

impl Work for Prepare {
    type On<T: 'static> = (Form, [usize; 3], PhantomData<T>);
    type Output = Result<(), MemoryError>;
    fn f32((form, sizes, _): (Form, [usize; 3], PhantomData<f32>)) -> Result<(), MemoryError> {
        prepare_typed::<f32>(form, sizes)
    }
    fn f64((form, sizes, _): (Form, [usize; 3], PhantomData<f64>)) -> Result<(), MemoryError> {
        prepare_typed::<f64>(form, sizes)
    }
}

/// Products of fewer multiplications stay on one thread: waking another takes as long.
const WORTH_A_THREAD: usize = 1 << 20;

#[inline(always)]
fn compute_typed<T: Buffered>(product: &mut Product<'_, T>) -> bool {
    let shares = multiplications(product.sizes) >= 2 * WORTH_A_THREAD && parallel::threads_here() > 1;
    if shares { shared(product) } else { run_here(product) }.is_ok()
}

fn prepare_typed<T: Buffered>(form: Form, sizes: [usize; 3]) -> Result<(), MemoryError> {
    let len = Split::of::<T>(form, sizes, form.strides(sizes), false).buffer_len();
    with_buffer(form.operation(), len, |_: &mut [T]| ())
}

#[inline(always)]
fn multiplications(sizes: [usize; 3]) -> usize {
    sizes.into_iter().fold(1, usize::saturating_mul)
}

/// How a product is split into tasks. An element's bits don't depend on the split, so it may follow the
/// number of threads.
///
/// All tasks work in the caller's buffer, so there is memory for all of them or C isn't touched.
struct Split {
    tasks: usize,
    /// Columns of C, else rows: threads with rows each read, and pack, all of B.
    by_columns: bool,
    /// Rows or columns of all tasks but the last.
    count: usize,
    /// Elements of the buffer for each task.
    len: usize,
}

impl Split {
    fn of_product<T>(product: &Product<'_, T>) -> Self {
        Self::of::<T>(product.form, product.sizes, product.strides, product.panels.is_some())
    }

    fn of<T>(
        form: Form,
        sizes @ [m, n, k]: [usize; 3],
        strides @ [lda, ldb, ldc]: [usize; 3],
        packed: bool,
    ) -> Self {
        let tasks = (multiplications(sizes) / WORTH_A_THREAD).clamp(1, parallel::threads_here());
        let by_columns =
            tasks > 1 && m < n && (packs_less(sizes) || packed || reads_b_once::<T>(form, sizes, strides));
        let (whole, count) = match by_columns {
            true => (n, n.div_ceil(tasks).next_multiple_of(WIDEST)),
            false => (m, m.div_ceil(tasks).max(1)),
        };
        // The last task may pack wider strips.
        let len = [count, whole % count].map(|count| match by_columns {
            true => m * count + buffer_len::<T>(form, [m, count, k], [lda, ldb, count], m, packed),
            false => buffer_len::<T>(form, sizes, [lda, ldb, ldc], count, packed),
        });
        Self { tasks: whole.div_ceil(count), by_columns, count, len: len[0].max(len[1]).max(1) }
    }

    fn buffer_len(&self) -> usize {
        self.tasks * self.len
    }
}

/// Whether threads with columns of C each, which all pack A and copy C, pack so much less than threads with
/// rows, which all pack B.
fn packs_less([m, n, k]: [usize; 3]) -> bool {
    n.saturating_sub(m).saturating_mul(k) > m.saturating_mul(n)
}

/// Whether B isn't packed for a product, and all of its rows are computed in one pass over it.
fn reads_b_once<T>(form: Form, sizes: [usize; 3], strides: [usize; 3]) -> bool {
    matches!(choose::<T>(form, sizes, strides, sizes[0], false), Choice::Gemv | Choice::ByRowsOfB)
}

#[inline(never)]
fn shared<T: Buffered>(whole: &mut Product<'_, T>) -> Result<(), MemoryError> {
    let split = Split::of_product(whole);
    with_buffer(whole.form.operation(), split.buffer_len(), |buffer| match split.by_columns {
        true => shared_columns(whole, &split, buffer),
        false => shared_rows(whole, &split, buffer),
    })
}

fn shared_rows<T: Buffered>(whole: &mut Product<'_, T>, split: &Split, buffer: &mut [T]) {
    let &mut Product { form, sizes, strides, a, b, panels, initial, epilogue, ref mut c, .. } = whole;
    let parts = c.chunks_mut((split.count * strides[2]).max(1)).zip(buffer.chunks_mut(split.len)).enumerate();
    parallel::for_each(parts, |(task, (c, buffer))| {
        let first = task * split.count;
        let rows = split.count.min(sizes[0] - first);
        run(&mut Product { form, sizes, strides, first, rows, a, b, panels, initial, epilogue, c }, buffer);
    });
}

/// Columns of C aren't one slice, so each task computes them in its part of the buffer.
fn shared_columns<T: Buffered>(whole: &mut Product<'_, T>, split: &Split, buffer: &mut [T]) {
    let &mut Product { form, sizes, strides, a, b, panels, initial, epilogue, ref mut c, .. } = whole;
    let ([rows, n, k], [lda, ldb, ldc]) = (sizes, strides);
    let columns_of = |task| (task * split.count, split.count.min(n - task * split.count));
    let old = &**c;
    parallel::for_each(buffer.chunks_mut(split.len).take(split.tasks).enumerate(), |(task, buffer)| {
        let (j, columns) = columns_of(task);
        let (c, buffer) = buffer.split_at_mut(rows * columns);
        let initial = match initial {
            Initial::Zero => Initial::Zero,
            Initial::Bias(row) => Initial::Bias(&row[j..]),
            Initial::Beta(beta) => {
                for (c, old) in c.chunks_mut(columns).zip(old.chunks(ldc)) {
                    c.copy_from_slice(&old[j..][..columns]);
                }
                Initial::Beta(beta)
            }
        };
        let b = match form {
            Form::Nn | Form::Tn => &b[j..],
            Form::Nt => &b[j * ldb..],
        };
        let panels = panels.map(|panels| panels.from(j, 0));
        let (sizes, strides, first) = ([rows, columns, k], [lda, ldb, columns], 0);
        run(&mut Product { form, sizes, strides, first, rows, a, b, panels, initial, epilogue, c }, buffer);
    });
    for (task, part) in buffer.chunks(split.len).take(split.tasks).enumerate() {
        let (j, columns) = columns_of(task);
        for (c, part) in c.chunks_mut(ldc).zip(part.chunks(columns)) {
            c[j..][..columns].copy_from_slice(part);
        }
    }
}
