//! No value ever becomes part of a statement's text: values are bound. What is put together out of parts is put together out of parts that
//! stand in the sources, and each such part is named here, so that a new one is looked at.

use std::{collections::BTreeSet, fs, path::Path};

/// Sources of the product that run statements in the service of requests, events and jobs. (The migrations run at the start, with no
/// foreign value at hand; they make names of tables and columns into statements, which cannot be bound.)
const SOURCES: &[&str] = &["api/src", "billing/src", "entity/src", "metrics/src", "scheduler/src"];

/// Files that may make a statement, or a part of one, from a text at all.
const MAKERS: &[&str] = &[
    "billing/src/db/",
    "billing/src/inbox/records.rs",
    "billing/src/inbox/retry.rs",
    "billing/src/processor/save.rs",
    "billing/src/reconcile/records.rs",
    "billing/src/recovery.rs",
    "billing/src/store/",
    "billing/src/users.rs",
    "scheduler/src/control.rs",
    "scheduler/src/store.rs",
];

/// What makes one.
const CONSTRUCTORS: &[&str] = &[
    "Statement::from_string",
    "Statement::from_sql_and_values",
    "Expr::cust(",
    "Expr::cust_with_values",
    "Expr::cust_with_exprs",
    "execute_unprepared",
    "raw_sql!",
    "sqlx::query",
    "QueryBuilder",
    "AssertSqlSafe",
];

/// Words by which a text is known as one of SQL.
const WORDS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "UPDATE ",
    "DELETE FROM ",
    " WHERE ",
    "WHERE ",
    " FROM ",
    " SET ",
    " VALUES ",
    "ANY(",
    " IN (",
    "ORDER BY ",
    "LIMIT ",
    "JOIN ",
    " CONFLICT ",
    "DISTINCT FROM",
    "CASE WHEN",
    "count(",
    "interval ",
    "datetime(",
    "strftime(",
    "julianday(",
];

/// Whole numbers that stand within quotation marks, where SQL wants them there.
const NUMBERS: &[(&str, &str)] = &[("billing/src/store/failures.rs", "{days}")];

/// Parts that may be put into such a text, by file. Each is a constant, a name of a column or table that stands in the sources, or a text that
/// was made of such parts; none is, or holds, anything that came from outside.
const PARTS: &[(&str, &[&str])] = include!("statement_parts.in");

struct Found {
    file: String,
    line: usize,
    text: String,
    parts: Vec<String>,
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's folder").to_owned();
    let mut folders: Vec<_> = SOURCES.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                // What tests do is for the tests.
                let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                files.push((path.strip_prefix(&root).expect("below it").display().to_string(), product));
            }
        }
    }
    files.sort();
    files
}

