//! PyTorch's reference values. `testkit/oracle/README.md` says what is in the files.
//!
//! `BACKRULE_ORACLE=DIR` reads the files of another seed; an op that DIR doesn't have comes from the
//! repository.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;

use backrule_tensor::{OptionValue, Options, Scalar, Tensor};

use crate::Value;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/oracle");
const PENDING: &str = include_str!("../oracle/pending.txt");
const OTHER_SEED: &str = "BACKRULE_ORACLE";

/// Options that describe the case, not its op.
const TAGS: [&str; 11] = [
    "constant_row",
    "extreme",
    "far_from_zero",
    "gates",
    "in_channels",
    "index",
    "nan",
    "note",
    "out_channels",
    "shift",
    "ties",
];

/// One example: a layer's forward and backward pass, a loss, an optimizer's steps. It is a JSON object.
#[derive(Clone, Debug)]
pub struct Case {
    value: Value,
    /// Of `BACKRULE_ORACLE`'s files.
    other: bool,
}

impl Deref for Case {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

/// Op, number and options.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self["name"].as_str().unwrap_or(self.op()), self["options"])
    }
}

impl Case {
    /// `layer`, `loss`, `optimizer`, …
    pub fn kind(&self) -> &str {
        text(&self["kind"])
    }

    /// The name of its op.
    pub fn op(&self) -> &str {
        text(&self["op"])
    }

    /// A field; null counts as missing.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    /// An option; null counts as missing.
    pub fn option(&self, name: &str) -> Option<&Value> {
        self["options"].get(name).filter(|value| !value.is_null())
    }

    /// An option that is true or false.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.option(name).map(|value| value.as_bool().unwrap_or_else(|| self.refuse(name, "a flag")))
    }

    /// An option that is a number.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.option(name).map(number)
    }

    /// An option that is a whole number.
    pub fn whole(&self, name: &str) -> Option<usize> {
        self.option(name).map(whole)
    }

    /// An option that is a text.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.option(name).map(text)
    }

    /// An option of two whole numbers, or of one that stands for both.
    pub fn pair(&self, name: &str) -> Option<[usize; 2]> {
        self.option(name).map(|value| match value.as_array().map(Vec::as_slice) {
            None => [whole(value); 2],
            Some([rows, columns]) => [whole(rows), whole(columns)],
            Some(_) => self.refuse(name, "two numbers"),
        })
    }

    /// A tensor, rounded to `T`; none if there is no tensor of this name.
    pub fn tensor<T: Scalar>(&self, name: &str) -> Option<Tensor<T>> {
        self.field(name).filter(|value| value.get("shape").is_some()).map(tensor)
    }

    /// The options of the op, without those that are null or only describe the case, and
    /// without `lengths`, which are a tensor.
    pub fn options(&self) -> Options {
        let options = self["options"].as_object().into_iter().flatten();
        let described = |name: &str| TAGS.contains(&name) || name == "lengths";
        let options = options.filter(|(name, value)| !value.is_null() && !described(name));
        options
            .fold(Options::new(), |options, (name, value)| options.with(name.as_str(), option_value(value)))
    }

    /// All tensors by name.
    pub fn tensors(&self) -> BTreeMap<String, Tensor<f64>> {
        let fields = self.as_object().into_iter().flatten();
        let tensors = fields.filter(|(_, value)| value.get("shape").is_some());
        tensors.map(|(name, value)| (name.clone(), tensor(value))).collect()
    }

    fn refuse(&self, name: &str, expected: &str) -> ! {
        panic!("{self}: {name} is not {expected}")
    }
}

/// All cases of a kind.
pub fn cases(kind: &str) -> Vec<&'static Case> {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    let cases = CASES.get_or_init(|| {
        let repository = read(Path::new(REPOSITORY), false);
        match std::env::var_os(OTHER_SEED) {
            None => repository,
            Some(folder) => instead(repository, read(Path::new(&folder), true)),
        }
    });
    let cases: Vec<_> = cases.iter().filter(|case| case.kind() == kind).collect();
    assert!(!cases.is_empty(), "no cases of the kind {kind}");
    cases
}

/// All cases of an op: at least one, so a misspelt name can't pass for a test.
pub fn of(kind: &str, op: &str) -> Vec<&'static Case> {
    let cases: Vec<_> = cases(kind).into_iter().filter(|case| case.op() == op).collect();
    assert!(!cases.is_empty(), "no reference values for {op}");
    cases
}

/// Cases of a layer: forward and backward.
pub fn layers(op: &str) -> Vec<&'static Case> {
    of("layer", op)
}

