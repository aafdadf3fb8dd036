//! The API as a client sees it.

use serde_json::Value;

use super::*;
use crate::{
    calendar::DAY,
    rng::Share,
    world::{Plan, WorldOptions},
};

const KEY: &str = "sk_test_simulated";
const START: i64 = 1_780_000_000;

struct Api {
    world: World,
    idempotency: Idempotency,
}

impl Api {
    /// After so many days of so many people.
    fn after(days: i64, customers: u32) -> Self {
        let options = WorldOptions {
            seed: 5,
            customers,
            start: START,
            arrivals: days * DAY / 2,
            version: ApiVersion::Endive,
            plans: Plan::defaults(),
            bursts: Share::NONE,
        };
        let mut world = World::new(&options);
        world.advance(START + days * DAY);
        Self { world, idempotency: Idempotency::default() }
    }

    fn send(&mut self, request: Request) -> (u16, Value) {
        let request = Request { key: request.key.or(Some(KEY.to_owned())), ..request };
        let reply = answer(&mut self.world, &mut self.idempotency, KEY, &request);
        (reply.status, serde_json::from_str(&reply.body).expect("JSON"))
    }

    fn get(&mut self, path: &str, query: &str) -> (u16, Value) {
        self.send(Request { method: "GET".into(), path: path.into(), query: query.into(), ..Request::default() })
    }

    fn post(&mut self, path: &str, body: &str) -> (u16, Value) {
        self.send(Request { method: "POST".into(), path: path.into(), body: body.into(), ..Request::default() })
    }
}

fn ids(page: &Value) -> Vec<String> {
    page["data"].as_array().expect("a list").iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_list_is_walked_from_the_newest_to_the_oldest_and_back() {
    let mut api = Api::after(60, 25);
    let all: Vec<String> =
        api.world.account.subscriptions.iter().rev().map(|subscription| subscription.id.clone()).collect();
    assert!(all.len() > 12);
    let mut walked = Vec::new();
    let mut query = "status=all&limit=5".to_owned();
    loop {
        let (status, page) = api.get("/v1/subscriptions", &query);
        assert_eq!((status, &page["object"], &page["url"]), (200, &"list".into(), &"/v1/subscriptions".into()));
        walked.extend(ids(&page));
        if page["has_more"] == false {
            break;
        }
        query = format!("status=all&limit=5&starting_after={}", walked[walked.len() - 1]);
    }
    assert_eq!(walked, all);
    // Backwards: the page right before an object, still newest first.
    let (_, page) = api.get("/v1/subscriptions", &format!("status=all&limit=3&ending_before={}", all[8]));
    assert_eq!((ids(&page), &page["has_more"]), (all[5..8].to_vec(), &true.into()));
    let (_, page) = api.get("/v1/subscriptions", &format!("status=all&limit=10&ending_before={}", all[2]));
    assert_eq!((ids(&page), &page["has_more"]), (all[..2].to_vec(), &false.into()));
}

#[test]
fn without_a_status_the_canceled_ones_are_left_out() {
    let mut api = Api::after(120, 25);
    let statuses = |api: &mut Api, query: &str| -> Vec<String> {
        let (_, page) = api.get("/v1/subscriptions", query);
        let rows = page["data"].as_array().expect("a list");
        rows.iter().map(|row| row["status"].as_str().expect("a status").to_owned()).collect()
    };
    assert!(statuses(&mut api, "limit=100&status=all").contains(&"canceled".to_owned()));
    assert!(!statuses(&mut api, "limit=100").contains(&"canceled".to_owned()));
    assert!(statuses(&mut api, "limit=100&status=canceled").iter().all(|status| status == "canceled"));
    let ended = statuses(&mut api, "limit=100&status=ended");
    assert!(ended.iter().all(|status| status == "canceled" || status == "incomplete_expired"));
    assert_eq!(api.get("/v1/subscriptions", "status=gone").0, 400);
}

#[test]
fn events_reach_back_thirty_days_and_are_found_by_type_time_and_delivery() {
    let mut api = Api::after(100, 25);
    let now = api.world.now();
    let oldest = api.world.account.events_newest_first().last().expect("an event").created;
    assert!(oldest >= now - 31 * DAY && oldest < now - 25 * DAY);
    let (_, page) = api.get("/v1/events", "types[]=invoice.paid&types[]=customer.subscription.updated&limit=100");
    let rows = page["data"].as_array().expect("a list");
    assert!(rows.len() > 20);
    assert!(
        rows.iter()
            .all(|row| ["invoice.paid", "customer.subscription.updated"].map(Value::from).contains(&row["type"]))
    );
    let at = rows[3]["created"].as_i64().expect("seconds");
    let (_, some) = api.get("/v1/events", &format!("created[gte]={at}&created[lte]={at}&limit=100"));
    let rows = some["data"].as_array().expect("a list");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["created"] == at));
    let (_, wild) = api.get("/v1/events", "type=invoice.*&limit=5");
    assert!(
        wild["data"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|row| row["type"].as_str().expect("a type").starts_with("invoice."))
    );
    // Nobody delivered any.
    assert_eq!(ids(&api.get("/v1/events", "delivery_success=true").1).len(), 0);
    let first = ids(&api.get("/v1/events", "delivery_success=false&limit=1").1)[0].clone();
    api.world.account.events_newest_first().next().expect("an event").set_delivered();
    assert_eq!(ids(&api.get("/v1/events", "delivery_success=true").1), [first.as_str()]);
    assert_eq!(api.get(&format!("/v1/events/{first}"), "").1["pending_webhooks"], 0);
    let many = "types[]=x&".repeat(21);
    assert_eq!(api.get("/v1/events", &many).0, 400);
}

