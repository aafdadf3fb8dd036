//! Usage and overrides from the command line.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::path::Path;

use serde_json::{Value, json};

use crate::process_harness::{Ran, Running, run};

async fn trueup(folder: &Path, arguments: &[&str]) -> Ran {
    run(folder, &[], arguments).await
}

fn read(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

#[tokio::test]
async fn a_tier_is_given_until_a_date_shown_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Running::start(folder, &[], &[]);
    let url = server.url().await;
    let who = "someone@example.com";
    let bought = ["trigger", "checkout.session.completed", "--email", who, "--tier", "starter", "--url", &url];
    assert_eq!(trueup(folder, &bought).await.code, Some(0));
    server.stop().await;

    let give = ["users", "override", who, "--tier", "elite", "--until", "2999-12-31", "--reason", "ticket 7", "--json"];
    let given = read(&trueup(folder, &give).await);
    assert_eq!(given["subscription"]["tier"], "elite");
    assert_eq!((&given["usage"]["limit"], &given["override"]["state"]), (&Value::Null, &json!("holds")));
    assert_eq!(
        (&given["override"]["until"], &given["override"]["by"]),
        (&json!("2999-12-31T00:00:00Z"), &json!("cli"))
    );
    assert_eq!(given["timeline"][0]["source"], "operator");
    let shown = trueup(folder, &["users", "show", who]).await;
    assert!(shown.out.contains("elite until 2999-12-31 00:00:00Z by cli: ticket 7\n"), "{shown:?}");

    // The plan goes; whoever looks is told so.
    std::fs::write(folder.join("trueup.toml"), "[[plans]]\ntier = \"free\"\nmonthly_limit = 5\n").unwrap();
    let shown = trueup(folder, &["users", "show", who]).await;
    assert!(shown.out.contains("ticket 7 (ignored: no plan has the tier elite)\n"), "{shown:?}");
    std::fs::remove_file(folder.join("trueup.toml")).unwrap();

    let cleared = read(&trueup(folder, &["users", "override", who, "--clear", "--json"]).await);
    assert_eq!((&cleared["subscription"]["tier"], &cleared["override"]), (&json!("starter"), &Value::Null));
    let again = trueup(folder, &["users", "override", who, "--clear"]).await;
    assert_eq!((again.code, again.err.trim()), (Some(0), "there was no override to take back"));

    for (arguments, part) in [
        (&["--tier", "gold", "--until", "2999-12-31", "--reason", "x"][..], "there are free, starter, pro, elite"),
        (&["--tier", "pro", "--until", "2020-01-01", "--reason", "x"], "`until` must be a time in the future"),
        (&["--tier", "pro", "--until", "soon", "--reason", "x"], "right would be 2027-01-31T12:00:00Z"),
        (&["--tier", "pro", "--until", "2999-12-31"], "--reason"),
        (&["--clear", "--tier", "pro"], "cannot be used with"),
        (&[], "--tier"),
    ] {
        let arguments: Vec<&str> = ["users", "override", who].iter().chain(arguments).copied().collect();
        let ran = trueup(folder, &arguments).await;
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(part), "{arguments:?}: {ran:?}");
    }
}

#[tokio::test]
async fn usage_windows_are_rolled_by_hand_as_by_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let nothing = trueup(folder, &["usage", "reset"]).await;
    assert_eq!(nothing.code, Some(1));
    assert_eq!(trueup(folder, &["migrate", "up"]).await.code, Some(0));
    let report = read(&trueup(folder, &["usage", "reset", "--json"]).await);
    assert_eq!((&report["users"], &report["failed"]), (&json!(0), &json!(0)));
    let told = trueup(folder, &["usage", "reset"]).await;
    assert!(told.out.lines().any(|line| line.split_whitespace().eq(["windows", "opened", "0"])), "{told:?}");
}
