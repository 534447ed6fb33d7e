//! Saving to files: the old one or the new one, and nothing left over.

use std::fs;
use std::process::Command;

use crate::common::{Named, Scratch, bits, network, spoil};
use backrule_io::limits::{MAX_HEADER, MAX_METADATA, MAX_PATH, MAX_TENSORS};
use backrule_io::tensor::Tensor;
use backrule_io::{Checkpoint, Group, LoadProblem, MetadataError, SaveError};

#[test]
fn a_file_is_replaced_by_the_next() {
    let scratch = Scratch::new("replace");
    let path = scratch.0.join("model.brk");
    let mut net = network::<f32>();
    Checkpoint::of(&net).epoch(1).save(&path).unwrap();
    spoil(&mut net);
    Checkpoint::of(&net).epoch(2).save(&path).unwrap();
    assert_eq!(scratch.names(), ["model.brk"]);
    let checkpoint = Checkpoint::load(&path).unwrap();
    assert_eq!(checkpoint.epoch(), 2);
    let spoilt = bits(&net);
    net = network();
    checkpoint.restore(&mut net).unwrap();
    assert_eq!(bits(&net), spoilt);
    let bytes = Checkpoint::of(&net).epoch(2).to_bytes().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_can_not_be_saved_leaves_things_as_they_are() {
    let scratch = Scratch::new("not-committed");
    let net = network::<f32>();
    let failing = |name: &str| {
        let path = scratch.0.join(name);
        let error = Checkpoint::of(&net).save(&path).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with(path.to_str().unwrap()), "{message}");
        assert!(matches!(error, SaveError::NotCommitted { .. }), "{message}");
    };
    fs::create_dir(scratch.0.join("directory")).unwrap();
    fs::write(scratch.0.join("directory/kept"), "kept").unwrap();
    fs::write(scratch.0.join("file"), "kept").unwrap();
    failing("missing/model.brk");
    failing("directory");
    failing("file/model.brk");
    failing("directory/..");
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
    let bytes = text(MAX_METADATA - 5).unwrap().to_bytes().unwrap();
    Checkpoint::from_bytes(&bytes).unwrap();
    let error = text(MAX_METADATA - 4).unwrap_err();
    assert!(matches!(error, MetadataError::Limit(_)), "{error}");
}

/// A bare file name has no directory in it. The current directory belongs to the whole process: hence another one.
#[test]
fn a_bare_file_name_is_saved_where_we_are() {
    const CHILD: &str = "BACKRULE_IO_TEST_BARE_NAME";
    if std::env::var_os(CHILD).is_some() {
        Checkpoint::of(&network::<f32>()).epoch(5).save("model.brk").unwrap();
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
    assert_eq!(checkpoint.epoch(), 5);
    assert_eq!(scratch.names(), ["model.brk"]);
}

#[test]
fn threads_that_save_at_once_do_not_meet() {
    let scratch = Scratch::new("threads");
    let path = scratch.0.join("model.brk");
    let net = vec![("a", Tensor::<f32>::zeros([100_000]).unwrap())];
    std::thread::scope(|scope| {
        for epoch in 0..4 {
            let (net, path) = (&net, &path);
            scope.spawn(move || {
                for _ in 0..5 {
                    Checkpoint::of(net).epoch(epoch).save(path).unwrap();
                    Checkpoint::load(path).unwrap();
                }
            });
        }
    });
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
    assert!(matches!(error.problem, LoadProblem::Io(_)), "{error}");

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
