//! A database in which a host lives already.

use futures::FutureExt as _;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use testkit::{
    Kind, Roles, SUPABASE, TestDb,
    host::{HostUser, SCHEMA},
    kinds,
};

use crate::{on_postgres, run, runtime, schema::schema, text, texts};

const USERS: [HostUser; 8] = [
    user(1, "free", "active", "", "", 3, 5),
    user(2, "pro", "active", "cus_2", "sub_2", 42, 100),
    user(3, "starter", "active", "cus_3", "", 25, 30),
    user(4, "elite", "past_due", "", "", 7, -1),
    user(5, "", "", "", "", 0, 5),
    user(6, "free", "canceled", "cus_6", "sub_6", 5, 5),
    // The same customer and subscription as another's.
    user(7, "pro", "active", "cus_2", "sub_2", 1, 100),
    user(8, "pro", "canceled", "cus_8", "sub_8", 9, 250),
];

const fn user(
    number: u32,
    tier: &'static str,
    status: &'static str,
    customer: &'static str,
    subscription: &'static str,
    used: i32,
    limit: i32,
) -> HostUser {
    HostUser { number, tier, status, customer, subscription, used, limit }
}

async fn host(db: &DatabaseConnection, prefix: &str) {
    run(db, &SCHEMA.replace("propiq", prefix)).await;
    for user in USERS {
        run(db, &user.insert().replace("propiq", prefix)).await;
    }
    run(
        db,
        "INSERT INTO stripe_webhooks (event_id, event_type, payload, processed, processing_status, processed_at, created_at) VALUES
            ('evt_old', 'invoice.paid', '{\"id\": \"evt_old\"}', true, 'completed', '2025-03-01 10:00:00', '2025-03-01 09:59:58'),
            ('evt_open', 'invoice.paid', '{\"id\": \"evt_open\"}', NULL, 'pending', NULL, '2025-03-02 09:59:58')",
    )
    .await;
    run(db, "INSERT INTO property_analyses (user_id, address, analysis_result) SELECT id, 'x', '{}' FROM users").await;
}

/// Every row of the host's tables, as text.
async fn data(db: &DatabaseConnection) -> Vec<String> {
    let mut rows = Vec::new();
    for table in ["users", "stripe_webhooks", "property_analyses", "support_chats"] {
        rows.extend(
            texts(db, &format!("SELECT to_jsonb(t)::text FROM {table} AS t ORDER BY 1")).await.into_iter().flatten(),
        );
    }
    rows
}

async fn of_user(db: &DatabaseConnection, number: usize, what: &str) -> String {
    let id = USERS[number - 1].id();
    text(db, &format!("SELECT concat_ws(' ', {what}) FROM users WHERE id = '{id}'")).await
}

const FILENODES: &str = "SELECT relname || ' ' || relfilenode FROM pg_class WHERE relname IN ('users', 'stripe_webhooks', 'property_analyses') ORDER BY 1";

