//! The last few and the best, and never a file that is not ours.

use std::fs;

use crate::common::{Named, epoch, network};
use backrule_io::tensor::Tensor;
use backrule_io::{Best, Checkpoint, LoadProblem, Rotation, RotationError};
use backrule_testkit::Scratch;

fn numbers(rotation: &Rotation) -> Vec<u64> {
    rotation.files().unwrap().iter().map(|file| file.number).collect()
}

/// Against a list of all that was saved. Each save is by a rotation of its own, as by a program that was
/// started again.
#[test]
fn the_last_and_the_best_are_kept() {
    let metrics = [0.5, f64::NAN, 0.25, 0.75, 0.25, 1e308, 0.3, -1e308, -1.0, f64::NAN, 2.0, 0.5];
    for (best, last) in [(Best::Min, 1), (Best::Min, 3), (Best::Max, 1), (Best::Max, 4)] {
        let scratch = Scratch::new(&format!("rotation-{best:?}-{last}"));
        let rotation = || Rotation::new(&scratch.0, "run").unwrap().keep_last(last).keep_best(best);
        for count in 1..=metrics.len() {
            let metric = metrics[count - 1];
            let rotated = rotation()
                .save(&Checkpoint::of(&network::<f32>()).run(&epoch(count as u64)), metric)
                .unwrap();
            assert_eq!(rotated.file.number, count as u64);
            assert!(rotated.not_removed.is_empty());

            let mut champion: Option<usize> = None;
            for i in (0..count).filter(|&i| metrics[i].is_finite()) {
                let better = champion.is_none_or(|c| match best {
                    Best::Min => metrics[i] < metrics[c],
                    Best::Max => metrics[i] > metrics[c],
                });
                if better {
                    champion = Some(i);
                }
            }
            let champion = champion.map(|i| i as u64 + 1);
            let kept = |number: &u64| *number + last as u64 > count as u64 || Some(*number) == champion;
            let expected: Vec<u64> = (1..=count as u64).rev().filter(kept).collect();
            assert_eq!(numbers(&rotation()), expected, "{best:?} {last}: after {count}");
            assert_eq!(rotation().best().unwrap().map(|found| found.checkpoint.run().epoch), champion);
            assert_eq!(rotation().latest().unwrap().unwrap().checkpoint.run().epoch, count as u64);
        }
    }
}

#[test]
fn without_a_word_all_are_kept_and_the_newest_always() {
    let scratch = Scratch::new("rotation-all");
    let net = network::<f32>();
    let all = Rotation::new(&scratch.0, "run").unwrap();
    assert!(all.latest().unwrap().is_none());
    let error = all.best().err().unwrap().to_string();
    assert!(error.contains("keep_best(Best::Min)"), "{error}");
    for _ in 0..3 {
        all.save(&Checkpoint::of(&net), None).unwrap();
    }
    assert_eq!(scratch.names(), ["run-00000001.brk", "run-00000002.brk", "run-00000003.brk"]);
    let none = all.keep_last(0);
    let rotated = none.save(&Checkpoint::of(&net), None).unwrap();
    assert_eq!(scratch.names(), ["run-00000004.brk"]);
    assert_eq!(rotated.removed, [1, 2, 3].map(|number| scratch.0.join(format!("run-0000000{number}.brk"))));
    assert!(none.keep_best(Best::Max).best().unwrap().is_none());
}

/// The loss of a training in f32, without a word about it.
#[test]
fn a_metric_may_be_of_either_precision() {
    let scratch = Scratch::new("rotation-precision");
    let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_best(Best::Min);
    let (net, wide) = (network::<f32>(), network::<f64>());
    let file = rotation.save(&Checkpoint::of(&net), 0.1_f32).unwrap().file;
    assert_eq!(file.metric, Some(f64::from(0.1_f32)));
    assert_eq!(scratch.names(), ["run-00000001-1.0000000149011612e-1.brk"]);
    rotation.save(&Checkpoint::of(&wide), 0.1).unwrap();
    rotation.save(&Checkpoint::of(&wide), Some(f64::from(f32::NAN))).unwrap();
    rotation.save(&Checkpoint::of(&net), f32::INFINITY).unwrap();
    let metrics: Vec<_> = rotation.files().unwrap().into_iter().map(|file| file.metric).collect();
    assert!(metrics[0] == Some(f64::INFINITY) && metrics[1].unwrap().is_nan(), "{metrics:?}");
    assert_eq!(rotation.best().unwrap().unwrap().file.metric, Some(0.1));
}

