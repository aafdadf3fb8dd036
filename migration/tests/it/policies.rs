//! Who sees what, with real roles: on plain PostgreSQL, and where Supabase's roles and functions are.

use futures::FutureExt as _;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, Statement, TransactionOptions, TransactionTrait,
};
use testkit::{Kind, Roles, SUPABASE, TestDb, kinds};
use uuid::Uuid;

use crate::{down_to_before, on_postgres, run, runtime, schema::schema, text, texts};

const ONE: &str = "00000000-0000-4000-8000-000000000001";
const TWO: &str = "00000000-0000-4000-8000-000000000002";

const TABLES: &str = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1";

/// A row in every table that a browser would like to see.
const ROWS: &[&str] = &[
    "INSERT INTO users (id, email) VALUES ('00000000-0000-4000-8000-000000000001', 'one@example.com'),
        ('00000000-0000-4000-8000-000000000002', 'two@example.com')",
    "INSERT INTO stripe_webhooks (event_id, event_type, payload) VALUES ('evt_1', 'invoice.paid', '{}')",
    "INSERT INTO stripe_customers (id, version_at) VALUES ('cus_1', now())",
    "INSERT INTO subscriptions (id, status, rank, version_at, version_kind, version_event_id) VALUES ('sub_1', 'active', 1, now(), 1, 'evt_1')",
    "INSERT INTO invoices (id, version_at, version_event_id) VALUES ('in_1', now(), 'evt_1')",
    "INSERT INTO entitlement_changes (user_id, source, before, after, reason)
        VALUES ('00000000-0000-4000-8000-000000000001', 'webhook', '{}', '{}', 'x')",
    "INSERT INTO email_outbox (user_id, kind, dedupe_key, data) VALUES ('00000000-0000-4000-8000-000000000001', 'payment_failed', 'x', '{}')",
    "INSERT INTO settings (name, value) VALUES ('x', 'y')",
    "INSERT INTO property_analyses (user_id, address, analysis_result) VALUES ('00000000-0000-4000-8000-000000000001', 'x', '{}')",
    "INSERT INTO support_chats (user_id, conversation_id, message, role) VALUES ('00000000-0000-4000-8000-000000000001', 'x', 'x', 'user')",
    "INSERT INTO onboarding_status (user_email) VALUES ('one@example.com')",
];

/// How many rows of a table a role sees; none where it may not look at all.
async fn seen(db: &DatabaseConnection, role: &str, claim: Option<&str>, table: &str) -> i64 {
    let tx = become_(db, role, claim).await;
    let count = Statement::from_string(tx.get_database_backend(), format!("SELECT count(*) AS n FROM {table}"));
    let seen = match tx.query_one_raw(count).await {
        Ok(row) => row.expect("a row").try_get("", "n").expect("a number"),
        Err(error) => {
            assert!(error.to_string().contains("permission denied"), "{error}");
            0
        }
    };
    tx.rollback().await.expect("rolls back");
    seen
}

async fn become_(db: &DatabaseConnection, role: &str, claim: Option<&str>) -> DatabaseTransaction {
    let tx = db.begin_with_options(TransactionOptions::default()).await.expect("begins");
    run(&tx, &format!("SET LOCAL ROLE {role}")).await;
    if let Some(sub) = claim {
        run(&tx, &format!("SET LOCAL request.jwt.claim.sub = '{sub}'")).await;
    }
    tx
}

/// Whether a role can do it, and how many rows it changes.
async fn done(db: &DatabaseConnection, role: &str, claim: Option<&str>, sql: &str) -> Option<u64> {
    let tx = become_(db, role, claim).await;
    let done = tx.execute_unprepared(sql).await;
    tx.rollback().await.expect("rolls back");
    match done {
        Ok(done) => Some(done.rows_affected()),
        Err(error) => {
            let told = error.to_string();
            assert!(told.contains("permission denied") || told.contains("row-level security"), "{sql}: {told}");
            None
        }
    }
}

async fn counts(db: &DatabaseConnection, tables: &[String]) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in tables {
        counts.push(text(db, &format!("SELECT count(*)::text FROM {table}")).await.parse().expect("a number"));
    }
    counts
}

async fn filled(db: &DatabaseConnection) -> Vec<String> {
    for row in ROWS {
        run(db, row).await;
    }
    texts(db, TABLES).await.into_iter().flatten().collect()
}

#[test]
fn on_plain_postgresql_the_owner_sees_all_and_a_role_with_every_right_sees_nothing() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        migration::up(&db, None).await.expect("up");
        let tables = filled(&db).await;
        let open =
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
            AND NOT relrowsecurity";
        assert_eq!(texts(&db, open).await, [], "a migration that makes a table secures it: see policies::secure");
        let stranger = format!("stranger_{}", Uuid::new_v4().simple());
        run(&db, &format!("CREATE ROLE {stranger}")).await;
        run(&db, &format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {stranger}")).await;
        assert!(counts(&db, &tables).await.iter().sum::<i64>() > 10);
        for table in &tables {
            assert_eq!(seen(&db, &stranger, None, table).await, 0, "{table}");
            let active = format!("SELECT row_security_active('{table}'::regclass)::text");
            assert_eq!(text(&become_(&db, &stranger, None).await, &active).await, "true", "{table}");
        }
        // A server that connects so would find an empty inbox: it is told.
        let url = database.url().replace("postgres@", &format!("{stranger}@"));
        run(&db, &format!("ALTER ROLE {stranger} LOGIN")).await;
        let as_stranger = sea_orm::Database::connect(&url).await.expect("connects");
        let told = [
            migration::status(&as_stranger).await.expect_err("it sees nothing").to_string(),
            migration::up(&as_stranger, None).await.expect_err("it sees nothing").to_string(),
            migration::verify(&as_stranger).await.expect_err("it sees nothing").to_string(),
        ];
        for told in told {
            assert!(told.contains(&format!("GRANT postgres TO {stranger}")), "{told}");
        }
        run(&db, &format!("GRANT postgres TO {stranger}")).await;
        // A session keeps the plans that it made as a stranger.
        as_stranger.close().await.expect("closes");
        let as_member = sea_orm::Database::connect(&url).await.expect("connects");
        assert_eq!(migration::pending(&as_member).await.expect("now it sees all"), 0);
        as_member.close().await.expect("closes");
        run(&db, &format!("DROP OWNED BY {stranger}")).await;
        run(&db, &format!("DROP ROLE {stranger}")).await;
    });
}

