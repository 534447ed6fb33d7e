//! step: θ ← θ − η v, v ← μ v + g, where v is g without momentum
//! state: velocity

use backrule_tensor::simd::{self, Kernel, Simd};
use backrule_tensor::{ConfigError, Options, Scalar};

use crate::rule::Rule;

/// Its name in errors.
const SGD: &str = "Sgd";

/// Stochastic gradient descent: θ ← θ − η g, with momentum and weight decay if wanted. It computes the
/// results of PyTorch's `SGD`, option by option.
///
/// With the gradient dθ, weight decay λ, learning rate η, and a velocity v that starts as the first g:
///
/// | [`Momentum`] | g | from the second step on | then |
/// |---|---|---|---|
/// | `None` | dθ + λ θ | | θ ← θ − η g |
/// | `Classic` μ, τ | dθ + λ θ | v ← μ v + (1 − τ) g | θ ← θ − η v |
/// | `Nesterov` μ | dθ + λ θ | v ← μ v + g | θ ← θ − η (g + μ v) |
///
/// Two steps by hand, with η = 0.1 and μ = 0.9, from θ = 1 with the gradients 1 and 0.5:
/// v = 1, θ = 1 − 0.1·1 = 0.9; then v = 0.9·1 + 0.5 = 1.4, θ = 0.9 − 0.1·1.4 = 0.76.
///
/// ```
/// use backrule_optim::tensor::{Grads, NamedTensors, Tensor};
/// use backrule_optim::{Optimizer, Sgd};
///
/// let mut theta: Tensor<f64> = Tensor::from([1.0]);
/// let mut optimizer = Optimizer::new(Sgd::new(0.1)?.momentum(0.9)?, &theta)?;
/// let mut grads = Grads::new(&theta)?;
/// grads[0] = Tensor::from([1.0]).into();
/// optimizer.step(&mut theta, &mut grads)?;
/// assert_eq!(theta, Tensor::from([0.9]));
/// grads[0] = Tensor::from([0.5]).into();
/// optimizer.step(&mut theta, &mut grads)?;
/// assert_eq!(theta, Tensor::from([0.76]));
/// assert_eq!(optimizer.tensor("velocity"), Some(&Tensor::from([1.4])));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Weight decay is coupled: it is part of the gradient that the momentum sees. It applies to every parameter,
/// biases included.
///
/// In one thing this is not PyTorch to the last bit: a velocity below the smallest normal number (10⁻³⁸ in
/// single precision), which moves nothing any more, becomes 0.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Options", into = "Options"))]
pub struct Sgd {
    learning_rate: f64,
    momentum: Momentum,
    weight_decay: f64,
}

/// The memory that an [`Sgd`] has of earlier gradients.
///
/// A plain number is classic momentum without dampening: `sgd.momentum(0.9)`. Nesterov's has no dampening at
/// all. The numbers are checked where they are given to an [`Sgd`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Momentum {
    /// Nothing.
    #[default]
    None,
    /// A velocity that keeps the share `factor` of itself in each step.
    Classic {
        /// μ: 0 is the same as no momentum; 0.9 is usual.
        factor: f64,
        /// τ: the share of each gradient but the first that is left out.
        dampening: f64,
    },
    /// The same, but the step looks ahead along the velocity.
    Nesterov {
        /// μ: above 0; 0.9 is usual.
        factor: f64,
    },
}

impl From<f64> for Momentum {
    fn from(factor: f64) -> Self {
        Self::Classic { factor, dampening: 0.0 }
    }
}

impl Sgd {
    /// Plain gradient descent with this learning rate.
    ///
    /// # Errors
    /// When it is negative, infinite or NaN.
    pub fn new(learning_rate: f64) -> Result<Self, ConfigError> {
        let learning_rate = ConfigError::not_negative(SGD, "learning_rate", learning_rate)?;
        Ok(Self { learning_rate, momentum: Momentum::None, weight_decay: 0.0 })
    }

