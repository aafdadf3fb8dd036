//! Numbers for changes that are committed. A change has none while its transaction is open, and nobody sees it then; whoever reads the feed
//! numbers what it sees, one reader at a time by the lock on the counter's row. So a change that commits late gets a later number, never an earlier one.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use super::inbox::{choose, execute};

/// Changes numbered in one transaction.
const SLICE: i64 = 5000;

/// How far the feed is numbered.
#[derive(Debug, Clone, Copy, FromQueryResult)]
pub(crate) struct Tip {
    /// The last number that was given; 0 before the first.
    pub(crate) last_number: i64,
    /// True where there are committed changes without one.
    pub(crate) more: bool,
}

/// How far the feed is numbered. One cheap query, without a lock.
pub(crate) async fn tip(db: &impl ConnectionTrait) -> Result<Tip, DbErr> {
    let sql =
        "SELECT last_number, EXISTS (SELECT 1 FROM entitlement_changes WHERE number IS NULL) AS more FROM change_feed";
    let row = Tip::find_by_statement(Statement::from_string(db.get_database_backend(), sql)).one(db).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("the counter of the feed; the table change_feed has lost its row".into()))
}

/// The lock comes in a statement of its own: the next one then sees everything that was committed while it was waited for.
const LOCK_POSTGRES: &str = "SELECT last_number FROM change_feed FOR UPDATE";
const LOCK_SQLITE: &str = "SELECT last_number FROM change_feed";

const NUMBER_POSTGRES: &str = "
UPDATE entitlement_changes AS c SET number = $1 + r.place
FROM (
    SELECT id, row_number() OVER (ORDER BY ordinal) AS place FROM (
        SELECT id, ordinal FROM entitlement_changes WHERE number IS NULL ORDER BY ordinal LIMIT $2) AS waiting
) AS r
WHERE c.id = r.id";

const NUMBER_SQLITE: &str = "
UPDATE entitlement_changes SET number = $1 + r.place
FROM (
    SELECT row, row_number() OVER (ORDER BY row) AS place FROM (
        SELECT rowid AS row FROM entitlement_changes WHERE number IS NULL ORDER BY rowid LIMIT $2)
) AS r
WHERE entitlement_changes.rowid = r.row";

/// Numbers at most [`SLICE`] changes, those that were written first before the others; returns how many. In a transaction of the caller's.
pub(crate) async fn number(db: &impl ConnectionTrait) -> Result<u64, DbErr> {
    let backend: DbBackend = db.get_database_backend();
    let lock = Statement::from_string(backend, choose(backend, LOCK_POSTGRES, LOCK_SQLITE));
    let last: i64 = match db.query_one_raw(lock).await? {
        Some(row) => row.try_get_by_index(0)?,
        None => {
            return Err(DbErr::RecordNotFound(
                "the counter of the feed; the table change_feed has lost its row".into(),
            ));
        }
    };
    let numbered =
        execute(db, choose(backend, NUMBER_POSTGRES, NUMBER_SQLITE), vec![last.into(), SLICE.into()]).await?;
    if numbered > 0 {
        let count = i64::try_from(numbered).unwrap_or(i64::MAX);
        execute(db, "UPDATE change_feed SET last_number = last_number + $1", vec![count.into()]).await?;
    }
    Ok(numbered)
}
