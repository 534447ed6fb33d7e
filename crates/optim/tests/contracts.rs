//! One table of all rules and their options, and what an optimizer holds with each of them.
#![allow(clippy::unwrap_used)]

use backrule_optim::tensor::{
    ConfigError, Grad, NamedTensors, OptionValue, Options, Path, Role, Scalar, Shape, Tensor, TrainingState,
    parallel, random,
};
use backrule_optim::{Momentum, Optimizer, Rule, Sgd, StepError};

type AnyRule<T> = Box<dyn Rule<T>>;
type AnyOptimizer<T> = Optimizer<AnyRule<T>, T>;

/// Every rule, with each of the options that change what it does.
fn table<T: Scalar>() -> Vec<(&'static str, AnyRule<T>)> {
    let mut rules: Vec<(_, AnyRule<T>)> = Vec::new();
    for weight_decay in [0.0, 0.01] {
        for momentum in [
            Momentum::None,
            Momentum::Classic { factor: 0.0, dampening: 0.5 },
            0.9.into(),
            Momentum::Classic { factor: 0.9, dampening: 0.3 },
            Momentum::Nesterov { factor: 0.9 },
        ] {
            let sgd = Sgd::new(0.1).unwrap().momentum(momentum).unwrap();
            rules.push(("Sgd", Box::new(sgd.weight_decay(weight_decay).unwrap())));
        }
    }
    rules
}

/// The same rule again, so that two optimizers can be compared.
fn optimizer<T: Scalar>(rule: usize, net: &Net<T>) -> AnyOptimizer<T> {
    Optimizer::new(table().swap_remove(rule).1, net).unwrap()
}

/// Two layers and a statistic between them.
#[derive(Clone)]
struct Net<T>(Vec<(&'static str, &'static str, Role, Tensor<T>)>);

impl<T: Scalar> Net<T> {
    fn new() -> Self {
        let mut rng = random::rng(1);
        let mut tensor = |shape: &[usize]| Tensor::uniform(shape, -1.0, 1.0, &mut rng).unwrap();
        Self(vec![
            ("fc1", "weight", Role::Parameter, tensor(&[5, 3])),
            ("fc1", "bias", Role::Parameter, tensor(&[5])),
            ("norm", "mean", Role::Statistic, tensor(&[5])),
            ("fc2", "weight", Role::Parameter, tensor(&[2, 5])),
            ("fc2", "bias", Role::Parameter, tensor(&[2])),
        ])
    }

    fn grads(&self, seed: u64) -> Vec<Grad<T>> {
        let mut rng = random::rng(seed);
        let mut dx = |shape: Shape| Tensor::uniform(shape, -1.0, 1.0, &mut rng).unwrap().into();
        self.0.iter().map(|(.., x)| dx(x.shape())).collect()
    }
}

impl<T: Scalar> NamedTensors<T> for Net<T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        for (layer, name, role, x) in &self.0 {
            visitor(path.join(layer).join(name), *role, x);
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        for (layer, name, role, x) in &mut self.0 {
            visitor(path.join(layer).join(name), *role, x);
        }
    }
}

/// A step with the random gradients of this seed.
fn step<T: Scalar>(optimizer: &mut AnyOptimizer<T>, net: &mut Net<T>, seed: u64) {
    let mut grads = net.grads(seed);
    optimizer.step(net, &mut grads).unwrap();
}

/// Paths, shapes and bits of all tensors: unlike ==, this tells −0 from 0 and holds for NaN.
type Bits = Vec<(String, Vec<usize>, Vec<u64>)>;

fn bits<T: Scalar>(tensors: &impl NamedTensors<T>) -> Bits {
    let of = |x: &Tensor<T>| x.as_slice().iter().map(|x| x.to_f64().to_bits()).collect();
    tensors.tensors().into_iter().map(|(path, x)| (path, x.shape().to_vec(), of(x))).collect()
}

