use std::fmt::{self, Debug, Display, Formatter};

use crate::error::{ShapeError, TensorError};
use crate::kernels::twofold;
use crate::scalar::Scalar;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// The gradient of one tensor of a network: ∂l/∂θ of a parameter, or the increment of a buffer. Backward
/// passes add to it, and an optimizer's step clears it.
///
/// **A gradient that is cleared is zero**, and no zeros are written for that: they would be a sixth of the
/// memory traffic of an update with momentum. The next backward pass overwrites the old values instead of
/// reading them.
///
/// A backward rule adds in one of two ways. A product computes c ← β c + …, and
/// [`accumulate`](Self::accumulate) tells it the β. Everything else adds to a tensor, which
/// [`add_to`](Self::add_to) fills with zeros first where that is necessary.
///
/// ```
/// use backrule_tensor::{Grad, Tensor, TensorError, matmul_tn_into};
///
/// let (dy, x) = (Tensor::from([[1.0], [2.0]]), Tensor::from([[3.0], [4.0]]));
/// let mut dw: Grad<f64> = Grad::zeros_like(&Tensor::from([[0.0]]))?;
/// dw.accumulate(|beta, dw| matmul_tn_into(&dy, &x, beta, dw))?; // dw = dyᵀ x
/// assert_eq!(dw, Tensor::from([[11.0]])); // 1·3 + 2·4
/// dw.accumulate(|beta, dw| matmul_tn_into(&dy, &x, beta, dw))?;
/// assert_eq!(dw, Tensor::from([[22.0]]));
///
/// dw.clear();
/// assert!(dw.is_zero() && dw.get().is_none());
/// dw.add_to(|dw| dw.add(&Tensor::from([[5.0]])))?;
/// assert_eq!(dw.get(), Some(&Tensor::from([[5.0]])));
/// # Ok::<(), TensorError>(())
/// ```
///
/// # Sums of many terms
/// In f32 an addition is off by up to ε/2 = 2⁻²⁴ of the sum. Up to eight terms are added in order. From the
/// ninth on a second tensor has the lower half of the sum, and a third one the next term, so the sum of any
/// number of terms is within 4 ε Σ|terms|. That memory is kept for the next sum.
///
/// ```
/// use backrule_tensor::{Grad, Tensor, TensorError};
///
/// let mut dw: Grad = Grad::zeros_like(&Tensor::from([0.0]))?;
/// for _ in 0..20_000 {
///     dw.add_to(|dw| dw.add(&Tensor::from([0.1])))?;
/// }
/// assert_eq!(dw, Tensor::from([2000.0])); // one after the other they would be 1999.6
/// # Ok::<(), TensorError>(())
/// ```
///
/// # Unwanted gradients
/// The gradient of a frozen parameter is unwanted: it stays zero, backward rules don't compute it, and an
/// optimizer leaves parameter and state as they are.
///
/// ```
/// use backrule_tensor::{Grad, Tensor, TensorError};
///
/// let mut dw: Grad = Grad::zeros_like(&Tensor::from([1.0]))?;
/// dw.set_wanted(false);
/// dw.add_to(|_| -> Result<(), TensorError> { unreachable!("nobody wants it") })?;
/// assert!(dw.is_zero());
/// # Ok::<(), TensorError>(())
/// ```
#[derive(Clone)]
pub struct Grad<T: Scalar = f32> {
    /// Means nothing while the gradient is zero.
    tensor: Tensor<T>,
    /// How many have been added. Of none the gradient is zero.
    terms: u32,
    /// From the ninth term on.
    beyond: Option<Box<Beyond<T>>>,
    incomplete: bool,
    unwanted: bool,
    increments: u64,
}

/// The memory for sums of many terms.
#[derive(Clone, Default)]
struct Beyond<T: Scalar> {
    /// The lower half of the sum.
    low: Tensor<T>,
    /// The next term.
    term: Tensor<T>,
}

