//! Derivative rules against finite differences.

use std::fmt;

use backrule_tensor::{
    Grad, Grads, IntoShape, Path, Role, Shape, ShapeError, Tensor, TensorError, random, readable,
};

use crate::cache::Cache;
use crate::data_parallel::Call;
use crate::error::LayerError;
use crate::layer::{Layer, MAX_INPUTS};
use crate::mode::{Key, Mode};

/// Checks a layer's derivative rule against finite differences, for an input of this shape.
///
/// For authors of layers: everything random (the input, which is normally distributed, the upstream gradient, dropout
/// masks) follows from `seed`, so a failure repeats. The layer is unchanged afterwards. Take a batch of at least 2 and
/// sizes that differ, and several seeds.
///
/// With a random dy, l = Σ dy ⊙ f(x; θ) has the derivatives that `backward` claims; each of them is compared with
/// (l(θ + h) − l(θ − h)) / 2h for every element of x and of every parameter. Random upstream gradients find transposed
/// rules, which all-ones ones hide. The check also proves that `backward` overwrites dx (it is handed NaN) and adds to
/// the parameters' gradients: it runs twice, first with gradients that are clear and have NaN left in them.
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
/// [`GradcheckError::Mismatch`] when the rule is wrong; it names the worst element with its path, and both numbers.
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
/// Change them for a layer that doesn't take just any input: `Gradcheck { input: false, ..Gradcheck::new(7) }` checks
/// the parameters only, as an embedding needs, whose inputs are whole numbers. For several inputs there is
/// [`run_many`](Self::run_many).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradcheck {
    /// What the random numbers follow from.
    pub seed: u64,
    /// The mode of the passes. The default is training.
    pub mode: Mode,
    /// Whether ∂l/∂x is checked. The default is that it is.
    pub input: bool,
    /// How many elements of each tensor are checked at most: of a larger one so many are drawn. The default is all.
    pub most: usize,
    /// The step of the central differences. 1e-5 is right for f64 and numbers around 1.
    pub h: f64,
    /// Largest |analytic − numeric| for a derivative near 0. The default is 1e-8.
    pub absolute: f64,
    /// Largest |analytic − numeric| / |numeric| for a large one. The default is 1e-6; the sum of both bounds counts.
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

    /// Checks a layer of several inputs or outputs at the inputs `x`, by its functions in `_many`. ∂l/∂xᵢ is checked where
    /// `differentiable[i]` says so: a list of lengths has no derivative.
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn run_many(
        self,
        layer: &mut dyn Layer<f64>,
        x: &[&Tensor<f64>],
        differentiable: &[bool],
    ) -> Result<GradcheckReport, GradcheckError> {
        if x.is_empty() || x.len() > MAX_INPUTS || x.len() != differentiable.len() {
            let error = LayerError::count("gradcheck: inputs", differentiable.len(), x.len());
            return Err(error.into());
        }
        self.check(layer, x.iter().map(|&x| x.clone()).collect(), differentiable, true)
    }

    fn check(
        self,
        layer: &mut dyn Layer<f64>,
        x: Vec<Tensor<f64>>,
        differentiable: &[bool],
        many: bool,
    ) -> Result<GradcheckReport, GradcheckError> {
        let mut report = GradcheckReport::default();
        let Analytic { y: here, dy, gradients } = self.analytic(layer, &x, differentiable, many)?;
        let (mode, y, cache) = (self.mode, Vec::new(), Cache::default());
        let mut probe = Probe { layer, x, dy: &dy, mode, many, here, y, cache };
        for (number, Gradient { variable, path, values, once }) in gradients.into_iter().enumerate() {
            report.of += values.len();
            let mut rng = Key::new(self.seed).child(2).child(number as u64).rng();
            let drawn = values.len() > self.most;
            let (wrong, elements, mut right_once) = (report.wrong, report.elements, 0);
            for place in 0..values.len().min(self.most) {
                let i = match drawn {
                    true => (random::uniform(&mut rng) * values.len() as f64) as usize,
                    false => place,
                };
                let slopes = probe.slopes(variable, i, self.h)?;
                let element = Element {
                    path: path.clone(),
                    index: index_of(i, values.shape()),
                    analytic: values.as_slice()[i],
                    numeric: (slopes[0] + slopes[1]) / 2.0,
                };
                let (numeric, before) = (element.numeric, report.wrong);
                self.judge(element, slopes, &mut report);
                let once = once.as_ref().map_or(f64::NAN, |once| once.as_slice()[i]);
                let bound = self.absolute + self.relative * numeric.abs();
                right_once += usize::from(report.wrong > before && (once - numeric).abs() <= bound);
            }
            let (wrong, of) = (report.wrong - wrong, report.elements - elements);
            report.tensors.push(Counted {
                path,
                right: of - wrong,
                of,
                must_add: wrong > 0 && right_once == wrong,
            });
        }
        // A rule that is tested at kinks only isn't tested.
        if report.wrong > 0 || report.kinks > 0 && report.kinks * 10 >= report.elements {
            return Err(GradcheckError::Mismatch(Box::new(report)));
        }
        Ok(report)
    }

    /// Random upstream gradients, and what the layer's rule makes of them.
    fn analytic(
        &self,
        layer: &dyn Layer<f64>,
        x: &[Tensor<f64>],
        differentiable: &[bool],
        many: bool,
    ) -> Result<Analytic, LayerError> {
        let inputs: Vec<_> = x.iter().collect();
        let call = Call { net: layer, x: &inputs, mode: self.mode, many };
        let (mut y, mut cache, mut grads) = (Vec::new(), Cache::default(), Grads::new(layer)?);
        for grad in grads.iter_mut() {
            grad.accumulate(|_, dw| {
                dw.fill(f64::NAN);
                Ok::<_, LayerError>(())
            })?;
            grad.clear();
        }
        let (mut dy, mut dx, mut first) = (Vec::new(), Vec::new(), Vec::new());
        // Rules must overwrite ∂l/∂x and what is clear, and then add to the gradients.
        for _ in 0..2 {
            call.forward(&mut y, &mut cache, self.mode)?;
            self.expect_shapes(call, &y)?;
            let mut rng = Key::new(self.seed).child(1).rng();
            dy.clear();
            for y in &y {
                dy.push(Tensor::normal(y.shape(), 0.0, 1.0, &mut rng)?);
            }
            dx.clear();
            for x in x {
                dx.push(Tensor::full(x.shape(), f64::NAN)?);
            }
            let upstream: Vec<_> = dy.iter().map(Some).collect();
            let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
            call.backward(&y, &mut cache, self.mode, &upstream, &mut wanted, &mut grads)?;
            for (x, dx) in x.iter().zip(&dx) {
                expect("gradcheck: ∂l/∂x", x.shape(), dx.shape())?;
            }
            grads.expect(layer)?;
            if first.is_empty() {
                first = grads.iter().map(|grad| grad.get().cloned()).collect();
            }
        }
        grads.scale(0.5);

        let mut gradients = Vec::new();
        let count = dx.len();
        for (i, values) in dx.into_iter().enumerate().filter(|&(i, _)| differentiable[i]) {
            let path = if count == 1 { "input".to_string() } else { format!("input {i}") };
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
                match values {
                    Ok(values) => {
                        let (variable, path) = (Variable::Parameter(k), path.to_string());
                        let once = first.get(k).and_then(Clone::clone);
                        gradients.push(Gradient { variable, path, values, once });
                    }
                    Err(error) => result = Err(error),
                }
            }
            k += 1;
        });
        result?;
        Ok(Analytic { y, dy, gradients })
    }

    /// Whether the outputs have the shapes that the layer says.
    fn expect_shapes(&self, call: Call<'_, f64>, y: &[Tensor<f64>]) -> Result<(), LayerError> {
        let x: Vec<_> = call.x.iter().map(|x| x.shape()).collect();
        let mut shapes = vec![Shape::EMPTY; y.len()];
        match (&x[..], &mut shapes[..]) {
            ([x], [y]) if !call.many => *y = call.net.output_shape(*x)?,
            (x, y) => call.net.output_shapes(x, y)?,
        }
        for (y, shape) in y.iter().zip(shapes) {
            expect("gradcheck: output_shape", y.shape(), shape)?;
        }
        Ok(())
    }

    /// Counts an element: right, wrong, or undecided because the function has a kink within the step.
    fn judge(&self, element: Element, slopes: [f64; 2], report: &mut GradcheckReport) {
        report.elements += 1;
        let bound = self.absolute + self.relative * element.numeric.abs();
        let error = (element.analytic - element.numeric).abs();
        // A difference that is NaN or infinite proves nothing, so it is no success.
        let decided = error.is_finite() && bound.is_finite();
        let error = if decided { error } else { f64::INFINITY };
        if !decided || error > bound {
            // Left and right of a kink the slopes differ by far more than a smooth function's curvature explains, and
            // a right rule gives something between them.
            let jump = (slopes[0] - slopes[1]).abs();
            if decided && jump > 1e-2 * (1.0 + element.numeric.abs()) && error <= jump {
                report.kinks += 1;
                return;
            }
            report.wrong += 1;
        }
        if report.worst.is_none() || error / bound > report.worst_ratio {
            report.worst_ratio = error / bound;
            report.worst = Some(element);
        }
    }
}

