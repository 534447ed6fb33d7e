//! formula: layers with several inputs and outputs
//! rule: the chain rule; a value's uses add
//! tape: its layers' shares, and a gradient for each value

use std::fmt;
use std::mem::{swap, take};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use backrule_tensor::{
    ConfigError, Grad, NamedTensors, OptionValue, Options, Path, Role, Scalar, Shape, Tensor, memory,
};

use crate::architecture::{Architecture, ArchitectureError};
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Input, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::sealed::{Sealed, Step, Walk};
use crate::layer::{AtMany, Layer, MAX_INPUTS, MAX_OUTPUTS, check_dx, check_outputs, poison, zeros_like};
use crate::layers::container::frozen::set_frozen;
use crate::layers::container::sequential::{check_names, check_paths};
use crate::layers::container::split_path;
use crate::mode::Mode;
use crate::packer::Packer;

/// Layers with several inputs and outputs, wired as you like: encoder and decoder, two heads, a weight that
/// is used twice.
///
/// A node takes values that are there already, so a cycle can't be written. Its rule is the chain rule, from
/// the last node to the first: where a value is used several times, the gradients of its uses are added in
/// the order of the nodes, backwards.
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, Tensor, random};
/// use backrule_nn::{Concat, Graph, Grads, Linear, Mode, Relu, Tape};
///
/// let mut rng = random::rng(1);
/// let mut g = Graph::builder();
/// let [image, scalars] = g.inputs(["image", "scalars"]);
/// let features = g.layer("features", Linear::new(16, 8, &mut rng)?, [image]);
/// let features = g.layer("relu", Relu, [features]);
/// let both = g.layer("both", Concat::new(1)?, [features, scalars]);
/// let class = g.layer("class", Linear::new(8 + 3, 5, &mut rng)?, [both]);
/// let value = g.layer("value", Linear::new(8 + 3, 1, &mut rng)?, [both]);
/// let net: Graph = g.build([class, value])?;
///
/// let (image, scalars) = (Tensor::full([4, 16], 0.1)?, Tensor::full([4, 3], 1.0)?);
/// let (mut tape, mut grads) = (Tape::new(), Grads::new(&net)?);
/// let pass = tape.forward_many(&net, &[&image, &scalars], Mode::train())?;
/// assert_eq!(pass.outputs()[0].shape(), [4, 5]);
/// assert_eq!(pass.outputs()[1].shape(), [4, 1]);
/// // Nobody has a loss on `value` today: its layer is skipped, and its gradients stay zero.
/// pass.backward_many(&[Some(&Tensor::full([4, 5], 1.0)?), None], &mut grads)?;
/// assert!(grads.of(&net, "value.weight").unwrap().is_zero());
/// assert!(!grads.of(&net, "class.weight").unwrap().is_zero());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// An output that nobody has a loss on is `None` in `dy`. Nodes that only it depends on are skipped: neither
/// their parameters' gradients nor their buffers' increments change.
#[derive(Clone)]
pub struct Graph<T: Scalar = f32> {
    inputs: Vec<String>,
    layers: Vec<Child<T>>,
    nodes: Vec<Wire>,
    /// The values that are the outputs.
    outputs: Vec<usize>,
    /// Values behind the inputs: all outputs of all nodes.
    values: usize,
}

/// A layer with its name, and where its tensors begin among those of the graph.
#[derive(Clone)]
struct Child<T: Scalar> {
    name: String,
    layer: Box<dyn Layer<T>>,
    first: usize,
    count: usize,
    /// Whether its outputs are always checked.
    is_own: bool,
}

/// A node: which layer, from which values, and its first output's number among all nodes' outputs.
#[derive(Clone, Debug, PartialEq)]
struct Wire {
    layer: usize,
    from: Vec<usize>,
    first: usize,
    count: usize,
}