#[test]
fn on_supabase_the_service_role_sees_all_a_user_the_own_row_and_browsers_nothing() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    runtime().block_on(async {
        let roles = Roles::supabase().await;
        let database = TestDb::empty(Kind::Postgres).await;
        let tested = std::panic::AssertUnwindSafe(on_supabase(&database)).catch_unwind().await;
        drop(database);
        roles.give_back().await;
        if let Err(panic) = tested {
            std::panic::resume_unwind(panic);
        }
    });
}

async fn on_supabase(database: &TestDb) {
    let db = database.connect().await;
    for statement in SUPABASE {
        run(&db, statement).await;
    }
    crate::up_before(&db, "policies").await;
    let before = schema(Kind::Postgres, &db).await;
    migration::up(&db, None).await.expect("up");
    let tables = filled(&db).await;
    let all = counts(&db, &tables).await;
    for (table, all) in tables.iter().zip(&all) {
        assert_eq!(seen(&db, "service_role", None, table).await, *all, "{table}");
        assert_eq!(seen(&db, "anon", None, table).await, 0, "{table}");
        assert_eq!(seen(&db, "anon", Some(ONE), table).await, 0, "{table}");
        let own = i64::from(table == "users");
        assert_eq!(seen(&db, "authenticated", Some(ONE), table).await, own, "{table}");
        assert_eq!(seen(&db, "authenticated", None, table).await, 0, "{table}");
        for role in ["anon", "authenticated"] {
            assert_eq!(done(&db, role, Some(ONE), &format!("TRUNCATE {table} CASCADE")).await, None, "{role}: {table}");
            let gone = done(&db, role, Some(ONE), &format!("DELETE FROM {table}")).await;
            assert_eq!(gone.unwrap_or(0), 0, "{role}: {table}");
        }
    }
    let own = become_(&db, "authenticated", Some(TWO)).await;
    assert_eq!(texts(&own, "SELECT email FROM users").await, [Some("two@example.com".to_owned())]);
    own.rollback().await.expect("rolls back");

    for role in ["anon", "authenticated"] {
        for forbidden in [
            "INSERT INTO users (email) VALUES ('three@example.com')",
            "INSERT INTO stripe_webhooks (event_id, event_type, payload) VALUES ('evt_2', 'x', '{}')",
            "SELECT get_or_create_webhook('evt_2', 'x', '{}')",
            "SELECT mark_webhook_processed('evt_1')",
            "SELECT * FROM get_pending_webhooks()",
            "SELECT * FROM get_webhook_stats()",
        ] {
            assert_eq!(done(&db, role, Some(ONE), forbidden).await, None, "{role}: {forbidden}");
        }
        let pro = "UPDATE users SET subscription_tier = 'pro', usage_count = 0";
        assert_eq!(done(&db, role, Some(ONE), pro).await.unwrap_or(0), 0, "{role} may not change even the own row");
    }
    for allowed in [
        "SELECT get_or_create_webhook('evt_2', 'x', '{}')",
        "SELECT mark_webhook_processed('evt_1')",
        "SELECT * FROM get_pending_webhooks()",
        "SELECT * FROM get_webhook_stats()",
        "UPDATE users SET full_name = 'x'",
        "DELETE FROM stripe_webhooks",
    ] {
        assert!(done(&db, "service_role", None, allowed).await.is_some(), "{allowed}");
    }

    let verdict = migration::verify(&db).await.expect("a verdict");
    assert!(verdict.as_expected, "{:?}", verdict.findings);
    for (sabotage, problem) in [
        ("CREATE POLICY everybody ON invoices FOR SELECT TO anon USING (true)", "everybody"),
        ("DROP POLICY trueup_service_role ON invoices", "trueup_service_role"),
        ("ALTER POLICY trueup_own_row ON users USING (true)", "trueup_own_row"),
        ("GRANT SELECT ON settings TO anon", "settings"),
        ("GRANT EXECUTE ON FUNCTION get_webhook_stats(integer) TO authenticated", "get_webhook_stats(p_hours integer)"),
    ] {
        run(&db, sabotage).await;
        let verdict = migration::verify(&db).await.expect("a verdict");
        let found =
            verdict.findings.iter().find(|finding| !finding.note).unwrap_or_else(|| panic!("{sabotage} is not found"));
        assert_eq!(found.name, problem, "{sabotage}");
        let remedy = &found.remedy;
        run(&db, remedy.rsplit_once("it lets in; ").map_or(remedy.as_str(), |(_, drop)| drop)).await;
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(verdict.as_expected, "{sabotage}: {:?}", verdict.findings);
    }
    // The host's rows would be kept.
    run(&db, "DELETE FROM property_analyses; DELETE FROM support_chats; DELETE FROM onboarding_status").await;
    down_to_before(&db, "policies").await;
    assert_eq!(schema(Kind::Postgres, &db).await, before);
    db.close().await.expect("closes");
}
