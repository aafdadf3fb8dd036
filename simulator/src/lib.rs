//! A Stripe of our own, on this machine: nobody needs an account, and everything can go wrong on purpose.
//!
//! - [`Account`](account::Account): what it keeps, and what it does by itself as virtual time passes. Pure: no clock, no network.
//! - `render`: how that looks in each API version
//! - `rest`: the HTTP API over it
//! - `story`: people who subscribe, upgrade, do not pay, leave and come back, from a seed
//! - `delivery`: signed webhooks, and what befalls them on their way
//! - `truth`: what Trueup must know in the end, derived from the account alone
//! - [`run`]: all of it against a running server
//!
//! It knows nothing of the product but its HTTP interface, and shares no code with it: what both read out of Stripe's documentation,
//! they read independently.

mod account;
mod calendar;
mod event;
mod model;
mod render;
mod rest;
mod rng;
mod server;
mod signature;
mod story;
mod table;
mod truth;
mod version;
mod world;

pub use self::{
    event::Event,
    rng::{NoShare, Share},
    server::{ApiFaults, Served, Stripe},
    signature::header as signature_header,
    truth::{Standing, TrueItem, TrueSubscription, Truth},
    version::{ApiVersion, NoVersion},
    world::{Plan, SimulatedUser, World, WorldOptions},
};
