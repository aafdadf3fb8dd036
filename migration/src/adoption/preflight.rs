//! Whether a database can be adopted. Asked before anything is changed, and told whole: everything that stands in the way at once.

use sea_orm::{DbBackend, FromQueryResult};
use sea_orm_migration::prelude::*;

use super::{
    Asks,
    columns::{OURS_ALONE, USERS, WEBHOOKS, Wanted, columns},
    quoted, text, texts,
};

/// Tables that the host may have had before us, and that are adopted.
pub(super) const ADOPTABLE: [&str; 2] = ["users", "stripe_webhooks"];

/// Names that we need for ourselves.
const OURS: &str = "'stripe_customers', 'subscriptions', 'invoices', 'entitlement_changes', 'email_outbox', 'settings', 'job_runs',
    'job_leases', 'job_settings', 'usage_periods', 'usage_records', 'tier_overrides', 'reconciliations', 'reconciliation_drifts',
    'stripe_cursors', 'change_feed'";

/// Whether nothing of ours is in this database yet, or no more than an adoption that was cut off at its beginning.
pub(crate) async fn is_before_us(db: &impl Asks) -> Result<bool, DbErr> {
    if db.backend() != DbBackend::Postgres {
        return Ok(false);
    }
    if text(db, "SELECT to_regclass('seaql_migrations')::text AS one").await?.is_none() {
        return Ok(true);
    }
    let core = "SELECT version AS one FROM seaql_migrations WHERE version = 'm20261124_000001_core'";
    Ok(text(db, core).await?.is_none())
}

#[derive(FromQueryResult)]
struct Table {
    name: String,
    kind: String,
    owner: String,
    role: String,
    may: bool,
    hidden: bool,
}

/// What stands in the way, each with what to do; empty where nothing does, and where there is nothing to adopt.
pub(crate) async fn preflight(db: &impl Asks) -> Result<Vec<String>, DbErr> {
    if db.backend() != DbBackend::Postgres {
        return Ok(Vec::new());
    }
    if !is_before_us(db).await? {
        return Ok(Vec::new());
    }
    let mut wrong = Vec::new();
    let adopting = adopted_already(db).await?;
    let there = format!(
        "SELECT c.relname::text AS one FROM pg_class AS c WHERE c.relname IN ({OURS}) AND c.oid = to_regclass(quote_ident(c.relname))
            AND NOT ({adopting} AND c.relname = 'settings') ORDER BY 1"
    );
    for name in texts(db, &there).await? {
        wrong.push(format!(
            "there is a `{name}` already, and Trueup needs a table of that name; rename it, or give Trueup a schema of its own"
        ));
    }
    for name in ADOPTABLE {
        wrong.extend(table(db, name).await?);
    }
    Ok(wrong)
}

/// True where an adoption was begun and cut off before the first table was made.
async fn adopted_already(db: &impl Asks) -> Result<bool, DbErr> {
    if text(db, "SELECT to_regclass('settings')::text AS one").await?.is_none() {
        return Ok(false);
    }
    let shaped = "SELECT string_agg(attname::text, ',' ORDER BY attname) AS one FROM pg_attribute
        WHERE attrelid = to_regclass('settings') AND attnum > 0 AND NOT attisdropped";
    if text(db, shaped).await?.as_deref() != Some("name,updated_at,value") {
        return Ok(false);
    }
    Ok(text(db, "SELECT name AS one FROM settings WHERE starts_with(name, 'adopted.table.') LIMIT 1").await?.is_some())
}

async fn table(db: &impl Asks, name: &'static str) -> Result<Vec<String>, DbErr> {
    let sql = format!(
        "SELECT c.relname::text AS name, c.relkind::text AS kind, quote_ident(pg_get_userbyid(c.relowner)) AS owner,
            quote_ident(current_user) AS role, pg_has_role(c.relowner, 'USAGE') AS may, row_security_active(c.oid) AS hidden
         FROM pg_class AS c WHERE c.oid = to_regclass('{name}')"
    );
    let Some(row) = db.rows(&sql).await?.into_iter().next() else { return Ok(Vec::new()) };
    let Table { name: shown, kind, owner, role, may, hidden } = Table::from_query_result(&row, "")?;
    if !["r", "p"].contains(&kind.as_str()) {
        return Ok(vec![format!("`{shown}` is no table but a view or something of the kind; rename it")]);
    }
    let mut wrong = Vec::new();
    if !may {
        wrong.push(format!(
            "`{shown}` belongs to {owner}, and {role} may not change it; connect as {owner}, or: GRANT {owner} TO {role}"
        ));
    }
    if hidden {
        wrong.push(format!(
            "row-level security hides rows of `{shown}` from {role}; connect as a role that is not subject to it: its owner without FORCE ROW \
             LEVEL SECURITY, or one with BYPASSRLS"
        ));
    }
    let is_users = name == "users";
    let wanted = if is_users { USERS } else { WEBHOOKS };
    wrong.extend(shape(db, name, wanted).await?);
    // What follows reads columns that may be missing.
    if wrong.is_empty() {
        wrong.extend(if is_users { users(db).await? } else { webhooks(db).await? });
    }
    Ok(wrong)
}

