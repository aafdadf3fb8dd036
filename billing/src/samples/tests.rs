use std::collections::BTreeSet;

use super::*;

const AT: i64 = 1_793_448_000; // 2026-10-31 12:00 UTC

fn scene(user_id: Option<&str>) -> Scene {
    Scene { user_id: user_id.map(str::to_owned), ..Scene::new("7Qm2xv", "ada@example.com", "pro", AT) }
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

fn subscription() -> SubscriptionSample {
    let mut sample = SubscriptionSample::new("sub_1", "cus_1", "active", AT);
    sample.discount = Some(DiscountSample::new("di_1", "HALF", AT));
    sample.metadata.insert("user_id".to_owned(), "u1".to_owned());
    sample
}

#[test]
fn every_event_type_has_a_scene_with_that_event_in_it() {
    for event_type in EVENT_TYPES {
        for user_id in [None, Some("0190c5d6-4a5e-7d3b-9f3a-2b8f4f1f0a11")] {
            let events = scene_events(event_type, &scene(user_id)).expect(event_type);
            assert!(types(&events).contains(event_type), "{event_type}: {:?}", types(&events));
            assert!(types(&events).iter().all(|sent| EVENT_TYPES.contains(sent)), "{event_type}");
            let ids: BTreeSet<_> = events.iter().map(|event| event["id"].as_str().expect("id")).collect();
            assert_eq!(ids.len(), events.len(), "{event_type}");
            for event in &events {
                assert_eq!(event["object"], "event");
                assert_eq!(event["api_version"], ApiVersion::LATEST.as_str());
                let object = &event["data"]["object"];
                assert!(object["object"].is_string(), "{event_type}");
                assert_eq!(object["id"].is_string(), event["type"] != "invoice.upcoming", "{event_type}");
                assert!(event["created"].as_i64().is_some_and(|at| at <= AT), "{event_type}");
                let updated = event["type"].as_str().is_some_and(|name| name.ends_with(".updated"));
                assert!(!updated || event["data"]["previous_attributes"].is_object(), "{event_type}");
            }
        }
    }
}

#[test]
fn an_unknown_type_has_no_scene() {
    for event_type in ["", "invoice", "invoice.", "invoice.nothing", "customer.subscription.nothing", "plan.created"] {
        assert_eq!(scene_events(event_type, &scene(None)), None, "{event_type}");
    }
}

#[test]
fn a_completed_checkout_tells_of_user_and_tier() {
    let events = scene_events("checkout.session.completed", &scene(Some("u1"))).expect("a scene");
    let expected = ["customer.created", "customer.subscription.created", "invoice.paid", "checkout.session.completed"];
    assert_eq!(types(&events), expected);
    let object = |n: usize| &events[n]["data"]["object"];
    assert_eq!(object(0)["email"], "ada@example.com");
    assert_eq!(object(0)["metadata"]["user_id"], "u1");
    assert_eq!(object(1)["status"], "active");
    assert_eq!(object(1)["metadata"]["user_id"], "u1");
    assert_eq!(object(1)["items"]["data"][0]["price"]["lookup_key"], "pro");
    assert_eq!(object(1)["items"]["data"][0]["price"]["metadata"]["tier"], "pro");
    assert_eq!(object(2)["status"], "paid");
    assert_eq!(object(2)["billing_reason"], "subscription_create");
    assert_eq!(object(2)["parent"]["subscription_details"]["metadata"]["user_id"], "u1");
    assert_eq!(object(3)["client_reference_id"], "u1");
    assert_eq!(object(3)["metadata"]["tier"], "pro");
    assert_eq!(object(3)["subscription"], object(1)["id"]);
    assert_eq!(object(3)["customer_details"]["email"], "ada@example.com");
}

#[test]
fn a_failed_renewal_makes_the_subscription_past_due() {
    let events = scene_events("invoice.payment_failed", &scene(Some("u1"))).expect("a scene");
    assert_eq!(types(&events), ["invoice.payment_failed", "customer.subscription.updated"]);
    assert_eq!(events[0]["data"]["object"]["billing_reason"], "subscription_cycle");
    assert_eq!(events[0]["data"]["object"]["status"], "open");
    assert_eq!(events[0]["data"]["object"]["attempt_count"], 1);
    assert_eq!(events[1]["data"]["object"]["status"], "past_due");
    assert_eq!(events[1]["data"]["previous_attributes"]["status"], "active");
}

#[test]
fn a_deleted_subscription_is_canceled_and_keeps_its_period() {
    let period = (AT - 5 * 86_400, AT + 25 * 86_400);
    let scene = Scene { period: Some(period), ..scene(Some("u1")) };
    let events = scene_events("customer.subscription.deleted", &scene).expect("a scene");
    assert_eq!(types(&events), ["customer.subscription.deleted"]);
    let object = &events[0]["data"]["object"];
    assert_eq!((&object["status"], &object["ended_at"]), (&json!("canceled"), &json!(AT)));
    assert_eq!(object["items"]["data"][0]["current_period_end"], period.1);
}

#[test]
fn a_renewal_moves_the_period_and_shows_the_old_one() {
    let events = scene_events("invoice.paid", &scene(Some("u1"))).expect("a scene");
    let data = &events[0]["data"];
    assert_eq!(data["object"]["items"]["data"][0]["current_period_start"], AT);
    assert_eq!(data["previous_attributes"]["items"]["data"][0]["current_period_end"], AT);
    assert_eq!(events[1]["data"]["object"]["lines"]["data"][0]["period"]["start"], AT);
}

#[test]
fn without_a_user_id_the_customer_comes_first() {
    let events = scene_events("customer.subscription.updated", &scene(None)).expect("a scene");
    assert_eq!(types(&events), ["customer.created", "customer.subscription.updated"]);
    assert_eq!(events[1]["data"]["object"]["metadata"], json!({}));
}

#[test]
fn live_scenes_are_live_throughout() {
    for event_type in EVENT_TYPES {
        let scene = Scene { livemode: true, ..scene(None) };
        for event in scene_events(event_type, &scene).expect(event_type) {
            assert_eq!(event["livemode"], true, "{event_type}");
        }
    }
}

/// Path in the object, and the versions (first, last) that have it.
type Paths = &'static [(&'static str, ApiVersion, ApiVersion)];

