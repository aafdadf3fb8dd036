//! What a start does and says.

use std::fs;

use reqwest::StatusCode;
use testkit::{TestDb, kinds};

use crate::process_harness::{Caller, Running, run};

#[tokio::test]
async fn a_start_without_any_configuration_serves_and_tells_what_to_do_next() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[], &[]);
    let url = server.url().await;
    server.line_with("dev-secrets.toml").await;
    let caller = Caller::new(&url, &folder.path().join("data"));
    let ready = caller.http.get(format!("{url}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::OK);

    let told = server.out();
    for part in [
        format!("webhooks   {url}/api/v1/stripe/webhook"),
        format!("stripe listen --forward-to {url}/api/v1/stripe/webhook"),
        format!("trueup trigger checkout.session.completed --email user@example.com --tier pro --url {url}"),
        format!("{url}/docs"),
        "SQLite, data/trueup.db".to_owned(),
    ] {
        assert!(told.contains(&part), "{part} is missing in:\n{told}");
    }
    let secrets = &caller.secrets;
    for secret in [&secrets.webhook_secret, &secrets.api_token, &secrets.admin_token] {
        assert!(!told.contains(secret.expose()), "no terminal, so no secret:\n{told}");
        assert!(!server.err().contains(secret.expose()), "a secret was logged:\n{}", server.err());
    }
    assert!(folder.path().join("data/trueup.db").exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.path().join("data/dev-secrets.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    server.stop().await;

    // The secrets of the first start serve the next.
    let again = Running::start(folder.path(), &[], &["serve"]);
    let url = again.url().await;
    assert_eq!(Caller::new(&url, &folder.path().join("data")).secrets, caller.secrets);
    again.stop().await;
}

#[tokio::test]
async fn half_a_configuration_is_refused_with_every_mistake_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = r#"
        trueup_listn = "127.0.0.1:8000"
        [[plans]]
        tier = "free"
        [[plans]]
        tier = "pro"
        prices = ["price_1"]
        [[plans]]
        tier = "elite"
        prices = ["price_1"]
    "#;
    fs::write(folder.path().join("trueup.toml"), file).unwrap();
    let variables = [
        ("STRIPE_SECRET_KEY", "sk_live_not_to_be_shown"),
        ("STRIPE_LIVEMODE", "false"),
        ("TRUEUP_API_TOKEN", "tooshort"),
    ];
    let ran = run(folder.path(), &variables, &[]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for part in [
        "5 mistakes",
        "STRIPE_WEBHOOK_SECRET: is not set although",
        "STRIPE_LIVEMODE: `false` contradicts STRIPE_SECRET_KEY",
        "TRUEUP_API_TOKEN: has only 8 characters; write at least 16",
        "trueup_listn: is unknown; did you mean `trueup_listen`?",
        "plans[2].prices: `price_1` belongs to the tier `pro` already",
    ] {
        assert!(ran.err.contains(part), "{part} is missing in:\n{}", ran.err);
    }
    assert!(!ran.err.contains("not_to_be_shown") && !ran.err.contains("tooshort"), "{}", ran.err);
    assert!(!folder.path().join("data").exists(), "a refused start leaves nothing behind");
}

#[tokio::test]
async fn a_text_of_an_email_that_could_fail_later_is_a_mistake_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts");
    fs::create_dir(&texts).unwrap();
    fs::write(texts.join("payment_failed.txt"), "{{ amuont }}").unwrap();
    fs::write(texts.join("trial_endin.html"), "soon").unwrap();
    let file = "[mail]\nfrom = \"a@example.com\"\ntemplates = \"texts\"\n";
    fs::write(folder.path().join("trueup.toml"), file).unwrap();
    let variables = [("SMTP_URL", "smtp://127.0.0.1:2525")];
    let ran = run(folder.path(), &variables, &[]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("mail.templates: trial_endin.html is the text of no e-mail"), "{}", ran.err);
    fs::remove_file(texts.join("trial_endin.html")).unwrap();
    let ran = run(folder.path(), &variables, &[]).await;
    assert!(ran.err.contains("mail.templates: payment_failed.txt cannot be used"), "{}", ran.err);
    assert!(ran.err.contains("in line 1; the names to use are product, name, plan, amount"), "{}", ran.err);
    fs::write(texts.join("payment_failed.txt"), "{% if amount %}{{ amount }}{% endif %}").unwrap();
    let server = Running::start(folder.path(), &variables, &[]);
    server.url().await;
    server.stop().await;
}

#[tokio::test]
async fn two_servers_that_start_at_the_same_moment_on_one_empty_database_both_come_up() {
    for kind in kinds() {
        let database = TestDb::empty(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let variables = [("DATABASE_URL", database.url())];
        let servers: Vec<_> = (0..2).map(|_| Running::start(folder.path(), &variables, &[])).collect();
        for server in &servers {
            let caller = Caller::new(&server.url().await, &folder.path().join("data"));
            let ready = caller.http.get(format!("{}/readyz", caller.url)).send().await.unwrap();
            assert_eq!(ready.status(), StatusCode::OK, "{kind:?}: {}", ready.text().await.unwrap());
        }
        for server in &servers {
            server.stop().await;
        }
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run(folder.path(), &[("TRUEUP_LISTEN", &address)], &["serve"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains(&format!("cannot listen on {address}; stop what listens there")), "{}", ran.err);
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_ends_the_start_and_one_that_is_away_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "no folder").unwrap();
    let ran = run(folder.path(), &[("DATABASE_URL", "sqlite://file/trueup.db")], &["serve"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("cannot be opened; let DATABASE_URL name a file"), "{}", ran.err);

    // Nobody listens on a port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://trueup:not-to-be-shown@127.0.0.1:{port}/trueup");
    let server = Running::start(folder.path(), &[("DATABASE_URL", &url)], &[]);
    server.line_with("the database does not answer; trying again").await;
    server.stop().await;
    assert!(!server.err().contains("not-to-be-shown"), "{}", server.err());
}

#[tokio::test]
async fn a_changed_plan_reaches_users_of_whom_stripe_says_nothing_new() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[], &[]);
    let url = server.url().await;
    let bought =
        run(folder.path(), &[], &["trigger", "checkout.session.completed", "--tier", "pro", "--url", &url]).await;
    assert_eq!(bought.code, Some(0), "{bought:?}");
    server.stop().await;

    let plans = "[[plans]]\ntier = \"free\"\nmonthly_limit = 5\n[[plans]]\ntier = \"gold\"\nlookup_keys = [\"pro\"]\n";
    fs::write(folder.path().join("trueup.toml"), plans).unwrap();
    let again = Running::start(folder.path(), &[], &[]);
    again.line_with("derived every user's tier again").await;
    let shown = run(folder.path(), &[], &["users", "show", "user@example.com", "--json"]).await;
    let user: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(user["timeline"][0]["before"]["tier"], "pro", "{user}");
    assert_eq!(user["timeline"][0]["after"]["tier"], "gold", "{user}");
    again.stop().await;
}
