//! Reconciliations as rows: begun, seen alive, ended; and what a person asks of them.

use entity::{
    Time,
    enums::{DriftKind, ReconcileMode, ReconcileOutcome, Requester},
    ids::UserId,
    reconciliation_drifts, reconciliations,
};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, SqlErr,
    sea_query::{Expr, ExprTrait},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::report::{Drift, Report};
use crate::{
    db::Db,
    store::{
        inbox::{clock, now},
        reconcile::ago,
    },
};

/// A run that has not been seen alive for so long, in seconds, is dead.
const DEAD_AFTER: u32 = 120;

/// Runs are kept for so long, in seconds: 90 days.
const KEPT: u32 = 90 * 86_400;

/// Old runs that one run clears away, with everything they found.
const CLEARED: u64 = 5;

/// A run that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// Which.
    pub id: Uuid,
    /// Since when.
    pub started_at: Time,
    /// Who asked for it.
    pub requested_by: Requester,
}

/// What a new row says.
pub(super) struct NewRun {
    pub(super) mode: ReconcileMode,
    pub(super) requested_by: Requester,
    pub(super) user: Option<UserId>,
}

/// Begins a run, unless one is under way anywhere.
pub(super) async fn begin(db: &Db, run: NewRun) -> Result<Result<Uuid, UnderWay>, DbErr> {
    use reconciliations::{ActiveModel, Column, Entity};
    let id = Uuid::now_v7();
    let tx = db.write().await?;
    Entity::update_many()
        .col_expr(Column::Outcome, Expr::val(ReconcileOutcome::Interrupted.as_str()))
        .col_expr(Column::FinishedAt, Expr::col(Column::BeatAt))
        .col_expr(Column::Error, Expr::val("its process died, or lost the database"))
        .filter(Column::Outcome.eq(ReconcileOutcome::Running))
        .filter(Expr::col(Column::BeatAt).lt(Expr::cust(ago(db.backend(), DEAD_AFTER))))
        .exec(&*tx)
        .await?;
    if let Some(running) = Entity::find().filter(Column::Outcome.eq(ReconcileOutcome::Running)).one(&*tx).await? {
        // The dead stay told as dead.
        tx.commit().await?;
        return Ok(Err(running.into()));
    }
    let at = clock(&*tx).await?;
    let row = ActiveModel {
        id: Set(id),
        started_at: Set(at),
        beat_at: Set(at),
        mode: Set(run.mode),
        outcome: Set(ReconcileOutcome::Running),
        requested_by: Set(run.requested_by),
        user_id: Set(run.user),
        ..Default::default()
    };
    let inserted = match Entity::insert(row).exec_without_returning(&*tx).await {
        Ok(_) => tx.commit().await,
        Err(error) => Err(error),
    };
    match inserted {
        Ok(()) => Ok(Ok(id)),
        // Another replica was faster.
        Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
            let running = under_way(db).await?;
            let unknown = || UnderWay { id: Uuid::nil(), started_at: at, requested_by: Requester::Schedule };
            Ok(Err(running.unwrap_or_else(unknown)))
        }
        Err(error) => Err(error),
    }
}

impl From<reconciliations::Model> for UnderWay {
    fn from(row: reconciliations::Model) -> Self {
        Self { id: row.id, started_at: row.started_at, requested_by: row.requested_by }
    }
}

/// The run that is under way, wherever it runs.
pub async fn under_way(db: &Db) -> Result<Option<UnderWay>, DbErr> {
    use reconciliations::{Column, Entity};
    let row = Entity::find()
        .filter(Column::Outcome.eq(ReconcileOutcome::Running))
        .filter(Expr::col(Column::BeatAt).gte(Expr::cust(ago(db.backend(), DEAD_AFTER))))
        .one(db.reader())
        .await?;
    Ok(row.map(Into::into))
}

/// Says that a run is alive; false where somebody has taken it for dead.
pub(super) async fn beat(db: &Db, id: Uuid, scanned: u64) -> Result<bool, DbErr> {
    use reconciliations::{Column, Entity};
    let tx = db.write().await?;
    let done = Entity::update_many()
        .col_expr(Column::BeatAt, Expr::cust(now(db.backend())))
        .col_expr(Column::Scanned, Expr::val(signed(scanned)))
        .filter(Column::Id.eq(id))
        .filter(Column::Outcome.eq(ReconcileOutcome::Running))
        .exec(&*tx)
        .await?;
    tx.commit().await?;
    Ok(done.rows_affected == 1)
}

