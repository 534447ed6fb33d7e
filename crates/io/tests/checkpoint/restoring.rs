//! Restoring into another network than the saved one.

use crate::common::{Momentum, Named, bits, spoil};
use backrule_io::tensor::{Options, Tensor, TrainingState};
use backrule_io::{Checkpoint, Group, Mismatch, Pair, Report, RestoreError, limits};
use backrule_testkit::Scratch;

fn full<const N: usize>(shape: [usize; N], value: f32) -> Tensor {
    Tensor::full(shape, value).unwrap()
}

/// A network with velocities for all its tensors.
fn trained() -> Checkpoint {
    let net = vec![
        ("fc1.weight", full([2, 3], 1.0)),
        ("fc1.bias", full([2], 2.0)),
        ("fc2.weight", full([4, 2], 3.0)),
    ];
    let velocities = vec![
        ("fc1.weight.velocity", full([2, 3], 10.0)),
        ("fc1.bias.velocity", full([2], 20.0)),
        ("fc2.weight.velocity", full([4, 2], 30.0)),
    ];
    let optim = Momentum { velocities, steps: 450, options: Options::new() };
    Checkpoint::from_bytes(&Checkpoint::of(&net).optimizer(&optim).to_bytes().unwrap()).unwrap()
}

/// The same body below another name, and a head of another size.
fn tuned() -> (Named<f32>, Momentum<f32>) {
    let mut net = vec![
        ("body.weight", full([2, 3], 0.0)),
        ("body.bias", full([2], 0.0)),
        ("fc2.weight", full([5, 2], 0.0)),
    ];
    let velocities = vec![
        ("body.weight.velocity", full([2, 3], 0.0)),
        ("body.bias.velocity", full([2], 0.0)),
        ("fc2.weight.velocity", full([5, 2], 0.0)),
    ];
    let mut optim = Momentum { velocities, steps: 7, options: Options::new() };
    spoil(&mut net);
    spoil(&mut optim);
    (net, optim)
}

fn targets(pairs: &[Pair]) -> Vec<&str> {
    pairs.iter().map(|pair| pair.target.path.as_str()).collect()
}

fn values(tensors: &Named<f32>) -> Vec<f32> {
    tensors.iter().map(|(_, tensor)| tensor.as_slice()[0]).collect()
}

/// The error of the attempt, which left every bit as it was.
fn refused(
    attempt: impl Fn(&mut Named<f32>, &mut Momentum<f32>) -> Result<Report, RestoreError>,
) -> RestoreError {
    let (mut net, mut optim) = tuned();
    let before = (bits(&net), bits(&optim));
    let error = attempt(&mut net, &mut optim).unwrap_err();
    assert_eq!(((bits(&net), bits(&optim)), optim.steps), (before, 7), "{error}");
    error
}

#[test]
fn renamed_body_and_new_head_with_the_optimizer() {
    let (checkpoint, (mut net, mut optim)) = (trained(), tuned());
    let restoring = checkpoint.restoring().rename("fc1", "body").skip_misshapen();
    let report = restoring.restore_into_with_optimizer(&mut net, &mut optim).unwrap();
    assert_eq!(values(&net), [1.0, 2.0, 99.0]);
    assert_eq!(values(&optim.velocities), [10.0, 20.0, 99.0]);
    assert_eq!(optim.step_count(), 450);
    assert_eq!(
        report.to_string(),
        "\
4 restored, 0 missing, 0 unexpected, 2 skipped
restored    network `body.weight` f32 [2, 3]             network `fc1.weight` f32 [2, 3]
restored    network `body.bias` f32 [2]                  network `fc1.bias` f32 [2]
restored    optimizer `body.weight.velocity` f32 [2, 3]  optimizer `fc1.weight.velocity` f32 [2, 3]
restored    optimizer `body.bias.velocity` f32 [2]       optimizer `fc1.bias.velocity` f32 [2]
skipped     network `fc2.weight` f32 [5, 2]              network `fc2.weight` f32 [4, 2]
skipped     optimizer `fc2.weight.velocity` f32 [5, 2]   optimizer `fc2.weight.velocity` f32 [4, 2]"
    );
    assert_eq!(report.skipped[0].stored.shape, [4, 2]);
    assert_eq!(report.skipped[0].target.shape, [5, 2]);
}

