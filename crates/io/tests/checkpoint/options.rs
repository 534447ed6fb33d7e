//! The optimiser's options are part of its state.

use crate::common::{bits, network, optimizer, spoil};
use backrule_io::limits::{MAX_OPTION_NAME, MAX_OPTIONS};
use backrule_io::tensor::{ConfigError, NamedTensors, Options, Path, Role, Tensor, TrainingState};
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
        assert_eq!((bits(&net), bits(&state)), before);
        assert_eq!(state.options, options(0.5));
    }
}

#[test]
fn options_have_limits() {
    let many = |count| (0..count).fold(Options::new(), |all, i| all.with(i.to_string(), 1.0));
    saved(many(MAX_OPTIONS)).unwrap();
    assert!(matches!(saved(many(MAX_OPTIONS + 1)), Err(SaveError::Limit(error)) if error.found == 65));
    let long = |length| Options::new().with("x".repeat(length), true);
    saved(long(MAX_OPTION_NAME)).unwrap();
    assert!(matches!(saved(long(MAX_OPTION_NAME + 1)), Err(SaveError::Limit(error)) if error.found == 65));
    let word = Options::new().with("mode", "a");
    assert!(matches!(saved(word), Err(SaveError::Option(error)) if error.option == "mode"));
    let twice = options(1.0).with("rate", 2.0);
    assert!(matches!(saved(twice), Err(SaveError::DuplicateOption { name }) if name == "rate"));
}