/// A value in a [`GraphBuilder`]: an input, or an output of a layer. The value of
/// [`layer`](GraphBuilder::layer) is the first output, so it can be handed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    builder: u64,
    /// The layer that gives it; no layer gives an input.
    layer: Option<usize>,
    /// The number of this layer's first output. Inputs come first, then the outputs of all nodes in order.
    first: usize,
    /// The outputs of this layer.
    count: usize,
    output: usize,
}

impl Value {
    /// Output number `i`, from 0, of the layer that gives this value. One that isn't there is an error when
    /// the graph is built.
    #[must_use]
    pub fn output(self, i: usize) -> Self {
        Self { output: i, ..self }
    }
}

/// Collects the inputs and layers of a [`Graph`].
#[must_use]
pub struct GraphBuilder<T: Scalar = f32> {
    id: u64,
    inputs: Vec<String>,
    layers: Vec<(String, Box<dyn Layer<T>>)>,
    nodes: Vec<Wire>,
    values: usize,
    /// The first thing that was wrong.
    error: Option<ArchitectureError>,
}

fn refuse(option: &'static str, expected: &'static str, got: impl fmt::Display) -> ConfigError {
    ConfigError::new("Graph", option, expected, got)
}

impl<T: Scalar> Graph<T> {
    /// Begins a graph.
    pub fn builder() -> GraphBuilder<T> {
        // Values know their builder, so one that goes astray is found.
        static BUILDERS: AtomicU64 = AtomicU64::new(0);
        let id = BUILDERS.fetch_add(1, Ordering::Relaxed);
        let (inputs, layers, nodes) = (Vec::new(), Vec::new(), Vec::new());
        GraphBuilder { id, inputs, layers, nodes, values: 0, error: None }
    }

    /// The names of the inputs, in order.
    pub fn input_names(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(String::as_str)
    }
}

impl<T: Scalar> GraphBuilder<T> {
    /// The graph's inputs, with names. Call it once, before the layers.
    pub fn inputs<const N: usize>(&mut self, names: [&str; N]) -> [Value; N] {
        if !self.inputs.is_empty() || !self.nodes.is_empty() {
            self.fail(refuse("inputs", "one list, before the layers", "another one"));
        }
        self.inputs.extend(names.iter().map(|name| name.to_string()));
        self.values = N;
        std::array::from_fn(|first| Value { builder: self.id, layer: None, first, count: 1, output: 0 })
    }

    /// Adds a layer, and feeds it these values. Its first output is returned.
    pub fn layer(
        &mut self,
        name: impl Into<String>,
        layer: impl Layer<T>,
        from: impl IntoIterator<Item = Value>,
    ) -> Value {
        let at = self.layers.len();
        if let Err(error) = memory::push("Graph", &mut self.layers, (name.into(), Box::new(layer) as _)) {
            self.fail(error);
        }
        self.node(at, from)
    }

    /// Uses the layer that gives `value` once more, on other values: the same weights, whose gradients add
    /// up.
    pub fn again(&mut self, value: Value, from: impl IntoIterator<Item = Value>) -> Value {
        let layer = value.layer.filter(|_| value.builder == self.id);
        if layer.is_none() {
            let got = if value.builder == self.id { "an input" } else { "another builder's" };
            self.fail(refuse("again", "an output of this builder's", got));
        }
        self.node(layer.unwrap_or(usize::MAX), from)
    }

    fn node(&mut self, layer: usize, from: impl IntoIterator<Item = Value>) -> Value {
        let from = memory::collect("Graph", from.into_iter().map(|value| self.index(value)));
        let from = from.unwrap_or_else(|error| {
            self.fail(error);
            Vec::new()
        });
        self.wire(layer, from)
    }

