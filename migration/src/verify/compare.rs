//! Two catalogues, side by side.

use std::collections::BTreeMap;

use super::{Catalogue, Finding, Key, Kind, Problem};

/// Tables of the host: it may have made them, and may do with them what it likes.
const HOST_TABLES: [&str; 3] = ["property_analyses", "support_chats", "onboarding_status"];

/// The host shares this one with us.
const USERS: &str = "users";

/// Attributes that tell of a thing's history and not of its shape: of a table that the host had before us, and of a policy that was there then.
pub(super) const ADOPTED: &str = "adopted";

/// Attribute of a table or an index that says whether our migrations made it.
pub(super) const MADE: &str = "made by";
/// Its value where the host did.
pub(super) const BY_HOST: &str = "the host";

struct Sides<'a> {
    expected: &'a Catalogue,
    actual: &'a Catalogue,
    postgres: bool,
}

pub(super) fn compare(expected: &Catalogue, actual: &Catalogue, postgres: bool) -> Vec<Finding> {
    let sides = Sides { expected, actual, postgres };
    let mut findings = Vec::new();
    for (key, wanted) in expected {
        let Some(found) = actual.get(key) else {
            // A table that is missing is told once.
            if key.kind == Kind::Table || sides.has_table(&key.table) {
                findings.push(match sides.missing_as_adopted(key) {
                    Some(why) => Finding { note: true, ..sides.finding(key, Problem::Missing, why) },
                    None => sides.finding(key, Problem::Missing, sides.missing(key, wanted)),
                });
            }
            continue;
        };
        for (attribute, expected) in wanted.iter().filter(|(attribute, _)| *attribute != MADE && *attribute != ADOPTED)
        {
            let found = found.get(attribute).map_or("", String::as_str);
            if expected != found && !(sides.is_adopted(&key.table) && untyped(expected) == untyped(found)) {
                let problem = Problem::Different {
                    attribute: attribute.clone(),
                    expected: expected.clone(),
                    found: found.to_owned(),
                };
                findings.push(match sides.fine_as_adopted(key, attribute, expected, found) {
                    Some(why) => Finding { note: true, ..sides.finding(key, problem, why) },
                    None => sides.finding(key, problem, sides.different(key, attribute, wanted, found)),
                });
            }
        }
    }
    for (key, found) in actual.iter().filter(|(key, _)| !expected.contains_key(*key)) {
        if sides.is_expected_table(&key.table) {
            let adopted = sides.is_adopted(&key.table);
            let (note, remedy) = match key.kind {
                Kind::Column if adopted => (true, "nothing: it is the host's own".to_owned()),
                Kind::Trigger if key.name.contains("trueup_") => {
                    (true, "nothing: it keeps the host's columns and ours in step".to_owned())
                }
                Kind::Policy if found.get(ADOPTED).is_some_and(|adopted| adopted == "yes") => {
                    (true, "nothing, if it lets in whom you mean: it was there before Trueup".to_owned())
                }
                _ => (is_harmless(key, found), unexpected(key)),
            };
            findings.push(Finding { note, ..sides.finding(key, Problem::Unexpected, remedy) });
        }
    }
    findings
}

