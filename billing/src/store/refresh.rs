//! Which subscriptions Stripe has to be asked about.

use entity::{Time, ids::SubscriptionId};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Statement};

/// A subscription of which Stripe alone can tell how it is.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct FlaggedRow {
    pub(crate) id: SubscriptionId,
    /// Two snapshots of one moment disagree; else it has no real snapshot yet.
    pub(crate) needs_refresh: bool,
    pub(crate) version_at: Time,
}

/// At most `limit` of them, by id, after `after`. The condition is that of the index `subscriptions_flagged`, word by word, or SQLite would not
/// see that it fits.
///
/// Left out are placeholders, which Stripe does not know, and while an adopted database waits for the go-ahead of its first reconciliation, what is
/// held: asking about each of them would be that reconciliation.
pub(crate) async fn flagged(db: &impl ConnectionTrait, after: &str, limit: u64) -> Result<Vec<FlaggedRow>, DbErr> {
    let sql = "SELECT id, needs_refresh, version_at FROM subscriptions WHERE (needs_refresh OR rank < 2) AND id > $1
        AND NOT (rank = 1 AND version_event_id IN ('adopted', 'unconfirmed') AND (id LIKE 'sub_adopted_%'
            OR version_event_id = 'unconfirmed' OR NOT EXISTS (SELECT 1 FROM settings WHERE name = 'adopted.released')))
        ORDER BY id LIMIT $2";
    let values = [after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    FlaggedRow::find_by_statement(statement).all(db).await
}

/// How many of them two snapshots of one moment disagree about. In the words of the index `subscriptions_refresh`.
pub(crate) async fn count_uncertain(db: &impl ConnectionTrait) -> Result<i64, DbErr> {
    let sql = "SELECT count(*) FROM subscriptions WHERE needs_refresh";
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("a count".into()))?.try_get_by_index(0)
}
