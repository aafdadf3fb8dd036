//! A changed catalogue, or a changed policy, changes what users may do although Stripe said nothing. Tiers are derived, so it is enough
//! to derive them again, for everybody, in batches.

use std::{collections::BTreeSet, fmt::Write as _};

use entity::{
    enums::ChangeSource,
    ids::UserId,
    settings,
    users::{Column, Entity},
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use sha2::{Digest, Sha256};

use crate::{
    apply::{Rules, reproject},
    catalog::Catalog,
    db::Db,
    overrides::warn_of_unknown_tiers,
    policy::Policy,
    processor::{
        load::{Access, Needs, load},
        save::save,
    },
    store::{
        inbox::{clock, lock_keys},
        rowset::{OnConflict, upsert},
    },
};

/// Users in one transaction.
const BATCH: u64 = 500;

/// Under this name the rules are remembered by which everybody was projected last.
const SETTING: &str = "projected_by";

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reprojected {
    /// Users looked at; none where the rules are those of last time.
    pub users: u64,
    /// Users for whom something changed.
    pub changed: u64,
}

/// Derives everybody's tier anew, unless catalogue and policy are those by which that was done last. Several replicas may do it at once:
/// each finds what the other has done already. Cut off, it begins again at the next start.
pub async fn reproject_if_rules_changed(db: &Db, catalog: &Catalog, policy: &Policy) -> Result<Reprojected, DbErr> {
    let rules = fingerprint(catalog, policy);
    let stored = settings::Entity::find_by_id(SETTING).one(db.reader()).await?;
    if stored.is_some_and(|row| row.value == rules) {
        return Ok(Reprojected::default());
    }
    let mut done = Reprojected::default();
    let mut after: Option<UserId> = None;
    loop {
        let mut select = Entity::find().select_only().column(Column::Id);
        if let Some(after) = after {
            select = select.filter(Column::Id.gt(after));
        }
        let ids: Vec<UserId> = select.order_by_asc(Column::Id).limit(BATCH).into_tuple().all(db.reader()).await?;
        let Some(last) = ids.last().copied() else { break };
        after = Some(last);
        done.users += ids.len() as u64;
        done.changed += project_again(db, catalog, policy, ids).await?;
    }
    warn_of_unknown_tiers(db, catalog).await?;
    let tx = db.write().await?;
    let row = settings::Model { name: SETTING.to_owned(), value: rules, updated_at: clock(&*tx).await? };
    upsert::<settings::Entity>(&*tx, &[row], OnConflict::Replace).await?;
    tx.commit().await?;
    Ok(done)
}

async fn project_again(db: &Db, catalog: &Catalog, policy: &Policy, ids: Vec<UserId>) -> Result<u64, DbErr> {
    let users: BTreeSet<UserId> = ids.into_iter().collect();
    let needs = Needs { users: users.clone(), ..Needs::default() };
    let tx = db.write().await?;
    let now = clock(&*tx).await?;
    lock_keys(&*tx, needs.lock_keys()).await?;
    let mut world = load(&*tx, &needs, Access::Write).await?;
    let users = &users | &std::mem::take(&mut world.dirty.concerned);
    let rules = Rules { catalog, policy, now };
    let changes = reproject(&mut world, &users, "plans or policy changed", ChangeSource::Schedule, None, rules);
    save(&*tx, &world, &changes, &[], catalog, now).await?;
    tx.commit().await?;
    Ok(changes.len() as u64)
}

/// Equal for rules that project alike.
fn fingerprint(catalog: &Catalog, policy: &Policy) -> String {
    let text = format!("{catalog:?} {:?}", policy.past_due_grace);
    Sha256::digest(text).iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
