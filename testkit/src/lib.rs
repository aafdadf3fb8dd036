//! For tests only: fresh databases of both kinds, gone when dropped; and a mail server ([`smtp`]).
//!
//! `SQLite` is a file in a folder of its own. PostgreSQL is a new database of the server that `TRUEUP_TEST_POSTGRES` names
//! (`scripts/test` and `scripts/with-postgres` start one). Without that variable a developer's run goes on with `SQLite` and says so;
//! with `CI=true` that is a failure.
//!
//! [`stripe`] is a Stripe on loopback that answers as it is told.

#![expect(clippy::missing_panics_doc, reason = "a test is meant to panic where its ground is not as it must be")]

pub mod host;
mod roles;
pub mod smtp;
pub mod stripe;

use std::{future::Future, sync::OnceLock};

pub use roles::{Roles, SUPABASE};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use tempfile::TempDir;
use uuid::Uuid;

/// Names the administrative database under which PostgreSQL tests make their own.
pub const POSTGRES_VARIABLE: &str = "TRUEUP_TEST_POSTGRES";

/// The same server without the pooler that the other variable leads through: what a test does beside the program takes this way.
pub const DIRECT_VARIABLE: &str = "TRUEUP_TEST_POSTGRES_DIRECT";

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

/// A database of its own for one test.
#[derive(Debug)]
pub struct TestDb {
    kind: Kind,
    url: String,
    /// Past the pooler, where there is one.
    direct: String,
    _folder: Option<TempDir>,
    name: Option<String>,
}

impl TestDb {
    /// An empty database: no schema yet.
    pub async fn empty(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => {
                let folder = memory_folder().expect("a temporary folder can be made");
                let url = format!("sqlite://{}/test.db", folder.path().display());
                Self { kind, direct: url.clone(), url, _folder: Some(folder), name: None }
            }
            Kind::Postgres => {
                let name = format!("trueup_{}", Uuid::new_v4().simple());
                let beside = direct().expect("asked for only where it is there");
                run(&beside, &format!("CREATE DATABASE {name}")).await;
                let of = |admin: &str| {
                    let (server, _) = admin.rsplit_once('/').expect("a URL with a database");
                    format!("{server}/{name}")
                };
                let url = of(&postgres().expect("asked for only where it is there"));
                Self { kind, url, direct: of(&beside), _folder: None, name: Some(name) }
            }
        }
    }

    /// A database with the whole schema.
    pub async fn migrated(kind: Kind) -> Self {
        let database = Self::empty(kind).await;
        let connection = database.connect().await;
        migration::up(&connection, None).await.expect("an empty database can be migrated");
        connection.close().await.expect("an idle connection closes");
        database
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A plain connection, beside whatever the test uses.
    pub async fn connect(&self) -> DatabaseConnection {
        let mut options = ConnectOptions::new(match self.kind {
            Kind::Sqlite => format!("{}?mode=rwc", self.url),
            Kind::Postgres => self.direct.clone(),
        });
        options.max_connections(2).sqlx_logging(false);
        Database::connect(options).await.expect("the test's own database answers")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (Some(name), Some(admin)) = (self.name.take(), direct()) else { return };
        // A thread with a runtime of its own: a test's runtime cannot be waited for from within.
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
            runtime.block_on(run(&admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")));
        });
        // A test that failed is told by its own message, not by this one.
        let _ = dropped.join();
    }
}

/// A folder in memory where there is one: the server syncs every commit to the disk, which hundreds of tests need not wait for.
fn memory_folder() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

async fn run(url: &str, sql: &str) {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    let connection = Database::connect(options).await.expect("the PostgreSQL server of the tests answers");
    connection.execute_unprepared(sql).await.expect("a database can be made and dropped");
    connection.close().await.expect("an idle connection closes");
}

fn postgres() -> Option<String> {
    std::env::var(POSTGRES_VARIABLE).ok().filter(|url| !url.is_empty())
}

fn direct() -> Option<String> {
    std::env::var(DIRECT_VARIABLE).ok().filter(|url| !url.is_empty()).or_else(postgres)
}

/// The kinds of database at hand: always `SQLite`; PostgreSQL where there is a server.
///
/// # Panics
/// Where `CI=true` and no PostgreSQL is at hand: nothing may be left out unseen.
pub fn kinds() -> Vec<Kind> {
    static TOLD: OnceLock<()> = OnceLock::new();
    if postgres().is_some() {
        return vec![Kind::Sqlite, Kind::Postgres];
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{POSTGRES_VARIABLE} is not set: run the tests by scripts/test, which starts a PostgreSQL server for them"
    );
    TOLD.get_or_init(|| {
        #[expect(clippy::print_stderr, reason = "this is for whoever runs the tests")]
        {
            eprintln!(
                "{POSTGRES_VARIABLE} is not set: testing on SQLite only; scripts/with-postgres cargo test tests both"
            );
        }
    });
    vec![Kind::Sqlite]
}

/// Runs a test on every kind of database at hand, each fresh and migrated.
pub fn on_each<F, Fut>(test: F)
where
    F: Fn(TestDb) -> Fut,
    Fut: Future<Output = ()>,
{
    for kind in kinds() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime.block_on(async {
            let database = TestDb::migrated(kind).await;
            test(database).await;
        });
    }
}
