//! formula: y = W ∗ x + b
//! rule: as of a dense layer, for each window
//! tape: y, and the windows of one sample

use backrule_tensor::kernels::im2col::{Window, Windows, add_sums_of_planes, col2im, im2col};
use backrule_tensor::linalg::{MatMut, MatRef, SumOfProducts, matmul};
use backrule_tensor::rand::Rng;
use backrule_tensor::{
    ConfigError, Grad, Options, Scalar, Shape, ShapeError, Tensor, TensorError, named_tensors,
};

use crate::architecture::ArchitectureError;
use crate::builtin::{Build, Builtin};
#[cfg(feature = "testing")]
use crate::builtin::{Case, Input, Oracle, Sample};
use crate::cache::Cache;
use crate::error::LayerError;
use crate::init::Init;
use crate::layer::sealed::{Affine, Epilogue, Sealed};
use crate::layer::{At, Layer};
use crate::mode::Mode;

/// A convolution of images: y = W ∗ x + b.
///
/// | tensor | shape |
/// |---|---|
/// | x | `[batch, in, height, width]` |
/// | W | `[out, in / groups, kernel, kernel]` |
/// | b | `[out]` |
/// | y | `[batch, out, height', width']` |
///
/// y(n, o, r, s) = b(o) + Σ W(o, c, i, j) x(n, c, r', s') over the channels c and taps i, j, where
/// - r' = r · stride + i · dilation − padding, and s' follows from s and j in the same way,
/// - x is 0 in the padding,
/// - along each axis there are ⌊(size + 2 padding − dilation (kernel − 1) − 1) / stride⌋ + 1 elements of y,
/// - each group has its own part of the channels of x and of y, in order.
///
/// As in PyTorch, the kernel isn't mirrored: this is a cross-correlation. Other than there, padding is a
/// number of zeros only, and at most ((kernel · size + 32) stride + dilation (kernel − 1) − size) / 2 along
/// an axis of `size` elements: beyond that more than 32 windows would see zeros alone.
///
/// For a sample and a group, let X be the matrix of the window's elements: a row for each channel and tap, a
/// column for each of the P positions. Then y = W X + b with W as a matrix, and its rule is that of a dense
/// layer, summed over samples:
///
/// | derivative | formula | shape |
/// |---|---|---|
/// | ∂l/∂x | Wᵀ dy, each element added to where it came from | `[batch, in, height, width]` |
/// | ∂l/∂W | dy Xᵀ | `[out, in / groups, kernel, kernel]` |
/// | ∂l/∂b | Σ dy over samples and positions | `[out]` |
///
/// X is made for one sample and group at a time, so the working memory doesn't grow with the batch. For a
/// kernel of one element without stride and padding x itself is X.
///
/// ```
/// use backrule_nn::tensor::Tensor;
/// use backrule_nn::{Conv2d, Conv2dConfig, Grads, Mode, Tape};
///
/// let w = Tensor::from([[[[1.0_f64, 2.0], [0.0, -1.0]]]]);
/// let (config, b) = (Conv2dConfig::new(1, 1, [2, 2]), Tensor::from([10.0]));
/// let layer = Conv2d::from_tensors(config, w, Some(b))?;
/// let x = Tensor::from([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]]);
/// let (mut tape, mut grads, mut dx) = (Tape::new(), Grads::new(&layer)?, Tensor::default());
///
/// let pass = tape.forward(&layer, &x, Mode::Eval)?;
/// // 1·1 + 2·2 − 1·5 + 10, …
/// assert_eq!(pass.output(), &Tensor::from([[[[10.0, 12.0], [16.0, 18.0]]]]));
///
/// // Of a loss that sees the first and the last window.
/// pass.backward_to_input(&Tensor::from([[[[1.0, 0.0], [0.0, 2.0]]]]), &mut grads, &mut dx)?;
/// // 1·1 + 2·5, 1·2 + 2·6, …
/// assert_eq!(grads[0], Tensor::from([[[[11.0, 14.0], [20.0, 23.0]]]]));
/// assert_eq!(grads[1], Tensor::from([3.0]));
/// // W at the upper left, and twice W at the lower right.
/// assert_eq!(dx, Tensor::from([[[[1.0, 2.0, 0.0], [0.0, 1.0, 4.0], [0.0, 0.0, -2.0]]]]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d<T: Scalar = f32> {
    weight: Tensor<T>,
    bias: Option<Tensor<T>>,
    /// Down and across.
    window: [Window; 2],
    groups: usize,
}

