//! Slopes of a layer's outputs where one number is moved.

use std::mem::replace;

use backrule_tensor::{ConfigError, DType, Grads, Path, Scalar, Tensor};

use crate::cache::Cache;
use crate::data_parallel::Call;
use crate::gradcheck::report::{GradcheckError, expect, index_of};
use crate::layer::Layer;
use crate::mode::Mode;

/// How often a step is halved: the last is a thousandth of the first.
const HALVINGS: usize = 10;
/// How often the first step is halved in f32 where a difference isn't finite.
const RETRIES: usize = 5;
/// The units of rounding in an element of y: a sum of products has several.
const ROUNDINGS: f64 = 2.0;
/// The most that rounding alone makes steps differ, in units of the bound for an output without cancellation.
const SPREAD: f64 = 32.0;
/// The standard deviations that bound a sum with a random dy.
const DEVIATIONS: f64 = 4.0;
/// The derivatives, in units of an output's rounding, that are lost where a function is all but constant.
const SATURATED: f64 = 8.0;

/// The variable of a derivative.
#[derive(Clone, Copy)]
pub(super) enum Variable {
    Input(usize),
    /// The tensor of this number in visit order.
    Parameter(usize),
}

/// An element of a variable.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) variable: Variable,
    pub(super) path: &'a str,
    pub(super) i: usize,
}

/// l(θ) = Σ dy ⊙ f(x; θ), with any one number of x and θ moved.
pub(super) struct Probe<'a, T: Scalar> {
    layer: &'a mut dyn Layer<T>,
    x: Vec<Tensor<T>>,
    mode: Mode,
    many: bool,
    y: Vec<Tensor<T>>,
    cache: Cache<T>,
    elements: Vec<Element>,
}

/// A derivative by differences.
#[derive(Clone, Copy)]
pub(super) struct Slope {
    pub(super) value: f64,
    /// How far it can be off: by rounding, by curvature, and by kinks within the step.
    pub(super) error: f64,
    /// Whether most of the error is a kink's.
    pub(super) kink: bool,
    /// Whether anything has moved.
    pub(super) moved: bool,
    /// Σ |dy ⊙ y| of the moved elements: 0 too, where y is.
    pub(super) scale: f64,
    /// Σ |dy| of the moved elements, and the mean |dy| at least.
    pub(super) reach: f64,
}

impl Slope {
    /// Whether a factor of 1.01 wouldn't show, in a tensor whose slopes have this size. A slope that is 0 as
    /// far as the outputs tell counts as 0, if they would have told of a slope of 1: beside a constant of 10⁷
    /// they tell nothing.
    pub(super) fn is_coarse(&self, size: f64) -> bool {
        let is_zero = self.error >= self.value.abs() && self.error <= 1e-3 * self.scale || !self.moved;
        let would_tell = self.error <= 5e-3 * self.reach;
        self.error > 5e-3 * size.max(self.value.abs()) && !(is_zero && would_tell)
    }
}

impl<'a, T: Scalar> Probe<'a, T> {
    /// For the outputs `y` at the inputs `x`.
    pub(super) fn new(
        layer: &'a mut dyn Layer<T>,
        x: Vec<Tensor<T>>,
        y: Vec<Tensor<T>>,
        dy: &[Tensor<T>],
        mode: Mode,
        many: bool,
    ) -> Self {
        let mut elements = Vec::new();
        for (y, dy) in y.iter().zip(dy) {
            let squares: f64 = y.as_slice().iter().map(|y| y.to_f64().powi(2)).sum();
            let size = (squares / y.len() as f64).sqrt();
            for (y, dy) in y.as_slice().iter().zip(dy.as_slice()) {
                elements.push(Element { dy: dy.to_f64(), here: y.to_f64(), size, ..Element::default() });
            }
        }
        Self { layer, x, mode, many, y, cache: Cache::default(), elements }
    }

    /// ∂l/∂ the element at `place`, by steps from `h` down. `enough` says which slope needs no smaller one.
    ///
    /// Each element of y takes the step that suits it: the one with the least bound of the slope's error,
    /// which is the rounding, and by how much slopes and jumps in slope differ from step to step. So
    /// a kink of one sample makes no other sample's step small.
    pub(super) fn slope(
        &mut self,
        place: Place<'_>,
        h: f64,
        enough: impl Fn(&Slope) -> bool,
    ) -> Result<Slope, GradcheckError> {
        let least = 2.0 * T::EPSILON.to_f64() * self.value(place).abs();
        for element in &mut self.elements {
            (element.moved, element.best, element.error) = (false, 0.0, 0.0);
        }
        let (mut h, mut steps) = (h, 0);
        // The first step in f32 is large, and may leave the domain of a function such as √x.
        let mut retries = if T::DTYPE == DType::F64 { 0 } else { RETRIES };
        loop {
            match self.step(place, h, steps) {
                Err(GradcheckError::NotFinite { .. }) if steps == 0 && retries > 0 => {
                    (h, retries) = (h / 2.0, retries - 1);
                    continue;
                }
                result => result.map_err(|error| self.moved(place, error))?,
            }
            let slope = self.sum();
            (h, steps) = (h / 2.0, steps + 1);
            if !slope.value.is_finite() {
                let (tensor, got) = ("the difference".to_string(), slope.value.to_string());
                let error = GradcheckError::NotFinite { tensor, index: vec![], got, moved: None };
                return Err(self.moved(place, error));
            }
            if enough(&slope) || steps > HALVINGS || h < least {
                return Ok(slope);
            }
        }
    }

