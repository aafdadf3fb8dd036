//! Every family of metrics is fed: whatever the crate `metrics` can be told, the product tells it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Read, not told.
const READ: &[&str] = &["new", "render"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files
}

/// What is no test.
fn product(folder: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let texts = sources(&root).into_iter().map(|file| fs::read_to_string(file).expect("a text"));
    texts.map(|text| text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_family_is_fed_by_the_product() {
    let metrics = product("metrics/src");
    let mut told = BTreeSet::new();
    for part in metrics.split("\nimpl Metrics {").skip(1) {
        let body = part.split("\n}\n").next().unwrap_or_default();
        let name =
            |rest: &str| rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().map(str::to_owned);
        told.extend(body.split("\n    pub fn ").skip(1).filter_map(name));
    }
    for name in READ {
        told.remove(*name);
    }
    assert!(told.len() > 30, "the methods of `Metrics` were found: {told:?}");
    let api = product("api/src");
    let unfed: Vec<_> = told
        .iter()
        .filter(|name| !api.contains(&format!(".{name}(")) && !metrics.contains(&format!("self.{name}(")))
        .collect();
    assert!(unfed.is_empty(), "nobody in api/src tells metrics of {unfed:?}");
}
