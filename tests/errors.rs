//! Of every public error: it can get a field or a variant without breaking a caller, a `main` that returns it
//! prints its message, and `{:#?}` shows its fields.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use backrule_io::tensor::{
    ClipError, ConfigError, DType, GradsError, IncompleteError, MemoryError, Place, ShapeError, Tensor,
    TensorError,
};
use backrule_io::{
    Checkpoint, ElementType, FileError, FileKind, Group, LimitError, LoadError, LoadProblem, Malformed,
    Mismatch, Part, RestoreError, RotationError, SaveError, SaveStep, Section, SectionError, SectionProblem,
    TargetProblem, npy, npz, safetensors,
};
use backrule_loss::LossError;
use backrule_nn::{ArchitectureError, GradcheckError, LayerError};
use backrule_optim::StepError;
use syn::visit::Visit;

/// The errors of a source.
#[derive(Default)]
struct Errors(Vec<Found>);

#[derive(Debug, PartialEq)]
struct Found {
    name: String,
    /// Whether it is `#[non_exhaustive]`.
    open: bool,
    /// The names of fields by variant; a struct is a variant of its own name. Fields without names have none.
    fields: BTreeMap<String, Vec<String>>,
}

impl Errors {
    fn of(source: &str) -> Vec<Found> {
        let mut errors = Self::default();
        errors.visit_file(&syn::parse_file(source).unwrap());
        errors.0
    }

    /// An error is a type that is called so, or derives it.
    fn item<'a>(
        &mut self,
        name: &syn::Ident,
        visibility: &syn::Visibility,
        attributes: &[syn::Attribute],
        variants: impl Iterator<Item = (&'a syn::Ident, &'a syn::Fields)>,
    ) {
        let derived = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
        let mut derived = derived.filter_map(|attribute| attribute.meta.require_list().ok());
        let name = name.to_string();
        let error = name.ends_with("Error") || derived.any(|list| list.tokens.to_string().contains("Error"));
        if error && matches!(visibility, syn::Visibility::Public(_)) {
            let open = attributes.iter().any(|attribute| attribute.path().is_ident("non_exhaustive"));
            let names = |fields: &syn::Fields| {
                fields.iter().filter_map(|it| Some(it.ident.as_ref()?.to_string())).collect()
            };
            let fields = variants.map(|(variant, fields)| (variant.to_string(), names(fields))).collect();
            self.0.push(Found { name, open, fields });
        }
    }
}

impl Visit<'_> for Errors {
    fn visit_item_struct(&mut self, item: &syn::ItemStruct) {
        self.item(&item.ident, &item.vis, &item.attrs, std::iter::once((&item.ident, &item.fields)));
    }

    fn visit_item_enum(&mut self, item: &syn::ItemEnum) {
        let variants = item.variants.iter().map(|variant| (&variant.ident, &variant.fields));
        self.item(&item.ident, &item.vis, &item.attrs, variants);
    }
}

/// All errors of the crates, under the paths of their modules: `backrule_io::restore::error::RestoreError`.
fn errors() -> BTreeMap<String, Found> {
    fn of_folder(folder: &Path, module: &str, found: &mut BTreeMap<String, Found>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let module = match stem {
                "lib" | "mod" => module.to_string(),
                stem => format!("{module}::{stem}"),
            };
            if path.is_dir() {
                of_folder(&path, &module, found);
            } else {
                let errors = Errors::of(&fs::read_to_string(path).unwrap());
                found.extend(errors.into_iter().map(|it| (format!("{module}::{}", it.name), it)));
            }
        }
    }
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates")).unwrap() {
        let crate_ = entry.unwrap().path();
        let name = match crate_.file_name().unwrap().to_str().unwrap() {
            "backrule" => "backrule".to_string(),
            name => format!("backrule_{name}"),
        };
        of_folder(&crate_.join("src"), &name, &mut found);
    }
    found
}

