//! A weight that is packed once, for predictions.

use crate::error::TensorError;
use crate::linalg::mat::MatRef;
use crate::linalg::pack::pack_transposed;
use crate::linalg::panels::Packed;
use crate::linalg::product::{Form, WIDEST, range_by};
use crate::linalg::rows::rows_of;
use crate::memory::with_room;
use crate::scalar::Scalar;
use crate::simd::{self, Kernel, Simd};

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
        let mut elements = with_room(OPERATION, len)?;
        elements.resize(len, T::ZERO);
        let start = elements.as_ptr().align_offset(64).min(WIDEST);
        let place = start..start + (len - WIDEST);
        simd::run(Pack { w, panels: &mut elements[place.clone()] });
        Ok(Self { shape, elements, place })
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
