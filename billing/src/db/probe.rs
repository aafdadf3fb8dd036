//! Whether the database takes writes. It may well answer and not: its disk is full, or it has become a standby.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use super::Db;
use crate::store::{
    inbox::clock,
    rowset::{OnConflict, upsert},
};

/// The row of `settings` that is written.
const SETTING: &str = "write_probe";

impl Db {
    /// Writes one small row and commits it.
    pub async fn probe(&self) -> Result<(), DbErr> {
        let tx = self.write().await?;
        let row =
            entity::settings::Model { name: SETTING.to_owned(), value: String::new(), updated_at: clock(&*tx).await? };
        upsert::<entity::settings::Entity>(&*tx, &[row], OnConflict::Replace).await?;
        tx.commit().await
    }
}

/// Why nothing could be written, in words that tell nothing of the data.
///
/// PostgreSQL by SQLSTATE: 25006 `read_only_sql_transaction`, 53100 `disk_full`. `SQLite` by its primary result code (sqlite.org/rescode.html): 8
/// READONLY, 10 IOERR, 13 FULL.
pub fn obstacle(error: &DbErr) -> &'static str {
    let (DbErr::Exec(RuntimeErr::SqlxError(inner))
    | DbErr::Query(RuntimeErr::SqlxError(inner))
    | DbErr::Conn(RuntimeErr::SqlxError(inner))) = error
    else {
        return "it does not take writes";
    };
    let sqlx::Error::Database(database) = &**inner else { return "it does not answer" };
    let code = database.code().unwrap_or_default();
    if database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        return match code.as_ref() {
            "25006" => "it is read-only",
            "53100" => "its disk is full",
            _ => "it does not take writes",
        };
    }
    match code.parse::<u32>().unwrap_or(0) & 0xff {
        8 => "it is read-only",
        10 => "its disk does not take writes",
        13 => "its disk is full",
        _ => "it does not take writes",
    }
}
