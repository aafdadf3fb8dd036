//! Each alert is tested, tells what a woken person needs, and has its entry in the runbook.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{collections::BTreeSet, fs};

use super::files::{Rule, group_names, rules, tests};
use crate::docs::root;

const RUNBOOK: &str = "{{ or $externalLabels.runbook \"docs/runbook.md\" }}#";

fn alerts() -> Vec<(String, Rule)> {
    rules().into_iter().filter_map(|rule| Some((rule.alert.clone()?, rule))).collect()
}

/// The entries of the runbook: headings of the second level, each with what stands below it.
fn entries() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let entries = text.split("\n## ").skip(1).filter_map(|entry| entry.split_once('\n'));
    entries.map(|(heading, body)| (heading.to_owned(), body.split("\n# ").next().unwrap().to_owned())).collect()
}

#[test]
fn every_alert_tells_what_a_woken_person_needs() {
    for (name, rule) in alerts() {
        assert!(matches!(rule.labels["severity"].as_str(), "critical" | "warning"), "{name}: its severity");
        for annotation in ["summary", "description"] {
            let text = rule.annotations.get(annotation).unwrap_or_else(|| panic!("{name} has no {annotation}"));
            assert!(text.len() > 15 && !text.contains('\n'), "{name}: {annotation}: {text}");
        }
        assert!(rule.annotations["description"].ends_with('.'), "{name}: its description is a sentence");
        assert_eq!(rule.annotations["runbook_url"], format!("{RUNBOOK}{}", name.to_lowercase()), "{name}");
    }
}

#[test]
fn every_alert_has_its_entry_in_the_runbook_and_every_entry_its_alert() {
    let alerts: BTreeSet<String> = alerts().into_iter().map(|(name, _)| name).collect();
    let entries = entries();
    let headings: BTreeSet<String> = entries.iter().map(|(heading, _)| heading.clone()).collect();
    assert_eq!(headings, alerts);
    assert_eq!(headings.len(), entries.len(), "an entry stands twice");
    let text = fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    for (heading, body) in &entries {
        for part in ["**Means** ", "**Look**", "**Do**"] {
            assert!(body.contains(part), "{heading}: {part}");
        }
        assert!(
            text.contains(&format!("[{heading}](#{})", heading.to_lowercase())),
            "the list of entries lacks {heading}"
        );
    }
}

#[test]
fn every_alert_is_tested_to_fire_and_to_stay_silent() {
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for (_, file) in tests() {
        for test in file.tests {
            for alert in test.alert_rule_test {
                let told = if alert.exp_alerts.is_empty() { &mut silent } else { &mut fires };
                told.insert(alert.alertname);
            }
        }
    }
    let alerts: BTreeSet<String> = alerts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(fires, alerts, "tested to fire");
    assert_eq!(silent, alerts, "tested to stay silent");
}

#[test]
fn tests_of_the_rules_evaluate_what_is_recorded_before_what_builds_upon_it() {
    let (mut groups, builds_upon): (Vec<_>, Vec<_>) =
        group_names().into_iter().partition(|name| name.contains("recording"));
    assert!(!groups.is_empty());
    groups.extend(builds_upon);
    for (name, file) in tests() {
        assert_eq!(file.group_eval_order, groups, "{name}: every group, what records first");
        let queries = file.tests.iter().flat_map(|test| &test.promql_expr_test);
        assert!(queries.into_iter().all(|query| !query.expr.is_empty()), "{name}");
    }
}
