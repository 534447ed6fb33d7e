//! Element-wise layers: a formula, its derivative, and the derivative's argument.

use backrule_tensor::{Grad, NamedTensors, Options, Scalar, Tensor, apply};

use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::sealed::{Epilogue, Sealed};
use crate::layer::{At, Layer};
use crate::mode::Mode;

/// The argument of the derivative of an element-wise layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The input.
    X,
    /// The output alone. Such a layer needs no pass of its own behind a dense one: it runs as its epilogue.
    Y,
}

/// y = f(x), element by element: the formula and its derivative. The rule is ∂l/∂x = ∂l/∂y · df.
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, Scalar};
/// use backrule_nn::{Of, Pointwise, gradcheck};
///
/// /// y = x σ(x), so dy/dx = σ + x σ (1 − σ).
/// #[derive(Clone, Copy)]
/// struct Swish;
///
/// impl<T: Scalar> NamedTensors<T> for Swish {}
///
/// impl Pointwise for Swish {
///     const DF_OF: Of = Of::X;
///     fn f<T: Scalar>(&self, x: T) -> T {
///         x * x.sigmoid()
///     }
///     fn df<T: Scalar>(&self, x: T) -> T {
///         let s = x.sigmoid();
///         s + x * s * (T::ONE - s)
///     }
/// }
///
/// assert_eq!(gradcheck(&mut Swish, [3, 4], 1)?.elements, 12);
/// # Ok::<(), backrule_nn::GradcheckError>(())
/// ```
///
/// Mark `f` and `df` with `#[inline(always)]`: the loops around them are compiled for the processor's
/// instructions, and code outside such a loop is not. Each loop runs on a copy of the layer. A function
/// with a list of settings, such as a spline's knots, is a [`Layer`].
pub trait Pointwise: Copy + Send + Sync {
    /// The argument of [`df`](Self::df).
    const DF_OF: Of;

    /// The formula.
    fn f<T: Scalar>(&self, x: T) -> T;

    /// dy/dx, from x or from y as [`DF_OF`](Self::DF_OF) says.
    fn df<T: Scalar>(&self, at: T) -> T;

    /// ∂l/∂x from x or y and ∂l/∂y. A layer whose derivative is 0 or 1 selects instead, because ∞ · 0 is NaN.
    #[inline(always)]
    fn back<T: Scalar>(&self, at: T, dy: T) -> T {
        dy * self.df(at)
    }

    /// As [`Layer::options`].
    fn options(&self) -> Options {
        Options::new()
    }

    /// As [`Layer::custom_kind`].
    fn custom_kind(&self) -> Option<&'static str> {
        None
    }
}

// Settings that are taken for a layer need no function of each element.
#[diagnostic::do_not_recommend]
impl<T: Scalar, P: Pointwise + NamedTensors<T> + 'static> Layer<T> for P {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        // A copy: behind a reference, the settings would be read again for each element, because y might be
        // where they are.
        let layer = *self;
        Ok(y.map_from(x, move |x| layer.f(x))?)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let Some(dx) = dx else { return Ok(()) };
        let at = match P::DF_OF {
            Of::X => at.x,
            Of::Y => at.y,
        };
        let layer = *self;
        Ok(dx.zip_from(at, dy, move |at, dy| layer.back(at, dy))?)
    }

    fn options(&self) -> Options {
        Pointwise::options(self)
    }

    fn custom_kind(&self) -> Option<&'static str> {
        Pointwise::custom_kind(self)
    }

    fn epilogue(&self, _: Sealed) -> Option<&dyn Epilogue<T>> {
        (P::DF_OF == Of::Y).then_some(self)
    }

    #[cfg(feature = "testing")]
    fn both_rules(&self, at: T, dy: T) -> Option<[T; 2]> {
        Some([dy * self.df(at), Pointwise::back(self, at, dy)])
    }
}

impl<T: Scalar, P: Pointwise> Epilogue<T> for P {
    fn apply(&self, y: &mut [T]) {
        let layer = *self;
        apply(y, move |x| layer.f(x));
    }

    fn back(&self, y: &Tensor<T>, dy: &Tensor<T>, dx: &mut Tensor<T>) -> Result<(), LayerError> {
        let layer = *self;
        Ok(dx.zip_from(y, dy, move |y, dy| layer.back(y, dy))?)
    }
}
