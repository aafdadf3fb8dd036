//! The timeline of everybody as a feed, for hosts that keep users' tiers in a cache of their own.
//!
//! - [`read`]: the changes after a cursor, in the one order that all readers see
//! - [`Feed`]: tells who waits that there is something new, without a connection for each
//!
//! The cursor is a number that a change gets only once it is committed ([`crate::store::feed`]). So a change whose transaction commits late comes late in
//! the feed, and is never skipped; and the numbers outlive the rows: no number is given twice.

mod feed;

use entity::{
    Time,
    entitlement_changes::{Column, Entity},
    enums::ChangeSource,
    ids::UserId,
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;
use uuid::Uuid;

pub use self::feed::Feed;
use crate::{db::Db, store::feed as numbers};

/// A place in the feed: after the change with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Cursor(i64);

impl Cursor {
    /// Before the first change.
    pub const START: Self = Self(0);
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one this server gave; pass `next_cursor` of the last answer as it was, or `latest`")]
pub struct BadCursor;

impl std::str::FromStr for Cursor {
    type Err = BadCursor;
    fn from_str(text: &str) -> Result<Self, BadCursor> {
        text.parse().ok().filter(|number| *number >= 0).map(Self).ok_or(BadCursor)
    }
}

/// One change, with its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedEntry {
    /// Its place.
    pub cursor: Cursor,
    /// As in the user's timeline.
    pub id: Uuid,
    /// Whose.
    pub user_id: UserId,
    /// When it was made; of changes by different users' events a later one may have an earlier moment.
    pub changed_at: Time,
    /// What made it.
    pub source: ChangeSource,
    /// The event, where one did.
    pub event_id: Option<String>,
    /// What the user might do until then.
    pub before: serde_json::Value,
    /// What the user may do since.
    pub after: serde_json::Value,
    /// Which rule made it so.
    pub reason: String,
}

/// A part of the feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The changes, in order; perhaps none.
    pub entries: Vec<FeedEntry>,
    /// Where to read on. Beyond the last entry where the users of later changes were deleted since.
    pub next: Cursor,
}

/// What was read of the feed.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// What comes after the cursor.
    Page(Page),
    /// The cursor lies beyond the feed's end: whoever holds it knows another database, or this one before it was restored from a backup.
    Beyond,
}

/// At most `limit` changes after a cursor. Whatever was committed before the call is in the feed: what is not numbered yet is numbered first, as far as
/// this answer needs it.
pub async fn read(db: &Db, after: Cursor, limit: u64) -> Result<Reading, DbErr> {
    loop {
        let tip = numbers::tip(db.reader()).await?;
        let last = Cursor(tip.last_number);
        if after < last {
            let entries = entries(db, after, limit).await?;
            let full = entries.len() as u64 >= limit;
            if full || !tip.more {
                let end = entries.last().map_or(after, |entry| entry.cursor);
                return Ok(Reading::Page(Page { entries, next: if full { end } else { end.max(last) } }));
            }
        } else if !tip.more {
            return Ok(if after == last {
                Reading::Page(Page { entries: Vec::new(), next: last })
            } else {
                Reading::Beyond
            });
        }
        number(db).await?;
    }
}

async fn entries(db: &Db, after: Cursor, limit: u64) -> Result<Vec<FeedEntry>, DbErr> {
    let rows = Entity::find()
        .filter(Column::Number.gt(after.0))
        .order_by_asc(Column::Number)
        .limit(limit)
        .all(db.reader())
        .await?;
    let entry = |row: entity::entitlement_changes::Model| {
        Some(FeedEntry {
            cursor: Cursor(row.number?),
            id: row.id,
            user_id: row.user_id,
            changed_at: row.changed_at,
            source: row.source,
            event_id: row.event_id,
            before: row.before,
            after: row.after,
            reason: row.reason,
        })
    };
    Ok(rows.into_iter().filter_map(entry).collect())
}

/// Numbers one slice, in one short transaction.
async fn number(db: &Db) -> Result<(), DbErr> {
    let tx = db.write().await?;
    numbers::number(&*tx).await?;
    tx.commit().await
}

/// The end of the feed: after everything that is committed, which is numbered first. A feed that nobody has read for long takes several
/// transactions; cut off between them, the next call goes on.
pub async fn latest(db: &Db) -> Result<Cursor, DbErr> {
    loop {
        let tip = numbers::tip(db.reader()).await?;
        if !tip.more {
            return Ok(Cursor(tip.last_number));
        }
        number(db).await?;
    }
}
