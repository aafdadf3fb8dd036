//! `SQLite`'s catalogue.

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use sea_orm_migration::prelude::*;

use super::{Catalogue, VerifyError, enter, run_migrations};

/// Constraints beyond keys are known only by the text that made the table, which no two histories share; they are not compared.
const READ: &str = "
SELECT 'table' AS kind, m.name AS tab, m.name AS name, 'kind' AS attribute, 'table' AS value
    FROM sqlite_master AS m WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'
UNION ALL
SELECT 'table', m.name, m.name, 'made by', CASE WHEN s.name IS NULL THEN 'the host' ELSE 'us' END
    FROM sqlite_master AS m LEFT JOIN ({notes}) AS s ON s.name = 'made.table.' || m.name
    WHERE m.type = 'table' AND m.name IN ('property_analyses', 'support_chats', 'onboarding_status')
UNION ALL
SELECT 'column', m.name, c.name, a.name, CASE a.name WHEN 'type' THEN lower(c.type) WHEN 'nullable' THEN iif(c.\"notnull\", 'no', 'yes')
        WHEN 'default' THEN coalesce(c.dflt_value, 'none') ELSE CAST(c.pk AS text) END
    FROM sqlite_master AS m, pragma_table_info(m.name) AS c,
        (SELECT 'type' AS name UNION ALL SELECT 'nullable' UNION ALL SELECT 'default' UNION ALL SELECT 'place in the key') AS a
    WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'
UNION ALL
SELECT 'constraint', m.name, 'foreign key of ' || f.\"from\", 'definition',
        f.\"table\" || ' (' || coalesce(f.\"to\", '') || ') on delete ' || lower(f.on_delete)
    FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'
UNION ALL
SELECT m.type, m.tbl_name, m.name, 'definition', m.sql FROM sqlite_master AS m WHERE m.type IN ('index', 'trigger') AND m.sql IS NOT NULL";

pub(super) async fn catalogues(
    db: &DatabaseConnection,
    applied: &[&str],
) -> Result<(Catalogue, Catalogue), VerifyError> {
    let mut options = ConnectOptions::new("sqlite::memory:");
    // Each connection would be a database of its own.
    options.max_connections(1).sqlx_logging(false);
    let scratch = Database::connect(options).await.map_err(VerifyError::Scratch)?;
    run_migrations(&SchemaManager::new(&scratch), applied).await.map_err(VerifyError::Scratch)?;
    let expected = read(&scratch).await?;
    scratch.close().await?;
    Ok((expected, read(db).await?))
}

async fn read(db: &impl ConnectionTrait) -> Result<Catalogue, DbErr> {
    // Even this table may be missing.
    let noted = Statement::from_string(DbBackend::Sqlite, "SELECT name FROM sqlite_master WHERE name = 'settings'");
    let there = db.query_one_raw(noted).await?.is_some();
    let sql = READ.replace("{notes}", if there { "SELECT name FROM settings" } else { "SELECT NULL AS name" });
    let mut catalogue = Catalogue::new();
    for row in db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await? {
        let [kind, tab, name, attribute, value] = ["kind", "tab", "name", "attribute", "value"];
        let [kind, tab, name, attribute, value] = [
            row.try_get("", kind)?,
            row.try_get("", tab)?,
            row.try_get("", name)?,
            row.try_get("", attribute)?,
            row.try_get::<String>("", value)?,
        ];
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ").replace(" IF NOT EXISTS", "");
        enter(&mut catalogue, [kind, tab, name, attribute, value])?;
    }
    Ok(catalogue)
}
