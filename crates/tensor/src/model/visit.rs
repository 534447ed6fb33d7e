use crate::error::{MemoryError, ShapeError, TensorError};
use crate::memory;
use crate::model::copy::{OPERATION, Source, number, with_places};
use crate::model::entry::{LayoutEntry, difference};
use crate::model::path::Path;
use crate::model::role::Role;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// Something that has tensors with names: a layer, a network, an optimizer's state.
///
/// Both functions visit the same tensors with the same names in the same order, which doesn't change as long
/// as the structure doesn't: gradients, optimizer state and checkpoints rely on it. Visiting allocates
/// nothing. A type without tensors, such as an activation, implements the trait with an empty block.
///
/// For a struct of tensors the macro [`named_tensors!`](crate::named_tensors) writes both; containers write
/// them by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no named tensors of type `{T}`",
    label = "no tensors with names",
    note = "a `*Config` or a builder has none yet: call its `build` first; a `Result` gives what has them by `?`",
    note = "for a type of your own `named_tensors!` implements `NamedTensors`"
)]
pub trait NamedTensors<T: Scalar> {
    /// Shows every tensor to `visitor`, with its path below `path` and its role.
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        let _ = (path, visitor);
    }

    /// Lends every tensor to `visitor` to be changed. The order, paths and roles are those of
    /// [`visit`](Self::visit).
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

    /// Makes all tensors those of `other`, which has the same structure: the same paths, roles and shapes in
    /// the same order.
    ///
    /// Takes time in proportion to the tensors, and allocates nothing when it is called again. It is the copy
    /// that can fail: where there is no memory, `clone` ends the process.
    ///
    /// ```
    /// use backrule_tensor::{NamedTensors, Tensor};
    ///
    /// let mut net = vec![("weight", Tensor::from([1.0_f32, 2.0]))];
    /// let best = vec![("weight", Tensor::from([3.0_f32, 4.0]))];
    /// net.copy_tensors_from(&best)?;
    /// assert_eq!(net, best);
    ///
    /// let other = vec![("scale", Tensor::from([5.0, 6.0]))];
    /// let error = net.copy_tensors_from(&other).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "copy of tensors: expected the tensor `weight`, got the tensor `scale`"
    /// );
    /// assert_eq!(net, best);
    /// # Ok::<(), backrule_tensor::TensorError>(())
    /// ```
    ///
    /// # Errors
    /// About the first difference of structure, or when there is no memory for a list of the tensors. Nothing
    /// is copied then.
    fn copy_tensors_from(&mut self, other: &dyn NamedTensors<T>) -> Result<(), TensorError> {
        with_places(other.tensor_count(), |places| copy(self, other, places))
    }
}

/// Path, role and shape of every tensor.
pub(crate) fn entries<T: Scalar>(
    operation: &'static str,
    net: &(impl NamedTensors<T> + ?Sized),
) -> Result<Vec<LayoutEntry>, MemoryError> {
    let (mut entries, mut refused) = (memory::room(operation, net.tensor_count())?, Ok(()));
    net.visit(Path::ROOT, &mut |path, role, tensor| {
        if refused.is_ok() {
            let entry = LayoutEntry { path: path.to_string(), role, shape: tensor.shape() };
            refused = memory::push(operation, &mut entries, entry);
        }
    });
    refused.map(|()| entries)
}

/// The target is lent out twice, for the comparison and for the copy, so a `visit_mut` that disagrees with
/// its `visit` does no harm.
fn copy<'a, T: Scalar>(
    target: &mut (impl NamedTensors<T> + ?Sized),
    source: &'a dyn NamedTensors<T>,
    places: &mut [Source<'a, T>],
) -> Result<(), TensorError> {
    let mut free = places.iter_mut();
    source.visit(Path::ROOT, &mut |path, role, tensor| {
        if let Some(place) = free.next() {
            *place = Some((number(path, role), tensor));
        }
    });
    let (mut sources, mut same) = (places.iter().flatten(), true);
    target.visit_mut(Path::ROOT, &mut |path, role, tensor| {
        let source = sources.next();
        same &= source.is_some_and(|(id, from)| from.shape() == tensor.shape() && *id == number(path, role));
    });
    if !same || sources.next().is_some() {
        let (expected, got) = (entries(OPERATION, target)?, entries(OPERATION, source)?);
        let all = 0..expected.len().max(got.len());
        let problem = all.into_iter().find_map(|i| difference(OPERATION, expected.get(i), got.get(i)));
        return Err(problem
            .unwrap_or_else(|| ShapeError::new(OPERATION, "one order of visits", "two"))
            .into());
    }
    let mut sources = places.iter().flatten();
    target.visit_mut(Path::ROOT, &mut |_, _, tensor| {
        if let Some((_, from)) = sources.next()
            && from.shape() == tensor.shape()
        {
            tensor.as_mut_slice().copy_from_slice(from.as_slice());
        }
    });
    Ok(())
}

