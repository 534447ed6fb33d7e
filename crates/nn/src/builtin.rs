//! The parts of a built-in layer beside its rule: its name in files, how it is built of settings, and samples
//! for tests.

use std::any::TypeId;
use std::fmt;

use backrule_tensor::{
    ConfigError, IntoShape, OptionValue, Options, Place, Scalar, Shape, ShapeError, Tensor,
};

use crate::architecture::ArchitectureError;
use crate::layer::Layer;

/// A layer of this crate: it can be built from a file, and every test of the catalogue finds it.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "only tests see it"))]
pub trait Builtin<T: Scalar>: Layer<T> + Sized {
    /// Its name in files.
    const KIND: &'static str;

    /// A layer of the settings that [`Layer::options`] gives, with tensors of 0. Settings and children left
    /// in `from` are refused afterwards, so nothing has to be checked twice.
    ///
    /// # Errors
    /// When a setting is missing or impossible, or there is no memory.
    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError>;

    /// Instances with inputs. Every option has at least two values among them, and sizes include 1, a prime,
    /// one above a register tile, and one for benchmarks.
    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>>;

    /// The layer that a case of the oracle describes, if it is one of this layer's and has no setting that it
    /// lacks.
    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        let _ = case;
        None
    }
}

/// A layer that `assemble` makes of these tensors, which it asks for by name and shape: neither fewer nor
/// more.
///
/// # Errors
/// When a shape or the number of tensors is another one, and those of `assemble`.
pub(crate) fn of_tensors<T: Scalar, L>(
    operation: &'static str,
    tensors: impl IntoIterator<Item = Tensor<T>>,
    assemble: impl FnOnce(&mut Ask<'_, T>) -> Result<L, ArchitectureError>,
) -> Result<L, ArchitectureError> {
    let (mut tensors, mut count) = (tensors.into_iter(), 0);
    let layer = assemble(&mut |name, shape| {
        count += 1;
        match tensors.next() {
            Some(tensor) if tensor.shape() == shape => Ok(tensor),
            Some(tensor) => Err(ShapeError::new(operation, shape, tensor.shape()).within(name).into()),
            None => Err(ShapeError::new(operation, shape, "none").within(name).into()),
        }
    })?;
    match tensors.next() {
        None => Ok(layer),
        Some(_) => Err(ShapeError::new(operation, count, "more").into()),
    }
}

/// Gives the tensor of this name and shape.
pub(crate) type Ask<'a, T> = dyn FnMut(&str, Shape) -> Result<Tensor<T>, ArchitectureError> + 'a;

/// The parts that a layer is built of: settings, children, and the number of values that it may allocate.
pub struct Build<T: Scalar> {
    pub(crate) options: Options,
    pub(crate) children: std::vec::IntoIter<(String, Box<dyn Layer<T>>)>,
    /// Values that tensors may still have.
    pub(crate) left: usize,
    /// Values that the whole network may have.
    pub(crate) most: usize,
    /// How many layers run when each child does, and when this layer does.
    pub(crate) runs_of_children: Vec<usize>,
    pub(crate) runs: usize,
}

impl<T: Scalar> Build<T> {
    /// Takes a number out of the settings.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn number(&mut self, name: &'static str) -> Result<f64, ConfigError> {
        self.options.number(name)
    }

    /// Takes a flag out of the settings.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn flag(&mut self, name: &'static str) -> Result<bool, ConfigError> {
        self.options.flag(name)
    }

    /// Takes a word out of the settings.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn word(&mut self, name: &'static str) -> Result<String, ConfigError> {
        self.options.word(name)
    }

    /// Takes a whole number out of the settings.
    ///
    /// # Errors
    /// When there is none of this name, or it doesn't fit the address space.
    pub fn whole(&mut self, name: &'static str) -> Result<usize, ConfigError> {
        self.options.size(name)
    }

    /// Takes the size of an axis out of the settings: at least 1. [`whole`](Self::whole) takes 0 as well.
    /// With sizes of at least 1, no axis is longer than the number of values that a layer has.
    ///
    /// # Errors
    /// When there is none of this name, or it is 0.
    pub fn size(&mut self, name: &'static str) -> Result<usize, ConfigError> {
        match self.peek(name) {
            Some(OptionValue::Whole(0)) => Err(ConfigError::new("", name, "at least 1", 0)),
            _ => self.whole(name),
        }
    }

    /// Takes a list of `N` whole numbers out of the settings.
    ///
    /// # Errors
    /// When there is none of this name, or it has another length.
    pub fn wholes<const N: usize>(&mut self, name: &'static str) -> Result<[usize; N], ConfigError> {
        let wrong = |got: &dyn fmt::Display| ConfigError::new("", name, format!("{N} whole numbers"), got);
        match self.peek(name) {
            Some(list @ OptionValue::List(values)) if values.len() != N => Err(wrong(list)),
            _ => self.sizes(name)?.try_into().map_err(|list: Vec<usize>| wrong(&format_args!("{list:?}"))),
        }
    }

    /// A setting that stays where it is.
    fn peek(&self, name: &str) -> Option<&OptionValue> {
        self.options.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Takes a list of whole numbers of any length out of the settings.
    ///
    /// # Errors
    /// When there is none of this name, or a number doesn't fit the address space.
    pub fn sizes(&mut self, name: &'static str) -> Result<Vec<usize>, ConfigError> {
        self.options.sizes(name)
    }

    /// Takes a list of numbers of any length out of the settings: slopes, quantiles.
    ///
    /// # Errors
    /// When there is none of this name, or something else is in it.
    pub fn numbers(&mut self, name: &'static str) -> Result<Vec<f64>, ConfigError> {
        self.options.numbers(name)
    }

    /// Takes a list of words out of the settings.
    ///
    /// # Errors
    /// When there is none of this name, or something else is in it.
    pub fn words(&mut self, name: &'static str) -> Result<Vec<String>, ConfigError> {
        self.options.words(name)
    }

    /// Takes the next child.
    ///
    /// # Errors
    /// When there is none left.
    pub fn child(&mut self) -> Result<(String, Box<dyn Layer<T>>), ConfigError> {
        self.children.next().ok_or_else(|| ConfigError::new("", "children", "one more layer", "none"))
    }

    /// Takes the only child, which has no name.
    ///
    /// # Errors
    /// When there is none, or it has a name.
    pub fn only_child(&mut self) -> Result<Box<dyn Layer<T>>, ConfigError> {
        match self.child()? {
            (name, layer) if name.is_empty() => Ok(layer),
            (name, _) => Err(ConfigError::new("", "name of the child", "no name", name)),
        }
    }

    /// Says how often each child runs in a pass, where that isn't once.
    pub(crate) fn children_run(&mut self, children: impl Iterator<Item = usize>) {
        let runs = children.filter_map(|child| self.runs_of_children.get(child));
        self.runs = runs.fold(1, |sum, &runs| sum.saturating_add(runs));
    }

    /// A file of some kilobytes must not describe a pass without end.
    ///
    /// # Errors
    /// When the layer and its descendants would run more than 65,536 times in a pass.
    pub(crate) fn check_runs(&self) -> Result<(), ConfigError> {
        const MOST: usize = 1 << 16;
        match self.runs {
            ..=MOST => Ok(()),
            runs => Err(ConfigError::new("", "layers", "at most 65536 runs in a pass", runs)),
        }
    }

    /// The number of children that are left.
    pub fn children(&self) -> usize {
        self.children.len()
    }

    /// A tensor of zeros, if the values of the whole network suffice for it: a file can't claim more than it
    /// holds. Axes beside one of size 0 are free up to 4,096.
    ///
    /// # Errors
    /// When they don't, or there is no memory.
    pub fn zeros(&mut self, shape: impl IntoShape) -> Result<Tensor<T>, ArchitectureError> {
        self.full(shape, T::ZERO)
    }

    /// The same, with every element `value`.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn full(&mut self, shape: impl IntoShape, value: T) -> Result<Tensor<T>, ArchitectureError> {
        let shape: Shape = shape.into_shape()?;
        let claimed = match shape.elements() {
            // An axis without values takes no room in the file, and a pass could need any memory for it.
            0 => shape.iter().fold(1, |n: usize, &size| n.saturating_mul(size.max(1))).saturating_sub(EMPTY),
            elements => elements,
        };
        match self.left.checked_sub(claimed) {
            Some(left) => self.left = left,
            None => {
                let parameters = (self.most - self.left).saturating_add(claimed);
                let (place, most) = (Place::default(), self.most);
                return Err(ArchitectureError::TooLarge { place, parameters, most });
            }
        }
        Ok(Tensor::full(shape, value)?)
    }
}