impl Sides<'_> {
    fn finding(&self, key: &Key, problem: Problem, remedy: String) -> Finding {
        let Key { kind, table, name } = key.clone();
        let table = if kind == Kind::Table { String::new() } else { table };
        Finding { kind, table, name, problem, note: self.is_hosts(&key.table), remedy }
    }

    fn table<'c>(catalogue: &'c Catalogue, table: &str) -> Option<&'c BTreeMap<String, String>> {
        catalogue.get(&Key { kind: Kind::Table, table: table.to_owned(), name: table.to_owned() })
    }

    /// True also for what belongs to no table.
    fn has_table(&self, table: &str) -> bool {
        table.is_empty() || Self::table(self.actual, table).is_some()
    }

    fn is_expected_table(&self, table: &str) -> bool {
        Self::table(self.expected, table).is_some()
    }

    /// A table that the host made is the host's to shape.
    fn is_hosts(&self, table: &str) -> bool {
        let made = Self::table(self.actual, table).and_then(|attributes| attributes.get(MADE));
        HOST_TABLES.contains(&table) && made.is_some_and(|made| made == BY_HOST)
    }

    /// A table that the host had before us.
    fn is_adopted(&self, table: &str) -> bool {
        Self::table(self.actual, table)
            .and_then(|attributes| attributes.get(ADOPTED))
            .is_some_and(|adopted| adopted == "yes")
    }

    /// Why it is no fault that a thing of an adopted table differs; none where it is.
    fn fine_as_adopted(&self, key: &Key, attribute: &str, expected: &str, found: &str) -> Option<String> {
        if !self.is_adopted(&key.table) {
            return None;
        }
        let fine = match (key.kind, attribute) {
            (Kind::Table, "open to") => key.name == USERS,
            (Kind::Column, "type") => {
                let text = |kind: &str| kind == "text" || kind == "citext" || kind.starts_with("character varying");
                let moment = |kind: &str| kind.starts_with("timestamp") || kind == "date";
                (text(expected) && text(found)) || (moment(expected) && moment(found) && key.table == USERS)
            }
            (Kind::Column, "nullable" | "default") | (Kind::Constraint, _) => true,
            (Kind::Index, "definition") => self.is_hosts_index(key),
            _ => false,
        };
        fine.then(|| "nothing: the host had it before Trueup, and both can do with it".to_owned())
    }

    /// Why it is no fault that a thing of an adopted table is missing; none where it is.
    fn missing_as_adopted(&self, key: &Key) -> Option<String> {
        if !self.is_adopted(&key.table) {
            return None;
        }
        match key.kind {
            Kind::Constraint => Some("nothing: the host has its own constraints there".to_owned()),
            Kind::Policy if key.table == USERS => Some(
                "nothing: who sees what of the host's users is the host's to say, and a policy of ours would show columns that are none of ours"
                    .to_owned(),
            ),
            Kind::Index if key.name == "users_email_key" => {
                let beside = Key { kind: Kind::Index, table: key.table.clone(), name: "trueup_users_email_key".to_owned() };
                self.actual.contains_key(&beside).then(|| "nothing: it is called trueup_users_email_key here".to_owned())
            }
            _ => None,
        }
    }

    /// An index under a name of ours that the host made.
    fn is_hosts_index(&self, key: &Key) -> bool {
        self.actual.get(key).and_then(|index| index.get(MADE)).is_some_and(|made| made == BY_HOST)
    }

    fn missing(&self, key: &Key, wanted: &BTreeMap<String, String>) -> String {
        let get = |attribute: &str| wanted.get(attribute).map_or("", String::as_str);
        let Key { table, name, .. } = key;
        match key.kind {
            Kind::Table => "restore it from a backup; to begin anew: `trueup migrate down` as far as the migration that makes it, then `trueup migrate up`".to_owned(),
            Kind::Column => {
                let default = get("default");
                let default = if default == "none" { String::new() } else { format!(" DEFAULT {default}") };
                let null = if get("nullable") == "no" { " NOT NULL" } else { "" };
                format!("ALTER TABLE {table} ADD COLUMN {name} {}{null}{default}", get("type"))
            }
            Kind::Constraint if self.postgres => {
                format!("ALTER TABLE {table} ADD CONSTRAINT {name} {}", get("definition"))
            }
            Kind::Constraint => "SQLite cannot add it to a table that exists; restore the database from a backup".to_owned(),
            Kind::Index => self.create_index(get("definition")),
            Kind::Function if get("open to") == "nobody" => {
                format!("{}; REVOKE ALL ON FUNCTION {name} FROM PUBLIC", get("definition").trim())
            }
            Kind::Trigger | Kind::Function => get("definition").to_owned(),
            Kind::Policy => create_policy(key, wanted),
            Kind::Migration => String::new(),
        }
    }

    fn different(&self, key: &Key, attribute: &str, wanted: &BTreeMap<String, String>, found: &str) -> String {
        let Key { table, name, .. } = key;
        let expected = wanted.get(attribute).map_or("", String::as_str);
        match (key.kind, attribute) {
            (Kind::Table, "row-level security") if self.is_adopted(name) && name == USERS => {
                "browsers may read and write everything in it; make policies for whoever has to see something, then ALTER TABLE users ENABLE ROW LEVEL \
                 SECURITY (docs/adopting.md)"
                    .to_owned()
            }
            (Kind::Table, "row-level security") => format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"),
            (Kind::Table, "open to") if name == USERS || HOST_TABLES.contains(&name.as_str()) => {
                format!("REVOKE TRUNCATE, REFERENCES, TRIGGER ON {name} FROM {found}")
            }
            (Kind::Table, "open to") => format!("REVOKE ALL ON {name} FROM {found}"),
            (Kind::Column, _) if !self.postgres => {
                "SQLite cannot change a column; restore the database from a backup".to_owned()
            }
            (Kind::Column, "type") => format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {expected}"),
            (Kind::Column, "nullable") => {
                format!(
                    "ALTER TABLE {table} ALTER COLUMN {name} {} NOT NULL",
                    if expected == "no" { "SET" } else { "DROP" }
                )
            }
            (Kind::Column, _) if expected == "none" => format!("ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT"),
            (Kind::Column, _) => format!("ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {expected}"),
            (Kind::Constraint, "validated") => format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}"),
            (Kind::Constraint, _) => {
                format!(
                    "ALTER TABLE {table} DROP CONSTRAINT {name}; ALTER TABLE {table} ADD CONSTRAINT {name} {expected}"
                )
            }
            (Kind::Index, "valid") => format!("REINDEX INDEX CONCURRENTLY {name}"),
            (Kind::Index, _) if self.postgres => {
                format!("DROP INDEX CONCURRENTLY {name}; {}", self.create_index(expected))
            }
            (Kind::Index, _) => format!("DROP INDEX {name}; {expected}"),
            (Kind::Trigger, _) => format!("DROP TRIGGER {name} ON {table}; {expected}"),
            (Kind::Function, "open to") => format!("REVOKE ALL ON FUNCTION {name} FROM {found}"),
            (Kind::Function, _) => expected.to_owned(),
            (Kind::Policy, _) => format!("DROP POLICY {name} ON {table}; {}", create_policy(key, wanted)),
            (Kind::Table | Kind::Migration, _) => String::new(),
        }
    }

    fn create_index(&self, definition: &str) -> String {
        if self.postgres { definition.replacen("INDEX ", "INDEX CONCURRENTLY ", 1) } else { definition.to_owned() }
    }
}

