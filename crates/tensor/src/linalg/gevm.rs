//! Products A·B with few rows: nothing is packed, and B is read in place.

use crate::linalg::microkernel::write;
use crate::linalg::product::{Initial, Product, STRIP, first_of, range_by, rows_mut, strips, unrolled};
use crate::scalar::Scalar;
use crate::simd::vector::{Register, Vector};
use crate::simd::{Kernel, Simd};

/// Rows of B that are added at once, to two rows of sums.
const AT_ONCE: usize = 4;

/// C = A·B with few rows and a large B. Strips of four rows of B are added to two rows of C at a time, so B
/// comes from memory once, and row after row. There is one loop for all: a row of B that is missing is 0.
pub(super) struct ByRowsOfB<'a, 'b, T> {
    pub(super) product: &'a mut Product<'b, T>,
    /// At least [`strips`] elements.
    pub(super) sums: &'a mut [T],
}

impl<T: Scalar> Kernel for ByRowsOfB<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        by_rows_of_b::<T, S>(self.product, self.sums);
    }
}

#[inline(always)]
fn by_rows_of_b<T: Scalar, S: Simd>(product: &mut Product<'_, T>, sums: &mut [T]) {
    let &mut Product { form, sizes, strides, first, rows, a, b, initial, epilogue, ref mut c, .. } = product;
    let ([_, n, k], [lda, ldb, ldc]) = (sizes, strides);
    let kc = form.block();
    let (zeros, sums) = sums[..strips(rows)].split_at_mut(STRIP);
    zeros.fill(T::ZERO);
    for j in range_by(0, n, STRIP) {
        let width = STRIP.min(n - j);
        for p in range_by(0, k, kc) {
            let end = k.min(p + kc);
            sums.fill(T::ZERO);
            for q in range_by(p, end, AT_ONCE) {
                let terms = AT_ONCE.min(end - q);
                let mut rows_of_b = [&zeros[..width]; AT_ONCE];
                for (row, q) in rows_of_b.iter_mut().zip(q..end) {
                    *row = &b[q * ldb + j..][..width];
                }
                for (i, sums) in range_by(0, rows, 2).zip(sums.chunks_exact_mut(2 * STRIP)) {
                    let a = &a[(first + i) * lda + q..];
                    match rows - i {
                        1 => add::<T, S, 1>([factors(a, terms)], rows_of_b, sums),
                        _ => add::<T, S, 2>([factors(a, terms), factors(&a[lda..], terms)], rows_of_b, sums),
                    }
                }
            }
            let initial = if p == 0 { initial } else { Initial::Beta(T::ONE) };
            for (c, sums) in rows_mut(c, n, ldc).zip(sums.chunks_exact(STRIP)) {
                let (len, zero) = (T::Register::<S>::LEN, T::Register::<S>::splat(T::ZERO));
                let c = &mut c[j..j + width];
                for ((j, c), sum) in range_by(j, n, len).zip(c.chunks_mut(len)).zip(sums.chunks_exact(len)) {
                    // All kernels begin their sums at 0, so −0 becomes 0.
                    write(zero.plus(T::Register::<S>::load(sum)), initial, c, j);
                }
                if let Some(epilogue) = epilogue
                    && end == k
                {
                    epilogue.apply(c);
                }
            }
        }
    }
}

/// The first `terms` elements, and zeros.
#[inline(always)]
fn factors<T: Scalar>(a: &[T], terms: usize) -> [T; AT_ONCE] {
    match a.first_chunk() {
        Some(&a) if terms == AT_ONCE => a,
        _ => std::array::from_fn(|p| if p < terms { a[p] } else { T::ZERO }),
    }
}

