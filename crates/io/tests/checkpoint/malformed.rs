//! Files that lie, each with the very error that it has to give, and some that only look as if they did.

use crate::forge::{Forged, GATES, entry, file, fixed, load, load_within_limits, sized};
use backrule_io::limits::{
    MAX_HEADER, MAX_OPTION_NAME, MAX_OPTIONS, MAX_PATH, MAX_PROGRAM, MAX_SECTION, MAX_TENSORS,
};
use backrule_io::{Checkpoint, Group, LoadProblem, Malformed, Part, Section};

fn limit(what: &str, found: usize, limit: usize) -> LoadProblem {
    let mut problem = Checkpoint::from_bytes(&fixed(1, 0, u64::MAX, 0, 0)).unwrap_err().problem;
    if let LoadProblem::Limit(error) = &mut problem {
        (error.what, error.found, error.limit) = (what.to_string(), found, limit);
    }
    problem
}

fn tensor(group: Group, path: &str) -> LoadProblem {
    LoadProblem::Checksum(Part::Tensor { group, path: path.to_string() })
}

fn section(section: Section) -> LoadProblem {
    LoadProblem::Malformed(Malformed::SectionContent { section, reason: String::new() })
}

/// The problem as text, short of the words of MessagePack's decoder.
fn text(mut problem: LoadProblem) -> String {
    match &mut problem {
        LoadProblem::Malformed(Malformed::SectionContent { reason, .. }) => reason.clear(),
        LoadProblem::Malformed(Malformed::Shape { reason, .. }) => reason.clear(),
        _ => {}
    }
    format!("{problem:#?}")
}