/// So many windows of an axis may see padding alone: nobody needs them, and a file could ask for any number.
const BLANK: usize = 32;

/// No image is longer.
const LONGEST: usize = u32::MAX as usize;

/// The largest padding of an axis of `size` with at most [`BLANK`] windows more than there are pairs of an
/// element and a tap, so no more see padding alone. The sum of twice as much with any axis doesn't overflow.
fn most_padding(window: Window, size: usize) -> usize {
    let windows = size.saturating_mul(window.kernel).saturating_add(BLANK);
    let padded = (windows.saturating_mul(window.stride) - 1).saturating_add(window.reach().unwrap_or(0));
    (padded.saturating_sub(size) / 2).min(isize::MAX as usize / 2)
}

impl<T: Scalar> Conv2d<T> {
    /// A layer of `kernel` = height and width, one element further at a time and without padding, whose
    /// weights and biases start uniformly within ±1/√(in · height · width). [`Conv2dConfig`] has the other
    /// choices.
    ///
    /// # Errors
    /// When a size is 0, or there is no memory.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        kernel: [usize; 2],
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Self, ArchitectureError> {
        Conv2dConfig::new(in_channels, out_channels, kernel).build(rng)
    }

    /// A layer of these settings with these weights `[out, in / groups, height, width]` and biases `[out]`.
    /// The initialization in the settings counts for nothing.
    ///
    /// # Errors
    /// When the settings can't be, or the shapes don't fit them.
    pub fn from_tensors(
        config: Conv2dConfig,
        weight: Tensor<T>,
        bias: Option<Tensor<T>>,
    ) -> Result<Self, ArchitectureError> {
        let (shape, window) = config.check()?;
        if weight.shape() != shape {
            let expected = format_args!("{shape:?}");
            return Err(ShapeError::new("conv2d weight", expected, weight.shape()).into());
        }
        match &bias {
            Some(bias) if bias.shape() != [shape[0]] => {
                let expected = format_args!("[{}]", shape[0]);
                Err(ShapeError::new("conv2d bias", expected, bias.shape()).into())
            }
            _ => Ok(Self { weight, bias, window, groups: config.groups }),
        }
    }

    /// W, of shape `[out, in / groups, height, width]`.
    pub fn weight(&self) -> &Tensor<T> {
        &self.weight
    }

    /// b, of shape `[out]`.
    pub fn bias(&self) -> Option<&Tensor<T>> {
        self.bias.as_ref()
    }

    /// The kernel's height and width.
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

    /// Elements from one tap of the kernel to the next, down and across.
    pub fn dilation(&self) -> [usize; 2] {
        self.window.map(|window| window.dilation)
    }

    /// The number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The channels of y, and of x in a group.
    fn channels(&self) -> [usize; 2] {
        [self.weight.shape().first(), self.weight.shape().get(1)]
            .map(|size| size.copied().unwrap_or_default())
    }

    /// All sizes of a pass, for an x of this shape.
    fn plan(&self, x: Shape) -> Result<Plan, LayerError> {
        let refuse = |expected: &dyn std::fmt::Display| {
            Err(LayerError::from(ShapeError::new("conv2d forward", expected, x)))
        };
        let ([outputs, of_group], [down, across]) = (self.channels(), self.window);
        // A mutable borrow of a tensor allows a change of its shape.
        let expected = Shape::new(&[outputs, of_group, down.kernel, across.kernel])?;
        if self.weight.shape() != expected {
            return Err(ShapeError::new("conv2d weight", expected, self.weight.shape()).into());
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.shape() != [outputs]) {
            return Err(ShapeError::new("conv2d bias", format_args!("[{outputs}]"), bias.shape()).into());
        }
        let channels = of_group * self.groups;
        let &[samples, _, height, width] = &x[..] else {
            return refuse(&format_args!("[_, {channels}, _, _]"));
        };
        if x[1] != channels {
            return refuse(&format_args!("[_, {channels}, _, _]"));
        }
        let positions = down.positions(height).zip(across.positions(width));
        let Some((rows, columns)) = positions else {
            let least = |window: Window| {
                let reach = window.reach().unwrap_or(usize::MAX);
                reach.saturating_sub(window.padding.saturating_mul(2))
            };
            let [height, width] = [least(down), least(across)];
            return refuse(&format_args!("[_, {channels}, {height} or more, {width} or more]"));
        };
        let most = [most_padding(down, height), most_padding(across, width)];
        if down.padding > most[0] || across.padding > most[1] {
            let expected = format_args!("padding of at most {most:?} for an image of {:?}", [height, width]);
            let got = format_args!("{:?}", self.padding());
            return Err(ShapeError::new("conv2d forward", expected, got).into());
        }
        let y = Shape::new(&[samples, outputs, rows, columns])?;
        let windows = Windows { window: self.window, size: [height, width], positions: [rows, columns] };
        let (taps, outputs) = (of_group * down.kernel * across.kernel, outputs / self.groups);
        let plain = |window: Window| window.kernel == 1 && window.stride == 1 && window.padding == 0;
        Ok(Plan {
            windows,
            y,
            samples,
            groups: self.groups,
            image: of_group * height * width,
            outputs,
            taps,
            positions: rows * columns,
            columns: Shape::new(&[taps, rows * columns])?,
            x_is_columns: plain(down) && plain(across),
        })
    }

