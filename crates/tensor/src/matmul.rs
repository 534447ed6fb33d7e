//! Matrix products of tensors. All axes but the last are read as rows, so that a dense layer takes `[batch, features]`
//! and `[batch, time, features]` alike.

use crate::gemm::{Form, Product, Start, buffer_len, with_buffer};
use crate::linalg::{Epilogue, MatMut, MatRef};
use crate::{MemoryError, Scalar, Shape, ShapeError, Tensor, TensorError, parallel};

/// C = A·B + β C for A `[.., k]`, B `[k, n]`, C `[.., n]`.
///
/// In a dense layer this is ∂l/∂x = ∂l/∂y·W. With β = 0, C is only written: it takes the product's shape, and NaN in it
/// doesn't spread.
///
/// ```
/// use backrule_tensor::{Tensor, matmul_into};
///
/// let a: Tensor = Tensor::from([[1.0, 2.0]]);
/// let b = Tensor::from([[1.0, 0.0], [0.0, 1.0]]);
/// let mut c = Tensor::from([[10.0, 20.0]]);
/// matmul_into(&a, &b, 1.0, &mut c)?;
/// assert_eq!(c, Tensor::from([[11.0, 22.0]]));
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// # Errors
/// When B, or with β ≠ 0 C, doesn't have the shape above, or there is no memory for C or for packed operands. C is unchanged
/// then.
pub fn matmul_into<T: Scalar>(
    a: &Tensor<T>,
    b: &Tensor<T>,
    beta: T,
    c: &mut Tensor<T>,
) -> Result<(), TensorError> {
    product(Form::Nn, a, b, Start::scaled(beta), None, c)
}

/// C = A·Bᵀ + β C for A `[.., k]`, B `[n, k]`, C `[.., n]`.
///
/// In a dense layer this is y = x·Wᵀ.
///
/// ```
/// use backrule_tensor::{Tensor, matmul_nt_into};
///
/// let x: Tensor = Tensor::from([[1.0, 2.0]]);
/// let w = Tensor::from([[3.0, 4.0], [5.0, 6.0]]);
/// let mut y = Tensor::zeros([1, 2])?;
/// matmul_nt_into(&x, &w, 0.0, &mut y)?;
/// assert_eq!(y, Tensor::from([[11.0, 17.0]])); // 1·3 + 2·4, 1·5 + 2·6
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// # Errors
/// As [`matmul_into`].
pub fn matmul_nt_into<T: Scalar>(
    a: &Tensor<T>,
    b: &Tensor<T>,
    beta: T,
    c: &mut Tensor<T>,
) -> Result<(), TensorError> {
    product(Form::Nt, a, b, Start::scaled(beta), None, c)
}

/// C = Aᵀ·B + β C for A `[.., m]`, B `[.., n]` of as many rows, C `[m, n]`.
///
/// In a dense layer this is ∂l/∂W = (∂l/∂y)ᵀ·x, summed over the batch; β = 1 accumulates.
///
/// ```
/// use backrule_tensor::{Tensor, matmul_tn_into};
///
/// let dy: Tensor = Tensor::from([[1.0], [2.0]]);
/// let x = Tensor::from([[3.0, 4.0], [5.0, 6.0]]);
/// let mut dw = Tensor::from([[100.0, 100.0]]);
/// matmul_tn_into(&dy, &x, 1.0, &mut dw)?;
/// assert_eq!(dw, Tensor::from([[113.0, 116.0]])); // 100 + 1·3 + 2·5, 100 + 1·4 + 2·6
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// # Errors
/// As [`matmul_into`].
pub fn matmul_tn_into<T: Scalar>(
    a: &Tensor<T>,
    b: &Tensor<T>,
    beta: T,
    c: &mut Tensor<T>,
) -> Result<(), TensorError> {
    product(Form::Tn, a, b, Start::scaled(beta), None, c)
}

