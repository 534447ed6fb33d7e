//! Settings as data: the arguments of a layer, a loss or a rule, as they stand in a file.

use std::fmt;

use crate::error::ConfigError;
use crate::memory;

/// The named settings of a layer, a loss or a rule, such as a learning rate, in the order in which they were
/// added.
///
/// This is the only form in which settings are saved. Reading takes each one out by its name and kind, and
/// [`finish`](Self::finish) refuses the rest. A setting of another kind stays, and can be read as
/// that kind.
///
/// ```
/// use backrule_tensor::{ConfigError, Options};
///
/// let mut options = Options::new()
///     .with("rate", 0.5)
///     .with("layers", 2_u64)
///     .with("mode", "causal")
///     .with("axes", [1_u64, 2]);
/// assert_eq!(options.to_string(), r#"rate 0.5, layers 2, mode "causal", axes [1, 2]"#);
///
/// assert_eq!(options.number("rate")?, 0.5);
/// assert_eq!(options.size("layers")?, 2);
/// let error = options.flag("mode").unwrap_err().of("Attention");
/// assert_eq!(error.to_string(), r#"Attention: mode: expected true or false, got "causal""#);
/// assert_eq!(options.word("mode")?, "causal");
/// let error = options.finish().unwrap_err().of("Attention");
/// assert_eq!(
///     error.to_string(),
///     "Attention: axes: expected no setting of this name, got [1, 2]"
/// );
/// # Ok::<(), ConfigError>(())
/// ```
///
/// With the feature `serde` they are a map: numbers, whole numbers, booleans, strings and lists under their
/// names. Reading a map refuses every other type, a name that stands there twice, and a map above the
/// limits below. So does writing one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(Vec<(String, OptionValue)>);

/// The value of a setting.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OptionValue {
    /// A number: a rate, a factor.
    Number(f64),
    /// A whole number: a size, a count, an axis.
    Whole(u64),
    /// A choice between two.
    Flag(bool),
    /// A choice among several, or a name.
    Word(String),
    /// Several values: the sizes of a kernel, say.
    List(Vec<OptionValue>),
    /// A list that there was no memory for. Settings with it can't be [checked](Options::check), read or
    /// saved.
    #[doc(hidden)]
    NoMemory,
}

impl Options {
    /// Settings that there may be.
    pub const MAX: usize = 64;
    /// Bytes that a name may have.
    pub const MAX_NAME: usize = 64;
    /// Bytes that a word may have.
    pub const MAX_WORD: usize = 256;
    /// Values that a list may have where it is written or read, those of the lists in it included. A file
    /// must not claim more than its reader has memory for; an architecture and a checkpoint's header allow
    /// fewer.
    pub const MAX_LIST: usize = 1 << 20;
    /// How deep lists may be nested: a list of lists is 2.
    pub const MAX_NESTING: usize = 2;

    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<OptionValue>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Gives the setting `name` a default, for files that were written before there was such a setting.
    ///
    /// Every setting that is added to a published layer, loss or rule is read this way. All others must be
    /// there.
    ///
    /// ```
    /// use backrule_tensor::Options;
    ///
    /// let mut old = Options::new().with("size", 3_u64);
    /// assert_eq!(old.or("dilation", 1_u64).size("dilation")?, 1);
    /// # assert_eq!(old.size("size")?, 3);
    /// # old.finish()?;
    /// let mut new = Options::new().with("size", 3_u64).with("dilation", 2_u64);
    /// assert_eq!(new.or("dilation", 1_u64).size("dilation")?, 2);
    /// # Ok::<(), backrule_tensor::ConfigError>(())
    /// ```
    pub fn or(&mut self, name: &str, default: impl Into<OptionValue>) -> &mut Self {
        if !self.0.iter().any(|(other, _)| other == name) {
            self.0.push((name.to_string(), default.into()));
        }
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &OptionValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Takes a number out. A whole number up to 2⁵³ is one.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn number(&mut self, name: &str) -> Result<f64, ConfigError> {
        self.take(name, "a number", number)
    }

    /// Takes a whole number out. The number 2.0 is none.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn whole(&mut self, name: &str) -> Result<u64, ConfigError> {
        self.take(name, "a whole number", whole)
    }

