use std::fmt::{self, Debug, Display, Formatter};
use std::ops::{Deref, DerefMut};

use crate::error::TensorError;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// ∂l/∂θ of one parameter: a tensor that backward passes add to, and that an optimiser's step uses up.
///
/// **A gradient that is used up is zero**, and it costs nothing to make it so: no zeros are written, which would be a sixth of
/// what an update with momentum moves through memory, and the next backward pass overwrites what was used instead of reading
/// it and adding to it.
///
/// To a backward rule a gradient is a tensor to add to: whoever borrows the tensor mutably finds zeros in it, which are
/// written first if need be. A rule that computes c ← β c + …, as products do, saves that with
/// [`accumulate`](Self::accumulate).
///
/// ```
/// use backrule_tensor::{Grad, Tensor, matmul_tn_into};
///
/// let (dy, x) = (Tensor::from([[1.0], [2.0]]), Tensor::from([[3.0], [4.0]]));
/// let mut dw: Grad<f64> = Grad::zeros_like(&Tensor::from([[0.0]]))?;
/// dw.accumulate(|beta, dw| matmul_tn_into(&dy, &x, beta, dw))?; // dw = dyᵀ x
/// assert_eq!(dw, Tensor::from([[11.0]])); // 1·3 + 2·4
/// dw.accumulate(|beta, dw| matmul_tn_into(&dy, &x, beta, dw))?;
/// assert_eq!(dw, Tensor::from([[22.0]]));
///
/// dw.use_up();
/// assert_eq!(dw, Tensor::from([[0.0]]));
/// dw.apply(|dw| dw + 5.0);
/// assert_eq!(dw, Tensor::from([[5.0]]));
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
///
/// Whoever only **reads** the tensor of a gradient that is used up still finds there what was used: something to look at
/// after a step, such as `grad.as_slice()`. Comparing and printing a gradient take it for the zeros that it is.
#[derive(Clone)]
pub struct Grad<T: Scalar = f32> {
    tensor: Tensor<T>,
    used_up: bool,
}

impl<T: Scalar> Grad<T> {
    /// Zeros of the shape of a parameter.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn zeros_like(parameter: &Tensor<T>) -> Result<Self, TensorError> {
        Ok(Self { tensor: Tensor::zeros_like(parameter)?, used_up: true })
    }

    /// Adds what `f(β, c)` computes as c ← β c + …: β is 0 if the gradient is used up, so that what is in c doesn't count, NaN
    /// included, and 1 if not.
    ///
    /// # Errors
    /// Those of `f`. A gradient that was used up stays so, whatever `f` has written.
    pub fn accumulate<E>(&mut self, f: impl FnOnce(T, &mut Tensor<T>) -> Result<(), E>) -> Result<(), E> {
        f(if self.used_up { T::ZERO } else { T::ONE }, &mut self.tensor)?;
        self.used_up = false;
        Ok(())
    }

    /// Makes it zero, without writing a zero.
    pub fn use_up(&mut self) {
        self.used_up = true;
    }

    /// Whether it is used up, and therefore zero. That it isn't doesn't mean that an element differs from 0.
    pub fn is_used_up(&self) -> bool {
        self.used_up
    }
}

/// A gradient to be used.
impl<T: Scalar> From<Tensor<T>> for Grad<T> {
    fn from(tensor: Tensor<T>) -> Self {
        Self { tensor, used_up: false }
    }
}

/// No elements, used up.
impl<T: Scalar> Default for Grad<T> {
    fn default() -> Self {
        Self { tensor: Tensor::default(), used_up: true }
    }
}

impl<T: Scalar> Deref for Grad<T> {
    type Target = Tensor<T>;

    fn deref(&self) -> &Tensor<T> {
        &self.tensor
    }
}

