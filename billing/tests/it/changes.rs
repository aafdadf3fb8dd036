//! The feed of changes: one order for all, nothing skipped, nobody holds a connection while waiting.

use std::{sync::Arc, time::Duration};

use billing::{
    changes::{self, Cursor, Feed, FeedEntry, Page, Reading},
    db::{Db, DbOptions},
    samples::ApiVersion,
};
use sea_orm::ConnectionTrait;
use testkit::{Kind, on_each};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, user_id},
    semantics::{subscription, told},
};

/// What nothing here should ever take; the machine may be busy.
const LONG: Duration = Duration::from_secs(30);

async fn read(desk: &Desk, after: Cursor) -> Vec<FeedEntry> {
    match changes::read(&desk.db, after, 1000).await.expect("the database answers") {
        Reading::Page(page) => page.entries,
        Reading::Beyond => panic!("{after} lies beyond the end"),
    }
}

fn cursor(number: i64) -> Cursor {
    number.to_string().parse().expect("a cursor")
}

/// One change of the only user, told by its reason.
fn insert(reason: &str) -> String {
    format!(
        "INSERT INTO entitlement_changes (user_id, source, before, after, reason)
            SELECT id, 'api', '{{}}', '{{}}', '{reason}' FROM users"
    )
}

fn reasons(entries: &[FeedEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.reason.as_str()).collect()
}

#[test]
fn the_feed_tells_every_users_changes_in_one_order_page_by_page() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        assert_eq!(changes::latest(&desk.db).await.expect("an answer"), Cursor::START);
        for number in 1..=3 {
            desk.put(user_id(number), &format!("{number}@example.com")).await;
            let mut sub = subscription(user_id(number), "pro", "active");
            (sub.id, sub.customer) = (format!("sub_{number}"), format!("cus_{number}"));
            let object = sub.render(ApiVersion::LATEST);
            desk.apply(&[told(&format!("evt_{number}"), "customer.subscription.updated", 100, object)]).await;
        }
        let entries = read(&desk, Cursor::START).await;
        assert_eq!(entries.iter().map(|entry| entry.cursor).collect::<Vec<_>>(), [1, 2, 3].map(cursor));
        assert_eq!(entries.iter().map(|entry| entry.user_id).collect::<Vec<_>>(), [1, 2, 3].map(user_id));
        let first = &entries[0];
        assert_eq!((first.event_id.as_deref(), &first.after["tier"]), (Some("evt_1"), &"pro".into()));
        let page = changes::read(&desk.db, cursor(1), 1).await.expect("an answer");
        assert_eq!(page, Reading::Page(Page { entries: entries[1..2].to_vec(), next: cursor(2) }));
        assert_eq!(changes::latest(&desk.db).await.expect("an answer"), cursor(3));
        assert!(read(&desk, cursor(3)).await.is_empty());
        desk.close().await;
    });
}

#[test]
fn a_change_that_commits_late_comes_late_and_is_never_skipped() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        if desk.kind() == Kind::Postgres {
            let late = desk.db.write().await.expect("a transaction");
            late.execute_unprepared(&insert("begun first")).await.expect("a change");
            desk.sql(&insert("committed first")).await;
            let entries = read(&desk, Cursor::START).await;
            assert_eq!(reasons(&entries), ["committed first"]);
            let after = entries[0].cursor;
            assert!(read(&desk, after).await.is_empty());
            desk.sql(&insert("committed second")).await;
            late.commit().await.expect("it ends");
            let mut entries = read(&desk, after).await;
            assert_eq!(entries.len(), 2, "{entries:?}");
            // Whoever began again from the start sees what the others saw.
            let whole = read(&desk, Cursor::START).await;
            assert_eq!(whole[1..], entries);
            entries.sort_by(|a, b| a.reason.cmp(&b.reason));
            assert_eq!(reasons(&entries), ["begun first", "committed second"]);
        }
        desk.close().await;
    });
}

/// Of two batches that wait for one user, the one that was begun first may write last: what counts is who wrote last, as they hold the user's row.
#[test]
fn one_users_changes_come_in_the_order_in_which_they_were_written_whatever_moment_they_bear() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        for (reason, at) in [("first", "2026-01-03"), ("second", "2026-01-02"), ("third", "2026-01-01")] {
            desk.sql(&insert(reason)).await;
            desk.sql(&format!(
                "UPDATE entitlement_changes SET changed_at = '{at}T00:00:00.000+00:00' WHERE reason = '{reason}'"
            ))
            .await;
        }
        assert_eq!(reasons(&read(&desk, Cursor::START).await), ["first", "second", "third"]);
        desk.close().await;
    });
}

#[test]
fn a_number_is_never_given_twice_though_users_with_their_changes_go() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        desk.sql(&insert("one")).await;
        desk.sql(&insert("two")).await;
        assert_eq!(changes::latest(&desk.db).await.expect("an answer"), cursor(2));
        desk.sql("DELETE FROM users").await;
        // Whoever reads on does not look for ever where nothing is left.
        let left = changes::read(&desk.db, Cursor::START, 10).await.expect("an answer");
        assert_eq!(left, Reading::Page(Page { entries: Vec::new(), next: cursor(2) }));
        desk.put(user_id(2), "b@example.com").await;
        desk.sql(&insert("three")).await;
        let entries = read(&desk, cursor(2)).await;
        assert_eq!((reasons(&entries), entries[0].cursor), (vec!["three"], cursor(3)));
        desk.close().await;
    });
}

