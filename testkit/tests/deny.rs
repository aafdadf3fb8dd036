//! Licences, sources and banned crates, by the lists in deny.toml that cargo-deny reads too. Advisories need their database, and with it a
//! network: cargo-deny looks after them in the public workflow.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;
use spdx::{Expression, LicenseReq};
use toml::Table;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn lists() -> Table {
    include_str!("../../deny.toml").parse().expect("deny.toml is TOML")
}

fn texts(table: &Table, section: &str, key: &str) -> Vec<String> {
    let list = table[section].get(key).and_then(toml::Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Every package of the lock file that a build on any platform may take in, with its licence and source.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    // Packages for other platforms may not be on this machine: then the resolved ones for this one are looked at.
    let output = if output.status.success() {
        output
    } else {
        let host = Command::new(option_env!("RUSTC").unwrap_or("rustc")).arg("-vV").output().expect("rustc runs");
        let host = String::from_utf8_lossy(&host.stdout).into_owned();
        let triple = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host").to_owned();
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", &triple])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs")
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON");
    metadata["packages"].as_array().expect("a list").clone()
}

fn name(package: &Value) -> String {
    format!("{} {}", package["name"].as_str().expect("a name"), package["version"].as_str().expect("a version"))
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let lists = lists();
    let allowed = texts(&lists, "licenses", "allow");
    assert!(!allowed.is_empty());
    let fits = |wanted: &LicenseReq| allowed.contains(&wanted.to_string());
    let mut used = BTreeSet::new();
    let mut refused = BTreeMap::new();
    for package in packages() {
        let text = package["license"].as_str().unwrap_or("none");
        match Expression::parse_mode(text, spdx::ParseMode::LAX) {
            Ok(expression) if expression.evaluate(fits) => {
                used.extend(expression.requirements().map(|wanted| wanted.req.to_string()));
            }
            _ => {
                refused.insert(name(&package), text.to_owned());
            }
        }
    }
    assert!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
    for licence in allowed {
        assert!(used.contains(&licence), "{licence} is allowed in deny.toml and nothing needs it");
    }
}

#[test]
fn everything_comes_from_crates_io() {
    let lists = lists();
    for key in ["unknown-registry", "unknown-git"] {
        assert_eq!(lists["sources"][key].as_str(), Some("deny"), "sources.{key}");
    }
    for package in packages() {
        // Those of the workspace have none.
        if let Some(source) = package["source"].as_str() {
            assert_eq!(source, CRATES_IO, "{}", name(&package));
        }
    }
}

#[test]
fn nothing_banned_comes_in_by_any_way_and_no_version_is_left_open() {
    let lists = lists();
    let banned = lists["bans"]["deny"].as_array().expect("a list");
    assert!(banned.len() >= 5);
    // The lock file knows every platform and every feature in use.
    let lock = include_str!("../../Cargo.lock");
    let locked: BTreeSet<_> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    for ban in banned {
        let (krate, reason) = (ban["crate"].as_str().expect("a crate"), ban["reason"].as_str().expect("a reason"));
        assert!(!locked.contains(krate), "{krate} came in ({reason}); see `cargo tree -i {krate}`");
    }
    assert_eq!(lists["bans"]["wildcards"].as_str(), Some("deny"));
    let own = packages().into_iter().filter(|package| package["source"].is_null());
    for package in own {
        for dependency in package["dependencies"].as_array().expect("a list") {
            let open = dependency["req"] == "*" && dependency["path"].is_null();
            assert!(!open, "{}: {} has no version", name(&package), dependency["name"]);
        }
    }
}
