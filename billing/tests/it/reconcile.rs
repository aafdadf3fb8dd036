//! Reconciling finds what webhooks did not tell, and repairs it.

use billing::{
    fetched,
    reconcile::{Options, records},
    samples::{ApiVersion, CheckoutSessionSample, CustomerSample, Metadata},
};
use entity::{
    entitlement_changes,
    enums::{ChangeSource, DriftKind},
    ids::UserId,
};
use sea_orm::EntityTrait;
use serde_json::json;
use testkit::on_each;

use crate::{
    desk::{NOW, user_id},
    reconcile_desk::{APPLY, DRY, ReconcileDesk, anonymous, kinds, owned, shown},
    scripted::no_permission,
    semantics::told,
};

#[test]
fn what_webhooks_never_told_is_found_by_a_dry_run_and_taken_in_by_applying() {
    // Known from dj-stripe#1010, pay#382 and adcp#6686: nothing came, the events are too old to be sent again, and the user has paid.
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        r.stripe.subscriptions([shown(&owned(1, user, "active"))]);

        let dry = r.succeeds(DRY).await;
        assert_eq!(kinds(&dry), [(DriftKind::Missing, 1)]);
        assert_eq!((dry.scanned, dry.repaired, dry.access.gain, dry.access.lose), (1, 0, 1, 0));
        assert_eq!(r.desk.standing(user).await, "free active no access", "a dry run changes nothing");
        assert_eq!(r.status("sub_1").await, None);

        let applied = r.succeeds(APPLY).await;
        assert_eq!((kinds(&applied), applied.repaired), (vec![(DriftKind::Missing, 1)], 1));
        assert!(r.drifts(&applied).await[0].repaired && !r.drifts(&dry).await[0].repaired);
        assert_eq!(r.desk.standing(user).await, "pro active access");
        let rows = entitlement_changes::Entity::find().all(r.desk.db.reader()).await.expect("an answer");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].reconciliation_id, Some(applied.reconciliation), "every repair names its reconciliation");
        assert_eq!((rows[0].source, rows[0].event_id.as_deref()), (ChangeSource::Reconcile, None));

        assert_eq!(kinds(&r.succeeds(DRY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn a_subscription_canceled_while_webhooks_were_down_ends_here_too() {
    // Known from stripe/sync-engine#336, sync-engine-fork#399 and better-auth#3978: the list shows ended ones as well, and they are repaired.
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let mut sub = owned(1, user, "active");
        r.desk.apply(&[told("evt_1", "customer.subscription.created", 5000, shown(&sub))]).await;
        assert_eq!(r.desk.standing(user).await, "pro active access");
        sub.status = "canceled".into();
        sub.ended_at = Some(NOW - 300);
        r.stripe.subscriptions([shown(&sub)]);
        let report = r.succeeds(APPLY).await;
        let drift = &r.drifts(&report).await[0];
        let fields: Vec<&str> = drift.differences.iter().map(|found| found.field.as_str()).collect();
        assert_eq!((drift.kind, fields), (DriftKind::Differs, vec!["status", "cancellation"]));
        assert_eq!((&*drift.differences[0].here, &*drift.differences[0].stripe), ("active", "canceled"));
        assert_eq!(r.desk.standing(user).await, "free canceled no access");
        assert_eq!(kinds(&r.succeeds(APPLY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn a_webhook_newer_than_the_read_wins_and_a_stale_one_that_comes_late_loses() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let (user, others) = (user_id(1), user_id(2));
        r.desk.put(user, "a@example.com").await;
        r.desk.put(others, "b@example.com").await;
        let mut sub = owned(1, user, "past_due");
        r.desk.apply(&[told("evt_1", "customer.subscription.updated", 5000, shown(&sub))]).await;
        sub.status = "unpaid".into();
        r.stripe.page_size(1);
        r.stripe.at(NOW - 1000);
        r.stripe.subscriptions([shown(&sub), shown(&owned(2, others, "active")), shown(&owned(3, others, "active"))]);
        // The first page is compared by the time the last one is asked for.
        sub.status = "active".into();
        let newer = told("evt_2", "customer.subscription.updated", 900, shown(&sub));
        let (inbox, processor) = (r.desk.inbox.clone(), r.desk.processor.clone());
        r.stripe.meanwhile("subscriptions after sub_2", move || {
            let (inbox, processor, event) = (inbox.clone(), processor.clone(), newer.clone());
            Box::pin(async move {
                let event = crate::desk::verified(event.to_string().as_bytes());
                inbox.receive(event, billing::inbox::Arrival::Apply).await.expect("it is taken");
                processor.run_once(&tokio_util::sync::CancellationToken::new()).await.expect("it is applied");
            })
        });
        let report = r.succeeds(APPLY).await;
        assert_eq!(report.by_kind[&DriftKind::Differs], 1, "the read found it different");
        assert_eq!(r.status("sub_1").await.as_deref(), Some("active"), "and the webhook is newer than the read");
        assert_eq!(r.desk.standing(user).await, "pro active access");

        // Made before the read, and delivered only now.
        sub.status = "past_due".into();
        r.desk.apply(&[told("evt_3", "customer.subscription.updated", 2000, shown(&sub))]).await;
        r.desk
            .apply(&[told("evt_4", "customer.subscription.created", 3000, shown(&owned(3, others, "trialing")))])
            .await;
        assert_eq!(r.status("sub_1").await.as_deref(), Some("active"));
        assert_eq!(r.status("sub_3").await.as_deref(), Some("active"), "what was read is newer");
        r.desk.close().await;
    });
}

#[test]
fn a_row_that_is_newer_than_the_page_is_no_drift() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let mut sub = owned(1, user, "past_due");
        r.stripe.subscriptions([shown(&sub)]);
        r.stripe.at(NOW - 500);
        sub.status = "active".into();
        r.desk.apply(&[told("evt_1", "customer.subscription.updated", 400, shown(&sub))]).await;
        let report = r.succeeds(APPLY).await;
        assert_eq!((kinds(&report), report.newer_here), (vec![], 1));
        assert_eq!(r.status("sub_1").await.as_deref(), Some("active"));
        r.desk.close().await;
    });
}

#[test]
fn two_subscriptions_of_one_user_are_repaired_together_and_make_one_entry() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let mut old = owned(1, user, "active");
        r.desk.apply(&[told("evt_1", "customer.subscription.created", 5000, shown(&old))]).await;
        // Bought anew on another tier, and the old one ended: no event told of either.
        old.status = "canceled".into();
        let mut new = owned(2, user, "active");
        new.items[0].lookup_key = Some("elite".into());
        r.stripe.page_size(1);
        // Alone, what is read first would take the user's access.
        r.stripe.subscriptions([shown(&old), shown(&new)]);
        let report = r.succeeds(APPLY).await;
        assert_eq!((report.repaired, report.access.lose), (2, 0), "nobody loses access on the way");
        let entries = r.desk.timeline(user).await;
        assert_eq!(entries.len(), 2, "{entries:?}");
        assert_eq!((&entries[1].before["tier"], &entries[1].after["tier"]), (&json!("pro"), &json!("elite")));
        r.desk.close().await;
    });
}

