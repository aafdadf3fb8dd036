//! SQL that SeaORM's builders cannot say well: set statements with one bound document or array, each spelled for both databases.
//!
//! - [`rowset`]: reads and upserts of whole sets of entity rows, derived from the entities themselves
//! - [`fence`]: whether a job still holds its lease
//! - [`reconcile`]: moments before the database's clock
//! - [`usage`]: windows, counts, keys
//! - [`inbox`]: the few hot statements of the inbox, spelled in one module per database
//! - [`parked`]: which parked events wait for a user who is there
//! - [`refresh`]: which subscriptions Stripe has to be asked about
//! - [`outbox`]: e-mails, claimed and settled
//! - [`adoption`]: what a host that was here before us has of its own
//! - [`failures`]: which failures were told of already
//! - [`feed`]: numbers for what is committed
//! - [`retention`]: what is emptied and deleted

pub(crate) mod adoption;
pub(crate) mod failures;
pub(crate) mod feed;
pub(crate) mod fence;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod parked;
mod postgres;
pub(crate) mod reconcile;
pub(crate) mod refresh;
pub(crate) mod retention;
pub(crate) mod rowset;
mod sqlite;
pub(crate) mod usage;
