//! The jobs that call Stripe: what their runs end with, and who is told.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use billing::{
    catalog::Catalog,
    db::{Db, DbOptions},
    policy::Policy,
    processor::{Processor, ProcessorOptions},
    progress::Progress,
    stripe::{Collection, Fetched, Lane, Listed, Page, Resource, Stripe, StripeError},
};
use entity::Time;
use scheduler::{JobContext, JobError, Observers, Tools, jobs};
use serde_json::{Value, json};
use testkit::{TestDb, on_each};
use tokio_util::sync::CancellationToken;

/// A Stripe with one endpoint and no subscriptions, of this account, or out of order.
#[derive(Debug)]
struct Small {
    account: Mutex<&'static str>,
    broken: bool,
}

#[async_trait]
impl Stripe for Small {
    async fn get(&self, _: &Resource, _: Lane) -> Result<Fetched, StripeError> {
        let account = *self.account.lock().expect("nobody panics with it");
        Ok(Fetched { object: json!({"id": account}).to_string(), at: Time::UNIX_EPOCH })
    }

    async fn list(&self, collection: &Collection, _: Option<&str>, _: Lane) -> Result<Page, StripeError> {
        if self.broken {
            return Err(StripeError::Unavailable { reason: "it answered 500".into(), request: None });
        }
        let mut objects = Vec::new();
        if *collection == Collection::WebhookEndpoints {
            let endpoint = json!({
                "id": "we_1", "url": "https://a.example.com/api/v1/stripe/webhook", "status": "disabled", "enabled_events": ["*"],
            });
            objects.push(Listed { id: "we_1".into(), object: endpoint.to_string() });
        }
        Ok(Page { objects, has_more: false, at: Time::UNIX_EPOCH })
    }
}

/// Runs a job once, and gives what it ended with and what observers were told.
const RECONCILE: &str = "reconcile_subscriptions";
const RECOVER: &str = "recover_missed_events";
const CHECK: &str = "check_webhook_endpoint";

async fn run(name: &str, test_db: &TestDb, stripe: Option<Arc<Small>>) -> (Result<Value, JobError>, Vec<String>) {
    let db = Db::connect(test_db.url(), &DbOptions::default()).await.expect("the test's database answers");
    let (catalog, policy) = (Arc::new(Catalog::default()), Arc::new(Policy::default()));
    let stripe = stripe.map(|stripe| stripe as Arc<dyn Stripe>);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let (one, two, three) = (Arc::clone(&told), Arc::clone(&told), Arc::clone(&told));
    let note = |told: &Mutex<Vec<String>>, text: String| told.lock().expect("nobody panics with it").push(text);
    let observers = Observers {
        reconciled: Arc::new(move |report| note(&one, format!("reconciled: {}", report.outcome))),
        recovered: Arc::new(move |report| note(&two, format!("recovered: {}", report.stored))),
        endpoint_checked: Arc::new(move |report| note(&three, format!("endpoint: {}", report.healthy))),
    };
    let options = ProcessorOptions::default();
    let processor = Processor::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), options, stripe.clone());
    let tools = Tools { stripe, observers, ..Tools::new(catalog, policy, processor) };
    let context = JobContext {
        db: db.clone(),
        tools: Arc::new(tools),
        stop: CancellationToken::new(),
        progress: Progress::default(),
        slot: Time::UNIX_EPOCH,
    };
    let job = jobs::all().into_iter().find(|job| job.spec().name == name).expect("there is such a job");
    let ended = job.run(&context).await;
    drop(context);
    db.close().await.expect("an idle pool closes");
    let told = told.lock().expect("nobody panics with it").clone();
    (ended, told)
}

fn small(account: &'static str, broken: bool) -> Arc<Small> {
    Arc::new(Small { account: Mutex::new(account), broken })
}

#[test]
fn without_a_key_they_say_what_is_not_set_up() {
    on_each(|test_db| async move {
        for job in [RECONCILE, RECOVER, CHECK] {
            let (ended, told) = run(job, &test_db, None).await;
            let Err(JobError::NotConfigured(why)) = ended else { panic!("{ended:?}") };
            assert!(why.contains("STRIPE_SECRET_KEY") && told.is_empty(), "{why}");
        }
    });
}

#[test]
fn a_run_that_succeeds_tells_its_report() {
    on_each(|test_db| async move {
        let (ended, told) = run(RECONCILE, &test_db, Some(small("acct_1", false))).await;
        assert_eq!(ended.expect("it succeeds")["outcome"], "succeeded");
        assert_eq!(told, ["reconciled: succeeded"]);
        let (ended, told) = run(RECOVER, &test_db, Some(small("acct_1", false))).await;
        assert_eq!(ended.expect("it succeeds")["first"], true);
        assert_eq!(told, ["recovered: 0"]);
        // What is wrong with the endpoint is what it was to find out.
        let (ended, told) = run(CHECK, &test_db, Some(small("acct_1", false))).await;
        assert_eq!(ended.expect("it succeeds")["findings"][0]["kind"], "disabled");
        assert_eq!(told, ["endpoint: false"]);
    });
}

#[test]
fn a_refused_run_is_refused_and_a_failed_one_has_failed_each_with_its_report() {
    on_each(|test_db| async move {
        run(RECONCILE, &test_db, Some(small("acct_1", false))).await.0.expect("it succeeds");
        let (ended, told) = run(RECONCILE, &test_db, Some(small("acct_2", false))).await;
        let Err(JobError::Refused { why, report: Some(report) }) = ended else { panic!("{ended:?}") };
        assert!(why.contains("acct_2") && report["account"] == "acct_2", "{why}");
        assert_eq!(told, ["reconciled: refused"]);
        let (ended, told) = run(RECONCILE, &test_db, Some(small("acct_1", true))).await;
        let Err(JobError::Failed { error, report: Some(report) }) = ended else { panic!("{ended:?}") };
        assert!(error.to_string().contains("500") && report["complete"] == false, "{error}");
        assert_eq!(told, ["reconciled: failed"]);
        let (ended, _) = run(CHECK, &test_db, Some(small("acct_1", true))).await;
        assert!(matches!(ended, Err(JobError::Failed { .. })), "{ended:?}");
    });
}
