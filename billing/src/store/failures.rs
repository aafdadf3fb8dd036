//! Which failures were told of already, by whatever process: one row of `settings` for each.

use sea_orm::{ConnectionTrait, DbErr};

use super::inbox::{choose, execute, now};

/// After so many days a failure that happens still, or again, is told of once more.
const DAYS: u32 = 7;

/// Notes a failure. True for the first of its kind in [`DAYS`] days: of all processes that note it, one gets that answer, once its
/// transaction commits.
pub(crate) async fn is_first(db: &impl ConnectionTrait, fingerprint: &str, event_id: &str) -> Result<bool, DbErr> {
    let backend = db.get_database_backend();
    let now = now(backend);
    let ago = |days: u32| {
        if choose(backend, "p", "s") == "p" {
            format!("{now} - interval '{days} days'")
        } else {
            format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-{days} days')")
        }
    };
    let sql = format!(
        "INSERT INTO settings (name, value, updated_at) VALUES ('failure:' || $1, $2, {now})
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at WHERE settings.updated_at < {}",
        ago(DAYS)
    );
    let first = execute(db, &sql, vec![fingerprint.into(), event_id.into()]).await? > 0;
    if first {
        let old = format!("DELETE FROM settings WHERE name LIKE 'failure:%' AND updated_at < {}", ago(4 * DAYS));
        execute(db, &old, Vec::new()).await?;
    }
    Ok(first)
}