    /// Takes out a whole number that is a size, a count or an axis on this machine.
    ///
    /// # Errors
    /// When there is none of this name, or it is larger than a `usize`.
    pub fn size(&mut self, name: &str) -> Result<usize, ConfigError> {
        self.take(name, "a size", size)
    }

    /// Takes a flag out.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn flag(&mut self, name: &str) -> Result<bool, ConfigError> {
        self.take(name, "true or false", |name, expected, value| match value {
            OptionValue::Flag(value) => Ok(*value),
            other => Err(ConfigError::new("", name.to_string(), expected, other)),
        })
    }

    /// Takes a word out.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn word(&mut self, name: &str) -> Result<String, ConfigError> {
        self.take(name, "a word", word)
    }

    /// Takes a list of numbers out.
    ///
    /// # Errors
    /// When there is none of this name, or one of its values is not a number.
    pub fn numbers(&mut self, name: &str) -> Result<Vec<f64>, ConfigError> {
        self.list_of(name, "a list of numbers", number)
    }

    /// Takes a list of whole numbers out.
    ///
    /// # Errors
    /// When there is none of this name, or one of its values is not a whole number.
    pub fn wholes(&mut self, name: &str) -> Result<Vec<u64>, ConfigError> {
        self.list_of(name, "a list of whole numbers", whole)
    }

    /// Takes out a list of whole numbers that are sizes, counts or axes on this machine.
    ///
    /// # Errors
    /// When there is none of this name, or one of its values is not a whole number or larger than a `usize`.
    pub fn sizes(&mut self, name: &str) -> Result<Vec<usize>, ConfigError> {
        self.list_of(name, "a list of sizes", size)
    }

    /// Takes a list of words out.
    ///
    /// # Errors
    /// When there is none of this name, or one of its values is not a word.
    pub fn words(&mut self, name: &str) -> Result<Vec<String>, ConfigError> {
        self.list_of(name, "a list of words", word)
    }

    /// Takes a list of anything out.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn list(&mut self, name: &str) -> Result<Vec<OptionValue>, ConfigError> {
        let expected = "a list";
        let place = self.place(name, expected)?;
        // It is not copied: there may be no memory for that.
        match &mut self.0[place].1 {
            OptionValue::List(values) => {
                let values = std::mem::take(values);
                self.0.remove(place);
                Ok(values)
            }
            other => Err(ConfigError::new("", name.to_string(), expected, other)),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When a setting was not taken out: its meaning is unknown.
    pub fn finish(self) -> Result<(), ConfigError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, value)) => Err(ConfigError::new("", name, "no setting of this name", value)),
        }
    }

    /// Checks that no name stands here twice and that no limit is exceeded: written options can be read
    /// again.
    ///
    /// # Errors
    /// About the first setting that can't be written.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_at_most(Self::MAX_LIST)
    }

    /// The same with another limit of lists.
    #[doc(hidden)]
    pub fn check_at_most(&self, list: usize) -> Result<(), ConfigError> {
        if self.0.len() > Self::MAX {
            return Err(ConfigError::new("", "settings", at_most(Self::MAX, "of them"), self.0.len()));
        }
        for (i, (name, value)) in self.0.iter().enumerate() {
            if self.0.iter().take(i).any(|(other, _)| other == name) {
                return Err(twice(name));
            }
            check_name(name)?;
            check_value(name, value, 0, &mut Count { values: 0, most: list })?;
        }
        Ok(())
    }

    /// A copy.
    ///
    /// # Errors
    /// When there is no memory for its lists.
    #[doc(hidden)]
    pub fn try_clone(&self) -> Result<Self, ConfigError> {
        fn copy(value: &OptionValue) -> OptionValue {
            match value {
                OptionValue::List(values) => OptionValue::list(values.iter().map(copy)),
                other => other.clone(),
            }
        }
        let copy = Self(self.0.iter().map(|(name, value)| (name.clone(), copy(value))).collect());
        copy.check().map(|()| copy)
    }

    fn place(&self, name: &str, expected: &'static str) -> Result<usize, ConfigError> {
        let place = self.0.iter().position(|(other, _)| other == name);
        place.ok_or_else(|| {
            // A name that is misspelt is one of these.
            let others: Vec<&str> = self.0.iter().take(8).map(|(other, _)| other.as_ref()).collect();
            let got = match others.is_empty() {
                true => "nothing".to_string(),
                false => format!("nothing: there is {}", others.join(", ")),
            };
            ConfigError::new("", name.to_string(), expected, got)
        })
    }

    /// Takes out a setting as the result of `read`.
    fn take<V>(
        &mut self,
        name: &str,
        expected: &'static str,
        read: impl Fn(&str, &'static str, &OptionValue) -> Result<V, ConfigError>,
    ) -> Result<V, ConfigError> {
        let place = self.place(name, expected)?;
        let value = read(name, expected, &self.0[place].1)?;
        self.0.remove(place);
        Ok(value)
    }

    fn list_of<V>(
        &mut self,
        name: &str,
        expected: &'static str,
        read: impl Fn(&str, &'static str, &OptionValue) -> Result<V, ConfigError>,
    ) -> Result<Vec<V>, ConfigError> {
        self.take(name, expected, |name, expected, value| match value {
            OptionValue::List(values) => {
                let mut read_values = memory::room("settings", values.len()).map_err(|_| no_memory(name))?;
                for value in values {
                    read_values.push(read(name, expected, value)?);
                }
                Ok(read_values)
            }
            other => Err(ConfigError::new("", name.to_string(), expected, other)),
        })
    }
}

fn number(name: &str, expected: &'static str, value: &OptionValue) -> Result<f64, ConfigError> {
    match value {
        OptionValue::Number(value) => Ok(*value),
        OptionValue::Whole(value) if *value <= 1 << f64::MANTISSA_DIGITS => Ok(*value as f64),
        other => Err(ConfigError::new("", name.to_string(), expected, other)),
    }
}

fn whole(name: &str, expected: &'static str, value: &OptionValue) -> Result<u64, ConfigError> {
    match value {
        OptionValue::Whole(value) => Ok(*value),
        other => Err(ConfigError::new("", name.to_string(), expected, other)),
    }
}

fn size(name: &str, expected: &'static str, value: &OptionValue) -> Result<usize, ConfigError> {
    let whole = whole(name, expected, value)?;
    usize::try_from(whole).map_err(|_| ConfigError::new("", name.to_string(), expected, whole))
}

fn word(name: &str, expected: &'static str, value: &OptionValue) -> Result<String, ConfigError> {
    match value {
        OptionValue::Word(value) => Ok(value.clone()),
        other => Err(ConfigError::new("", name.to_string(), expected, other)),
    }
}

fn no_memory(name: &str) -> ConfigError {
    ConfigError::new("", name.to_string(), "memory for its values", "none")
}

fn at_most(most: usize, what: &str) -> String {
    format!("at most {most} {what}")
}

fn twice(name: &str) -> ConfigError {
    ConfigError::new("", name.to_string(), "a name that stands there once", "two of them")
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    if name.len() <= Options::MAX_NAME {
        return Ok(());
    }
    let start: String = name.chars().take(16).collect();
    let expected = at_most(Options::MAX_NAME, "bytes of a name");
    Err(ConfigError::new("", format!("{start}…"), expected, name.len()))
}

/// The values of one setting's lists so far, and the limit.
struct Count {
    values: usize,
    most: usize,
}

impl Count {
    /// One more.
    fn add(&mut self) -> Result<(), ConfigError> {
        self.values += 1;
        match self.values <= self.most {
            true => Ok(()),
            false => Err(ConfigError::new("", "", at_most(self.most, "values in a list"), "more")),
        }
    }
}

fn check_value(name: &str, value: &OptionValue, depth: usize, count: &mut Count) -> Result<(), ConfigError> {
    match value {
        OptionValue::Word(word) => check_word(word).map_err(|error| error.of_option(name)),
        OptionValue::List(list) => {
            check_depth(depth).map_err(|error| error.of_option(name))?;
            for value in list {
                count.add().map_err(|error| error.of_option(name))?;
                check_value(name, value, depth + 1, count)?;
            }
            Ok(())
        }
        OptionValue::Number(_) | OptionValue::Whole(_) | OptionValue::Flag(_) => Ok(()),
        OptionValue::NoMemory => Err(no_memory(name)),
    }
}

fn check_word(word: &str) -> Result<(), ConfigError> {
    let most = Options::MAX_WORD;
    let right = word.len() <= most;
    if right { Ok(()) } else { Err(ConfigError::new("", "", at_most(most, "bytes of a word"), word.len())) }
}

/// Whether a list may stand within `depth` others.
fn check_depth(depth: usize) -> Result<(), ConfigError> {
    let most = Options::MAX_NESTING;
    if depth < most { Ok(()) } else { Err(ConfigError::new("", "", at_most(most, "lists deep"), "more")) }
}

impl ConfigError {
    /// The same error, about the setting `name`.
    fn of_option(mut self, name: &str) -> Self {
        self.option = name.to_string().into();
        self
    }
}

/// `rate 0.5, layers 2, mode "causal", axes [1, 2]`. A number has a point or an exponent, a whole number has
/// none.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // A name can come from a file. It must not write to the terminal.
            write!(f, "{comma}{} {value}", name.escape_debug())?;
        }
        Ok(())
    }
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => write!(f, "{value:?}"),
            Self::Whole(value) => write!(f, "{value}"),
            Self::Flag(value) => write!(f, "{value}"),
            Self::Word(value) => write!(f, "\"{}\"", value.escape_debug()),
            Self::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{value}")?;
                }
                f.write_str("]")
            }
            Self::NoMemory => f.write_str("(no memory)"),
        }
    }
}

