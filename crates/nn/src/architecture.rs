//! A network's structure as data. It knows no layer: the catalogue builds layers of it, and describes layers
//! in it.

use std::fmt;

use backrule_tensor::{ConfigError, MemoryError, Options, Path, Place, ShapeError, TensorError, readable};

/// The structure of a network as plain data: which layers, with which settings, in which containers.
///
/// [`Architecture::of`] describes a network, [`build`](Self::build) builds it again. There are no types and
/// no code in it, only names of layers with their settings, and all that it claims is checked before memory
/// is taken for it.
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Architecture, Linear, Relu, Residual, Sequential};
///
/// let mut rng = random::rng(1);
/// let net: Sequential = Sequential::builder()
///     .layer("block", Residual::new(Linear::new(8, 8, &mut rng)?))
///     .layer("relu", Relu)
///     .layer("fc", Linear::new(8, 2, &mut rng)?)
///     .build()?;
/// let architecture = Architecture::of(&net)?;
/// assert_eq!(
///     architecture.to_string(),
///     "\
/// Sequential
///   block: Residual
///     Linear(8 → 8, bias)
///   relu: Relu
///   fc: Linear(8 → 2, bias)"
/// );
/// // With parameters of 0, ready to be restored.
/// let again = architecture.build::<f32>(1000)?;
/// assert_eq!(Architecture::of(&*again)?, architecture);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct Architecture {
    /// Each container before its children. A list, because a file with a tree could be nested until the
    /// stack ends.
    layers: Vec<LayerSpec>,
}

/// One layer of an [`Architecture`].
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct LayerSpec {
    /// Its name in the container that it is in; empty for the outermost layer and where a container has one
    /// child alone.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "name")
    )]
    pub name: String,
    /// Its kind: `Linear`, or `crate/Name` for a layer of somebody's own.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "name"))]
    pub kind: String,
    /// Its settings, within the limits of [`Options`] and with lists of at most
    /// [`MAX_LIST`](Architecture::MAX_LIST) values: of a graph, say, those that its layers take, and names of
    /// inputs of at most 256 bytes.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "Options::is_empty", deserialize_with = "settings")
    )]
    pub options: Options,
    /// How many layers are in it: those that follow, each with its own children.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "is_zero"))]
    pub children: usize,
}

#[cfg(feature = "serde")]
fn settings<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Options, D::Error> {
    Options::deserialize_at_most(deserializer, Architecture::MAX_LIST)
}

/// A name or a kind. Too long a one is refused before memory is taken for it.
#[cfg(feature = "serde")]
fn name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Name;
    impl serde::de::Visitor<'_> for Name {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a text of at most {} bytes", Architecture::MAX_NAME)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
            if text.len() > Architecture::MAX_NAME {
                return Err(E::invalid_length(text.len(), &self));
            }
            Ok(text.to_string())
        }
    }
    deserializer.deserialize_str(Name)
}

#[cfg(feature = "serde")]
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Why a network has no architecture, or none can be built of one.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// A layer is somebody's own, and says no name under which a file could hold it.
    #[error(
        "{}{} is not a built-in layer: give it a `custom_kind`, or restore this network into one that \
         your program builds",
        place.prefix(), layer.escape_debug()
    )]
    Custom {
        /// Where.
        place: Place,
        /// Its type.
        layer: String,
    },
    /// A layer of this name is neither built in nor in the registry.
    #[error(
        "{}no layer is called {}: {}", place.prefix(), kind.escape_debug(),
        match registry.is_empty() {
            true => "is it missing from the registry?".to_string(),
            false => format!("the registry has {}", registry.join(", ")),
        }
    )]
    Unknown {
        /// Where.
        place: Place,
        /// The name.
        kind: String,
        /// The first names that the registry has.
        registry: Vec<&'static str>,
    },
    /// It isn't the description of a network.
    #[error("no architecture: {}", .0.escape_debug())]
    Malformed(String),
    /// It has more parameters than it may have.
    #[error(
        "{}{parameters} parameters up to here, where {most} are allowed: a file has as many as it has values, \
         and a constructor of the registry makes no more than its layer had", place.prefix()
    )]
    TooLarge {
        /// The layer that was one too many.
        place: Place,
        /// How many it has, as far as they were counted.
        parameters: usize,
        /// How many it may have.
        most: usize,
    },
    /// A layer has a setting that it can't have.
    #[error("{}{error}", place.prefix())]
    Config {
        /// Where.
        place: Place,
        /// Which setting.
        error: ConfigError,
    },
    /// A layer has a size that it can't have.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

