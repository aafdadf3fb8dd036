//! E-mails, from the event that gives reason for one to the mail server, on each database.

use std::{sync::Arc, time::Duration};

use billing::{
    catalog::Catalog,
    db::{Db, Fence},
    inbox::records,
    mail::{self, MailOptions, Mailer, Sendings},
    policy::Policy,
    processor::ProcessorOptions,
    progress::Progress,
    samples::{ApiVersion, InvoiceSample, SubscriptionSample, event},
};
use chrono::{TimeDelta, Utc};
use entity::{
    email_outbox,
    enums::{EmailStatus, ProcessingStatus},
    ids::EventId,
};
use sea_orm::EntityTrait;
use serde_json::Value;
use testkit::{
    Kind, TestDb, on_each,
    smtp::{Answer, SmtpServer, Step},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, user_id},
    semantics::subscription,
};

const DAY: i64 = 86_400;

async fn desk(test_db: TestDb) -> Desk {
    let policy = Policy { queue_emails: true, ..Policy::default() };
    let desk = Desk::with(test_db, policy, ProcessorOptions::default()).await;
    desk.put(user_id(1), "ada@example.com").await;
    desk
}

fn options(url: &str) -> MailOptions {
    MailOptions {
        url: url.parse().expect("a URL"),
        from: "Example <billing@example.com>".parse().expect("an address"),
        reply_to: Some("help@example.com".parse().expect("an address")),
        product: "Example & Sons".to_owned(),
        templates: None,
        concurrency: 4,
        timeout: Duration::from_secs(20),
        holder: "test".to_owned(),
    }
}

fn mailer(url: &str) -> Arc<Mailer> {
    mailer_with(options(url))
}

fn mailer_with(options: MailOptions) -> Arc<Mailer> {
    Arc::new(Mailer::new(options, Arc::new(Catalog::default()), None).expect("the built-in texts"))
}

async fn send(db: &Db, mailer: &Arc<Mailer>) -> Sendings {
    let mut report = Sendings::default();
    mail::send_due(db, mailer, &CancellationToken::new(), &Progress::default(), &mut report)
        .await
        .expect("the database answers");
    report
}

fn sent(count: u64) -> Sendings {
    Sendings { sent: count, ..Sendings::default() }
}

/// An event of this second: what is compared with now must be of now.
fn now(id: &str, event_type: &str, object: Value) -> Value {
    event(id, event_type, Utc::now().timestamp(), ApiVersion::LATEST, object, None)
}

fn open_invoice(id: &str) -> InvoiceSample {
    let mut invoice =
        InvoiceSample::of(&subscription(user_id(1), "pro", "active"), id, "subscription_cycle", "open", 1_790_000_000);
    invoice.attempt_count = 1;
    invoice.next_payment_attempt = Some(Utc::now().timestamp() + 3 * DAY);
    invoice
}

/// Each attempt at a second of its own.
fn failed(id: &str, invoice: &InvoiceSample) -> Value {
    let at = Utc::now().timestamp() + invoice.attempt_count;
    event(id, "invoice.payment_failed", at, ApiVersion::LATEST, invoice.render(ApiVersion::LATEST), None)
}

/// A failed payment of this invoice, applied.
async fn queue(desk: &Desk, invoice: &str) {
    let sub = subscription(user_id(1), "pro", "active");
    desk.apply(&[
        now(&format!("evt_sub_{invoice}"), "customer.subscription.updated", sub.render(ApiVersion::LATEST)),
        failed(&format!("evt_{invoice}"), &open_invoice(invoice)),
    ])
    .await;
}

async fn outbox(desk: &Desk) -> Vec<email_outbox::Model> {
    let mut rows = email_outbox::Entity::find().all(desk.db.reader()).await.expect("the database answers");
    rows.sort_by(|a, b| a.dedupe_key.cmp(&b.dedupe_key));
    rows
}