#[test]
fn a_hosts_database_is_adopted_with_all_it_has_and_left_exactly_as_it_was() {
    on_postgres(|database| async move {
        for prefix in ["propiq", "dealiq"] {
            let database = TestDb::empty(database.kind()).await;
            let db = database.connect().await;
            host(&db, prefix).await;
            let (schema_before, data_before) = (schema(Kind::Postgres, &db).await, data(&db).await);
            let files = texts(&db, FILENODES).await;
            // Whatever is true of the host's columns stays true.
            let hosts = format!(
                "SELECT concat_ws('|', id, email, password_hash, subscription_tier, subscription_status, subscription_stripe_customer_id,
                    subscription_stripe_subscription_id, {prefix}_usage_count, {prefix}_usage_limit, {prefix}_last_reset_date, created_at,
                    updated_at) FROM users WHERE subscription_tier IS NOT NULL AND subscription_status IS NOT NULL ORDER BY 1"
            );
            let hosts_before = texts(&db, &hosts).await;

            let plan = migration::plan(&db, None).await.expect("a plan").to_string();
            assert!(plan.contains("ADD COLUMN usage_count bigint NOT NULL DEFAULT 0"), "{plan}");
            assert!(!plan.contains("CREATE TABLE users"), "{plan}");
            assert_eq!(schema(Kind::Postgres, &db).await, schema_before, "a dry run changes nothing");

            migration::up(&db, None).await.expect("up");
            assert_eq!(migration::pending(&db).await.expect("an answer"), 0);
            assert_eq!(texts(&db, FILENODES).await, files, "no table is written anew");
            let hosts_after: Vec<_> =
                texts(&db, &hosts).await.into_iter().filter(|row| hosts_before.contains(row)).collect();
            assert_eq!(hosts_after, hosts_before, "what the host had is untouched, `updated_at` too");

            let what =
                "subscription_tier, subscription_status, subscription_access, usage_count, usage_limit, usage_source";
            for (number, told) in [
                (1, "free active f 3 5 free"),
                (2, "pro active t 42 100 sub_2"),
                (3, "starter active t 25 30 free"),
                (4, "elite past_due t 7 free"),
                (5, "free active f 0 5 free"),
                (6, "free canceled f 5 5 free"),
                (7, "pro active t 1 100 free"),
                (8, "pro canceled t 9 250 sub_8"),
            ] {
                assert_eq!(of_user(&db, number, what).await, told, "user {number}");
            }
            let open = "SELECT count(*)::text FROM users AS u JOIN usage_periods AS p ON p.user_id = u.id AND p.source = u.usage_source
                AND p.period_start = u.usage_period_start AND p.period_end = u.usage_period_end AND p.used = u.usage_count
                WHERE p.period_start <= now() AND now() < p.period_end";
            assert_eq!(text(&db, open).await, "8", "everybody is in a window");
            let reset = format!("usage_period_start AT TIME ZONE 'UTC' = {prefix}_last_reset_date");
            assert_eq!(of_user(&db, 2, &reset).await, "t", "the payer's window began with the host's last reset");
            let provisional = "SELECT concat_ws(' ', id, right(user_id::text, 1), stripe_customer_id, status, metadata ->> 'tier',
                metadata ->> 'trueup_usage_limit', link_evidence) FROM subscriptions WHERE rank = 1 AND version_event_id = 'adopted' ORDER BY 1";
            let provisional: Vec<String> = texts(&db, provisional).await.into_iter().flatten().collect();
            assert_eq!(
                provisional,
                [
                    "sub_2 2 cus_2 active pro 100",
                    "sub_6 6 cus_6 canceled free",
                    "sub_8 8 cus_8 canceled pro 250",
                    "sub_adopted_00000000000040008000000000000003 3 cus_3 active starter 30",
                    "sub_adopted_00000000000040008000000000000004 4 past_due elite unlimited customer",
                    "sub_adopted_00000000000040008000000000000007 7 cus_2 active pro 100 customer",
                ]
            );
            let old = "SELECT concat_ws(' ', event_id, processed, processing_status, signature_verified, to_char(created_at AT TIME ZONE 'UTC',
                'YYYY-MM-DD HH24:MI:SS')) FROM stripe_webhooks ORDER BY 1";
            let old: Vec<String> = texts(&db, old).await.into_iter().flatten().collect();
            assert_eq!(old, ["evt_old t completed f 2025-03-01 09:59:58", "evt_open f pending f 2025-03-02 09:59:58"]);

            let verdict = migration::verify(&db).await.expect("a verdict");
            let faults: Vec<_> = verdict.findings.iter().filter(|finding| !finding.note).collect();
            assert!(verdict.as_expected, "{faults:#?}");
            assert!(!verdict.findings.is_empty(), "and what differs is told");

            let adopted = (schema(Kind::Postgres, &db).await, data(&db).await);
            migration::up(&db, None).await.expect("up again");
            assert_eq!((schema(Kind::Postgres, &db).await, data(&db).await), adopted, "a second run changes nothing");

            migration::down(&db, None).await.expect("down");
            assert_eq!(schema(Kind::Postgres, &db).await, schema_before);
            assert_eq!(texts(&db, "SELECT relname::text FROM pg_class WHERE relname = 'seaql_migrations'").await, []);
            let changed = data(&db).await.into_iter().filter(|row| !data_before.contains(row)).collect::<Vec<_>>();
            // The NULLs of one user and of one row became what they stood for.
            assert_eq!(changed.len(), 2, "{changed:#?}");

            migration::up(&db, None).await.expect("and once more");
            assert_eq!(of_user(&db, 2, what).await, "pro active t 42 100 sub_2");
            db.close().await.expect("closes");
        }
    });
}