impl<T: Scalar> Grad<T> {
    /// Zeros of the shape of a tensor.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn zeros_like(tensor: &Tensor<T>) -> Result<Self, TensorError> {
        let tensor = Tensor::zeros(tensor.shape())?;
        Ok(Self { tensor, ..Self::default() })
    }

    /// The shape: that of the parameter or buffer.
    pub fn shape(&self) -> Shape {
        self.tensor.shape()
    }

    /// The values, or `None` where all of them are zero because nothing has been added.
    pub fn get(&self) -> Option<&Tensor<T>> {
        if self.is_zero() { None } else { Some(&self.tensor) }
    }

    /// The values as a tensor, zeros included: to look at, not for a training step.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn to_tensor(&self) -> Result<Tensor<T>, TensorError> {
        let mut tensor = Tensor::zeros(self.shape())?;
        if let Some(values) = self.get() {
            tensor.as_mut_slice().copy_from_slice(values.as_slice());
        }
        Ok(tensor)
    }

    /// The values to be changed, unless all of them are zero.
    pub(crate) fn get_mut(&mut self) -> Option<&mut Tensor<T>> {
        if self.is_zero() {
            return None;
        }
        if let Some(beyond) = &mut self.beyond {
            beyond.low.fill(T::ZERO);
        }
        Some(&mut self.tensor)
    }

    /// Adds the result of `f(β, c)`, which computes c ← β c + …: β is 0 if the gradient is zero, so the
    /// old values in c don't count, NaN included, and 1 if not. `f` is not called for an unwanted gradient.
    ///
    /// # Errors
    /// Those of `f`. A gradient that was zero stays zero then.
    pub fn accumulate<E>(&mut self, f: impl FnOnce(T, &mut Tensor<T>) -> Result<(), E>) -> Result<(), E> {
        if self.unwanted {
            return Ok(());
        }
        if self.terms >= twofold::IN_ORDER {
            return self.accumulate_beyond(f);
        }
        f(if self.is_zero() { T::ZERO } else { T::ONE }, &mut self.tensor)?;
        self.terms += 1;
        Ok(())
    }

    #[cold]
    fn accumulate_beyond<E>(&mut self, f: impl FnOnce(T, &mut Tensor<T>) -> Result<(), E>) -> Result<(), E> {
        self.incomplete |= self.make_room().is_err();
        let Some(Beyond { low, term }) = self.beyond.as_deref_mut().filter(|_| !self.incomplete) else {
            return Ok(());
        };
        f(T::ZERO, term)?;
        if term.shape() == self.tensor.shape() {
            self.incomplete |= self.tensor.add_term(low, self.terms, term).is_err();
        } else {
            // As the first term would have left it: the user of the gradient finds the wrong shape.
            std::mem::swap(&mut self.tensor, term);
        }
        self.terms = self.terms.saturating_add(1);
        Ok(())
    }

    /// Makes sure that there is memory for one more term.
    pub(crate) fn make_room(&mut self) -> Result<(), TensorError> {
        if self.terms < twofold::IN_ORDER || self.unwanted {
            return Ok(());
        }
        let shape = self.tensor.shape();
        let Beyond { low, term } = &mut **self.beyond.get_or_insert_default();
        term.resize(shape)?;
        if self.terms == twofold::IN_ORDER { low.resize(shape) } else { Ok(()) }
    }

    /// Whether all that was added is in it. From the ninth term on the sum has memory of its own; without it
    /// nothing is added any more, until the gradient is [cleared](Self::clear).
    pub fn is_complete(&self) -> bool {
        !self.incomplete
    }

    /// Lends the values to `f`, which adds to them; zeros are written first if the gradient is zero. `f` is
    /// not called for an unwanted gradient.
    ///
    /// # Errors
    /// Those of `f`. A gradient that was zero stays zero then.
    pub fn add_to<E>(&mut self, f: impl FnOnce(&mut Tensor<T>) -> Result<(), E>) -> Result<(), E> {
        self.accumulate(|beta, tensor| {
            if beta == T::ZERO {
                tensor.fill(T::ZERO);
            }
            f(tensor)
        })
    }

    /// The way to add to the increment of a buffer, such as momentum · (mean of the batch − running mean): as
    /// [`add_to`](Self::add_to), and [`count`](Self::count) is one more then. An optimizer adds increment ÷
    /// count to the buffer, so several passes before one step move it as far as one pass with the mean of
    /// their statistics.
    ///
    /// ```
    /// use backrule_tensor::{Grad, Tensor, TensorError};
    ///
    /// let mut running_mean: Grad = Grad::zeros_like(&Tensor::from([0.0]))?;
    /// for mean in [2.0, 6.0] {
    ///     running_mean.increment(|delta| delta.add(&Tensor::from([0.1 * mean])))?;
    /// }
    /// assert_eq!(running_mean.count(), 2);
    /// assert_eq!(running_mean, Tensor::from([0.8])); // a step will add 0.4 = 0.1 · 4
    /// # Ok::<(), TensorError>(())
    /// ```
    ///
    /// A rule calls it in each backward pass of a training step, also where it adds nothing, and never in
    /// [`Mode::Eval`](https://docs.rs/backrule-nn/latest/backrule_nn/enum.Mode.html). The count divides the
    /// sum. Of the parts of a batch, each of which counts its own, the largest count holds.
    ///
    /// # Errors
    /// Those of `f`. Nothing is counted then.
    pub fn increment<E>(&mut self, f: impl FnOnce(&mut Tensor<T>) -> Result<(), E>) -> Result<(), E> {
        self.increment_by(1, f)
    }

    /// As [`increment`](Self::increment), where `f` adds the sum of `count` increments.
    ///
    /// # Errors
    /// Those of `f`. Nothing is counted then.
    pub fn increment_by<E>(
        &mut self,
        count: u64,
        f: impl FnOnce(&mut Tensor<T>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.add_to(f)?;
        if !self.unwanted && !self.incomplete {
            self.increments = self.increments.saturating_add(count);
        }
        Ok(())
    }

    /// How many increments there are in it.
    pub fn count(&self) -> u64 {
        self.increments
    }

    /// Makes it zero, without writing a zero.
    pub fn clear(&mut self) {
        self.terms = 0;
        self.incomplete = false;
        self.increments = 0;
    }

    /// Whether it is zero because nothing has been added. That it isn't doesn't mean that an element differs
    /// from 0.
    pub fn is_zero(&self) -> bool {
        self.terms == 0
    }

    /// Whether backward rules compute it.
    pub fn is_wanted(&self) -> bool {
        !self.unwanted
    }

    /// Freezes or thaws the parameter. The value of an unwanted gradient is lost.
    pub fn set_wanted(&mut self, wanted: bool) {
        self.unwanted = !wanted;
        if self.unwanted {
            self.clear();
        }
    }

    /// Multiplies it by `factor`.
    pub fn scale(&mut self, factor: T) {
        if !self.is_zero() {
            self.tensor.scale(factor);
            self.beyond.iter_mut().for_each(|beyond| beyond.low.scale(factor));
        }
    }

    /// Adds another gradient of the same tensor, of another part of the batch, say, and its count of
    /// increments. An unwanted gradient stays zero.
    ///
    /// # Errors
    /// When it has another shape, or there is no memory for the sum.
    pub fn add(&mut self, other: &Self) -> Result<(), TensorError> {
        let (expected, got) = (self.shape(), other.shape());
        if expected != got {
            return Err(ShapeError::new("addition of gradients", expected, got).into());
        }
        let Some(values) = other.get() else { return Ok(()) };
        self.make_room()?;
        self.incomplete |= other.incomplete && !self.unwanted;
        self.accumulate(|beta, tensor| {
            if beta == T::ZERO {
                tensor.as_mut_slice().copy_from_slice(values.as_slice());
                return Ok(());
            }
            tensor.add(values)
        })?;
        if !self.unwanted {
            self.increments = self.increments.saturating_add(other.increments);
        }
        Ok(())
    }

    /// Makes it zero, with the shape of `other`, and wanted or not as `other` is. The memory is reused.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn clear_like(&mut self, other: &Self) -> Result<(), TensorError> {
        if self.shape() != other.shape() {
            self.tensor.resize(other.shape())?;
        }
        self.unwanted = other.unwanted;
        self.clear();
        Ok(())
    }
}

