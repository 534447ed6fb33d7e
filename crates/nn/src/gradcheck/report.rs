//! The findings of a derivative check, and the reasons for its failure.

use std::fmt;

use backrule_tensor::{ConfigError, Shape, ShapeError, TensorError, readable};

use crate::error::LayerError;

pub(super) fn expect(operation: &'static str, expected: Shape, got: Shape) -> Result<(), ShapeError> {
    if expected == got { Ok(()) } else { Err(ShapeError::new(operation, expected, got)) }
}

/// The position along each axis of the element that is number `i` in row-major order.
pub(super) fn index_of(mut i: usize, shape: Shape) -> Vec<usize> {
    let mut index = vec![0; shape.rank()];
    for (position, &size) in index.iter_mut().zip(shape.iter()).rev() {
        (*position, i) = (i % size, i / size);
    }
    index
}

/// The findings of a derivative check.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradcheckReport {
    /// How many derivatives were compared.
    pub elements: usize,
    /// How many there are: more than were compared where [`Gradcheck::most`](crate::Gradcheck::most) had them
    /// drawn.
    pub of: usize,
    /// How many of them differ by more than the bounds allow.
    pub wrong: usize,
    /// How many lie at a kink, such as ReLU's at 0, where finite differences say nothing. Few of these are no
    /// fault.
    pub kinks: usize,
    /// In f32, how many are so small that rounding hides them. Few of these are no fault.
    pub hidden: usize,
    /// The element whose difference is largest in relation to its bound.
    pub worst: Option<Element>,
    /// The same by tensors: inputs first, then the parameters in visit order.
    pub tensors: Vec<Counted>,
    pub(super) worst_ratio: f64,
    /// One undecided element in so many is one too many.
    pub(super) few: usize,
}

/// The derivatives of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// `input`, or the parameter's path.
    pub path: String,
    /// How many are right.
    pub right: usize,
    /// How many are undecided: at a kink, or hidden by rounding.
    pub undecided: usize,
    /// How many were compared.
    pub of: usize,
    /// Whether all that are wrong were right after the first of two passes: the rule overwrites where it must
    /// add.
    pub must_add: bool,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, right, undecided, of, must_add } = self;
        write!(f, "{}: {right} of {of}", path.escape_debug())?;
        if *undecided > 0 {
            write!(f, " and {undecided} undecided")?;
        }
        if *must_add {
            f.write_str(" (right once, wrong when run twice: it must add, also when nobody wants ∂l/∂x)")
        } else {
            Ok(())
        }
    }
}

/// One derivative, both ways.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// `input`, or the parameter's path such as `fc1.weight`.
    pub path: String,
    /// The element's index in its tensor.
    pub index: Vec<usize>,
    /// The value by the layer's rule.
    pub analytic: f64,
    /// The value by finite differences.
    pub numeric: f64,
}

impl GradcheckReport {
    /// Whether the rule is the derivative. A tensor that is tested at kinks only isn't tested.
    pub(super) fn is_right(&self) -> bool {
        let undecided = self.kinks + self.hidden;
        let untested = |tensor: &Counted| tensor.undecided > 0 && tensor.undecided == tensor.of;
        let few = undecided == 0 || undecided * self.few < self.elements;
        self.wrong == 0 && few && !self.tensors.iter().any(untested)
    }
}

impl fmt::Display for GradcheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { elements, of, wrong, kinks, hidden, .. } = self;
        let (right, counts) = (self.is_right(), self.tensors.iter().map(Counted::to_string));
        let counts = counts.collect::<Vec<_>>().join(", ");
        match right {
            true => write!(f, "{} of {elements} derivatives right ({counts})", elements - kinks - hidden)?,
            false => write!(f, "{wrong} of {elements} derivatives wrong")?,
        }
        if *kinks > 0 || !right {
            write!(f, ", {kinks} undecided at kinks")?;
        }
        if *hidden > 0 {
            write!(f, ", {hidden} hidden by rounding")?;
        }
        if of > elements {
            write!(f, " ({elements} drawn of {of})")?;
        }
        if let Some(Element { path, index, analytic, numeric }) = &self.worst {
            write!(
                f,
                "; {}: ∂l/∂{}{index:?}: the rule says {analytic:e}, finite differences say {numeric:e}",
                if right { "least exact" } else { "worst" },
                path.escape_debug()
            )?;
            if analytic.is_nan() {
                f.write_str(" (the check put NaN there before: the rule must write every element)")?;
            }
        }
        if right { Ok(()) } else { write!(f, "; right: {counts}") }
    }
}

/// Why a derivative check failed.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GradcheckError {
    /// The rule is not the formula's derivative (or so many elements are undecided that it can't be told).
    #[error("{0}")]
    Mismatch(Box<GradcheckReport>),
    /// A number that is NaN or infinite: its difference proves nothing.
    #[error("gradcheck: expected finite numbers, got {got} in {}", place(tensor, index, moved.as_deref()))]
    NotFinite {
        /// `output`, `input`, a parameter's path, or the difference itself.
        tensor: String,
        /// The element's index in it.
        index: Vec<usize>,
        /// The number.
        got: String,
        /// The element that was moved by a step, with its index, if one was.
        moved: Option<String>,
    },
    /// The increments of a buffer are wrong: see
    /// [`Grad::increment`](backrule_tensor::Grad::increment).
    #[error("gradcheck: buffer `{}`: expected {expected}, got {got}", path.escape_debug())]
    Buffer {
        /// The buffer's path.
        path: String,
        /// The increments that there should be.
        expected: String,
        /// Those that there are.
        got: String,
    },
    /// There was no derivative to compare, which proves nothing.
    #[error("gradcheck: expected derivatives to compare, got none: {0}")]
    Nothing(&'static str),
    /// A setting with which the check would prove nothing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The layer refused to work.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

readable! {
    enum GradcheckError {
        Mismatch(report), NotFinite { tensor, index, got, moved }, Buffer { path, expected, got }, Nothing(why),
        Config(error), Layer(error),
    }
}

/// Where a number is.
fn place(tensor: &str, index: &[usize], moved: Option<&str>) -> String {
    let index = if index.is_empty() { String::new() } else { format!("{index:?}") };
    let moved = moved
        .map_or(String::new(), |moved| format!(" where {} is moved by a step of `h`", moved.escape_debug()));
    format!("{}{index}{moved}", tensor.escape_debug())
}

impl From<TensorError> for GradcheckError {
    fn from(error: TensorError) -> Self {
        Self::Layer(error.into())
    }
}

impl From<ShapeError> for GradcheckError {
    fn from(error: ShapeError) -> Self {
        Self::Layer(error.into())
    }
}
