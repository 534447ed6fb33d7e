use std::fmt::{self, Debug, Formatter};
use std::ops::{Deref, DerefMut};

use crate::error::{ConfigError, MemoryError, Place, ShapeError, TensorError};
use crate::kernels::sum::sum_of_squares;
use crate::model::grad::Grad;
use crate::model::layout::Layout;
use crate::model::path::Path;
use crate::model::role::Role;
use crate::model::visit::NamedTensors;
use crate::scalar::Scalar;
use crate::simd::kernel;
use crate::{in_default_mode, memory, parallel, readable};

/// The gradients of a network: one [`Grad`] for every tensor, in visit order.
///
/// A backward pass adds to them, and an optimizer's step clears them: they are zero then, without a zero
/// being written. They deref to a slice.
///
/// ```
/// use backrule_tensor::{Grads, Tensor, TensorError};
///
/// let net = vec![("weight", Tensor::from([[1.0_f32, 2.0]])), ("bias", Tensor::from([0.5]))];
/// let mut grads = Grads::new(&net)?;
/// grads[0].add_to(|dw| dw.add(&Tensor::from([[3.0, 4.0]])))?;
/// assert_eq!(grads.of(&net, "weight").unwrap(), &Tensor::from([[3.0, 4.0]]));
/// assert_eq!(grads.norm(), 5.0);
/// # Ok::<(), TensorError>(())
/// ```
///
/// # Parameters, buffers, constants
/// Norm, scale and clipping are about the gradients of parameters. The entry of a buffer is the sum of its
/// increments, which none of them touches; that of a constant is unwanted from the start. An unwanted
/// gradient is zero, so it counts for nothing.
///
/// # Incomplete gradients
/// A backward pass that fails on its way, for lack of memory say, has added to some gradients and not to
/// others. They are incomplete then, whatever is added afterwards: an optimizer's step, clipping and
/// [`add`](Self::add) refuse them. [`clear`](Self::clear) makes them whole again, as zeros: then all passes
/// since the last step can be run once more.
#[derive(Clone)]
pub struct Grads<T: Scalar = f32> {
    layout: Layout,
    grads: Vec<Grad<T>>,
    incomplete: bool,
}

