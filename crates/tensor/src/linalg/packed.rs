//! A weight that is packed once, for predictions.

use std::fmt;

use crate::error::TensorError;
use crate::linalg::mat::MatRef;
use crate::linalg::pack::pack_transposed;
use crate::linalg::product::{Form, WIDEST, range_by};
use crate::linalg::rows::rows_of;
use crate::memory::reserve;
use crate::scalar::Scalar;
use crate::simd::{self, Kernel, Simd};

/// A copy of W in y = x Wᵀ, in the order in which the products of a batch read it: they pack it each time,
/// and with a copy that stays, never. It has as many bytes as W, of which the last columns are padded.
///
/// A product takes it from [`MatRef::with_packed`], and no bit of the result changes.
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
#[derive(Clone, PartialEq)]
pub struct Packed<T> {
    shape: [usize; 2],
    /// Panels of two registers' columns, and in each of them row after row.
    elements: Vec<T>,
    /// Where the first panel begins: at a cache line, where it was packed.
    start: usize,
}

impl<T: Scalar> Packed<T> {
    /// Packs a matrix `[out, in]`, whose rows lie contiguous.
    ///
    /// # Errors
    /// When W is transposed, or there is no memory.
    pub fn of(w: MatRef<'_, T>) -> Result<Self, TensorError> {
        const OPERATION: &str = "packing a weight";
        let w = rows_of(OPERATION, w)?;
        let shape @ [columns, terms] = w.shape();
        let len = columns.next_multiple_of(WIDEST).saturating_mul(terms).saturating_add(WIDEST);
        let mut elements = Vec::new();
        reserve(OPERATION, &mut elements, len)?;
        elements.resize(len, T::ZERO);
        let start = elements.as_ptr().align_offset(64).min(WIDEST);
        simd::run(Pack { w, panels: &mut elements[start..] });
        Ok(Self { shape, elements, start })
    }

    /// The shape of W: `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The bytes of the copy.
    pub fn bytes(&self) -> usize {
        self.elements.len() * size_of::<T>()
    }

    pub(super) fn panels(&self) -> Panels<'_, T> {
        Panels { elements: &self.elements[self.start..], terms: self.shape[1], column: 0, term: 0 }
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

/// Writes the panels that this processor's tiles read.
struct Pack<'a, T> {
    w: MatRef<'a, T>,
    panels: &'a mut [T],
}

impl<T: Scalar> Kernel for Pack<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        match 2 * S::BYTES / size_of::<T>() {
            32 => self.panels::<S, 32>(),
            16 => self.panels::<S, 16>(),
            8 => self.panels::<S, 8>(),
            _ => self.panels::<S, 4>(),
        }
    }
}

impl<T: Scalar> Pack<'_, T> {
    #[inline(always)]
    fn panels<S: Simd, const NR: usize>(self) {
        let (w, ldb, [n, k]) = (self.w.elements(), self.w.row_stride(), self.w.shape());
        if k == 0 {
            return;
        }
        let (panels, _) = self.panels.as_chunks_mut::<NR>();
        let kc = Form::Nt.block();
        for (j, panel) in range_by(0, n, NR).zip(panels.chunks_exact_mut(k)) {
            for (p, block) in range_by(0, k, kc).zip(panel.chunks_mut(kc)) {
                pack_transposed::<T, S, NR>(Form::Nt, &w[j * ldb + p..], ldb, NR.min(n - j), block);
            }
        }
    }
}
