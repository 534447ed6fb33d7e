use std::fmt;

use backrule_tensor::{IntoShape, Path, Role, Shape, ShapeError, Tensor, TensorError, random};

use crate::{At, Cache, Grads, Key, Layer, LayerError, Mode};

/// Checks a layer's derivative rule against finite differences, for an input of this shape.
///
/// For authors of layers: everything random (the input, which is normally distributed, the upstream gradient, dropout
/// masks) follows from `seed`, so a failure repeats. The layer is unchanged afterwards. Take a batch of at least 2 and
/// sizes that differ, and several seeds.
///
/// With a random dy, l = Σ dy ⊙ f(x; θ) has the derivatives that `backward` claims; each of them is compared with
/// (l(θ + h) − l(θ − h)) / 2h for every element of x and of every parameter. Random upstream gradients find transposed
/// rules, which all-ones ones hide. The check also proves that `backward` overwrites dx (it is handed NaN) and adds to
/// the parameters' gradients: it runs twice, first with gradients that are used up and have NaN left in them.
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
/// the parameters only, as an embedding needs, whose inputs are whole numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Gradcheck {
    /// What the random numbers follow from.
    pub seed: u64,
    /// The mode of the passes. The default is training.
    pub mode: Mode,
    /// Whether ∂l/∂x is checked. The default is that it is.
    pub input: bool,
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
        Self { seed, mode: Mode::Train(Key::new(seed)), input: true, h: 1e-5, absolute: 1e-8, relative: 1e-6 }
    }

    /// Checks `layer` at the input `x`.
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn run(self, layer: &mut dyn Layer<f64>, x: &Tensor<f64>) -> Result<GradcheckReport, GradcheckError> {
        let mut report = GradcheckReport::default();
        let (dy, gradients) = self.analytic(layer, x)?;
        let mut probe = Probe::new(layer, x, &dy, self.mode);
        for Gradient { variable, path, values } in gradients {
            for (i, &analytic) in values.as_slice().iter().enumerate() {
                let slopes = probe.slopes(variable, i, self.h)?;
                let element = Element {
                    path: path.clone(),
                    index: index_of(i, values.shape()),
                    analytic,
                    numeric: (slopes[0] + slopes[1]) / 2.0,
                };
                self.judge(element, slopes, &mut report);
            }
        }
        // A rule that is tested at kinks only isn't tested.
        if report.wrong > 0 || report.kinks > 0 && report.kinks * 10 >= report.elements {
            return Err(GradcheckError::Mismatch(report));
        }
        Ok(report)
    }

    /// A random upstream gradient, and what the layer's rule makes of it.
    fn analytic(
        &self,
        layer: &dyn Layer<f64>,
        x: &Tensor<f64>,
    ) -> Result<(Tensor<f64>, Vec<Gradient>), LayerError> {
        let (mut y, mut cache) = (Tensor::default(), Cache::default());
        let (mut dy, mut dx, mut grads) = (Tensor::default(), Tensor::default(), Grads::new(layer)?);
        for grad in grads.iter_mut() {
            *grad = Tensor::full(grad.shape(), f64::NAN)?.into();
        }
        grads.zero();
        // Rules must overwrite ∂l/∂x and what is used up, and then add to the gradients.
        for _ in 0..2 {
            layer.forward(x, &mut y, &mut cache, self.mode)?;
            expect("gradcheck: output_shape", y.shape(), layer.output_shape(x.shape())?)?;
            let mut rng = Key::new(self.seed).child(1).rng();
            dy = Tensor::normal(y.shape(), 0.0, 1.0, &mut rng)?;
            dx = Tensor::full(x.shape(), f64::NAN)?;
            let at = At { x, y: &y, cache: &mut cache, mode: self.mode };
            layer.backward(at, &dy, Some(&mut dx), &mut grads)?;
            expect("gradcheck: ∂l/∂x", x.shape(), dx.shape())?;
            grads.expect(layer)?;
        }
        grads.scale(0.5);

        let mut gradients = Vec::new();
        if self.input {
            gradients.push(Gradient { variable: Variable::Input, path: "input".to_string(), values: dx });
        }
        let mut k = 0;
        layer.visit(Path::ROOT, &mut |path, role, _| {
            if role == Role::Parameter {
                // Zeros, if the rule forgets the parameter.
                let values = grads.get(k).and_then(|grad| grad.to_tensor().ok()).unwrap_or_default();
                gradients.push(Gradient { variable: Variable::Parameter(k), path: path.to_string(), values });
            }
            k += 1;
        });
        Ok((dy, gradients))
    }

    /// Counts an element: right, wrong, or undecided because the function has a kink within the step.
    fn judge(&self, element: Element, slopes: [f64; 2], report: &mut GradcheckReport) {
        report.elements += 1;
        let bound = self.absolute + self.relative * element.numeric.abs();
        let error = (element.analytic - element.numeric).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > bound {
            // Left and right of a kink the slopes differ by far more than a smooth function's curvature explains, and
            // a right rule gives something between them.
            let jump = (slopes[0] - slopes[1]).abs();
            if jump > 1e-2 * (1.0 + element.numeric.abs()) && error <= jump {
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

/// ∂l/∂ one tensor, by the layer's rule.
struct Gradient {
    variable: Variable,
    path: String,
    values: Tensor<f64>,
}

/// What a derivative is taken by.
#[derive(Clone, Copy)]
enum Variable {
    Input,
    /// The parameter of this number in visit order.
    Parameter(usize),
}

/// l(θ) = Σ dy ⊙ f(x; θ), with any one number of x and θ moved.
struct Probe<'a> {
    layer: &'a mut dyn Layer<f64>,
    x: Tensor<f64>,
    dy: &'a Tensor<f64>,
    mode: Mode,
    y: Tensor<f64>,
    cache: Cache<f64>,
}

impl<'a> Probe<'a> {
    fn new(layer: &'a mut dyn Layer<f64>, x: &Tensor<f64>, dy: &'a Tensor<f64>, mode: Mode) -> Self {
        let (y, cache) = (Tensor::default(), Cache::default());
        Self { layer, x: x.clone(), dy, mode, y, cache }
    }

    /// The slopes of l to the right and to the left of where element `i` of `variable` is. It is put back exactly.
    fn slopes(&mut self, variable: Variable, i: usize, h: f64) -> Result<[f64; 2], LayerError> {
        let value = self.tensor(variable).map_or(0.0, |tensor| tensor.as_slice()[i]);
        let mut loss_at = |value: f64| {
            if let Some(tensor) = self.tensor(variable) {
                tensor.as_mut_slice()[i] = value;
            }
            self.loss()
        };
        let (right, left, here) = (loss_at(value + h), loss_at(value - h), loss_at(value));
        let (right, left, here) = (right?, left?, here?);
        Ok([(right - here) / h, (here - left) / h])
    }

    fn tensor(&mut self, variable: Variable) -> Option<&mut Tensor<f64>> {
        match variable {
            Variable::Input => Some(&mut self.x),
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

    fn loss(&mut self) -> Result<f64, LayerError> {
        self.layer.forward(&self.x, &mut self.y, &mut self.cache, self.mode)?;
        let products = self.y.as_slice().iter().zip(self.dy.as_slice());
        Ok(products.map(|(y, dy)| y * dy).sum())
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
    /// How many of them differ by more than the bounds allow.
    pub wrong: usize,
    /// How many lie at a kink, such as ReLU's at 0, where finite differences say nothing. Few of these are no fault.
    pub kinks: usize,
    /// The element whose difference is largest in relation to its bound.
    pub worst: Option<Element>,
    worst_ratio: f64,
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
        let Self { elements, wrong, kinks, .. } = self;
        write!(f, "{wrong} of {elements} derivatives wrong, {kinks} undecided at kinks")?;
        if let Some(Element { path, index, analytic, numeric }) = &self.worst {
            write!(
                f,
                "; worst: ∂l/∂{path}{index:?}: the rule says {analytic:e}, finite differences say {numeric:e}"
            )?;
        }
        Ok(())
    }
}

/// Why a derivative check failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GradcheckError {
    /// The rule is not the formula's derivative (or so many elements lie at kinks that it can't be told).
    #[error("{0}")]
    Mismatch(GradcheckReport),
    /// The layer refused to work.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl From<ShapeError> for GradcheckError {
    fn from(error: ShapeError) -> Self {
        Self::Layer(error.into())
    }
}

impl From<TensorError> for GradcheckError {
    fn from(error: TensorError) -> Self {
        Self::Layer(error.into())
    }
}
