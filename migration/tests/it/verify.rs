//! What verifying finds, and that its remedies heal.

use migration::{Kind as Of, Problem};
use testkit::Kind;

use crate::{on_each_empty, on_postgres, run, texts, up_before};

#[test]
fn a_fresh_database_is_as_expected_and_so_is_one_that_is_half_way() {
    on_each_empty(|database| async move {
        let db = database.connect().await;
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(!verdict.as_expected, "everything is pending");
        assert!(verdict.findings.iter().all(|f| f.kind == Of::Migration && f.remedy == "trueup migrate up"));
        up_before(&db, "policies").await;
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(verdict.findings.iter().all(|f| f.kind == Of::Migration), "{:?}", verdict.findings);
        migration::up(&db, None).await.expect("up");
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert_eq!(verdict.findings, []);
        assert!(verdict.as_expected);
        for kind in ["table", "column", "constraint", "index"] {
            assert!(verdict.checked.get(kind).is_some_and(|count| *count > 5), "{kind}: {:?}", verdict.checked);
        }
        if database.kind() == Kind::Postgres {
            assert!(verdict.checked["function"] >= 4, "{:?}", verdict.checked);
            let schemas = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'trueup%'";
            assert_eq!(texts(&db, schemas).await, [], "nothing is left behind");
        }
    });
}

#[test]
fn each_thing_that_is_broken_is_found_and_its_remedy_heals_it() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        migration::up(&db, None).await.expect("up");
        run(&db, "INSERT INTO users (email, full_name) VALUES ('a@example.com', 'x'), ('b@example.com', 'x')").await;
        for (sabotage, kind, name, problem) in [
            ("DROP INDEX idx_users_last_login", Of::Index, "idx_users_last_login", "missing"),
            (
                "DROP INDEX idx_users_last_login; CREATE INDEX idx_users_last_login ON users (last_login)",
                Of::Index,
                "idx_users_last_login",
                "definition",
            ),
            ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'invoices_user'::regclass", Of::Index, "invoices_user", "valid"),
            ("ALTER TABLE invoices DROP COLUMN invoice_pdf", Of::Column, "invoice_pdf", "missing"),
            ("ALTER TABLE users ALTER COLUMN full_name TYPE varchar(100)", Of::Column, "full_name", "type"),
            ("ALTER TABLE users ALTER COLUMN subscription_tier DROP DEFAULT", Of::Column, "subscription_tier", "default"),
            ("ALTER TABLE users ALTER COLUMN last_login SET DEFAULT now()", Of::Column, "last_login", "default"),
            ("ALTER TABLE stripe_webhooks ALTER COLUMN payload DROP NOT NULL", Of::Column, "payload", "nullable"),
            (
                "ALTER TABLE stripe_webhooks DROP CONSTRAINT stripe_webhooks_source_check",
                Of::Constraint,
                "stripe_webhooks_source_check",
                "missing",
            ),
            (
                "ALTER TABLE invoices DROP CONSTRAINT invoices_user_id_fkey;
                 ALTER TABLE invoices ADD CONSTRAINT invoices_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE",
                Of::Constraint,
                "invoices_user_id_fkey",
                "definition",
            ),
            (
                "ALTER TABLE invoices DROP CONSTRAINT invoices_user_id_fkey;
                 ALTER TABLE invoices ADD CONSTRAINT invoices_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL NOT VALID",
                Of::Constraint,
                "invoices_user_id_fkey",
                "validated",
            ),
            ("DROP FUNCTION get_webhook_stats(integer)", Of::Function, "get_webhook_stats(p_hours integer)", "missing"),
            (
                "ALTER FUNCTION get_webhook_stats(integer) SET search_path = public",
                Of::Function,
                "get_webhook_stats(p_hours integer)",
                "definition",
            ),
            ("ALTER TABLE invoices DISABLE ROW LEVEL SECURITY", Of::Table, "invoices", "row-level security"),
            ("CREATE POLICY everybody ON invoices USING (true)", Of::Policy, "everybody", "unexpected"),
            (
                "ALTER TABLE invoices ADD COLUMN theirs text NOT NULL; ALTER TABLE invoices ADD CHECK (theirs <> '')",
                Of::Column,
                "theirs",
                "unexpected",
            ),
        ] {
            run(&db, sabotage).await;
            let verdict = migration::verify(&db).await.expect("a verdict");
            let faults: Vec<_> = verdict.findings.iter().filter(|finding| !finding.note).collect();
            assert!(!verdict.as_expected, "{sabotage} is not found");
            let found = faults.iter().find(|f| f.kind == kind && f.name == name).unwrap_or_else(|| panic!("{sabotage}: {faults:?}"));
            let told = match &found.problem {
                Problem::Missing => "missing",
                Problem::Unexpected => "unexpected",
                Problem::Unused => "unused",
                Problem::Different { attribute, .. } => attribute,
            };
            assert_eq!(told, problem, "{sabotage}");
            for fault in &faults {
                let remedy = match (&fault.kind, &fault.problem) {
                    (Of::Policy, Problem::Unexpected) => fault.remedy.rsplit_once("; ").expect("a statement at its end").1.to_owned(),
                    (Of::Column, Problem::Unexpected) => "ALTER TABLE invoices DROP COLUMN theirs".to_owned(),
                    _ => fault.remedy.clone(),
                };
                // CONCURRENTLY wants to be alone.
                if remedy.contains("CONCURRENTLY") {
                    for statement in remedy.split("; ") {
                        run(&db, statement).await;
                    }
                } else {
                    run(&db, &remedy).await;
                }
            }
            let verdict = migration::verify(&db).await.expect("a verdict");
            assert!(verdict.as_expected, "{sabotage} is not healed: {:?}", verdict.findings);
        }
    });
}