    fn convolve(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        epilogue: Option<&dyn Epilogue<T>>,
    ) -> Result<(), LayerError> {
        let plan = self.plan(x.shape())?;
        let [columns, _] = cache.tensors();
        plan.make_room(columns)?;
        y.resize(plan.y)?;
        let Plan { outputs, taps, positions, .. } = plan;
        for at in 0..plan.samples * plan.groups {
            let group = at % plan.groups;
            let x = plan.columns_of(part(x.as_slice(), at, plan.image), columns);
            let w = part(self.weight.as_slice(), group, outputs * taps);
            let y = part_mut(y.as_mut_slice(), at, outputs * positions);
            let beta = match &self.bias {
                None => T::ZERO,
                Some(bias) => {
                    let bias = part(bias.as_slice(), group, outputs);
                    y.chunks_exact_mut(positions).zip(bias).for_each(|(y, &b)| y.fill(b));
                    T::ONE
                }
            };
            let x = MatRef::new(x, [taps, positions])?;
            let w = MatRef::new(w, [outputs, taps])?;
            matmul(w, x, beta, MatMut::new(y, [outputs, positions])?)?;
            if let Some(epilogue) = epilogue {
                epilogue.apply(y);
            }
        }
        Ok(())
    }
}

/// The sizes of a pass.
struct Plan {
    windows: Windows,
    y: Shape,
    samples: usize,
    groups: usize,
    /// Elements of x of one sample and group.
    image: usize,
    /// Channels of y of one group.
    outputs: usize,
    /// Channels of x of one group, times the elements of the kernel.
    taps: usize,
    positions: usize,
    /// `[taps, positions]`
    columns: Shape,
    x_is_columns: bool,
}

impl Plan {
    fn make_room<T: Scalar>(&self, columns: &mut Tensor<T>) -> Result<(), LayerError> {
        if self.x_is_columns { Ok(()) } else { Ok(columns.resize(self.columns)?) }
    }

    /// X of a sample and group.
    fn columns_of<'a, T: Scalar>(&self, x: &'a [T], columns: &'a mut Tensor<T>) -> &'a [T] {
        if self.x_is_columns {
            return x;
        }
        im2col(&self.windows, x, columns.as_mut_slice());
        columns.as_slice()
    }

    /// dW ← dW + Σ dy Xᵀ over the samples.
    fn add_dw<T: Scalar>(
        &self,
        x: &Tensor<T>,
        dy: &Tensor<T>,
        [columns, room]: [&mut Tensor<T>; 2],
        dw: &mut Tensor<T>,
    ) -> Result<(), TensorError> {
        let &Self { outputs, taps, positions, groups, .. } = self;
        for group in 0..groups {
            let dw = part_mut(dw.as_mut_slice(), group, outputs * taps);
            let mut sum = SumOfProducts::new(T::ONE, MatMut::new(dw, [outputs, taps])?, room);
            for at in (group..self.samples * groups).step_by(groups) {
                let x = self.columns_of(part(x.as_slice(), at, self.image), columns);
                let x = MatRef::new(x, [taps, positions])?;
                let dy = MatRef::new(part(dy.as_slice(), at, outputs * positions), [outputs, positions])?;
                sum.add(dy, x.t())?;
            }
            sum.finish();
        }
        Ok(())
    }