async fn row(desk: &Desk) -> email_outbox::Model {
    let mut rows = outbox(desk).await;
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

/// Time passes: what waits is due.
async fn wait_out(desk: &Desk) {
    let past = match desk.kind() {
        Kind::Postgres => "now() - interval '1 second'",
        Kind::Sqlite => "'2000-01-01T00:00:00.000+00:00'",
    };
    desk.sql(&format!("UPDATE email_outbox SET next_attempt_at = {past} WHERE status = 'pending'")).await;
}

#[test]
fn an_email_tells_amount_plan_and_link_in_plain_text_and_html() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        desk.sql("UPDATE users SET full_name = 'Ada Lövelace <x>'").await;
        queue(&desk, "in_1").await;
        let server = SmtpServer::start().await;
        assert_eq!(send(&desk.db, &mailer(&server.url())).await, sent(1));
        let letters = server.letters();
        assert_eq!(letters.len(), 1);
        let letter = &letters[0];
        assert_eq!(letter.to, "ada@example.com");
        let header = |name| letter.header(name).unwrap_or_default();
        assert_eq!(header("From"), "Example <billing@example.com>");
        assert_eq!(header("Reply-To"), "help@example.com");
        assert_eq!(header("Subject"), "Your payment for Example & Sons did not go through");
        assert_eq!(header("Auto-Submitted"), "auto-generated");
        assert!(header("Message-ID").ends_with("@example.com>"), "{}", header("Message-ID"));
        assert!(header("Content-Type").starts_with("multipart/alternative"), "{}", header("Content-Type"));
        let text = letter.text.replace("=\r\n", "").replace("=3D", "=");
        for told in ["19.00 USD", "plan pro", "https://invoice.stripe.com/i/acct_sample/test_1", "tried again on"] {
            assert!(text.contains(told), "{told} in {text}");
        }
        assert!(text.contains("Example &amp; Sons"), "HTML is escaped: {text}");
        assert!(!text.contains("\nL=C3=B6velace <x>"), "no header of a name's making");
        let row = row(&desk).await;
        assert_eq!((row.status, row.attempts, row.error, row.claim_token), (EmailStatus::Sent, 0, None, None));
        assert!(row.sent_at.is_some());
        assert_eq!(send(&desk.db, &mailer(&server.url())).await, sent(0));
        desk.close().await;
    });
}

// Known from pay#612 and open-saas#688: side effects once, whatever is delivered twice or replayed.
#[test]
fn one_email_for_one_reason_whatever_is_delivered_twice_or_replayed() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        let server = SmtpServer::start().await;
        let mailer = mailer(&server.url());
        queue(&desk, "in_1").await;
        // The same event again, before and after the e-mail went out; and another event object about the same attempt, as Stripe sometimes makes.
        queue(&desk, "in_1").await;
        assert_eq!(send(&desk.db, &mailer).await, sent(1));
        queue(&desk, "in_1").await;
        desk.apply(&[failed("evt_twin", &open_invoice("in_1"))]).await;
        for id in ["evt_in_1", "evt_twin"] {
            let id = EventId::parse(id).expect("an id");
            records::retry(&desk.db, &id, &desk.rules, None).await.expect("it can be replayed");
        }
        let completed = records::Filter { status: Some(ProcessingStatus::Completed), ..records::Filter::default() };
        desk.work().await;
        assert!(records::retry_all(&desk.db, &completed, &desk.rules).await.expect("an answer").retried >= 3);
        desk.work().await;
        assert_eq!(send(&desk.db, &mailer).await, sent(0));
        assert_eq!((server.letters().len(), outbox(&desk).await.len()), (1, 1));
        // The next attempt is a reason of its own.
        let mut second = open_invoice("in_1");
        second.attempt_count = 2;
        desk.apply(&[failed("evt_second", &second)]).await;
        assert_eq!(send(&desk.db, &mailer).await, sent(1));
        let ids: Vec<_> = server.letters().iter().map(|letter| letter.header("Message-ID")).collect();
        assert_ne!(ids[0], ids[1]);
        desk.close().await;
    });
}

