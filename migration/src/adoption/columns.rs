//! Which columns a table needs, which of them an older one has, and the statements that make up the difference.

use sea_orm::FromQueryResult;
use sea_orm_migration::prelude::*;

use super::{Asks, named, note, noted, quoted};

/// What a column that is there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// Text of any kind that holds so many characters; a shorter one becomes `text`, which rewrites nothing.
    Text(i32),
    /// A moment that this program reads. One without time zone is taken for UTC and becomes `timestamptz`, which in a session in UTC rewrites
    /// nothing (PostgreSQL 12 and later).
    Moment,
    /// A moment that this program never reads; it stays as it is.
    AnyMoment,
    /// Exactly this type, by its name in the catalogue.
    Exactly(&'static str),
}

/// A column that is needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) name: &'static str,
    /// Type, null and default, where it has to be added. Defaults are constant within a statement, so that no row is written.
    pub(crate) definition: &'static str,
    pub(crate) accepts: Accepts,
    /// True where a table without it is of no use.
    pub(crate) required: bool,
    /// For a column that is there without a default, and that what we insert leaves out.
    pub(crate) default: Option<&'static str>,
}

const fn wanted(name: &'static str, definition: &'static str, accepts: Accepts) -> Wanted {
    Wanted { name, definition, accepts, required: false, default: None }
}

const fn required(name: &'static str, accepts: Accepts) -> Wanted {
    Wanted { name, definition: "", accepts, required: true, default: None }
}

const fn with_default(of: Wanted, default: &'static str) -> Wanted {
    Wanted { default: Some(default), ..of }
}

const ID: Accepts = Accepts::Exactly("uuid");
const STRIPE_ID: Accepts = Accepts::Text(64);
const WORD: Accepts = Accepts::Text(50);

/// Of `users`; the four that a later migration adds must not be there at all.
pub(crate) const USERS: &[Wanted] = &[
    required("id", ID),
    required("email", Accepts::Text(1)),
    wanted("full_name", "text", Accepts::Text(1)),
    wanted("subscription_tier", "text NOT NULL DEFAULT 'free'", WORD),
    wanted("subscription_status", "text NOT NULL DEFAULT 'active'", WORD),
    wanted("subscription_access", "boolean NOT NULL DEFAULT false", Accepts::Exactly("bool")),
    wanted("subscription_stripe_customer_id", "text", STRIPE_ID),
    wanted("subscription_stripe_subscription_id", "text", STRIPE_ID),
    wanted("subscription_current_period_end", "timestamptz", Accepts::Moment),
    wanted("subscription_cancel_at", "timestamptz", Accepts::Moment),
    wanted("usage_count", "bigint NOT NULL DEFAULT 0", Accepts::Exactly("int8")),
    wanted("usage_limit", "bigint DEFAULT 5", Accepts::Exactly("int8")),
    wanted("usage_period_start", "timestamptz", Accepts::Moment),
    wanted("usage_period_end", "timestamptz", Accepts::Moment),
    wanted("last_login", "timestamptz", Accepts::AnyMoment),
    wanted("created_at", "timestamptz NOT NULL DEFAULT now()", Accepts::AnyMoment),
    wanted("updated_at", "timestamptz NOT NULL DEFAULT now()", Accepts::AnyMoment),
];

/// Columns of `users` that are ours alone.
pub(crate) const OURS_ALONE: &[&str] = &["usage_source", "usage_provisional", "entitlement_changes_at", "rolls_at"];

/// Of `stripe_webhooks`; one more is added by a later migration.
pub(crate) const WEBHOOKS: &[Wanted] = &[
    with_default(required("id", ID), "gen_random_uuid()"),
    required("event_id", Accepts::Text(255)),
    required("event_type", Accepts::Text(100)),
    required("payload", Accepts::Exactly("jsonb")),
    wanted("payload_bytes", "integer NOT NULL DEFAULT 0", Accepts::Exactly("int4")),
    with_default(wanted("processed", "boolean NOT NULL DEFAULT false", Accepts::Exactly("bool")), "false"),
    with_default(wanted("processing_status", "text NOT NULL DEFAULT 'pending'", WORD), "'pending'"),
    with_default(wanted("processing_attempts", "integer NOT NULL DEFAULT 0", Accepts::Exactly("int4")), "0"),
    wanted("processing_error", "text", Accepts::Text(i32::MAX)),
    wanted("processing_error_details", "jsonb", Accepts::Exactly("jsonb")),
    wanted("error_fingerprint", "text", Accepts::Text(64)),
    wanted("user_id", "uuid", ID),
    wanted("stripe_customer_id", "text", Accepts::Text(255)),
    wanted("waits_for", "text", Accepts::Text(255)),
    wanted("processed_at", "timestamptz", Accepts::Moment),
    with_default(wanted("created_at", "timestamptz NOT NULL DEFAULT now()", Accepts::Moment), "now()"),
    with_default(wanted("updated_at", "timestamptz NOT NULL DEFAULT now()", Accepts::Moment), "now()"),
    wanted("stripe_created_at", "timestamptz", Accepts::Moment),
    wanted("api_version", "text", Accepts::Text(32)),
    wanted("signature_verified", "boolean NOT NULL DEFAULT false", Accepts::Exactly("bool")),
    wanted("livemode", "boolean NOT NULL DEFAULT false", Accepts::Exactly("bool")),
    wanted("account", "text", Accepts::Text(255)),
    wanted("source", "text NOT NULL DEFAULT 'webhook'", WORD),
    wanted("next_attempt_at", "timestamptz NOT NULL DEFAULT now()", Accepts::Moment),
    wanted("claimed_by", "text", Accepts::Text(255)),
    wanted("claim_token", "uuid", ID),
    wanted("claimed_until", "timestamptz", Accepts::Moment),
    wanted("crashes", "integer NOT NULL DEFAULT 0", Accepts::Exactly("int4")),
];