/// A gradient that is in use. For a buffer it is one increment.
impl<T: Scalar> From<Tensor<T>> for Grad<T> {
    fn from(tensor: Tensor<T>) -> Self {
        Self { tensor, terms: 1, increments: 1, ..Self::default() }
    }
}

/// No elements, zero.
impl<T: Scalar> Default for Grad<T> {
    fn default() -> Self {
        Self {
            tensor: Tensor::default(),
            terms: 0,
            beyond: None,
            incomplete: false,
            unwanted: false,
            increments: 0,
        }
    }
}

/// Of values: a gradient that is zero equals zeros.
impl<T: Scalar> PartialEq<Tensor<T>> for Grad<T> {
    fn eq(&self, other: &Tensor<T>) -> bool {
        match self.get() {
            Some(tensor) => tensor == other,
            None => self.shape() == other.shape() && other.as_slice().iter().all(|&x| x == T::ZERO),
        }
    }
}

impl<T: Scalar> PartialEq for Grad<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self.get(), other.get()) {
            (_, Some(values)) => self == values,
            (Some(values), None) => other == values,
            (None, None) => self.shape() == other.shape(),
        }
    }
}

impl<T: Scalar> Debug for Grad<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(tensor) => Debug::fmt(tensor, f),
            None => write!(f, "zeros {}{}", self.shape(), if self.unwanted { ", unwanted" } else { "" }),
        }
    }
}

