//! The domain against real databases, and its laws against generated histories.

mod catalogue;
mod connections;
mod desk;
mod expiry;
mod history;
mod inbox;
mod laws;
mod migrations;
mod ownership;
mod processing;
mod semantics;
mod usage;
mod windows;
