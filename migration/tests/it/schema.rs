//! The schema as the database itself tells it.

use sea_orm::DatabaseConnection;
use testkit::Kind;

use crate::texts;

/// Every table, column, constraint, index, function, trigger and policy, in lines.
pub(crate) async fn schema(kind: Kind, db: &DatabaseConnection) -> Vec<String> {
    let sql = match kind {
        Kind::Sqlite => {
            "SELECT coalesce(sql, name) FROM sqlite_master WHERE tbl_name <> 'seaql_migrations' ORDER BY 1"
        }
        Kind::Postgres => {
            "SELECT format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
                FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'seaql_migrations'
             UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'seaql_migrations'
             UNION ALL SELECT pg_get_constraintdef(oid) || conrelid::regclass FROM pg_constraint
                WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'seaql_migrations'
             UNION ALL SELECT pg_get_functiondef(oid) || coalesce(proacl::text, '') FROM pg_proc
                WHERE pronamespace = 'public'::regnamespace
             UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
             UNION ALL SELECT format('%s: %s %s %s', tablename, policyname, roles, qual) FROM pg_policies WHERE schemaname = 'public'
             UNION ALL SELECT format('%s: row-level security %s', relname, relrowsecurity) FROM pg_class
                WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'seaql_migrations'
             ORDER BY 1"
        }
    };
    texts(db, sql).await.into_iter().flatten().collect()
}