impl OptionValue {
    /// A list, or a value that says that there was no memory for it.
    #[doc(hidden)]
    pub fn list(values: impl Iterator<Item = Self>) -> Self {
        memory::collect("settings", values).map_or(Self::NoMemory, Self::List)
    }
}

impl From<f64> for OptionValue {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<f32> for OptionValue {
    fn from(value: f32) -> Self {
        Self::Number(value.into())
    }
}

impl From<u64> for OptionValue {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for OptionValue {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for OptionValue {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for OptionValue {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl From<&str> for OptionValue {
    fn from(value: &str) -> Self {
        Self::Word(value.to_string())
    }
}

impl From<String> for OptionValue {
    fn from(value: String) -> Self {
        Self::Word(value)
    }
}

impl<V: Into<Self>> From<Vec<V>> for OptionValue {
    fn from(values: Vec<V>) -> Self {
        Self::list(values.into_iter().map(V::into))
    }
}

impl<V: Into<Self>, const N: usize> From<[V; N]> for OptionValue {
    fn from(values: [V; N]) -> Self {
        Self::list(values.into_iter().map(V::into))
    }
}

impl<V: Into<Self> + Clone> From<&[V]> for OptionValue {
    fn from(values: &[V]) -> Self {
        Self::list(values.iter().cloned().map(V::into))
    }
}

/// By hand: a file may claim anything, and a list in it may be much longer in memory than it is there.
#[cfg(feature = "serde")]
mod written {
    use std::fmt;