/// Adds rows of B, each times a factor, to the first R of two strips of sums.
#[inline(always)]
fn add<T: Scalar, S: Simd, const R: usize>(factors: [[T; AT_ONCE]; R], b: [&[T]; AT_ONCE], sums: &mut [T]) {
    let (len, zero) = (T::Register::<S>::LEN, T::Register::<S>::splat(T::ZERO));
    let mut a = [[zero; AT_ONCE]; R];
    unrolled!(r < R => {
        unrolled!(p < 4 => { a[r][p] = T::Register::<S>::splat(factors[r][p]); });
    });
    let done = b[0].len() / len * len;
    let (low, high) = sums.split_at_mut(STRIP);
    let (low, low_rest) = low.split_at_mut(done);
    let (high, high_rest) = high.split_at_mut(done);
    let places = low.chunks_exact_mut(len).zip(high.chunks_exact_mut(len));
    let [b0, b1, b2, b3] = b.map(|b| b.chunks_exact(len));
    for ((low, high), ((b0, b1), (b2, b3))) in places.zip(b0.zip(b1).zip(b2.zip(b3))) {
        let b = [b0, b1, b2, b3];
        let mut acc: [_; R] = first_of([T::Register::<S>::load(low), T::Register::<S>::load(high)]);
        unrolled!(p < 4 => {
            let b = T::Register::<S>::load(b[p]);
            unrolled!(r < R => { acc[r] = a[r][p].mul_add(b, acc[r]); });
        });
        acc[0].store(low);
        if R > 1 {
            acc[R - 1].store(high);
        }
    }
    if done < b[0].len() {
        for (r, sums) in [low_rest, high_rest].into_iter().take(R).enumerate() {
            let mut acc = T::Register::<S>::load(sums);
            for p in 0..AT_ONCE {
                acc = a[r][p].mul_add(T::Register::<S>::load_part(&b[p][done..]), acc);
            }
            acc.store(sums);
        }
    }
}

/// One row of C = A·B: the rows of B, each times an element of A. Many columns at once hide the latency of
/// the additions.
#[inline(always)]
pub(super) fn gevm<T: Scalar, S: Simd>(a: &[T], b: &[T], ldb: usize, initial: Initial<'_, T>, c: &mut [T]) {
    let (n, len, mut j) = (c.len(), T::Register::<S>::LEN, 0);
    while j < n {
        let left = n - j;
        let registers = if left >= 8 * len {
            gevm_columns::<T, S, 8>(a, b, ldb, initial, c, j);
            8
        } else if left > len {
            gevm_columns::<T, S, 2>(a, b, ldb, initial, c, j);
            2
        } else {
            gevm_columns::<T, S, 1>(a, b, ldb, initial, c, j);
            1
        };
        j += registers * len;
    }
}

/// The V registers of columns from j on.
#[inline(always)]
fn gevm_columns<T: Scalar, S: Simd, const V: usize>(
    a: &[T],
    b: &[T],
    ldb: usize,
    initial: Initial<'_, T>,
    c: &mut [T],
    j: usize,
) {
    let (n, len) = (c.len(), T::Register::<S>::LEN);
    let zero = T::Register::<S>::splat(T::ZERO);
    let mut acc = [zero; V];
    for (p, &a) in a.iter().enumerate() {
        acc = add_row::<T, S, V>(a, &b[p * ldb + j..], n - j, acc);
    }
    // All kernels begin their sums at 0, so −0 becomes 0.
    unrolled!(v < V => { acc[v] = zero.plus(acc[v]); });
    let mut places = c[j..].chunks_mut(len);
    unrolled!(v < V => {
        if let Some(c) = places.next() { write(acc[v], initial, c, j + v * len); }
    });
}

/// acc + a b for the first V registers of b, of which only `width` elements matter.
#[inline(always)]
fn add_row<T: Scalar, S: Simd, const V: usize>(
    a: T,
    b: &[T],
    width: usize,
    mut acc: [T::Register<S>; V],
) -> [T::Register<S>; V] {
    let (len, a) = (T::Register::<S>::LEN, T::Register::<S>::splat(a));
    // Elements behind the row are read as well, and never stored.
    let b = if b.len() < V * len { &b[..width.min(V * len)] } else { b };
    unrolled!(v < V => { acc[v] = a.mul_add(T::Register::<S>::load_at_most(&b[(v * len).min(b.len())..]), acc[v]); });
    acc
}
