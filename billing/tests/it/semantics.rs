//! What each event does, on each database.

use billing::{
    policy::Policy,
    processor::{Outcome, ProcessorOptions},
    samples::{
        ApiVersion, ChargeSample, CheckoutSessionSample, CustomerSample, DisputeSample, InvoiceSample, Metadata,
        SubscriptionSample, event, thin_event,
    },
};
use entity::{
    Time, email_outbox,
    enums::{EmailKind, ProcessingStatus},
    ids::{CustomerId, SubscriptionId, UserId},
};
use sea_orm::EntityTrait;
use serde_json::{Value, json};
use testkit::on_each;

use crate::desk::{Desk, NOW, outcomes, user_id};

const DAY: i64 = 86_400;

fn at(seconds: i64) -> Time {
    Time::from_timestamp(seconds, 0).expect("a moment")
}

/// A subscription of `user` to `tier`, made ten days ago.
pub(crate) fn subscription(user: UserId, tier: &str, status: &str) -> SubscriptionSample {
    let mut subscription = SubscriptionSample::new("sub_1", "cus_1", status, NOW - 10 * DAY);
    subscription.items[0].lookup_key = Some(tier.to_owned());
    subscription.metadata = Metadata::from([("user_id".to_owned(), user.to_string())]);
    subscription
}

pub(crate) fn told(id: &str, event_type: &str, seconds_ago: i64, object: Value) -> Value {
    event(id, event_type, NOW - seconds_ago, ApiVersion::LATEST, object, None)
}

fn updated(id: &str, seconds_ago: i64, subscription: &SubscriptionSample) -> Value {
    told(id, "customer.subscription.updated", seconds_ago, subscription.render(ApiVersion::LATEST))
}

fn invoice(subscription: &SubscriptionSample, id: &str, reason: &str, status: &str, seconds_ago: i64) -> InvoiceSample {
    InvoiceSample::of(subscription, id, reason, status, NOW - seconds_ago)
}

fn bill(id: &str, event_type: &str, seconds_ago: i64, invoice: &InvoiceSample) -> Value {
    told(id, event_type, seconds_ago, invoice.render(ApiVersion::LATEST))
}

#[test]
fn a_subscription_event_gives_its_user_the_tier_and_deletion_takes_it() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        assert_eq!(desk.standing(user).await, "free active no access");
        let mut subscription = subscription(user, "pro", "active");
        desk.apply(&[updated("evt_1", 100, &subscription)]).await;
        let view = desk.user(user).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        assert_eq!(view.projection.entitlement.limit, Some(100));
        assert_eq!(view.projection.subscription.as_ref().map(SubscriptionId::as_str), Some("sub_1"));
        assert_eq!(view.projection.customer.as_ref().map(CustomerId::as_str), Some("cus_1"));
        assert_eq!(view.projection.entitlement.current_period_end.map(|t| t.timestamp()), subscription.period_end());
        assert_eq!(view.window.start.timestamp(), subscription.period_start().expect("a period"));

        subscription.status = "canceled".into();
        subscription.ended_at = Some(NOW - 50);
        desk.apply(&[told("evt_2", "customer.subscription.deleted", 50, subscription.render(ApiVersion::LATEST))])
            .await;
        assert_eq!(desk.standing(user).await, "free canceled no access");

        let timeline = desk.timeline(user).await;
        assert_eq!(timeline.len(), 2, "creating and linking alone write nothing");
        assert_eq!(timeline[0].before["tier"], "free");
        assert_eq!(timeline[0].after["tier"], "pro");
        assert_eq!(timeline[0].event_id.as_deref(), Some("evt_1"));
        assert_eq!(timeline[0].reason, "customer.subscription.updated: sub_1 (active) entitles to pro");
        assert_eq!(timeline[1].after["status"], "canceled");
        desk.close().await;
    });
}

#[test]
fn created_after_updated_does_not_bring_the_first_state_back() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let mut sub = subscription(user, "pro", "active");
        desk.apply(&[updated("evt_b", 100, &sub)]).await;
        sub.status = "incomplete".into();
        // The same second: Stripe's clock cannot tell, the kind of the event can.
        desk.deliver(&told("evt_z", "customer.subscription.created", 100, sub.render(ApiVersion::LATEST))).await;
        let pass = desk.work().await;
        assert_eq!(outcomes(&pass, Outcome::Stale), 1);
        assert_eq!(desk.standing(user).await, "pro active access");
        let note = desk.event("evt_z").await.processing_error_details.expect("a note");
        assert_eq!(note["note"], "stale: a newer snapshot of the subscription is stored");
        desk.close().await;
    });
}

