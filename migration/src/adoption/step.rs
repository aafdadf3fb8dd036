//! The host's own usage columns and ours, kept in step both ways by triggers on `users`.
//!
//! The host counts in columns of its own (`propiq_usage_count`, in older copies `dealiq_usage_count`), and resets them to 0; we count in
//! `usage_count`, which mirrors the open window of the ledger. A change of the host's column moves ours and the open window by the same
//! difference; a change of ours shows in the host's. Each trigger fires only for the columns that its side writes, and writes those of the
//! other side into the very row that is being written: nothing fires twice, and counting stays one statement.

use sea_orm_migration::prelude::*;

use super::{
    Asks,
    columns::{Column, columns},
    forget, text, texts,
};
use crate::{dialect::run, policies::secure_functions};

/// How hosts call theirs.
const PREFIXES: [&str; 2] = ["propiq", "dealiq"];

/// The host's usage columns, as far as they are there.
#[derive(Debug, Clone)]
pub(crate) struct Legacy {
    pub(crate) count: String,
    pub(crate) limit: Option<String>,
    /// When the host last reset, with its type in the catalogue.
    pub(crate) reset: Option<(String, String)>,
}

impl Legacy {
    /// What a host's `users` has of them.
    pub(crate) async fn find(db: &impl Asks) -> Result<Option<Self>, DbErr> {
        let there = columns(db, "users").await?;
        Ok(PREFIXES.iter().find_map(|prefix| Self::of(prefix, &there)))
    }

    fn of(prefix: &str, there: &[Column]) -> Option<Self> {
        let find = |name: &str, kinds: &[&str]| {
            there.iter().find(|c| c.name == format!("{prefix}_{name}") && kinds.contains(&c.kind.as_str()))
        };
        let numbers = ["int2", "int4", "int8", "numeric"];
        Some(Self {
            count: find("usage_count", &numbers)?.name.clone(),
            limit: find("usage_limit", &numbers).map(|column| column.name.clone()),
            reset: find("last_reset_date", &["timestamp", "timestamptz", "date"])
                .map(|column| (column.name.clone(), column.kind.clone())),
        })
    }

    /// A moment as the column of the host's last reset holds it.
    fn as_reset(kind: &str, moment: &str) -> String {
        if kind == "timestamptz" { moment.to_owned() } else { format!("({moment} AT TIME ZONE 'UTC')") }
    }
}

/// What no host's number can be beyond: unlimited, where the host has no word of its own for it.
const UNLIMITED: &str = "2147483647";

