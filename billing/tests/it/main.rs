//! The domain against real databases, and its laws against generated histories.

mod catalogue;
mod desk;
mod history;
mod inbox;
mod laws;
mod migrations;
mod ownership;
mod parked;
mod processing;
mod semantics;
