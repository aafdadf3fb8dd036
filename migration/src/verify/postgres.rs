//! PostgreSQL's catalogue.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, FromQueryResult, Statement};
use sea_orm_migration::prelude::*;

use super::{Catalogue, Finding, Kind, Problem, VerifyError, enter, run_migrations};
use crate::{ground::begin, policies::SHARED};

/// Everything of the current schema, in names that are not qualified since `search_path` leads to it. What names the schema itself (the
/// `search_path` that functions are given) is made alike.
const READ: &str = "
WITH tables AS (
    SELECT c.oid, c.relname::text AS name, c.relrowsecurity, c.relacl FROM pg_class AS c
    WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relkind IN ('r', 'p')
), browsers AS (
    SELECT 0::oid AS oid, 'PUBLIC' AS name UNION ALL SELECT oid, rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated')
), functions AS (
    SELECT p.oid, p.proacl, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS name,
        replace(replace(pg_get_functiondef(p.oid), quote_ident(current_schema()) || '.', ''),
            format('SET search_path TO %L, ''pg_temp''', current_schema()), 'SET search_path TO {schema}, ''pg_temp''') AS definition
    FROM pg_proc AS p
    WHERE p.pronamespace = quote_ident(current_schema())::regnamespace AND p.prokind IN ('f', 'p')
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
)
SELECT 'table' AS kind, t.name AS tab, t.name AS name, 'row-level security' AS attribute,
        CASE WHEN t.relrowsecurity THEN 'on' ELSE 'off' END AS value
    FROM tables AS t
