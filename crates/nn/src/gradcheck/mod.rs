//! Derivative rules against finite differences.

mod buffers;
mod probe;
mod report;

pub use report::{Counted, Element, GradcheckError, GradcheckReport};

use backrule_tensor::{
    ConfigError, DType, Grad, Grads, IntoShape, Path, Role, Scalar, Shape, Tensor, in_default_mode, random,
};

use crate::cache::Cache;
use crate::data_parallel::Call;
use crate::error::LayerError;
use crate::gradcheck::buffers::Buffers;
use crate::gradcheck::probe::{Place, Probe, Slope, Variable, expect_finite, expect_finite_outputs};
use crate::gradcheck::report::{expect, index_of};
use crate::layer::{Layer, MAX_INPUTS};
use crate::mode::{Key, Mode};

/// In f32, the error of a slope that needs no smaller step, in relation to it or to the slopes of its tensor.
const ENOUGH: f64 = 1e-3;

/// Checks a layer's derivative rule against finite differences, for an input of this shape.
///
/// For authors of layers: everything random (the input, which is normally distributed, the upstream gradient,
/// dropout masks) follows from `seed`, so a failure repeats. The layer is unchanged afterwards. Take a batch
/// of at least 2 and sizes that differ, several seeds, and both modes where they differ. A layer for f32
/// alone has [`run_f32`](Gradcheck::run_f32).
///
/// With a random dy, l = Σ dy ⊙ f(x; θ) has the derivatives that `backward` claims; each of them is compared
/// with (l(θ + h) − l(θ − h)) / 2h for every element of x and of every parameter. Random upstream gradients
/// find transposed rules, which all-ones ones hide. The check also proves that `backward` overwrites dx (it
/// is handed NaN) and adds to the parameters' gradients: it runs twice, first with gradients that are clear
/// and have NaN left in them. The second time nobody wants ∂l/∂x, as of the first layer of a network. Before,
/// it runs once with another dy, whose results must not come back.
///
/// Of a layer with buffers it proves also the premise of a step: in training each backward pass adds one
/// increment to each buffer, by [`Grad::increment`], and in [`Mode::Eval`] none. Whether the increment is the
/// right one, only a test of the layer's author knows.
///
/// ```
/// use backrule_nn::tensor::random;
/// use backrule_nn::{Linear, gradcheck};
///
/// let mut layer = Linear::new(3, 2, &mut random::rng(1))?;
/// let report = gradcheck(&mut layer, [4, 3], 7)?;
/// assert_eq!(report.elements, 4 * 3 + 2 * 3 + 2); // x, W and b
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`GradcheckError::Mismatch`] when the rule is wrong; it names the worst element with its path, and both
/// numbers. [`GradcheckError::Buffer`] when the increments of a buffer are wrong. A check
/// that proves nothing is an error, too: with outputs that are NaN or infinite, without a
/// derivative to compare, or with settings that no wrong rule would fail.
pub fn gradcheck(
    layer: &mut dyn Layer<f64>,
    input: impl IntoShape,
    seed: u64,
) -> Result<GradcheckReport, GradcheckError> {
    let x = Tensor::normal(input, 0.0, 1.0, &mut random::rng(seed))?;
    Gradcheck::new(seed).run(layer, &x)
}

/// The settings of a derivative check; [`gradcheck`] uses the defaults.
///
/// Change them for a layer that doesn't take just any input: `Gradcheck { input: false, ..Gradcheck::new(7)
/// }` checks the parameters only, as an embedding needs, whose inputs are whole numbers. For several inputs
/// there is [`run_many`](Self::run_many).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradcheck {
    /// The seed of the random numbers.
    pub seed: u64,
    /// The mode of the passes. The default is training.
    pub mode: Mode,
    /// Whether ∂l/∂x is checked. The default is that it is.
    pub input: bool,
    /// How many elements of each tensor are checked at most: of a larger one so many are drawn. The default
    /// is all.
    pub most: usize,
    /// The step of the central differences, from 1e-9 to 1e-2 times max(1, |x|) for each number x that is
    /// moved. The default, 1e-5, is right for f64 and numbers around 1. In f32 the first step is 20,000 times
    /// as large.
    pub h: f64,
    /// Largest |analytic − numeric| for a derivative near 0, above 0 and up to 1e-3. The default is 1e-8.
    pub absolute: f64,
    /// Largest |analytic − numeric| / |numeric| for a large one, above 0 and up to 1e-3. The default is 1e-6;
    /// the sum of both bounds counts.
    pub relative: f64,
}

