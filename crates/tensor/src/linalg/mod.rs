//! Products, softmax and sums of matrices that lie in slices: one head of attention, one time step, a
//! sample's windows.
//!
//! ```
//! use backrule_tensor::linalg::{MatMut, MatRef, matmul};
//!
//! // Columns 2 and 3 of a matrix of four columns, times the transpose of a matrix.
//! let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
//! let right = MatRef::new(&x[2..], [2, 2])?.with_row_stride(4)?;
//! let w = MatRef::new(&[1.0, 1.0, 0.0, 1.0], [2, 2])?;
//! let mut y = [0.0; 4];
//! matmul(right, w.t(), 0.0, MatMut::new(&mut y, [2, 2])?)?;
//! assert_eq!(y, [7.0, 4.0, 15.0, 8.0]); // 3 + 4, 4, 7 + 8, 8
//! # Ok::<(), backrule_tensor::TensorError>(())
//! ```

mod dispatch;
mod epilogue;
mod gemm;
mod gemv;
mod ger;
mod gevm;
mod groups;
pub(crate) mod mat;
mod microkernel;
mod pack;
mod packed;
pub(crate) mod panels;
mod product;
mod rows;
mod small;
mod split;
mod sum_of_products;
#[cfg(test)]
mod tests;
mod workspace;

pub use epilogue::Epilogue;
pub use mat::{MatMut, MatRef};
pub use panels::Packed;
pub use rows::{add_to_rows, log_softmax, softmax, sum_of_rows};
pub use sum_of_products::SumOfProducts;
#[doc(hidden)]
pub use workspace::Workspace;

use crate::error::{ShapeError, TensorError};
use crate::in_default_mode;
use crate::linalg::product::{Form, Initial, Product};
use crate::linalg::split::{compute, prepare};
use crate::scalar::Scalar;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// C = A·B + β C for A `[.., k]`, B `[k, n]`, C `[.., n]`.
///
/// In a dense layer this is ∂l/∂x = ∂l/∂y·W. With β = 0, C is only written: it takes the product's shape, and
/// NaN in it doesn't spread.
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
/// When B, or with β ≠ 0 C, doesn't have the shape above, or there is no memory for C or for packed operands.
/// C is unchanged then.
pub fn matmul_into<T: Scalar>(
    a: &Tensor<T>,
    b: &Tensor<T>,
    beta: T,
    c: &mut Tensor<T>,
) -> Result<(), TensorError> {
    in_default_mode!(matmul_into(a, b, beta, c));
    product(Form::Nn, a, b, Initial::beta(beta), None, c)
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
    in_default_mode!(matmul_nt_into(a, b, beta, c));
    product(Form::Nt, a, b, Initial::beta(beta), None, c)
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
    in_default_mode!(matmul_tn_into(a, b, beta, c));
    product(Form::Tn, a, b, Initial::beta(beta), None, c)
}

/// Y = X·Wᵀ + b for X `[.., in]`, W `[out, in]`, b `[out]`: a dense layer in one pass over Y, which takes the
/// shape `[.., out]`.
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
/// When W or b doesn't have the shape above, or there is no memory for Y or for packed operands. Y is
/// unchanged then.
pub fn affine_into<T: Scalar>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    b: &Tensor<T>,
    y: &mut Tensor<T>,
) -> Result<(), TensorError> {
    affine_activation_into(x, w, Some(b), None, y)
}

/// Y = f(X·Wᵀ + b), as [`affine_into`], and an element-wise f in place: an [`Epilogue`] on rows of Y that
/// have just been written, and are in the first-level cache. Without b it is 0.
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
    in_default_mode!(affine_activation_into(x, w, b, f, y));
    let initial = match b {
        Some(b) if w.shape().rank() != 2 || b.shape() != w.shape()[..1] => {
            let outputs = Form::Nt.shape(x.shape(), w.shape())?.columns();
            let expected = format_args!("a bias of [{outputs}]");
            return Err(ShapeError::new("matmul A·Bᵀ + b", expected, b.shape()).into());
        }
        Some(b) => Initial::Bias(b.as_slice()),
        None => Initial::Zero,
    };
    product(Form::Nt, x, w, initial, f, y)
}