    /// dx = Wᵀ dy, each element added to where it came from.
    fn write_dx<T: Scalar>(
        &self,
        w: &Tensor<T>,
        dy: &Tensor<T>,
        [columns, room]: [&mut Tensor<T>; 2],
        dx: &mut Tensor<T>,
    ) -> Result<(), LayerError> {
        let &Self { outputs, taps, positions, groups, .. } = self;
        room.resize(Shape::new(&[self.windows.room()])?)?;
        for at in 0..self.samples * groups {
            let w = MatRef::new(part(w.as_slice(), at % groups, outputs * taps), [outputs, taps])?;
            let dy = MatRef::new(part(dy.as_slice(), at, outputs * positions), [outputs, positions])?;
            let dx = part_mut(dx.as_mut_slice(), at, self.image);
            if self.x_is_columns {
                matmul(w.t(), dy, T::ZERO, MatMut::new(dx, [taps, positions])?)?;
            } else {
                let columns = columns.as_mut_slice();
                matmul(w.t(), dy, T::ZERO, MatMut::new(columns, [taps, positions])?)?;
                col2im(&self.windows, columns, dx, room.as_mut_slice());
            }
        }
        Ok(())
    }
}

/// Part `i` of as many as there are of this size.
fn part<T>(x: &[T], i: usize, size: usize) -> &[T] {
    &x[i * size..][..size]
}

fn part_mut<T>(x: &mut [T], i: usize, size: usize) -> &mut [T] {
    &mut x[i * size..][..size]
}

named_tensors!(Conv2d { weight, bias });

impl<T: Scalar> Layer<T> for Conv2d<T> {
    fn output_shape(&self, x: Shape) -> Result<Shape, LayerError> {
        Ok(self.plan(x)?.y)
    }

    fn forward(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        _: Mode,
    ) -> Result<(), LayerError> {
        self.convolve(x, y, cache, None)
    }

    fn backward(
        &self,
        at: At<'_, T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        self.backward_from(at.x, at.cache, dy, dx, grads)
    }

    fn options(&self) -> Options {
        let [out_channels, of_group] = self.channels();
        Options::new()
            .with("in_channels", of_group * self.groups)
            .with("out_channels", out_channels)
            .with("kernel", self.kernel())
            .with("stride", self.stride())
            .with("padding", self.padding())
            .with("dilation", self.dilation())
            .with("groups", self.groups)
            .with("bias", self.bias.is_some())
    }

    fn defaults(&self, _: Sealed) -> Options {
        let Conv2dConfig { stride, padding, dilation, groups, .. } = Conv2dConfig::new(1, 1, self.kernel());
        Options::new()
            .with("stride", stride)
            .with("padding", padding)
            .with("dilation", dilation)
            .with("groups", groups)
    }

    fn affine(&self, _: Sealed) -> Option<&dyn Affine<T>> {
        Some(self)
    }
}

impl<T: Scalar> Affine<T> for Conv2d<T> {
    fn forward_then(
        &self,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        cache: &mut Cache<T>,
        epilogue: &dyn Epilogue<T>,
    ) -> Result<(), LayerError> {
        self.convolve(x, y, cache, Some(epilogue))
    }

    fn backward_from(
        &self,
        x: &Tensor<T>,
        cache: &mut Cache<T>,
        dy: &Tensor<T>,
        dx: Option<&mut Tensor<T>>,
        grads: &mut [Grad<T>],
    ) -> Result<(), LayerError> {
        let plan = self.plan(x.shape())?;
        if dy.shape() != plan.y {
            return Err(ShapeError::new("conv2d backward", plan.y, dy.shape()).into());
        }
        let (dw, db) = match (grads, &self.bias) {
            ([dw], None) => (dw, None),
            ([dw, db], Some(_)) => (dw, Some(db)),
            (grads, bias) => {
                let expected = 1 + usize::from(bias.is_some());
                return Err(LayerError::count("conv2d gradients", expected, grads.len()));
            }
        };
        let [columns, room] = cache.tensors();
        plan.make_room(columns)?;
        if let Some(dx) = dx {
            dx.resize(x.shape())?;
            plan.write_dx(&self.weight, dy, [&mut *columns, &mut *room], dx)?;
        }
        dw.add_to(|dw| plan.add_dw(x, dy, [columns, room], dw))?;
        if let Some(db) = db {
            db.add_to(|db| {
                add_sums_of_planes(dy.as_slice(), plan.positions, db.as_mut_slice());
                Ok::<_, LayerError>(())
            })?;
        }
        Ok(())
    }
}

impl<T: Scalar> Builtin<T> for Conv2d<T> {
    const KIND: &'static str = "Conv2d";

    fn build(from: &mut Build<T>) -> Result<Self, ArchitectureError> {
        let [inputs, outputs] = [from.size("in_channels")?, from.size("out_channels")?];
        let config = Conv2dConfig::new(inputs, outputs, from.wholes("kernel")?)
            .stride(from.wholes("stride")?)
            .padding(from.wholes("padding")?)
            .dilation(from.wholes("dilation")?)
            .groups(from.whole("groups")?);
        let bias = from.flag("bias")?;
        let (shape, _) = config.check()?;
        let weight = from.zeros(shape)?;
        let bias = if bias { Some(from.zeros([outputs])?) } else { None };
        Self::from_tensors(config, weight, bias)
    }

