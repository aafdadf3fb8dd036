//! What Stripe does with subscriptions, as its documentation tells.

use serde_json::Value;

use super::*;
use crate::{
    calendar::{HOUR, Interval, Unit},
    model::{AfterDunning, Card, InvoiceStatus, Metadata, NoCard, Status},
};

const START: i64 = 1_780_000_000;

struct Scene {
    account: Account,
    monthly: String,
    yearly: String,
    customer: String,
}

fn scene(version: ApiVersion) -> Scene {
    let mut account = Account::new(1, START, version, Share::NONE);
    let product = account.create_product(None, "Pro".into(), Metadata::new());
    let mut price = |unit, unit_amount| {
        let interval = Some(Interval { unit, count: 1 });
        let (lookup_key, nickname) = (None, None);
        let new = NewPrice {
            id: None,
            product: product.clone(),
            unit_amount,
            currency: "usd".into(),
            interval,
            lookup_key,
            nickname,
            metadata: Metadata::new(),
        };
        account.create_price(new).expect("a price")
    };
    let (monthly, yearly) = (price(Unit::Month, 1900), price(Unit::Year, 19_000));
    let customer = account.create_customer(CustomerChange::default());
    Scene { account, monthly, yearly, customer }
}

impl Scene {
    fn subscribe(&mut self, more: impl FnOnce(&mut NewSubscription)) -> String {
        let mut new = NewSubscription::of(&self.customer, &self.monthly);
        more(&mut new);
        self.account.create_subscription(new).expect("a subscription")
    }

    fn card(&mut self, card: Card) {
        let told = CustomerChange { card: Some(card), ..CustomerChange::default() };
        self.account.update_customer(&self.customer, told).expect("a customer");
    }

    fn run(&mut self, until: i64) {
        while self.account.step(until) {}
        self.account.pass(until);
    }

    fn types(&mut self) -> Vec<&'static str> {
        self.account.take_events().iter().map(|event| event.event_type).collect()
    }

    fn status(&self, id: &str) -> Status {
        self.account.subscriptions.get(id).expect("known").status
    }
}

/// A month after [`START`], 2026-05-28.
fn a_month() -> i64 {
    Interval { unit: Unit::Month, count: 1 }.next_end(START, START)
}

#[test]
fn a_subscription_renews_with_its_period_and_is_paid_an_hour_later() {
    let mut scene = scene(ApiVersion::Endive);
    let id = scene.subscribe(|_| {});
    assert_eq!(scene.status(&id), Status::Active);
    scene.types();
    scene.run(a_month());
    assert_eq!(scene.types(), ["invoice.upcoming", "customer.subscription.updated", "invoice.created"]);
    let item = &scene.account.subscriptions.get(&id).expect("known").items[0];
    assert_eq!(item.period_start, a_month());
    scene.run(a_month() + HOUR);
    assert_eq!(
        scene.types(),
        ["invoice.finalized", "charge.succeeded", "invoice.updated", "invoice.paid", "invoice.payment_succeeded"]
    );
    let renewal = scene.account.last_event("customer.subscription.updated").expect("a renewal");
    assert_eq!(renewal["request"]["id"], Value::Null, "nobody asked for it");
    assert!(renewal["data"]["previous_attributes"]["items"].is_object());
    assert!(renewal["data"]["previous_attributes"]["latest_invoice"].is_string());
}

#[test]
fn a_trial_tells_of_its_end_three_days_before_and_then_is_billed() {
    let mut scene = scene(ApiVersion::Endive);
    let end = START + 14 * DAY;
    let id = scene.subscribe(|new| new.trial_end = Some(end));
    assert_eq!(scene.status(&id), Status::Trialing);
    let first = scene.account.last_event("invoice.paid").expect("an invoice over nothing");
    assert_eq!(first["data"]["object"]["amount_due"], 0);
    scene.types();
    scene.run(end - 3 * DAY - 1);
    assert_eq!(scene.types(), Vec::<&str>::new());
    scene.run(end - 3 * DAY);
    assert!(scene.types().contains(&"customer.subscription.trial_will_end"));
    scene.run(end + HOUR);
    assert_eq!(scene.status(&id), Status::Active);
    let paid = scene.account.last_event("invoice.paid").expect("the first bill");
    assert_eq!(paid["data"]["object"]["amount_due"], 1900);
    assert_eq!(paid["data"]["object"]["billing_reason"], "subscription_cycle");
}