#[test]
fn two_snapshots_of_one_second_that_disagree_are_marked_until_a_later_second() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let needs_refresh = async || {
            let row = entity::subscriptions::Entity::find().one(desk.db.reader()).await.expect("an answer");
            row.expect("the subscription").needs_refresh
        };
        let mut sub = subscription(user, "pro", "active");
        desk.apply(&[updated("evt_1", 100, &sub), updated("evt_2", 100, &sub)]).await;
        assert!(!needs_refresh().await, "two events for one change agree");
        sub.status = "past_due".into();
        desk.apply(&[updated("evt_0", 100, &sub)]).await;
        assert!(needs_refresh().await);
        desk.apply(&[updated("evt_3", 99, &sub)]).await;
        assert!(!needs_refresh().await);
        desk.close().await;
    });
}

#[test]
fn a_checkout_gives_the_tier_of_its_metadata_until_the_subscription_itself_is_seen() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let mut session = CheckoutSessionSample::new("cs_1", "cus_1", "sub_1", NOW - 100);
        session.client_reference_id = Some(user.to_string());
        session.metadata = Metadata::from([("tier".to_owned(), "starter".to_owned())]);
        let completed = |id: &str, s: &CheckoutSessionSample| {
            told(id, "checkout.session.completed", 100, s.render(ApiVersion::LATEST))
        };
        desk.apply(&[completed("evt_1", &session)]).await;
        assert_eq!(desk.standing(user).await, "starter active access");
        // An older second, but the subscription's own word.
        let mut sub = subscription(user, "elite", "trialing");
        sub.metadata = Metadata::new();
        desk.apply(&[updated("evt_2", 500, &sub)]).await;
        assert_eq!(desk.standing(user).await, "elite trialing access");
        desk.apply(&[completed("evt_3", &session)]).await;
        assert_eq!(desk.standing(user).await, "elite trialing access");
        desk.close().await;
    });
}

#[test]
fn an_unpaid_checkout_gives_nothing_until_its_payment_settles_and_is_withdrawn_when_it_fails() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let session = |number: u8, payment_status: &str| {
            let mut session =
                CheckoutSessionSample::new(format!("cs_{number}"), "cus_1", format!("sub_{number}"), NOW - 100);
            session.client_reference_id = Some(user.to_string());
            session.metadata = Metadata::from([("tier".to_owned(), "pro".to_owned())]);
            session.payment_status = payment_status.to_owned();
            session.render(ApiVersion::LATEST)
        };
        desk.apply(&[told("evt_1", "checkout.session.completed", 100, session(1, "unpaid"))]).await;
        assert_eq!(desk.standing(user).await, "free incomplete no access");
        desk.apply(&[told("evt_2", "checkout.session.async_payment_failed", 50, session(1, "unpaid"))]).await;
        assert_eq!(desk.standing(user).await, "free active no access", "as if it had never been");
        desk.apply(&[told("evt_3", "checkout.session.completed", 40, session(2, "unpaid"))]).await;
        desk.apply(&[told("evt_4", "checkout.session.async_payment_succeeded", 30, session(2, "paid"))]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        // Withdrawing changes nothing once there is more than the session's word.
        let mut sub = subscription(user, "pro", "active");
        sub.id = "sub_2".into();
        desk.apply(&[updated("evt_5", 20, &sub)]).await;
        desk.apply(&[told("evt_6", "checkout.session.expired", 10, session(2, "unpaid"))]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn a_checkout_that_sells_no_subscription_changes_nothing() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let mut session = CheckoutSessionSample::new("cs_1", "cus_1", "sub_1", NOW - 100);
        session.mode = "payment".into();
        session.subscription = None;
        desk.apply(&[told("evt_1", "checkout.session.completed", 100, session.render(ApiVersion::LATEST))]).await;
        assert_eq!(desk.event("evt_1").await.processing_status, ProcessingStatus::Completed);
        desk.close().await;
    });
}

#[test]
fn a_failed_renewal_makes_past_due_and_its_payment_makes_active_again() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let sub = subscription(user, "pro", "active");
        desk.apply(&[updated("evt_1", 1000, &sub)]).await;
        let open = invoice(&sub, "in_1", "subscription_cycle", "open", 900);
        desk.apply(&[bill("evt_2", "invoice.payment_failed", 900, &open)]).await;
        assert_eq!(desk.standing(user).await, "pro past_due access");
        let paid = invoice(&sub, "in_1", "subscription_cycle", "paid", 900);
        desk.apply(&[bill("evt_3", "invoice.paid", 800, &paid)]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        // The failure comes once more, late: paid beats failed.
        desk.apply(&[bill("evt_4", "invoice.payment_failed", 700, &open)]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn an_invoice_may_come_before_its_subscription() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let sub = subscription(user, "pro", "past_due");
        let paid = invoice(&sub, "in_1", "subscription_cycle", "paid", 900);
        desk.apply(&[bill("evt_1", "invoice.paid", 500, &paid)]).await;
        assert_eq!(desk.standing(user).await, "free active no access");
        desk.apply(&[updated("evt_2", 800, &sub)]).await;
        assert_eq!(desk.standing(user).await, "pro active access", "the payment is newer than the snapshot");
        desk.close().await;
    });
}