    #[cfg(feature = "testing")]
    fn samples() -> Vec<Sample<T>> {
        use backrule_tensor::random;

        let of = |name, config: Conv2dConfig, shape| {
            let layer: Self = config.build(&mut random::rng(1)).ok()?;
            Some(Sample::new(name, layer, [Input::normal(shape)]))
        };
        let of_size = |inputs, outputs, kernel| Conv2dConfig::new(inputs, outputs, kernel);
        let samples = [
            of("one", of_size(1, 1, [1, 1]), &[1, 1, 1, 1]),
            of("image", of_size(2, 3, [3, 3]).bias(false), &[1, 2, 5, 4]),
            of("padded", of_size(3, 4, [3, 3]).stride([2, 1]).padding([1, 1]), &[2, 3, 7, 5]),
            of("pointwise", of_size(5, 3, [1, 1]), &[2, 5, 3, 7]),
            of("pointwise groups", of_size(6, 4, [1, 1]).groups(2), &[2, 6, 3, 3]),
            of(
                "dilated groups",
                of_size(4, 6, [2, 3]).dilation([2, 1]).padding([0, 1]).groups(2),
                &[3, 4, 6, 5],
            ),
            of("depthwise", of_size(3, 6, [3, 3]).padding([1, 1]).groups(3), &[17, 3, 3, 4]),
            of("gaps", of_size(1, 2, [2, 2]).stride([3, 3]), &[3, 1, 9, 8]),
            of("16x8x16x16", of_size(8, 16, [3, 3]).padding([1, 1]), &[16, 8, 16, 16]).map(Sample::bench),
        ];
        samples.into_iter().flatten().collect()
    }

    #[cfg(feature = "testing")]
    fn oracle(case: &mut Case<'_, T>) -> Option<Oracle<T>> {
        (case.op == "conv2d").then_some(())?;
        let (weight, bias) = (case.tensor("weight")?, case.tensor("bias"));
        let &[outputs, of_group, height, width] = &weight.shape()[..] else { return None };
        case.flag("bias", true); // There is a tensor if it is true.
        let groups = case.whole("groups", 1);
        let config = Conv2dConfig::new(of_group * groups, outputs, [height, width])
            .stride(case.pair("stride", [1, 1]))
            .padding(case.pair("padding", [0, 0]))
            .dilation(case.pair("dilation", [1, 1]))
            .groups(groups);
        Self::from_tensors(config, weight, bias).ok().map(Oracle::new)
    }
}

/// The settings of a [`Conv2d`] layer. Pairs are down and across.
///
/// ```
/// use backrule_nn::tensor::{Shape, random};
/// use backrule_nn::{Conv2d, Conv2dConfig, Layer};
///
/// let config = Conv2dConfig::new(16, 32, [3, 3]).stride([2, 2]).padding([1, 1]).groups(4);
/// let layer: Conv2d = config.build(&mut random::rng(1))?;
/// assert_eq!(layer.weight().shape(), [32, 4, 3, 3]);
/// let y = layer.output_shape(Shape::new(&[64, 16, 28, 28])?)?;
/// assert_eq!(y, [64, 32, 14, 14]); // ⌊(28 + 2 − 3) / 2⌋ + 1
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Conv2dConfig {
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
    bias: bool,
    weight_init: Init,
    bias_init: Init,
}

