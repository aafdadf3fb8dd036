//! The domain against real databases, and its laws against generated histories.

mod catalogue;
mod checkup;
mod client;
mod desk;
mod fake_stripe;
mod history;
mod inbox;
mod laws;
mod migrations;
mod ownership;
mod processing;
mod reconcile;
mod reconcile_desk;
mod reconcile_safety;
mod recovery;
mod refetch;
mod scripted;
mod semantics;