    fn wire(&mut self, layer: usize, from: Vec<usize>) -> Value {
        let Some((name, of_node)) = self.layers.get(layer) else {
            // The first mistake has been noted.
            return Value { builder: self.id, layer: None, first: 0, count: 0, output: 0 };
        };
        let (first, count, inputs) = (self.values, of_node.outputs(), of_node.inputs());
        let most = if from.len() > MAX_INPUTS { MAX_INPUTS } else { *inputs.end() };
        if !inputs.contains(&from.len()) || from.len() > MAX_INPUTS {
            let expected = match (*inputs.start(), most) {
                (1, 1) => "1 value".to_string(),
                (least, most) if least == most => format!("{least} values"),
                (least, most) => format!("{least} to {most} values"),
            };
            let got = format_args!("{} for `{name}`", from.len()).to_string();
            self.fail(ConfigError::new("Graph", "inputs of a layer", expected, got));
        } else if count == 0 || count > MAX_OUTPUTS {
            let got = format_args!("{count} of `{name}`").to_string();
            self.fail(refuse("outputs of a layer", "1 to 16", got));
        }
        self.values = self.values.saturating_add(count);
        if let Err(error) = memory::push("Graph", &mut self.nodes, Wire { layer, from, first, count }) {
            self.fail(error);
        }
        Value { builder: self.id, layer: Some(layer), first, count, output: 0 }
    }

    fn index(&mut self, value: Value) -> usize {
        if value.builder != self.id {
            self.fail(refuse("value", "one of this builder's", "another builder's"));
            return 0;
        }
        if value.output >= value.count {
            let Value { layer, first, count, output, .. } = value;
            let layer = layer.and_then(|layer| self.layers.get(layer)).map(|(name, _)| name);
            if let Some(name) = layer.or_else(|| self.inputs.get(first)) {
                let expected = format_args!("a number below {count}, the outputs of `{name}`").to_string();
                self.fail(ConfigError::new("Graph", "output", expected, output));
            }
            return 0;
        }
        value.first + value.output
    }

    fn fail(&mut self, error: impl Into<ArchitectureError>) {
        self.error.get_or_insert(error.into());
    }

    /// The graph with these outputs.
    ///
    /// # Errors
    /// When a name is empty, holds a dot, or stands twice; a value is another builder's or isn't there; a
    /// layer doesn't take so many inputs; a node's outputs are all unused; there are more than 16 inputs or
    /// outputs; or there was no memory for a layer. Layers run and take values at most 4,096 times
    /// ([`Architecture::MAX_LIST`]), and an input's name has at most 256 bytes ([`Options::MAX_WORD`]): then
    /// the graph can be saved. Larger ones are graphs of graphs.
    pub fn build(mut self, outputs: impl IntoIterator<Item = Value>) -> Result<Graph<T>, ArchitectureError> {
        let outputs = memory::collect("Graph", outputs.into_iter().map(|value| self.index(value)))?;
        self.finish(outputs)
    }

    fn finish(self, outputs: Vec<usize>) -> Result<Graph<T>, ArchitectureError> {
        let Self { inputs, layers, nodes, values, error, .. } = self;
        if let Some(error) = error {
            return Err(error);
        }
        let names = inputs.iter().chain(layers.iter().map(|(name, _)| name));
        check_names("Graph", names.map(String::as_str))?;
        check_paths("Graph", layers.iter().map(|(name, layer)| (name.as_str(), &**layer)))?;
        if let Some(idle) = (0..layers.len()).find(|&layer| nodes.iter().all(|node| node.layer != layer)) {
            return Err(refuse(
                "layers",
                "layers that are used",
                format_args!("`{}`, unused", layers[idle].0),
            )
            .into());
        }
        for (what, count) in [("inputs", inputs.len()), ("outputs", outputs.len())] {
            if !(1..=MAX_INPUTS.min(MAX_OUTPUTS)).contains(&count) {
                return Err(refuse(what, "1 to 16", count).into());
            }
        }
        let mut is_used = Vec::new();
        memory::grow("Graph", &mut is_used, values)?;
        for &value in outputs.iter().chain(nodes.iter().flat_map(|node| &node.from)) {
            is_used[value] = true;
        }
        let used = |value: usize| is_used[value];
        if let Some(input) = (0..inputs.len()).find(|&input| !used(input)) {
            return Err(refuse(
                "inputs",
                "inputs that are used",
                format_args!("`{}`, unused", inputs[input]),
            )
            .into());
        }
        let idle = nodes.iter().find(|node| !(node.first..node.first + node.count).any(used));
        if let Some(node) = idle {
            let got = format_args!("`{}`, unused", layers[node.layer].0).to_string();
            return Err(refuse("nodes", "nodes that are used", got).into());
        }
        let mut first = 0;
        let layers = layers.into_iter().map(|(name, layer)| {
            let count = layer.tensor_count();
            first += count;
            let is_own = layer.is_own(Sealed);
            Child { name, layer, first: first - count, count, is_own }
        });
        let (layers, values) = (memory::collect("Graph", layers)?, values - inputs.len());
        let graph = Graph { inputs, layers, nodes, outputs, values };
        // A graph that is built can be saved.
        let options = Layer::<T>::options(&graph);
        options.check_at_most(Architecture::MAX_LIST).map_err(|error| error.of("Graph"))?;
        Ok(graph)
    }
}

