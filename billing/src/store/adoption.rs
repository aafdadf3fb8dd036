//! What is asked of a database in which a host was before us (PostgreSQL).

use entity::Time;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use super::rowset::text_array;
use crate::db::Db;

/// A constraint that refuses values of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) refused: Vec<String>,
}

#[derive(FromQueryResult)]
struct Row {
    name: String,
    condition: String,
}

/// Which check constraints of `users` over this column alone refuse which of these values. What is asked is the constraint's own condition, with
/// each value in the column's place.
pub(crate) async fn refused_by(db: &Db, column: &str, values: &[String]) -> Result<Vec<Check>, DbErr> {
    if db.backend() != DbBackend::Postgres {
        return Ok(Vec::new());
    }
    let sql = "SELECT k.conname::text AS name, pg_get_expr(k.conbin, k.conrelid) AS condition FROM pg_constraint AS k
            JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
        WHERE k.conrelid = to_regclass('users') AND k.contype = 'c' AND cardinality(k.conkey) = 1 AND a.attname = $1 ORDER BY 1";
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [column.into()]);
    let mut found = Vec::new();
    for Row { name, condition } in Row::find_by_statement(statement).all(db.reader()).await? {
        let sql = format!(
            "SELECT v.value FROM unnest($1::text[]) AS v (value) CROSS JOIN LATERAL (SELECT v.value AS {column}) AS users
             WHERE ({condition}) IS FALSE"
        );
        let values = text_array(values.iter().cloned());
        let rows =
            db.reader().query_all_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, [values])).await?;
        let refused: Vec<String> = rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, _>>()?;
        if !refused.is_empty() {
            found.push(Check { name, refused });
        }
    }
    Ok(found)
}

/// Tiers of what is held that are none of these, with how many users have each.
pub(crate) async fn unknown_tiers(db: &Db, known: &[String]) -> Result<Vec<(String, i64)>, DbErr> {
    if db.backend() != DbBackend::Postgres {
        return Ok(Vec::new());
    }
    let sql = "SELECT metadata ->> 'tier', count(*) FROM subscriptions WHERE rank = 1 AND version_event_id = 'adopted'
        AND metadata ->> 'tier' <> ALL ($1::text[]) GROUP BY 1 ORDER BY 2 DESC LIMIT 10";
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [text_array(known.iter().cloned())]);
    let rows = db.reader().query_all_raw(statement).await?;
    rows.iter().map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?))).collect()
}

#[derive(FromQueryResult)]
struct Legacy {
    count: String,
    reset: Option<String>,
}

/// Signs that the host still resets usage itself: moments of resets that are none of ours, jobs of the database, functions.
pub(crate) async fn hosts_resets(db: &Db, adopted_at: Time) -> Result<Vec<String>, DbErr> {
    if db.backend() != DbBackend::Postgres {
        return Ok(Vec::new());
    }
    let sql = "SELECT a.attname::text AS count, (SELECT r.attname::text FROM pg_attribute AS r JOIN pg_type AS t ON t.oid = r.atttypid
                WHERE r.attrelid = a.attrelid AND r.attname = split_part(a.attname, '_', 1) || '_last_reset_date' AND NOT r.attisdropped
                    AND t.typname IN ('timestamp', 'timestamptz', 'date')) AS reset
            FROM pg_attribute AS a WHERE a.attrelid = to_regclass('users') AND a.attname IN ('propiq_usage_count', 'dealiq_usage_count')
                AND NOT a.attisdropped ORDER BY a.attname DESC LIMIT 1";
    let legacy = Legacy::find_by_statement(Statement::from_string(DbBackend::Postgres, sql)).one(db.reader()).await?;
    let Some(Legacy { count, reset }) = legacy else { return Ok(Vec::new()) };
    let mut signs = Vec::new();
    if let Some(reset) = reset {
        // Ours are the beginnings of windows; a new user's is when they were made.
        let sql = format!(
            "SELECT count(*), to_char(max(u.{reset}::timestamp), 'YYYY-MM-DD HH24:MI') FROM users AS u
             WHERE u.{reset}::timestamp > ($1::timestamptz AT TIME ZONE 'UTC') + interval '1 minute'
                AND u.{reset}::timestamp IS DISTINCT FROM (u.usage_period_start AT TIME ZONE 'UTC')
                AND u.created_at::timestamp < u.{reset}::timestamp - interval '1 hour'"
        );
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [adopted_at.into()]);
        if let Some(row) = db.reader().query_one_raw(statement).await? {
            let (users, last): (i64, Option<String>) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            if let Some(last) = last {
                signs.push(format!("since the adoption it has set `{reset}` of {users} users, last at {last} UTC"));
            }
        }
    }
    let scheduled = "SELECT string_agg(command, '; ') FROM cron.job WHERE command ILIKE '%' || $1 || '%'";
    let functions = "SELECT string_agg(p.proname::text, ', ' ORDER BY p.proname) FROM pg_proc AS p
        WHERE p.pronamespace = quote_ident(current_schema())::regnamespace AND p.proname NOT LIKE 'trueup%'
            AND p.prosrc ~* ($1 || '\\s*:?=\\s*0\\M')";
    for (sql, what) in [(scheduled, "pg_cron runs"), (functions, "the database has the function")] {
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [count.clone().into()]);
        // Without pg_cron, or the right to look at its jobs, nothing is known of them.
        let Ok(Some(row)) = db.reader().query_one_raw(statement).await else { continue };
        if let Some(found) = row.try_get_by_index::<Option<String>>(0)? {
            signs.push(format!("{what} {found}"));
        }
    }
    Ok(signs)
}
