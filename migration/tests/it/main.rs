//! The schema on real databases: up and down, the functions, the policies, indexes under writes, and what verifying finds.

mod adoption;
mod functions;
mod host;
mod indexes;
mod plan;
mod policies;
mod schema;
mod steps;
mod verify;

use std::future::Future;

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use testkit::{Kind, Roles, TestDb, kinds};

/// Runs a test on every kind of database at hand, each empty. PostgreSQL has none of Supabase's roles meanwhile.
fn on_each_empty<F: Future<Output = ()>>(test: impl Fn(TestDb) -> F) {
    for kind in kinds() {
        on_empty(kind, &test);
    }
}

/// Runs a test on PostgreSQL, where there is one.
fn on_postgres<F: Future<Output = ()>>(test: impl Fn(TestDb) -> F) {
    if kinds().contains(&Kind::Postgres) {
        on_empty(Kind::Postgres, &test);
    }
}

fn on_empty<F: Future<Output = ()>>(kind: Kind, test: &impl Fn(TestDb) -> F) {
    runtime().block_on(async {
        let roles = if kind == Kind::Postgres { Some(Roles::plain().await) } else { None };
        test(TestDb::empty(kind).await).await;
        if let Some(roles) = roles {
            roles.give_back().await;
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made")
}

async fn run(db: &impl ConnectionTrait, sql: &str) {
    db.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The first column of every row, as text.
async fn texts(db: &impl ConnectionTrait, sql: &str) -> Vec<Option<String>> {
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let rows = db.query_all_raw(statement).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| row.try_get_by_index(0).unwrap_or_else(|error| panic!("{sql}: {error}"))).collect()
}

/// The first column of the first row, as text.
async fn text(db: &impl ConnectionTrait, sql: &str) -> String {
    texts(db, sql).await.into_iter().next().flatten().unwrap_or_else(|| panic!("{sql}: nothing"))
}

/// Applies everything up to, and not including, the migration whose name ends so.
async fn up_before(db: &DatabaseConnection, ending: &str) {
    let states = migration::status(db).await.expect("a status");
    let place = states.iter().position(|state| state.name.ends_with(ending)).expect("a migration of that name");
    migration::up(db, Some(u32::try_from(place).expect("few"))).await.expect("up");
}

/// Takes back the migration whose name ends so, and all after it.
async fn down_to_before(db: &DatabaseConnection, ending: &str) {
    let states = migration::status(db).await.expect("a status");
    let place = states.iter().position(|state| state.name.ends_with(ending)).expect("a migration of that name");
    let applied = states.iter().filter(|state| state.applied).count();
    migration::down(db, Some(u32::try_from(applied - place).expect("few"))).await.expect("down");
}
