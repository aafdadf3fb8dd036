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
//! - [`projection`], [`usage`], [`catalog`], [`policy`]: what a user may do
//! - [`mod@apply`]: one event, one world
//!
//! Around it:
//! - [`users`]: what the host asks and tells; [`subscriptions`]: what an operator asks
//! - [`reprojection`]: what a changed catalogue changes
//! - [`stripe`]: the one service that is not ours; [`fetched`]: what it tells, taken in like an event
//! - [`db`]: connections and transactions; [`progress`]: how far long work has come
//! - [`samples`]: events as Stripe would send them, for `trueup trigger` and for tests

pub mod apply;
pub mod catalog;
pub mod db;
pub mod event;
pub mod events;
pub mod facts;
pub mod fetched;
pub mod inbox;
pub mod json_text;
pub mod lenient;
pub mod policy;
pub mod processor;
pub mod progress;
pub mod projection;
pub mod reprojection;
pub mod samples;
pub mod signature;
mod store;
pub mod stripe;
pub mod subscriptions;
pub mod usage;
pub mod users;
pub mod world;
