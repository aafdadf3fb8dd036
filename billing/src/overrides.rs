//! Tiers that operators give until a date, whatever the subscriptions say.

use chrono::{Datelike, SubsecRound};
use entity::{Time, enums::ChangeSource, ids::UserId, tier_overrides};
use sea_orm::{DbErr, EntityTrait};

use crate::{
    apply::{Rules, reproject},
    catalog::Catalog,
    db::Db,
    policy::Policy,
    processor::{
        load::{Access, Needs, load},
        save::save,
    },
    projection::Override,
    store::{
        inbox::{clock, lock_keys},
        rowset::{OnConflict, upsert},
    },
};

/// The longest reason, in characters.
const MAX_REASON: usize = 1000;
/// The longest name of whoever gives an override, in characters.
const MAX_BY: usize = 100;

/// An override as an operator tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideTold {
    /// Which tier.
    pub tier: String,
    /// First moment at which it no longer holds; kept to the microsecond.
    pub until: Time,
    /// Why, for people.
    pub reason: String,
    /// Who gives it.
    pub by: String,
}

/// Why an override could not be given.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    /// Nobody.
    #[error("there is no such user")]
    UserUnknown,
    /// No plan.
    #[error("`tier`: no plan has the tier `{given}`; there are {}", known.join(", "))]
    TierUnknown {
        /// What was given.
        given: String,
        /// The tiers of the plans.
        known: Vec<String>,
    },
    /// Over before it began.
    #[error("`until` must be a time in the future, before the year 10000")]
    BadUntil,
    /// No reason.
    #[error("`reason` must tell why: 1 to {MAX_REASON} characters without control characters")]
    BadReason,
    /// Nobody's name.
    #[error("`by` must name who gives it: 1 to {MAX_BY} characters without control characters")]
    BadBy,
    /// The database.
    #[error("the override could not be stored: {0}")]
    Database(#[from] DbErr),
}

fn is_text(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control)
}

fn check(catalog: &Catalog, told: OverrideTold, now: Time) -> Result<Override, OverrideError> {
    let OverrideTold { tier, until, reason, by } = told;
    if catalog.by_tier(&tier).is_none() {
        let known = catalog.plans().iter().map(|plan| plan.tier.clone()).collect();
        return Err(OverrideError::TierUnknown { given: tier, known });
    }
    let until = until.trunc_subsecs(6);
    if until <= now || until.year() > 9999 {
        return Err(OverrideError::BadUntil);
    }
    if !is_text(&reason, MAX_REASON) {
        return Err(OverrideError::BadReason);
    }
    if !is_text(&by, MAX_BY) {
        return Err(OverrideError::BadBy);
    }
    Ok(Override { tier, until, reason: reason.trim().to_owned(), by: by.trim().to_owned(), created_at: now })
}

/// Gives a user a tier until a date, in place of an earlier override.
pub async fn give(
    db: &Db,
    catalog: &Catalog,
    policy: &Policy,
    user: UserId,
    told: OverrideTold,
) -> Result<Override, OverrideError> {
    let given = check(catalog, told, clock(db.reader()).await?)?;
    write(db, catalog, policy, user, Some(given.clone())).await?;
    Ok(given)
}

/// Takes a user's override back; false where there was none.
pub async fn take_back(db: &Db, catalog: &Catalog, policy: &Policy, user: UserId) -> Result<bool, OverrideError> {
    write(db, catalog, policy, user, None).await
}

/// True where there was an override before.
async fn write(
    db: &Db,
    catalog: &Catalog,
    policy: &Policy,
    user: UserId,
    given: Option<Override>,
) -> Result<bool, OverrideError> {
    let needs = Needs { users: [user].into(), ..Needs::default() };
    let tx = db.write().await?;
    lock_keys(&*tx, needs.lock_keys()).await?;
    let mut world = load(&*tx, &needs, Access::Write).await?;
    if world.user(user).is_none() {
        return Err(OverrideError::UserUnknown);
    }
    let before = world.tier_override(user).is_some();
    // Not replaced: that would keep the moment of making, and this one is another override.
    tier_overrides::Entity::delete_by_id(user).exec(&*tx).await?;
    let mut what = "override taken back".to_owned();
    if let Some(Override { tier, until, reason, by, created_at }) = given.clone() {
        what = format!("override by {by} until {} ({reason})", until.format("%Y-%m-%dT%H:%M:%SZ"));
        let row = tier_overrides::Model { user_id: user, tier, until, reason, by, created_at };
        upsert::<tier_overrides::Entity>(&*tx, &[row], OnConflict::Replace).await?;
    }
    world.set_override(user, given);
    let now = clock(&*tx).await?;
    let rules = Rules { catalog, policy, now };
    let mut concerned = std::mem::take(&mut world.dirty.concerned);
    concerned.insert(user);
    let changes = reproject(&mut world, &concerned, &what, ChangeSource::Operator, None, rules);
    save(&*tx, &world, &changes, &[], catalog, now).await?;
    tx.commit().await?;
    Ok(before)
}

/// Tells the log of every override whose tier no plan has any more: it is ignored, and takes effect again when the tier comes back.
pub async fn warn_of_unknown_tiers(db: &Db, catalog: &Catalog) -> Result<u64, DbErr> {
    use sea_orm::{ColumnTrait, QueryFilter};
    let known = catalog.plans().iter().map(|plan| plan.tier.clone());
    let rows =
        tier_overrides::Entity::find().filter(tier_overrides::Column::Tier.is_not_in(known)).all(db.reader()).await?;
    for row in &rows {
        tracing::warn!(user = %row.user_id, tier = row.tier, until = %row.until,
            "an override names a tier that no plan has; it is ignored. Give another one, or take it back");
    }
    Ok(rows.len() as u64)
}
