//! The schema: up, down, up again, and two processes at once.

use sea_orm::{ConnectionTrait as _, DatabaseConnection, FromQueryResult, Statement};
use testkit::{Kind, TestDb, kinds};

#[derive(Debug, PartialEq, Eq, FromQueryResult)]
struct Line {
    line: String,
}

/// The schema as the database itself tells it.
async fn schema(kind: Kind, db: &DatabaseConnection) -> Vec<Line> {
    let sql = match kind {
        Kind::Sqlite => {
            "SELECT coalesce(sql, name) AS line FROM sqlite_master WHERE tbl_name <> 'seaql_migrations' ORDER BY name"
        }
        Kind::Postgres => {
            "SELECT format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default) AS line
                FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'seaql_migrations'
             UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'seaql_migrations'
             UNION ALL SELECT pg_get_constraintdef(oid) || conrelid::regclass FROM pg_constraint
                WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'seaql_migrations'
             ORDER BY 1"
        }
    };
    let statement = Statement::from_string(db.get_database_backend(), sql);
    Line::find_by_statement(statement).all(db).await.expect("the schema can be read")
}

fn on_each_empty<F: Future<Output = ()>>(test: impl Fn(TestDb) -> F) {
    for kind in kinds() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async { test(TestDb::empty(kind).await).await });
    }
}

#[test]
fn up_after_down_gives_the_same_schema_and_down_leaves_nothing() {
    on_each_empty(|test_db| async move {
        let db = test_db.connect().await;
        let empty = schema(test_db.kind(), &db).await;
        assert_eq!(
            migration::pending(&db).await.expect("an answer"),
            migration::status(&db).await.expect("an answer").len()
        );
        migration::up(&db, None).await.expect("up");
        assert_eq!(migration::pending(&db).await.expect("an answer"), 0);
        let first = schema(test_db.kind(), &db).await;
        assert!(first.len() > 20, "the schema is there: {first:?}");
        migration::down(&db, None).await.expect("down");
        assert_eq!(schema(test_db.kind(), &db).await, empty);
        migration::up(&db, None).await.expect("up again");
        assert_eq!(schema(test_db.kind(), &db).await, first);
        migration::up(&db, None).await.expect("nothing left to do is no error");
    });
}

#[test]
fn beside_migrations_of_a_newer_version_a_running_one_stays_ready_and_none_is_started() {
    on_each_empty(|test_db| async move {
        let db = test_db.connect().await;
        migration::up(&db, None).await.expect("up");
        assert_eq!(migration::newer(&db).await.expect("an answer"), Vec::<String>::new());
        let entry = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29991231_000001_of_tomorrow', 0)";
        db.execute_unprepared(entry).await.expect("an entry");
        // What readiness and every command ask.
        assert_eq!(migration::pending(&db).await.expect("an answer"), 0);
        assert_eq!(migration::newer(&db).await.expect("an answer"), ["m29991231_000001_of_tomorrow"]);
        // What a start asks.
        for result in [migration::up(&db, None).await, migration::down(&db, Some(1)).await] {
            let told = result.expect_err("this version does not know what it would work on").to_string();
            assert!(told.contains("newer version") && told.contains("m29991231_000001_of_tomorrow"), "{told}");
            assert!(told.contains("trueup migrate down --steps 1 --yes"), "{told}");
        }
        assert_eq!(migration::pending(&db).await.expect("an answer"), 0, "nothing was taken back");
    });
}

#[test]
fn several_that_migrate_one_empty_database_at_the_same_moment_all_succeed() {
    on_each_empty(|test_db| async move {
        let connections = [test_db.connect().await, test_db.connect().await, test_db.connect().await];
        let (one, two, three) = tokio::join!(
            migration::up(&connections[0], None),
            migration::up(&connections[1], None),
            migration::up(&connections[2], None)
        );
        for result in [one, two, three] {
            result.expect("each succeeds");
        }
        assert_eq!(migration::pending(&connections[0]).await.expect("an answer"), 0);
    });
}

#[test]
fn every_entity_can_be_read_from_the_schema_that_migrations_make() {
    use sea_orm::EntityTrait;
    testkit::on_each(|test_db| async move {
        let db = test_db.connect().await;
        assert!(entity::users::Entity::find().all(&db).await.expect("users").is_empty());
        assert!(entity::stripe_webhooks::Entity::find().all(&db).await.expect("stripe_webhooks").is_empty());
        assert!(entity::stripe_customers::Entity::find().all(&db).await.expect("stripe_customers").is_empty());
        assert!(entity::subscriptions::Entity::find().all(&db).await.expect("subscriptions").is_empty());
        assert!(entity::invoices::Entity::find().all(&db).await.expect("invoices").is_empty());
        assert!(entity::entitlement_changes::Entity::find().all(&db).await.expect("entitlement_changes").is_empty());
        assert!(entity::job_runs::Entity::find().all(&db).await.expect("job_runs").is_empty());
        assert!(entity::job_leases::Entity::find().all(&db).await.expect("job_leases").is_empty());
        assert!(entity::job_settings::Entity::find().all(&db).await.expect("job_settings").is_empty());
        // Migrations note there what they made.
        entity::settings::Entity::find().all(&db).await.expect("settings");
        assert!(entity::usage_periods::Entity::find().all(&db).await.expect("usage_periods").is_empty());
        assert!(entity::usage_records::Entity::find().all(&db).await.expect("usage_records").is_empty());
        assert!(entity::tier_overrides::Entity::find().all(&db).await.expect("tier_overrides").is_empty());
        assert!(entity::email_outbox::Entity::find().all(&db).await.expect("email_outbox").is_empty());
        assert!(entity::reconciliations::Entity::find().all(&db).await.expect("reconciliations").is_empty());
        assert!(entity::reconciliation_drifts::Entity::find().all(&db).await.expect("drifts").is_empty());
        assert!(entity::stripe_cursors::Entity::find().all(&db).await.expect("stripe_cursors").is_empty());
    });
}