/// Every file, by its defect.
fn table() -> Vec<(&'static str, Vec<u8>, LoadProblem)> {
    use LoadProblem::{Checksum, Newer, NotACheckpoint, Truncated};
    use Malformed as M;
    let good = Forged::new();
    let whole = good.file();
    let (header, payload) = (good.header(), good.payload.clone());
    let length = whole.len() as u64;
    let (h, p) = (header.len() as u64, payload.len() as u64);
    let crc = crc32fast::hash(&header);
    // The same file with other first bytes, or with a byte changed where only the named checksum covers it.
    let first = |version, flags, h, p, crc| [&fixed(version, flags, h, p, crc)[..], &whole[40..]].concat();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let with = |name: &str, bytes: &[u8]| good.clone().with(name, bytes).file();
    let many = |sizes: &[&[u64]]| {
        let mut header = vec![0; 31];
        header.extend((sizes.len() as u32).to_le_bytes());
        for (i, sizes) in sizes.iter().enumerate() {
            header.extend(entry(&[b'a' + i as u8], 2, sizes, &[]));
        }
        file(1, &header, &[])
    };
    let one = |sizes: &[u64]| many(&[sizes]);
    let shape = |path: &str| M::Shape { group: Group::Network, path: path.into(), reason: String::new() };
    let element = |code| M::ElementType { group: Group::Network, path: "w".into(), code };
    let twice = |group| M::DuplicatePath { group, path: "w".into() };
    let huge = u64::MAX.to_le_bytes();
    let list = |values: u32| [&[5][..], &values.to_le_bytes()].concat();
    let w = &payload[..8];
    let mut table: Vec<(&str, Vec<u8>, LoadProblem)> = vec![
        // The first bytes.
        ("nothing", vec![], Truncated { expected: 44, found: 0 }),
        ("another format", b"PK\x03\x04 and so on".to_vec(), NotACheckpoint),
        ("magic cut short", whole[..7].to_vec(), Truncated { expected: 44, found: 7 }),
        ("first bytes cut short", whole[..39].to_vec(), Truncated { expected: 44, found: 39 }),
        ("LF to CR LF", [b"\x8bBRK\r\r\n\x1a\r\n", &whole[8..]].concat(), NotACheckpoint),
        ("CR LF to LF", [b"\x8bBRK\n\x1a\n", &whole[8..]].concat(), NotACheckpoint),
        ("CR to LF", [b"\x8bBRK\n\n\x1a\n", &whole[8..]].concat(), NotACheckpoint),
        ("seven bits", [b"\x0bBRK\r\n\x1a\n", &whole[8..]].concat(), NotACheckpoint),
        ("as UTF-8", [b"\xc2\x8bBRK\r\n\x1a\n", &whole[8..]].concat(), NotACheckpoint),
        ("version 0", first(0, 0, h, p, crc), M::Version.into()),
        ("version 2", first(2, 0, h, p, crc), Newer { version: 2, flags: 0, latest: 1 }),
        ("last version", first(u32::MAX, 0, h, p, crc), Newer { version: u32::MAX, flags: 0, latest: 1 }),
        ("a flag", first(1, 1, h, p, crc), Newer { version: 1, flags: 1, latest: 1 }),
        ("last flag", first(1, 1 << 31, h, p, crc), Newer { version: 1, flags: 1 << 31, latest: 1 }),
        ("other first bytes", flipped(9), Checksum(Part::Envelope)),
        ("other checksum of first bytes", flipped(36), Checksum(Part::Envelope)),
        ("other checksum of header", first(1, 0, h, p, crc ^ 1), Checksum(Part::Header)),
        (
            "header above limit",
            first(1, 0, 16_777_217, p, crc),
            limit("bytes of the header", 16_777_217, MAX_HEADER),
        ),
        ("huge header", first(1, 0, u64::MAX, p, crc), limit("bytes of the header", usize::MAX, MAX_HEADER)),
        ("huge payload", first(1, 0, h, u64::MAX, crc), M::LengthsOverflow.into()),
        ("lengths wrap around", first(1, 0, h, p.wrapping_sub(h + 1 + p), crc), M::LengthsOverflow.into()),
        (
            "half of all bytes",
            first(1, 0, h, 1 << 63, crc),
            Truncated { expected: (1 << 63) + 44 + h, found: length },
        ),
        ("header too long", first(1, 0, h + 1, p, crc), Truncated { expected: length + 1, found: length }),
        (
            "payload too short",
            first(1, 0, h, p - 1, crc),
            M::TrailingBytes { expected: length - 1, found: length }.into(),
        ),
        (
            "a byte at the end",
            [&whole[..], &[0]].concat(),
            M::TrailingBytes { expected: length, found: length + 1 }.into(),
        ),
        ("twice", whole.repeat(2), M::TrailingBytes { expected: length, found: 2 * length }.into()),
        ("cut short", whole[..whole.len() - 1].to_vec(), Truncated { expected: length, found: length - 1 }),
        // The header's own fields.
        ("no header", file(1, &[], &[]), M::HeaderEnds { field: "the epoch" }.into()),
        (
            "header cut in a number",
            file(1, &header[..20], &[]),
            M::HeaderEnds { field: "the position" }.into(),
        ),
        ("header without seed", file(1, &header[..24], &[]), M::HeaderEnds { field: "the seed" }.into()),
        (
            "header cut in the last checksum",
            file(1, &header[..header.len() - 1], &payload),
            M::HeaderEnds { field: "a tensor's checksum" }.into(),
        ),
        ("spare byte", file(1, &[&header[..], &[0]].concat(), &payload), M::SpareBytes { count: 1 }.into()),
        ("mark of the seed", with("seed", &[2]), M::Tag { field: "the seed" }.into()),
        ("mark of the program", with("program", &[255]), M::Tag { field: "the program" }.into()),
        (
            "huge program",
            with("program", &[&[1][..], &huge].concat()),
            M::HeaderEnds { field: "the program" }.into(),
        ),
        (
            "program not UTF-8",
            with("program", &[&[1][..], &sized(&[0xff])].concat()),
            M::Utf8 { field: "the program" }.into(),
        ),
        (
            "program above limit",
            with("program", &[&[1][..], &sized(&[b'p'; 257])].concat()),
            limit("bytes of the program's version", 257, MAX_PROGRAM),
        ),
        // Sections.
        (
            "four billion sections",
            with("sections", &[255; 4]),
            M::SectionOrder { section: Section::Metadata }.into(),
        ),
        (
            "section 0",
            with("metadata", &[&[0][..], &sized(&[0xc0])].concat()),
            M::UnknownSection { code: 0 }.into(),
        ),
        (
            "section 5",
            with("metrics", &[&[5][..], &sized(&[0xc0])].concat()),
            M::UnknownSection { code: 5 }.into(),
        ),
        (
            "section twice",
            with("metrics", &[&[1][..], &sized(&[0xc0])].concat()),
            M::SectionOrder { section: Section::Metadata }.into(),
        ),
        (
            "sections out of order",
            with("metadata", &[&[3][..], &sized(&[0xc0])].concat()),
            M::SectionOrder { section: Section::Metrics }.into(),
        ),
        (
            "huge section",
            with("metadata", &[&[1][..], &huge].concat()),
            M::HeaderEnds { field: "a section" }.into(),
        ),
        (
            "section beyond 32 bits",
            with("metadata", &[&[1][..], &(1_u64 << 32).to_le_bytes()].concat()),
            M::HeaderEnds { field: "a section" }.into(),
        ),
        (
            "section above limit",
            with("metadata", &[&[1][..], &sized(&vec![0xc0; MAX_SECTION + 1])].concat()),
            limit("bytes of metadata", MAX_SECTION + 1, MAX_SECTION),
        ),
        ("empty section", with("metrics", &[&[2][..], &sized(&[])].concat()), section(Section::Metrics)),
        (
            "two values in a section",
            with("metadata", &[&[1][..], &sized(&[0xc0, 0xc0])].concat()),
            section(Section::Metadata),
        ),
        (
            "no MessagePack",
            with("metadata", &[&[1][..], &sized(&[0xc1])].concat()),
            section(Section::Metadata),
        ),
        (
            "long text in an architecture",
            with("metrics", &[&[4][..], &sized(&[&[0xda, 0x10, 0x01][..], &[b'x'; 4097]].concat())].concat()),
            section(Section::Architecture),
        ),
        (
            "array of four billion",
            with("metadata", &[&[1][..], &sized(&[0xdd, 255, 255, 255, 255, 0xc0])].concat()),
            section(Section::Metadata),
        ),
        (
            "text of four billion",
            with("metadata", &[&[1][..], &sized(&[0xdb, 255, 255, 255, 255, b'x'])].concat()),
            section(Section::Metadata),
        ),
        (
            "nested 200 deep",
            with("metadata", &[&[1][..], &sized(&[&[0x91; 200][..], &[0xc0]].concat())].concat()),
            section(Section::Metadata),
        ),
        (
            "nested a million deep",
            with("metadata", &[&[1][..], &sized(&[&[0x91; 1_000_000][..], &[0xc0]].concat())].concat()),
            section(Section::Metadata),
        ),
        (
            "enums a million deep",
            with(
                "metadata",
                &[&[1][..], &sized(&[&b"\x81\xa1C".repeat(1_000_000)[..], &[0xc0]].concat())].concat(),
            ),
            section(Section::Metadata),
        ),
        // The optimizer.
        ("mark of the optimizer", with("optimizer", &[2]), M::Tag { field: "the optimizer's steps" }.into()),
        ("65 options", with("options", &65_u32.to_le_bytes()), limit("options", 65, 64)),
        ("huge option's name", with("rate", &huge), M::HeaderEnds { field: "an option's name" }.into()),
        (
            "option's name not UTF-8",
            with("rate", &sized(&[0xc0, 0x80])),
            M::Utf8 { field: "an option's name" }.into(),
        ),
        (
            "option's name above limit",
            with("rate", &sized(&[b'r'; 65])),
            limit("bytes of an option's name", 65, MAX_OPTION_NAME),
        ),
        (
            "option of kind 0",
            with("flag", &[&sized(b"flag")[..], &[0, 1]].concat()),
            M::OptionKind { name: "flag".into(), code: 0 }.into(),
        ),
        (
            "option of kind 6",
            with("flag", &[&sized(b"flag")[..], &[6, 1]].concat()),
            M::OptionKind { name: "flag".into(), code: 6 }.into(),
        ),
        (
            "flag of 2",
            with("flag", &[&sized(b"flag")[..], &[3, 2]].concat()),
            M::Tag { field: "an option" }.into(),
        ),
        (
            "option twice",
            with("flag", &[&sized(b"rate")[..], &[3, 1]].concat()),
            M::DuplicateOption { name: "rate".into() }.into(),
        ),
        (
            "word not UTF-8",
            with("word", &[&sized(b"word")[..], &[4], &sized(&[0xff])].concat()),
            M::Utf8 { field: "an option" }.into(),
        ),
        (
            "word above limit",
            with("word", &[&sized(b"word")[..], &[4], &sized(&[b'w'; 257])].concat()),
            limit("bytes of an option's word", 257, 256),
        ),
        (
            "huge word",
            with("word", &[&sized(b"word")[..], &[4], &huge].concat()),
            M::HeaderEnds { field: "an option" }.into(),
        ),
        (
            "list of four billion",
            with("list", &[&sized(b"list")[..], &[5, 255, 255, 255, 255]].concat()),
            limit("values in the lists of all options", u32::MAX as usize, 4096),
        ),
        (
            "lists above limit together",
            with("list", &[&sized(b"list")[..], &list(2), &list(4095)].concat()),
            limit("values in the lists of all options", 4097, 4096),
        ),
        (
            "values that are not there",
            with("list", &[&sized(b"list")[..], &list(4096)].concat()),
            M::OptionKind { name: "list".into(), code: 0 }.into(),
        ),
        (
            "lists nested 3 deep",
            with("list", &[&sized(b"list")[..], &list(1), &list(1), &list(0)].concat()),
            limit("lists within each other in an option", 3, 2),
        ),
        (
            "lists nested 1000 deep",
            with("list", &[&sized(b"list")[..], &list(1).repeat(1000)].concat()),
            limit("lists within each other in an option", 3, 2),
        ),
        // Tensors.
        (
            "65,537 tensors",
            with("network", &65_537_u32.to_le_bytes()),
            limit("tensors of the network", 65_537, MAX_TENSORS),
        ),
        (
            "four billion tensors",
            with("state", &[255; 4]),
            limit("tensors of the optimizer", u32::MAX as usize, MAX_TENSORS),
        ),
        (
            "tensors that are not there",
            with("state", &65_536_u32.to_le_bytes()),
            M::HeaderEnds { field: "a tensor's path" }.into(),
        ),
        ("huge path", with("w", &huge), M::HeaderEnds { field: "a tensor's path" }.into()),
        (
            "path beyond 32 bits",
            with("w", &(1_u64 << 32).to_le_bytes()),
            M::HeaderEnds { field: "a tensor's path" }.into(),
        ),
        (
            "path longer than the header",
            with("w", &(h + 1).to_le_bytes()),
            M::HeaderEnds { field: "a tensor's path" }.into(),
        ),
        (
            "path not UTF-8",
            with("w", &entry(&[0xff], 1, &[2], w)),
            M::Utf8 { field: "a tensor's path" }.into(),
        ),
        (
            "path with half a surrogate",
            with("w", &entry(b"\xed\xa0\x80", 1, &[2], w)),
            M::Utf8 { field: "a tensor's path" }.into(),
        ),
        (
            "path above limit",
            with("w", &entry(&[b'w'; 513], 1, &[2], w)),
            limit("bytes of a tensor's path", 513, MAX_PATH),
        ),
        ("path twice", with("s", &entry(b"w", 1, &[], &payload[8..12])), twice(Group::Network).into()),
        ("elements of type 0", with("w", &entry(b"w", 0, &[2], w)), element(0).into()),
        ("elements of type 3", with("w", &entry(b"w", 3, &[2], w)), element(3).into()),
        ("7 axes", with("w", &entry(b"w", 1, &[1; 7], w)), limit("axes of a tensor", 7, 6)),
        ("255 axes", with("w", &[&sized(b"w")[..], &[1, 255]].concat()), limit("axes of a tensor", 255, 6)),
        ("huge size", one(&[u64::MAX]), shape("a").into()),
        ("product of sizes overflows", one(&[1 << 32, 1 << 32]), shape("a").into()),
        ("product of sizes wraps to 0", one(&[1 << 32, 1 << 32, 1 << 32]), shape("a").into()),
        ("a size of 0 hides an overflow", one(&[1 << 40, 0, 1 << 40]), shape("a").into()),
        ("a huge size beside 0", one(&[u64::MAX, 0]), shape("a").into()),
        (
            "sum of sizes overflows",
            many(&[&[1 << 59][..]; 4]),
            M::PayloadSize { claimed: 0, tensors: None }.into(),
        ),
        (
            "sum of sizes just doesn't overflow",
            many(&[&[1 << 59][..]; 3]),
            M::PayloadSize { claimed: 0, tensors: Some(3 << 62) }.into(),
        ),
        (
            "tensor of a quarter of all bytes",
            one(&[1 << 59]),
            M::PayloadSize { claimed: 0, tensors: Some(1 << 62) }.into(),
        ),
        (
            "tensor too large",
            with("w", &entry(b"w", 1, &[3], w)),
            M::PayloadSize { claimed: 20, tensors: Some(24) }.into(),
        ),
        (
            "tensor too small",
            with("w", &entry(b"w", 1, &[1], w)),
            M::PayloadSize { claimed: 20, tensors: Some(16) }.into(),
        ),
        (
            "f64 instead of f32",
            with("w", &entry(b"w", 2, &[2], w)),
            M::PayloadSize { claimed: 20, tensors: Some(28) }.into(),
        ),
        (
            "elements missing",
            file(1, &header, &payload[4..]),
            M::PayloadSize { claimed: 16, tensors: Some(20) }.into(),
        ),
        (
            "elements left over",
            file(1, &header, &[&payload[..], &[0; 4]].concat()),
            M::PayloadSize { claimed: 24, tensors: Some(20) }.into(),
        ),
        // Elements.
        (
            "other elements",
            file(1, &header, &[&[0][..], &payload[1..]].concat()).tap(|bytes| bytes[40 + header.len()] = 9),
            tensor(Group::Network, "w"),
        ),
        (
            "tensors out of order",
            file(1, &header, &[&payload[12..], &payload[8..12], w].concat()),
            tensor(Group::Network, "w"),
        ),
        ("other checksum of a tensor", with("v", &entry(b"w", 1, &[2], &[])), tensor(Group::Optimizer, "w")),
        ("other last checksum", flipped(whole.len() - 1), Checksum(Part::Whole)),
    ];
    let mut again = good.clone().with("state", 2_u32.to_le_bytes());
    again.pieces.push(("v again", entry(b"w", 1, &[0], &[])));
    table.push(("optimizer's path twice", again.file(), twice(Group::Optimizer).into()));
    let mut without = good.clone().with("optimizer", [0]);
    without.pieces.retain(|(name, _)| !["options", "rate", "flag", "whole", "word", "list"].contains(name));
    let count = 4 + good.pieces.last().unwrap().1.len();
    table.push(("tensors of no optimizer", without.file(), M::SpareBytes { count }.into()));
    let wide = good.clone().with("w", entry(b"w", 1, &[1 << 59], &[]));
    table.push((
        "claims of a quarter of all bytes",
        wide.file(),
        M::PayloadSize { claimed: 20, tensors: Some((1 << 61) + 12) }.into(),
    ));
    table
}

