//! formula: y = fₙ(… f₁(x))
//! rule: the chain rule
//! tape: its layers' shares, and two gradients as large as the largest between them

use std::collections::BTreeSet;
use std::fmt;

use backrule_tensor::{
    ConfigError, Grad, MemoryError, NamedTensors, Path, Role, Scalar, Shape, Tensor, memory,
};

use crate::architecture::{ArchitectureError, Settings};
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Input, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::sealed::{Affine, Epilogue, Sealed, Step, Walk};
use crate::layer::{At, Layer, check_dx, check_outputs, poison};
use crate::layers::container::frozen::set_frozen;
use crate::layers::container::{split_grads, split_path};
use crate::mode::Mode;
use crate::packer::Packer;

/// Layers one after the other, each with a name: y = fₙ(… f₂(f₁(x))).
///
/// Its rule is the chain rule: from the last child to the first, each one's ∂l/∂x is the ∂l/∂y of the one
/// before it. A container is a layer, so they nest; names add up to paths such as `encoder.fc1.weight`.
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, random};
/// use backrule_nn::{Linear, Relu, Sequential, summary};
///
/// let mut rng = random::rng(1);
/// let net: Sequential = Sequential::builder()
///     .layer("fc1", Linear::new(64, 32, &mut rng)?)
///     .layer("relu", Relu)
///     .layer("fc2", Linear::new(32, 10, &mut rng)?)
///     .build()?;
/// assert_eq!(net.tensor("fc2.bias").map(|b| b.len()), Some(10));
/// assert_eq!(
///     summary(&net, [1, 64])?.to_string(),
///     "\
/// name   layer                  output   parameters
/// ─────────────────────────────────────────────────
///        input                  [1, 64]
/// fc1    Linear(64 → 32, bias)  [1, 32]       2,080
/// relu   Relu                   [1, 32]
/// fc2    Linear(32 → 10, bias)  [1, 10]         330
/// ─────────────────────────────────────────────────
/// total                                       2,410"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Sequential<T: Scalar = f32> {
    children: Vec<Child<T>>,
}

#[derive(Clone)]
struct Child<T: Scalar> {
    name: Box<str>,
    layer: Box<dyn Layer<T>>,
    /// Whether its output is always checked.
    is_own: bool,
}

impl<T: Scalar> Child<T> {
    fn new(name: String, layer: Box<dyn Layer<T>>) -> Self {
        let is_own = layer.is_own(Sealed);
        Self { name: name.into(), layer, is_own }
    }
}

/// Collects the layers of a [`Sequential`].
#[must_use]
pub struct SequentialBuilder<T: Scalar = f32> {
    children: Vec<Child<T>>,
    /// There was no memory for a layer.
    refused: Option<MemoryError>,
}

impl<T: Scalar> Sequential<T> {
    /// Begins a network without layers.
    pub fn builder() -> SequentialBuilder<T> {
        SequentialBuilder { children: Vec::new(), refused: None }
    }

    /// The names of the children, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.children.iter().map(|child| &*child.name)
    }
}

impl<T: Scalar> SequentialBuilder<T> {
    /// Appends a layer.
    pub fn layer(mut self, name: impl Into<String>, layer: impl Layer<T>) -> Self {
        let child = Child::new(name.into(), Box::new(layer));
        let pushed = memory::push("Sequential", &mut self.children, child);
        self.refused = self.refused.or(pushed.err());
        self
    }

    /// The network.
    ///
    /// # Errors
    /// When a name is empty, holds a dot (which separates the names of a path), or stands for two children;
    /// or there was no memory for a layer.
    pub fn build(self) -> Result<Sequential<T>, ArchitectureError> {
        if let Some(error) = self.refused {
            return Err(error.into());
        }
        check_names("Sequential", self.children.iter().map(|child| &*child.name))?;
        let children = self.children.iter().map(|child| (&*child.name, &*child.layer));
        check_paths("Sequential", children)?;
        let several = self.children.iter().find(|child| !child.layer.inputs().contains(&1));
        if let Some(Child { name, layer, .. }) = several {
            let got =
                format_args!("at least {} for `{name}`: use a `Graph`", layer.inputs().start()).to_string();
            return Err(ConfigError::new("Sequential", "inputs of a layer", "one", got).into());
        }
        Ok(Sequential { children: self.children })
    }
}

