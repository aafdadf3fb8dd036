//! Asking Stripe how a user's subscriptions are: over HTTP, and on the command line.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use api::config::{Secret, development::DevelopmentSecrets};
use billing::{
    refresh::Refresher,
    samples::{self, ApiVersion, CheckoutSessionSample, Scene, SubscriptionSample},
    stripe::{ApiKey, ClientOptions, StripeClient},
};
use chrono::Utc;
use serde_json::{Value, json};
use testkit::{
    on_each,
    stripe::{Answer, FakeStripe},
};

use crate::{
    http_server::{Server, host},
    process_harness::{Caller, Running, run},
};

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// A subscription of Ada's to this tier.
fn subscription(id: &str, customer: &str, tier: &str) -> Value {
    let mut sample = SubscriptionSample::new(id, customer, "active", Utc::now().timestamp() - 1000);
    sample.items[0].lookup_key = Some(tier.to_owned());
    sample.metadata.insert("user_id".to_owned(), ADA.to_owned());
    sample.render(ApiVersion::LATEST)
}

#[test]
fn a_host_can_have_a_user_trued_up_and_is_told_what_changed() {
    on_each(|database| async {
        let fake = FakeStripe::start().await;
        let options = ClientOptions {
            requests_per_second: NonZeroU32::new(1000).unwrap(),
            timeout: Duration::from_secs(5),
            retries: 0,
            ..ClientOptions::default()
        };
        let key = ApiKey::parse("sk_test_secret").unwrap();
        let client = StripeClient::new(&fake.url(), key, options, Arc::new(|_| {})).unwrap();
        let server = Server::with(database, |app| {
            let (catalog, policy) = (Arc::clone(&app.catalog), Arc::clone(&app.policy));
            app.refresher = Some(Refresher::new(app.db.clone(), catalog, policy, Arc::new(client)));
        })
        .await;
        let refresh = async || host(server.client.post(format!("/api/v1/users/{ADA}/refresh"))).await;
        refresh().await.assert_problem(404, "user-unknown");
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let nothing = refresh().await.assert_ok();
        assert_eq!((&nothing["subscriptions"], &nothing["before"]), (&json!([]), &Value::Null));

        let mut scene = Scene::new("1", "ada@example.com", "starter", Utc::now().timestamp() - 500);
        scene.user_id = Some(ADA.to_owned());
        server.play("customer.subscription.created", &scene).await;
        server.work().await;
        let before = server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok();
        assert_eq!(before["subscription"]["tier"], "starter");
        let id = before["subscription"]["stripe_subscription_id"].as_str().unwrap();
        let customer = before["subscription"]["stripe_customer_id"].as_str().unwrap();
        fake.list(
            "/v1/subscriptions",
            vec![subscription(id, customer, "elite"), subscription("sub_x", "cus_x", "pro")],
        );

        let told = refresh().await.assert_ok();
        assert_eq!(told["subscriptions"], json!([id]));
        assert_eq!((&told["before"]["tier"], &told["after"]["tier"]), (&json!("starter"), &json!("elite")));
        assert_eq!(told["user"]["subscription"]["tier"], "elite");
        let timeline = server.host_get(&format!("/api/v1/users/{ADA}/timeline")).await.assert_ok();
        assert_eq!((&timeline["items"][0]["source"], &timeline["items"][0]["event_id"]), (&json!("api"), &Value::Null));

        // Stripe away; Stripe that refuses the key.
        fake.next([Answer::bad_gateway()]);
        let away = refresh().await;
        away.assert_problem(503, "stripe-unavailable");
        assert!(away.header("retry-after").is_some());
        fake.next([Answer::error(401, "", "Invalid API Key provided: sk_test_secret")]);
        let refused = refresh().await;
        refused.assert_problem(502, "stripe-refused");
        assert!(!refused.text.contains("sk_test_secret"), "{}", refused.text);
        assert_eq!(refresh().await.assert_ok()["user"], told["user"]);
    });
}

#[test]
fn without_a_key_a_refresh_says_what_is_missing() {
    on_each(|database| async {
        let server = Server::new(database).await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let told = host(server.client.post(format!("/api/v1/users/{ADA}/refresh"))).await;
        let problem = told.assert_problem(409, "not-configured");
        assert!(problem["detail"].as_str().unwrap().contains("STRIPE_SECRET_KEY"));
    });
}

#[tokio::test]
async fn an_operator_can_have_a_user_trued_up_while_a_server_that_uses_the_key_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let fake = FakeStripe::start().await;
    let base = fake.url();
    let env = [
        ("STRIPE_SECRET_KEY", "sk_test_secret"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_test"),
        ("STRIPE_API_BASE", base.as_str()),
        ("TRUEUP_API_TOKEN", "0123456789abcdef-api"),
        ("TRUEUP_ADMIN_TOKEN", "0123456789abcdef-admin"),
    ];
    let server = Running::start(folder, &env, &[]);
    let url = server.url().await;
    let secret = Secret::new;
    let secrets = DevelopmentSecrets {
        webhook_secret: secret("whsec_test"),
        api_token: secret("0123456789abcdef-api"),
        admin_token: secret("0123456789abcdef-admin"),
        path: folder.join("none"),
    };
    let caller = Caller::with(&url, secrets);
    let user = caller.make_user("a@example.com").await;
    let bought = Utc::now().timestamp() - 1000;
    let mut session = CheckoutSessionSample::new("cs_1", "cus_1", "sub_1", bought);
    session.client_reference_id = Some(user.clone());
    session.metadata.insert("tier".to_owned(), "starter".to_owned());
    let session = session.render(ApiVersion::LATEST);
    let event = samples::event("evt_1", "checkout.session.completed", bought, ApiVersion::LATEST, session, None);
    assert_eq!(caller.deliver(&event).await.as_u16(), 200);
    // On the session's word: Stripe knows nothing of the subscription.
    caller.tier_becomes(&user, "starter").await;
    assert!(fake.requests() > 0, "the server asked for what was sold");

    let mut object = subscription("sub_1", "cus_1", "elite");
    object["metadata"]["user_id"] = json!(user);
    fake.list("/v1/subscriptions", vec![object]);
    let ran = run(folder, &env, &["users", "refresh", "a@example.com"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("starter (active) -> elite (active)"), "{}", ran.out);
    let ran = run(folder, &env, &["users", "refresh", "a@example.com", "--json"]).await;
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&told["subscriptions"], &told["before"]), (&json!(["sub_1"]), &Value::Null));
    assert_eq!(told["user"]["subscription"]["tier"], "elite");
    let metrics = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("trueup_stripe_key_ok 1"), "{metrics}");
    let asked = "trueup_stripe_requests_total{endpoint=\"subscription\",status=\"4xx\"}";
    assert!(metrics.lines().any(|line| line.starts_with(asked) && !line.ends_with(" 0")), "{metrics}");

    fake.instead(Some(Answer::error(401, "", "Invalid API Key provided: sk_test_secret")));
    let ran = run(folder, &env, &["users", "refresh", "a@example.com"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("STRIPE_SECRET_KEY") && !ran.err.contains("sk_test_secret"), "{}", ran.err);
    server.stop().await;

    let without: Vec<_> = env.iter().filter(|(key, _)| *key != "STRIPE_SECRET_KEY").copied().collect();
    let ran = run(folder, &without, &["users", "refresh", "a@example.com"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("STRIPE_SECRET_KEY"), "{}", ran.err);
}