impl<T: Scalar> NamedTensors<T> for Graph<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        for Child { name, layer, .. } in &self.layers {
            layer.visit(path.join(name), visitor);
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        for Child { name, layer, .. } in &mut self.layers {
            layer.visit_mut(path.join(name), visitor);
        }
    }
}

/// Names of the inputs and layers.
impl<T: Scalar> fmt::Debug for Graph<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<_> = self.layers.iter().map(|child| &child.name).collect();
        f.debug_struct("Graph").field("inputs", &self.inputs).field("layers", &layers).finish()
    }
}

/// How a value's gradient stands during a backward pass.
mod mark {
    /// Nobody wants it: nothing in front of it is trained.
    pub(super) const UNWANTED: u32 = 0;
    /// It is wanted, and nothing has been added yet.
    pub(super) const WANTED: u32 = 1;
    /// It has been written. Larger numbers tell how many more have been added.
    pub(super) const WRITTEN: u32 = 2;
}

impl<T: Scalar> Graph<T> {
    /// The number of tensors in a cache: values, their gradients, the lower halves of those, and places for
    /// the gradients of further uses.
    fn tensors(&self) -> usize {
        self.inputs.len() + 3 * self.values + MAX_INPUTS
    }

    /// For output k, if it is a node's: the number of that value among the nodes' values.
    fn of_node(&self, k: usize) -> Option<usize> {
        self.outputs[k].checked_sub(self.inputs.len())
    }

    /// Whether output k is the first that has this value: a second one is a copy.
    fn is_first(&self, k: usize) -> bool {
        !self.outputs[..k].contains(&self.outputs[k])
    }

    /// Puts the buffers of y in the places of the values that they are, or takes them out again: no output is
    /// copied, and a buffer keeps its role from step to step.
    fn exchange(&self, y: &mut [Tensor<T>], values: &mut [Tensor<T>]) {
        for (k, y) in y.iter_mut().enumerate() {
            if let Some(value) = self.of_node(k)
                && self.is_first(k)
            {
                swap(y, &mut values[value]);
            }
        }
    }

    fn check(&self, inputs: usize, outputs: usize) -> Result<(), LayerError> {
        if inputs != self.inputs.len() {
            return Err(LayerError::count("graph: inputs", self.inputs.len(), inputs));
        }
        if outputs != self.outputs.len() {
            return Err(LayerError::count("graph: outputs", self.outputs.len(), outputs));
        }
        Ok(())
    }

    fn run(
        &self,
        x: &[&Tensor<T>],
        values: &mut [Tensor<T>],
        caches: &mut [Cache<T>],
        mode: Mode,
    ) -> Result<(), LayerError> {
        for ((i, node), cache) in self.nodes.iter().enumerate().zip(caches) {
            let Child { name, layer, is_own, .. } = &self.layers[node.layer];
            let (before, own) = values.split_at_mut(node.first - x.len());
            let mut from = [x[0]; MAX_INPUTS];
            for (from, &value) in from.iter_mut().zip(&node.from) {
                *from = if value < x.len() { x[value] } else { &before[value - x.len()] };
            }
            let from = &from[..node.from.len()];
            let own = &mut own[..node.count];
            layer
                .forward_many(from, own, cache, mode.child(i))
                .and_then(|()| check_outputs(*is_own, &**layer, from, own))
                .map_err(|error| error.within(name))?;
        }
        Ok(())
    }

