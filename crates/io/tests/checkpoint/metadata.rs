//! Metadata come back equal, or are refused when they are saved: nothing is changed without a word.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use backrule_io::{Checkpoint, LoadError, Section, SectionError, SectionProblem};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

fn saved<M: Serialize + DeserializeOwned>(value: &M) -> Result<Checkpoint, SectionError> {
    let net = crate::common::network::<f32>();
    let bytes = Checkpoint::of(&net).metadata(value)?.to_bytes();
    Ok(Checkpoint::from_bytes(&bytes.unwrap()).unwrap())
}

/// Debug output tells more than `==`: −0 from 0, and that NaN is NaN.
#[track_caller]
fn comes_back<M: Serialize + DeserializeOwned + Debug>(value: M) {
    let back: M = saved(&value).unwrap().metadata().unwrap();
    assert_eq!(format!("{back:?}"), format!("{value:?}"));
}

#[track_caller]
fn refused<M: Serialize + DeserializeOwned>(value: M) -> SectionProblem {
    match saved(&value) {
        Err(error) => error.problem,
        Ok(_) => panic!("it was accepted"),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Serialize, Deserialize)]
struct Wrapper(f64);

/// Written as its displayed text.
#[derive(Debug, Deserialize)]
struct Shown(char);

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Schedule {
    Constant,
    Step(u32),
    Cosine { warmup: u8, floor: f64 },
    Pair(i8, i8),
    Maybe(Option<u8>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Count(i64),
    Rate(f64),
    Name(String),
    List(Vec<u8>),
    Struct { x: i64 },
    Nothing,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    A { x: f64 },
    B,
}

#[derive(Debug, Serialize, Deserialize)]
struct Inner {
    p: f64,
    q: Option<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Flat {
    a: u8,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    rest: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FlatKeys<K: Ord, V> {
    a: u8,
    #[serde(flatten, bound(serialize = "K: Serialize, V: Serialize"))]
    #[serde(bound(deserialize = "K: DeserializeOwned, V: DeserializeOwned"))]
    rest: BTreeMap<K, V>,
}

#[test]
fn numbers_come_back() {
    comes_back([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0]);
    comes_back([f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1 + 0.2, 1.0]);
    comes_back([f32::NAN, -0.0, 0.1, 1e-45]);
    comes_back((Some(f64::NAN), None::<f64>, Wrapper(f64::NAN)));
    comes_back((u64::MAX, i64::MIN, u128::MAX, i128::MIN));
    let nan = f64::from_bits(0x7ff8_0000_dead_beef);
    let back: f64 = saved(&nan).unwrap().metadata().unwrap();
    assert_eq!(back.to_bits(), nan.to_bits());
}

#[test]
fn shapes_of_types_come_back() {
    comes_back(vec![
        Schedule::Constant,
        Schedule::Step(u32::MAX),
        Schedule::Cosine { warmup: 1, floor: 0.1 + 0.2 },
        Schedule::Pair(-1, 1),
        Schedule::Maybe(None),
        Schedule::Maybe(Some(2)),
    ]);
    comes_back(vec![
        Untagged::Count(i64::MIN),
        Untagged::Rate(1.0),
        Untagged::Rate(f64::INFINITY),
        Untagged::Name(String::new()),
        Untagged::List(vec![1, 2]),
        Untagged::Struct { x: 3 },
        Untagged::Nothing,
    ]);
    comes_back(vec![Tagged::A { x: -0.0 }, Tagged::B]);
    comes_back((Unit, (), Some(Unit), Some(vec![vec![None, Some(1.5)], vec![]])));
    comes_back((String::new(), 'é', "ß\0\n".to_string(), true, (1, (2,))));
    comes_back(vec![Ok::<u8, String>(1), Err("x".to_string())]);
    comes_back((PathBuf::from("a/b"), Duration::from_nanos(5)));
    comes_back("::1".parse::<IpAddr>().unwrap());
    // None of these is nil, so none collapses.
    comes_back((Some(Wrapper(0.5)), Some(Schedule::Constant), Some(Shown('x'))));
}

#[test]
fn maps_with_any_keys_come_back() {
    comes_back(BTreeMap::from([(-1_i8, 'a'), (5, 'b')]));
    comes_back(BTreeMap::from([((1, 2), 0.5)]));
    comes_back(BTreeMap::from([(true, 1), (false, 0)]));
    comes_back(BTreeMap::from([(None, 1), (Some("x".to_string()), 2)]));
    comes_back(BTreeMap::from([(Unit, 1)]));
}

#[test]
fn flattened_fields_come_back() {
    comes_back(Flat {
        a: 1,
        inner: Inner { p: -0.0, q: None },
        rest: BTreeMap::from([("z".to_string(), u64::MAX)]),
    });
    comes_back(FlatKeys { a: 1, rest: BTreeMap::from([(7_u8, 1_u8)]) });
    comes_back(FlatKeys {
        a: 1,
        rest: BTreeMap::from([("host".to_string(), "127.0.0.1".parse::<IpAddr>().unwrap())]),
    });
}

#[test]
fn values_of_json_come_back() {
    comes_back(serde_json::json!({"a": null, "b": [1, 2.5, "x", {}], "c": {"d": []}}));
}

#[test]
fn what_serde_can_not_read_is_refused_when_saved() {
    // serde's buffer behind `flatten` has no 128 bits.
    let error = refused(FlatKeys { a: 1, rest: BTreeMap::from([("k".to_string(), u128::MAX)]) });
    assert!(matches!(error, SectionProblem::OneWay(_)), "{error}");
    // A key that is also a field.
    let error = refused(FlatKeys { a: 1, rest: BTreeMap::from([("a".to_string(), 2_u8)]) });
    assert!(matches!(error, SectionProblem::OneWay(_)), "{error}");
    // A type whose two halves don't fit.
    #[derive(Serialize, Deserialize)]
    struct Lopsided {
        #[serde(rename(serialize = "written", deserialize = "read"))]
        field: u8,
    }
    let error = refused(Lopsided { field: 1 });
    assert!(matches!(error, SectionProblem::OneWay(_)), "{error}");
    // A value that refuses itself: not every path is text.
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let error = refused(PathBuf::from(std::ffi::OsString::from_vec(vec![0xff])));
        assert!(matches!(error, SectionProblem::Serialize(_)), "{error}");
    }
}

/// The loss of nested options that the documentation of `metadata` tells of; serde's formats have it in
/// common.
#[test]
fn a_nested_option_comes_back_as_none() {
    let back = |value: Option<Option<u32>>| saved(&value).unwrap().metadata::<Option<Option<u32>>>().unwrap();
    assert_eq!((back(None), back(Some(Some(3))), back(Some(None))), (None, Some(Some(3)), None));
}

/// serde's messages quote names of the value without escaping them.
#[test]
fn what_a_message_quotes_is_escaped() {
    let checkpoint = saved(&BTreeMap::from([("\x1b[2J".to_string(), 1)])).unwrap();
    let error = checkpoint.metadata::<Schedule>().unwrap_err();
    assert!(error.to_string().contains(r"\u{1b}[2J"), "{error}");
    for text in [error.to_string(), format!("{error:?}"), format!("{error:#?}")] {
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}

#[test]
fn sections_do_not_meet() {
    let net = crate::common::network::<f32>();
    let snapshot = Checkpoint::of(&net).schedule(&Schedule::Step(3)).unwrap();
    let snapshot = snapshot.metrics(&BTreeMap::from([("loss".to_string(), vec![2.5, 0.5])])).unwrap();
    let checkpoint = Checkpoint::from_bytes(&snapshot.to_bytes().unwrap()).unwrap();
    assert_eq!(checkpoint.sections().collect::<Vec<_>>(), [Section::Metrics, Section::Schedule]);
    assert!(matches!(checkpoint.schedule().unwrap(), Schedule::Step(3)));
    let metrics: BTreeMap<String, Vec<f64>> = checkpoint.metrics().unwrap();
    assert_eq!(metrics["loss"], [2.5, 0.5]);
    let error = checkpoint.metadata::<u8>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "metadata: the checkpoint has none: call the method of this name on `Checkpoint::of(&net)` before `save`"
    );
    let error = checkpoint.schedule::<u8>().unwrap_err();
    assert!(error.to_string().starts_with("schedule: not a `u8`: "), "{error}");
    // The last value given counts.
    let snapshot = Checkpoint::of(&net).metrics(&1).unwrap().metrics(&2).unwrap();
    let checkpoint = Checkpoint::from_bytes(&snapshot.to_bytes().unwrap()).unwrap();
    assert_eq!(checkpoint.metrics::<u8>().unwrap(), 2);
}

#[test]
fn nesting_has_an_end() {
    #[derive(Serialize, Deserialize)]
    enum List {
        End,
        Cons(Box<List>),
    }
    let list = |length| (0..length).fold(List::End, |tail, _| List::Cons(Box::new(tail)));
    saved(&list(100)).unwrap().metadata::<List>().unwrap();
    let error = refused(list(200));
    assert!(matches!(error, SectionProblem::OneWay(_)), "{error}");
}

#[test]
fn another_type_is_an_error_and_a_newer_one_is_not() -> Result<(), LoadError> {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Newer {
        p: f64,
        #[serde(default)]
        added: Vec<u8>,
    }
    let checkpoint = saved(&Inner { p: 0.5, q: Some(1) }).unwrap();
    let newer: Newer = checkpoint.metadata().unwrap();
    assert_eq!(newer, Newer { p: 0.5, added: vec![] });
    let error = checkpoint.metadata::<Vec<u8>>().unwrap_err().problem;
    let SectionProblem::Deserialize { expected, .. } = &error else {
        panic!("{error}");
    };
    assert!(expected.contains("Vec<u8>"));

    let net = crate::common::network::<f32>();
    let without = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes().unwrap())?;
    let error = without.metadata::<u8>().unwrap_err();
    assert_eq!((error.section, error.problem), (Section::Metadata, SectionProblem::Missing));
    Ok(())
}

/// The deserializer quotes all of it.
#[test]
fn a_long_text_of_the_wrong_type_is_quoted_in_part() {
    let error = saved(&"ä".repeat(1_000_000)).unwrap().metadata::<Inner>().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("ää") && text.ends_with('…') && text.len() < 600, "{}", text.len());
}
