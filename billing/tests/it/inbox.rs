//! What the inbox promises: stored once, neighbours unharmed, bounded, and never a promise it does not keep.

use std::{sync::Arc, time::Duration};

use billing::{
    inbox::{
        Arrival, Inbox, InboxOptions, IntakeRules, Receipt, ReceiveError,
        records::{self, Filter},
    },
    samples::ApiVersion,
};
use entity::enums::ProcessingStatus;
use serde_json::{Value, json};
use testkit::{Kind, on_each};
use tokio::sync::Notify;

use crate::{
    desk::{Desk, user_id, verified},
    semantics::{subscription, told},
};

fn update(id: &str) -> Value {
    told(id, "customer.subscription.updated", 100, subscription(user_id(1), "pro", "active").render(ApiVersion::LATEST))
}

#[test]
fn one_event_a_hundred_times_at_once_is_one_row_applied_once() {
    on_each(|test_db| async {
        let desk = Arc::new(Desk::new(test_db).await);
        desk.put(user_id(1), "a@example.com").await;
        let event = update("evt_1");
        let deliveries = (0..100).map(|_| {
            let (desk, event) = (Arc::clone(&desk), event.clone());
            tokio::spawn(async move { desk.deliver(&event).await })
        });
        let mut recorded = 0;
        for delivery in deliveries.collect::<Vec<_>>() {
            recorded += usize::from(delivery.await.expect("no panic") == Receipt::Recorded);
        }
        assert_eq!(recorded, 1);
        assert_eq!(desk.work().await.events(), 1);
        assert_eq!(desk.timeline(user_id(1)).await.len(), 1);
        Arc::into_inner(desk).expect("all deliveries are done").close().await;
    });
}