/// A column that is there.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Name of its type in the catalogue.
    pub(crate) kind: String,
    /// Its type as SQL writes it.
    pub(crate) spelled: String,
    /// The most characters, where there is a bound.
    pub(crate) most: Option<i32>,
    pub(crate) nullable: bool,
    pub(crate) has_default: bool,
}

/// The columns of a table, in their order.
pub(crate) async fn columns(db: &impl Asks, table: &str) -> Result<Vec<Column>, DbErr> {
    let sql = format!(
        "SELECT a.attname::text AS name, t.typname::text AS kind, format_type(a.atttypid, a.atttypmod) AS spelled,
            CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN a.atttypmod - 4 END AS most,
            NOT a.attnotnull AS nullable, a.atthasdef OR a.attidentity <> '' AS has_default
         FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
         WHERE a.attrelid = to_regclass('{table}') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
    );
    db.rows(&sql).await?.iter().map(|row| Column::from_query_result(row, "")).collect()
}

impl Column {
    /// The type that it has to get; none where it can stay as it is.
    fn other_type(&self, accepts: Accepts) -> Option<&'static str> {
        match accepts {
            Accepts::Text(least) if self.most.is_some_and(|most| most < least) => Some("text"),
            Accepts::Moment if self.kind == "timestamp" => Some("timestamptz"),
            _ => None,
        }
    }

    /// Whether it can be used, as it is or after its type was changed without a row's being written.
    pub(crate) fn is_usable(&self, accepts: Accepts) -> bool {
        match accepts {
            Accepts::Text(_) => ["text", "varchar", "citext"].contains(&self.kind.as_str()),
            Accepts::Moment => ["timestamp", "timestamptz"].contains(&self.kind.as_str()),
            Accepts::AnyMoment => ["timestamp", "timestamptz", "date"].contains(&self.kind.as_str()),
            Accepts::Exactly(kind) => self.kind == kind,
        }
    }
}

/// Names of the columns whose type has to change.
pub(crate) fn changing<'a>(there: &'a [Column], wanted: &'a [Wanted]) -> impl Iterator<Item = &'a str> {
    there.iter().filter_map(|column| {
        let wanted = wanted.iter().find(|wanted| wanted.name == column.name)?;
        column.other_type(wanted.accepts).map(|_| column.name.as_str())
    })
}

/// The statements that give a table what it lacks, with a note of each thing that is changed. One statement changes the table.
pub(crate) fn adopting(table: &str, there: &[Column], wanted: &[Wanted]) -> Vec<String> {
    let (mut notes, mut clauses) = (Vec::new(), Vec::new());
    for Wanted { name, definition, accepts, default, .. } in wanted {
        let Some(column) = there.iter().find(|column| column.name == *name) else {
            notes.push(note(&format!("made.column.{table}.{name}"), "yes"));
            clauses.push(format!("ADD COLUMN {name} {definition}"));
            continue;
        };
        if let Some(kind) = column.other_type(*accepts) {
            notes.push(note(&format!("was.type.{table}.{name}"), &column.spelled));
            clauses.push(format!("ALTER COLUMN {name} TYPE {kind}"));
        }
        if let Some(default) = default.filter(|_| !column.has_default) {
            notes.push(note(&format!("was.default.{table}.{name}"), "none"));
            clauses.push(format!("ALTER COLUMN {name} SET DEFAULT {default}"));
        }
    }
    if !clauses.is_empty() {
        // So that moments without time zone are UTC, and no row has to be written.
        notes.push("SET LOCAL TimeZone = 'UTC'".to_owned());
        notes.push(format!("ALTER TABLE {table} {}", clauses.join(", ")));
    }
    notes
}

/// The statements that take that back.
pub(crate) async fn leaving(db: &impl Asks, table: &str) -> Result<Vec<String>, DbErr> {
    let mut clauses = Vec::new();
    for (name, _) in noted(db, &format!("made.column.{table}.")).await? {
        clauses.push(format!("DROP COLUMN IF EXISTS {}", named(&name)));
    }
    for (name, _) in noted(db, &format!("was.default.{table}.")).await? {
        clauses.push(format!("ALTER COLUMN {} DROP DEFAULT", named(&name)));
    }
    for (name, kind) in noted(db, &format!("was.type.{table}.")).await? {
        clauses.push(format!("ALTER COLUMN {} TYPE {kind}", named(&name)));
    }
    let mut statements = Vec::new();
    if !clauses.is_empty() {
        statements.push("SET LOCAL TimeZone = 'UTC'".to_owned());
        statements.push(format!("ALTER TABLE {table} {}", clauses.join(", ")));
    }
    statements.push(format!(
        "DELETE FROM settings WHERE name ~ {}",
        quoted(&format!("^(made[.]column|was[.]default|was[.]type)[.]{table}[.]"))
    ));
    Ok(statements)
}