#[test]
fn what_the_host_counts_and_what_we_count_stay_in_step() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        host(&db, "propiq").await;
        migration::up(&db, None).await.expect("up");
        let both = "usage_count, propiq_usage_count, (SELECT used FROM usage_periods AS p WHERE p.user_id = users.id AND p.source = users.usage_source
            AND p.period_start = users.usage_period_start)";
        let id = USERS[1].id();
        for (change, told) in [
            ("propiq_usage_count = propiq_usage_count + 3", "45 45 45"),
            ("usage_count = usage_count + 2", "47 47 45"),
            ("propiq_usage_count = 0, propiq_last_reset_date = now()", "0 0 0"),
            ("propiq_usage_count = NULL", "0 0"),
            ("propiq_usage_count = 4, full_name = 'x'", "4 4 4"),
        ] {
            run(&db, &format!("UPDATE users SET {change} WHERE id = '{id}'")).await;
            assert_eq!(of_user(&db, 2, both).await, told, "{change}");
        }
        // The next window, as rolling opens it.
        let rolled = "usage_count = 0, usage_period_start = '2031-05-06 07:08:09Z'";
        run(&db, &format!("UPDATE users SET {rolled} WHERE id = '{id}'")).await;
        let legacy = "propiq_usage_count, propiq_last_reset_date";
        assert_eq!(of_user(&db, 2, legacy).await, "0 2031-05-06 07:08:09");
        for (change, told) in
            [("usage_limit = 7", "7 7"), ("usage_limit = NULL", "2147483647"), ("propiq_usage_limit = 9", "9 9")]
        {
            run(&db, &format!("UPDATE users SET {change} WHERE id = '{id}'")).await;
            assert_eq!(of_user(&db, 2, "usage_limit, propiq_usage_limit").await, told, "{change}");
        }
        run(&db, "UPDATE users SET propiq_usage_count = 0").await;
        assert_eq!(text(&db, "SELECT sum(usage_count)::text FROM users").await, "0", "all at once as well");
        // A new user of the host's has counted before any window was open.
        run(&db, "INSERT INTO users (email, password_hash, propiq_usage_count, subscription_tier) VALUES ('n@example.com', 'x', 2, NULL)")
            .await;
        let new = "SELECT concat_ws(' ', usage_count, subscription_tier) FROM users WHERE email = 'n@example.com'";
        assert_eq!(text(&db, new).await, "2 free");
    });
}

#[test]
fn what_the_host_changes_before_we_take_over_is_carried_over_and_nothing_after() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        host(&db, "propiq").await;
        migration::up(&db, None).await.expect("up");
        let change =
            |number: usize, set: &str| format!("UPDATE users SET {set} WHERE id = '{}'", USERS[number - 1].id());
        run(&db, &change(1, "subscription_tier = 'pro', subscription_stripe_customer_id = 'cus_1', subscription_stripe_subscription_id = 'sub_1'"))
            .await;
        run(&db, &change(2, "subscription_tier = 'elite'")).await;
        run(&db, &change(3, "subscription_tier = 'free'")).await;
        assert!(migration::carry_over_again(&db, true).await.expect("carried"));
        let words = "SELECT id || ' ' || (metadata ->> 'tier') FROM subscriptions WHERE stripe_customer_id IN ('cus_1', 'cus_2', 'cus_3')
            AND id NOT LIKE '%7' ORDER BY 1";
        let words: Vec<String> = texts(&db, words).await.into_iter().flatten().collect();
        assert_eq!(words, ["sub_1 pro", "sub_2 elite"]);
        assert_eq!(of_user(&db, 1, "subscription_access, usage_count").await, "t 3");
        run(&db, &change(5, "subscription_tier = 'pro'")).await;
        assert!(!migration::carry_over_again(&db, false).await.expect("nothing"), "from now on Stripe's word counts");
    });
}

