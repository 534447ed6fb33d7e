//! The one place that multiplies matrices.
//!
//! C is computed in tiles of MR rows by NR columns that stay in vector registers while the sum over k runs:
//!
//! ```text
//!              NR                      for each block of NC columns of B        (a packed block stays in the cache)
//!            ┌────┐                      for each block of KC terms of the sum
//!            │    │ KC   packed B          pack B: panels of NR columns, row after row
//!            └────┘                        for each MR rows of A
//!       KC                                   pack A: MR rows, column after column
//!    ┌──────┐┌────┐                          for each panel of B
//! MR │      ││tile│ of C                       tile: MR·NR running sums
//!    └──────┘└────┘
//!    packed A
//! ```
//!
//! Packing is what makes A·B, A·Bᵀ and Aᵀ·B one loop: only the two packing functions know which operand is transposed.
//! The buffer belongs to the thread and is reused, so that products allocate nothing (nalgebra's fast kernel allocates
//! for each one, and its transposed products never reach that kernel: dimforge/nalgebra#717).
//!
//! **An element of C has the same bits in whatever product it is computed**: alone, in a batch of any size, at any
//! place. Its sum always runs in [`LANES`] interleaved partial sums over blocks of [`KC`] terms, which are added in
//! order. That is what lets a batch be split, over threads or otherwise, without anybody noticing.
//!
//! The code is plain Rust that the compiler turns into vector instructions, for each instruction set: see [`simd`].

use crate::Scalar;
use crate::simd::{self, Kernel, Simd};

/// Which operand of a product is read as its transpose. No layer's rule needs Aᵀ·Bᵀ.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A·B
    Nn,
    /// A·Bᵀ
    Nt,
    /// Aᵀ·B
    Tn,
}

/// Partial sums of each element: enough for one sample's product with a row of weights not to wait for each addition.
const LANES: usize = 4;
/// Terms of the sum that a packed block holds: a panel of B fits the first-level cache.
const KC: usize = 256;
/// Columns of a packed block of B: with KC, half a megabyte in single precision, within the second-level cache.
const NC: usize = 512;

/// Repeats a block for `$i` in 0..`$n`, written out, so that the tile's sums stay in registers.
macro_rules! unrolled {
    ($i:ident < $n:ident => $body:block) => {
        unrolled!(@ $i $n $body 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $i:ident $n:ident $body:block $($value:literal)*) => {
        $(if $value < $n { let $i = $value; $body })*
    };
}

/// C = A·B + β C in the given form, where the product is m × n and sums over k terms. All buffers are row-major, and
/// the caller has checked their lengths. With β = 0, C is only written: whatever it held, NaN included, is gone.
///
/// NR is one cache line of elements: the widest vector register, or two of half its width.
pub(crate) fn gemm<T: Scalar, const NR: usize>(
    form: Form,
    sizes: [usize; 3],
    a: &[T],
    b: &[T],
    beta: T,
    c: &mut [T],
) {
    simd::run(Product::<'_, T, NR> { form, sizes, a, b, beta, c });
}

/// The arguments of [`gemm`].
struct Product<'a, T, const NR: usize> {
    form: Form,
    sizes: [usize; 3],
    a: &'a [T],
    b: &'a [T],
    beta: T,
    c: &'a mut [T],
}

impl<T: Scalar, const NR: usize> Kernel for Product<'_, T, NR> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { form, sizes, a, b, beta, c } = self;
        match S::BYTES {
            64 => product::<T, S, 12, NR>(form, sizes, a, b, beta, c),
            32 => product::<T, S, 6, NR>(form, sizes, a, b, beta, c),
            _ => product::<T, S, 4, NR>(form, sizes, a, b, beta, c),
        }
    }
}

