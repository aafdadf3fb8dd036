//! The domain against real databases, and its laws against generated histories.

mod catalogue;
mod client;
mod desk;
mod fake_stripe;
mod history;
mod inbox;
mod laws;
mod migrations;
mod ownership;
mod processing;
mod refetch;
mod semantics;