#[test]
fn each_degree_of_strictness_refuses_what_it_should() {
    let checkpoint = trained();
    let fit = |error: RestoreError| match error {
        RestoreError::Mismatch(Mismatch { missing, unexpected, misshapen, .. }) => {
            (missing.len(), unexpected.len(), misshapen.len())
        }
        other => panic!("{other}"),
    };
    // Without the renaming, and without the optimizer.
    let strict = refused(|net, _| checkpoint.restoring().restore_into(net));
    assert_eq!(fit(strict), (2, 2, 1));
    let strict = refused(|net, optim| {
        checkpoint.restoring().rename("fc1", "body").restore_into_with_optimizer(net, optim)
    });
    assert!(
        strict.to_string().ends_with(
            "\n  optimizer `fc2.weight.velocity` f32 [4, 2] in the checkpoint, expected f32 [5, 2]"
        ),
        "{strict}"
    );
    assert_eq!(fit(strict), (0, 0, 2));
    // Tensors that may be missing are not listed.
    let partial =
        refused(|net, _| checkpoint.restoring().rename("fc1.bias", "body.bias").partial().restore_into(net));
    assert_eq!(fit(partial), (0, 0, 1));
    // Nothing fits at all.
    let lenient = refused(|net, _| checkpoint.restoring().skip_misshapen().restore_into(net));
    assert_eq!(fit(lenient), (2, 2, 1));
    // `partial` takes nothing back.
    let (mut net, _) = tuned();
    let restoring = checkpoint.restoring().rename("fc1", "body").skip_misshapen().partial();
    assert_eq!(restoring.restore_into(&mut net).unwrap().skipped.len(), 1);
}