#[test]
fn a_trial_without_a_card_ends_as_was_chosen() {
    for (choice, status, told) in [
        (NoCard::Pause, Status::Paused, "customer.subscription.paused"),
        (NoCard::Cancel, Status::Canceled, "customer.subscription.deleted"),
        (NoCard::CreateInvoice, Status::PastDue, "invoice.payment_failed"),
    ] {
        let mut scene = scene(ApiVersion::Endive);
        let id = scene.subscribe(|new| (new.trial_end, new.no_card) = (Some(START + 5 * DAY), choice));
        scene.card(Card::None);
        scene.run(START + 5 * DAY + HOUR);
        assert_eq!(scene.status(&id), status, "{choice:?}");
        assert!(scene.types().contains(&told), "{told}");
    }
}

#[test]
fn an_unpaid_renewal_is_tried_four_times_and_then_ends_as_the_account_wants() {
    for (after, status) in [
        (AfterDunning::Cancel, Status::Canceled),
        (AfterDunning::Unpaid, Status::Unpaid),
        (AfterDunning::LeavePastDue, Status::PastDue),
    ] {
        let mut scene = scene(ApiVersion::Endive);
        let id = scene.subscribe(|_| {});
        scene.account.subscriptions.get_mut(&id).expect("known").after_dunning = after;
        scene.card(Card::Declines);
        scene.types();
        scene.run(a_month() + HOUR);
        assert_eq!(scene.status(&id), Status::PastDue);
        scene.run(a_month() + 16 * DAY);
        let failures = scene.types().iter().filter(|kind| **kind == "invoice.payment_failed").count();
        assert_eq!(failures, 4);
        assert_eq!(scene.status(&id), status, "{after:?}");
        let last = scene.account.last_event("invoice.payment_failed").expect("a failure");
        assert_eq!(last["data"]["object"]["next_payment_attempt"], Value::Null);
        assert_eq!(last["data"]["object"]["attempt_count"], 4);
    }
}

#[test]
fn whoever_pays_while_it_is_tried_again_is_in_good_standing() {
    let mut scene = scene(ApiVersion::Endive);
    let id = scene.subscribe(|_| {});
    scene.card(Card::Declines);
    scene.run(a_month() + 4 * DAY);
    assert_eq!(scene.status(&id), Status::PastDue);
    let invoice = scene.account.subscriptions.get(&id).expect("known").invoices.last().cloned().expect("an invoice");
    assert_eq!(scene.account.pay_invoice(&invoice).map_err(|refusal| refusal.status), Err(402));
    scene.card(Card::Good);
    scene.account.pay_invoice(&invoice).expect("paid");
    assert_eq!(scene.status(&id), Status::Active);
    scene.types();
    scene.run(a_month() + 20 * DAY);
    assert!(!scene.types().iter().any(|kind| kind.starts_with("invoice.payment")), "nothing is tried any more");
}

#[test]
fn a_first_payment_that_never_comes_expires_after_23_hours() {
    let mut scene = scene(ApiVersion::Endive);
    let id = scene.subscribe(|new| new.first_payment = FirstPayment::ByCustomer);
    assert_eq!(scene.status(&id), Status::Incomplete);
    scene.run(START + 23 * HOUR - 1);
    assert_eq!(scene.status(&id), Status::Incomplete);
    scene.run(START + 23 * HOUR);
    assert_eq!(scene.status(&id), Status::IncompleteExpired);
    assert!(scene.types().contains(&"invoice.voided"));
}

