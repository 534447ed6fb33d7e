//! formula: y = f(x), and f is not trained
//! rule: f's dx, and no dθ
//! tape: f's share

use std::ops::RangeInclusive;

use backrule_tensor::{ConfigError, Grad, NamedTensors, Options, Path, Role, Scalar, Shape, Tensor};

use crate::architecture::{Architecture, ArchitectureError};
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Input, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::sealed::{Sealed, Step, Walk};
use crate::layer::{At, AtMany, Layer};
use crate::mode::Mode;
use crate::packer::Packer;

/// A layer that is not trained: y = f(x), where nothing of f changes.
///
/// All tensors of f are constants ([`Role::Constant`]): they are saved, and no optimizer touches them. **f
/// runs in [`Mode::Eval`]**, also while the network around it trains: its dropout is off, and its running
/// statistics are used and stay as they are. ∂l/∂x passes through it; ∂l/∂θ of f is not computed.
///
/// [`thaw`](Self::thaw) makes it an ordinary layer again, and [`freeze()`] and [`thaw()`] do so for a layer
/// anywhere in a network, which isn't built anew. Gradients and optimizer are made anew then: they have none
/// for frozen tensors.
///
/// ```
/// use backrule_nn::tensor::{NamedTensors, Path, Role, Tensor};
/// use backrule_nn::{Frozen, Grads, Linear, Mode, Tape};
///
/// let w = Tensor::from([[2.0_f32, 3.0]]);
/// let mut layer: Frozen = Frozen::new(Linear::from_tensors(w, None)?);
/// let x = Tensor::from([[10.0, 1.0]]);
/// let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&layer)?, Tensor::default());
/// let pass = tape.forward(&layer, &x, Mode::train())?;
/// assert_eq!(pass.output(), &Tensor::from([[23.0]]));
/// pass.backward_to_input(&Tensor::from([[1.0]]), &mut grads, &mut dx)?;
/// assert_eq!(dx, Tensor::from([[2.0, 3.0]]));
/// assert_eq!(grads[0].get(), None);
///
/// layer.thaw();
/// layer.visit(Path::ROOT, &mut |_, role, _| assert_eq!(role, Role::Parameter));
/// # Ok::<(), backrule_nn::LayerError>(())
/// ```
#[derive(Clone)]
pub struct Frozen<T: Scalar = f32> {
    f: Box<dyn Layer<T>>,
    frozen: bool,
}

/// Freezes the layer at `path` of a network, such as `"encoder.conv"`: it is a [`Frozen`] one from now on,
/// and its tensors keep their paths. Gradients and optimizer are to be made anew.
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Grads, Linear, Relu, Sequential, freeze, thaw};
///
/// let rng = &mut random::rng(1);
/// let mut net: Sequential = Sequential::builder()
///     .layer("front", Linear::new(3, 4, rng)?)
///     .layer("relu", Relu)
///     .layer("head", Linear::new(4, 2, rng)?)
///     .build()?;
/// freeze(&mut net, "front")?;
/// let wanted = Grads::new(&net)?.iter().map(|grad| grad.is_wanted()).collect::<Vec<_>>();
/// assert_eq!(wanted, [false, false, true, true]);
/// thaw(&mut net, "front")?;
/// assert!(Grads::new(&net)?.iter().all(|grad| grad.is_wanted()));
/// assert!(freeze(&mut net, "back").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When there is no layer of this path, or it is in a container of your own, which alone knows its children.
pub fn freeze<T: Scalar>(net: &mut dyn Layer<T>, path: &str) -> Result<(), ConfigError> {
    match is_path(path) && net.set_frozen(Sealed, path, true) {
        true => Ok(()),
        false => Err(no_such_layer("freeze", "a layer", net, path)),
    }
}

/// Thaws the frozen layer at `path`: it is trained from now on. Gradients and optimizer are to be made anew.
///
/// # Errors
/// When there is no [`Frozen`] layer of this path, or it is in one that is frozen itself.
pub fn thaw<T: Scalar>(net: &mut dyn Layer<T>, path: &str) -> Result<(), ConfigError> {
    match is_path(path) && net.set_frozen(Sealed, path, false) {
        true => Ok(()),
        false => Err(no_such_layer("thaw", "a frozen layer", net, path)),
    }
}

/// Tells which layers there are, and whether `path` is a tensor's.
fn no_such_layer<T: Scalar>(
    operation: &'static str,
    what: &str,
    net: &dyn Layer<T>,
    path: &str,
) -> ConfigError {
    let mut is_tensor = false;
    net.visit(Path::ROOT, &mut |at, _, _| is_tensor |= at == path);
    let got = format!("{path:?}{}", if is_tensor { ", a tensor" } else { "" });
    let (mut paths, mut count) = (Vec::new(), 0);
    list_layers(net, Path::ROOT, 0, &mut paths, &mut count);
    let more = match count - paths.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let layers = if count == 0 { String::new() } else { format!(" of {}{more}", paths.join(", ")) };
    ConfigError::new(operation, "path", format!("that of {what}{layers}"), got)
}

/// The paths of the first layers in `layer`, and how many there are.
fn list_layers<T: Scalar>(
    layer: &dyn Layer<T>,
    path: Path<'_>,
    depth: usize,
    paths: &mut Vec<String>,
    count: &mut usize,
) {
    const LISTED: usize = 20;
    layer.children(&mut |name, child| {
        // A layer of somebody's own may show itself as its child.
        if depth == Architecture::MAX_DEPTH || *count == Architecture::MAX_LAYERS {
            return;
        }
        let path = path.join(name);
        // A layer within a frozen one has the frozen one's path.
        if !name.is_empty() {
            *count += 1;
            if paths.len() < LISTED {
                paths.push(path.to_string());
            }
        }
        list_layers(child, path, depth + 1, paths, count);
    });
}

