//! Two processes share a job that runs every second, and die in the middle of it.

use std::process::Command;

use testkit::{Kind, TestDb, kinds};

#[tokio::test]
async fn of_forty_slots_each_runs_exactly_once_or_is_interrupted_and_caught_up_though_processes_are_killed_in_mid_run()
{
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let database = TestDb::empty(Kind::Postgres).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_slots"));
    command.args(["prove", "--slots", "40", "--kills", "2"]).env("DATABASE_URL", database.url());
    let proof = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it can be run");
    let (out, err) = (String::from_utf8_lossy(&proof.stdout), String::from_utf8_lossy(&proof.stderr));
    println!("{out}");
    assert!(proof.status.success(), "{out}\n{err}");
}
