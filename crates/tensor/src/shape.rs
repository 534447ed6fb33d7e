use std::fmt;
use std::ops::Deref;

use crate::error::ShapeError;

/// The largest number of axes that a tensor can have.
pub const MAX_RANK: usize = 6;

/// The most elements (of 8 bytes each) that a buffer can hold.
const MAX_ELEMENTS: usize = isize::MAX as usize / 8;

/// The sizes of a tensor's axes, outermost first: `[batch, features]`, `[batch, channels, height, width]`.
///
/// A `Shape` is proof that a tensor of it can exist: at most [`MAX_RANK`] axes, and an element count that
/// fits the address space. It is `Copy` and lives on the stack, so shapes allocate nothing. It derefs to
/// `[usize]`.
///
/// ```
/// use backrule_tensor::Shape;
///
/// let shape = Shape::new(&[32, 784])?;
/// assert_eq!((shape.rank(), shape.elements(), shape[1]), (2, 25_088, 784));
/// assert_eq!(shape.to_string(), "[32, 784]");
/// assert!(Shape::new(&[usize::MAX, 2]).is_err());
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
#[derive(Clone, Copy, Eq)]
pub struct Shape {
    /// Sizes beyond `rank` are 0.
    sizes: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The shape of a single number: no axes, one element.
    pub const SCALAR: Self = Self { sizes: [0; MAX_RANK], rank: 0 };

    /// One axis of size 0: no elements.
    pub const EMPTY: Self = Self { sizes: [0; MAX_RANK], rank: 1 };

    /// Checks `sizes` and keeps them.
    ///
    /// # Errors
    /// When there are more than [`MAX_RANK`] axes, or the product of the sizes other than 0 overflows the
    /// address space.
    pub fn new(sizes: &[usize]) -> Result<Self, ShapeError> {
        let mut shape = Self::SCALAR;
        let Some(kept) = shape.sizes.get_mut(..sizes.len()) else {
            let expected = format!("at most {MAX_RANK} axes");
            return Err(ShapeError::new("shape", expected, format_args!("{sizes:?}")));
        };
        kept.iter_mut().zip(sizes).for_each(|(kept, &size)| *kept = size);
        shape.rank = sizes.len();
        shape.checked()
    }

    /// This shape, if there can be a tensor of it.
    fn checked(self) -> Result<Self, ShapeError> {
        // Sizes of 0 are left out: rows() may have to return the product of the others.
        let elements = (self.iter().filter(|&&size| size > 0))
            .try_fold(1_usize, |product, &size| product.checked_mul(size));
        match elements {
            Some(elements) if elements <= MAX_ELEMENTS => Ok(self),
            _ => Err(ShapeError::new(
                "shape",
                format_args!("at most {MAX_ELEMENTS} elements"),
                format_args!("{self:?}"),
            )),
        }
    }

    /// The shape of values that exist already. Their sizes can only overflow when there are no elements.
    pub(crate) fn of_existing(sizes: &[usize]) -> Self {
        Self::new(sizes).unwrap_or(Self::EMPTY)
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of elements: the product of all sizes, 1 without axes.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// The number of rows when all axes but the last are read as one: the samples of a batch. 1 without axes.
    pub fn rows(&self) -> usize {
        self[..self.rank.saturating_sub(1)].iter().product()
    }

    /// The size of the last axis: the features of a sample. 1 without axes.
    pub fn columns(&self) -> usize {
        self.last().copied().unwrap_or(1)
    }

    /// The same shape with `columns` as the size of its last axis: the shape of a dense layer's
    /// output.
    ///
    /// # Errors
    /// When there is no last axis, or the new shape would overflow (see [`Shape::new`]).
    pub fn with_columns(mut self, columns: usize) -> Result<Self, ShapeError> {
        if self.rank == 0 {
            return Err(ShapeError::new("shape", "at least one axis", self));
        }
        self.sizes[self.rank - 1] = columns;
        self.checked()
    }
}

/// Not derived: that would call `memcmp`, which takes longer than comparing the few numbers. Sizes behind
/// the last axis are 0, so there is one loop of a fixed length.
impl PartialEq for Shape {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let sizes = self.sizes.iter().zip(&other.sizes);
        self.rank == other.rank && sizes.fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl std::hash::Hash for Shape {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl Deref for Shape {
    type Target = [usize];

    #[inline]
    fn deref(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Shape {
    fn eq(&self, other: &[usize; N]) -> bool {
        **self == other[..]
    }
}

impl PartialEq<[usize]> for Shape {
    #[inline]
    fn eq(&self, other: &[usize]) -> bool {
        self.rank == other.len() && self.iter().zip(other).all(|(a, b)| a == b)
    }
}

/// A shape as an argument: a [`Shape`], an array such as `[32, 784]`, or a slice.
pub trait IntoShape {
    /// The checked shape.
    ///
    /// # Errors
    /// Those of [`Shape::new`].
    fn into_shape(self) -> Result<Shape, ShapeError>;
}

impl IntoShape for Shape {
    fn into_shape(self) -> Result<Shape, ShapeError> {
        Ok(self)
    }
}

impl IntoShape for &Shape {
    fn into_shape(self) -> Result<Shape, ShapeError> {
        Ok(*self)
    }
}

impl IntoShape for &[usize] {
    fn into_shape(self) -> Result<Shape, ShapeError> {
        Shape::new(self)
    }
}

impl<const N: usize> IntoShape for [usize; N] {
    fn into_shape(self) -> Result<Shape, ShapeError> {
        Shape::new(&self)
    }
}

impl<const N: usize> IntoShape for &[usize; N] {
    fn into_shape(self) -> Result<Shape, ShapeError> {
        Shape::new(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_rows_columns_and_elements() {
        for (sizes, rows, columns, elements) in [
            (&[][..], 1, 1, 1),
            (&[5], 1, 5, 5),
            (&[2, 3], 2, 3, 6),
            (&[2, 3, 4], 6, 4, 24),
            (&[0, 3], 0, 3, 0),
            (&[3, 0], 3, 0, 0),
        ] {
            let shape = Shape::new(sizes).unwrap();
            let counts = (shape.rows(), shape.columns(), shape.elements());
            assert_eq!(counts, (rows, columns, elements), "{shape}");
        }
    }

    #[test]
    fn refuses_what_cannot_exist() {
        assert!(Shape::new(&[1; MAX_RANK]).is_ok());
        let error = Shape::new(&[1; MAX_RANK + 1]).unwrap_err();
        assert_eq!(error.to_string(), "shape: expected at most 6 axes, got [1, 1, 1, 1, 1, 1, 1]");
        assert!(Shape::new(&[MAX_ELEMENTS]).is_ok());
        assert!(Shape::new(&[MAX_ELEMENTS + 1]).is_err());
        assert!(Shape::new(&[1 << 32, 1 << 32]).is_err());
        // A size of 0 must not hide an overflow of rows().
        assert!(Shape::new(&[1 << 32, 1 << 32, 0]).is_err());
        assert!(Shape::new(&[0, 1 << 32, 1 << 32]).is_err());
        assert!(Shape::SCALAR.with_columns(3).is_err());
        assert!(Shape::new(&[1 << 32, 2]).unwrap().with_columns(1 << 32).is_err());
    }

    #[test]
    fn equality_ignores_unused_axes() {
        let shape = Shape::new(&[2, 3]).unwrap().with_columns(4).unwrap();
        assert_eq!(shape, Shape::new(&[2, 4]).unwrap());
        assert_eq!(shape, [2, 4]);
        assert_ne!(shape, [2, 4, 1]);
    }
}
