//! Products, softmax and sums of matrices that lie in slices: one head of attention, one time step, a sample's windows.
//!
//! ```
//! use backrule_tensor::linalg::{MatMut, MatRef, matmul};
//!
//! // Columns 2 and 3 of a matrix of four columns, times the transpose of a matrix.
//! let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
//! let right = MatRef::new(&x[2..], [2, 2])?.with_row_stride(4)?;
//! let w = MatRef::new(&[1.0, 1.0, 0.0, 1.0], [2, 2])?;
//! let mut y = [0.0; 4];
//! matmul(right, w.t(), 0.0, MatMut::new(&mut y, [2, 2])?)?;
//! assert_eq!(y, [7.0, 4.0, 15.0, 8.0]); // 3 + 4, 4, 7 + 8, 8
//! # Ok::<(), backrule_tensor::TensorError>(())
//! ```

mod epilogue;
mod mat;

pub use epilogue::Epilogue;
pub use mat::{MatMut, MatRef};

pub use crate::matmul::{affine, matmul};
pub use crate::rows::{
    add_to_rows, log_softmax_of_rows as log_softmax, softmax_of_rows as softmax, sum_of_rows,
};
