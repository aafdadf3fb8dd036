//! What the documents tell people to run on their database does what they say.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use billing::events::event_types;
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};
use testkit::{Kind, Roles, SUPABASE, TestDb, kinds};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const SUPABASE_GUIDE: &str = include_str!("../../../docs/supabase.md");
const STRIPE: &str = include_str!("../../../docs/stripe-setup.md");

/// The one block of SQL of a document.
fn sql(document: &str) -> &str {
    let (_, rest) = document.split_once("```sql\n").unwrap();
    let (block, rest) = rest.split_once("```").unwrap();
    assert!(!rest.contains("```sql"), "another block, which no test runs");
    block
}

async fn run(db: &DatabaseConnection, sql: &str) {
    db.execute_unprepared(sql).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
}

async fn count(db: &DatabaseConnection, what: &str) -> i64 {
    let sql = format!("SELECT count(*) AS n FROM {what}");
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap().unwrap();
    row.try_get("", "n").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_a_user_as_documented_leaves_nothing_of_the_person() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let test_db = TestDb::migrated(Kind::Postgres).await;
    let db = test_db.connect().await;
    let (user, other) = ("0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7");
    for (number, id) in [(1, user), (2, other)] {
        run(&db, &format!("INSERT INTO users (id, email) VALUES ('{id}', 'person{number}@example.com')")).await;
        run(&db, &format!("INSERT INTO stripe_customers (id, user_id, link_user_id, email, version_at) VALUES ('cus_{number}', '{id}', '{id}', 'person{number}@example.com', now())")).await;
        run(&db, &format!("INSERT INTO invoices (id, user_id, hosted_invoice_url, amount_paid, version_at, version_event_id) VALUES ('in_{number}', '{id}', 'https://x', 5, now(), 'evt_a{number}')")).await;
        // One that names the user, and one that only names the customer.
        for (event, whose) in [("a", format!("'{id}'")), ("b", "NULL".to_owned())] {
            run(
                &db,
                &format!(
                    "INSERT INTO stripe_webhooks (id, event_id, event_type, payload, user_id, stripe_customer_id, stripe_created_at)
                     VALUES (gen_random_uuid(), 'evt_{event}{number}', 'customer.updated', '{{\"email\": \"person{number}@example.com\"}}', {whose}, 'cus_{number}', now())"
                ),
            )
            .await;
        }
    }
    run(&db, &sql(OPERATIONS).replace("<uuid>", user)).await;
    let tables = [
        "users",
        "stripe_customers",
        "invoices",
        "stripe_webhooks",
        "entitlement_changes",
        "email_outbox",
        "usage_periods",
    ];
    for table in tables {
        assert_eq!(count(&db, &format!("{table} AS t WHERE t::text LIKE '%person1@%'")).await, 0, "{table}");
        // The bare id stays where a fact names it, and leads nowhere.
        if table != "stripe_customers" {
            assert_eq!(count(&db, &format!("{table} AS t WHERE t::text LIKE '%{user}%'")).await, 0, "{table}");
        }
    }
    assert_eq!(count(&db, "users").await, 1, "nobody else is touched");
    assert_eq!(count(&db, "stripe_webhooks AS t WHERE t::text LIKE '%person2@%'").await, 2);
    assert_eq!(
        count(&db, "invoices WHERE id = 'in_1' AND amount_paid = 5 AND hosted_invoice_url IS NULL").await,
        1,
        "amounts stay"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_trigger_copies_whoever_signs_up_at_supabase() {
    if !kinds().contains(&Kind::Postgres) {
        return;
    }
    let roles = Roles::supabase().await;
    let test_db = TestDb::empty(Kind::Postgres).await;
    {
        // One connection: a transaction that failed is rolled back where it was begun.
        let mut options = ConnectOptions::new(test_db.url());
        options.max_connections(1).sqlx_logging(false);
        let db = Database::connect(options).await.unwrap();
        for statement in SUPABASE {
            run(&db, statement).await;
        }
        run(&db, "CREATE TABLE auth.users (id uuid PRIMARY KEY, email text)").await;
        migration::up(&db, None).await.unwrap();
        run(&db, sql(SUPABASE_GUIDE)).await;
        let (known, new) = ("0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7");
        run(&db, &format!("INSERT INTO users (id, email) VALUES ('{known}', 'known@example.com')")).await;
        for (id, email) in [(known, "known@example.com"), (new, "new@example.com")] {
            run(&db, &format!("INSERT INTO auth.users VALUES ('{id}', '{email}')")).await;
        }
        assert_eq!(
            count(&db, "users WHERE subscription_tier = 'free' AND email IN ('known@example.com', 'new@example.com')")
                .await,
            2
        );
        // As the table there says: the own row, and nothing else.
        let browser = format!("BEGIN; SET LOCAL ROLE authenticated; SET LOCAL request.jwt.claim.sub = '{new}'");
        let seen = format!(
            "{browser}; DO $$ BEGIN IF (SELECT count(*) FROM users) <> 1 THEN RAISE 'not one row'; END IF; END $$; COMMIT"
        );
        run(&db, &seen).await;
        for forbidden in [
            "SELECT FROM stripe_webhooks",
            "UPDATE users SET subscription_tier = 'elite'",
            "SELECT public.copy_new_user()",
        ] {
            let tried = db.execute_unprepared(&format!("{browser}; {forbidden}; COMMIT")).await;
            let _ = db.execute_unprepared("ROLLBACK").await;
            if forbidden.starts_with("UPDATE") {
                assert_eq!(count(&db, "users WHERE subscription_tier = 'elite'").await, 0);
            } else {
                assert!(tried.is_err(), "{forbidden}");
            }
        }
        db.close().await.unwrap();
    }
    drop(test_db);
    roles.give_back().await;
}

#[test]
fn the_page_on_stripe_names_every_event_that_is_applied_and_no_other() {
    let section = STRIPE.split_once("### Events\n").unwrap().1.split_once("\n\nThe essential").unwrap().0;
    let mut told: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect();
    let mut applied: Vec<&str> = event_types().collect();
    told.sort_unstable();
    applied.sort_unstable();
    assert_eq!(told, applied, "docs/stripe-setup.md (left), and what is applied");
}
