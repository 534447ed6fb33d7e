//! Two layers of your own: a formula, its derivative beside it, the check that they belong together, and a
//! file from which another program loads both.
//!
//! ```console
//! $ cargo run --release --example 04_custom_layer
//! ```

use backrule::prelude::*;

/// A function of each element, with one setting (P. Ramachandran et al., 2017):
///
/// y = x σ(β x), so dy/dx = s + β x s (1 − s) with s = σ(β x). It is a function of x, not of y alone.
#[derive(Clone, Copy)]
struct Swish {
    beta: f64,
}

impl<T: Scalar> NamedTensors<T> for Swish {}

impl Pointwise for Swish {
    const DF_OF: Of = Of::X;

    #[inline(always)]
    fn f<T: Scalar>(&self, x: T) -> T {
        x * (T::from_f64(self.beta) * x).sigmoid()
    }

    #[inline(always)]
    fn df<T: Scalar>(&self, x: T) -> T {
        let beta = T::from_f64(self.beta);
        let s = (beta * x).sigmoid();
        s + beta * x * s * (T::ONE - s)
    }

    fn options(&self) -> Options {
        Options::new().with("beta", self.beta)
    }

    fn custom_kind(&self) -> Option<&'static str> {
        Some("examples/Swish")
    }
}

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

    // With the number of features a file's reader knows how large a is, before it has the values.
    fn options(&self) -> Options {
        Options::new().with("features", self.a.len())
    }

    fn custom_kind(&self) -> Option<&'static str> {
        Some("examples/Prelu")
    }
}

/// The layers that a file may name beside the built-in ones. Each function reads the result of its layer's
/// `options`; the values of tensors follow.
fn registry<T: Scalar>() -> Registry<T> {
    let registry = Registry::new().with("examples/Swish", |from| {
        let beta = from.number("beta")?;
        Ok(Box::new(Swish { beta }))
    });
    registry.with("examples/Prelu", |from| {
        let features = from.size("features")?;
        Ok(Box::new(Prelu { a: from.zeros([features])? }))
    })
}

fn main() -> Result<(), Error> {
    // By themselves, at several shapes and seeds.
    for (shape, seed) in [([1, 3], 1), ([7, 3], 2), ([100, 3], 3)] {
        let report = gradcheck(&mut Prelu::new(3)?, shape, seed)?;
        println!("prelu {shape:?}: {report}");
    }
    println!("swish: {}", gradcheck(&mut Swish { beta: 1.5 }, [7, 3], 4)?);

    // Among others, they are layers like any other.
    let mut rng = random::rng(4);
    let mut net = Sequential::builder()
        .layer("fc1", Linear::new(4, 3, &mut rng)?)
        .layer("prelu", Prelu::new(3)?)
        .layer("fc2", Linear::new(3, 2, &mut rng)?)
        .layer("swish", Swish { beta: 1.5 })
        .build()?;
    println!("\n{}\n", summary(&net, [7, 4])?);
    println!("the network: {}", gradcheck(&mut net, [7, 4], 5)?);

    // In a file they have their own kinds.
    let file = std::env::temp_dir().join(format!("backrule-custom-{}.brk", std::process::id()));
    Checkpoint::of(&net).architecture(&Architecture::of(&net)?)?.save(&file)?;
    // Another program has the registry and the file, and no more.
    let (refused, loaded) = (load::<f64>(&file), load_with::<f64>(&file, &registry()));
    let _ = std::fs::remove_file(&file);
    if let Err(error) = refused {
        println!("\nwithout a registry: {error}");
    }
    let loaded = loaded?;
    println!("with it:\n{}", Architecture::of(&*loaded.network)?);
    let x = Tensor::normal([7, 4], 0.0, 1.0, &mut rng)?;
    assert_eq!(predict(&loaded.network, &x)?, predict(&net, &x)?);
    println!("\nThe loaded network gives the same bits.");
    Ok(())
}
