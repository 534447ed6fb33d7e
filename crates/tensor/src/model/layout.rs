use std::sync::Arc;

use crate::error::{MemoryError, ShapeError};
use crate::model::entry::{LayoutEntry, difference};
use crate::model::path::Path;
use crate::model::role::Role;
use crate::model::visit::{NamedTensors, entries};
use crate::scalar::Scalar;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The structure of a network: path, role and shape of every tensor, in visit order.
///
/// It is made once per network and shared: a clone costs nothing. Two layouts are compared by address first,
/// and by content when that differs.
///
/// ```
/// use backrule_tensor::{Layout, Role, Tensor};
///
/// let (weight, bias) = (Tensor::from([[1.0_f32, 2.0]]), Tensor::from([0.5]));
/// let mut net = vec![("weight", weight), ("bias", bias)];
/// let layout = Layout::of(&net)?;
/// assert_eq!(layout.entries()[1].path, "bias");
/// assert_eq!(layout.entries()[0].shape, [1, 2]);
/// layout.expect("training", &net)?;
///
/// net[1].0 = "shift";
/// let error = layout.expect("training", &net).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "training: expected the tensor `bias`, got the tensor `shift`"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Layout(Arc<Vec<LayoutEntry>>);

impl Layout {
    /// That of `net`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn of<T: Scalar>(net: &(impl NamedTensors<T> + ?Sized)) -> Result<Self, MemoryError> {
        Ok(Self(Arc::new(entries("layout", net)?)))
    }

    /// All tensors.
    pub fn entries(&self) -> &[LayoutEntry] {
        &self.0
    }

    /// Checks that `net` has this layout. Allocates nothing when it has.
    ///
    /// # Errors
    /// About the first difference, in the name of `operation`.
    pub fn expect<T: Scalar>(
        &self,
        operation: &'static str,
        net: &(impl NamedTensors<T> + ?Sized),
    ) -> Result<(), ShapeError> {
        let mut walk = Walk::new(self, operation);
        net.visit(Path::ROOT, &mut |path, role, tensor| walk.see(path, role, tensor));
        walk.finish()
    }

    /// As [`expect`](Self::expect), where it is this layout that has to be the network's.
    pub(crate) fn expect_of<T: Scalar>(
        &self,
        operation: &'static str,
        net: &(impl NamedTensors<T> + ?Sized),
    ) -> Result<(), ShapeError> {
        let mut walk = Walk { swapped: true, ..Walk::new(self, operation) };
        net.visit(Path::ROOT, &mut |path, role, tensor| walk.see(path, role, tensor));
        walk.finish()
    }

    /// As [`expect`](Self::expect), by the visit that lends the tensors to be changed: a `visit_mut` that
    /// disagrees with its `visit` is found out.
    ///
    /// # Errors
    /// As there.
    pub fn expect_mut<T: Scalar>(
        &self,
        operation: &'static str,
        net: &mut (impl NamedTensors<T> + ?Sized),
    ) -> Result<(), ShapeError> {
        let mut walk = Walk::new(self, operation);
        net.visit_mut(Path::ROOT, &mut |path, role, tensor| walk.see(path, role, tensor));
        walk.finish()
    }

    /// Checks that `other` is this layout.
    ///
    /// # Errors
    /// About the first difference, in the name of `operation`.
    pub fn expect_layout(&self, operation: &'static str, other: &Self) -> Result<(), ShapeError> {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ok(());
        }
        let mut walk = Walk::new(self, operation);
        for LayoutEntry { path, role, shape } in &*other.0 {
            walk.see_shape(Path::ROOT.join(path), *role, *shape);
        }
        walk.finish()
    }

    /// Whether both are one and the same in memory.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Layout {}

/// A comparison, tensor by tensor.
struct Walk<'a> {
    operation: &'static str,
    left: std::slice::Iter<'a, LayoutEntry>,
    /// Whether the layout is the one got, not the one expected.
    swapped: bool,
    problem: Option<ShapeError>,
}

impl<'a> Walk<'a> {
    fn new(layout: &'a Layout, operation: &'static str) -> Self {
        Self { operation, left: layout.0.iter(), swapped: false, problem: None }
    }

