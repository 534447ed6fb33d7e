//! formula: y = max of a window
//! rule: dy goes to the largest element
//! tape: y, and the place of each maximum

use backrule_tensor::kernels::im2col::{Window, Windows};
use backrule_tensor::kernels::twofold;
use backrule_tensor::{
    ConfigError, Grad, MemoryError, NamedTensors, Options, Scalar, Shape, ShapeError, Tensor,
};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Input, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::layer::sealed::Sealed;
use crate::layer::{At, Layer};
use crate::mode::Mode;

/// The largest element of each window of an image: x is `[batch, channels, height, width]`, and y
/// `[batch, channels, height', width']`.
///
/// y(n, c, r, s) = max over the taps i, j of x(n, c, r', s'), where r' = r · stride + i · dilation − padding,
/// and s' follows from s and j in the same way. Along each axis there are ⌊(size + 2 padding − dilation
/// (kernel − 1) − 1) / stride⌋ + 1 windows. With [`ceil_mode`](MaxPool2dConfig::ceil_mode) there are ⌈…⌉ + 1,
/// without a last one that would begin behind the image.
///
/// Its rule: ∂l/∂x of a place is the sum of ∂l/∂y of the windows that it wins, and 0 elsewhere. As in
/// PyTorch,
/// - padding never wins: it is −∞, not 0;
/// - the first of equal elements wins, row by row;
/// - NaN wins over any number, and the last one over the others.
///
/// A window whose taps all miss the image, which takes padding and dilation, is −∞ and has no gradient to
/// give.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Grads, MaxPool2d, Mode, Tape};
///
/// let layer = MaxPool2d::new([2, 2])?;
/// let x: Tensor = Tensor::from([[[[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 2.0, 0.0]]]]);
/// let (mut tape, mut dx) = (Tape::new(), Tensor::default());
/// let pass = tape.forward(&layer, &x, Mode::Eval)?;
/// assert_eq!(pass.output(), &Tensor::from([[[[5.0, 2.0]]]]));
/// let dy = Tensor::from([[[[10.0, 20.0]]]]);
/// pass.backward_to_input(&dy, &mut Grads::new(&layer)?, &mut dx)?;
/// // 5 has won the first window, the first of three 2s the second one.
/// assert_eq!(dx, Tensor::from([[[[0.0, 10.0, 20.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Down and across.
    window: [Window; 2],
    ceil_mode: bool,
}

/// The place of a window without an element.
const NOWHERE: u32 = u32::MAX;

impl MaxPool2d {
    /// Windows of this height and width that stand side by side. [`MaxPool2dConfig`] has the other choices.
    ///
    /// # Errors
    /// When a size is 0.
    pub fn new(kernel: [usize; 2]) -> Result<Self, ConfigError> {
        MaxPool2dConfig::new(kernel).build()
    }

    /// The window's height and width.
    pub fn kernel(&self) -> [usize; 2] {
        self.window.map(|window| window.kernel)
    }

    /// Elements from one window to the next, down and across.
    pub fn stride(&self) -> [usize; 2] {
        self.window.map(|window| window.stride)
    }

    /// Padding above and below, left and right.
    pub fn padding(&self) -> [usize; 2] {
        self.window.map(|window| window.padding)
    }

    /// Elements from one tap of a window to the next, down and across.
    pub fn dilation(&self) -> [usize; 2] {
        self.window.map(|window| window.dilation)
    }

    /// Whether a last window may reach over the edge.
    pub fn ceil_mode(&self) -> bool {
        self.ceil_mode
    }

    /// The number of windows along an axis. `None`: not even one.
    fn positions(&self, window: Window, size: usize) -> Option<usize> {
        let (padded, reach) = (window.padding.checked_mul(2)?.checked_add(size)?, window.reach()?);
        let steps = match padded.checked_sub(reach) {
            Some(free) if self.ceil_mode => free.div_ceil(window.stride),
            Some(free) => free / window.stride,
            // The first window may reach over the edge, too.
            None if self.ceil_mode && reach - padded < window.stride => 0,
            None => return None,
        };
        let last = steps.checked_mul(window.stride);
        let last_is_behind = self.ceil_mode && last.is_none_or(|start| start >= size + window.padding);
        Some(if last_is_behind { steps } else { steps + 1 }).filter(|&positions| positions > 0)
    }