/// The product of the other axes of a tensor without elements, from which on they count as values.
const EMPTY: usize = 1 << 12;

/// Builds a layer of its settings.
pub(crate) type Constructor<T> = fn(&mut Build<T>) -> Result<Box<dyn Layer<T>>, ArchitectureError>;

/// A row of the table of layers.
pub struct Entry<T: Scalar> {
    /// Its name in files.
    pub kind: &'static str,
    pub(crate) build: Constructor<T>,
    /// Instances with inputs.
    #[cfg(feature = "testing")]
    pub samples: fn() -> Vec<Sample<T>>,
    /// The layer that a case of the oracle describes.
    #[cfg(feature = "testing")]
    pub oracle: fn(&mut Case<'_, T>) -> Option<Oracle<T>>,
}

impl<T: Scalar> Entry<T> {
    pub(crate) fn of<L: Builtin<T>>() -> Self {
        Self {
            kind: L::KIND,
            build: |from| Ok(Box::new(L::build(from)?)),
            #[cfg(feature = "testing")]
            samples: L::samples,
            #[cfg(feature = "testing")]
            oracle: L::oracle,
        }
    }
}

/// The name in files of a layer of this type.
pub(crate) fn kind_of<T: Scalar, L: Builtin<T>>() -> (TypeId, &'static str) {
    (TypeId::of::<L>(), L::KIND)
}

/// Writes the table of all layers.
macro_rules! layer_table {
    ($($layer:ty),* $(,)?) => {
        /// The kind of a layer of this type, if it is one of this crate's. The question needs no function of
        /// the table, and doesn't compile all layers: those of `f64` take the better part of a minute.
        pub(crate) fn kind_of<T: ::backrule_tensor::Scalar>(of_type: ::std::any::TypeId) -> Option<&'static str> {
            let kinds = [$($crate::builtin::kind_of::<T, $layer>()),*];
            kinds.into_iter().find(|(layer, _)| *layer == of_type).map(|(_, kind)| kind)
        }

        /// All layers of this crate.
        #[doc(hidden)]
        pub fn table<T: ::backrule_tensor::Scalar>() -> Vec<$crate::builtin::Entry<T>> {
            vec![$($crate::builtin::Entry::of::<$layer>()),*]
        }
    };
}
pub(crate) use layer_table;

