//! What a query asks for, as a parser of its language reads it.

use std::collections::BTreeSet;

use promql_parser::{
    label::Matcher,
    parser::{AggregateExpr, BinaryExpr, Expr, VectorSelector, parse},
    util::{ExprVisitor, walk_expr},
};

use super::files::{dashboards, panels, rules};

/// Stands for the variables of dashboards, so that the query is one of Prometheus's.
const VARIABLES: &[(&str, &str)] =
    &[("$__rate_interval", "5m"), ("$__range", "6h"), ("$namespace", ".*"), ("$job", ".*"), ("$instance", ".*")];

/// One query, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) place: String,
    pub(crate) text: String,
}

/// What a query asks for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The series it selects: a name, and what their labels must be.
    pub(crate) selected: Vec<(String, Vec<Matcher>)>,
    /// Labels by which it groups or joins.
    pub(crate) labels: BTreeSet<String>,
}

impl ExprVisitor for Asked {
    type Error = String;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, String> {
        match expr {
            Expr::VectorSelector(selector) => self.select(selector)?,
            Expr::MatrixSelector(selector) => self.select(&selector.vs)?,
            Expr::Aggregate(AggregateExpr { modifier: Some(modifier), .. }) => {
                self.labels.extend(modifier.labels().labels.iter().cloned());
            }
            Expr::Binary(BinaryExpr { modifier: Some(modifier), .. }) => {
                let joined = modifier.matching.as_ref().map(|matching| matching.labels().labels.clone());
                let taken = modifier.card.labels().map(|labels| labels.labels.clone());
                self.labels.extend(joined.into_iter().chain(taken).flatten());
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Asked {
    fn select(&mut self, selector: &VectorSelector) -> Result<(), String> {
        let name = selector.name.clone().ok_or("a selection without a name")?;
        if !selector.matchers.or_matchers.is_empty() {
            return Err(format!("{name}: alternatives are not understood here"));
        }
        self.selected.push((name, selector.matchers.matchers.clone()));
        Ok(())
    }
}

impl Query {
    pub(crate) fn new(place: impl Into<String>, text: &str) -> Self {
        let mut text = text.to_owned();
        for (variable, value) in VARIABLES {
            text = text.replace(variable, value);
        }
        Self { place: place.into(), text }
    }

    /// Reads it.
    pub(crate) fn asked(&self) -> Asked {
        let expr = parse(&self.text).unwrap_or_else(|error| panic!("{}: {error}: {}", self.place, self.text));
        let mut asked = Asked::default();
        walk_expr(&mut asked, &expr).unwrap_or_else(|error| panic!("{}: {error}: {}", self.place, self.text));
        asked
    }
}

/// The queries of every rule.
pub(crate) fn of_rules() -> Vec<Query> {
    let query = |rule: super::files::Rule| Query::new(rule.record.or(rule.alert).unwrap_or_default(), &rule.expr);
    rules().into_iter().map(query).collect()
}

/// The queries of every panel and annotation, and the series that variables look into.
pub(crate) fn of_dashboards() -> Vec<Query> {
    let mut queries = Vec::new();
    for (file, dashboard) in dashboards() {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        for panel in panels(&dashboard) {
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            queries.extend(
                targets
                    .iter()
                    .map(|target| Query::new(format!("{file}: {}", text(&panel["title"])), &text(&target["expr"]))),
            );
        }
        for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
            queries.push(Query::new(
                format!("{file}: annotation {}", text(&annotation["name"])),
                &text(&annotation["expr"]),
            ));
        }
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
            if let Some((metric, label)) = label_values(&text(&variable["definition"])) {
                queries
                    .push(Query::new(format!("{file}: variable {label}"), &format!("count by ({label}) ({metric})")));
            }
        }
    }
    queries
}

/// The parts of `label_values(metric, label)`.
fn label_values(definition: &str) -> Option<(&str, &str)> {
    definition.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(", ")
}
