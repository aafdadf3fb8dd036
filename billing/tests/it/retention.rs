//! What is emptied and deleted, and what becomes of a replay then, on each database.

use async_trait::async_trait;
use billing::{
    inbox::{
        Receipt,
        records::{self, Filter, RetryError},
    },
    processor::Outcome,
    progress::Progress,
    retention::{self, Pruned, Retention},
    samples::ApiVersion,
    stripe::{Collection, Fetched, Lane, Page, Resource, Stripe, StripeError},
};
use entity::{Time, email_outbox, enums::ProcessingStatus, ids::EventId};
use sea_orm::{ConnectionTrait, EntityTrait, FromQueryResult, Statement};
use serde_json::{Value, json};
use testkit::{Kind, on_each};
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, NOW, outcomes, user_id},
    semantics::{subscription, told},
};

async fn prune(desk: &Desk) -> Pruned {
    let mut report = Pruned::default();
    let (stop, progress) = (CancellationToken::new(), Progress::default());
    retention::prune(&desk.db, &Retention::default(), &stop, &progress, &mut report).await.expect("it can be pruned");
    report
}

/// So many days ago, for SQL.
fn ago(desk: &Desk, days: u32) -> String {
    match desk.kind() {
        Kind::Postgres => format!("(now() - interval '{days} days')"),
        Kind::Sqlite => format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-{days} days')"),
    }
}

/// Makes events as old as this.
async fn age(desk: &Desk, days: u32, which: &str) {
    let ago = ago(desk, days);
    desk.sql(&format!(
        "UPDATE stripe_webhooks SET created_at = {ago},
            processed_at = CASE WHEN processed_at IS NULL THEN NULL ELSE {ago} END WHERE {which}"
    ))
    .await;
}

fn update(id: &str, tier: &str) -> Value {
    told(id, "customer.subscription.updated", 100, subscription(user_id(1), tier, "active").render(ApiVersion::LATEST))
}

/// One of each: applied, skipped, failed, parked and waiting.
async fn one_of_each(desk: &Desk) {
    desk.put(user_id(1), "a@example.com").await;
    let mut parked = subscription(user_id(9), "pro", "active");
    (parked.id, parked.customer) = ("sub_parked".to_owned(), "cus_parked".to_owned());
    desk.apply(&[
        update("evt_done", "pro"),
        json!({"id": "evt_skipped", "type": "payout.paid"}),
        told("evt_parked", "customer.subscription.updated", 50, parked.render(ApiVersion::LATEST)),
        update("evt_failed", "pro"),
    ])
    .await;
    desk.sql("UPDATE stripe_webhooks SET processing_status = 'failed' WHERE event_id = 'evt_failed'").await;
    desk.deliver(&update("evt_waiting", "pro")).await;
}

#[test]
fn payloads_of_what_is_done_are_emptied_rows_deleted_later_and_nothing_that_is_needed_goes() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        one_of_each(&desk).await;
        assert_eq!(prune(&desk).await, Pruned::default(), "nothing is old");
        age(&desk, 29, "true").await;
        assert_eq!(prune(&desk).await, Pruned::default(), "nothing is old enough");
        age(&desk, 31, "true").await;
        assert_eq!(prune(&desk).await, Pruned { payloads_emptied: 2, ..Pruned::default() });
        for (id, emptied) in [
            ("evt_done", true),
            ("evt_skipped", true),
            ("evt_failed", false),
            ("evt_parked", false),
            ("evt_waiting", false),
        ] {
            let row = desk.event(id).await;
            assert_eq!((row.payload_emptied_at.is_some(), row.payload == json!({})), (emptied, emptied), "{id}");
        }
        assert_eq!(prune(&desk).await, Pruned::default(), "once");
        // Stripe sends it once more: still a duplicate.
        assert_eq!(desk.deliver(&update("evt_done", "pro")).await, Receipt::Duplicate);
        age(&desk, 91, "true").await;
        assert_eq!(prune(&desk).await, Pruned { events_deleted: 2, ..Pruned::default() });
        let left = entity::stripe_webhooks::Entity::find().all(desk.db.reader()).await.expect("an answer");
        let mut left: Vec<_> = left.iter().map(|row| row.event_id.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["evt_failed", "evt_parked", "evt_waiting"]);
        // A year of neglect, all at once.
        desk.deliver(&update("evt_old", "pro")).await;
        desk.work().await;
        age(&desk, 400, "event_id = 'evt_old'").await;
        assert_eq!(prune(&desk).await, Pruned { payloads_emptied: 1, events_deleted: 1, ..Pruned::default() });
        desk.close_with(1, 1).await;
    });
}