#[test]
fn what_nobody_of_ours_owns_is_told_and_found_an_owner_where_stripe_knows_one() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let (user, stranger) = (user_id(1), user_id(99));
        r.desk.put(user, "ada@example.com").await;
        let ended = anonymous(4, "canceled");
        let subs = [owned(1, stranger, "active"), anonymous(2, "active"), anonymous(3, "active"), ended];
        r.stripe.subscriptions(subs.iter().map(shown));
        // The webhooks that told of this customer never came.
        r.stripe.customer(CustomerSample::new("cus_2", "Ada@Example.com", NOW - 9000).render(ApiVersion::LATEST));
        let dry = r.succeeds(DRY).await;
        assert_eq!(
            kinds(&dry),
            [(DriftKind::Missing, 4), (DriftKind::UnknownUser, 3)],
            "what has ended needs no owner"
        );
        let unknown: Vec<_> = r.drifts(&dry).await.into_iter().filter(|d| d.kind == DriftKind::UnknownUser).collect();
        assert_eq!(unknown[0].stripe.as_ref().expect("a side")["user_id"], json!(stranger.to_string()));
        assert!(!r.stripe.log().iter().any(|call| call.starts_with("customer ")), "a dry run asks for no customers");

        let applied = r.succeeds(APPLY).await;
        assert_eq!(applied.repaired, 5, "four that were missing, and one that has an owner now");
        assert_eq!(r.desk.standing(user).await, "pro active access");
        let asked: Vec<String> = r.stripe.log().into_iter().filter(|call| call.starts_with("customer ")).collect();
        assert_eq!(
            asked,
            ["customer cus_2", "customer cus_3", "customer cus_4"],
            "whoever names a user waits for that user; what has ended is asked about last"
        );

        // The one who was named appears; the one whose customer Stripe does not know stays.
        r.desk.put(stranger, "stranger@example.com").await;
        assert_eq!(r.desk.standing(stranger).await, "pro active access");
        assert_eq!(kinds(&r.succeeds(DRY).await), [(DriftKind::UnknownUser, 1)]);
        r.desk.close().await;
    });
}

