//! The feed of changes, for hosts that keep users' tiers in a cache of their own.

use std::time::Duration;

use billing::changes::{self, Cursor, FeedEntry, Page, Reading};
use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi, param::Query};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Tag,
    auth::ApiToken,
    body::Answer,
    problem::{BAD_REQUEST, CURSOR_UNKNOWN, Problem},
    within,
};
use crate::app::App;

/// Longest wait, in seconds: shorter than the minute after which proxies lose their patience.
const LONGEST_WAIT: u32 = 30;
/// How long an answer may take: the wait, and a look before and after it.
pub(super) const PATIENCE: Duration = Duration::from_secs(LONGEST_WAIT as u64 + 10);

#[derive(Debug, Clone)]
pub(super) struct ChangesApi(pub(super) App);

/// One change of what a user may do, with its place in the feed.
#[derive(Debug, Serialize, Object)]
struct FeedChange {
    /// Its place: pass it as `after` for what comes next.
    cursor: String,
    /// As in the user's timeline.
    id: Uuid,
    /// Whose.
    user_id: Uuid,
    /// When it was made.
    changed_at: DateTime<Utc>,
    /// `webhook`, `recovery`, `reconcile`, `schedule`, `operator` or `api`.
    source: String,
    /// The event, where one did it.
    #[oai(nullable)]
    event_id: Option<String>,
    /// Tier, status, access, limit, period end and scheduled end until then.
    before: serde_json::Value,
    /// The same since.
    after: serde_json::Value,
    /// Which rule made it so.
    reason: String,
}

impl From<FeedEntry> for FeedChange {
    fn from(entry: FeedEntry) -> Self {
        let FeedEntry { cursor, id, user_id, changed_at, source, event_id, before, after, reason } = entry;
        Self {
            cursor: cursor.to_string(),
            id,
            user_id: user_id.0,
            changed_at,
            source: source.to_string(),
            event_id,
            before,
            after,
            reason,
        }
    }
}

/// A part of the feed, oldest first.
#[derive(Debug, Serialize, Object)]
struct Changes {
    /// The changes; perhaps none.
    items: Vec<FeedChange>,
    /// Pass it as `after` next time; it is always there.
    next_cursor: String,
}

impl From<Page> for Changes {
    fn from(page: Page) -> Self {
        Self { items: page.entries.into_iter().map(Into::into).collect(), next_cursor: page.next.to_string() }
    }
}

#[OpenApi]
impl ChangesApi {
    /// What changed, of all users, oldest first
    ///
    /// Every reader sees the same changes in the same order, and none is skipped, however late it is committed: keep `next_cursor` and pass
    /// it as `after`. With `wait` an answer without changes is held back until there is one. 409 `cursor-unknown` where the database has been
    /// restored from a backup since: begin again without `after`.
    #[oai(path = "/api/v1/changes", method = "get", operation_id = "listChanges", tag = "Tag::Users")]
    async fn list(
        &self,
        _token: ApiToken,
        /// Only changes after this place: `next_cursor` of the answer before, or `latest` for what is yet to come; from the beginning without it.
        after: Query<Option<String>>,
        /// Seconds to wait for a change, where there is none.
        #[oai(default = "no_wait", validator(minimum(value = "0"), maximum(value = "30")))]
        wait: Query<u32>,
        /// Changes in an answer.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
    ) -> Result<Answer<Changes>, Problem> {
        let Self(app) = self;
        let deadline = Instant::now() + Duration::from_secs(wait.0.min(LONGEST_WAIT).into());
        let mut after = match after.0.as_deref() {
            None => Cursor::START,
            Some("latest") => within(changes::latest(&app.db)).await??,
            Some(text) => text.parse().map_err(|error| Problem::new(BAD_REQUEST, format!("{error}")))?,
        };
        loop {
            let page = match within(changes::read(&app.db, after, limit.0.into())).await?? {
                Reading::Page(page) => page,
                Reading::Beyond => {
                    let detail = "nothing was ever given this place here: the database is another one, or was restored from a backup; \
                                  begin again without `after`, and take every user's state anew";
                    return Err(Problem::new(CURSOR_UNKNOWN, detail));
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if !page.entries.is_empty() || left.is_zero() || app.feed.is_closed() {
                return Ok(Answer(page.into()));
            }
            after = page.next;
            // No connection is held here, nor anything else of the database.
            app.feed.wait_beyond(after, left).await;
        }
    }
}

fn no_wait() -> u32 {
    0
}

fn default_limit() -> u32 {
    100
}
