//! Whole sets of rows in one statement, whatever their number: the text of a statement never depends on how many rows it carries,
//! so the database plans it once.
//!
//! A set travels as one JSON document (`json_to_recordset` on PostgreSQL, a third faster here than its `jsonb` twin, `json_each` on SQLite), a set of keys as an array
//! or likewise as JSON. Columns and their types come from the entity, so a new column needs no new SQL.

use sea_orm::{
    ColumnTrait, ColumnType, ConnectionTrait, DbBackend, DbErr, EntityTrait, Iden, Iterable, PrimaryKeyToColumn,
    Statement, Value,
    sea_query::{ArrayType, Expr, SimpleExpr},
};
use serde::Serialize;

/// What to do with a row whose key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnConflict {
    /// Replace every column but the key and `created_at`.
    Replace,
    /// Keep the old row, where this column is the same.
    KeepWhereEqual(&'static str),
}

/// Writes `rows` with one statement. Keys must be distinct within `rows`.
pub(crate) async fn upsert<E>(
    db: &impl ConnectionTrait,
    rows: &[impl Serialize],
    on_conflict: OnConflict,
) -> Result<u64, DbErr>
where
    E: EntityTrait,
{
    if rows.is_empty() {
        return Ok(0);
    }
    let document = serde_json::to_string(rows).map_err(|error| DbErr::Json(error.to_string()))?;
    let backend = db.get_database_backend();
    let sql = upsert_sql::<E>(backend, on_conflict);
    let done = db.execute_raw(Statement::from_sql_and_values(backend, sql, [document.into()])).await?;
    Ok(done.rows_affected())
}

fn upsert_sql<E: EntityTrait>(backend: DbBackend, on_conflict: OnConflict) -> String {
    let columns: Vec<(String, ColumnType)> =
        E::Column::iter().map(|c| (c.unquoted().to_owned(), c.def().get_column_type().clone())).collect();
    let keys: Vec<String> = E::PrimaryKey::iter().map(|k| k.into_column().unquoted().to_owned()).collect();
    let list = |of: &mut dyn Iterator<Item = String>| of.collect::<Vec<_>>().join(", ");
    let names = list(&mut columns.iter().map(|(name, _)| quoted(name)));
    let table = quoted(E::default().table_name());
    let source = if backend == DbBackend::Postgres {
        let typed = list(&mut columns.iter().map(|(name, ty)| format!("{} {}", quoted(name), postgres_type(ty))));
        format!("SELECT {names} FROM json_to_recordset($1::json) AS r({typed})")
    } else {
        let values = list(&mut columns.iter().map(|(name, ty)| sqlite_value(name, ty)));
        format!("SELECT {values} FROM json_each(?) WHERE true")
    };
    let conflict = match on_conflict {
        OnConflict::KeepWhereEqual(column) => format!("({}) DO NOTHING", quoted(column)),
        OnConflict::Replace => {
            let set = list(
                &mut columns
                    .iter()
                    .filter(|(name, _)| !keys.contains(name) && name != "created_at")
                    .map(|(name, _)| format!("{0} = excluded.{0}", quoted(name))),
            );
            format!("({}) DO UPDATE SET {set}", list(&mut keys.iter().map(|key| quoted(key))))
        }
    };
    format!("INSERT INTO {table} ({names}) {source} ON CONFLICT {conflict}")
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn postgres_type(ty: &ColumnType) -> &'static str {
    match ty {
        ColumnType::Uuid => "uuid",
        ColumnType::TimestampWithTimeZone => "timestamptz",
        ColumnType::Boolean => "boolean",
        ColumnType::SmallInteger => "smallint",
        ColumnType::Integer => "integer",
        ColumnType::BigInteger => "bigint",
        ColumnType::JsonBinary | ColumnType::Json => "jsonb",
        _ => "text",
    }
}

fn sqlite_value(name: &str, ty: &ColumnType) -> String {
    let text = format!("value ->> '$.{name}'");
    match ty {
        // SeaORM keeps a UUID as its sixteen bytes.
        ColumnType::Uuid => format!("unhex({text}, '-')"),
        // serde writes a moment in UTC with `Z`, SQLx with `+00:00`; one form, or texts would not sort as moments do.
        ColumnType::TimestampWithTimeZone => format!("replace({text}, 'Z', '+00:00')"),
        // A JSON null is no value here, not the text `null`.
        ColumnType::JsonBinary | ColumnType::Json => format!("nullif(value -> '$.{name}', 'null')"),
        _ => text,
    }
}

/// `column` is one of `texts`.
pub(crate) fn text_in(backend: DbBackend, column: &str, texts: impl IntoIterator<Item = String>) -> SimpleExpr {
    if backend == DbBackend::Postgres {
        Expr::cust_with_values(format!("{column} = ANY($1)"), [text_array(texts)])
    } else {
        let document = texts.into_iter().collect::<serde_json::Value>().to_string();
        Expr::cust_with_values(format!("{column} IN (SELECT value FROM json_each(?))"), [document])
    }
}

/// The column `email` as addresses are compared: ASCII letters folded, whatever the locale of the database.
pub(crate) fn email_column(backend: DbBackend) -> &'static str {
    if backend == DbBackend::Postgres { "lower(email COLLATE \"C\")" } else { "lower(email)" }
}

/// `column` is one of `ids`.
pub(crate) fn uuid_in(backend: DbBackend, column: &str, ids: impl IntoIterator<Item = uuid::Uuid>) -> SimpleExpr {
    if backend == DbBackend::Postgres {
        Expr::cust_with_values(format!("{column} = ANY($1)"), [uuid_array(ids)])
    } else {
        let document = ids.into_iter().map(|id| id.to_string()).collect::<serde_json::Value>().to_string();
        Expr::cust_with_values(format!("{column} IN (SELECT unhex(value, '-') FROM json_each(?))"), [document])
    }
}

/// A PostgreSQL `text[]`.
pub(crate) fn text_array(texts: impl IntoIterator<Item = String>) -> Value {
    Value::Array(ArrayType::String, Some(Box::new(texts.into_iter().map(Value::from).collect())))
}

/// A PostgreSQL `uuid[]`.
pub(crate) fn uuid_array(ids: impl IntoIterator<Item = uuid::Uuid>) -> Value {
    Value::Array(ArrayType::Uuid, Some(Box::new(ids.into_iter().map(Value::from).collect())))
}

/// A PostgreSQL `bigint[]`.
pub(crate) fn bigint_array(numbers: impl IntoIterator<Item = i64>) -> Value {
    Value::Array(ArrayType::BigInt, Some(Box::new(numbers.into_iter().map(Value::from).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upsert_keeps_the_key_and_the_moment_of_making() {
        let sql = upsert_sql::<entity::stripe_customers::Entity>(DbBackend::Postgres, OnConflict::Replace);
        assert!(sql.contains("json_to_recordset($1::json) AS r(\"id\" text, \"user_id\" uuid,"), "{sql}");
        assert!(sql.contains("ON CONFLICT (\"id\") DO UPDATE SET \"user_id\" = excluded.\"user_id\""), "{sql}");
        assert!(!sql.contains("excluded.\"created_at\""), "{sql}");
    }
}