/// docs/checkpoint-format.md: there are none. A time is one, too.
#[test]
fn extension_types_are_refused_wherever_they_stand() {
    let mut values: Vec<Vec<u8>> = Vec::new();
    for (marker, size) in (0xd4..=0xd8).zip([1, 2, 4, 8, 16]) {
        values.push([vec![marker, 1], vec![0; size]].concat());
    }
    values.push(vec![0xc7, 1, 5, 0]);
    values.push(vec![0xc8, 0, 1, 5, 0]);
    values.push(vec![0xc9, 0, 0, 0, 1, 5, 0]);
    values.push(vec![0xd6, 0xff, 0, 0, 0, 0]);
    for value in values {
        // Alone, in a list, as a key, and as a value.
        let within = [vec![], vec![0x91], vec![0x81], vec![0x81, 0xa1, b'k'], vec![0x92, 0xc0]];
        for before in within {
            let after: &[u8] = if before == [0x81] { &[0xc0] } else { &[] };
            let content = [&before[..], &value, after].concat();
            let file = Forged::new().with("metadata", [&[1][..], &sized(&content)].concat()).file();
            let problem = load(&file, true).unwrap_err().problem;
            assert_eq!(text(problem), text(section(Section::Metadata)), "{content:02x?}");
        }
    }
}

