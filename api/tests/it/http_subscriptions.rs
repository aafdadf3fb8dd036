//! What operators are answered about subscriptions.

use billing::samples::{ApiVersion, Scene, event};
use chrono::Utc;
use serde_json::{Value, json};
use testkit::on_each;

use crate::http_server::Server;

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const LIST: &str = "/api/v1/admin/subscriptions";

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().expect("items").iter().map(|item| item["id"].as_str().expect("an id")).collect()
}

fn told(id: &str, event_id: &str, at: i64, quantity: i64) -> Value {
    let item =
        json!({"id": "si_1", "quantity": quantity, "price": {"id": "price_1"}, "current_period_end": 1_900_000_000});
    let object = json!({
        "id": id, "object": "subscription", "customer": "cus_1", "status": "active", "items": {"data": [item]},
        "cancel_at_period_end": true, "canceled_at": 1_800_000_000, "billing_cycle_anchor": 1_800_000_000,
        "trial_start": 1_800_000_000, "trial_end": 1_800_086_400, "pause_collection": {"behavior": "void"},
    });
    event(event_id, "customer.subscription.updated", at, ApiVersion::LATEST, object, None)
}

#[test]
fn subscriptions_are_listed_page_by_page_with_whose_they_are() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let mut scene = Scene::new("a", "ada@example.com", "pro", Utc::now().timestamp());
        scene.user_id = Some(ADA.to_owned());
        server.play("customer.subscription.created", &scene).await;
        for number in 1..4 {
            server.deliver(&told(&format!("sub_s{number}"), &format!("evt_{number}"), 5, 2)).await.assert_ok();
        }
        server.work().await;
        let (mut seen, mut query) = (Vec::new(), String::new());
        for size in [3, 1] {
            let page = server.operator_get(&format!("{LIST}?limit=3{query}")).await.assert_ok();
            assert_eq!(ids(&page).len(), size);
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            query = page["next_cursor"].as_str().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        }
        assert!(query.is_empty(), "the last page has no next");
        assert_eq!(seen.len(), 4);
        let of_ada = server.operator_get(&format!("{LIST}?user_id={ADA}")).await.assert_ok();
        assert_eq!(ids(&of_ada).len(), 1);
        assert_eq!(of_ada["items"][0]["user_id"], ADA);
        let all = server.operator_get(LIST).await.assert_ok();
        let stranger =
            all["items"].as_array().expect("items").iter().find(|item| item["id"] == "sub_s1").expect("there");
        assert_eq!(
            *stranger,
            json!({
                "id": "sub_s1", "user_id": null, "stripe_customer_id": "cus_1", "status": "active",
                "items": [{"id": "si_1", "price_id": "price_1", "quantity": 2, "current_period_end": "2030-03-17T17:46:40Z"}],
                "current_period_start": null, "current_period_end": "2030-03-17T17:46:40Z",
                "billing_cycle_anchor": "2027-01-15T08:00:00Z", "trial_start": "2027-01-15T08:00:00Z",
                "trial_end": "2027-01-16T08:00:00Z", "cancel_at": null, "cancel_at_period_end": true,
                "canceled_at": "2027-01-15T08:00:00Z", "ended_at": null, "pause_collection": "void", "needs_refresh": false, "version_at": "1970-01-01T00:00:05Z",
            })
        );
    });
}

#[test]
fn subscriptions_told_in_two_ways_within_one_second_are_found() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.deliver(&told("sub_clear", "evt_1", 5, 1)).await.assert_ok();
        server.deliver(&told("sub_unclear", "evt_2", 5, 1)).await.assert_ok();
        server.deliver(&told("sub_unclear", "evt_3", 5, 2)).await.assert_ok();
        server.work().await;
        let page = server.operator_get(&format!("{LIST}?needs_refresh=true")).await.assert_ok();
        assert_eq!(ids(&page), ["sub_unclear"]);
        let page = server.operator_get(&format!("{LIST}?needs_refresh=false")).await.assert_ok();
        assert_eq!(ids(&page), ["sub_clear"]);
        for query in ["cursor=%00", "limit=0", "user_id=x", "needs_refresh=maybe"] {
            server.operator_get(&format!("{LIST}?{query}")).await.assert_problem(400, "bad-request");
        }
    });
}
