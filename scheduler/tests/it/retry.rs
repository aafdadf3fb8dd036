//! The job that applies what is due and was not applied.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use billing::{
    db::Db,
    event::verify,
    inbox::{Inbox, InboxOptions, IntakeRules, route},
    progress::Progress,
    samples::{ApiVersion, Metadata, SubscriptionSample, event},
    signature::{Tolerance, WebhookSecret, sign},
};
use entity::{
    enums::{ProcessingStatus, RunOutcome},
    stripe_webhooks, users,
};
use scheduler::{EngineOptions, JobRun, JobSettings, Registry, Tools, jobs, run_here};
use sea_orm::{ActiveValue::Set, EntityTrait};
use serde_json::{Value, json};
use testkit::on_each;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::workshop::{Workshop, tools};

const NOW: i64 = 1_790_000_000;

fn user(number: u128) -> entity::ids::UserId {
    entity::ids::UserId(uuid::Uuid::from_u128(number))
}

/// A subscription of this user begins.
async fn deliver(db: &Db, name: &str, of: entity::ids::UserId) {
    let mut sample = SubscriptionSample::new(format!("sub_{name}"), format!("cus_{name}"), "active", NOW - 1000);
    sample.items[0].lookup_key = Some("pro".to_owned());
    sample.metadata = Metadata::from([("user_id".to_owned(), of.to_string())]);
    let object = sample.render(ApiVersion::LATEST);
    let event =
        event(&format!("evt_{name}"), "customer.subscription.created", NOW - 500, ApiVersion::LATEST, object, None);
    let body = event.to_string();
    let secret = WebhookSecret::parse("whsec_test").expect("a secret");
    let signature = sign(&secret, NOW, body.as_bytes());
    let now = entity::Time::from_timestamp(NOW, 0).expect("a moment");
    let verified = verify(body.as_bytes(), Some(signature.as_bytes()), &[secret], now, Tolerance::default());
    let verified = verified.expect("a signed event");
    let (inbox, _) = Inbox::start(db, InboxOptions::default(), &Arc::new(Notify::new()));
    let arrival = route(&verified, &IntakeRules::default());
    inbox.receive(verified, arrival).await.expect("the inbox takes it");
}

async fn run_retry(db: &Db, tools: Tools) -> JobRun {
    let registry = Registry::new(jobs::all(), JobSettings::of);
    let planned = registry.find("retry_pending_webhooks").expect("it is there");
    let (stop, options) = (CancellationToken::new(), EngineOptions::default());
    run_here(db, planned, tools, &options, &stop, Progress::default()).await.expect("it is idle")
}

fn report(run: &JobRun, key: &str) -> Value {
    assert_eq!(run.outcome, Some(RunOutcome::Succeeded), "{run:?}");
    run.report.as_ref().expect("a report")[key].clone()
}

async fn status(db: &Db, event: &str) -> ProcessingStatus {
    let rows = stripe_webhooks::Entity::find().all(db.reader()).await.expect("the database answers");
    rows.into_iter().find(|row| row.event_id.as_str() == event).expect("the event is there").processing_status
}

#[test]
fn a_user_whom_the_host_inserts_has_what_waited_for_them_at_the_next_run() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let db = &workshop.db;
        deliver(db, "1", user(1)).await;
        deliver(db, "2", user(2)).await;
        let first = run_retry(db, tools(db)).await;
        assert_eq!((report(&first, "parked"), report(&first, "recovered")), (json!(2), json!(0)));

        let row = users::ActiveModel { id: Set(user(1)), email: Set("a@example.com".to_owned()), ..Default::default() };
        users::Entity::insert(row).exec_without_returning(db.reader()).await.expect("the host may");
        let second = run_retry(db, tools(db)).await;
        assert_eq!((report(&second, "released"), report(&second, "recovered")), (json!(1), json!(1)));
        assert_eq!(report(&second, "parked"), json!(0), "the other is not stirred");
        let row = users::Entity::find_by_id(user(1)).one(db.reader()).await.expect("the database answers");
        assert_eq!(row.expect("the host's user").subscription_tier, "pro");
        assert_eq!(status(db, "evt_1").await, ProcessingStatus::Completed);
        assert_eq!(status(db, "evt_2").await, ProcessingStatus::Pending);
    });
}

#[test]
fn what_a_dead_processor_had_claimed_is_applied_and_told() {
    on_each(|database| async {
        let workshop = Workshop::new(database).await;
        let db = &workshop.db;
        let row = users::ActiveModel { id: Set(user(1)), email: Set("a@example.com".to_owned()), ..Default::default() };
        users::Entity::insert(row).exec_without_returning(db.reader()).await.expect("the host may");
        deliver(db, "1", user(1)).await;
        let past = workshop.moment(-5);
        workshop
            .sql(&format!("UPDATE stripe_webhooks SET processing_status = 'processing', claimed_by = 'dead', claimed_until = {past}"))
            .await;
        let passes = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&passes);
        let tools = Tools {
            passes: Arc::new(move |pass| {
                told.fetch_add(pass.events(), Ordering::SeqCst);
            }),
            ..tools(db)
        };
        let run = run_retry(db, tools).await;
        assert_eq!((report(&run, "rescued"), report(&run, "recovered")), (json!(1), json!(1)));
        assert_eq!(passes.load(Ordering::SeqCst), 1, "metrics know of it");
        let again = run_retry(db, crate::workshop::tools(db)).await;
        let nothing = json!({
            "released": 0, "rescued": 0, "recovered": 0, "parked": 0, "retried": 0, "failed": 0, "skipped": 0,
            "refetched": null,
        });
        assert_eq!(again.report, Some(nothing));
    });
}
