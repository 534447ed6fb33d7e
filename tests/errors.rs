//! A public error can get a field or a variant without breaking a caller.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use syn::visit::Visit;

/// The errors of a source, each with whether it is `#[non_exhaustive]`.
#[derive(Default)]
struct Errors(Vec<(String, bool)>);

impl Errors {
    fn of(source: &str) -> Vec<(String, bool)> {
        let mut errors = Self::default();
        errors.visit_file(&syn::parse_file(source).unwrap());
        errors.0
    }

    /// An error is what is called so, or derives it.
    fn item(&mut self, name: &syn::Ident, visibility: &syn::Visibility, attributes: &[syn::Attribute]) {
        let derived = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
        let mut derived = derived.filter_map(|attribute| attribute.meta.require_list().ok());
        let name = name.to_string();
        let error = name.ends_with("Error") || derived.any(|list| list.tokens.to_string().contains("Error"));
        if error && matches!(visibility, syn::Visibility::Public(_)) {
            let open = attributes.iter().any(|attribute| attribute.path().is_ident("non_exhaustive"));
            self.0.push((name, open));
        }
    }
}

impl Visit<'_> for Errors {
    fn visit_item_struct(&mut self, item: &syn::ItemStruct) {
        self.item(&item.ident, &item.vis, &item.attrs);
    }

    fn visit_item_enum(&mut self, item: &syn::ItemEnum) {
        self.item(&item.ident, &item.vis, &item.attrs);
    }
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            sources(&entry.path(), found);
        } else {
            found.push(fs::read_to_string(entry.path()).unwrap());
        }
    }
}

#[test]
fn every_public_error_is_non_exhaustive() {
    let mut errors = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates")).unwrap() {
        let mut found = Vec::new();
        sources(&entry.unwrap().path().join("src"), &mut found);
        errors.extend(found.iter().flat_map(|source| Errors::of(source)));
    }
    assert!(errors.len() >= 18, "only {errors:?}");
    errors.retain(|(_, open)| !open);
    assert_eq!(errors, [], "without `#[non_exhaustive]`");
}

#[test]
fn an_error_without_the_attribute_would_be_found() {
    let source = "#[derive(Debug, thiserror::Error)] pub enum Problem {}\n\
                  mod inner { pub struct AError; #[non_exhaustive] pub struct BError; struct CError; }";
    let found = [("Problem", false), ("AError", false), ("BError", true)];
    assert_eq!(Errors::of(source), found.map(|(name, open)| (name.to_string(), open)));
}