/// Cases of a loss: value and gradient.
pub fn losses(op: &str) -> Vec<&'static Case> {
    of("loss", op)
}

/// Cases of an optimizer: a parameter after each of several steps.
pub fn optimizers(op: &str) -> Vec<&'static Case> {
    of("optimizer", op)
}

/// Whole training runs.
pub fn trajectories(op: &str) -> Vec<&'static Case> {
    of("trajectory", op)
}

/// Hands every case of a kind to `check`, which says whether it knows the op of the case.
///
/// Fails on a case that `check` doesn't know and that isn't in `oracle/pending.txt`; on a line there that is
/// no case's, or that `check` knows by now.
#[track_caller]
pub fn every(kind: &str, mut check: impl FnMut(&Case) -> bool) {
    let cases: Vec<_> = cases(kind).into_iter().map(|case| (case, check(case))).collect();
    let complaints = complaints(&cases, &pending(PENDING, kind));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn complaints(cases: &[(&Case, bool)], pending: &[Pending<'_>]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (case, known) in cases {
        if !known && !pending.iter().any(|line| line.is_of(case)) {
            complaints.push(format!("nothing reads {case}, and testkit/oracle/pending.txt doesn't have it"));
        }
    }
    // Another seed's files can lack an op, or a value of an option that is drawn.
    let complete = cases.iter().all(|(case, _)| !case.other);
    for line in pending {
        let mut of_line = cases.iter().filter(|(case, _)| line.is_of(case)).peekable();
        if of_line.peek().is_none() && complete {
            complaints.push(format!("testkit/oracle/pending.txt: no case of `{}`", line.text));
        }
        if let Some((case, _)) = of_line.find(|(_, known)| *known) {
            complaints.push(format!(
                "testkit/oracle/pending.txt: `{}` is there, so delete the line: {case} was read",
                line.text
            ));
        }
    }
    complaints
}

/// A line of `pending.txt`: `kind op option=value …`.
struct Pending<'a> {
    text: &'a str,
    op: &'a str,
    options: Vec<(&'a str, Value)>,
}

impl Pending<'_> {
    fn is_of(&self, case: &Case) -> bool {
        case.op() == self.op && self.options.iter().all(|(name, value)| case.option(name) == Some(value))
    }
}

fn pending<'a>(text: &'a str, kind: &str) -> Vec<Pending<'a>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |text: &'a str| {
        let mut words = text.split(' ');
        let of_kind = words.next()? == kind;
        let op = words.next().unwrap_or_else(|| panic!("testkit/oracle/pending.txt: `{text}` has no op"));
        let option = |word: &'a str| {
            let (name, value) =
                word.split_once('=').unwrap_or_else(|| panic!("`{text}`: {word} has no value"));
            // A value that isn't JSON is a word.
            (name, serde_json::from_str(value).unwrap_or_else(|_| value.into()))
        };
        of_kind.then(|| Pending { text, op, options: words.map(option).collect() })
    };
    lines.filter_map(read).collect()
}

/// The cases of all files in a folder.
fn read(folder: &Path, other: bool) -> Vec<Case> {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = files.map(|file| file.expect("a folder that can be read").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: no reference values there", folder.display());
    let mut cases: Vec<Case> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut file: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let Value::Array(list) = file["cases"].take() else {
            panic!("{}: no list of cases", path.display());
        };
        for mut value in list {
            in_our_layout(&mut value, cases.last());
            cases.push(Case { value, other });
        }
    }
    cases
}

/// `cases`, but with those of `others` for each op that they have.
fn instead(mut cases: Vec<Case>, others: Vec<Case>) -> Vec<Case> {
    let there: HashSet<_> = others.iter().map(|case| (case.kind(), case.op())).collect();
    cases.retain(|case| !there.contains(&(case.kind(), case.op())));
    cases.extend(others);
    cases
}