#[cfg(feature = "testing")]
pub use testing::{Case, Input, Oracle, Sample};

#[cfg(feature = "testing")]
mod testing {
    use backrule_tensor::{OptionValue, Options, Scalar, Tensor, TensorError, random};

    use crate::layer::Layer;
    use crate::mode::Mode;

    /// A layer with inputs, for the tests and benchmarks that iterate over the catalogue.
    #[derive(Clone)]
    pub struct Sample<T: Scalar> {
        /// Its name among the samples of its kind; part of a benchmark's name for one of benchmark size.
        pub name: &'static str,
        /// The layer.
        pub layer: Box<dyn Layer<T>>,
        /// Its inputs.
        pub inputs: Vec<Input>,
        /// Whether y of one sample depends on that sample alone. A batch norm in training sees the batch.
        pub independent_samples: bool,
        /// Whether training draws random numbers.
        pub random: bool,
        /// Whether the derivative jumps somewhere.
        pub kinks: bool,
        /// Whether it is large enough for a benchmark, and too large for a check of every element.
        pub bench: bool,
    }

    impl<T: Scalar> Sample<T> {
        /// A layer with its inputs: independent samples, nothing random, no kinks.
        pub fn new(
            name: &'static str,
            layer: impl Layer<T>,
            inputs: impl IntoIterator<Item = Input>,
        ) -> Self {
            Self {
                name,
                layer: Box::new(layer),
                inputs: inputs.into_iter().collect(),
                independent_samples: true,
                random: false,
                kinks: false,
                bench: false,
            }
        }

        /// A layer that takes any shape, at several: one number, one sample, a prime, more than a register
        /// tile, three axes, and one for benchmarks.
        pub fn of_any_shape(layer: impl Layer<T> + Clone) -> [Self; 6] {
            let shapes: [(&str, &[usize]); 6] = [
                ("one", &[1, 1]),
                ("sample", &[1, 7]),
                ("small", &[3, 4]),
                ("tall", &[300, 2]),
                ("three axes", &[2, 3, 5]),
                ("64x256", &[64, 256]),
            ];
            shapes.map(|(name, shape)| Self {
                bench: name == "64x256",
                ..Self::new(name, layer.clone(), [Input::normal(shape)])
            })
        }

        /// A sample's y depends on the whole batch.
        #[must_use]
        pub fn sees_the_batch(mut self) -> Self {
            self.independent_samples = false;
            self
        }

        /// Training draws random numbers.
        #[must_use]
        pub fn random(mut self) -> Self {
            self.random = true;
            self
        }

        /// The derivative jumps somewhere.
        #[must_use]
        pub fn kinks(mut self) -> Self {
            self.kinks = true;
            self
        }

        /// Of benchmark size.
        #[must_use]
        pub fn bench(mut self) -> Self {
            self.bench = true;
            self
        }

        /// Inputs that follow from `seed`.
        ///
        /// # Errors
        /// When there is no memory.
        pub fn tensors(&self, seed: u64) -> Result<Vec<Tensor<T>>, TensorError> {
            let seeds = seed.wrapping_mul(100)..;
            self.inputs.iter().zip(seeds).map(|(input, seed)| input.tensor(seed)).collect()
        }
    }

