//! Panels of a weight that was packed before.

use std::fmt;
use std::ops::Range;

/// A copy of W in y = x Wᵀ, in the order in which the products of a batch read it: they pack it each time,
/// and with a copy that stays, never. It takes the memory of W with its rows rounded up to 32.
///
/// A product takes it from [`MatRef::with_packed`](crate::MatRef::with_packed), and no bit of the result
/// changes.
///
/// ```
/// use backrule_tensor::Tensor;
/// use backrule_tensor::linalg::{Packed, affine};
///
/// let w: Tensor = Tensor::from([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]);
/// let packed = Packed::of(w.mat())?;
/// assert_eq!(packed.shape(), [3, 2]);
///
/// let x = Tensor::from([[1.0, 2.0], [10.0, 20.0]]);
/// let mut y = Tensor::zeros([2, 3])?;
/// affine(x.mat(), w.mat().with_packed(Some(&packed))?, None, None, y.mat_mut())?;
/// assert_eq!(y, Tensor::from([[11.0, 17.0, 23.0], [110.0, 170.0, 230.0]]));
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
#[derive(Clone)]
pub struct Packed<T> {
    pub(super) shape: [usize; 2],
    /// Panels of two registers' columns, and in each of them row after row.
    pub(super) elements: Vec<T>,
    /// Where the panels are: from a cache line on, where it was packed.
    pub(super) place: Range<usize>,
}

impl<T> Packed<T> {
    /// The shape of W: `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The bytes of the copy.
    pub fn bytes(&self) -> usize {
        self.elements.len() * size_of::<T>()
    }

    pub(super) fn panels(&self) -> Panels<'_, T> {
        Panels { elements: &self.elements[self.place.clone()], terms: self.shape[1], column: 0, term: 0 }
    }
}

/// Where a copy begins in its memory doesn't count.
impl<T: PartialEq> PartialEq for Packed<T> {
    fn eq(&self, other: &Self) -> bool {
        let panels = |packed: &Self| packed.place.clone();
        self.shape == other.shape && self.elements[panels(self)] == other.elements[panels(other)]
    }
}

impl<T> fmt::Debug for Packed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({:?})", self.shape)
    }
}

/// B of A·Bᵀ in panels, from a column and a term on.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, T> {
    elements: &'a [T],
    /// Of all terms of the sums.
    pub(super) terms: usize,
    column: usize,
    term: usize,
}

impl<'a, T> Panels<'a, T> {
    /// From so many columns and terms further on. A panel begins at the column, and a block at the term.
    pub(super) fn from(self, column: usize, term: usize) -> Self {
        Self { column: self.column + column, term: self.term + term, ..self }
    }

    /// The panels from column j and term p on: the next one is `terms` rows further on.
    #[inline(always)]
    pub(super) fn rows<const NR: usize>(self, j: usize, p: usize) -> &'a [[T; NR]] {
        &self.elements.as_chunks().0[(self.column + j) / NR * self.terms + self.term + p..]
    }
}