    fn own_grads<'g>(&self, node: &Wire, grads: &'g mut [Grad<T>]) -> Result<&'g mut [Grad<T>], LayerError> {
        let (Child { first, count, .. }, len) = (&self.layers[node.layer], grads.len());
        grads
            .get_mut(*first..first + count)
            .ok_or_else(|| LayerError::count("backward: gradients", "one for every tensor", len))
    }

    /// Marks the values whose gradients are wanted: those with something trained in front of them, or an
    /// input that is wanted.
    fn mark_wanted(
        &self,
        marks: &mut Vec<u32>,
        dx: &[Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let inputs = self.inputs.len();
        marks.clear();
        memory::make_room("graph backward", marks, inputs + self.values)?;
        marks.resize(inputs + self.values, mark::UNWANTED);
        for (mark, dx) in marks.iter_mut().zip(dx) {
            *mark = if dx.is_some() { mark::WANTED } else { mark::UNWANTED };
        }
        for node in &self.nodes {
            let trained = self.own_grads(node, grads)?.iter().any(Grad::is_wanted);
            if trained || node.from.iter().any(|&value| marks[value] == mark::WANTED) {
                marks[node.first..node.first + node.count].fill(mark::WANTED);
            }
        }
        Ok(())
    }
}

impl<T: Scalar> Layer<T> for Graph<T> {
    crate::through_many!(T);

    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        let mut y = [Shape::EMPTY];
        self.output_shapes(&[x], &mut y)?;
        Ok(y[0])
    }

    fn options(&self) -> Options {
        let nodes = || self.nodes.iter();
        Options::new()
            .with("inputs", &*self.inputs)
            .with("nodes", OptionValue::list(nodes().map(|node| node.layer.into())))
            .with("arity", OptionValue::list(nodes().map(|node| node.from.len().into())))
            .with("from", OptionValue::list(nodes().flat_map(|node| &node.from).map(|&value| value.into())))
            .with("outputs", &*self.outputs)
    }

    fn children(&self, visit: &mut dyn FnMut(&str, &dyn Layer<T>)) {
        for Child { name, layer, .. } in &self.layers {
            visit(name, &**layer);
        }
    }

    fn inputs(&self) -> RangeInclusive<usize> {
        self.inputs.len()..=self.inputs.len()
    }

    fn outputs(&self) -> usize {
        self.outputs.len()
    }

    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        self.check(x.len(), y.len())?;
        let shapes = self.shapes(x, &mut |_| Ok(()))?;
        for (y, &value) in y.iter_mut().zip(&self.outputs) {
            *y = shapes[value];
        }
        Ok(())
    }

    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        self.check(x.len(), y.len())?;
        let (tensors, caches) = cache.split(self.tensors(), self.nodes.len())?;
        let values = &mut tensors[..self.values];
        self.exchange(y, values);
        let result = self.run(x, values, caches, mode);
        self.exchange(y, values);
        result?;
        for k in 0..y.len() {
            match self.of_node(k) {
                None => y[k].copy_from(x[self.outputs[k]])?,
                Some(_) if self.is_first(k) => {}
                Some(_) => {
                    let (before, rest) = y.split_at_mut(k);
                    let first = self.outputs.iter().position(|value| value == &self.outputs[k]);
                    rest[0].copy_from(&before[first.unwrap_or_default()])?;
                }
            }
        }
        Ok(())
    }

    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        self.check(at.x.len(), at.y.len())?;
        self.check(dx.len(), dy.len())?;
        let inputs = self.inputs.len();
        let mut marks = std::mem::take(at.cache.indices());
        let result = self.mark_wanted(&mut marks, dx, grads).and_then(|()| {
            let (tensors, caches) = at.cache.split(self.tensors(), self.nodes.len())?;
            let (values, rest) = tensors.split_at_mut(self.values);
            let (gradients, rest) = rest.split_at_mut(self.values);
            let (low, scratch) = rest.split_at_mut(inputs + self.values);
            let marks = &mut marks;
            let gradients = &mut Gradients { inputs: dx, values: gradients, low, scratch, marks };
            for (&value, dy) in self.outputs.iter().zip(dy) {
                if let Some(dy) = dy {
                    gradients.add(value, dy)?;
                }
            }
            let value = |value: usize| match value.checked_sub(inputs) {
                None => at.x[value],
                Some(own) => match self.outputs.iter().position(|&output| output == value) {
                    Some(k) => at.y[k],
                    None => &values[own],
                },
            };
            for (i, node) in self.nodes.iter().enumerate().rev() {
                let own = self.own_grads(node, grads)?;
                self.step_back(node, &value, own, gradients, &mut caches[i], at.mode.child(i))?;
            }
            for (i, &x) in at.x.iter().enumerate() {
                gradients.zero_if_unwritten(i, x)?;
            }
            Ok(())
        });
        *at.cache.indices() = marks;
        result
    }

    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        for child in &mut self.layers {
            child.layer.prepare(packer).map_err(|error| error.within(&child.name))?;
        }
        Ok(())
    }

    fn set_frozen(&mut self, _: Sealed, path: &str, frozen: bool) -> bool {
        let (name, rest) = split_path(path);
        let child = self.layers.iter_mut().find(|child| child.name == name);
        child.is_some_and(|child| set_frozen(&mut child.layer, rest, frozen))
    }

    fn input_names(&self, _: Sealed) -> &[String] {
        &self.inputs
    }

    fn walk(&self, _: Sealed, x: &[Shape], visit: &mut Walk<'_, T>) -> Result<bool, LayerError> {
        self.shapes(x, visit).map(|_| true)
    }
}