#[test]
fn the_checkout_that_sold_a_subscription_tells_whose_it_is_when_its_event_is_lost_for_good() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let (buyer, former, named) = (user_id(1), user_id(2), user_id(3));
        r.desk.put(buyer, "ada@example.com").await;
        r.desk.put(former, "bob@example.com").await;
        // Both pay under another address, so that only the checkout ties them.
        let pays_as =
            |number: u32| CustomerSample::new(format!("cus_{number}"), format!("payer{number}@example.org"), NOW);
        for number in 1..=4 {
            r.stripe.customer(pays_as(number).render(ApiVersion::LATEST));
        }
        let subs = [anonymous(1, "active"), anonymous(2, "canceled"), anonymous(3, "active"), anonymous(4, "active")];
        r.stripe.subscriptions(subs.iter().map(shown));
        let sold = |number: u32, user| {
            let mut session = CheckoutSessionSample::new(
                format!("cs_{number}"),
                format!("cus_{number}"),
                format!("sub_{number}"),
                NOW - 864_000,
            );
            session.client_reference_id = Some(UserId::to_string(&user));
            session.render(ApiVersion::LATEST)
        };
        r.stripe.sessions([sold(1, buyer), sold(2, former), sold(3, named)]);
        let dry = r.succeeds(DRY).await;
        assert_eq!(kinds(&dry), [(DriftKind::Missing, 4), (DriftKind::UnknownUser, 3)]);
        assert!(!r.stripe.log().iter().any(|call| call.starts_with("checkouts ")), "a dry run asks for none");

        let applied = r.succeeds(APPLY).await;
        assert_eq!(applied.repaired, 5, "four that were missing, and one that has an owner now");
        assert_eq!(r.desk.standing(buyer).await, "pro active access");
        assert_eq!(r.desk.standing(former).await, "free canceled no access", "how a user came to have no access");
        assert_eq!(kinds(&r.succeeds(DRY).await), [(DriftKind::UnknownUser, 2)]);

        // Who is named and comes later is found without any further call.
        r.desk.put(named, "eve@example.com").await;
        assert_eq!(r.desk.standing(named).await, "pro active access");
        r.stripe.log();
        r.succeeds(APPLY).await;
        let asked: Vec<String> = r.stripe.log().into_iter().filter(|call| call.starts_with("checkouts ")).collect();
        assert_eq!(asked, ["checkouts of sub_4"]);
        r.desk.close().await;
    });
}

#[test]
fn a_key_that_may_not_read_checkouts_is_told_and_everything_else_is_repaired() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "ada@example.com").await;
        let subs = [owned(1, user, "active"), anonymous(2, "active"), anonymous(3, "active")];
        r.stripe.subscriptions(subs.iter().map(shown));
        r.stripe.fail("checkouts of sub_2", no_permission("checkout sessions"));
        let applied = r.succeeds(APPLY).await;
        assert_eq!(r.desk.standing(user).await, "pro active access");
        assert!(
            applied.notes.iter().any(|note| note.contains("may not read checkout sessions")),
            "{:?}",
            applied.notes
        );
        let asked: Vec<String> = r.stripe.log().into_iter().filter(|call| call.starts_with("checkouts ")).collect();
        assert_eq!(asked, ["checkouts of sub_2"], "no other try helps");
        r.desk.close().await;
    });
}

#[test]
fn a_customer_that_the_host_wrote_into_a_users_row_makes_its_subscription_known() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "ada@example.com").await;
        r.desk.sql("UPDATE users SET subscription_stripe_customer_id = 'cus_1'").await;
        r.stripe.subscriptions([shown(&anonymous(1, "active"))]);
        let report = r.succeeds(APPLY).await;
        assert_eq!(report.by_kind[&DriftKind::UnknownUser], 0, "{:?}", r.drifts(&report).await);
        assert_eq!(r.desk.standing(user).await, "pro active access");
        assert_eq!(kinds(&r.succeeds(DRY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn a_price_that_no_plan_names_is_told_and_grants_nothing() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let mut sub = owned(1, user, "active");
        sub.items[0].lookup_key = None;
        sub.items[0].price = "price_new".into();
        let mut over = owned(2, user, "canceled");
        over.items[0].lookup_key = None;
        r.stripe.subscriptions([shown(&sub), shown(&over)]);
        let report = r.succeeds(APPLY).await;
        assert_eq!(kinds(&report), [(DriftKind::Missing, 2), (DriftKind::UnmappedPrice, 1)]);
        let told = r.drifts(&report).await.into_iter().find(|d| d.kind == DriftKind::UnmappedPrice).expect("told");
        assert_eq!((told.user_id, told.repaired), (Some(user), false));
        assert_eq!(told.stripe.expect("a side")["items"][0]["price"], "price_new");
        assert_eq!(r.desk.standing(user).await, "free active no access");
        assert_eq!(kinds(&r.succeeds(APPLY).await), [(DriftKind::UnmappedPrice, 1)], "until a plan names it");
        r.desk.close().await;
    });
}