#[test]
fn a_recipient_that_is_refused_for_good_fails_at_once_and_one_refused_for_now_is_tried_again() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        let server = SmtpServer::start().await;
        for (number, address) in [(2, "gone"), (3, "full"), (4, "policy"), (5, "spam")] {
            desk.put(user_id(number), &format!("{address}@example.com")).await;
            let mut sub = subscription(user_id(number), "pro", "active");
            (sub.id, sub.customer) = (format!("sub_{number}"), format!("cus_{number}"));
            let mut invoice =
                InvoiceSample::of(&sub, format!("in_{address}"), "subscription_cycle", "open", 1_790_000_000);
            invoice.attempt_count = 1;
            let sub =
                now(&format!("evt_sub_{address}"), "customer.subscription.updated", sub.render(ApiVersion::LATEST));
            desk.apply(&[sub, failed(&format!("evt_{address}"), &invoice)]).await;
        }
        queue(&desk, "in_well").await;
        server.script(|step| match step {
            Step::Recipient("gone@example.com") => Answer::Say("550 5.1.1 <gone@example.com>: no such mailbox"),
            Step::Recipient("full@example.com") => Answer::Say("452 4.2.2 mailbox full"),
            Step::Recipient("policy@example.com") => Answer::Say("554 5.7.1 relay access denied"),
            Step::Letter("spam@example.com") => Answer::Say("554 5.6.0 we do not like it"),
            _ => Answer::Take,
        });
        let mailer = mailer(&server.url());
        let report = send(&desk.db, &mailer).await;
        assert_eq!(report, Sendings { sent: 1, failed: 2, retried: 2, ..Sendings::default() });
        let found = |rows: &[email_outbox::Model], name: &str| {
            rows.iter().find(|row| row.dedupe_key.contains(&format!("in_{name}:"))).cloned().expect("it is there")
        };
        let rows = outbox(&desk).await;
        let gone = found(&rows, "gone");
        assert_eq!((gone.status, gone.attempts), (EmailStatus::Failed, 1));
        let error = gone.error.expect("an error");
        assert!(error.contains("550") && error.contains("no such mailbox"), "{error}");
        assert!(!error.contains('@'), "no address in an error: {error}");
        assert_eq!(found(&rows, "spam").status, EmailStatus::Failed);
        for name in ["full", "policy"] {
            let row = found(&rows, name);
            assert_eq!((row.status, row.attempts), (EmailStatus::Pending, 1), "{name}");
            let pause = row.next_attempt_at - Utc::now();
            assert!(pause > TimeDelta::seconds(40) && pause < TimeDelta::seconds(80), "{name}: {pause}");
        }
        assert_eq!(send(&desk.db, &mailer).await, sent(0), "not before its pause is over");
        server.script(|_| Answer::Take);
        wait_out(&desk).await;
        assert_eq!(send(&desk.db, &mailer).await, sent(2));
        // What was given up goes out on a person's word.
        assert_eq!(mail::outbox::retry(&desk.db, None).await.expect("an answer"), 2);
        assert_eq!(send(&desk.db, &mailer).await, sent(2));
        desk.close().await;
    });
}

#[test]
fn an_email_that_is_never_taken_is_given_up_after_its_attempts() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        queue(&desk, "in_1").await;
        let server = SmtpServer::start().await;
        server.script(|step| match step {
            Step::Recipient(_) => Answer::Say("450 4.2.1 come again"),
            _ => Answer::Take,
        });
        let mailer = mailer(&server.url());
        for attempt in 1..8 {
            wait_out(&desk).await;
            assert_eq!(send(&desk.db, &mailer).await.retried, 1, "attempt {attempt}");
        }
        wait_out(&desk).await;
        assert_eq!(send(&desk.db, &mailer).await.failed, 1);
        let row = row(&desk).await;
        assert_eq!((row.status, row.attempts), (EmailStatus::Failed, 8));
        desk.close().await;
    });
}

#[test]
fn a_mail_server_that_is_away_counts_against_no_email() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        for number in 0..6 {
            queue(&desk, &format!("in_{number}")).await;
        }
        let address = SmtpServer::nowhere().await;
        let mailer = mailer(&format!("smtp://{address}"));
        for _ in 0..20 {
            wait_out(&desk).await;
            let report = send(&desk.db, &mailer).await;
            let away = report.away.expect("the run tells");
            assert!(away.contains("connecting"), "{away}");
            assert_eq!((report.sent, report.failed, report.dropped), (0, 0, 0));
            assert!(report.retried <= 5, "a run does not try everything there is: {}", report.retried);
        }
        for row in outbox(&desk).await {
            assert_eq!((row.status, row.attempts), (EmailStatus::Pending, 0), "{row:?}");
        }
        let server = SmtpServer::at(&address).await;
        // Nor does one that wants something else of us, or nothing from our sender.
        for line in ["421 4.3.2 shutting down", "530 5.7.0 sign in first", "550 5.1.8 no such sender"] {
            server.script(move |step| if step == Step::Sender { Answer::Say(line) } else { Answer::Take });
            wait_out(&desk).await;
            let report = send(&desk.db, &mailer).await;
            assert!(report.away.is_some_and(|away| away.contains(&line[..3])), "{line}");
            assert_eq!((report.sent, report.failed), (0, 0), "{line}");
        }
        server.script(|_| Answer::Take);
        wait_out(&desk).await;
        assert_eq!(send(&desk.db, &mailer).await, sent(6));
        desk.close().await;
    });
}