#[test]
fn a_failed_first_payment_or_change_does_not_make_past_due_and_a_one_off_invoice_says_nothing() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let sub = subscription(user, "pro", "active");
        desk.apply(&[updated("evt_1", 1000, &sub)]).await;
        let change = invoice(&sub, "in_1", "subscription_update", "open", 900);
        desk.apply(&[bill("evt_2", "invoice.payment_failed", 900, &change)]).await;
        let one_off = InvoiceSample::one_off("in_2", "cus_9", "open", NOW - 800);
        desk.apply(&[bill("evt_3", "invoice.payment_failed", 800, &one_off)]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        let stranger = desk.event("evt_3").await;
        assert_eq!(stranger.processing_status, ProcessingStatus::Completed);
        assert_eq!(stranger.processing_error_details.expect("a note")["note"], "no user of ours");
        desk.close().await;
    });
}

#[test]
fn void_and_uncollectible_invoices_say_nothing_and_status_never_goes_back() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let sub = subscription(user, "pro", "active");
        desk.apply(&[updated("evt_1", 1000, &sub)]).await;
        let status = |status: &str| invoice(&sub, "in_1", "subscription_cycle", status, 900);
        desk.apply(&[bill("evt_2", "invoice.payment_failed", 900, &status("open"))]).await;
        assert_eq!(desk.standing(user).await, "pro past_due access");
        desk.apply(&[bill("evt_3", "invoice.marked_uncollectible", 800, &status("uncollectible"))]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.apply(&[bill("evt_4", "invoice.finalized", 700, &status("open"))]).await;
        let row =
            entity::invoices::Entity::find().one(desk.db.reader()).await.expect("an answer").expect("the invoice");
        assert_eq!(row.status, Some(entity::enums::InvoiceStatus::Uncollectible));
        desk.apply(&[bill("evt_5", "invoice.voided", 600, &status("void"))]).await;
        desk.apply(&[bill("evt_6", "invoice.updated", 500, &status("void"))]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn past_due_ends_access_when_the_grace_is_over() {
    on_each(|test_db| async {
        let policy = Policy { past_due_grace: Some(chrono::TimeDelta::days(3)), ..Policy::default() };
        let desk = Desk::with(test_db, policy, ProcessorOptions::default()).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let sub = subscription(user, "pro", "active");
        let open = invoice(&sub, "in_1", "subscription_cycle", "open", 2 * DAY);
        desk.apply(&[updated("evt_1", 5 * DAY, &sub), bill("evt_2", "invoice.payment_failed", 2 * DAY, &open)]).await;
        assert_eq!(desk.standing(user).await, "pro past_due access");
        // A second failure does not begin the grace anew.
        desk.apply(&[bill("evt_3", "invoice.payment_failed", DAY, &open)]).await;
        let later = billing::users::get(&desk.db, &desk.catalog, &desk.policy, user, at(NOW + DAY)).await;
        let later = later.expect("an answer").expect("the user").projection.entitlement;
        assert_eq!((later.tier.as_str(), later.status.as_str(), later.access), ("free", "past_due", false));
        desk.close().await;
    });
}

#[test]
fn a_scheduled_end_ends_access_in_its_second_and_not_before_in_either_shape() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        // What is stored is computed by the database's clock, so the dates lie around today.
        let today = chrono::Utc::now().timestamp();
        let mut sub = subscription(user, "pro", "active");
        sub.set_period(today - 20 * DAY, today + 10 * DAY);
        let read = async |seconds: i64| {
            let view = billing::users::get(&desk.db, &desk.catalog, &desk.policy, user, at(seconds)).await;
            view.expect("an answer").expect("the user").projection.entitlement
        };
        // Classic billing: the flag.
        sub.cancel_at_period_end = true;
        desk.apply(&[updated("evt_1", 300, &sub)]).await;
        assert_eq!(read(today).await.cancel_at, Some(at(today + 10 * DAY)));
        assert!(read(today + 10 * DAY - 1).await.access);
        assert!(!read(today + 10 * DAY).await.access);
        assert_eq!(read(today + 10 * DAY).await.status, "canceled");
        // Flexible billing: the date alone.
        sub.cancel_at_period_end = false;
        sub.cancel_at = Some(today + 5 * DAY);
        desk.apply(&[updated("evt_2", 200, &sub)]).await;
        assert!(read(today + 5 * DAY - 1).await.access);
        assert!(!read(today + 5 * DAY).await.access);
        // Taken back: a passed period end alone ends nothing.
        sub.cancel_at = None;
        desk.apply(&[updated("evt_3", 100, &sub)]).await;
        assert!(read(today + 20 * DAY).await.access);
        assert_eq!(
            desk.timeline(user).await.len(),
            4 - 1,
            "an entry for each change of the scheduled end, and one for the start"
        );
        desk.close().await;
    });
}

