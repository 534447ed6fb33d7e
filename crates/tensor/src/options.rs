use std::fmt;

/// The named options of an optimiser, such as its learning rate: numbers and flags, in the order in which they were added.
///
/// ```
/// use backrule_tensor::{OptionsError, Options};
///
/// let mut options = Options::new().with("learning_rate", 0.1).with("nesterov", true);
/// assert_eq!(options.to_string(), "learning_rate 0.1, nesterov true");
///
/// // Reading takes each one out, so that what is left over at the end is unknown.
/// assert_eq!(options.number("learning_rate")?, 0.1);
/// assert_eq!(options.number("momentum"), Err(OptionsError::Missing { name: "momentum".to_string() }));
/// assert_eq!(options.finish(), Err(OptionsError::Unknown { name: "nesterov".to_string() }));
/// # Ok::<(), OptionsError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(Vec<(String, OptionValue)>);

/// The value of an option.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptionValue {
    /// A number.
    Number(f64),
    /// A choice between two.
    Flag(bool),
}

impl Options {
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

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, OptionValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Takes a number out.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn number(&mut self, name: &str) -> Result<f64, OptionsError> {
        match self.take(name)? {
            OptionValue::Number(value) => Ok(value),
            OptionValue::Flag(value) => Err(OptionsError::invalid(name, value, "a number")),
        }
    }

    /// Takes a flag out.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn flag(&mut self, name: &str) -> Result<bool, OptionsError> {
        match self.take(name)? {
            OptionValue::Flag(value) => Ok(value),
            OptionValue::Number(value) => Err(OptionsError::invalid(name, value, "true or false")),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When something was not taken out: nobody knows what it means.
    pub fn finish(self) -> Result<(), OptionsError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(OptionsError::Unknown { name }),
        }
    }

    fn take(&mut self, name: &str) -> Result<OptionValue, OptionsError> {
        let place = self.0.iter().position(|(other, _)| other == name);
        let place = place.ok_or_else(|| OptionsError::Missing { name: name.to_string() })?;
        Ok(self.0.remove(place).1)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} {value}", name.escape_debug())?;
        }
        Ok(())
    }
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => write!(f, "{value}"),
            Self::Flag(value) => write!(f, "{value}"),
        }
    }
}

impl From<f64> for OptionValue {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<bool> for OptionValue {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

/// Why options were refused. Those that were there before still hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// This optimiser has no such option.
    #[error("option `{}` is not one of this optimizer's: was it saved from another kind?", name.escape_debug())]
    Unknown {
        /// Its name.
        name: String,
    },
    /// An option of this optimiser is not there.
    #[error("option `{name}` is missing: was it saved from another kind of optimizer?")]
    Missing {
        /// Its name.
        name: String,
    },
    /// An option can't have this value.
    #[error("option `{name}` is {value}, but must be {allowed}")]
    Invalid {
        /// Its name.
        name: String,
        /// The value.
        value: String,
        /// What would be allowed.
        allowed: String,
    },
}

impl OptionsError {
    /// An option with a value that can't be.
    pub fn invalid(name: &str, value: impl fmt::Display, allowed: &str) -> Self {
        Self::Invalid { name: name.to_string(), value: value.to_string(), allowed: allowed.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_the_other_kind_is_named() {
        let options = || Options::new().with("rate", 0.5).with("\x1b", true);
        let error = options().flag("rate").unwrap_err();
        assert_eq!(error.to_string(), "option `rate` is 0.5, but must be true or false");
        let error = options().number("\x1b").unwrap_err();
        assert_eq!(error, OptionsError::invalid("\x1b", true, "a number"));
        assert!(options().flag("\x1b").unwrap());
        assert_eq!(options().to_string(), r"rate 0.5, \u{1b} true");
        assert!(Options::new().is_empty() && !options().is_empty());
        assert_eq!(Options::new().finish(), Ok(()));
    }
}
