use std::fmt;

use backrule_tensor::{ConfigError, Place, Scalar, ShapeError, Tensor, TensorError};

use crate::{Dropout, Layer, Linear, LogSoftmax, Relu, Residual, Sequential, Sigmoid, Softmax, Tanh};

/// A network of built-in layers as plain data: what it is made of, without its values.
///
/// [`Layer::architecture`] gives it, [`build`](Self::build) makes a network of it. With serde it goes into a file, and it
/// may come from anybody's: there are no types and no code in it, only layers of a closed set with their settings, and all
/// that it claims is checked before memory is taken for it.
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Layer, Linear, Relu, Residual, Sequential};
///
/// let mut rng = random::rng(1);
/// let net: Sequential = Sequential::builder()
///     .layer("block", Residual::new(Linear::new(8, 8, &mut rng)?))
///     .layer("relu", Relu)
///     .layer("fc", Linear::new(8, 2, &mut rng)?)
///     .build()?;
/// let architecture = net.architecture()?;
/// assert_eq!(architecture.parameters(), (8 * 8 + 8) + (8 * 2 + 2));
/// assert_eq!(
///     architecture.to_string(),
///     "\
/// Sequential
///   block: Residual
///     Linear(8 → 8)
///   relu: Relu
///   fc: Linear(8 → 2)"
/// );
/// let again = architecture.build::<f32>(1000)?; // with parameters of 0, ready to be restored
/// assert_eq!(again.architecture()?, architecture);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct Architecture {
    /// Each container before what is in it. A list, because a file with a tree could be nested until the stack ends.
    layers: Vec<LayerSpec>,
}

/// One layer of an [`Architecture`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct LayerSpec {
    /// Its name in the [`Sequential`] that it is in, and empty elsewhere.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
}

/// The built-in layers with their settings.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum LayerKind {
    /// [`Linear`]
    Linear {
        /// The size of the input's last axis.
        in_features: usize,
        /// The size of the output's last axis.
        out_features: usize,
        /// Whether there is a bias.
        bias: bool,
    },
    /// [`Relu`]
    Relu,
    /// [`Sigmoid`]
    Sigmoid,
    /// [`Tanh`]
    Tanh,
    /// [`Softmax`]
    Softmax,
    /// [`LogSoftmax`]
    LogSoftmax,
    /// [`Dropout`]
    Dropout {
        /// The probability that an input is dropped.
        rate: f64,
    },
    /// A [`Residual`] around the layer that follows.
    Residual,
    /// A [`Sequential`] of layers that follow.
    Sequential {
        /// How many.
        children: usize,
    },
}

/// Why a network has no architecture, or none can be built of one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// A layer is not one of the built-in ones.
    #[error(
        "{}{layer} is not a built-in layer: restore this network into one that your program builds",
        place.prefix()
    )]
    Custom {
        /// Where.
        place: Place,
        /// What it calls itself.
        layer: String,
    },
    /// It isn't the description of a network.
    #[error("no architecture: {0}")]
    Malformed(String),
    /// It has more parameters than it may have.
    #[error("an architecture of {parameters} parameters, where {most} are allowed")]
    TooLarge {
        /// How many it has.
        parameters: usize,
        /// How many it may have.
        most: usize,
    },
    /// A layer has a setting that it can't have.
    #[error(transparent)]
    Option(#[from] ConfigError),
    /// A layer has a size that it can't have.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for its parameters.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl ArchitectureError {
    /// The same error, seen from outside the child `name`.
    #[must_use]
    pub(crate) fn within(self, name: &str) -> Self {
        match self {
            Self::Custom { place, layer } => {
                let place = place.within(name);
                Self::Custom { place, layer }
            }
            other => other,
        }
    }
}

impl Architecture {
    /// Layers that there may be.
    pub const MAX_LAYERS: usize = 65_536;
    /// How deep they may be nested.
    pub const MAX_DEPTH: usize = 32;