/// ∂l/∂ of all values during a backward pass.
struct Gradients<'a, 'x, T: Scalar> {
    inputs: &'a mut [Option<&'x mut Tensor<T>>],
    values: &'a mut [Tensor<T>],
    /// The lower half of a gradient with more than eight terms.
    low: &'a mut [Tensor<T>],
    /// For the gradient of a further use of a value, before it is added.
    scratch: &'a mut [Tensor<T>],
    marks: &'a mut [u32],
}

impl<T: Scalar> Gradients<'_, '_, T> {
    fn place(&mut self, value: usize) -> Option<&mut Tensor<T>> {
        match value.checked_sub(self.inputs.len()) {
            None => self.inputs[value].as_deref_mut(),
            Some(own) => self.values.get_mut(own),
        }
    }

    /// The first gradient of a value is written, further ones are added.
    fn add(&mut self, value: usize, dy: &Tensor<T>) -> Result<(), LayerError> {
        let mark = self.marks[value];
        if mark == mark::UNWANTED {
            return Ok(());
        }
        self.marks[value] = mark + 1;
        let place = match value.checked_sub(self.inputs.len()) {
            None => self.inputs[value].as_deref_mut(),
            Some(own) => self.values.get_mut(own),
        };
        match place {
            Some(place) if mark == mark::WANTED => Ok(place.copy_from(dy)?),
            Some(place) => Ok(place.add_term(&mut self.low[value], mark - mark::WANTED, dy)?),
            None => Ok(()),
        }
    }

    fn is_written(&self, value: usize) -> bool {
        self.marks[value] >= mark::WRITTEN
    }

    fn zero_if_unwritten(&mut self, input: usize, x: &Tensor<T>) -> Result<(), LayerError> {
        let written = self.is_written(input);
        match self.place(input) {
            Some(place) if !written => zeros_like(place, x),
            _ => Ok(()),
        }
    }
}

