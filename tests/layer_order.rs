//! The crates depend on each other in one direction only: tensor, nn, loss, optim, io.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use serde_json::Value;

/// From the bottom up.
const ORDER: [&str; 5] = ["backrule-tensor", "backrule-nn", "backrule-loss", "backrule-optim", "backrule-io"];

/// What each crate may build on: less than the order would allow. Losses, optimisers and checkpoints know tensors and
/// their names, not layers. Tests may use more, as long as it is below.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("backrule-tensor", &[]),
    ("backrule-nn", &["backrule-tensor"]),
    ("backrule-loss", &["backrule-tensor"]),
    ("backrule-optim", &["backrule-tensor"]),
    ("backrule-io", &["backrule-tensor"]),
];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
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

/// What is wrong with these edges.
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
