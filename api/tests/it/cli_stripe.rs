//! Commands that call Stripe: reconcile, recover.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::path::Path;

use billing::samples::{ApiVersion, Metadata, SubscriptionSample, event};
use chrono::Utc;
use serde_json::{Value, json};
use testkit::stripe::{Answer, FakeStripe};

use crate::process_harness::{Ran, run};

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

struct Desk {
    folder: tempfile::TempDir,
    stripe: FakeStripe,
    url: String,
}

impl Desk {
    async fn new() -> Self {
        let stripe = FakeStripe::start().await;
        stripe.object("/v1/account", &json!({"id": "acct_1", "object": "account"}));
        let desk = Self { folder: tempfile::tempdir().unwrap(), url: stripe.url(), stripe };
        let migrated = desk.run(&["migrate", "up"]).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        desk
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let variables = [
            ("STRIPE_SECRET_KEY", "sk_test_hidden"),
            ("STRIPE_WEBHOOK_SECRET", "whsec_test_hidden"),
            ("TRUEUP_PUBLIC_URL", "https://billing.example.com"),
            ("STRIPE_API_BASE", &self.url),
        ];
        let ran = run(self.folder(), &variables, arguments).await;
        assert!(!ran.out.contains("hidden") && !ran.err.contains("hidden"), "a secret is shown: {ran:?}");
        ran
    }

    async fn json(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, Some(code), "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }
}

fn subscription(number: u32) -> Value {
    let at = Utc::now().timestamp() - 5000 - i64::from(number);
    let mut sample = SubscriptionSample::new(format!("sub_{number}"), format!("cus_{number}"), "active", at);
    sample.items[0].lookup_key = Some("pro".into());
    sample.metadata = Metadata::from([("user_id".into(), ADA.into())]);
    sample.render(ApiVersion::LATEST)
}

#[tokio::test]
async fn reconcile_tells_drift_by_its_exit_code_and_repairs_it() {
    let desk = Desk::new().await;
    desk.stripe.list("/v1/subscriptions", vec![subscription(1)]);
    let dry = desk.run(&["reconcile", "--dry-run"]).await;
    assert_eq!(dry.code, Some(2), "{dry:?}");
    for part in ["2 drifts, nothing changed", "missing", "unknown_user", "sub_1", ADA] {
        assert!(dry.out.contains(part), "{part} in {}", dry.out);
    }
    let applied = desk.json(&["reconcile", "--json"], 0).await;
    assert_eq!((&applied["outcome"], &applied["repaired"]), (&json!("succeeded"), &json!(1)));
    let again = desk.json(&["reconcile", "--dry-run", "--json"], 2).await;
    assert_eq!((&again["drifted"], &again["by_kind"]["unknown_user"]), (&json!(1), &json!(1)));
    // Stripe shows nothing any more, and something lives here: that is a failure, and no drift.
    desk.stripe.list("/v1/subscriptions", vec![]);
    let failed = desk.run(&["reconcile"]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("nothing is concluded"), "{failed:?}");
    desk.stripe.object("/v1/account", &json!({"id": "acct_other", "object": "account"}));
    let refused = desk.run(&["reconcile"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("refused") && refused.err.contains("--accept-account"), "{refused:?}");
    let nobody = desk.run(&["reconcile", "--user", "nobody@example.com"]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
}

#[tokio::test]
async fn reconcile_finds_no_drift_where_there_is_none() {
    let desk = Desk::new().await;
    desk.stripe.list("/v1/subscriptions", vec![]);
    let dry = desk.run(&["reconcile", "--dry-run"]).await;
    assert_eq!((dry.code, dry.out.contains("no drift")), (Some(0), true), "{dry:?}");
}

#[tokio::test]
async fn recover_stores_what_is_lacking() {
    let desk = Desk::new().await;
    let at = Utc::now().timestamp() - 1800;
    let missed = event("evt_lost", "customer.subscription.updated", at, ApiVersion::LATEST, subscription(1), None);
    desk.stripe.list("/v1/events", vec![missed]);
    let first = desk.run(&["recover"]).await;
    assert!(first.code == Some(0) && first.out.contains("no cursor yet"), "{first:?}");
    let report = desk.json(&["recover", "--since", "1h", "--json"], 0).await;
    assert_eq!((&report["stored"], &report["skipped"]), (&json!(1), &json!(0)), "{report}");
    let inbox = desk.json(&["webhooks", "list", "--json"], 0).await;
    assert_eq!(inbox["items"][0]["source"], "recovery");
    desk.stripe.instead(Some(Answer::error(401, "api_key_invalid", "Invalid API Key provided")));
    let wrong = desk.run(&["recover", "--since", "1h"]).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.err.contains("STRIPE_SECRET_KEY"), "{wrong:?}");
}

#[tokio::test]
async fn without_a_key_stripe_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(folder.path(), &[], &["reconcile"]).await;
    assert!(ran.code == Some(1) && ran.err.contains("STRIPE_SECRET_KEY"), "{ran:?}");
}
