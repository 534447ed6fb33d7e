//! A checkpoint that doesn't fit is listed whole, and changes nothing.

use crate::common::{Momentum, Named, bits, network, optimizer, spoil};
use backrule_io::tensor::{DType, Options, Tensor};
use backrule_io::{Checkpoint, Group, RestoreError};

fn saved(net: &Named<f32>, optim: Option<&Momentum<f32>>) -> Checkpoint {
    let snapshot = Checkpoint::of(net);
    let snapshot = match optim {
        Some(optim) => snapshot.optimizer(optim),
        None => snapshot,
    };
    Checkpoint::from_bytes(&snapshot.to_bytes().unwrap()).unwrap()
}

fn ones<const N: usize>(shape: [usize; N]) -> Tensor {
    Tensor::full(shape, 1.0).unwrap()
}

#[test]
fn all_that_does_not_fit_is_listed_and_nothing_changes() {
    let net = vec![("fits", ones([4])), ("rotated", ones([2, 3])), ("gone", ones([5]))];
    let optim = Momentum {
        velocities: vec![("fits", ones([4])), ("extra", ones([1]))],
        steps: 9,
        options: Options::new(),
    };
    let checkpoint = saved(&net, Some(&optim));

    let mut other = vec![
        ("new.weight", ones([7, 1])),
        ("fits", ones([4])),
        ("rotated", ones([3, 2])),
        ("new.bias", ones([7])),
    ];
    let mut other_optim =
        Momentum { velocities: vec![("fits", ones([8]))], steps: 1, options: Options::new() };
    spoil(&mut other);
    spoil(&mut other_optim);
    let before = (bits(&other), bits(&other_optim));
    let error = checkpoint.restore_with_optimizer(&mut other, &mut other_optim).unwrap_err();
    assert_eq!((bits(&other), bits(&other_optim)), before);
    assert_eq!(other_optim.steps, 1);
    assert_eq!(
        error.to_string(),
        "nothing restored, because the checkpoint doesn't fit:
  missing in the checkpoint: network `new.weight` f32 [7, 1]
  missing in the checkpoint: network `new.bias` f32 [7]
  only in the checkpoint: network `gone` f32 [5]
  only in the checkpoint: optimizer `extra` f32 [1]
  network `rotated` f32 [2, 3] in the checkpoint, expected f32 [3, 2]
  optimizer `fits` f32 [4] in the checkpoint, expected f32 [8]"
    );
    let RestoreError::Mismatch(list) = error else {
        panic!("{error}");
    };
    let counts = (list.missing.len(), list.unexpected.len(), list.misshapen.len());
    assert_eq!(counts, (2, 2, 2));
    assert_eq!(list.unexpected[1].group, Group::Optimizer);
    assert_eq!(list.misshapen[0].target.shape, [3, 2]);
}

/// The network fits, and the optimizer was made with other options.
#[test]
fn an_optimizer_of_other_state_is_told_what_to_change() {
    let (net, mut with) = (network::<f32>(), optimizer());
    with.velocities.truncate(1);
    let without = || Momentum { velocities: Vec::new(), steps: 0, options: Options::new() };
    let end = "(make the optimizer with the rule and the options of the checkpoint, which \
        `checkpoint.optimizer()` gives, such as a momentum: they decide which state there is; or restore the \
        network alone, by `restore` or `restore_into`)";
    for (saved, mut other) in [(saved(&net, Some(&with)), without()), (saved(&net, Some(&without())), with)] {
        let error = saved.restore_with_optimizer(&mut network::<f32>(), &mut other).unwrap_err().to_string();
        assert!(error.ends_with(&format!("\n{end}")), "{error}");
        // That it says: the network alone can be restored.
        saved.restore(&mut network::<f32>()).unwrap();
        // Where the network doesn't fit, the optimizer can't.
        let mut larger = network::<f32>();
        larger.push(("more", ones([1])));
        let error = saved.restore_with_optimizer(&mut larger, &mut other).unwrap_err().to_string();
        assert!(!error.contains("momentum"), "{error}");
    }
}