/// Whether the columns can be used.
async fn shape(db: &impl Asks, table: &str, wanted: &[Wanted]) -> Result<Vec<String>, DbErr> {
    let there = columns(db, table).await?;
    let mut wrong = Vec::new();
    for Wanted { name, definition, accepts, required, .. } in wanted {
        match there.iter().find(|column| column.name == *name) {
            None if *required => wrong.push(format!(
                "`{table}` has no column `{name}`; {}",
                if table == "users" { "without it users cannot be told apart" } else { ASIDE }
            )),
            Some(column) if !column.is_usable(*accepts) => {
                let right = match accepts {
                    super::columns::Accepts::Exactly(kind) => *kind,
                    super::columns::Accepts::Text(_) => "text or varchar",
                    _ => "timestamptz or timestamp",
                };
                let remedy = if *required {
                    format!("change its type to {right}")
                } else {
                    format!("change its type, or rename it, and Trueup adds one ({definition})")
                };
                wrong.push(format!("`{table}.{name}` is {}, and has to be {right}; {remedy}", column.spelled));
            }
            _ => {}
        }
    }
    if table == "users" {
        for name in OURS_ALONE {
            if there.iter().any(|column| column.name == *name) {
                wrong.push(format!("`users` has a column `{name}`, which Trueup needs for itself; rename it"));
            }
        }
    } else {
        let unknown =
            there.iter().filter(|column| !wanted.iter().any(|wanted| wanted.name == column.name) && !column.nullable);
        for column in unknown.filter(|column| !column.has_default) {
            wrong.push(format!(
                "`{table}.{}` must be given a value and has no default, so that Trueup could store no event; give it a default, or {ASIDE}",
                column.name
            ));
        }
        if there.iter().any(|column| column.name == "payload_emptied_at") {
            wrong
                .push(format!("`{table}` has a column `payload_emptied_at`, which Trueup needs for itself; rename it"));
        }
    }
    Ok(wrong)
}

/// The way out for an older `stripe_webhooks` of any other shape.
const ASIDE: &str = "put the old table aside (ALTER TABLE stripe_webhooks RENAME TO stripe_webhooks_old)";

/// Whether a unique index holds exactly this column.
async fn is_unique(db: &impl Asks, table: &str, column: &str) -> Result<bool, DbErr> {
    let sql = format!(
        "SELECT 'yes' AS one FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = to_regclass('{table}') AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
            AND i.indnkeyatts = 1 AND a.attname = {} LIMIT 1",
        quoted(column)
    );
    Ok(text(db, &sql).await?.is_some())
}

async fn users(db: &impl Asks) -> Result<Vec<String>, DbErr> {
    let mut wrong = Vec::new();
    if !is_unique(db, "users", "id").await? {
        wrong.push("`users.id` is not unique by an index; make it the primary key".to_owned());
    }
    let without = "SELECT nullif(count(*), 0)::text AS one FROM users WHERE email IS NULL OR btrim(email::text) = ''";
    if let Some(count) = text(db, without).await? {
        wrong.push(format!(
            "{count} users have no e-mail address, by which Stripe's customers are found; give each one: SELECT id FROM users WHERE email IS NULL \
             OR btrim(email) = ''"
        ));
    }
    // Ids, and never the addresses themselves: this is logged.
    let twice = "SELECT string_agg(ids, '; ') AS one FROM (SELECT string_agg(id::text, ', ' ORDER BY id) AS ids FROM users
        WHERE email IS NOT NULL GROUP BY lower(email::text COLLATE \"C\") HAVING count(*) > 1 ORDER BY 1 LIMIT 3) AS twice";
    if let Some(ids) = text(db, twice).await? {
        wrong.push(format!(
            "several users have one e-mail address but for case ({ids}, and perhaps more), and Trueup finds users by it; merge them, or change the \
             addresses: SELECT lower(email), array_agg(id) FROM users GROUP BY 1 HAVING count(*) > 1"
        ));
    }
    Ok(wrong)
}

async fn webhooks(db: &impl Asks) -> Result<Vec<String>, DbErr> {
    let mut wrong = Vec::new();
    if !is_unique(db, "stripe_webhooks", "id").await? {
        wrong.push(format!("`stripe_webhooks.id` is not unique by an index; make it the primary key, or {ASIDE}"));
    }
    let without = "SELECT nullif(count(*), 0)::text AS one FROM stripe_webhooks
        WHERE event_id IS NULL OR event_type IS NULL OR payload IS NULL OR btrim(event_id::text) = ''";
    if let Some(count) = text(db, without).await? {
        wrong.push(format!(
            "{count} rows of `stripe_webhooks` lack `event_id`, `event_type` or `payload`; complete or delete them, or {ASIDE}"
        ));
    }
    if !is_unique(db, "stripe_webhooks", "event_id").await? {
        let twice = "SELECT event_id::text AS one FROM stripe_webhooks GROUP BY event_id HAVING count(*) > 1 LIMIT 3";
        let twice = texts(db, twice).await?;
        if !twice.is_empty() {
            wrong.push(format!(
                "events are stored more than once in `stripe_webhooks` ({}, and perhaps more); delete all but one of each, or {ASIDE}",
                twice.join(", ")
            ));
        }
    }
    // A type that changes must not be looked at by anything that would have to be made anew.
    let seen = "SELECT DISTINCT v.relname::text AS one FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
            JOIN pg_class AS v ON v.oid = r.ev_class
            JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            JOIN pg_type AS t ON t.oid = a.atttypid
         WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass('stripe_webhooks') AND t.typname = 'timestamp'";
    for view in texts(db, seen).await? {
        wrong.push(format!(
            "the view `{view}` shows moments of `stripe_webhooks` that have no time zone, whose type has to change; drop the view and make it anew \
             afterwards, or {ASIDE}"
        ));
    }
    Ok(wrong)
}
