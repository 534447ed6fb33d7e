//! Element-wise operations, in place or into a tensor that exists: the rules of layers run on these.

use crate::error::{ShapeError, TensorError};
use crate::kernels::twofold;
use crate::scalar::Scalar;
use crate::simd::kernel;
use crate::tensor::Tensor;
use crate::{in_default_mode, parallel};

kernel!(
    /// xᵢ ← f(xᵢ)
    fn apply_to<T: Scalar, F: Fn(T) -> T>(x: &mut [T], f: F) {
        for x in x {
            *x = f(*x);
        }
    }
);

kernel!(
    /// yᵢ = f(xᵢ)
    fn map<T: Scalar, F: Fn(T) -> T>(x: &[T], y: &mut [T], f: F) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f(x);
        }
    }
);

kernel!(
    /// yᵢ = f(aᵢ, bᵢ)
    fn zip<T: Scalar, F: Fn(T, T) -> T>(a: &[T], b: &[T], y: &mut [T], f: F) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = f(a, b);
        }
    }
);

kernel!(
    /// yᵢ ← yᵢ + xᵢ
    fn add<T: Scalar>(x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
);

kernel!(
    /// y + low ← y + low + x
    fn add_twofold<T: Scalar>(y: &mut [T], low: &mut [T], x: &[T]) {
        for ((y, low), &x) in y.iter_mut().zip(low).zip(x) {
            twofold::add(y, low, x);
        }
    }
);

/// Elements of a task.
const CHUNK: usize = 1 << 14;

/// xᵢ ← f(xᵢ)
///
/// ```
/// let mut x = [1.0_f32, -2.0];
/// backrule_tensor::apply(&mut x, |x| x * x);
/// assert_eq!(x, [1.0, 4.0]);
/// ```
pub fn apply<T: Scalar>(x: &mut [T], f: impl Fn(T) -> T) {
    in_default_mode!(apply(x, f));
    apply_to(x, f);
}

impl<T: Scalar> Tensor<T> {
    /// Sets every element to `value`.
    pub fn fill(&mut self, value: T) {
        self.as_mut_slice().fill(value);
    }

    /// xᵢ ← f(xᵢ)
    pub fn apply(&mut self, f: impl Fn(T) -> T) {
        apply(self.as_mut_slice(), f);
    }

    /// yᵢ = f(xᵢ), where y takes x's shape.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let x: Tensor = Tensor::from([[-1.0, 2.0]]);
    /// let mut y = Tensor::default();
    /// y.map_from(&x, |x| x * x)?;
    /// assert_eq!(y, Tensor::from([[1.0, 4.0]]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When there is no memory for y, which is unchanged then.
    pub fn map_from(&mut self, x: &Self, f: impl Fn(T) -> T) -> Result<(), TensorError> {
        in_default_mode!(self.map_from(x, f));
        self.resize_for("element-wise operation", x.shape())?;
        map(x.as_slice(), self.as_mut_slice(), f);
        Ok(())
    }

    /// yᵢ = f(aᵢ, bᵢ), where y takes the shape of a and b.
    ///
    /// ```
    /// use backrule_tensor::Tensor;
    ///
    /// let (a, b): (Tensor, Tensor) = (Tensor::from([1.0, 2.0]), Tensor::from([3.0, 4.0]));
    /// let mut y = Tensor::default();
    /// y.zip_from(&a, &b, |a, b| a * b)?;
    /// assert_eq!(y, Tensor::from([3.0, 8.0]));
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// When the shapes of a and b differ, or there is no memory for y, which is unchanged then.
    pub fn zip_from(&mut self, a: &Self, b: &Self, f: impl Fn(T, T) -> T) -> Result<(), TensorError> {
        in_default_mode!(self.zip_from(a, b, f));
        a.expect_shape_of(b, "element-wise operation")?;
        self.resize_for("element-wise operation", a.shape())?;
        zip(a.as_slice(), b.as_slice(), self.as_mut_slice(), f);
        Ok(())
    }

    /// yᵢ ← yᵢ + xᵢ
    ///
    /// # Errors
    /// When the shapes differ; y is unchanged then.
    pub fn add(&mut self, x: &Self) -> Result<(), ShapeError> {
        in_default_mode!(self.add(x));
        x.expect_shape_of(self, "addition")?;
        add(x.as_slice(), self.as_mut_slice());
        Ok(())
    }

    /// yᵢ ← yᵢ + xᵢ, where y is the sum of `terms` tensors already. From the ninth on, `low` has the lower
    /// half of the sum; its contents before that don't matter.
    ///
    /// # Errors
    /// When the shapes differ, or there is no memory for `low`; y is unchanged then.
    #[doc(hidden)]
    pub fn add_term(&mut self, low: &mut Self, terms: u32, x: &Self) -> Result<(), TensorError> {
        if terms < twofold::IN_ORDER {
            return Ok(self.add(x)?);
        }
        in_default_mode!(self.add_term(low, terms, x));
        x.expect_shape_of(self, "addition")?;
        if terms == twofold::IN_ORDER {
            low.resize_for("addition", x.shape())?;
            low.fill(T::ZERO);
        }
        low.expect_shape_of(self, "addition")?;
        let sums = self.as_mut_slice().chunks_mut(CHUNK).zip(low.as_mut_slice().chunks_mut(CHUNK));
        parallel::for_each(sums.zip(x.as_slice().chunks(CHUNK)), |((y, low), x)| add_twofold(y, low, x));
        Ok(())
    }

    /// xᵢ ← factor xᵢ
    pub fn scale(&mut self, factor: T) {
        self.apply(|x| x * factor);
    }

    fn expect_shape_of(&self, other: &Self, operation: &'static str) -> Result<(), ShapeError> {
        if self.shape() == other.shape() {
            Ok(())
        } else {
            Err(ShapeError::new(operation, other.shape(), self.shape()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_place_and_into() {
        let mut x = Tensor::from([[1.0_f64, -2.0, 3.0]]);
        x.scale(2.0);
        x.apply(|x| x + 1.0);
        x.add(&Tensor::from([[0.5, 0.5, 0.5]])).unwrap();
        assert_eq!(x, Tensor::from([[3.5, -2.5, 7.5]]));
        x.fill(4.0);
        assert_eq!(x, Tensor::from([[4.0, 4.0, 4.0]]));
    }

    #[test]
    fn different_shapes_are_refused_and_nothing_changes() {
        let (a, b) = (Tensor::from([[1.0_f32, 2.0]]), Tensor::from([1.0_f32, 2.0]));
        let mut y = Tensor::from([9.0_f32]);
        let error = y.zip_from(&a, &b, |a, _| a).unwrap_err();
        let text = "element-wise operation: expected [2], got [1, 2]";
        assert_eq!(error.to_string(), text);
        let error = y.add(&a).unwrap_err();
        assert_eq!(error.to_string(), "addition: expected [1], got [1, 2]");
        assert_eq!(y, Tensor::from([9.0]));
    }
}
