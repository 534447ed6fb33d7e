//! The optimizer's options are part of its state.

use crate::common::{bits, network, optimizer, spoil};
use backrule_io::limits::{
    MAX_OPTION_NAME, MAX_OPTION_NESTING, MAX_OPTION_VALUES, MAX_OPTION_WORD, MAX_OPTIONS,
};
use backrule_io::tensor::{
    ConfigError, NamedTensors, OptionValue, Options, Path, Role, Tensor, TrainingState,
};
use backrule_io::{Checkpoint, RestoreError, SaveError};

/// Tensors, and a rate that must not be negative.
struct Rated {
    tensors: Vec<(&'static str, Tensor)>,
    options: Options,
}

impl Rated {
    fn new(options: Options) -> Self {
        Self { tensors: optimizer().velocities, options }
    }
}

impl NamedTensors<f32> for Rated {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor)) {
        self.tensors.visit(path, visitor);
    }
    fn visit_mut<'s>(&'s mut self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor)) {
        self.tensors.visit_mut(path, visitor);
    }
}

impl TrainingState<f32> for Rated {
    fn step_count(&self) -> u64 {
        7
    }
    fn set_step_count(&mut self, _: u64) {}
    fn options(&self) -> Options {
        self.options.clone()
    }
    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        let mut read = options.clone();
        let rate = read.number("rate")?;
        read.flag("nesterov")?;
        read.finish()?;
        if rate < 0.0 {
            return Err(ConfigError::new("Rated", "rate", "a rate from 0 up", rate));
        }
        self.options = options;
        Ok(())
    }
}

fn options(rate: f64) -> Options {
    Options::new().with("rate", rate).with("nesterov", true)
}

fn saved(options: Options) -> Result<Checkpoint, SaveError> {
    let (net, state) = (network::<f32>(), Rated::new(options));
    let bytes = Checkpoint::of(&net).optimizer(&state).to_bytes()?;
    Ok(Checkpoint::from_bytes(&bytes).unwrap())
}

#[test]
fn options_come_back() {
    let mut state = Rated::new(options(0.5));
    for rate in [0.1 + 0.2, 5e-324, f64::INFINITY, 0.0] {
        saved(options(rate)).unwrap().restore_with_optimizer(&mut network(), &mut state).unwrap();
        assert_eq!(state.options, options(rate));
    }
    // A state without any leaves them as they are.
    saved(Options::new()).unwrap().restore_with_optimizer(&mut network(), &mut state).unwrap();
    assert_eq!(state.options, options(0.0));
}

#[test]
fn wrong_options_change_nothing() {
    let mut net = network::<f32>();
    let mut state = Rated::new(options(0.5));
    spoil(&mut net);
    spoil(&mut state);
    let before = (bits(&net), bits(&state));
    for (wrong, why) in [
        (options(-1.0), "Rated: rate: expected a rate from 0 up, got -1"),
        (Options::new().with("rate", 1.0), "nesterov: expected true or false, got nothing"),
        (options(1.0).with("color", 1.0), "color: expected no setting of this name, got 1.0"),
    ] {
        let error = saved(wrong).unwrap().restore_with_optimizer(&mut net, &mut state).unwrap_err();
        assert!(matches!(error, RestoreError::Options(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        let next = "; make the optimizer with the rule and the options of the checkpoint";
        assert!(error.to_string().contains(&format!("{why}{next}")), "{error}");
        assert_eq!((bits(&net), bits(&state)), before);
        assert_eq!(state.options, options(0.5));
    }
}

/// Numbers are compared as bits: a whole number stays one, and NaN stays the same NaN.
#[test]
fn options_of_every_kind_come_back() {
    let deep = vec![OptionValue::from(vec![1_u64, u64::MAX]), OptionValue::from(""), OptionValue::from(-0.0)];
    let all = Options::new().with("whole", 2_u64).with("number", 2.0).with("word", "größer\u{1b}");
    let all = all.with("flag", false).with("none", Vec::<u64>::new()).with("deep", deep).with("", f64::NAN);
    let checkpoint = saved(all.clone()).unwrap();
    assert_eq!(format!("{:?}", checkpoint.optimizer().unwrap().options), format!("{all:?}"));
    assert!(!format!("{checkpoint} {checkpoint:?} {:?}", checkpoint.optimizer()).contains('\u{1b}'));
}

#[test]
fn options_have_limits() {
    let many = |count| (0..count).fold(Options::new(), |all, i| all.with(i.to_string(), 1.0));
    saved(many(MAX_OPTIONS)).unwrap();
    assert!(matches!(saved(many(MAX_OPTIONS + 1)), Err(SaveError::Option(error)) if error.got == "65"));
    let long = |length| Options::new().with("x".repeat(length), true);
    saved(long(MAX_OPTION_NAME)).unwrap();
    assert!(matches!(saved(long(MAX_OPTION_NAME + 1)), Err(SaveError::Option(error)) if error.got == "65"));
    let word = |length| Options::new().with("mode", "x".repeat(length));
    saved(word(MAX_OPTION_WORD)).unwrap();
    assert!(
        matches!(saved(word(MAX_OPTION_WORD + 1)), Err(SaveError::Option(error)) if error.option == "mode")
    );
    let twice = options(1.0).with("rate", 2.0);
    assert!(matches!(saved(twice), Err(SaveError::Option(error)) if error.option == "rate"));
    // Each list is within its limit, all of them together are not.
    let lists = |count| options(1.0).with("a", vec![1.0; MAX_OPTION_VALUES]).with("b", vec![true; count]);
    saved(lists(0)).unwrap();
    let Err(SaveError::Limit(error)) = saved(lists(1)) else { panic!("saved") };
    assert_eq!((error.found, error.limit), (MAX_OPTION_VALUES + 1, MAX_OPTION_VALUES));
    let nested = |depth| (0..depth).fold(OptionValue::from(1.0), |inner, _| vec![inner].into());
    let nested = |depth| options(1.0).with("deep", nested(depth));
    saved(nested(MAX_OPTION_NESTING)).unwrap();
    assert!(matches!(saved(nested(MAX_OPTION_NESTING + 1)), Err(SaveError::Option(_))));
}
