//! Wakes whoever waits for the feed: one task for all of them, which looks when something rings, and once a second in any case.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sea_orm::{
    DbBackend,
    sqlx::postgres::{PgListener, PgPoolOptions},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Cursor, latest};
use crate::{db::Db, panics::supervised};

/// The channel of PostgreSQL's `NOTIFY`; a trigger on the table rings it.
const CHANNEL: &str = "trueup_changes";
/// How often to look while somebody waits: the only bell on another replica's SQLite file, and behind a pooler that keeps no sessions, where `LISTEN`
/// hears nothing.
const POLL: Duration = Duration::from_secs(1);
/// After the connection that listens was lost.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Waits for changes without a connection to the database. Cheap to clone; all clones share one task.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tip: watch::Sender<Cursor>,
    bell: Notify,
    waiting: AtomicUsize,
    closed: CancellationToken,
}

/// Counts one who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Feed {
    /// Starts the task that looks; it ends, and everybody who waits is told, once `closed` is cancelled. It keeps no connection, but for the one that
    /// listens on PostgreSQL, which is no part of the pool and opened when somebody waits for the first time.
    pub fn start(db: Db, closed: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            tip: watch::Sender::new(Cursor::START),
            bell: Notify::new(),
            waiting: AtomicUsize::new(0),
            closed,
        });
        let looking = Arc::clone(&shared);
        tokio::spawn(async move { supervised("feed of changes", || look(db.clone(), Arc::clone(&looking))).await });
        Self(shared)
    }

    /// Something may have changed.
    pub fn ring(&self) {
        self.0.bell.notify_one();
    }

    /// True once the server is told to end: waiting is of no use any more.
    pub fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Returns once there is something after the cursor, `patience` is over, or the feed is closed.
    pub async fn wait_beyond(&self, cursor: Cursor, patience: Duration) {
        let shared = &self.0;
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&shared.waiting);
        let mut tip = shared.tip.subscribe();
        // Whoever looked before this one waited has not looked for this one.
        self.ring();
        tokio::select! {
            _ = tip.wait_for(|tip| *tip > cursor) => {}
            () = shared.closed.cancelled() => {}
            () = tokio::time::sleep(patience) => {}
        }
    }
}

/// Looks where the feed ends whenever the bell rings, and tells it.
async fn look(db: Db, shared: Arc<Shared>) {
    let mut listening = false;
    loop {
        let waits = shared.waiting.load(Ordering::SeqCst) > 0;
        tokio::select! {
            () = shared.closed.cancelled() => return,
            () = shared.bell.notified() => {}
            () = tokio::time::sleep(POLL), if waits => {}
        }
        if shared.waiting.load(Ordering::SeqCst) == 0 {
            continue;
        }
        if !listening && db.backend() == DbBackend::Postgres && !db.is_pooled() {
            listening = true;
            let (db, shared) = (db.clone(), Arc::clone(&shared));
            tokio::spawn(async move {
                supervised("listener for changes", || listen(db.clone(), Arc::clone(&shared))).await;
            });
        }
        let tip = tokio::select! {
            () = shared.closed.cancelled() => return,
            tip = latest(&db) => tip,
        };
        match tip {
            Ok(tip) => {
                // A database that was restored from a backup goes back, and so do we.
                shared.tip.send_if_modified(|last| std::mem::replace(last, tip) != tip);
            }
            Err(error) => {
                tracing::warn!(%error, "the feed of changes cannot be looked at; trying again");
                tokio::select! {
                    () = shared.closed.cancelled() => return,
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        }
    }
}

/// Rings whenever PostgreSQL notifies. Without this the feed is looked at once a second.
async fn listen(db: Db, shared: Arc<Shared>) {
    loop {
        let result = tokio::select! {
            () = shared.closed.cancelled() => return,
            result = hear(&db, &shared) => result,
        };
        if let Err(error) = result {
            tracing::debug!(%error, "changes are not heard of as they happen, but looked for once a second");
        }
        shared.bell.notify_one();
        tokio::select! {
            () = shared.closed.cancelled() => return,
            () = tokio::time::sleep(LISTEN_AGAIN) => {}
        }
    }
}

async fn hear(db: &Db, shared: &Shared) -> Result<(), sea_orm::sqlx::Error> {
    let options = db.connection().get_postgres_connection_pool().connect_options();
    // A pool of its own: whoever listens keeps the connection for good.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with((*options).clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    shared.bell.notify_one();
    loop {
        // None: the connection was lost and made again; what was told meanwhile nobody heard.
        let _ = listener.try_recv().await?;
        shared.bell.notify_one();
    }
}