/// What the layer makes of a point: its outputs, a random ∂l/∂y, and the derivatives by its rule.
struct Analytic {
    y: Vec<Tensor<f64>>,
    dy: Vec<Tensor<f64>>,
    gradients: Vec<Gradient>,
}

/// ∂l/∂ one tensor, by the layer's rule.
struct Gradient {
    variable: Variable,
    path: String,
    values: Tensor<f64>,
    /// A parameter's after the first of two runs, which must add.
    once: Option<Tensor<f64>>,
}

/// What a derivative is taken by.
#[derive(Clone, Copy)]
enum Variable {
    Input(usize),
    /// The tensor of this number in visit order.
    Parameter(usize),
}

/// l(θ) = Σ dy ⊙ f(x; θ), with any one number of x and θ moved.
struct Probe<'a> {
    layer: &'a mut dyn Layer<f64>,
    x: Vec<Tensor<f64>>,
    dy: &'a [Tensor<f64>],
    mode: Mode,
    many: bool,
    /// The outputs at the point itself.
    here: Vec<Tensor<f64>>,
    y: Vec<Tensor<f64>>,
    cache: Cache<f64>,
}

impl Probe<'_> {
    /// The slopes of l to the right and to the left of where element `i` of `variable` is. It is put back exactly.
    fn slopes(&mut self, variable: Variable, i: usize, h: f64) -> Result<[f64; 2], LayerError> {
        let value = self.tensor(variable).map_or(0.0, |tensor| tensor.as_slice()[i]);
        let mut rise_at = |value: f64| {
            if let Some(tensor) = self.tensor(variable) {
                tensor.as_mut_slice()[i] = value;
            }
            self.rise()
        };
        let (right, left) = (rise_at(value + h), rise_at(value - h));
        if let Some(tensor) = self.tensor(variable) {
            tensor.as_mut_slice()[i] = value;
        }
        Ok([right? / h, -left? / h])
    }

    fn tensor(&mut self, variable: Variable) -> Option<&mut Tensor<f64>> {
        match variable {
            Variable::Input(i) => self.x.get_mut(i),
            Variable::Parameter(wanted) => {
                let (mut k, mut found) = (0, None);
                self.layer.visit_mut(Path::ROOT, &mut |_, _, tensor| {
                    if k == wanted {
                        found = Some(tensor);
                    }
                    k += 1;
                });
                found
            }
        }
    }

    /// How much l is above what it is at the point itself. The difference is taken element by element, before the sum: so
    /// only what changes is rounded.
    fn rise(&mut self) -> Result<f64, LayerError> {
        let inputs: Vec<_> = self.x.iter().collect();
        let call = Call { net: &*self.layer, x: &inputs, mode: self.mode, many: self.many };
        call.forward(&mut self.y, &mut self.cache, self.mode)?;
        let mut rise = 0.0;
        for ((y, here), dy) in self.y.iter().zip(&self.here).zip(self.dy) {
            for ((y, here), dy) in y.as_slice().iter().zip(here.as_slice()).zip(dy.as_slice()) {
                // An output that stays what it is adds nothing, also where it is infinite.
                if y.to_bits() != here.to_bits() {
                    rise += (y - here) * dy;
                }
            }
        }
        Ok(rise)
    }
}