#[test]
fn only_files_of_this_rotation_are_removed() {
    let scratch = Scratch::new("rotation-foreign");
    let net = network::<f32>();
    let foreign = [
        "run.brk",
        "run-1.brk",
        "run-00000001.brk.bak",
        "run-2-00000001.brk",
        "notes.txt",
        "run-00000002-x.brk",
    ];
    for name in foreign {
        fs::write(scratch.0.join(name), "theirs").unwrap();
    }
    fs::create_dir(scratch.0.join("run-00000003.brk")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("notes.txt", scratch.0.join("run-00000004.brk")).unwrap();
    let other = Rotation::new(&scratch.0, "run-2").unwrap();
    other.save(&Checkpoint::of(&net), 1.0).unwrap();
    let before = scratch.names();

    let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_last(1);
    for number in 1..=3 {
        let rotated = rotation.save(&Checkpoint::of(&net), f64::from(number)).unwrap();
        assert_eq!(rotated.removed.len(), usize::from(number > 1));
    }
    let mut expected = before;
    expected.push("run-00000003-3e0.brk".to_string());
    expected.sort();
    assert_eq!(scratch.names(), expected);
    for name in foreign {
        assert_eq!(fs::read(scratch.0.join(name)).unwrap(), b"theirs");
    }
}

#[test]
fn a_save_that_fails_removes_nothing() {
    let scratch = Scratch::new("rotation-failing");
    let all = Rotation::new(&scratch.0, "run").unwrap();
    for metric in [1.0, 2.0, 3.0] {
        all.save(&Checkpoint::of(&network::<f32>()), metric).unwrap();
    }
    let before = scratch.names();
    let twice: Named<f32> = vec![("a", Tensor::from([1.0])), ("a", Tensor::from([2.0]))];
    let error = all.keep_last(1).save(&Checkpoint::of(&twice), 4.0).unwrap_err();
    assert!(matches!(error, RotationError::Save(_)), "{error}");
    assert_eq!(scratch.names(), before);
}

#[test]
fn damaged_files_are_passed_over_and_told() {
    let scratch = Scratch::new("rotation-damaged");
    let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_best(Best::Max);
    for metric in [2.0, 4.0, 3.0, 1.0] {
        rotation.save(&Checkpoint::of(&network::<f32>()), metric).unwrap();
    }
    let path = |number: usize, metric| scratch.0.join(format!("run-0000000{number}-{metric}e0.brk"));
    let cut = |path: &std::path::Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    };
    cut(&path(4, 1));
    cut(&path(2, 4));
    let latest = rotation.latest().unwrap().unwrap();
    assert_eq!((latest.file.number, latest.file.metric), (3, Some(3.0)));
    assert_eq!(latest.passed_over.len(), 1);
    assert_eq!(latest.passed_over[0].file, Some(path(4, 1)));
    assert!(matches!(latest.passed_over[0].problem, LoadProblem::Truncated { .. }));
    let best = rotation.best().unwrap().unwrap();
    assert_eq!((best.file.number, best.passed_over.len()), (3, 1));

    // Not the same as a run that has not begun.
    cut(&path(3, 3));
    cut(&path(1, 2));
    let error = rotation.latest().unwrap_err();
    assert!(matches!(&error, RotationError::NoneLoads { problems, .. } if problems.len() == 4), "{error}");
    assert!(error.to_string().contains("none of its 4 checkpoints can be loaded"), "{error}");
    assert!(rotation.best().is_err());
}