impl<T: Scalar> Graph<T> {
    /// The rule of one node: from the gradients of its outputs to those of its inputs.
    fn step_back<'v>(
        &self,
        node: &Wire,
        value: &dyn Fn(usize) -> &'v Tensor<T>,
        own: &mut [Grad<T>],
        gradients: &mut Gradients<'_, '_, T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError>
    where
        T: 'v,
    {
        let inputs = gradients.inputs.len();
        let outputs = node.first..node.first + node.count;
        let fed = &node.from;
        let used = outputs.clone().any(|value| gradients.is_written(value));
        let wanted = fed.iter().any(|&value| gradients.marks[value] != mark::UNWANTED);
        if !used || !(wanted || own.iter().any(Grad::is_wanted)) {
            return Ok(());
        }
        let Child { name, layer, .. } = &self.layers[node.layer];

        // The buffers are taken out of their places for the call, so each can be lent by itself.
        let mut buffers: [Option<Tensor<T>>; MAX_INPUTS] = Default::default();
        let mut is_first = [false; MAX_INPUTS];
        for (j, &value) in fed.iter().enumerate() {
            is_first[j] = gradients.marks[value] == mark::WANTED;
            buffers[j] = match gradients.marks[value] {
                mark::UNWANTED => None,
                mark::WANTED => gradients.place(value).map(take),
                _ => Some(take(&mut gradients.scratch[j])),
            };
            if is_first[j] {
                gradients.marks[value] = mark::WRITTEN;
            }
        }
        let mut dx = buffers.each_mut().map(Option::as_mut);
        dx.iter_mut().for_each(|dx| poison(dx.as_deref_mut()));

        let mut x = [value(0); MAX_INPUTS];
        x.iter_mut().zip(fed).for_each(|(x, &number)| *x = value(number));
        let mut y = [value(0); MAX_OUTPUTS];
        y.iter_mut().zip(outputs.clone()).for_each(|(y, number)| *y = value(number));
        let mut dy = [None; MAX_OUTPUTS];
        for (dy, number) in dy.iter_mut().zip(outputs) {
            *dy = gradients.is_written(number).then(|| &gradients.values[number - inputs]);
        }
        let at = AtMany { x: &x[..fed.len()], y: &y[..node.count], cache, mode };
        let result = layer.backward_many(at, &dy[..node.count], &mut dx[..fed.len()], own);
        let mut result = result.and_then(|()| x.iter().zip(dx).try_for_each(|(x, dx)| check_dx(x, dx)));

        // Back to their places, also after an error.
        for (j, &value) in fed.iter().enumerate() {
            let Some(buffer) = buffers[j].take() else { continue };
            if is_first[j] {
                if let Some(place) = gradients.place(value) {
                    *place = buffer;
                }
            } else {
                result = result.and_then(|()| gradients.add(value, &buffer));
                gradients.scratch[j] = buffer;
            }
        }
        result.map_err(|error| error.within(name))
    }

    /// A value's name: the input's, or the layer's, with the output's number if it has several.
    fn name(&self, value: usize) -> String {
        if let Some(input) = self.inputs.get(value) {
            return input.clone();
        }
        let node = self.nodes.iter().find(|node| (node.first..node.first + node.count).contains(&value));
        let Some(node) = node else { return String::new() };
        match &self.layers[node.layer].name {
            name if node.count == 1 => name.clone(),
            name => format!("{name}/{}", value - node.first),
        }
    }

