//! Every family, for people and for checks: what `docs/metrics.md` is made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use prometheus::proto::MetricType;

use crate::{Metrics, labels::HttpMethod};

/// Labels whose values are told when a process starts: each from a list that is fixed by then.
const TOLD_AT_START: &[(&str, &str)] = &[
    ("type", "the event types that are handled, and `other`"),
    ("route", "the patterns of the routes, and one for all that lead nowhere"),
    ("job_name", "the jobs"),
    ("tier", "the tiers of the plans, and `other`"),
    ("version", "the version"),
];

/// Where a family stands in the document: the first beginning that fits.
const SECTIONS: &[(&str, &[&str])] = &[
    ("Webhooks and the inbox", &["trueup_webhook", "trueup_inbox", "trueup_claims", "trueup_recovered"]),
    ("Applying events", &["trueup_event", "trueup_apply", "trueup_entitlement_changes"]),
    (
        "Users, subscriptions and usage",
        &["trueup_user", "trueup_subscription", "trueup_usage", "trueup_entitlements", "trueup_email"],
    ),
    ("Jobs", &["trueup_job"]),
    ("Reconciling", &["trueup_reconcile"]),
    ("Stripe's API and our endpoint there", &["trueup_stripe"]),
    ("HTTP", &["trueup_http", "trueup_auth"]),
    ("Database", &["trueup_database"]),
    ("The process and the scrape itself", &["trueup_", "process_"]),
];

/// One family, as it is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Its name; a histogram's series add `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its HELP.
    pub help: String,
    /// Its labels, each with the values that are known beforehand; none for one whose values are told when a process starts.
    pub labels: BTreeMap<String, Option<BTreeSet<String>>>,
}

/// Every family, sorted by name.
pub fn families() -> Vec<Family> {
    let metrics = Metrics::new("", []);
    for method in HttpMethod::ALL {
        metrics.http_route("/", *method);
    }
    metrics.job("any");
    metrics.tiers(["free"]);
    metrics.show_everything();
    metrics.registry.gather().iter().map(family).collect()
}

fn family(gathered: &prometheus::proto::MetricFamily) -> Family {
    let mut labels: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
    for pair in gathered.get_metric().iter().flat_map(prometheus::proto::Metric::get_label) {
        let open = TOLD_AT_START.iter().any(|(label, _)| *label == pair.name());
        let values = labels.entry(pair.name().to_owned()).or_insert_with(|| (!open).then(BTreeSet::new));
        if let Some(values) = values {
            values.insert(pair.value().to_owned());
        }
    }
    Family {
        name: gathered.name().to_owned(),
        kind: match gathered.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::GAUGE | MetricType::UNTYPED => "gauge",
        },
        help: gathered.help().to_owned(),
        labels,
    }
}

/// `docs/metrics.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         `GET /metrics` in Prometheus's text format. This file is made from the code: `TRUEUP_UPDATE_DOCS=1 cargo test -p metrics`.\n\n\
         Every series with closed labels is there from the start, at 0, so that `rate` and `increase` see the first event. Gauges that are read from \
         the database are left out while it does not answer, instead of showing what was true a while ago; `trueup_scrape_part_up` says which.\n",
    );
    let mut left = families();
    for (title, beginnings) in SECTIONS {
        let (here, rest): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|family| beginnings.iter().any(|beginning| family.name.starts_with(beginning)));
        left = rest;
        let _ = write!(text, "\n## {title}\n\n| family | type | labels | what it tells |\n|---|---|---|---|\n");
        for family in here {
            let labels: Vec<String> = family.labels.iter().map(|(name, values)| label(name, values.as_ref())).collect();
            let (name, kind, labels, help) =
                (&family.name, family.kind, labels.join("; "), family.help.replace('|', "\\|"));
            let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {help} |");
        }
    }
    debug_assert!(left.is_empty(), "the last section takes whatever is left: {left:?}");
    text
}

fn label(name: &str, values: Option<&BTreeSet<String>>) -> String {
    let Some(values) = values else {
        let told = TOLD_AT_START.iter().find(|(label, _)| *label == name).map_or("", |(_, told)| told);
        return format!("`{name}`: {told}");
    };
    let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    format!("`{name}`: {}", values.join(", "))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Names of families as they stand in this crate's sources.
    fn named_in_sources() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the sources are there") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { &mut folders } else { &mut files }.push(path);
            }
        }
        for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
            let source = fs::read_to_string(file).expect("a text");
            let product = source.split("#[cfg(test)]").next().unwrap_or_default();
            let word = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            let quoted = product.split('"').skip(1).step_by(2);
            names.extend(quoted.filter(|text| text.starts_with("trueup_") && word(text)).map(str::to_owned));
        }
        let beginnings = SECTIONS.iter().flat_map(|(_, beginnings)| *beginnings);
        beginnings.for_each(|beginning| _ = names.remove(*beginning));
        names
    }

    #[test]
    fn every_family_that_is_defined_is_listed_with_our_prefix_a_help_and_the_unit_its_type_wants() {
        let families = families();
        let listed: BTreeSet<String> =
            families.iter().map(|family| family.name.clone()).filter(|name| name.starts_with("trueup_")).collect();
        assert_eq!(listed, named_in_sources(), "a family without any series from the start is not listed");
        for Family { name, kind, help, labels } in &families {
            assert!(name.starts_with("trueup_") || name.starts_with("process_"), "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            if *kind == "histogram" {
                assert!(name.ends_with("_seconds") || name.ends_with("_events"), "{name}: its unit");
            }
            for taken in ["le", "job", "instance", "namespace"] {
                assert!(!labels.contains_key(taken), "{name}: `{taken}` is Prometheus's own");
            }
        }
    }

    #[test]
    fn the_document_is_what_the_code_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        if std::env::var_os("TRUEUP_UPDATE_DOCS").is_some() {
            fs::write(&path, document()).expect("docs/metrics.md can be written");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == document(),
            "docs/metrics.md is not what the code says: TRUEUP_UPDATE_DOCS=1 cargo test -p metrics"
        );
    }
}
