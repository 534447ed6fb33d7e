//! The texts of errors and summaries.

use std::error::Error as _;
use std::io;

use backrule_io::{
    Checkpoint, FileError, FileKind, Group, LoadProblem, Malformed, Part, Rotation, SaveError, SaveStep,
    Section,
};

#[test]
fn a_damaged_part_has_a_name() {
    let path = "fc1.weight".to_string();
    for (part, name) in [
        (Part::Envelope, "its first bytes"),
        (Part::Header, "its header"),
        (Part::Tensor { group: Group::Network, path: path.clone() }, "network `fc1.weight`"),
        (Part::Tensor { group: Group::Optimizer, path }, "optimizer `fc1.weight`"),
        (Part::Whole, "the whole"),
    ] {
        let expected = format!(
            "damaged: the checksum of {name} doesn't match; copy it again or take an older checkpoint"
        );
        assert_eq!(LoadProblem::Checksum(part).to_string(), expected);
    }
}

#[test]
fn what_is_no_file_is_named() {
    for (kind, name) in [
        (FileKind::Directory, "a directory"),
        (FileKind::Pipe, "a pipe"),
        (FileKind::Socket, "a socket"),
        (FileKind::Device, "a device"),
        (FileKind::Other, "something else than a file"),
    ] {
        assert_eq!(LoadProblem::Special(kind).to_string(), format!("there is {name}, not a file"));
    }
}

#[test]
fn a_save_that_failed_tells_at_what() {
    for (step, doing) in [
        (SaveStep::Look, "looking at what is there"),
        (SaveStep::Create, "creating a file beside it"),
        (SaveStep::Permissions, "setting the permissions of the file beside it"),
        (SaveStep::Write, "writing"),
        (SaveStep::Sync, "syncing"),
        (SaveStep::Rename, "renaming the file beside it"),
    ] {
        let error = io::Error::other("full");
        let error = SaveError::from(FileError::NotCommitted { file: "a.brk".into(), step, error });
        assert!(error.to_string().starts_with("a.brk: not saved"), "{error}");
        assert!(error.to_string().contains(doing), "{error}");
    }
}

#[test]
fn sizes_that_do_not_add_up_are_told() {
    for (tensors, end) in [(Some(12), ": they need 12"), (None, "")] {
        let text = Malformed::PayloadSize { claimed: 8, tensors }.to_string();
        assert_eq!(text, format!("its payload has 8 bytes, but its tensors don't add up to that{end}"));
    }
}

/// The message holds that of its cause already, so a print of the chain doesn't show it twice.
#[test]
fn a_cause_is_told_once() {
    let problem = LoadProblem::Io(io::Error::other(Malformed::Shrank));
    let mut error = Checkpoint::from_bytes(&[]).unwrap_err();
    (error.file, error.problem) = (Some("a.brk".into()), problem);
    assert_eq!(error.to_string(), format!("a.brk: can't be read: {}", Malformed::Shrank));
    assert!(error.source().is_none());
    assert_eq!(format!("{error:?}"), error.to_string());
    assert!(format!("{error:#?}").contains("error: Shrank"), "{error:#?}");
}

/// The message of a program that runs in another folder names that folder.
#[test]
fn a_relative_path_that_is_not_there_is_told_with_the_current_folder() {
    let folder = std::env::current_dir().unwrap();
    let end = format!("; the current folder is {}", folder.display());
    let missing = "no-such-folder/net.brk";
    let net = crate::common::network::<f32>();
    let of_loading = |path: &str| Checkpoint::load(path).unwrap_err().to_string();
    let of_saving = |path: &str| Checkpoint::of(&net).save(path).unwrap_err().to_string();
    let of_rotation = |path: &str| Rotation::new(path, "a").unwrap().latest().unwrap_err().to_string();
    for error in [of_loading(missing), of_saving(missing), of_rotation("no-such-folder")] {
        assert!(error.starts_with("no-such-folder") && error.ends_with(&end), "{error}");
    }
    // An absolute path says all, and so does another fault.
    let absolute = folder.join(missing).display().to_string();
    for error in [of_loading(&absolute), of_saving(&absolute), of_rotation(&absolute), of_loading("src")] {
        assert!(!error.contains("current folder"), "{error}");
    }
}

#[test]
fn debug_is_a_summary() {
    let (net, optimizer) = (crate::common::network::<f32>(), crate::common::optimizer());
    let bytes = Checkpoint::of(&net).optimizer(&optimizer).run(&crate::common::epoch(3)).to_bytes().unwrap();
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    let text = format!("{checkpoint:?}");
    assert!(text.starts_with("Checkpoint { run: ") && text.contains("epoch: 3"), "{text}");
    assert!(text.contains("tensors: 5"), "{text}");
    // The network's alone: 2·3 + 1 + 0·3 + 2.
    assert_eq!(checkpoint.element_count(), 9);
}

#[test]
fn an_empty_path_is_named() {
    let error = Checkpoint::load("").unwrap_err().to_string();
    assert!(error.starts_with("an empty path: "), "{error}");
}

/// A file's creator chooses its name and its contents.
#[test]
fn paths_and_contents_are_escaped() {
    let name = "\u{1b}[2J\u{202e}.brk";
    let net = crate::common::network::<f32>();
    let errors = [
        Checkpoint::load(name).unwrap_err().to_string(),
        Checkpoint::of(&net).save(format!("{name}/a.brk")).unwrap_err().to_string(),
        Rotation::new(name, "a").unwrap().latest().unwrap_err().to_string(),
        Malformed::SectionContent { section: Section::Metadata, reason: name.to_string() }.to_string(),
        Malformed::OptionKind { name: name.to_string(), code: 9 }.to_string(),
    ];
    for error in errors {
        assert!(error.contains(r"\u{1b}[2J\u{202e}"), "{error:?}");
        assert!(!error.contains(['\u{1b}', '\u{202e}']), "{error:?}");
    }
}