impl Conv2dConfig {
    /// A kernel of this height and width, one element further at a time and without padding, with bias;
    /// everything starts uniformly within ±1/√(in · height · width).
    pub const fn new(in_channels: usize, out_channels: usize, kernel: [usize; 2]) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel,
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            bias: true,
            weight_init: Init::FanIn,
            bias_init: Init::FanIn,
        }
    }

    /// Elements from one window to the next. The default is 1.
    pub fn stride(mut self, stride: [usize; 2]) -> Self {
        self.stride = stride;
        self
    }

    /// Rows of zeros above and below, columns of zeros left and right. The default is none. [`Conv2d`] says
    /// how many an image may have; with a kernel and a stride of 1 that is 16.
    pub fn padding(mut self, padding: [usize; 2]) -> Self {
        self.padding = padding;
        self
    }

    /// Elements from one tap of the kernel to the next. The default is 1.
    pub fn dilation(mut self, dilation: [usize; 2]) -> Self {
        self.dilation = dilation;
        self
    }

    /// Groups of channels that don't see each other. As many as there are channels: each is convolved by
    /// itself. The default is one.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Whether there is a bias. The default is that there is one.
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// How the weights start. The default is uniformly within ±1/√fan-in.
    ///
    /// Fan-in is in / groups · height · width, fan-out is out · height · width.
    pub fn weight_init(mut self, init: Init) -> Self {
        self.weight_init = init;
        self
    }

    /// How the biases start. The default is uniformly within ±1/√fan-in.
    pub fn bias_init(mut self, init: Init) -> Self {
        self.bias_init = init;
        self
    }

    /// A layer of these settings.
    ///
    /// # Errors
    /// When a size, stride, dilation or the number of groups is 0, the groups don't divide the channels, the
    /// sizes are too large, no image would be large enough for the padding, or there is no memory.
    pub fn build<T: Scalar>(self, rng: &mut (impl Rng + ?Sized)) -> Result<Conv2d<T>, ArchitectureError> {
        let (shape, window) = self.check()?;
        let [outputs, of_group, height, width] = shape;
        // No more than the weight's elements, or the next line refuses.
        let fans = [of_group, outputs].map(|channels| channels.saturating_mul(height).saturating_mul(width));
        let weight = self.weight_init.tensor(shape, fans[0], fans[1], rng)?;
        let bias = match self.bias {
            true => Some(self.bias_init.tensor([outputs], fans[0], fans[1], rng)?),
            false => None,
        };
        Ok(Conv2d { weight, bias, window, groups: self.groups })
    }

    /// The shape of W, and the windows.
    fn check(&self) -> Result<([usize; 4], [Window; 2]), ConfigError> {
        let &Self { in_channels, out_channels, kernel, stride, padding, dilation, groups, .. } = self;
        let sizes = [("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)];
        for (option, size) in sizes {
            if size == 0 {
                return Err(ConfigError::new("Conv2d", option, "at least 1", size));
            }
        }
        for (option, pair) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
            if pair.contains(&0) {
                return Err(ConfigError::new("Conv2d", option, "at least 1", format_args!("{pair:?}")));
            }
        }
        if !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            let expected = format!("a divisor of {in_channels} and {out_channels} channels");
            return Err(ConfigError::new("Conv2d", "groups", expected, groups));
        }
        let window = [0, 1].map(|i| Window {
            kernel: kernel[i],
            stride: stride[i],
            padding: padding[i],
            dilation: dilation[i],
        });
        if window.iter().any(|window| window.reach().is_none()) {
            let expected = "windows of a size that can be counted";
            return Err(ConfigError::new("Conv2d", "dilation", expected, format_args!("{dilation:?}")));
        }
        let most = window.map(|window| most_padding(window, LONGEST));
        if padding[0] > most[0] || padding[1] > most[1] {
            let expected = format!("at most {most:?}");
            return Err(ConfigError::new("Conv2d", "padding", expected, format_args!("{padding:?}")));
        }
        Ok(([out_channels, in_channels / groups, kernel[0], kernel[1]], window))
    }
}

#[cfg(test)]
mod tests {
    use backrule_tensor::{Grads, NamedTensors, random};

    use super::*;
    use crate::layers::{Relu, Sequential};
    use crate::tape::{Tape, predict};

