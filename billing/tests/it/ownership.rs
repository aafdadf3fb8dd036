//! Whose event it is; what waits for its user, and what sets it free.

use billing::{
    policy::Policy,
    processor::{Outcome, ProcessorOptions},
    reprojection::reproject_if_rules_changed,
    samples::{ApiVersion, CheckoutSessionSample, CustomerSample, Metadata, SubscriptionSample},
    users::{self, UserTold},
};
use entity::{
    enums::ProcessingStatus,
    ids::{CustomerId, UserId},
};
use serde_json::Value;
use testkit::on_each;

use crate::{
    desk::{Desk, NOW, outcomes, user_id},
    semantics::told,
};

pub(crate) fn customer(id: &str, email: &str, made_at: i64) -> CustomerSample {
    CustomerSample::new(id, email, made_at)
}

pub(crate) fn known(event: &str, seconds_ago: i64, customer: &CustomerSample) -> Value {
    told(event, "customer.created", seconds_ago, customer.render(ApiVersion::LATEST))
}

/// A subscription that names no user of its own.
pub(crate) fn anonymous(event: &str, id: &str, customer: &str, tier: &str) -> Value {
    let mut sub = SubscriptionSample::new(id, customer, "active", NOW - 1000);
    sub.items[0].lookup_key = Some(tier.to_owned());
    sub.metadata = Metadata::new();
    told(event, "customer.subscription.created", 500, sub.render(ApiVersion::LATEST))
}

pub(crate) fn naming(event: &str, id: &str, customer: &str, user: UserId) -> Value {
    let mut sub = SubscriptionSample::new(id, customer, "active", NOW - 1000);
    sub.items[0].lookup_key = Some("pro".to_owned());
    sub.metadata = Metadata::from([("user_id".to_owned(), user.to_string())]);
    told(event, "customer.subscription.created", 500, sub.render(ApiVersion::LATEST))
}

#[test]
fn a_customer_is_linked_by_its_address_without_regard_to_case() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "Ada@Example.com").await;
        desk.apply(&[known("evt_1", 600, &customer("cus_1", "ada@example.COM", NOW - 2000))]).await;
        desk.apply(&[anonymous("evt_2", "sub_1", "cus_1", "pro")]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        // The customer's new address does not cut the tie.
        let moved = customer("cus_1", "elsewhere@example.com", NOW - 2000);
        desk.apply(&[told("evt_3", "customer.updated", 100, moved.render(ApiVersion::LATEST))]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        // Nor does the user's.
        desk.put(user, "new@example.com").await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn an_event_without_a_user_waits_and_goes_on_at_once_when_the_user_is_made() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.apply(&[known("evt_1", 600, &customer("cus_1", "a@example.com", NOW - 2000))]).await;
        desk.deliver(&anonymous("evt_2", "sub_1", "cus_1", "pro")).await;
        let pass = desk.work().await;
        assert_eq!(outcomes(&pass, Outcome::Parked), 1);
        let parked = desk.event("evt_2").await;
        assert_eq!(parked.processing_status, ProcessingStatus::Pending);
        assert_eq!(parked.processing_error.as_deref(), Some("unmatched user"));
        assert_eq!(parked.processing_attempts, 0, "waiting is no failed attempt");
        assert_eq!(parked.waits_for.as_deref(), Some("sub_1"));
        assert_eq!(desk.work().await.events(), 0, "it is not due");
        let depth = billing::inbox::records::depth(&desk.db).await.expect("an answer");
        assert_eq!((depth.pending, depth.parked), (0, 1), "parked is not stuck");

        let view = desk.put(user, "a@example.com").await;
        assert_eq!(view.projection.entitlement.tier, "pro", "the answer to PUT knows already");
        assert_eq!(outcomes(&desk.work().await, Outcome::Applied), 1);
        let done = desk.event("evt_2").await;
        assert_eq!((done.processing_status, done.user_id), (ProcessingStatus::Completed, Some(user)));
        assert_eq!((done.processing_error, done.waits_for), (None, None));
        desk.close().await;
    });
}