#[test]
fn what_is_not_ours_is_stored_and_skipped_with_the_reason_and_can_be_applied_once_it_is_ours() {
    on_each(|test_db| async {
        let mut desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        desk.rules = IntakeRules { livemode: Some(true), account: None };
        assert_eq!(desk.deliver(&update("evt_1")).await, Receipt::Skipped);
        let mut connect = update("evt_2");
        connect["livemode"] = json!(true);
        connect["account"] = json!("acct_1");
        assert_eq!(desk.deliver(&connect).await, Receipt::Skipped);
        let mut unknown = told("evt_3", "invoice.created", 100, json!({"id": "in_1"}));
        unknown["livemode"] = json!(true);
        assert_eq!(desk.deliver(&unknown).await, Receipt::Skipped);
        assert_eq!(desk.work().await.events(), 0);
        let reason = async |id: &str| desk.event(id).await.processing_error.expect("a reason");
        assert!(reason("evt_1").await.contains("test mode"), "{}", reason("evt_1").await);
        assert!(reason("evt_2").await.contains("Connect account"));
        assert!(reason("evt_3").await.contains("event type"));

        let skipped = Filter { status: Some(ProcessingStatus::Skipped), ..Default::default() };
        assert_eq!(records::retry_all(&desk.db, &skipped, &desk.rules).await.expect("an answer").retried, 0);
        let mended = IntakeRules { livemode: Some(false), account: None };
        assert_eq!(records::retry_all(&desk.db, &skipped, &mended).await.expect("an answer").retried, 1);
        desk.work().await;
        assert_eq!(desk.standing(user_id(1)).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn an_event_that_sql_put_there_first_is_applied_once_it_is_delivered_and_verified() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        let forged = "INSERT INTO stripe_webhooks (event_id, event_type, payload, processing_status, processed, processing_error, processed_at)
            VALUES ('evt_1', 'customer.subscription.deleted', '{}', 'completed', true, 'x', CURRENT_TIMESTAMP)";
        desk.sql(forged).await;
        desk.sql(&forged.replace("evt_1", "evt_2")).await;
        assert_eq!(desk.work().await.events(), 0);
        assert_eq!(desk.deliver(&update("evt_1")).await, Receipt::Recorded);
        assert_eq!(desk.deliver(&update("evt_1")).await, Receipt::Duplicate);
        assert_eq!(desk.work().await.events(), 1, "and what nobody delivered is left alone");
        assert_eq!(desk.standing(user_id(1)).await, "pro active access");
        let row = desk.event("evt_1").await;
        assert_eq!((row.event_type.as_str(), row.processing_attempts), ("customer.subscription.updated", 1));
        assert!(row.signature_verified && row.processed && row.payload_bytes > 100, "{row:?}");
        assert_eq!(row.processing_error, None);
        assert!(!desk.event("evt_2").await.signature_verified);
        desk.close().await;
    });
}

#[test]
fn an_event_the_database_cannot_hold_is_refused_and_takes_no_neighbour_along() {
    on_each(|test_db| async {
        let desk = Arc::new(Desk::new(test_db).await);
        match desk.kind() {
            Kind::Postgres => desk.sql("ALTER TABLE stripe_webhooks ADD CHECK (event_id <> 'evt_13')").await,
            Kind::Sqlite => {
                desk.sql(
                    "CREATE TRIGGER refuse BEFORE INSERT ON stripe_webhooks WHEN NEW.event_id = 'evt_13'
                    BEGIN SELECT RAISE(ABORT, 'refused'); END",
                )
                .await;
            }
        }
        let deliveries = (0..30).map(|n| {
            let desk = Arc::clone(&desk);
            tokio::spawn(async move { (n, desk.try_deliver(&update(&format!("evt_{n}"))).await) })
        });
        for delivery in deliveries.collect::<Vec<_>>() {
            let (n, receipt) = delivery.await.expect("no panic");
            if n == 13 {
                assert!(matches!(receipt, Err(ReceiveError::Refused(_))), "{receipt:?}");
            } else {
                assert_eq!(receipt, Ok(Receipt::Recorded), "evt_{n}");
            }
        }
        desk.put(user_id(1), "a@example.com").await;
        assert_eq!(desk.work().await.events(), 29);
        Arc::into_inner(desk).expect("all deliveries are done").close().await;
    });
}

#[test]
fn while_the_database_is_away_deliveries_are_refused_in_time_and_the_queue_stays_bounded() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        // Whatever takes the table away takes it away from the writers as well.
        desk.sql("ALTER TABLE stripe_webhooks RENAME TO away").await;
        let blocked = if desk.kind() == Kind::Sqlite { Some(desk.db.write().await.expect("an answer")) } else { None };
        let options = InboxOptions {
            deadline: Duration::from_millis(300),
            queue_events: 4,
            queue_bytes: 64 << 10,
            writers: 1,
            ..InboxOptions::default()
        };
        let (inbox, _writers) = Inbox::start(&desk.db, options, &Arc::new(Notify::new()));
        let receive = |n: usize| {
            let inbox = inbox.clone();
            let event = verified(update(&format!("evt_{n}")).to_string().as_bytes());
            tokio::spawn(async move { inbox.receive(event, Arrival::Apply).await })
        };
        let mut full = 0;
        for delivery in (0..40).map(receive).collect::<Vec<_>>() {
            let answer =
                tokio::time::timeout(Duration::from_secs(20), delivery).await.expect("in time").expect("no panic");
            let error = answer.expect_err("nothing can be stored");
            assert!(matches!(error, ReceiveError::QueueFull | ReceiveError::Unavailable), "{error:?}");
            full += usize::from(error == ReceiveError::QueueFull);
        }
        assert!(full > 0, "what does not fit in the queue is refused at once");
        drop(blocked);
        desk.sql("ALTER TABLE away RENAME TO stripe_webhooks").await;
        let event = verified(update("evt_100").to_string().as_bytes());
        assert_eq!(inbox.receive(event, Arrival::Apply).await, Ok(Receipt::Recorded), "back without a restart");
        desk.put(user_id(1), "a@example.com").await;
        desk.work().await;
        desk.close().await;
    });
}