/// Writes the zeros of a gradient that is used up.
impl<T: Scalar> DerefMut for Grad<T> {
    fn deref_mut(&mut self) -> &mut Tensor<T> {
        if self.used_up {
            self.tensor.fill(T::ZERO);
            self.used_up = false;
        }
        &mut self.tensor
    }
}

impl<T: Scalar> PartialEq<Tensor<T>> for Grad<T> {
    fn eq(&self, other: &Tensor<T>) -> bool {
        match self.used_up {
            true => self.shape() == other.shape() && other.as_slice().iter().all(|&x| x == T::ZERO),
            false => &self.tensor == other,
        }
    }
}

impl<T: Scalar> PartialEq for Grad<T> {
    fn eq(&self, other: &Self) -> bool {
        match other.used_up {
            true if self.used_up => self.shape() == other.shape(),
            true => other == &self.tensor,
            false => self == &other.tensor,
        }
    }
}

impl<T: Scalar> Debug for Grad<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.used_up {
            true => write!(f, "zeros {}, used up", self.shape()),
            false => Debug::fmt(&self.tensor, f),
        }
    }
}

impl<T: Scalar> Display for Grad<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.used_up {
            true => match Tensor::zeros_like(&self.tensor) {
                Ok(zeros) => Display::fmt(&zeros, f),
                Err(_) => Debug::fmt(self, f),
            },
            false => Display::fmt(&self.tensor, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShapeError;

    fn used() -> Grad {
        let mut grad = Grad::from(Tensor::from([f32::NAN, 2.0]));
        grad.use_up();
        grad
    }

    #[test]
    fn what_is_used_up_is_zero() {
        let (grad, zeros) = (used(), Tensor::from([0.0, 0.0]));
        assert!(grad.is_used_up());
        assert_eq!(grad.as_slice()[1], 2.0);
        assert_eq!(grad, zeros);
        assert_eq!(grad, Grad::zeros_like(&zeros).unwrap());
        assert_eq!(grad, Grad::from(zeros.clone()));
        assert_eq!(Grad::from(zeros.clone()), grad);
        assert_eq!(format!("{grad} {grad:?}"), format!("{zeros} zeros [2], used up"));
        assert_ne!(grad, Tensor::from([0.0]));
        assert_ne!(grad, Grad::zeros_like(&Tensor::from([0.0])).unwrap());
        assert_ne!(grad, Tensor::from([0.0, 1.0]));
        assert_ne!(grad, Grad::from(Tensor::from([0.0, 1.0])));
        assert_eq!(Grad::<f32>::default(), Tensor::default());
    }

    #[test]
    fn who_borrows_it_finds_zeros() {
        let mut grad = used();
        assert_eq!(grad.as_mut_slice(), [0.0, 0.0]);
        assert!(!grad.is_used_up());
        grad.as_mut_slice()[0] = 3.0;
        assert_eq!(grad.as_mut_slice(), [3.0, 0.0]);
        let tensor = Tensor::from([3.0_f32, 0.0]);
        assert_eq!(format!("{grad} {grad:?}"), format!("{tensor} {tensor:?}"));
    }

    #[test]
    fn what_is_accumulated_overwrites_once() {
        let mut grad = used();
        let mut factors = Vec::new();
        for _ in 0..2 {
            let result = grad.accumulate(|beta, c| {
                factors.push(beta);
                c.apply(|c| if beta == 0.0 { 1.0 } else { beta * c + 1.0 });
                Ok::<_, ShapeError>(())
            });
            assert!(result.is_ok());
        }
        assert_eq!(factors, [0.0, 1.0]);
        assert_eq!(grad, Tensor::from([2.0, 2.0]));
    }

    #[test]
    fn an_error_leaves_it_used_up() {
        let mut grad = used();
        let result = grad.accumulate(|_, c| {
            c.apply(|_| 7.0);
            Err("no")
        });
        assert_eq!(result, Err("no"));
        assert_eq!(grad, Tensor::from([0.0, 0.0]));
    }
}
