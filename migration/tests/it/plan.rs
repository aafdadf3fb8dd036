//! What `up` would run.

use testkit::Kind;

use crate::{on_each_empty, run, schema::schema, texts, up_before};

#[test]
fn a_dry_run_changes_nothing_and_what_it_prints_makes_the_very_schema() {
    on_each_empty(|database| async move {
        let db = database.connect().await;
        let kind = database.kind();
        let plan = migration::plan(&db, None).await.expect("a plan");
        let there = match kind {
            Kind::Sqlite => "SELECT name FROM sqlite_master",
            Kind::Postgres => "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace",
        };
        assert_eq!(texts(&db, there).await, [], "nothing was made");
        for planned in &plan.migrations {
            for statement in &planned.statements {
                run(&db, statement).await;
            }
        }
        assert_eq!(migration::pending(&db).await.expect("an answer"), 0, "each was noted as applied");
        let by_hand = schema(kind, &db).await;
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(verdict.as_expected, "{:?}", verdict.findings);

        let other = testkit::TestDb::migrated(kind).await;
        assert_eq!(by_hand, schema(kind, &other.connect().await).await);
        assert!(migration::plan(&db, None).await.expect("a plan").migrations.is_empty(), "nothing is left");
    });
}

#[test]
fn a_dry_run_of_some_steps_tells_of_those_alone_and_how_each_is_run() {
    on_each_empty(|database| async move {
        let db = database.connect().await;
        let plan = migration::plan(&db, Some(1)).await.expect("a plan");
        assert_eq!(plan.migrations.len(), 2, "the table of migrations, and the first of them");
        up_before(&db, "production_indexes").await;
        let plan = migration::plan(&db, None).await.expect("a plan");
        let indexes = plan.migrations.iter().find(|m| m.name.ends_with("production_indexes")).expect("it is pending");
        assert!(!indexes.transaction);
        let told = plan.to_string();
        assert!(told.contains("production_indexes, each statement by itself"), "{told}");
        if database.kind() == Kind::Postgres {
            assert!(told.contains("CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_stripe_webhooks_failed"), "{told}");
            assert!(!told.contains("CONCURRENTLY IF NOT EXISTS idx_stripe_webhooks_recent"), "it is there: {told}");
        }
        // The very same connection still writes.
        migration::up(&db, None).await.expect("up");
    });
}