readable! {
    enum ArchitectureError {
        Custom { place, layer }, Unknown { place, kind, registry }, Malformed(reason),
        TooLarge { place, parameters, most }, Config { place, error }, Shape(error), Memory(error),
    }
}

impl From<ConfigError> for ArchitectureError {
    fn from(error: ConfigError) -> Self {
        Self::Config { place: Place::default(), error }
    }
}

impl From<TensorError> for ArchitectureError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Shape(error) => error.into(),
            TensorError::Memory(error) => error.into(),
            other => Self::Malformed(other.to_string()),
        }
    }
}

impl ArchitectureError {
    /// The same error, seen from outside the child `name`.
    #[must_use]
    pub fn within(self, name: &str) -> Self {
        match self {
            Self::Custom { place, layer } => Self::Custom { place: place.within(name), layer },
            Self::Unknown { place, kind, registry } => {
                Self::Unknown { place: place.within(name), kind, registry }
            }
            Self::TooLarge { place, parameters, most } => {
                Self::TooLarge { place: place.within(name), parameters, most }
            }
            Self::Config { place, error } => Self::Config { place: place.within(name), error },
            Self::Shape(error) => Self::Shape(error.within(name)),
            Self::Memory(error) => Self::Memory(error.within(name)),
            other => other,
        }
    }
}

impl Architecture {
    /// Layers that there may be.
    pub const MAX_LAYERS: usize = 8_192;
    /// Values that a list in a layer's settings may have: making the layer copies them.
    pub const MAX_LIST: usize = 4_096;
    /// How deep they may be nested.
    pub const MAX_DEPTH: usize = 32;
    /// Bytes of a layer's path, or of a kind.
    pub const MAX_NAME: usize = Path::MAX;

    /// All layers, each container before its children.
    pub fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }
}

fn too_many(layers: impl fmt::Display) -> ArchitectureError {
    let most = Architecture::MAX_LAYERS;
    ArchitectureError::Malformed(format!("{layers} layers, and the limit is {most}"))
}

/// The list ends where a container has layers to come.
pub(crate) fn unfinished() -> ArchitectureError {
    ArchitectureError::Malformed("it ends within a container".to_string())
}

/// Checks the containers' numbers of children, and the limits.
impl TryFrom<Vec<LayerSpec>> for Architecture {
    type Error = ArchitectureError;

    fn try_from(layers: Vec<LayerSpec>) -> Result<Self, ArchitectureError> {
        let refuse = |reason: String| Err(ArchitectureError::Malformed(reason));
        if layers.len() > Self::MAX_LAYERS {
            return Err(too_many(layers.len()));
        }
        // Where layers are still to come: how many, in how many containers they are, and the bytes of their
        // path so far.
        let mut open = vec![(1, 0, 0)];
        for (i, LayerSpec { name, kind, children, .. }) in layers.iter().enumerate() {
            let Some((left, depth, before)) = open.pop() else {
                return refuse(format!("layer {i} is in no container"));
            };
            if depth > Self::MAX_DEPTH {
                return refuse(format!("layer {i} is nested deeper than {}", Self::MAX_DEPTH));
            }
            let path = before + usize::from(before > 0 && !name.is_empty()) + name.len();
            for (what, bytes) in [("path", path), ("kind", kind.len())] {
                if bytes > Self::MAX_NAME {
                    return refuse(format!("layer {i} has a {what} of more than {} bytes", Self::MAX_NAME));
                }
            }
            let places = [(left - 1, depth, before), (*children, depth + 1, path)];
            open.extend(places.into_iter().filter(|(left, ..)| *left > 0));
        }
        if open.is_empty() { Ok(Self { layers }) } else { Err(unfinished()) }
    }
}