#[test]
fn many_who_make_one_user_at_once_all_succeed_and_an_address_is_given_once() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let puts = (0..20).map(|_| desk.put(user_id(1), "a@example.com"));
        futures::future::join_all(puts).await;
        let told = UserTold { id: user_id(2), email: "A@Example.com".into(), full_name: None };
        let taken = users::put(&desk.db, &desk.catalog, &desk.policy, told).await.expect_err("it is taken");
        assert!(matches!(taken, users::PutError::EmailTaken), "{taken}");
        desk.close().await;
    });
}

#[test]
fn releasing_follows_chains_linking_a_customer_frees_its_other_events() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        desk.apply(&[anonymous("evt_1", "sub_1", "cus_1", "starter"), anonymous("evt_2", "sub_2", "cus_1", "pro")])
            .await;
        assert_eq!(desk.count(ProcessingStatus::Pending).await, 2);
        let mut session = CheckoutSessionSample::new("cs_1", "cus_1", "sub_2", NOW - 100);
        session.client_reference_id = Some(user.to_string());
        desk.apply(&[told("evt_3", "checkout.session.completed", 100, session.render(ApiVersion::LATEST))]).await;
        desk.work().await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn a_known_form_of_an_unknown_user_waits_and_never_falls_through_to_the_address() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (somebody, expected) = (user_id(1), user_id(2));
        desk.put(somebody, "a@example.com").await;
        desk.apply(&[known("evt_1", 600, &customer("cus_1", "a@example.com", NOW - 2000))]).await;
        desk.apply(&[naming("evt_2", "sub_1", "cus_1", expected)]).await;
        assert_eq!(desk.standing(somebody).await, "free active no access");
        assert_eq!(desk.event("evt_2").await.waits_for.as_deref(), Some("sub_1"));
        desk.put(expected, "b@example.com").await;
        desk.work().await;
        assert_eq!(desk.standing(expected).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn a_user_id_of_another_system_is_no_user_id() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let mut sub = SubscriptionSample::new("sub_1", "cus_1", "active", NOW - 1000);
        sub.items[0].lookup_key = Some("pro".to_owned());
        sub.metadata = Metadata::from([("user_id".to_owned(), "u1".to_owned())]);
        desk.apply(&[
            known("evt_1", 600, &customer("cus_1", "a@example.com", NOW - 2000)),
            told("evt_2", "customer.subscription.created", 500, sub.render(ApiVersion::LATEST)),
        ])
        .await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn of_several_customers_with_one_address_the_one_stripe_made_first_is_the_users_whoever_comes_first() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let (first, second) =
            (customer("cus_b", "a@example.com", NOW - 3000), customer("cus_a", "a@example.com", NOW - 2000));
        desk.apply(&[known("evt_2", 600, &second), anonymous("evt_3", "sub_2", "cus_a", "elite")]).await;
        assert_eq!(desk.standing(user).await, "elite active access");
        desk.apply(&[known("evt_1", 700, &first)]).await;
        assert_eq!(desk.standing(user).await, "free active no access");
        desk.apply(&[anonymous("evt_4", "sub_1", "cus_b", "pro")]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        // A customer named outright takes the user from those that only share an address.
        let mut named = customer("cus_c", "other@example.com", NOW - 1000);
        named.metadata.insert("user_id".into(), user.to_string());
        desk.apply(&[known("evt_5", 100, &named)]).await;
        assert_eq!(desk.standing(user).await, "free active no access");
        desk.close().await;
    });
}