UNION ALL
SELECT 'table', t.name, t.name, 'open to', COALESCE(
        (SELECT string_agg(DISTINCT b.name, ', ') FROM aclexplode(t.relacl) AS a JOIN browsers AS b ON b.oid = a.grantee
            WHERE t.name NOT IN ({shared}) OR a.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')), 'nobody')
    FROM tables AS t
UNION ALL
SELECT 'table', t.name, t.name, 'made by', CASE WHEN s.name IS NULL THEN 'the host' ELSE 'us' END
    FROM tables AS t LEFT JOIN ({notes}) AS s ON s.name = 'made.table.' || t.name
UNION ALL
SELECT 'table', t.name, t.name, 'adopted', CASE WHEN s.name IS NULL THEN 'no' ELSE 'yes' END
    FROM tables AS t LEFT JOIN ({notes}) AS s ON s.name = 'adopted.table.' || t.name
UNION ALL
SELECT 'index', t.name, c.relname::text, 'made by', CASE WHEN s.name IS NULL THEN 'the host' ELSE 'us' END
    FROM tables AS t JOIN pg_index AS i ON i.indrelid = t.oid JOIN pg_class AS c ON c.oid = i.indexrelid
    LEFT JOIN ({notes}) AS s ON s.name = 'made.index.' || c.relname
UNION ALL
SELECT 'column', t.name, a.attname::text, v.attribute, v.value
    FROM tables AS t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    CROSS JOIN LATERAL (VALUES ('type', format_type(a.atttypid, a.atttypmod)),
        ('nullable', CASE WHEN a.attnotnull THEN 'no' ELSE 'yes' END),
        ('default', CASE WHEN a.attidentity <> '' THEN 'identity' ELSE COALESCE(pg_get_expr(d.adbin, d.adrelid), 'none') END)
    ) AS v (attribute, value)
UNION ALL
SELECT 'constraint', t.name, c.conname::text, v.attribute, v.value
    FROM tables AS t JOIN pg_constraint AS c ON c.conrelid = t.oid AND c.contype IN ('c', 'f', 'p', 'u', 'x')
    CROSS JOIN LATERAL (VALUES ('definition', regexp_replace(pg_get_constraintdef(c.oid, true), ' NOT VALID$', '')),
        ('validated', CASE WHEN c.convalidated THEN 'yes' ELSE 'no' END)) AS v (attribute, value)
UNION ALL
SELECT 'index', t.name, c.relname::text, v.attribute, v.value
    FROM tables AS t JOIN pg_index AS i ON i.indrelid = t.oid JOIN pg_class AS c ON c.oid = i.indexrelid
    CROSS JOIN LATERAL (VALUES ('definition', pg_get_indexdef(i.indexrelid, 0, true)),
        ('valid', CASE WHEN i.indisvalid AND i.indisready THEN 'yes' ELSE 'no' END)) AS v (attribute, value)
UNION ALL
SELECT 'trigger', t.name, g.tgname::text, v.attribute, v.value
    FROM tables AS t JOIN pg_trigger AS g ON g.tgrelid = t.oid AND NOT g.tgisinternal
    CROSS JOIN LATERAL (VALUES ('definition', pg_get_triggerdef(g.oid, true)),
        ('enabled', CASE g.tgenabled WHEN 'D' THEN 'no' ELSE 'yes' END)) AS v (attribute, value)
UNION ALL
SELECT 'function', '', f.name, 'definition', f.definition FROM functions AS f
UNION ALL
SELECT 'function', '', f.name, 'open to', CASE WHEN f.proacl IS NULL THEN 'PUBLIC' ELSE COALESCE(
        (SELECT string_agg(DISTINCT b.name, ', ') FROM aclexplode(f.proacl) AS a JOIN browsers AS b ON b.oid = a.grantee), 'nobody') END
    FROM functions AS f
UNION ALL
SELECT 'policy', t.name, p.polname::text, v.attribute, v.value
    FROM tables AS t JOIN pg_policy AS p ON p.polrelid = t.oid
    CROSS JOIN LATERAL (VALUES
        ('for', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END),
        ('to', COALESCE((SELECT string_agg(r.rolname, ', ' ORDER BY r.rolname) FROM pg_roles AS r WHERE r.oid = ANY (p.polroles)), 'PUBLIC')),
        ('adopted', CASE WHEN EXISTS (SELECT FROM ({notes}) AS s WHERE s.name = 'adopted.policy.' || t.name || '.' || p.polname)
            THEN 'yes' ELSE 'no' END),
        ('using', COALESCE(pg_get_expr(p.polqual, p.polrelid), 'none')),
        ('with check', COALESCE(pg_get_expr(p.polwithcheck, p.polrelid), 'none'))
    ) AS v (attribute, value)";

#[derive(FromQueryResult)]
struct Row {
    kind: String,
    tab: String,
    name: String,
    attribute: String,
    value: String,
}

/// What stands for the schema's own name in [`READ`]'s answers.
const SCHEMA: &str = "{schema}";

/// What is expected, and what is there.
pub(super) async fn catalogues(
    db: &DatabaseConnection,
    applied: &[&str],
) -> Result<(Catalogue, Catalogue), VerifyError> {
    let tx = begin(db).await?;
    let mut actual = read(&tx).await?;
    let schema: String = one(&tx, "SELECT quote_ident(current_schema()) AS one").await?;
    let expected = scratch(&tx, applied).await;
    tx.rollback().await?;
    let mut expected = expected.map_err(VerifyError::Scratch)?;
    for value in actual.values_mut().chain(expected.values_mut()).flat_map(BTreeMap::values_mut) {
        if value.contains(SCHEMA) {
            *value = value.replace(SCHEMA, &schema);
        }
    }
    // Of the host's functions nothing is expected.
    actual.retain(|key, _| key.kind != Kind::Function || expected.contains_key(key));
    Ok((expected, actual))
}

/// The schema that the migrations make, in a schema of its own that is never committed.
async fn scratch(tx: &DatabaseTransaction, applied: &[&str]) -> Result<Catalogue, DbErr> {
    let name = one(tx, "SELECT 'trueup_verify_' || pg_backend_pid() AS one").await?;
    tx.execute_unprepared(&format!("CREATE SCHEMA {name}")).await?;
    tx.execute_unprepared(&format!("SET LOCAL search_path = {name}")).await?;
    run_migrations(&SchemaManager::new(tx), applied).await?;
    read(tx).await
}

/// A query's only value.
async fn one(tx: &DatabaseTransaction, sql: &str) -> Result<String, DbErr> {
    let row = tx.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    row.ok_or_else(|| DbErr::RecordNotFound(sql.to_owned()))?.try_get("", "one")
}

async fn read(tx: &DatabaseTransaction) -> Result<Catalogue, DbErr> {
    // Even this table may be missing.
    let noted = one(
        tx,
        "SELECT CASE WHEN to_regclass('settings') IS NULL THEN 'SELECT NULL AS name' ELSE 'SELECT name FROM settings' END AS one",
    );
    let sql = READ.replace("{shared}", SHARED).replace("{notes}", &noted.await?);
    let rows = Row::find_by_statement(Statement::from_string(DbBackend::Postgres, sql)).all(tx).await?;
    let mut catalogue = Catalogue::new();
    for Row { kind, tab, name, attribute, value } in rows {
        enter(&mut catalogue, [kind, tab, name, attribute, value])?;
    }
    Ok(catalogue)
}

/// Triggers that keep an adopted table in step, and are not there or do nothing.
const OUT_OF_STEP: &str = "
SELECT substr(s.name, 20) AS name FROM settings AS s WHERE starts_with(s.name, 'made.trigger.users.') AND NOT EXISTS (
    SELECT FROM pg_trigger AS g WHERE g.tgrelid = to_regclass('users') AND g.tgname = substr(s.name, 20) AND g.tgenabled <> 'D')
ORDER BY 1";

#[derive(FromQueryResult)]
struct Lost {
    name: String,
}

pub(super) async fn out_of_step(db: &DatabaseConnection) -> Result<Vec<Finding>, DbErr> {
    let tx = begin(db).await?;
    let noted =
        Statement::from_string(DbBackend::Postgres, "SELECT 1 AS one WHERE to_regclass('settings') IS NOT NULL");
    if tx.query_one_raw(noted).await?.is_none() {
        return Ok(Vec::new());
    }
    let lost = Lost::find_by_statement(Statement::from_string(DbBackend::Postgres, OUT_OF_STEP)).all(&tx).await?;
    tx.commit().await?;
    let fault = |Lost { name }| Finding {
        kind: Kind::Trigger,
        table: "users".to_owned(),
        remedy: format!(
            "ALTER TABLE users ENABLE TRIGGER {name}; where it is gone: `trueup migrate down` and `trueup migrate up`, which lose nothing of the host's"
        ),
        name,
        problem: Problem::Missing,
        note: false,
    };
    Ok(lost.into_iter().map(fault).collect())
}

/// Indexes of ours on tables of some size that nothing has used yet.
const UNUSED: &str = "
SELECT s.relname::text AS tab, s.indexrelname::text AS name, pg_size_pretty(pg_relation_size(s.indexrelid)) AS size
FROM pg_stat_user_indexes AS s JOIN pg_index AS i ON i.indexrelid = s.indexrelid
JOIN pg_stat_user_tables AS t ON t.relid = s.relid
WHERE s.schemaname = current_schema() AND s.idx_scan = 0 AND NOT i.indisunique AND t.n_live_tup >= 10000
    AND s.indexrelname LIKE 'idx\\_%'";

#[derive(FromQueryResult)]
struct Idle {
    tab: String,
    name: String,
    size: String,
}

pub(super) async fn unused(db: &DatabaseConnection) -> Result<Vec<Finding>, DbErr> {
    let tx = begin(db).await?;
    let idle = Idle::find_by_statement(Statement::from_string(DbBackend::Postgres, UNUSED)).all(&tx).await?;
    tx.commit().await?;
    let note = |Idle { tab, name, size }| Finding {
        kind: Kind::Index,
        table: tab,
        name,
        problem: Problem::Unused,
        note: true,
        remedy: format!("nothing, if its query is still to come; it takes {size}, see `trueup db indexes`"),
    };
    Ok(idle.into_iter().map(note).collect())
}
