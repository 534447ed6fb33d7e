//! The order of the crates, and of the modules in each: a lower one knows nothing of a higher one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use syn::punctuated::Punctuated;
use syn::visit::Visit;

/// From the bottom up.
const ORDER: [&str; 6] =
    ["backrule-tensor", "backrule-nn", "backrule-loss", "backrule-optim", "backrule-io", "backrule"];

/// The crates that each one may build on: fewer than the order would allow. Losses, optimizers and
/// checkpoints know tensors and their names, not layers. Tests may use more, as long as it is below.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("backrule-tensor", &[]),
    ("backrule-nn", &["backrule-tensor"]),
    ("backrule-loss", &["backrule-tensor"]),
    ("backrule-optim", &["backrule-tensor"]),
    ("backrule-io", &["backrule-tensor"]),
    ("backrule", &["backrule-tensor", "backrule-nn", "backrule-loss", "backrule-optim", "backrule-io"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Edges `from → to` between crates of the order; `dev` says whether only tests have it.
fn edges(packages: &[Value]) -> Vec<(String, String, bool)> {
    let mut edges = Vec::new();
    for package in packages {
        let from = package["name"].as_str().unwrap();
        if !ORDER.contains(&from) {
            continue;
        }
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            if ORDER.contains(&to) {
                edges.push((from.to_string(), to.to_string(), dependency["kind"] == "dev"));
            }
        }
    }
    edges
}

/// The faults of these edges.
fn complaints(edges: &[(String, String, bool)]) -> Vec<String> {
    let position = |name: &str| ORDER.iter().position(|crate_name| *crate_name == name);
    let mut complaints = Vec::new();
    // A crate may be its own dev-dependency: its tests need its samples.
    for (from, to, dev) in edges.iter().filter(|(from, to, dev)| from != to || !dev) {
        if position(to) >= position(from) {
            complaints.push(format!("{from} is below {to}, and must not depend on it"));
        }
        let allowed = ALLOWED.iter().find(|(name, _)| name == from);
        if !dev && !allowed.is_some_and(|(_, allowed)| allowed.contains(&to.as_str())) {
            complaints.push(format!("{from} has no need of {to}"));
        }
    }
    complaints
}

#[test]
fn no_crate_depends_on_one_above_it() {
    let packages = packages();
    for name in ORDER {
        assert!(packages.iter().any(|package| package["name"] == name), "{name} is missing");
    }
    let edges = edges(&packages);
    assert!(edges.len() >= 4, "each crate but the first depends on tensor: {edges:?}");
    assert_eq!(complaints(&edges), [""; 0]);
}

#[test]
fn an_upward_edge_would_be_found() {
    let edge = |from: &str, to: &str, dev| (format!("backrule-{from}"), format!("backrule-{to}"), dev);
    for edge in [edge("tensor", "nn", true), edge("nn", "loss", true), edge("io", "optim", false)] {
        assert_eq!(complaints(std::slice::from_ref(&edge)).len(), 1, "{edge:?}");
    }
    assert_eq!(complaints(&[edge("nn", "loss", false)]).len(), 2);
    assert_eq!(complaints(&[edge("optim", "nn", true), edge("nn", "nn", true)]).len(), 0);
}

/// A module's path from the root of its crate: `["layers", "dense", "linear"]`. The root itself is empty.
type Module = Vec<String>;

/// A crate's modules with their definitions and imports.
#[derive(Default)]
struct Modules {
    /// Names that a module defines or re-exports, with the path behind a re-export.
    items: BTreeMap<Module, BTreeMap<String, Option<Vec<String>>>>,
    /// Modules that a module re-exports whole.
    globs: BTreeMap<Module, Vec<Vec<String>>>,
    /// Paths within the crate that a module's code names.
    uses: BTreeMap<Module, BTreeSet<Vec<String>>>,
    /// A module that stands within another one's file belongs to that.
    within: BTreeMap<Module, Module>,
}

/// Tests may use whatever they test: code that no program has without `cfg(test)` and the feature `testing`.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    /// Whether a condition holds there, if that follows.
    fn holds(condition: &syn::Meta) -> Option<bool> {
        let list = match condition {
            syn::Meta::Path(path) if path.is_ident("test") => return Some(false),
            syn::Meta::NameValue(pair) => {
                return matches!(&pair.value, syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(value), .. })
                    if pair.path.is_ident("feature") && value.value() == "testing")
                .then_some(false);
            }
            syn::Meta::Path(_) => return None,
            syn::Meta::List(list) => list,
        };
        let conditions = list.parse_args_with(Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated);
        let conditions: Vec<_> = conditions.unwrap().iter().map(holds).collect();
        match list.path.get_ident()?.to_string().as_str() {
            "not" => conditions[0].map(|holds| !holds),
            "all" if conditions.contains(&Some(false)) => Some(false),
            "any" if conditions.iter().all(|holds| *holds == Some(false)) => Some(false),
            _ => None,
        }
    }
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            holds(&syn::parse2(list.tokens.clone()).unwrap()) == Some(false)
        }
        _ => false,
    })
}