#[test]
fn the_hosts_own_word_on_a_users_customer_is_taken() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        desk.sql("UPDATE users SET subscription_stripe_customer_id = 'cus_7'").await;
        desk.apply(&[anonymous("evt_1", "sub_1", "cus_7", "pro")]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn the_hosts_word_outlives_whatever_is_derived_before_stripe_is_heard() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        desk.sql("UPDATE users SET subscription_stripe_customer_id = 'cus_7'").await;
        desk.put(user, "b@example.com").await;
        reproject_if_rules_changed(&desk.db, &desk.catalog, &desk.policy).await.expect("an answer");
        let customer = desk.user(user).await.projection.customer;
        assert_eq!(customer.as_ref().map(CustomerId::as_str), Some("cus_7"));
        desk.apply(&[anonymous("evt_1", "sub_1", "cus_7", "pro")]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn a_customer_that_takes_anothers_address_goes_over_to_them_however_events_are_cut() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (one, two) = (user_id(1), user_id(2));
        desk.put(one, "one@example.com").await;
        desk.put(two, "two@example.com").await;
        let mut first = customer("cus_1", "one@example.com", NOW - 2000);
        desk.apply(&[known("evt_1", 900, &first), anonymous("evt_2", "sub_1", "cus_1", "pro")]).await;
        assert_eq!(desk.standing(one).await, "pro active access");
        first.email = Some("two@example.com".into());
        let moved = told("evt_3", "customer.updated", 400, first.render(ApiVersion::LATEST));
        // In one batch with another event of the customer: our own mirror must not pass for the host's word.
        desk.apply(&[moved, anonymous("evt_4", "sub_2", "cus_1", "starter")]).await;
        assert_eq!(desk.standing(one).await, "free active no access");
        assert_eq!(desk.standing(two).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn users_can_be_told_while_their_events_are_applied() {
    on_each(|test_db| async {
        let options = ProcessorOptions { batch_events: 5, ..ProcessorOptions::default() };
        let desk = Desk::with(test_db, Policy::default(), options).await;
        let users: Vec<UserId> = (1..=8).map(user_id).collect();
        for (n, user) in users.iter().enumerate() {
            desk.put(*user, &format!("u{n}@example.com")).await;
        }
        for n in 0..80 {
            let user = users[n % users.len()];
            desk.deliver(&naming(&format!("evt_{n}"), &format!("sub_{n}"), &format!("cus_{user}"), user)).await;
        }
        let telling = async {
            for round in 0..10 {
                let puts = users.iter().enumerate().map(|(n, user)| {
                    let desk = &desk;
                    async move { desk.put(*user, &format!("u{n}.{round}@example.com")).await }
                });
                futures::future::join_all(puts).await;
            }
        };
        // `put` fails the test where it is refused, as it would be were the two to wait for each other.
        let (pass, ()) = tokio::join!(desk.work(), telling);
        assert!(!pass.disturbed, "{pass:?}");
        desk.work().await;
        for user in &users {
            assert_eq!(desk.standing(*user).await, "pro active access");
        }
        desk.close().await;
    });
}

#[test]
fn without_linking_by_address_such_a_customer_waits() {
    on_each(|test_db| async {
        let policy = Policy { link_by_email: false, ..Policy::default() };
        let desk = Desk::with(test_db, policy, ProcessorOptions::default()).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        desk.apply(&[
            known("evt_1", 600, &customer("cus_1", "a@example.com", NOW - 2000)),
            anonymous("evt_2", "sub_1", "cus_1", "pro"),
        ])
        .await;
        assert_eq!(desk.standing(user).await, "free active no access");
        desk.close_with(1, 0).await;
    });
}

#[test]
fn after_thirty_days_a_parked_event_is_given_to_a_person() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        desk.apply(&[anonymous("evt_1", "sub_1", "cus_1", "pro")]).await;
        let long_ago = match desk.kind() {
            testkit::Kind::Postgres => "now() - interval '31 days'",
            testkit::Kind::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-31 days')",
        };
        desk.sql(&format!("UPDATE stripe_webhooks SET created_at = {long_ago}")).await;
        desk.wait_out().await;
        assert_eq!(outcomes(&desk.work().await, Outcome::Failed), 1);
        let row = desk.event("evt_1").await;
        assert!(row.processing_error.expect("a reason").starts_with("unmatched user"));
        assert!(row.error_fingerprint.is_some());
        desk.close_with(0, 1).await;
    });
}