    /// A layer without others in it.
    pub(crate) fn leaf(kind: LayerKind) -> Result<Self, ArchitectureError> {
        vec![LayerSpec { name: String::new(), kind }].try_into()
    }

    /// A container with what is in it.
    pub(crate) fn container<'a>(
        kind: LayerKind,
        children: impl IntoIterator<Item = (&'a str, Self)>,
    ) -> Result<Self, ArchitectureError> {
        let mut layers = vec![LayerSpec { name: String::new(), kind }];
        for (name, child) in children {
            let start = layers.len();
            layers.extend(child.layers);
            if let Some(first) = layers.get_mut(start) {
                first.name = name.to_string();
            }
        }
        layers.try_into()
    }

    /// All layers, each container before what is in it.
    pub fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    /// How many parameters such a network has; `usize::MAX` if they can't be counted.
    pub fn parameters(&self) -> usize {
        let of = |spec: &LayerSpec| match spec.kind {
            LayerKind::Linear { in_features, out_features, bias } => {
                in_features.saturating_add(bias.into()).saturating_mul(out_features)
            }
            _ => 0,
        };
        self.layers.iter().map(of).fold(0, usize::saturating_add)
    }

    /// A network with all parameters 0, if it has `most` at most. Where it comes from a file, that is the number of values
    /// which the file holds for it: then no claim takes more memory than they do, beside at most 512 bytes for each layer.
    ///
    /// # Errors
    /// When there are more, or a layer has settings or a name that it can't have.
    pub fn build<T: Scalar>(&self, most: usize) -> Result<Box<dyn Layer<T>>, ArchitectureError> {
        let parameters = self.parameters();
        if parameters > most {
            return Err(ArchitectureError::TooLarge { parameters, most });
        }
        build(&mut self.layers.as_slice())
    }
}

/// Builds the first layer, with what is in it. How deep that goes has been checked.
fn build<T: Scalar>(specs: &mut &[LayerSpec]) -> Result<Box<dyn Layer<T>>, ArchitectureError> {
    let (spec, rest) = specs.split_first().ok_or_else(unfinished)?;
    *specs = rest;
    Ok(match spec.kind {
        LayerKind::Linear { in_features, out_features, bias } => {
            let weight = Tensor::zeros([out_features, in_features])?;
            let bias = if bias { Some(Tensor::zeros([out_features])?) } else { None };
            Box::new(Linear::from_tensors(weight, bias)?)
        }
        LayerKind::Relu => Box::new(Relu),
        LayerKind::Sigmoid => Box::new(Sigmoid),
        LayerKind::Tanh => Box::new(Tanh),
        LayerKind::Softmax => Box::new(Softmax),
        LayerKind::LogSoftmax => Box::new(LogSoftmax),
        LayerKind::Dropout { rate } => Box::new(Dropout::new(rate)?),
        LayerKind::Residual => Box::new(Residual::new(build::<T>(specs)?)),
        LayerKind::Sequential { children } => {
            let mut builder = Sequential::builder();
            for _ in 0..children {
                let name = specs.first().map_or("", |spec| &spec.name);
                builder = builder.layer(name, build::<T>(specs)?);
            }
            Box::new(builder.build()?)
        }
    })
}

fn too_many(layers: impl fmt::Display) -> ArchitectureError {
    let most = Architecture::MAX_LAYERS;
    ArchitectureError::Malformed(format!("{layers} layers, and the limit is {most}"))
}

fn unfinished() -> ArchitectureError {
    ArchitectureError::Malformed("it ends within a container".to_string())
}

/// Checks that the containers hold what they say, no name stands where none belongs, and no layer has a size of 0: with
/// sizes of at least 1, none is larger than the number of parameters, and with it none of a network's results for a row.
impl TryFrom<Vec<LayerSpec>> for Architecture {
    type Error = ArchitectureError;

