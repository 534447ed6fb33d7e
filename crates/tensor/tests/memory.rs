//! Memory that the system refuses. Not beside the code: the allocator that counts there can't refuse any.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use backrule_tensor::{Shape, Tensor, TensorError, matmul_into, random};

/// A shape that fits the address space and no computer.
#[test]
fn memory_that_is_not_there_is_an_error_that_changes_nothing() {
    let huge = Shape::new(&[1 << 20, 1 << 38]).unwrap();
    let error = Tensor::<f32>::zeros(huge).unwrap_err();
    assert_eq!(error.to_string(), "new tensor: no memory for 1152921504606846976 bytes");
    assert!(matches!(error, TensorError::Memory(_)));
    assert!(Tensor::<f64>::full(huge, 1.0).is_err());
    assert!(Tensor::<f64>::from_fn(huge, |_| unreachable!()).is_err());
    let mut rng = random::rng(1);
    assert!(Tensor::<f32>::uniform(huge, 0.0, 1.0, &mut rng).is_err());
    assert!(Tensor::<f32>::normal(huge, 0.0, 1.0, &mut rng).is_err());
    let mut x = Tensor::from([[1.0_f32, 2.0]]);
    let error = x.resize(huge).unwrap_err();
    assert_eq!(error.to_string(), "resize: no memory for 1152921504606846976 bytes");
    assert_eq!(x, Tensor::from([[1.0, 2.0]]));
    // A tensor without columns is as long as one likes, and its product is too large.
    let (long, wide) = (Tensor::zeros([1 << 30, 0]).unwrap(), Tensor::zeros([0, 1 << 28]).unwrap());
    let error = matmul_into(&long, &wide, 0.0, &mut x).unwrap_err();
    assert_eq!(error.to_string(), "matmul A·B: no memory for 1152921504606846976 bytes");
    assert!(long.matmul(&wide).is_err());
    assert_eq!(x, Tensor::from([[1.0, 2.0]]));
}
