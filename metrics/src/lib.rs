//! What Prometheus sees of Trueup.
//!
//! [`Metrics`] is the one place that defines every family: its name, its help, its labels. Label values come from the closed enums of
//! [`labels`], or from lists that are fixed when the process starts; no id, URL, e-mail address or error text is ever one. This crate
//! knows neither the database nor the domain: whoever does something tells it what was done.

mod edge;
mod families;
mod jobs;
pub mod labels;
mod reconcile;
mod stripe;

pub use families::{InboxDepth, Metrics};
pub use reconcile::Reconciled;
