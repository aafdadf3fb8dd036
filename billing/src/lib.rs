//! The domain of Trueup: keeping users true to Stripe.
//!
//! From the outside in:
//! - [`signature`], [`event`]: raw bytes become a [`event::VerifiedEvent`], or nothing
//! - [`inbox`]: durable before anything else
//! - [`processor`]: takes what is due and applies it, in batches
//!
//! The pure core, values in and values out:
//! - [`events`]: what each event type tells
//! - [`facts`]: what is kept, each merged by a maximum under a total order
//! - [`world`]: whose everything is
//! - [`skip`]: why an event is stored and not applied
//! - [`projection`], [`usage::Window`], [`catalog`], [`policy`]: what a user may do
//! - [`mod@apply`]: one event, one world
//!
//! Around it:
//! - [`users`]: what the host asks and tells; [`subscriptions`]: what an operator asks
//! - [`usage`]: counting against an allowance, and what happens by date
//! - [`overrides`]: tiers that operators give until a date
//! - [`reprojection`]: what a changed catalogue changes; [`adoption`]: a database in which the host was before us
//! - [`reconcile`]: what is stored, compared with what Stripe has, and repaired; [`recovery`]: events that never arrived;
//!   [`endpoint`]: whether Stripe delivers at all; [`checkup`]: all of it, for a person
//! - [`stripe`]: the one service that is not ours; [`fetched`]: what it tells, taken in like an event; [`refresh`]: when it is asked
//! - [`census`]: how many users and subscriptions there are
//! - [`mail`]: what the outbox holds goes out
//! - [`changes`]: the timeline of everybody as a feed
//! - [`retention`]: what is emptied and deleted, and when
//! - [`db`]: connections and transactions; [`progress`]: how far long work has come
//! - [`samples`]: events as Stripe would send them, for `trueup trigger` and for tests

pub mod adoption;
pub mod apply;
pub mod catalog;
pub mod census;
pub mod changes;
pub mod checkup;
pub mod db;
pub mod endpoint;
pub mod event;
pub mod events;
pub mod facts;
pub mod fetched;
pub mod inbox;
pub mod json_text;
pub mod lenient;
pub mod mail;
pub mod overrides;
pub mod panics;
pub mod policy;
pub mod processor;
pub mod progress;
pub mod projection;
pub mod reconcile;
pub mod recovery;
pub mod refresh;
pub mod reprojection;
pub mod retention;
pub mod samples;
pub mod signature;
pub mod skip;
mod store;
pub mod stripe;
pub mod subscriptions;
pub mod usage;
pub mod users;
pub mod world;
