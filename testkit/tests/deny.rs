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

/// Every package that some crate of the workspace takes in, on this platform where others' are not at hand.
fn packages() -> Vec<Value> {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--offline", "--locked"])
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs")
    };
    let mut output = run(&[]);
    if !output.status.success() {
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let told = Command::new(rustc).arg("-vV").output().expect("rustc runs");
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let host = told.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
        output = run(&["--filter-platform", host]);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON");
    // The lock file names optional libraries too that nobody has asked for.
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a graph");
    let needs: BTreeMap<&str, &Value> =
        nodes.iter().filter_map(|node| Some((node["id"].as_str()?, &node["deps"]))).collect();
    let members = metadata["workspace_members"].as_array().expect("members");
    let mut open: Vec<&str> = members.iter().filter_map(Value::as_str).collect();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    while let Some(id) = open.pop() {
        if taken.insert(id) {
            let deps = needs[id].as_array().expect("a list");
            open.extend(deps.iter().filter_map(|dependency| dependency["pkg"].as_str()));
        }
    }
    assert!(taken.len() > 200, "this test has become blind: {} packages", taken.len());
    let all = metadata["packages"].as_array().expect("a list");
    all.iter().filter(|package| package["id"].as_str().is_some_and(|id| taken.contains(id))).cloned().collect()
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
    let mut refused = BTreeMap::new();
    for package in packages() {
        let text = package["license"].as_str().unwrap_or("none");
        let parsed = Expression::parse_mode(text, spdx::ParseMode::LAX);
        if !parsed.is_ok_and(|expression| expression.evaluate(fits)) {
            refused.insert(name(&package), text.to_owned());
        }
    }
    assert!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
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
