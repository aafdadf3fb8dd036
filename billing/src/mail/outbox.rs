//! What a person asks of the outbox: what is there, and another try.

use entity::{
    Time,
    email_outbox::{Column, Entity},
    enums::{EmailKind, EmailStatus},
    ids::UserId,
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;
use uuid::Uuid;

use crate::{db::Db, store::outbox};

/// One e-mail, without what it says and to which address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromQueryResult)]
pub struct Email {
    /// Ours; time-ordered.
    pub id: Uuid,
    /// To whom.
    pub user_id: UserId,
    /// What about.
    pub kind: EmailKind,
    /// One e-mail per key.
    pub dedupe_key: String,
    /// Where it stands.
    pub status: EmailStatus,
    /// Tries that failed.
    pub attempts: i32,
    /// Last error, or why it was dropped.
    pub error: Option<String>,
    /// When it was queued.
    pub created_at: Time,
    /// When the mail server took it.
    pub sent_at: Option<Time>,
}

/// Newest first, of one status or of all.
pub async fn list(db: &Db, status: Option<EmailStatus>, limit: u64) -> Result<Vec<Email>, DbErr> {
    let mut select = Entity::find().select_only().columns([
        Column::Id,
        Column::UserId,
        Column::Kind,
        Column::DedupeKey,
        Column::Status,
        Column::Attempts,
        Column::Error,
        Column::CreatedAt,
        Column::SentAt,
    ]);
    if let Some(status) = status {
        select = select.filter(Column::Status.eq(status));
    }
    select.order_by_desc(Column::Id).limit(limit).into_model().all(db.reader()).await
}

/// Makes one e-mail that was given up due again, or all of them; returns how many.
pub async fn retry(db: &Db, id: Option<Uuid>) -> Result<u64, DbErr> {
    let tx = db.write().await?;
    let again = outbox::retry(&*tx, id).await?;
    tx.commit().await?;
    Ok(again)
}

/// How many wait to be sent, for a gauge: cheap by a partial index.
pub async fn pending(db: &Db) -> Result<i64, DbErr> {
    outbox::pending(db.reader()).await
}

/// Ends the leases under which this instance sent before it was started anew; see [`super::MailOptions::holder`].
pub async fn end_own_leases(db: &Db, holder: &str) -> Result<u64, DbErr> {
    let tx = db.write().await?;
    let ended = outbox::end_leases(&*tx, holder).await?;
    tx.commit().await?;
    Ok(ended)
}