#[test]
fn an_email_for_which_the_server_is_always_away_holds_up_none_of_its_neighbours_and_ends_after_a_week() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        desk.put(user_id(2), "tarpit@example.com").await;
        let mut sub = subscription(user_id(2), "pro", "active");
        (sub.id, sub.customer) = ("sub_2".to_owned(), "cus_2".to_owned());
        let mut invoice = InvoiceSample::of(&sub, "in_tarpit", "subscription_cycle", "open", 1_790_000_000);
        invoice.attempt_count = 1;
        let sub = now("evt_sub_tarpit", "customer.subscription.updated", sub.render(ApiVersion::LATEST));
        desk.apply(&[sub, failed("evt_tarpit", &invoice)]).await;
        for number in 0..5 {
            queue(&desk, &format!("in_{number}")).await;
        }
        let server = SmtpServer::start().await;
        server.script(|step| match step {
            Step::Recipient("tarpit@example.com") => Answer::Close,
            _ => Answer::Take,
        });
        let mailer = mailer_with(MailOptions { concurrency: 1, ..options(&server.url()) });
        let report = send(&desk.db, &mailer).await;
        assert_eq!((report.sent, report.retried, report.away), (5, 1, None));
        let old = match desk.kind() {
            Kind::Postgres => "now() - interval '8 days'",
            Kind::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-8 days')",
        };
        desk.sql(&format!("UPDATE email_outbox SET created_at = {old}")).await;
        wait_out(&desk).await;
        assert_eq!(send(&desk.db, &mailer).await.failed, 1);
        desk.close().await;
    });
}

#[test]
fn a_server_that_says_nothing_is_waited_for_only_so_long() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        queue(&desk, "in_1").await;
        let server = SmtpServer::start().await;
        let mailer = mailer_with(MailOptions { timeout: Duration::from_millis(200), ..options(&server.url()) });
        for silent in [0, 1, 2] {
            server.script(move |step| match (silent, step) {
                (0, Step::Greeting) | (1, Step::Sender) | (2, Step::Recipient(_)) => Answer::Hang,
                _ => Answer::Take,
            });
            wait_out(&desk).await;
            let report = send(&desk.db, &mailer).await;
            assert!(report.away.is_some_and(|away| away.contains("no answer within")), "{silent}");
            let row = row(&desk).await;
            assert_eq!((row.status, row.attempts, row.unknown_outcomes), (EmailStatus::Pending, 0, 0));
        }
        desk.close().await;
    });
}

#[test]
fn an_email_of_which_nobody_knows_whether_it_went_out_is_sent_once_more_and_no_third_time() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        queue(&desk, "in_1").await;
        let server = SmtpServer::start().await;
        server.script(|step| if matches!(step, Step::Letter(_)) { Answer::TakeAndClose } else { Answer::Take });
        let mailer = mailer(&server.url());
        assert_eq!(send(&desk.db, &mailer).await.retried, 1);
        wait_out(&desk).await;
        assert_eq!(send(&desk.db, &mailer).await.failed, 1);
        wait_out(&desk).await;
        assert_eq!(send(&desk.db, &mailer).await, sent(0));
        let letters = server.letters();
        assert_eq!(letters.len(), 2);
        assert_eq!(letters[0].header("Message-ID"), letters[1].header("Message-ID"), "whoever keeps mail can tell");
        assert_eq!(row(&desk).await.status, EmailStatus::Failed);
        desk.close().await;
    });
}

#[test]
fn a_sender_that_dies_between_sending_and_noting_it_makes_one_repeat_at_most() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        queue(&desk, "in_1").await;
        let server = SmtpServer::start().await;
        let never = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&never);
        server.script(move |step| match step {
            Step::Letter(_) => Answer::Hold(Arc::clone(&held)),
            _ => Answer::Take,
        });
        let first = mailer(&server.url());
        for deaths in 1..=2 {
            let (db, mailer) = (desk.db.clone(), Arc::clone(&first));
            let sender = tokio::spawn(async move { send(&db, &mailer).await });
            server.took(deaths).await;
            sender.abort();
            let _ = sender.await;
            // Before its lease is over nobody else touches it.
            assert_eq!(send(&desk.db, &first).await, sent(0));
            // It starts anew.
            assert_eq!(mail::outbox::end_own_leases(&desk.db, "test").await.expect("an answer"), 1);
        }
        server.script(|_| Answer::Take);
        assert_eq!(send(&desk.db, &first).await.failed, 1);
        assert_eq!(server.letters().len(), 2, "one repeat");
        desk.close().await;
    });
}