impl<T: Scalar> Grads<T> {
    /// Zeros for every tensor of `net`.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(net: &(impl NamedTensors<T> + ?Sized)) -> Result<Self, TensorError> {
        let (layout, mut problem) = (Layout::of(net)?, None);
        let mut grads = memory::room("new gradients", layout.entries().len())?;
        net.visit(Path::ROOT, &mut |path, role, tensor| {
            if problem.is_some() {
                return;
            }
            let grad = Grad::zeros_like(tensor).and_then(|mut grad| {
                grad.set_wanted(role != Role::Constant);
                Ok(memory::push("new gradients", &mut grads, grad)?)
            });
            problem = grad.err().map(|error| error.within(&path.to_string()));
        });
        problem.map_or(Ok(Self { layout, grads, incomplete: false }), Err)
    }

    /// The structure of the network that they belong to.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Sets all gradients to 0, and [incomplete](Self#incomplete-gradients) ones are whole again. An
    /// optimizer's step has done that already.
    pub fn clear(&mut self) {
        self.grads.iter_mut().for_each(Grad::clear);
        self.incomplete = false;
    }

    /// [`clear`](Self::clear) by the name that other libraries give it.
    pub fn zero(&mut self) {
        self.clear();
    }

    /// Whether no backward pass has failed since they were [cleared](Self::clear).
    pub fn is_complete(&self) -> bool {
        !self.incomplete && self.grads.iter().all(Grad::is_complete)
    }

    /// Checks that they are [complete](Self::is_complete).
    ///
    /// # Errors
    /// When they aren't, in the name of `operation`.
    pub fn expect_complete(&self, operation: &'static str) -> Result<(), IncompleteError> {
        if self.is_complete() { Ok(()) } else { Err(IncompleteError { operation }) }
    }

    /// Runs a backward pass that adds to them. Unless it succeeds, they are incomplete.
    #[doc(hidden)]
    pub fn accumulate<E>(&mut self, pass: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        // Set beforehand: a pass may end by a panic, too.
        let before = std::mem::replace(&mut self.incomplete, true);
        pass(self)?;
        self.incomplete = before;
        Ok(())
    }

    /// Multiplies the gradients of all parameters by `factor`: 1/n after n batches, say.
    pub fn scale(&mut self, factor: T) {
        self.parameters_mut().for_each(|grad| grad.scale(factor));
    }

    /// Adds the gradients of another backward pass, over another part of the batch, say, and their counts of
    /// increments.
    ///
    /// # Errors
    /// When they belong to another network, one of both is [incomplete](Self#incomplete-gradients), or there
    /// is no memory for the sums; nothing is added then.
    pub fn add(&mut self, other: &Self) -> Result<(), GradsError> {
        const OPERATION: &str = "addition of gradients";
        self.layout.expect_layout(OPERATION, &other.layout)?;
        for grads in [&*self, other] {
            grads.expect_complete(OPERATION)?;
            grads.expect_own_shapes(OPERATION)?;
        }
        for ((entry, a), b) in self.layout.entries().iter().zip(&mut self.grads).zip(&other.grads) {
            if !b.is_zero() {
                a.make_room().map_err(|error| error.within(&entry.path))?;
            }
        }
        Ok(self.grads.iter_mut().zip(&other.grads).try_for_each(|(a, b)| a.add(b))?)
    }

    /// √Σ g², the length of the gradients of all parameters as one vector.
    ///
    /// The sum is taken in double precision and in a fixed order, so it has the same bits on any number of
    /// threads.
    pub fn norm(&self) -> f64 {
        in_default_mode!(self.norm());
        // From 0: the sum of no numbers is −0.
        self.parameters().map(|(_, values)| squares(values)).fold(0.0, |sum, x| sum + x).sqrt()
    }

    /// Scales the gradients of all parameters by most / (norm + 10⁻⁶) where that is below 1, as PyTorch's
    /// `clip_grad_norm_` does: their [`norm`](Self::norm) is at most `most` then. Returns the norm from
    /// before.
    ///
    /// ```
    /// use backrule_tensor::{Grads, Tensor};
    ///
    /// let net = vec![("a", Tensor::from([0.0_f64])), ("b", Tensor::from([0.0]))];
    /// let mut grads = Grads::new(&net)?;
    /// grads[0] = Tensor::from([30.0]).into();
    /// grads[1] = Tensor::from([-40.0]).into();
    /// assert_eq!(grads.clip_norm(5.0)?, 50.0);
    /// assert!((grads.norm() - 5.0).abs() < 1e-6);
    ///
    /// grads[1] = Tensor::from([f64::NAN]).into();
    /// let error = grads.clip_norm(5.0).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "b: clipping of gradients: expected finite numbers, got NaN"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When a gradient is infinite or NaN, which the error names, `most` is not above 0, or the gradients are
    /// [incomplete](Self#incomplete-gradients). Nothing has changed then.
    pub fn clip_norm(&mut self, most: f64) -> Result<f64, ClipError> {
        in_default_mode!(self.clip_norm(most));
        check_limit("clip_norm", most)?;
        self.expect_complete("clip_norm")?;
        let norm = self.norm();
        if !norm.is_finite() {
            self.refuse_infinite()?;
            return Err(ClipError::NotFinite { place: Place::default(), value: norm });
        }
        let factor = most / (norm + 1e-6);
        if factor < 1.0 {
            self.scale(T::from_f64(factor));
        }
        Ok(norm)
    }

    /// Moves every element of the parameters' gradients into −most ..= most.
    ///
    /// # Errors
    /// When a gradient is infinite or NaN, which the error names, `most` is not above 0, or the gradients are
    /// [incomplete](Self#incomplete-gradients). Nothing has changed then.
    pub fn clip_value(&mut self, most: f64) -> Result<(), ClipError> {
        in_default_mode!(self.clip_value(most));
        check_limit("clip_value", most)?;
        self.expect_complete("clip_value")?;
        self.refuse_infinite()?;
        let most = T::from_f64(most);
        for values in self.parameters_mut().filter_map(Grad::get_mut) {
            let chunks = values.as_mut_slice().chunks_mut(BLOCK);
            parallel::for_each(chunks, |chunk| clamp(chunk, most));
        }
        Ok(())
    }

    /// The gradient of the tensor at `path` of `net`, the network that these gradients were made for.
    pub fn of(&self, net: &(impl NamedTensors<T> + ?Sized), path: &str) -> Option<&Grad<T>> {
        let (mut index, mut found) = (0, None);
        net.visit(Path::ROOT, &mut |at, _, _| {
            if at == path {
                found = self.get(index);
            }
            index += 1;
        });
        found
    }

    /// Checks that these are gradients for `net`. Allocates nothing when they are.
    ///
    /// # Errors
    /// About the first tensor without a gradient of its own.
    pub fn expect(&self, net: &(impl NamedTensors<T> + ?Sized)) -> Result<(), ShapeError> {
        self.layout.expect_of("gradients", net)?;
        self.expect_own_shapes("gradients")
    }

    /// Checks that no gradient was replaced by one of another shape.
    ///
    /// # Errors
    /// About the first one, in the name of `operation`.
    pub fn expect_own_shapes(&self, operation: &'static str) -> Result<(), ShapeError> {
        let mut pairs = self.layout.entries().iter().zip(&self.grads);
        match pairs.find(|(entry, grad)| entry.shape != grad.shape()) {
            None => Ok(()),
            Some((entry, grad)) => {
                Err(ShapeError::new(operation, entry.shape, grad.shape()).within(&entry.path))
            }
        }
    }

    /// Paths and values of the parameters' gradients that are not zero.
    fn parameters(&self) -> impl Iterator<Item = (&str, &[T])> {
        let all = self.layout.entries().iter().zip(&self.grads);
        let parameters = all.filter(|(entry, _)| entry.role == Role::Parameter);
        parameters.filter_map(|(entry, grad)| Some((entry.path.as_str(), grad.get()?.as_slice())))
    }

    fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Grad<T>> {
        let all = self.layout.entries().iter().zip(&mut self.grads);
        all.filter(|(entry, _)| entry.role == Role::Parameter).map(|(_, grad)| grad)
    }

    fn refuse_infinite(&self) -> Result<(), ClipError> {
        for (path, values) in self.parameters() {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                let place = Place::default().within(path);
                return Err(ClipError::NotFinite { place, value: value.to_f64() });
            }
        }
        Ok(())
    }
}