fn assert_paths(render: impl Fn(ApiVersion) -> Value, paths: Paths) {
    for version in ApiVersion::ALL {
        let object = render(version);
        for (path, first, last) in paths {
            let expected = (*first..=*last).contains(&version);
            assert_eq!(object.pointer(path).is_some(), expected, "{path} in {version}");
        }
    }
}

const FIRST: ApiVersion = ApiVersion::V2020_08_27;
const FLAT: ApiVersion = ApiVersion::V2023_10_16;
const BASIL: ApiVersion = ApiVersion::Basil;
const CLOVER: ApiVersion = ApiVersion::Clover;
const LAST: ApiVersion = ApiVersion::LATEST;

#[test]
fn a_subscription_has_the_shape_of_its_version() {
    assert_paths(
        |version| subscription().render(version),
        &[
            ("/current_period_start", FIRST, FLAT),
            ("/current_period_end", FIRST, FLAT),
            ("/items/data/0/current_period_start", BASIL, LAST),
            ("/items/data/0/current_period_end", BASIL, LAST),
            ("/items/data/0/plan/id", FIRST, LAST),
            ("/items/data/0/price/id", FIRST, LAST),
            ("/items/data/0/plan/aggregate_usage", FIRST, FLAT),
            ("/items/data/0/price/recurring/aggregate_usage", FIRST, FLAT),
            ("/discount/coupon/id", FIRST, FLAT),
            ("/discount", FIRST, FLAT),
            ("/discounts/0", FIRST, LAST),
            ("/billing_mode/type", CLOVER, LAST),
            ("/customer_account", CLOVER, LAST),
            ("/managed_payments", LAST, LAST),
        ],
    );
    for version in ApiVersion::ALL {
        let has = subscription().render(version).get("billing_thresholds").is_some();
        assert_eq!(has, version != BASIL, "{version}");
    }
}

