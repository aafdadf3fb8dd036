//! Reconciliations: those that were, what they found, and a new one.

use billing::reconcile::{self, BeginError, Options, records};
use chrono::{DateTime, Utc};
use entity::{
    enums::{DriftKind, ReconcileMode, Requester},
    ids::UserId,
};
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Tag,
    auth::AdminToken,
    body::{Answer, Told},
    problem::{NOT_CONFIGURED, Problem, RECONCILIATION_RUNNING, RECONCILIATION_UNKNOWN, USER_UNKNOWN},
    within,
};
use crate::{app::App, background};

#[derive(Debug, Clone)]
pub(super) struct ReconciliationsApi(pub(super) App);

/// What a reconciliation does with what it finds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", rename = "ReconcileMode")]
enum Mode {
    /// Tells it, and changes nothing.
    DryRun,
    /// Repairs it.
    Apply,
}

impl From<ReconcileMode> for Mode {
    fn from(mode: ReconcileMode) -> Self {
        match mode {
            ReconcileMode::DryRun => Self::DryRun,
            ReconcileMode::Apply => Self::Apply,
        }
    }
}

/// A reconciliation.
#[derive(Debug, Serialize, Object)]
struct Reconciliation {
    /// Time-ordered; the cursor of the list.
    id: Uuid,
    /// When it began.
    started_at: DateTime<Utc>,
    /// When it ended.
    #[oai(nullable)]
    finished_at: Option<DateTime<Utc>>,
    /// Whether it repairs.
    mode: Mode,
    /// `running`, `succeeded`, `failed`, `refused` or `interrupted`.
    outcome: String,
    /// `schedule`, `cli` or `api`.
    requested_by: String,
    /// The one user it is about; null where it is about all.
    #[oai(nullable)]
    user_id: Option<Uuid>,
    /// Subscriptions of Stripe that were looked at.
    scanned: i64,
    /// Differences found.
    drifted: i64,
    /// Differences that are gone.
    repaired: i64,
    /// Why it did not succeed.
    #[oai(nullable)]
    error: Option<String>,
}

impl From<&records::Record> for Reconciliation {
    fn from(record: &records::Record) -> Self {
        Self {
            id: record.id,
            started_at: record.started_at,
            finished_at: record.finished_at,
            mode: record.mode.into(),
            outcome: record.outcome.to_string(),
            requested_by: record.requested_by.to_string(),
            user_id: record.user_id.map(|user| user.0),
            scanned: record.scanned,
            drifted: record.drifted,
            repaired: record.repaired,
            error: record.error.clone(),
        }
    }
}

/// A page of reconciliations, newest first.
#[derive(Debug, Serialize, Object)]
struct Reconciliations {
    /// The reconciliations.
    items: Vec<Reconciliation>,
    /// Pass it as `before` for the next page.
    #[oai(nullable)]
    next_cursor: Option<String>,
}

/// One thing that differs, with both sides.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "DriftDifference")]
struct Difference {
    /// Name of the thing, for example `status`.
    field: String,
    /// How it is here.
    here: String,
    /// How it is at Stripe, or by what is stored of Stripe.
    stripe: String,
}

/// Something in which Stripe and what is stored here differ.
#[derive(Debug, Serialize, Object)]
struct Drift {
    /// Time-ordered; the cursor of the list.
    id: Uuid,
    /// `missing`, `differs`, `ahead`, `unknown_user`, `unmapped_price`, `absent` or `projection`.
    kind: String,
    /// Whose it is.
    #[oai(nullable)]
    user_id: Option<Uuid>,
    /// The subscription, where it is about one.
    #[oai(nullable)]
    subscription_id: Option<String>,
    /// What differs.
    differences: Vec<Difference>,
    /// How it is here.
    local: Value,
    /// How it is at Stripe, or by what is stored of Stripe.
    stripe: Value,
    /// True once it is gone.
    repaired: bool,
}

impl From<reconcile::Drift> for Drift {
    fn from(drift: reconcile::Drift) -> Self {
        let difference =
            |found: reconcile::Difference| Difference { field: found.field, here: found.here, stripe: found.stripe };
        Self {
            id: drift.id,
            kind: drift.kind.to_string(),
            user_id: drift.user_id.map(|user| user.0),
            subscription_id: drift.subscription_id,
            differences: drift.differences.into_iter().map(difference).collect(),
            local: drift.local.unwrap_or_default(),
            stripe: drift.stripe.unwrap_or_default(),
            repaired: drift.repaired,
        }
    }
}

/// A page of what a reconciliation found, in the order in which it was found.
#[derive(Debug, Serialize, Object)]
struct Drifts {
    /// The differences.
    items: Vec<Drift>,
    /// Pass it as `cursor` for the next page.
    #[oai(nullable)]
    next_cursor: Option<String>,
}

/// A reconciliation with what it found.
#[derive(Debug, Serialize, Object)]
struct ReconciliationDetail {
    /// As in the list.
    reconciliation: Reconciliation,
    /// Everything it has to tell, once it has ended: counts by kind, what did not come, what it does to access, notes.
    report: Value,
    /// What it found.
    drifts: Drifts,
}

/// What is asked of a new one.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct NewReconciliation {
    /// Whether to repair.
    mode: Mode,
    /// Only this user's subscriptions.
    #[serde(default)]
    user_id: Option<Uuid>,
    /// Repair even where many would lose access.
    #[serde(default)]
    #[oai(default)]
    force: bool,
    /// The API key may be of another account than last time.
    #[serde(default)]
    #[oai(default)]
    accept_account: bool,
}