fn check_limit(what: &'static str, most: f64) -> Result<f64, ConfigError> {
    ConfigError::check(most > 0.0, what, "most", "a number above 0", most)
}

/// Elements that are added up, or clamped, at a time.
const BLOCK: usize = 1 << 14;
/// Blocks that threads may share.
const BLOCKS: usize = 64;

/// Σ x², in blocks whose sums are added in their order.
fn squares<T: Scalar>(values: &[T]) -> f64 {
    let mut total = 0.0;
    for blocks in values.chunks(BLOCK * BLOCKS) {
        let mut sums = [0.0; BLOCKS];
        parallel::for_each(blocks.chunks(BLOCK).zip(&mut sums), |(block, sum)| {
            *sum = sum_of_squares(block);
        });
        total += sums.iter().take(blocks.len().div_ceil(BLOCK)).sum::<f64>();
    }
    total
}

kernel!(
    /// Moves every x into −most ..= most.
    fn clamp<T: Scalar>(values: &mut [T], most: T) {
        for x in values {
            *x = if *x > most {
                most
            } else if *x < -most {
                -most
            } else {
                *x
            };
        }
    }
);

/// Why gradients were not clipped. They are as they were.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClipError {
    /// The limit is not above 0.
    #[error(transparent)]
    Limit(#[from] ConfigError),
    /// A gradient is infinite or NaN: clipping would spread that over all parameters, or hide it.
    #[error("{}clipping of gradients: expected finite numbers, got {value}", place.prefix())]
    NotFinite {
        /// The first such tensor; empty if all elements are finite, but not the sum of their squares.
        place: Place,
        /// The first such element.
        value: f64,
    },
    /// A backward pass has failed.
    #[error(transparent)]
    Incomplete(#[from] IncompleteError),
}

readable! { enum ClipError { Limit(error), NotFinite { place, value }, Incomplete(error) } }

/// A backward pass over these gradients has failed: it has added to some and not to others.
/// [`clear`](Grads::clear) them, and run all passes since the last step again.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error(
    "{operation}: the gradients are incomplete, because a backward pass failed: call `clear`, and run all \
     passes since the last step again"
)]
pub struct IncompleteError {
    /// The operation that refused them.
    pub operation: &'static str,
}

