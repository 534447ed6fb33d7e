//! Products A·B with few rows: nothing is packed, and B is read in place.

use crate::linalg::microkernel::write;
use crate::linalg::product::{Initial, Product, STRIP, first_of, range_by, rows_mut, unrolled};
use crate::scalar::Scalar;
use crate::simd::Simd;
use crate::simd::vector::{Register, Vector};

/// Rows of B that are added at once.
const AT_ONCE: usize = 4;

/// Rows of C = A·B. Strips of four rows of B are added to two rows of C at a time, so B comes from memory
/// once, and row after row. `sums` has [`STRIP`] elements for each row, and for one more.
#[inline(always)]
pub(super) fn by_rows_of_b<T: Scalar, S: Simd>(product: &mut Product<'_, T>, sums: &mut [T]) {
    let &mut Product { form, sizes, strides, first, rows, a, b, initial, epilogue, ref mut c } = product;
    let ([_, n, k], [lda, ldb, ldc]) = (sizes, strides);
    let kc = form.block();
    let sums = &mut sums[..rows.next_multiple_of(2) * STRIP];
    for j in range_by(0, n, STRIP) {
        let width = STRIP.min(n - j);
        for p in range_by(0, k, kc) {
            let (mut q, end) = (p, k.min(p + kc));
            sums.fill(T::ZERO);
            while q < end {
                let (terms, b) = (end - q, &b[q * ldb + j..]);
                let strip = Strip { b, ldb, width };
                for (i, sums) in range_by(0, rows, 2).zip(sums.chunks_exact_mut(2 * STRIP)) {
                    let (low, high) = sums.split_at_mut(STRIP);
                    let a = &a[(first + i) * lda + q..];
                    match (rows - i, terms) {
                        (1, ..AT_ONCE) => strip.add::<S, 1, 1>(a, lda, [low, high]),
                        (1, _) => strip.add::<S, 1, AT_ONCE>(a, lda, [low, high]),
                        (_, ..AT_ONCE) => strip.add::<S, 2, 1>(a, lda, [low, high]),
                        (_, _) => strip.add::<S, 2, AT_ONCE>(a, lda, [low, high]),
                    }
                }
                q += if terms < AT_ONCE { 1 } else { AT_ONCE };
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

/// Columns of rows of B.
struct Strip<'a, T> {
    b: &'a [T],
    ldb: usize,
    width: usize,
}

impl<T: Scalar> Strip<'_, T> {
    /// Adds P rows of B times terms of A to R rows of sums.
    #[inline(always)]
    fn add<S: Simd, const R: usize, const P: usize>(&self, a: &[T], lda: usize, sums: [&mut [T]; 2]) {
        let (len, zero) = (T::Register::<S>::LEN, T::Register::<S>::splat(T::ZERO));
        let mut factors = [[zero; P]; R];
        for (i, factors) in factors.iter_mut().enumerate() {
            for (factor, &a) in factors.iter_mut().zip(&a[i * lda..][..P]) {
                *factor = T::Register::<S>::splat(a);
            }
        }
        // Rows that aren't there are never read.
        let rows: [&[T]; AT_ONCE] = std::array::from_fn(|p| &self.b[p.min(P - 1) * self.ldb..][..self.width]);
        let done = self.width / len * len;
        let rest = rows.map(|row| &row[done..]);
        let [b0, b1, b2, b3] = rows.map(|row| row.chunks_exact(len));
        let [low, high] = sums;
        let (low, low_rest) = low.split_at_mut(done);
        let (high, high_rest) = high.split_at_mut(done);
        let places = low.chunks_exact_mut(len).zip(high.chunks_exact_mut(len));
        for ((low, high), ((b0, b1), (b2, b3))) in places.zip(b0.zip(b1).zip(b2.zip(b3))) {
            let (b, mut acc): ([_; P], [_; R]) = (
                first_of([b0, b1, b2, b3]),
                first_of([T::Register::<S>::load(low), T::Register::<S>::load(high)]),
            );
            unrolled!(p < P => {
                let b = T::Register::<S>::load(b[p]);
                unrolled!(r < R => { acc[r] = factors[r][p].mul_add(b, acc[r]); });
            });
            acc[0].store(low);
            if R > 1 {
                acc[R - 1].store(high);
            }
        }
        if done < self.width {
            let rest: [&[T]; P] = first_of(rest);
            for (r, sums) in [low_rest, high_rest].into_iter().take(R).enumerate() {
                let mut acc = T::Register::<S>::load(sums);
                for p in 0..P {
                    acc = factors[r][p].mul_add(T::Register::<S>::load_part(rest[p]), acc);
                }
                acc.store(sums);
            }
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
