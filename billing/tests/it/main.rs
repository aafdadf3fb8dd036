//! The domain against real databases, and its laws against generated histories.

mod catalogue;
mod changes;
mod checkup;
mod client;
mod connections;
mod desk;
mod expiry;
mod fake_stripe;
mod history;
mod inbox;
mod laws;
mod mail;
mod migrations;
mod ownership;
mod parked;
mod processing;
mod reconcile;
mod reconcile_desk;
mod reconcile_safety;
mod recovery;
mod refetch;
mod retention;
mod scripted;
mod semantics;
mod usage;
mod windows;
