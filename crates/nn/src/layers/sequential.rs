use std::collections::BTreeSet;
use std::fmt;

use backrule_tensor::{
    ConfigError, Grad, IntoShape, NamedTensors, Path, Role, Scalar, Shape, ShapeError, Tensor,
};

use crate::{
    Architecture, ArchitectureError, At, Cache, Layer, LayerError, LayerKind, Mode, Summary, summary,
};

/// Layers one after the other, each with a name: y = fₙ(… f₂(f₁(x))).
///
/// Its rule is the chain rule: from the last child to the first, each one's ∂l/∂x is the ∂l/∂y of the one before it. A
/// container is a layer, so that they nest; names add up to paths such as `encoder.fc1.weight`.
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, random};
/// use backrule_nn::{Linear, Relu, Sequential};
///
/// let mut rng = random::rng(1);
/// let net: Sequential = Sequential::builder()
///     .layer("fc1", Linear::new(64, 32, &mut rng)?)
///     .layer("relu", Relu)
///     .layer("fc2", Linear::new(32, 10, &mut rng)?)
///     .build()?;
/// assert_eq!(net.tensor("fc2.bias").map(|b| b.len()), Some(10));
/// assert_eq!(
///     net.summary([1, 64])?.to_string(),
///     "\
/// name   layer            output   parameters
/// ───────────────────────────────────────────
///        input            [1, 64]
/// fc1    Linear(64 → 32)  [1, 32]       2,080
/// relu   Relu             [1, 32]
/// fc2    Linear(32 → 10)  [1, 10]         330
/// ───────────────────────────────────────────
/// total                                 2,410"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sequential<T = f32> {
    children: Vec<Child<T>>,
}

struct Child<T> {
    name: String,
    layer: Box<dyn Layer<T>>,
}

/// Collects the layers of a [`Sequential`].
pub struct SequentialBuilder<T = f32> {
    children: Vec<Child<T>>,
}

impl<T: Scalar> Sequential<T> {
    /// Begins a network without layers.
    pub fn builder() -> SequentialBuilder<T> {
        SequentialBuilder { children: Vec::new() }
    }

    /// The names of the children, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.children.iter().map(|child| child.name.as_str())
    }

    /// A table of all layers for inputs of shape `input`, with output shapes and parameter counts.
    ///
    /// # Errors
    /// When a layer doesn't take what the one before it gives; the error names it.
    pub fn summary(&self, input: impl IntoShape) -> Result<Summary, LayerError> {
        summary(self, input)
    }
}

impl<T: Scalar> SequentialBuilder<T> {
    /// Appends a layer.
    #[must_use]
    pub fn layer(mut self, name: impl Into<String>, layer: impl Layer<T> + 'static) -> Self {
        self.children.push(Child { name: name.into(), layer: Box::new(layer) });
        self
    }

    /// The network.
    ///
    /// # Errors
    /// When a name is empty, holds a dot (which separates the names of a path), or stands for two children.
    pub fn build(self) -> Result<Sequential<T>, ConfigError> {
        let mut names = BTreeSet::new();
        for Child { name, .. } in &self.children {
            let refuse = |expected| {
                Err(ConfigError::new("Sequential", "name of a child", expected, format_args!("{name:?}")))
            };
            if name.is_empty() || name.contains('.') {
                return refuse("a name without dots");
            }
            if !names.insert(name) {
                return refuse("a name that no other child has");
            }
        }
        Ok(Sequential { children: self.children })
    }
}

impl<T: Scalar> NamedTensors<T> for Sequential<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        for child in &self.children {
            child.layer.visit(path.join(&child.name), visitor);
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        for child in &mut self.children {
            child.layer.visit_mut(path.join(&child.name), visitor);
        }
    }
}

/// Names and descriptions of the children, in order.
impl<T: Scalar> fmt::Debug for Sequential<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let children = self.children.iter().map(|child| (&child.name, child.layer.describe()));
        f.debug_map().entries(children).finish()
    }
}

/// Tensors of the cache that hold ∂l/∂y between two children, in turn.
const GRADIENTS: usize = 2;