#[inline(always)]
fn product<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
    form: Form,
    [m, n, k]: [usize; 3],
    a: &[T],
    b: &[T],
    beta: T,
    c: &mut [T],
) {
    if m == 0 || n == 0 || k == 0 {
        c.iter_mut().for_each(|c| update::<T, S>(c, beta, T::ZERO));
    } else if k == 1 {
        outer::<T, S>(a, b, beta, c);
    } else if m <= 3 && (m == 1 || !matches!(form, Form::Tn)) {
        // Too few rows for B to be read a second time: packing it would cost more than the product.
        for i in 0..m {
            let (a, c) = (&a[i * k..][..k], &mut c[i * n..][..n]);
            for p in (0..k).step_by(KC) {
                let kc = KC.min(k - p);
                let beta = if p == 0 { beta } else { T::ONE };
                match form {
                    Form::Nt => row_nt::<T, S>(&a[p..][..kc], &b[p..], k, beta, c),
                    Form::Nn | Form::Tn => row_nn::<T, S, NR>(&a[p..][..kc], &b[p * n..], beta, c),
                }
            }
        }
    } else {
        // Taken out while it is in use, so that no borrow can be outstanding.
        let mut buffer = T::buffer().take();
        blocks::<T, S, MR, NR>(form, [m, n, k], a, b, beta, c, &mut buffer);
        T::buffer().set(buffer);
    }
}

/// The loops of the picture above.
#[inline(always)]
fn blocks<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
    form: Form,
    [m, n, k]: [usize; 3],
    a: &[T],
    b: &[T],
    beta: T,
    c: &mut [T],
    buffer: &mut Vec<T>,
) {
    // Always the same size: it never grows after the first product of a thread. Panels begin at a cache line.
    buffer.resize(NC * KC + MR * KC + NR, T::ZERO);
    let skip = buffer.as_ptr().align_offset(64).min(NR);
    let (columns, panels) = buffer[skip..].split_at_mut(MR * KC);
    let (panels, _) = panels.as_chunks_mut::<NR>();
    for j in (0..n).step_by(NC) {
        let nc = NC.min(n - j);
        for p in (0..k).step_by(KC) {
            let kc = KC.min(k - p);
            let beta = if p == 0 { beta } else { T::ONE };
            for (j, panel) in (j..j + nc).step_by(NR).zip(panels.chunks_exact_mut(kc)) {
                match form {
                    Form::Nt => pack_transposed(&b[j * k + p..], k, NR.min(n - j), panel),
                    Form::Nn | Form::Tn => pack(&b[p * n + j..], n, NR.min(n - j), panel),
                }
            }
            // Tiles of about the same height: 13 rows are 5, 4 and 4 rather than 6, 6 and 1.
            let tiles = m.div_ceil(MR);
            for tile in 0..tiles {
                let (i, end) = (tile * m / tiles, (tile + 1) * m / tiles);
                let block = Block { form, sizes: [m, n, k], i, j, nc, p, kc };
                match end - i {
                    1 => block.rows::<T, S, 1, NR>(a, columns, panels, beta, c),
                    2 => block.rows::<T, S, 2, NR>(a, columns, panels, beta, c),
                    3 => block.rows::<T, S, 3, NR>(a, columns, panels, beta, c),
                    4 => block.rows::<T, S, 4, NR>(a, columns, panels, beta, c),
                    5 if MR >= 5 => block.rows::<T, S, 5, NR>(a, columns, panels, beta, c),
                    6 if MR >= 6 => block.rows::<T, S, 6, NR>(a, columns, panels, beta, c),
                    7 if MR >= 7 => block.rows::<T, S, 7, NR>(a, columns, panels, beta, c),
                    8 if MR >= 8 => block.rows::<T, S, 8, NR>(a, columns, panels, beta, c),
                    9 if MR >= 9 => block.rows::<T, S, 9, NR>(a, columns, panels, beta, c),
                    10 if MR >= 10 => block.rows::<T, S, 10, NR>(a, columns, panels, beta, c),
                    11 if MR >= 11 => block.rows::<T, S, 11, NR>(a, columns, panels, beta, c),
                    12 if MR >= 12 => block.rows::<T, S, 12, NR>(a, columns, panels, beta, c),
                    _ => unreachable!("no tile has more than {MR} rows, or none"),
                }
            }
        }
    }
}