    /// The shapes of all values for inputs of shapes `x`; `visit` sees every node on the way.
    fn shapes(&self, x: &[Shape], visit: &mut Walk<'_, T>) -> Result<Vec<Shape>, LayerError> {
        let mut shapes = memory::room("shapes of a graph", x.len() + self.values)?;
        shapes.extend_from_slice(x);
        for node in &self.nodes {
            let Child { name, layer, .. } = &self.layers[node.layer];
            let from: Vec<_> = node.from.iter().map(|&value| shapes[value]).collect();
            let names = || node.from.iter().map(|&value| self.name(value)).collect::<Vec<_>>().join(", ");
            visit(Step { name, layer: &**layer, inputs: &from, from: Some(&names) })?;
            shapes.resize(node.first + node.count, Shape::EMPTY);
            let own = &mut shapes[node.first..];
            layer.output_shapes(&from, own).map_err(|error| error.within(name))?;
        }
        Ok(shapes)
    }
}

impl<T: Scalar> Builtin<T> for Graph<T> {
    const KIND: &'static str = "Graph";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let mut builder = Self::builder();
        builder.inputs = from.words("inputs")?;
        builder.values = builder.inputs.len();
        let (nodes, arity) = (from.sizes("nodes")?, from.sizes("arity")?);
        let (values, outputs) = (from.sizes("from")?, from.sizes("outputs")?);
        from.children_run(nodes.iter().copied());
        from.check_runs()?;
        memory::make_room("Graph", &mut builder.layers, from.children())?;
        while from.children() > 0 {
            let (name, layer) = from.child()?;
            memory::push("Graph", &mut builder.layers, (name, layer))?;
        }
        if nodes.len() != arity.len() {
            return Err(refuse("arity", "a number for every node", arity.len()).into());
        }
        let mut values = values.as_slice();
        for (layer, arity) in nodes.into_iter().zip(arity) {
            if layer >= builder.layers.len() {
                return Err(refuse("nodes", "layers that are there", layer).into());
            }
            let fed = values.split_at_checked(arity);
            let (fed, others) = fed.ok_or_else(|| refuse("from", "a value for every input", "too few"))?;
            values = others;
            if let Some(value) = fed.iter().find(|&&value| value >= builder.values) {
                return Err(refuse("from", "values of nodes in front", value).into());
            }
            builder.wire(layer, fed.to_vec());
        }
        if !values.is_empty() {
            return Err(refuse("from", "a value for every input", "more").into());
        }
        if let Some(value) = outputs.iter().find(|&&value| value >= builder.values) {
            return Err(refuse("outputs", "values that are there", value).into());
        }
        builder.finish(outputs)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        use crate::layers::{Add, Concat, Linear, Mul, Relu, Sigmoid, Tanh};

        // A gate: the same dense layer on both inputs, a product, a join, and a sum around them.
        let of = |name, batch: usize, n: usize| {
            let rng = &mut random::rng(1);
            let mut g = Self::builder();
            let [a, b] = g.inputs(["a", "b"]);
            let shared = g.layer("shared", Linear::new(n, n, rng).ok()?, [a]);
            let again = g.again(shared, [b]);
            let gate = g.layer("gate", Sigmoid, [again]);
            let product = g.layer("product", Mul, [shared, gate]);
            let sum = g.layer("sum", Add, [product, a, a]);
            let both = g.layer("both", Concat::new(1).ok()?, [sum, gate]);
            let tanh = g.layer("tanh", Tanh, [both]);
            let net = g.build([tanh]).ok()?;
            Some(Sample::new(name, net, [Input::normal(&[batch, n]), Input::normal(&[batch, n])]))
        };
        // An encoder of one input behind a rectifier.
        let plain = |name, shape: &[usize]| {
            let rng = &mut random::rng(2);
            let mut g = Self::builder();
            let [x] = g.inputs(["x"]);
            let n = shape.last().copied().unwrap_or_default();
            let relu = g.layer("relu", Relu, [x]);
            let y = g.layer("fc", Linear::new(n, 3, rng).ok()?, [relu]);
            Some(Sample::new(name, g.build([y]).ok()?, [Input::normal(shape)]).kinks())
        };
        let samples = [
            of("one", 1, 1),
            of("gate", 4, 5),
            of("tall", 300, 2),
            plain("plain", &[3, 7]),
            plain("three axes", &[2, 3, 5]),
            of("64x64", 64, 64).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }
}