#[test]
fn what_else_grows_old_is_deleted_too_but_for_the_last_whole_reconciliation_and_each_jobs_last_slot() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        for (days, name) in [(400, "old"), (100, "older"), (80, "new")] {
            let ago = ago(&desk, days);
            for sql in [
                format!(
                    "INSERT INTO email_outbox (user_id, kind, dedupe_key, data, status, created_at)
                        SELECT id, 'payment_failed', 'sent_{name}', '{{}}', 'sent', {ago} FROM users"
                ),
                format!(
                    "INSERT INTO email_outbox (user_id, kind, dedupe_key, data, status, created_at)
                        SELECT id, 'payment_failed', 'pending_{name}', '{{}}', 'pending', {ago} FROM users"
                ),
                format!(
                    "INSERT INTO job_runs (job, slot, token, started_at, finished_at, outcome)
                        VALUES ('a', {ago}, 1, {ago}, {ago}, 'succeeded')"
                ),
                // Runs seldom: its last slot is old, and must not be missed on that account.
                format!(
                    "INSERT INTO job_runs (job, slot, token, started_at, finished_at, outcome)
                        SELECT 'seldom', {ago}, 1, {ago}, {ago}, 'succeeded' WHERE {days} > 90"
                ),
                // Asked for by a person: no slot of the schedule.
                format!(
                    "INSERT INTO job_runs (job, slot, token, started_at, finished_at, outcome, trigger)
                        SELECT 'by_hand', {ago}, 1, {ago}, {ago}, 'succeeded', 'manual' WHERE {days} > 90"
                ),
                format!(
                    "INSERT INTO usage_records (user_id, idempotency_key, source, period_start, amount, created_at)
                        SELECT id, '{name}', 'free', {ago}, 1, {ago} FROM users"
                ),
                format!(
                    "INSERT INTO reconciliations (started_at, finished_at, mode, outcome, requested_by)
                        VALUES ({ago}, {ago}, 'apply', '{}', 'cli')",
                    if days == 80 { "failed" } else { "succeeded" }
                ),
            ] {
                desk.sql(&sql).await;
            }
        }
        desk.sql(
            "INSERT INTO reconciliation_drifts (reconciliation_id, kind) SELECT id, 'missing' FROM reconciliations",
        )
        .await;
        assert_eq!(
            prune(&desk).await,
            Pruned {
                emails_deleted: 2,
                job_runs_deleted: 5,
                usage_records_deleted: 2,
                drifts_deleted: 2,
                reconciliations_deleted: 1,
                ..Pruned::default()
            }
        );
        assert_eq!(email_outbox::Entity::find().all(desk.db.reader()).await.expect("an answer").len(), 4);
        desk.close().await;
    });
}

#[test]
fn many_are_pruned_in_bounded_transactions_and_told_to_stop_it_stops_between_them() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let series = match desk.kind() {
            Kind::Postgres => "generate_series(1, 2500)".to_owned(),
            Kind::Sqlite => {
                "(WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2500) SELECT n FROM n)"
                    .to_owned()
            }
        };
        let ago = ago(&desk, 40);
        desk.sql(&format!(
            "INSERT INTO stripe_webhooks (event_id, event_type, payload, processing_status, processed, processed_at, signature_verified)
                SELECT 'evt_' || n, 'payout.paid', '{{\"id\": 1}}', 'skipped', true, {ago}, true FROM {series} AS s (n)"
        ).replace("AS s (n)", if desk.kind() == Kind::Postgres { "AS s (n)" } else { "" }))
        .await;
        let (stop, mut report) = (CancellationToken::new(), Pruned::default());
        stop.cancel();
        let progress = Progress::default();
        retention::prune(&desk.db, &Retention::default(), &stop, &progress, &mut report).await.expect("an answer");
        assert_eq!(report, Pruned::default());
        assert_eq!(prune(&desk).await, Pruned { payloads_emptied: 2500, ..Pruned::default() });
        desk.close().await;
    });
}