    /// One input of a sample.
    #[derive(Clone, Debug, PartialEq)]
    pub enum Input {
        /// Numbers that are normally distributed.
        Normal(Vec<usize>),
        /// Whole numbers from the first bound up to below the second: indices, lengths. Without a derivative.
        Whole(Vec<usize>, u32, u32),
    }

    impl Input {
        /// Numbers that are normally distributed.
        pub fn normal(shape: &[usize]) -> Self {
            Self::Normal(shape.to_vec())
        }

        /// Whole numbers from `least` up to below `end`.
        pub fn whole(shape: &[usize], least: u32, end: u32) -> Self {
            Self::Whole(shape.to_vec(), least, end)
        }

        /// Whether this input has a derivative.
        pub fn is_differentiable(&self) -> bool {
            matches!(self, Self::Normal(_))
        }

        /// The sizes of its axes.
        pub fn shape(&self) -> &[usize] {
            match self {
                Self::Normal(shape) | Self::Whole(shape, ..) => shape,
            }
        }

        /// The same for another number of samples.
        #[must_use]
        pub fn with_samples(&self, samples: usize) -> Self {
            let mut other = self.clone();
            let (Self::Normal(shape) | Self::Whole(shape, ..)) = &mut other;
            if let Some(first) = shape.first_mut() {
                *first = samples;
            }
            other
        }

        /// Numbers that follow from `seed`.
        ///
        /// # Errors
        /// When there is no memory.
        pub fn tensor<T: Scalar>(&self, seed: u64) -> Result<Tensor<T>, TensorError> {
            let rng = &mut random::rng(seed);
            match self {
                Self::Normal(shape) => Tensor::normal(&shape[..], 0.0, 1.0, rng),
                Self::Whole(shape, least, end) => {
                    let span = f64::from(end - least);
                    Tensor::from_fn(&shape[..], |_| {
                        T::from_f64(f64::from(*least) + (random::uniform(rng) * span).floor())
                    })
                }
            }
        }
    }

    /// A case of the oracle: PyTorch's arguments and its results.
    pub struct Case<'a, T: Scalar> {
        /// The operation, such as `conv2d`.
        pub op: &'a str,
        /// Its settings.
        pub options: Options,
        /// Inputs, parameters and results by name.
        pub tensor: &'a dyn Fn(&str) -> Option<Tensor<T>>,
    }

    impl<T: Scalar> Case<'_, T> {
        /// A tensor of the case.
        pub fn tensor(&self, name: &str) -> Option<Tensor<T>> {
            (self.tensor)(name)
        }

        /// A number, or the default if the case has none. A whole one is a number, too.
        pub fn number(&mut self, name: &str, default: f64) -> f64 {
            let whole = self
                .options
                .iter()
                .any(|(other, value)| other == name && matches!(value, OptionValue::Whole(_)));
            match whole {
                true => self.options.whole(name).map_or(default, |n| n as f64),
                false => self.options.number(name).unwrap_or(default),
            }
        }

        /// A flag, or the default if the case has none.
        pub fn flag(&mut self, name: &str, default: bool) -> bool {
            self.options.flag(name).unwrap_or(default)
        }

        /// A word, or the default if the case has none.
        pub fn word(&mut self, name: &str, default: &str) -> String {
            self.options.word(name).unwrap_or(default.to_string())
        }

        /// A whole number, or the default if the case has none.
        pub fn whole(&mut self, name: &str, default: usize) -> usize {
            self.options.size(name).unwrap_or(default)
        }

        /// Two whole numbers, or the default if the case has none. One stands for two equal ones.
        pub fn pair(&mut self, name: &str, default: [usize; 2]) -> [usize; 2] {
            let value = self.options.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone());
            match value {
                None => default,
                Some(OptionValue::Whole(_)) => [self.whole(name, 0); 2],
                Some(_) => match self.options.wholes(name).unwrap_or_default()[..] {
                    [a, b] => [a as usize, b as usize],
                    _ => default,
                },
            }
        }
    }

    /// A layer that a case describes, with its inputs and the expected outputs.
    pub struct Oracle<T: Scalar> {
        /// The layer with the case's parameters.
        pub layer: Box<dyn Layer<T>>,
        /// The mode of the pass.
        pub mode: Mode,
        /// The names of the case's tensors that are the inputs.
        pub inputs: Vec<&'static str>,
        /// Of the outputs.
        pub outputs: Vec<&'static str>,
        /// Paths in the layer with the case's names, where they differ.
        pub names: Vec<(String, String)>,
    }

    impl<T: Scalar> Oracle<T> {
        /// A layer of one input and one output in training, whose tensors have PyTorch's names.
        pub fn new(layer: impl Layer<T>) -> Self {
            let (inputs, outputs) = (vec!["input"], vec!["output"]);
            Self { layer: Box::new(layer), mode: Mode::train(), inputs, outputs, names: Vec::new() }
        }
    }
}
