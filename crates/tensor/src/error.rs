//! Errors that every crate shares: shapes, memory, settings, and the place where they happened.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Display, Formatter};

use crate::readable;

/// Where in a network: the path of a layer or tensor, outermost name first, such as `encoder.fc2`. Empty
/// outside a container.
///
/// ```
/// use backrule_tensor::Place;
///
/// let place = Place::default().within("fc2").within("").within("encoder");
/// assert_eq!(place.as_str(), "encoder.fc2");
/// assert_eq!(place.prefix().to_string(), "encoder.fc2: ");
/// assert_eq!(Place::default().prefix().to_string(), "");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place(String);

impl Place {
    /// The same place, seen from outside the child `name`: `fc2` within `encoder` is `encoder.fc2`.
    #[must_use]
    pub fn within(self, name: &str) -> Self {
        match (name.is_empty(), self.0.is_empty()) {
            (true, _) => self,
            (false, true) => Self(name.to_string()),
            (false, false) => Self(format!("{name}.{}", self.0)),
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The start of a message about this place: `encoder.fc2: `, or nothing outside a container.
    pub fn prefix(&self) -> impl Display + '_ {
        struct Prefix<'a>(&'a str);
        impl Display for Prefix<'_> {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                // A name can come from a file. It must not write to the terminal.
                if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0.escape_debug()) }
            }
        }
        Prefix(&self.0)
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0.escape_debug(), f)
    }
}

impl PartialEq<&str> for Place {
    fn eq(&self, text: &&str) -> bool {
        self.0 == *text
    }
}

/// Shapes that don't fit together: which operation, at which place, what it expected and what it got.
///
/// ```
/// use backrule_tensor::Tensor;
///
/// let x: Tensor = Tensor::zeros([32, 100])?;
/// let w = Tensor::zeros([10, 784])?;
/// let error = x.matmul_nt(&w).unwrap_err().within("fc2").within("encoder");
/// assert_eq!(
///     error.to_string(),
///     "encoder.fc2: matmul A·Bᵀ: expected [_, 784], got [32, 100]"
/// );
/// # Ok::<(), backrule_tensor::TensorError>(())
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{}{operation}: expected {}, got {}", place.prefix(), Printable(expected), Printable(got))]
pub struct ShapeError {
    /// The operation that refused, such as `linear forward`.
    pub operation: &'static str,
    /// Where.
    pub place: Place,
    /// The shape or value expected, such as `[_, 784]`, where `_` stands for any size.
    pub expected: String,
    /// The one given, such as `[32, 100]`.
    pub got: String,
}

impl ShapeError {
    /// An error of `operation` that has no place yet: containers add it on the way out with
    /// [`within`](Self::within).
    pub fn new(operation: &'static str, expected: impl Display, got: impl Display) -> Self {
        Self { operation, place: Place::default(), expected: expected.to_string(), got: got.to_string() }
    }

    /// The same error, seen from outside the child `name`.
    #[must_use]
    pub fn within(mut self, name: &str) -> Self {
        self.place = self.place.within(name);
        self
    }
}

/// Memory that the system didn't give. Nothing has changed: the same call succeeds when there is memory
/// again.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{}{operation}: no memory for {bytes} bytes", place.prefix())]
pub struct MemoryError {
    /// The operation that needed it.
    pub operation: &'static str,
    /// Where.
    pub place: Place,
    /// How many bytes were asked for.
    pub bytes: usize,
}

impl MemoryError {
    /// An error of `operation` that has no place yet.
    pub fn new(operation: &'static str, bytes: usize) -> Self {
        Self { operation, place: Place::default(), bytes }
    }

    /// The same error, seen from outside the child `name`.
    #[must_use]
    pub fn within(mut self, name: &str) -> Self {
        self.place = self.place.within(name);
        self
    }
}

/// Why an operation on tensors refused. The tensors are as they were.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Shapes don't fit together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for the result.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl TensorError {
    /// The same error, seen from outside the child `name`.
    #[must_use]
    pub fn within(self, name: &str) -> Self {
        match self {
            Self::Shape(error) => Self::Shape(error.within(name)),
            Self::Memory(error) => Self::Memory(error.within(name)),
        }
    }
}

/// A setting that a layer, a loss, a rule or a reader can't have.
///
/// ```
/// use backrule_tensor::ConfigError;
///
/// let error = ConfigError::new("Dropout", "rate", "a number from 0 to 1", 1.5);
/// assert_eq!(error.to_string(), "Dropout: rate: expected a number from 0 to 1, got 1.5");
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{}{}: expected {}, got {}", Prefix(what), Printable(option), Printable(expected), Printable(got))]
pub struct ConfigError {
    /// The owner of the setting, such as `Dropout`; empty where only the caller knows.
    pub what: Cow<'static, str>,
    /// The setting, such as `rate`.
    pub option: Cow<'static, str>,
    /// The values it may have.
    pub expected: Cow<'static, str>,
    /// The value given.
    pub got: String,
}

struct Prefix<'a>(&'a str);

impl Display for Prefix<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", Printable(self.0)) }
    }
}

