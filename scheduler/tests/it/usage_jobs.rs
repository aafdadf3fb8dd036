//! The jobs of usage, run as the scheduler runs them.

use std::sync::Arc;

use billing::{
    catalog::Catalog,
    db::{Db, DbOptions},
    policy::Policy,
    processor::{Processor, ProcessorOptions},
    progress::Progress,
    usage::Watch,
};
use scheduler::{JobContext, JobError, Tools, jobs};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use testkit::{Kind, on_each};
use tokio_util::sync::CancellationToken;

fn tools(db: &Db, rolled: Watch) -> Arc<Tools> {
    let (catalog, policy) = (Arc::new(Catalog::default()), Arc::new(Policy::default()));
    let options = ProcessorOptions::default();
    let processor = Processor::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), options, None);
    Arc::new(Tools { rolled, ..Tools::new(catalog, policy, processor) })
}

async fn run(context: &JobContext, name: &str) -> Result<Value, JobError> {
    let all = jobs::all();
    let job = all.iter().find(|job| job.spec().name == name).expect("there is such a job");
    job.run(context).await
}

#[test]
fn the_jobs_of_usage_roll_who_is_due_once_and_tell_of_it() {
    on_each(|test_db| async move {
        let db = Db::connect(test_db.url(), &DbOptions::default()).await.expect("the test's database answers");
        let tx = db.write().await.expect("a transaction");
        // As a host writes them, and one whom an override gave more until a date that has passed.
        let past =
            if test_db.kind() == Kind::Postgres { "now() - interval '1 hour'" } else { "'2026-01-01T00:00:00+00:00'" };
        for sql in [
            "INSERT INTO users (email) VALUES ('a@example.com'), ('b@example.com'), ('c@example.com')".to_owned(),
            format!(
                "UPDATE users SET subscription_tier = 'pro', subscription_access = true, usage_limit = 100,
                entitlement_changes_at = {past} WHERE email = 'c@example.com'"
            ),
            format!(
                "INSERT INTO tier_overrides (user_id, tier, until, reason, by)
                SELECT id, 'pro', {past}, 'r', 'b' FROM users WHERE email = 'c@example.com'"
            ),
        ] {
            tx.execute_unprepared(&sql).await.expect("the test's SQL is right");
        }
        tx.commit().await.expect("the database answers");

        let told = Arc::new(std::sync::Mutex::new((0, 0)));
        let watch = {
            let told = Arc::clone(&told);
            Watch::new(move |rolled| {
                let mut told = told.lock().expect("nobody panicked");
                *told = (told.0 + rolled.opened, told.1 + rolled.expired);
            })
        };
        let context = JobContext {
            db: db.clone(),
            tools: tools(&db, watch),
            stop: CancellationToken::new(),
            progress: Progress::default(),
            slot: chrono::Utc::now(),
        };
        let expired = run(&context, "expire_entitlements").await.expect("it succeeds");
        assert_eq!(expired, json!({"users": 1, "entitlements_ended": 1, "batches": 1, "failed": 0}));
        let reset = run(&context, "reset_monthly_usage").await.expect("it succeeds");
        assert_eq!(
            (&reset["users"], &reset["windows_opened"], &reset["entitlements_ended"]),
            (&json!(2), &json!(2), &json!(0))
        );
        assert_eq!(*told.lock().expect("nobody panicked"), (3, 1));
        for name in ["expire_entitlements", "reset_monthly_usage"] {
            assert_eq!(run(&context, name).await.expect("it succeeds")["users"], 0, "{name}");
        }
        context.stop.cancel();
        let cut_off = run(&context, "reset_monthly_usage").await;
        assert!(matches!(&cut_off, Err(JobError::CutOff { report: Some(_) })), "{cut_off:?}");
        db.close().await.expect("an idle pool closes");
    });
}
