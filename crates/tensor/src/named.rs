use std::fmt;

use crate::{Options, OptionsError, Scalar, Tensor};

/// The place of a tensor in a network, such as `encoder.fc1.weight`: a borrowed chain of names, so that walking over a
/// network allocates nothing.
///
/// ```
/// use backrule_tensor::Path;
///
/// let fc1 = Path::ROOT.join("encoder");
/// let weight = fc1.join("weight");
/// assert_eq!(weight.to_string(), "encoder.weight");
/// assert!(weight == "encoder.weight");
/// ```
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    name: &'a str,
}

impl<'a> Path<'a> {
    /// The outermost place, without a name.
    pub const ROOT: Path<'static> = Path { parent: None, name: "" };

    /// The place called `name` within this one.
    pub fn join<'b>(&'b self, name: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), name }
    }

    /// Whether this is `text`, without building a string.
    fn is(&self, text: &str) -> bool {
        match (without_suffix(text, self.name), self.parent) {
            (None, _) => false,
            (Some(rest), None) => rest.is_empty(),
            (Some(rest), Some(parent)) if self.name.is_empty() => parent.is(rest),
            (Some(rest), Some(parent)) => match rest.strip_suffix('.') {
                Some(rest) => !rest.is_empty() && parent.is(rest),
                None => rest.is_empty() && parent.is(""),
            },
        }
    }
}

/// As `str::strip_suffix`, for names: an optimiser's step compares each one, and a call to `memcmp` takes longer than the
/// comparison of a few bytes.
fn without_suffix<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let rest = text.len().checked_sub(name.len())?;
    let same = text.bytes().rev().zip(name.bytes().rev()).all(|(a, b)| a == b);
    if same { text.get(..rest) } else { None }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if !self.name.is_empty() && !parent.is("") {
                f.write_str(".")?;
            }
        }
        f.write_str(self.name)
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl PartialEq<str> for Path<'_> {
    fn eq(&self, text: &str) -> bool {
        self.is(text)
    }
}

impl PartialEq<&str> for Path<'_> {
    fn eq(&self, text: &&str) -> bool {
        self.is(text)
    }
}

impl PartialEq<String> for Path<'_> {
    fn eq(&self, text: &String) -> bool {
        self.is(text)
    }
}

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

/// What there is to save of an optimiser: its tensors, how many steps it has made, and its options.
///
/// The three belong together: velocities without the step count, or with another momentum, are another optimiser.
pub trait TrainingState<T: Scalar>: NamedTensors<T> {
    /// The number of steps made so far.
    fn step_count(&self) -> u64;
    /// Continues as if `steps` steps had been made.
    fn set_step_count(&mut self, steps: u64);

    /// The options that the next step will be made with; none unless implemented.
    fn options(&self) -> Options {
        Options::new()
    }

    /// Goes on with these options, which [`options`](Self::options) has given before. It must not change which tensors
    /// there are.
    ///
    /// # Errors
    /// When one is unknown, missing or impossible. The options are as they were then.
    fn set_options(&mut self, options: Options) -> Result<(), OptionsError> {
        options.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_text_and_nothing_else() {
        let root = Path::ROOT;
        let encoder = root.join("encoder");
        let unnamed = encoder.join("");
        let weight = unnamed.join("fc1.weight");
        assert_eq!(weight.to_string(), "encoder.fc1.weight");
        assert!(weight == "encoder.fc1.weight");
        for other in ["fc1.weight", "encoder.weight", "xencoder.fc1.weight", "", ".encoder"] {
            assert!(weight != other, "{other}");
        }
        assert!(root == "" && encoder == "encoder" && unnamed == "encoder");
        assert!(encoder != ".encoder" && encoder != "");
        assert_eq!(root.join("").join("a").to_string(), "a");
        assert!(root.join("").join("a") == "a");
    }

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
