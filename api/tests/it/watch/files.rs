//! The files, as Prometheus and Grafana read them.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::docs::root;

/// One rule of Prometheus.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Rule {
    pub(crate) record: Option<String>,
    pub(crate) alert: Option<String>,
    pub(crate) expr: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

/// A file of tests for promtool.
#[derive(Debug, Deserialize)]
pub(crate) struct Tests {
    pub(crate) group_eval_order: Vec<String>,
    pub(crate) tests: Vec<Test>,
}

/// One of its tests.
#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "as promtool names them")]
pub(crate) struct Test {
    pub(crate) input_series: Vec<Input>,
    #[serde(default)]
    pub(crate) alert_rule_test: Vec<AlertTest>,
    #[serde(default)]
    pub(crate) promql_expr_test: Vec<QueryTest>,
}

/// What a test is fed with.
#[derive(Debug, Deserialize)]
pub(crate) struct Input {
    pub(crate) series: String,
}

/// What a test expects of an alert: that it fires, or that it is silent.
#[derive(Debug, Deserialize)]
pub(crate) struct AlertTest {
    pub(crate) alertname: String,
    #[serde(default)]
    pub(crate) exp_alerts: Vec<Value>,
}

/// A query and nothing else of it.
#[derive(Debug, Deserialize)]
pub(crate) struct QueryTest {
    pub(crate) expr: String,
}

fn texts(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has no files *.{extension}");
    let name = |path: &PathBuf| format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn yaml<T: for<'d> Deserialize<'d>>(name: &str, text: &str) -> T {
    serde_yaml_ng::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn groups() -> Vec<Group> {
    let files = texts("deploy/prometheus/rules", "yml");
    files.iter().flat_map(|(name, text)| yaml::<Rules>(name, text).groups).collect()
}

/// Every rule.
pub(crate) fn rules() -> Vec<Rule> {
    groups().into_iter().flat_map(|group| group.rules).collect()
}

/// The names of all groups.
pub(crate) fn group_names() -> Vec<String> {
    groups().into_iter().map(|group| group.name).collect()
}

/// The files of tests of the rules.
pub(crate) fn tests() -> Vec<(String, Tests)> {
    texts("deploy/prometheus/tests", "yml").iter().map(|(name, text)| (name.clone(), yaml(name, text))).collect()
}

/// Every dashboard.
pub(crate) fn dashboards() -> Vec<(String, Value)> {
    let files = texts("deploy/grafana/dashboards", "json");
    files.iter().map(|(name, text)| (name.clone(), serde_json::from_str(text).unwrap())).collect()
}

/// Every panel of a dashboard but its headings.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}