readable! { struct IncompleteError { operation } }

/// Why gradients were not added. They are as they were.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GradsError {
    /// They belong to another network.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for the sums.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A backward pass has failed.
    #[error(transparent)]
    Incomplete(#[from] IncompleteError),
}

readable! { enum GradsError { Shape(error), Memory(error), Incomplete(error) } }

impl From<TensorError> for GradsError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Shape(error) => error.into(),
            TensorError::Memory(error) => error.into(),
        }
    }
}

/// Of layouts and values.
impl<T: Scalar> PartialEq for Grads<T> {
    fn eq(&self, other: &Self) -> bool {
        self.layout == other.layout && self.grads == other.grads
    }
}

/// Each gradient under its path.
impl<T: Scalar> Debug for Grads<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let paths = self.layout.entries().iter().map(|entry| &entry.path);
        f.debug_map().entries(paths.zip(&self.grads)).finish()
    }
}

impl<T: Scalar> Deref for Grads<T> {
    type Target = [Grad<T>];

    fn deref(&self) -> &[Grad<T>] {
        &self.grads
    }
}

impl<T: Scalar> DerefMut for Grads<T> {
    fn deref_mut(&mut self) -> &mut [Grad<T>] {
        &mut self.grads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named_tensors;
    use crate::tensor::Tensor;

    fn net() -> Vec<(&'static str, Tensor<f32>)> {
        vec![("a", Tensor::from([1.0, 2.0])), ("b", Tensor::from([[3.0]]))]
    }

    fn zeros() -> Grads {
        Grads::new(&net()).unwrap()
    }

    /// One tensor of each role, all of one shape.
    struct Roles {
        weight: Tensor<f64>,
        mean: Tensor<f64>,
        table: Tensor<f64>,
    }

    impl NamedTensors<f64> for Roles {
        fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<f64>)) {
            visitor(path.join("weight"), Role::Parameter, &self.weight);
            visitor(path.join("mean"), Role::Buffer, &self.mean);
            visitor(path.join("table"), Role::Constant, &self.table);
        }
    }

    fn roles() -> (Roles, Grads<f64>) {
        let tensor = || Tensor::from([1.0, 2.0]);
        let net = Roles { weight: tensor(), mean: tensor(), table: tensor() };
        let grads = Grads::new(&net).unwrap();
        (net, grads)
    }

    #[test]
    fn arithmetic() {
        let mut grads = zeros();
        grads[0] = Tensor::from([3.0, 3.0]).into();
        let mut sum = grads.clone();
        sum.add(&grads).unwrap();
        sum.scale(0.5);
        assert_eq!(sum, grads);
        assert_eq!(sum.norm(), 18_f64.sqrt());
        sum.clear();
        assert_eq!(sum, zeros());
        // Whatever their tensors still hold.
        assert_eq!(sum.norm(), 0.0);
        sum.scale(2.0);
        assert!(sum.iter().all(Grad::is_zero));
        let before = grads.clone();
        grads.add(&sum).unwrap();
        assert_eq!(grads, before);
        assert_eq!(grads.of(&net(), "b").unwrap(), &Tensor::from([[0.0]]));
        assert_eq!(grads.of(&net(), "c"), None);
        assert_eq!(format!("{grads:?}"), r#"{"a": Tensor<f32> [2] [3.0000, 3.0000], "b": zeros [1, 1]}"#);
    }

    #[test]
    fn a_pass_that_failed_leaves_them_incomplete_until_they_are_cleared() {
        let mut grads = zeros();
        grads.accumulate(|_| Ok::<_, ()>(())).unwrap();
        assert!(grads.is_complete());
        assert_eq!(grads.accumulate(|_| Err("no")), Err("no"));
        // A later pass doesn't make up for it.
        grads.accumulate(|_| Ok::<_, ()>(())).unwrap();
        assert!(!grads.is_complete() && !grads.clone().is_complete());
        let text = |operation| {
            format!(
                "{operation}: the gradients are incomplete, because a backward pass failed: \
                 call `clear`, and run all passes since the last step again"
            )
        };
        assert_eq!(grads.clip_norm(1.0).unwrap_err().to_string(), text("clip_norm"));
        assert_eq!(grads.clip_value(1.0).unwrap_err().to_string(), text("clip_value"));
        assert_eq!(grads.add(&zeros()).unwrap_err().to_string(), text("addition of gradients"));
        assert_eq!(zeros().add(&grads).unwrap_err().to_string(), text("addition of gradients"));
        grads.clear();
        assert_eq!(grads.clip_norm(1.0), Ok(0.0));
        grads.add(&zeros()).unwrap();
        let panics = || grads.accumulate(|_| -> Result<(), ()> { panic!("in a rule") });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(!grads.is_complete());
    }

    #[test]
    fn another_networks_gradients_are_refused_whole() {
        let mut grads = zeros();
        let other = vec![("a", Tensor::from([1.0_f32, 2.0])), ("b", Tensor::from([3.0]))];
        let mut ones = Grads::new(&other).unwrap();
        for grad in ones.iter_mut() {
            *grad = Tensor::full(grad.shape(), 1.0).unwrap().into();
        }
        let error = grads.add(&ones).unwrap_err();
        assert_eq!(error.to_string(), "b: addition of gradients: expected [1, 1], got [1]");
        assert_eq!(grads, zeros());
        assert_eq!(grads.expect(&other).unwrap_err().to_string(), "b: gradients: expected [1], got [1, 1]");
        // Replaced by one of another shape.
        let mut wrong = zeros();
        wrong[0] = Tensor::from([1.0, 2.0]).into();
        wrong[1] = Tensor::from([1.0]).into();
        let text = "b: addition of gradients: expected [1, 1], got [1]";
        assert_eq!(grads.add(&wrong).unwrap_err().to_string(), text);
        assert_eq!(grads, zeros());
        assert_eq!(wrong.expect(&net()).unwrap_err().to_string(), "b: gradients: expected [1, 1], got [1]");
        assert!(grads.expect(&net()[..1].to_vec()).is_err());
    }

    #[test]
    fn norm_scale_and_clipping_see_wanted_parameters_only() {
        let (_, mut grads) = roles();
        assert!(grads.norm().is_sign_positive(), "nothing has been added yet");
        assert_eq!(grads.iter().map(Grad::is_wanted).collect::<Vec<_>>(), [true, true, false]);
        grads[0] = Tensor::from([3.0, 4.0]).into();
        grads[1].increment(|delta| delta.add(&Tensor::from([f64::NAN, 100.0]))).unwrap();
        let mean = |grads: &Grads<f64>| grads[1].get().unwrap().as_slice()[1];
        assert_eq!(grads.norm(), 5.0);
        grads.scale(2.0);
        assert_eq!((grads.norm(), mean(&grads)), (10.0, 100.0));
        assert_eq!(grads.clip_norm(1.0), Ok(10.0));
        grads.clip_value(0.7).unwrap();
        assert_eq!(grads[0].get().unwrap().as_slice()[1], 0.7);
        assert_eq!((mean(&grads), grads[1].count()), (100.0, 1));

        grads[0].set_wanted(false);
        assert_eq!(grads.norm(), 0.0);
        assert_eq!(grads.clip_norm(1.0), Ok(0.0));
        grads.add(&roles().1).unwrap();
        assert!(grads[0].is_zero());
    }

    /// As PyTorch: limit / (norm + 1e-6), at most 1.
    #[test]
    fn clipping_to_a_norm() {
        for (most, expected) in [(1.0, 3.0 * (1.0 / (5.0 + 1e-6))), (10.0, 3.0), (f64::INFINITY, 3.0)] {
            let (_, mut grads) = roles();
            grads[0] = Tensor::from([3.0, 4.0]).into();
            assert_eq!(grads.clip_norm(most), Ok(5.0));
            assert_eq!(grads[0].get().unwrap().as_slice()[0], expected);
        }
        assert_eq!(roles().1.clip_norm(1.0), Ok(0.0));
    }

    #[test]
    fn clipping_to_a_value() {
        let (_, mut grads) = roles();
        grads[0] = Tensor::from([-3.0, 0.5]).into();
        grads.clip_value(1.0).unwrap();
        assert_eq!(grads[0], Tensor::from([-1.0, 0.5]));
    }

    #[test]
    fn clipping_refuses_what_is_not_finite_and_changes_nothing() {
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut grads =
                Grads::new(&vec![("a", Tensor::from([0.0])), ("b", Tensor::from([0.0]))]).unwrap();
            grads[0] = Tensor::from([100.0]).into();
            grads[1] = Tensor::from([wrong]).into();
            for result in [grads.clip_norm(1.0).map(drop), grads.clip_value(1.0)] {
                let error = result.unwrap_err();
                let text = format!("b: clipping of gradients: expected finite numbers, got {wrong}");
                assert_eq!((error.to_string(), format!("{error:?}")), (text.clone(), text));
            }
            assert_eq!(grads[0], Tensor::from([100.0]));
        }
        // Finite, but not its square.
        let (_, mut grads) = roles();
        grads[0] = Tensor::from([1e200, 1e200]).into();
        assert!(grads.clip_norm(1.0).unwrap_err().to_string().ends_with("got inf"));
        for most in [0.0, -1.0, f64::NAN] {
            let error = grads.clip_value(most).unwrap_err();
            assert!(matches!(&error, ClipError::Limit(error) if error.option == "most"), "{error}");
            assert_eq!(grads.clip_norm(most).unwrap_err().to_string().split(':').next(), Some("clip_norm"));
        }
        assert_eq!(grads[0], Tensor::from([1e200, 1e200]));
    }

    /// In single precision a running sum would stop at 2²⁴ · 0.01.
    #[test]
    fn the_norm_of_many_is_exact_and_the_same_on_any_number_of_threads() {
        let n = 2_000_003;
        let mut norms = Vec::new();
        for threads in [1, 2, 3] {
            parallel::set_threads(threads.try_into().unwrap());
            let net = Tensor::<f32>::full([n], 0.1).unwrap();
            let mut grads = Grads::new(&net).unwrap();
            grads[0] = net.into();
            norms.push(grads.norm());
        }
        let expected = f64::from(0.1_f32) * (n as f64).sqrt();
        assert!((norms[0] - expected).abs() <= 1e-12 * expected, "{}", norms[0]);
        assert!(norms.iter().all(|norm| norm.to_bits() == norms[0].to_bits()));
    }

    #[test]
    fn clipping_allocates_nothing() {
        let (_, mut grads) = roles();
        grads[0] = Tensor::from([3.0, 4.0]).into();
        let allocations = allocation_counter::measure(|| {
            grads.clip_norm(1.0).unwrap();
            grads.clip_value(0.1).unwrap();
            grads.scale(2.0);
        });
        assert_eq!(allocations.count_total, 0);
    }

    #[test]
    fn a_frozen_field_has_unwanted_gradients() {
        struct Net<T> {
            weight: Tensor<T>,
            table: Tensor<T>,
        }
        named_tensors!(Net { weight } constants { table });
        let net = Net { weight: Tensor::from([1.0_f32]), table: Tensor::from([1.0]) };
        let wanted: Vec<_> = Grads::new(&net).unwrap().iter().map(Grad::is_wanted).collect();
        assert_eq!(wanted, [true, false]);
    }
}
