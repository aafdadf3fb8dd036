//! SQL that SeaORM's builders cannot say well: set statements with one bound document or array, each spelled for both databases.
//!
//! - [`rowset`]: reads and upserts of whole sets of entity rows, derived from the entities themselves
//! - [`fence`]: whether a job still holds its lease
//! - [`usage`]: windows, counts, keys
//! - [`inbox`]: the few hot statements of the inbox, spelled in one module per database

pub(crate) mod fence;
pub(crate) mod inbox;
mod postgres;
pub(crate) mod rowset;
mod sqlite;
pub(crate) mod usage;