#[test]
fn names_and_folders_that_can_not_be() {
    let scratch = Scratch::new("rotation-names");
    for name in ["", ".run", "a/b", "..", "a\\b", "c:run", "a\0"] {
        assert!(matches!(Rotation::new(&scratch.0, name), Err(RotationError::Name { .. })), "{name:?}");
    }
    let missing = Rotation::new(scratch.0.join("missing"), "run").unwrap();
    let error = missing.save(&Checkpoint::of(&network::<f32>()), 1.0).unwrap_err();
    assert!(matches!(error, RotationError::Folder { .. }), "{error}");
    assert!(missing.latest().is_err());
}

/// Another writer in the folder can give a file any name.
#[test]
fn a_planted_name_neither_stops_a_rotation_nor_costs_the_best() {
    let scratch = Scratch::new("rotation-planted");
    let rotation = || Rotation::new(&scratch.0, "run").unwrap().keep_last(2).keep_best(Best::Min);
    let save = |epoch: u64, metric: f64| {
        rotation().save(&Checkpoint::of(&network::<f32>()).run(&self::epoch(epoch)), metric).unwrap()
    };
    save(1, 0.5);
    save(2, 0.9);
    save(3, 0.8);
    let whole = fs::read(scratch.0.join("run-00000003-8e-1.brk")).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut epochs = 3;
    for (name, content) in [
        ("run-00000000-inf.brk", &b"no checkpoint"[..]),
        ("run-00000000--inf.brk", b""),
        ("run-00000000--1e300.brk", b"no checkpoint"),
        ("run-00000000--1e300.brk", &whole[..whole.len() - 1]),
        ("run-00000000-NaN.brk", &whole),
        ("run-00000000-1e-1.brk", &flipped),
        ("run-18446744073709551615.brk", b"the last number"),
        ("run-18446744073709551614--1e300.brk", b"the last but one"),
        ("run-18446744073709551615-1e0.brk", &whole),
        ("run-99999999999.brk", b""),
    ] {
        fs::write(scratch.0.join(name), content).unwrap();
        for _ in 0..3 {
            epochs += 1;
            let rotated = save(epochs, 0.7);
            assert!(rotated.not_removed.is_empty(), "{name}: {rotated:?}");
            let best = rotation().best().unwrap().unwrap();
            assert_eq!(best.checkpoint.run().epoch, 1, "{name}");
            assert_eq!(rotation().latest().unwrap().unwrap().checkpoint.run().epoch, epochs, "{name}");
        }
        assert_eq!(scratch.names().len(), 3, "{name}: {:?}", scratch.names());
    }
    assert_eq!(numbers(&rotation()).len(), 3);

    // A whole file may be the best, and costs none either: however many there are, one is kept beside it.
    for number in [0, 5] {
        fs::write(scratch.0.join(format!("run-{number:08}--inf.brk")), &whole).unwrap();
    }
    for _ in 0..3 {
        epochs += 1;
        save(epochs, 0.7);
        assert_eq!(rotation().best().unwrap().unwrap().checkpoint.run().epoch, 3);
        let names = scratch.names();
        assert!(names.len() == 4 && names.iter().any(|name| name.ends_with("-5e-1.brk")), "{names:?}");
    }
}

/// Saved here, it needs nothing beside it.
#[test]
fn an_infinite_metric_is_a_number_and_nan_is_none() {
    let scratch = Scratch::new("rotation-infinite");
    let rotation = || Rotation::new(&scratch.0, "run").unwrap().keep_last(1).keep_best(Best::Min);
    let own = rotation();
    for (i, metric) in
        [f64::NAN, 3.0, f64::INFINITY, 2.0, f64::NEG_INFINITY, -1.0, f64::NAN].into_iter().enumerate()
    {
        own.save(&Checkpoint::of(&network::<f32>()).run(&epoch(i as u64)), metric).unwrap();
        assert!(own.files().unwrap().len() <= 2, "{:?}", own.files());
    }
    assert_eq!(rotation().best().unwrap().unwrap().checkpoint.run().epoch, 4);
    assert_eq!(rotation().latest().unwrap().unwrap().checkpoint.run().epoch, 6);
    // As good, and older by its name.
    let best = rotation().best().unwrap().unwrap().file.path;
    fs::copy(&best, scratch.0.join("run-00000000--inf.brk")).unwrap();
    for _ in 0..2 {
        own.save(&Checkpoint::of(&network::<f32>()), 1.0).unwrap();
        assert!(best.exists());
    }
}