/// A million rows are not needed to see it: the index holds only what can be pruned, in order of age.
#[test]
fn pruning_finds_what_is_old_by_an_index_however_many_rows_there_are() {
    #[derive(FromQueryResult)]
    struct Line {
        #[sea_orm(from_alias = "QUERY PLAN")]
        line: String,
    }
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        if desk.kind() == Kind::Postgres {
            desk.sql(
                "INSERT INTO stripe_webhooks (event_id, event_type, payload, processing_status, processed, processed_at, payload_emptied_at)
                    SELECT 'evt_' || n, 'payout.paid', '{}', 'completed', true, now() - n * interval '5 minutes',
                        CASE WHEN n > 8640 THEN now() END FROM generate_series(1, 20000) AS n",
            )
            .await;
            desk.sql("ANALYZE stripe_webhooks").await;
            for (statement, index) in
                retention::statements(desk.db.backend()).iter().zip(["stripe_webhooks_full", "stripe_webhooks_emptied"])
            {
                let sql = format!("EXPLAIN {}", statement.replace("$1", "2592000").replace("$2", "1000"));
                let lines =
                    Line::find_by_statement(Statement::from_string(desk.db.backend(), sql)).all(desk.db.reader()).await;
                let plan: Vec<_> = lines.expect("a plan").into_iter().map(|line| line.line).collect();
                assert!(plan.iter().any(|line| line.contains(&format!("Index Scan using {index}"))), "{plan:#?}");
                assert!(!plan.iter().any(|line| line.contains("Seq Scan")), "{plan:#?}");
            }
        }
        desk.close().await;
    });
}

/// Stripe, as far as one event goes.
#[derive(Debug)]
struct OneEvent(Result<String, StripeError>);

#[async_trait]
impl Stripe for OneEvent {
    async fn get(&self, resource: &Resource, lane: Lane) -> Result<Fetched, StripeError> {
        assert!(matches!(resource, Resource::Event(_)) && lane == Lane::Live, "{resource:?}");
        let object = self.0.clone()?;
        Ok(Fetched { object, at: Time::from_timestamp(NOW, 0).expect("a moment") })
    }

    async fn list(&self, _: &Collection, _: Option<&str>, _: Lane) -> Result<Page, StripeError> {
        Err(StripeError::Unavailable { reason: "this one keeps no lists".to_owned(), request: None })
    }
}

fn id(text: &str) -> EventId {
    EventId::parse(text).expect("an id")
}

/// An event that was applied, then lost its payload; meanwhile somebody spoilt what had followed from it.
async fn emptied(desk: &Desk) {
    desk.put(user_id(1), "a@example.com").await;
    desk.apply(&[update("evt_1", "pro")]).await;
    age(desk, 31, "true").await;
    assert_eq!(prune(desk).await.payloads_emptied, 1);
    desk.sql("DELETE FROM subscriptions").await;
}

// Known from dj-stripe#832 and adcp#6686: a replay does what it says, also for an event that is too old to be here in full.
#[test]
fn an_emptied_event_is_fetched_again_and_applied() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        emptied(&desk).await;
        let object = update("evt_1", "pro");
        let stripe = OneEvent(Ok(object.to_string()));
        records::retry(&desk.db, &id("evt_1"), &desk.rules, Some(&stripe)).await.expect("it can be tried again");
        let row = desk.event("evt_1").await;
        assert_eq!((row.processing_status, row.payload_emptied_at), (ProcessingStatus::Pending, None));
        assert_eq!(row.payload, object);
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
        assert_eq!(desk.standing(user_id(1)).await, "pro active access");
        // It is whole again, and pruned again when it is old again.
        records::retry(&desk.db, &id("evt_1"), &desk.rules, None).await.expect("it can be tried again");
        desk.work().await;
        assert_eq!(prune(&desk).await, Pruned::default());
        age(&desk, 31, "true").await;
        assert_eq!(prune(&desk).await.payloads_emptied, 1);
        desk.close().await;
    });
}

