//! What the tests of reconciling share: a desk with a scripted Stripe beside it.

use std::sync::Arc;

use billing::{
    progress::Progress,
    reconcile::{Drift, Options, Reconciler, Report, records},
    samples::{ApiVersion, Metadata, SubscriptionSample},
};
use entity::{
    enums::{DriftKind, ReconcileMode, ReconcileOutcome, Requester},
    ids::{SubscriptionId, UserId},
    subscriptions,
};
use sea_orm::EntityTrait;
use serde_json::Value;
use testkit::TestDb;
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, NOW},
    scripted::Scripted,
};

pub(crate) struct ReconcileDesk {
    pub(crate) desk: Desk,
    pub(crate) stripe: Scripted,
    pub(crate) livemode: Option<bool>,
}

pub(crate) const DRY: Options = options(ReconcileMode::DryRun);
pub(crate) const APPLY: Options = options(ReconcileMode::Apply);

const fn options(mode: ReconcileMode) -> Options {
    Options { mode, user: None, force: false, accept_account: false, requested_by: Requester::Cli }
}

impl ReconcileDesk {
    pub(crate) async fn new(test_db: TestDb) -> Self {
        Self { desk: Desk::new(test_db).await, stripe: Scripted::new(), livemode: Some(false) }
    }

    pub(crate) fn reconciler(&self) -> Reconciler {
        Reconciler {
            db: self.desk.db.clone(),
            stripe: Arc::new(self.stripe.clone()),
            catalog: Arc::clone(&self.desk.catalog),
            policy: Arc::clone(&self.desk.policy),
            livemode: self.livemode,
        }
    }

    pub(crate) async fn run(&self, options: Options) -> Report {
        let run = self.reconciler().begin(options).await.expect("nothing else runs");
        let report = run.run(&Progress::default(), &CancellationToken::new()).await.expect("the database answers");
        let row = records::show(&self.desk.db, report.reconciliation).await.expect("an answer").expect("its row");
        assert_eq!(row.outcome, report.outcome, "the row tells what the report tells");
        assert_eq!(u64::try_from(row.drifted).expect("a count"), report.drifted);
        assert_eq!(row.report, Some(serde_json::to_value(&report).expect("JSON")));
        report
    }

    /// A run that sees and does everything.
    pub(crate) async fn succeeds(&self, options: Options) -> Report {
        let report = self.run(options).await;
        assert_eq!(report.outcome, ReconcileOutcome::Succeeded, "{:?}", report.error);
        report
    }

    pub(crate) async fn drifts(&self, report: &Report) -> Vec<Drift> {
        records::drifts(&self.desk.db, report.reconciliation, None, 10_000, None).await.expect("an answer")
    }

    pub(crate) async fn status(&self, id: &str) -> Option<String> {
        let id = SubscriptionId::parse(id).expect("an id");
        let row = subscriptions::Entity::find_by_id(id).one(self.desk.db.reader()).await.expect("an answer");
        row.map(|row| row.status.to_string())
    }
}

/// Kinds with how often each was found, those that were not left out.
pub(crate) fn kinds(report: &Report) -> Vec<(DriftKind, u64)> {
    report.by_kind.iter().filter(|(_, count)| **count > 0).map(|(kind, count)| (*kind, *count)).collect()
}

/// A subscription of a user, who is named in its metadata, by number.
pub(crate) fn owned(number: u32, user: UserId, status: &str) -> SubscriptionSample {
    let mut sample = anonymous(number, status);
    sample.metadata = Metadata::from([("user_id".to_owned(), user.to_string())]);
    sample
}

/// A subscription that names nobody.
pub(crate) fn anonymous(number: u32, status: &str) -> SubscriptionSample {
    let made_at = NOW - 864_000 - i64::from(number);
    let mut sample = SubscriptionSample::new(format!("sub_{number}"), format!("cus_{number}"), status, made_at);
    sample.items[0].lookup_key = Some("pro".to_owned());
    sample
}

pub(crate) fn shown(sample: &SubscriptionSample) -> Value {
    sample.render(ApiVersion::LATEST)
}