    fn try_from(layers: Vec<LayerSpec>) -> Result<Self, ArchitectureError> {
        let refuse = |reason: String| Err(ArchitectureError::Malformed(reason));
        if layers.len() > Self::MAX_LAYERS {
            return Err(too_many(layers.len()));
        }
        // Where layers are still to come: how many, whether they have names, and in how many containers they are.
        let mut open = vec![(1, false, 0)];
        for (i, LayerSpec { name, kind }) in layers.iter().enumerate() {
            let Some((left, named, depth)) = open.pop() else {
                return refuse(format!("layer {i} is in no container"));
            };
            if depth > Self::MAX_DEPTH {
                return refuse(format!("layer {i} is nested deeper than {}", Self::MAX_DEPTH));
            }
            if !named && !name.is_empty() {
                return refuse(format!(
                    "layer {i} has the name {name:?}, which only layers of a Sequential have"
                ));
            }
            if let LayerKind::Linear { in_features: 0, .. } | LayerKind::Linear { out_features: 0, .. } = kind
            {
                return refuse(format!("layer {i} has a size of 0"));
            }
            let names = matches!(kind, LayerKind::Sequential { .. });
            let places = [(left - 1, named, depth), (kind.children(), names, depth + 1)];
            open.extend(places.into_iter().filter(|(left, ..)| *left > 0));
        }
        if open.is_empty() { Ok(Self { layers }) } else { Err(unfinished()) }
    }
}

/// By hand, so that reading ends at the limit: a list in a file may be much longer in memory than it is there.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Architecture {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{Error, SeqAccess, Visitor};

        struct Layers;
        impl<'de> Visitor<'de> for Layers {
            type Value = Vec<LayerSpec>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of layers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut layers = Vec::new();
                while let Some(layer) = list.next_element()? {
                    if layers.len() == Architecture::MAX_LAYERS {
                        return Err(Error::custom(too_many("more")));
                    }
                    layers.push(layer);
                }
                Ok(layers)
            }
        }
        Self::try_from(deserializer.deserialize_seq(Layers)?).map_err(Error::custom)
    }
}

/// A layer a line, what is in a container indented below it.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut open = Vec::new();
        for (i, LayerSpec { name, kind }) in self.layers.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            let colon = if name.is_empty() { "" } else { ": " };
            // A name comes from a file, and must not write to the terminal.
            write!(f, "{line}{:indent$}{}{colon}{kind}", "", name.escape_debug(), indent = 2 * open.len())?;
            open.push(kind.children());
            while open.pop_if(|left| *left == 0).is_some() {
                if let Some(left) = open.last_mut() {
                    *left -= 1;
                }
            }
        }
        Ok(())
    }
}