/// Parts of a case that PyTorch writes in another way than layers here read them.
fn in_our_layout(case: &mut Value, previous: Option<&Case>) {
    // Lengths are numbers of the options, or beside them.
    for place in ["/lengths", "/options/lengths"] {
        if let Some(lengths) = case.pointer(place).and_then(Value::as_array).cloned() {
            case["lengths"] = serde_json::json!({ "shape": [lengths.len()], "data": lengths });
        }
    }
    // One size for both axes.
    if case["op"].as_str().is_some_and(|op| op.contains("2d")) {
        for name in ["kernel", "stride", "padding", "dilation"] {
            if let Some(size) = case["options"].get_mut(name).filter(|size| size.is_u64()) {
                *size = vec![size.clone(); 2].into();
            }
        }
    }
    // A case that is refused has shapes only.
    if case["kind"] == "error" {
        let names = if case["op"] == "embedding" { &["weight"][..] } else { &["input", "weight"] };
        let zeros = |shape: &Value| {
            let elements: usize = list(shape).iter().map(whole).product();
            serde_json::json!({ "shape": shape, "data": vec![0; elements] })
        };
        for (name, shape) in names.iter().zip(list(&case["shapes"]).to_vec()) {
            case[*name] = zeros(&shape);
        }
        if let Some(index) = case["options"].get("index").filter(|_| case["op"] == "embedding").cloned() {
            case["indices"] = serde_json::json!({ "shape": [2], "data": [0, index] });
        }
        if let (Some(inputs), Some(outputs)) =
            (case["options"]["in_channels"].as_u64(), case["options"]["out_channels"].as_u64())
        {
            let inputs_of_group = inputs / case["options"]["groups"].as_u64().unwrap_or(1);
            case["input"] = zeros(&serde_json::json!([1, inputs, 1, 1]));
            case["weight"] = zeros(&serde_json::json!([outputs, inputs_of_group, 1, 1]));
        }
    }
    // States of recurrent layers: the batch is the second axis.
    if case.get("weight_ih_l0").is_some() {
        for state in ["h0", "c0", "hn", "cn", "grad_h0", "grad_c0", "grad_hn", "grad_cn"] {
            if let Some(state) = case.get_mut(state) {
                swap_first_axes(state);
            }
        }
    }
    // Batches in a row: each starts where the one before it ended, the first at 0 and 1 unless the case says
    // more.
    if case["options"]["mode"] == "train" {
        let follows = case["options"]["step"].as_u64().is_some_and(|step| step > 1);
        for (name, first) in [("running_mean", 0), ("running_var", 1)] {
            let (start, after) = (format!("{name}_start"), format!("{name}_after"));
            if case.get(&start).is_some() {
                continue;
            }
            let mut running = case[&after].clone();
            match previous {
                Some(previous) if follows => running.clone_from(&previous[after.as_str()]),
                _ => running["data"] = vec![first; list(&running["data"]).len()].into(),
            }
            case[start] = running;
        }
    }
}

fn swap_first_axes(tensor: &mut Value) {
    let shape: Vec<usize> = list(&tensor["shape"]).iter().map(whole).collect();
    let data = list(&tensor["data"]);
    let [first, second] = [shape[0], shape[1]];
    let length = data.len() / (first * second);
    let places = (0..second).flat_map(|j| (0..first).map(move |i| (i * second + j) * length));
    let turned: Vec<_> = places.flat_map(|start| &data[start..start + length]).cloned().collect();
    let shape: Vec<_> = [second, first].iter().chain(&shape[2..]).copied().collect();
    *tensor = serde_json::json!({ "shape": shape, "data": turned });
}

/// A tensor of the files, rounded to `T`.
pub fn tensor<T: Scalar>(value: &Value) -> Tensor<T> {
    let sizes: Vec<usize> = list(&value["shape"]).iter().map(whole).collect();
    let data = numbers(&value["data"]).into_iter().map(T::from_f64).collect();
    Tensor::from_vec(&sizes[..], data).expect("the file's shape fits its data")
}

/// A list of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(number).collect()
}

/// A number. JSON has no infinities and no NaN: they are text.
pub fn number(value: &Value) -> f64 {
    let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.unwrap_or_else(|| panic!("not a number: {value}"))
}

fn whole(value: &Value) -> usize {
    let whole = value.as_u64().and_then(|whole| usize::try_from(whole).ok());
    whole.unwrap_or_else(|| panic!("not a whole number: {value}"))
}