#[test]
fn before_basil_a_subscription_is_incomplete_for_a_moment() {
    let mut old = scene(ApiVersion::V2020_08_27);
    let id = old.subscribe(|_| {});
    assert_eq!(old.status(&id), Status::Active);
    let created = old.account.last_event("customer.subscription.created").expect("told");
    assert_eq!(created["data"]["object"]["status"], "incomplete");
    let mut new = scene(ApiVersion::Basil);
    new.subscribe(|_| {});
    let created = new.account.last_event("customer.subscription.created").expect("told");
    assert_eq!(created["data"]["object"]["status"], "active");
}

#[test]
fn an_end_is_scheduled_in_the_shape_of_its_billing_mode_and_comes() {
    let mut scene = scene(ApiVersion::Endive);
    let flag = scene.subscribe(|_| {});
    let portal = scene.subscribe(|_| {});
    let date = scene.subscribe(|_| {});
    let undone = scene.subscribe(|_| {});
    scene.account.cancel(&flag, When::PeriodEnd).expect("done");
    scene.account.cancel(&portal, When::PortalPeriodEnd).expect("done");
    scene.account.cancel(&date, When::At(START + 10 * DAY)).expect("done");
    scene.account.cancel(&undone, When::PeriodEnd).expect("done");
    scene.account.cancel(&undone, When::Never).expect("done");
    let shape = |id: &str| {
        let subscription = scene.account.subscriptions.get(id).expect("known");
        (subscription.cancel_at_period_end, subscription.cancel_at.is_some(), subscription.status)
    };
    assert_eq!(shape(&flag), (true, true, Status::Active));
    assert_eq!(shape(&portal), (false, true, Status::Active));
    assert_eq!(shape(&undone), (false, false, Status::Active));
    scene.run(START + 10 * DAY);
    assert_eq!(scene.status(&date), Status::Canceled);
    scene.run(a_month() + DAY);
    for ended in [&flag, &portal] {
        let subscription = scene.account.subscriptions.get(ended).expect("known");
        assert_eq!(subscription.status, Status::Canceled);
        assert!(subscription.canceled_at < subscription.ended_at, "asked for long before");
    }
    assert_eq!(scene.status(&undone), Status::Active);
}

#[test]
fn a_change_of_price_waits_for_the_next_bill_unless_the_interval_changes() {
    let mut scene = scene(ApiVersion::Endive);
    let id = scene.subscribe(|new| new.flexible = Some(false));
    let item = scene.account.subscriptions.get(&id).expect("known").items[0].clone();
    let change = |price: &str| SubscriptionChange {
        items: vec![ItemChange { id: Some(item.id.clone()), price: Some(price.to_owned()), ..ItemChange::default() }],
        ..SubscriptionChange::default()
    };
    scene.run(START + 10 * DAY);
    scene.types();
    let same = scene.monthly.clone();
    scene.account.update_subscription(&id, change(&same)).expect("done");
    assert_eq!(scene.types(), ["customer.subscription.updated"]);
    let yearly = scene.yearly.clone();
    scene.account.update_subscription(&id, change(&yearly)).expect("done");
    let types = scene.types();
    assert!(types.contains(&"invoice.paid"), "{types:?}");
    let now = scene.account.subscriptions.get(&id).expect("known");
    assert_eq!((now.anchor, now.items[0].period_start), (START + 10 * DAY, START + 10 * DAY));
    assert_eq!(now.items[0].period_end, START + 10 * DAY + 365 * DAY);
}

#[test]
fn classic_billing_does_not_mix_intervals_and_flexible_does() {
    let mut scene = scene(ApiVersion::Endive);
    let yearly = scene.yearly.clone();
    let both = |new: &mut NewSubscription| new.items.push((yearly.clone(), 1));
    let mut classic = NewSubscription::of(&scene.customer, &scene.monthly);
    classic.flexible = Some(false);
    both(&mut classic);
    assert_eq!(scene.account.create_subscription(classic).map_err(|refusal| refusal.status), Err(400));
    let id = scene.subscribe(both);
    scene.run(a_month());
    let items = &scene.account.subscriptions.get(&id).expect("known").items;
    assert_eq!(items.iter().map(|item| item.period_start).collect::<Vec<_>>(), [a_month(), START]);
}

