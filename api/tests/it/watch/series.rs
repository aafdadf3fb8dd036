//! Whatever is asked for is exported, and whatever is exported is watched.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use metrics::{Family, families};
use promql_parser::label::Matcher;
use scheduler::jobs;

use super::{
    files::{rules, tests},
    queries::{Query, of_dashboards, of_rules},
};
use crate::docs::{documents, root};

/// What Prometheus adds to whatever it scrapes.
const TARGET: [&str; 3] = ["namespace", "job", "instance"];
/// What Prometheus tells of what it scrapes, and of its own alerts.
const OF_PROMETHEUS: [(&str, &[&str]); 3] =
    [("up", &[]), ("scrape_duration_seconds", &[]), ("ALERTS", &["alertname", "alertstate", "severity"])];
/// The labels that a series has, each with its values where these are closed.
type Labels = BTreeMap<String, Option<BTreeSet<String>>>;

#[expect(clippy::unnecessary_wraps, reason = "labels with any value have None in its place")]
fn closed(values: impl IntoIterator<Item = impl Into<String>>) -> Option<BTreeSet<String>> {
    Some(values.into_iter().map(Into::into).collect())
}

/// The values of labels that are told when a process starts, but are fixed by then.
fn told_at_start(label: &str) -> Option<BTreeSet<String>> {
    match label {
        "job_name" => closed(jobs::all().iter().map(|job| job.spec().name)),
        "type" => closed(billing::events::event_types().chain(["other"])),
        "tier" => closed(["free", "starter", "pro", "elite", "other"]),
        "route" => {
            let document: serde_json::Value = serde_json::from_str(&api::http::openapi_spec()).unwrap();
            let paths = document["paths"].as_object().unwrap().keys().cloned();
            closed(paths.chain(["other".to_owned(), "/docs".to_owned(), "/openapi.json".to_owned()]))
        }
        "method" => closed(metrics::labels::HttpMethod::ALL.iter().map(|method| method.as_str())),
        _ => None,
    }
}

/// Every series there is to ask for.
fn exported() -> BTreeMap<String, Labels> {
    let mut series = BTreeMap::new();
    for Family { name, kind, labels, .. } in families() {
        let mut labels: Labels = labels;
        for (label, values) in &mut labels {
            // The list of methods is that of one route.
            if values.is_none() || label == "method" {
                *values = told_at_start(label);
            }
        }
        if kind == "histogram" {
            for part in ["_sum", "_count"] {
                series.insert(format!("{name}{part}"), labels.clone());
            }
            labels.insert("le".to_owned(), None);
            series.insert(format!("{name}_bucket"), labels);
        } else {
            series.insert(name, labels);
        }
    }
    for (name, labels) in OF_PROMETHEUS {
        series.insert(name.to_owned(), labels.iter().map(|label| ((*label).to_owned(), None)).collect());
    }
    for rule in rules() {
        if let Some(name) = rule.record {
            let labels = Query::new(&name, &rule.expr).asked().labels.into_iter();
            let job = rule.expr.contains("\"job_name\"").then(|| "job_name".to_owned());
            series.insert(name, labels.chain(job).map(|label| (label, None)).collect());
        }
    }
    series
}

/// What is wrong with a matcher: it can match nothing, or names something that is not there.
fn wrong(matcher: &Matcher, values: &BTreeSet<String>) -> Option<String> {
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./{}".contains(c));
    let words: Vec<&str> = matcher.value.split('|').filter(|part| word(part)).collect();
    let strangers: Vec<&&str> = words.iter().filter(|word| !word.contains(".+") && !values.contains(**word)).collect();
    if !strangers.is_empty() {
        return Some(format!("{}: no such values: {strangers:?}", matcher.name));
    }
    let none = !values.iter().any(|value| matcher.is_match(value));
    none.then(|| format!("{}: nothing matches {}", matcher.name, matcher.value))
}

