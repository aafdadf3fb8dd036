//! Calls that wait for one another within the database.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use testkit::on_each;

use crate::{
    desk::{Desk, user_id},
    usage::{at, now},
};

// A window that another opened meanwhile is younger than the statement that counts in it, and was passed over: the count stood in `users`
// alone, and whatever set it by the ledger next (a release, the end of the window) forgot it. Simulated kills found it.
#[test]
fn a_call_that_waited_while_another_opened_the_window_counts_in_the_ledger_too() {
    on_each(|test_db| async {
        let patient = test_db.connect().await;
        let desk = Arc::new(Desk::new(test_db).await);
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        desk.meter(at(now())).consume(user, 1, Some("before")).await.expect("5 are free");
        // As rolling does it, but held before its commit.
        let opening = desk.db.write().await.expect("a transaction");
        for sql in [
            "UPDATE usage_periods SET closed_at = CURRENT_TIMESTAMP",
            "INSERT INTO usage_periods (user_id, source, period_start, period_end, used, usage_limit, tier)
             SELECT user_id, 'sub_1', period_start, period_end, 0, usage_limit, tier FROM usage_periods",
            "UPDATE users SET usage_source = 'sub_1', usage_count = 0",
        ] {
            opening.execute_unprepared(sql).await.expect("the next window");
        }
        let calling = {
            let desk = Arc::clone(&desk);
            tokio::spawn(async move { desk.meter(at(now())).consume(user, 2, Some("waited")).await })
        };
        let waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while desk.db.backend() == DbBackend::Postgres
            && patient
                .query_one_raw(Statement::from_string(DbBackend::Postgres, waits))
                .await
                .expect("an answer")
                .is_none()
        {
            tokio::task::yield_now().await;
        }
        opening.commit().await.expect("the window is open");
        assert_eq!(calling.await.expect("no panic").expect("there is room").figures.used, 2);
        let ledger: Vec<i64> = desk.ledger(user).await.iter().map(|row| row.used).collect();
        assert_eq!(ledger, [1, 2], "what is mirrored is in the ledger");
        patient.close().await.expect("nobody uses it");
        let Ok(desk) = Arc::try_unwrap(desk) else { panic!("every call has ended") };
        desk.close().await;
    });
}
