//! What the host had before us stays the host's.

use testkit::Kind;

use crate::{down_to_before, on_each_empty, on_postgres, run, schema::schema, text, texts, up_before};

#[test]
fn a_table_that_the_host_had_before_is_neither_changed_nor_dropped() {
    on_each_empty(|database| async move {
        let db = database.connect().await;
        up_before(&db, "production_schema").await;
        run(&db, "CREATE TABLE support_chats (id integer PRIMARY KEY, note text)").await;
        let before = schema(database.kind(), &db).await;
        if database.kind() == Kind::Sqlite {
            // The host of a SQLite database is this program: there the table must be as the indexes need it.
            run(&db, "DROP TABLE support_chats").await;
            run(&db, "CREATE TABLE support_chats (id, user_id, conversation_id, role, created_at)").await;
            migration::up(&db, None).await.expect("up");
            down_to_before(&db, "production_schema").await;
            assert_eq!(text(&db, "SELECT name FROM sqlite_master WHERE name = 'support_chats'").await, "support_chats");
            return;
        }
        migration::up(&db, None).await.expect("up, and the indexes for which columns are missing are left out");
        let indexes =
            "SELECT count(*)::text FROM pg_indexes WHERE tablename = 'support_chats' AND indexname LIKE 'idx%'";
        assert_eq!(text(&db, indexes).await, "0");
        let secured = "SELECT relrowsecurity::text FROM pg_class WHERE oid = 'support_chats'::regclass";
        assert_eq!(text(&db, secured).await, "false", "the host's table has the host's policies");
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(verdict.as_expected, "{:?}", verdict.findings);
        assert!(
            verdict.findings.iter().any(|f| f.note && f.name == "idx_support_chats_role"),
            "{:?}",
            verdict.findings
        );
        down_to_before(&db, "production_schema").await;
        assert_eq!(schema(database.kind(), &db).await, before);
    });
}

#[test]
fn a_table_that_we_made_goes_with_us_only_while_it_is_empty() {
    on_each_empty(|database| async move {
        let db = database.connect().await;
        migration::up(&db, None).await.expect("up");
        run(&db, "INSERT INTO onboarding_status (user_email) VALUES ('user@example.com')").await;
        down_to_before(&db, "production_schema").await;
        assert_eq!(text(&db, "SELECT user_email FROM onboarding_status").await, "user@example.com");
        let gone = match database.kind() {
            Kind::Sqlite => "SELECT name FROM sqlite_master WHERE name IN ('property_analyses', 'support_chats')",
            Kind::Postgres => {
                "SELECT relname::text FROM pg_class WHERE relname IN ('property_analyses', 'support_chats')"
            }
        };
        assert_eq!(texts(&db, gone).await, []);
        // And it is the host's from now on.
        migration::up(&db, None).await.expect("up again");
        migration::down(&db, None).await.expect("down");
        assert_eq!(text(&db, "SELECT user_email FROM onboarding_status").await, "user@example.com");
    });
}

#[test]
fn functions_and_indexes_that_the_host_had_under_our_names_come_back_when_ours_go() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        up_before(&db, "production_schema").await;
        run(
            &db,
            "CREATE FUNCTION get_webhook_stats(hours_back integer DEFAULT 1) RETURNS text LANGUAGE sql AS 'SELECT ''the host''::text'",
        )
        .await;
        run(
            &db,
            "CREATE FUNCTION mark_webhook_processed(p_event_id varchar) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        )
        .await;
        run(&db, "CREATE INDEX idx_users_last_login ON users (last_login DESC NULLS LAST)").await;
        let before = schema(Kind::Postgres, &db).await;
        migration::up(&db, None).await.expect("up");
        let overloads =
            "SELECT count(*)::text FROM pg_proc WHERE proname IN ('get_webhook_stats', 'mark_webhook_processed')";
        assert_eq!(text(&db, overloads).await, "2", "no call is ambiguous");
        assert_eq!(texts(&db, "SELECT event_type FROM get_webhook_stats()").await, []);
        down_to_before(&db, "production_schema").await;
        assert_eq!(schema(Kind::Postgres, &db).await, before);
        assert_eq!(text(&db, "SELECT get_webhook_stats()").await, "the host");
    });
}