impl<T: Scalar> Layer<T> for Sequential<T> {
    fn output_shape(&self, input: Shape) -> Result<Shape, LayerError> {
        self.children.iter().try_fold(input, |shape, child| {
            child.layer.output_shape(shape).map_err(|error| error.within(&child.name))
        })
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        let n = self.children.len();
        if n == 0 {
            y.copy_from(x)?;
            return Ok(());
        }
        // Behind the two for backward, the output of every child but the last, whose output is y.
        let (tensors, caches) = cache.parts(GRADIENTS + n - 1, n);
        let outputs = &mut tensors[GRADIENTS..];
        let mut activated = false;
        for (i, (child, cache)) in self.children.iter().zip(caches).enumerate() {
            if std::mem::take(&mut activated) {
                continue; // the child before has computed this one, too
            }
            let (before, after) = outputs.split_at_mut(i);
            let x = before.last().unwrap_or(x);
            let named = |error: LayerError| error.within(&child.name);
            if let Some(activation) = self.children.get(i + 1).and_then(|next| next.layer.activation()) {
                let y = after.get_mut(1).unwrap_or(&mut *y);
                activated = child.layer.forward_activated(x, activation, y).map_err(named)?;
            }
            if !activated {
                let y = after.first_mut().unwrap_or(&mut *y);
                child.layer.forward(x, y, cache, mode.child(i)).map_err(named)?;
            }
        }
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        mut dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let n = self.children.len();
        if n == 0 {
            if let Some(dx) = dx {
                dx.copy_from(dy)?;
            }
            return Ok(());
        }
        // Where nobody wants ∂l/∂x, children before the first one with parameters have nothing to do.
        let first = match dx {
            Some(_) => 0,
            None => {
                let trained = |child: &Child<T>| child.layer.tensor_count() > 0;
                self.children.iter().position(trained).unwrap_or(n)
            }
        };
        let (tensors, caches) = at.cache.parts(GRADIENTS + n - 1, n);
        let (gradients, outputs) = tensors.split_at_mut(GRADIENTS);
        let [above, below] = gradients else {
            return Ok(());
        };
        let (mut above, mut below) = (above, below);
        let mut grads = grads;
        for i in (first..n).rev() {
            let child = &self.children[i];
            let Some(rest) = grads.len().checked_sub(child.layer.tensor_count()) else {
                let error = ShapeError::new("backward", "a gradient for every tensor", "too few");
                return Err(LayerError::from(error).within(&child.name));
            };
            let (others, own) = grads.split_at_mut(rest);
            grads = others;
            let at = At {
                x: if i == 0 { at.x } else { &outputs[i - 1] },
                y: if i == n - 1 { at.y } else { &outputs[i] },
                cache: &mut caches[i],
                mode: at.mode.child(i),
            };
            let dy = if i == n - 1 { dy } else { &*above };
            let dx = if i > first { Some(&mut *below) } else { dx.take() };
            (child.layer.backward(at, dy, dx, own)).map_err(|error| error.within(&child.name))?;
            std::mem::swap(&mut above, &mut below);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("Sequential({} layers)", self.children.len())
    }

    fn architecture(&self) -> Result<Architecture, ArchitectureError> {
        let children = self.children.iter().map(|child| {
            let inner = child.layer.architecture().map_err(|error| error.within(&child.name))?;
            Ok((child.name.as_str(), inner))
        });
        let children = children.collect::<Result<Vec<_>, ArchitectureError>>()?;
        Architecture::container(LayerKind::Sequential { children: children.len() }, children)
    }

    fn summarize(&self, path: Path<'_>, input: Shape, summary: &mut Summary) -> Result<Shape, LayerError> {
        self.children.iter().try_fold(input, |shape, child| {
            (child.layer.summarize(path.join(&child.name), shape, summary))
                .map_err(|error| error.within(&child.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;
    use crate::{Dropout, Grads, Key, Linear, LinearConfig, Relu, Sigmoid, Tanh, Tape, predict};

    fn net() -> Sequential<f64> {
        let mut rng = random::rng(1);
        let encoder = Sequential::builder()
            .layer("fc1", Linear::new(5, 4, &mut rng).unwrap())
            .layer("relu", Relu)
            .build()
            .unwrap();
        Sequential::builder()
            .layer("drop", Dropout::new(0.5).unwrap())
            .layer("encoder", encoder)
            .layer("fc2", Linear::new(4, 3, &mut rng).unwrap())
            .build()
            .unwrap()
    }

    #[test]
    fn names_nest_and_errors_say_where() {
        let net = net();
        let paths: Vec<_> = net.tensors().into_iter().map(|(path, _)| path).collect();
        let expected = ["encoder.fc1.weight", "encoder.fc1.bias", "fc2.weight", "fc2.bias"];
        assert_eq!(paths, expected);
        let text = "encoder.fc1: linear forward: expected [_, 5], got [2, 6]";
        let x = Tensor::zeros([2, 6]).unwrap();
        assert_eq!(predict(&net, &x).unwrap_err().to_string(), text);
        assert_eq!(net.summary([2, 6]).unwrap_err().to_string(), text);
        assert_eq!(net.output_shape(x.shape()).unwrap_err().to_string(), text);
        assert_eq!(net.summary([2, 5]).unwrap().parameters(), 5 * 4 + 4 + 4 * 3 + 3);
    }

    #[test]
    fn debug_shows_what_is_in_it() {
        let text = r#"{"drop": "Dropout(0.5)", "encoder": "Sequential(2 layers)", "fc2": "Linear(4 → 3)"}"#;
        assert_eq!(format!("{:?}", net()), text);
    }

    #[test]
    fn names_that_make_no_path_are_refused() {
        for names in [["a", "a"], ["", "b"], ["a.b", "c"]] {
            let builder = Sequential::<f32>::builder();
            let builder = names.into_iter().fold(builder, |builder, name| builder.layer(name, Relu));
            assert!(builder.build().is_err(), "{names:?}");
        }
    }

    /// A network in a network has no activation to offer, so that its layers compute one after the other.
    #[test]
    fn an_activation_in_the_pass_of_the_layer_before_changes_no_bit() {
        fn network(apart: bool) -> Sequential<f32> {
            fn activation(layer: impl Layer<f32> + 'static, apart: bool) -> Box<dyn Layer<f32>> {
                if apart {
                    Box::new(Sequential::builder().layer("alone", layer).build().unwrap())
                } else {
                    Box::new(layer)
                }
            }
            let mut rng = random::rng(1);
            let linear = |inputs, outputs, rng: &mut _| {
                LinearConfig { bias: outputs != 6, ..LinearConfig::new(inputs, outputs) }
                    .build::<f32>(rng)
                    .unwrap()
            };
            Sequential::builder()
                .layer("before", activation(Tanh, apart))
                .layer("fc1", linear(40, 33, &mut rng))
                .layer("relu", activation(Relu, apart))
                .layer("twice", activation(Tanh, apart))
                .layer("fc2", linear(33, 6, &mut rng))
                .layer("tanh", activation(Tanh, apart))
                .layer("fc3", linear(6, 5, &mut rng))
                .layer("sigmoid", activation(Sigmoid, apart))
                .build()
                .unwrap()
        }
        for batch in [1, 3, 50] {
            let x = Tensor::normal([batch, 40], 0.0, 1.0, &mut random::rng(2)).unwrap();
            let dy = Tensor::normal([batch, 5], 0.0, 1.0, &mut random::rng(3)).unwrap();
            let [together, apart] = [false, true].map(|apart| {
                let net = network(apart);
                let (mut tape, mut grads, mut dx) =
                    (Tape::new(), Grads::new(&net).unwrap(), Tensor::default());
                // What another pass has left behind must not matter.
                tape.forward(&net, &Tensor::full([7, 40], 1.0).unwrap(), Mode::Eval).unwrap();
                let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
                let y = pass.output().clone();
                pass.backward_to_input(&dy, &mut grads, &mut dx).unwrap();
                (y, grads.iter().cloned().collect::<Vec<_>>(), dx)
            });
            assert_eq!(together, apart, "batch {batch}");
        }
    }

    /// Without a wish for ∂l/∂x the parameters' gradients are the same to the last bit.
    #[test]
    fn skipping_the_input_gradient_changes_nothing_else() {
        let net = net();
        let x = Tensor::normal([3, 5], 0.0, 1.0, &mut random::rng(2)).unwrap();
        let dy = Tensor::normal([3, 3], 0.0, 1.0, &mut random::rng(3)).unwrap();
        let mode = Mode::Train(Key::new(4));
        let (mut tape, mut dx) = (Tape::new(), Tensor::default());
        let (mut with, mut without) = (Grads::new(&net).unwrap(), Grads::new(&net).unwrap());
        let pass = tape.forward(&net, &x, mode).unwrap();
        pass.backward_to_input(&dy, &mut with, &mut dx).unwrap();
        tape.forward(&net, &x, mode).unwrap().backward(&dy, &mut without).unwrap();
        assert_eq!(with, without);
        assert!(with.norm() > 0.0);
        assert_eq!(dx.shape(), x.shape());
    }

    #[test]
    fn no_layers_are_the_identity() {
        let net = Sequential::<f32>::builder().build().unwrap();
        let x = Tensor::from([[1.0, 2.0]]);
        let (mut tape, mut dx) = (Tape::new(), Tensor::default());
        let pass = tape.forward(&net, &x, Mode::Eval).unwrap();
        assert_eq!(pass.output(), &x);
        pass.backward_to_input(&x, &mut Grads::new(&net).unwrap(), &mut dx).unwrap();
        assert_eq!(dx, x);
    }

    #[test]
    fn too_few_gradients_are_refused() {
        let net = net();
        let (x, dy) = (Tensor::zeros([1, 5]).unwrap(), Tensor::zeros([1, 3]).unwrap());
        let (mut y, mut cache) = (Tensor::default(), Cache::default());
        net.forward(&x, &mut y, &mut cache, Mode::Eval).unwrap();
        let mut grads = Grads::new(&net).unwrap();
        let at = At { x: &x, y: &y, cache: &mut cache, mode: Mode::Eval };
        let error = net.backward(at, &dy, None, &mut grads[..1]).unwrap_err();
        assert!(error.to_string().starts_with("fc2: backward"), "{error}");
    }
}
