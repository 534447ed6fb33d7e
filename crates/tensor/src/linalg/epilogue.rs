use std::fmt;

/// A function applied to rows of a product that have just been written, while they are in the first-level
/// cache: an activation.
///
/// A handle on a closure, which keeps its values: a slope. There is one indirect call for a group of rows,
/// and the loop inside is compiled for its closure.
///
/// ```
/// use backrule_tensor::{Epilogue, Tensor, affine_activation_into, apply};
///
/// let slope = 0.5;
/// let leaky = |y: &mut [f32]| apply(y, |y| if y < 0.0 { slope * y } else { y });
/// let x = Tensor::from([[1.0, 2.0]]);
/// let w = Tensor::from([[3.0, 4.0], [-5.0, 1.0]]);
/// let mut y = Tensor::default();
/// affine_activation_into(&x, &w, None, Some(Epilogue::new(&leaky)), &mut y)?;
/// assert_eq!(y, Tensor::from([[11.0, -1.5]]));
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
pub struct Epilogue<'a, T>(&'a (dyn Fn(&mut [T]) + Sync + 'a));

impl<'a, T> Epilogue<'a, T> {
    /// A handle on `f`, which is called on any thread with whole rows or parts of them: each element of a
    /// product is in one of its calls.
    pub fn new(f: &'a (impl Fn(&mut [T]) + Sync)) -> Self {
        Self(f)
    }

    #[inline]
    pub(crate) fn apply(self, rows: &mut [T]) {
        (self.0)(rows);
    }

    /// Rows of `columns` elements that begin `stride` elements apart.
    #[inline]
    pub(crate) fn apply_to_rows(self, rows: &mut [T], columns: usize, stride: usize) {
        if columns == stride {
            self.apply(rows);
        } else {
            rows.chunks_mut(stride).for_each(|row| self.apply(&mut row[..columns]));
        }
    }
}

impl<T> Clone for Epilogue<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Epilogue<'_, T> {}

impl<T> fmt::Debug for Epilogue<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Epilogue")
    }
}
