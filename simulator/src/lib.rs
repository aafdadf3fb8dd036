//! A Stripe of our own, on this machine: nobody needs an account, and everything can go wrong on purpose.
//!
//! - `account`: what it keeps, and what it does by itself as virtual time passes. Pure: no clock, no network
//! - `render`: how that looks in each API version
//! - `rest`, `server`: the HTTP API over it
//! - `story`, [`World`]: people who subscribe, upgrade, do not pay, leave and come back, from a seed
//! - `delivery`, `driver`: signed webhooks, and what befalls them on their way
//! - `truth`, `compare`, `moments`, `dry_run`: what Trueup must know in the end, derived from the account alone, beside what it says
//! - [`Run`]: all of it against a running server
//!
//! It knows nothing of the product but its HTTP interface, and shares no code with it: what both read out of Stripe's documentation,
//! they read independently.

mod account;
mod calendar;
mod compare;
mod delivery;
mod driver;
mod dry_run;
mod event;
mod host;
mod model;
mod moments;
mod record;
mod render;
mod report;
mod rest;
mod rng;
mod run;
mod server;
mod signature;
mod story;
mod table;
mod truth;
mod version;
mod world;

pub use self::{
    compare::Difference,
    delivery::Faults,
    dry_run::DryRun,
    event::Event,
    host::{HostError, JobRun, Target},
    record::RecordError,
    report::{Replayed, Report},
    rng::{NoShare, Share},
    run::{Progress, Recover, Run, RunError, RunOptions, replay},
    server::{ApiFaults, Served, Stripe},
    signature::header as signature_header,
    truth::{Standing, TrueItem, TrueSubscription, Truth},
    version::{ApiVersion, NoVersion},
    world::{Plan, SimulatedUser, World, WorldOptions},
};