/// Y = X·Wᵀ + b for X `[.., in]`, W `[out, in]`, b `[out]`: a dense layer in one pass over Y, which takes the shape
/// `[.., out]`.
///
/// ```
/// use backrule_tensor::{Tensor, affine_into};
///
/// let x: Tensor = Tensor::from([[1.0, 2.0]]);
/// let (w, b) = (Tensor::from([[3.0, 4.0], [5.0, 6.0]]), Tensor::from([0.5, -0.5]));
/// let mut y = Tensor::zeros([1, 2])?;
/// affine_into(&x, &w, &b, &mut y)?;
/// assert_eq!(y, Tensor::from([[11.5, 16.5]])); // 1·3 + 2·4 + ½, 1·5 + 2·6 − ½
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// # Errors
/// When W or b doesn't have the shape above, or there is no memory for Y or for packed operands. Y is unchanged then.
pub fn affine_into<T: Scalar>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    b: &Tensor<T>,
    y: &mut Tensor<T>,
) -> Result<(), TensorError> {
    affine_activation_into(x, w, Some(b), None, y)
}

/// Y = f(X·Wᵀ + b), as [`affine_into`], and an element-wise f in place: an [`Epilogue`] on rows of Y that have just been
/// written, and are in the first-level cache. Without b it is 0.
///
/// ```
/// use backrule_tensor::{Epilogue, Tensor, affine_activation_into, apply};
///
/// let x: Tensor = Tensor::from([[1.0, 2.0]]);
/// let w = Tensor::from([[3.0, 4.0], [-5.0, 6.0]]);
/// let mut y = Tensor::zeros([1, 2])?;
/// let f = |y: &mut [f32]| apply(y, |y| y.min(8.0));
/// affine_activation_into(&x, &w, None, Some(Epilogue::new(&f)), &mut y)?;
/// assert_eq!(y, Tensor::from([[8.0, 7.0]])); // min(8, 1·3 + 2·4), min(8, −1·5 + 2·6)
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// # Errors
/// As [`affine_into`].
pub fn affine_activation_into<T: Scalar>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    b: Option<&Tensor<T>>,
    f: Option<Epilogue<'_, T>>,
    y: &mut Tensor<T>,
) -> Result<(), TensorError> {
    let start = match b {
        Some(b) if w.shape().rank() != 2 || b.shape() != w.shape()[..1] => {
            let outputs = Form::Nt.shape(x.shape(), w.shape())?.columns();
            let expected = format_args!("a bias of [{outputs}]");
            return Err(ShapeError::new("matmul A·Bᵀ + b", expected, b.shape()).into());
        }
        Some(b) => Start::Row(b.as_slice()),
        None => Start::Zero,
    };
    product(Form::Nt, x, w, start, f, y)
}

/// C = A·B + β C for matrices in slices, each of which may be transposed, but not both A and B.
///
/// With β = 0, C is only written. An element has the bits that it would have in tensors of its own.
///
/// # Errors
/// When the shapes don't fit, A and B are both transposed (Aᵀ·Bᵀ is the transpose of B·A), or there is no memory for packed
/// operands. C is unchanged then.
pub fn matmul<T: Scalar>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    beta: T,
    c: MatMut<'_, T>,
) -> Result<(), TensorError> {
    product_of_mats(a, b, Start::scaled(beta), None, c)
}

/// C = f(X·Wᵀ + b) for X `[rows, in]`, W `[out, in]`, b of `out` elements, C `[rows, out]`, which is only written: a dense
/// layer of matrices in slices.
///
/// ```
/// use backrule_tensor::linalg::affine;
/// use backrule_tensor::Tensor;
///
/// let x: Tensor = Tensor::from([[1.0, 2.0]]);
/// let w = Tensor::from([[3.0, 4.0], [5.0, 6.0]]);
/// let mut y = Tensor::zeros([1, 2])?;
/// affine(x.mat(), w.mat(), Some(&[0.5, -0.5]), None, y.mat_mut())?;
/// assert_eq!(y, Tensor::from([[11.5, 16.5]]));
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// # Errors
/// When the shapes don't fit, or there is no memory for packed operands. C is unchanged then.
pub fn affine<T: Scalar>(
    x: MatRef<'_, T>,
    w: MatRef<'_, T>,
    b: Option<&[T]>,
    epilogue: Option<Epilogue<'_, T>>,
    c: MatMut<'_, T>,
) -> Result<(), TensorError> {
    let outputs = w.shape()[0];
    let start = match b {
        Some(b) if b.len() != outputs => {
            let expected = format_args!("a bias of [{outputs}]");
            return Err(ShapeError::new("matmul A·Bᵀ + b", expected, format_args!("[{}]", b.len())).into());
        }
        Some(b) => Start::Row(b),
        None => Start::Zero,
    };
    product_of_mats(x, w.t(), start, epilogue, c)
}

