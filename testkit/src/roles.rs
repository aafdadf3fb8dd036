//! Supabase's roles belong to a whole server, so tests take turns: those that need a server without them, and the one that makes them.

use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};

use crate::direct;

/// The bytes of `roles`.
const LOCK_KEY: i64 = 0x0072_6f6c_6573;

/// What Supabase has in every database, as far as row-level security looks at it. Its `service_role` bypasses row-level security; this one
/// does not, so that the policy has to do it.
pub const SUPABASE: &[&str] = &[
    "CREATE SCHEMA auth",
    "CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
        $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$",
    "CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS
        $$ SELECT nullif(current_setting('request.jwt.claim.role', true), '') $$",
    "GRANT USAGE ON SCHEMA public, auth TO anon, authenticated, service_role",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role",
];

const ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

/// While it is held, the server's roles stay as they are.
#[derive(Debug)]
pub struct Roles {
    session: DatabaseConnection,
    made: bool,
}

impl Roles {
    /// Waits until nobody has Supabase's roles made.
    pub async fn plain() -> Self {
        Self { session: session("pg_advisory_lock_shared").await, made: false }
    }

    /// Waits until nobody needs a server without Supabase's roles, and makes them.
    pub async fn supabase() -> Self {
        let session = session("pg_advisory_lock").await;
        drop_roles(&session).await;
        for role in ROLES {
            session.execute_unprepared(&format!("CREATE ROLE {role} NOLOGIN")).await.expect("a role can be made");
        }
        Self { session, made: true }
    }

    /// Lets the others go on. Before, whatever named the roles must be gone.
    pub async fn give_back(self) {
        if self.made {
            drop_roles(&self.session).await;
        }
        self.session.close().await.expect("an idle connection closes");
    }
}

/// A session of its own that holds the lock until it is closed, or its test is gone.
async fn session(lock: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(direct().expect("asked for only where it is there"));
    options.min_connections(1).max_connections(1).sqlx_logging(false).idle_timeout(Duration::from_hours(1));
    let session = Database::connect(options).await.expect("the PostgreSQL server of the tests answers");
    session.execute_unprepared(&format!("SELECT {lock}({LOCK_KEY})")).await.expect("the turn comes");
    session
}

/// Roles of a test that failed may still be named in its database, which goes soon.
async fn drop_roles(session: &DatabaseConnection) {
    for role in ROLES {
        let dropped = format!("DROP ROLE IF EXISTS {role}");
        for _ in 0..100 {
            if session.execute_unprepared(&dropped).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
