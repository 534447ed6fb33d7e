use std::ops::{Deref, DerefMut};

use backrule_tensor::{Grad, NamedTensors, Path, Scalar, ShapeError, Tensor, TensorError};

/// ∂l/∂θ for every parameter of a network, in the network's visit order: one [`Grad`] of the parameter's shape each.
///
/// [`Pass::backward`](crate::Pass::backward) adds to them, an optimiser's step uses them up: they are zero then, without a
/// zero being written. They deref to a slice.
///
/// ```
/// use backrule_nn::tensor::{Tensor, random};
/// use backrule_nn::{Grads, Linear};
///
/// let layer: Linear = Linear::new(3, 2, &mut random::rng(1))?;
/// let mut grads = Grads::new(&layer)?;
/// grads[1] = Tensor::from([2.0, 2.0]).into();
/// assert_eq!(grads.of(&layer, "bias").unwrap(), &Tensor::from([2.0, 2.0]));
/// assert_eq!(grads.norm(), 8_f64.sqrt());
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Grads<T: Scalar = f32> {
    grads: Vec<Grad<T>>,
}

impl<T: Scalar> Grads<T> {
    /// Zeros for every tensor of `net`.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(net: &(impl NamedTensors<T> + ?Sized)) -> Result<Self, TensorError> {
        let (mut grads, mut result) = (Vec::new(), Ok(()));
        net.visit(Path::ROOT, &mut |path, _, tensor| {
            if result.is_ok() {
                match Grad::zeros_like(tensor) {
                    Ok(grad) => grads.push(grad),
                    Err(error) => result = Err(error.within(&path.to_string())),
                }
            }
        });
        result.map(|()| Self { grads })
    }

    /// Sets all gradients to 0. An optimiser's step has done that already.
    pub fn zero(&mut self) {
        self.grads.iter_mut().for_each(Grad::clear);
    }

    /// Multiplies all gradients by `factor`: 1/n after n accumulated batches, say.
    pub fn scale(&mut self, factor: T) {
        self.iter_mut().for_each(|grad| grad.scale(factor));
    }

    /// Adds the gradients of another backward pass: those of another part of the batch, say.
    ///
    /// # Errors
    /// When they belong to a network with other shapes; nothing is added then.
    pub fn add(&mut self, other: &Self) -> Result<(), ShapeError> {
        let shapes = |grads: &Self| grads.iter().map(|grad| grad.shape()).collect::<Vec<_>>();
        if self.len() != other.len() || !self.iter().zip(other.iter()).all(|(a, b)| a.shape() == b.shape()) {
            let (expected, got) = (format!("{:?}", shapes(self)), format!("{:?}", shapes(other)));
            return Err(ShapeError::new("addition of gradients", expected, got));
        }
        self.iter_mut().zip(other.iter()).try_for_each(|(a, b)| a.add(b))
    }

    /// √Σ g², the length of all gradients as one vector: a number to watch.
    pub fn norm(&self) -> f64 {
        let squares = |grad: &Tensor<T>| grad.as_slice().iter().map(|g| g.to_f64() * g.to_f64()).sum::<f64>();
        self.iter().filter_map(Grad::get).map(squares).sum::<f64>().sqrt()
    }

    /// The gradient of the parameter at `path` of `net`, the network that these gradients were made for.
    pub fn of(&self, net: &(impl NamedTensors<T> + ?Sized), path: &str) -> Option<&Grad<T>> {
        let (mut index, mut found) = (0, None);
        net.visit(Path::ROOT, &mut |at, _, _| {
            if at == path {
                found = self.get(index);
            }
            index += 1;
        });
        found
    }

    /// Checks that these gradients have the shapes of `net`'s tensors, allocating nothing when they do.
    pub(crate) fn expect<N: NamedTensors<T> + ?Sized>(&self, net: &N) -> Result<(), ShapeError> {
        let (mut count, mut wrong) = (0, None);
        net.visit(Path::ROOT, &mut |path, _, tensor| {
            let grad = self.get(count);
            count += 1;
            if wrong.is_none() && grad.is_none_or(|grad| grad.shape() != tensor.shape()) {
                let got = grad.map_or("none".to_string(), |grad| grad.shape().to_string());
                let error = ShapeError::new("gradients", tensor.shape(), got);
                wrong = Some(error.within(&path.to_string()));
            }
        });
        match wrong {
            Some(error) => Err(error),
            None if count != self.len() => {
                Err(ShapeError::new("gradients", format_args!("{count} tensors"), self.len()))
            }
            None => Ok(()),
        }
    }
}

impl<T: Scalar> Deref for Grads<T> {
    type Target = [Grad<T>];

    fn deref(&self) -> &[Grad<T>] {
        &self.grads
    }
}

impl<T: Scalar> DerefMut for Grads<T> {
    fn deref_mut(&mut self) -> &mut [Grad<T>] {
        &mut self.grads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Vec<(&'static str, Tensor<f32>)> {
        vec![("a", Tensor::from([1.0, 2.0])), ("b", Tensor::from([[3.0]]))]
    }

    #[test]
    fn arithmetic() {
        let mut grads = Grads::new(&net()).unwrap();
        grads[0] = Tensor::from([3.0, 3.0]).into();
        let mut sum = grads.clone();
        sum.add(&grads).unwrap();
        sum.scale(0.5);
        assert_eq!(sum, grads);
        assert_eq!(sum.norm(), 18_f64.sqrt());
        sum.zero();
        assert_eq!(sum, Grads::new(&net()).unwrap());
        // Whatever their tensors still hold.
        assert_eq!(sum.norm(), 0.0);
        sum.scale(2.0);
        assert!(sum.iter().all(Grad::is_zero));
        let before = grads.clone();
        grads.add(&sum).unwrap();
        assert_eq!(grads, before);
        assert_eq!(grads.of(&net(), "b").unwrap(), &Tensor::from([[0.0]]));
        assert_eq!(grads.of(&net(), "c"), None);
    }

    #[test]
    fn another_networks_gradients_are_refused_whole() {
        let mut grads = Grads::new(&net()).unwrap();
        let other = vec![("a", Tensor::from([1.0_f32, 2.0])), ("b", Tensor::from([3.0]))];
        let mut ones = Grads::new(&other).unwrap();
        ones.iter_mut().for_each(|grad| *grad = Tensor::full(grad.shape(), 1.0).unwrap().into());
        let error = grads.add(&ones).unwrap_err();
        assert_eq!(error.to_string(), "addition of gradients: expected [[2], [1, 1]], got [[2], [1]]");
        assert_eq!(grads, Grads::new(&net()).unwrap());
        assert_eq!(grads.expect(&other).unwrap_err().to_string(), "b: gradients: expected [1], got [1, 1]");
        let mut longer = net();
        longer.push(("c", Tensor::from([0.0])));
        assert_eq!(grads.expect(&longer).unwrap_err().to_string(), "c: gradients: expected [1], got none");
        longer.truncate(1);
        assert_eq!(grads.expect(&longer).unwrap_err().to_string(), "gradients: expected 1 tensors, got 2");
    }
}