    /// The shape of y for an x of this shape, and the sizes of a plane of x.
    fn sizes(&self, x: Shape) -> Result<(Shape, [usize; 2]), LayerError> {
        let &[samples, channels, height, width] = &x[..] else {
            return Err(ShapeError::new("max_pool2d forward", "[_, _, _, _]", x).into());
        };
        let [down, across] = self.window;
        let positions = self.positions(down, height).zip(self.positions(across, width));
        let Some((rows, columns)) = positions.filter(|_| height > 0 && width > 0) else {
            let [height, width] = [least(down), least(across)];
            let expected = format_args!("[_, _, {height} or more, {width} or more]");
            return Err(ShapeError::new("max_pool2d forward", expected, x).into());
        };
        if height.saturating_mul(width) >= NOWHERE as usize {
            let expected = format_args!("planes of less than {NOWHERE} elements");
            return Err(ShapeError::new("max_pool2d forward", expected, x).into());
        }
        Ok((Shape::new(&[samples, channels, rows, columns])?, [height, width]))
    }
}

/// The smallest size of an axis that the window fits on.
fn least(window: Window) -> usize {
    window.reach().unwrap_or(usize::MAX).saturating_sub(window.padding.saturating_mul(2)).max(1)
}

impl<T: Scalar> NamedTensors<T> for MaxPool2d {}