#[test]
fn two_senders_at_once_send_each_email_once() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        for number in 0..30 {
            queue(&desk, &format!("in_{number}")).await;
        }
        let server = SmtpServer::start().await;
        let (one, two) = (mailer(&server.url()), mailer(&server.url()));
        let (a, b, c) = tokio::join!(send(&desk.db, &one), send(&desk.db, &two), send(&desk.db, &one));
        assert_eq!(a.sent + b.sent + c.sent, 30);
        let mut ids: Vec<_> = server.letters().iter().map(|letter| letter.header("Message-ID")).collect();
        assert_eq!(ids.len(), 30);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 30, "each once");
        desk.close().await;
    });
}

#[test]
fn one_connection_carries_many_emails_also_past_one_that_was_refused() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        for number in 0..8 {
            queue(&desk, &format!("in_{number}")).await;
        }
        let server = SmtpServer::start().await;
        let first = std::sync::atomic::AtomicBool::new(true);
        server.script(move |step| match step {
            Step::Recipient(_) if first.swap(false, std::sync::atomic::Ordering::SeqCst) => {
                Answer::Say("450 4.2.1 later")
            }
            _ => Answer::Take,
        });
        let mailer = mailer_with(MailOptions { concurrency: 1, ..options(&server.url()) });
        let report = send(&desk.db, &mailer).await;
        assert_eq!((report.sent, report.retried, server.connections()), (7, 1, 1));
        desk.close().await;
    });
}

#[test]
fn a_payment_email_whose_reason_is_gone_is_dropped() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        let server = SmtpServer::start().await;
        for invoice in ["in_paid", "in_void", "in_again", "in_due"] {
            queue(&desk, invoice).await;
        }
        let mut again = open_invoice("in_again");
        again.attempt_count = 2;
        let with = |id: &str, status: &str| {
            let sub = subscription(user_id(1), "pro", "active");
            InvoiceSample::of(&sub, id, "subscription_cycle", status, 1_790_000_000).render(ApiVersion::LATEST)
        };
        desk.apply(&[
            now("evt_paid", "invoice.paid", with("in_paid", "paid")),
            now("evt_void", "invoice.voided", with("in_void", "void")),
            failed("evt_again", &again),
        ])
        .await;
        let report = send(&desk.db, &mailer(&server.url())).await;
        assert_eq!(report, Sendings { sent: 2, dropped: 3, ..Sendings::default() });
        let told: Vec<_> = outbox(&desk).await.into_iter().filter(|row| row.status == EmailStatus::Dropped).collect();
        assert!(told.iter().all(|row| row.error.as_ref().is_some_and(|error| error.contains("meanwhile"))), "{told:?}");
        desk.close().await;
    });
}

#[test]
fn a_trial_email_is_dropped_once_the_trial_is_converted_cancelled_moved_or_over() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        let server = SmtpServer::start().await;
        let mailer = mailer(&server.url());
        let end = Utc::now().timestamp() + 3 * DAY;
        let trial = |number: u128| {
            let mut sub = subscription(user_id(1), "pro", "trialing");
            (sub.id, sub.customer) = (format!("sub_{number}"), format!("cus_{number}"));
            (sub.trial_start, sub.trial_end) = (Some(end - 14 * DAY), Some(end));
            sub
        };
        let tell = |id: String, event_type: &str, sub: &SubscriptionSample, ahead: i64| {
            event(
                &id,
                event_type,
                Utc::now().timestamp() + ahead,
                ApiVersion::LATEST,
                sub.render(ApiVersion::LATEST),
                None,
            )
        };
        for number in 0..6 {
            let sub = trial(number);
            desk.apply(&[tell(format!("evt_t{number}"), "customer.subscription.trial_will_end", &sub, 0)]).await;
        }
        let changes: [fn(&mut SubscriptionSample); 5] = [
            |sub| "active".clone_into(&mut sub.status),
            |sub| sub.cancel_at_period_end = true,
            |sub| sub.trial_end = sub.trial_end.map(|end| end + 7 * DAY),
            |sub| sub.cancel_at = sub.trial_end,
            |sub| "canceled".clone_into(&mut sub.status),
        ];
        for (number, change) in (0_u128..).zip(changes) {
            let mut sub = trial(number);
            change(&mut sub);
            desk.apply(&[tell(format!("evt_u{number}"), "customer.subscription.updated", &sub, 1)]).await;
        }
        let report = send(&desk.db, &mailer).await;
        assert_eq!(report, Sendings { sent: 1, dropped: 5, ..Sendings::default() });
        let letter = &server.letters()[0];
        let day = chrono::DateTime::from_timestamp(end, 0).expect("a moment").format("%-d %B %Y").to_string();
        assert_eq!(letter.header("Subject"), Some(format!("Your trial of Example & Sons ends on {day}")));
        desk.close().await;
    });
}