fn bits_of_grads<T: Scalar>(grads: &[Grad<T>]) -> Vec<(bool, Bits)> {
    grads.iter().map(|grad| (grad.is_used_up(), bits(&**grad))).collect()
}

fn each_rule(contract32: fn(usize), contract64: fn(usize)) {
    (0..table::<f32>().len()).for_each(contract32);
    (0..table::<f64>().len()).for_each(contract64);
}

#[test]
fn a_step_allocates_nothing_and_uses_the_gradients_up() {
    fn contract<T: Scalar>(rule: usize) {
        let mut net = Net::<T>::new();
        let mut optimizer = optimizer(rule, &net);
        for seed in 0..3 {
            let (mut grads, before) = (net.grads(seed), bits(&net));
            let allocations = allocation_counter::measure(|| optimizer.step(&mut net, &mut grads).unwrap());
            assert_eq!(allocations.count_total, 0, "rule {rule}");
            assert!(grads.iter().all(Grad::is_used_up), "rule {rule}");
            for (old, new) in before.iter().zip(bits(&net)) {
                assert!(old.2.iter().zip(&new.2).all(|(old, new)| old != new), "rule {rule}, {}", old.0);
            }
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

/// Whatever its tensor still holds, NaN included.
#[test]
fn a_gradient_that_is_used_up_counts_as_zero() {
    fn contract<T: Scalar>(rule: usize) {
        let mut nets = [Net::<T>::new(), Net::new()];
        let mut optimizers = [optimizer(rule, &nets[0]), optimizer(rule, &nets[1])];
        for seed in 0..4 {
            let mut grads = [nets[0].grads(seed), nets[1].grads(seed)];
            if seed % 2 == 1 {
                for grad in &mut grads[0] {
                    grad.fill(T::from_f64(f64::NAN));
                    grad.use_up();
                }
                grads[1].iter_mut().for_each(|grad| grad.fill(T::ZERO));
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

/// In chunks and on several threads a parameter becomes what it becomes in one piece.
#[test]
fn large_parameters_get_the_same_bits_on_any_number_of_threads() {
    fn contract<T: Scalar>(rule: usize) {
        let normal = |seed| Tensor::<T>::normal([LARGE], 0.0, 1.0, &mut random::rng(seed)).unwrap();
        let whole = &table::<T>()[rule].1;
        let mut x = normal(1);
        let mut slots: Vec<_> = whole.slots().iter().map(|_| vec![T::ZERO; LARGE]).collect();
        for step in 1..4 {
            let mut slots: Vec<&mut [T]> = slots.iter_mut().map(|slot| &mut slot[..]).collect();
            whole.update(step, x.as_mut_slice(), normal(1 + step).as_slice(), &mut slots);
        }
        for threads in [1, 2, 3] {
            parallel::set_threads(threads.try_into().unwrap());
            let mut net = normal(1);
            let mut optimizer = Optimizer::new(table::<T>().swap_remove(rule).1, &net).unwrap();
            for step in 1..4 {
                let mut grads = [normal(1 + step).into()];
                let allocations =
                    allocation_counter::measure(|| optimizer.step(&mut net, &mut grads).unwrap());
                assert!(allocations.count_total == 0 || step == 1, "rule {rule}");
                assert!(grads[0].is_used_up(), "rule {rule}");
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
}

#[test]
fn a_rule_that_needs_it_sees_a_parameter_as_a_whole() {
    const NINE: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    for slots in [&NINE[..0], &NINE[..1], &NINE[..8], NINE] {
        let mut net = Tensor::<f64>::zeros([LARGE]).unwrap();
        let rule: AnyRule<f64> = Box::new(Largest { slots });
        let mut optimizer = Optimizer::new(rule, &net).unwrap();
        let mut grads = [Tensor::from_fn([LARGE], |at| at[0] as f64).unwrap().into()];
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
fn statistics_are_just_added() {
    fn contract<T: Scalar>(rule: usize) {
        let mut net = Net::<T>::new();
        let mut optimizer = optimizer(rule, &net);
        for seed in 0..3 {
            let mut grads = net.grads(seed);
            let mut expected = net.0[2].3.clone();
            expected.add(&grads[2]).unwrap();
            optimizer.step(&mut net, &mut grads).unwrap();
            assert_eq!(bits(&net.0[2].3), bits(&expected), "rule {rule}");
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
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
                    grads[0].as_mut_slice()[4] = T::from_f64(f64::NAN);
                    grads[2].as_mut_slice()[1] = T::from_f64(f64::NAN);
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
        let mut of_whole = Optimizer::new(table().swap_remove(rule).1, &whole).unwrap();
        for seed in 0..3 {
            of_whole.step(&mut whole, &mut [values(seed).into()]).unwrap();
        }
        for i in 0..N {
            let element = |x: &Tensor<T>| x.slice(i..i + 1).unwrap();
            let mut one = element(&values(9));
            let mut of_one = Optimizer::new(table().swap_remove(rule).1, &one).unwrap();
            for seed in 0..3 {
                of_one.step(&mut one, &mut [element(&values(seed)).into()]).unwrap();
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

/// Makes one step that must be refused after one that wasn't, and checks that it changed nothing.
fn refused<T: Scalar>(
    rule: usize,
    change: impl FnOnce(&mut Net<T>, &mut Vec<Grad<T>>, &mut AnyOptimizer<T>),
) -> StepError {
    let mut net = Net::<T>::new();
    let mut optimizer = optimizer(rule, &net);
    step(&mut optimizer, &mut net, 1);
    let mut grads = net.grads(2);
    change(&mut net, &mut grads, &mut optimizer);
    let all = |net: &Net<T>, grads: &[Grad<T>], optimizer: &AnyOptimizer<T>| {
        (bits(net), bits_of_grads(grads), bits(optimizer), optimizer.step_count())
    };
    let before = all(&net, &grads, &optimizer);
    let error = optimizer.step(&mut net, &mut grads).unwrap_err();
    assert_eq!(all(&net, &grads, &optimizer), before, "{error}");
    error
}

#[test]
fn a_changed_network_is_refused_whole() {
    fn contract<T: Scalar>(rule: usize) {
        let check = |expected: &str, change: fn(&mut Net<T>)| {
            let error = refused(rule, |net, _, _| change(net));
            assert_eq!(error.to_string(), expected);
        };
        // Whatever it is, it is at the end, where everything else has been seen.
        check("optimizer step: `fc2.beta` stands where `fc2.bias` was when the optimizer was made", |net| {
            net.0[4].1 = "beta";
        });
        check("fc2.bias: optimizer step: expected [2], got [3]", |net| {
            net.0[4].3 = Tensor::zeros([3]).unwrap();
        });
        check("fc2.weight: optimizer step: expected [2, 5], got [5, 2]", |net| {
            net.0[3].3.set_shape([5, 2]).unwrap();
        });
        check(
            "optimizer step: `fc2.bias` stands where `fc2.weight` was when the optimizer was made",
            |net| {
                net.0.swap(3, 4);
            },
        );
        check("optimizer step: `fc2.bias` was there when the optimizer was made, and no longer is", |net| {
            net.0.pop();
        });
        check(
            "optimizer step: `fc3.bias` was not there when the optimizer was made for this network",
            |net| {
                net.0.push(("fc3", "bias", Role::Parameter, Tensor::zeros([2]).unwrap()));
            },
        );
        check(
            "optimizer step: `fc2.bias` is a Statistic, and was a Parameter when the optimizer was made",
            |net| {
                net.0[4].2 = Role::Statistic;
            },
        );
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn gradients_that_do_not_fit_are_refused_whole() {
    fn contract<T: Scalar>(rule: usize) {
        let check = |expected: &str, change: fn(&mut Vec<Grad<T>>)| {
            let error = refused(rule, |_, grads, _| change(grads));
            assert_eq!(error.to_string(), expected);
        };
        check("optimizer step: 4 gradients for 5 tensors: none for `fc2.bias`", |grads| {
            grads.pop();
        });
        check("optimizer step: 0 gradients for 5 tensors: none for `fc1.weight`", Vec::clear);
        check("optimizer step: 6 gradients for 5 tensors, the last of which is `fc2.bias`", |grads| {
            grads.push(Grad::default());
        });
        check("fc2.bias: gradient: expected [2], got [2, 1]", |grads| {
            grads[4].set_shape([2, 1]).unwrap();
        });
        // A statistic's increment as well.
        check("norm.mean: gradient: expected [5], got [6]", |grads| {
            grads[2] = Tensor::zeros([6]).unwrap().into();
        });
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn state_that_does_not_fit_is_refused_whole() {
    fn contract<T: Scalar>(rule: usize) {
        if table::<T>()[rule].1.slots().is_empty() {
            return;
        }
        let error = refused::<T>(rule, |_, _, optimizer| {
            optimizer.visit_mut(Path::ROOT, &mut |path, _, slot| {
                if path.to_string().starts_with("fc2.bias.") {
                    *slot = Tensor::zeros([1]).unwrap();
                }
            });
        });
        assert_eq!(error.to_string(), "fc2.bias: optimizer state: expected [2], got [1]");
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn a_network_whose_two_visits_disagree_is_refused() {
    struct Swapped(Tensor<f32>, Tensor<f32>);
    impl NamedTensors<f32> for Swapped {
        fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<f32>)) {
            visitor(path.join("a"), Role::Parameter, &self.0);
            visitor(path.join("b"), Role::Parameter, &self.1);
        }
        fn visit_mut<'s>(
            &'s mut self,
            path: Path<'_>,
            visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<f32>),
        ) {
            visitor(path.join("b"), Role::Parameter, &mut self.1);
            visitor(path.join("a"), Role::Parameter, &mut self.0);
        }
    }
    let mut net = Swapped(Tensor::from([1.0]), Tensor::from([2.0]));
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap(), &net).unwrap();
    let error = optimizer
        .step(&mut net, &mut [Tensor::from([1.0]), Tensor::from([1.0])].map(Grad::from))
        .unwrap_err();
    assert_eq!(error, StepError::Path { expected: "a".into(), found: "b".into() });
    assert_eq!((net.0, net.1), (Tensor::from([1.0]), Tensor::from([2.0])));
}

#[test]
fn the_last_countable_step_is_no_end() {
    let mut x = Tensor::from([1.0_f64]);
    let mut optimizer = Optimizer::new(Sgd::new(0.5).unwrap(), &x).unwrap();
    optimizer.set_step_count(u64::MAX);
    optimizer.step(&mut x, &mut [Tensor::from([1.0]).into()]).unwrap();
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

/// What a checkpoint holds of a rule makes another one of its kind the same, and nothing else is accepted.
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
            assert_eq!((&error.option[..], &error.got[..]), (name, "nothing"), "rule {rule}");
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

#[test]
fn no_rule_is_missing_from_the_table() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut found = Vec::new();
    rules_in(source.as_ref(), &mut found);
    found.sort();
    let mut listed: Vec<_> = table::<f64>().iter().map(|(name, _)| *name).collect();
    // All of them are in a box, and so its rule is in the table too.
    listed.push("Box");
    listed.sort();
    listed.dedup();
    assert_eq!(found, listed);
}

/// The types that implement `Rule`, in all files below `folder`.
fn rules_in(folder: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rules_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            // From `impl` to the brace, on one line or several.
            for header in code.join(" ").split("impl").skip(1).filter_map(|rest| rest.split('{').next()) {
                if let Some((of, name)) = header.rsplit_once(" for ")
                    && of.rsplit([' ', ':']).next().is_some_and(|of| of.starts_with("Rule<"))
                {
                    let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
                    found.push(name[..end].to_string());
                }
            }
        }
    }
}
