//! What `trueup check` finds in what is stored and at Stripe.

use billing::{
    catalog::{Catalog, Plan},
    checkup::{self, Item, State},
    endpoint::Expected,
    stripe::StripeError,
};
use serde_json::json;
use testkit::{TestDb, on_each};

use crate::{
    desk::user_id,
    reconcile_desk::{APPLY, ReconcileDesk, anonymous, owned, shown},
    scripted::no_permission,
    semantics::told,
};

async fn desk(test_db: TestDb) -> ReconcileDesk {
    let r = ReconcileDesk::new(test_db).await;
    r.stripe.endpoints([json!({
        "id": "we_1", "url": "https://a.example.com/api/v1/stripe/webhook", "status": "enabled", "enabled_events": ["*"],
    })]);
    r
}

#[track_caller]
fn find(items: &[Item], part: &str) -> Item {
    items.iter().find(|item| item.what.contains(part)).unwrap_or_else(|| panic!("`{part}` in {items:#?}")).clone()
}

#[test]
fn what_is_stored_is_looked_through_for_what_needs_a_person() {
    on_each(|test_db| async {
        let r = desk(test_db).await;
        let stored = checkup::stored(&r.desk.db, &r.desk.catalog, false).await.expect("an answer");
        assert!(stored.iter().all(|item| item.state == State::Ok && item.remedy.is_none()), "{stored:?}");
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        // An unmapped price; one mapped by the subscription's own word; one that waits for its user.
        let mut unmapped = owned(1, user, "active");
        unmapped.items[0].lookup_key = None;
        unmapped.items[0].price = "price_new".into();
        let mut by_word = owned(2, user, "active");
        by_word.items[0].lookup_key = None;
        by_word.items[0].price = "price_word".into();
        by_word.metadata.insert("tier".into(), "pro".into());
        let parked = anonymous(3, "active");
        for (number, sub) in [&unmapped, &by_word, &parked].into_iter().enumerate() {
            r.desk.apply(&[told(&format!("evt_{number}"), "customer.subscription.created", 500, shown(sub))]).await;
        }
        r.desk.sql("UPDATE subscriptions SET needs_refresh = true WHERE id = 'sub_2'").await;
        let stored = checkup::stored(&r.desk.db, &r.desk.catalog, true).await.expect("an answer");
        let item = find(&stored, "lead to no tier");
        assert!(item.state == State::Bad && item.what.ends_with("price_new (1)"), "{item:?}");
        assert_eq!(find(&stored, "wait for a user").state, State::Warn);
        assert_eq!(find(&stored, "1 are uncertain").remedy.as_deref(), Some("run `trueup reconcile`"));
        assert_eq!(find(&stored, "never to its end").state, State::Warn);
        assert_eq!(find(&stored, "never asked for").state, State::Warn);
        r.stripe.subscriptions([shown(&unmapped), shown(&by_word), shown(&parked)]);
        r.succeeds(APPLY).await;
        let stored = checkup::stored(&r.desk.db, &r.desk.catalog, true).await.expect("an answer");
        assert_eq!(find(&stored, "last to its end").state, State::Ok);
        r.desk.close_with(1, 0).await;
    });
}

#[test]
fn stripe_is_asked_for_a_little_of_everything_that_is_needed() {
    on_each(|test_db| async {
        let r = desk(test_db).await;
        let plan = |tier: &str, prices: &[&str]| Plan {
            tier: tier.into(),
            prices: prices.iter().map(ToString::to_string).collect(),
            ..Plan::default()
        };
        let catalog = Catalog::new(vec![plan("free", &[]), plan("pro", &["price_1", "price_typo"])]).expect("plans");
        r.stripe.prices(&["price_1"]);
        let expected = Expected { public_url: None, livemode: Some(false) };
        let ask = async || checkup::stripe(&r.stripe, &catalog, &expected).await;
        let asked = ask().await;
        assert_eq!((asked.account.as_deref(), asked.works), (Some("acct_1"), true));
        let items = asked.items;
        let all = "may read subscriptions, customers, checkout sessions, invoices, events, charges, disputes";
        assert_eq!(find(&items, all).state, State::Ok);
        let typo = find(&items, "Stripe does not know");
        assert!(typo.state == State::Bad && typo.what.contains("price_typo") && !typo.what.contains("price_1"));
        // The script's clock stands still, far from ours.
        assert_eq!(find(&items, "ahead of Stripe's").state, State::Bad);
        assert_eq!(find(&items, "we_1 names no API version").state, State::Warn);
        r.stripe.fail("customer cus_trueup_check", no_permission("customers"));
        r.stripe.fail("endpoints", no_permission("webhook endpoints"));
        r.stripe.fail("charge ch_trueup_check", no_permission("charges"));
        let items = ask().await.items;
        assert_eq!(find(&items, "may not read customers").state, State::Bad);
        assert_eq!(find(&items, "may not read charges").state, State::Warn, "only thin events need it");
        assert_eq!(find(&items, "whether Stripe delivers cannot be checked").state, State::Warn);
        r.stripe.log();
        r.stripe.account(Err(StripeError::Key { message: "Invalid API Key provided".into(), request: None }));
        let asked = ask().await;
        assert_eq!(
            (asked.items.len(), asked.works, r.stripe.log().len()),
            (1, false, 1),
            "a wrong key is told once: {asked:?}"
        );
        r.desk.close().await;
    });
}

#[test]
fn plans_and_prices_at_stripe_must_lead_to_each_other() {
    on_each(|test_db| async {
        let r = desk(test_db).await;
        let plan = |tier: &str, lookup_keys: &[&str]| Plan {
            tier: tier.into(),
            lookup_keys: lookup_keys.iter().map(ToString::to_string).collect(),
            ..Plan::default()
        };
        let catalog =
            Catalog::new(vec![plan("free", &[]), plan("pro", &["pro", "pro_old"]), plan("elite", &["elite"])])
                .expect("plans");
        let expected = Expected::default();
        let price = |id: &str, key: Option<&str>, active: bool| {
            json!({"id": id, "object": "price", "active": active, "lookup_key": key, "product": "prod_1", "metadata": {},
                   "recurring": {"interval": "month"}})
        };
        let once =
            json!({"id": "price_once", "object": "price", "active": true, "product": "prod_2", "recurring": null});
        r.stripe.listed_prices([
            price("price_pro", Some("pro"), true),
            price("price_elite", Some("elite"), false),
            once.clone(),
        ]);
        let items = checkup::stripe(&r.stripe, &catalog, &expected).await.items;
        assert_eq!(find(&items, "all 1 active recurring prices").state, State::Ok);
        assert!(
            items.iter().all(|item| !item.what.contains("leads to elite")),
            "an archived price is still paid: {items:?}"
        );
        r.stripe.listed_prices([price("price_pro", Some("pro"), true), price("price_new", None, true), once]);
        let items = checkup::stripe(&r.stripe, &catalog, &expected).await.items;
        let nowhere = find(&items, "lead to no tier by themselves");
        assert!(nowhere.state == State::Warn && nowhere.what.ends_with(": price_new"), "{nowhere:?}");
        assert_eq!(find(&items, "no price at Stripe leads to elite").state, State::Warn);
        r.stripe.fail("prices", no_permission("prices"));
        let items = checkup::stripe(&r.stripe, &catalog, &expected).await.items;
        assert_eq!(find(&items, "cannot be told").state, State::Warn);
        r.desk.close().await;
    });
}