#[test]
fn of_several_subscriptions_the_highest_plan_governs_and_the_next_takes_over() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let low = subscription(user, "starter", "active");
        let mut high = subscription(user, "elite", "active");
        high.id = "sub_2".into();
        desk.apply(&[updated("evt_1", 300, &low), updated("evt_2", 300, &high)]).await;
        assert_eq!(desk.standing(user).await, "elite active access");
        assert_eq!(desk.user(user).await.projection.entitlement.limit, None, "elite is unlimited");
        high.status = "unpaid".into();
        desk.apply(&[updated("evt_3", 200, &high)]).await;
        assert_eq!(desk.standing(user).await, "starter active access");
        desk.close().await;
    });
}

#[test]
fn a_price_that_no_plan_names_grants_nothing_and_an_unknown_status_gives_no_access() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let mut sub = subscription(user, "platinum", "active");
        desk.apply(&[updated("evt_1", 300, &sub)]).await;
        assert_eq!(desk.standing(user).await, "free active no access");
        sub.items[0].lookup_key = Some("pro".into());
        sub.status = "on_the_moon".into();
        desk.apply(&[updated("evt_2", 200, &sub)]).await;
        assert_eq!(desk.standing(user).await, "free on_the_moon no access");
        desk.close().await;
    });
}

#[test]
fn a_snapshot_without_a_status_takes_nothing_away() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let sub = subscription(user, "pro", "active");
        let mut broken = sub.render(ApiVersion::LATEST);
        broken["status"] = json!(null);
        desk.apply(&[updated("evt_1", 300, &sub), told("evt_2", "customer.subscription.updated", 200, broken)]).await;
        assert_eq!(desk.standing(user).await, "pro active access");
        let note = desk.event("evt_2").await.processing_error_details.expect("a note");
        assert_eq!(note["note"], "a subscription without a status; only named");
        desk.close().await;
    });
}

#[test]
fn a_deleted_customer_ends_its_subscriptions_even_where_it_was_deleted_before_it_was_seen() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let sub = subscription(user, "pro", "active");
        let mut customer = CustomerSample::new("cus_1", "a@example.com", NOW - 20 * DAY);
        customer.deleted = true;
        let gone = told("evt_2", "customer.deleted", 100, customer.render(ApiVersion::LATEST));
        desk.apply(&[gone]).await;
        desk.apply(&[updated("evt_1", 300, &sub)]).await;
        assert_eq!(desk.standing(user).await, "free canceled no access");
        assert_eq!(desk.user(user).await.projection.customer, None, "a deleted customer is nobody's");
        desk.close().await;
    });
}

#[test]
fn refunds_and_disputes_are_noted_and_change_no_access() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        desk.apply(&[updated("evt_1", 300, &subscription(user, "pro", "active"))]).await;
        let mut charge = ChargeSample::new("ch_1", "cus_1", NOW - 200);
        charge.amount_refunded = charge.amount;
        let dispute = DisputeSample::new("dp_1", &charge, NOW - 100);
        desk.apply(&[
            told("evt_2", "charge.refunded", 200, charge.render(ApiVersion::LATEST)),
            told("evt_3", "charge.dispute.created", 100, dispute.render(ApiVersion::LATEST)),
        ])
        .await;
        let refund = desk.event("evt_2").await;
        assert_eq!(refund.user_id, Some(user));
        assert_eq!(refund.processing_error_details.expect("a note")["note"], "a refund; access is unchanged");
        assert_eq!(desk.event("evt_3").await.processing_status, ProcessingStatus::Completed);
        assert_eq!(desk.standing(user).await, "pro active access");
        desk.close().await;
    });
}