#[test]
fn only_code_for_tests_is_exempt() {
    for (condition, exempt) in [
        ("test", true),
        (r#"feature = "testing""#, true),
        (r#"any(test, feature = "testing")"#, true),
        (r#"all(test, unix)"#, true),
        (r#"any(test, unix)"#, false),
        ("not(test)", false),
        (r#"not(feature = "testing")"#, false),
        (r#"feature = "testing_of_others""#, false),
        ("unix", false),
    ] {
        let item: syn::ItemFn = syn::parse_str(&format!("#[cfg({condition})] fn f() {{}}")).unwrap();
        assert_eq!(is_test(&item.attrs), exempt, "{condition}");
    }
}

/// Collects the paths that code names.
struct Paths<'a> {
    module: &'a Module,
    found: Vec<Vec<String>>,
}

impl Paths<'_> {
    /// A path from the root of the crate, if it is one within it.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        match path.first().map(String::as_str) {
            Some("crate") => Some(path[1..].to_vec()),
            Some("self") => Some([self.module, &path[1..]].concat()),
            Some("super") => {
                let above = path.iter().take_while(|name| *name == "super").count();
                let parent = &self.module[..self.module.len().checked_sub(above)?];
                Some([parent, &path[above..]].concat())
            }
            _ => None,
        }
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String], public: bool, modules: &mut Modules) {
        let join = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&path.tree, &join(&path.ident), public, modules),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.tree(item, before, public, modules));
            }
            syn::UseTree::Name(name) => self.name(&join(&name.ident), &name.ident, public, modules),
            syn::UseTree::Rename(name) => self.name(&join(&name.ident), &name.rename, public, modules),
            syn::UseTree::Glob(_) => {
                let path = self.absolute(before).unwrap_or_else(|| before.to_vec());
                if public {
                    modules.globs.entry(self.module.clone()).or_default().push(path);
                } else {
                    self.found.push(path);
                }
            }
        }
    }

    fn name(&mut self, path: &[String], name: &syn::Ident, public: bool, modules: &mut Modules) {
        // Since edition 2018 a bare first name can be a module beside this one.
        let path = self.absolute(path).unwrap_or_else(|| [self.module, path].concat());
        let items = modules.items.entry(self.module.clone()).or_default();
        if public {
            items.insert(name.to_string(), Some(path));
        } else if !path.is_empty() {
            self.found.push(path);
        }
    }
}

/// All paths of a `use`.
fn flatten(tree: &syn::UseTree, before: &[String], paths: &mut Vec<Vec<String>>) {
    let join = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => flatten(&path.tree, &join(&path.ident), paths),
        syn::UseTree::Group(group) => group.items.iter().for_each(|item| flatten(item, before, paths)),
        syn::UseTree::Name(name) => paths.push(join(&name.ident)),
        syn::UseTree::Rename(name) => paths.push(join(&name.ident)),
        syn::UseTree::Glob(_) => paths.push(before.to_vec()),
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            syn::visit::visit_impl_item_fn(self, function);
        }
    }

    /// Within a function.
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut paths = Vec::new();
        flatten(&item.tree, &[], &mut paths);
        self.found.extend(paths.iter().filter_map(|path| self.absolute(path)).collect::<Vec<_>>());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // `self` alone is a value.
        if names.len() > 1
            && let Some(path) = self.absolute(&names)
        {
            self.found.push(path);
        }
        syn::visit::visit_path(self, path);
    }

    /// A macro that is exported goes through the root, for its callers are elsewhere.
    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if item.ident.is_none() {
            self.visit_macro(&item.mac);
        }
    }

    /// A macro's arguments are tokens: names with `::` between them.
    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.visit_path(&mac.path);
        self.tokens(mac.tokens.clone());
    }
}

