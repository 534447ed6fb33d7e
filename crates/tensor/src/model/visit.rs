use crate::model::path::Path;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// How a tensor of a network changes during training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A parameter θ: its gradient is ∂l/∂θ, and the optimiser's rule updates it.
    Parameter,
    /// A statistic that the layer keeps of its inputs, such as a batch norm's running mean: its entry among the
    /// gradients is not a derivative but the increment to be added, and every optimiser adds just that.
    Statistic,
}

/// Something that has tensors with names: a layer, a network, an optimiser's state.
///
/// Both functions visit the same tensors with the same names in the same order, which doesn't change as long as the
/// structure doesn't: gradients, optimiser state and checkpoints rely on it. Visiting allocates nothing. What has no
/// tensors, such as an activation, implements the trait with an empty block.
///
/// For a struct of tensors the macro [`named_tensors!`](crate::named_tensors) writes both; containers write them by hand.
pub trait NamedTensors<T: Scalar> {
    /// Shows every tensor to `visitor`, with its path below `path` and its role.
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        let _ = (path, visitor);
    }

    /// Lends every tensor to `visitor` to be changed. The order, paths and roles are those of [`visit`](Self::visit).
    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        let _ = (path, visitor);
    }

    /// The number of tensors.
    fn tensor_count(&self) -> usize {
        let mut count = 0;
        self.visit(Path::ROOT, &mut |_, _, _| count += 1);
        count
    }

    /// All tensors with their paths as text, in visit order.
    fn tensors(&self) -> Vec<(String, &Tensor<T>)> {
        let mut tensors = Vec::new();
        self.visit(Path::ROOT, &mut |path, _, tensor| {
            tensors.push((path.to_string(), tensor));
        });
        tensors
    }

    /// The tensor at `path`, such as `fc1.weight`.
    fn tensor(&self, path: &str) -> Option<&Tensor<T>> {
        let mut found = None;
        self.visit(Path::ROOT, &mut |at, _, tensor| {
            if at == path {
                found = Some(tensor);
            }
        });
        found
    }

    /// The tensor at `path`, to be changed. A tensor whose shape is changed makes its layer refuse to work.
    fn tensor_mut(&mut self, path: &str) -> Option<&mut Tensor<T>> {
        let mut found = None;
        self.visit_mut(Path::ROOT, &mut |at, _, tensor| {
            if at == path {
                found = Some(tensor);
            }
        });
        found
    }
}

/// Implements [`NamedTensors`] for a struct `Name<T>` whose fields are tensors, optional tensors, or have tensors
/// themselves: each field under its own name, in the given order. Fields that are not mentioned aren't visited.
///
/// ```
/// use backrule_tensor::{NamedTensors, Role, Scalar, Tensor, named_tensors};
///
/// struct Affine<T: Scalar> {
///     scale: Tensor<T>,
///     shift: Option<Tensor<T>>,
///     mean: Tensor<T>,
///     momentum: T,
/// }
///
/// named_tensors!(Affine { scale, shift } statistics { mean });
///
/// let (scale, mean) = (Tensor::from([2.0_f32]), Tensor::from([0.5]));
/// let mut layer = Affine { scale, shift: None, mean, momentum: 0.1 };
/// assert_eq!(layer.tensor_count(), 2);
/// layer.shift = Some(Tensor::from([1.0]));
/// let paths: Vec<String> = layer.tensors().into_iter().map(|(path, _)| path).collect();
/// assert_eq!(paths, ["scale", "shift", "mean"]);
/// ```
#[macro_export]
macro_rules! named_tensors {
    ($name:ident { $($field:ident),* $(,)? } $(statistics { $($statistic:ident),* $(,)? })?) => {
        impl<T: $crate::Scalar> $crate::NamedTensors<T> for $name<T> {
            fn visit<'s>(
                &'s self,
                path: $crate::Path<'_>,
                visitor: &mut dyn FnMut($crate::Path<'_>, $crate::Role, &'s $crate::Tensor<T>),
            ) {
                $($crate::NamedTensors::visit(&self.$field, path.join(stringify!($field)), visitor);)*
                $($(visitor(path.join(stringify!($statistic)), $crate::Role::Statistic, &self.$statistic);)*)?
            }

            fn visit_mut<'s>(
                &'s mut self,
                path: $crate::Path<'_>,
                visitor: &mut dyn FnMut($crate::Path<'_>, $crate::Role, &'s mut $crate::Tensor<T>),
            ) {
                $($crate::NamedTensors::visit_mut(&mut self.$field, path.join(stringify!($field)), visitor);)*
                $($(visitor(path.join(stringify!($statistic)), $crate::Role::Statistic, &mut self.$statistic);)*)?
            }
        }
    };
}

/// What is there is visited.
impl<T: Scalar, N: NamedTensors<T>> NamedTensors<T> for Option<N> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        if let Some(tensors) = self {
            tensors.visit(path, visitor);
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        if let Some(tensors) = self {
            tensors.visit_mut(path, visitor);
        }
    }
}

/// A tensor by itself, at the path where it is visited.
impl<T: Scalar> NamedTensors<T> for Tensor<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        visitor(path, Role::Parameter, self);
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        visitor(path, Role::Parameter, self);
    }
}

/// A list of named tensors: `vec![("weight", weight), ("bias", bias)]`.
impl<T: Scalar, N: AsRef<str>> NamedTensors<T> for Vec<(N, Tensor<T>)> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        for (name, tensor) in self {
            visitor(path.join(name.as_ref()), Role::Parameter, tensor);
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        for (name, tensor) in self {
            visitor(path.join(name.as_ref()), Role::Parameter, tensor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Inner<T> {
        a: Tensor<T>,
        mean: Tensor<T>,
    }

    named_tensors!(Inner { a } statistics { mean });

    struct Outer<T> {
        inner: Inner<T>,
        b: Option<Tensor<T>>,
        none: Option<Tensor<T>>,
    }

    named_tensors!(Outer { inner, b, none });

    #[test]
    fn the_macro_writes_two_visits_that_agree() {
        let tensor = || Tensor::from([1.0_f32]);
        let mut outer = Outer { inner: Inner { a: tensor(), mean: tensor() }, b: Some(tensor()), none: None };
        let (mut seen, mut lent) = (Vec::new(), Vec::new());
        outer.visit(Path::ROOT, &mut |path, role, _| seen.push((path.to_string(), role)));
        outer.visit_mut(Path::ROOT, &mut |path, role, _| lent.push((path.to_string(), role)));
        let expected =
            [("inner.a", Role::Parameter), ("inner.mean", Role::Statistic), ("b", Role::Parameter)];
        assert_eq!(seen, expected.map(|(path, role)| (path.to_string(), role)));
        assert_eq!(seen, lent);
        assert!(outer.none.is_none());
    }

    #[test]
    fn lists_and_single_tensors_have_names() {
        let mut list = vec![("a", Tensor::from([1.0_f32])), ("b", Tensor::from([2.0, 3.0]))];
        assert_eq!(list.tensor("b").unwrap().len(), 2);
        list.tensor_mut("a").unwrap().fill(5.0);
        assert_eq!(list.tensors()[0], ("a".to_string(), &Tensor::from([5.0])));
        assert_eq!(list.tensor("c"), None);
        let single = Tensor::from([1.0_f32]);
        assert_eq!(single.tensors()[0].0, "");
    }
}