#[test]
fn an_email_goes_to_the_address_the_user_has_when_it_is_sent() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        let server = SmtpServer::start().await;
        queue(&desk, "in_1").await;
        desk.put(user_id(1), "moved@example.com").await;
        assert_eq!(send(&desk.db, &mailer(&server.url())).await, sent(1));
        assert_eq!(server.letters()[0].to, "moved@example.com");
        queue(&desk, "in_2").await;
        desk.sql("UPDATE users SET email = 'nobody at all'").await;
        assert_eq!(send(&desk.db, &mailer(&server.url())).await.dropped, 1);
        queue(&desk, "in_3").await;
        desk.sql("DELETE FROM users").await;
        assert!(outbox(&desk).await.is_empty(), "a user who goes takes their e-mails along");
        assert_eq!(send(&desk.db, &mailer(&server.url())).await, sent(0));
        desk.close().await;
    });
}

#[test]
fn what_went_out_is_noted_even_where_the_jobs_lease_was_lost_meanwhile() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        queue(&desk, "in_1").await;
        desk.sql("CREATE TABLE IF NOT EXISTS job_leases (job text PRIMARY KEY, token bigint NOT NULL DEFAULT 0)").await;
        desk.sql("INSERT INTO job_leases (job, token) VALUES ('send_emails', 1)").await;
        let server = SmtpServer::start().await;
        let permit = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&permit);
        server.script(move |step| match step {
            Step::Letter(_) => Answer::Hold(Arc::clone(&held)),
            _ => Answer::Take,
        });
        let fenced = desk.db.fenced(Fence { job: "send_emails", token: 1 });
        let mailer = mailer(&server.url());
        let sender = tokio::spawn(async move {
            let mut report = Sendings::default();
            let stop = CancellationToken::new();
            let result = mail::send_due(&fenced, &mailer, &stop, &Progress::default(), &mut report).await;
            (result, report)
        });
        server.took(1).await;
        desk.sql("UPDATE job_leases SET token = 2").await;
        permit.add_permits(1);
        let (result, report) = sender.await.expect("it ends");
        assert!(billing::db::is_lease_lost(&result.expect_err("nothing more is claimed")));
        assert_eq!(report, sent(1));
        assert_eq!(row(&desk).await.status, EmailStatus::Sent);
        desk.close().await;
    });
}

#[test]
fn told_to_stop_it_sees_through_what_is_under_way_and_begins_nothing_new() {
    on_each(|test_db| async {
        let desk = desk(test_db).await;
        for number in 0..3 {
            queue(&desk, &format!("in_{number}")).await;
        }
        let server = SmtpServer::start().await;
        let permit = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&permit);
        server.script(move |step| match step {
            Step::Letter(_) => Answer::Hold(Arc::clone(&held)),
            _ => Answer::Take,
        });
        let stop = CancellationToken::new();
        let mailer = mailer_with(MailOptions { concurrency: 1, ..options(&server.url()) });
        let (db, told) = (desk.db.clone(), stop.clone());
        let sender = tokio::spawn(async move {
            let mut report = Sendings::default();
            mail::send_due(&db, &mailer, &told, &Progress::default(), &mut report).await.expect("an answer");
            report
        });
        server.took(1).await;
        stop.cancel();
        permit.add_permits(3);
        assert_eq!(sender.await.expect("it ends"), sent(1));
        assert_eq!(server.letters().len(), 1);
        desk.close().await;
    });
}