#[test]
fn a_long_list_ends_with_how_many_more() {
    let named = |prefix: &str, n: usize, shape: usize| -> Vec<(String, Tensor<f32>)> {
        (0..n).map(|i| (format!("{prefix}{i}"), Tensor::zeros([shape]).unwrap())).collect()
    };
    let joined = |mut a: Vec<_>, b: Vec<_>| {
        a.extend(b);
        Checkpoint::from_bytes(&Checkpoint::of(&a).to_bytes().unwrap()).unwrap()
    };
    let checkpoint = joined(named("both", 15, 2), named("old", 9, 1));
    for (missing, more) in [(0, 4), (3, 7), (19, 23), (20, 24), (4000, 4004)] {
        let mut net = named("both", 15, 3);
        net.extend(named("new", missing, 1));
        let text = checkpoint.restore(&mut net).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 22, "{text}");
        assert!(text.ends_with(&format!("\n  and {more} more")), "{text}");
    }
    let text =
        joined(named("both", 15, 2), named("old", 5, 1)).restore(&mut named("both", 15, 3)).unwrap_err();
    assert!(text.to_string().ends_with("expected f32 [3]"), "{text}");
}

#[test]
fn one_wrong_optimizer_tensor_keeps_the_network_as_it_is() {
    let checkpoint = saved(&network(), Some(&optimizer()));
    let (mut net, mut optim) = (network::<f32>(), optimizer::<f32>());
    spoil(&mut net);
    optim.velocities[0].0 = "fc2.weight";
    let before = bits(&net);
    assert!(checkpoint.restore_with_optimizer(&mut net, &mut optim).is_err());
    assert_eq!(bits(&net), before);
}

#[test]
fn another_element_type_is_misshapen() {
    let checkpoint = saved(&vec![("a", ones([3, 4]))], None);
    let mut double = vec![("a", Tensor::<f64>::zeros([3, 4]).unwrap())];
    let error = checkpoint.restore(&mut double).unwrap_err();
    assert!(
        (error.to_string()).ends_with(
            "network `a` f32 [3, 4] in the checkpoint, expected f64 [3, 4]
(`restoring().convert()` converts between f32 and f64)"
        ),
        "{error}"
    );
    let RestoreError::Mismatch(list) = error else {
        panic!("{error}");
    };
    assert_eq!(list.misshapen[0].target.dtype, DType::F64);
    assert_eq!(double[0].1, Tensor::zeros([3, 4]).unwrap());
}

#[test]
fn paths_count_and_not_the_order() {
    let checkpoint = saved(&vec![("a", Tensor::from([1.0])), ("b", Tensor::from([2.0]))], None);
    let mut other: Named<f32> = vec![("b", Tensor::from([0.0])), ("a", Tensor::from([0.0]))];
    checkpoint.restore(&mut other).unwrap();
    assert_eq!((other[0].1.as_slice(), other[1].1.as_slice()), (&[2.0][..], &[1.0][..]));
}

#[test]
fn the_network_alone_and_no_optimizer() {
    let with = saved(&network(), Some(&optimizer()));
    let (mut net, mut optim) = (network::<f32>(), optimizer::<f32>());
    spoil(&mut net);
    with.restore(&mut net).unwrap();
    assert_eq!(bits(&net), bits(&network::<f32>()));

    let without = saved(&network(), None);
    spoil(&mut net);
    let before = bits(&net);
    optim.steps = 1;
    let error = without.restore_with_optimizer(&mut net, &mut optim).unwrap_err();
    assert_eq!(error, RestoreError::NoOptimizer);
    assert_eq!((bits(&net), optim.steps), (before, 1));
    without.restore(&mut net).unwrap();
    assert_eq!(bits(&net), bits(&network::<f32>()));
}

#[test]
fn an_optimizer_without_tensors_still_counts_its_steps() {
    let plain = Momentum { velocities: Vec::new(), steps: 77, options: Options::new() };
    let checkpoint = saved(&network(), Some(&plain));
    let mut fresh: Momentum<f32> = Momentum { velocities: Vec::new(), steps: 0, options: Options::new() };
    checkpoint.restore_with_optimizer(&mut network(), &mut fresh).unwrap();
    assert_eq!(fresh.steps, 77);
}

#[test]
fn two_targets_of_one_name_are_not_both_restored() {
    let checkpoint = saved(&vec![("a", ones([1]))], None);
    let mut twice = vec![("a", ones([1])), ("a", ones([1]))];
    let RestoreError::Mismatch(list) = checkpoint.restore(&mut twice).unwrap_err() else {
        panic!("no mismatch");
    };
    assert_eq!(list.missing.len(), 1);
}

#[test]
fn names_from_a_file_cannot_write_to_the_terminal() {
    let checkpoint = saved(&vec![("\x1b[2J", ones([1]))], None);
    let error = checkpoint.restore(&mut Named::<f32>::new()).unwrap_err();
    assert!(error.to_string().ends_with(r"`\u{1b}[2J` f32 [1]"), "{error}");
}
