//! Users whom an operator has put on a tier by hand. Reconciling tells of their differences and leaves them alone.

use std::collections::BTreeSet;

use entity::ids::UserId;
use sea_orm::DbErr;

use crate::db::Db;

/// Which of these users are under an override now. There is no table of overrides in this schema yet: nobody is.
#[expect(clippy::unused_async, reason = "the table is read here as soon as there is one")]
pub(super) async fn among(_db: &Db, _users: &BTreeSet<UserId>) -> Result<BTreeSet<UserId>, DbErr> {
    Ok(BTreeSet::new())
}