fn expect(operation: &'static str, expected: Shape, got: Shape) -> Result<(), ShapeError> {
    if expected == got { Ok(()) } else { Err(ShapeError::new(operation, expected, got)) }
}

/// The position along each axis of the element that is number `i` in row-major order.
fn index_of(mut i: usize, shape: Shape) -> Vec<usize> {
    let mut index = vec![0; shape.rank()];
    for (position, &size) in index.iter_mut().zip(shape.iter()).rev() {
        (*position, i) = (i % size, i / size);
    }
    index
}

/// What a derivative check found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradcheckReport {
    /// How many derivatives were compared.
    pub elements: usize,
    /// How many there are: more than were compared where [`Gradcheck::most`] had them drawn.
    pub of: usize,
    /// How many of them differ by more than the bounds allow.
    pub wrong: usize,
    /// How many lie at a kink, such as ReLU's at 0, where finite differences say nothing. Few of these are no fault.
    pub kinks: usize,
    /// The element whose difference is largest in relation to its bound.
    pub worst: Option<Element>,
    /// The same by tensors: inputs first, then the parameters in visit order.
    pub tensors: Vec<Counted>,
    worst_ratio: f64,
}

/// The derivatives of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// `input`, or the parameter's path.
    pub path: String,
    /// How many are right, or undecided at a kink.
    pub right: usize,
    /// How many were compared.
    pub of: usize,
    /// Whether all that are wrong were right after the first of two passes: the rule overwrites where it must add.
    pub must_add: bool,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, right, of, must_add } = self;
        write!(f, "{path}: {right} of {of}")?;
        if *must_add { f.write_str(" (right once, wrong when run twice: it must add)") } else { Ok(()) }
    }
}

