//! What a connection is told when it is made, and left as by whoever gives up.

use std::time::Duration;

use billing::db::{Blame, Db, DbOptions, Pooler, blame, obstacle};
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait, Statement};
use testkit::{Kind, TestDb, kinds, on_each};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

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

// sqlx-sqlite counted a transaction that SQLite had taken back by itself, so that later ones were savepoints: one that was given up stayed
// open and held the file's lock, and what others committed within it was gone at the next start. A full disk under a running server found it.
#[tokio::test]
async fn after_a_full_disk_transactions_are_transactions_again() {
    let test_db = TestDb::migrated(Kind::Sqlite).await;
    let db =
        Db::connect(test_db.url(), &DbOptions { max_connections: 1, ..DbOptions::default() }).await.expect("connects");
    let row = |name: &str, bytes: u32| {
        format!(
            "INSERT INTO settings (name, value, updated_at) VALUES ('{name}', hex(zeroblob({bytes})), CURRENT_TIMESTAMP)"
        )
    };
    // No page more than there are.
    db.reader().execute_unprepared("PRAGMA max_page_count = 1").await.expect("a setting of the one connection");
    let tx = db.write().await.expect("begins");
    let full = tx.execute_unprepared(&row("large", 1 << 20)).await.expect_err("there is no room");
    assert_eq!(obstacle(&full), "its disk is full");
    drop(tx);
    let given_up = db.write().await.expect("begins");
    given_up.execute_unprepared(&row("given up", 1)).await.expect("there is room");
    drop(given_up);
    let kept = db.write().await.expect("begins");
    kept.execute_unprepared(&row("kept", 1)).await.expect("there is room");
    kept.commit().await.expect("commits");
    let another = test_db.connect().await;
    let seen = another
        .query_all_raw(Statement::from_string(another.get_database_backend(), "SELECT name FROM settings"))
        .await;
    let names: Vec<String> =
        seen.expect("an answer").iter().map(|row| row.try_get_by_index(0).expect("a name")).collect();
    assert!(names.contains(&"kept".to_owned()) && !names.contains(&"given up".to_owned()), "{names:?}");
    db.probe().await.expect("nobody holds the file");
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

/// A way to a server that can fall silent: what is open is then neither answered nor broken off, and only new connections are led on.
struct Way {
    address: String,
    era: watch::Sender<u64>,
}

impl Way {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (era, now) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut now) = (server.clone(), now.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.expect("the server answers");
                    now.mark_unchanged();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        // Kept open, and forgotten.
                        _ = now.changed() => std::future::pending::<()>().await,
                    }
                });
            }
        });
        Self { address, era }
    }

    fn lose_what_is_open(&self) {
        self.era.send_modify(|era| *era += 1);
    }
}

// As when a machine is gone: nothing is answered and nothing refused, for as long as the kernel likes.
#[tokio::test]
async fn connections_that_are_silently_dead_are_given_up_and_make_room_for_new_ones() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let test_db = TestDb::migrated(Kind::Postgres).await;
    let (head, name) = test_db.url().rsplit_once('/').expect("a URL with a database");
    let (scheme, server) = head.rsplit_once('@').expect("a URL with a user");
    let way = Way::to(server.to_owned()).await;
    let options = DbOptions {
        max_connections: 2,
        reserved_connections: 0,
        statement_timeout: Duration::from_secs(1),
        acquire_timeout: Duration::from_secs(20),
        ..DbOptions::default()
    };
    for pooled in [false, true] {
        let pooler = if pooled { Pooler::Transaction } else { Pooler::None };
        let url = format!("{scheme}@{}/{name}", way.address);
        let db = Db::connect(&url, &DbOptions { pooler, ..options.clone() }).await.expect("it answers");
        // Every connection there may be is in use, within a transaction, when the server is gone.
        let (one, other) = (db.write().await.expect("it begins"), db.write().await.expect("it begins"));
        way.lose_what_is_open();
        let error = one.execute_unprepared("SELECT 1").await.expect_err("nothing is answered");
        assert_eq!(blame(&error), Blame::Surroundings, "{error}");
        // One was given up by its statement, the other is by its going back.
        drop((one, other));
        for number in 0..2 {
            let tx = db.write().await.expect("there is room for a new one");
            let sql = format!("INSERT INTO users (email) VALUES ('u{number}-{pooled}@example.com')");
            tx.execute_unprepared(&sql).await.expect("it is answered");
            tx.commit().await.expect("it commits");
        }
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