    use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
    use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};

    use crate::memory;

    use super::{
        ConfigError, Count, OptionValue, Options, at_most, check_depth, check_name, check_word, twice,
    };

    impl Serialize for Options {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.check().map_err(S::Error::custom)?;
            let mut map = serializer.serialize_map(Some(self.0.len()))?;
            for (name, value) in &self.0 {
                map.serialize_entry(name, value)?;
            }
            map.end()
        }
    }

    impl Serialize for OptionValue {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Self::Number(value) => serializer.serialize_f64(*value),
                Self::Whole(value) => serializer.serialize_u64(*value),
                Self::Flag(value) => serializer.serialize_bool(*value),
                Self::Word(value) => serializer.serialize_str(value),
                Self::List(values) => serializer.collect_seq(values),
                Self::NoMemory => Err(S::Error::custom("no memory for a list of settings")),
            }
        }
    }

    impl<'de> de::Deserialize<'de> for Options {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Self::deserialize_at_most(deserializer, Self::MAX_LIST)
        }
    }

    impl Options {
        /// Reads them with another limit of lists.
        ///
        /// # Errors
        /// When there are no settings, or they are above a limit.
        #[doc(hidden)]
        pub fn deserialize_at_most<'de, D: Deserializer<'de>>(
            deserializer: D,
            list: usize,
        ) -> Result<Self, D::Error> {
            struct Map(usize);
            impl<'de> Visitor<'de> for Map {
                type Value = Options;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a map of settings")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Options, A::Error> {
                    let mut options = Options::new();
                    while let Some(name) = map.next_key::<String>()? {
                        if options.0.len() == Options::MAX {
                            return Err(A::Error::custom(at_most(Options::MAX, "settings")));
                        }
                        check_name(&name).map_err(A::Error::custom)?;
                        if options.0.iter().any(|(other, _)| *other == name) {
                            return Err(A::Error::custom(twice(&name)));
                        }
                        let count = &mut Count { values: 0, most: self.0 };
                        let value = map.next_value_seed(Value { name: &name, depth: 0, count })?;
                        options.0.push((name, value));
                    }
                    Ok(options)
                }
            }
            deserializer.deserialize_map(Map(list))
        }
    }

    /// A value of the setting `name` within `depth` lists.
    struct Value<'a> {
        name: &'a str,
        depth: usize,
        count: &'a mut Count,
    }

    impl<'de> DeserializeSeed<'de> for Value<'_> {
        type Value = OptionValue;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<OptionValue, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for Value<'_> {
        type Value = OptionValue;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, a boolean, a string or a list of them")
        }

        fn visit_bool<E: de::Error>(self, value: bool) -> Result<OptionValue, E> {
            Ok(value.into())
        }

        fn visit_f64<E: de::Error>(self, value: f64) -> Result<OptionValue, E> {
            Ok(value.into())
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<OptionValue, E> {
            Ok(value.into())
        }

        /// A negative whole number is a number: a person writes −1 for −1.0.
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<OptionValue, E> {
            match u64::try_from(value) {
                Ok(value) => Ok(value.into()),
                Err(_) if value.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS => Ok((value as f64).into()),
                Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
            }
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<OptionValue, E> {
            check_word(value).map_err(|error| E::custom(error.of_option(self.name)))?;
            Ok(value.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OptionValue, A::Error> {
            let refuse = |error: ConfigError| A::Error::custom(error.of_option(self.name));
            check_depth(self.depth).map_err(refuse)?;
            let mut values = Vec::new();
            while let Some(value) =
                list.next_element_seed(Value { depth: self.depth + 1, count: &mut *self.count, ..self })?
            {
                self.count.add().map_err(refuse)?;
                memory::push("settings", &mut values, value).map_err(A::Error::custom)?;
            }
            Ok(OptionValue::List(values))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Options {
        Options::new()
            .with("rate", 1.0)
            .with("layers", 7_u64)
            .with("bias", true)
            .with("mode", "causal")
            .with("kernel", vec![3_usize, 5])
            .with("pairs", [vec![1_u32], vec![]])
            .with("slopes", [0.5_f32, -0.25].as_slice())
    }

    #[test]
    fn every_kind_is_read_as_itself() {
        let mut options = every_kind();
        assert_eq!(options.number("rate").unwrap(), 1.0);
        assert_eq!(options.whole("layers").unwrap(), 7);
        assert!(options.flag("bias").unwrap());
        assert_eq!(options.word("mode").unwrap(), "causal");
        assert_eq!(options.sizes("kernel").unwrap(), [3, 5]);
        assert_eq!(options.list("pairs").unwrap(), [vec![1_u64].into(), Vec::<u64>::new().into()]);
        assert_eq!(options.numbers("slopes").unwrap(), [0.5, -0.25]);
        assert_eq!(options.finish(), Ok(()));
        let text = r#"rate 1.0, layers 7, bias true, mode "causal", kernel [3, 5], pairs [[1], []], slopes [0.5, -0.25]"#;
        assert_eq!(every_kind().to_string(), text);
    }

    type Read = fn(&mut Options, &str) -> Result<(), ConfigError>;

    /// The error of an attempt with another kind is about the kind, not about a missing setting.
    #[test]
    fn an_option_that_could_not_be_read_is_still_there() {
        let readers: [Read; 10] = [
            |options, name| options.number(name).map(drop),
            |options, name| options.whole(name).map(drop),
            |options, name| options.size(name).map(drop),
            |options, name| options.flag(name).map(drop),
            |options, name| options.word(name).map(drop),
            |options, name| options.numbers(name).map(drop),
            |options, name| options.wholes(name).map(drop),
            |options, name| options.sizes(name).map(drop),
            |options, name| options.words(name).map(drop),
            |options, name| options.list(name).map(drop),
        ];
        let all = every_kind().with("mixed", vec![OptionValue::from(1_u64), "x".into()]);
        for (name, _) in all.iter() {
            let mut options = all.clone();
            let failed = readers.iter().filter(|read| read(&mut all.clone(), name).is_err());
            for (i, read) in failed.enumerate() {
                let error = read(&mut options, name).unwrap_err();
                assert!(i < 9 && error.got != "nothing", "{error}");
                assert_eq!(options, all);
            }
            let right = readers.iter().find(|read| read(&mut options, name).is_ok());
            assert!(right.is_some() && options.iter().all(|(other, _)| other != name), "{name}");
        }
    }

    #[test]
    fn an_option_of_another_kind_is_refused_by_name() {
        for (name, _) in every_kind().iter() {
            let readers: [Read; 7] = [
                |options, name| options.number(name).map(drop),
                |options, name| options.whole(name).map(drop),
                |options, name| options.flag(name).map(drop),
                |options, name| options.word(name).map(drop),
                |options, name| options.wholes(name).map(drop),
                |options, name| options.numbers(name).map(drop),
                |options, name| options.size(name).map(drop),
            ];
            let right = match name {
                "layers" => 3, // `number` as well as `whole` and `size`
                "kernel" => 2,
                "pairs" => 0,
                _ => 1,
            };
            let results = readers.map(|read| read(&mut every_kind(), name));
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), right, "{name}");
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                assert_eq!(error.option, name);
            }
        }
        let error = Options::new().with("rate", 0.5).flag("rate").unwrap_err();
        assert_eq!(error.to_string(), "rate: expected true or false, got 0.5");
        let error = Options::new().with("n", 2.0).whole("n").unwrap_err();
        assert_eq!(error.to_string(), "n: expected a whole number, got 2.0");
        let error = Options::new().with("n", [1_u64, u64::MAX]).numbers("n").unwrap_err();
        assert_eq!(error.to_string(), "n: expected a list of numbers, got 18446744073709551615");
        let error = Options::new().word("mode").unwrap_err().of("Conv2d");
        assert_eq!(error.to_string(), "Conv2d: mode: expected a word, got nothing");
        assert_eq!(Options::new().finish(), Ok(()));
    }

    #[test]
    fn a_default_is_only_for_what_is_missing() {
        let mut options = Options::new().with("a", 1_u64);
        assert_eq!(options.or("a", 2_u64).whole("a").unwrap(), 1);
        assert_eq!(options.or("a", 2_u64).whole("a").unwrap(), 2);
        assert!(options.whole("a").is_err());
        options.finish().unwrap();
    }

    #[test]
    fn nothing_in_them_writes_to_a_terminal() {
        let options = Options::new().with("\x1b", true).with("a", "\x1b\"");
        assert_eq!(options.to_string(), r#"\u{1b} true, a "\u{1b}\"""#);
        let error = options.clone().number("\x1b").unwrap_err();
        assert!(!format!("{error} {}", options.finish().unwrap_err()).contains('\x1b'));
    }

    /// One below and one above each limit.
    fn at_the_limits() -> [(Options, Options, &'static str); 5] {
        let many = |n: usize| (0..n).fold(Options::new(), |all, i| all.with(i.to_string(), i));
        let name = |n: usize| Options::new().with("x".repeat(n), true);
        let word = |n: usize| Options::new().with("a", "x".repeat(n));
        // Each inner list is a value too.
        let values = |n: usize| Options::new().with("a", [vec![0_u64; n - 10], vec![0; 8]]);
        let deep = |extra: bool| {
            let inner = OptionValue::from([0_u64]);
            let two: OptionValue = vec![inner].into();
            Options::new().with("a", if extra { vec![two].into() } else { two })
        };
        [
            (many(Options::MAX), many(Options::MAX + 1), "at most 64"),
            (name(Options::MAX_NAME), name(Options::MAX_NAME + 1), "at most 64 bytes of a name"),
            (word(Options::MAX_WORD), word(Options::MAX_WORD + 1), "at most 256 bytes of a word"),
            (values(Options::MAX_LIST), values(Options::MAX_LIST + 1), "at most 1048576 values in a list"),
            (deep(false), deep(true), "at most 2 lists deep"),
        ]
    }

    #[test]
    fn there_are_limits() {
        for (right, wrong, why) in at_the_limits() {
            right.check().unwrap();
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let twice = Options::new().with("a", 1.0).with("a", 2.0).check().unwrap_err();
        assert_eq!(twice.to_string(), "a: expected a name that stands there once, got two of them");
    }

    #[cfg(feature = "serde")]
    mod in_a_file {
        use std::collections::BTreeMap;

        use rmp_serde::{from_slice, to_vec};
        use serde::{Serialize, Serializer};

        use super::*;

        fn refused(bytes: &[u8]) -> String {
            from_slice::<Options>(bytes).unwrap_err().to_string()
        }

        #[test]
        fn everything_comes_back() {
            let options = every_kind().with("none", Vec::<f64>::new()).with("negative", -1.5);
            assert_eq!(from_slice::<Options>(&to_vec(&options).unwrap()).unwrap(), options);
        }

        #[test]
        fn whole_numbers_are_read_as_a_person_means_them() {
            let bytes = to_vec(&BTreeMap::from([("a", 1_i64), ("b", -1), ("c", -(1 << 53))])).unwrap();
            let mut options: Options = from_slice(&bytes).unwrap();
            assert_eq!(options.clone().whole("a").unwrap(), 1);
            assert_eq!(options.number("a").unwrap(), 1.0);
            assert_eq!(options.number("b").unwrap(), -1.0);
            assert_eq!(options.number("c").unwrap(), -(2_f64.powi(53)));
            options.finish().unwrap();
        }

        #[test]
        fn other_types_are_refused() {
            for (bytes, why) in [
                (to_vec(&BTreeMap::from([("a", ())])), "invalid type: unit value, expected a number, a bool"),
                (to_vec(&BTreeMap::from([("a", BTreeMap::from([("b", 1)]))])), "invalid type: map"),
                (to_vec(&BTreeMap::from([("a", [[()]])])), "invalid type: unit value"),
                (to_vec(&BTreeMap::from([("a", i64::MIN)])), "invalid value: integer"),
                (to_vec(&[1]), "invalid type: sequence, expected a map of settings"),
            ] {
                let error = refused(&bytes.unwrap());
                assert!(error.contains(why), "{error}");
            }
            // A map of two: a is 1, a is 2.
            let error = refused(&[0x82, 0xa1, b'a', 1, 0xa1, b'a', 2]);
            assert!(error.contains("a: expected a name that stands there once"), "{error}");
        }

        /// Written as a program would that doesn't check.
        struct Unchecked<'a>(&'a Options);
        impl Serialize for Unchecked<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter())
            }
        }

        #[test]
        fn limits_hold_in_both_directions() {
            for (right, wrong, why) in at_the_limits() {
                let bytes = to_vec(&Unchecked(&right)).unwrap();
                assert_eq!(from_slice::<Options>(&bytes).unwrap(), right);
                let error = to_vec(&wrong).unwrap_err().to_string();
                assert!(error.contains(why), "{error}");
                let error = refused(&to_vec(&Unchecked(&wrong)).unwrap());
                assert!(error.contains(why), "{error}");
            }
            // A list in a list in a list and so on, without an end: the third one is refused.
            let error = refused(&[&[0x81, 0xa1, b'a'][..], &[0x91; 100_000]].concat());
            assert!(error.contains("at most 2 lists deep"), "{error}");
        }
    }
}