#[test]
fn a_users_row_that_is_not_what_the_facts_say_is_put_right() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let (payer, free) = (user_id(1), user_id(2));
        r.desk.put(payer, "a@example.com").await;
        r.desk.put(free, "b@example.com").await;
        let sub = owned(1, payer, "active");
        r.desk.apply(&[told("evt_1", "customer.subscription.created", 5000, shown(&sub))]).await;
        r.stripe.subscriptions([shown(&sub)]);
        assert_eq!(kinds(&r.succeeds(DRY).await), []);
        // Somebody put things right by hand.
        r.desk.sql("UPDATE users SET subscription_tier = 'free', subscription_access = false WHERE email = 'a@example.com'").await;
        r.desk
            .sql("UPDATE users SET subscription_tier = 'elite', usage_limit = NULL WHERE email = 'b@example.com'")
            .await;
        let dry = r.succeeds(DRY).await;
        assert_eq!((kinds(&dry), dry.users), (vec![(DriftKind::Projection, 2)], 2));
        let drifts = r.drifts(&dry).await;
        let of = |user| drifts.iter().find(|drift| drift.user_id == Some(user)).expect("told");
        let fields: Vec<_> = of(payer).differences.iter().map(|d| (&*d.field, &*d.here, &*d.stripe)).collect();
        assert_eq!(fields, [("tier", "free", "pro"), ("access", "false", "true")]);
        assert_eq!(of(free).differences[1].here, "unlimited");
        let applied = r.succeeds(APPLY).await;
        assert_eq!(applied.repaired, 2);
        let entry = r.desk.timeline(free).await.pop().expect("an entry");
        assert_eq!((entry.source, &entry.after["tier"]), (ChangeSource::Reconcile, &json!("free")));
        assert_eq!(kinds(&r.succeeds(DRY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn an_owner_that_was_edited_by_hand_is_found_and_put_right() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let (payer, other) = (user_id(1), user_id(2));
        r.desk.put(payer, "a@example.com").await;
        r.desk.put(other, "b@example.com").await;
        let sub = owned(1, payer, "active");
        r.desk.apply(&[told("evt_1", "customer.subscription.created", 5000, shown(&sub))]).await;
        r.stripe.subscriptions([shown(&sub)]);
        r.desk.sql("UPDATE subscriptions SET user_id = (SELECT id FROM users WHERE email = 'b@example.com')").await;
        let report = r.succeeds(APPLY).await;
        assert_eq!(report.by_kind[&DriftKind::Differs], 1);
        let drift = r.drifts(&report).await.into_iter().find(|d| d.kind == DriftKind::Differs).expect("told");
        assert_eq!(drift.differences[0].field, "user");
        assert_eq!(r.desk.standing(payer).await, "pro active access");
        assert_eq!(r.desk.standing(other).await, "free active no access");
        assert_eq!(kinds(&r.succeeds(DRY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn what_has_ended_here_and_lives_at_stripe_is_told_and_left_to_a_person() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let ended = owned(1, user, "canceled");
        r.desk.apply(&[told("evt_1", "customer.subscription.deleted", 5000, shown(&ended))]).await;
        r.stripe.subscriptions([shown(&owned(1, user, "active"))]);
        let report = r.succeeds(APPLY).await;
        assert_eq!((kinds(&report), report.repaired), (vec![(DriftKind::Ahead, 1)], 0));
        assert_eq!(r.desk.standing(user).await, "free canceled no access");
        r.desk.close().await;
    });
}

#[test]
fn the_other_modes_subscriptions_are_ignored() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let mut live = owned(1, user, "active");
        live.livemode = true;
        r.stripe.subscriptions([shown(&live), shown(&owned(2, user, "active"))]);
        let report = r.succeeds(APPLY).await;
        assert_eq!((kinds(&report), report.other_mode, report.scanned), (vec![(DriftKind::Missing, 1)], 1, 2));
        assert_eq!(r.status("sub_1").await, None);
        r.desk.close().await;
    });
}