#[test]
fn a_paused_collection_keeps_the_status_and_a_paused_subscription_does_not() {
    let mut scene = scene(ApiVersion::Endive);
    let id = scene.subscribe(|_| {});
    let pause = crate::model::PausedCollection { behavior: "void".into(), resumes_at: Some(a_month() + 2 * DAY) };
    let change = SubscriptionChange { collection: Collection::Pause(pause), ..SubscriptionChange::default() };
    scene.account.update_subscription(&id, change).expect("done");
    scene.run(a_month() + DAY);
    assert_eq!(scene.status(&id), Status::Active);
    let invoice = scene.account.subscriptions.get(&id).expect("known").invoices.last().cloned().expect("an invoice");
    assert_eq!(scene.account.invoices.get(&invoice).expect("known").status, InvoiceStatus::Void);
    scene.run(a_month() + 2 * DAY);
    assert_eq!(scene.account.subscriptions.get(&id).expect("known").pause_collection, None);
    scene.account.pause(&id).expect("done");
    assert_eq!(scene.status(&id), Status::Paused);
    scene.run(a_month() + 90 * DAY);
    assert_eq!(scene.status(&id), Status::Paused, "no period passes");
    scene.account.resume(&id).expect("done");
    assert_eq!(scene.status(&id), Status::Active);
    let subscription = scene.account.subscriptions.get(&id).expect("known");
    assert!(subscription.items[0].period_start >= a_month() + 90 * DAY);
}

#[test]
fn a_deleted_customer_takes_their_subscriptions_along() {
    let mut scene = scene(ApiVersion::Endive);
    let id = scene.subscribe(|_| {});
    scene.types();
    let customer = scene.customer.clone();
    scene.account.delete_customer(&customer).expect("done");
    assert_eq!(scene.types(), ["customer.subscription.deleted", "customer.deleted"]);
    assert_eq!(scene.status(&id), Status::Canceled);
    assert!(scene.account.delete_customer(&customer).is_err());
}

#[test]
fn a_checkout_makes_the_customer_and_the_subscription_and_tells_of_it_last() {
    let mut scene = scene(ApiVersion::Endive);
    let new = NewSession {
        customer_email: Some("a@example.com".into()),
        reference: Some("user".into()),
        line_items: vec![(scene.monthly.clone(), 1)],
        ..NewSession::default()
    };
    let session = scene.account.create_session(new.clone()).expect("a session");
    let left = scene.account.create_session(new).expect("a session");
    scene.types();
    scene.account.complete_session(&session, false).expect("done");
    let types = scene.types();
    assert_eq!(types.first(), Some(&"customer.created"));
    assert_eq!(types.last(), Some(&"checkout.session.completed"));
    let told = scene.account.last_event("checkout.session.completed").expect("told");
    let object = &told["data"]["object"];
    assert_eq!(object["client_reference_id"], "user");
    assert_eq!(object["payment_status"], "paid");
    assert_eq!(object["customer_details"]["email"], "a@example.com");
    assert!(object["subscription"].is_string());
    assert!(scene.account.complete_session(&session, false).is_err(), "once");
    scene.run(START + 2 * DAY);
    assert_eq!(scene.types(), ["checkout.session.expired"]);
    assert_eq!(scene.account.sessions.get(&left).expect("known").status, crate::model::SessionStatus::Expired);
}

#[test]
fn while_a_secret_is_rolled_both_are_in_force() {
    let mut scene = scene(ApiVersion::Endive);
    let account = &mut scene.account;
    let id = account.create_endpoint("http://x/".into(), vec!["*".into()], Some("old".into()), None, Metadata::new());
    account.roll_secret(&id, "new".into(), START + DAY);
    let endpoint = account.endpoints.get(&id).expect("known");
    assert_eq!(endpoint.secrets_at(START), ["new", "old"]);
    assert_eq!(endpoint.secrets_at(START + DAY), ["new"]);
}