#[test]
fn every_series_that_rules_and_dashboards_ask_for_is_exported_with_those_labels_and_values() {
    let exported = exported();
    let mut mistakes = Vec::new();
    for query in of_rules().into_iter().chain(of_dashboards()) {
        let asked = query.asked();
        let mut known: BTreeSet<&str> = TARGET.into_iter().collect();
        for (name, matchers) in &asked.selected {
            let Some(labels) = exported.get(name) else {
                mistakes.push(format!("{}: nothing exports {name}", query.place));
                continue;
            };
            known.extend(labels.keys().map(String::as_str));
            for matcher in matchers.iter().filter(|matcher| !TARGET.contains(&matcher.name.as_str())) {
                match labels.get(&matcher.name) {
                    None => mistakes.push(format!("{}: {name} has no label {}", query.place, matcher.name)),
                    Some(Some(values)) => {
                        mistakes
                            .extend(wrong(matcher, values).map(|wrong| format!("{}: {name}: {wrong}", query.place)));
                    }
                    Some(None) => {}
                }
            }
        }
        if query.text.contains("\"job_name\"") {
            known.insert("job_name");
        }
        for label in asked.labels.iter().filter(|label| !known.contains(label.as_str())) {
            mistakes.push(format!("{}: groups or joins by {label}, which nothing there has", query.place));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn the_tests_of_the_rules_are_fed_with_series_as_they_are_exported() {
    let exported = exported();
    let mut mistakes = Vec::new();
    for (file, tests) in tests() {
        for test in tests.tests {
            for input in test.input_series {
                let (name, matchers) = Query::new(&file, &input.series).asked().selected.remove(0);
                let Some(labels) = exported.get(&name) else {
                    // Tests may show that what others export is left alone, and that what is no family of ours is too.
                    mistakes.push(format!("{file}: nothing exports {name}"));
                    continue;
                };
                let mut missing: BTreeSet<&String> = labels.keys().collect();
                for matcher in matchers.iter().filter(|matcher| !TARGET.contains(&matcher.name.as_str())) {
                    missing.remove(&matcher.name);
                    match labels.get(&matcher.name) {
                        None => mistakes.push(format!("{file}: {name} has no label {}", matcher.name)),
                        Some(Some(values)) if !values.contains(&matcher.value) => {
                            mistakes.push(format!("{file}: {name}: {} is never {}", matcher.name, matcher.value));
                        }
                        Some(_) => {}
                    }
                }
                if !missing.is_empty() {
                    mistakes.push(format!("{file}: {} lacks {missing:?}", input.series));
                }
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn every_family_is_shown_or_alerted_on_or_listed_with_the_reason_why_not() {
    let text = fs::read_to_string(root().join("deploy/unwatched.toml")).unwrap();
    let unwatched: BTreeMap<String, String> = toml::from_str(&text).unwrap();
    let asked: BTreeSet<String> = of_rules()
        .into_iter()
        .chain(of_dashboards())
        .flat_map(|query| query.asked().selected.into_iter().map(|(name, _)| name))
        .collect();
    let families: BTreeMap<String, Family> =
        families().into_iter().map(|family| (family.name.clone(), family)).collect();
    let mut mistakes = Vec::new();
    for (name, family) in &families {
        let parts: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        let watched = parts.iter().any(|part| asked.contains(&format!("{name}{part}")));
        match (watched, unwatched.get(name)) {
            (false, None) => {
                mistakes.push(format!("{name}: nobody looks at it: show it, or say why not in deploy/unwatched.toml"));
            }
            (true, Some(_)) => mistakes.push(format!("{name}: it is looked at; deploy/unwatched.toml says otherwise")),
            (false, Some(reason)) if reason.len() < 20 => mistakes.push(format!("{name}: what is the reason?")),
            _ => {}
        }
    }
    mistakes.extend(
        unwatched.keys().filter(|name| !families.contains_key(*name)).map(|name| format!("{name}: there is none")),
    );
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn every_family_that_documents_speak_of_is_exported() {
    let exported = exported();
    // Keys of the file of settings begin alike; they are variables of the environment in lower case, which no family is.
    let documents = documents();
    let variable = |name: &str| documents.iter().any(|(_, text)| text.contains(&name.to_uppercase()));
    let mut mistakes = Vec::new();
    for (document, text) in &documents {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | ':');
        for name in
            text.split(|c: char| !word(c)).filter(|name| name.starts_with("trueup_") || name.starts_with("trueup:"))
        {
            let families = ["", "_bucket", "_sum", "_count"].map(|part| format!("{name}{part}"));
            let known = families.iter().any(|name| exported.contains_key(name));
            if !known && !variable(name) && !name.ends_with(['_', ':']) {
                mistakes.push(format!("{document}: nothing exports {name}"));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn every_job_has_an_age_that_its_last_success_may_have() {
    let rules = rules();
    let rule = rules.iter().find(|rule| rule.record.as_deref() == Some("trueup:job_success_allowed_age:seconds"));
    let listed: BTreeSet<&str> = rule
        .unwrap()
        .expr
        .split('"')
        .filter(|text| text.contains('_') && !text.contains(' ') && *text != "job_name")
        .collect();
    let jobs: BTreeSet<&str> = jobs::all().iter().map(|job| job.spec().name).collect();
    assert_eq!(listed, jobs);
}
