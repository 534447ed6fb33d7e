use backrule_tensor::{NamedTensors, Scalar, Tensor};

/// Paths, shapes and bits of tensors: unlike ==, this tells −0 from 0 and holds for NaN.
pub type Bits = Vec<(String, Vec<usize>, Vec<u64>)>;

/// The bits of all tensors, or of a single one.
pub fn bits<T: Scalar>(tensors: &(impl NamedTensors<T> + ?Sized)) -> Bits {
    let of = |x: &Tensor<T>| x.as_slice().iter().map(|x| x.to_f64().to_bits()).collect();
    tensors.tensors().into_iter().map(|(path, x)| (path, x.shape().to_vec(), of(x))).collect()
}