impl Paths<'_> {
    fn tokens(&mut self, stream: proc_macro2::TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for token in stream {
            match token {
                proc_macro2::TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.path_ends(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                proc_macro2::TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                proc_macro2::TokenTree::Group(group) => {
                    self.path_ends(&mut path);
                    self.tokens(group.stream());
                }
                _ => self.path_ends(&mut path),
            }
        }
        self.path_ends(&mut path);
    }

    fn path_ends(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1
            && let Some(path) = self.absolute(&path)
        {
            self.found.push(path);
        }
    }
}

impl Modules {
    fn of(crate_folder: &Path) -> Self {
        let mut modules = Self::default();
        let lib = crate_folder.join("src/lib.rs");
        modules.file(&lib, &crate_folder.join("src"), Vec::new());
        modules
    }

    /// `folder` is where the file's modules are.
    fn file(&mut self, file: &Path, folder: &Path, module: Module) {
        let source = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.module(&parsed.items, folder, module);
    }

    fn module(&mut self, items: &[syn::Item], folder: &Path, module: Module) {
        self.items.entry(module.clone()).or_default();
        let mut found = Vec::new();
        for item in items {
            let mut paths = Paths { module: &module, found: Vec::new() };
            let mut define = |ident: &syn::Ident| {
                self.items.entry(module.clone()).or_default().insert(ident.to_string(), None);
            };
            match item {
                syn::Item::Mod(item) if is_test(&item.attrs) => continue,
                syn::Item::Mod(item) => {
                    let name = item.ident.to_string();
                    let inner = [&module[..], std::slice::from_ref(&name)].concat();
                    match &item.content {
                        Some((_, items)) => {
                            self.within.insert(inner.clone(), module.clone());
                            self.module(items, &folder.join(&name), inner);
                        }
                        None => {
                            let (flat, nested) = (folder.join(format!("{name}.rs")), folder.join(&name));
                            let file = if flat.exists() { flat } else { nested.join("mod.rs") };
                            self.file(&file, &nested, inner);
                        }
                    }
                    continue;
                }
                syn::Item::Use(item) if is_test(&item.attrs) => continue,
                syn::Item::Use(item) => {
                    let public = !matches!(item.vis, syn::Visibility::Inherited);
                    paths.tree(&item.tree, &[], public, self);
                    found.extend(paths.found);
                    continue;
                }
                syn::Item::Struct(item) => define(&item.ident),
                syn::Item::Enum(item) => define(&item.ident),
                syn::Item::Trait(item) => define(&item.ident),
                syn::Item::Type(item) => define(&item.ident),
                syn::Item::Const(item) => define(&item.ident),
                syn::Item::Static(item) => define(&item.ident),
                syn::Item::Fn(item) if is_test(&item.attrs) => continue,
                syn::Item::Fn(item) => define(&item.sig.ident),
                _ => {}
            }
            paths.visit_item(item);
            found.extend(paths.found);
        }
        self.uses.entry(module).or_default().extend(found);
    }

    /// The module that defines the item at `path`, re-exports followed.
    fn defines(&self, path: &[String], depth: usize) -> Option<Module> {
        if depth > 20 {
            return None;
        }
        // The longest beginning that is a module.
        let at = (0..=path.len()).rev().find(|&len| self.items.contains_key(&path[..len]))?;
        let (module, rest) = (path[..at].to_vec(), &path[at..]);
        let Some(name) = rest.first() else { return Some(module) };
        match self.items[&module].get(name) {
            Some(None) => Some(module),
            Some(Some(behind)) => {
                let behind = [behind, &rest[1..]].concat();
                self.defines(&behind, depth + 1)
            }
            None => {
                let globs = self.globs.get(&module).into_iter().flatten();
                globs.filter_map(|glob| self.defines(&[glob, rest].concat(), depth + 1)).next()
            }
        }
    }

    /// Whether a path from the root names a re-export of the root: by its name, within a module that it
    /// re-exports whole, or everything at once.
    fn is_through_root(&self, path: &[String]) -> bool {
        let Some(name) = path.first() else { return true };
        let is_module = self.items.contains_key(&path[..1]);
        match self.items[&Vec::new()].get(name) {
            // A module can have the name of a function.
            _ if is_module && path.len() > 1 => false,
            Some(item) => item.is_some(),
            None if is_module => false,
            None => self.defines(&path[..1], 0).is_some_and(|module| !module.is_empty()),
        }
    }

    /// The module whose file this one stands in. A list of files has no code, so those within it stand for
    /// themselves.
    fn file_of<'m>(&'m self, module: &'m Module) -> &'m Module {
        match self.within.get(module) {
            Some(outer) if !self.is_list(module) => self.file_of(outer),
            _ => module,
        }
    }

