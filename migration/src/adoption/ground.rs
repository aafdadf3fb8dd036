//! The first step: what is adopted is noted, and indexes make way that a changed type would build anew under lock.

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

use super::{
    ADOPTED_AT,
    columns::{WEBHOOKS, changing, columns},
    is_before_us, named, noted,
    preflight::ADOPTABLE,
    text, texts,
};
use crate::{dialect::run, made};

/// What is noted of an index that makes way: its definition.
const KEPT: &str = "kept.index.";

/// Notes what is there before us, and lets indexes make way.
pub(crate) async fn lay(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    if !is_before_us(db).await? {
        return Ok(());
    }
    let mut found = Vec::new();
    for table in ADOPTABLE {
        if text(db, &format!("SELECT to_regclass('{table}')::text AS one")).await?.is_some() {
            found.push(table);
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let mut notes = String::new();
    for table in &found {
        notes.push_str(&format!(
            "    INSERT INTO settings (name, value) VALUES ('adopted.table.{table}', 'yes') ON CONFLICT DO NOTHING;\n"
        ));
        // The host's policies at this moment are the host's business; later ones are looked at.
        notes.push_str(&format!(
            "    INSERT INTO settings (name, value) SELECT 'adopted.policy.{table}.' || polname, 'yes' FROM pg_policy
        WHERE polrelid = '{table}'::regclass ON CONFLICT DO NOTHING;\n"
        ));
    }
    // All at once: a table without its notes would be taken for the host's.
    run(
        manager,
        &[&format!(
            "DO $$ BEGIN
    {};
    INSERT INTO settings (name, value) VALUES ('{ADOPTED_AT}', to_json(now())#>>'{{}}') ON CONFLICT DO NOTHING;
{notes}END $$",
            made::SETTINGS.trim()
        )],
    )
    .await?;
    if found.contains(&"stripe_webhooks") {
        make_way(manager).await?;
    }
    Ok(())
}

/// Indexes over columns whose type changes, and one that has the name of our unique one without being unique.
async fn make_way(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let there = columns(db, "stripe_webhooks").await?;
    let changing: Vec<String> = changing(&there, WEBHOOKS).map(super::quoted).collect();
    let changing = if changing.is_empty() { "NULL".to_owned() } else { changing.join(", ") };
    let sql = format!(
        "SELECT c.relname::text AS one FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE i.indrelid = to_regclass('stripe_webhooks') AND NOT i.indisprimary
            AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
            AND ((NOT i.indisunique AND EXISTS (SELECT FROM pg_depend AS d
                    JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refobjid = i.indrelid
                        AND a.attname IN ({changing})))
                OR (c.relname = 'idx_stripe_webhooks_event_id' AND NOT i.indisunique)) ORDER BY 1"
    );
    for index in texts(db, &sql).await? {
        let sql = format!("SELECT pg_get_indexdef({}::regclass) AS one", super::quoted(&named(&index)));
        let definition = text(db, &sql).await?.unwrap_or_default();
        run(
            manager,
            &[
                &super::note(&format!("{KEPT}{index}"), &definition),
                &format!("DROP INDEX CONCURRENTLY IF EXISTS {}", named(&index)),
            ],
        )
        .await?;
    }
    Ok(())
}

/// Makes the host's indexes anew that made way and are nobody's now. To be called outside a transaction.
pub(crate) async fn make_good(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let db = manager.get_connection();
    if text(db, "SELECT to_regclass('settings')::text AS one").await?.is_none() {
        return Ok(());
    }
    for (name, definition) in noted(db, KEPT).await? {
        let there = format!("SELECT to_regclass({})::text AS one", super::quoted(&named(&name)));
        if text(db, &there).await?.is_none() {
            let create = definition.replacen("INDEX ", "INDEX CONCURRENTLY IF NOT EXISTS ", 1);
            run(manager, &[&create]).await?;
        }
    }
    Ok(())
}

/// Takes everything back: the indexes are as they were, and nothing of ours is left.
pub(crate) async fn take_back(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    if !is_before_us(db).await? || text(db, "SELECT to_regclass('settings')::text AS one").await?.is_none() {
        return Ok(());
    }
    if text(db, &format!("SELECT value AS one FROM settings WHERE name = '{ADOPTED_AT}'")).await?.is_none() {
        return Ok(());
    }
    make_good(manager).await?;
    run(manager, &["DROP TABLE settings"]).await
}