#[test]
fn a_cursor_of_another_database_or_another_time_is_told_so() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        assert_eq!(changes::read(&desk.db, cursor(1), 10).await.expect("an answer"), Reading::Beyond);
        for wrong in ["-1", "x", "", "1.5", "99999999999999999999"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
        desk.close().await;
    });
}

/// A feed that nobody has read for long: no answer waits for all of it to be numbered.
#[test]
fn a_feed_of_many_changes_is_numbered_as_it_is_read() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        let series = match desk.kind() {
            Kind::Postgres => "generate_series(1, 12000) AS s (n)",
            Kind::Sqlite => {
                "(WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 12000) SELECT n FROM s)"
            }
        };
        desk.sql(&format!("{}, {series}", insert("many"))).await;
        let first = changes::read(&desk.db, Cursor::START, 10).await.expect("an answer");
        let Reading::Page(first) = first else { panic!("there are many") };
        assert_eq!((first.entries.len(), first.next), (10, cursor(10)));
        desk.sql("DELETE FROM entitlement_changes WHERE number > 4990").await;
        // Over the end of what is numbered, and over what is gone.
        let Reading::Page(page) = changes::read(&desk.db, cursor(4980), 20).await.expect("an answer") else {
            panic!("there are more")
        };
        let read: Vec<_> = page.entries.iter().map(|entry| entry.cursor).collect();
        let expected: Vec<_> = (4981..=4990).chain(5001..=5010).map(cursor).collect();
        assert_eq!((read, page.next), (expected, cursor(5010)));
        assert_eq!(changes::latest(&desk.db).await.expect("an answer"), cursor(12000));
        desk.close().await;
    });
}

#[test]
fn many_who_read_at_once_all_see_the_same_numbers() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        for number in 0..40 {
            desk.sql(&insert(&number.to_string())).await;
        }
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let db = desk.db.clone();
                tokio::spawn(async move { changes::read(&db, Cursor::START, 1000).await.expect("an answer") })
            })
            .collect();
        let whole = read(&desk, Cursor::START).await;
        assert_eq!(
            whole.iter().map(|entry| entry.cursor).collect::<Vec<_>>(),
            (1..=40).map(cursor).collect::<Vec<_>>()
        );
        for reader in readers {
            assert_eq!(
                reader.await.expect("it ends"),
                Reading::Page(Page { entries: whole.clone(), next: cursor(40) })
            );
        }
        desk.close().await;
    });
}

#[test]
fn a_hundred_who_wait_hold_no_connection_and_all_are_woken() {
    on_each(|test_db| async {
        let url = test_db.url().to_owned();
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        // As another replica has it: it learns of the change from the database alone.
        let options = DbOptions { max_connections: 1, ..DbOptions::default() };
        let db = Db::connect(&url, &options).await.expect("the database answers");
        let end = CancellationToken::new();
        let feed = Feed::start(db.clone(), end.clone());
        let begun = Instant::now();
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let feed = feed.clone();
                tokio::spawn(async move { feed.wait_beyond(Cursor::START, LONG).await })
            })
            .collect();
        // The only connection is there for others all the while.
        for _ in 0..20 {
            db.ping().await.expect("an answer");
        }
        assert!(!waiting.iter().any(tokio::task::JoinHandle::is_finished));
        desk.sql(&insert("one")).await;
        for waiter in waiting {
            timeout(LONG, waiter).await.expect("in time").expect("no panic");
        }
        assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
        end.cancel();
        db.close().await.expect("it closes");
        desk.close().await;
    });
}

#[test]
fn who_waits_for_nothing_is_answered_when_their_time_is_over_or_the_server_ends() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let end = CancellationToken::new();
        let feed = Feed::start(desk.db.clone(), end.clone());
        let begun = Instant::now();
        feed.wait_beyond(Cursor::START, Duration::from_millis(300)).await;
        assert!(begun.elapsed() >= Duration::from_millis(300));
        let feed = Arc::new(feed);
        let waiter = {
            let feed = Arc::clone(&feed);
            tokio::spawn(async move { feed.wait_beyond(Cursor::START, LONG).await })
        };
        end.cancel();
        timeout(LONG / 2, waiter).await.expect("at once").expect("no panic");
        desk.close().await;
    });
}

#[test]
fn postgresql_tells_of_a_change_at_once() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.put(user_id(1), "a@example.com").await;
        if desk.kind() == Kind::Postgres {
            let end = CancellationToken::new();
            let feed = Feed::start(desk.db.clone(), end.clone());
            // Until it listens, it looks once a second; so the best of several rounds tells.
            let mut best = LONG;
            for round in 0..6 {
                let waiter = {
                    let feed = feed.clone();
                    tokio::spawn(async move {
                        feed.wait_beyond(cursor(round), LONG).await;
                        Instant::now()
                    })
                };
                feed.wait_beyond(cursor(round), Duration::from_millis(150)).await;
                let begun = Instant::now();
                desk.sql(&insert("one")).await;
                best = best.min(waiter.await.expect("no panic") - begun);
            }
            // Whoever only looks, looks a second after the last one began to wait, and that was 150 ms before.
            // Behind a pooler in transaction mode nobody can listen.
            let bound = if desk.db.is_pooled() { 2000 } else { 500 };
            assert!(best < Duration::from_millis(bound), "{best:?}");
            end.cancel();
        }
        desk.close().await;
    });
}