impl<T: Scalar> Layer<T> for MaxPool2d {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        Ok(self.sizes(x)?.0)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        let (shape, [height, width]) = self.sizes(x.shape())?;
        let places = cache.indices();
        let wanted = shape.elements();
        if places.try_reserve(wanted.saturating_sub(places.len())).is_err() {
            return Err(MemoryError::new("max_pool2d forward", wanted.saturating_mul(4)).into());
        }
        places.resize(wanted, NOWHERE);
        y.resize(shape)?;
        let ([down, across], columns) = (self.window, shape.columns());
        let rows = y.as_mut_slice().chunks_exact_mut(columns).zip(places.chunks_exact_mut(columns));
        for (at, (y, places)) in rows.enumerate() {
            let (plane, row) = (at / shape[2], at % shape[2]);
            let x = &x.as_slice()[plane * height * width..][..height * width];
            let taps_down = down.taps(row, height);
            for (column, (y, place)) in y.iter_mut().zip(places).enumerate() {
                let taps = across.taps(column, width);
                (*y, *place) = (T::from_f64(f64::NEG_INFINITY), NOWHERE);
                for i in taps_down.clone() {
                    let start = down.element(row, i) * width;
                    for j in taps.clone() {
                        let at = start + across.element(column, j);
                        // A window of −∞ has a first element, too.
                        if x[at] > *y || x[at].is_nan() || *place == NOWHERE {
                            (*y, *place) = (x[at], at as u32);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        _: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let (y, [height, width]) = self.sizes(at.x.shape())?;
        if dy.shape() != y {
            return Err(ShapeError::new("max_pool2d backward", y, dy.shape()).into());
        }
        let Some(dx) = dx else { return Ok(()) };
        dx.resize(at.x.shape())?;
        let windows = Windows { window: self.window, size: [height, width], positions: [y[2], y[3]] };
        let ([low], places) = at.cache.tensors_and_indices();
        low.resize(Shape::new(&[windows.room()])?)?;
        let low = low.as_mut_slice();
        dx.fill(T::ZERO);
        let windows = y[2] * y[3];
        let planes = dx.as_mut_slice().chunks_exact_mut(height * width);
        let of_planes = dy.as_slice().chunks_exact(windows).zip(places.chunks_exact(windows));
        for (dx, (dy, places)) in planes.zip(of_planes) {
            let wins = dy.iter().zip(places).map(|(&dy, &place)| (dy, place as usize));
            // No plane is so large that NOWHERE is in it.
            if low.is_empty() {
                for (dy, place) in wins {
                    if let Some(dx) = dx.get_mut(place) {
                        *dx += dy;
                    }
                }
            } else {
                low.fill(T::ZERO);
                for (dy, place) in wins {
                    if let (Some(dx), Some(low)) = (dx.get_mut(place), low.get_mut(place)) {
                        twofold::add(dx, low, dy);
                    }
                }
            }
        }
        Ok(())
    }

    fn options(&self) -> Options {
        Options::new()
            .with("kernel", self.kernel())
            .with("stride", self.stride())
            .with("padding", self.padding())
            .with("dilation", self.dilation())
            .with("ceil_mode", self.ceil_mode)
    }

    fn defaults(&self, _: Sealed) -> Options {
        let MaxPool2dConfig { stride, padding, dilation, ceil_mode, .. } =
            MaxPool2dConfig::new(self.kernel());
        Options::new()
            .with("stride", stride)
            .with("padding", padding)
            .with("dilation", dilation)
            .with("ceil_mode", ceil_mode)
    }
}

impl<T: Scalar> Builtin<T> for MaxPool2d {
    const KIND: &'static str = "MaxPool2d";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let config = MaxPool2dConfig::new(from.wholes("kernel")?)
            .stride(from.wholes("stride")?)
            .padding(from.wholes("padding")?)
            .dilation(from.wholes("dilation")?)
            .ceil_mode(from.flag("ceil_mode")?);
        Ok(config.build()?)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        let of = |name, config: MaxPool2dConfig, shape| {
            config.build().ok().map(|layer| Sample::new(name, layer, [Input::normal(shape)]))
        };
        let of_size = |kernel| MaxPool2dConfig::new(kernel);
        let samples = [
            of("image", of_size([2, 2]), &[1, 1, 4, 5]),
            of("overlapping", of_size([3, 3]).stride([2, 1]).padding([1, 1]), &[2, 3, 7, 5]),
            of("ceil", of_size([3, 2]).stride([2, 2]).ceil_mode(true), &[3, 2, 6, 7]),
            of("dilated", of_size([2, 3]).stride([1, 2]).padding([1, 0]).dilation([2, 1]), &[3, 1, 6, 5]),
            of("many", of_size([2, 2]), &[17, 2, 4, 4]),
            of("16x16x16x16", of_size([2, 2]), &[16, 16, 16, 16]).map(Sample::bench),
        ];
        // A window of one element has no kink.
        let one = of("one", of_size([1, 1]), &[1, 1, 1, 1]);
        samples.into_iter().flatten().map(Sample::kinks).chain(one).collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "max_pool2d").then_some(())?;
        let kernel = case.pair("kernel", [1, 1]);
        let config = MaxPool2dConfig::new(kernel)
            .stride(case.pair("stride", kernel))
            .padding(case.pair("padding", [0, 0]))
            .dilation(case.pair("dilation", [1, 1]))
            .ceil_mode(case.flag("ceil_mode", false));
        // No output here: ∂l/∂x shows which elements were the largest.
        case.tensor("indices");
        config.build().ok().map(Oracle::new)
    }
}

/// The settings of a [`MaxPool2d`] layer. Pairs are down and across.
///
/// ```
/// use backrule_nn::tensor::Shape;
/// use backrule_nn::{Layer, MaxPool2dConfig};
///
/// let layer = MaxPool2dConfig::new([3, 3]).stride([2, 2]).padding([1, 1]).build()?;
/// let y = Layer::<f32>::output_shape(&layer, Shape::new(&[64, 16, 28, 28])?)?;
/// assert_eq!(y, [64, 16, 14, 14]); // ⌊(28 + 2 − 3) / 2⌋ + 1
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct MaxPool2dConfig {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    ceil_mode: bool,
}

impl MaxPool2dConfig {
    /// Windows of this height and width, side by side, without padding.
    pub const fn new(kernel: [usize; 2]) -> Self {
        Self { kernel, stride: kernel, padding: [0; 2], dilation: [1; 2], ceil_mode: false }
    }

    /// Elements from one window to the next. The default is the window's own size.
    pub fn stride(mut self, stride: [usize; 2]) -> Self {
        self.stride = stride;
        self
    }

    /// Rows above and below, columns left and right: at most half of a window's extent. The default
    /// is none.
    pub fn padding(mut self, padding: [usize; 2]) -> Self {
        self.padding = padding;
        self
    }

    /// Elements from one tap of a window to the next. The default is 1.
    pub fn dilation(mut self, dilation: [usize; 2]) -> Self {
        self.dilation = dilation;
        self
    }

    /// Whether a last window may reach over the edge, so no element is left out. The default is that it
    /// may not.
    pub fn ceil_mode(mut self, ceil_mode: bool) -> Self {
        self.ceil_mode = ceil_mode;
        self
    }

    /// A layer of these settings.
    ///
    /// # Errors
    /// When a size, stride or dilation is 0, or the padding is more than half of a window's extent.
    pub fn build(self) -> Result<MaxPool2d, ConfigError> {
        let Self { kernel, stride, padding, dilation, ceil_mode } = self;
        let refuse = |option, expected: &str, got: [usize; 2]| {
            Err(ConfigError::new("MaxPool2d", option, expected.to_string(), format_args!("{got:?}")))
        };
        for (option, pair) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
            if pair.contains(&0) {
                return refuse(option, "at least 1", pair);
            }
        }
        let window = [0, 1].map(|i| Window {
            kernel: kernel[i],
            stride: stride[i],
            padding: padding[i],
            dilation: dilation[i],
        });
        let ([Some(down), Some(across)], [above, left]) = (window.map(Window::reach), padding) else {
            return refuse("dilation", "windows of a size that can be counted", dilation);
        };
        let most = [down / 2, across / 2];
        if above > most[0] || left > most[1] {
            return refuse("padding", &format!("at most {most:?}, half of the dilated kernel"), padding);
        }
        Ok(MaxPool2d { window, ceil_mode })
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::Grads;

    use super::*;
    use crate::tape::{Tape, predict};

    const INFINITY: f64 = f64::INFINITY;
    const NAN: f64 = f64::NAN;

    /// y and ∂l/∂x for ∂l/∂y = 1, 2, 3, …, of one row.
    fn row<const N: usize>(config: MaxPool2dConfig, x: [f64; N]) -> [Vec<f64>; 2] {
        let (layer, x) = (config.build().unwrap(), Tensor::from([[[x]]]));
        let (mut tape, mut dx) = (Tape::new(), Tensor::default());
        let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
        let y = pass.output().clone();
        let dy = Tensor::from_fn(y.shape(), |at| (at[3] + 1) as f64).unwrap();
        pass.backward_to_input(&dy, &mut Grads::new(&layer).unwrap(), &mut dx).unwrap();
        [y.into_vec(), dx.into_vec()]
    }

    #[test]
    fn the_first_of_equal_ones_wins_and_the_last_nan() {
        let pairs = MaxPool2dConfig::new([1, 3]);
        let inf = -INFINITY;
        assert_eq!(row(pairs, [7.0, 7.0, 1.0]), [vec![7.0], vec![1.0, 0.0, 0.0]]);
        assert_eq!(row(pairs, [inf, inf, inf]), [vec![inf], vec![1.0, 0.0, 0.0]]);
        for (x, at) in [([NAN, 1.0, INFINITY], 0), ([1.0, NAN, 2.0], 1), ([NAN, NAN, 3.0], 1)] {
            let [y, dx] = row(pairs, x);
            let mut expected = vec![0.0; 3];
            expected[at] = 1.0;
            assert!(y[0].is_nan() && dx == expected, "{x:?}: {y:?} {dx:?}");
        }
    }

    #[test]
    fn padding_never_wins() {
        let padded = MaxPool2dConfig::new([1, 2]).stride([1, 1]).padding([0, 1]);
        assert_eq!(row(padded, [-3.0, -5.0]), [vec![-3.0, -3.0, -5.0], vec![3.0, 3.0]]);
        // Taps at −2 and 1: none is on a row of one element.
        let holes = MaxPool2dConfig::new([1, 2]).stride([1, 1]).padding([0, 2]).dilation([1, 3]);
        assert_eq!(row(holes, [4.0]), [vec![-INFINITY, -INFINITY], vec![0.0]]);
    }

    #[test]
    fn a_last_window_begins_in_the_image() {
        let config = MaxPool2dConfig::new([1, 2]).stride([1, 3]);
        let x = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(row(config, x), [vec![2.0], vec![0.0, 1.0, 0.0, 0.0]]);
        assert_eq!(row(config.ceil_mode(true), x), [vec![2.0, 4.0], vec![0.0, 1.0, 0.0, 2.0]]);
        // The first one is larger than the row, by less than a stride.
        assert_eq!(
            row(MaxPool2dConfig::new([1, 6]).ceil_mode(true), x),
            [vec![4.0], vec![0.0, 0.0, 0.0, 1.0]]
        );
        let far = MaxPool2dConfig::new([1, 2]).stride([1, usize::MAX]).ceil_mode(true);
        assert_eq!(row(far, x), [vec![2.0], vec![0.0, 1.0, 0.0, 0.0]]);
        // Another one would begin behind the three elements.
        let config = MaxPool2dConfig::new([1, 1]).stride([1, 3]).ceil_mode(true);
        assert_eq!(row(config, [1.0, 2.0, 3.0]), [vec![1.0], vec![1.0, 0.0, 0.0]]);
    }

    #[test]
    fn settings_and_shapes_that_cannot_be_are_refused() {
        let refused = |config: MaxPool2dConfig| config.build().unwrap_err().to_string();
        let config = MaxPool2dConfig::new([2, 3]);
        for (config, expected) in [
            (MaxPool2dConfig::new([2, 0]), "kernel: expected at least 1, got [2, 0]"),
            (config.stride([0, 1]), "stride: expected at least 1, got [0, 1]"),
            (config.dilation([1, 0]), "dilation: expected at least 1, got [1, 0]"),
            (
                config.padding([2, 1]),
                "padding: expected at most [1, 1], half of the dilated kernel, got [2, 1]",
            ),
            (
                config.dilation([3, 2]).padding([0, 3]),
                "padding: expected at most [2, 2], half of the dilated kernel, got [0, 3]",
            ),
            (
                config.dilation([1, usize::MAX]),
                "dilation: expected windows of a size that can be counted, got [1, 18446744073709551615]",
            ),
        ] {
            assert_eq!(refused(config), format!("MaxPool2d: {expected}"));
        }
        let layer = config.padding([1, 1]).build().unwrap();
        let refused = |shape: &[usize]| {
            let x = Tensor::<f32>::zeros(shape).unwrap();
            predict(&layer, &x).unwrap_err().to_string()
        };
        assert_eq!(refused(&[2, 3, 4]), "max_pool2d forward: expected [_, _, _, _], got [2, 3, 4]");
        let expected = "max_pool2d forward: expected [_, _, 1 or more, 1 or more], got [1, 1, 4, 0]";
        assert_eq!(refused(&[1, 1, 4, 0]), expected);
        let large = MaxPool2d::new([5, 4]).unwrap();
        let error = predict(&large, &Tensor::<f32>::zeros([1, 1, 4, 4]).unwrap()).unwrap_err().to_string();
        assert_eq!(error, "max_pool2d forward: expected [_, _, 5 or more, 4 or more], got [1, 1, 4, 4]");
        let huge = Shape::new(&[0, 1, 1 << 16, 1 << 16]).unwrap();
        let error = Layer::<f32>::output_shape(&large, huge).unwrap_err().to_string();
        assert!(error.contains("planes of less than 4294967295 elements"), "{error}");
        assert_eq!(
            predict(&layer, &Tensor::<f32>::zeros([0, 3, 4, 4]).unwrap()).unwrap().shape(),
            [0, 3, 3, 2]
        );
    }
}