    #[test]
    fn starts_within_one_over_root_of_inputs() {
        let config = Conv2dConfig::new(16, 64, [2, 2]).groups(4);
        let layer: Conv2d = config.build(&mut random::rng(1)).unwrap();
        for (path, tensor) in layer.tensors() {
            let largest = tensor.as_slice().iter().fold(0.0_f32, |a, x| a.max(x.abs()));
            assert!(largest <= 0.25 && largest > 0.24, "{path}: {largest}"); // 1/√(16 / 4 · 2 · 2)
        }
        let zeros: Conv2d = config.bias(false).weight_init(Init::Zeros).build(&mut random::rng(1)).unwrap();
        assert_eq!((zeros.weight(), zeros.bias()), (&Tensor::zeros([64, 4, 2, 2]).unwrap(), None));
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let refused =
            |config: Conv2dConfig| config.build::<f32>(&mut random::rng(1)).unwrap_err().to_string();
        let config = Conv2dConfig::new(4, 6, [2, 3]);
        for (config, expected) in [
            (Conv2dConfig::new(0, 6, [1, 1]), "in_channels: expected at least 1, got 0"),
            (Conv2dConfig::new(4, 0, [1, 1]), "out_channels: expected at least 1, got 0"),
            (Conv2dConfig::new(4, 6, [1, 0]), "kernel: expected at least 1, got [1, 0]"),
            (config.stride([0, 1]), "stride: expected at least 1, got [0, 1]"),
            (config.dilation([1, 0]), "dilation: expected at least 1, got [1, 0]"),
            (config.groups(0), "groups: expected at least 1, got 0"),
            (config.groups(4), "groups: expected a divisor of 4 and 6 channels, got 4"),
            (config.groups(3), "groups: expected a divisor of 4 and 6 channels, got 3"),
            (
                config.dilation([1, usize::MAX]),
                "dilation: expected windows of a size that can be counted, got [1, 18446744073709551615]",
            ),
            (
                config.padding([usize::MAX, 0]),
                "padding: expected at most [2147483664, 4294967312], got [18446744073709551615, 0]",
            ),
            // One more window at each end would see padding alone, whatever the image.
            (
                Conv2dConfig::new(4, 6, [1, 1]).padding([0, 17]),
                "padding: expected at most [16, 16], got [0, 17]",
            ),
            (
                Conv2dConfig::new(4, 6, [1, 3]).padding([17, 17]),
                "padding: expected at most [16, 4294967312], got [17, 17]",
            ),
        ] {
            assert_eq!(refused(config), format!("Conv2d: {expected}"));
        }
        assert!(refused(Conv2dConfig::new(usize::MAX, usize::MAX, [2, 2])).starts_with("shape: expected"));
        let zeros = |shape: &[usize]| Tensor::<f32>::zeros(shape).unwrap();
        let error = Conv2d::from_tensors(config, zeros(&[6, 4, 3, 2]), None).unwrap_err();
        assert_eq!(error.to_string(), "conv2d weight: expected [6, 4, 2, 3], got [6, 4, 3, 2]");
        let error = Conv2d::from_tensors(config, zeros(&[6, 4, 2, 3]), Some(zeros(&[4]))).unwrap_err();
        assert_eq!(error.to_string(), "conv2d bias: expected [6], got [4]");
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let config = Conv2dConfig::new(3, 2, [2, 3]).dilation([1, 2]).padding([0, 1]);
        let layer: Conv2d = config.build(&mut random::rng(1)).unwrap();
        let refused = |layer: &Conv2d, shape: &[usize]| {
            predict(layer, &Tensor::zeros(shape).unwrap()).unwrap_err().to_string()
        };
        assert_eq!(refused(&layer, &[3, 8, 8]), "conv2d forward: expected [_, 3, _, _], got [3, 8, 8]");
        assert_eq!(refused(&layer, &[1, 2, 8, 8]), "conv2d forward: expected [_, 3, _, _], got [1, 2, 8, 8]");
        let expected = "conv2d forward: expected [_, 3, 2 or more, 3 or more], got [1, 3, 2, 2]";
        assert_eq!(refused(&layer, &[1, 3, 2, 2]), expected);

        // A file could ask for any output of a small image.
        let of_padding = |kernel, padding| -> Conv2d {
            let config = Conv2dConfig::new(1, 1, [1, kernel]).padding([0, padding]);
            config.build(&mut random::rng(1)).unwrap()
        };
        let error = refused(&of_padding(3, 1_000_000), &[1, 1, 1, 1]);
        let expected = "padding of at most [16, 18] for an image of [1, 1], got [0, 1000000]";
        assert_eq!(error, format!("conv2d forward: expected {expected}"));
        let len = |layer: &Conv2d| predict(layer, &Tensor::zeros([1, 1, 1, 1]).unwrap()).unwrap().len();
        assert_eq!([len(&of_padding(1, 16)), len(&of_padding(3, 18))], [33, 35]);
        assert!(refused(&of_padding(3, 19), &[1, 1, 1, 1]).ends_with("got [0, 19]"));

        let x = Tensor::zeros([1, 3, 2, 3]).unwrap();
        let mut grads = Grads::new(&layer).unwrap();
        let back = |dy: &[usize], grads: &mut [Grad]| {
            let at = At { x: &x, y: &x, cache: &mut Cache::default(), mode: Mode::Eval };
            layer.backward(at, &Tensor::zeros(dy).unwrap(), None, grads).unwrap_err().to_string()
        };
        let expected = "conv2d backward: expected [1, 2, 1, 1], got [1, 2, 1, 2]";
        assert_eq!(back(&[1, 2, 1, 2], &mut grads), expected);
        assert_eq!(back(&[1, 2, 1, 1], &mut grads[..1]), "conv2d gradients: expected 2, got 1");
        assert!(grads.iter().all(Grad::is_zero));
    }

