//! What Prometheus sees of Trueup.
//!
//! [`Metrics`] is the one place that defines every family: its name, its help, its labels; a file for each area, and [`families()`] lists
//! them all. Label values come from the closed enums of [`labels`], or from lists that are fixed when the process starts; no id, URL, e-mail
//! address or error text is ever one. This crate knows neither the database nor the domain: whoever does something tells it what was done.
//!
//! Gauges that somebody has to measure first are exported only while they are known (`measured`).

mod catalogue;
mod database;
mod edge;
mod families;
mod inbox;
mod jobs;
pub mod labels;
mod measured;
mod process;
mod reconcile;
mod stripe;
mod users;

pub use catalogue::{Family, document, families};
pub use database::Pool;
pub use families::Metrics;
pub use inbox::InboxDepth;
pub use reconcile::Reconciled;
pub use users::Counted;