    /// Moves an element by `h` to both sides, and puts it back exactly.
    fn step(&mut self, place: Place<'_>, h: f64, before: usize) -> Result<(), GradcheckError> {
        let Some(value) = self.tensor(place).map(|tensor| tensor.as_slice()[place.i]) else { return Ok(()) };
        let at = value.to_f64();
        let sides = [at + h, at - h].map(T::from_f64);
        for (side, moved) in sides.into_iter().enumerate() {
            self.set(place, moved);
            let result = self.forward();
            self.set(place, value);
            result?;
            let y = self.y.iter().flat_map(Tensor::as_slice);
            for (element, y) in self.elements.iter_mut().zip(y) {
                element.sides[side] = y.to_f64();
            }
        }
        // The steps as they are after rounding.
        let sizes = [sides[0].to_f64() - at, at - sides[1].to_f64()];
        let rounding = 2.0 * ROUNDINGS * T::EPSILON.to_f64() / (sizes[0] + sizes[1]);
        self.elements.iter_mut().for_each(|element| element.step(before, sizes, rounding));
        Ok(())
    }

    /// Gives the rule a `dx` without a shape: in a network it has had other uses.
    pub(super) fn expect_sized(&mut self, dy: &[Tensor<T>]) -> Result<(), GradcheckError> {
        self.forward()?;
        let inputs: Vec<_> = self.x.iter().collect();
        let call = Call { net: &*self.layer, x: &inputs, mode: self.mode, many: self.many };
        let mut dx: Vec<_> = self.x.iter().map(|_| Tensor::default()).collect();
        let mut wanted: Vec<_> = dx.iter_mut().map(Some).collect();
        let (upstream, mut grads) = (dy.iter().map(Some).collect::<Vec<_>>(), Grads::new(&*self.layer)?);
        call.backward(&self.y, &mut self.cache, self.mode, &upstream, &mut wanted, &mut grads)?;
        for (x, dx) in self.x.iter().zip(&dx) {
            expect("gradcheck: the rule has to give ∂l/∂x its shape", x.shape(), dx.shape())?;
        }
        Ok(())
    }

    fn forward(&mut self) -> Result<(), GradcheckError> {
        let inputs: Vec<_> = self.x.iter().collect();
        let call = Call { net: &*self.layer, x: &inputs, mode: self.mode, many: self.many };
        call.forward(&mut self.y, &mut self.cache, self.mode)?;
        expect_finite_outputs(&self.y)
    }

    /// The slope of l.
    ///
    /// The elements' slopes and errors don't depend on dy, which is random. So the error Σ dy ⊙ error has the
    /// deviation √Σ error², and can't be above Σ |dy ⊙ error|.
    fn sum(&self) -> Slope {
        let [mut value, mut scale, mut reach, mut sizes] = [0.0; 4];
        let [mut largest, mut absolute, mut squares, mut rounding] = [0.0; 4];
        let mut moved = false;
        for element in &self.elements {
            let size = (element.dy * element.here).abs();
            largest = f64::max(largest, size);
            sizes += element.dy.abs();
            moved |= element.moved;
            if element.moved {
                value += element.dy * element.best;
                scale += size;
                reach += element.dy.abs();
                absolute += element.dy.abs() * element.error;
                squares += element.error.powi(2);
                rounding += element.rounding.powi(2);
            }
        }
        let reach = f64::max(reach, sizes / self.elements.len() as f64);
        let error = f64::min(absolute, DEVIATIONS * squares.sqrt());
        let lost = SATURATED * T::EPSILON.to_f64() * largest;
        let kink = squares > SPREAD * SPREAD * rounding;
        Slope { value, error: error + lost, kink, moved, scale, reach }
    }

