//! Which crate may know which: the arrows of ARCHITECTURE.md, checked against what the manifests say.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// Crate, and the crates of this workspace that it may use in the product.
const ARROWS: &[(&str, &[&str])] = &[
    ("entity", &[]),
    ("migration", &[]),
    ("metrics", &[]),
    ("billing", &["entity"]),
    ("scheduler", &["billing", "entity"]),
    ("api", &["billing", "entity", "metrics", "migration", "scheduler", "simulator"]),
    // Knows Trueup by its HTTP interface alone: what it proves it must not share.
    ("simulator", &[]),
    ("testkit", &["migration"]),
    ("bench", &["billing", "entity", "migration", "scheduler"]),
];

/// Library, and the only crates that may use it in the product.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("poem", &["api", "simulator"]),
    ("poem-openapi", &["api"]),
    ("clap", &["api", "bench"]),
    ("anyhow", &["api", "bench"]),
    ("tracing-subscriber", &["api"]),
    ("sentry", &["api"]),
    ("prometheus", &["metrics"]),
    // The simulator signs by itself, so that the two check each other.
    ("hmac", &["billing", "simulator"]),
    ("tokio-cron-scheduler", &["scheduler"]),
    ("croner", &["scheduler"]),
    ("governor", &["api", "billing"]),
    ("hyper", &["api"]),
    ("tokio-rustls", &["api"]),
    ("lettre", &["billing"]),
    ("sea-orm-migration", &["migration"]),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON")
}

/// Name and product dependencies of every crate of the workspace.
fn crates() -> Vec<(String, BTreeSet<String>)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    metadata()["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("a list").iter();
            let product = dependencies.filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect();
            (text(&package["name"]), product)
        })
        .collect()
}

#[test]
fn no_crate_knows_another_that_it_should_not() {
    let names: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for (name, dependencies) in crates() {
        let allowed = ARROWS.iter().find(|(crate_name, _)| *crate_name == name);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{name} is new: say in ARROWS what it may know"));
        for dependency in dependencies.iter().filter(|d| names.contains(d.as_str())) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not know {dependency}");
        }
    }
}

#[test]
fn a_library_stays_in_the_crate_that_it_belongs_to() {
    for (name, dependencies) in crates() {
        for (library, keepers) in KEPT_TO {
            assert!(
                !dependencies.contains(*library) || keepers.contains(&name.as_str()),
                "{name} must not use {library}: it belongs to {keepers:?}"
            );
        }
    }
}