impl LayerKind {
    /// How many layers it has in it.
    fn children(self) -> usize {
        match self {
            Self::Residual => 1,
            Self::Sequential { children } => children,
            _ => 0,
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear { in_features, out_features, bias } => {
                let bias = if *bias { "" } else { ", no bias" };
                write!(f, "Linear({in_features} → {out_features}{bias})")
            }
            Self::Dropout { rate } => write!(f, "Dropout({rate})"),
            Self::Sequential { .. } => f.write_str("Sequential"),
            other => write!(f, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, kind: LayerKind) -> LayerSpec {
        LayerSpec { name: name.to_string(), kind }
    }

    const fn sequential(children: usize) -> LayerKind {
        LayerKind::Sequential { children }
    }

    /// What the list is refused for.
    fn refusal(layers: Vec<LayerSpec>) -> String {
        Architecture::try_from(layers).and_then(|it| it.build::<f32>(100).map(drop)).unwrap_err().to_string()
    }

    #[test]
    fn lists_that_are_no_tree_are_refused() {
        let relu = || spec("", LayerKind::Relu);
        for layers in [
            vec![],
            vec![spec("", LayerKind::Residual)],
            vec![spec("", sequential(2)), spec("a", LayerKind::Relu)],
            vec![spec("", sequential(usize::MAX)), spec("a", LayerKind::Relu)],
            vec![spec("", sequential(1)), spec("a", sequential(1))],
        ] {
            assert_eq!(refusal(layers), "no architecture: it ends within a container");
        }
        for layers in [vec![relu(), relu()], vec![spec("", sequential(0)), relu()]] {
            assert_eq!(refusal(layers), "no architecture: layer 1 is in no container");
        }
        let named = "has the name \"a\", which only layers of a Sequential have";
        assert_eq!(refusal(vec![spec("a", LayerKind::Relu)]), format!("no architecture: layer 0 {named}"));
        let residual = vec![spec("", LayerKind::Residual), spec("a", LayerKind::Relu)];
        assert_eq!(refusal(residual), format!("no architecture: layer 1 {named}"));
        let unnamed = refusal(vec![spec("", sequential(1)), relu()]);
        assert_eq!(unnamed, "Sequential: name of a child: expected a name without dots, got \"\"");
        let twice = ["a", "a"].map(|name| spec(name, LayerKind::Relu));
        let twice = refusal([vec![spec("", sequential(2))], twice.to_vec()].concat());
        assert_eq!(twice, "Sequential: name of a child: expected a name that no other child has, got \"a\"");
    }

    /// A layer of somebody's own.
    struct Own;
    impl backrule_tensor::NamedTensors<f32> for Own {}
    impl Layer<f32> for Own {
        fn forward(
            &self,
            _: &Tensor,
            _: &mut Tensor,
            _: &mut crate::Cache<f32>,
            _: crate::Mode,
        ) -> Result<(), crate::LayerError> {
            Ok(())
        }
        fn backward(
            &self,
            _: crate::At<'_, f32>,
            _: &Tensor,
            _: Option<&mut Tensor>,
            _: &mut [backrule_tensor::Grad],
        ) -> Result<(), crate::LayerError> {
            Ok(())
        }
    }

    #[test]
    fn a_layer_of_ones_own_is_named() {
        let inner = Sequential::builder().layer("own", Own).build().unwrap();
        let net =
            Sequential::builder().layer("relu", Relu).layer("block", Residual::new(inner)).build().unwrap();
        let hint = "Own is not a built-in layer: restore this network into one that your program builds";
        assert_eq!(net.architecture().unwrap_err().to_string(), format!("block.own: {hint}"));
        assert_eq!(Own.architecture().unwrap_err().to_string(), hint);
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal() {
        let layers = vec![spec("", sequential(1)), spec("\x1b[2J", sequential(0))];
        let text = Architecture::try_from(layers).unwrap().to_string();
        assert_eq!(text, "Sequential\n  \\u{1b}[2J: Sequential");
    }

    #[test]
    fn the_limits_hold() {
        let nested = |depth| {
            let mut layers = vec![spec("", LayerKind::Residual); depth];
            layers.push(spec("", LayerKind::Relu));
            Architecture::try_from(layers)
        };
        assert!(nested(Architecture::MAX_DEPTH).is_ok());
        let error = nested(Architecture::MAX_DEPTH + 1).unwrap_err();
        assert_eq!(error.to_string(), "no architecture: layer 33 is nested deeper than 32");
        assert!(nested(60_000).is_err());

        let wide = |count: usize| {
            let children = (1..count).map(|i| {
                let kind = LayerKind::Linear { in_features: 1, out_features: 1, bias: true };
                spec(&i.to_string(), kind)
            });
            Architecture::try_from(
                [spec("", sequential(count - 1))].into_iter().chain(children).collect::<Vec<_>>(),
            )
        };
        let widest = wide(Architecture::MAX_LAYERS).unwrap();
        let taken = allocation_counter::measure(|| drop(widest.build::<f32>(1 << 17).unwrap())).bytes_max;
        let each = taken / Architecture::MAX_LAYERS as u64;
        assert!(each <= 512, "{each} bytes for each layer");
        let error = wide(Architecture::MAX_LAYERS + 1).unwrap_err();
        assert_eq!(error.to_string(), "no architecture: 65537 layers, and the limit is 65536");
        assert!(refusal(vec![spec("", LayerKind::Relu); 65_537]).contains("65537 layers"));
    }

    #[test]
    fn claims_are_checked_before_memory_is_taken() {
        let linear = |in_features, out_features, bias| {
            Architecture::leaf(LayerKind::Linear { in_features, out_features, bias }).unwrap()
        };
        let refused = |it: &Architecture, most| {
            let mut error = String::new();
            let taken =
                allocation_counter::measure(|| error = it.build::<f64>(most).err().unwrap().to_string());
            assert!(taken.bytes_max < 1000, "{} bytes", taken.bytes_max);
            error
        };
        assert_eq!(
            refused(&linear(1 << 20, 1 << 20, false), 1 << 30),
            format!("an architecture of {} parameters, where {} are allowed", 1_u64 << 40, 1 << 30)
        );
        assert_eq!(linear(usize::MAX, usize::MAX, true).parameters(), usize::MAX);
        assert!(refused(&linear(usize::MAX, usize::MAX, true), usize::MAX).contains("elements"));
        let (exact, layer) = (3 * 4 + 4, linear(3, 4, true));
        assert_eq!(layer.build::<f64>(exact).unwrap().tensor_count(), 2);
        assert_eq!(refused(&layer, exact - 1), "an architecture of 16 parameters, where 15 are allowed");
        let dropout = Architecture::leaf(LayerKind::Dropout { rate: f64::NAN }).unwrap();
        // Without parameters a layer could claim any size, and a prediction would take memory for its results.
        for (in_features, out_features) in [(0, usize::MAX), (usize::MAX, 0)] {
            let kind = LayerKind::Linear { in_features, out_features, bias: false };
            assert_eq!(refusal(vec![spec("", kind)]), "no architecture: layer 0 has a size of 0");
        }
        assert_eq!(refused(&dropout, 0), "Dropout: rate: expected a number from 0 to 1, got NaN");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn it_goes_through_files_and_is_checked_on_its_way_in() {
        let layers = vec![
            spec("", sequential(2)),
            spec("fc", LayerKind::Linear { in_features: 2, out_features: 1, bias: false }),
            spec("drop", LayerKind::Dropout { rate: 0.5 }),
        ];
        let architecture = Architecture::try_from(layers).unwrap();
        let json = serde_json::to_string(&architecture).unwrap();
        let expected = r#"[{"name":"","kind":{"sequential":{"children":2}}},{"name":"fc","kind":{"linear":{"in_features":2,"out_features":1,"bias":false}}},{"name":"drop","kind":{"dropout":{"rate":0.5}}}]"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
        for (from, to) in [
            ("\"children\":2", "\"children\":3"),
            ("dropout", "os_command"),
            ("linear", "backrule_nn::Linear"),
            ("\"bias\"", "\"code\""),
            ("\"bias\":false", "\"bias\":false,\"code\":1"),
            ("\"kind\":{\"d", "\"type\":\"x\",\"kind\":{\"d"),
            ("\"in_features\":2", "\"in_features\":-2"),
            ("\"in_features\":2", "\"in_features\":0"),
        ] {
            let changed = json.replace(from, to);
            assert_ne!(changed, json);
            assert!(serde_json::from_str::<Architecture>(&changed).is_err(), "{changed}");
        }
        // Reading ends at the limit: what stands behind it is not even looked at.
        let layer = r#"{"name":"","kind":"relu"}"#;
        let long = format!("[{}?", [layer, ","].concat().repeat(Architecture::MAX_LAYERS + 1));
        let error = serde_json::from_str::<Architecture>(&long).unwrap_err().to_string();
        assert!(error.contains("more layers, and the limit is 65536"), "{error}");
    }
}
