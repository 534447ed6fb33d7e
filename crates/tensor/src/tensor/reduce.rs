//! Sums, and the position of a row's largest element.

use crate::error::ShapeError;
use crate::in_default_mode;
use crate::kernels::bias;
use crate::kernels::sum::sum;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

impl<T: Scalar> Tensor<T> {
    /// Σ xᵢ, in a fixed order. In f32 |error| ≤ 4 ε Σ|xᵢ|, however many elements there are.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// assert_eq!(Tensor::from([[1.0_f32, 2.0], [3.0, 4.0]]).sum(), 10.0);
    /// ```
    pub fn sum(&self) -> T {
        in_default_mode!(self.sum());
        sum(self.as_slice())
    }

    /// Adds the sum of the rows of `x` to this row: db ← db + Σᵢ dyᵢ, the gradient of a bias. The error
    /// doesn't grow with the number of rows: in f32 it is at most 4 ε Σ|x| of each column, if the sum of any
    /// 32 rows is in the range of f32.
    ///
    /// # Errors
    /// When this tensor isn't as long as a row of `x`; it is unchanged then.
    pub fn add_sum_of_rows(&mut self, x: &Self) -> Result<(), ShapeError> {
        in_default_mode!(self.add_sum_of_rows(x));
        let columns = x.shape().columns();
        if self.shape() != [columns] {
            let expected = format_args!("[{columns}]");
            return Err(ShapeError::new("sum of rows", expected, self.shape()));
        }
        bias::add_sum_of_rows(x.as_slice(), columns, self.as_mut_slice());
        Ok(())
    }

    /// The position of the largest element of each row: the predicted classes. Of equal ones the first
    /// counts; NaN counts as largest, as in NumPy and PyTorch, so it shows.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let logits: Tensor = Tensor::from([[0.1, 2.0, -1.0], [3.0, 3.0, 0.0]]);
    /// assert_eq!(logits.argmax_rows().collect::<Vec<_>>(), [1, 0]);
    /// ```
    pub fn argmax_rows(&self) -> impl ExactSizeIterator<Item = usize> {
        self.rows().map(argmax)
    }
}

fn argmax<T: Scalar>(row: &[T]) -> usize {
    in_default_mode!(argmax(row));
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        if x > row[best] || (x.is_nan() && !row[best].is_nan()) {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_counts_every_element_once() {
        for n in [0, 1, 7, 8, 9, 100] {
            let x = Tensor::<f32>::from_fn([n], |at| at[0] as f32 + 1.0).unwrap();
            assert_eq!(x.sum(), (n * (n + 1) / 2) as f32);
        }
    }

    #[test]
    fn bias_and_its_gradient() {
        let mut y = Tensor::from([[1.0_f32, 2.0], [3.0, 4.0]]);
        y.add_to_rows(&Tensor::from([10.0, 20.0])).unwrap();
        assert_eq!(y, Tensor::from([[11.0, 22.0], [13.0, 24.0]]));
        let mut db = Tensor::from([1.0_f32, 1.0]);
        db.add_sum_of_rows(&y).unwrap();
        assert_eq!(db, Tensor::from([25.0, 47.0]));

        assert!(y.add_to_rows(&Tensor::from([1.0])).is_err());
        assert!(db.add_sum_of_rows(&Tensor::from([[1.0]])).is_err());
        let mut empty = Tensor::<f32>::zeros([2, 0]).unwrap();
        assert_eq!(empty.rows_mut().count(), 0);
        empty.add_to_rows(&Tensor::zeros([0]).unwrap()).unwrap();
    }

    #[test]
    fn argmax_shows_nan_and_takes_the_first_of_equals() {
        let nan = f32::NAN;
        let x = Tensor::from([[1.0, 1.0, 0.0], [0.0, nan, 9.0], [nan, nan, 1.0], [f32::NEG_INFINITY; 3]]);
        assert_eq!(x.argmax_rows().collect::<Vec<_>>(), [0, 1, 0, 0]);
    }
}