/// It has begun.
#[derive(Debug, Serialize, Object)]
struct ReconciliationBegun {
    /// Where to look: `GET /api/v1/admin/reconciliations/{id}`.
    id: Uuid,
}

#[derive(ApiResponse)]
enum BegunAnswer {
    /// It runs in the background of this server.
    #[oai(status = 202)]
    Begun(Answer<ReconciliationBegun>),
}

#[OpenApi]
impl ReconciliationsApi {
    /// Reconciliations, newest first
    #[oai(
        path = "/api/v1/admin/reconciliations",
        method = "get",
        operation_id = "listReconciliations",
        tag = "Tag::Admin"
    )]
    async fn list(
        &self,
        _token: AdminToken,
        /// Reconciliations on a page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<u32>,
        /// Only those before this one: `next_cursor` of the page before.
        before: Query<Option<Uuid>>,
    ) -> Result<Answer<Reconciliations>, Problem> {
        let limit = u64::from(limit.0);
        let mut records = within(records::list(&self.0.db, limit + 1, before.0)).await??;
        let next_cursor = cut(&mut records, limit, |record| record.id);
        Ok(Answer(Reconciliations { items: records.iter().map(Into::into).collect(), next_cursor }))
    }

    /// One reconciliation with what it found
    #[oai(
        path = "/api/v1/admin/reconciliations/:id",
        method = "get",
        operation_id = "getReconciliation",
        tag = "Tag::Admin"
    )]
    async fn show(
        &self,
        _token: AdminToken,
        id: Path<Uuid>,
        /// Only differences of this kind.
        kind: Query<Option<String>>,
        /// Differences on a page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<u32>,
        /// Where the page begins: `next_cursor` of the page before.
        cursor: Query<Option<Uuid>>,
    ) -> Result<Answer<ReconciliationDetail>, Problem> {
        let db = &self.0.db;
        let kind: Option<DriftKind> = match kind.0 {
            Some(text) => Some(text.parse().map_err(|error: entity::enums::UnknownValue| {
                Problem::new(super::problem::BAD_REQUEST, format!("`kind`: {error}"))
            })?),
            None => None,
        };
        let record = within(records::show(db, id.0)).await??;
        let record = record.ok_or_else(|| {
            let detail = "there is no such reconciliation; GET /api/v1/admin/reconciliations lists what there is";
            Problem::new(RECONCILIATION_UNKNOWN, detail)
        })?;
        let limit = u64::from(limit.0);
        let mut drifts = within(records::drifts(db, id.0, kind, limit + 1, cursor.0)).await??;
        let next_cursor = cut(&mut drifts, limit, |drift| drift.id);
        Ok(Answer(ReconciliationDetail {
            reconciliation: (&record).into(),
            report: record.report.unwrap_or_default(),
            drifts: Drifts { items: drifts.into_iter().map(Into::into).collect(), next_cursor },
        }))
    }

    /// Begins a reconciliation, in the background of this server
    ///
    /// 409 while one is under way, on whatever server (`reconciliation-running`), and without an API key of Stripe (`not-configured`).
    #[oai(
        path = "/api/v1/admin/reconciliations",
        method = "post",
        operation_id = "beginReconciliation",
        tag = "Tag::Admin"
    )]
    async fn begin(&self, _token: AdminToken, told: Told<NewReconciliation>) -> Result<BegunAnswer, Problem> {
        let Self(app) = self;
        let NewReconciliation { mode, user_id, force, accept_account } = told.0;
        let mode = match mode {
            Mode::DryRun => ReconcileMode::DryRun,
            Mode::Apply => ReconcileMode::Apply,
        };
        let Some(reconciler) = app.reconciler() else {
            let detail = "there is no API key of Stripe; set STRIPE_SECRET_KEY to a secret or restricted key";
            return Err(Problem::new(NOT_CONFIGURED, detail));
        };
        let user = user_id.map(UserId);
        let options = Options { mode, user, force, accept_account, requested_by: Requester::Api };
        let run = within(reconciler.begin(options)).await?.map_err(|error| match error {
            BeginError::Busy(_) => Problem::new(RECONCILIATION_RUNNING, error.to_string()),
            BeginError::UnknownUser(_) => Problem::new(USER_UNKNOWN, error.to_string()),
            BeginError::Database(error) => error.into(),
        })?;
        let id = run.id();
        tracing::info!(reconciliation = %id, %mode, force, "an operator began a reconciliation");
        background::reconcile(app, run);
        Ok(BegunAnswer::Begun(Answer(ReconciliationBegun { id })))
    }
}

/// Takes off what was read beyond the page, and tells where the next one begins.
fn cut<T>(items: &mut Vec<T>, limit: u64, id: impl Fn(&T) -> Uuid) -> Option<String> {
    let more = items.len() as u64 > limit;
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    items.last().filter(|_| more).map(|last| id(last).to_string())
}

fn default_limit() -> u32 {
    50
}

#[cfg(test)]
mod tests {
    use metrics::labels;

    use super::*;

    #[test]
    fn every_kind_of_difference_has_a_label_of_the_same_name() {
        let ours: Vec<&str> = DriftKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let theirs: Vec<&str> = labels::DriftKind::ALL.iter().map(|label| label.as_str()).collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_page_ends_where_it_should_and_says_where_the_next_begins() {
        let ids: Vec<Uuid> = (0..3).map(Uuid::from_u128).collect();
        let mut page = ids.clone();
        assert_eq!(cut(&mut page, 2, |id| *id), Some(ids[1].to_string()));
        assert_eq!(page.len(), 2);
        assert_eq!(cut(&mut page, 2, |id| *id), None);
    }
}