fn option_value(value: &Value) -> OptionValue {
    match value {
        Value::Bool(flag) => OptionValue::Flag(*flag),
        Value::String(word) => OptionValue::Word(word.clone()),
        Value::Array(list) => OptionValue::List(list.iter().map(option_value).collect()),
        number_or_other => match number_or_other.as_u64() {
            Some(whole) => OptionValue::Whole(whole),
            None => OptionValue::Number(number(number_or_other)),
        },
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds of which nothing here is an example yet: the crates that will read them hand them to [`every`].
    #[test]
    fn kinds_that_nothing_reads_are_pending() {
        for kind in ["average", "clip", "schedule", "value"] {
            every(kind, |_| false);
        }
    }

    #[test]
    fn every_kind_is_read_somewhere() {
        let elsewhere = ["error", "layer", "loss", "optimizer", "trajectory"];
        let here = ["average", "clip", "schedule", "value"];
        for case in read(Path::new(REPOSITORY), false) {
            assert!(here.contains(&case.kind()) || elsewhere.contains(&case.kind()), "{case}");
        }
        let lines = PENDING.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let kind = line.split(' ').next().expect("a word");
            assert!(here.contains(&kind) || elsewhere.contains(&kind), "{line}");
        }
    }

    fn case(op: &str, options: Value) -> Case {
        let value =
            serde_json::json!({ "kind": "layer", "op": op, "name": format!("{op}-0"), "options": options });
        Case { value, other: false }
    }

    #[test]
    fn a_case_is_read_or_pending() {
        let [read, later] = [true, false].map(|bias| case("conv", serde_json::json!({ "bias": bias })));
        let of = |pending_text: &str, reads_later: bool| {
            let cases = [(&read, true), (&later, reads_later)];
            complaints(&cases, &pending(pending_text, "layer")).join("; ")
        };
        assert_eq!(of("", true), "");
        assert_eq!(of("# why\nlayer conv bias=false\nloss mae", false), "");
        let unread = r#"nothing reads conv-0 {"bias":false}, and testkit/oracle/pending.txt doesn't have it"#;
        assert_eq!(of("", false), unread);
        assert_eq!(of("loss conv", false), unread);
        let read = r#"testkit/oracle/pending.txt: `layer conv` is there, so delete the line: conv-0 {"bias":true} was read"#;
        assert_eq!(of("layer conv", false), read);
        let nobody = "testkit/oracle/pending.txt: no case of `layer gelu approximate=tanh`";
        assert_eq!(of("layer gelu approximate=tanh", true), nobody);
    }

    #[test]
    fn another_seed_replaces_the_ops_that_it_has() {
        let ours = vec![case("a", Value::Null), case("a", Value::Null), case("b", Value::Null)];
        let theirs = Case { other: true, ..case("a", Value::Null) };
        let ops: Vec<_> =
            instead(ours, vec![theirs]).iter().map(|case| (case.op().to_string(), case.other)).collect();
        assert_eq!(ops, [("b".to_string(), false), ("a".to_string(), true)]);
    }

    #[test]
    fn layouts_are_ours() {
        let lstm = layers("lstm")[2];
        let h0 = lstm.tensor::<f64>("h0").expect("a state");
        assert_eq!(h0.shape()[0], lstm.tensor::<f64>("input").expect("an input").shape()[0]);
        for case in cases("error") {
            let tensors = case.tensors();
            assert!(tensors.contains_key("input") || tensors.contains_key("indices"), "{case}");
        }
        let mut state = serde_json::json!({ "shape": [2, 3, 1], "data": [1, 2, 3, 4, 5, 6] });
        swap_first_axes(&mut state);
        assert_eq!(state, serde_json::json!({ "shape": [3, 2, 1], "data": [1, 4, 2, 5, 3, 6] }));

        let lengths = |case: &Case| case.tensor::<f64>("lengths").map(|lengths| lengths.as_slice().to_vec());
        assert_eq!(lengths(layers("lstm_lengths")[0]), Some(vec![4.0, 1.0, 3.0]));
        assert_eq!(lengths(layers("multi_head_attention")[2]), Some(vec![4.0, 2.0, 1.0]));
        assert_eq!(lengths(layers("multi_head_attention")[0]), None);

        for case in layers("batch_norm") {
            assert_eq!(
                case.word("mode") == Some("train"),
                case.field("running_mean_start").is_some(),
                "{case}"
            );
        }
    }

    #[test]
    fn options_are_read() {
        let conv = case(
            "conv",
            serde_json::json!({ "stride": 2, "padding": [1, 0], "mode": "same", "eps": "inf", "no": null }),
        );
        assert_eq!((conv.pair("stride"), conv.pair("padding")), (Some([2, 2]), Some([1, 0])));
        assert_eq!(
            (conv.whole("stride"), conv.word("mode"), conv.number("eps")),
            (Some(2), Some("same"), Some(f64::INFINITY))
        );
        assert_eq!((conv.option("no"), conv.flag("bias")), (None, None));
        let tagged = serde_json::json!({ "ties": true, "lengths": [1], "axis": -1, "groups": 2, "eps": 0.0 });
        assert_eq!(case("pool", tagged).options().to_string(), "axis -1.0, eps 0.0, groups 2");
    }

    #[test]
    #[should_panic(expected = "no reference values for lineal")]
    fn a_misspelt_operation_is_no_test() {
        layers("lineal");
    }
}