/// Implements [`NamedTensors`] for a struct `Name<T>` whose fields are tensors, optional tensors, or have
/// tensors themselves: each field under its own name, in the given order. Fields that are not mentioned
/// aren't visited.
///
/// The tensors of the first braces are parameters unless they say otherwise. Those of `buffers` and
/// `constants` have these [roles](Role). Both may be left out.
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
/// named_tensors!(Affine { scale, shift } buffers { mean });
///
/// let (scale, mean) = (Tensor::from([2.0_f32]), Tensor::from([0.5]));
/// let mut layer = Affine { scale, shift: None, mean, momentum: 0.1 };
/// assert_eq!(layer.tensor_count(), 2);
/// layer.shift = Some(Tensor::from([1.0]));
/// let paths: Vec<String> = layer.tensors().into_iter().map(|(path, _)| path).collect();
/// assert_eq!(paths, ["scale", "shift", "mean"]);
/// ```
///
/// A field that is made of the tensors, such as a [packed](crate::linalg::Packed) weight, is an `Option`
/// behind the word `forgets`: `named_tensors!(Dense { weight } forgets { packed })`. A call that
/// hands out the tensors to be changed leaves `None` in it.
#[macro_export]
macro_rules! named_tensors {
    (
        $name:ident { $($field:ident),* $(,)? }
        $(buffers { $($buffer:ident),* $(,)? })?
        $(constants { $($constant:ident),* $(,)? })?
        $(forgets { $($copy:ident),* $(,)? })?
    ) => {
        impl<T: $crate::Scalar> $crate::NamedTensors<T> for $name<T> {
            fn visit<'s>(
                &'s self,
                path: $crate::Path<'_>,
                visitor: &mut dyn FnMut($crate::Path<'_>, $crate::Role, &'s $crate::Tensor<T>),
            ) {
                $($crate::NamedTensors::visit(&self.$field, path.join(stringify!($field)), visitor);)*
                $($($crate::NamedTensors::visit(
                    &self.$buffer,
                    path.join(stringify!($buffer)),
                    &mut |path, role, tensor| visitor(path, role.within($crate::Role::Buffer), tensor),
                );)*)?
                $($($crate::NamedTensors::visit(
                    &self.$constant,
                    path.join(stringify!($constant)),
                    &mut |path, _, tensor| visitor(path, $crate::Role::Constant, tensor),
                );)*)?
            }

            fn visit_mut<'s>(
                &'s mut self,
                path: $crate::Path<'_>,
                visitor: &mut dyn FnMut($crate::Path<'_>, $crate::Role, &'s mut $crate::Tensor<T>),
            ) {
                $($(self.$copy = ::std::option::Option::None;)*)?
                $($crate::NamedTensors::visit_mut(&mut self.$field, path.join(stringify!($field)), visitor);)*
                $($($crate::NamedTensors::visit_mut(
                    &mut self.$buffer,
                    path.join(stringify!($buffer)),
                    &mut |path, role, tensor| visitor(path, role.within($crate::Role::Buffer), tensor),
                );)*)?
                $($($crate::NamedTensors::visit_mut(
                    &mut self.$constant,
                    path.join(stringify!($constant)),
                    &mut |path, _, tensor| visitor(path, $crate::Role::Constant, tensor),
                );)*)?
            }
        }
    };
}

/// `Some` has the tensors of its value, `None` has none.
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
        variance: Option<Tensor<T>>,
        table: Tensor<T>,
    }

    named_tensors!(Inner { a } buffers { mean, variance } constants { table });

    struct Outer<T: Scalar> {
        inner: Inner<T>,
        b: Option<Tensor<T>>,
        none: Option<Tensor<T>>,
        kept: Inner<T>,
        frozen: Inner<T>,
    }

    named_tensors!(Outer { inner, b, none } buffers { kept } constants { frozen });

    #[test]
    fn the_macro_writes_two_visits_that_agree() {
        let tensor = || Tensor::from([1.0_f32]);
        let inner = |variance| Inner { a: tensor(), mean: tensor(), variance, table: tensor() };
        let mut outer = Outer {
            inner: inner(Some(tensor())),
            b: Some(tensor()),
            none: None,
            kept: inner(None),
            frozen: inner(None),
        };
        let (mut seen, mut lent) = (Vec::new(), Vec::new());
        outer.visit(Path::ROOT, &mut |path, role, _| seen.push((path.to_string(), role)));
        outer.visit_mut(Path::ROOT, &mut |path, role, _| lent.push((path.to_string(), role)));
        let expected = [
            ("inner.a", Role::Parameter),
            ("inner.mean", Role::Buffer),
            ("inner.variance", Role::Buffer),
            ("inner.table", Role::Constant),
            ("b", Role::Parameter),
            ("kept.a", Role::Buffer),
            ("kept.mean", Role::Buffer),
            ("kept.table", Role::Constant),
            ("frozen.a", Role::Constant),
            ("frozen.mean", Role::Constant),
            ("frozen.table", Role::Constant),
        ];
        assert_eq!(seen, expected.map(|(path, role)| (path.to_string(), role)));
        assert_eq!(seen, lent);
    }

    struct OnlyConstants<T> {
        table: Tensor<T>,
    }

    named_tensors!(OnlyConstants {} constants { table });

    #[test]
    fn a_list_of_the_macro_may_be_left_out() {
        let table = Tensor::from([1.0_f32]);
        let mut roles = Vec::new();
        OnlyConstants { table }.visit(Path::ROOT, &mut |_, role, _| roles.push(role));
        assert_eq!(roles, [Role::Constant]);
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
