//! Saving to files: the old one or the new one, and nothing left over.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Momentum, Named, bits, epoch, network, spoil};
use backrule_io::limits::{
    MAX_ARCHITECTURE_TEXT, MAX_HEADER, MAX_PATH, MAX_PROGRAM, MAX_SECTION, MAX_TENSORS,
};
use backrule_io::tensor::{Options, Tensor};
use backrule_io::{
    Checkpoint, FileError, FileKind, Group, LoadProblem, Run, SaveError, SectionProblem, TargetProblem,
};
use backrule_testkit::Scratch;

#[test]
fn a_file_is_replaced_by_the_next() {
    let scratch = Scratch::new("replace");
    let path = scratch.0.join("model.brk");
    let mut net = network::<f32>();
    Checkpoint::of(&net).run(&epoch(1)).save(&path).unwrap();
    spoil(&mut net);
    Checkpoint::of(&net).run(&epoch(2)).save(&path).unwrap();
    assert_eq!(scratch.names(), ["model.brk"]);
    let checkpoint = Checkpoint::load(&path).unwrap();
    assert_eq!(checkpoint.run().epoch, 2);
    let spoilt = bits(&net);
    net = network();
    checkpoint.restore(&mut net).unwrap();
    assert_eq!(bits(&net), spoilt);
    let bytes = Checkpoint::of(&net).run(&epoch(2)).to_bytes().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_can_not_be_saved_leaves_things_as_they_are() {
    let scratch = Scratch::new("not-committed");
    let net = network::<f32>();
    fs::create_dir(scratch.0.join("directory")).unwrap();
    fs::write(scratch.0.join("directory/kept"), "kept").unwrap();
    fs::write(scratch.0.join("file"), "kept").unwrap();
    for (name, expected) in [
        ("missing/model.brk", TargetProblem::NoFolder),
        ("file/model.brk", TargetProblem::NoFolder),
        ("directory", TargetProblem::Special(FileKind::Directory)),
        ("directory/..", TargetProblem::Special(FileKind::Directory)),
        ("new/", TargetProblem::NoName),
    ] {
        let path = scratch.0.join(name);
        let error = Checkpoint::of(&net).save(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: not saved: {expected}", path.display()));
        assert!(
            matches!(error, SaveError::File(FileError::Target { problem, .. }) if problem == expected),
            "{error}"
        );
    }
    assert_eq!(scratch.names(), ["directory", "file"]);
    assert_eq!(fs::read(scratch.0.join("directory/kept")).unwrap(), b"kept");
    assert_eq!(fs::read(scratch.0.join("file")).unwrap(), b"kept");
    assert!(Checkpoint::of(&net).save("").is_err());
    assert!(Checkpoint::of(&net).save("/").is_err());
}

#[test]
fn what_is_refused_touches_no_file() {
    let scratch = Scratch::new("refused");
    let path = scratch.0.join("model.brk");
    fs::write(&path, "old").unwrap();
    let twice = vec![("a", Tensor::from([1.0_f32])), ("a", Tensor::from([2.0]))];
    let error = Checkpoint::of(&twice).save(&path).unwrap_err();
    let SaveError::Duplicate { group, path: name } = error else {
        panic!("{error}");
    };
    assert_eq!((group, name.as_str()), (Group::Network, "a"));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(scratch.names(), ["model.brk"]);
}

#[test]
fn a_run_that_diverged_does_not_replace_the_last_checkpoint() {
    let scratch = Scratch::new("finite");
    let path = scratch.0.join("model.brk");
    let good: Named<f64> =
        vec![("w", Tensor::from([f64::MAX, -0.0, 5e-324])), ("none", Tensor::zeros([0]).unwrap())];
    let state = |velocity: f64| Momentum {
        velocities: vec![("w.velocity", Tensor::from([0.0, velocity, 1.0]))],
        steps: 1,
        options: Options::new().with("anything", f64::NAN),
    };
    Checkpoint::of(&good).optimizer(&state(1.0)).finite_only().save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut net = good.clone();
        net[0].1.as_mut_slice()[2] = bad;
        let (fine, diverged) = (state(1.0), state(bad));
        for (error, expected) in [
            (Checkpoint::of(&net).optimizer(&fine).finite_only().save(&path), (Group::Network, "w", 2)),
            (
                Checkpoint::of(&good).optimizer(&diverged).finite_only().save(&path),
                (Group::Optimizer, "w.velocity", 1),
            ),
        ] {
            let Err(SaveError::NotFinite { group, path, at, value }) = error else { panic!("saved") };
            assert_eq!((group, path.as_str(), at), expected);
            assert_eq!(value.to_bits(), bad.to_bits());
        }
        assert_eq!(fs::read(&path).unwrap(), before);
        // Nobody asked.
        Checkpoint::of(&net).optimizer(&diverged).to_bytes().unwrap();
    }
    assert_eq!(scratch.names(), ["model.brk"]);
}

#[test]
fn the_limits_hold_when_writing() {
    let named = |count: usize, length: usize| -> Vec<(String, Tensor)> {
        let name = |i| format!("{i:0length$}");
        let empty = Tensor::zeros([0]).unwrap();
        (0..count).map(|i| (name(i), empty.clone())).collect()
    };
    let limit = |net: &Vec<(String, Tensor)>| match Checkpoint::of(net).to_bytes() {
        Err(SaveError::Limit(error)) => Err((error.found, error.limit)),
        Ok(bytes) => {
            Checkpoint::from_bytes(&bytes).unwrap();
            Ok(())
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(limit(&named(MAX_TENSORS, 5)), Ok(()));
    assert_eq!(limit(&named(MAX_TENSORS + 1, 5)), Err((MAX_TENSORS + 1, MAX_TENSORS)));
    assert_eq!(limit(&named(1, MAX_PATH)), Ok(()));
    assert_eq!(limit(&named(1, MAX_PATH + 1)), Err((MAX_PATH + 1, MAX_PATH)));
    let (_, most) = limit(&named(MAX_TENSORS, MAX_PATH)).unwrap_err();
    assert_eq!(most, MAX_HEADER);

    // A string of MessagePack has five bytes before its text.
    let net = network::<f32>();
    let text = |length| Checkpoint::of(&net).metadata(&"x".repeat(length));
    let bytes = text(MAX_SECTION - 5).unwrap().to_bytes().unwrap();
    Checkpoint::from_bytes(&bytes).unwrap();
    let error = text(MAX_SECTION - 4).unwrap_err();
    assert!(matches!(error.problem, SectionProblem::Limit(_)), "{error}");

    let text = |length| Checkpoint::of(&net).architecture(&vec![("x".repeat(length), 1)]);
    let bytes = text(MAX_ARCHITECTURE_TEXT).unwrap().to_bytes().unwrap();
    Checkpoint::from_bytes(&bytes).unwrap();
    let error = text(MAX_ARCHITECTURE_TEXT + 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "architecture: would be written but could not be read back: a text of 1025 bytes, and the limit is 1024"
    );

    let program = |length| Run { program: Some("x".repeat(length)), ..Run::default() };
    let program = |length| Checkpoint::of(&net).run(&program(length)).to_bytes();
    Checkpoint::from_bytes(&program(MAX_PROGRAM).unwrap()).unwrap();
    let error = program(MAX_PROGRAM + 1).unwrap_err();
    assert!(matches!(error, SaveError::Limit(_)), "{error}");
}

/// A bare file name has no directory in it. The current directory belongs to the whole process: hence another
/// one.
#[test]
fn a_bare_file_name_is_saved_where_we_are() {
    const CHILD: &str = "BACKRULE_IO_TEST_BARE_NAME";
    if std::env::var_os(CHILD).is_some() {
        Checkpoint::of(&network::<f32>()).run(&epoch(5)).save("model.brk").unwrap();
        return;
    }
    let scratch = Scratch::new("bare");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "save::a_bare_file_name_is_saved_where_we_are"])
        .env(CHILD, "1")
        .current_dir(&scratch.0)
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let checkpoint = Checkpoint::load(scratch.0.join("model.brk")).unwrap();
    assert_eq!(checkpoint.run().epoch, 5);
    assert_eq!(scratch.names(), ["model.brk"]);
}

/// The state that writer number `i` saves. Different lengths: a mixture of two would not even add up.
fn state(i: u64) -> Named<f32> {
    vec![("a", Tensor::full([50_000 + 1000 * i as usize], i as f32).unwrap())]
}

/// Loads again and again while others write, until `done`: each time one writer's state, whole.
fn watch(path: &Path, writers: u64, mut done: impl FnMut() -> bool) {
    let states: Vec<_> = (0..writers)
        .map(|i| (state(i), Checkpoint::of(&state(i)).run(&epoch(i)).to_bytes().unwrap()))
        .collect();
    let mut loads = 0;
    while !done() || loads == 0 {
        let checkpoint = Checkpoint::load(path).unwrap();
        let (mut net, bytes) = states[checkpoint.run().epoch as usize].clone();
        spoil(&mut net);
        checkpoint.restore(&mut net).unwrap();
        assert_eq!(Checkpoint::of(&net).run(checkpoint.run()).to_bytes().unwrap(), bytes);
        loads += 1;
    }
}

#[test]
fn threads_that_save_at_once_do_not_meet() {
    let scratch = Scratch::new("threads");
    let path = scratch.0.join("model.brk");
    Checkpoint::of(&state(0)).save(&path).unwrap();
    std::thread::scope(|scope| {
        let save =
            |i| (0..10).for_each(|_| _ = Checkpoint::of(&state(i)).run(&epoch(i)).save(&path).unwrap());
        let writers: Vec<_> = (0..4).map(|i| scope.spawn(move || save(i))).collect();
        watch(&path, 4, || writers.iter().all(|writer| writer.is_finished()));
    });
    assert_eq!(scratch.names(), ["model.brk"]);
}

#[test]
fn processes_that_save_at_once_do_not_meet() {
    const CHILD: &str = "BACKRULE_IO_TEST_WRITER";
    if let Ok(i) = std::env::var(CHILD) {
        let i: u64 = i.parse().unwrap();
        (0..10).for_each(|_| _ = Checkpoint::of(&state(i)).run(&epoch(i)).save("model.brk").unwrap());
        return;
    }
    let scratch = Scratch::new("processes");
    let path = scratch.0.join("model.brk");
    Checkpoint::of(&state(0)).save(&path).unwrap();
    let writer = |i: u64| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "save::processes_that_save_at_once_do_not_meet"])
            .env(CHILD, i.to_string())
            .current_dir(&scratch.0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut writers: Vec<_> = (0..4).map(writer).collect();
    watch(&path, 4, || writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_some()));
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    assert_eq!(scratch.names(), ["model.brk"]);
}

#[test]
fn loading_names_the_file() {
    let scratch = Scratch::new("load-errors");
    let path = scratch.0.join("model.brk");
    let error = Checkpoint::load(&path).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::Io(_)), "{error}");
    assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    let error = Checkpoint::load(&scratch.0).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::Special(FileKind::Directory)), "{error}");

    let net: Named<f32> = network();
    Checkpoint::of(&net).save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = Checkpoint::load(&path).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::Truncated { .. }), "{error}");
    assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    fs::write(&path, "something else").unwrap();
    let error = Checkpoint::load(&path).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::NotACheckpoint), "{error}");
}