/// Writes how a run came out, and clears old ones away.
pub(super) async fn finish(db: &Db, report: &Report) -> Result<(), DbErr> {
    use reconciliations::{Column, Entity};
    let told = serde_json::to_value(report).map_err(|error| DbErr::Json(error.to_string()))?;
    let tx = db.write().await?;
    Entity::update_many()
        .col_expr(Column::Outcome, Expr::val(report.outcome.as_str()))
        .col_expr(Column::FinishedAt, Expr::cust(now(db.backend())))
        .col_expr(Column::BeatAt, Expr::cust(now(db.backend())))
        .col_expr(Column::Scanned, Expr::val(signed(report.scanned)))
        .col_expr(Column::Drifted, Expr::val(signed(report.drifted)))
        .col_expr(Column::Repaired, Expr::val(signed(report.repaired)))
        .col_expr(Column::Report, Expr::val(told))
        .col_expr(Column::Error, Expr::val(report.error.clone()))
        .filter(Column::Id.eq(report.reconciliation))
        .filter(Column::Outcome.eq(ReconcileOutcome::Running))
        .exec(&*tx)
        .await?;
    let old: Vec<Uuid> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Expr::col(Column::FinishedAt).lt(Expr::cust(ago(db.backend(), KEPT))))
        .order_by_asc(Column::Id)
        .limit(CLEARED)
        .into_tuple()
        .all(&*tx)
        .await?;
    for id in old {
        Entity::delete_by_id(id).exec(&*tx).await?;
    }
    tx.commit().await
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// One reconciliation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Time-ordered; the cursor of a list.
    pub id: Uuid,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// Whether it repairs.
    pub mode: ReconcileMode,
    /// How it stands.
    pub outcome: ReconcileOutcome,
    /// Who asked for it.
    pub requested_by: Requester,
    /// The one user it is about.
    pub user_id: Option<UserId>,
    /// Subscriptions of Stripe that were looked at.
    pub scanned: i64,
    /// Differences found.
    pub drifted: i64,
    /// Differences that are gone.
    pub repaired: i64,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// Everything it has to tell, once it has ended.
    pub report: Option<Value>,
}

impl From<reconciliations::Model> for Record {
    fn from(row: reconciliations::Model) -> Self {
        Self {
            id: row.id,
            started_at: row.started_at,
            finished_at: row.finished_at,
            mode: row.mode,
            outcome: row.outcome,
            requested_by: row.requested_by,
            user_id: row.user_id,
            scanned: row.scanned,
            drifted: row.drifted,
            repaired: row.repaired,
            error: row.error,
            report: row.report,
        }
    }
}

/// Reconciliations, newest first, at most `limit`, older than `before` where given.
pub async fn list(db: &Db, limit: u64, before: Option<Uuid>) -> Result<Vec<Record>, DbErr> {
    use reconciliations::{Column, Entity};
    let mut select = Entity::find();
    if let Some(before) = before {
        select = select.filter(Column::Id.lt(before));
    }
    let rows = select.order_by_desc(Column::Id).limit(limit).all(db.reader()).await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// One of them.
pub async fn show(db: &Db, id: Uuid) -> Result<Option<Record>, DbErr> {
    Ok(reconciliations::Entity::find_by_id(id).one(db.reader()).await?.map(Into::into))
}

/// What one of them found, in the order in which it was found, at most `limit`, after `after` where given.
pub async fn drifts(
    db: &Db,
    reconciliation: Uuid,
    kind: Option<DriftKind>,
    limit: u64,
    after: Option<Uuid>,
) -> Result<Vec<Drift>, DbErr> {
    use reconciliation_drifts::{Column, Entity};
    let mut select = Entity::find().filter(Column::ReconciliationId.eq(reconciliation));
    if let Some(kind) = kind {
        select = select.filter(Column::Kind.eq(kind));
    }
    if let Some(after) = after {
        select = select.filter(Column::Id.gt(after));
    }
    let rows = select.order_by_asc(Column::Id).limit(limit).all(db.reader()).await?;
    rows.into_iter().map(drift).collect()
}

fn drift(row: reconciliation_drifts::Model) -> Result<Drift, DbErr> {
    Ok(Drift {
        id: row.id,
        kind: row.kind,
        user_id: row.user_id,
        subscription_id: row.subscription_id,
        differences: serde_json::from_value(row.fields).map_err(|error| DbErr::Json(error.to_string()))?,
        local: row.local,
        stripe: row.stripe,
        repaired: row.repaired,
    })
}

/// When the last reconciliation of everybody came to its end; none where there never was one.
pub async fn last_complete(db: &Db) -> Result<Option<Time>, DbErr> {
    use reconciliations::{Column, Entity};
    Entity::find()
        .select_only()
        .column(Column::FinishedAt)
        .filter(Column::Outcome.eq(ReconcileOutcome::Succeeded))
        .filter(Column::UserId.is_null())
        .filter(Column::FinishedAt.is_not_null())
        .order_by_desc(Column::FinishedAt)
        .limit(1)
        .into_tuple()
        .one(db.reader())
        .await
}