/// C = A·B + β C for matrices in slices, each of which may be transposed, but not both A and B.
///
/// With β = 0, C is only written. An element has the bits that it would have in tensors of its own.
///
/// # Errors
/// When the shapes don't fit, A and B are both transposed (Aᵀ·Bᵀ is the transpose of B·A), or there is no
/// memory for packed operands. C is unchanged then.
pub fn matmul<T: Scalar>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    beta: T,
    c: MatMut<'_, T>,
) -> Result<(), TensorError> {
    in_default_mode!(matmul(a, b, beta, c));
    product_of_mats(a, b, Initial::beta(beta), None, c)
}

/// C = f(X·Wᵀ + b) for X `[rows, in]`, W `[out, in]`, b of `out` elements, C `[rows, out]`, which is only
/// written: a dense layer of matrices in slices.
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
    in_default_mode!(affine(x, w, b, epilogue, c));
    let outputs = w.shape()[0];
    let initial = match b {
        Some(b) if b.len() != outputs => {
            let expected = format_args!("a bias of [{outputs}]");
            return Err(ShapeError::new("matmul A·Bᵀ + b", expected, format_args!("[{}]", b.len())).into());
        }
        Some(b) => Initial::Bias(b),
        None => Initial::Zero,
    };
    product_of_mats(x, w.t(), initial, epilogue, c)
}

fn product_of_mats<T: Scalar>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    initial: Initial<'_, T>,
    epilogue: Option<Epilogue<'_, T>>,
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
    let panels = if let Form::Nt = form { b.packed().map(Packed::panels) } else { None };
    let (a, b, c) = (a.elements(), b.elements(), c.into_elements());
    Ok(compute(&mut Product {
        form,
        sizes: [m, n, k],
        strides,
        first: 0,
        rows: m,
        a,
        b,
        panels,
        initial,
        epilogue,
        c,
    })?)
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

    /// m, n and k of C = A·B for matrices, if they fit. Most products need no other check, and this one makes
    /// no shape.
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

    /// The same for any axes. Without β C, the result takes the product's shape.
    #[cold]
    fn of_any<T: Scalar>(
        self,
        a: &Tensor<T>,
        b: &Tensor<T>,
        initial: Initial<'_, T>,
        c: &mut Tensor<T>,
    ) -> Result<[usize; 3], TensorError> {
        let shape = self.shape(a.shape(), b.shape())?;
        let k = match self {
            Self::Nn | Self::Nt => a.shape().columns(),
            Self::Tn => a.shape().rows(),
        };
        let sizes = [shape.rows(), shape.columns(), k];
        if c.shape() != shape {
            if let Initial::Beta(_) = initial {
                let expected = format_args!("a result of {shape}");
                return Err(ShapeError::new(self.operation(), expected, c.shape()).into());
            }
            // The buffer first: if there is none, C is as it was.
            prepare::<T>(self, sizes)?;
            c.resize_for(self.operation(), shape)?;
        }
        Ok(sizes)
    }
}

/// Inlined: a copy of `initial` would stall on store forwarding, for as long as a small product takes.
#[inline(always)]
fn product<T: Scalar>(
    form: Form,
    a: &Tensor<T>,
    b: &Tensor<T>,
    initial: Initial<'_, T>,
    epilogue: Option<Epilogue<'_, T>>,
    c: &mut Tensor<T>,
) -> Result<(), TensorError> {
    let sizes = match form.of_matrices(a.axes(), b.axes(), c.axes()) {
        Some(sizes) => sizes,
        None => form.of_any(a, b, initial, c)?,
    };
    let (a, b, c) = (a.as_slice(), b.as_slice(), c.as_mut_slice());
    let strides = form.strides(sizes);
    let (first, rows, panels) = (0, sizes[0], None);
    Ok(compute(&mut Product { form, sizes, strides, first, rows, a, b, panels, initial, epilogue, c })?)
}

fn new_product<T: Scalar>(form: Form, a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>, TensorError> {
    in_default_mode!(new_product(form, a, b));
    let mut c = Tensor::default();
    product(form, a, b, Initial::Zero, None, &mut c)?;
    Ok(c)
}
