//! The tables of Trueup as SeaORM entities, with the ids and closed enums they are made of. No behaviour lives here.
//!
//! - [`ids`]: `evt_…`, `cus_…`, `sub_…`, `in_…` and user ids, each a type of its own
//! - [`enums`]: what a status, a source or an evidence may be, stored as text
//! - one module per table, named as the table

pub mod enums;
pub mod ids;

pub mod email_outbox;
pub mod entitlement_changes;
pub mod invoices;
pub mod job_leases;
pub mod job_runs;
pub mod job_settings;
pub mod reconciliation_drifts;
pub mod reconciliations;
pub mod settings;
pub mod stripe_cursors;
pub mod stripe_customers;
pub mod stripe_webhooks;
pub mod subscriptions;
pub mod tier_overrides;
pub mod usage_periods;
pub mod usage_records;
pub mod users;

/// A moment in UTC, stored with microseconds.
pub type Time = chrono::DateTime<chrono::Utc>;