/// c ← sum + β c
#[inline(always)]
fn update<T: Scalar, S: Simd>(c: &mut T, beta: T, sum: T) {
    *c = if beta == T::ZERO { sum } else { S::mul_add(beta, *c, sum) };
}

/// Copies `width` columns of a row-major matrix with rows of length `n`, row after row. The rows are sorted by their
/// lane: 0, 4, 8, …, then 1, 5, 9, …; columns that are missing are 0.
#[inline(never)]
fn pack<T: Scalar, const NR: usize>(b: &[T], n: usize, width: usize, mut panel: &mut [[T; NR]]) {
    let kc = panel.len();
    for lane in 0..LANES.min(kc) {
        let (now, later) = panel.split_at_mut((kc - lane).div_ceil(LANES));
        panel = later;
        for (panel, b) in now.iter_mut().zip(b[lane * n..].chunks(LANES * n)) {
            if let (true, Some(b)) = (width == NR, b.first_chunk()) {
                *panel = *b;
            } else {
                panel[..width].copy_from_slice(&b[..width]);
                panel[width..].fill(T::ZERO);
            }
        }
    }
}

/// The same for a matrix whose transpose is stored: `width` rows of length `k` become columns.
#[inline(never)]
fn pack_transposed<T: Scalar, const W: usize>(b: &[T], k: usize, width: usize, panel: &mut [[T; W]]) {
    let kc = panel.len();
    if width < W {
        panel.fill([T::ZERO; W]);
    }
    let (full, rest) = (kc / LANES, kc % LANES);
    let [l0, l1, l2, l3] = {
        let (l0, later) = panel.split_at_mut(full + usize::from(rest > 0));
        let (l1, later) = later.split_at_mut(full + usize::from(rest > 1));
        let (l2, l3) = later.split_at_mut(full + usize::from(rest > 2));
        [l0, l1, l2, l3]
    };
    let row = |j: usize| b[j * k..][..kc].as_chunks::<LANES>().0;
    let groups = width / 4;
    for g in 0..groups {
        let (b0, b1, b2, b3) = (row(4 * g), row(4 * g + 1), row(4 * g + 2), row(4 * g + 3));
        let lanes = l0.iter_mut().zip(l1.iter_mut()).zip(l2.iter_mut().zip(l3.iter_mut()));
        for (((l0, l1), (l2, l3)), ((b0, b1), (b2, b3))) in
            lanes.zip(b0.iter().zip(b1).zip(b2.iter().zip(b3)))
        {
            l0.as_chunks_mut().0[g] = [b0[0], b1[0], b2[0], b3[0]];
            l1.as_chunks_mut().0[g] = [b0[1], b1[1], b2[1], b3[1]];
            l2.as_chunks_mut().0[g] = [b0[2], b1[2], b2[2], b3[2]];
            l3.as_chunks_mut().0[g] = [b0[3], b1[3], b2[3], b3[3]];
        }
    }
    for j in 4 * groups..width {
        let lanes = l0.iter_mut().zip(l1.iter_mut()).zip(l2.iter_mut().zip(l3.iter_mut()));
        for (((l0, l1), (l2, l3)), b) in lanes.zip(row(j)) {
            [l0[j], l1[j], l2[j], l3[j]] = *b;
        }
    }
    for (lane, l) in [l0, l1, l2].into_iter().enumerate().take(rest) {
        for (j, l) in l[full].iter_mut().take(width).enumerate() {
            *l = b[j * k + full * LANES + lane];
        }
    }
}

/// A part of the product: the rows from `i` on, `nc` columns from `j` on, `kc` terms from `p` on.
struct Block {
    form: Form,
    sizes: [usize; 3],
    i: usize,
    j: usize,
    nc: usize,
    p: usize,
    kc: usize,
}