    #[test]
    fn empty_batches_and_images_work() {
        let layer: Conv2d =
            Conv2dConfig::new(2, 3, [3, 3]).padding([2, 2]).build(&mut random::rng(1)).unwrap();
        for (x, y) in [([0, 2, 5, 5], [0, 3, 7, 7]), ([2, 2, 0, 5], [2, 3, 2, 7])] {
            let (mut tape, mut grads, x) =
                (Tape::new(), Grads::new(&layer).unwrap(), Tensor::zeros(x).unwrap());
            let pass = tape.forward(&layer, &x, Mode::train()).unwrap();
            assert_eq!(pass.output().shape(), y);
            let dy = Tensor::full(y, 1.0).unwrap();
            pass.backward(&dy, &mut grads).unwrap();
            assert_eq!(grads[0], Tensor::zeros([3, 2, 3, 3]).unwrap());
            assert_eq!(grads[1], Tensor::full([3], (y[0] * y[2] * y[3]) as f32).unwrap());
        }
    }

    /// A million equal terms: one running sum in f32 would be 1 % off.
    #[test]
    fn gradients_of_many_samples_do_not_stop_growing() {
        const SAMPLES: usize = 1 << 20;
        let x = Tensor::full([SAMPLES, 1, 1, 1], 0.1_f32).unwrap();
        // As of a single product, whose blocks have 512 terms.
        let of_weight = (512.0 / 2.0 + 4.0) * f64::from(f32::EPSILON);
        let of_bias = 4.0 * f64::from(f32::EPSILON);
        for kernel in [1, 3] {
            let config = Conv2dConfig::new(1, 1, [kernel; 2]).padding([kernel / 2; 2]);
            let layer: Conv2d = config.build(&mut random::rng(1)).unwrap();
            let (mut tape, mut grads) = (Tape::new(), Grads::new(&layer).unwrap());
            tape.forward(&layer, &x, Mode::train()).unwrap().backward(&x, &mut grads).unwrap();
            let (term, samples) = (f64::from(0.1_f32), SAMPLES as f64);
            let exact = [term * term * samples, term * samples];
            for ((grad, exact), bound) in grads.iter().zip(exact).zip([of_weight, of_bias]) {
                let error = f64::from(grad.get().unwrap().sum()) / exact - 1.0;
                assert!(error.abs() <= bound, "{:?}: {error:e}", grad.shape());
            }
        }
    }

    /// The columns of one sample, whatever the batch; and twice ∂l/∂W, for sums over many samples.
    #[test]
    fn working_memory_is_that_of_one_sample() {
        let layer: Conv2d = Conv2dConfig::new(2, 3, [3, 3]).groups(1).build(&mut random::rng(1)).unwrap();
        let mut cache = Cache::default();
        let (x, mut y) = (Tensor::zeros([64, 2, 5, 6]).unwrap(), Tensor::default());
        layer.forward(&x, &mut y, &mut cache, Mode::train()).unwrap();
        let mut grads = Grads::new(&layer).unwrap();
        let (dy, mut dx) = (y.clone(), Tensor::default());
        let at = At { x: &x, y: &y, cache: &mut cache, mode: Mode::train() };
        layer.backward(at, &dy, Some(&mut dx), &mut grads).unwrap();
        assert_eq!(cache.tensors::<2>().each_ref().map(Tensor::len), [2 * 9 * 3 * 4, 2 * 3 * 2 * 9]);
    }

    /// A rectifier behind it runs on the elements just written, and gives the same bits.
    #[test]
    fn an_epilogue_changes_no_bit() {
        let config = Conv2dConfig::new(2, 4, [3, 3]).padding([1, 1]).groups(2);
        let layer: Conv2d = config.build(&mut random::rng(1)).unwrap();
        let x = Tensor::normal([3, 2, 5, 4], 0.0, 1.0, &mut random::rng(2)).unwrap();
        let expected = predict(&Relu, &predict(&layer, &x).unwrap()).unwrap();
        let net = Sequential::builder().layer("conv", layer).layer("relu", Relu).build().unwrap();
        assert_eq!(predict(&net, &x).unwrap(), expected);
        let report = crate::gradcheck(
            &mut Sequential::builder()
                .layer("conv", Conv2d::<f64>::new(2, 3, [2, 2], &mut random::rng(3)).unwrap())
                .layer("relu", Relu)
                .build()
                .unwrap(),
            [2, 2, 3, 4],
            4,
        );
        assert_eq!(report.unwrap().wrong, 0);
    }
}