#[test]
fn an_emptied_event_that_cannot_be_fetched_stays_as_it_is_and_the_answer_says_what_to_do() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        emptied(&desk).await;
        let before = desk.event("evt_1").await;
        let refused = records::retry(&desk.db, &id("evt_1"), &desk.rules, None).await.expect_err("no API");
        assert!(matches!(refused, RetryError::Emptied { .. }));
        assert!(refused.to_string().contains("STRIPE_SECRET_KEY"), "{refused}");
        let missing = StripeError::Missing { kind: "event", id: "evt_1".to_owned(), request: None };
        let away = StripeError::Unavailable { reason: "away".to_owned(), request: None };
        for (answer, gone) in [
            (Err(missing), true),
            (Err(away), false),
            (Ok(update("evt_2", "pro").to_string()), false),
            (Ok("{\"id\": \"evt_1\", \"type\": \"invoice.paid\"}".to_owned()), false),
            (Ok("[]".to_owned()), false),
        ] {
            let stripe = OneEvent(answer);
            let refused =
                records::retry(&desk.db, &id("evt_1"), &desk.rules, Some(&stripe)).await.expect_err("no event");
            assert_eq!(matches!(refused, RetryError::Emptied { .. }), gone, "{refused}");
            assert_eq!(matches!(refused, RetryError::Stripe { .. }), !gone, "{refused}");
        }
        assert_eq!(desk.event("evt_1").await, before);
        desk.close().await;
    });
}

#[test]
fn a_bulk_retry_leaves_emptied_events_alone_and_says_how_many() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        emptied(&desk).await;
        desk.apply(&[update("evt_2", "pro")]).await;
        let completed = Filter { status: Some(ProcessingStatus::Completed), ..Filter::default() };
        let requeued = records::retry_all(&desk.db, &completed, &desk.rules).await.expect("an answer");
        assert_eq!((requeued.retried, requeued.emptied), (1, 1));
        assert_eq!(desk.event("evt_1").await.processing_status, ProcessingStatus::Completed);
        desk.work().await;
        desk.close().await;
    });
}

// Known from dj-stripe#832: a failed event is there, and a retry does something.
#[test]
fn failures_of_one_cause_are_retried_by_their_fingerprint_and_others_are_not() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        desk.apply(&[update("evt_1", "pro"), update("evt_2", "pro"), update("evt_3", "pro")]).await;
        desk.sql("UPDATE stripe_webhooks SET processing_status = 'failed', error_fingerprint = 'one' WHERE event_id <> 'evt_3'").await;
        desk.sql("UPDATE stripe_webhooks SET processing_status = 'failed', error_fingerprint = 'two' WHERE event_id = 'evt_3'").await;
        let one = Filter { fingerprint: Some("one".to_owned()), ..Filter::default() };
        assert_eq!(records::retry_all(&desk.db, &one, &desk.rules).await.expect("an answer").retried, 2);
        assert_eq!(desk.work().await.events(), 2);
        assert_eq!(desk.event("evt_3").await.processing_status, ProcessingStatus::Failed);
        desk.close_with(0, 1).await;
    });
}

#[test]
fn pruning_waits_for_nobody_and_leaves_what_somebody_holds() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        if desk.kind() == Kind::Postgres {
            emptied(&desk).await;
            desk.apply(&[update("evt_2", "pro"), update("evt_3", "pro")]).await;
            age(&desk, 31, "true").await;
            let holding = desk.db.write().await.expect("a transaction");
            holding
                .execute_unprepared("SELECT 1 FROM stripe_webhooks WHERE event_id = 'evt_2' FOR UPDATE")
                .await
                .expect("a lock");
            assert_eq!(prune(&desk).await.payloads_emptied, 1);
            holding.commit().await.expect("an end");
            assert_eq!(prune(&desk).await.payloads_emptied, 1);
        }
        desk.close().await;
    });
}