impl Block {
    /// Packs MR rows of A, and computes their tiles.
    #[inline(always)]
    fn rows<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
        &self,
        a: &[T],
        columns: &mut [T],
        panels: &[[T; NR]],
        beta: T,
        c: &mut [T],
    ) {
        let &Self { form, sizes: [m, n, k], i, j, nc, p, kc } = self;
        let columns = &mut columns.as_chunks_mut::<MR>().0[..kc];
        match form {
            Form::Tn => pack(&a[p * m + i..], m, MR, columns),
            Form::Nn | Form::Nt => pack_transposed(&a[i * k + p..], k, MR, columns),
        }
        for (j, panel) in (j..j + nc).step_by(NR).zip(panels.chunks_exact(kc)) {
            tile::<T, S, MR, NR>(columns, panel, beta, &mut c[i * n + j..], n, NR.min(n - j));
        }
    }
}

/// MR × NR elements of C. `a` and `b` are packed, their terms sorted by lane.
#[inline(always)]
fn tile<T: Scalar, S: Simd, const MR: usize, const NR: usize>(
    mut a: &[[T; MR]],
    mut b: &[[T; NR]],
    beta: T,
    c: &mut [T],
    n: usize,
    width: usize,
) {
    let kc = b.len();
    let mut sum = [[T::ZERO; NR]; MR];
    for lane in 0..LANES.min(kc) {
        let len = (kc - lane).div_ceil(LANES);
        let (a_now, b_now);
        (a_now, a) = a.split_at(len);
        (b_now, b) = b.split_at(len);
        let mut acc = [[T::ZERO; NR]; MR];
        for (a, b) in a_now.iter().zip(b_now) {
            unrolled!(i < MR => {
                for j in 0..NR {
                    acc[i][j] = S::mul_add(a[i], b[j], acc[i][j]);
                }
            });
        }
        unrolled!(i < MR => {
            for j in 0..NR {
                sum[i][j] += acc[i][j];
            }
        });
    }
    for (i, sum) in sum.iter().enumerate() {
        let c = &mut c[i * n..][..width];
        if let Some(c) = c.first_chunk_mut::<NR>() {
            for j in 0..NR {
                update::<T, S>(&mut c[j], beta, sum[j]);
            }
        } else {
            for (c, &sum) in c.iter_mut().zip(sum) {
                update::<T, S>(c, beta, sum);
            }
        }
    }
}

/// C = a bᵀ + β C for a column a and a row b.
#[inline(always)]
fn outer<T: Scalar, S: Simd>(a: &[T], b: &[T], beta: T, c: &mut [T]) {
    for (&a, c) in a.iter().zip(c.chunks_exact_mut(b.len())) {
        for (c, &b) in c.iter_mut().zip(b) {
            // Sums begin at 0 everywhere: −0 becomes 0.
            update::<T, S>(c, beta, T::ZERO + a * b);
        }
    }
}

/// One row of C = A·Bᵀ: dot products with the rows of B, eight at a time.
#[inline(always)]
fn row_nt<T: Scalar, S: Simd>(a: &[T], b: &[T], k: usize, beta: T, c: &mut [T]) {
    let full = c.len() / 8 * 8;
    let (c, rest) = c.split_at_mut(full);
    for (j, c) in c.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        dots::<T, S, 8>(a, std::array::from_fn(|i| &b[(8 * j + i) * k..][..a.len()]), beta, c);
    }
    for (j, c) in rest.iter_mut().enumerate() {
        dots::<T, S, 1>(a, [&b[(full + j) * k..][..a.len()]], beta, std::array::from_mut(c));
    }
}

