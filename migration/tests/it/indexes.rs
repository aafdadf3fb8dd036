//! Indexes that are built while others write (PostgreSQL).

use std::time::Duration;

use sea_orm::{DatabaseConnection, TransactionOptions, TransactionTrait};
use testkit::TestDb;

use crate::{on_postgres, run, text, texts, up_before};

const LONG: Duration = Duration::from_mins(2);

const INVALID: &str = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid";

async fn put(db: &impl sea_orm::ConnectionTrait, id: &str) {
    run(
        db,
        &format!("INSERT INTO stripe_webhooks (event_id, event_type, payload) VALUES ('{id}', 'invoice.paid', '{{}}')"),
    )
    .await;
}

/// Waits until a build of an index waits for somebody's transaction.
async fn build_waits(db: &DatabaseConnection) -> String {
    loop {
        let waiting = "SELECT p.pid::text FROM pg_stat_progress_create_index AS p WHERE p.datname = current_database()
            AND p.phase LIKE 'waiting for%'";
        if let Some(pid) = texts(db, waiting).await.into_iter().next().flatten() {
            return pid;
        }
        tokio::task::yield_now().await;
    }
}

/// A database before its indexes, and a transaction that a build has to wait for.
async fn held(database: &TestDb) -> (DatabaseConnection, sea_orm::DatabaseTransaction) {
    let db = database.connect().await;
    up_before(&db, "production_indexes").await;
    let holder = database.connect().await.begin_with_options(TransactionOptions::default()).await.expect("begins");
    put(&holder, "evt_held").await;
    (db, holder)
}

#[test]
fn writers_go_on_while_an_index_is_built_and_a_second_process_waits_without_harm() {
    on_postgres(|database| async move {
        let (db, holder) = held(&database).await;
        let (one, two) = (database.connect().await, database.connect().await);
        let first = tokio::spawn(async move { migration::up(&one, None).await });
        let all = async {
            build_waits(&db).await;
            // It looks for its turn while the first one's build waits for whoever looks at anything.
            let second = tokio::spawn(async move { migration::up(&two, None).await });
            // A writer that had to wait would be refused.
            run(&db, "SET lock_timeout = '2s'").await;
            for i in 0..200 {
                put(&db, &format!("evt_{i}")).await;
                run(
                    &db,
                    &format!("UPDATE stripe_webhooks SET processing_status = 'failed' WHERE event_id = 'evt_{i}'"),
                )
                .await;
            }
            build_waits(&db).await;
            holder.commit().await.expect("commits");
            first.await.expect("no panic").expect("up");
            second.await.expect("no panic").expect("up");
        };
        tokio::time::timeout(LONG, all).await.expect("nobody waits for ever");
        assert_eq!(migration::pending(&db).await.expect("an answer"), 0);
        assert_eq!(texts(&db, INVALID).await, []);
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(verdict.as_expected, "{:?}", verdict.findings);
    });
}

#[test]
fn a_build_that_was_cut_off_leaves_an_unusable_index_which_the_next_run_builds_anew() {
    on_postgres(|database| async move {
        let (db, holder) = held(&database).await;
        let one = database.connect().await;
        let first = tokio::spawn(async move { migration::up(&one, None).await });
        let builder = tokio::time::timeout(LONG, build_waits(&db)).await.expect("the build begins");
        run(&db, &format!("SELECT pg_cancel_backend({builder})")).await;
        let told = first.await.expect("no panic").expect_err("the build was cut off").to_string();
        assert!(told.contains("run `trueup migrate up` again"), "{told}");
        holder.commit().await.expect("commits");
        assert_eq!(texts(&db, INVALID).await, [Some("idx_stripe_webhooks_event_type".to_owned())]);
        let states = migration::status(&db).await.expect("a status");
        let first = states.iter().find(|state| !state.applied).expect("something is left");
        assert!(first.name.ends_with("production_indexes"), "{first:?}");

        migration::up(&db, None).await.expect("up again");
        assert_eq!(texts(&db, INVALID).await, []);
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(verdict.as_expected, "{:?}", verdict.findings);
    });
}

#[test]
fn an_unusable_index_of_another_shape_is_replaced_by_ours() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        up_before(&db, "production_indexes").await;
        run(&db, "INSERT INTO users (email, full_name) VALUES ('a@example.com', 'x'), ('b@example.com', 'x')").await;
        let unique = "CREATE UNIQUE INDEX CONCURRENTLY idx_users_last_login ON users (full_name)";
        sea_orm::ConnectionTrait::execute_unprepared(&db, unique).await.expect_err("they are not unique");
        assert_eq!(texts(&db, INVALID).await, [Some("idx_users_last_login".to_owned())]);
        migration::up(&db, None).await.expect("up");
        let definition = text(&db, "SELECT pg_get_indexdef('idx_users_last_login'::regclass)").await;
        assert!(definition.contains("(last_login DESC NULLS LAST)"), "{definition}");
        assert_eq!(texts(&db, INVALID).await, []);
    });
}

#[test]
fn a_name_that_belongs_to_something_else_is_told_with_the_remedy() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        up_before(&db, "production_indexes").await;
        run(&db, "CREATE SEQUENCE idx_users_last_login").await;
        let told = migration::up(&db, None).await.expect_err("the name is taken").to_string();
        assert!(told.contains("idx_users_last_login is wanted for an index"), "{told}");
        run(&db, "DROP SEQUENCE idx_users_last_login").await;
        migration::up(&db, None).await.expect("up");
    });
}

#[test]
fn a_statement_limit_that_is_right_for_a_server_does_not_cut_a_build_off() {
    on_postgres(|database| async move {
        let (db, holder) = held(&database).await;
        let limited = format!("{}?options=-c%20statement_timeout%3D500%20-c%20lock_timeout%3D200", database.url());
        let mut options = sea_orm::ConnectOptions::new(limited);
        options.max_connections(2).sqlx_logging(false);
        let limited = sea_orm::Database::connect(options).await.expect("connects");
        assert_eq!(text(&limited, "SHOW statement_timeout").await, "500ms");
        let build = tokio::spawn(async move { migration::up(&limited, None).await });
        let builder = tokio::time::timeout(LONG, build_waits(&db)).await.expect("the build begins");
        // Longer than both limits, by the server's own clock.
        let waited = format!(
            "SELECT pid::text FROM pg_stat_activity WHERE pid = {builder} AND clock_timestamp() - query_start > interval '1 second'"
        );
        while texts(&db, &waited).await.is_empty() {
            assert!(!build.is_finished(), "it was cut off");
            tokio::task::yield_now().await;
        }
        holder.commit().await.expect("commits");
        build.await.expect("no panic").expect("up");
    });
}