/// A file of 1 TiB costs its sender nothing, where it is all holes. Reading it would take many minutes.
#[cfg(unix)]
#[test]
fn a_file_of_holes_is_not_read() {
    use std::fs::{self, File};
    let scratch = backrule_testkit::Scratch::new("holes");
    let path = scratch.0.join("model.brk");
    let open = |elements: u64, length: u64| {
        let mut header = vec![0; 31];
        header.extend(1_u32.to_le_bytes());
        header.extend(entry(b"w", 1, &[elements], &vec![0; 4 * elements.min(1 << 20) as usize]));
        let head = fixed(1, 0, header.len() as u64, 4 * elements, crc32fast::hash(&header));
        fs::write(&path, [head, header].concat()).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        [backrule_io::Checkpoint::load(&path), backrule_io::Checkpoint::open(&path)]
            .map(|it| it.unwrap_err().problem)
    };
    // By what its first bytes say, nothing is wrong with its length.
    let head = 40 + 31 + 4 + 8 + 1 + 2 + 8 + 4;
    for problem in open(1 << 38, head + (1 << 40) + 4) {
        assert!(matches!(problem, LoadProblem::Holes { stored, .. } if stored < 1 << 20), "{problem}");
    }
    // Shorter ones are read to the end: all but the last checksum is right.
    for problem in open(1 << 20, head + (1 << 22) + 4) {
        assert!(matches!(problem, LoadProblem::Checksum(Part::Whole)), "{problem}");
    }
}

trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Vec<u8> {}

#[test]
fn each_lie_has_its_error() {
    let table = table();
    println!("{} malformed files", table.len());
    assert!(table.len() > 40);
    let mut names: Vec<_> = table.iter().map(|(name, ..)| *name).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two of one name");
    for (name, bytes, expected) in table {
        let checksum = matches!(expected, LoadProblem::Checksum(_));
        let expected = text(expected);
        assert!(!load_within_limits(&bytes, true), "{name}: accepted");
        assert_eq!(text(load(&bytes, true).unwrap_err().problem), expected, "{name}");
        // Without checksums the other errors are the same.
        if !checksum && GATES.contains(&false) {
            assert!(!load_within_limits(&bytes, false), "{name}: accepted without checksums");
            assert_eq!(text(load(&bytes, false).unwrap_err().problem), expected, "{name}, without checksums");
        }
    }
}

#[test]
fn what_only_looks_wrong_is_accepted() {
    let good = Forged::new();
    let zero = |sizes: &[u64]| {
        let header = [&[0; 31][..], &1_u32.to_le_bytes(), &entry(b"", 2, sizes, &[])].concat();
        file(1, &header, &[])
    };
    let mut nan = good.clone().with("w", entry(b"w", 1, &[2], &[1, 0, 0x80, 0x7f, 0x45, 0x23, 0xc1, 0xff]));
    nan.payload[..8].copy_from_slice(&[1, 0, 0x80, 0x7f, 0x45, 0x23, 0xc1, 0xff]);
    for (name, bytes) in [
        ("everything", good.file()),
        ("nothing", file(1, &[0; 35], &[])),
        ("a size of 0", zero(&[0])),
        ("six sizes of 0", zero(&[0; 6])),
        ("a size of 0 beside a large one", zero(&[1 << 32, 0])),
        ("NaN with a payload", nan.file()),
        (
            "the longest path",
            good.clone().with("s", entry(&[b's'; 512], 1, &[], &good.payload[8..12])).file(),
        ),
        ("an empty program", good.clone().with("program", [&[1][..], &sized(b"")].concat()).file()),
        (
            "NaN as an option",
            good.clone().with("rate", [&sized(b"rate")[..], &[1], &[255; 8]].concat()).file(),
        ),
        ("largest numbers", good.clone().with("epoch", [255; 8]).with("position", [255; 8]).file()),
    ] {
        for &checksums in GATES {
            assert!(load_within_limits(&bytes, checksums), "{name}");
            let checkpoint = load(&bytes, checksums).unwrap();
            assert!(checkpoint == checkpoint.clone(), "{name}");
        }
    }
}

