//! A database that was a host's before it was ours: what the host said of its payers is held until Stripe's own word replaces it, and
//! nothing is repaired before one dry run was looked at and given the go-ahead.
//!
//! The schema's part is `migration`'s (`adoption`). What the host said of a subscription is a provisional snapshot under the id `adopted`
//! ([`crate::facts::Subscription::is_held`]), which entitles whatever its status. A webhook's snapshot replaces it at once.
//! A reconciliation replaces it, or ends what nothing at Stripe bears out, only after [`release`].
//!
//! - [`state`], [`awaits_release`], [`release`]: the go-ahead
//! - [`checkup`]: what a person should look at

mod checkup;

use entity::{
    Time,
    enums::{ReconcileMode, ReconcileOutcome},
    settings,
};
use sea_orm::{ConnectionTrait, DbErr, EntityTrait};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::checkup::look;
use crate::{
    db::Db,
    reconcile::records::{self, Record},
    store::{
        inbox::clock,
        rowset::{OnConflict, upsert},
    },
};

/// Notes in `settings`. The first two are written by the migration.
const ADOPTED_AT: &str = "adopted.at";
const ADOPTED_USERS: &str = "adopted.table.users";
const RELEASED: &str = "adopted.released";

/// The longest name of whoever gives the go-ahead, in characters.
const MAX_BY: usize = 100;

/// Who gave the go-ahead, when, and after which dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Who.
    pub by: String,
    /// When.
    pub at: Time,
    /// The dry run that was looked at.
    pub reconciliation: Uuid,
}

/// How an adoption stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adoption {
    /// When the database was adopted.
    pub adopted_at: Time,
    /// The go-ahead; none while it is waited for.
    pub released: Option<Release>,
}

/// How the adoption of this database stands; none where it was never a host's.
pub async fn state(db: &impl ConnectionTrait) -> Result<Option<Adoption>, DbErr> {
    let Some(adopted) = settings::Entity::find_by_id(ADOPTED_AT).one(db).await? else { return Ok(None) };
    if settings::Entity::find_by_id(ADOPTED_USERS).one(db).await?.is_none() {
        // An older inbox alone says nothing of who pays.
        return Ok(None);
    }
    let unreadable =
        |what: &str, why: String| DbErr::Custom(format!("the note `{what}` in `settings` is not readable: {why}"));
    let adopted_at =
        adopted.value.parse().map_err(|error: chrono::ParseError| unreadable(ADOPTED_AT, error.to_string()))?;
    let released = match settings::Entity::find_by_id(RELEASED).one(db).await? {
        Some(row) => Some(serde_json::from_str(&row.value).map_err(|error| unreadable(RELEASED, error.to_string()))?),
        None => None,
    };
    Ok(Some(Adoption { adopted_at, released }))
}

/// True while an adopted database waits for the go-ahead of its first reconciliation.
pub async fn awaits_release(db: &impl ConnectionTrait) -> Result<bool, DbErr> {
    Ok(state(db).await?.is_some_and(|adoption| adoption.released.is_none()))
}

/// What a reconciliation that would repair is told while the go-ahead is waited for.
pub(crate) const WAITS: &str = "this database was adopted, and no dry run has been given the go-ahead yet: nothing is repaired, so that nobody \
     loses anything unseen; run `trueup reconcile --dry-run`, look at what it would do, then `trueup reconcile release`";

/// Why the go-ahead could not be given.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// There is nothing to release.
    #[error("this database was not adopted: reconciliations need no go-ahead")]
    NotAdopted,
    /// It is given.
    #[error("the go-ahead was given by {} at {}, after the dry run {}", .0.by, .0.at, .0.reconciliation)]
    Already(Release),
    /// Nothing was looked at.
    #[error("there is no dry run to go by; run `trueup reconcile --dry-run` first, about everybody, and look at it")]
    NoDryRun,
    /// What was named tells too little.
    #[error("the reconciliation {id} {why}; run `trueup reconcile --dry-run` first, about everybody, and look at it")]
    NotSuitable {
        /// Which.
        id: Uuid,
        /// What is the matter.
        why: &'static str,
    },
    /// No name.
    #[error("`by` must name who gives the go-ahead: 1 to {MAX_BY} characters without control characters")]
    BadBy,
    /// The database.
    #[error("the go-ahead could not be stored: {0}")]
    Database(#[from] DbErr),
}

fn suitable(record: &Record, adopted_at: Time) -> Result<(), &'static str> {
    if record.mode != ReconcileMode::DryRun {
        Err("is no dry run")
    } else if record.user_id.is_some() {
        Err("is about one user only")
    } else if record.outcome != ReconcileOutcome::Succeeded {
        Err("did not come to its end")
    } else if record.started_at < adopted_at {
        Err("is older than the adoption")
    } else {
        Ok(())
    }
}

/// Gives the go-ahead: from now on reconciliations repair. `dry_run` is the one that was looked at; without it, the last one that came to its end.
pub async fn release(db: &Db, dry_run: Option<Uuid>, by: &str) -> Result<(Release, Record), ReleaseError> {
    let by = by.trim();
    if by.is_empty() || by.chars().count() > MAX_BY || by.chars().any(char::is_control) {
        return Err(ReleaseError::BadBy);
    }
    let Adoption { adopted_at, released } = state(db.reader()).await?.ok_or(ReleaseError::NotAdopted)?;
    if let Some(released) = released {
        return Err(ReleaseError::Already(released));
    }
    let record = if let Some(id) = dry_run {
        let found = records::show(db, id).await?;
        let record = found.ok_or(ReleaseError::NotSuitable { id, why: "is not known" })?;
        suitable(&record, adopted_at).map_err(|why| ReleaseError::NotSuitable { id, why })?;
        record
    } else {
        let recent = records::list(db, 100, None).await?;
        recent.into_iter().find(|record| suitable(record, adopted_at).is_ok()).ok_or(ReleaseError::NoDryRun)?
    };
    let tx = db.write().await?;
    let at = clock(&*tx).await?;
    let release = Release { by: by.to_owned(), at, reconciliation: record.id };
    let value = serde_json::to_string(&release).map_err(|error| DbErr::Json(error.to_string()))?;
    let row = settings::Model { name: RELEASED.to_owned(), value, updated_at: at };
    if upsert::<settings::Entity>(&*tx, &[row], OnConflict::KeepWhereEqual("name")).await? == 0 {
        drop(tx);
        let state = state(db.reader()).await?.and_then(|adoption| adoption.released);
        return Err(state.map_or(ReleaseError::NotAdopted, ReleaseError::Already));
    }
    tx.commit().await?;
    tracing::warn!(by = release.by, dry_run = %release.reconciliation, "the first reconciliation of this adopted database was given the go-ahead");
    Ok((release, record))
}
