//! `docs/configuration.md` says what the code does: every key that is read is there and no other, and each default is the default.
//!
//! Nothing here lists a key: those that exist are those that [`read`](super::read) asks for.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use super::{Config, Mistakes};

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// Is read before everything else: it names the file.
const CONFIG: &str = "TRUEUP_CONFIG";

/// A row of one of the document's tables.
struct Row {
    /// Empty for the environment.
    table: String,
    key: String,
    /// As a literal of TOML in a table, as plain text in the environment. On `SQLite`, and on PostgreSQL where that differs.
    default: Option<(String, String)>,
}

/// What stands between the first backticks, and between the second.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let (mut table, mut rows) = (None, Vec::new());
    for line in DOCUMENT.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            let heading = heading.trim_start_matches('#').trim();
            // `[stripe]`, `[[plans]]`, `[jobs.<name>]`, or the environment.
            table = match quoted(heading).first() {
                Some(name) if name.starts_with('[') => {
                    let list = name.starts_with("[[");
                    Some(format!("{}{}", name.trim_matches(['[', ']']), if list { "[]" } else { "" }))
                }
                _ => heading.starts_with("Environment").then(String::new),
            };
            continue;
        }
        let Some(table) = &table else { continue };
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        let (Some(key), [_, default, ..]) = (quoted(cells[0]).into_iter().next(), &*cells) else { continue };
        if !line.starts_with('|') {
            continue;
        }
        let mut defaults = quoted(default).into_iter();
        let first = defaults.next();
        let default = first.map(|first| {
            let second = defaults.next().unwrap_or_else(|| first.clone());
            (first, second)
        });
        for key in quoted(cells[0]).into_iter().skip(1).chain([key]) {
            rows.push(Row { table: table.clone(), key, default: default.clone() });
        }
    }
    rows
}

/// Every variable and every key of the file that the code asks for.
fn asked() -> (BTreeSet<String>, BTreeSet<String>) {
    let variables = RefCell::new(BTreeSet::from([CONFIG.to_owned()]));
    let env = |name: &str| {
        variables.borrow_mut().insert(name.to_owned());
        None
    };
    let file = "[[plans]]\ntier = \"free\"";
    let (_, Mistakes(mistakes, keys)) = Config::gather(&env, Some((Path::new("probe.toml"), file)));
    assert!(mistakes.is_empty(), "{mistakes:?}");
    (variables.into_inner(), keys)
}

/// One name for what exists once for every job, and once for every plan.
fn general(key: &str) -> String {
    let key = key.replace("plans[0]", "plans[]");
    match key.strip_prefix("jobs.").and_then(|rest| rest.split_once('.')) {
        Some((_, of_job)) => format!("jobs.<name>.{of_job}"),
        None => key,
    }
}

#[test]
fn every_key_that_is_read_is_documented_and_every_documented_key_is_read() {
    let (variables, keys) = asked();
    let of_table = |row: &&Row| row.key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let told: BTreeSet<String> = rows().iter().filter(|row| row.table.is_empty()).map(|row| row.key.clone()).collect();
    assert_eq!(told, variables, "the variables of docs/configuration.md (left) and of the code");
    // At the top level of the file: the variables' names in lower case, and tables.
    let tables: BTreeSet<String> =
        rows().iter().filter(|row| !row.table.is_empty()).map(|row| row.table.clone()).collect();
    let top: BTreeSet<String> = keys.iter().filter(|key| !key.contains(['.', '['])).cloned().collect();
    let expected: BTreeSet<String> = variables
        .iter()
        .filter(|name| *name != CONFIG)
        .map(|name| name.to_lowercase())
        .chain(tables.iter().map(|table| table.split(['.', '[']).next().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(expected, top, "the top level of trueup.toml by docs/configuration.md (left) and by the code");
    let told: BTreeSet<String> = rows()
        .iter()
        .filter(|row| !row.table.is_empty())
        .filter(of_table)
        .map(|row| format!("{}.{}", row.table, row.key))
        .collect();
    let within: BTreeSet<String> = keys
        .iter()
        .filter(|key| key.contains('.'))
        .map(|key| general(key))
        .filter(|key| key.matches('.').count() > usize::from(key.starts_with("jobs.")))
        .collect();
    let jobs: BTreeSet<String> = scheduler::jobs::all().iter().map(|job| job.spec().name.to_owned()).collect();
    // The table of the jobs has a row for each of them among its keys.
    let told: BTreeSet<String> =
        told.into_iter().filter(|key| !jobs.iter().any(|job| *key == format!("jobs.<name>.{job}"))).collect();
    assert_eq!(told, within, "the tables of docs/configuration.md (left) and of the code");
}

/// A file in which every documented default is written down.
fn spelled_out(postgres: bool) -> String {
    let mut tables: BTreeMap<String, String> = BTreeMap::new();
    let jobs: Vec<&str> = scheduler::jobs::all().iter().map(|job| job.spec().name).collect();
    for Row { table, key, default } in rows() {
        let Some((sqlite, on_postgres)) = default else { continue };
        let value = if postgres { on_postgres } else { sqlite };
        if table.is_empty() && matches!(&*key, "DATABASE_URL" | CONFIG) || jobs.contains(&&*key) {
            continue;
        }
        match &*table {
            "" => writeln!(tables.entry(table).or_default(), "{} = {}", key.to_lowercase(), toml::Value::String(value)),
            "jobs.<name>" => {
                for job in &jobs {
                    let _ = writeln!(tables.entry(format!("jobs.{job}")).or_default(), "{key} = {value}");
                }
                Ok(())
            }
            _ => writeln!(tables.entry(table).or_default(), "{key} = {value}"),
        }
        .expect("writing to a string");
    }
    let mut file = tables.remove("").unwrap_or_default();
    for (table, keys) in tables {
        let _ = write!(file, "\n[{table}]\n{keys}");
    }
    // Without a mail server nothing of [mail] would show.
    file.replace("[mail]\n", "[mail]\nfrom = \"a@example.com\"\n")
}

#[test]
fn every_documented_default_is_the_default() {
    for (url, postgres) in [("sqlite://data/trueup.db", false), ("postgres://h/d", true)] {
        let env = |name: &str| match name {
            "DATABASE_URL" => Some(url.to_owned()),
            "SMTP_URL" => Some("smtps://mail.example.com".to_owned()),
            _ => None,
        };
        let read = |file: &str| match Config::from(&env, Some((Path::new("trueup.toml"), file))) {
            Ok(config) => format!("{config:#?}"),
            Err(errors) => panic!("{errors}\n{file}"),
        };
        let (told, silent) = (read(&spelled_out(postgres)), read("[mail]\nfrom = \"a@example.com\""));
        let different: Vec<_> = told.lines().zip(silent.lines()).filter(|(told, silent)| told != silent).collect();
        assert!(
            different.is_empty() && told.len() == silent.len(),
            "documented (left) and in the code: {different:#?}"
        );
    }
    let url = rows().into_iter().find(|row| row.key == "DATABASE_URL").and_then(|row| row.default).expect("a default");
    let silent = Config::from(&|_| None, None).expect("nothing is set");
    assert_eq!(silent.database_url.expose(), url.0);
}

#[test]
fn every_job_is_documented_with_its_schedule() {
    for job in scheduler::jobs::all() {
        let spec = job.spec();
        let line = format!("| `{}` | `{}` |", spec.name, spec.schedule);
        assert!(DOCUMENT.contains(&line), "docs/configuration.md lacks a row that begins with {line}");
    }
}