fn product_of_mats<T: Scalar>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    start: Start<'_, T>,
    finish: Option<Epilogue<'_, T>>,
    c: MatMut<'_, T>,
) -> Result<(), TensorError> {
    let form = match (a.is_transposed(), b.is_transposed()) {
        (false, false) => Form::Nn,
        (false, true) => Form::Nt,
        (true, false) => Form::Tn,
        (true, true) => {
            let expected = "at most one transposed operand";
            return Err(ShapeError::new("matmul Aᵀ·Bᵀ", expected, "two").into());
        }
    };
    let ([m, k], [terms, n]) = (a.shape(), b.shape());
    if terms != k {
        let expected = format_args!("[_, {terms}]");
        return Err(ShapeError::new(form.operation(), expected, format_args!("[{m}, {k}]")).into());
    }
    if c.shape() != [m, n] {
        let [rows, columns] = c.shape();
        let (expected, got) = (format_args!("a result of [{m}, {n}]"), format_args!("[{rows}, {columns}]"));
        return Err(ShapeError::new(form.operation(), expected, got).into());
    }
    let strides = [a.row_stride(), b.row_stride(), c.row_stride()];
    let (a, b, c) = (a.elements(), b.elements(), c.into_elements());
    Ok(compute(&mut Product { form, sizes: [m, n, k], strides, first: 0, a, b, start, finish, c })?)
}

impl<T: Scalar> Tensor<T> {
    /// A·B into a new tensor: see [`matmul_into`].
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let a: Tensor = Tensor::from([[1.0, 2.0], [3.0, 4.0]]);
    /// let b = Tensor::from([[5.0], [6.0]]);
    /// assert_eq!(a.matmul(&b)?, Tensor::from([[17.0], [39.0]]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When the shapes don't fit, or there is no memory.
    pub fn matmul(&self, b: &Self) -> Result<Self, TensorError> {
        new_product(Form::Nn, self, b)
    }

    /// A·Bᵀ into a new tensor: see [`matmul_nt_into`].
    ///
    /// # Errors
    /// When the shapes don't fit, or there is no memory.
    pub fn matmul_nt(&self, b: &Self) -> Result<Self, TensorError> {
        new_product(Form::Nt, self, b)
    }

    /// Aᵀ·B into a new tensor: see [`matmul_tn_into`].
    ///
    /// # Errors
    /// When the shapes don't fit, or there is no memory.
    pub fn matmul_tn(&self, b: &Self) -> Result<Self, TensorError> {
        new_product(Form::Tn, self, b)
    }
}

impl Form {
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Nn => "matmul A·B",
            Self::Nt => "matmul A·Bᵀ",
            Self::Tn => "matmul Aᵀ·B",
        }
    }

    /// The strides of matrices without gaps.
    #[inline(always)]
    pub(crate) fn strides(self, [m, n, k]: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Nn => [k, n, n],
            Self::Nt => [k, k, n],
            Self::Tn => [m, n, n],
        }
    }

    /// The shape of the product of `a` and `b`.
    fn shape(self, a: Shape, b: Shape) -> Result<Shape, ShapeError> {
        let refuse = |expected: String| Err(ShapeError::new(self.operation(), expected, a));
        match self {
            Self::Nn | Self::Nt => {
                let &[first, second] = &b[..] else {
                    let expected = "a second operand with two axes";
                    return Err(ShapeError::new(self.operation(), expected, b));
                };
                let (k, n) = match self {
                    Self::Nn => (first, second),
                    _ => (second, first),
                };
                if a.rank() == 0 || a.columns() != k {
                    return refuse(format!("[_, {k}]"));
                }
                a.with_columns(n)
            }
            Self::Tn => {
                if a.rank() == 0 || b.rank() == 0 || a.rows() != b.rows() {
                    return refuse(format!("[{}, _]", b.rows()));
                }
                Shape::new(&[a.columns(), b.columns()])
            }
        }
    }

    /// m, n and k of C = A·B for matrices, if they fit: what there is to check in most products, without a shape that is
    /// made to be compared and thrown away.
    #[inline(always)]
    fn of_matrices(self, a: &Shape, b: &Shape, c: &Shape) -> Option<[usize; 3]> {
        let (&[a0, a1], &[b0, b1], &[m, n]) = (&a[..], &b[..], &c[..]) else { return None };
        let [[rows, k], [terms, columns]] = match self {
            Self::Nn => [[a0, a1], [b0, b1]],
            Self::Nt => [[a0, a1], [b1, b0]],
            Self::Tn => [[a1, a0], [b0, b1]],
        };
        (rows == m && columns == n && terms == k).then_some([m, n, k])
    }

    /// The same for any axes.
    #[cold]
    fn of_any<T: Scalar>(
        self,
        a: &Tensor<T>,
        b: &Tensor<T>,
        start: Start<'_, T>,
        c: &mut Tensor<T>,
    ) -> Result<[usize; 3], TensorError> {
        let shape = self.shape(a.shape(), b.shape())?;
        let k = match self {
            Self::Nn | Self::Nt => a.shape().columns(),
            Self::Tn => a.shape().rows(),
        };
        let sizes = [shape.rows(), shape.columns(), k];
        if c.shape() != shape {
            if let Start::Scaled(_) = start {
                let expected = format_args!("a result of {shape}");
                return Err(ShapeError::new(self.operation(), expected, c.shape()).into());
            }
            // First what can fail without changing C.
            let (tasks, rows) = tasks(sizes);
            let len = tasks * buffer_len(self, sizes, self.strides(sizes), rows).max(1);
            with_buffer(self.operation(), len, |_: &mut [T]| ())?;
            c.resize_for(self.operation(), shape)?;
        }
        Ok(sizes)
    }
}

