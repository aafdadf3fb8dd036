//! Users' rows, compared with what follows from the stored facts.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use entity::{
    Time,
    enums::DriftKind,
    ids::UserId,
    users::{Column, Entity},
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::{Value, json};

use super::{Run, compare::projections, ledger::Found, now};
use crate::{
    db::Db,
    processor::load::{Access, Needs, load},
    projection::Projection,
};

/// Users that are looked at together.
const PAGE: u64 = 250;

/// What ended by its date within this time may not have been told to the user's row yet, and that is no drift: a job does it every minute.
const GRACE: TimeDelta = TimeDelta::minutes(10);

/// True for a user of ours.
pub(super) async fn exists(db: &Db, user: UserId) -> Result<bool, DbErr> {
    Ok(Entity::find_by_id(user).count(db.reader()).await? > 0)
}

impl Run<'_> {
    /// Looks at everybody's row, or at one user's.
    pub(super) async fn look_at_users(&self) -> Result<(), DbErr> {
        let db = &self.reconciler.db;
        if let Some(user) = self.options.user {
            return self.look_at(BTreeSet::from([user])).await;
        }
        let mut after: Option<UserId> = None;
        loop {
            let mut select = Entity::find().select_only().column(Column::Id);
            if let Some(after) = after {
                select = select.filter(Column::Id.gt(after));
            }
            let page: Vec<UserId> = select.order_by_asc(Column::Id).limit(PAGE).into_tuple().all(db.reader()).await?;
            let Some(last) = page.last().copied() else { return Ok(()) };
            after = Some(last);
            self.look_at(page.into_iter().collect()).await?;
        }
    }

    async fn look_at(&self, users: BTreeSet<UserId>) -> Result<(), DbErr> {
        let now = now(&self.reconciler.db).await?;
        let off = self.off(users.clone(), now).await?;
        self.ledger.report(|report| report.users += users.len() as u64);
        if off.is_empty() {
            return Ok(());
        }
        // A batch of events may have come in between two of our queries; what is really off still is.
        let again = off.iter().map(|(user, ..)| *user).collect();
        let mut found = Vec::new();
        for (user, stored, derived) in self.off(again, now).await? {
            found.push(Found {
                kind: DriftKind::Projection,
                user: Some(user),
                subscription: derived.subscription.as_ref().map(ToString::to_string),
                differences: projections(&stored, &derived),
                local: Some(told(&stored)),
                stripe: Some(told(&derived)),
            });
        }
        self.ledger.note(&self.reconciler.db, found).await
    }

    /// Whose row is not what follows from the facts, with both.
    async fn off(&self, users: BTreeSet<UserId>, now: Time) -> Result<Vec<(UserId, Projection, Projection)>, DbErr> {
        let (catalog, policy) = (&self.reconciler.catalog, &self.reconciler.policy);
        let needs = Needs { users: users.clone(), ..Needs::default() };
        let world = load(self.reconciler.db.reader(), &needs, Access::Read).await?;
        let mut off = Vec::new();
        for id in users {
            let Some(user) = world.user(id) else { continue };
            let (derived, _) = world.project(id, catalog, policy, now);
            if derived != user.projection && world.project(id, catalog, policy, now - GRACE).0 != user.projection {
                off.push((id, user.projection.clone(), derived));
            }
        }
        Ok(off)
    }
}

fn told(projection: &Projection) -> Value {
    let Projection { entitlement, customer, subscription } = projection;
    json!({ "entitlement": entitlement, "customer": customer, "subscription": subscription })
}
