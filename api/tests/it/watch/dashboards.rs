//! Dashboards are whole, and their links lead somewhere.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::files::{dashboards, panels};
use crate::docs::{anchors, root};

/// Every call of the HTTP interface, as the server's own page addresses it.
fn calls() -> BTreeSet<String> {
    let document: Value = serde_json::from_str(&api::http::openapi_spec()).unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    let call = |operation: &Value| {
        let (tag, id) = (operation["tags"][0].as_str()?, operation["operationId"].as_str()?);
        Some(format!("{tag}/{id}"))
    };
    operations.filter_map(call).collect()
}

#[test]
fn every_link_of_a_panel_leads_to_an_entry_of_the_runbook_or_a_call_of_the_interface() {
    let runbook = anchors(&fs::read_to_string(root().join("docs/runbook.md")).unwrap());
    let calls = calls();
    for (file, dashboard) in dashboards() {
        let (mut entries, mut made) = (0, 0);
        for panel in panels(&dashboard) {
            for link in panel["links"].as_array().unwrap() {
                let (title, url) = (panel["title"].as_str().unwrap(), link["url"].as_str().unwrap());
                if let Some(fragment) = url.strip_prefix("${runbook}#") {
                    entries += 1;
                    assert!(runbook.contains(fragment), "{file}: {title}: {url}");
                } else if let Some(call) = url.strip_prefix("${trueup}/docs#/") {
                    made += 1;
                    assert!(calls.contains(call), "{file}: {title}: {url}; there are {calls:?}");
                } else {
                    assert_eq!(url, "${runbook}", "{file}: {title}");
                }
            }
        }
        assert!(entries > 5 && made > 3, "{file}: {entries} links to the runbook, {made} to the interface");
    }
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit_and_has_a_place_of_its_own() {
    let mut uids = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{file}: its uid is taken");
        assert!(dashboard["schemaVersion"].as_i64().unwrap() >= 39, "{file}");
        let (mut ids, mut cells, mut titles) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_i64().unwrap()), "{file}: {title}: its id is taken");
            let place = |key: &str| panel["gridPos"][key].as_i64().unwrap();
            assert!(place("x") + place("w") <= 24, "{file}: {title} sticks out");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(cells.insert((x, y)), "{file}: {title} lies on another");
                }
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(titles.insert(title), "{file}: {title} stands twice");
            assert!(
                panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{file}: {title}: what is it?"
            );
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{file}: {title}: in which unit?");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{file}: {title} asks for nothing");
            let known = ["timeseries", "stat", "table", "state-timeline"];
            assert!(known.contains(&panel["type"].as_str().unwrap()), "{file}: {title}");
            for target in targets {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{file}: {title}");
            }
        }
        let variables: Vec<&str> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(variables, ["datasource", "namespace", "job", "instance", "runbook", "trueup"], "{file}");
    }
    assert_eq!(uids.len(), 3);
}