/// The text literals of a source, with the line each begins in and what stands before it.
fn literals(source: &str) -> Vec<(usize, String, String)> {
    let bytes = source.as_bytes();
    let (mut at, mut found) = (0, Vec::new());
    let line = |at: usize| source[..at].matches('\n').count() + 1;
    let before =
        |at: usize| source[..at].chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<String>();
    while at < bytes.len() {
        if source[at..].starts_with("//") {
            at = source[at..].find('\n').map_or(bytes.len(), |end| at + end);
        } else if let Some(hashes) = raw(&source[at..]) {
            let from = at + 2 + hashes;
            let end = source[from..].find(&format!("\"{}", "#".repeat(hashes))).map_or(bytes.len(), |end| from + end);
            found.push((line(at), before(at), source[from..end].to_owned()));
            at = (end + 1 + hashes).min(bytes.len());
        } else if bytes[at] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            found.push((line(at), before(at), source[at + 1..end.min(bytes.len())].to_owned()));
            at = end + 1;
        } else if bytes[at] == b'\'' && bytes.get(at + 2) == Some(&b'\'') {
            at += 3;
        } else if bytes[at] == b'\'' && bytes.get(at + 1) == Some(&b'\\') {
            at += 4;
        } else {
            at += source[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// The number of hashes where a raw text begins.
fn raw(source: &str) -> Option<usize> {
    let rest = source.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// What a format text puts in: names, and `{}` for what follows.
fn parts(text: &str) -> Vec<String> {
    let plain = text.replace("{{", "").replace("}}", "");
    plain
        .split('{')
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('}')?.0.split(':').next().unwrap_or_default().to_owned()))
        .collect()
}

fn statements() -> Vec<Found> {
    let mut found = Vec::new();
    for (file, source) in sources().iter().filter(|(file, _)| !file.starts_with("metrics/")) {
        for (line, before, text) in literals(source) {
            let formats = ["format!(", "write!(", "format_args!(", "concat!(", "push_str("].iter().any(|call| {
                let tail = before.rsplit(';').next().unwrap_or_default();
                tail.contains(call)
            });
            if formats && WORDS.iter().any(|word| text.contains(word)) && text.contains('{') {
                found.push(Found { file: file.clone(), line, parts: parts(&text), text });
            }
        }
    }
    found
}

#[test]
fn statements_are_made_in_few_places() {
    for (file, source) in sources() {
        for constructor in CONSTRUCTORS.iter().filter(|constructor| source.contains(**constructor)) {
            assert!(
                MAKERS.iter().any(|maker| file.starts_with(maker)),
                "{file} makes a statement by {constructor}: that belongs in billing/src/store"
            );
        }
    }
}

#[test]
fn nothing_but_what_is_named_here_is_put_into_a_statement() {
    let found = statements();
    assert!(found.len() > 20, "this test has become blind: only {} statements were found", found.len());
    let mut strange = Vec::new();
    let mut used = BTreeSet::new();
    for Found { file, line, text, parts } in &found {
        for part in parts {
            let named =
                PARTS.iter().find(|(name, _)| name == file).is_some_and(|(_, parts)| parts.contains(&part.as_str()));
            used.insert((file.as_str(), part.as_str()));
            if !named {
                strange.push(format!("{file}:{line}: {{{part}}} in `{text}`"));
            }
        }
        let numbers = NUMBERS.iter().filter(|(name, _)| name == file).map(|(_, number)| *number);
        let text = numbers.fold(text.replace("{{", "").replace("}}", ""), |text, number| text.replace(number, "1"));
        // A constant is no value.
        let constant = |at: usize| text[at + 2..].starts_with(|c: char| c.is_ascii_uppercase());
        let mut quoted = text.match_indices("'{").filter(|(at, _)| text[..*at].matches('\'').count() % 2 == 0);
        let quoted = quoted.any(|(at, _)| !constant(at));
        assert!(!quoted, "{file}:{line}: a part within quotation marks looks like a value: bind it: {text}");
    }
    assert!(
        strange.is_empty(),
        "bind values; a part that is none, and cannot come from outside, is named in statement_parts.in:\n{}",
        strange.join("\n")
    );
    for (file, parts) in PARTS {
        for part in *parts {
            assert!(used.contains(&(*file, *part)), "{file}: {part} is named here and not used any more");
        }
    }
}

#[test]
fn the_look_at_the_sources_sees_what_it_is_meant_to_see() {
    let source = "let a = format!(\"SELECT {x} FROM t WHERE a = '{y}' AND {}\", z); // \"no {text}\"\nlet c = '\"'; let b = r#\"raw {q}\"#;";
    let texts: Vec<_> = literals(source).into_iter().map(|(line, _, text)| (line, text)).collect();
    assert_eq!(texts, [(1, "SELECT {x} FROM t WHERE a = '{y}' AND {}".to_owned()), (2, "raw {q}".to_owned())]);
    assert_eq!(parts(&texts[0].1), ["x", "y", ""]);
    assert_eq!(parts("{{}} {a:?} {b:>5}"), ["a", "b"]);
}
