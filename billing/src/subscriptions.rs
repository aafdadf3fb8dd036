//! What an operator asks of the subscriptions that are known here.

use entity::{
    ids::{SubscriptionId, UserId},
    subscriptions::{Column, Entity, Model},
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::db::Db;

/// Which subscriptions.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this user's.
    pub user_id: Option<UserId>,
    /// Only those of which two snapshots of one second disagree, or only the others.
    pub needs_refresh: Option<bool>,
}

/// A page in the order of their ids, and the last id of it where there are more.
pub async fn list(
    db: &Db,
    filter: &Filter,
    limit: u64,
    after: Option<SubscriptionId>,
) -> Result<(Vec<Model>, Option<SubscriptionId>), DbErr> {
    let mut select = Entity::find().order_by_asc(Column::Id).limit(limit + 1);
    if let Some(user) = filter.user_id {
        select = select.filter(Column::UserId.eq(user));
    }
    if let Some(needs_refresh) = filter.needs_refresh {
        select = select.filter(Column::NeedsRefresh.eq(needs_refresh));
    }
    if let Some(after) = after {
        select = select.filter(Column::Id.gt(after));
    }
    let mut items = select.all(db.reader()).await?;
    let more = items.len() as u64 > limit;
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = items.last().filter(|_| more).map(|last| last.id.clone());
    Ok((items, next))
}
