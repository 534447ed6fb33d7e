//! Layers from data and data from layers. It stands above the layers: neither the trait nor a layer knows of
//! it.

use std::collections::BTreeMap;
use std::fmt;

use backrule_tensor::{ConfigError, Place, Scalar, memory};

use crate::architecture::{Architecture, ArchitectureError, LayerSpec, Settings, unfinished};
use crate::builtin::{Build, Constructor, Entry};
use crate::layer::Layer;
use crate::layer::sealed::Sealed;
use crate::layers::{kind_of, table};

/// Layers of your own, by their names in files. A file chooses among these and the built-in ones, and among
/// no others.
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, Scalar};
/// use backrule_nn::{Architecture, Layer, Of, Pointwise, Registry};
///
/// /// y = x²
/// #[derive(Clone, Copy)]
/// struct Square;
/// impl<T: Scalar> NamedTensors<T> for Square {}
/// impl Pointwise for Square {
///     const DF_OF: Of = Of::X;
///     fn f<T: Scalar>(&self, x: T) -> T {
///         x * x
///     }
///     fn df<T: Scalar>(&self, x: T) -> T {
///         x + x
///     }
///     fn custom_kind(&self) -> Option<&'static str> {
///         Some("my-crate/Square")
///     }
/// }
///
/// let architecture = Architecture::of::<f32>(&Square)?;
/// assert!(architecture.build::<f32>(0).is_err()); // its kind is unknown
/// let registry = Registry::new().with("my-crate/Square", |_| Ok(Box::new(Square)));
/// let again = architecture.build_with::<f32>(0, &registry)?;
/// assert_eq!(again.custom_kind(), Some("my-crate/Square"));
/// # Ok::<(), backrule_nn::ArchitectureError>(())
/// ```
pub struct Registry<T: Scalar> {
    kinds: BTreeMap<&'static str, Constructor<T>>,
}

impl<T: Scalar> Registry<T> {
    /// No layers beside the built-in ones.
    pub fn new() -> Self {
        Self { kinds: BTreeMap::new() }
    }

    /// Adds a layer: its [`custom_kind`](Layer::custom_kind), and a function that builds it of its settings.
    /// The function captures nothing, reads every setting that [`Layer::options`] gives, and takes its
    /// tensors from [`Build::zeros`]. A kind that is there already is replaced. One that isn't of the form
    /// `crate/Name` is refused where the registry is used, by [`Architecture::build_with`].
    #[must_use]
    pub fn with(mut self, kind: &'static str, build: Constructor<T>) -> Self {
        self.kinds.insert(kind, build);
        self
    }
}

impl<T: Scalar> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Scalar> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds.keys()).finish()
    }
}

impl Architecture {
    /// The architecture of `net`.
    ///
    /// # Errors
    /// When a layer is neither built in nor has a [`custom_kind`](Layer::custom_kind) of the form
    /// `crate/Name`, or the network has more layers than [`MAX_LAYERS`](Self::MAX_LAYERS).
    pub fn of<T: Scalar>(net: &dyn Layer<T>) -> Result<Self, ArchitectureError> {
        let mut layers = Vec::new();
        describe_into(net, "", 0, &mut layers)?;
        layers.try_into()
    }

    /// A network of the built-in layers with all parameters 0, if it has `most` at most. Where it comes from
    /// a file, that is the number of values which the file holds for it: then no claim takes more memory than
    /// they do, beside some hundred bytes for each layer and each node of a graph.
    ///
    /// # Errors
    /// When there are more, or a layer has settings or a name that it can't have, or isn't built in.
    pub fn build<T: Scalar>(&self, most: usize) -> Result<Box<dyn Layer<T>>, ArchitectureError> {
        self.build_with(most, &Registry::new())
    }

    /// As [`build`](Self::build), with layers of your own.
    ///
    /// # Errors
    /// As [`build`](Self::build), and where a name is in no catalogue, or a kind of the registry isn't of the
    /// form `crate/Name`.
    pub fn build_with<T: Scalar>(
        &self,
        most: usize,
        registry: &Registry<T>,
    ) -> Result<Box<dyn Layer<T>>, ArchitectureError> {
        if let Some(kind) = registry.kinds.keys().find(|kind| !is_custom(kind)) {
            // Nobody would ever look for it.
            let expected = "the form `crate/Name`, as the layer's `custom_kind` says it";
            return Err(ConfigError::new("Registry", "kind", expected, format_args!("{kind:?}")).into());
        }
        let mut builder = Builder { table: table(), registry, left: most, most };
        builder.next(&mut self.layers()).map(|(_, layer, _)| layer)
    }
}

