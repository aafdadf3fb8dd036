//! A desk to work at: one fresh database with the inbox and the processor around it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use billing::{
    catalog::Catalog,
    db::{Db, DbOptions},
    event::{VerifiedEvent, verify},
    inbox::{Inbox, InboxOptions, IntakeRules, Receipt, ReceiveError, records, route},
    policy::Policy,
    processor::{Outcome, Pass, Processor, ProcessorOptions},
    signature::{Tolerance, WebhookSecret, sign},
    stripe::Stripe,
    usage::{Meter, Rolled},
    users::{self, UserTold, UserView},
};
use entity::{
    Time,
    enums::ProcessingStatus,
    ids::{EventId, UserId},
    stripe_webhooks, usage_periods,
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder};
use serde_json::Value;
use testkit::{Kind, TestDb};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The second around which tests live.
pub(crate) const NOW: i64 = 1_790_000_000;

/// A database with everything around it. Must be closed, which checks that no event was left behind unseen.
pub(crate) struct Desk {
    pub(crate) db: Db,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) rules: IntakeRules,
    pub(crate) inbox: Inbox,
    pub(crate) nudge: Arc<Notify>,
    pub(crate) processor: Processor,
    test_db: TestDb,
    closed: AtomicBool,
}

impl Desk {
    pub(crate) async fn new(test_db: TestDb) -> Self {
        Self::with(test_db, Policy::default(), ProcessorOptions::default()).await
    }

