//! The contract of an optimizer with each rule.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
mod refusals;

use backrule_optim::tensor::{
    ConfigError, Grad, Grads, NamedTensors, OptionValue, Options, Path, Role, Scalar, ShapeError, Tensor,
    TrainingState, named_tensors, random,
};
use backrule_optim::{Momentum, Optimizer, Rule, Sgd, StepError, samples};
use backrule_testkit::with_threads;

use crate::common::{AnyRule, Net, bits, each_rule, grads, optimizer, step};

#[test]
fn a_step_allocates_nothing_and_clears_the_gradients() {
    fn contract<T: Scalar>(rule: usize) {
        let mut net = Net::<T>::new();
        let mut optimizer = optimizer(rule, &net);
        for seed in 0..3 {
            let (mut grads, before) = (net.grads(seed), bits(&net));
            let allocations = allocation_counter::measure(|| optimizer.step(&mut net, &mut grads).unwrap());
            assert_eq!(allocations.count_total, 0, "rule {rule}");
            assert!(grads.iter().all(Grad::is_zero), "rule {rule}");
            for (old, new) in before.iter().zip(bits(&net)) {
                assert!(old.2.iter().zip(&new.2).all(|(old, new)| old != new), "rule {rule}, {}", old.0);
            }
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

/// Whatever its tensor still holds, NaN included.
#[test]
fn a_cleared_gradient_counts_as_zero() {
    fn contract<T: Scalar>(rule: usize) {
        let mut nets = [Net::<T>::new(), Net::new()];
        let mut optimizers = [optimizer(rule, &nets[0]), optimizer(rule, &nets[1])];
        for seed in 0..4 {
            let mut grads = [nets[0].grads(seed), nets[1].grads(seed)];
            if seed % 2 == 1 {
                for grad in grads[0].iter_mut() {
                    *grad = Tensor::full(grad.shape(), T::from_f64(f64::NAN)).unwrap().into();
                    grad.clear();
                }
                grads[1].iter_mut().for_each(|grad| *grad = Tensor::zeros(grad.shape()).unwrap().into());
            }
            for ((net, optimizer), grads) in nets.iter_mut().zip(&mut optimizers).zip(&mut grads) {
                optimizer.step(net, grads).unwrap();
            }
            assert_eq!(bits(&nets[0]), bits(&nets[1]), "rule {rule}");
            assert_eq!(bits(&optimizers[0]), bits(&optimizers[1]), "rule {rule}");
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

/// Large enough for several chunks, the last of them a short one.
const LARGE: usize = 40_001;

/// In chunks and on several threads a parameter becomes the same as in one piece.
#[test]
fn large_parameters_get_the_same_bits_on_any_number_of_threads() {
    fn contract<T: Scalar>(rule: usize) {
        let normal = |seed| Tensor::<T>::normal([LARGE], 0.0, 1.0, &mut random::rng(seed)).unwrap();
        let whole = &samples::<T>()[rule];
        let mut x = normal(1);
        let mut slots: Vec<_> = whole.slots().iter().map(|_| vec![T::ZERO; LARGE]).collect();
        for step in 1..4 {
            let mut slots: Vec<&mut [T]> = slots.iter_mut().map(|slot| &mut slot[..]).collect();
            whole.update(step, x.as_mut_slice(), normal(1 + step).as_slice(), &mut slots);
        }
        for threads in [1, 2, 3] {
            let _one = with_threads(threads);
            let mut net = normal(1);
            let mut optimizer = Optimizer::new(samples::<T>().swap_remove(rule), &net).unwrap();
            for step in 1..4 {
                let mut grads = grads(&net, [normal(1 + step)]);
                let allocations =
                    allocation_counter::measure(|| optimizer.step(&mut net, &mut grads).unwrap());
                assert!(allocations.count_total == 0 || step == 1, "rule {rule}");
                assert!(grads[0].is_zero(), "rule {rule}");
            }
            assert_eq!(bits(&net), bits(&x), "rule {rule}, {threads} threads");
            let visited: Vec<_> = bits(&optimizer).into_iter().map(|(.., bits)| bits).collect();
            let expected = slots.iter().map(|slot| slot.iter().map(|v| v.to_f64().to_bits()).collect());
            assert_eq!(visited, expected.collect::<Vec<Vec<_>>>(), "rule {rule}, {threads} threads");
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

/// x ← x − dx / max |dx|, and nine slots that each count the calls.
struct Largest {
    slots: &'static [&'static str],
}

impl Rule<f64> for Largest {
    fn slots(&self) -> &'static [&'static str] {
        self.slots
    }

    fn update(&self, _step: u64, x: &mut [f64], dx: &[f64], slots: &mut [&mut [f64]]) {
        let largest = dx.iter().fold(0.0, |max: f64, dx| max.max(dx.abs()));
        assert_eq!(slots.len(), self.slots.len());
        for slot in slots {
            assert_eq!(slot.len(), x.len());
            slot.iter_mut().for_each(|v| *v += 1.0);
        }
        x.iter_mut().zip(dx).for_each(|(x, dx)| *x -= dx / largest);
    }

    fn needs_whole(&self) -> bool {
        true
    }

    fn learning_rate(&self) -> f64 {
        1.0
    }

    fn set_learning_rate(&mut self, _: f64) -> Result<(), ConfigError> {
        Ok(())
    }

    fn options(&self) -> Options {
        Options::new()
    }

    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        options.finish()
    }
}

#[test]
fn a_rule_that_needs_it_sees_a_parameter_as_a_whole() {
    const NINE: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    for slots in [&NINE[..0], &NINE[..1], &NINE[..8], NINE] {
        let mut net = Tensor::<f64>::zeros([LARGE]).unwrap();
        let rule: AnyRule<f64> = Box::new(Largest { slots });
        let mut optimizer = Optimizer::new(rule, &net).unwrap();
        let mut grads = grads(&net, [Tensor::from_fn([LARGE], |at| at[0] as f64).unwrap()]);
        optimizer.step(&mut net, &mut grads).unwrap();
        assert_eq!(net.get(&[LARGE / 2]), Some(-0.5));
        optimizer.visit(Path::ROOT, &mut |path, _, slot| {
            assert!(slot.as_slice().iter().all(|&calls| calls == 1.0), "{slots:?}: {path}");
        });
    }
}

#[test]
fn an_interrupted_run_gives_the_same_bits() {
    fn contract<T: Scalar>(rule: usize) {
        const HALF: u64 = 4;
        let (mut whole, mut half) = (Net::<T>::new(), Net::<T>::new());
        let mut of_whole = optimizer(rule, &whole);
        let mut of_half = optimizer(rule, &half);
        for seed in 0..HALF {
            step(&mut of_whole, &mut whole, seed);
            step(&mut of_half, &mut half, seed);
        }
        // Only the parameters, the visited state and the step count survive the interruption.
        let mut rest = half.clone();
        let mut of_rest = optimizer(rule, &rest);
        of_half.visit(Path::ROOT, &mut |path, _, saved| {
            of_rest.tensor_mut(&path.to_string()).unwrap().copy_from(saved).unwrap();
        });
        of_rest.set_step_count(of_half.step_count());
        for seed in HALF..2 * HALF {
            step(&mut of_whole, &mut whole, seed);
            step(&mut of_rest, &mut rest, seed);
        }
        assert_eq!(bits(&rest), bits(&whole), "rule {rule}");
        assert_eq!(bits(&of_rest), bits(&of_whole), "rule {rule}");
        assert_eq!((of_rest.step_count(), of_whole.step_count()), (2 * HALF, 2 * HALF));
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn the_state_is_named_after_the_parameters() {
    fn contract<T: Scalar>(rule: usize) {
        let net = Net::<T>::new();
        let mut optimizer = optimizer(rule, &net);
        let mut expected = Vec::new();
        for (path, x) in net.tensors() {
            for name in optimizer.rule().slots() {
                if path != "norm.mean" {
                    expected.push((format!("{path}.{name}"), x.shape().to_vec(), vec![0; x.len()]));
                }
            }
        }
        assert_eq!(bits(&optimizer), expected, "rule {rule}");
        let mut visited = Vec::new();
        optimizer.visit_mut(Path::ROOT.join("run"), &mut |path, _, x| {
            visited.push((path.to_string(), x.shape().to_vec(), vec![0; x.len()]));
        });
        expected.iter_mut().for_each(|(path, ..)| *path = format!("run.{path}"));
        assert_eq!(visited, expected, "rule {rule}");
    }
    each_rule(contract::<f32>, contract::<f64>);
    let net = Net::<f32>::new();
    let of_momentum = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
    let paths: Vec<_> = of_momentum.tensors().into_iter().map(|(path, _)| path).collect();
    let expected =
        ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].map(|path| format!("{path}.velocity"));
    assert_eq!(paths, expected);
    let without = Optimizer::new(Sgd::new(0.1).unwrap(), &net).unwrap();
    assert_eq!(without.tensor_count(), 0);
}

#[test]
fn a_buffer_gets_the_mean_of_its_increments() {
    fn contract<T: Scalar>(rule: usize) {
        let mut net = Net::<T>::new();
        let mut optimizer = optimizer(rule, &net);
        for seed in 0..3 {
            let mut grads = net.grads(seed);
            // Three more passes with increments of 1: for several, whatever their number was.
            let more = Tensor::full([5], T::from_f64(seed as f64)).unwrap();
            grads[2].increment_by(seed, |sum| sum.add(&more)).unwrap();
            let sum = grads[2].get().unwrap().clone();
            let mut expected = net.0[2].3.clone();
            let count = T::from_f64((1 + seed) as f64);
            expected.as_mut_slice().iter_mut().zip(sum.as_slice()).for_each(|(x, &sum)| *x += sum / count);
            optimizer.step(&mut net, &mut grads).unwrap();
            assert_eq!(bits(&net.0[2].3), bits(&expected), "rule {rule}");
            assert_eq!(grads[2].count(), 0);
        }
        // Nothing was added: it stays.
        let before = bits(&net.0[2].3);
        let mut zeros = Grads::new(&net).unwrap();
        optimizer.step(&mut net, &mut zeros).unwrap();
        assert_eq!(bits(&net.0[2].3), before, "rule {rule}");
    }
    each_rule(contract::<f32>, contract::<f64>);
}

/// A weight and the running mean of its inputs, as a batch norm has one.
struct BatchMean<T: Scalar> {
    weight: Tensor<T>,
    running_mean: Tensor<T>,
    table: Tensor<T>,
}

named_tensors!(BatchMean { weight } buffers { running_mean } constants { table });

impl BatchMean<f64> {
    fn new() -> Self {
        let [weight, running_mean] = [1.0, 0.0].map(|x| Tensor::from([x]));
        Self { weight, running_mean, table: Tensor::from([7.0, 8.0]) }
    }

    /// A backward pass over inputs of this mean, at momentum 0.1.
    fn backward(&self, mean: f64, grads: &mut Grads<f64>) {
        let delta = 0.1 * (mean - self.running_mean.as_slice()[0]);
        grads[0].add_to(|dw| dw.add(&Tensor::from([0.25]))).unwrap();
        grads[1].increment(|sum| sum.add(&Tensor::from([delta]))).unwrap();
        grads[2].add_to(|_| -> Result<(), ShapeError> { panic!("a constant has no derivative") }).unwrap();
    }
}

/// As one pass does whose statistics are the mean of the 32.
#[test]
fn thirty_two_micro_batches_move_a_running_mean_once() {
    for micro_batches in [1, 32] {
        let mut net = BatchMean::new();
        let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap(), &net).unwrap();
        let mut grads = Grads::new(&net).unwrap();
        for i in 0..micro_batches {
            // Of mean 100.
            let spread = if micro_batches == 1 { 0.0 } else { f64::from(i) - 15.5 };
            net.backward(100.0 + spread, &mut grads);
        }
        // That of the weight alone.
        assert_eq!(grads.norm(), 0.25 * f64::from(micro_batches));
        optimizer.step(&mut net, &mut grads).unwrap();
        let mean = net.running_mean.as_slice()[0];
        assert!((mean - 10.0).abs() < 1e-12, "{micro_batches}: {mean}");
    }
}

#[test]
fn a_constant_is_never_touched_and_has_no_state() {
    let mut net = BatchMean::new();
    let mut optimizer =
        Optimizer::new(Sgd::new(0.1).unwrap().momentum(0.9).unwrap().weight_decay(0.5).unwrap(), &net)
            .unwrap();
    let paths: Vec<_> = optimizer.tensors().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["weight.velocity"]);
    let mut grads = Grads::new(&net).unwrap();
    // Even if somebody fills it in.
    grads[2] = Tensor::from([1.0, 1.0]).into();
    optimizer.step(&mut net, &mut grads).unwrap();
    assert_eq!(net.table, Tensor::from([7.0, 8.0]));
    assert!(grads[2].is_zero());
}

/// Whatever momentum and decay there are, at the first step and after others.
#[test]
fn a_frozen_parameter_and_its_state_keep_their_bits() {
    fn contract<T: Scalar>(rule: usize) {
        for warm in [0, 3] {
            let mut net = Net::<T>::new();
            let mut optimizer = optimizer(rule, &net);
            for seed in 0..warm {
                step(&mut optimizer, &mut net, seed);
            }
            let slots = optimizer.rule().slots().len();
            let (before, state) = (bits(&net), bits(&optimizer));
            let mut grads = net.grads(9);
            grads[0].set_wanted(false);
            grads[2].set_wanted(false);
            for _ in 0..2 {
                optimizer.step(&mut net, &mut grads).unwrap();
                assert!(!grads[0].is_wanted() && grads[1].is_wanted());
            }
            let after = bits(&net);
            assert_eq!((&after[0], &after[2]), (&before[0], &before[2]), "rule {rule}");
            assert_eq!(bits(&optimizer)[..slots], state[..slots], "rule {rule}");
            assert_ne!(after[1], before[1], "rule {rule}");

            // Thawed, it moves again.
            grads[0].set_wanted(true);
            grads[0].add(&net.grads(9)[0]).unwrap();
            optimizer.step(&mut net, &mut grads).unwrap();
            assert_ne!(bits(&net)[0], before[0], "rule {rule}");
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

/// After the first step, network, gradients and optimizer have one layout in memory.
#[test]
fn names_are_in_memory_once() {
    let mut net = Net::<f32>::new();
    let mut optimizer = optimizer(0, &net);
    let mut first = net.grads(1);
    for _ in 0..2 {
        optimizer.step(&mut net, &mut first).unwrap();
    }
    assert!(optimizer.layout().is_shared_with(first.layout()));
}

#[test]
fn nan_reaches_its_parameter_and_no_other() {
    fn contract<T: Scalar>(rule: usize) {
        for step in 0..3 {
            let mut net = Net::<T>::new();
            let mut optimizer = optimizer(rule, &net);
            for seed in 0..=step {
                let mut grads = net.grads(seed);
                if seed == step {
                    for (i, j) in [(0, 4), (2, 1)] {
                        let mut values = grads[i].get().unwrap().clone();
                        values.as_mut_slice()[j] = T::from_f64(f64::NAN);
                        grads[i] = values.into();
                    }
                }
                optimizer.step(&mut net, &mut grads).unwrap();
            }
            for (i, (.., x)) in net.0.iter().enumerate() {
                for (j, x) in x.as_slice().iter().enumerate() {
                    let expected = (i, j) == (0, 4) || (i, j) == (2, 1);
                    assert_eq!(x.is_nan(), expected, "rule {rule}, step {step}, tensor {i}, element {j}");
                }
            }
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn an_element_is_updated_alike_in_a_tensor_of_any_size() {
    fn contract<T: Scalar>(rule: usize) {
        const N: usize = 37;
        let values = |seed| Tensor::<T>::uniform([N], -1.0, 1.0, &mut random::rng(seed)).unwrap();
        let mut whole = values(9);
        let mut of_whole = Optimizer::new(samples().swap_remove(rule), &whole).unwrap();
        for seed in 0..3 {
            let mut grads = grads(&whole, [values(seed)]);
            of_whole.step(&mut whole, &mut grads).unwrap();
        }
        for i in 0..N {
            let element = |x: &Tensor<T>| x.slice(i..i + 1).unwrap();
            let mut one = element(&values(9));
            let mut of_one = Optimizer::new(samples().swap_remove(rule), &one).unwrap();
            for seed in 0..3 {
                let mut grads = grads(&one, [element(&values(seed))]);
                of_one.step(&mut one, &mut grads).unwrap();
            }
            assert_eq!(bits(&one), bits(&element(&whole)), "rule {rule}, element {i}");
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn a_changed_learning_rate_counts_from_the_next_step() {
    fn contract<T: Scalar>(rule: usize) {
        let mut net = Net::<T>::new();
        let mut optimizer = optimizer(rule, &net);
        step(&mut optimizer, &mut net, 1);
        assert_eq!(optimizer.learning_rate(), 0.1);
        optimizer.set_learning_rate(0.0).unwrap();
        let before = net.clone();
        step(&mut optimizer, &mut net, 2);
        for ((.., role, x), (.., old)) in net.0.iter().zip(&before.0) {
            assert_eq!(bits(x) == bits(old), *role == Role::Parameter, "rule {rule}");
        }
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            let error = optimizer.set_learning_rate(wrong).unwrap_err();
            assert_eq!(error.option, "learning_rate");
            assert_eq!(optimizer.learning_rate(), 0.0);
        }
        optimizer.set_learning_rate(0.5).unwrap();
        let before = bits(&net);
        step(&mut optimizer, &mut net, 3);
        assert_ne!(bits(&net)[0], before[0], "rule {rule}");
        assert_eq!(optimizer.learning_rate(), 0.5);
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn the_last_countable_step_is_no_end() {
    let mut x = Tensor::from([1.0_f64]);
    let mut optimizer = Optimizer::new(Sgd::new(0.5).unwrap(), &x).unwrap();
    optimizer.set_step_count(u64::MAX);
    let mut grads = grads(&x, [Tensor::from([1.0])]);
    optimizer.step(&mut x, &mut grads).unwrap();
    assert_eq!((x, optimizer.step_count()), (Tensor::from([0.5]), u64::MAX));
}

#[test]
fn everything_can_be_shared_between_threads() {
    fn check<S: Send + Sync>() {}
    check::<Sgd>();
    check::<Momentum>();
    check::<Optimizer<Sgd>>();
    check::<StepError>();
    check::<ConfigError>();
}

/// The options of a rule from a checkpoint make another one of its kind the same, and no others are accepted.
#[test]
fn options_come_back_and_wrong_ones_change_nothing() {
    fn contract<T: Scalar>(rule: usize) {
        let net = Net::<T>::new();
        let saved = optimizer(rule, &net).options();
        // Another learning rate and another decay, but the same state tensors.
        let mut other = optimizer(rule, &net);
        other.set_learning_rate(0.5).unwrap();
        assert_ne!(other.options(), saved, "rule {rule}");
        other.set_options(saved.clone()).unwrap();
        assert_eq!(other.options(), saved, "rule {rule}");
        let (mut a, mut b, mut same) = (net.clone(), net.clone(), optimizer(rule, &net));
        for seed in 0..3 {
            step(&mut other, &mut a, seed);
            step(&mut same, &mut b, seed);
        }
        assert_eq!(bits(&a), bits(&b), "rule {rule}");

        let rebuilt = |change: &dyn Fn(usize, OptionValue) -> Option<OptionValue>| {
            let kept =
                saved.iter().enumerate().filter_map(|(i, (name, v))| Some((name, change(i, v.clone())?)));
            kept.fold(Options::new(), |all, (name, value)| all.with(name, value))
        };
        for (i, (name, value)) in saved.iter().enumerate() {
            let other_kind = match *value {
                OptionValue::Number(_) => OptionValue::Flag(true),
                _ => OptionValue::Number(1.0),
            };
            let error = other.set_options(rebuilt(&|j, v| (i != j).then_some(v))).unwrap_err();
            assert_eq!(error.option, name, "rule {rule}");
            assert!(error.got.starts_with("nothing"), "rule {rule}, {name}: {}", error.got);
            for wrong in [other_kind, OptionValue::Number(f64::NAN)] {
                let error = other.set_options(rebuilt(&|j, v| Some(if i == j { wrong.clone() } else { v })));
                let option = error.unwrap_err().option;
                assert!(option.ends_with(name), "rule {rule}, {name}: {option}");
            }
        }
        let error = other.set_options(saved.clone().with("color", 1.0)).unwrap_err();
        assert!(error.to_string().ends_with("color: expected no setting of this name, got 1.0"), "{error}");
        assert_eq!(other.options(), saved, "rule {rule}");
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn options_do_not_change_what_state_there_is() {
    let with = |momentum: Momentum| Sgd::new(0.1).unwrap().momentum(momentum).unwrap();
    let mut plain: Box<dyn Rule<f32>> = Box::new(with(Momentum::None));
    let mut heavy: Box<dyn Rule<f32>> = Box::new(with(0.9.into()));
    let (light, full) = (plain.options(), heavy.options());
    assert!(plain.set_options(full.clone()).unwrap_err().to_string().contains("momentum: expected 0, for"));
    assert!(heavy.set_options(light.clone()).unwrap_err().to_string().contains("a factor above 0"));
    assert_eq!((plain.options(), heavy.options()), (light, full));
    // Dampening has no meaning for Nesterov's.
    let nesterov = Rule::<f32>::options(&with(Momentum::Nesterov { factor: 0.9 }));
    let damped = nesterov.iter().fold(Options::new(), |all, (name, value)| {
        all.with(name, if name == "dampening" { 0.5.into() } else { value.clone() })
    });
    assert!(
        heavy
            .set_options(damped)
            .unwrap_err()
            .to_string()
            .contains("dampening: expected 0 with Nesterov momentum, got 0.5")
    );
}