    /// Whether a step of `h` moves an element, and not by too much.
    pub(super) fn expect_step(&mut self, place: Place<'_>, h: f64) -> Result<(), ConfigError> {
        let scale = self.value(place).abs().max(1.0);
        if (1e-9 * scale..=1e-2 * scale).contains(&h) {
            return Ok(());
        }
        let expected = "1e-9 to 1e-2 times max(1, |x|)";
        Err(ConfigError::new("Gradcheck", "h", expected, format_args!("{h:e} at max(1, |x|) = {scale:e}")))
    }

    fn value(&mut self, place: Place<'_>) -> f64 {
        self.tensor(place).map_or(0.0, |tensor| tensor.as_slice()[place.i].to_f64())
    }

    fn set(&mut self, place: Place<'_>, value: T) {
        if let Some(tensor) = self.tensor(place) {
            tensor.as_mut_slice()[place.i] = value;
        }
    }

    fn tensor(&mut self, place: Place<'_>) -> Option<&mut Tensor<T>> {
        match place.variable {
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

    /// The same error, with the name of the moved element.
    fn moved(&mut self, place: Place<'_>, error: GradcheckError) -> GradcheckError {
        match error {
            GradcheckError::NotFinite { tensor, index, got, .. } => {
                let at = self.tensor(place).map_or(vec![], |tensor| index_of(place.i, tensor.shape()));
                let moved = Some(format!("{}{at:?}", place.path));
                GradcheckError::NotFinite { tensor, index, got, moved }
            }
            other => other,
        }
    }
}

/// An element of y, and its slope.
#[derive(Clone, Copy, Default)]
struct Element {
    dy: f64,
    /// At the point itself, and to the right and to the left of it.
    here: f64,
    sides: [f64; 2],
    /// The size that its rounding is relative to, at least.
    size: f64,
    moved: bool,
    /// By the last step: the slope, and the slope to the right less that to the left.
    slope: f64,
    jump: f64,
    /// By the last two: the slope without curvature, and how far both slopes differ from those before.
    straight: f64,
    spreads: [f64; 2],
    /// The best slope, how far it can be off, and how much of that is rounding.
    best: f64,
    error: f64,
    rounding: f64,
}

impl Element {
    /// Takes in a step, after so many that were twice, four times, … as large. `sizes` are to the right and
    /// to the left; `rounding` is a slope's where |y| is 1.
    fn step(&mut self, before: usize, sizes: [f64; 2], rounding: f64) {
        let [up, down] = self.sides.map(|y| y - self.here);
        if !self.moved && (up != 0.0 || down != 0.0) {
            (self.moved, self.error) = (true, f64::INFINITY);
        }
        let (slope, jump) = ((up - down) / (sizes[0] + sizes[1]), up / sizes[0] + down / sizes[1]);
        let (last, last_jump) = (replace(&mut self.slope, slope), replace(&mut self.jump, jump));
        if before == 0 {
            self.best = slope;
            return;
        }
        // The differences from the last step: of the slope, the slope without curvature, and twice the jump.
        let straight = (4.0 * slope - last) / 3.0;
        let corner = (2.0 * jump - last_jump).abs();
        let spreads = [(slope - last).abs(), (straight - replace(&mut self.straight, straight)).abs()];
        let spreads = spreads.map(|spread| spread + corner);
        let before_spreads = replace(&mut self.spreads, spreads);
        if before == 1 {
            (self.best, self.spreads[1]) = (straight, 0.0);
            return;
        }
        let size = self.sides.iter().fold(self.size, |size, y| size.max(y.abs()));
        let rounding = if self.moved { rounding * size } else { 0.0 };
        // A difference that rounding doesn't explain lies within this step, so larger steps are off by as
        // much, even where they agree.
        self.error = self.error.max(spreads[0].min(spreads[1]) - SPREAD * rounding);
        for (value, (now, before)) in
            [slope, straight].into_iter().zip(spreads.into_iter().zip(before_spreads))
        {
            // Where the function is smooth, a spread is at most a quarter of the one before. Where it has
            // kinks, two steps can agree by chance.
            let error = rounding + now.max(before / 4.0);
            if error < self.error || (value - self.best).abs() > error + self.error {
                (self.best, self.error, self.rounding) = (value, error, rounding);
            }
        }
    }
}

pub(super) fn expect_finite_outputs<T: Scalar>(y: &[Tensor<T>]) -> Result<(), GradcheckError> {
    y.iter().enumerate().try_for_each(|(k, values)| match y.len() {
        1 => expect_finite("output", values),
        _ => expect_finite(&format!("output {k}"), values),
    })
}

pub(super) fn expect_finite<T: Scalar>(tensor: &str, values: &Tensor<T>) -> Result<(), GradcheckError> {
    match values.as_slice().iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(i) => Err(GradcheckError::NotFinite {
            tensor: tensor.to_string(),
            index: index_of(i, values.shape()),
            got: values.as_slice()[i].to_string(),
            moved: None,
        }),
    }
}