#[test]
fn a_database_that_cannot_be_adopted_is_refused_with_all_that_is_missing_and_nothing_is_changed() {
    on_postgres(|database| async move {
        for (make, told) in [
            (
                "CREATE TABLE users (id bigint PRIMARY KEY, mail text)",
                vec!["`users.id` is bigint", "`users` has no column `email`"],
            ),
            ("CREATE VIEW users AS SELECT 1 AS id", vec!["`users` is no table"]),
            ("CREATE TABLE users (id uuid, email text)", vec!["`users.id` is not unique"]),
            (
                "CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text);
                 INSERT INTO users (email) VALUES ('a@x.org'), ('A@X.org'), (NULL)",
                vec!["1 users have no e-mail address", "several users have one e-mail address but for case"],
            ),
            (
                "CREATE TABLE users (id uuid PRIMARY KEY, email text, usage_count integer, rolls_at date); CREATE TABLE invoices (id int)",
                vec![
                    "there is a `invoices` already",
                    "`users.usage_count` is integer",
                    "`users` has a column `rolls_at`",
                ],
            ),
            (
                "CREATE TABLE stripe_webhooks (id bigserial PRIMARY KEY, event_id text, event_type text, payload text, who text NOT NULL)",
                vec![
                    "`stripe_webhooks.id` is bigint",
                    "payload` is text",
                    "`stripe_webhooks.who` must be given a value",
                    "RENAME TO",
                ],
            ),
            (
                "CREATE TABLE stripe_webhooks (id uuid PRIMARY KEY, event_id text, event_type text, payload jsonb);
                 INSERT INTO stripe_webhooks SELECT gen_random_uuid(), 'evt_1', 'x', '{}' FROM generate_series(1, 2)",
                vec!["stored more than once", "evt_1"],
            ),
        ] {
            let database = TestDb::empty(database.kind()).await;
            let db = database.connect().await;
            run(&db, make).await;
            let before = schema(Kind::Postgres, &db).await;
            let error = migration::up(&db, None).await.expect_err(make).to_string();
            for told in told {
                assert!(error.contains(told), "{make}: {error}");
            }
            assert!(!error.contains('@'), "addresses are nobody's business: {error}");
            assert_eq!(migration::plan(&db, None).await.expect_err(make).to_string(), error);
            assert_eq!(schema(Kind::Postgres, &db).await, before);
            assert_eq!(texts(&db, "SELECT relname::text FROM pg_class WHERE relname = 'seaql_migrations'").await, []);
            db.close().await.expect("closes");
        }
    });
}

#[test]
fn a_table_that_is_in_use_is_waited_for_without_making_others_wait() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        host(&db, "propiq").await;
        let holder = database.connect().await;
        let holding = sea_orm::TransactionTrait::begin_with_options(&holder, sea_orm::TransactionOptions::default());
        let holding = holding.await.expect("begins");
        run(&holding, "UPDATE users SET full_name = 'held'").await;
        let up = database.connect().await;
        let migrating = tokio::spawn(async move { migration::up(&up, None).await });
        // It has given up once at least, and everybody else goes on.
        let waits = "SELECT count(*)::text FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted AND mode = 'AccessExclusiveLock'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        for wanted in ["1", "0", "1"] {
            while text(&db, waits).await != wanted {
                tokio::task::yield_now().await;
            }
        }
        run(&db, "SET lock_timeout = '1500ms'").await;
        run(&db, "SELECT count(*) FROM users").await;
        holding.commit().await.expect("commits");
        migrating.await.expect("no panic").expect("up");
    });
}

