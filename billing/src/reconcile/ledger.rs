//! What a run notes down while it goes: its report, and its drifts on their way into the database, a few hundred at a time.

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use entity::{enums::DriftKind, ids::UserId, reconciliation_drifts, users};
use sea_orm::{DbErr, EntityTrait, QueryFilter, QuerySelect};
use serde_json::Value;
use uuid::Uuid;

use super::{
    compare::Difference,
    report::{Drift, Report},
};
use crate::{
    db::{Blame, Db, blame},
    store::rowset::{OnConflict, upsert, uuid_in},
};

/// Drifts that wait in memory at most.
const BUFFER: usize = 200;

/// A drift that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: DriftKind,
    pub(super) user: Option<UserId>,
    pub(super) subscription: Option<String>,
    pub(super) differences: Vec<Difference>,
    pub(super) local: Option<Value>,
    pub(super) stripe: Option<Value>,
}

/// What a run notes down. The walk and the look at the users note side by side.
#[derive(Debug)]
pub(super) struct Ledger {
    reconciliation: Uuid,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    report: Report,
    buffer: Vec<Drift>,
}

impl Ledger {
    pub(super) fn new(report: Report) -> Self {
        Self { reconciliation: report.reconciliation, inner: Mutex::new(Inner { report, buffer: Vec::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run's row.
    pub(super) fn reconciliation(&self) -> Uuid {
        self.reconciliation
    }

    /// Changes the report.
    pub(super) fn report(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock().report);
    }

    /// The report as it is now.
    pub(super) fn told(&self) -> Report {
        self.lock().report.clone()
    }

    /// Notes what was found; writes once enough waits.
    pub(super) async fn note(&self, db: &Db, found: Vec<Found>) -> Result<(), DbErr> {
        let full = {
            let mut inner = self.lock();
            for Found { kind, user, subscription, differences, local, stripe } in found {
                let id = Uuid::now_v7();
                let drift = Drift {
                    id,
                    kind,
                    user_id: user,
                    subscription_id: subscription,
                    differences,
                    local,
                    stripe,
                    repaired: false,
                };
                inner.report.note(&drift);
                inner.buffer.push(drift);
            }
            inner.buffer.len() >= BUFFER
        };
        if full { self.flush(db).await } else { Ok(()) }
    }

    /// Writes what waits.
    pub(super) async fn flush(&self, db: &Db) -> Result<(), DbErr> {
        let waiting = mem::take(&mut self.lock().buffer);
        if waiting.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<reconciliation_drifts::Model> =
            waiting.into_iter().map(|drift| row(self.reconciliation, drift)).collect::<Result<_, _>>()?;
        match write(db, &rows).await {
            Err(error) if blame(&error) == Blame::Data => {
                // A user may have been deleted since.
                let named: HashSet<Uuid> = rows.iter().filter_map(|row| Some(row.user_id?.0)).collect();
                let there: Vec<UserId> = users::Entity::find()
                    .select_only()
                    .column(users::Column::Id)
                    .filter(uuid_in(db.backend(), "id", named))
                    .into_tuple()
                    .all(db.reader())
                    .await?;
                let there: HashSet<UserId> = there.into_iter().collect();
                for row in &mut rows {
                    row.user_id = row.user_id.filter(|user| there.contains(user));
                }
                write(db, &rows).await
            }
            done => done,
        }
    }
}

async fn write(db: &Db, rows: &[reconciliation_drifts::Model]) -> Result<(), DbErr> {
    let tx = db.write().await?;
    upsert::<reconciliation_drifts::Entity>(&*tx, rows, OnConflict::KeepWhereEqual("id")).await?;
    tx.commit().await
}

fn row(reconciliation: Uuid, drift: Drift) -> Result<reconciliation_drifts::Model, DbErr> {
    let fields = serde_json::to_value(&drift.differences).map_err(|error| DbErr::Json(error.to_string()))?;
    Ok(reconciliation_drifts::Model {
        id: drift.id,
        reconciliation_id: reconciliation,
        kind: drift.kind,
        user_id: drift.user_id,
        subscription_id: drift.subscription_id,
        fields,
        local: drift.local,
        stripe: drift.stripe,
        repaired: drift.repaired,
    })
}