/// Products of fewer multiplications stay on one thread: waking another takes as long.
const WORTH_A_THREAD: usize = 1 << 20;

/// Inlined, so that `start` is written where it is read: a copy of what has just been written, in wider steps than it was
/// written in, would wait for it, as long as a small product takes.
#[inline(always)]
fn product<T: Scalar>(
    form: Form,
    a: &Tensor<T>,
    b: &Tensor<T>,
    start: Start<'_, T>,
    finish: Option<Epilogue<'_, T>>,
    c: &mut Tensor<T>,
) -> Result<(), TensorError> {
    let sizes = match form.of_matrices(a.axes(), b.axes(), c.axes()) {
        Some(sizes) => sizes,
        None => form.of_any(a, b, start, c)?,
    };
    let (a, b, c) = (a.as_slice(), b.as_slice(), c.as_mut_slice());
    let strides = form.strides(sizes);
    Ok(compute(&mut Product { form, sizes, strides, first: 0, a, b, start, finish, c })?)
}

/// On as many threads as it is worth.
#[inline(always)]
fn compute<T: Scalar>(product: &mut Product<'_, T>) -> Result<(), MemoryError> {
    let sizes = product.sizes;
    if multiplications(sizes) < 2 * WORTH_A_THREAD || parallel::threads().get() == 1 {
        T::product(product)
    } else {
        shared(product)
    }
}

#[inline(always)]
fn multiplications(sizes: [usize; 3]) -> usize {
    sizes.into_iter().fold(1, usize::saturating_mul)
}

/// How many tasks a product is worth, and the rows of C for each.
fn tasks(sizes: [usize; 3]) -> (usize, usize) {
    let tasks = (multiplications(sizes) / WORTH_A_THREAD).clamp(1, parallel::threads().get());
    let rows = sizes[0].div_ceil(tasks).max(1);
    (sizes[0].div_ceil(rows), rows)
}

/// Rows of the result for each thread. An element's bits don't depend on the split, so it may follow their number.
///
/// All tasks pack into the caller's buffer, so there is memory for all of them or C isn't touched.
#[inline(never)]
fn shared<T: Scalar>(whole: &mut Product<'_, T>) -> Result<(), MemoryError> {
    let &mut Product { form, sizes, strides, a, b, start, finish, ref mut c, .. } = whole;
    let (tasks, rows) = tasks(sizes);
    let (ldc, len) = (strides[2], buffer_len(form, sizes, strides, rows).max(1));
    with_buffer(form.operation(), tasks * len, |buffer| {
        let parts = c.chunks_mut((rows * ldc).max(1)).zip(buffer.chunks_mut(len)).enumerate();
        parallel::for_each(parts, |(task, (c, buffer))| {
            T::product_within(
                &mut Product { form, sizes, strides, first: task * rows, a, b, start, finish, c },
                buffer,
            );
        });
    })
}