/// Whether there are names between the dots.
fn is_path(path: &str) -> bool {
    path.is_empty() || path.split('.').all(|name| !name.is_empty())
}

/// Freezes or thaws the layer at `path` in a child: a `Frozen` layer there is switched, any other is put into
/// one.
pub(super) fn set_frozen<T: Scalar>(child: &mut Box<dyn Layer<T>>, path: &str, frozen: bool) -> bool {
    if (**child).set_frozen(Sealed, path, frozen) {
        return true;
    }
    let wrap = path.is_empty() && frozen;
    if wrap {
        // Taken out, not copied: a copy takes memory.
        let f = std::mem::replace(child, Box::new(Gap));
        *child = Box::new(Frozen { f, frozen: true });
    }
    wrap
}

/// Holds the place of a layer for a moment: y = x.
#[derive(Clone)]
struct Gap;

impl<T: Scalar> NamedTensors<T> for Gap {}

impl<T: Scalar> Layer<T> for Gap {
    fn forward(&self, x: &Tensor<T>, y: &mut Tensor<T>, _: &mut Cache<T>, _: Mode) -> Result<(), LayerError> {
        Ok(y.copy_from(x)?)
    }

    fn backward(
        &self,
        _: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        dx.map_or(Ok(()), |dx| Ok(dx.copy_from(dy)?))
    }
}

impl<T: Scalar> Frozen<T> {
    /// `f`, as it is.
    pub fn new(f: impl Layer<T>) -> Self {
        Self { f: Box::new(f), frozen: true }
    }

    /// From now on f is trained.
    pub fn thaw(&mut self) {
        self.frozen = false;
    }

    /// From now on f is not trained.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Whether f is not trained.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    fn role(&self, role: Role) -> Role {
        if self.frozen { Role::Constant } else { role }
    }

    fn mode(&self, mode: Mode) -> Mode {
        if self.frozen { Mode::Eval } else { mode }
    }
}

impl<T: Scalar> NamedTensors<T> for Frozen<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        self.f.visit(path, &mut |path, role, tensor| visitor(path, self.role(role), tensor));
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        let Self { f, frozen } = self;
        f.visit_mut(path, &mut |path, role, tensor| {
            visitor(path, if *frozen { Role::Constant } else { role }, tensor);
        });
    }
}

impl<T: Scalar> Layer<T> for Frozen<T> {
    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        self.f.forward(x, y, cache, self.mode(mode))
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        self.f.backward(At { mode: self.mode(at.mode), ..at }, dy, dx, grads)
    }

    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        self.f.output_shape(x)
    }

    fn options(&self) -> Options {
        Options::new().with("frozen", self.frozen)
    }

    fn children(&self, visit: &mut dyn FnMut(&str, &dyn Layer<T>)) {
        visit("", &*self.f);
    }

    fn inputs(&self) -> RangeInclusive<usize> {
        self.f.inputs()
    }

    fn outputs(&self) -> usize {
        self.f.outputs()
    }

    fn output_shapes(&self, x: &[Shape], y: &mut [Shape]) -> Result<(), LayerError> {
        self.f.output_shapes(x, y)
    }

    fn forward_many(
        &self,
        x: &[&Tensor<T>],
        y: &mut [Tensor<T>],
        cache: &mut Cache<T>,
        mode: Mode,
    ) -> Result<(), LayerError> {
        self.f.forward_many(x, y, cache, self.mode(mode))
    }

    fn backward_many(
        &self,
        at: AtMany<'_, T>,
        dy: &[Option<&Tensor<T>>],
        dx: &mut [Option<&mut Tensor<T>>],
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        self.f.backward_many(AtMany { mode: self.mode(at.mode), ..at }, dy, dx, grads)
    }

    fn prepare(&mut self, packer: &mut Packer) -> Result<(), LayerError> {
        self.f.prepare(packer)
    }

    fn is_own(&self, key: Sealed) -> bool {
        self.f.is_own(key)
    }

    fn set_frozen(&mut self, _: Sealed, path: &str, frozen: bool) -> bool {
        if path.is_empty() {
            self.frozen = frozen;
            return true;
        }
        // Within a frozen layer, nothing that is thawed would be trained.
        (frozen || !self.frozen) && set_frozen(&mut self.f, path, frozen)
    }

    fn walk(&self, _: Sealed, x: &[Shape], visit: &mut Walk<'_, T>) -> Result<bool, LayerError> {
        visit(Step::next("", &*self.f, x)).map(|()| true)
    }
}

impl<T: Scalar> Builtin<T> for Frozen<T> {
    const KIND: &'static str = "Frozen";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        Ok(Self { frozen: from.flag("frozen")?, f: from.only_child()? })
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        use crate::layers::{BatchNorm, Dropout, Linear, Sequential};

        // Both behave otherwise in training.
        let of_modes = || {
            let f = Sequential::builder()
                .layer("norm", BatchNorm::new(5).ok()?)
                .layer("drop", Dropout::new(0.5).ok()?)
                .build();
            Some(Sample::new("modes", Self::new(f.ok()?), [Input::normal(&[4, 5])]))
        };
        let of = |name, shape: &[usize], frozen| {
            let n = shape.last().copied().unwrap_or_default();
            let f = Box::new(Linear::new(n, n + 1, &mut random::rng(1)).ok()?);
            Some(Sample::new(name, Self { f, frozen }, [Input::normal(shape)]))
        };
        let samples = [
            of("one", &[1, 1], true),
            of("small", &[4, 5], true),
            of("thawed", &[4, 5], false),
            of_modes(),
            of("tall", &[300, 5], true),
            of("64x64", &[64, 64], true).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }
}
