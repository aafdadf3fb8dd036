//! Repairing what was found: first what it would do to access, on facts alone; then, batch by batch, the thing itself.
//!
//! A repair takes in what the drift's row holds of Stripe. The merge decides as it does among events: whatever came since the read is newer and
//! stays, and what comes late afterwards is older and loses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use entity::{
    enums::{ChangeSource, DriftKind},
    ids::UserId,
    reconciliation_drifts::{self, Column},
    users,
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};
use uuid::Uuid;

use super::{AccessEffect, End, Run, now, observed::Observed, overrides};
use crate::{
    apply::Rules,
    db::{Blame, blame},
    events::Told,
    facts::Stamp,
    fetched::{Occasion, needs, take_in_within, tell},
    processor::load::{Access, load},
    store::rowset::uuid_in,
};

/// Users, or subscriptions of nobody, that are repaired in one transaction.
const BATCH: u64 = 100;

/// Tries of a batch that the surroundings disturb.
const TRIES: u32 = 4;

/// What a repair can mend.
const MENDED: [DriftKind; 4] = [DriftKind::Missing, DriftKind::Differs, DriftKind::Projection, DriftKind::Unconfirmed];

type Rows = Vec<reconciliation_drifts::Model>;

impl Run<'_> {
    /// Computes what repairing would do to access, and refuses where too many would lose it.
    pub(super) async fn foresee(&self) -> Result<Option<End>, DbErr> {
        let db = &self.reconciler.db;
        let paid = users::Entity::find().filter(users::Column::SubscriptionAccess.eq(true)).count(db.reader()).await?;
        let mut effect = AccessEffect { paid, ..AccessEffect::default() };
        let now = now(db).await?;
        let rules = Rules { catalog: &self.reconciler.catalog, policy: &self.reconciler.policy, now };
        let (mut after, mut overridden) = (None, 0);
        while let Some((users, rows)) = self.next_users(&mut after, &mut overridden).await? {
            let facts = facts(&rows)?;
            let mut world = load(db.reader(), &needs(&facts, &users), Access::Read).await?;
            let access = |world: &crate::world::World, user| world.user(user).map(|u| u.projection.entitlement.access);
            let before: BTreeMap<UserId, Option<bool>> =
                users.iter().map(|user| (*user, access(&world, *user))).collect();
            tell(&mut world, facts, &users, self.occasion(), rules);
            for (user, before) in before {
                match (before, access(&world, user)) {
                    (Some(true), Some(false)) => effect.lose += 1,
                    (Some(false), Some(true)) => effect.gain += 1,
                    _ => {}
                }
            }
        }
        self.ledger.report(|report| {
            report.access = effect;
            report.overridden = overridden;
        });
        if !effect.is_alarming() {
            return Ok(None);
        }
        let AccessEffect { paid, lose, .. } = effect;
        let told = format!("{lose} of the {paid} users with paid access would lose it, which is more than a tenth");
        if self.is_dry() {
            let note = format!("{told}: applying this would be refused unless it is forced (--force)");
            self.ledger.report(|report| report.notes.push(note));
            return Ok(None);
        }
        if self.options.force {
            self.ledger.report(|report| report.notes.push(format!("{told}; it was forced all the same")));
            return Ok(None);
        }
        Ok(Some(End::Refused(format!(
            "{told}, so that nothing was applied; look at what was found, and if it is right, reconcile again with --force"
        ))))
    }

    /// Repairs what was found.
    pub(super) async fn repair(&self) -> Result<(), DbErr> {
        let (mut after, mut overridden) = (None, 0);
        while let Some((users, rows)) = self.next_users(&mut after, &mut overridden).await? {
            self.repair_batch(users, rows).await?;
        }
        let mut after = None;
        while let Some(rows) = self.next_of_nobody(&mut after).await? {
            self.repair_batch(BTreeSet::new(), rows).await?;
        }
        self.find_owners().await
    }

    pub(super) fn occasion(&self) -> Occasion<'static> {
        let reconciliation = Some(self.ledger.reconciliation());
        Occasion { what: "reconcile", source: ChangeSource::Reconcile, reconciliation }
    }

    /// The next users of whom something is to be repaired, with all of it: what two of a user's subscriptions come to shows only together.
    /// Those under an override are counted and left out.
    async fn next_users(
        &self,
        after: &mut Option<UserId>,
        overridden: &mut u64,
    ) -> Result<Option<(BTreeSet<UserId>, Rows)>, DbErr> {
        let db = &self.reconciler.db;
        loop {
            let mut select = self.mendable().select_only().column(Column::UserId).distinct();
            select = match after {
                Some(after) => select.filter(Column::UserId.gt(*after)),
                None => select.filter(Column::UserId.is_not_null()),
            };
            let page: Vec<UserId> =
                select.order_by_asc(Column::UserId).limit(BATCH).into_tuple().all(db.reader()).await?;
            let Some(last) = page.last().copied() else { return Ok(None) };
            *after = Some(last);
            let mut users: BTreeSet<UserId> = page.into_iter().collect();
            let held = overrides::among(db, &users).await?;
            let of = uuid_in(db.backend(), "user_id", users.iter().map(|user| user.0));
            let rows = self.mendable().filter(of).order_by_asc(Column::Id).all(db.reader()).await?;
            let (left, rows): (Rows, Rows) =
                rows.into_iter().partition(|row| row.user_id.is_some_and(|user| held.contains(&user)));
            users.retain(|user| !held.contains(user));
            *overridden += left.len() as u64;
            if !users.is_empty() {
                return Ok(Some((users, rows)));
            }
        }
    }

    async fn next_of_nobody(&self, after: &mut Option<Uuid>) -> Result<Option<Rows>, DbErr> {
        let mut select = self.mendable().filter(Column::UserId.is_null());
        if let Some(after) = after {
            select = select.filter(Column::Id.gt(*after));
        }
        let rows = select.order_by_asc(Column::Id).limit(BATCH).all(self.reconciler.db.reader()).await?;
        *after = rows.last().map(|row| row.id).or(*after);
        Ok(Some(rows).filter(|rows| !rows.is_empty()))
    }

    /// What this run found and can mend.
    fn mendable(&self) -> sea_orm::Select<reconciliation_drifts::Entity> {
        reconciliation_drifts::Entity::find()
            .filter(Column::ReconciliationId.eq(self.ledger.reconciliation()))
            .filter(Column::Kind.is_in(MENDED))
            .filter(Column::Repaired.eq(false))
    }

    /// Repairs one batch. What the database refuses for its data is tried user by user, so that nobody suffers from a neighbour.
    async fn repair_batch(&self, users: BTreeSet<UserId>, rows: Rows) -> Result<(), DbErr> {
        match self.persistently(&users, &rows).await {
            Ok(repaired) => self.ledger.report(|report| report.repaired += repaired),
            Err(error) if blame(&error) == Blame::Data && rows.len() > 1 => {
                let mut groups: HashMap<Option<UserId>, Rows> = HashMap::new();
                for row in rows {
                    groups.entry(row.user_id).or_default().push(row);
                }
                let groups: Vec<(BTreeSet<UserId>, Rows)> = if groups.len() > 1 {
                    groups.into_iter().map(|(user, rows)| (user.into_iter().collect(), rows)).collect()
                } else {
                    groups.into_values().flatten().map(|row| (row.user_id.into_iter().collect(), vec![row])).collect()
                };
                for (users, rows) in groups {
                    Box::pin(self.repair_batch(users, rows)).await?;
                }
            }
            Err(error) if blame(&error) == Blame::Data => {
                let drift = rows.first().map(|row| row.id);
                tracing::warn!(?drift, %error, "the database refused a repair");
                self.ledger.report(|report| report.unrepairable += rows.len() as u64);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Tries again where it is the surroundings: the processor may hold the same rows.
    async fn persistently(&self, users: &BTreeSet<UserId>, rows: &Rows) -> Result<u64, DbErr> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Box::pin(self.mend(users, rows)).await {
                Err(error)
                    if tries < TRIES && blame(&error) == Blame::Surroundings && !crate::db::is_lease_lost(&error) =>
                {
                    tracing::debug!(%error, tries, "a repair was disturbed; trying again");
                    tokio::time::sleep(Duration::from_millis(200) * tries).await;
                }
                done => return done,
            }
        }
    }

    /// One transaction: the facts, whoever they concern, the timeline, and the drifts marked.
    async fn mend(&self, users: &BTreeSet<UserId>, rows: &Rows) -> Result<u64, DbErr> {
        let facts = facts(rows)?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let (catalog, policy) = (&self.reconciler.catalog, &self.reconciler.policy);
        let tx = self.reconciler.db.write().await?;
        take_in_within(&tx, catalog, policy, facts, users, self.occasion()).await?;
        self.mark(&*tx, &ids).await?;
        tx.commit().await?;
        Ok(ids.len() as u64)
    }

    pub(super) async fn mark(&self, db: &impl sea_orm::ConnectionTrait, ids: &[Uuid]) -> Result<(), DbErr> {
        reconciliation_drifts::Entity::update_many()
            .col_expr(Column::Repaired, Expr::val(true))
            .filter(uuid_in(self.reconciler.db.backend(), "id", ids.iter().copied()))
            .exec(db)
            .await?;
        Ok(())
    }
}

/// What rows hold of Stripe, as events would tell it.
fn facts(rows: &[reconciliation_drifts::Model]) -> Result<Vec<(Told, Stamp)>, DbErr> {
    let mut facts = Vec::new();
    for row in rows {
        if let (DriftKind::Missing | DriftKind::Differs, Some(stripe)) = (row.kind, &row.stripe) {
            let observed: Observed =
                serde_json::from_value(stripe.clone()).map_err(|error| DbErr::Json(error.to_string()))?;
            facts.push(observed.told());
        }
        if let (DriftKind::Unconfirmed, Some(local)) = (row.kind, &row.local) {
            let observed: Observed =
                serde_json::from_value(local.clone()).map_err(|error| DbErr::Json(error.to_string()))?;
            facts.push(observed.unconfirmed());
        }
    }
    Ok(facts)
}