#[test]
fn an_object_that_cannot_be_read_is_counted_and_holds_nothing_up() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let odd = json!({"id": "sub_odd", "object": "subscription", "metadata": {"note": "\u{0}"}, "items": 5});
        r.stripe.subscriptions([odd, shown(&owned(1, user, "active"))]);
        let report = r.succeeds(APPLY).await;
        assert_eq!((report.unreadable, report.repaired), (1, 1));
        r.desk.close().await;
    });
}

#[test]
fn all_items_are_read_of_a_subscription_that_embeds_only_some() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let mut whole = owned(1, user, "active");
        let mut second = whole.items[0].clone();
        second.id = "si_second".into();
        second.lookup_key = Some("elite".into());
        whole.items.push(second);
        let mut part = shown(&whole);
        let items = part["items"]["data"].as_array().expect("items").clone();
        part["items"]["data"] = json!([items[0]]);
        part["items"]["has_more"] = json!(true);
        r.stripe.items("sub_1", items);
        r.stripe.page_size(1);
        r.stripe.subscriptions([part]);
        r.succeeds(APPLY).await;
        assert_eq!(r.desk.standing(user).await, "elite active access");
        assert_eq!(kinds(&r.succeeds(DRY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn one_user_alone_is_reconciled_by_their_customers() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let (one, other) = (user_id(1), user_id(2));
        r.desk.put(one, "a@example.com").await;
        r.desk.put(other, "b@example.com").await;
        let known = CustomerSample::new("cus_1", "a@example.com", NOW - 9000).render(ApiVersion::LATEST);
        r.desk.apply(&[told("evt_1", "customer.created", 5000, known)]).await;
        r.stripe.subscriptions([shown(&anonymous(1, "active")), shown(&owned(2, other, "active"))]);
        let report = r.succeeds(Options { user: Some(one), ..APPLY }).await;
        assert_eq!((report.scanned, report.repaired, report.users), (1, 1, 1));
        assert_eq!(r.desk.standing(one).await, "pro active access");
        assert_eq!(r.desk.standing(other).await, "free active no access");
        assert_eq!(r.stripe.log(), ["account", "subscriptions of cus_1"]);
        assert_eq!(records::last_complete(&r.desk.db).await.expect("an answer"), None, "one user is not everybody");
        let unknown = r.reconciler().begin(Options { user: Some(user_id(9)), ..DRY }).await;
        assert!(unknown.is_err_and(|error| error.to_string().contains("no user")));
        r.desk.close().await;
    });
}

#[test]
fn two_events_of_one_second_that_disagree_are_settled() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let (mut one, mut two) = (owned(1, user, "active"), owned(1, user, "active"));
        one.items[0].quantity = 1;
        two.items[0].quantity = 2;
        let events = [("evt_1", &one), ("evt_2", &two)];
        r.desk.apply(&events.map(|(id, sub)| told(id, "customer.subscription.updated", 5000, shown(sub)))).await;
        r.stripe.subscriptions([shown(&two)]);
        let report = r.succeeds(APPLY).await;
        assert_eq!(r.drifts(&report).await[0].differences[0].field, "certainty");
        assert_eq!(kinds(&r.succeeds(DRY).await), []);
        r.desk.close().await;
    });
}

#[test]
fn thousands_are_walked_page_by_page_and_their_drifts_are_listed_page_by_page() {
    on_each(|test_db| async {
        let r = ReconcileDesk::new(test_db).await;
        let user = user_id(1);
        r.desk.put(user, "a@example.com").await;
        let subs: Vec<_> = (0..2_500)
            .map(|n| {
                let mut sub = anonymous(n, "canceled");
                sub.metadata = Metadata::from([("user_id".to_owned(), user.to_string())]);
                shown(&sub)
            })
            .collect();
        r.stripe.subscriptions(subs);
        let dry = r.succeeds(DRY).await;
        assert_eq!((dry.pages, dry.scanned, dry.drifted, r.stripe.calls()), (25, 2_500, 2_500, 26));
        let (mut after, mut found) = (None, 0);
        loop {
            let page = records::drifts(&r.desk.db, dry.reconciliation, None, 400, after).await.expect("an answer");
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found += page.len();
        }
        assert_eq!(found, 2_500);
        assert_eq!(dry.first.len(), 10, "a report quotes the first");
        r.desk.close().await;
    });
}

#[test]
fn whatever_is_taken_in_by_a_fetch_beats_an_event_of_its_second() {
    // The order on which every repair rests.
    let at = entity::Time::from_timestamp(NOW, 0).expect("a moment");
    assert!(fetched::stamp(at).event_id.as_str() > "evt_zzzzzzzzzzzzzz");
}
