//! Row-level security: who may see our tables where other roles than ours can reach them.
//!
//! Supabase lets browsers query every table of the schema `public` under the roles `anon` and `authenticated`, and servers under
//! `service_role` (supabase.com/docs/guides/database/postgres/row-level-security). So on every table of ours row-level security is on, with a
//! policy for `service_role` alone: the tables' owner is not subject to it, everybody else sees no rows. Where these roles do not exist (plain
//! PostgreSQL) nothing names them. What row-level security does not cover (`TRUNCATE` above all) is taken from browsers' roles as well.

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

use crate::dialect::run;

/// Tables of the host; one that the host made has the host's own policies, and is left alone.
const HOST: &str = "'property_analyses', 'support_chats', 'onboarding_status'";

/// Tables where the host's own rights and policies stay as they are beside ours.
pub(crate) const SHARED: &str = "'users', 'property_analyses', 'support_chats', 'onboarding_status'";

/// Secures those of these tables that exist. A migration that makes a table calls this for it; calling it twice does no harm.
pub(crate) async fn secure(manager: &SchemaManager<'_>, tables: &[&str]) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let sql = format!(
        "DO $$
DECLARE
    tab text;
    browser text;
    service boolean := EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role');
    adopted boolean;
    rights text;
BEGIN
    FOREACH tab IN ARRAY ARRAY[{tables}] LOOP
        CONTINUE WHEN to_regclass(tab) IS NULL
            OR (tab IN ({HOST}) AND NOT EXISTS (SELECT FROM settings AS s WHERE s.name = 'made.table.' || tab));
        adopted := EXISTS (SELECT FROM settings AS s WHERE s.name = 'adopted.table.' || tab);
        IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(tab)) AND NOT (adopted AND tab = 'users') THEN
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tab);
            INSERT INTO settings (name, value) VALUES ('made.row_security.' || tab, 'yes') ON CONFLICT DO NOTHING;
        END IF;
        IF service AND NOT EXISTS (
            SELECT FROM pg_policy WHERE polrelid = to_regclass(tab) AND polname = 'trueup_service_role') THEN
            EXECUTE format('CREATE POLICY trueup_service_role ON %I TO service_role USING (true) WITH CHECK (true)', tab);
            IF adopted THEN
                SELECT string_agg(p, ', ') INTO rights FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
                    WHERE NOT has_table_privilege('service_role', to_regclass(tab), p);
                INSERT INTO settings (name, value) SELECT 'made.grant.' || tab, rights WHERE rights IS NOT NULL
                    ON CONFLICT DO NOTHING;
            END IF;
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO service_role', tab);
        END IF;
        -- Who may do what with the host's users is the host's to say: a policy of ours would show columns that are none of ours.
        CONTINUE WHEN adopted AND tab = 'users';
        FOR browser IN SELECT 'PUBLIC' UNION ALL SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
            IF adopted THEN
                SELECT string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) INTO rights
                    FROM pg_class AS c, aclexplode(c.relacl) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
                    WHERE c.oid = to_regclass(tab) AND COALESCE(r.rolname, 'PUBLIC') = browser;
                INSERT INTO settings (name, value) SELECT 'was.grant.' || tab || '.' || browser, rights WHERE rights IS NOT NULL
                    ON CONFLICT DO NOTHING;
            END IF;
            EXECUTE format('REVOKE %s ON %I FROM %s',
                CASE WHEN tab IN ({SHARED}) THEN 'TRUNCATE, REFERENCES, TRIGGER' ELSE 'ALL' END, tab, browser);
        END LOOP;
        -- Once for the statement and not once for each row: hence the SELECT.
        IF tab = 'users' AND to_regprocedure('auth.uid()') IS NOT NULL
            AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticated')
            AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(tab) AND polname = 'trueup_own_row') THEN
            CREATE POLICY trueup_own_row ON users FOR SELECT TO authenticated USING (id = (SELECT auth.uid()));
            GRANT SELECT ON users TO authenticated;
        END IF;
    END LOOP;
END $$",
        tables = quoted(tables),
    );
    run(manager, &[&sql]).await
}

/// Takes these functions from browsers' roles: on Supabase every new function of the schema `public` may be called by them.
pub(crate) async fn secure_functions(manager: &SchemaManager<'_>, functions: &[&str]) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let sql = format!(
        "DO $$
DECLARE
    callee text;
    caller text;
BEGIN
    FOREACH callee IN ARRAY ARRAY[{functions}] LOOP
        FOR caller IN SELECT 'PUBLIC' UNION ALL SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', callee, caller);
        END LOOP;
    END LOOP;
END $$",
        functions = quoted(functions),
    );
    run(manager, &[&sql]).await
}

/// Takes back what [`secure`] did. Rights that were taken from browsers' roles stay taken, since giving them back would open what was closed;
/// but for a table that the host had before us, which is as open again as it was.
pub(crate) async fn unsecure(manager: &SchemaManager<'_>, tables: &[&str]) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let sql = format!(
        "DO $$
DECLARE
    tab text;
    rights record;
BEGIN
    FOREACH tab IN ARRAY ARRAY[{tables}] LOOP
        CONTINUE WHEN to_regclass(tab) IS NULL;
        FOR rights IN SELECT s.name, s.value FROM settings AS s WHERE s.name = 'made.grant.' || tab LOOP
            EXECUTE format('REVOKE %s ON %I FROM service_role', rights.value, tab);
        END LOOP;
        FOR rights IN SELECT substr(s.name, length('was.grant.' || tab || '.') + 1) AS grantee, s.value FROM settings AS s
            WHERE starts_with(s.name, 'was.grant.' || tab || '.') LOOP
            EXECUTE format('GRANT %s ON %I TO %s', rights.value, tab, rights.grantee);
        END LOOP;
        DELETE FROM settings AS s WHERE s.name = 'made.grant.' || tab OR starts_with(s.name, 'was.grant.' || tab || '.');
        EXECUTE format('DROP POLICY IF EXISTS trueup_service_role ON %I', tab);
        EXECUTE format('DROP POLICY IF EXISTS trueup_own_row ON %I', tab);
        IF EXISTS (SELECT FROM settings AS s WHERE s.name = 'made.row_security.' || tab) THEN
            EXECUTE format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', tab);
        END IF;
        DELETE FROM settings AS s WHERE s.name = 'made.row_security.' || tab;
    END LOOP;
END $$",
        tables = quoted(tables),
    );
    run(manager, &[&sql]).await
}

fn quoted(tables: &[&str]) -> String {
    tables.iter().map(|table| format!("'{table}'")).collect::<Vec<_>>().join(", ")
}
