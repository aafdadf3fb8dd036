//! One migration at a time.

use std::time::Duration;

use testkit::Kind;

use crate::{on_each_empty, schema::schema};

#[test]
fn each_migration_is_taken_back_to_exactly_what_was_before_it_and_goes_up_again_to_the_same() {
    on_each_empty(|database| async move {
        let db = database.connect().await;
        let kind = database.kind();
        let names: Vec<String> =
            migration::status(&db).await.expect("a status").into_iter().map(|state| state.name).collect();
        let mut before = Vec::new();
        for _ in &names {
            before.push(schema(kind, &db).await);
            migration::up(&db, Some(1)).await.expect("up");
        }
        let whole = schema(kind, &db).await;
        for (name, before) in names.iter().zip(&before).rev() {
            migration::down(&db, Some(1)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(&schema(kind, &db).await, before, "{name} is not taken back whole");
        }
        migration::up(&db, None).await.expect("up again");
        assert_eq!(schema(kind, &db).await, whole);
    });
}

#[test]
fn several_that_migrate_one_empty_database_at_the_same_moment_wait_for_each_other_and_not_for_ever() {
    on_each_empty(|database| async move {
        let (one, two) = (database.connect().await, database.connect().await);
        let (three, four) = (database.connect().await, database.connect().await);
        let all = async {
            tokio::try_join!(
                migration::up(&one, None),
                migration::up(&two, None),
                migration::up(&three, None),
                migration::up(&four, None)
            )
        };
        // Indexes are built while the others wait for their turn.
        tokio::time::timeout(Duration::from_mins(2), Box::pin(all)).await.expect("nobody waits for ever").expect("up");
        assert_eq!(migration::pending(&one).await.expect("an answer"), 0);
        if database.kind() == Kind::Postgres {
            let invalid =
                crate::texts(&one, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid").await;
            assert_eq!(invalid, []);
        }
    });
}