/// One derivative, both ways.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// `input`, or the parameter's path such as `fc1.weight`.
    pub path: String,
    /// The element's index in its tensor.
    pub index: Vec<usize>,
    /// What the layer's rule says.
    pub analytic: f64,
    /// What finite differences say.
    pub numeric: f64,
}

impl fmt::Display for GradcheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { elements, of, wrong, kinks, .. } = self;
        write!(f, "{wrong} of {elements} derivatives wrong, {kinks} undecided at kinks")?;
        if of > elements {
            write!(f, " ({elements} drawn of {of})")?;
        }
        if let Some(Element { path, index, analytic, numeric }) = &self.worst {
            write!(
                f,
                "; worst: ∂l/∂{path}{index:?}: the rule says {analytic:e}, finite differences say {numeric:e}"
            )?;
        }
        if *wrong > 0 {
            let counts: Vec<_> = self.tensors.iter().map(Counted::to_string).collect();
            write!(f, "; right: {}", counts.join(", "))?;
        }
        Ok(())
    }
}

/// Why a derivative check failed.
#[derive(Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GradcheckError {
    /// The rule is not the formula's derivative (or so many elements lie at kinks that it can't be told).
    #[error("{0}")]
    Mismatch(Box<GradcheckReport>),
    /// The layer refused to work.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

readable! { enum GradcheckError { Mismatch(report), Layer(error) } }

impl From<TensorError> for GradcheckError {
    fn from(error: TensorError) -> Self {
        Self::Layer(error.into())
    }
}

impl From<ShapeError> for GradcheckError {
    fn from(error: ShapeError) -> Self {
        Self::Layer(error.into())
    }
}