/// A definition without its casts: over columns of type `varchar` PostgreSQL spells the same one with more of them.
fn untyped(definition: &str) -> String {
    ["::text[]", "::character varying[]", "::text", "::character varying"]
        .iter()
        .fold(definition.to_owned(), |text, cast| text.replace(cast, ""))
}

fn create_policy(key: &Key, wanted: &BTreeMap<String, String>) -> String {
    let get = |attribute: &str| wanted.get(attribute).map_or("", String::as_str);
    let check = match get("with check") {
        "none" => String::new(),
        check => format!(" WITH CHECK ({check})"),
    };
    format!(
        "CREATE POLICY {} ON {} FOR {} TO {} USING ({}){check}",
        key.name,
        key.table,
        get("for"),
        get("to"),
        get("using")
    )
}

fn unexpected(key: &Key) -> String {
    let Key { table, name, .. } = key;
    match key.kind {
        Kind::Column => format!(
            "nothing, if it is yours and may be left out of an insert; else give it a default: ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT …"
        ),
        Kind::Constraint => "nothing, if it is yours and forbids nothing that we write".to_owned(),
        Kind::Index => format!("nothing, if it is yours and worth what it costs each write; else DROP INDEX {name}"),
        Kind::Trigger => "nothing, if it is yours".to_owned(),
        Kind::Policy => format!("look whom it lets in; DROP POLICY {name} ON {table}"),
        _ => String::new(),
    }
}

/// Whether something that we do not expect can be left as it is.
fn is_harmless(key: &Key, found: &BTreeMap<String, String>) -> bool {
    let has = |attribute: &str, value: &str| found.get(attribute).is_some_and(|found| found == value);
    match key.kind {
        // We leave it out of what we insert.
        Kind::Column => !(has("nullable", "no") && has("default", "none")) || HOST_TABLES.contains(&key.table.as_str()),
        // It may open the table to somebody.
        Kind::Policy => key.table == USERS || HOST_TABLES.contains(&key.table.as_str()),
        _ => true,
    }
}