#[test]
fn every_public_error_is_non_exhaustive() {
    let mut errors = errors();
    assert!(errors.len() >= 28, "only {:?}", errors.keys());
    errors.retain(|_, error| !error.open);
    assert!(errors.is_empty(), "without `#[non_exhaustive]`: {:?}", errors.keys());
}

#[test]
fn an_error_without_the_attribute_would_be_found() {
    let source = "#[derive(Debug, thiserror::Error)] pub enum Problem { None, A(u8), B { at: u8, of: u8 } }\n\
                  mod inner { pub struct AError; #[non_exhaustive] pub struct BError { a: u8 } struct CError; }";
    let found: Vec<_> =
        Errors::of(source).into_iter().map(|it| format!("{} {} {:?}", it.name, it.open, it.fields)).collect();
    assert_eq!(
        found,
        [
            r#"Problem false {"A": [], "B": ["at", "of"], "None": []}"#,
            r#"AError false {"AError": []}"#,
            r#"BError true {"BError": ["a"]}"#
        ]
    );
}

/// The output of a `main` that returns this error.
fn with_causes(error: &dyn StdError) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}\n  because: {cause}"))
}

/// Looks at errors, and notes their types.
struct Look {
    errors: BTreeMap<String, Found>,
    seen: BTreeSet<String>,
}

impl Look {
    fn at<E: StdError>(&mut self, errors: impl IntoIterator<Item = E>) {
        let name = std::any::type_name::<E>();
        let found = self.errors.get(name).unwrap_or_else(|| panic!("{name} is not in the sources"));
        self.seen.insert(name.to_string());
        for error in errors {
            assert_eq!(format!("{error:?}"), with_causes(&error), "{name}");
            let text = format!("{error:#?}");
            let variant: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
            let fields = found.fields.get(&variant).unwrap_or_else(|| panic!("{name}: {text}"));
            for field in fields {
                assert!(text.contains(&format!("\n    {field}: ")), "{name}: no `{field}` in {text}");
            }
            // The message, and each text in it, is no list of fields.
            assert!(fields.is_empty() || text.contains("{\n"), "{name}: {text}");
        }
    }
}

fn shape() -> ShapeError {
    ShapeError::new("matmul", "[_, 2]", "[1, 3]").within("fc")
}

fn memory() -> MemoryError {
    MemoryError::new("resize", 80).within("fc")
}

fn config() -> ConfigError {
    ConfigError::new("Sgd", "lr", "a finite number", "NaN")
}

fn io_error() -> io::Error {
    io::Error::other("the disk")
}

fn file() -> PathBuf {
    PathBuf::from("net.brk")
}

fn limit() -> LimitError {
    let net = vec![("a".repeat(513), Tensor::from([1.0_f32]))];
    let Err(SaveError::Limit(limit)) = Checkpoint::of(&net).to_bytes() else { panic!("512 bytes") };
    limit
}

fn load(problem: LoadProblem) -> LoadError {
    let mut error = Checkpoint::from_bytes(&[]).unwrap_err();
    (error.file, error.problem) = (Some(file()), problem);
    error
}

