//! Products of a few multiplications.

use crate::linalg::product::{Form, Initial, Product};
use crate::scalar::Scalar;
use crate::simd::{Kernel, Simd};

/// A product that is computed element by element. It is a kernel of its own, because entering the tiled
/// kernel costs more than the product.
pub(super) struct Small<'a, 'b, T>(pub(super) &'a mut Product<'b, T>);

impl<T: Scalar> Kernel for Small<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let &mut Product { form, sizes, strides, first, a, b, initial, epilogue, ref mut c, .. } = self.0;
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
            // All kernels begin their sums at 0, so −0 becomes 0.
            sum = T::ZERO + sum;
            *c = match initial {
                Initial::Zero => sum,
                Initial::Bias(row) => sum + row[j],
                Initial::Beta(beta) => S::mul_add(beta, *c, sum),
            };
            j += 1;
            if j == n {
                (i, j) = (i + a_row, 0);
            }
        }
        if let Some(epilogue) = epilogue {
            epilogue.apply(c);
        }
    }
}