/// Makes the triggers, in one go: they belong together.
pub(crate) async fn keep(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let schema = text(db, "SELECT quote_ident(current_schema()) AS one").await?.unwrap_or_else(|| "public".to_owned());
    let mut body = String::new();
    let mut made = Vec::new();
    if let Some(Legacy { count, limit, reset }) = Legacy::find(db).await? {
        let to_limit = limit.as_ref().map_or_else(String::new, |limit| {
            format!(
                "    IF NEW.usage_limit IS DISTINCT FROM OLD.usage_limit THEN
        NEW.{limit} := CASE WHEN NEW.usage_limit IS NOT NULL THEN LEAST(NEW.usage_limit, {UNLIMITED})
            WHEN OLD.{limit} < 0 THEN OLD.{limit} ELSE {UNLIMITED} END;
    END IF;\n"
            )
        });
        let to_reset = reset.as_ref().map_or_else(String::new, |(reset, kind)| {
            format!(
                "    IF NEW.usage_period_start IS DISTINCT FROM OLD.usage_period_start AND OLD.usage_period_start IS NOT NULL THEN
        NEW.{reset} := {};
    END IF;\n",
                Legacy::as_reset(kind, "NEW.usage_period_start")
            )
        });
        body.push_str(&format!(
            "CREATE OR REPLACE FUNCTION trueup_usage_to_host() RETURNS trigger LANGUAGE plpgsql AS $trueup$ BEGIN
    -- What is carried over is the host's own.
    IF current_setting('trueup.carrying', true) = 'on' THEN
        RETURN NEW;
    END IF;
    IF NEW.usage_count IS DISTINCT FROM OLD.usage_count THEN
        NEW.{count} := LEAST(NEW.usage_count, {UNLIMITED});
    END IF;
{to_limit}{to_reset}    RETURN NEW;
END $trueup$;
CREATE OR REPLACE FUNCTION trueup_usage_from_host() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = {schema}, pg_temp AS $trueup$ BEGIN
    NEW.usage_count := GREATEST(0, OLD.usage_count + COALESCE(NEW.{count}, 0)::bigint - COALESCE(OLD.{count}, 0)::bigint);
    UPDATE usage_periods AS p SET used = NEW.usage_count
    WHERE p.user_id = NEW.id AND p.source = NEW.usage_source AND p.period_start = NEW.usage_period_start;
    RETURN NEW;
END $trueup$;
CREATE OR REPLACE FUNCTION trueup_usage_of_new() RETURNS trigger LANGUAGE plpgsql AS $trueup$ BEGIN
    NEW.usage_count := GREATEST(0, NEW.{count}::bigint);
    RETURN NEW;
END $trueup$;\n"
        ));
        let functions = ["trueup_usage_to_host", "trueup_usage_from_host", "trueup_usage_of_new"];
        let when =
            "NEW.usage_count IS DISTINCT FROM OLD.usage_count OR NEW.usage_limit IS DISTINCT FROM OLD.usage_limit
        OR NEW.usage_period_start IS DISTINCT FROM OLD.usage_period_start";
        made.push((
            functions[0],
            format!(
                "BEFORE UPDATE OF usage_count, usage_limit, usage_period_start ON users FOR EACH ROW WHEN ({when})"
            ),
        ));
        made.push((
            functions[1],
            format!(
                "BEFORE UPDATE OF {count} ON users FOR EACH ROW WHEN (NEW.{count} IS DISTINCT FROM OLD.{count}
        AND NEW.usage_count IS NOT DISTINCT FROM OLD.usage_count)"
            ),
        ));
        made.push((
            functions[2],
            format!("BEFORE INSERT ON users FOR EACH ROW WHEN (NEW.{count} <> 0 AND NEW.usage_count = 0)"),
        ));
        if let Some(limit) = limit {
            body.push_str(&format!(
                "CREATE OR REPLACE FUNCTION trueup_limit_from_host() RETURNS trigger LANGUAGE plpgsql AS $trueup$ BEGIN
    NEW.usage_limit := CASE WHEN NEW.{limit} >= 0 AND NEW.{limit} < {UNLIMITED} THEN NEW.{limit} END;
    RETURN NEW;
END $trueup$;\n"
            ));
            made.push((
                "trueup_limit_from_host",
                format!(
                    "BEFORE UPDATE OF {limit} ON users FOR EACH ROW WHEN (NEW.{limit} IS DISTINCT FROM OLD.{limit}
        AND NEW.{limit} IS NOT NULL AND NEW.usage_limit IS NOT DISTINCT FROM OLD.usage_limit)"
                ),
            ));
        }
    }
    let nullable: Vec<(&str, &str)> = columns(db, "users")
        .await?
        .iter()
        .filter(|column| column.nullable)
        .filter_map(|column| match column.name.as_str() {
            "subscription_tier" => Some(("subscription_tier", "'free'")),
            "subscription_status" => Some(("subscription_status", "'active'")),
            _ => None,
        })
        .collect();
    if !nullable.is_empty() {
        let set: String = nullable
            .iter()
            .map(|(column, value)| format!("    NEW.{column} := COALESCE(NEW.{column}, {value});\n"))
            .collect();
        let when: Vec<String> = nullable.iter().map(|(column, _)| format!("NEW.{column} IS NULL")).collect();
        body.push_str(&format!(
            "CREATE OR REPLACE FUNCTION trueup_no_nulls() RETURNS trigger LANGUAGE plpgsql AS $trueup$ BEGIN
{set}    RETURN NEW;
END $trueup$;\n"
        ));
        let of: Vec<&str> = nullable.iter().map(|(column, _)| *column).collect();
        made.push((
            "trueup_no_nulls",
            format!("BEFORE INSERT OR UPDATE OF {} ON users FOR EACH ROW WHEN ({})", of.join(", "), when.join(" OR ")),
        ));
    }
    if has_triggers_of_its_own(db).await? {
        let ours = [
            "subscription_access",
            "usage_count",
            "usage_limit",
            "usage_period_start",
            "usage_period_end",
            "usage_source",
            "usage_provisional",
            "subscription_tier",
            "subscription_status",
        ];
        let set: String = ours.iter().map(|column| format!("    kept.{column} := NEW.{column};\n")).collect();
        body.push_str(&format!(
            "CREATE OR REPLACE FUNCTION trueup_carrying() RETURNS trigger LANGUAGE plpgsql AS $trueup$ DECLARE
    kept users := OLD;
BEGIN
    -- The host's triggers are for what the host changes: carrying over is not to show in `updated_at` and the like.
{set}    RETURN kept;
END $trueup$;\n"
        ));
        // By its name it comes last.
        made.push((
            "zzz_trueup_carrying",
            "BEFORE UPDATE ON users FOR EACH ROW WHEN (current_setting('trueup.carrying', true) = 'on')".to_owned(),
        ));
    }
    if made.is_empty() {
        return Ok(());
    }
    let mut functions = Vec::new();
    for (name, definition) in &made {
        let function = name.trim_start_matches("zzz_");
        functions.push(format!("{function}()"));
        body.push_str(&format!(
            "INSERT INTO settings (name, value) VALUES ('made.trigger.users.{name}', '{function}') ON CONFLICT DO NOTHING;
DROP TRIGGER IF EXISTS {name} ON users;
CREATE TRIGGER {name} {definition} EXECUTE FUNCTION {function}();\n"
        ));
    }
    run(manager, &[&format!("DO $$ BEGIN\n{};\n{body}END $$", super::PATIENCE)]).await?;
    secure_functions(manager, &functions.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Whether the host has triggers that may change a row as it is updated.
async fn has_triggers_of_its_own(db: &impl Asks) -> Result<bool, DbErr> {
    // Bits of tgtype: 1 for each row, 2 before, 16 on update (catalog/pg_trigger.h).
    let sql = "SELECT 'yes' AS one FROM pg_trigger WHERE tgrelid = to_regclass('users') AND NOT tgisinternal
        AND tgname NOT LIKE '%trueup%' AND tgtype & 19 = 19 LIMIT 1";
    Ok(text(db, sql).await?.is_some())
}

/// Takes the triggers away.
pub(crate) async fn let_go(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let sql = "SELECT format('DROP TRIGGER IF EXISTS %I ON users; DROP FUNCTION IF EXISTS %I();', substr(name, 20), value) AS one
        FROM settings WHERE starts_with(name, 'made.trigger.users.')";
    let drops = texts(db, sql).await?.join("\n    ");
    if drops.is_empty() {
        return Ok(());
    }
    run(
        manager,
        &[&format!("DO $$ BEGIN\n    {};\n    {drops}\nEND $$", super::PATIENCE), &forget("made.trigger.users.")],
    )
    .await
}
