//! The host writes into `users` itself: what was parked for such a user goes on, and nothing else is stirred.

use billing::{
    inbox::parked,
    policy::Policy,
    processor::{Outcome, ProcessorOptions},
};
use entity::ids::UserId;
use testkit::{Kind, on_each};

use crate::{
    desk::{Desk, NOW, outcomes, user_id},
    ownership::{anonymous, customer, known, naming},
};

async fn release(desk: &Desk) -> u64 {
    parked::release(&desk.db, &desk.policy).await.expect("the database answers")
}

fn literal(desk: &Desk, user: UserId) -> String {
    match desk.kind() {
        Kind::Postgres => format!("'{user}'"),
        Kind::Sqlite => format!("x'{}'", user.0.simple()),
    }
}

/// As the host does it, past everything that is ours.
async fn insert(desk: &Desk, user: UserId, email: &str) {
    desk.sql(&format!("INSERT INTO users (id, email) VALUES ({}, '{email}')", literal(desk, user))).await;
}

/// What is released is applied, and has its user then.
async fn goes_on(desk: &Desk, user: UserId) {
    assert_eq!(release(desk).await, 1);
    assert_eq!(release(desk).await, 0, "it is due already");
    assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
    assert_eq!(desk.standing(user).await, "pro active access");
    assert_eq!(release(desk).await, 0);
}

#[test]
fn an_event_whose_subscription_names_a_user_whom_the_host_has_inserted_goes_on() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.apply(&[naming("evt_1", "sub_1", "cus_1", user_id(1)), naming("evt_2", "sub_2", "cus_2", user_id(2))])
            .await;
        insert(&desk, user_id(3), "other@example.com").await;
        assert_eq!(release(&desk).await, 0, "nobody waits for that one");
        insert(&desk, user_id(1), "a@example.com").await;
        goes_on(&desk, user_id(1)).await;
        desk.close_with(1, 0).await;
    });
}

#[test]
fn an_event_whose_customer_names_or_shares_the_address_of_such_a_user_goes_on() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let mut named = customer("cus_1", "elsewhere@example.com", NOW - 2000);
        named.metadata.insert("user_id".into(), user_id(1).to_string());
        let shared = customer("cus_2", "Two@Example.com", NOW - 2000);
        desk.apply(&[known("evt_1", 600, &named), known("evt_2", 600, &shared)]).await;
        desk.apply(&[anonymous("evt_3", "sub_1", "cus_1", "pro"), anonymous("evt_4", "sub_2", "cus_2", "pro")]).await;
        insert(&desk, user_id(1), "one@example.com").await;
        goes_on(&desk, user_id(1)).await;
        insert(&desk, user_id(2), "tWo@example.com").await;
        goes_on(&desk, user_id(2)).await;
        desk.close().await;
    });
}

#[test]
fn an_event_whose_customer_the_host_has_written_into_a_users_row_goes_on() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.apply(&[anonymous("evt_1", "sub_1", "cus_1", "pro")]).await;
        let user = literal(&desk, user_id(1));
        desk.sql(&format!(
            "INSERT INTO users (id, email, subscription_stripe_customer_id) VALUES ({user}, 'a@example.com', 'cus_1')"
        ))
        .await;
        goes_on(&desk, user_id(1)).await;
        desk.close().await;
    });
}

#[test]
fn a_subscription_that_names_its_user_does_not_go_on_for_its_customers() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.apply(&[known("evt_1", 600, &customer("cus_1", "a@example.com", NOW - 2000))]).await;
        desk.apply(&[naming("evt_2", "sub_1", "cus_1", user_id(2))]).await;
        insert(&desk, user_id(1), "a@example.com").await;
        assert_eq!(release(&desk).await, 0);
        desk.close_with(1, 0).await;
    });
}

#[test]
fn without_linking_by_address_no_address_sets_anything_free() {
    on_each(|test_db| async {
        let policy = Policy { link_by_email: false, ..Policy::default() };
        let desk = Desk::with(test_db, policy, ProcessorOptions::default()).await;
        desk.apply(&[known("evt_1", 600, &customer("cus_1", "a@example.com", NOW - 2000))]).await;
        desk.apply(&[anonymous("evt_2", "sub_1", "cus_1", "pro")]).await;
        insert(&desk, user_id(1), "a@example.com").await;
        assert_eq!(release(&desk).await, 0);
        desk.close_with(1, 0).await;
    });
}

#[test]
fn an_event_that_finds_no_owner_after_all_is_not_released_in_vain_again_and_again() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        // Two customers share an address; the user is the senior one's, and the other's subscription has no owner.
        let (senior, junior) =
            (customer("cus_1", "a@example.com", NOW - 3000), customer("cus_2", "a@example.com", NOW - 2000));
        desk.apply(&[known("evt_1", 600, &senior), known("evt_2", 600, &junior)]).await;
        desk.apply(&[anonymous("evt_3", "sub_1", "cus_1", "pro"), anonymous("evt_4", "sub_2", "cus_2", "elite")]).await;
        insert(&desk, user_id(1), "a@example.com").await;
        assert_eq!(release(&desk).await, 2);
        let pass = desk.work().await;
        assert_eq!((outcomes(&pass, Outcome::Applied), outcomes(&pass, Outcome::Parked)), (1, 1));
        assert_eq!(desk.standing(user_id(1)).await, "pro active access");
        assert_eq!(release(&desk).await, 0);
        desk.close_with(1, 0).await;
    });
}