/// The largest that the limits allow takes no more memory than anything else.
#[test]
fn the_largest_headers_stay_within_the_memory() {
    let entries = |count: u32| {
        let all = (0..count).flat_map(|i| entry(format!("{i:x}").as_bytes(), 1, &[], &[0; 4]));
        [&count.to_le_bytes()[..], &all.collect::<Vec<_>>()].concat()
    };
    let all = entries(MAX_TENSORS as u32);
    let tensors = [&[0; 30][..], &[1], &[0; 12], &all, &all].concat();
    let payload = vec![0; 8 * MAX_TENSORS];
    assert!(tensors.len() < MAX_HEADER);
    // A text of 8 MiB less a little, and as many small numbers.
    let length = (MAX_SECTION - 4096) as u32;
    let long = |code| [&[code][..], &length.to_be_bytes(), &vec![b'1'; length as usize]].concat();
    let two = [&[1][..], &sized(&long(0xdb)), &[2], &sized(&long(0xdd))].concat();
    let sections = [&[0; 26][..], &2_u32.to_le_bytes(), &two, &[0; 5]].concat();
    // As many values as there may be, in lists of one value each, and as many words as there may be.
    let option = |i: u8, value: &[u8]| [&sized(&[b'0' + i]), value].concat();
    let list = |values: u32| [&[5][..], &values.to_le_bytes()].concat();
    let lists = [list(2048), [list(1), vec![3, 1]].concat().repeat(2048)].concat();
    let words = (1..MAX_OPTIONS as u8).flat_map(|i| option(i, &[&[4][..], &sized(b"w")].concat()));
    let options = [&(MAX_OPTIONS as u32).to_le_bytes()[..], &option(0, &lists)].concat();
    let options = [options, words.collect()].concat();
    let options = [&[0; 30][..], &[1], &[0; 8], &options, &[0; 8]].concat();
    let all = [
        ("tensors", file(1, &tensors, &payload)),
        ("sections", file(1, &sections, &[])),
        ("options", file(1, &options, &[])),
    ];
    for (name, bytes) in all {
        for &checksums in GATES {
            let mut accepted = None;
            let measured = allocation_counter::measure(|| accepted = load(&bytes, checksums).ok());
            let above = measured.bytes_max.saturating_sub(bytes.len() as u64);
            println!("{name}: {above} bytes above the length of the file");
            assert!(above <= 1 << 20, "{name}: {above} bytes above the file's length");
            let count = accepted.unwrap().tensors().count();
            assert_eq!(count, if name == "tensors" { 2 * MAX_TENSORS } else { 0 });
        }
    }
}