    fn see<T: Scalar>(&mut self, path: Path<'_>, role: Role, tensor: &Tensor<T>) {
        self.see_shape(path, role, tensor.shape());
    }

    fn see_shape(&mut self, path: Path<'_>, role: Role, shape: Shape) {
        if self.problem.is_some() {
            return;
        }
        let entry = self.left.next();
        if entry.is_none_or(|entry| path != entry.path || role != entry.role || shape != entry.shape) {
            let found = LayoutEntry { path: path.to_string(), role, shape };
            self.problem = self.difference(entry, Some(&found));
        }
    }

    fn difference(&self, entry: Option<&LayoutEntry>, found: Option<&LayoutEntry>) -> Option<ShapeError> {
        let (expected, got) = if self.swapped { (found, entry) } else { (entry, found) };
        let mut problem = difference(self.operation, expected, got)?;
        if let (Some(expected), Some(got)) = (expected, got)
            && expected.path == got.path
            && expected.role != got.role
            && [expected.role, got.role].contains(&Role::Constant)
        {
            problem.got += ": make gradients and optimizer after freezing or thawing";
        }
        Some(problem)
    }

    fn finish(mut self) -> Result<(), ShapeError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let entry = self.left.next();
        self.difference(entry, None).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Vec<(&'static str, Tensor<f32>)> {
        vec![("a", Tensor::from([1.0, 2.0])), ("b", Tensor::from([[3.0]]))]
    }

    #[test]
    fn every_difference_is_named() {
        let layout = Layout::of(&net()).unwrap();
        let check = |expected: &str, change: fn(&mut Vec<(&'static str, Tensor<f32>)>)| {
            let mut other = net();
            change(&mut other);
            let errors = [
                layout.expect("step", &other).unwrap_err(),
                layout.expect_mut("step", &mut other).unwrap_err(),
                layout.expect_layout("step", &Layout::of(&other).unwrap()).unwrap_err(),
            ];
            assert!(errors.iter().all(|error| error.to_string() == expected), "{errors:?}");
            assert_ne!(layout, Layout::of(&other).unwrap());
        };
        check("step: expected the tensor `b`, got the tensor `c`", |net| net[1].0 = "c");
        check("step: expected the tensor `b`, got the tensor `\\u{1b}`", |net| net[1].0 = "\u{1b}");
        check("step: expected the tensor `a`, got the tensor `b`", |net| net.swap(0, 1));
        check("b: step: expected [1, 1], got [1]", |net| net[1].1 = Tensor::from([3.0]));
        check("step: expected the tensor `b`, got no more tensors", |net| net.truncate(1));
        check("step: expected no more tensors, got the tensor `c`", |net| {
            net.push(("c", Tensor::from([1.0])))
        });
        layout.expect("step", &net()).unwrap();
        layout.expect_layout("step", &layout.clone()).unwrap();
        layout.expect_layout("step", &Layout::of(&net()).unwrap()).unwrap();
    }

    #[test]
    fn a_tensor_by_itself_has_no_name() {
        let layout = Layout::of(&Tensor::<f32>::default()).unwrap();
        let error = layout.expect("step", &net()).unwrap_err();
        assert_eq!(error.to_string(), "step: expected a tensor without a name, got the tensor `a`");
        let error = Layout::of(&net()).unwrap().expect("step", &Tensor::<f32>::default()).unwrap_err();
        assert_eq!(error.to_string(), "step: expected the tensor `a`, got a tensor without a name");
    }

    #[test]
    fn a_role_counts() {
        struct As(Role, Tensor<f32>);
        impl NamedTensors<f32> for As {
            fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<f32>)) {
                visitor(path.join("x"), self.0, &self.1);
            }
        }
        let of = |role| As(role, Tensor::from([1.0]));
        let error = Layout::of(&of(Role::Parameter))
            .unwrap()
            .expect("step", &of(Role::Buffer))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "x: step: expected a parameter, got a buffer");
    }

    #[test]
    fn it_is_shared_and_compared_by_content() {
        let (layout, other) = (Layout::of(&net()).unwrap(), Layout::of(&net()).unwrap());
        assert!(layout.is_shared_with(&layout.clone()) && !layout.is_shared_with(&other));
        assert_eq!(layout, other);
    }
}
