//! The jobs that send e-mails and prune, as the engine runs them.

use std::{sync::Arc, time::Duration};

use billing::{
    catalog::Catalog,
    db::{Db, DbOptions},
    mail::{MailOptions, Mailer},
    policy::Policy,
    processor::{Processor, ProcessorOptions},
    progress::Progress,
};
use chrono::Utc;
use scheduler::{AnyJob, JobContext, JobError, Tools, jobs};
use sea_orm::ConnectionTrait;
use serde_json::json;
use testkit::{TestDb, on_each, smtp::SmtpServer};
use tokio_util::sync::CancellationToken;

fn job(name: &str) -> Box<dyn AnyJob> {
    jobs::all().into_iter().find(|job| job.spec().name == name).expect("there is such a job")
}

async fn context(database: &TestDb, mail_server: Option<&str>) -> JobContext {
    let db = Db::connect(database.url(), &DbOptions::default()).await.expect("the test's database answers");
    let (catalog, policy) = (Arc::new(Catalog::default()), Arc::new(Policy::default()));
    let options = ProcessorOptions::default();
    let processor = Processor::new(db.clone(), Arc::clone(&catalog), Arc::clone(&policy), options, None);
    let mailer = mail_server.map(|url| {
        let options = MailOptions {
            url: url.parse().expect("a URL"),
            from: "billing@example.com".parse().expect("an address"),
            reply_to: None,
            product: "Example".to_owned(),
            templates: None,
            concurrency: 2,
            timeout: Duration::from_secs(10),
            holder: "test".to_owned(),
        };
        Arc::new(Mailer::new(options, Arc::clone(&catalog), None).expect("the built-in texts"))
    });
    let tools = Tools { mailer, ..Tools::new(catalog, policy, processor) };
    JobContext {
        db,
        tools: Arc::new(tools),
        stop: CancellationToken::new(),
        progress: Progress::default(),
        slot: Utc::now(),
    }
}

/// An e-mail that gives no reason to drop it: of its invoice nothing else is known.
async fn queue(context: &JobContext) {
    let tx = context.db.write().await.expect("a transaction");
    for sql in [
        "INSERT INTO users (email) VALUES ('ada@example.com')",
        "INSERT INTO email_outbox (user_id, kind, dedupe_key, data) SELECT id, 'payment_failed', 'key', '{}' FROM users",
    ] {
        tx.execute_unprepared(sql).await.expect("the test's SQL is right");
    }
    tx.commit().await.expect("a commit");
}

#[test]
fn without_a_mail_server_the_job_says_what_to_set() {
    on_each(|database| async move {
        let context = context(&database, None).await;
        let told = job("send_emails").run(&context).await.expect_err("nothing to send with");
        assert!(
            matches!(&told, JobError::NotConfigured(why) if why.contains("SMTP_URL") && why.contains("mail.from")),
            "{told}"
        );
    });
}

#[test]
fn a_run_tells_what_was_sent_and_fails_with_what_it_got_done_where_the_server_is_away() {
    on_each(|database| async move {
        let address = SmtpServer::nowhere().await;
        let context = context(&database, Some(&format!("smtp://{address}"))).await;
        queue(&context).await;
        let told = job("send_emails").run(&context).await.expect_err("nobody is there");
        let JobError::Failed { error, report: Some(report) } = told else { panic!("{told}") };
        assert!(error.to_string().contains("the mail server does not take e-mails now"), "{error}");
        assert_eq!((&report["sent"], &report["retried"], &report["failed"]), (&json!(0), &json!(1), &json!(0)));
        let server = SmtpServer::at(&address).await;
        let tx = context.db.write().await.expect("a transaction");
        let past = "UPDATE email_outbox SET next_attempt_at = created_at";
        tx.execute_unprepared(past).await.expect("the test's SQL is right");
        tx.commit().await.expect("a commit");
        let report = job("send_emails").run(&context).await.expect("it is there");
        assert_eq!(report, json!({"sent": 1, "dropped": 0, "failed": 0, "retried": 0}));
        assert_eq!((server.letters().len(), context.progress.done()), (1, 2));
    });
}

#[test]
fn pruning_reports_what_it_did() {
    on_each(|database| async move {
        let context = context(&database, None).await;
        let report = job("prune_webhooks").run(&context).await.expect("it can be pruned");
        let counts = report.as_object().expect("counts");
        assert!(counts.contains_key("payloads_emptied") && counts.contains_key("events_deleted"), "{report}");
        assert!(counts.values().all(|count| count.as_u64() == Some(0)), "{report}");
    });
}