fn incomplete() -> IncompleteError {
    // Only a backward pass that fails makes one.
    let mut grads = backrule_io::tensor::Grads::new(&Tensor::from([1.0_f32])).unwrap();
    let failed: Result<(), ()> = grads.accumulate(|_| Err(()));
    failed.unwrap_err();
    match grads.clip_norm(1.0) {
        Err(ClipError::Incomplete(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn mismatch() -> Mismatch {
    let (net, mut other) = (vec![("a", Tensor::from([1.0_f32]))], vec![("b", Tensor::from([1.0_f32]))]);
    let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes().unwrap()).unwrap();
    match checkpoint.restore(&mut other) {
        Err(RestoreError::Mismatch(mismatch)) => mismatch,
        other => panic!("{other:?}"),
    }
}

fn section() -> SectionError {
    Checkpoint::from_bytes(&Checkpoint::of(&Tensor::from([1.0_f32])).to_bytes().unwrap())
        .unwrap()
        .metadata::<u8>()
        .unwrap_err()
}

/// Of each at least one value, and of those whose `Debug` is written by hand all kinds.
#[test]
fn debug_reads_as_display_and_alternate_debug_shows_the_fields() {
    let mut look = Look { errors: errors(), seen: BTreeSet::new() };
    let text = || "text".to_string();
    let (group, place) = (Group::Network, || Place::default().within("fc"));

    look.at([shape()]);
    look.at([memory()]);
    look.at([config()]);
    look.at([TensorError::from(shape()), memory().into()]);
    look.at([incomplete()]);
    look.at([
        ClipError::from(config()),
        ClipError::NotFinite { place: place(), value: f64::NAN },
        incomplete().into(),
    ]);
    look.at([GradsError::from(shape()), incomplete().into()]);

    let (operation, expected, got) = ("embedding forward", text(), text());
    look.at([
        LayerError::from(shape()),
        memory().into(),
        LayerError::Value { operation, place: place(), expected, got },
        LayerError::Key { operation, place: place() },
    ]);
    look.at([
        ArchitectureError::Custom { place: place(), layer: text() },
        ArchitectureError::Unknown { place: place(), kind: text(), registry: vec!["crate/Name"] },
        ArchitectureError::Malformed(text()),
        ArchitectureError::TooLarge { place: place(), parameters: 9, most: 8 },
        ArchitectureError::Config { place: place(), error: config() },
        shape().into(),
        memory().into(),
    ]);
    look.at([
        GradcheckError::Mismatch(Box::default()),
        GradcheckError::NotFinite { tensor: text(), index: vec![1], got: text(), moved: None },
        GradcheckError::Buffer { path: text(), expected: text(), got: text() },
        GradcheckError::Nothing("text"),
        config().into(),
        LayerError::from(shape()).into(),
    ]);

    let shape_of = || Tensor::from([1.0_f32]).shape();
    look.at([
        LossError::from(shape()),
        memory().into(),
        LossError::Empty { operation: "mse", shape: shape_of() },
        LossError::NoClasses { shape: shape_of() },
        LossError::Label { row: 1, label: 3, classes: 3 },
        LossError::Probability { row: 1, class: 2, probability: -1.0 },
    ]);
    look.at([
        StepError::Network(shape()),
        StepError::Gradients(shape()),
        shape().into(),
        incomplete().into(),
    ]);

    look.at([limit()]);
    look.at([mismatch()]);
    look.at([section()]);
    look.at([
        SectionProblem::Missing,
        SectionProblem::Serialize(text()),
        SectionProblem::OneWay(text()),
        SectionProblem::Limit(limit()),
        SectionProblem::Memory(memory()),
        SectionProblem::Deserialize { expected: "u8", reason: text() },
    ]);
    look.at([TargetProblem::NoName, TargetProblem::Special(FileKind::Directory)]);
    let target = || FileError::Target { file: file(), problem: TargetProblem::NoName };
    look.at([
        target(),
        FileError::NotCommitted { file: file(), step: SaveStep::Write, error: io_error() },
        FileError::DurabilityUncertain { file: file(), error: io_error() },
    ]);
    look.at([
        SaveError::Limit(limit()),
        SaveError::Duplicate { group, path: text() },
        SaveError::Option(config()),
        SaveError::Reserved { path: text() },
        SaveError::NotFinite { group, path: text(), at: 1, value: f64::NAN },
        SaveError::Memory(memory()),
        target().into(),
    ]);
    look.at([
        RestoreError::Mismatch(mismatch()),
        RestoreError::NoOptimizer,
        RestoreError::Options(config()),
        RestoreError::Collision { group, path: text(), first: text(), second: text() },
        RestoreError::UnknownRename { from: text() },
        RestoreError::UnknownTarget { from: text(), to: text() },
        RestoreError::UnknownOnly { prefix: text() },
        RestoreError::Memory(memory()),
        RestoreError::NotHeld {
            group,
            path: text(),
            dtype: ElementType::I64,
            at: 1,
            value: text(),
            target: DType::F32,
        },
        RestoreError::Changed { reason: text() },
        RestoreError::Interrupted { group, path: text(), reason: text() },
    ]);
    let not_npy = || npy::Problem::Version { major: 9, minor: 0 };
    let not_npz = || npz::Problem::Size { compressed: 1, claimed: 9 };
    let no_safetensors = || safetensors::Problem::Json { line: 1, column: 2, reason: text() };
    look.at([not_npy()]);
    look.at([not_npz()]);
    look.at([no_safetensors()]);
    let malformed = || Malformed::TrailingBytes { expected: 1, found: 2 };
    look.at([malformed(), Malformed::NotCanonical]);
    look.at([
        LoadProblem::NotACheckpoint,
        LoadProblem::Newer { version: 2, flags: 0, latest: 1 },
        LoadProblem::Truncated { expected: 2, found: 1 },
        LoadProblem::Checksum(Part::Whole),
        LoadProblem::Limit(limit()),
        LoadProblem::Malformed(malformed()),
        LoadProblem::Safetensors(no_safetensors()),
        LoadProblem::Npy(not_npy()),
        LoadProblem::Npz(not_npz()),
        LoadProblem::Special(FileKind::Directory),
        LoadProblem::Holes { length: 9, stored: 1 },
        LoadProblem::Memory(memory()),
        LoadProblem::Io(io_error()),
    ]);
    look.at([load(LoadProblem::NotACheckpoint)]);
    look.at([
        RotationError::Name { name: text() },
        RotationError::Folder { folder: file(), error: io_error() },
        SaveError::from(target()).into(),
        RotationError::Full { folder: file() },
        memory().into(),
        RotationError::NoneLoads { folder: file(), problems: vec![load(LoadProblem::NotACheckpoint)] },
    ]);
    look.at([
        backrule::Error::from(shape()),
        config().into(),
        LayerError::from(shape()).into(),
        ArchitectureError::Malformed(text()).into(),
        GradcheckError::Nothing("text").into(),
        LossError::from(shape()).into(),
        StepError::from(shape()).into(),
        ClipError::from(config()).into(),
        GradsError::from(shape()).into(),
        load(LoadProblem::NotACheckpoint).into(),
        section().into(),
        RestoreError::NoOptimizer.into(),
        backrule::Error::Precision { file: file(), stored: ElementType::F64, asked: DType::F32 },
        SaveError::from(target()).into(),
        RotationError::Name { name: text() }.into(),
        io_error().into(),
    ]);
    let _ = Section::Metadata;

    let missing: Vec<_> = look.errors.keys().filter(|name| !look.seen.contains(*name)).collect();
    assert!(missing.is_empty(), "not looked at: {missing:?}");
}

/// With `Debug` derived, or without the fields.
#[test]
fn a_debug_that_reads_otherwise_would_be_found() {
    #[derive(Debug)]
    struct Derived {
        at: u8,
    }
    struct Fieldless;
    impl std::fmt::Debug for Fieldless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(if f.alternate() { "Derived" } else { "wrong" })
        }
    }
    macro_rules! error {
        ($name:ident) => {
            impl std::fmt::Display for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("wrong")
                }
            }
            impl StdError for $name {}
        };
    }
    error!(Derived);
    error!(Fieldless);
    fn refused<E: StdError + std::panic::UnwindSafe>(error: E) -> bool {
        let fields = BTreeMap::from([("Derived".to_string(), vec!["at".to_string()])]);
        let found = Found { name: String::new(), open: true, fields };
        let errors = BTreeMap::from([(std::any::type_name::<E>().to_string(), found)]);
        std::panic::catch_unwind(|| Look { errors, seen: BTreeSet::new() }.at([error])).is_err()
    }
    assert!(refused(Derived { at: 1 }) && refused(Fieldless));
    assert_eq!(Derived { at: 1 }.at, 1);
}