impl<T: Scalar> Display for Grad<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.to_tensor() {
            Ok(tensor) => Display::fmt(&tensor, f),
            Err(_) => Debug::fmt(self, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleared() -> Grad {
        let mut grad = Grad::from(Tensor::from([f32::NAN, 2.0]));
        grad.clear();
        grad
    }

    fn zeros(tensor: &Tensor) -> Grad {
        Grad::zeros_like(tensor).unwrap()
    }

    #[test]
    fn a_cleared_gradient_is_zero() {
        let (grad, tensor) = (cleared(), Tensor::from([0.0, 0.0]));
        assert!(grad.is_zero() && grad.get().is_none());
        assert_eq!(grad, tensor);
        assert_eq!(grad, zeros(&tensor));
        assert_eq!(grad, Grad::from(tensor.clone()));
        assert_eq!(Grad::from(tensor.clone()), grad);
        assert_eq!(format!("{grad} {grad:?}"), format!("{tensor} zeros [2]"));
        assert_ne!(grad, Tensor::from([0.0]));
        assert_ne!(grad, zeros(&Tensor::from([0.0])));
        assert_ne!(grad, Tensor::from([0.0, 1.0]));
        assert_ne!(grad, Grad::from(Tensor::from([0.0, 1.0])));
        assert_eq!(Grad::<f32>::default(), Tensor::default());
        let tensor = Tensor::from([3.0_f32, 0.0]);
        let grad = Grad::from(tensor.clone());
        assert_eq!(format!("{grad} {grad:?}"), format!("{tensor} {tensor:?}"));
    }

    #[test]
    fn a_rule_that_adds_finds_zeros() {
        let mut grad = cleared();
        let add = |grad: &mut Grad| grad.add_to(|values| values.add(&Tensor::from([3.0, 0.5]))).unwrap();
        add(&mut grad);
        assert_eq!(grad, Tensor::from([3.0, 0.5]));
        add(&mut grad);
        assert_eq!(grad, Tensor::from([6.0, 1.0]));
        assert_eq!(grad.count(), 0);
    }

    #[test]
    fn accumulating_overwrites_once() {
        let mut grad = cleared();
        let mut factors = Vec::new();
        for _ in 0..2 {
            let result = grad.accumulate(|beta, c| {
                factors.push(beta);
                c.apply(|c| if beta == 0.0 { 1.0 } else { beta * c + 1.0 });
                Ok::<_, ShapeError>(())
            });
            assert!(result.is_ok());
        }
        assert_eq!(factors, [0.0, 1.0]);
        assert_eq!(grad, Tensor::from([2.0, 2.0]));
    }

    /// Shapes, counts and errors are those of a few terms.
    #[test]
    fn many_terms_are_as_few() {
        let term = Tensor::from([0.5, -1.0]);
        let sum_of = |terms: u32| {
            let mut grad = zeros(&term);
            (0..terms).for_each(|_| grad.increment(|values| values.add(&term)).unwrap());
            grad
        };
        for terms in [1, 8, 9, 10, 100] {
            let mut grad = sum_of(terms);
            assert_eq!(grad, Tensor::from([0.5 * terms as f32, -(terms as f32)]), "{terms}");
            assert!(grad.is_complete() && grad.count() == terms.into());
            // An error of the closure adds nothing.
            let before = grad.clone();
            let refused = grad.accumulate(|beta, values| {
                if beta == 0.0 {
                    values.fill(7.0);
                }
                Err(())
            });
            assert!(refused.is_err() && grad == before && grad.count() == terms.into(), "{terms}");
            grad.scale(2.0);
            grad.add(&before).unwrap();
            assert_eq!(grad, sum_of(3 * terms), "{terms}");
            // The lower half of a sum is none of the next one's.
            grad.clear();
            (0..20).for_each(|_| grad.add_to(|values| values.add(&term)).unwrap());
            assert_eq!(grad, sum_of(20));
            // A rule that gives another shape leaves it to be found.
            let other = Tensor::from([1.0]);
            grad.accumulate(|_, values| values.copy_from(&other)).unwrap();
            assert_eq!(grad.shape(), other.shape());
        }
    }

    #[test]
    fn an_error_leaves_it_zero() {
        let mut grad = cleared();
        assert_eq!(grad.accumulate(|_, _| Err("no")), Err("no"));
        assert_eq!(grad.add_to(|_| Err("no")), Err("no"));
        assert_eq!(grad.increment(|_| Err("no")), Err("no"));
        assert!(grad.is_zero() && grad.count() == 0);
    }

    #[test]
    fn increments_are_counted_until_it_is_cleared() {
        let mut grad = cleared();
        let one = Tensor::from([1.0, 2.0]);
        grad.increment(|delta| delta.add(&one)).unwrap();
        grad.increment_by(3, |delta| delta.add(&one)).unwrap();
        assert_eq!((grad.count(), &grad), (4, &Tensor::from([2.0, 4.0]).into()));
        grad.add(&one.into()).unwrap();
        assert_eq!(grad.count(), 5);
        grad.clear();
        assert_eq!(grad.count(), 0);
    }

    #[test]
    fn an_unwanted_gradient_stays_zero_and_no_rule_is_called() {
        let mut grad = Grad::from(Tensor::from([1.0_f32]));
        grad.set_wanted(false);
        assert!(grad.is_zero() && !grad.is_wanted() && grad.count() == 0);
        grad.accumulate(|_, _| Err("called")).unwrap();
        grad.add_to(|_| Err("called")).unwrap();
        grad.increment(|_| Err("called")).unwrap();
        grad.add(&Tensor::from([1.0]).into()).unwrap();
        grad.scale(f32::NAN);
        assert!(grad.is_zero() && grad.count() == 0);
        assert_eq!(format!("{grad:?}"), "zeros [1], unwanted");
        grad.set_wanted(true);
        assert!(grad.is_zero());
        grad.add(&Tensor::from([1.0]).into()).unwrap();
        assert_eq!(grad, Tensor::from([1.0]));
    }

    /// Zero and −0 is −0: nothing is added to an empty gradient.
    #[test]
    fn the_sum_with_zero_is_the_other_one() {
        let mut sum = cleared();
        sum.add(&Tensor::from([-0.0, 1.0]).into()).unwrap();
        assert_eq!(sum.get().unwrap().as_slice()[0].to_bits(), (-0.0_f32).to_bits());
        sum.add(&cleared()).unwrap();
        assert_eq!(sum, Tensor::from([-0.0, 1.0]));
        let error = sum.add(&Grad::default()).unwrap_err();
        assert_eq!(error.to_string(), "addition of gradients: expected [2], got [0]");
    }

    #[test]
    fn the_gradients_of_a_part_follow_those_of_the_whole() {
        let (mut part, mut whole) = (Grad::from(Tensor::from([1.0_f32])), zeros(&Tensor::from([[1.0, 2.0]])));
        part.clear_like(&whole).unwrap();
        assert_eq!(part, Tensor::from([[0.0, 0.0]]));
        assert!(part.is_wanted());
        whole.set_wanted(false);
        part.clear_like(&whole).unwrap();
        assert!(!part.is_wanted());
    }
}