/// Every header with one byte changed, and with bytes taken out or put in. Some of them are good: another
/// epoch, another name. None may panic or take memory, and an accepted one must restore or say why not.
#[test]
fn forged_headers_are_errors_or_good() {
    let good = Forged::new();
    let (header, payload) = (good.header(), good.payload);
    let mut accepted = 0;
    let mut load = |header: &[u8]| {
        let bytes = file(1, header, &payload);
        for &checksums in GATES {
            accepted += usize::from(load_within_limits(&bytes, checksums));
        }
    };
    for at in 0..header.len() {
        for byte in 0..=255 {
            let mut changed = header.clone();
            changed[at] = byte;
            load(&changed);
        }
        load(&[&header[..at], &header[at + 1..]].concat());
        for byte in [0, 1, 0x7f, 0xff] {
            load(&[&header[..at], &[byte], &header[at..]].concat());
        }
        let mut huge = header.clone();
        let end = huge.len().min(at + 8);
        huge[at..end].fill(0xff);
        load(&huge);
    }
    assert!(accepted > header.len(), "{accepted}");
}

/// A whole file with every byte at every value, without the checksums that would have refused it.
#[cfg(feature = "fuzzing")]
#[test]
fn without_checksums_no_byte_does_harm() {
    let good = Forged::new().file();
    let mut accepted = 0;
    for at in 0..good.len() {
        for byte in 0..=255 {
            let mut changed = good.clone();
            changed[at] = byte;
            accepted += usize::from(load_within_limits(&changed, false));
        }
        load_within_limits(&good[..at], false);
    }
    // At least each element and each checksum can be anything.
    assert!(accepted > 255 * 40, "{accepted}");
    assert!(backrule_io::Checkpoint::from_bytes(&good).is_ok());
}