    pub(crate) async fn with(test_db: TestDb, policy: Policy, options: ProcessorOptions) -> Self {
        // On a busy machine, and behind a pooler of few connections, a turn may take its time.
        let patient = DbOptions { acquire_timeout: Duration::from_secs(30), ..DbOptions::default() };
        let db = Db::connect(test_db.url(), &patient).await.expect("the test's database answers");
        let (catalog, policy) = (Arc::new(Catalog::default()), Arc::new(policy));
        let nudge = Arc::new(Notify::new());
        let writers = if test_db.kind() == Kind::Sqlite { 1 } else { 2 };
        let (inbox, _) = Inbox::start(&db, InboxOptions { writers, ..InboxOptions::default() }, &nudge);
        let processor = Processor::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), options, None);
        let rules = IntakeRules::default();
        Self { db, catalog, policy, rules, inbox, nudge, processor, test_db, closed: AtomicBool::new(false) }
    }

    /// From now on there is an API key, and this Stripe answers to it.
    pub(crate) fn with_key(mut self, stripe: Arc<dyn Stripe>, options: ProcessorOptions) -> Self {
        let (catalog, policy) = (Arc::clone(&self.catalog), Arc::clone(&self.policy));
        self.processor = Processor::new(self.db.clone(), catalog, policy, options, Some(stripe));
        self
    }

    /// Another pool on the same database, whose callers wait for a connection however busy the machine is.
    pub(crate) async fn patient_db(&self) -> Db {
        let options = DbOptions { acquire_timeout: Duration::from_mins(2), ..DbOptions::default() };
        Db::connect(self.test_db.url(), &options).await.expect("the test's database answers")
    }

    pub(crate) fn kind(&self) -> Kind {
        self.test_db.kind()
    }

    /// Signs an event as Stripe would, verifies it and hands it to the inbox.
    pub(crate) async fn deliver(&self, event: &Value) -> Receipt {
        self.try_deliver(event).await.expect("the inbox takes it")
    }

    pub(crate) async fn try_deliver(&self, event: &Value) -> Result<Receipt, ReceiveError> {
        let event = verified(event.to_string().as_bytes());
        let arrival = route(&event, &self.rules);
        self.inbox.receive(event, arrival).await
    }

    /// Applies everything that is due.
    pub(crate) async fn work(&self) -> Pass {
        self.processor.run_once(&CancellationToken::new()).await.expect("the database answers")
    }

    /// Delivers and applies, one after the other.
    pub(crate) async fn apply(&self, events: &[Value]) {
        for event in events {
            self.deliver(event).await;
        }
        self.work().await;
    }

    pub(crate) async fn put(&self, id: UserId, email: &str) -> UserView {
        let told = UserTold { id, email: email.to_owned(), full_name: None };
        users::put(&self.db, &self.catalog, &self.policy, told).await.expect("the user can be stored").0
    }

    pub(crate) async fn user(&self, id: UserId) -> UserView {
        self.user_at(id, Time::from_timestamp(NOW, 0).expect("a moment")).await
    }

    /// Counts usage as if it were this moment.
    pub(crate) fn meter(&self, now: Time) -> Meter<'_> {
        Meter::new(&self.db, &self.catalog, &self.policy).at(now)
    }

    /// The user as this moment shows them.
    pub(crate) async fn user_at(&self, id: UserId, now: Time) -> UserView {
        let view = users::get(&self.db, &self.catalog, &self.policy, id, now).await.expect("the database answers");
        // Whether reading had to roll the user says nothing of the user.
        UserView { rolled: Rolled::default(), ..view.expect("the user is there") }
    }

    /// Every window of the user, by source and start.
    pub(crate) async fn ledger(&self, id: UserId) -> Vec<usage_periods::Model> {
        usage_periods::Entity::find()
            .filter(usage_periods::Column::UserId.eq(id))
            .order_by_asc(usage_periods::Column::Source)
            .order_by_asc(usage_periods::Column::PeriodStart)
            .all(self.db.reader())
            .await
            .expect("the database answers")
    }

    /// Tier, status and access in one line.
    pub(crate) async fn standing(&self, id: UserId) -> String {
        let entitlement = self.user(id).await.projection.entitlement;
        let access = if entitlement.access { "access" } else { "no access" };
        format!("{} {} {access}", entitlement.tier, entitlement.status)
    }

    pub(crate) async fn event(&self, id: &str) -> stripe_webhooks::Model {
        let id = EventId::parse(id).expect("an id");
        records::row(&self.db, &id).await.expect("the database answers").expect("the event is in the inbox")
    }

    pub(crate) async fn count(&self, status: ProcessingStatus) -> u64 {
        stripe_webhooks::Entity::find()
            .filter(stripe_webhooks::Column::ProcessingStatus.eq(status))
            .count(self.db.reader())
            .await
            .expect("the database answers")
    }

    pub(crate) async fn timeline(&self, id: UserId) -> Vec<users::TimelineEntry> {
        let mut entries = users::timeline(&self.db, id, 1000, None).await.expect("the database answers");
        entries.reverse();
        entries
    }

    pub(crate) async fn sql(&self, sql: &str) {
        let tx = self.db.write().await.expect("the database answers");
        tx.execute_unprepared(sql).await.expect("the statement is right");
        tx.commit().await.expect("the database answers");
    }

    /// Makes everything that waits for a later moment due now: time passes.
    pub(crate) async fn wait_out(&self) {
        let past = if self.kind() == Kind::Postgres {
            "now() - interval '1 second'"
        } else {
            "'2000-01-01T00:00:00.000+00:00'"
        };
        self.sql(&format!("UPDATE stripe_webhooks SET next_attempt_at = {past} WHERE processing_status = 'pending'"))
            .await;
    }

    /// Ends the test: nothing may be pending or failed that was not meant to be.
    pub(crate) async fn close(self) {
        self.close_with(0, 0).await;
    }

    pub(crate) async fn close_with(self, pending: u64, failed: u64) {
        self.closed.store(true, Ordering::Relaxed);
        assert_eq!(self.count(ProcessingStatus::Pending).await, pending, "pending events left behind");
        assert_eq!(self.count(ProcessingStatus::Failed).await, failed, "failed events left behind");
        assert_eq!(self.count(ProcessingStatus::Processing).await, 0, "claims left behind");
        self.db.clone().close().await.expect("an idle pool closes");
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        assert!(
            self.closed.load(Ordering::Relaxed) || std::thread::panicking(),
            "a test must close its desk, so that no event is left behind unseen"
        );
    }
}

pub(crate) fn verified(body: &[u8]) -> VerifiedEvent {
    let secret = WebhookSecret::parse("whsec_test").expect("a secret");
    let header = sign(&secret, NOW, body);
    let now = Time::from_timestamp(NOW, 0).expect("a moment");
    verify(body, Some(header.as_bytes()), &[secret], now, Tolerance::default()).expect("a signed event")
}

pub(crate) fn outcomes(pass: &Pass, outcome: Outcome) -> usize {
    pass.outcomes.get(&outcome).copied().unwrap_or(0)
}

pub(crate) fn user_id(number: u128) -> UserId {
    UserId(uuid::Uuid::from_u128(number))
}
