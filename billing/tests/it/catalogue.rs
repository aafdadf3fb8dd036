//! A changed catalogue reaches everybody.

use billing::{
    catalog::{Catalog, Plan},
    reprojection::reproject_if_rules_changed,
    samples::ApiVersion,
};
use testkit::on_each;

use crate::{
    desk::{Desk, user_id},
    semantics::{subscription, told},
};

#[test]
fn a_changed_catalogue_gives_everybody_what_it_says_once() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let (payer, free) = (user_id(1), user_id(2));
        desk.put(payer, "a@example.com").await;
        desk.put(free, "b@example.com").await;
        let sub = subscription(payer, "pro", "active").render(ApiVersion::LATEST);
        desk.apply(&[told("evt_1", "customer.subscription.updated", 100, sub)]).await;
        let first = reproject_if_rules_changed(&desk.db, &desk.catalog, &desk.policy).await.expect("an answer");
        assert_eq!((first.users, first.changed), (2, 0), "the first start looks, and finds all as it should be");

        let plan = |tier: &str, limit, key: &str| Plan {
            tier: tier.into(),
            monthly_limit: limit,
            lookup_keys: vec![key.into()],
            ..Plan::default()
        };
        let plans = vec![plan("free", Some(3), "free"), plan("gold", Some(500), "pro")];
        let catalog = Catalog::new(plans).expect("a right catalogue");
        let second = reproject_if_rules_changed(&desk.db, &catalog, &desk.policy).await.expect("an answer");
        assert_eq!((second.users, second.changed), (2, 2));
        assert_eq!(desk.timeline(payer).await.last().expect("an entry").after["tier"], "gold");
        assert_eq!(desk.timeline(free).await.last().expect("an entry").after["limit"], 3);
        let third = reproject_if_rules_changed(&desk.db, &catalog, &desk.policy).await.expect("an answer");
        assert_eq!(third.users, 0, "the same rules are not gone through again");
        desk.close().await;
    });
}