    /// Remembers earlier gradients: `0.9`, or a [`Momentum`].
    ///
    /// # Errors
    /// When a number of it is infinite or NaN, a factor is negative, or Nesterov's is 0.
    pub fn momentum(mut self, momentum: impl Into<Momentum>) -> Result<Self, ConfigError> {
        self.momentum = momentum.into();
        match self.momentum {
            Momentum::None => {}
            Momentum::Classic { factor, dampening } => {
                ConfigError::not_negative(SGD, "momentum", factor)?;
                ConfigError::check(dampening.is_finite(), SGD, "dampening", "a finite number", dampening)?;
            }
            Momentum::Nesterov { factor } => {
                let right = factor > 0.0 && factor.is_finite();
                ConfigError::check(right, SGD, "Nesterov momentum", "a finite number above 0", factor)?;
            }
        }
        Ok(self)
    }

    /// Pulls every parameter towards 0: λ θ is added to its gradient.
    ///
    /// # Errors
    /// When λ is negative, infinite or NaN.
    pub fn weight_decay(mut self, factor: f64) -> Result<Self, ConfigError> {
        self.weight_decay = ConfigError::not_negative(SGD, "weight_decay", factor)?;
        Ok(self)
    }

    /// The learning rate η.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// With the options that [`Rule::options`] has given.
    fn read(mut options: Options) -> Result<Self, ConfigError> {
        let sgd = Self::new(options.number("learning_rate")?)?;
        let (factor, dampening) = (options.number("momentum")?, options.number("dampening")?);
        let momentum = match options.flag("nesterov")? {
            true if dampening != 0.0 => {
                return Err(ConfigError::new(SGD, "dampening", "0 with Nesterov momentum", dampening));
            }
            true => Momentum::Nesterov { factor },
            false if (factor, dampening) == (0.0, 0.0) => Momentum::None,
            false => Momentum::Classic { factor, dampening },
        };
        let sgd = sgd.momentum(momentum)?.weight_decay(options.number("weight_decay")?)?;
        options.finish()?;
        Ok(sgd)
    }

    #[cfg(feature = "testing")]
    #[expect(clippy::unwrap_used, reason = "only tests have samples")]
    pub(super) fn samples() -> Vec<Self> {
        let momenta = [
            Momentum::None,
            Momentum::Classic { factor: 0.0, dampening: 0.5 },
            0.9.into(),
            Momentum::Classic { factor: 0.9, dampening: 0.3 },
            Momentum::Nesterov { factor: 0.9 },
        ];
        let sgd = |decay| Self::new(0.1).unwrap().weight_decay(decay).unwrap();
        [0.0, 0.01].map(sgd).iter().flat_map(|sgd| momenta.map(|m| sgd.momentum(m).unwrap())).collect()
    }

    /// μ, which is 0 without momentum.
    fn factor(&self) -> f64 {
        match self.momentum {
            Momentum::None => 0.0,
            Momentum::Classic { factor, .. } | Momentum::Nesterov { factor } => factor,
        }
    }

    /// Whether there is a velocity: as in PyTorch, a classic momentum of 0 has none, whatever its dampening.
    fn remembers(&self) -> bool {
        !matches!(self.momentum, Momentum::None | Momentum::Classic { factor: 0.0, .. })
    }
}

/// Under PyTorch's names, but for `lr`.
impl From<Sgd> for Options {
    fn from(sgd: Sgd) -> Self {
        let (dampening, nesterov) = match sgd.momentum {
            Momentum::None => (0.0, false),
            Momentum::Classic { dampening, .. } => (dampening, false),
            Momentum::Nesterov { .. } => (0.0, true),
        };
        Self::new()
            .with("learning_rate", sgd.learning_rate)
            .with("momentum", sgd.factor())
            .with("dampening", dampening)
            .with("nesterov", nesterov)
            .with("weight_decay", sgd.weight_decay)
    }
}

impl TryFrom<Options> for Sgd {
    type Error = ConfigError;

    fn try_from(options: Options) -> Result<Self, ConfigError> {
        Self::read(options).map_err(|error| error.of(SGD))
    }
}

