//! The inbox: where an event is durable before anything else happens to it.
//!
//! - [`Inbox`]: takes verified events, many at a time, and answers once they are committed
//! - [`fn@route`]: which events are ours to apply
//! - [`parked`]: parked events whose user has come unannounced
//! - [`records`]: what a person asks of the inbox: lists, one event, figures
//! - [`retry`]: another try, also of events whose payload was emptied

pub mod parked;
pub mod records;
pub mod retry;
mod route;
mod writer;

pub use route::{Arrival, IntakeRules, route};
pub(crate) use writer::row;
pub use writer::{Commit, CommitWatch, Inbox, InboxOptions, Receipt, ReceiveError};
