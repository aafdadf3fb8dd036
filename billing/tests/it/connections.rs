//! What a connection is left as by whoever gives up.

use std::time::Duration;

use billing::db::{Db, DbOptions};
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait, Statement};
use testkit::on_each;

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
