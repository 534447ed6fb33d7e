//! The refusals of a step, and that nothing has changed then.

use backrule_optim::tensor::{Grad, Grads, NamedTensors, Path, Role, Scalar, Tensor, TrainingState};
use backrule_optim::{Optimizer, Sgd, StepError, samples};

use crate::common::{AnyOptimizer, Net, bits, bits_of_grads, each_rule, grads, optimizer, step};

/// Makes one step that must be refused after one that wasn't, and checks that it changed nothing.
fn refused<T: Scalar>(
    rule: usize,
    change: impl FnOnce(&mut Net<T>, &mut Grads<T>, &mut AnyOptimizer<T>),
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
            assert_eq!(
                error.to_string(),
                format!("another network than the optimizer was made for: {expected}")
            );
        };
        // Whatever it is, it is at the end, where everything else has been seen.
        check("optimizer step: expected the tensor `fc2.bias`, got the tensor `fc2.beta`", |net| {
            net.0[4].1 = "beta";
        });
        check("fc2.bias: optimizer step: expected [2], got [3]", |net| {
            net.0[4].3 = Tensor::zeros([3]).unwrap();
        });
        check("fc2.weight: optimizer step: expected [2, 5], got [5, 2]", |net| {
            net.0[3].3.set_shape([5, 2]).unwrap();
        });
        check("optimizer step: expected the tensor `fc2.weight`, got the tensor `fc2.bias`", |net| {
            net.0.swap(3, 4);
        });
        check("optimizer step: expected the tensor `fc2.bias`, got no more tensors", |net| {
            net.0.pop();
        });
        check("optimizer step: expected no more tensors, got the tensor `fc3.bias`", |net| {
            net.0.push(("fc3", "bias", Role::Parameter, Tensor::zeros([2]).unwrap()));
        });
        let frozen = "constant: make gradients and optimizer after freezing or thawing";
        for (role, got) in [(Role::Buffer, "buffer"), (Role::Constant, frozen)] {
            let error = refused::<T>(rule, |net, _, _| net.0[4].2 = role).to_string();
            let expected = format!("fc2.bias: optimizer step: expected a parameter, got a {got}");
            assert!(error.ends_with(&expected), "{error}");
        }
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn an_optimizer_for_a_single_tensor_refuses_a_network_in_plain_words() {
    let (mut x, mut net) = (Tensor::from([1.0_f32]), Net::new());
    let mut optimizer = Optimizer::new(Sgd::new(0.1).unwrap(), &x).unwrap();
    let mut grads = net.grads(1);
    let error = optimizer.step(&mut net, &mut grads).unwrap_err();
    let text = "another network than the optimizer was made for: \
                optimizer step: expected a tensor without a name, got the tensor `fc1.weight`";
    assert_eq!(error.to_string(), text);
    assert_eq!(format!("{error:?}"), text);
    assert!(format!("{error:#?}").contains("operation: \"optimizer step\""), "{error:#?}");
    let error = optimizer.step(&mut x, &mut grads).unwrap_err();
    assert!(error.to_string().starts_with("gradients of another network than the optimizer was made for: "));
}

#[test]
fn gradients_that_do_not_fit_are_refused_whole() {
    fn contract<T: Scalar>(rule: usize) {
        // Those of a network that differs at its end.
        let error = refused::<T>(rule, |net, grads, _| {
            let mut other = net.clone();
            other.0.pop();
            *grads = other.grads(2);
        });
        assert_eq!(
            error.to_string(),
            "gradients of another network than the optimizer was made for: \
             optimizer step: expected the tensor `fc2.bias`, got no more tensors"
        );
        let check = |expected: &str, change: fn(&mut Grads<T>)| {
            let error = refused(rule, |_, grads, _| change(grads));
            assert_eq!(error.to_string(), expected);
        };
        check("fc2.bias: gradient: expected [2], got [2, 1]", |grads| {
            grads[4] = Tensor::zeros([2, 1]).unwrap().into();
        });
        // A buffer's increment as well.
        check("norm.mean: gradient: expected [5], got [6]", |grads| {
            grads[2] = Tensor::zeros([6]).unwrap().into();
        });
        check("fc1.bias: gradient: expected [5], got [0]", |grads| grads[1] = Grad::default());
    }
    each_rule(contract::<f32>, contract::<f64>);
}

#[test]
fn state_that_does_not_fit_is_refused_whole() {
    fn contract<T: Scalar>(rule: usize) {
        if samples::<T>()[rule].slots().is_empty() {
            return;
        }
        let error = refused::<T>(rule, |_, _, optimizer| {
            optimizer.visit_mut(Path::ROOT, &mut |path, _, slot| {
                if path.to_string().starts_with("fc2.bias.") {
                    *slot = Tensor::zeros([1]).unwrap();
                }
            });
        });
        let name = samples::<T>()[rule].slots()[0];
        assert_eq!(error.to_string(), format!("fc2.bias.{name}: optimizer state: expected [2], got [1]"));
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
    let mut grads = grads(&net, [Tensor::from([1.0]), Tensor::from([1.0])]);
    let error = optimizer.step(&mut net, &mut grads).unwrap_err();
    assert!(error.to_string().ends_with("expected the tensor `a`, got the tensor `b`"), "{error}");
    assert_eq!((net.0, net.1), (Tensor::from([1.0]), Tensor::from([2.0])));
}

/// A backward pass that failed has added to some gradients and not to others.
#[test]
fn incomplete_gradients_are_refused() {
    fn contract<T: Scalar>(rule: usize) {
        let mut net = Net::<T>::new();
        let mut optimizer = optimizer(rule, &net);
        let mut grads = net.grads(1);
        assert!(grads.accumulate(|_| Err(())).is_err());
        let before = (bits(&net), bits(&optimizer));
        let error = optimizer.step(&mut net, &mut grads).unwrap_err();
        assert!(matches!(error, StepError::Incomplete(_)), "{error}");
        assert_eq!((bits(&net), bits(&optimizer)), before, "rule {rule}");
        assert_eq!(optimizer.step_count(), 0);
        grads.clear();
        optimizer.step(&mut net, &mut grads).unwrap();
    }
    each_rule(contract::<f32>, contract::<f64>);
}
