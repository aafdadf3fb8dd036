//! Users whom an operator has put on a tier by hand. Reconciling tells of their differences and leaves them alone.

use std::collections::BTreeSet;

use chrono::SubsecRound;
use entity::{
    ids::UserId,
    tier_overrides::{Column, Entity},
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};

use crate::{
    db::Db,
    store::{inbox::clock, rowset::uuid_in},
};

/// Which of these users are under an override now.
pub(super) async fn among(db: &Db, users: &BTreeSet<UserId>) -> Result<BTreeSet<UserId>, DbErr> {
    if users.is_empty() {
        return Ok(BTreeSet::new());
    }
    let now = clock(db.reader()).await?.trunc_subsecs(6);
    let held: Vec<UserId> = Entity::find()
        .select_only()
        .column(Column::UserId)
        .filter(uuid_in(db.backend(), "user_id", users.iter().map(|user| user.0)))
        .filter(Column::Until.gt(now))
        .into_tuple()
        .all(db.reader())
        .await?;
    Ok(held.into_iter().collect())
}
