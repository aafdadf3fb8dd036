//! What a connection is told when it is made, and left as by whoever gives up.

use std::time::Duration;

use billing::db::{Blame, Db, DbOptions, Pooler, blame};
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait, Statement};
use testkit::{Kind, TestDb, kinds, on_each};

// A request that took too long, a job whose time is up: the next statement on that connection would be answered, and lost.
#[test]
fn who_gives_up_before_a_transaction_has_begun_leaves_none_behind() {
    on_each(|test_db| async move {
        let options = DbOptions { max_connections: 1, acquire_timeout: Duration::from_mins(1), ..DbOptions::default() };
        let db = Db::connect(test_db.url(), &options).await.expect("the test's database answers");
        let other = test_db.connect().await;
        for number in 0..150_u64 {
            // After the first step of it, the second, and so on: before, in and after the answer to BEGIN.
            let mut beginning = Box::pin(db.write());
            for _ in 0..=number {
                if futures::poll!(beginning.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(beginning);
            let sql = format!("INSERT INTO users (email) VALUES ('u{number}@example.com')");
            let statement = Statement::from_string(db.backend(), sql);
            db.reader().execute_raw(statement).await.expect("the database answers");
            let seen = entity::users::Entity::find().count(&other).await.expect("the database answers");
            assert_eq!(seen, number + 1, "what was answered is there for others");
        }
        db.close().await.expect("an idle pool closes");
        other.close().await.expect("an idle pool closes");
    });
}

#[tokio::test]
async fn every_statement_runs_under_the_limits_that_are_set() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let test_db = TestDb::empty(Kind::Postgres).await;
    let options = DbOptions {
        statement_timeout: Duration::from_secs(9),
        idle_in_transaction_timeout: Duration::from_secs(7),
        application_name: Some("billing, test".to_owned()),
        ..DbOptions::default()
    };
    // The same must hold where every transaction brings its limits along, as behind a pooler.
    for pooler in [Pooler::Auto, Pooler::Transaction] {
        let db = Db::connect(test_db.url(), &DbOptions { pooler, ..options.clone() }).await.expect("it answers");
        let sql = "SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'),
            current_setting('idle_in_transaction_session_timeout'), current_setting('application_name'))";
        let statement = Statement::from_string(db.backend(), sql);
        let wanted = "9s 3s 7s billing, test";
        let row = db.reader().query_one_raw(statement.clone()).await.expect("an answer").expect("a row");
        assert_eq!(row.try_get_by_index::<String>(0).expect("a text"), wanted, "{pooler:?}");
        let tx = db.reserved().write().await.expect("a transaction begins");
        let row = tx.query_one_raw(statement).await.expect("an answer").expect("a row");
        assert_eq!(row.try_get_by_index::<String>(0).expect("a text"), wanted, "{pooler:?}");
        tx.commit().await.expect("it commits");
        let slow = db.reader().execute_unprepared("SET statement_timeout = '100ms'; SELECT pg_sleep(60)").await;
        let error = slow.expect_err("longer than is allowed");
        assert_eq!(blame(&error), Blame::Surroundings, "{error}");
        db.close().await.expect("an idle pool closes");
    }
}

// Slow reports, jobs and a crowd of requests may hold every connection there is; Stripe is not kept waiting for them.
#[tokio::test]
async fn what_must_not_wait_has_connections_of_its_own() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let test_db = TestDb::migrated(Kind::Postgres).await;
    let options = DbOptions { acquire_timeout: Duration::from_millis(300), ..DbOptions::default() };
    let db = Db::connect(test_db.url(), &options).await.expect("the test's database answers");
    let mut held = Vec::new();
    for _ in options.reserved_connections..options.max_connections {
        held.push(db.write().await.expect("there are so many"));
    }
    let error = db.write().await.expect_err("no more than these");
    assert_eq!(blame(&error), Blame::Surroundings, "{error}");
    let tx = db.reserved().write().await.expect("some are kept");
    tx.execute_unprepared("INSERT INTO users (email) VALUES ('user@example.com')").await.expect("it is stored");
    tx.commit().await.expect("it commits");
    drop(held);
    db.close().await.expect("an idle pool closes");
}