#[test]
fn what_the_host_adds_to_our_tables_is_noted_and_is_no_fault() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        migration::up(&db, None).await.expect("up");
        run(&db, "ALTER TABLE users ADD COLUMN password_hash text NOT NULL DEFAULT ''").await;
        run(&db, "CREATE INDEX theirs ON users (password_hash)").await;
        run(&db, "CREATE TABLE theirs_alone (id int)").await;
        let verdict = migration::verify(&db).await.expect("a verdict");
        assert!(verdict.as_expected, "{:?}", verdict.findings);
        let names: Vec<&str> = verdict.findings.iter().map(|finding| finding.name.as_str()).collect();
        assert_eq!(names, ["password_hash", "theirs"]);
    });
}

#[test]
fn a_table_that_is_missing_is_told_once() {
    on_each_empty(|database| async move {
        let db = database.connect().await;
        migration::up(&db, None).await.expect("up");
        for table in ["email_outbox", "settings"] {
            run(&db, &format!("DROP TABLE {table}")).await;
        }
        let verdict = migration::verify(&db).await.expect("a verdict");
        let faults = verdict.findings.iter().filter(|finding| !finding.note);
        let found: Vec<_> = faults.map(|f| (f.kind, f.name.as_str(), &f.problem)).collect();
        let missing = |name| (Of::Table, name, &Problem::Missing);
        assert_eq!(found, [missing("email_outbox"), missing("settings")]);
    });
}

#[test]
fn on_sqlite_columns_indexes_and_foreign_keys_are_compared() {
    crate::runtime().block_on(async {
        let database = testkit::TestDb::migrated(Kind::Sqlite).await;
        let db = database.connect().await;
        run(&db, "DROP INDEX idx_users_last_login").await;
        run(&db, "ALTER TABLE invoices DROP COLUMN invoice_pdf").await;
        run(&db, "DROP INDEX invoices_user; CREATE INDEX invoices_user ON invoices (user_id, id)").await;
        let verdict = migration::verify(&db).await.expect("a verdict");
        let mut names: Vec<&str> = verdict.findings.iter().map(|finding| finding.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["idx_users_last_login", "invoice_pdf", "invoices_user"], "{:?}", verdict.findings);
        for finding in &verdict.findings {
            run(&db, &finding.remedy).await;
        }
        assert!(migration::verify(&db).await.expect("a verdict").as_expected);
    });
}

#[test]
fn the_use_of_indexes_is_counted_on_postgresql() {
    on_postgres(|database| async move {
        let db = database.connect().await;
        migration::up(&db, None).await.expect("up");
        let indexes = migration::usage(&db).await.expect("figures");
        let one = indexes.iter().find(|index| index.name == "idx_users_last_login").expect("it is there");
        assert!(one.valid && one.is_unused() && one.bytes > 0, "{one:?}");
        let key = indexes.iter().find(|index| index.name == "users_email_key").expect("it is there");
        assert!(key.is_unique && !key.is_unused(), "what keeps addresses unique is of use without a scan");
    });
}