#[test]
fn an_upcoming_invoice_has_no_id_and_leaves_no_row() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let preview = InvoiceSample::upcoming(&subscription(user_id(1), "pro", "active"), NOW);
        desk.apply(&[told("evt_1", "invoice.upcoming", 0, preview.render(ApiVersion::LATEST))]).await;
        assert_eq!(desk.event("evt_1").await.processing_status, ProcessingStatus::Completed);
        assert!(entity::invoices::Entity::find().one(desk.db.reader()).await.expect("an answer").is_none());
        desk.close().await;
    });
}

#[test]
fn without_a_key_a_thin_event_is_skipped_with_the_reason() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let thin = thin_event("evt_1", "customer.subscription.updated", NOW, "sub_1", "subscription");
        desk.deliver(&thin).await;
        let pass = desk.work().await;
        assert_eq!(outcomes(&pass, Outcome::Skipped), 1);
        let row = desk.event("evt_1").await;
        assert_eq!(row.event_type, "customer.subscription.updated");
        assert!(row.processing_error.expect("a reason").contains("STRIPE_SECRET_KEY"));
        desk.close().await;
    });
}

#[test]
fn events_with_fields_missing_null_or_of_another_type_are_applied_as_far_as_they_go() {
    on_each(|test_db| async {
        let desk = Desk::new(test_db).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let objects = [
            json!(null),
            json!({}),
            json!([1, 2]),
            json!({"id": 7}),
            json!({"id": "sub_9", "items": "none", "metadata": [], "customer": {"id": null}, "status": null}),
            json!({"id": "sub_8", "customer": {"id": "cus_8", "object": "customer"}, "items": {"data": [null, 3, {}]},
                "cancel_at": "soon", "metadata": {"user_id": user.to_string(), "tier": "pro"}, "status": "active",
                "created": 1e300}),
        ];
        let types = [
            "customer.subscription.updated",
            "invoice.paid",
            "checkout.session.completed",
            "customer.updated",
            "customer.deleted",
            "charge.refunded",
            "charge.dispute.created",
            "customer.subscription.deleted",
        ];
        for (t, event_type) in types.iter().enumerate() {
            for (o, object) in objects.iter().enumerate() {
                desk.deliver(&told(&format!("evt_{t}_{o}"), event_type, 100, object.clone())).await;
            }
        }
        let pass = desk.work().await;
        assert_eq!(pass.events(), types.len() * objects.len());
        assert_eq!(outcomes(&pass, Outcome::Failed) + outcomes(&pass, Outcome::Retried), 0);
        // Subscriptions nobody owns wait: sub_9 by its snapshot and its end, and what calls itself an invoice names none.
        let pending = desk.count(ProcessingStatus::Pending).await;
        desk.close_with(pending, 0).await;
    });
}

#[test]
fn emails_are_queued_once_for_each_reason_and_only_where_there_is_a_mail_server() {
    on_each(|test_db| async {
        let policy = Policy { queue_emails: true, ..Policy::default() };
        let desk = Desk::with(test_db, policy, ProcessorOptions::default()).await;
        let user = user_id(1);
        desk.put(user, "a@example.com").await;
        let mut sub = subscription(user, "pro", "trialing");
        sub.trial_start = Some(NOW - 10 * DAY);
        // The database's clock, not the test's, decides whether a trial is still to end.
        sub.trial_end = Some(chrono::Utc::now().timestamp() + 3 * DAY);
        let ending = sub.render(ApiVersion::LATEST);
        desk.apply(&[
            told("evt_1", "customer.subscription.trial_will_end", 500, ending.clone()),
            told("evt_2", "customer.subscription.trial_will_end", 500, ending.clone()),
        ])
        .await;
        let mut open = invoice(&sub, "in_1", "subscription_cycle", "open", 400);
        open.attempt_count = 1;
        desk.apply(&[
            bill("evt_3", "invoice.payment_failed", 400, &open),
            bill("evt_4", "invoice.payment_failed", 400, &open),
            bill("evt_5", "invoice.payment_action_required", 400, &open),
        ])
        .await;
        open.attempt_count = 2;
        desk.apply(&[bill("evt_6", "invoice.payment_failed", 300, &open)]).await;
        let mut kinds: Vec<EmailKind> = email_outbox::Entity::find()
            .all(desk.db.reader())
            .await
            .expect("an answer")
            .iter()
            .map(|row| row.kind)
            .collect();
        kinds.sort_unstable();
        assert_eq!(
            kinds,
            [
                EmailKind::PaymentFailed,
                EmailKind::PaymentFailed,
                EmailKind::PaymentActionRequired,
                EmailKind::TrialEnding
            ]
        );
        desk.close().await;
    });
}