#[test]
fn text_that_databases_cannot_hold_is_replaced_and_the_event_applied() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let odd = [r#""a\u0000b""#, r#""\ud800 alone""#, "1e400000", "123456789012345678901234567890e-5000", &deep];
        for (n, value) in odd.iter().enumerate() {
            let text = update(&format!("evt_{n}")).to_string();
            let text = text.replacen("\"data\":{", &format!("\"extra\":{value},\"data\":{{"), 1);
            assert!(text.contains("\"extra\""));
            let receipt = desk.inbox.receive(verified(text.as_bytes()), Arrival::Apply).await;
            assert_eq!(receipt, Ok(Receipt::Recorded), "{value:.30}");
        }
        assert_eq!(desk.work().await.events(), odd.len());
        assert_eq!(desk.standing(user_id(1)).await, "pro active access");
        let id = "evt_4".parse().expect("an id");
        let detail = records::show(&desk.db, &id).await.expect("an answer").expect("the event");
        assert!(detail.payload.contains(&"[".repeat(200)) || detail.payload.contains("[ ["), "as it was");
        desk.close().await;
    });
}

#[test]
fn lists_are_newest_first_filtered_and_paged_without_gap_or_repetition() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        for n in 0..25 {
            let event_type = if n % 2 == 0 { "customer.subscription.updated" } else { "invoice.created" };
            let object = subscription(user_id(1), "pro", "active").render(ApiVersion::LATEST);
            desk.deliver(&told(&format!("evt_{n:02}"), event_type, 100, object)).await;
        }
        desk.work().await;
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let (page, next) = records::list(&desk.db, &Filter::default(), 7, cursor).await.expect("an answer");
            assert!(page.len() <= 7);
            seen.extend(page.into_iter().map(|record| record.event_id.to_string()));
            let Some(next) = next else { break };
            cursor = Some(next.to_string().parse().expect("a cursor reads back"));
        }
        let expected: Vec<String> = (0..25).rev().map(|n| format!("evt_{n:02}")).collect();
        assert_eq!(seen, expected);

        let count =
            async |filter: Filter| records::list(&desk.db, &filter, 100, None).await.expect("an answer").0.len();
        assert_eq!(count(Filter { status: Some(ProcessingStatus::Skipped), ..Filter::default() }).await, 12);
        assert_eq!(count(Filter { event_type: Some("invoice.created".into()), ..Filter::default() }).await, 12);
        assert_eq!(count(Filter { user_id: Some(user_id(1)), ..Filter::default() }).await, 13);
        assert_eq!(count(Filter { customer: Some("cus_1".into()), ..Filter::default() }).await, 25);
        let now = chrono::Utc::now();
        let hour = chrono::TimeDelta::hours(1);
        assert_eq!(count(Filter { since: Some(now - hour), until: Some(now + hour), ..Filter::default() }).await, 25);
        assert_eq!(count(Filter { since: Some(now + hour), ..Filter::default() }).await, 0);

        let stats = records::stats(&desk.db, 24, now).await.expect("an answer");
        assert_eq!((stats.by_status["completed"], stats.by_status["skipped"], stats.by_status["failed"]), (13, 12, 0));
        assert_eq!(stats.by_type[0].event_type, "customer.subscription.updated");
        assert_eq!((stats.by_type[0].total, stats.by_type[0].completed), (13, 13));
        assert!(stats.by_type[0].avg_processing_seconds.expect("some took time") >= 0.0);
        desk.close().await;
    });
}

#[test]
fn figures_of_an_empty_inbox_are_zero() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let stats = records::stats(&desk.db, 24, chrono::Utc::now()).await.expect("an answer");
        assert!(stats.by_type.is_empty() && stats.by_status.values().all(|count| *count == 0));
        assert_eq!(stats.by_status.len(), 5);
        assert_eq!(records::depth(&desk.db).await.expect("an answer"), records::Depth::default());
        desk.close().await;
    });
}
