//! formula: y = x + f(x)
//! rule: dx = dy + f's dx
//! tape: y and f(x), and f's share

use backrule_tensor::{Grad, NamedTensors, Path, Role, Scalar, Shape, ShapeError, Tensor};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Input, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::sealed::{Sealed, Step, Walk};
use crate::layer::{At, Layer};
use crate::layers::container::frozen::set_frozen;
use crate::mode::Mode;
use crate::packer::Packer;

/// A way past a layer: y = x + f(x), where f keeps the shape (K. He et al., 2015).
///
/// Its rule: ∂l/∂x = ∂l/∂y + the ∂l/∂x of f. The tensors of f keep their names.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, Linear, Mode, Residual, Tape};
///
/// // f(x) = 2x, so y = 3x and ∂l/∂x = 3 ∂l/∂y.
/// let f = Linear::from_tensors(Tensor::from([[2.0_f32]]), None)?;
/// let block: Residual = Residual::new(f);
/// let x = Tensor::from([[5.0]]);
/// let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&block)?, Tensor::default());
/// let pass = tape.forward(&block, &x, Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[15.0]]));
/// pass.backward_to_input(&Tensor::from([[1.0]]), &mut grads, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[3.0]]));
/// assert_eq!(grads[0], Tensor::from([[5.0]])); // of f alone
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone)]
pub struct Residual<T: Scalar = f32> {
    f: Box<dyn Layer<T>>,
}

impl<T: Scalar> Residual<T> {
    /// A way past `f`.
    pub fn new(f: impl Layer<T>) -> Self {
        Self { f: Box::new(f) }
    }
}

impl<T: Scalar> NamedTensors<T> for Residual<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        self.f.visit(path, visitor);
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        self.f.visit_mut(path, visitor);
    }
}

impl<T: Scalar> Layer<T> for Residual<T> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        same(input, self.f.output_shape(input)?)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        // f's own rule needs its output, which y doesn't show any more.
        let ([fx], [inner]) = cache.arrays();
        self.f.forward(x, fx, inner, mode)?;
        same(x.shape(), fx.shape())?;
        y.zip_from(x, fx, |x, fx| x + fx)?;
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let ([fx], [inner]) = at.cache.arrays();
        let at = At { x: at.x, y: fx, cache: inner, mode: at.mode };
        match dx {
            Some(dx) => {
                self.f.backward(at, dy, Some(&mut *dx), grads)?;
                dx.add(dy)?;
            }
            None => self.f.backward(at, dy, None, grads)?,
        }
        Ok(())
    }

    fn children(&self, visit: &mut dyn FnMut(&str, &dyn Layer<T>)) {
        visit("", &*self.f);
    }

    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        self.f.prepare(packer)
    }

    fn set_frozen(&mut self, _: Sealed, path: &str, frozen: bool) -> bool {
        // f has no name: its paths are this layer's, and the layer as a whole is its container's to freeze.
        !path.is_empty() && set_frozen(&mut self.f, path, frozen)
    }

    fn walk(&self, _: Sealed, x: &[Shape], visit: &mut Walk<'_, T>) -> Result<bool, LayerError> {
        visit(Step::next("", &*self.f, x)).map(|()| true)
    }
}

impl<T: Scalar> Builtin<T> for Residual<T> {
    const KIND: &'static str = "Residual";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self { f: from.only_child()? })
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        use crate::layers::{Linear, Tanh};

        let of = |name, shape: &[usize]| {
            let n = shape.last().copied().unwrap_or_default();
            let f = Linear::new(n, n, &mut random::rng(1)).ok()?;
            Some(Sample::new(name, Self::new(f), [Input::normal(shape)]))
        };
        let samples = [
            // A rule that reads its own y, which isn't the sum.
            Some(Sample::new("tanh", Self::new(Tanh), [Input::normal(&[3, 2])])),
            of("one", &[1, 1]),
            of("small", &[4, 5]),
            of("tall", &[300, 5]),
            of("three axes", &[2, 3, 5]),
            of("64x64", &[64, 64]).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }
}

fn same(input: Shape, output: Shape) -> Result<Shape, LayerError> {
    if input == output { Ok(output) } else { Err(ShapeError::new("residual: f(x)", input, output).into()) }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;
    use crate::{Linear, Relu, Sequential, predict, summary};

    #[test]
    fn a_layer_that_changes_the_shape_is_refused() {
        let block = Residual::new(Linear::<f32>::new(3, 2, &mut random::rng(1)).unwrap());
        let text = "residual: f(x): expected [4, 3], got [4, 2]";
        let error = predict(&block, &Tensor::zeros([4, 3]).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert_eq!(summary(&block, [4, 3]).unwrap_err().to_string(), text);
    }

    #[test]
    fn names_and_summary_are_those_of_its_layer() {
        let f = Sequential::<f32>::builder()
            .layer("fc", Linear::new(3, 3, &mut random::rng(1)).unwrap())
            .layer("relu", Relu)
            .build()
            .unwrap();
        let net = Sequential::builder().layer("block", Residual::new(f)).build().unwrap();
        assert!(net.tensor("block.fc.weight").is_some());
        let table = summary(&net, [1, 3]).unwrap();
        assert_eq!(table.parameters(), 12);
        assert!(table.to_string().contains("block       Residual"), "{table}");
    }
}
