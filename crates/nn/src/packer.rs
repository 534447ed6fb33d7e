//! The packer of the weights of a network that only predicts.

use backrule_tensor::Scalar;
use backrule_tensor::linalg::{MatRef, Packed};

use crate::error::LayerError;

/// Packs the weights of a network's copy: [`Prepared::of`](crate::Prepared::of) hands it to
/// [`Layer::prepare`](crate::Layer::prepare). Nobody else can make one, so only a network that never changes
/// is ever packed.
#[derive(Debug)]
pub struct Packer {
    pub(crate) bytes: usize,
}

impl Packer {
    /// W `[out, in]` of a product x Wᵀ, packed: [`MatRef::with_packed`] hands it to the product.
    ///
    /// # Errors
    /// When W is transposed, or there is no memory.
    pub fn pack<T: Scalar>(&mut self, w: MatRef<'_, T>) -> Result<Packed<T>, LayerError> {
        let packed = Packed::of(w)?;
        self.bytes += packed.bytes();
        Ok(packed)
    }
}