fn new_product<T: Scalar>(form: Form, a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>, TensorError> {
    let mut c = Tensor::default();
    product(form, a, b, Start::Zero, None, &mut c)?;
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σₚ A[i,p] B[p,j] + β C[i,j] by definition.
    fn triple_loop(
        [m, n, k]: [usize; 3],
        a: impl Fn(usize, usize) -> f64,
        b: impl Fn(usize, usize) -> f64,
        beta: f64,
        c: impl Fn(usize, usize) -> f64,
    ) -> Tensor<f64> {
        Tensor::from_fn([m, n], |at| {
            let (i, j) = (at[0], at[1]);
            (0..k).map(|p| a(i, p) * b(p, j)).sum::<f64>() + beta * c(i, j)
        })
        .unwrap()
    }

    /// Small whole numbers, so that every product is exact in both types and any order of summation.
    fn whole<T: Scalar>(rows: usize, columns: usize, salt: usize) -> Tensor<T> {
        Tensor::from_fn([rows, columns], |at| {
            let mixed = (at[0] * 31 + at[1] * 17 + salt * 7 + 3) * 2_654_435_761 % 1_000_003;
            T::from_f64((mixed % 9) as f64 - 4.0)
        })
        .unwrap()
    }

    fn at<T: Scalar>(t: &Tensor<T>) -> impl Fn(usize, usize) -> f64 {
        |i, j| t.get(&[i, j]).unwrap().to_f64()
    }

    fn check<T: Scalar>(sizes: [usize; 3]) {
        let [m, n, k] = sizes;
        for beta in [0.0, 1.0, -2.0] {
            let c0 = whole::<T>(m, n, 5);
            let poisoned = |c0: &Tensor<T>| match beta {
                0.0 => Tensor::full(c0.shape(), T::from_f64(f64::NAN)).unwrap(),
                _ => c0.clone(),
            };
            let same = |form: &str, c: &Tensor<T>, expected: &Tensor<f64>| {
                let c: Vec<f64> = c.as_slice().iter().map(|c| c.to_f64()).collect();
                assert_eq!(c, expected.as_slice(), "{form} {sizes:?} beta {beta}");
            };
            let b = T::from_f64(beta);

            let (x, y) = (whole::<T>(m, k, 1), whole::<T>(k, n, 2));
            let mut c = poisoned(&c0);
            matmul_into(&x, &y, b, &mut c).unwrap();
            same("nn", &c, &triple_loop(sizes, at(&x), at(&y), beta, at(&c0)));

            let (x, y) = (whole::<T>(m, k, 1), whole::<T>(n, k, 2));
            let mut c = poisoned(&c0);
            matmul_nt_into(&x, &y, b, &mut c).unwrap();
            let transposed = |p, j| at(&y)(j, p);
            same("nt", &c, &triple_loop(sizes, at(&x), transposed, beta, at(&c0)));

            let (x, y) = (whole::<T>(k, m, 1), whole::<T>(k, n, 2));
            let mut c = poisoned(&c0);
            matmul_tn_into(&x, &y, b, &mut c).unwrap();
            let transposed = |i, p| at(&x)(p, i);
            same("tn", &c, &triple_loop(sizes, transposed, at(&y), beta, at(&c0)));
        }
    }

    #[test]
    fn exact_for_whole_numbers_at_every_small_size_and_around_the_switch_of_kernels() {
        for m in 0..=9 {
            for n in 0..=9 {
                for k in 0..=9 {
                    check::<f32>([m, n, k]);
                    check::<f64>([m, n, k]);
                }
            }
        }
    }

    #[test]
    fn exact_for_large_and_skinny_shapes() {
        for sizes in [
            [1, 10, 784],
            [300, 1, 64],
            [64, 10, 32],
            [5, 200, 200],
            [6, 200, 200],
            [200, 5, 6],
            [200, 6, 5],
            [129, 65, 257],
            [2, 2, 5000],
            [1000, 3, 2],
        ] {
            check::<f32>(sizes);
            check::<f64>(sizes);
        }
    }

    #[test]
    fn a_bias_is_added_to_every_row() {
        for [m, n, k] in [[1, 1, 1], [2, 5, 0], [3, 40, 7], [50, 33, 300]] {
            let (x, w, b) = (whole::<f32>(m, k, 1), whole::<f32>(n, k, 2), whole::<f32>(1, n, 3));
            let b = b.reshape([n]).unwrap();
            let mut y = Tensor::full([m, n], f32::NAN).unwrap();
            affine_into(&x, &w, &b, &mut y).unwrap();
            let mut expected = x.matmul_nt(&w).unwrap();
            expected.add_to_rows(&b).unwrap();
            assert_eq!(y, expected);
        }
        let (x, w) = (whole::<f32>(2, 3, 1), whole::<f32>(4, 3, 2));
        let mut y = whole::<f32>(2, 4, 3);
        let before = y.clone();
        let error = affine_into(&x, &w, &Tensor::from([1.0; 3]), &mut y).unwrap_err();
        assert_eq!(error.to_string(), "matmul A·Bᵀ + b: expected a bias of [4], got [3]");
        assert!(affine_into(&x, &w, &Tensor::from([[1.0; 4]]), &mut y).is_err());
        assert!(affine_into(&w, &y, &Tensor::from([1.0; 2]), &mut y.clone()).is_err());
        assert_eq!(y, before);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let number = |at: &[usize]| ((at[0] * 31 + at[1] * 17) % 101) as f32 / 7.0;
        let a = Tensor::<f32>::from_fn([173, 160], number).unwrap();
        let b = Tensor::from_fn([170, 160], number).unwrap();
        let c = Tensor::from_fn([173, 170], number).unwrap();
        let results = [1, 2, 3, 7].map(|threads| {
            parallel::set_threads(threads.try_into().unwrap());
            let (nt, nn) = (a.matmul_nt(&b).unwrap(), c.matmul(&b).unwrap());
            let mut tn = b.clone();
            matmul_tn_into(&c, &a, 0.5, &mut tn).unwrap();
            (nt, nn, tn)
        });
        assert!(results.iter().all(|result| *result == results[0]));
    }

    #[test]
    fn leading_axes_are_rows() {
        let x = whole::<f32>(6, 4, 1).reshape([2, 3, 4]).unwrap();
        let w = whole::<f32>(7, 4, 2);
        let y = x.matmul_nt(&w).unwrap();
        assert_eq!(y.shape(), [2, 3, 7]);
        let flat = x.clone().reshape([6, 4]).unwrap().matmul_nt(&w).unwrap();
        assert_eq!(y.as_slice(), flat.as_slice());
        assert_eq!(x.matmul_tn(&y).unwrap().shape(), [4, 7]);
        let vector = Tensor::<f32>::zeros([4]).unwrap();
        assert_eq!(vector.matmul_nt(&w).unwrap().shape(), [7]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_and_c_is_kept() {
        let (a, b) = (whole::<f32>(2, 3, 1), whole::<f32>(4, 5, 2));
        let mut c = whole::<f32>(2, 5, 3);
        let before = c.clone();
        let error = matmul_into(&a, &b, 0.0, &mut c).unwrap_err();
        assert_eq!(error.to_string(), "matmul A·B: expected [_, 4], got [2, 3]");
        assert!(matmul_nt_into(&a, &b, 0.0, &mut c).is_err());
        let error = matmul_tn_into(&a, &b, 0.0, &mut c).unwrap_err();
        assert_eq!(error.to_string(), "matmul Aᵀ·B: expected [4, _], got [2, 3]");
        // The operands fit, the result doesn't.
        let error = matmul_into(&a, &whole(3, 6, 1), 1.0, &mut c).unwrap_err();
        assert_eq!(error.to_string(), "matmul A·B: expected a result of [2, 6], got [2, 5]");
        // As many elements are not enough.
        let mut turned = c.clone().reshape([5, 2]).unwrap();
        assert!(matmul_into(&a, &whole(3, 5, 1), 1.0, &mut turned).is_err());
        assert!(a.matmul(&Tensor::zeros([3]).unwrap()).is_err());
        let number = Tensor::scalar(1.0);
        assert!(number.matmul(&Tensor::zeros([1, 1]).unwrap()).is_err());
        assert!(number.matmul_tn(&a).is_err());
        assert_eq!(c, before);
    }

    #[test]
    fn inner_sizes_must_be_equal() {
        let zeros = |shape| Tensor::<f32>::zeros(shape).unwrap();
        for terms in [2, 4] {
            assert!(matmul_into(&zeros([1, 3]), &zeros([terms, 5]), 0.0, &mut zeros([1, 5])).is_err());
            assert!(matmul_nt_into(&zeros([1, 3]), &zeros([5, terms]), 0.0, &mut zeros([1, 5])).is_err());
            assert!(matmul_tn_into(&zeros([3, 1]), &zeros([terms, 5]), 0.0, &mut zeros([1, 5])).is_err());
        }
    }
}