/// Names of a container's children: none empty or too long, without dots, each once.
///
/// # Errors
/// When one is empty, too long, has a dot, or is there twice.
pub(crate) fn check_names<'a>(
    container: &'static str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for name in names {
        let refuse = |expected| {
            // A name may be long: only its beginning is shown.
            let shown: String = name.chars().take(40).collect();
            Err(ConfigError::new(container, "name of a child", expected, format_args!("{shown:?}")))
        };
        if name.is_empty() || name.contains('.') {
            return refuse("a name without dots");
        }
        if name.len() > Path::MAX {
            return refuse("a name of at most 512 bytes");
        }
        if !seen.insert(name) {
            return refuse("a name that no other child has");
        }
    }
    Ok(())
}

/// Paths of a container's children and of their tensors: none too long, or a list of them takes more memory
/// than they do.
///
/// # Errors
/// When a path has more bytes than [`Path::MAX`].
pub(crate) fn check_paths<'a, T: Scalar>(
    container: &'static str,
    children: impl Iterator<Item = (&'a str, &'a dyn Layer<T>)>,
) -> Result<(), ConfigError> {
    for (name, layer) in children {
        let longest = longest_path(layer, Path::ROOT.join(name));
        if longest > Path::MAX {
            // Only its beginning is shown.
            let shown: String = name.chars().take(40).collect();
            let expected = format_args!("paths of at most {} bytes", Path::MAX).to_string();
            let got = format_args!("one of {longest} in {shown:?}").to_string();
            return Err(ConfigError::new(container, "name of a child", expected, got));
        }
    }
    Ok(())
}

/// The bytes of the longest path of a layer and its descendants.
fn longest_path<T: Scalar>(layer: &dyn Layer<T>, path: Path<'_>) -> usize {
    let mut longest = path.bytes();
    layer.visit(path, &mut |path, _, _| longest = longest.max(path.bytes()));
    layer.children(&mut |name, child| longest = longest.max(longest_path(child, path.join(name))));
    longest
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

/// Names of the children with their types and settings, in order.
impl<T: Scalar> fmt::Debug for Sequential<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = |child: &Child<T>| {
            let (kind, options) = (child.layer.type_name(Sealed), child.layer.options());
            Settings { kind, options: &options, brief: None }.to_string()
        };
        f.debug_map().entries(self.children.iter().map(|child| (&child.name, settings(child)))).finish()
    }
}

/// Tensors of the cache that hold ∂l/∂y between two children, in turn.
const GRADIENTS: usize = 2;

impl<T: Scalar> Sequential<T> {
    /// Child `i` as the end of the one in front, if both are of the kinds that can: the type of a layer
    /// decides, so forward and backward agree, and no layer can claim it.
    fn fused(&self, i: usize) -> Option<(&dyn Affine<T>, &dyn Epilogue<T>)> {
        let front = self.children.get(i.checked_sub(1)?)?;
        let epilogue = self.children.get(i)?.layer.epilogue(Sealed)?;
        Some((front.layer.affine(Sealed)?, epilogue))
    }
}