#[test]
fn on_supabase_nobody_sees_more_of_the_hosts_users_than_before() {
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
    host(&db, "propiq").await;
    run(&db, "CREATE POLICY \"own profile\" ON users FOR UPDATE TO authenticated USING (id = auth.uid())").await;
    run(&db, "CREATE POLICY \"service\" ON stripe_webhooks USING (auth.role() = 'service_role')").await;
    run(&db, "REVOKE INSERT, DELETE ON users FROM service_role").await;
    let rights = "SELECT relname || ' ' || (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(relacl) AS a) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'seaql_migrations'
        UNION ALL SELECT proname || ' ' || coalesce(proacl::text, '') FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1";
    let (before, rights_before) = (schema(Kind::Postgres, &db).await, texts(&db, rights).await);
    migration::up(&db, None).await.expect("up");
    let policies = "SELECT polname::text FROM pg_policy WHERE polrelid = 'users'::regclass ORDER BY 1";
    let policies: Vec<String> = texts(&db, policies).await.into_iter().flatten().collect();
    assert_eq!(policies, ["own profile", "trueup_service_role"], "no policy of ours shows `password_hash`");
    let one = USERS[0].id();
    for (role, table, sees) in [
        ("authenticated", "users", false),
        ("anon", "users", false),
        ("service_role", "users", true),
        ("service_role", "stripe_webhooks", true),
        ("authenticated", "stripe_webhooks", false),
    ] {
        let tx = sea_orm::TransactionTrait::begin_with_options(&db, sea_orm::TransactionOptions::default())
            .await
            .expect("begins");
        run(&tx, &format!("SET LOCAL ROLE {role}")).await;
        run(&tx, &format!("SET LOCAL request.jwt.claim.sub = '{one}'")).await;
        let seen = tx
            .query_all_raw(sea_orm::Statement::from_string(
                sea_orm::DbBackend::Postgres,
                format!("SELECT * FROM {table}"),
            ))
            .await;
        assert_eq!(seen.is_ok_and(|rows| !rows.is_empty()), sees, "{role}: {table}");
        tx.rollback().await.expect("rolls back");
    }
    // The host's own program, under a role that may not look into our tables.
    let tx = sea_orm::TransactionTrait::begin_with_options(&db, sea_orm::TransactionOptions::default())
        .await
        .expect("begins");
    run(&tx, "CREATE POLICY writes ON users TO authenticated USING (true)").await;
    run(&tx, "SET LOCAL ROLE authenticated").await;
    run(&tx, "UPDATE users SET propiq_usage_count = propiq_usage_count + 1").await;
    run(&tx, "RESET ROLE").await;
    assert_eq!(text(&tx, "SELECT sum(used)::text FROM usage_periods").await, (92 + 8).to_string());
    tx.rollback().await.expect("rolls back");

    let verdict = migration::verify(&db).await.expect("a verdict");
    assert!(verdict.as_expected, "{:#?}", verdict.findings.iter().filter(|finding| !finding.note).collect::<Vec<_>>());
    run(&db, "CREATE POLICY later ON stripe_webhooks FOR SELECT TO anon USING (true)").await;
    let verdict = migration::verify(&db).await.expect("a verdict");
    assert!(!verdict.as_expected, "a policy that came later is looked at");
    run(&db, "DROP POLICY later ON stripe_webhooks").await;
    run(&db, "ALTER TABLE users DISABLE TRIGGER trueup_usage_from_host").await;
    let verdict = migration::verify(&db).await.expect("a verdict");
    assert!(!verdict.as_expected, "the columns are not kept in step any more");
    run(&db, "ALTER TABLE users ENABLE TRIGGER trueup_usage_from_host").await;

    migration::down(&db, None).await.expect("down");
    assert_eq!(schema(Kind::Postgres, &db).await, before);
    assert_eq!(texts(&db, rights).await, rights_before);
    db.close().await.expect("closes");
}