/// Appends `layer` and its descendants.
fn describe_into<T: Scalar>(
    layer: &dyn Layer<T>,
    name: &str,
    depth: usize,
    specs: &mut Vec<LayerSpec>,
) -> Result<(), ArchitectureError> {
    // Before it goes down: a layer of somebody's own may show itself as its child.
    if depth > Architecture::MAX_DEPTH {
        let reason = format!("layers are nested deeper than {}", Architecture::MAX_DEPTH);
        return Err(ArchitectureError::Malformed(reason));
    }
    let kind = match kind_of::<T>(layer.of_type(Sealed)) {
        Some(kind) => kind,
        None => match layer.custom_kind() {
            Some(kind) if is_custom(kind) => kind,
            Some(kind) => {
                let error =
                    ConfigError::new(layer.type_name(Sealed), "custom_kind", "the form `crate/Name`", kind);
                return Err(error.into());
            }
            None => {
                let (place, layer) = (Place::default(), describe(layer));
                return Err(ArchitectureError::Custom { place, layer });
            }
        },
    };
    let at = specs.len();
    let (name, kind, options) = (name.to_string(), kind.to_string(), layer.options());
    options.check_at_most(Architecture::MAX_LIST).map_err(|error| error.of(kind.clone()))?;
    memory::push("architecture", specs, LayerSpec { name, kind, options, children: 0 })?;
    let (mut children, mut result) = (0, Ok(()));
    layer.children(&mut |name, child| {
        children += 1;
        if result.is_ok() && specs.len() <= Architecture::MAX_LAYERS {
            result = describe_into(child, name, depth + 1, specs).map_err(|error| error.within(name));
        }
    });
    specs[at].children = children;
    result
}

/// Whether this is `crate/Name`.
fn is_custom(kind: &str) -> bool {
    matches!(kind.split_once('/'), Some((package, name)) if !package.is_empty() && !name.is_empty() && !name.contains('/'))
}

/// The name of this layer in a summary, with its settings: `Linear(64 → 32, bias)`. Of a built-in layer
/// settings that are their defaults are left out, and `3×3` are two sizes.
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Conv2d, Conv2dConfig, describe};
///
/// let config = Conv2dConfig::new(16, 32, [3, 3]).padding([1, 1]);
/// let layer: Conv2d = config.build(&mut random::rng(1))?;
/// assert_eq!(describe(&layer), "Conv2d(16 → 32, kernel 3×3, padding 1×1, bias)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn describe<T: Scalar>(layer: &dyn Layer<T>) -> String {
    let (options, defaults) = (layer.options(), layer.defaults(Sealed));
    let is_builtin = kind_of::<T>(layer.of_type(Sealed)).is_some();
    let brief = is_builtin.then_some(&defaults);
    Settings { kind: &kind(layer), options: &options, brief }.to_string()
}

/// The name of its kind.
pub(crate) fn kind<T: Scalar>(layer: &dyn Layer<T>) -> String {
    kind_of::<T>(layer.of_type(Sealed))
        .or_else(|| layer.custom_kind().filter(|kind| is_custom(kind)))
        .unwrap_or_else(|| layer.type_name(Sealed))
        .to_string()
}

/// A layer with its name, and how many layers run when it does.
type Built<T> = (String, Box<dyn Layer<T>>, usize);

/// Names the operation in errors.
const OPERATION: &str = "build of an architecture";

struct Builder<'a, T: Scalar> {
    table: Vec<Entry<T>>,
    registry: &'a Registry<T>,
    left: usize,
    most: usize,
}

impl<T: Scalar> Builder<'_, T> {
    /// Builds the first layer, with its descendants. How deep that goes has been checked.
    fn next(&mut self, specs: &mut &[LayerSpec]) -> Result<Built<T>, ArchitectureError> {
        let (spec, rest) = specs.split_first().ok_or_else(unfinished)?;
        *specs = rest;
        self.layer(spec, specs)
            .map(|(layer, runs)| (spec.name.clone(), layer, runs))
            .map_err(|error| error.within(&spec.name))
    }

    fn layer(
        &mut self,
        spec: &LayerSpec,
        specs: &mut &[LayerSpec],
    ) -> Result<(Box<dyn Layer<T>>, usize), ArchitectureError> {
        let builtin = self.table.iter().find(|entry| entry.kind == spec.kind).map(|entry| entry.build);
        let own = || self.registry.kinds.get(spec.kind.as_str()).copied();
        let build = builtin.or_else(own);
        let build = build.ok_or_else(|| ArchitectureError::Unknown {
            place: Place::default(),
            kind: spec.kind.clone(),
            registry: self.registry.kinds.keys().copied().take(20).collect(),
        })?;
        // The list has been checked: there are as many layers as the containers say.
        let mut children = memory::room(OPERATION, spec.children)?;
        let mut runs_of_children = memory::room(OPERATION, spec.children)?;
        for _ in 0..spec.children {
            let (name, layer, runs) = self.next(specs)?;
            children.push((name, layer));
            runs_of_children.push(runs);
        }
        let mut from = Build {
            options: spec.options.try_clone()?,
            children: children.into_iter(),
            left: self.left,
            most: self.most,
            runs: runs_of_children.iter().fold(1, |sum, &runs| sum.saturating_add(runs)),
            runs_of_children,
        };
        let layer = build(&mut from).map_err(|error| match error {
            ArchitectureError::Config { place, error } => {
                ArchitectureError::Config { place, error: error.of(spec.kind.clone()) }
            }
            other => other,
        })?;
        from.check_runs()?;
        self.left = from.left;
        let unread = from.options.finish().and(match from.children.len() {
            0 => Ok(()),
            left => Err(ConfigError::new("", "children", "fewer layers", left)),
        });
        unread.map_err(|error| error.of(spec.kind.clone()))?;
        if is_custom(&spec.kind) && layer.custom_kind() != Some(&spec.kind) {
            let got = layer.custom_kind().unwrap_or_else(|| layer.type_name(Sealed));
            let expected = "a layer of this kind from the registry's function";
            return Err(ConfigError::new(spec.kind.clone(), "custom_kind", expected, got).into());
        }
        Ok((layer, from.runs))
    }
}