impl<T: Scalar> Rule<T> for Sgd {
    fn slots(&self) -> &'static [&'static str] {
        if self.remembers() { &["velocity"] } else { &[] }
    }

    fn update(&self, step: u64, x: &mut [T], dx: &[T], slots: &mut [&mut [T]]) {
        // Large parameters come from memory.
        let bytes = if x.len() < STREAMED { 64 } else { 32 };
        simd::run_within(bytes, Update { sgd: *self, first: step == 1, x, dx, slots });
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn set_learning_rate(&mut self, rate: f64) -> Result<(), ConfigError> {
        self.learning_rate = ConfigError::not_negative(SGD, "learning_rate", rate)?;
        Ok(())
    }

    fn options(&self) -> Options {
        (*self).into()
    }

    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        let new = Self::try_from(options)?;
        if new.remembers() != self.remembers() {
            let expected = match self.remembers() {
                true => "a factor above 0, for this optimizer has velocities",
                false => "0, for this optimizer has no velocities",
            };
            return Err(ConfigError::new(SGD, "momentum", expected, new.factor()));
        }
        *self = new;
        Ok(())
    }
}

/// From so many elements on, a part of a parameter is updated with registers of 32 bytes, because its
/// elements come from memory: on an EPYC of family 25, model 17, 10 million of them take 0.91 of the time
/// then.
const STREAMED: usize = 1 << 13;

struct Update<'a, 'b, T> {
    sgd: Sgd,
    first: bool,
    x: &'a mut [T],
    dx: &'a [T],
    slots: &'a mut [&'b mut [T]],
}

impl<T: Scalar> Kernel for Update<'_, '_, T> {
    type Output = ();

    /// Products and sums are rounded one by one, as PyTorch's are: no FMA.
    #[inline(always)]
    fn run<S: Simd>(self) {
        let decay = T::from_f64(self.sgd.weight_decay);
        // Without decay x stays out of it: 0·∞ would be NaN.
        if decay == T::ZERO { self.update(|dx, _| dx) } else { self.update(|dx, x| dx + decay * x) }
    }
}