    fn is_list(&self, module: &Module) -> bool {
        self.items[module].values().all(Option::is_some)
    }

    /// For each file, those whose definitions it uses.
    fn graph(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let mut graph = BTreeMap::<_, BTreeSet<_>>::new();
        for (module, uses) in &self.uses {
            let file = self.file_of(module);
            let targets = uses.iter().filter_map(|path| self.defines(path, 0));
            let targets = targets.map(|target| self.file_of(&target).clone());
            graph
                .entry(file)
                .or_default()
                .extend(targets.filter(|target| target != file && !target.is_empty()));
        }
        graph
    }
}

/// The modules of a circle, if there is one.
fn circle(graph: &BTreeMap<&Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    fn visit<'g>(
        module: &'g Module,
        graph: &'g BTreeMap<&Module, BTreeSet<Module>>,
        path: &mut Vec<&'g Module>,
        done: &mut BTreeSet<&'g Module>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|other| *other == module) {
            return Some(path[start..].iter().map(|module| module.join("::")).collect());
        }
        if !done.contains(module) {
            path.push(module);
            for target in graph.get(module).into_iter().flatten() {
                if let Some(circle) = visit(target, graph, path, done) {
                    return Some(circle);
                }
            }
            path.pop();
            done.insert(module);
        }
        None
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| visit(module, graph, &mut Vec::new(), &mut done))
}

fn crate_folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("crates")).unwrap();
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    for folder in crate_folders() {
        let modules = Modules::of(&folder);
        let graph = modules.graph();
        let edges: usize = graph.values().map(BTreeSet::len).sum();
        assert!(edges >= 1, "{}: no imports found", folder.display());
        assert_eq!(circle(&graph), None, "{}", folder.display());
    }
}

/// A name that a module imports from the root of its crate could be anything: the picture would hide where it
/// stands.
#[test]
fn modules_import_each_other_by_path() {
    let mut found = Vec::new();
    for folder in crate_folders() {
        let modules = Modules::of(&folder);
        for (module, uses) in modules.uses.iter().filter(|(module, _)| !module.is_empty()) {
            let names = uses.iter().filter(|path| modules.is_through_root(path));
            found.extend(names.map(|path| {
                format!("{}: {} imports crate::{}", folder.display(), module.join("::"), path.join("::"))
            }));
        }
    }
    assert_eq!(found, [""; 0], "through lib.rs");
}

#[test]
fn a_name_through_the_root_would_be_found() {
    let path = |text: &str| text.split("::").map(String::from).collect::<Vec<_>>();
    let mut modules = Modules::default();
    let root = BTreeMap::from([("A".to_string(), Some(path("a::A"))), ("Own".to_string(), None)]);
    modules.items.insert(Vec::new(), root);
    modules.items.insert(path("a"), BTreeMap::from([("A".to_string(), None)]));
    modules.items.insert(path("b"), BTreeMap::new());
    modules.items.insert(path("b::c"), BTreeMap::from([("C".to_string(), None)]));
    // `pub use b::*` in the root, and `pub use c::*` in b.
    modules.globs.insert(Vec::new(), vec![path("b")]);
    modules.globs.insert(path("b"), vec![path("b::c")]);
    // The module c is reached through the root, too.
    for through in ["A", "A::new", "C", "C::new", "c", "c::C"] {
        assert!(modules.is_through_root(&path(through)), "{through}");
    }
    assert!(modules.is_through_root(&[]), "use crate::*");
    for direct in ["a::A", "b::c::C", "Own", "a", "macro_of_the_crate"] {
        assert!(!modules.is_through_root(&path(direct)), "{direct}");
    }
}

#[test]
fn paths_in_macros_are_found() {
    let module = vec!["a".to_string()];
    let mut paths = Paths { module: &module, found: Vec::new() };
    let file = syn::parse_file("kernel!(fn f(x: crate::b::B) { super::c::g(x, y::z) });").unwrap();
    file.items.iter().for_each(|item| paths.visit_item(item));
    assert_eq!(paths.found, [["b", "B"], ["c", "g"]]);
}

