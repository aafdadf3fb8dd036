//! The functions through which a host works with the inbox in SQL (PostgreSQL).

use std::collections::BTreeSet;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use testkit::TestDb;

use crate::{on_postgres, run, text, texts};

async fn migrated(database: &TestDb) -> DatabaseConnection {
    let db = database.connect().await;
    migration::up(&db, None).await.expect("up");
    db
}

/// An event that our own server received.
async fn receive(db: &DatabaseConnection, id: &str, status: &str) {
    run(
        db,
        &format!(
            "INSERT INTO stripe_webhooks (event_id, event_type, payload, processing_status, processed, signature_verified)
                VALUES ('{id}', 'invoice.paid', '{{}}', '{status}', '{status}' = 'completed', true)"
        ),
    )
    .await;
}

#[test]
fn a_hundred_who_put_one_event_at_once_make_one_row_and_agree_on_it() {
    on_postgres(|database| async move {
        let db = migrated(&database).await;
        let mut options = ConnectOptions::new(database.url());
        options.max_connections(40).sqlx_logging(false);
        let pool = Database::connect(options).await.expect("a pool");
        let calls = (0..100).map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                text(&pool, "SELECT webhook_id || ' ' || already_processed FROM get_or_create_webhook('evt_1', 'invoice.paid', '{}')").await
            })
        });
        let answers: BTreeSet<String> =
            futures::future::try_join_all(calls).await.expect("no call fails").into_iter().collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let row = text(&db, "SELECT string_agg(id || ' ' || processed, '') FROM stripe_webhooks").await;
        assert_eq!(answers, BTreeSet::from([row]));
        pool.close().await.expect("closes");
    });
}

#[test]
fn a_host_puts_an_event_fails_tries_again_and_is_done() {
    on_postgres(|database| async move {
        let db = migrated(&database).await;
        let put = "SELECT already_processed::text FROM get_or_create_webhook('evt_1', 'invoice.paid',
            '{\"livemode\": true, \"account\": \"acct_1\"}', 'cus_1', '2025-03-31', '2026-01-01T00:00:00Z')";
        let pending = "SELECT event_id || ' ' || processing_attempts FROM get_pending_webhooks()";
        assert_eq!(text(&db, put).await, "false");
        let row = "SELECT concat_ws(' ', stripe_customer_id, api_version, extract(epoch FROM stripe_created_at)::bigint, livemode, account,
            signature_verified, processing_status, payload_bytes > 0) FROM stripe_webhooks";
        assert_eq!(text(&db, row).await, "cus_1 2025-03-31 1767225600 t acct_1 f pending t");
        assert_eq!(texts(&db, pending).await, [Some("evt_1 0".to_owned())]);
        for attempt in 1..5 {
            run(&db, "SELECT mark_webhook_processed('evt_1', NULL, false, 'no such plan')").await;
            assert_eq!(texts(&db, pending).await, [Some(format!("evt_1 {attempt}"))]);
        }
        run(&db, "SELECT mark_webhook_processed('evt_1', p_success => false)").await;
        assert_eq!(texts(&db, pending).await, [], "five attempts are all there are");
        assert_eq!(texts(&db, "SELECT event_id FROM get_pending_webhooks(6)").await.len(), 1);
        assert_eq!(text(&db, put).await, "false");

        run(&db, "INSERT INTO users (id, email) VALUES ('00000000-0000-4000-8000-000000000001', 'user@example.com')")
            .await;
        run(&db, "SELECT mark_webhook_processed('evt_1', '00000000-0000-4000-8000-000000000001')").await;
        assert_eq!(text(&db, put).await, "true");
        let row =
            "SELECT concat_ws(' ', processing_status, processing_attempts, processing_error, right(user_id::text, 1),
            processed_at IS NOT NULL) FROM stripe_webhooks";
        assert_eq!(text(&db, row).await, "completed 6 1 t");
        run(&db, "SELECT mark_webhook_processed('evt_1', p_success => false)").await;
        assert_eq!(text(&db, put).await, "true", "what is done stays done");
        let unknown = db.execute_unprepared("SELECT mark_webhook_processed('evt_2')").await;
        assert!(unknown.expect_err("it is told").to_string().contains("there is no webhook evt_2"));
    });
}

#[test]
fn what_our_server_received_is_never_marked_by_sql() {
    on_postgres(|database| async move {
        let db = migrated(&database).await;
        receive(&db, "evt_1", "pending").await;
        receive(&db, "evt_2", "completed").await;
        let rows = "SELECT string_agg(w::text, ' ' ORDER BY event_id) FROM stripe_webhooks AS w";
        let before = text(&db, rows).await;
        for event in ["evt_1", "evt_2"] {
            run(&db, &format!("SELECT mark_webhook_processed('{event}')")).await;
            run(&db, &format!("SELECT mark_webhook_processed('{event}', p_success => false)")).await;
        }
        assert_eq!(text(&db, rows).await, before);
        let put = |event| format!("SELECT already_processed::text FROM get_or_create_webhook('{event}', 'x', '{{}}')");
        assert_eq!(text(&db, &put("evt_1")).await, "false");
        assert_eq!(text(&db, &put("evt_2")).await, "true");
        assert_eq!(text(&db, rows).await, before);
    });
}