impl<T: Scalar> Update<'_, '_, T> {
    /// With g = `decayed(dx, x)`. Whatever is the same for all elements is asked before the loops: with a
    /// question in it, a loop takes one register at a time.
    #[inline(always)]
    fn update(self, decayed: impl Fn(T, T) -> T) {
        let Self { sgd, first, x, dx, slots } = self;
        let rate = T::from_f64(sgd.learning_rate);
        // Subnormal numbers are some 20 times slower, and without a gradient the velocity would stay there
        // for ever: rounding keeps the smallest number from shrinking.
        let smallest = T::MIN_POSITIVE;
        let settled = |v: T| if v.abs() < smallest { T::ZERO } else { v };
        let all = x.iter_mut().zip(dx);
        if first {
            // From there, the first velocity is the gradient.
            slots.iter_mut().for_each(|v| v.fill(T::ZERO));
        }
        match (sgd.momentum, slots) {
            (Momentum::Classic { factor, dampening }, [v]) => {
                let share = T::from_f64(if first { 1.0 } else { 1.0 - dampening });
                let factor = T::from_f64(factor);
                for ((x, &dx), v) in all.zip(v.iter_mut()) {
                    let g = decayed(dx, *x);
                    *v = settled(factor * *v + share * g);
                    *x -= rate * *v;
                }
            }
            (Momentum::Nesterov { factor }, [v]) => {
                let factor = T::from_f64(factor);
                for ((x, &dx), v) in all.zip(v.iter_mut()) {
                    let g = decayed(dx, *x);
                    *v = settled(factor * *v + g);
                    *x -= rate * (g + factor * *v);
                }
            }
            _ => {
                for (x, &dx) in all {
                    let g = decayed(dx, *x);
                    *x -= rate * g;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// θ after each step from θ = 1 with the gradients 1, 0.5 and 0, and the last velocity.
    fn three_steps(sgd: Sgd) -> ([f64; 3], Option<f64>) {
        let mut x = [1.0];
        let mut v = [7.0];
        let used = Rule::<f64>::slots(&sgd).len();
        let mut after = [0.0; 3];
        for (step, (after, dx)) in (1..).zip(after.iter_mut().zip([1.0, 0.5, 0.0])) {
            sgd.update(step, &mut x, &[dx], &mut [&mut v[..]][..used]);
            *after = x[0];
        }
        (after, (used == 1).then_some(v[0]))
    }

    #[track_caller]
    fn assert_steps(sgd: Sgd, expected: [f64; 3], velocity: Option<f64>) {
        let (after, v) = three_steps(sgd);
        for (got, expected) in after.into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-15, "{after:?}");
        }
        assert_eq!(v.is_some(), velocity.is_some());
        assert!((v.unwrap_or(0.0) - velocity.unwrap_or(0.0)).abs() < 1e-15, "{v:?}");
    }

    /// By hand, with η = 0.1 and μ = 0.5.
    #[test]
    fn each_momentum_in_three_steps() {
        let sgd = Sgd::new(0.1).unwrap();
        assert_steps(sgd, [0.9, 0.85, 0.85], None);
        // v = 1; 0.5 + 0.5; 0.5.
        let classic = sgd.momentum(0.5).unwrap();
        assert_steps(classic, [0.9, 0.8, 0.75], Some(0.5));
        // The first gradient isn't damped: v = 1; 0.5 + 0.75·0.5 = 0.875; 0.4375.
        let damped = sgd.momentum(Momentum::Classic { factor: 0.5, dampening: 0.25 }).unwrap();
        assert_steps(damped, [0.9, 0.8125, 0.76875], Some(0.4375));
        // v = 1, step 1.5; v = 1, step 0.5 + 0.5; v = 0.5, step 0.25.
        let nesterov = sgd.momentum(Momentum::Nesterov { factor: 0.5 }).unwrap();
        assert_steps(nesterov, [0.85, 0.75, 0.725], Some(0.5));
    }

    #[test]
    fn weight_decay_is_part_of_the_gradient() {
        // g = 1 + 0.5·1; 0.5 + 0.5·0.85; 0.5·0.7575
        let sgd = Sgd::new(0.1).unwrap().weight_decay(0.5).unwrap();
        assert_steps(sgd, [0.85, 0.7575, 0.719625], None);
        // v = 1.5; 0.75 + 0.925 = 1.675; 0.8375 + 0.5·0.6825 = 1.17875
        let classic = sgd.momentum(0.5).unwrap();
        assert_steps(classic, [0.85, 0.6825, 0.564625], Some(1.17875));
    }

    #[test]
    fn momentum_of_zero_is_none_whatever_the_dampening() {
        let sgd = Sgd::new(0.1).unwrap();
        let zero = sgd.momentum(Momentum::Classic { factor: 0.0, dampening: 0.5 }).unwrap();
        assert_eq!(three_steps(zero), three_steps(sgd));
        assert_eq!(Rule::<f32>::slots(&zero), Rule::<f32>::slots(&sgd));
    }

    #[test]
    fn without_decay_an_infinite_parameter_stays_infinite() {
        let mut x = [f32::INFINITY];
        Sgd::new(0.1).unwrap().update(1, &mut x, &[1.0], &mut []);
        assert_eq!(x, [f32::INFINITY]);
    }

    fn assert_velocity_ends<T: Scalar>() {
        for momentum in [0.9.into(), Momentum::Nesterov { factor: 0.9 }] {
            let sgd = Sgd::new(0.1).unwrap().momentum(momentum).unwrap();
            let (mut x, mut v) = ([T::ONE], [T::ZERO]);
            sgd.update(1, &mut x, &[T::ONE], &mut [&mut v[..]]);
            let mut steps = 1;
            while v[0] != T::ZERO {
                assert!(v[0] >= T::MIN_POSITIVE);
                steps += 1;
                sgd.update(steps, &mut x, &[T::ZERO], &mut [&mut v[..]]);
            }
            // 0.9ⁿ falls below 2⁻¹²⁶ at n = 829, and below 2⁻¹⁰²² at n = 6724.
            let expected = if T::DTYPE == backrule_tensor::DType::F32 { 829 } else { 6724 };
            assert_eq!(steps, expected + 1);
        }
    }

    #[test]
    fn a_velocity_without_gradient_ends_before_it_gets_slow() {
        assert_velocity_ends::<f32>();
        assert_velocity_ends::<f64>();
    }

    #[test]
    fn options_that_cannot_be_are_refused_by_name() {
        let sgd = Sgd::new(0.1).unwrap();
        let not_negative = [-0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        for value in not_negative {
            for (option, result) in [
                ("learning_rate", Sgd::new(value)),
                ("momentum", sgd.momentum(value)),
                ("weight_decay", sgd.weight_decay(value)),
                ("Nesterov momentum", sgd.momentum(Momentum::Nesterov { factor: value })),
            ] {
                let error = result.unwrap_err();
                assert_eq!(error.option, option);
                let text = format!("Sgd: {option}: expected a finite number ");
                assert!(error.to_string().starts_with(&text), "{error}");
                assert!(error.to_string().ends_with(&format!("got {value}")), "{error}");
            }
        }
        assert!(sgd.momentum(Momentum::Nesterov { factor: 0.0 }).is_err());
        for dampening in [f64::NAN, f64::INFINITY] {
            let error = sgd.momentum(Momentum::Classic { factor: 0.9, dampening }).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("Sgd: dampening: expected a finite number, got {dampening}")
            );
        }
        // As in PyTorch, these are unusual but no mistakes.
        assert!(sgd.momentum(Momentum::Classic { factor: 1.5, dampening: -2.0 }).is_ok());
        assert!(Sgd::new(0.0).is_ok());

        let mut sgd = sgd;
        assert!(Rule::<f32>::set_learning_rate(&mut sgd, f64::NAN).is_err());
        assert_eq!(sgd.learning_rate(), 0.1);
    }

    #[cfg(feature = "serde")]
    mod written {
        use super::*;

        #[test]
        fn everything_comes_back() {
            let sgd = Sgd::new(0.1).unwrap().weight_decay(0.01).unwrap();
            for (momentum, text) in [
                (Momentum::None, r#""momentum":0.0,"dampening":0.0,"nesterov":false"#),
                (
                    Momentum::Classic { factor: 0.9, dampening: 0.5 },
                    r#""momentum":0.9,"dampening":0.5,"nesterov":false"#,
                ),
                (Momentum::Nesterov { factor: 0.9 }, r#""momentum":0.9,"dampening":0.0,"nesterov":true"#),
            ] {
                let sgd = sgd.momentum(momentum).unwrap();
                let json = serde_json::to_string(&sgd).unwrap();
                let expected = format!(r#"{{"learning_rate":0.1,{text},"weight_decay":0.01}}"#);
                assert_eq!(json, expected);
                assert_eq!(serde_json::from_str::<Sgd>(&json).unwrap(), sgd);
            }
        }

        #[test]
        fn what_cannot_be_built_cannot_be_read() {
            let right = [
                ("learning_rate", "0.1"),
                ("momentum", "0.9"),
                ("dampening", "0"),
                ("nesterov", "true"),
                ("weight_decay", "0"),
            ];
            let read = |name: &str, value: Option<&str>| {
                let all = right.iter().map(|(other, right)| {
                    let value = if *other == name { value } else { Some(*right) };
                    value.map(|value| format!("\"{other}\":{value}"))
                });
                let json = all.flatten().collect::<Vec<_>>().join(",");
                serde_json::from_str::<Sgd>(&format!("{{{json}}}")).map_err(|error| error.to_string())
            };
            assert!(read("", None).is_ok());
            for (name, _) in right {
                let error = read(name, None).unwrap_err();
                assert!(error.starts_with(&format!("Sgd: {name}: expected ")), "{error}");
                assert!(error.contains(", got nothing"), "{error}");
            }
            for (name, value, why) in [
                ("learning_rate", "-1", "learning_rate: expected a finite number from 0 up, got -1"),
                ("learning_rate", "\"fast\"", "learning_rate: expected a number, got \"fast\""),
                ("weight_decay", "-1", "weight_decay: expected a finite number from 0 up, got -1"),
                ("momentum", "0", "Nesterov momentum: expected a finite number above 0, got 0"),
                ("dampening", "0.5", "dampening: expected 0 with Nesterov momentum, got 0.5"),
                ("weight_decay", "0,\"decay\":1", "decay: expected no setting of this name, got 1"),
            ] {
                let error = read(name, Some(value)).unwrap_err();
                assert_eq!(error, format!("Sgd: {why}"));
            }
        }
    }
}
