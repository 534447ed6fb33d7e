//! The one place that multiplies matrices.
//!
//! A row-major buffer of m × n is nalgebra's column-major n × m, so C = A·B is computed as Cᵀ = Bᵀ·Aᵀ on views of the
//! very same bytes; a transposed operand is a view with swapped strides. nalgebra's `gemm` takes its fast kernel for any
//! strides, while its `tr_mul` and relatives never do (dimforge/nalgebra#717).

use nalgebra::{Dyn, MatrixView, MatrixViewMut, RealField};

/// At or below this size of any dimension nalgebra leaves its fast kernel; plain loops take over.
const SMALL: usize = 5;

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

/// C = A·B + β C in the given form, where the product is m × n and sums over k terms. All buffers are row-major, and
/// the caller has checked their lengths. With β = 0, C is only written: whatever it held, NaN included, is gone.
pub(crate) fn gemm<T: RealField + Copy>(
    form: Form,
    [m, n, k]: [usize; 3],
    a: &[T],
    b: &[T],
    beta: T,
    c: &mut [T],
) {
    if m.min(n).min(k) > SMALL {
        let a = match form {
            Form::Nn | Form::Nt => view(a, k, m, [1, k]),
            Form::Tn => view(a, k, m, [m, 1]),
        };
        let b = match form {
            Form::Nn | Form::Tn => view(b, n, k, [1, n]),
            Form::Nt => view(b, n, k, [k, 1]),
        };
        MatrixViewMut::from_slice_generic(c, Dyn(n), Dyn(m)).gemm(T::one(), &b, &a, beta);
        return;
    }
    if beta.is_zero() {
        c.fill(T::zero());
    } else if beta != T::one() {
        c.iter_mut().for_each(|c| *c *= beta);
    }
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    match form {
        // C[i] += Σₚ A[i,p] B[p]: rows of B are added to a row of C.
        Form::Nn => {
            for (a, c) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
                for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
                    add_scaled(a, b, c);
                }
            }
        }
        // C[i,j] += A[i]·B[j]: dot products of rows.
        Form::Nt => {
            for (a, c) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
                for (c, b) in c.iter_mut().zip(b.chunks_exact(k)) {
                    *c += dot(a, b);
                }
            }
        }
        // C[i] += Σₚ A[p,i] B[p]: one row of A and of B at a time, an outer product.
        Form::Tn => {
            for (a, b) in a.chunks_exact(m).zip(b.chunks_exact(n)) {
                for (&a, c) in a.iter().zip(c.chunks_exact_mut(n)) {
                    add_scaled(a, b, c);
                }
            }
        }
    }
}

fn view<T: RealField>(
    data: &[T],
    rows: usize,
    columns: usize,
    [row_stride, column_stride]: [usize; 2],
) -> MatrixView<'_, T, Dyn, Dyn, Dyn, Dyn> {
    MatrixView::from_slice_with_strides_generic(
        data,
        Dyn(rows),
        Dyn(columns),
        Dyn(row_stride),
        Dyn(column_stride),
    )
}

/// y += a x
fn add_scaled<T: RealField + Copy>(a: T, x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Σ aᵢ bᵢ in sixteen running sums, so that the compiler can use vector instructions.
fn dot<T: RealField + Copy>(a: &[T], b: &[T]) -> T {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [T::zero(); 16];
    for (a, b) in a.iter().zip(b) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let sum = sums.into_iter().fold(T::zero(), |sum, term| sum + term);
    (a_rest.iter().zip(b_rest)).fold(sum, |sum, (&a, &b)| sum + a * b)
}