#[test]
fn an_unknown_object_is_missing_and_an_unknown_address_is_unrecognized() {
    let mut api = Api::after(1, 1);
    let (status, body) = api.get("/v1/subscriptions/sub_none", "");
    assert_eq!((status, &body["error"]["code"]), (404, &"resource_missing".into()));
    assert_eq!(body["error"]["message"], "No such subscription: 'sub_none'");
    let (status, body) = api.get("/v1/treasury/financial_accounts", "");
    assert_eq!((status, &body["error"]["type"]), (404, &"invalid_request_error".into()));
    assert!(
        body["error"]["message"]
            .as_str()
            .expect("a message")
            .starts_with("Unrecognized request URL (GET: /v1/treasury")
    );
    let (status, body) = api.get("/v1/customers", "colour=red");
    assert_eq!((status, &body["error"]["code"]), (400, &"parameter_unknown".into()));
    assert_eq!(api.get("/v1/customers", "limit=101").0, 400);
    assert_eq!(api.get("/v1/customers", "starting_after=cus_none").0, 400);
}

#[test]
fn only_the_right_key_and_a_known_version_are_let_in() {
    let mut api = Api::after(1, 1);
    let with = |key: Option<&str>, version: Option<&str>| Request {
        method: "GET".into(),
        path: "/v1/account".into(),
        key: key.map(str::to_owned),
        version: version.map(str::to_owned),
        ..Request::default()
    };
    let mut status = |request: &Request| answer(&mut api.world, &mut api.idempotency, KEY, request).status;
    assert_eq!(status(&with(None, None)), 401);
    assert_eq!(status(&with(Some("sk_test_other"), None)), 401);
    assert_eq!(status(&with(Some(KEY), Some("2025-08-27.basil"))), 200);
    assert_eq!(status(&with(Some(KEY), Some("tomorrow"))), 400);
}

#[test]
fn the_api_renders_in_the_version_that_is_asked_for() {
    let mut api = Api::after(40, 10);
    let id = api.world.account.subscriptions.iter().next().expect("one").id.clone();
    let mut shown = |version: &str| {
        let path = format!("/v1/subscriptions/{id}");
        api.send(Request { method: "GET".into(), path, version: Some(version.into()), ..Request::default() }).1
    };
    let (old, new) = (shown("2020-08-27"), shown("2026-10-28.endive"));
    assert!(old["current_period_end"].is_i64() && old["items"]["data"][0]["current_period_end"].is_null());
    assert!(new["current_period_end"].is_null() && new["items"]["data"][0]["current_period_end"].is_i64());
}

#[test]
fn a_whole_subscription_can_be_made_by_hand() {
    let mut api = Api::after(1, 1);
    let (_, product) = api.post("/v1/products", "name=Gold");
    let body = format!(
        "product={}&currency=usd&unit_amount=500&recurring[interval]=month",
        product["id"].as_str().expect("an id")
    );
    let (_, price) = api.post("/v1/prices", &body);
    let (_, customer) =
        api.post("/v1/customers", "email=a@example.com&metadata[user_id]=7&payment_method=pm_card_visa");
    let (customer, price) = (customer["id"].as_str().expect("an id"), price["id"].as_str().expect("an id"));
    let body = format!(
        "customer={customer}&items[0][price]={price}&items[0][quantity]=2&expand[]=latest_invoice&expand[]=customer"
    );
    let (status, made) = api.post("/v1/subscriptions", &body);
    assert_eq!((status, &made["status"]), (200, &"active".into()), "{made}");
    assert_eq!(made["latest_invoice"]["amount_paid"], 1000);
    assert_eq!(made["customer"]["metadata"]["user_id"], "7");
    let path = format!("/v1/subscriptions/{}", made["id"].as_str().expect("an id"));
    let (_, changed) = api.post(&path, "cancel_at_period_end=true&metadata[note]=x");
    assert_eq!((&changed["cancel_at_period_end"], &changed["metadata"]["note"]), (&true.into(), &"x".into()));
    let (_, items) =
        api.get("/v1/subscription_items", &format!("subscription={}", made["id"].as_str().expect("an id")));
    assert_eq!(items["data"][0]["quantity"], 2);
    let deleted = api.send(Request { method: "DELETE".into(), path: path.clone(), ..Request::default() });
    assert_eq!((deleted.0, &deleted.1["status"]), (200, &"canceled".into()));
    assert_eq!(api.post(&path, "metadata[a]=b").0, 400);
}

#[test]
fn a_repeated_post_is_done_once() {
    let mut api = Api::after(1, 1);
    let before = api.world.account.customers.len();
    let post = |body: &str| Request {
        method: "POST".into(),
        path: "/v1/customers".into(),
        body: body.into(),
        idempotency_key: Some("one".into()),
        ..Request::default()
    };
    let first = api.send(post("email=a@example.com"));
    assert_eq!(api.send(post("email=a@example.com")), first);
    assert_eq!(api.world.account.customers.len(), before + 1);
    let (status, body) = api.send(post("email=b@example.com"));
    assert_eq!((status, &body["error"]["type"]), (400, &"idempotency_error".into()));
}