/// Text from a file, which must not write to the terminal. Quotes and backslashes stay as they are.
struct Printable<'a>(&'a str);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '"' | '\'' | '\\' => write!(f, "{c}"),
            _ => write!(f, "{}", c.escape_debug()),
        })
    }
}

impl ConfigError {
    /// An error about the setting `option` of `what`.
    pub fn new(
        what: impl Into<Cow<'static, str>>,
        option: impl Into<Cow<'static, str>>,
        expected: impl Into<Cow<'static, str>>,
        got: impl Display,
    ) -> Self {
        let (what, option, expected) = (what.into(), option.into(), expected.into());
        Self { what, option, expected, got: got.to_string() }
    }

    /// The same error, about a setting of `what`, unless it names an owner already.
    #[must_use]
    pub fn of(mut self, what: impl Into<Cow<'static, str>>) -> Self {
        if self.what.is_empty() {
            self.what = what.into();
        }
        self
    }

    /// `value`, if it is `right`.
    ///
    /// # Errors
    /// When it isn't.
    pub fn check(
        right: bool,
        what: &'static str,
        option: &'static str,
        expected: &'static str,
        value: f64,
    ) -> Result<f64, Self> {
        if right { Ok(value) } else { Err(Self::new(what, option, expected, value)) }
    }

    /// `value`, if it is finite and not negative, as most rates and factors must be.
    ///
    /// ```
    /// use backrule_tensor::ConfigError;
    ///
    /// assert_eq!(ConfigError::not_negative("Sgd", "weight_decay", 0.5)?, 0.5);
    /// let error = ConfigError::not_negative("Sgd", "weight_decay", -0.5).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "Sgd: weight_decay: expected a finite number from 0 up, got -0.5"
    /// );
    /// # Ok::<(), ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// When it isn't.
    pub fn not_negative(what: &'static str, option: &'static str, value: f64) -> Result<f64, Self> {
        let right = value >= 0.0 && value.is_finite();
        Self::check(right, what, option, "a finite number from 0 up", value)
    }
}

readable! { struct ShapeError { operation, place, expected, got } }
readable! { struct MemoryError { operation, place, bytes } }
readable! { enum TensorError { Shape(error), Memory(error) } }
readable! { struct ConfigError { what, option, expected, got } }

/// The message of an error and of all that caused it.
#[doc(hidden)]
pub fn write_with_causes(error: &dyn Error, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(f, "\n  because: {error}")?;
        cause = error.source();
    }
    Ok(())
}

/// Writes `Debug` for an error: `{:?}`, the output of a `main` that returns the error, is the message
/// with its causes, and `{:#?}` shows the fields.
#[doc(hidden)]
#[macro_export]
macro_rules! readable {
    (struct $name:ident { $($field:ident),* $(,)? }) => {
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                if !f.alternate() {
                    return $crate::write_with_causes(self, f);
                }
                f.debug_struct(stringify!($name))$(.field(stringify!($field), &self.$field))*.finish()
            }
        }
    };
    (enum $name:ident { $($variant:ident $(($($item:ident),*))? $({ $($field:ident),* $(,)? })?),* $(,)? }) => {
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                if !f.alternate() {
                    return $crate::write_with_causes(self, f);
                }
                match self {
                    $(
                        Self::$variant $(($($item),*))? $({ $($field),* })? => {
                            let fields = None
                                $(.or(Some(f.debug_tuple(stringify!($variant))$(.field($item))*.finish())))?
                                $(.or(Some(
                                    f.debug_struct(stringify!($variant))$(.field(stringify!($field), $field))*.finish(),
                                )))?;
                            match fields {
                                Some(result) => result,
                                None => f.write_str(stringify!($variant)),
                            }
                        }
                    )*
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operation_place_and_both_shapes() {
        let error = ShapeError::new("linear forward", "[.., 784]", "[32, 100]");
        assert_eq!(error.to_string(), "linear forward: expected [.., 784], got [32, 100]");
        let error = error.within("fc2").within("").within("encoder");
        assert_eq!(error.place, "encoder.fc2");
        assert_eq!(error.to_string(), "encoder.fc2: linear forward: expected [.., 784], got [32, 100]");
    }

    #[test]
    fn debug_reads_as_display_and_alternate_debug_shows_the_fields() {
        let error = TensorError::from(MemoryError::new("resize", 80).within("fc"));
        assert_eq!(format!("{error:?}"), "fc: resize: no memory for 80 bytes");
        assert_eq!(format!("{error:?}"), error.to_string());
        assert!(format!("{error:#?}").contains("bytes: 80"), "{error:#?}");
    }

    #[test]
    fn no_name_writes_to_a_terminal() {
        let error = ConfigError::new("\u{1b}[2J", "\u{7}", "a name", "\u{1b}");
        assert!(!format!("{error} {error:?}").contains('\u{1b}'));
        let error = ConfigError::new("a", "b", "c", r#""it's" \"#);
        assert_eq!(error.to_string(), r#"a: b: expected c, got "it's" \"#);
        let error = ShapeError::new("x", 1, 2).within("\u{1b}");
        assert!(!format!("{error} {error:?}").contains('\u{1b}'));
    }
}