impl<T: Scalar> Layer<T> for Sequential<T> {
    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        let n = self.children.len();
        if n == 0 {
            return Ok(y.copy_from(x)?);
        }
        // Behind the two for backward, the output of every child but the last, whose output is y.
        let (tensors, caches) = cache.split(GRADIENTS + n - 1, n)?;
        let outputs = &mut tensors[GRADIENTS..];
        let mut i = 0;
        while let Some(child) = self.children.get(i) {
            let (before, after) = outputs.split_at_mut(i);
            let x = before.last().unwrap_or(x);
            let named = |error: LayerError| error.within(&child.name);
            if let Some((affine, epilogue)) = self.fused(i + 1) {
                let (own, after) = after.split_at_mut(1);
                let y = after.first_mut().unwrap_or(&mut *y);
                affine.forward_then(x, y, &mut caches[i], epilogue).map_err(named)?;
                poison_unwritten(own, y)?;
                i += 2;
            } else {
                let y = after.first_mut().unwrap_or(&mut *y);
                child.layer.forward(x, y, &mut caches[i], mode.child(i)).map_err(named)?;
                check_outputs(child.is_own, &*child.layer, &[x], std::slice::from_ref(y)).map_err(named)?;
                i += 1;
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
            return dx.map_or(Ok(()), |dx| Ok(dx.copy_from(dy)?));
        }
        // Where nobody wants ∂l/∂x, children before the first one whose gradients are wanted have nothing to
        // do.
        let first = match dx {
            Some(_) => 0,
            None => {
                let mut rest = &*grads;
                let wanted = |child: &Child<T>| match rest.split_at_checked(child.layer.tensor_count()) {
                    Some((own, others)) => {
                        rest = others;
                        own.iter().any(Grad::is_wanted)
                    }
                    // Too few: that is found out on the way.
                    None => true,
                };
                self.children.iter().position(wanted).unwrap_or(n)
            }
        };
        let (tensors, caches) = at.cache.split(GRADIENTS + n - 1, n)?;
        let (gradients, outputs) = tensors.split_at_mut(GRADIENTS);
        let [above, below] = gradients else { return Ok(()) };
        let (mut above, mut below) = (above, below);
        let mut grads = grads;
        let mut i = n;
        while i > first {
            i -= 1;
            let child = &self.children[i];
            let named = |error: LayerError| error.within(&child.name);
            let own = split_grads(&mut grads, &*child.layer).map_err(named)?;
            let y = if i == n - 1 { at.y } else { &outputs[i] };
            let dy = if i == n - 1 { dy } else { &*above };
            if let Some((affine, epilogue)) = self.fused(i) {
                epilogue.back(y, dy, below).map_err(named)?;
                std::mem::swap(&mut above, &mut below);
                i -= 1;
                let front = &self.children[i];
                let named = |error: LayerError| error.within(&front.name);
                let own = split_grads(&mut grads, &*front.layer).map_err(named)?;
                let x = if i == 0 { at.x } else { &outputs[i - 1] };
                let dx = if i > first { Some(&mut *below) } else { dx.take() };
                affine.backward_from(x, &mut caches[i], above, dx, own).map_err(named)?;
            } else {
                let x = if i == 0 { at.x } else { &outputs[i - 1] };
                let at = At { x, y, cache: &mut caches[i], mode: at.mode.child(i) };
                let mut dx = if i > first { Some(&mut *below) } else { dx.take() };
                poison(dx.as_deref_mut());
                child.layer.backward(at, dy, dx.as_deref_mut(), own).map_err(named)?;
                check_dx(x, dx).map_err(named)?;
            }
            std::mem::swap(&mut above, &mut below);
        }
        Ok(())
    }

    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        self.children.iter().try_fold(x, |shape, child| {
            child.layer.output_shape(shape).map_err(|error| error.within(&child.name))
        })
    }

    fn children(&self, visit: &mut dyn FnMut(&str, &dyn Layer<T>)) {
        for child in &self.children {
            visit(&child.name, &*child.layer);
        }
    }

    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        for child in &mut self.children {
            child.layer.prepare(packer).map_err(|error| error.within(&child.name))?;
        }
        Ok(())
    }

    fn set_frozen(&mut self, _: Sealed, path: &str, frozen: bool) -> bool {
        let (name, rest) = split_path(path);
        let child = self.children.iter_mut().find(|child| *child.name == *name);
        child.is_some_and(|child| set_frozen(&mut child.layer, rest, frozen))
    }

    fn walk(&self, _: Sealed, x: &[Shape], visit: &mut Walk<'_, T>) -> Result<bool, LayerError> {
        let mut shape = x.first().copied().unwrap_or(Shape::EMPTY);
        for child in &self.children {
            visit(Step::next(&child.name, &*child.layer, &[shape]))?;
            shape = child.layer.output_shape(shape).map_err(|error| error.within(&child.name))?;
        }
        Ok(true)
    }
}

/// Fills the output of a layer whose epilogue has taken its place with NaN where a debug build looks: nobody
/// may read it.
fn poison_unwritten<T: Scalar>(own: &mut [Tensor<T>], y: &Tensor<T>) -> Result<(), LayerError> {
    if cfg!(debug_assertions)
        && let Some(own) = own.first_mut()
    {
        own.resize(y.shape())?;
        poison(Some(own));
    }
    Ok(())
}

impl<T: Scalar> Builtin<T> for Sequential<T> {
    const KIND: &'static str = "Sequential";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let mut builder = Self::builder();
        builder.children = memory::room("Sequential", from.children())?;
        while from.children() > 0 {
            let (name, layer) = from.child()?;
            builder.children.push(Child::new(name, layer));
        }
        builder.build()
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        use crate::layers::{Dropout, Linear, Relu, Residual, Sigmoid, Tanh};