/// By hand, so reading ends at the limit: a list in a file may be much longer in memory than it is there.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Architecture {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use backrule_tensor::memory;
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
                    memory::push("architecture", &mut layers, layer).map_err(Error::custom)?;
                }
                Ok(layers)
            }
        }
        Self::try_from(deserializer.deserialize_seq(Layers)?).map_err(Error::custom)
    }
}

/// A layer a line, the children of a container indented below it.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut open = Vec::new();
        for (i, LayerSpec { name, kind, options, children }) in self.layers.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            let colon = if name.is_empty() { "" } else { ": " };
            let settings = Settings { kind, options, brief: None };
            // A name comes from a file, and must not write to the terminal.
            write!(
                f,
                "{line}{:indent$}{}{colon}{settings}",
                "",
                name.escape_debug(),
                indent = 2 * open.len()
            )?;
            open.push(*children);
            while open.pop_if(|left| *left == 0).is_some() {
                if let Some(left) = open.last_mut() {
                    *left -= 1;
                }
            }
        }
        Ok(())
    }
}

/// A layer with its settings, as people write it: `Linear(64 → 32, bias)`.
pub(crate) struct Settings<'a> {
    pub(crate) kind: &'a str,
    pub(crate) options: &'a Options,
    /// Leaves out settings with these values, and writes two sizes as `3×3`. A list of somebody's own layer
    /// need not be sizes.
    pub(crate) brief: Option<&'a Options>,
}

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use backrule_tensor::OptionValue::{Flag, List, Number, Whole};

        write!(f, "{}", self.kind.escape_debug())?;
        let mut between = "(";
        let size = |before: &str, of: &str| {
            let is = |name: &str| name.strip_prefix(before) == Some(of);
            self.options.iter().find_map(|it| match it {
                (name, Whole(size)) if is(name) => Some(size),
                _ => None,
            })
        };
        // Sizes that go in and come out are an arrow.
        let arrow = |name: &str| {
            let of = name.strip_prefix("in_").or_else(|| name.strip_prefix("out_"))?;
            Some((size("in_", of)?, size("out_", of)?))
        };
        for (name, value) in self.options.iter() {
            let is = |(other, default)| (other, default) == (name, value);
            if self.brief.is_some_and(|defaults| defaults.iter().any(is)) {
                continue;
            }
            if let (Some(_), List(values)) = (self.brief, value)
                && let [Whole(a), Whole(b)] = &**values
            {
                write!(f, "{between}{} {a}×{b}", name.escape_debug())?;
                between = ", ";
                continue;
            }
            match value {
                Whole(_) if arrow(name).is_some() => match arrow(name) {
                    Some((from, to)) if name.starts_with("in_") => write!(f, "{between}{from} → {to}")?,
                    _ => continue,
                },
                // Without hundreds of zeros.
                Number(value) if *value != 0.0 && !(1e-4..1e16).contains(&value.abs()) => {
                    write!(f, "{between}{} {value:e}", name.escape_debug())?;
                }
                Flag(true) => write!(f, "{between}{}", name.escape_debug())?,
                Flag(false) => write!(f, "{between}no {}", name.escape_debug())?,
                Number(value) => write!(f, "{between}{} {value}", name.escape_debug())?,
                value => write!(f, "{between}{} {value}", name.escape_debug())?,
            }
            between = ", ";
        }
        if between == ", " { f.write_str(")") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(children: usize) -> LayerSpec {
        LayerSpec { kind: "Sequential".to_string(), children, ..LayerSpec::default() }
    }

    fn refusal(layers: Vec<LayerSpec>) -> String {
        Architecture::try_from(layers).unwrap_err().to_string()
    }

    #[test]
    fn every_setting_is_shown() {
        let text = |options: Options| Settings { kind: "a/B", options: &options, brief: None }.to_string();
        let new = Options::new;
        for (options, expected) in [
            (new().with("in_a", 2_u64).with("out_a", 3_u64).with("bias", true), "a/B(2 → 3, bias)"),
            (new().with("out_a", 3_u64).with("n", 1_u64).with("in_a", 2_u64), "a/B(n 1, 2 → 3)"),
            (new().with("in_a", 2_u64), "a/B(in_a 2)"),
            (new().with("out_a", 3_u64).with("in_b", 2_u64), "a/B(out_a 3, in_b 2)"),
            (new().with("in_a", 1_u64).with("in_b", 2_u64).with("out_b", 3_u64), "a/B(in_a 1, 2 → 3)"),
            (new().with("x", 1e-300).with("y", 0.001).with("z", -1e20), "a/B(x 1e-300, y 0.001, z -1e20)"),
            (new().with("x", 0.0).with("y", f64::INFINITY), "a/B(x 0, y inf)"),
            (new(), "a/B"),
        ] {
            assert_eq!(text(options), expected);
        }
    }

    #[test]
    fn lists_that_are_no_tree_are_refused() {
        for layers in
            [vec![], vec![spec(2), spec(0)], vec![spec(usize::MAX), spec(0)], vec![spec(1), spec(1)]]
        {
            assert_eq!(refusal(layers), "no architecture: it ends within a container");
        }
        for layers in [vec![spec(0), spec(0)], vec![spec(1), spec(0), spec(0)]] {
            let last = layers.len() - 1;
            assert_eq!(refusal(layers), format!("no architecture: layer {last} is in no container"));
        }
    }

    #[test]
    fn limits_hold() {
        let mut deep = vec![spec(1); Architecture::MAX_DEPTH];
        deep.push(spec(0));
        assert!(Architecture::try_from(deep.clone()).is_ok());
        deep.insert(0, spec(1));
        assert_eq!(refusal(deep), "no architecture: layer 33 is nested deeper than 32");
        let mut wide = vec![spec(Architecture::MAX_LAYERS - 1)];
        wide.resize(Architecture::MAX_LAYERS, spec(0));
        assert!(Architecture::try_from(wide.clone()).is_ok());
        wide[0].children += 1;
        wide.push(spec(0));
        assert_eq!(refusal(wide), "no architecture: 8193 layers, and the limit is 8192");
        // The path counts, of all layers around it: 2 · 255 and two dots, or one letter more.
        let named = |n, children| LayerSpec { name: "a".repeat(n), ..spec(children) };
        let path = |last| vec![spec(1), named(255, 2), named(255, 1), named(last, 0), named(256, 0)];
        assert!(Architecture::try_from(path(0)).is_ok());
        assert_eq!(refusal(path(1)), "no architecture: layer 3 has a path of more than 512 bytes");
        let long = LayerSpec { kind: "a".repeat(513), ..spec(0) };
        assert_eq!(refusal(vec![long]), "no architecture: layer 0 has a kind of more than 512 bytes");
    }

    #[test]
    fn a_name_does_not_write_to_the_terminal() {
        let hostile = LayerSpec { name: "\u{1b}[2J".to_string(), kind: "\u{7}".to_string(), ..spec(0) };
        let text = Architecture::try_from(vec![hostile]).unwrap().to_string();
        assert_eq!(text, "\\u{1b}[2J: \\u{7}");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn what_is_read_is_checked_and_bounded() {
        let short = r#"[{"kind":"Relu"}]"#;
        let relu: Architecture = serde_json::from_str(short).unwrap();
        assert_eq!(serde_json::to_string(&relu).unwrap(), short);
        for wrong in [r#"[{"kind":"Relu","children":1}]"#, r#"[{"kind":"Relu","own":1}]"#, "[]", "{}"] {
            assert!(serde_json::from_str::<Architecture>(wrong).is_err(), "{wrong}");
        }
        let long = format!("[{}{short}", "{\"kind\":\"Sequential\",\"children\":1},".repeat(9_000));
        let error = serde_json::from_str::<Architecture>(&long).unwrap_err().to_string();
        assert!(error.contains("more layers, and the limit is 8192"), "{error}");
    }
}