impl Gradcheck {
    /// The default settings.
    pub fn new(seed: u64) -> Self {
        let mode = Mode::train_with(Key::new(seed));
        Self { seed, mode, input: true, most: usize::MAX, h: 1e-5, absolute: 1e-8, relative: 1e-6 }
    }

    /// Checks `layer` at the input `x`.
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn run(self, layer: &mut dyn Layer<f64>, x: &Tensor<f64>) -> Result<GradcheckReport, GradcheckError> {
        self.check(layer, vec![x.clone()], &[self.input], false)
    }

    /// Checks a layer of several inputs or outputs at the inputs `x`, by its functions in `_many`. ∂l/∂xᵢ is
    /// checked where `differentiable[i]` says so: a list of lengths has no derivative.
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn run_many(
        self,
        layer: &mut dyn Layer<f64>,
        x: &[&Tensor<f64>],
        differentiable: &[bool],
    ) -> Result<GradcheckReport, GradcheckError> {
        self.check_many(layer, x, differentiable)
    }

    /// Checks a layer that exists in f32 alone. Where there is an f64 form, [`run`](Self::run) shows more.
    ///
    /// Differences of f32 outputs are taken and added in f64. The first step is 20,000 times [`h`](Self::h),
    /// 0.2 by default, and is halved. Each element of y takes the slope with the least bound of its error:
    /// the rounding, 2 ε |y| / h, and by how much slopes differ from step to step, which shows
    /// curvature and kinks. The sum with dy, which is random and normally distributed, has four standard
    /// deviations as its bound.
    ///
    /// A derivative is right when it is as near as this bound and the tolerances allow, and the bound is at
    /// most 1/200 of it, or of the root mean square of its tensor: so a factor of 1.01 is found. A larger
    /// bound leaves it undecided; a quarter of such elements, or a tensor without others, fails the check,
    /// and another seed may decide them. A derivative of 0 can't be told from one below Σ |dy ⊙ y| / 1000.
    ///
    /// The bound knows y alone, not the rounding within a layer and its growth: a right rule can be called
    /// wrong where a norm follows on numbers that hardly differ.
    ///
    /// ```
    /// use backrule_nn::tensor::{Tensor, random};
    /// use backrule_nn::{Gradcheck, Linear};
    ///
    /// let rng = &mut random::rng(1);
    /// let mut layer = Linear::<f32>::new(3, 2, rng)?;
    /// let x = Tensor::normal([4, 3], 0.0, 1.0, rng)?;
    /// let report = Gradcheck::new(7).run_f32(&mut layer, &x)?;
    /// assert_eq!((report.elements, report.wrong), (4 * 3 + 2 * 3 + 2, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn run_f32(
        self,
        layer: &mut dyn Layer<f32>,
        x: &Tensor<f32>,
    ) -> Result<GradcheckReport, GradcheckError> {
        self.check(layer, vec![x.clone()], &[self.input], false)
    }

    /// As [`run_f32`](Self::run_f32), for several inputs or outputs, as [`run_many`](Self::run_many).
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn run_many_f32(
        self,
        layer: &mut dyn Layer<f32>,
        x: &[&Tensor<f32>],
        differentiable: &[bool],
    ) -> Result<GradcheckReport, GradcheckError> {
        self.check_many(layer, x, differentiable)
    }

    fn check_many<T: Scalar>(
        self,
        layer: &mut dyn Layer<T>,
        x: &[&Tensor<T>],
        differentiable: &[bool],
    ) -> Result<GradcheckReport, GradcheckError> {
        if x.is_empty() || x.len() > MAX_INPUTS || x.len() != differentiable.len() {
            let error = LayerError::count("gradcheck: inputs", differentiable.len(), x.len());
            return Err(error.into());
        }
        self.check(layer, x.iter().map(|&x| x.clone()).collect(), differentiable, true)
    }

    /// Whether a wrong rule can fail with these settings. The bounds of `h` depend on the moved tensors.
    fn expect_settings(&self) -> Result<(), ConfigError> {
        for (option, value) in [("absolute", self.absolute), ("relative", self.relative)] {
            let right = value > 0.0 && value <= 1e-3;
            ConfigError::check(right, "Gradcheck", option, "a number above 0, up to 1e-3", value)?;
        }
        let right = self.h > 0.0 && self.h.is_finite();
        ConfigError::check(right, "Gradcheck", "h", "1e-9 to 1e-2 times max(1, |x|)", self.h)?;
        match self.most {
            0 => Err(ConfigError::new("Gradcheck", "most", "at least 1", 0)),
            _ => Ok(()),
        }
    }

    fn check<T: Scalar>(
        self,
        layer: &mut dyn Layer<T>,
        x: Vec<Tensor<T>>,
        differentiable: &[bool],
        many: bool,
    ) -> Result<GradcheckReport, GradcheckError> {
        in_default_mode!(self.check(layer, x, differentiable, many));
        self.expect_settings()?;
        let Analytic { y, dy, gradients } = self.analytic(layer, &x, differentiable, many)?;
        let mut probe = Probe::new(layer, x, y, &dy, self.mode, many);
        let exact = T::DTYPE == DType::F64;
        let mut report = GradcheckReport { few: if exact { 10 } else { 4 }, ..GradcheckReport::default() };
        for (number, Gradient { variable, path, values, once }) in gradients.into_iter().enumerate() {
            report.of += values.len();
            let mut rng = Key::new(self.seed).child(2).child(number as u64).rng();
            let drawn = values.len() > self.most;
            let (mut compared, mut squares) = (Vec::new(), 0.0);
            for place in 0..values.len().min(self.most) {
                let i = match drawn {
                    true => (random::uniform(&mut rng) * values.len() as f64) as usize,
                    false => place,
                };
                let place = Place { variable, path: &path, i };
                probe.expect_step(place, self.h)?;
                let analytic = values.as_slice()[i].to_f64();
                let slope = match exact {
                    true => probe.slope(place, self.h, |slope| self.is_near(analytic, slope))?,
                    false => {
                        let size = root_mean(squares, compared.len());
                        let enough = |slope: &Slope| slope.error <= ENOUGH * size.max(slope.value.abs());
                        probe.slope(place, 2e4 * self.h, |slope| !slope.moved || enough(slope))?
                    }
                };
                let once = once.as_ref().map_or(f64::NAN, |once| once.as_slice()[i].to_f64());
                squares += slope.value.powi(2);
                compared.push(Compared { index: index_of(i, values.shape()), analytic, once, slope });
            }
            let size = root_mean(squares, compared.len());
            self.count(path, compared, size, exact, &mut report);
        }
        match report {
            report if report.elements == 0 => Err(GradcheckError::Nothing(
                "there are no parameters, and the inputs are left out or without elements",
            )),
            report if report.is_right() => probe.expect_sized(&dy).map(|()| report),
            report => Err(GradcheckError::Mismatch(Box::new(report))),
        }
    }

    /// Random upstream gradients, and the results of the layer's rule for them.
    fn analytic<T: Scalar>(
        &self,
        layer: &dyn Layer<T>,
        x: &[Tensor<T>],
        differentiable: &[bool],
        many: bool,
    ) -> Result<Analytic<T>, GradcheckError> {
        let inputs: Vec<_> = x.iter().collect();
        let call = Call { net: layer, x: &inputs, mode: self.mode, many };
        let (mut y, mut cache, mut grads) = (Vec::new(), Cache::default(), Grads::new(layer)?);
        let (mut dy, mut dx, mut first) = (Vec::new(), Vec::new(), Vec::new());
        let mut buffers = Buffers::of(layer, self.mode);
        // Numbers that the first pass leaves must not show. Rules must overwrite ∂l/∂x and cleared gradients,
        // and then add to the gradients.
        for pass in 0..3 {
            call.forward(&mut y, &mut cache, self.mode)?;
            self.expect_shapes(call, &y)?;
            let mut rng = Key::new(self.seed).child(if pass == 0 { 3 } else { 1 }).rng();
            dy.clear();
            for y in &y {
                dy.push(Tensor::normal(y.shape(), 0.0, 1.0, &mut rng)?);
            }
            // The last time nobody wants ∂l/∂x: as of the first layer of a network.
            let wants_dx = pass < 2;
            if wants_dx {
                dx.clear();
                for x in x {
                    dx.push(Tensor::full(x.shape(), T::from_f64(f64::NAN))?);
                }
            }
            let upstream: Vec<_> = dy.iter().map(Some).collect();
            let mut wanted: Vec<_> = dx.iter_mut().map(|dx| wants_dx.then_some(dx)).collect();
            call.backward(&y, &mut cache, self.mode, &upstream, &mut wanted, &mut grads)?;
            for (x, dx) in x.iter().zip(&dx) {
                expect("gradcheck: ∂l/∂x", x.shape(), dx.shape())?;
            }
            grads.expect(layer)?;
            if pass > 0 {
                buffers.expect(&grads, pass)?;
            }
            if pass == 0 {
                for grad in grads.iter_mut() {
                    grad.accumulate(|_, dw| {
                        dw.fill(T::from_f64(f64::NAN));
                        Ok::<_, LayerError>(())
                    })?;
                    grad.clear();
                }
            } else if pass == 1 {
                first = grads.iter().map(|grad| grad.get().cloned()).collect();
            }
        }
        if self.mode.is_train() && !buffers.is_empty() {
            self.expect_nothing_in_evaluation(call)?;
        }
        grads.scale(T::from_f64(0.5));
        if y.iter().all(|y| y.is_empty()) {
            return Err(GradcheckError::Nothing("the outputs have no elements"));
        }
        expect_finite_outputs(&y)?;

        let (mut gradients, count) = (Vec::new(), dx.len());
        for (i, values) in dx.into_iter().enumerate().filter(|&(i, _)| differentiable[i]) {
            let path = if count == 1 { "input".to_string() } else { format!("input {i}") };
            expect_finite(&path, &x[i])?;
            gradients.push(Gradient { variable: Variable::Input(i), path, values, once: None });
        }
        let (mut k, mut result) = (0, Ok(()));
        layer.visit(Path::ROOT, &mut |path, role, tensor| {
            if role == Role::Parameter && result.is_ok() {
                // Zeros, if the rule forgets the parameter.
                let values = grads
                    .get(k)
                    .and_then(Grad::get)
                    .map_or_else(|| Tensor::zeros_like(tensor), |grad| Ok(grad.clone()));
                let (variable, path) = (Variable::Parameter(k), path.to_string());
                result =
                    expect_finite(&path, tensor).and(values.map_err(GradcheckError::from)).map(|values| {
                        let once = first.get(k).and_then(Clone::clone);
                        gradients.push(Gradient { variable, path, values, once });
                    });
            }
            k += 1;
        });
        result?;
        Ok(Analytic { y, dy, gradients })
    }

    /// A pass in evaluation: no buffer gets an increment.
    fn expect_nothing_in_evaluation<T: Scalar>(&self, call: Call<'_, T>) -> Result<(), GradcheckError> {
        let call = Call { mode: Mode::Eval, ..call };
        let (mut y, mut cache, mut grads) = (Vec::new(), Cache::default(), Grads::new(call.net)?);
        let mut dx: Vec<_> = call.x.iter().map(|_| Tensor::default()).collect();
        for wants_dx in [false, true] {
            call.forward(&mut y, &mut cache, Mode::Eval)?;
            let upstream: Vec<_> = y.iter().map(Some).collect();
            let mut dx: Vec<_> = dx.iter_mut().map(|dx| wants_dx.then_some(dx)).collect();
            call.backward(&y, &mut cache, Mode::Eval, &upstream, &mut dx, &mut grads)?;
        }
        Buffers::of(call.net, Mode::Eval).expect(&grads, 1)
    }

    /// Whether the outputs have the shapes that the layer says.
    fn expect_shapes<T: Scalar>(&self, call: Call<'_, T>, y: &[Tensor<T>]) -> Result<(), LayerError> {
        let x: Vec<_> = call.x.iter().map(|x| x.shape()).collect();
        let mut shapes = vec![Shape::EMPTY; y.len()];
        match (&x[..], &mut shapes[..]) {
            ([x], [y]) if !call.many => *y = call.net.output_shape(*x)?,
            (x, y) => call.net.output_shapes(x, y)?,
        }
        for (y, shape) in y.iter().zip(shapes) {
            expect("gradcheck: forward has not written what `output_shape` says", shape, y.shape())?;
        }
        Ok(())
    }

    fn is_near(&self, analytic: f64, slope: &Slope) -> bool {
        (analytic - slope.value).abs() <= self.tolerance(slope)
    }

    fn tolerance(&self, slope: &Slope) -> f64 {
        self.absolute + self.relative * slope.value.abs()
    }

    /// Counts the elements of a tensor: right, wrong, or undecided.
    fn count(
        &self,
        path: String,
        compared: Vec<Compared>,
        size: f64,
        exact: bool,
        report: &mut GradcheckReport,
    ) {
        let (of, mut wrong, mut right_once, mut kinks, mut hidden) = (compared.len(), 0, 0, 0, 0);
        for Compared { index, analytic, once, slope } in compared {
            let (numeric, tolerance) = (slope.value, self.tolerance(&slope));
            // Smaller errors aren't looked for, so a kink that makes one may lie within the step.
            let unseen = ENOUGH * size.max(numeric.abs());
            let bound = if exact { tolerance } else { tolerance + slope.error + unseen };
            let gap = (analytic - numeric).abs();
            // NaN is no number below a bound.
            let near = gap <= bound;
            let undecided = match exact {
                true => !near && gap <= slope.error,
                false => near && slope.is_coarse(size),
            };
            if undecided {
                *(if slope.kink { &mut kinks } else { &mut hidden }) += 1;
                continue;
            }
            if !near {
                wrong += 1;
                right_once += usize::from((once - numeric).abs() <= bound);
            }
            let ratio = if gap.is_nan() { f64::INFINITY } else { gap / bound };
            if report.worst.is_none() || ratio > report.worst_ratio {
                report.worst_ratio = ratio;
                report.worst = Some(Element { path: path.clone(), index, analytic, numeric });
            }
        }
        let undecided = kinks + hidden;
        let (right, must_add) = (of - wrong - undecided, wrong > 0 && right_once == wrong);
        report.tensors.push(Counted { path, right, undecided, of, must_add });
        report.elements += of;
        report.wrong += wrong;
        report.kinks += kinks;
        report.hidden += hidden;
    }
}

/// The values at a point: the layer's outputs, a random ∂l/∂y, and the derivatives by its rule.
struct Analytic<T: Scalar> {
    y: Vec<Tensor<T>>,
    dy: Vec<Tensor<T>>,
    gradients: Vec<Gradient<T>>,
}

/// ∂l/∂ one tensor, by the layer's rule.
struct Gradient<T: Scalar> {
    variable: Variable,
    path: String,
    values: Tensor<T>,
    /// A parameter's after the first of two runs, which must add.
    once: Option<Tensor<T>>,
}

/// A derivative both ways, and the rule's result of one run.
struct Compared {
    index: Vec<usize>,
    analytic: f64,
    once: f64,
    slope: Slope,
}

/// The root of the mean of so many squares with this sum.
fn root_mean(squares: f64, count: usize) -> f64 {
    (squares / count.max(1) as f64).sqrt()
}