        let rng = &mut random::rng(1);
        let mut of = |inner: usize, outer: usize| -> Option<Self> {
            let block = Self::builder()
                .layer("fc1", Linear::new(inner, inner, rng).ok()?)
                .layer("tanh", Tanh)
                .layer("fc2", Linear::new(inner, inner, rng).ok()?);
            let net = Self::builder()
                .layer("sigmoid", Sigmoid)
                .layer("fc1", Linear::new(outer, inner, rng).ok()?)
                .layer("block", Residual::new(block.build().ok()?))
                .layer("relu", Relu)
                .layer("drop", Dropout::new(0.3).ok()?)
                .layer("fc2", Linear::new(inner, 4, rng).ok()?);
            net.build().ok()
        };
        let mut samples = vec![];
        for (name, shape, bench) in [
            ("sample", &[1, 5][..], false),
            ("small", &[4, 5], false),
            ("tall", &[300, 5], false),
            ("three axes", &[2, 3, 5], false),
            ("64x64", &[64, 64], true),
        ] {
            let outer = shape.last().copied().unwrap_or_default();
            let net = of(if bench { 32 } else { 6 }, outer);
            let sample = net.map(|net| Sample::new(name, net, [Input::normal(shape)]).random().kinks());
            samples.extend(sample.map(|sample| Sample { bench, ..sample }));
        }
        let empty = Self::builder().build().ok();
        samples.extend(empty.map(|net| Sample::new("empty", net, [Input::normal(&[3, 4])])));
        samples
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::random;

    use super::*;
    use crate::{Dropout, Grads, Key, Linear, LinearConfig, Relu, Sigmoid, Tanh, Tape, predict, summary};

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

    /// Of the tensors too: `a.b.weight` has six letters more than its layer's name.
    #[test]
    fn long_paths_are_refused_where_a_network_is_built() {
        let build = |name: &str, f: Box<dyn Layer<f64>>| Sequential::builder().layer(name, f).build();
        let linear = || Box::new(Linear::<f64>::new(1, 1, &mut random::rng(1)).unwrap());
        let outer = |n: usize| build("o", Box::new(build(&"i".repeat(n), linear()).unwrap()));
        assert!(outer(512 - "o..weight".len()).is_ok());
        let error = outer(513 - "o..weight".len()).unwrap_err().to_string();
        assert_eq!(
            error,
            "Sequential: name of a child: expected paths of at most 512 bytes, got one of 513 in \"o\""
        );
        let mut g = crate::Graph::<f64>::builder();
        let [x] = g.inputs(["x"]);
        let y = g.layer("o", build(&"i".repeat(504), linear()).unwrap(), [x]);
        assert!(g.build([y]).unwrap_err().to_string().ends_with("got one of 513 in \"o\""));
        assert!(build(&"n".repeat(513), Box::new(Relu)).is_err());
    }

    #[test]
    fn names_nest_and_errors_say_where() {
        let net = net();
        let paths: Vec<_> = net.tensors().into_iter().map(|(path, _)| path).collect();
        let expected = ["encoder.fc1.weight", "encoder.fc1.bias", "fc2.weight", "fc2.bias"];
        assert_eq!(paths, expected);
        let text = "encoder.fc1: linear forward: expected [.., 5], got [2, 6]";
        let x = Tensor::zeros([2, 6]).unwrap();
        assert_eq!(predict(&net, &x).unwrap_err().to_string(), text);
        assert_eq!(summary(&net, [2, 6]).unwrap_err().to_string(), text);
        assert_eq!(net.output_shape(x.shape()).unwrap_err().to_string(), text);
        assert_eq!(summary(&net, [2, 5]).unwrap().parameters(), 5 * 4 + 4 + 4 * 3 + 3);
    }

    #[test]
    fn debug_shows_what_is_in_it() {
        let text = r#"{"drop": "Dropout(rate 0.5)", "encoder": "Sequential", "fc2": "Linear(4 → 3, bias)"}"#;
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

    /// A network in a network offers no epilogue, so its layers compute one after the other.
    #[test]
    fn an_epilogue_changes_no_bit() {
        fn network(apart: bool) -> Sequential<f32> {
            fn activation(layer: impl Layer<f32>, apart: bool) -> Box<dyn Layer<f32>> {
                if apart {
                    Box::new(Sequential::builder().layer("alone", layer).build().unwrap())
                } else {
                    Box::new(layer)
                }
            }
            let mut rng = random::rng(1);
            let linear = |inputs, outputs, rng: &mut _| {
                LinearConfig::new(inputs, outputs).bias(outputs != 6).build::<f32>(rng).unwrap()
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
                // Values left behind by another pass must not matter.
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
        let mode = Mode::train_with(Key::new(4));
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