#[test]
fn an_invoice_has_the_shape_of_its_version() {
    assert_paths(
        |version| InvoiceSample::of(&subscription(), "in_1", "subscription_create", "paid", AT).render(version),
        &[
            ("/subscription", FIRST, FLAT),
            ("/subscription_details/metadata/user_id", FIRST, FLAT),
            ("/quote", FIRST, FLAT),
            ("/paid", FIRST, FLAT),
            ("/paid_out_of_band", FIRST, FLAT),
            ("/charge", FIRST, FLAT),
            ("/payment_intent", FIRST, FLAT),
            ("/tax", FIRST, FLAT),
            ("/total_tax_amounts", FIRST, FLAT),
            ("/discount", FIRST, FLAT),
            ("/total_taxes", BASIL, LAST),
            ("/parent/subscription_details/subscription", BASIL, LAST),
            ("/parent/subscription_details/metadata/user_id", BASIL, LAST),
            ("/lines/data/0/subscription", FIRST, FLAT),
            ("/lines/data/0/subscription_item", FIRST, FLAT),
            ("/lines/data/0/proration", FIRST, FLAT),
            ("/lines/data/0/type", FIRST, FLAT),
            ("/lines/data/0/price/id", FIRST, FLAT),
            ("/lines/data/0/plan/id", FIRST, FLAT),
            ("/lines/data/0/parent/type", BASIL, LAST),
            ("/lines/data/0/parent/subscription_item_details/subscription", BASIL, LAST),
            ("/lines/data/0/pricing/price_details/price", BASIL, LAST),
            ("/lines/data/0/period/start", FIRST, LAST),
            ("/status_transitions/paid_at", FIRST, LAST),
        ],
    );
}

#[test]
fn charges_disputes_and_customers_have_the_shape_of_their_version() {
    assert_paths(
        |version| {
            let mut charge = ChargeSample::new("ch_1", "cus_1", AT);
            charge.amount_refunded = 1900;
            charge.render(version)
        },
        &[("/invoice", FIRST, FLAT), ("/refunds/data/0/id", FIRST, FIRST), ("/amount_refunded", FIRST, LAST)],
    );
    assert_paths(
        |version| {
            let mut customer = CustomerSample::new("cus_1", "ada@example.com", AT);
            customer.discount = Some(DiscountSample::new("di_1", "HALF", AT));
            customer.render(version)
        },
        &[("/discount/coupon/id", FIRST, BASIL), ("/discount/source/coupon", CLOVER, LAST), ("/email", FIRST, LAST)],
    );
    let dispute = DisputeSample::new("du_1", &ChargeSample::new("ch_1", "cus_1", AT), AT).render(LAST);
    assert_eq!((dispute["charge"].as_str(), dispute.get("customer")), (Some("ch_1"), None));
}

#[test]
fn a_session_names_its_page_as_its_version_does() {
    for version in ApiVersion::ALL {
        let session = CheckoutSessionSample::new("cs_test_1", "cus_1", "sub_1", AT).render(version);
        assert_eq!(session["ui_mode"], if version == LAST { "hosted_page" } else { "hosted" }, "{version}");
        assert_eq!(session["subscription"], "sub_1");
        assert_eq!(session.get("shipping_details").is_some(), version < BASIL, "{version}");
    }
}

#[test]
fn a_one_off_invoice_has_no_parent_and_an_upcoming_one_no_id() {
    let one_off = InvoiceSample::one_off("in_1", "cus_1", "paid", AT);
    assert_eq!(one_off.render(LAST)["parent"], Value::Null);
    assert_eq!(one_off.render(FIRST)["subscription"], Value::Null);
    for version in ApiVersion::ALL {
        assert_eq!(InvoiceSample::upcoming(&subscription(), AT).render(version).get("id"), None);
    }
}

