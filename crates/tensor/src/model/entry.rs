use std::fmt;

use crate::error::ShapeError;
use crate::model::role::Role;
use crate::shape::Shape;

/// One tensor of a [`Layout`](crate::Layout).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayoutEntry {
    /// Where it is, such as `fc1.weight`. Empty for a tensor by itself.
    pub path: String,
    /// How it changes.
    pub role: Role,
    /// Its shape.
    pub shape: Shape,
}

/// The difference of `got` from `expected`. `None` as an entry stands for the end.
pub(crate) fn difference(
    operation: &'static str,
    expected: Option<&LayoutEntry>,
    got: Option<&LayoutEntry>,
) -> Option<ShapeError> {
    const END: &str = "no more tensors";
    Some(match (expected, got) {
        (None, None) => return None,
        (Some(expected), None) => ShapeError::new(operation, Name(&expected.path), END),
        (None, Some(got)) => ShapeError::new(operation, END, Name(&got.path)),
        (Some(expected), Some(got)) if expected.path != got.path => {
            ShapeError::new(operation, Name(&expected.path), Name(&got.path))
        }
        (Some(expected), Some(got)) if expected.role != got.role => {
            let [role, other] = [expected.role, got.role].map(|role| format!("a {role}"));
            ShapeError::new(operation, role, other).within(&expected.path)
        }
        (Some(expected), Some(got)) if expected.shape != got.shape => {
            ShapeError::new(operation, expected.shape, got.shape).within(&expected.path)
        }
        (Some(_), Some(_)) => return None,
    })
}

/// A path in a message. That of a tensor by itself is empty.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("a tensor without a name"),
            path => write!(f, "the tensor `{}`", path.escape_debug()),
        }
    }
}