/// The dot products of `a` with N rows.
#[inline(always)]
fn dots<T: Scalar, S: Simd, const N: usize>(a: &[T], b: [&[T]; N], beta: T, c: &mut [T; N]) {
    let mut acc = [[T::ZERO; LANES]; N];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let b_rest = b.map(|b| b.as_chunks::<LANES>().1);
    let b = b.map(|b| &b.as_chunks::<LANES>().0[..a.len()]);
    for (p, a) in a.iter().enumerate() {
        unrolled!(i < N => {
            let b = b[i][p];
            for l in 0..LANES {
                acc[i][l] = S::mul_add(a[l], b[l], acc[i][l]);
            }
        });
    }
    for (i, (acc, c)) in acc.iter_mut().zip(c).enumerate() {
        for ((acc, &a), &b) in acc.iter_mut().zip(a_rest).zip(b_rest[i]) {
            *acc = S::mul_add(a, b, *acc);
        }
        update::<T, S>(c, beta, acc.iter().fold(T::ZERO, |sum, &acc| sum + acc));
    }
}

/// One row of C = A·B: the rows of B, each times an element of A, NR columns at a time.
#[inline(always)]
fn row_nn<T: Scalar, S: Simd, const NR: usize>(a: &[T], b: &[T], beta: T, c: &mut [T]) {
    let n = c.len();
    for (j0, c) in (0..n).step_by(NR).zip(c.chunks_mut(NR)) {
        let mut acc = [[T::ZERO; NR]; LANES];
        let width = c.len();
        if width == NR {
            let (a4, rest) = a.as_chunks::<LANES>();
            for (a, b) in a4.iter().zip(b.chunks_exact(LANES * n)) {
                for l in 0..LANES {
                    let b = &b[l * n + j0..][..NR];
                    for j in 0..NR {
                        acc[l][j] = S::mul_add(a[l], b[j], acc[l][j]);
                    }
                }
            }
            for (l, &a) in rest.iter().enumerate() {
                let b = &b[(a4.len() * LANES + l) * n + j0..][..NR];
                for j in 0..NR {
                    acc[l][j] = S::mul_add(a, b[j], acc[l][j]);
                }
            }
        } else {
            for (p, (&a, b)) in a.iter().zip(b.chunks(n)).enumerate() {
                for (acc, &b) in acc[p % LANES].iter_mut().zip(&b[j0..]) {
                    *acc = S::mul_add(a, b, *acc);
                }
            }
        }
        for (j, c) in c.iter_mut().enumerate() {
            update::<T, S>(c, beta, acc.iter().fold(T::ZERO, |sum, acc| sum + acc[j]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::sealed::Gemm;

    const FORMS: [Form; 3] = [Form::Nn, Form::Nt, Form::Tn];

    /// Numbers of all signs and sizes, so that no two orders of summation agree by chance.
    fn numbers<T: Scalar>(len: usize, salt: usize) -> Vec<T> {
        let mixed = |i: usize| (i * 31 + salt * 17 + 3) * 2_654_435_761 % 1_000_003;
        (0..len).map(|i| T::from_f64((mixed(i) as f64 / 5e5 - 1.0).powi(3))).collect()
    }

    fn transposed<T: Scalar>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
        (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
    }

    /// C for A and B that are given row-major and untransposed.
    fn product<T: Scalar>(form: Form, [m, n, k]: [usize; 3], a: &[T], b: &[T], beta: T, c: &[T]) -> Vec<T> {
        let mut c = c.to_vec();
        match form {
            Form::Nn => T::gemm(form, [m, n, k], a, b, beta, &mut c),
            Form::Nt => T::gemm(form, [m, n, k], a, &transposed(b, k, n), beta, &mut c),
            Form::Tn => T::gemm(form, [m, n, k], &transposed(a, m, k), b, beta, &mut c),
        }
        c
    }

    fn same_bits_in_any_batch<T: Scalar>() {
        let m = 41;
        for n in [1, 3, 10, 33, 530] {
            for k in [1, 5, 64, 257, 1025] {
                let (a, b, c) = (numbers::<T>(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
                for beta in [T::ZERO, T::from_f64(0.3)] {
                    let whole = product(Form::Nn, [m, n, k], &a, &b, beta, &c);
                    for form in FORMS {
                        for batch in [1, 2, 4, 7, m] {
                            let mut parts = Vec::new();
                            for (a, c) in a.chunks(batch * k).zip(c.chunks(batch * n)) {
                                parts.extend(product(form, [c.len() / n, n, k], a, &b, beta, c));
                            }
                            assert_eq!(whole, parts, "{form:?}, {n} columns, {k} terms, batches of {batch}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_element_has_the_same_bits_in_any_batch_form_and_place() {
        same_bits_in_any_batch::<f32>();
        same_bits_in_any_batch::<f64>();
    }

    #[test]
    fn columns_do_not_depend_on_their_place() {
        let [m, n, k] = [9, 40, 300];
        let (a, b, c) = (numbers::<f32>(m * k, 1), numbers::<f32>(k * n, 2), vec![0.0; m * n]);
        let whole = product(Form::Nn, [m, n, k], &a, &b, 0.0, &c);
        for j in 0..n {
            let column: Vec<f32> = b.iter().skip(j).step_by(n).copied().collect();
            for form in FORMS {
                let alone = product(form, [m, 1, k], &a, &column, 0.0, &c[..m]);
                assert!(alone.iter().eq(whole.iter().skip(j).step_by(n)), "{form:?}, column {j}");
            }
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
                    let c = product(form, [m, 20, k], &a, &b, 0.0, &vec![0.0; m * 20]);
                    assert!(c.iter().all(|c| c.is_nan()), "{form:?} {m} {k}");
                    a[0] = nan;
                    let c = product(form, [m, 20, k], &a, &vec![1.0; 20 * k], 0.0, &vec![nan; m * 20]);
                    assert!(c[..20].iter().all(|c| c.is_nan()), "{form:?} {m} {k}");
                    assert!(
                        c[20..].iter().all(|&c| c == 0.0),
                        "{form:?} {m} {k}: NaN of C or of another row"
                    );
                }
            }
        }
    }

    #[test]
    fn the_second_product_allocates_nothing() {
        for form in FORMS {
            for [m, n, k] in [[1, 10, 64], [4, 9, 8], [32, 32, 64], [300, 100, 257], [7, 600, 300]] {
                let (a, b) = (numbers::<f32>(m * k, 1), numbers::<f32>(k * n, 2));
                let mut c = vec![0.0; m * n];
                f32::gemm(form, [m, n, k], &a, &b, 0.0, &mut c);
                let allocations = allocation_counter::measure(|| {
                    f32::gemm(form, [m, n, k], &a, &b, 1.0, &mut c);
                });
                assert_eq!(allocations.count_total, 0, "{form:?} {m} {n} {k}");
            }
        }
    }

    /// What runs on processors without AVX2 is tested on the others, too.
    #[test]
    fn the_portable_kernel_computes_the_same_products() {
        for [m, n, k] in [[1, 9, 70], [5, 20, 7], [33, 17, 300], [4, 530, 3]] {
            // Whole numbers: exact in any order, with or without FMA.
            let whole = |len, salt| {
                numbers::<f32>(len, salt).into_iter().map(|x| (x * 9.0).round()).collect::<Vec<_>>()
            };
            let (a, b) = (whole(m * k, 1), whole(k * n, 2));
            let expected = product(Form::Nn, [m, n, k], &a, &b, 0.0, &vec![0.0; m * n]);
            for form in FORMS {
                let a = if let Form::Tn = form { transposed(&a, m, k) } else { a.clone() };
                let b = if let Form::Nt = form { transposed(&b, k, n) } else { b.clone() };
                let mut c = vec![f32::NAN; m * n];
                let sizes = [m, n, k];
                let kernel = Product::<'_, f32, 16> { form, sizes, a: &a, b: &b, beta: 0.0, c: &mut c };
                simd::run_at("baseline", kernel).unwrap();
                assert_eq!(c, expected, "{form:?} {m} {n} {k}");
            }
        }
    }
}
