//! A layer of your own: a formula, its derivative beside it, and the check that they belong together.
//!
//! ```console
//! $ cargo run --release --example 04_custom_layer
//! ```

use std::error::Error;

use backrule_nn::{At, Cache, Layer, LayerError, Linear, Mode, Sequential, gradcheck};
use backrule_tensor::{Grad, Scalar, ShapeError, Tensor, TensorError, named_tensors, random};

/// A rectifier that learns its slope a for negative inputs (PReLU; K. He et al., 2015):
///
/// y = x where x > 0, else a x, with one a per feature.
///
/// Its rule: ∂l/∂x = ∂l/∂y where x > 0, else a ∂l/∂y; and ∂l/∂a = Σ ∂l/∂y x over the samples where x ≤ 0.
#[derive(Clone)]
struct Prelu<T: Scalar> {
    a: Tensor<T>,
}

impl<T: Scalar> Prelu<T> {
    fn new(features: usize) -> Result<Self, TensorError> {
        Ok(Self { a: Tensor::full([features], T::from_f64(0.25))? })
    }
}

// One tensor, called `a`: by this name optimizers, gradients and checkpoints know it.
named_tensors!(Prelu { a });

impl<T: Scalar> Layer<T> for Prelu<T> {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        if x.shape().columns() != self.a.len() {
            let expected = format!("[_, {}]", self.a.len());
            return Err(ShapeError::new("prelu forward", expected, x.shape()).into());
        }
        y.copy_from(x)?;
        for y in y.rows_mut() {
            for (y, &a) in y.iter_mut().zip(self.a.as_slice()) {
                if *y <= T::ZERO {
                    *y *= a;
                }
            }
        }
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        grads[0].add_to(|da| {
            for (x, dy) in at.x.rows().zip(dy.rows()) {
                for ((da, &x), &dy) in da.as_mut_slice().iter_mut().zip(x).zip(dy) {
                    if x <= T::ZERO {
                        *da += dy * x;
                    }
                }
            }
            Ok::<_, LayerError>(())
        })?;
        if let Some(dx) = dx {
            dx.copy_from(dy)?;
            for (dx, x) in dx.rows_mut().zip(at.x.rows()) {
                for ((dx, &x), &a) in dx.iter_mut().zip(x).zip(self.a.as_slice()) {
                    if x <= T::ZERO {
                        *dx *= a;
                    }
                }
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // By itself, at several shapes and seeds.
    for (shape, seed) in [([1, 3], 1), ([7, 3], 2), ([100, 3], 3)] {
        let report = gradcheck(&mut Prelu::new(3)?, shape, seed)?;
        println!("{shape:?}: {report}");
    }

    // Among others, it is a layer like any other.
    let mut rng = random::rng(4);
    let mut net = Sequential::builder()
        .layer("fc1", Linear::new(4, 3, &mut rng)?)
        .layer("prelu", Prelu::new(3)?)
        .layer("fc2", Linear::new(3, 2, &mut rng)?)
        .build()?;
    println!("\n{}\n", net.summary([7, 4])?);
    println!("the network: {}", gradcheck(&mut net, [7, 4], 5)?);
    Ok(())
}
