use crate::error::ShapeError;
use crate::in_default_mode;
use crate::kernels::bias;
use crate::kernels::softmax::{Rule, forward_strided};
use crate::linalg::mat::{MatMut, MatRef};
use crate::scalar::Scalar;

/// db ← β db + Σᵢ xᵢ over the rows xᵢ of a matrix in a slice, as
/// [`Tensor::add_sum_of_rows`](crate::Tensor::add_sum_of_rows). With β = 0, db is only written.
///
/// ```
/// use backrule_tensor::linalg::{MatRef, sum_of_rows};
///
/// let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let mut db = [f32::NAN; 2];
/// sum_of_rows(MatRef::new(&x, [2, 2])?.with_row_stride(3)?, 0.0, &mut db)?;
/// assert_eq!(db, [5.0, 7.0]); // 1 + 4, 2 + 5
/// # Ok::<(), backrule_tensor::ShapeError>(())
/// ```
///
/// # Errors
/// When db isn't as long as a row, or x is transposed; db is unchanged then.
pub fn sum_of_rows<T: Scalar>(x: MatRef<'_, T>, beta: T, db: &mut [T]) -> Result<(), ShapeError> {
    in_default_mode!(sum_of_rows(x, beta, db));
    let x = rows_of("sum of rows", x)?;
    let [_, columns] = x.shape();
    if db.len() != columns {
        return Err(ShapeError::new(
            "sum of rows",
            format_args!("[{columns}]"),
            format_args!("[{}]", db.len()),
        ));
    }
    if beta == T::ZERO {
        db.fill(T::ZERO);
    } else if beta != T::ONE {
        db.iter_mut().for_each(|db| *db *= beta);
    }
    bias::add_sum_of_rows(x.elements(), x.row_stride(), db);
    Ok(())
}

/// Adds b to every row of a matrix in a slice, as [`Tensor::add_to_rows`](crate::Tensor::add_to_rows).
///
/// # Errors
/// When b isn't as long as a row; y is unchanged then.
pub fn add_to_rows<T: Scalar>(b: &[T], mut y: MatMut<'_, T>) -> Result<(), ShapeError> {
    in_default_mode!(add_to_rows(b, y));
    let [rows, columns] = y.shape();
    if b.len() != columns {
        return Err(ShapeError::new(
            "addition to rows",
            format_args!("[{columns}]"),
            format_args!("[{}]", b.len()),
        ));
    }
    if y.is_contiguous() {
        bias::add_to_rows(b, y.into_elements());
    } else {
        (0..rows).for_each(|i| bias::add_to_rows(b, y.row_mut(i)));
    }
    Ok(())
}

/// The [`softmax`](crate::softmax) of each row of x.
///
/// # Errors
/// When the shapes differ, or x is transposed; p is unchanged then.
pub fn softmax<T: Scalar>(x: MatRef<'_, T>, p: MatMut<'_, T>) -> Result<(), ShapeError> {
    rule_of_rows("softmax", x, p, Rule::Softmax)
}

/// The [`log_softmax`](crate::log_softmax) of each row of x.
///
/// # Errors
/// When the shapes differ, or x is transposed; y is unchanged then.
pub fn log_softmax<T: Scalar>(x: MatRef<'_, T>, y: MatMut<'_, T>) -> Result<(), ShapeError> {
    rule_of_rows("log-softmax", x, y, Rule::LogSoftmax)
}

fn rule_of_rows<T: Scalar>(
    operation: &'static str,
    x: MatRef<'_, T>,
    y: MatMut<'_, T>,
    rule: Rule,
) -> Result<(), ShapeError> {
    in_default_mode!(rule_of_rows(operation, x, y, rule));
    let x = rows_of(operation, x)?;
    let ([_, columns], strides) = (x.shape(), [x.row_stride(), y.row_stride()]);
    if x.shape() != y.shape() {
        return Err(ShapeError::new(
            operation,
            format_args!("{:?}", x.shape()),
            format_args!("{:?}", y.shape()),
        ));
    }
    forward_strided(x.elements(), y.into_elements(), columns, strides, rule);
    Ok(())
}

/// x, if its rows lie contiguous.
pub(super) fn rows_of<'a, T: Scalar>(
    operation: &'static str,
    x: MatRef<'a, T>,
) -> Result<MatRef<'a, T>, ShapeError> {
    if x.is_transposed() { Err(ShapeError::new(operation, "rows", "a transposed matrix")) } else { Ok(x) }
}