#[test]
fn only_a_part_is_compared_and_written() {
    let (checkpoint, (mut net, mut optim)) = (trained(), tuned());
    let restoring = || checkpoint.restoring().rename("fc1", "body");
    let report = restoring().only("body").restore_into_with_optimizer(&mut net, &mut optim).unwrap();
    assert_eq!((values(&net), values(&optim.velocities)), (vec![1.0, 2.0, 99.0], vec![10.0, 20.0, 99.0]));
    let restored = ["body.weight", "body.bias", "body.weight.velocity", "body.bias.velocity"];
    assert_eq!(targets(&report.restored), restored);
    assert_eq!(report, Report { restored: report.restored.clone(), ..Report::default() });

    let (mut net, _) = tuned();
    let report = restoring().only("body.bias").only("body.weight").restore_into(&mut net).unwrap();
    assert_eq!(targets(&report.restored), ["body.weight", "body.bias"]);
    // Still strict within the part.
    let error = refused(|net, _| restoring().only("fc2").restore_into(net));
    assert!(matches!(error, RestoreError::Mismatch(list) if list.misshapen.len() == 1));
    let error = refused(|net, _| checkpoint.restoring().only("body").restore_into(net));
    assert!(matches!(error, RestoreError::Mismatch(list) if list.missing.len() == 2));
    // Tensors elsewhere in the file are not unexpected.
    let mut net = vec![("fc2.bias", full([4], 0.0))];
    match checkpoint.restoring().only("fc2").restore_into(&mut net) {
        Err(RestoreError::Mismatch(list)) => {
            let paths: Vec<_> = list.unexpected.iter().map(|info| info.path.as_str()).collect();
            assert_eq!((paths, list.missing.len()), (vec!["fc2.weight"], 1));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_closure_renames_parameters_and_their_state_follows() {
    let checkpoint = trained();
    let (mut net, mut optim) = tuned();
    let asked = std::cell::RefCell::new(Vec::new());
    let restoring = checkpoint.restoring().skip_misshapen().rename_with(|path| {
        asked.borrow_mut().push(path.to_string());
        path.strip_prefix("fc1").map(|rest| format!("body{rest}"))
    });
    let report = restoring.restore_into_with_optimizer(&mut net, &mut optim).unwrap();
    assert_eq!(report.restored.len(), 4);
    assert_eq!(values(&optim.velocities), [10.0, 20.0, 99.0]);
    assert!(asked.into_inner().iter().all(|path| !path.ends_with("velocity")));
}

#[test]
fn renaming_goes_by_whole_names_once_and_in_order() {
    let net = vec![("fc1.weight", full([1], 1.0)), ("fc10.weight", full([1], 2.0)), ("top", full([1], 3.0))];
    let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes().unwrap()).unwrap();
    let into = |names: [&'static str; 3]| names.map(|name| (name, full([1], 0.0))).to_vec();

    let mut swapped = into(["fc10.weight", "fc1.weight", "top"]);
    let restoring = checkpoint.restoring().rename("fc1", "fc10").rename("fc10", "fc1");
    restoring.restore_into(&mut swapped).unwrap();
    assert_eq!(values(&swapped), [1.0, 2.0, 3.0]);
    let mut below = into(["m.fc1.weight", "m.fc10.weight", "m.top"]);
    let report = checkpoint.restoring().rename("", "m").restore_into(&mut below).unwrap();
    assert_eq!((values(&below), report.restored.len()), (vec![1.0, 2.0, 3.0], 3));
    let mut above = into(["weight", "w", "t"]);
    let restoring = checkpoint.restoring().rename("fc1", "").rename("fc10.weight", "w").rename("top", "t");
    restoring.restore_into(&mut above).unwrap();
    assert_eq!(values(&above), [1.0, 2.0, 3.0]);
}

#[test]
fn two_tensors_are_not_restored_into_one() {
    let checkpoint = trained();
    let error = refused(|net, _| {
        checkpoint.restoring().rename_with(|_| Some("body.bias".into())).partial().restore_into(net)
    });
    let RestoreError::Collision { group, path, first, second } = &error else { panic!("{error}") };
    assert_eq!((*group, path.as_str()), (Group::Network, "body.bias"));
    assert_eq!((first.as_str(), second.as_str()), ("fc1.weight", "fc1.bias"));
    assert_eq!(
        error.to_string(),
        "nothing restored: network `fc1.weight` and `fc1.bias` of the checkpoint would both be called `body.bias`: \
         rename one of them otherwise"
    );
    // Onto one that keeps its name.
    let error =
        refused(|net, _| checkpoint.restoring().rename("fc1", "fc2").skip_misshapen().restore_into(net));
    assert!(matches!(error, RestoreError::Collision { .. }));
}

#[test]
fn a_typing_error_is_no_partial_success() {
    let checkpoint = trained();
    let error =
        refused(|net, _| checkpoint.restoring().rename("fc", "body").skip_misshapen().restore_into(net));
    assert_eq!(error, RestoreError::UnknownRename { from: "fc".to_string() });
    let error = refused(|net, _| {
        checkpoint.restoring().rename("fc1", "body").only("body").only("bod").partial().restore_into(net)
    });
    assert_eq!(error, RestoreError::UnknownOnly { prefix: "bod".to_string() });
    // Where it should go, too: with its state or without, and however little has to fit.
    let wrong = |to: &str| RestoreError::UnknownTarget { from: "fc1".to_string(), to: to.to_string() };
    for to in ["bod", "body.weigh", "body.weight.velocity", "body.", "fc1"] {
        let rename = || checkpoint.restoring().rename("fc1", to);
        assert_eq!(refused(|net, _| rename().partial().restore_into(net)), wrong(to));
        assert_eq!(refused(|net, _| rename().skip_misshapen().restore_into(net)), wrong(to));
        let with_state =
            |net: &mut _, optim: &mut _| rename().partial().restore_into_with_optimizer(net, optim);
        assert_eq!(refused(with_state), wrong(to));
    }
    let error = refused(|net, _| checkpoint.restoring().rename("fc1", "bod").partial().restore_into(net));
    assert_eq!(
        error.to_string(),
        "nothing restored: the network has nothing at or below `bod`, which `fc1` of the checkpoint was to be renamed to"
    );
}

#[test]
fn without_an_optimizer_in_the_file_nothing_is_restored() {
    let net = vec![("body.bias", full([2], 2.0))];
    let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes().unwrap()).unwrap();
    let error =
        refused(|net, optim| checkpoint.restoring().partial().restore_into_with_optimizer(net, optim));
    assert_eq!(error, RestoreError::NoOptimizer);
}

/// A factored second moment, say, has a shape that a new head can share with the old one by chance.
#[test]
fn the_state_of_a_skipped_parameter_is_skipped_though_it_fits() {
    let net = vec![("head.weight", full([4, 2], 1.0)), ("head.bias", full([4], 2.0))];
    let velocities = vec![("head.weight.columns", full([2], 3.0)), ("head.bias.columns", full([1], 4.0))];
    let snapshot = Momentum { velocities, steps: 9, options: Options::new() };
    let bytes = Checkpoint::of(&net).optimizer(&snapshot).to_bytes().unwrap();
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();

    let mut net = vec![("head.weight", full([5, 2], 0.0)), ("head.bias", full([4], 0.0))];
    let mut optim = snapshot.clone();
    spoil(&mut optim);
    let restoring = checkpoint.restoring().skip_misshapen();
    let report = restoring.restore_into_with_optimizer(&mut net, &mut optim).unwrap();
    assert_eq!(values(&optim.velocities), [99.0, 4.0]);
    assert_eq!(targets(&report.skipped), ["head.weight", "head.weight.columns"]);
}

#[test]
fn another_element_type_is_skipped_on_request() {
    let checkpoint = trained();
    let mut double = vec![("fc1.bias", Tensor::<f64>::zeros([2]).unwrap())];
    let error = checkpoint.restoring().skip_misshapen().restore_into(&mut double).unwrap_err();
    assert!(matches!(error, RestoreError::Mismatch(list) if list.misshapen.len() == 1));
}

/// As many tensors as a file may have, in another order and under other names: beside the report it takes
/// less than 1 MiB.
#[test]
fn the_largest_file_takes_little_memory() {
    let named = |prefix: &str, suffix: &str| -> Vec<(String, Tensor)> {
        let name = |i| format!("{prefix}.{i:090}{suffix}");
        (0..limits::MAX_TENSORS).map(|i| (name(i), Tensor::from([i as f32]))).collect()
    };
    let momentum = |prefix| {
        let velocities = named(prefix, ".v").leak().iter().map(|(path, tensor)| (&**path, tensor.clone()));
        Momentum { velocities: velocities.collect(), steps: 5, options: Options::new() }
    };
    let scratch = Scratch::new("largest");
    let path = scratch.0.join("largest.brk");
    Checkpoint::of(&named("old", "")).optimizer(&momentum("old")).save(&path).unwrap();

    let (mut net, mut optim) = (named("new", ""), momentum("new"));
    net.reverse();
    optim.velocities.reverse();
    let before = (bits(&net), bits(&optim));
    for checkpoint in [Checkpoint::load(&path).unwrap(), Checkpoint::open(&path).unwrap()] {
        spoil(&mut net);
        spoil(&mut optim);
        let mut report = Report::default();
        let measured = allocation_counter::measure(|| {
            let restoring = checkpoint.restoring().rename("old", "new");
            report = restoring.restore_into_with_optimizer(&mut net, &mut optim).unwrap();
        });
        assert_eq!(report.restored.len(), 2 * limits::MAX_TENSORS);
        let beside = measured.bytes_max - u64::try_from(measured.bytes_current).unwrap();
        assert!(beside <= 1 << 20, "{beside}");
        assert!((bits(&net), bits(&optim)) == before);
    }
}

/// A function that changes its mind between looking and writing must not pass for a success.
#[test]
fn a_rename_that_is_no_function_is_found() {
    let net = vec![("a", Tensor::from([1.0_f32])), ("b", Tensor::from([2.0])), ("c", Tensor::from([3.0]))];
    let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes().unwrap()).unwrap();
    for answers in 6..9 {
        let asked = std::cell::Cell::new(0);
        let rename = |path: &str| {
            asked.set(asked.get() + 1);
            (asked.get() > answers).then(|| format!("other.{path}"))
        };
        let mut other =
            vec![("a", Tensor::from([0.0_f32])), ("b", Tensor::from([0.0])), ("c", Tensor::from([0.0]))];
        let error = checkpoint.restoring().rename_with(rename).restore_into(&mut other).unwrap_err();
        assert!(error.to_string().contains("its name in the checkpoint has changed meanwhile"), "{error}");
    }
}