#[test]
fn what_waits_is_read_by_partial_indexes_whatever_the_size_of_the_table() {
    on_postgres(|database| async move {
        let db = migrated(&database).await;
        run(
            &db,
            "INSERT INTO stripe_webhooks (event_id, event_type, payload, processing_status, processed, processing_attempts, signature_verified)
             SELECT 'evt_' || i, 'invoice.paid', '{}', CASE WHEN i % 2000 = 0 THEN 'failed' WHEN i % 2000 = 1 THEN 'pending' ELSE 'completed' END,
                i % 2000 > 1, i % 7, i % 3 > 0 FROM generate_series(1, 30000) AS i",
        )
        .await;
        run(&db, "VACUUM ANALYZE stripe_webhooks").await;
        let listed = texts(&db, "SELECT event_id FROM get_pending_webhooks(5, 1000)").await;
        let expected = "SELECT event_id FROM stripe_webhooks WHERE processing_status IN ('failed', 'pending') AND processing_attempts < 5
            ORDER BY next_attempt_at, id";
        assert_eq!(listed, texts(&db, expected).await);
        assert!(listed.len() > 15, "{listed:?}");

        // The function's own text, explained with its arguments put in.
        let body = text(&db, "SELECT prosrc FROM pg_proc WHERE proname = 'get_pending_webhooks'").await;
        let body = body.replace("p_max_attempts", "5").replace("p_limit", "100");
        let plan: Vec<String> = texts(&db, &format!("EXPLAIN {body}")).await.into_iter().flatten().collect();
        let plan = plan.join("\n");
        for index in ["idx_stripe_webhooks_failed", "stripe_webhooks_due", "stripe_webhooks_suspect"] {
            assert!(plan.contains(index), "{index} is not used:\n{plan}");
        }
        assert!(!plan.contains("Seq Scan"), "{plan}");
    });
}

#[test]
fn the_figures_are_right_on_an_empty_table_and_on_a_full_one() {
    on_postgres(|database| async move {
        let db = migrated(&database).await;
        let figures = "SELECT concat_ws('|', event_type, total_count, completed_count, failed_count, pending_count,
            coalesce(avg_processing_time::text, '-'), coalesce(success_rate::text, '-')) FROM get_webhook_stats()";
        assert_eq!(texts(&db, figures).await, []);
        run(
            &db,
            "INSERT INTO stripe_webhooks (event_id, event_type, payload, processing_status, created_at, processed_at)
             SELECT format('evt_%s', row_number() OVER ()), kind, '{}', status, now() - age::interval, now() - age::interval + took::interval
             FROM (VALUES ('a', 'completed', '1 hour', '1 second'), ('a', 'completed', '2 hours', '2 seconds'),
                ('a', 'failed', '2 hours', '9 seconds'), ('a', 'processing', '2 hours', NULL), ('a', 'skipped', '1 hour', '0'),
                ('b', 'pending', '23 hours', NULL), ('c', 'completed', '25 hours', '1 second')) AS t (kind, status, age, took)",
        )
        .await;
        let told: Vec<String> = texts(&db, figures).await.into_iter().flatten().collect();
        assert_eq!(told, ["a|5|2|1|1|1.500|66.67", "b|1|0|0|1|-|-"]);
        assert_eq!(texts(&db, "SELECT event_type FROM get_webhook_stats(26)").await.len(), 3);
    });
}

#[test]
fn a_table_of_the_same_name_in_another_schema_is_not_taken_for_ours() {
    on_postgres(|database| async move {
        let db = migrated(&database).await;
        let tx = sea_orm::TransactionTrait::begin_with_options(&db, sea_orm::TransactionOptions::default())
            .await
            .expect("begins");
        run(&tx, "CREATE TEMP TABLE stripe_webhooks (LIKE public.stripe_webhooks INCLUDING ALL)").await;
        run(&tx, "SELECT get_or_create_webhook('evt_1', 'invoice.paid', '{}')").await;
        let ours =
            Statement::from_string(tx.get_database_backend(), "SELECT count(*) AS n FROM public.stripe_webhooks");
        let ours = tx.query_one_raw(ours).await.expect("an answer").expect("a row");
        assert_eq!(ours.try_get::<i64>("", "n").expect("a number"), 1);
        tx.rollback().await.expect("rolls back");
    });
}

#[test]
fn only_the_owner_may_call_them_unless_somebody_is_let_in() {
    on_postgres(|database| async move {
        let db = migrated(&database).await;
        let open = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            AND proname IN ('get_or_create_webhook', 'mark_webhook_processed', 'get_pending_webhooks', 'get_webhook_stats')
            AND (proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) AS a WHERE a.grantee = 0))";
        assert_eq!(texts(&db, open).await, []);
    });
}