#[test]
fn a_deleted_customer_is_little_more_than_an_id() {
    let customer = CustomerSample { deleted: true, ..CustomerSample::new("cus_1", "ada@example.com", AT) };
    assert_eq!(customer.render(LAST), json!({ "id": "cus_1", "object": "customer", "deleted": true }));
}

#[test]
fn only_a_paused_subscription_has_status_details_and_only_in_the_newest_version() {
    for version in ApiVersion::ALL {
        for status in ["active", "paused"] {
            let sample = SubscriptionSample::new("sub_1", "cus_1", status, AT).render(version);
            assert_eq!(sample.get("status_details").is_some(), version == LAST && status == "paused");
        }
    }
}

#[test]
fn a_subscription_with_several_items_has_no_plan_of_its_own() {
    let mut sample = subscription();
    sample
        .items
        .push(ItemSample { period_end: AT + 9_000_000, ..ItemSample::monthly("si_2", "price_2", "prod_2", AT) });
    let object = sample.render(FLAT);
    assert_eq!((&object["plan"], &object["quantity"]), (&Value::Null, &Value::Null));
    assert_eq!(object["current_period_end"], AT + 9_000_000);
}

#[test]
fn the_newest_subscription_event_is_about_as_large_as_a_real_one() {
    let scene = Scene {
        user_id: Some("0190c5d6-4a5e-7d3b-9f3a-2b8f4f1f0a11".to_owned()),
        customer: "cus_TkV9wQ2nGz7RfB".to_owned(),
        price: Some("price_1SiPqrB7WZ01zgkWd3LmXt0a".to_owned()),
        product: "prod_TkV8hYc5sJm2Lq".to_owned(),
        ..Scene::new("1SiPsoB7WZ01zgkWx5Kc9TyN", "ada@example.com", "pro", AT)
    };
    let sizes = ["customer.subscription.created", "customer.subscription.updated"].map(|event_type| {
        let events = scene_events(event_type, &scene).expect(event_type);
        let event = events.iter().find(|event| event["type"] == event_type).expect(event_type);
        event.to_string().len()
    });
    assert!((4_000..=5_000).contains(&sizes[0]), "{sizes:?} bytes");
    assert!((4_000..=6_500).contains(&sizes[1]), "{sizes:?} bytes");
}

#[test]
fn a_month_ends_where_the_calendar_says() {
    let sample = subscription();
    assert_eq!(seconds(sample.period_end().expect("one item")).to_rfc3339(), "2026-11-30T12:00:00+00:00");
    assert_eq!(next_period(AT, "year", 1) - AT, 365 * 86_400);
    assert_eq!(next_period(AT, "week", 2) - AT, 14 * 86_400);
    assert_eq!(next_period(i64::MAX, "month", 1), next_period(0, "month", 1), "beyond the calendar: the epoch");
}

#[test]
fn a_snapshot_event_has_the_envelope_of_its_version() {
    for version in ApiVersion::ALL {
        let sample = event("evt_1", "customer.subscription.created", AT, version, subscription().render(version), None);
        assert_eq!(sample["api_version"], version.as_str());
        assert_eq!(sample["livemode"], false);
        assert_eq!(sample["data"].get("previous_attributes"), None);
        assert_eq!(sample["data"]["object"]["id"], "sub_1");
    }
}

#[test]
fn a_thin_event_names_its_object_and_does_not_carry_it() {
    let thin = thin_event("evt_1", "customer.subscription.updated", AT, "sub_1", "subscription");
    assert_eq!(thin["object"], "v2.core.event");
    assert_eq!(thin["type"], "v1.customer.subscription.updated");
    assert_eq!(thin["created"], "2026-10-31T12:00:00.000Z");
    assert_eq!(
        thin["related_object"],
        json!({ "id": "sub_1", "type": "subscription", "url": "/v1/subscriptions/sub_1" })
    );
    assert_eq!(thin.get("data"), None);
    let again = thin_event("evt_2", "v1.checkout.session.completed", AT, "cs_1", "checkout.session");
    assert_eq!(again["type"], "v1.checkout.session.completed");
    assert_eq!(again["related_object"]["url"], "/v1/checkout/sessions/cs_1");
}