#[cfg(unix)]
#[test]
fn a_folder_or_a_link_with_the_next_name_is_stepped_around() {
    let scratch = Scratch::new("rotation-next");
    let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_last(1);
    fs::create_dir(scratch.0.join("run-00000001.brk")).unwrap();
    std::os::unix::fs::symlink("elsewhere", scratch.0.join("run-00000002.brk")).unwrap();
    for number in [3, 4] {
        assert_eq!(rotation.save(&Checkpoint::of(&network::<f32>()), None).unwrap().file.number, number);
    }
    assert_eq!(scratch.names(), ["run-00000001.brk", "run-00000002.brk", "run-00000004.brk"]);
}

/// The disk may come back, so a file that can't be read now is neither the best nor removed.
#[cfg(unix)]
#[test]
fn what_can_not_be_read_at_the_moment_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new("rotation-unreadable");
    let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_last(1).keep_best(Best::Max);
    let save = |metric: f64| rotation.clone().save(&Checkpoint::of(&network::<f32>()), metric).unwrap();
    let best = save(0.9).file.path;
    save(0.8);
    let closed = |mode| fs::set_permissions(&best, fs::Permissions::from_mode(mode)).unwrap();
    closed(0o000);
    if fs::File::open(&best).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    fs::File::options().append(true).open(&best).unwrap_err();
    let fresh = Rotation::new(&scratch.0, "run").unwrap().keep_last(1).keep_best(Best::Max);
    fresh.save(&Checkpoint::of(&network::<f32>()), 0.7).unwrap();
    closed(0o600);
    assert_eq!(fresh.best().unwrap().unwrap().file.path, best);
}

/// A return to an older version of this crate doesn't lose the checkpoints of the later one.
#[test]
fn what_a_later_version_has_saved_is_kept() {
    let scratch = Scratch::new("rotation-newer");
    let rotation = || Rotation::new(&scratch.0, "run").unwrap().keep_last(1).keep_best(Best::Max);
    let save = |metric: f64| rotation().save(&Checkpoint::of(&network::<f32>()), metric).unwrap();
    save(0.7);
    let newer = scratch.0.join("run-00000000-9e-1.brk");
    fs::write(&newer, crate::forge::file(2, b"another header", &[])).unwrap();
    assert!(matches!(Checkpoint::open(&newer).unwrap_err().problem, LoadProblem::Newer { version: 2, .. }));
    for metric in [0.6, 0.5] {
        assert!(save(metric).not_removed.is_empty());
        let best = rotation().best().unwrap().unwrap();
        assert_eq!((best.file.metric, best.passed_over.len()), (Some(0.7), 1));
        assert!(newer.exists() && scratch.names().len() == 3, "{:?}", scratch.names());
    }
}

/// A file that was verified once is looked at again when it has changed.
#[test]
fn a_best_file_that_was_overwritten_is_the_best_no_longer() {
    let scratch = Scratch::new("rotation-overwritten");
    let rotation = Rotation::new(&scratch.0, "run").unwrap().keep_last(1).keep_best(Best::Min);
    let save = |metric: f64| rotation.save(&Checkpoint::of(&network::<f32>()), metric).unwrap().file.path;
    let best = save(0.1);
    save(0.5);
    let next = save(0.6);
    assert!(best.exists());
    fs::write(&best, "no checkpoint").unwrap();
    save(0.7);
    assert!(next.exists() && !best.exists(), "{:?}", scratch.names());
}