#[test]
fn a_circle_would_be_found() {
    let module = |name: &str| vec![name.to_string()];
    let (a, b, c) = (module("a"), module("b"), module("c"));
    let mut modules = Modules::default();
    for (name, items) in [(&a, "A"), (&b, "B"), (&c, "C")] {
        modules.items.insert(name.clone(), BTreeMap::from([(items.to_string(), None)]));
    }
    // Behind a re-export of the root.
    let root = modules.items.entry(Vec::new()).or_default();
    root.insert("A".to_string(), Some(vec!["a".to_string(), "A".to_string()]));
    modules.uses.insert(a.clone(), BTreeSet::from([vec!["b".to_string(), "B".to_string()]]));
    modules.uses.insert(b.clone(), BTreeSet::from([vec!["c".to_string(), "C".to_string()]]));
    modules.uses.insert(c.clone(), BTreeSet::new());
    assert_eq!(circle(&modules.graph()), None);
    modules.uses.insert(c, BTreeSet::from([vec!["A".to_string()]]));
    assert_eq!(circle(&modules.graph()), Some(["a", "b", "c"].map(String::from).to_vec()));
}

/// Names in code, and texts that are one: outside of comments, tests and samples. A list of modules
/// re-exports names that it doesn't know.
fn names(items: &[syn::Item], is_list: bool, found: &mut BTreeSet<String>) {
    struct Names<'a>(&'a mut BTreeSet<String>, bool);
    impl<'ast> Visit<'ast> for Names<'_> {
        fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
            if !self.1 || matches!(item.vis, syn::Visibility::Inherited) {
                syn::visit::visit_item_use(self, item);
            }
        }

        fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
            self.0.insert(text.value());
        }

        fn visit_ident(&mut self, ident: &'ast syn::Ident) {
            self.0.insert(ident.to_string());
        }

        fn visit_macro(&mut self, mac: &'ast syn::Macro) {
            tokens(mac.tokens.clone(), self.0);
        }

        fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
            if !is_test(&function.attrs) {
                syn::visit::visit_impl_item_fn(self, function);
            }
        }

        fn visit_item(&mut self, item: &'ast syn::Item) {
            let attributes = match item {
                syn::Item::Mod(item) => &item.attrs,
                syn::Item::Fn(item) => &item.attrs,
                syn::Item::Use(item) => &item.attrs,
                _ => &Vec::new(),
            };
            if !is_test(attributes) {
                syn::visit::visit_item(self, item);
            }
        }
    }
    fn tokens(stream: proc_macro2::TokenStream, found: &mut BTreeSet<String>) {
        for token in stream {
            match token {
                proc_macro2::TokenTree::Ident(ident) => _ = found.insert(ident.to_string()),
                proc_macro2::TokenTree::Group(group) => tokens(group.stream(), found),
                _ => {}
            }
        }
    }
    items.iter().for_each(|item| Names(found, is_list).visit_item(item));
}

/// Layers that are made of others name their parts.
const COMPOSED: [(&str, &[&str]); 1] = [("multi_head_attention", &["Softmax"])];

/// One more layer is one file and one word: no other code knows of it.
#[test]
fn a_layer_is_named_in_its_own_file_and_in_the_list_only() {
    let src = root().join("crates/nn/src");
    let mut files = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let mut named = BTreeMap::new();
    for file in files {
        let mut found = BTreeSet::new();
        let is_list = file.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs");
        names(&syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap().items, is_list, &mut found);
        named.insert(file.strip_prefix(&src).unwrap().to_path_buf(), found);
    }
    let kinds: Vec<_> =
        backrule_nn::testing::table::<f32>().into_iter().map(|entry| entry.kind.to_string()).collect();
    assert!(kinds.len() >= 9);
    let list = Path::new("layers/mod.rs");
    for kind in &kinds {
        assert!(named[list].contains(kind), "{kind} is not in the list");
        let snake: String = kind
            .chars()
            .enumerate()
            .flat_map(|(i, c)| (c.is_uppercase() && i > 0).then_some('_').into_iter().chain(c.to_lowercase()))
            .collect();
        let own = |file: &Path| {
            file.file_stem().is_some_and(|stem| stem == snake.as_str())
                || file == list
                || file.parent().is_some_and(|folder| folder.ends_with(&snake))
        };
        let composed = |file: &Path| {
            COMPOSED.iter().any(|(whole, parts)| {
                parts.contains(&kind.as_str()) && file.file_stem().is_some_and(|stem| stem == *whole)
            })
        };
        for (file, names) in &named {
            let is_named = names.contains(kind) || names.contains(&format!("{kind}Config"));
            let elsewhere = is_named && !own(file) && !composed(file);
            assert!(!elsewhere, "{} names {kind}", file.display());
        }
    }
}
